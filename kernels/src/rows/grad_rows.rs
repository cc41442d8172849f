//! Where gradients are read from and written to.

use core::marker::PhantomData;

use super::io::check;
use super::{Groups, Source, Target, start_on_lines};
use crate::element::Storage;
use crate::error::Error;

/// Rows of `cols` contiguous elements: the gradient dy, x, and, each of them if wanted, where dx goes and a gradient ds
/// that is added to it. dx may be dy itself.
///
/// Row `r` of each starts at element `r` times its stride. Rows never overlap one another.
#[derive(Debug)]
pub struct GradRows<'a, T> {
    dy: Strided<T>,
    x: Strided<T>,
    ds: Option<Strided<T>>,
    dx: Option<Strided<T>>,
    in_place: bool,
    which: Which,
    cols: usize,
    marker: PhantomData<(&'a [T], &'a mut [T])>,
}

// SAFETY: GradRows stands for slices and mutable slices of elements, which are Send.
unsafe impl<T: Storage> Send for GradRows<'_, T> {}
// SAFETY: through a shared GradRows memory is only read.
unsafe impl<T: Storage> Sync for GradRows<'_, T> {}

/// The rows of the buffers, and which of them some rows are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Which {
    all: usize,
    pub(super) rows: usize,
    first: usize,
    group: Group,
    /// The rows of a run.
    inner_rows: usize,
}

impl Which {
    /// All rows of buffers that have `rows` rows, in runs of `inner_rows`.
    pub(super) fn all(rows: usize, inner_rows: usize) -> Self {
        Self { all: rows, rows, first: 0, group: Group::ONE, inner_rows }
    }

    /// Refuses what is given for a part of the rows of the buffers.
    fn check_all(&self, what: &'static str) -> Result<(), Error> {
        let &Self { rows, all, .. } = self;
        if rows == all { Ok(()) } else { Err(Error::Part { what, rows, all }) }
    }

    /// Those of one of several groups: see [`GradRows::with_group`].
    pub(super) fn with_group(self, index: usize, groups: Groups) -> Result<Self, Error> {
        self.check_all("a group")?;
        groups.divide(self.rows)?;
        if index >= groups.groups() {
            return Err(Error::NoGroup { index, groups: groups.groups() });
        }
        let (start, repeat, period) = (groups.start(index), groups.repeat_of(index), groups.period());
        Ok(Self { rows: groups.rows_of(index, self.rows), group: Group { start, repeat, period }, ..self })
    }

    /// The index of row `r` among the rows of the buffers.
    #[inline(always)]
    fn index(&self, r: usize) -> usize {
        let (r, group) = (self.first + r, self.group);
        let Group { start, repeat, period } = group;
        if group.is_all() { r } else { r / repeat * period + start + r % repeat }
    }

    /// The place of row `r` in the buffers.
    #[inline(always)]
    pub(super) fn place(&self, r: usize) -> Place {
        let r = self.index(r);
        if r < self.inner_rows {
            Place { outer: 0, inner: r }
        } else {
            Place { outer: r / self.inner_rows, inner: r % self.inner_rows }
        }
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub(super) fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        (Self { rows: row, ..self }, Self { rows: self.rows - row, first: self.first + row, ..self })
    }
}

/// Of each `period` rows, `repeat` rows from row `start` on.
#[derive(Clone, Copy, Debug)]
struct Group {
    start: usize,
    repeat: usize,
    period: usize,
}

impl Group {
    /// All rows.
    const ONE: Self = Self { start: 0, repeat: 1, period: 1 };

    /// Whether these are all rows.
    #[inline(always)]
    fn is_all(self) -> bool {
        self.repeat == self.period
    }
}

/// Where rows start: row `inner` of run `outer` at element `outer * outer_stride + inner * stride`. dx is written to,
/// and was given as a mutable slice or pointer.
#[derive(Clone, Copy, Debug)]
struct Strided<T> {
    p: *const T,
    stride: usize,
    outer_stride: usize,
}

/// The run of a row in the buffers, and its place in the run. All buffers share it, so that one division serves all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(super) outer: usize,
    pub(super) inner: usize,
}

/// Where a row of each buffer starts. Without a ds, and where no dx is wanted, that pointer means nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPointers<T> {
    pub(crate) dy: Source<T>,
    pub(crate) x: Source<T>,
    pub(crate) ds: Source<T>,
    pub(crate) dx: *mut T,
}

/// Rows given by a pointer, for [`GradRows::from_raw`]: strided, and in runs that are strided themselves.
#[derive(Clone, Copy, Debug)]
pub struct RawGradRows<T> {
    /// The first element of the first row. It is written through only if these are rows of an output.
    pub p: *mut T,
    /// The distance between the starts of two rows of a run, in elements.
    pub stride: usize,
    /// The distance between the starts of two runs, in elements.
    pub outer_stride: usize,
}

impl<T> Strided<T> {
    /// # Safety
    /// - The row is one of those that the elements were checked to hold.
    #[inline(always)]
    unsafe fn row(self, Place { outer, inner }: Place) -> *const T {
        // SAFETY: the caller's duty.
        unsafe { self.p.add(outer * self.outer_stride + inner * self.stride) }
    }

    /// One run of rows.
    fn new(p: *const T, stride: usize) -> Self {
        Self { p, stride, outer_stride: 0 }
    }
}

impl<'a, T: Storage> GradRows<'a, T> {
    /// Rows of dy and x. Each buffer comes with its stride.
    ///
    /// # Errors
    /// If the rows do not fit into the slices or overlap one another.
    pub fn new(
        (dy, dy_stride): (&'a [T], usize),
        x: (&'a [T], usize),
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("dy", dy.len(), rows, cols, dy_stride)?;
        Self::of_dy(Strided::new(dy.as_ptr(), dy_stride), x, rows, cols)
    }

    /// Rows of dy and x, dx to be written over dy.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_place(
        (dy, dy_stride): (&'a mut [T], usize),
        x: (&'a [T], usize),
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        check("dy", dy.len(), rows, cols, dy_stride)?;
        let dy_rows = Strided::new(dy.as_mut_ptr().cast_const(), dy_stride);
        Ok(Self { dx: Some(dy_rows), in_place: true, ..Self::of_dy(dy_rows, x, rows, cols)? })
    }

    fn of_dy(dy: Strided<T>, (x, stride): (&'a [T], usize), rows: usize, cols: usize) -> Result<Self, Error> {
        check("x", x.len(), rows, cols, stride)?;
        Ok(Self {
            dy,
            x: Strided::new(x.as_ptr(), stride),
            ds: None,
            dx: None,
            in_place: false,
            which: Which::all(rows, usize::MAX),
            cols,
            marker: PhantomData,
        })
    }

    /// The same rows with dx written to a buffer.
    ///
    /// # Errors
    /// If the rows do not fit into it or overlap one another, if there is a dx already (over dy, or in another buffer),
    /// or if these are a part of the rows of the buffers.
    pub fn with_dx(self, (dx, stride): (&'a mut [T], usize)) -> Result<Self, Error> {
        self.check_added("dx", self.dx.is_some(), dx.len(), stride)?;
        Ok(Self { dx: Some(Strided::new(dx.as_mut_ptr().cast_const(), stride)), ..self })
    }

    /// The same rows with ds added to dx, which must be wanted: see
    /// [`Backward::new`](crate::ops::backward::Backward::new).
    ///
    /// # Errors
    /// If the rows do not fit into it or overlap one another, if there is a ds already, or if these are a part of
    /// the rows of the buffers.
    pub fn with_ds(self, (ds, stride): (&'a [T], usize)) -> Result<Self, Error> {
        self.check_added("ds", self.ds.is_some(), ds.len(), stride)?;
        Ok(Self { ds: Some(Strided::new(ds.as_ptr(), stride)), ..self })
    }

    /// Of all rows, those of one of several groups.
    ///
    /// # Errors
    /// If there is no such group, if the groups do not divide the rows, or if these are a part of the rows of
    /// the buffers.
    pub fn with_group(self, index: usize, groups: Groups) -> Result<Self, Error> {
        Ok(Self { which: self.which.with_group(index, groups)?, ..self })
    }

    /// Refuses a buffer of `len` elements that is added to these rows.
    fn check_added(&self, what: &'static str, is_there: bool, len: usize, stride: usize) -> Result<(), Error> {
        if is_there {
            return Err(Error::Twice { what });
        }
        self.which.check_all(what)?;
        check(what, len, self.which.rows, self.cols, stride)
    }

    /// Rows given by pointers, for callers that have no slices of their own, in runs of `inner_rows`. ds and dx are
    /// those that are wanted.
    ///
    /// Of these rows a job reads and writes those that it is run on, so that parts of one job, made several times from
    /// the same pointers and split, can be run at once.
    ///
    /// # Safety
    /// Unless there are no rows or no columns, for as long as the rows of a job that is run:
    /// - `inner_rows` is not zero.
    /// - All rows of a buffer lie in one allocation, are aligned and valid for reads; those of dx for writes too.
    /// - What is written is read and written by nothing else.
    /// - No row of dx overlaps another row of any buffer. dx may be dy, with the same pointer and strides.
    pub unsafe fn from_raw(
        dy: RawGradRows<T>,
        x: RawGradRows<T>,
        ds: Option<RawGradRows<T>>,
        dx: Option<RawGradRows<T>>,
        inner_rows: usize,
        rows: usize,
        cols: usize,
    ) -> Self {
        let strided = |RawGradRows { p, stride, outer_stride }| Strided { p, stride, outer_stride };
        Self {
            dy: strided(dy),
            x: strided(x),
            ds: ds.map(strided),
            dx: dx.map(strided),
            in_place: dx.is_some_and(|dx| dx.p == dy.p),
            which: Which::all(rows, inner_rows),
            cols,
            marker: PhantomData,
        }
    }

    /// The same rows for a job that ends before these are used again.
    pub fn reborrow(&mut self) -> GradRows<'_, T> {
        GradRows { marker: PhantomData, ..*self }
    }

    /// The number of rows of the buffers. These rows may be a part of them.
    pub(crate) fn all(&self) -> usize {
        self.which.all
    }

    /// The index of row `r` among the rows of the buffers.
    #[inline(always)]
    pub(crate) fn index(&self, r: usize) -> usize {
        self.which.index(r)
    }

    /// The place of row `r` in the buffers.
    #[inline(always)]
    pub(crate) fn place(&self, r: usize) -> Place {
        self.which.place(r)
    }

    /// The number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.which.rows
    }

    /// The number of elements in a row.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether dx is wanted.
    #[inline]
    pub fn has_dx(&self) -> bool {
        self.dx.is_some()
    }

    /// Whether every row of dx starts on a cache line.
    #[inline]
    pub fn dx_is_on_lines(&self) -> bool {
        self.dx.is_some_and(|Strided { p, stride, outer_stride, .. }| {
            start_on_lines(p.addr(), [stride, outer_stride].map(|stride| stride.wrapping_mul(size_of::<T>())))
        })
    }

    /// Whether ds is added to dx.
    #[inline]
    pub fn has_ds(&self) -> bool {
        self.ds.is_some()
    }

    /// Whether dx is written over dy.
    #[inline]
    pub fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    ///
    /// Both are rows of the same buffers: see [`Stats`](crate::ops::backward::Stats) for what that asks of statistics.
    /// To cut a job into parts whose sums can be merged, split that:
    /// [`Backward::split_at_part`](crate::ops::backward::Backward::split_at_part).
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.which.split_at(row);
        (Self { which: a, ..self }, Self { which: b, ..self })
    }

    /// Where the row at `at` of dy is read.
    ///
    /// # Safety
    /// - `at` is the place of a row of these.
    #[inline(always)]
    pub(crate) unsafe fn dy(&self, at: Place) -> Source<T> {
        // SAFETY: the caller's duty, and the constructor's check.
        Source(unsafe { self.dy.row(at) })
    }

    /// Where the row at `at` of x is read.
    ///
    /// # Safety
    /// - `at` is the place of a row of these.
    #[inline(always)]
    pub(crate) unsafe fn x(&self, at: Place) -> Source<T> {
        // SAFETY: the caller's duty, and the constructor's check.
        Source(unsafe { self.x.row(at) })
    }

    /// Where the row at `at` of ds is read, if there is one.
    ///
    /// # Safety
    /// - `at` is the place of a row of these.
    #[inline(always)]
    pub(crate) unsafe fn ds(&self, at: Place) -> Option<Source<T>> {
        // SAFETY: the caller's duty, and the constructor's check.
        self.ds.map(|ds| Source(unsafe { ds.row(at) }))
    }

    /// Where the row at `at` of dx is written, past the caches if `streaming`, if it is wanted.
    ///
    /// # Safety
    /// - `at` is the place of a row of these.
    #[inline(always)]
    pub(crate) unsafe fn dx(&mut self, at: Place, streaming: bool) -> Option<Target<T>> {
        // SAFETY: the caller's duty, and the constructor's check; it was given as a mutable slice.
        self.dx.map(|dx| Target::new(unsafe { dx.row(at) }.cast_mut(), false, streaming))
    }

    /// Whether each row of a buffer follows the row before it at one stride.
    #[inline(always)]
    pub(crate) fn is_one_run(&self) -> bool {
        self.which.group.is_all() && self.which.all <= self.which.inner_rows
    }

    /// Where the row at `at` of each buffer starts.
    ///
    /// # Safety
    /// - `at` is the place of a row of these.
    #[inline(always)]
    pub(crate) unsafe fn pointers(&mut self, at: Place) -> RowPointers<T> {
        // SAFETY: the caller's duty, and the constructor's check; dx was given as a mutable slice.
        unsafe {
            let (dy, x) = (self.dy.row(at), self.x.row(at));
            let (ds, dx) = (self.ds.unwrap_or(self.dy).row(at), self.dx.unwrap_or(self.dy).row(at));
            RowPointers { dy: Source(dy), x: Source(x), ds: Source(ds), dx: dx.cast_mut() }
        }
    }

    /// The pointers of the row below, if these rows are [one run](Self::is_one_run).
    #[inline(always)]
    pub(crate) fn below(&self, p: RowPointers<T>) -> RowPointers<T> {
        RowPointers {
            dy: Source(p.dy.0.wrapping_add(self.dy.stride)),
            x: Source(p.x.0.wrapping_add(self.x.stride)),
            ds: Source(p.ds.0.wrapping_add(self.ds.unwrap_or(self.dy).stride)),
            dx: p.dx.wrapping_add(self.dx.unwrap_or(self.dy).stride),
        }
    }

    /// The rows of dy and x below these, if these rows are [one run](Self::is_one_run).
    #[inline(always)]
    pub(crate) fn sources_below(&self, [dy, x]: [Source<T>; 2]) -> [Source<T>; 2] {
        [Source(dy.0.wrapping_add(self.dy.stride)), Source(x.0.wrapping_add(self.x.stride))]
    }

    /// Elements of a row of dx, written past the caches if `streaming`.
    #[inline(always)]
    pub(crate) fn target(&self, p: RowPointers<T>, streaming: bool) -> Target<T> {
        Target::new(p.dx, false, streaming)
    }
}
