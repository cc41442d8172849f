//! Normalization, and quantization of what is normalized, in one touch.
//!
//! ```text
//! y        = layer or RMS normalization of x, in f32, not rounded to another type
//! q, scale = quantize(y)                                  see `Scheme` and `reference::quantize`
//! ```
//!
//! Loops write y into a room that an L1 cache keeps, or to where it is wanted if that is in f32, and what they have
//! written is quantized from there. So a row is read once from memory and written once, with one byte for each element,
//! and every loop is one that plain calls have.
//!
//! - As many rows as the room has place for are normalized at a time.
//! - Longer rows are normalized one by one, piece by piece. Where the whole row shares a scale, this is done twice: for
//!   the range of its elements, and again to quantize them.
//! - Where all rows share a scale, all is done twice: see [`Quantize::range_on`].

use core::marker::PhantomData;

use super::forward::Forward;
use super::mixed::{self, Jobs, Loops, Room, wide_kind};
use crate::element::Storage;
use crate::error::Error;
use crate::isa::Isa;
use crate::loops::{Epilogues, Known};
use crate::mean::Center;
use crate::quants::{Ahead, Elements, Places, Quantizer, RangeOf, Rounded, Rows, Wide};
use crate::rows::{Params, RawRows, RowIo};
use crate::scheme::{Byte, Range, Scheme, Scope};
use crate::stats::StatsMut;
use crate::table::Dtype;

/// The elements of y that are kept until they are quantized.
const ROOM: usize = 8192;

/// So many elements of short rows are normalized before they are quantized.
const TOGETHER: usize = 4096;

/// Where quantized rows are written: q, and scales and zero points where the scheme has arrays of them.
#[derive(Debug)]
pub struct Quants<'a> {
    places: Places,
    q: [usize; 2],
    scale: usize,
    zero_point: usize,
    marker: PhantomData<&'a mut [u8]>,
}

// SAFETY: Quants stands for mutable slices of bytes and floats, which are Send.
unsafe impl Send for Quants<'_> {}
// SAFETY: through a shared Quants nothing is written.
unsafe impl Sync for Quants<'_> {}

impl<'a> Quants<'a> {
    /// Rows of q, `stride` bytes from the start of one to the next, and an array each of scales and zero points, which
    /// are empty where the scheme has none: see [`Scheme::row_bytes`], [`Scheme::scales`] and
    /// [`Scheme::zero_points`].
    pub fn new<Q: Byte>(q: &'a mut [Q], stride: usize, scale: &'a mut [f32], zero_point: &'a mut [u8]) -> Self {
        let (q_len, scale_len, zero_point_len) = (q.len(), scale.len(), zero_point.len());
        let places = Places {
            q: q.as_mut_ptr().cast(),
            q_stride: stride,
            scale: scale.as_mut_ptr(),
            zero_point: zero_point.as_mut_ptr(),
        };
        Self { places, q: [q_len, stride], scale: scale_len, zero_point: zero_point_len, marker: PhantomData }
    }

    /// The places of `rows` rows of `cols` elements by pointers, from row `first` of a call on: q points to this row,
    /// and the others to the arrays of the call. Between the rows of q nothing is touched. Where all rows share a
    /// scale, only the part of a call that has its first row writes it.
    ///
    /// # Safety
    /// - The rows of q are apart from one another. They and their scales and zero points, if the scheme has arrays of
    ///   these, are valid for writes for `'a`, and nothing else touches them meanwhile.
    pub unsafe fn from_raw(
        scheme: &Scheme,
        first: usize,
        [rows, cols]: [usize; 2],
        q: *mut u8,
        stride: usize,
        scale: *mut f32,
        zero_point: *mut u8,
    ) -> Self {
        // SAFETY: the caller's duty. q is not moved.
        let places = unsafe { Places { q, q_stride: 0, scale, zero_point }.after(scheme, first, cols) };
        Self {
            places: Places { q_stride: stride, ..places },
            q: [rows.saturating_sub(1).saturating_mul(stride).saturating_add(scheme.row_bytes(cols)), stride],
            scale: scheme.scales(rows, cols),
            zero_point: scheme.zero_points(rows),
            marker: PhantomData,
        }
    }

    /// Refuses places that do not fit `rows` rows of `cols` elements.
    fn fit(&self, scheme: &Scheme, rows: usize, cols: usize) -> Result<(), Error> {
        let ([len, stride], row_bytes) = (self.q, scheme.row_bytes(cols));
        if rows > 0 && row_bytes > 0 {
            let span = (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(row_bytes));
            if span.is_none_or(|span| span > len) || (rows > 1 && stride < row_bytes) {
                return Err(Error::of_rows("q", len, rows, row_bytes, stride));
            }
        }
        Error::length("scale", self.scale, scheme.scales(rows, cols))?;
        Error::length("zero_point", self.zero_point, scheme.zero_points(rows))
    }
}

/// The job of normalizing some rows and quantizing what comes out. y itself is written too if the rows have one.
#[derive(Debug)]
pub struct Quantize<'a, T: Storage<Float = f32>, M: Center> {
    forward: Forward<'a, T, M>,
    scheme: Scheme,
    places: Places,
    marker: PhantomData<Quants<'a>>,
}

// SAFETY: Quantize has a job and Quants, which are Send.
unsafe impl<T: Storage<Float = f32>, M: Center> Send for Quantize<'_, T, M> {}

impl<'a, T: Storage<Float = f32>, M: Center> Quantize<'a, T, M> {
    /// The job of normalizing `rows`, which may be without y ([`RowIo::without_y`]), and of quantizing them to
    /// `quants`.
    ///
    /// # Errors
    /// If
    /// - the parts of the scheme are out of range or do not go together, or its blocks do not divide the columns,
    /// - q does not have a place for each row, apart from the others,
    /// - sums of 16 bits have a [rounding](crate::rounding::Rounding::sums) other than
    ///   [`Rounded`](crate::rounding::Sums::Rounded),
    /// - there are not as many scales and zero points as [`Scheme::scales`] and [`Scheme::zero_points`] say, or
    /// - for the reasons of [`LayerNorm::new`](super::layer_norm::LayerNorm::new).
    pub fn new(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, f32>,
        scheme: &Scheme,
        quants: Quants<'a>,
    ) -> Result<Self, Error> {
        scheme.check(rows.cols())?;
        params.rounding.check_quantized(rows.is_sum(), T::ROUNDS)?;
        quants.fit(scheme, rows.rows(), rows.cols())?;
        let forward = Forward::checked_without_y(rows, params, eps, false, stats)?;
        Ok(Self { forward, scheme: *scheme, places: quants.places, marker: PhantomData })
    }

    /// The same job with a row that is added to each sum of x and residual.
    ///
    /// # Errors
    /// As for [`Forward::with_bias`].
    pub fn with_bias(self, bias: &'a [T]) -> Result<Self, Error> {
        Ok(Self { forward: self.forward.with_bias(bias)?, ..self })
    }

    /// The job for the first `row` rows, and the job for the rest. If there are fewer rows, the first job has them all.
    /// Where all rows share a scale, the first job writes it.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let Self { forward, scheme, places, marker } = self;
        let (rows, cols) = (forward.rows().rows(), forward.rows().cols());
        let (a, b) = forward.split_at(row);
        // SAFETY: there is a row from there on, or nothing is moved.
        let after = if row < rows { unsafe { places.after(&scheme, row, cols) } } else { places };
        (Self { forward: a, scheme, places, marker }, Self { forward: b, scheme, places: after, marker })
    }

    /// The same job, while this one is borrowed.
    pub fn reborrow(&mut self) -> Quantize<'_, T, M> {
        let Self { scheme, places, .. } = *self;
        Quantize { forward: self.forward.reborrow(), scheme, places, marker: PhantomData }
    }

    /// The rows.
    pub fn rows(&self) -> &RowIo<'a, T> {
        self.forward.rows()
    }

    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The same job with x for what was a sum: sums have been taken, by [`range_on`](Self::range_on).
    #[must_use]
    pub fn summed(mut self) -> Self {
        self.forward.job().rows.take_as_summed();
        self
    }

    /// Normalizes and quantizes all rows, through the loops for `L`. If `known`, this is the range of elements that
    /// share the scale of all.
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa, known: Option<Range>) {
        let (scheme, places) = (self.scheme, self.places);
        let job = self.forward.job();
        job.isa = isa;
        let run = Run { isa, scheme: &scheme, places, known, loops: &const { Loops::of::<L>() } };
        if job.rows.cols() <= ROOM { run.short(job) } else { run.long(job) }
    }

    /// The range of all rows, which are normalized for it through the loops for `L`. Sums and statistics are written.
    pub(crate) fn range_here<L: Center>(&mut self, isa: Isa) -> Range {
        let job = self.forward.job();
        job.isa = isa;
        let loops = &const { Loops::of::<L>() };
        if job.rows.cols() <= ROOM { range_of_short(job, isa, loops) } else { range_of_long(job, isa, loops) }
    }

    /// Writes the scales and the zero points of rows that have no elements, or of no rows.
    #[inline(never)]
    pub(crate) fn write_scales_of_zeros(&self) {
        let &Self { ref forward, scheme, places, .. } = self;
        let rows = if self.needs_range() { 1 } else { forward.rows().rows() };
        // Blocks of no elements are none.
        if matches!(scheme.scope, Scope::Row | Scope::Tensor) {
            for r in 0..rows {
                // SAFETY: there is such a row, or one scale of all rows.
                unsafe { places.after(&scheme, r, 0).set(&scheme, Range::EMPTY) };
            }
        }
    }

    /// Whether all rows share a scale, which comes of them.
    pub fn needs_range(&self) -> bool {
        self.scheme.scope == Scope::Tensor
    }
}

/// The pointers and the scheme of a run.
struct Run<'r, T: Storage> {
    isa: Isa,
    scheme: &'r Scheme,
    places: Places,
    known: Option<Range>,
    loops: &'r Loops<T>,
}

/// Rows of `cols` elements in the room, for loops and for kernels.
fn in_room<T: Storage>(room: &mut Room<ROOM>, rows: usize, cols: usize) -> (RawRows<T>, Wide) {
    let p = room.as_mut_ptr();
    (RawRows { p: p.cast(), stride: cols, kind: wide_kind::<T>() }, Wide { p, stride: cols, rows, cols })
}

/// The rows that are normalized before they are quantized. They fit into the room.
fn together(cols: usize) -> usize {
    (TOGETHER / cols).max(1)
}

/// `ONE_BY_ONE_COLS` is the least number of columns of rows that are quantized one by one. Shorter rows go through
/// loops that take several at a time.
const ONE_BY_ONE_COLS: usize = 256;

/// y, if it is wanted in f32: then it is quantized from where it lies.
fn wide_y<T: Storage>(rows: &RowIo<'_, T>) -> Option<Wide> {
    let y = rows.y();
    (rows.has_y() && y.kind == wide_kind::<T>()).then_some(Wide {
        p: y.p.cast(),
        stride: y.stride,
        rows: rows.rows(),
        cols: rows.cols(),
    })
}

/// Rounds `wide` to y, if y is wanted in 16 bits.
///
/// # Safety
/// - Both have these rows.
unsafe fn round<T: Storage>(isa: Isa, y: RawRows<T>, wide: &Wide) {
    let &Wide { p, stride, rows, cols } = wide;
    let from = RawRows { p: p.cast_mut().cast(), stride, kind: wide_kind::<T>() };
    // SAFETY: the caller's duty.
    unsafe { mixed::write(isa, y, from, rows, cols) };
}

impl<T: Storage<Float = f32>> Run<'_, T> {
    fn short(&self, job: &mut Jobs<'_, T>) {
        let is_mixed = mixed::is_mixed(&job.rows, &job.epilogues);
        if is_mixed || job.rows.cols() < ONE_BY_ONE_COLS { self.some_by_some(job) } else { self.one_by_one(job) }
    }

    /// Rows that are quantized as soon as each has been normalized.
    #[inline(never)]
    fn one_by_one(&self, job: &mut Jobs<'_, T>) {
        let &Self { isa, scheme, places, known, loops } = self;
        let mut room = Room::NEW;
        let (rows, cols, y) = (job.rows.rows(), job.rows.cols(), job.rows.y());
        let wanted = wide_y(&job.rows);
        let rounded = (job.rows.has_y() && wanted.is_none()).then_some(Rounded {
            p: y.p.cast(),
            stride: y.stride,
            is_f16: y.kind.dtype::<T>() == Dtype::F16,
        });
        let (staged, wide) = in_room(&mut room, rows, cols);
        let (y, wide) = match wanted {
            Some(wide) => (y, wide),
            // All rows follow one another in the room.
            None => (RawRows { stride: 0, ..staged }, Wide { stride: 0, ..wide }),
        };
        let below = job.rows_below();
        let quantizer = Quantizer { scheme, places, known, y: wide, rounded, below };
        let mut all = job.part(0, rows).quantized_by(&quantizer);
        // SAFETY: these are y, or there is room for one row, which is done with before the next is written.
        all.rows = unsafe { all.rows.with_y(y) };
        loops.run(&mut all, isa);
    }

    /// As many rows at a time as the room has place for.
    #[inline(never)]
    fn some_by_some(&self, job: &mut Jobs<'_, T>) {
        let &Self { isa, scheme, places, known, loops } = self;
        let mut room = Room::NEW;
        let (rows, cols) = (job.rows.rows(), job.rows.cols());
        for at in (0..rows).step_by(together(cols)) {
            let n = together(cols).min(rows - at);
            let mut part: Jobs<'_, T> = job.part(at, n);
            let (has_y, y) = (part.rows.has_y(), part.rows.y());
            let wanted = wide_y(&part.rows);
            let wide = match wanted {
                Some(wide) => wide,
                None => {
                    let (staged, wide) = in_room(&mut room, n, cols);
                    // SAFETY: the room has these rows, and nothing else uses it until they have been run.
                    part.rows = unsafe { part.rows.with_y(staged) };
                    wide
                }
            };
            mixed::run_any(&mut part, isa, loops);
            // SAFETY: the rows from `at` on are there, and have been normalized.
            unsafe {
                let places = places.after(scheme, at, cols);
                isa.run(Rows { scheme, y: wide, places, known, ahead: Ahead::NOTHING });
                if has_y && wanted.is_none() {
                    round(isa, y, &wide);
                }
            }
        }
    }

    fn long(&self, job: &mut Jobs<'_, T>) {
        let &Self { isa, scheme, places, known, loops } = self;
        let (rows, cols) = (job.rows.rows(), job.rows.cols());
        for r in 0..rows {
            let mut row = LongRow::new(job, isa, loops, r);
            // SAFETY: there is such a row.
            let places = unsafe { places.after(scheme, r, cols) };
            if let Some(wide) = row.normalize_to_y() {
                isa.run(Rows { scheme, y: wide, places, known, ahead: Ahead::NOTHING });
                continue;
            }
            let in_blocks = matches!(scheme.scope, Scope::Block(_));
            let range = match (known, scheme.scope) {
                (Some(range), _) => range,
                (None, Scope::Row) => row.range(),
                _ => Range::EMPTY,
            };
            // SAFETY: there is such a row. Blocks have scales of their own.
            let scale = if in_blocks { (0.0, 0) } else { unsafe { places.set(scheme, range) } };
            row.pieces(if in_blocks { scheme.block(cols) } else { 1 }, |from, wide, y| {
                let &Wide { p, cols, .. } = wide;
                // SAFETY: the piece lies in the row, and blocks divide the columns before it and its own.
                unsafe {
                    if in_blocks {
                        let q = places.q.add(scheme.row_bytes(from));
                        let scale = places.scale.add(scheme.scales(1, from));
                        let places = Places { q, scale, ..places };
                        isa.run(Rows { scheme, y: *wide, places, known, ahead: Ahead::NOTHING });
                    } else {
                        let q = places.q.add(from);
                        isa.run(Elements { scheme, y: p, q, len: cols, scale, range, ahead: Ahead::NOTHING });
                    }
                    if let Some(y) = y {
                        round(isa, y, wide);
                    }
                }
            });
        }
    }
}

/// The range of rows that fit into the room.
#[inline(never)]
fn range_of_short<T: Storage<Float = f32>>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) -> Range {
    let (mut room, mut range) = (Room::NEW, Range::EMPTY);
    let (rows, cols) = (job.rows.rows(), job.rows.cols());
    for at in (0..rows).step_by(together(cols)) {
        let n = together(cols).min(rows - at);
        let mut part: Jobs<'_, T> = job.part(at, n);
        let (staged, wide) = in_room(&mut room, n, cols);
        // SAFETY: the room has these rows, and nothing else uses it until they have been run.
        part.rows = unsafe { part.rows.with_y(staged) };
        mixed::run_any(&mut part, isa, loops);
        range = range.join(isa.run(RangeOf(&wide)));
    }
    range
}

fn range_of_long<T: Storage<Float = f32>>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) -> Range {
    let mut range = Range::EMPTY;
    for r in 0..job.rows.rows() {
        range = range.join(LongRow::new(job, isa, loops, r).range());
    }
    range
}

/// A row that is longer than the room, whose statistics are known.
struct LongRow<'r, 'a, T: Storage> {
    isa: Isa,
    centered: bool,
    row: RowIo<'a, T>,
    params: Params<'a, T>,
    known: Known<f32>,
    loops: &'r Loops<T>,
}

impl<'r, 'a, T: Storage<Float = f32>> LongRow<'r, 'a, T> {
    /// Row `r` of a job. Its sum is taken, and its statistics, which are written.
    fn new(job: &'a mut Jobs<'_, T>, isa: Isa, loops: &'r Loops<T>, r: usize) -> Self {
        let known = mixed::know_row(job, isa, loops, r);
        let (centered, params) = (job.centered, job.epilogues.of_row(r, job.rows.cols()));
        Self { isa, centered, row: job.rows.part(r, 1).summed(), params, known, loops }
    }

    /// Normalizes the row into y, if it is wanted in f32.
    fn normalize_to_y(&mut self) -> Option<Wide> {
        let wide = wide_y(&self.row)?;
        let &mut Self { isa, centered, ref mut row, params, ref known, loops } = self;
        mixed::finish(isa, centered, row.part(0, 1), params, false, known, Some(loops));
        Some(wide)
    }

    /// The range of the row.
    fn range(&mut self) -> Range {
        let (isa, mut range) = (self.isa, Range::EMPTY);
        self.pieces(1, |_, wide, _| range = range.join(isa.run(RangeOf(wide))));
        range
    }

    /// Normalizes the row piece by piece, in the room. A piece has a multiple of `block` elements, as the row has.
    /// `done` is given the first column of each piece, the piece, and where y is, if it is wanted in 16 bits.
    #[inline(never)]
    fn pieces(&mut self, block: usize, mut done: impl FnMut(usize, &Wide, Option<RawRows<T>>)) {
        let &mut Self { isa, centered, ref mut row, mut params, ref known, loops } = self;
        let (mut room, mut row, mut from) = (Room::NEW, row.part(0, 1), 0);
        while row.cols() > 0 {
            let all = row.cols();
            let (piece, rest) = row.split_at_col(ROOM / block * block);
            let cols = piece.cols();
            let (given, params_rest) = params.split_at_col(cols, all);
            (row, params) = (rest, params_rest);
            let y = piece.has_y().then(|| piece.y());
            let (staged, wide) = in_room(&mut room, 1, cols);
            // SAFETY: the room has this piece, and nothing else uses it until it has been quantized.
            let piece = unsafe { piece.with_y(staged) };
            mixed::finish(isa, centered, piece, given, false, known, Some(loops));
            done(from, &wide, y);
            from += cols;
        }
    }
}
