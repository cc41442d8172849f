//! Where rows are read from and written to: the only owners of raw pointers beside the tiers.

use core::marker::PhantomData;

use super::{Input, Lanes, NEGATIVE_ZEROS};

/// Rows of `cols` contiguous f32 to be read from x and written to y, which is either apart from x or x itself. x may be a
/// sum that is yet to be taken.
///
/// Row `r` of x starts at element `r * x_stride`, row `r` of y at `r * y_stride`. Rows never overlap one another.
#[derive(Debug)]
pub struct RowIo<'a> {
    x: *const f32,
    x_stride: usize,
    y: *mut f32,
    y_stride: usize,
    rows: usize,
    cols: usize,
    /// What x is the sum of. Then x may be written.
    addends: Option<Addends>,
    marker: PhantomData<(&'a [f32], &'a mut [f32])>,
}

/// Where the rows of two addends start.
#[derive(Clone, Copy, Debug)]
struct Addends {
    x: *const f32,
    x_stride: usize,
    residual: *const f32,
    residual_stride: usize,
}

impl Addends {
    /// # Safety
    /// - In both addends, row `rows` has an element or an end at column `cols`.
    unsafe fn moved(self, rows: usize, cols: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            Self {
                x: self.x.add(rows * self.x_stride + cols),
                residual: self.residual.add(rows * self.residual_stride + cols),
                ..self
            }
        }
    }
}

// SAFETY: RowIo stands for a `&[f32]` and a `&mut [f32]` (or a `&mut [f32]` alone), which are Send.
unsafe impl Send for RowIo<'_> {}
// SAFETY: through a shared RowIo memory is only read.
unsafe impl Sync for RowIo<'_> {}

/// Whether `rows` rows of `cols` elements, `stride` apart, lie within `len` elements and apart from each other.
#[inline]
fn fits(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    if rows == 0 || cols == 0 {
        return true;
    }
    let span = (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(cols));
    span.is_some_and(|span| span <= len) && (rows == 1 || stride >= cols)
}

impl<'a> RowIo<'a> {
    /// Rows of x to be normalized into y. `None` if they do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn new(
        x: &'a [f32],
        x_stride: usize,
        y: &'a mut [f32],
        y_stride: usize,
        rows: usize,
        cols: usize,
    ) -> Option<Self> {
        let fits = fits(x.len(), rows, cols, x_stride) && fits(y.len(), rows, cols, y_stride);
        fits.then_some(Self {
            x: x.as_ptr(),
            x_stride,
            y: y.as_mut_ptr(),
            y_stride,
            rows,
            cols,
            addends: None,
            marker: PhantomData,
        })
    }

    /// Rows to be normalized where they lie. `None` if they do not fit into the slice or overlap one another.
    #[inline(always)]
    pub fn in_place(y: &'a mut [f32], stride: usize, rows: usize, cols: usize) -> Option<Self> {
        let y_ptr = y.as_mut_ptr();
        fits(y.len(), rows, cols, stride).then_some(Self {
            x: y_ptr,
            x_stride: stride,
            y: y_ptr,
            y_stride: stride,
            rows,
            cols,
            addends: None,
            marker: PhantomData,
        })
    }

    /// Rows of x + residual, to be written to s and normalized into y. Each buffer comes with its stride. `None` if the rows
    /// do not fit into the slices or overlap one another.
    #[inline(always)]
    pub fn sum(
        (x, x_stride): (&'a [f32], usize),
        (residual, residual_stride): (&'a [f32], usize),
        (s, s_stride): (&'a mut [f32], usize),
        (y, y_stride): (&'a mut [f32], usize),
        rows: usize,
        cols: usize,
    ) -> Option<Self> {
        let addends = Addends { x: x.as_ptr(), x_stride, residual: residual.as_ptr(), residual_stride };
        let fits = fits(x.len(), rows, cols, x_stride)
            && fits(residual.len(), rows, cols, residual_stride)
            && fits(s.len(), rows, cols, s_stride)
            && fits(y.len(), rows, cols, y_stride);
        fits.then_some(Self {
            x: s.as_mut_ptr(),
            x_stride: s_stride,
            y: y.as_mut_ptr(),
            y_stride,
            rows,
            cols,
            addends: Some(addends),
            marker: PhantomData,
        })
    }

    /// Rows of x + s, to be written over s and normalized into y. Each buffer comes with its stride. `None` if the rows do not
    /// fit into the slices or overlap one another.
    #[inline(always)]
    pub fn sum_in_place(
        (x, x_stride): (&'a [f32], usize),
        (s, s_stride): (&'a mut [f32], usize),
        (y, y_stride): (&'a mut [f32], usize),
        rows: usize,
        cols: usize,
    ) -> Option<Self> {
        let s_ptr = s.as_mut_ptr();
        let addends = Addends { x: x.as_ptr(), x_stride, residual: s_ptr, residual_stride: s_stride };
        let fits = fits(x.len(), rows, cols, x_stride)
            && fits(s.len(), rows, cols, s_stride)
            && fits(y.len(), rows, cols, y_stride);
        fits.then_some(Self {
            x: s_ptr,
            x_stride: s_stride,
            y: y.as_mut_ptr(),
            y_stride,
            rows,
            cols,
            addends: Some(addends),
            marker: PhantomData,
        })
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

    /// Row `r` of x, or `None` if there are no more than `r` rows or x is yet to be summed.
    pub fn x_row(&self, r: usize) -> Option<&[f32]> {
        // SAFETY: the constructor checked that row r lies within x; nothing is written while self is shared.
        (r < self.rows && self.cols > 0 && !self.is_sum())
            .then(|| unsafe { core::slice::from_raw_parts(self.x.add(r * self.x_stride), self.cols) })
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        // With no elements the pointers may not be moved; with some, the rows below `row` lie within the slices,
        // and no row is needed past the last.
        let moved = if row < self.rows && self.cols > 0 { row } else { 0 };
        // SAFETY: row `moved` starts within x and y, or no step is made.
        let (x, y) = unsafe { (self.x.add(moved * self.x_stride), self.y.add(moved * self.y_stride)) };
        // SAFETY: as for x and y.
        let addends = self.addends.map(|a| unsafe { a.moved(moved, 0) });
        (Self { rows: row, ..self }, Self { x, y, addends, rows: self.rows - row, ..self })
    }

    /// The first `col` columns of all rows, and the others. All columns come first if there are fewer.
    pub fn split_at_col(self, col: usize) -> (Self, Self) {
        let col = col.min(self.cols);
        let moved = if self.rows > 0 { col } else { 0 };
        // SAFETY: column `moved` is at most one past the end of the first row.
        let (x, y) = unsafe { (self.x.add(moved), self.y.add(moved)) };
        // SAFETY: as for x and y.
        let addends = self.addends.map(|a| unsafe { a.moved(0, moved) });
        (Self { cols: col, ..self }, Self { x, y, addends, cols: self.cols - col, ..self })
    }

    /// What the moments of row `r` are taken of: of the sums with bias if `ADD`, which asks for addends. The bias has
    /// `self.cols()` elements, if there is one.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    #[inline(always)]
    pub(crate) unsafe fn input<const ADD: bool>(&self, r: usize, bias: Option<&[f32]>) -> Input<ADD> {
        debug_assert!(ADD == self.is_sum());
        // SAFETY: the caller's duty.
        let x = unsafe { self.source(r) };
        match self.addends {
            Some(a) if ADD => {
                // SAFETY: the caller's duty, and the constructor's check.
                let (addend, residual) = unsafe { (a.x.add(r * a.x_stride), a.residual.add(r * a.residual_stride)) };
                Input {
                    x: Source(addend),
                    residual: Source(residual),
                    bias: Source::from(bias.unwrap_or(&NEGATIVE_ZEROS)),
                    bias_mask: if bias.is_some() { usize::MAX } else { 0 },
                    // The constructors of sums were given it as a mutable slice.
                    sum: Target(x.0.cast_mut()),
                }
            }
            _ => Input { x, residual: x, bias: x, bias_mask: 0, sum: Target(core::ptr::null_mut()) },
        }
    }

    /// Where row `r` is read.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    #[inline(always)]
    pub(crate) unsafe fn source(&self, r: usize) -> Source {
        debug_assert!(r < self.rows);
        // SAFETY: the caller's duty, and the constructor's check.
        Source(unsafe { self.x.add(r * self.x_stride) })
    }

    /// Where row `r` is written.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    #[inline(always)]
    pub(crate) unsafe fn target(&mut self, r: usize) -> Target {
        debug_assert!(r < self.rows);
        // SAFETY: the caller's duty, and the constructor's check.
        Target(unsafe { self.y.add(r * self.y_stride) })
    }

    /// Makes all NaNs in row `r` of x canonical if it is a sum, which has been taken.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    pub(crate) unsafe fn canonicalize_sum(&mut self, r: usize) {
        if self.is_sum() {
            // SAFETY: the caller's duty; the constructors of sums were given x as a mutable slice.
            let sums = unsafe { core::slice::from_raw_parts_mut(self.source(r).0.cast_mut(), self.cols) };
            sums.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f32::NAN);
        }
    }

    /// Row `r` of y.
    ///
    /// # Safety
    /// - `r < self.rows()`.
    pub(crate) unsafe fn y_row(&mut self, r: usize) -> &mut [f32] {
        // SAFETY: the caller's duty, and the constructor's check.
        unsafe { core::slice::from_raw_parts_mut(self.target(r).0, self.cols) }
    }
}

/// Elements to be read. Whoever holds one knows how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source(pub(super) *const f32);

/// Elements to be written. Whoever holds one knows how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target(pub(super) *mut f32);

impl From<&[f32]> for Source {
    #[inline(always)]
    fn from(x: &[f32]) -> Self {
        Self(x.as_ptr())
    }
}

impl Source {
    /// The elements from `i` on.
    ///
    /// # Safety
    /// - There are at least `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn after(self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        Self(unsafe { self.0.add(i) })
    }

    /// `M` elements from `i` on.
    ///
    /// # Safety
    /// - There are at least `i + M` elements.
    #[inline(always)]
    pub(crate) unsafe fn array<const M: usize>(self, i: usize) -> [f32; M] {
        // SAFETY: the caller's duty; [f32; M] has the alignment of f32.
        unsafe { *self.0.add(i).cast() }
    }

    /// A register of elements from `i` on.
    ///
    /// # Safety
    /// - There are at least `i + S::F32_LANES` elements.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Lanes>(self, simd: S, i: usize) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe { simd.load(self.0.add(i)) }
    }

    /// Register `j` of the runs of elements that start `stride` apart. See [`Lanes::load_runs`].
    ///
    /// # Safety
    /// - There are all the elements that the register takes.
    #[inline(always)]
    pub(crate) unsafe fn load_runs<S: Lanes>(self, simd: S, stride: usize, j: usize) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe { simd.load_runs(self.0, stride, j) }
    }

    /// `n` elements from `i` on, at most a register, and `fill` in the lanes above.
    ///
    /// # Safety
    /// - There are at least `i + min(n, S::F32_LANES)` elements.
    #[inline(always)]
    pub(crate) unsafe fn load_tail<S: Lanes>(self, simd: S, i: usize, n: usize, fill: S::f32s) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe { simd.load_tail(self.0.wrapping_add(i), n.min(S::F32_LANES), fill) }
    }
}

impl Target {
    /// The number of elements before the first that a register can be streamed to.
    #[inline(always)]
    pub(crate) fn misalignment<S: Lanes>(self) -> usize {
        let bytes = size_of::<S::f32s>();
        (self.0 as usize).wrapping_neg() % bytes / size_of::<f32>()
    }

    /// Writes a register of elements from `i` on, past the caches if `STREAM`.
    ///
    /// # Safety
    /// - There are at least `i + S::F32_LANES` elements.
    /// - If `STREAM`, `i` is the [`misalignment`](Self::misalignment) plus a multiple of `S::F32_LANES`.
    #[inline(always)]
    pub(crate) unsafe fn store<S: Lanes, const STREAM: bool>(self, simd: S, i: usize, v: S::f32s) {
        // SAFETY: the caller's duty.
        unsafe {
            if STREAM {
                simd.stream(self.0.add(i), v);
            } else {
                simd.store(self.0.add(i), v);
            }
        }
    }

    /// Writes `n` elements from `i` on, at most a register.
    ///
    /// # Safety
    /// - There are at least `i + min(n, S::F32_LANES)` elements.
    #[inline(always)]
    pub(crate) unsafe fn store_tail<S: Lanes>(self, simd: S, i: usize, n: usize, v: S::f32s) {
        // SAFETY: the caller's duty.
        unsafe { simd.store_tail(self.0.wrapping_add(i), n.min(S::F32_LANES), v) }
    }

    /// Writes element `i`.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn set(self, i: usize, v: f32) {
        // SAFETY: the caller's duty.
        unsafe { *self.0.add(i) = v };
    }
}
