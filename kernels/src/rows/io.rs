//! The rows of a forward call: where they are read and written.

use core::marker::PhantomData;

use super::input::Addition;
use super::line::{LINE, have_no_gaps, start_on_lines};
use super::source::PrefetchOffset;
use super::{Input, Source, Target};
use crate::element::{Addend, Companion, Kind, Storage};
use crate::error::Error;
use crate::simd::Lanes;

/// x and y are in memory, or in a far cache, if they have this many bytes.
const MEMORY_BYTES: usize = 16 << 20;

/// Rows of `cols` contiguous elements to be read from x and written to y, which is either apart from x or x itself. x
/// may be a sum that is yet to be taken. y may have any type that is a [`Companion`] of `T`.
///
/// Row `r` of x starts at element `r * x_stride`, row `r` of y at `r * y_stride`. Rows never overlap one another.
#[derive(Debug)]
pub struct RowIo<'a, T> {
    x: *const T,
    x_stride: usize,
    y: *mut T,
    y_stride: usize,
    /// The type of y, and of the x of sums.
    y_kind: Kind,
    addend_kind: Kind,
    rows: usize,
    cols: usize,
    /// The addends, if x is a sum. Then x may be written.
    addends: Option<Addends<T>>,
    marker: PhantomData<(&'a [T], &'a mut [T])>,
}

/// Rows given by a pointer, for [`RowIo::from_raw`].
#[derive(Clone, Copy, Debug)]
pub struct RawRows<T> {
    /// The first element of the first row. It is written through only if these are rows of an output.
    pub p: *mut T,
    /// The distance between the starts of two rows, in elements.
    pub stride: usize,
    /// The type of the elements.
    pub kind: Kind,
}

impl<T> RawRows<T> {
    /// No rows: for a y that is not wanted, where a job writes something else.
    pub const NONE: Self = Self { p: core::ptr::null_mut(), stride: 0, kind: Kind::Own };
}

/// One row of contiguous elements to be read from x and written to y, which is either apart from x or x itself. Both
/// have type `T`.
#[derive(Debug)]
pub struct OneRow<'a, T> {
    x: *const T,
    y: *mut T,
    /// Not zero.
    cols: usize,
    marker: PhantomData<(&'a [T], &'a mut [T])>,
}

impl<'a, T: Storage> OneRow<'a, T> {
    /// A row of x to be normalized into y. `None` if there are no elements, if x and y differ in length, or if y has
    /// another type.
    #[inline(always)]
    pub fn new<Y: Companion<T>>(x: &'a [T], y: &'a mut [Y]) -> Option<Self> {
        let fits = Y::KIND == Kind::Own && x.len() == y.len() && !x.is_empty();
        fits.then(|| Self { x: x.as_ptr(), y: y.as_mut_ptr().cast(), cols: x.len(), marker: PhantomData })
    }

    /// A row to be normalized where it lies. `None` if there are no elements.
    #[inline(always)]
    pub fn in_place(y: &'a mut [T]) -> Option<Self> {
        let (p, cols) = (y.as_mut_ptr(), y.len());
        (cols != 0).then_some(Self { x: p, y: p, cols, marker: PhantomData })
    }

    /// A row of x given by pointers, to be normalized into y, for callers that have no slices of their own.
    ///
    /// # Safety
    /// - `cols > 0`.
    /// - There are `cols` elements of x, aligned and valid for reads, and as many of y, aligned and valid for reads and
    ///   writes. y is apart from x, or is x.
    /// - While this lives, nothing else writes x, nor reads or writes y.
    #[inline(always)]
    pub unsafe fn from_raw(x: *const T, y: *mut T, cols: usize) -> Self {
        Self { x, y, cols, marker: PhantomData }
    }

    /// The number of elements.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Where the row is read.
    #[inline(always)]
    pub(crate) fn source(&self) -> Source<T> {
        Source(self.x)
    }

    /// Where the row is written.
    #[inline(always)]
    pub(crate) fn target(&mut self) -> Target<T> {
        Target::new(self.y, false, false)
    }

    /// The row that is read from `x` and written to `y`.
    ///
    /// # Safety
    /// - They are those of a `OneRow` of `cols` elements, which is used by nothing else while this lives.
    pub(crate) unsafe fn rows(x: Source<T>, y: Target<T>, cols: usize) -> RowIo<'a, T> {
        let (x, y) = [x.0.cast_mut(), y.as_mut_ptr()].map(|p| RawRows { p, stride: cols, kind: Kind::Own }).into();
        // SAFETY: the caller's duty.
        unsafe { RowIo::from_raw(x, None, y, 1, cols) }
    }
}

// SAFETY: OneRow stands for a slice and a mutable slice of elements, which are Send.
unsafe impl<T: Storage> Send for OneRow<'_, T> {}
// SAFETY: through a shared OneRow nothing is written.
unsafe impl<T: Storage> Sync for OneRow<'_, T> {}

/// Where the rows of two addends start.
#[derive(Clone, Copy, Debug)]
struct Addends<T> {
    x: *const T,
    x_stride: usize,
    residual: *const T,
    residual_stride: usize,
}

impl<T: Storage> Addends<T> {
    /// # Safety
    /// - In both addends, row `rows` has an element or an end at column `cols`. x is of this kind.
    unsafe fn moved(self, x_kind: Kind, rows: usize, cols: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            Self {
                x: x_kind.at(self.x, rows * self.x_stride + cols),
                residual: self.residual.add(rows * self.residual_stride + cols),
                ..self
            }
        }
    }
}

// SAFETY: RowIo stands for slices and mutable slices of elements, which are Send.
unsafe impl<T: Storage> Send for RowIo<'_, T> {}
// SAFETY: through a shared RowIo memory is only read.
unsafe impl<T: Storage> Sync for RowIo<'_, T> {}

/// Whether `rows` rows of `cols` elements, `stride` apart, lie within `len` elements and apart from each other.
#[inline]
fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    if rows == 0 || cols == 0 {
        return true;
    }
    let span = (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(cols));
    span.is_some_and(|span| span <= len) && (rows == 1 || stride >= cols)
}

/// Refuses rows that do not lie within `len` elements of `what`, apart from each other.
#[inline(always)]
pub(crate) fn check(what: &'static str, len: usize, rows: usize, cols: usize, stride: usize) -> Result<(), Error> {
    if fits(len, rows, cols, stride) { Ok(()) } else { Err(Error::of_rows(what, len, rows, cols, stride)) }
}

impl<'a, T: Storage> RowIo<'a, T> {
    /// Rows of x to be normalized into y.
    ///
    /// # Errors
    /// If they do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn new<Y: Companion<T>>(
        x: &'a [T],
        x_stride: usize,
        y: &'a mut [Y],
        y_stride: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, x_stride)?;
        check("y", y.len(), rows, cols, y_stride)?;
        Ok(Self {
            x: x.as_ptr(),
            x_stride,
            y: y.as_mut_ptr().cast(),
            y_stride,
            y_kind: Y::KIND,
            addend_kind: Kind::Own,
            rows,
            cols,
            addends: None,
            marker: PhantomData,
        })
    }

    /// Rows of x without a y, for jobs that write something else.
    ///
    /// # Errors
    /// If they do not fit into the slice or overlap one another.
    pub fn without_y(x: &'a [T], stride: usize, rows: usize, cols: usize) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, stride)?;
        let x = RawRows { p: x.as_ptr().cast_mut(), stride, kind: Kind::Own };
        // SAFETY: the rows lie in a slice that is borrowed, apart from one another, and nothing is written.
        Ok(unsafe { Self::from_raw(x, None, RawRows::NONE, rows, cols) })
    }

    /// Rows to be normalized where they lie.
    ///
    /// # Errors
    /// If they do not fit into the slice or overlap one another.
    #[inline(always)]
    pub fn in_place(y: &'a mut [T], stride: usize, rows: usize, cols: usize) -> Result<Self, Error> {
        check("y", y.len(), rows, cols, stride)?;
        let y_ptr = y.as_mut_ptr();
        Ok(Self {
            x: y_ptr,
            x_stride: stride,
            y: y_ptr,
            y_stride: stride,
            y_kind: Kind::Own,
            addend_kind: Kind::Own,
            rows,
            cols,
            addends: None,
            marker: PhantomData,
        })
    }

    /// Rows of x + residual, to be written to s and normalized into y. Each buffer comes with its stride. Errors call s
    /// the sum.
    ///
    /// # Errors
    /// If the rows do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn sum<X: Addend<T>, Y: Companion<T>>(
        (x, x_stride): (&'a [X], usize),
        (residual, residual_stride): (&'a [T], usize),
        (s, s_stride): (&'a mut [T], usize),
        (y, y_stride): (&'a mut [Y], usize),
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, x_stride)?;
        check("residual", residual.len(), rows, cols, residual_stride)?;
        check("sum", s.len(), rows, cols, s_stride)?;
        check("y", y.len(), rows, cols, y_stride)?;
        let addends = Addends { x: x.as_ptr().cast(), x_stride, residual: residual.as_ptr(), residual_stride };
        Ok(Self::of_addends::<X, Y>(addends, s.as_mut_ptr(), s_stride, (y.as_mut_ptr(), y_stride), rows, cols))
    }

    /// Rows of x + s, to be written over s and normalized into y. Each buffer comes with its stride. Errors call s the
    /// sum.
    ///
    /// # Errors
    /// If the rows do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn sum_in_place<X: Addend<T>, Y: Companion<T>>(
        (x, x_stride): (&'a [X], usize),
        (s, s_stride): (&'a mut [T], usize),
        (y, y_stride): (&'a mut [Y], usize),
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, x_stride)?;
        check("sum", s.len(), rows, cols, s_stride)?;
        check("y", y.len(), rows, cols, y_stride)?;
        let s_ptr = s.as_mut_ptr();
        let addends = Addends { x: x.as_ptr().cast(), x_stride, residual: s_ptr, residual_stride: s_stride };
        Ok(Self::of_addends::<X, Y>(addends, s_ptr, s_stride, (y.as_mut_ptr(), y_stride), rows, cols))
    }

    /// Rows of x + residual, to be normalized into y, where the sums lie meanwhile. Each buffer comes with its stride.
    ///
    /// # Errors
    /// If the rows do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn sum_into<X: Addend<T>>(
        (x, x_stride): (&'a [X], usize),
        (residual, residual_stride): (&'a [T], usize),
        (y, y_stride): (&'a mut [T], usize),
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, x_stride)?;
        check("residual", residual.len(), rows, cols, residual_stride)?;
        check("y", y.len(), rows, cols, y_stride)?;
        let addends = Addends { x: x.as_ptr().cast(), x_stride, residual: residual.as_ptr(), residual_stride };
        let s = y.as_mut_ptr();
        Ok(Self::of_addends::<X, T>(addends, s, y_stride, (s, y_stride), rows, cols))
    }

    /// Rows of x + y, to be normalized where y lies. Each buffer comes with its stride.
    ///
    /// # Errors
    /// If the rows do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn sum_over<X: Addend<T>>(
        (x, x_stride): (&'a [X], usize),
        (y, y_stride): (&'a mut [T], usize),
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, x_stride)?;
        check("y", y.len(), rows, cols, y_stride)?;
        let s = y.as_mut_ptr();
        let addends = Addends { x: x.as_ptr().cast(), x_stride, residual: s, residual_stride: y_stride };
        Ok(Self::of_addends::<X, T>(addends, s, y_stride, (s, y_stride), rows, cols))
    }

    /// Rows given by pointers, for callers that have no slices of their own: of x, or of the sum of x and a residual
    /// that is to be written to s (`sum` has these two), to be normalized into y. Their elements are of type `T`, but
    /// for y, which has the kind of a [`Companion`] of `T`, and for the x of a sum, which has that of an [`Addend`].
    ///
    /// Of these rows a job reads and writes those that it is run on, so that parts of one job, made several times from
    /// the same pointers and split, can be run at once. [`x_row`](Self::x_row), which is safe, reads the row of x that
    /// it is asked for.
    ///
    /// # Safety
    /// Unless there are no rows or no columns, for as long as a job is run on rows, or a row that `x_row` gives is
    /// borrowed, these rows keep to the following. Whoever calls `from_raw` sees to it, also for those to whom the rows
    /// are handed.
    /// - All rows of a buffer lie in one allocation, are aligned and valid for reads; those of s and y for writes too.
    /// - What is written is read and written by nothing else. What `x_row` gives is written by nothing.
    /// - No row of s or y overlaps another row of any buffer. y may be x or the residual, and s may be x, the residual
    ///   or y: with the same pointer, stride and kind. y may be [none](RawRows::NONE) for jobs that say so.
    #[inline(always)]
    pub unsafe fn from_raw(
        x: RawRows<T>,
        sum: Option<(RawRows<T>, RawRows<T>)>,
        y: RawRows<T>,
        rows: usize,
        cols: usize,
    ) -> Self {
        let addends = sum.map(|(residual, _)| Addends {
            x: x.p,
            x_stride: x.stride,
            residual: residual.p,
            residual_stride: residual.stride,
        });
        let (addend_kind, x) = (x.kind, sum.map_or(x, |(_, s)| s));
        Self {
            x: x.p,
            x_stride: x.stride,
            y: y.p,
            y_stride: y.stride,
            y_kind: y.kind,
            addend_kind,
            rows,
            cols,
            addends,
            marker: PhantomData,
        }
    }

    #[inline(always)]
    fn of_addends<X: Addend<T>, Y: Companion<T>>(
        addends: Addends<T>,
        s: *mut T,
        s_stride: usize,
        (y, y_stride): (*mut Y, usize),
        rows: usize,
        cols: usize,
    ) -> Self {
        Self {
            x: s,
            x_stride: s_stride,
            y: y.cast(),
            y_stride,
            y_kind: Y::KIND,
            addend_kind: X::KIND,
            rows,
            cols,
            addends: Some(addends),
            marker: PhantomData,
        }
    }

    /// The number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of elements in a row.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The size of all rows of y.
    #[inline]
    pub fn y_bytes(&self) -> usize {
        self.rows * self.cols * self.y_element()
    }

    /// The size of a row of y.
    #[inline]
    pub fn y_row_bytes(&self) -> usize {
        // Where there are no rows, there may be any number of columns.
        self.cols.saturating_mul(self.y_element())
    }

    /// Whether every row of y starts on a cache line.
    #[inline]
    pub fn y_is_on_lines(&self) -> bool {
        start_on_lines(self.y.addr(), [self.y_stride.wrapping_mul(self.y_element()), 0])
    }

    /// Whether the rows of y follow one another without a gap, and have more than two cache lines each.
    #[inline]
    pub fn y_has_no_gaps(&self) -> bool {
        have_no_gaps(self.y_stride, self.cols, self.y_row_bytes())
    }

    /// The size of an element of y.
    #[inline(always)]
    fn y_element(&self) -> usize {
        if T::MIXES {
            self.y_kind.size::<T>()
        } else if self.y_is_wide() {
            size_of::<f32>()
        } else {
            size_of::<T>()
        }
    }

    /// Whether y is f32 beside 16 bits. Loops know no other type of y than this and `T`.
    #[inline(always)]
    fn y_is_wide(&self) -> bool {
        debug_assert!(!self.y_kind.is_narrow());
        T::ROUNDS && self.y_kind != Kind::Own
    }

    /// Whether the rows follow one another, and are more than caches keep. There the order of reads and writes matters.
    #[inline(always)]
    pub(crate) fn come_from_memory(&self) -> bool {
        let tensors = if self.is_in_place() { 1 } else { 2 };
        tensors * self.y_bytes() >= MEMORY_BYTES && self.x_stride == self.cols
    }

    /// The strides of the rows of x (of sums, if x is one) and of y.
    #[inline(always)]
    pub(crate) fn strides(&self) -> [usize; 2] {
        [self.x_stride, self.y_stride]
    }

    /// Whether there is a y.
    #[inline(always)]
    pub fn has_y(&self) -> bool {
        !self.y.is_null()
    }

    /// Whether y is x itself.
    #[inline]
    pub fn is_in_place(&self) -> bool {
        core::ptr::eq(self.x, self.y)
    }

    /// Whether x is a sum that is yet to be taken.
    #[inline]
    pub fn is_sum(&self) -> bool {
        self.addends.is_some()
    }

    /// Row `r` of x. `None` if there are no more than `r` rows, if there are no columns, or if x is yet to be summed.
    pub fn x_row(&self, r: usize) -> Option<&[T]> {
        // SAFETY: row r lies within x, and nothing writes it while self is borrowed: the constructors of slices have
        // checked it, and from_raw makes it its caller's duty.
        (r < self.rows && self.cols > 0 && !self.is_sum())
            .then(|| unsafe { core::slice::from_raw_parts(self.x.add(r * self.x_stride), self.cols) })
    }

    /// Whether y or the x of sums has 16 bits beside f32.
    #[inline(always)]
    pub(crate) fn are_mixed(&self) -> bool {
        T::MIXES && (self.y_kind.is_narrow() || self.addend_kind.is_narrow())
    }

    /// Whether y may be written past the caches.
    #[inline(always)]
    pub(crate) fn may_stream(&self) -> bool {
        !(T::MIXES && self.y_kind.is_narrow())
    }

    /// Where y is.
    pub(crate) fn y(&self) -> RawRows<T> {
        RawRows { p: self.y, stride: self.y_stride, kind: self.y_kind }
    }

    /// Where the x of sums is.
    pub(crate) fn addend(&self) -> Option<RawRows<T>> {
        self.addends.map(|a| RawRows { p: a.x.cast_mut(), stride: a.x_stride, kind: self.addend_kind })
    }

    /// The same row with x elsewhere. It is one row, and no sum.
    ///
    /// # Safety
    /// - As for [`from_raw`](Self::from_raw).
    pub(crate) unsafe fn with_x(self, x: *const T) -> Self {
        Self { x, ..self }
    }

    /// The same rows with y elsewhere.
    ///
    /// # Safety
    /// - As for [`from_raw`](Self::from_raw).
    pub(crate) unsafe fn with_y(self, y: RawRows<T>) -> Self {
        Self { y: y.p, y_stride: y.stride, y_kind: y.kind, ..self }
    }

    /// The same rows, of which the x of sums is elsewhere.
    ///
    /// # Safety
    /// - As for [`from_raw`](Self::from_raw).
    pub(crate) unsafe fn with_addend(self, x: RawRows<T>) -> Self {
        let addends = self.addends.map(|a| Addends { x: x.p, x_stride: x.stride, ..a });
        Self { addends, addend_kind: x.kind, ..self }
    }

    /// The same rows without y, for jobs that write something else. A sum that lies in y stays there.
    #[must_use]
    pub fn and_no_y(self) -> Self {
        let RawRows { p, stride, kind } = RawRows::NONE;
        Self { y: p, y_stride: stride, y_kind: kind, ..self }
    }

    /// Takes these rows for rows whose sums have been taken.
    pub(crate) fn take_as_summed(&mut self) {
        (self.addends, self.addend_kind) = (None, Kind::Own);
    }

    /// The same rows, whose sums have been taken.
    pub(crate) fn summed(self) -> Self {
        Self { addends: None, addend_kind: Kind::Own, ..self }
    }

    /// `rows` of these rows, from row `r` on, while these are borrowed.
    #[inline(never)]
    pub(crate) fn part(&mut self, r: usize, rows: usize) -> RowIo<'_, T> {
        let all: RowIo<'_, T> = RowIo { marker: PhantomData, ..*self };
        all.split_at(r).1.split_at(rows).0
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        // With no elements the pointers may not be moved; with some, the rows below `row` lie within the slices,
        // and no row is needed past the last.
        let moved = if row < self.rows && self.cols > 0 { row } else { 0 };
        // SAFETY: row `moved` starts within x and y, or no step is made.
        let (x, y) = unsafe { (self.x.add(moved * self.x_stride), self.y_at(moved * self.y_stride)) };
        // SAFETY: as for x and y.
        let addends = self.addends.map(|a| unsafe { a.moved(self.addend_kind, moved, 0) });
        (Self { rows: row, ..self }, Self { x, y, addends, rows: self.rows - row, ..self })
    }

    /// The first `col` columns of all rows, and the others. All columns come first if there are fewer.
    pub fn split_at_col(self, col: usize) -> (Self, Self) {
        let col = col.min(self.cols);
        let moved = if self.rows > 0 { col } else { 0 };
        // SAFETY: column `moved` is at most one past the end of the first row.
        let (x, y) = unsafe { (self.x.add(moved), self.y_at(moved)) };
        // SAFETY: as for x and y.
        let addends = self.addends.map(|a| unsafe { a.moved(self.addend_kind, 0, moved) });
        (Self { cols: col, ..self }, Self { x, y, addends, cols: self.cols - col, ..self })
    }

    /// Where element `i` of y is.
    ///
    /// # Safety
    /// - y has at least `i` elements.
    #[inline(always)]
    unsafe fn y_at(&self, i: usize) -> *mut T {
        if self.y.is_null() {
            return self.y;
        }
        // SAFETY: the caller's duty.
        unsafe { self.y_kind.at(self.y, i).cast_mut() }
    }

    /// The input of the moments of row `r` and the rows below it. The bias, which sums may have, has `self.cols()`
    /// elements. With `prefetches`, loops prefetch elements.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    #[inline(always)]
    pub(crate) unsafe fn input(&self, r: usize, bias: Option<&[T]>, prefetches: bool) -> Input<T> {
        // SAFETY: the caller's duty.
        let x = unsafe { self.source(r) };
        let addends = match self.addends {
            // SAFETY: the caller's duty, and the constructor's check. The constructors of sums were given x as a
            // mutable slice.
            Some(a) => Some(unsafe {
                debug_assert!(!self.addend_kind.is_narrow());
                Addition {
                    x: a.x.add(r * a.x_stride),
                    x_stride: a.x_stride,
                    residual: a.residual.add(r * a.residual_stride),
                    residual_stride: a.residual_stride,
                    bias: bias.unwrap_or(T::step_of_negative_zeros()).as_ptr(),
                    bias_mask: if bias.is_some() { usize::MAX } else { 0 },
                    sum: x.0.cast_mut(),
                    sum_stride: self.x_stride,
                    rows: 1,
                    cols: self.cols,
                    prefetches: prefetches.then_some(a.x_stride != self.cols || a.residual_stride != self.cols),
                }
            }),
            None => None,
        };
        let ahead = if prefetches {
            PrefetchOffset::new::<T>(self.x_stride, self.x_stride != self.cols)
        } else {
            PrefetchOffset::NOTHING
        };
        Input::new(x, ahead, addends)
    }

    /// Prefetches row `r` of x, which need not be there, if other elements lie between the rows.
    #[inline(always)]
    pub(crate) fn prefetch_strided<S: Lanes>(&self, simd: S, r: usize) {
        if self.x_stride <= self.cols || self.is_sum() {
            return;
        }
        let row = self.x.wrapping_add(r.wrapping_mul(self.x_stride)).cast::<u8>();
        let mut line = 0;
        while line < self.cols * size_of::<T>() {
            simd.prefetch(row.wrapping_add(line));
            line += 64;
        }
    }

    /// Prefetches the cache lines of y that row `r` fills only in part. The row need not be there. An ordinary store
    /// that waits for memory would hold up the streaming stores behind it.
    #[inline(always)]
    pub(crate) fn prefetch_edges<S: Lanes>(&self, simd: S, r: usize) {
        let element = if self.y_is_wide() { size_of::<f32>() } else { size_of::<T>() };
        let start = self.y.cast::<u8>().wrapping_add(r.wrapping_mul(self.y_stride).wrapping_mul(element));
        for edge in [start, start.wrapping_add(self.cols * element)] {
            if !(edge as usize).is_multiple_of(LINE) {
                simd.prefetch(edge);
            }
        }
    }

    /// Where the first row is read, and the distance between rows.
    pub(crate) fn x(&self) -> (*const T, usize) {
        (self.x, self.x_stride)
    }

    /// Where row `r` is read.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    #[inline(always)]
    pub(crate) unsafe fn source(&self, r: usize) -> Source<T> {
        debug_assert!(r < self.rows);
        // SAFETY: the caller's duty, and the constructor's check.
        Source(unsafe { self.x.add(r * self.x_stride) })
    }

    /// Where row `r` is written, past the caches if `streaming`.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    #[inline(always)]
    pub(crate) unsafe fn target(&mut self, r: usize, streaming: bool) -> Target<T> {
        debug_assert!(r < self.rows);
        // SAFETY: the caller's duty, and the constructor's check.
        let y = unsafe { if self.y_is_wide() { self.y_at(r * self.y_stride) } else { self.y.add(r * self.y_stride) } };
        Target::new(y, self.y_is_wide(), streaming)
    }

    /// Makes all NaNs in row `r` of x canonical if it is a sum, which has been taken.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    pub(crate) unsafe fn canonicalize_sum(&mut self, r: usize) {
        if self.is_sum() {
            // SAFETY: the caller's duty; the constructors of sums were given x as a mutable slice.
            let sums = unsafe { core::slice::from_raw_parts_mut(self.source(r).0.cast_mut(), self.cols) };
            sums.iter_mut().filter(|v| v.to_computed().into().is_nan()).for_each(|v| *v = <T as Companion<T>>::NAN);
        }
    }

    /// Makes all NaNs in row `r` of y canonical, and turns the elements that `is_nan` names into canonical NaNs.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    pub(crate) unsafe fn canonicalize(&mut self, r: usize, is_nan: impl Fn(usize) -> bool) {
        let cols = self.cols;
        // SAFETY: the caller's duty.
        unsafe { self.target(r, false).canonicalize(cols, is_nan) };
    }
}
