//! Normalization over channels that come first, and its gradients: rows whose elements are `pixels` elements apart, as
//! in a tensor of [samples, channels, pixels].
//!
//! Tiles of pixels are turned into rows in a room that the caches keep, run as such, and turned back. Forward in f32,
//! pixels are lanes instead. Either way a row has the bits that it has where its elements lie side by side.

use core::marker::PhantomData;
use core::slice;

use super::backward::{Backward, LEAF_ROWS, Parts, RunBackward, Stats, assert_len, assert_len_at_least};
use super::forward::{Forward, RunForward};
use crate::element::Storage;
use crate::error::Error;
use crate::isa::{Isa, Tier};
use crate::loops::{ChunkSums, FEWEST_PIXELS, MOST_PIXELS, PixelNorm, PixelTile, Tile};
use crate::mean::Center;
use crate::rows::{GradRows, Groups, LINE, Params, RowIo};
use crate::simd::Float;
use crate::stats::{CHUNK, RowNorm, StatsMut};

/// The bytes of a tile, unless the fewest rows have more.
const TILE_BYTES: usize = 24 << 10;

/// The rows of a tile: some leaves, and of 16 bits a register at least.
fn tile_rows<T>(cols: usize) -> usize {
    let least = if size_of::<T>() == size_of::<u16>() { 2 * LEAF_ROWS } else { LEAF_ROWS };
    let fit = TILE_BYTES / size_of::<T>() / cols.max(1);
    (fit - fit % LEAF_ROWS).clamp(least, 4 * LEAF_ROWS)
}

/// Where the rows of [samples, channels, pixels] are: a row for each pixel of each sample.
#[derive(Clone, Copy, Debug)]
struct Shape {
    cols: usize,
    pixels: usize,
    /// The rows before these.
    first: usize,
    rows: usize,
}

impl Shape {
    /// # Errors
    /// If `len` elements are no whole number of samples, or if the elements of a sample overflow.
    fn new(what: &'static str, len: usize, cols: usize, pixels: usize) -> Result<Self, Error> {
        if len == 0 {
            return Ok(Self { cols, pixels, first: 0, rows: 0 });
        }
        let sample = cols.checked_mul(pixels).ok_or(Error::Overflow { what, rows: pixels, stride: cols })?;
        if sample == 0 {
            Error::length(what, len, 0)?;
        } else if !len.is_multiple_of(sample) {
            return Err(Error::Samples { what, len, cols, pixels });
        }
        Ok(Self { cols, pixels, first: 0, rows: if sample == 0 { 0 } else { len / cols } })
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        (Self { rows: row, ..self }, Self { first: self.first + row, rows: self.rows - row, ..self })
    }

    /// Fills `room` with the `n` rows of `tensor` from row `r` of these on if it `gathers`, or writes them there.
    ///
    /// # Safety
    /// - There are these rows, in both.
    unsafe fn move_rows<T: Storage>(
        &self,
        isa: Isa,
        tensor: *mut T,
        room: *mut T,
        (r, n): (usize, usize),
        gathers: bool,
    ) {
        let &Self { cols, pixels, first, .. } = self;
        let mut done = 0;
        while done < n {
            let row = first + r + done;
            let (sample, pixel) = (row / pixels, row % pixels);
            let rows = (pixels - pixel).min(n - done);
            let tensor = tensor.wrapping_add(sample * cols * pixels + pixel);
            let room = room.wrapping_add(done * cols);
            Tile { tensor, pixels, room, stride: cols, rows, cols, gathers }.move_on(isa);
            done += rows;
        }
    }
}

/// The job of normalizing over channels that come first.
#[derive(Debug)]
pub struct ChannelsFirst<'a, T: Storage, M: Center> {
    x: *const T,
    y: *mut T,
    shape: Shape,
    params: Params<'a, T>,
    eps: f64,
    stats: StatsMut<'a, T::Float>,
    center: PhantomData<(M, &'a mut [T])>,
}

// SAFETY: ChannelsFirst stands for slices and mutable slices, and parts write different elements.
unsafe impl<T: Storage, M: Center> Send for ChannelsFirst<'_, T, M> {}

impl<'a, T: Storage, M: Center> ChannelsFirst<'a, T, M> {
    /// The job for x and y of [samples, `cols` channels, `pixels`]. Statistics have an element for each pixel of each
    /// sample. The groups of `params` are not looked at.
    ///
    /// # Errors
    /// If
    /// - x has no whole number of samples, or y has not as many elements,
    /// - gamma or beta does not have an element for each channel, or they are of two types,
    /// - a statistic does not have an element for each pixel of each sample, or
    /// - eps is negative, infinite, NaN, or does not fit the divisor.
    pub fn new(
        x: &'a [T],
        y: &'a mut [T],
        (cols, pixels): (usize, usize),
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        Error::length("y", y.len(), x.len())?;
        Self::checked(x.as_ptr(), y.as_mut_ptr(), Shape::new("x", x.len(), cols, pixels)?, params, eps, stats)
    }

    /// The same with y over x.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_place(
        x: &'a mut [T],
        (cols, pixels): (usize, usize),
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        let (p, shape) = (x.as_mut_ptr(), Shape::new("x", x.len(), cols, pixels)?);
        Self::checked(p.cast_const(), p, shape, params, eps, stats)
    }

    fn checked(
        x: *const T,
        y: *mut T,
        shape: Shape,
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        let params = Params { groups: Groups::ONE, ..params };
        params.fit(shape.rows, shape.cols)?;
        stats.fit(shape.rows)?;
        params.root(M::CENTERED, eps)?;
        Ok(Self { x, y, shape, params, eps, stats, center: PhantomData })
    }

    /// The number of rows: a row for each pixel of each sample.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// The job for the first `row` rows, and the job for the rest. If there are fewer rows, the first job has them all.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.shape.split_at(row);
        let (stats, stats_b) = self.stats.split_at(a.rows);
        (Self { shape: a, stats, ..self }, Self { shape: b, stats: stats_b, ..self })
    }

    /// The elements of memory that a thread takes to work. `None` on overflow.
    pub fn work_len(cols: usize) -> Option<usize> {
        let of_tiles = (tile_rows::<T>(cols) + LEAF_ROWS).checked_mul(cols)?;
        if !T::MIXES {
            return Some(of_tiles);
        }
        // Beside the operands, the sums of chunks, or a few rows.
        let of_pixels = sums_len(cols).max(cols.checked_mul(FEWEST_PIXELS)?);
        Some(of_tiles.max(of_pixels.checked_add(2 * cols)?))
    }

    /// Runs the job, unless it has no rows, by `run` for the jobs that it is made of.
    // Not inlined: see `in_default_environment`.
    #[inline(never)]
    pub(crate) fn run_here(&mut self, isa: Isa, run: RunForward<T, M>, work: &mut [T]) {
        let &mut Self { x, y, shape, params, eps, .. } = self;
        let Shape { cols, rows, .. } = shape;
        if rows == 0 {
            return;
        }
        assert_len_at_least("work", work.len(), Self::work_len(cols));
        let tile = tile_rows::<T>(cols);
        let (by_pixels, pixels) = (self.goes_by_pixels(isa), tile_pixels(cols));
        let (operands, work) = work.split_at_mut(if by_pixels { 2 * cols } else { 0 });
        if by_pixels {
            self.write_operands(operands);
        }
        // The rows before this one are turned.
        let (mut r, mut slow_to) = (0, 0);
        while r < rows {
            let left = (shape.pixels - (shape.first + r) % shape.pixels).min(rows - r);
            let n = if by_pixels {
                if r >= slow_to {
                    // Fewer rows than a tile has go with those before them.
                    let n = match left {
                        _ if left >= pixels + FEWEST_PIXELS => pixels,
                        _ if left <= MOST_PIXELS => left,
                        _ => pixels - FEWEST_PIXELS,
                    };
                    if n >= FEWEST_PIXELS && self.run_pixels(isa, (r, n), operands, work) {
                        r += n;
                        continue;
                    }
                    slow_to = r + n;
                }
                FEWEST_PIXELS.min(slow_to - r)
            } else if left < tile + LEAF_ROWS {
                // Few pixels at the end of a sample go with those before them.
                left
            } else {
                tile
            };
            // SAFETY: there are these rows, and this job alone has them.
            unsafe { shape.move_rows(isa, x.cast_mut(), work.as_mut_ptr(), (r, n), true) };
            let io = RowIo::in_place(&mut work[..n * cols], cols, n, cols);
            match io.and_then(|io| Forward::<T, M>::checked(io, params, eps, false, self.stats.part(r, n))) {
                Ok(mut job) => run(&mut job, isa),
                Err(error) => unreachable!("the lengths have been checked: {error}"),
            }
            // SAFETY: as above.
            unsafe { shape.move_rows(isa, y, work.as_mut_ptr(), (r, n), false) };
            r += n;
        }
    }
}

/// The bytes of a tile whose pixels are lanes, unless the fewest have more. A cache keeps them for the second touch.
const PIXELS_BYTES: usize = 256 << 10;

/// The pixels of a tile whose pixels are lanes.
fn tile_pixels(cols: usize) -> usize {
    let fit = PIXELS_BYTES / size_of::<f32>() / cols.max(1);
    (fit - fit % FEWEST_PIXELS).clamp(FEWEST_PIXELS, MOST_PIXELS)
}

/// The elements of f32 that the sums of `cols` columns take.
fn sums_len(cols: usize) -> usize {
    cols.div_ceil(CHUNK) * size_of::<ChunkSums>() / size_of::<f32>()
}

impl<T: Storage, M: Center> ChannelsFirst<'_, T, M> {
    /// Whether pixels are lanes: of f32 beside a gamma and beta of f32, which can make no NaNs.
    fn goes_by_pixels(&self, isa: Isa) -> bool {
        let Self { params, .. } = self;
        T::MIXES && isa.tier() != Tier::Scalar && !params.are_narrow() && params.are_finite()
    }

    /// Writes gamma plus offset, and then beta, of each column.
    fn write_operands(&self, operands: &mut [T]) {
        let (cols, params) = (self.shape.cols, self.params.with_harmless_offset());
        let (factors, addends) = bytemuck::cast_slice_mut::<T, T::Float>(operands).split_at_mut(cols);
        factors.fill(T::Float::from_f32(1.0));
        addends.fill(-T::Float::default());
        if let Some(gamma) = params.gamma {
            gamma.copy_to(0, factors);
            factors.iter_mut().for_each(|factor| *factor = *factor + params.offset);
        }
        if let Some(beta) = params.beta {
            beta.copy_to(0, addends);
        }
    }

    /// Normalizes the `n` rows from row `r` on, which are of one sample, in lanes. Returns false, and has written
    /// nothing, if one of them needs the slow path.
    fn run_pixels(&mut self, isa: Isa, (r, n): (usize, usize), operands: &[T], work: &mut [T]) -> bool {
        let &mut Self { x, y, shape: Shape { cols, pixels, first, .. }, params, eps, .. } = self;
        let Ok(root) = params.root(M::CENTERED, eps) else { unreachable!("eps has been checked") };
        let (factors, addends) = bytemuck::cast_slice(operands).split_at(cols);
        let sums = bytemuck::cast_slice_mut(&mut work[..sums_len(cols)]);
        let (sample, pixel) = ((first + r) / pixels, (first + r) % pixels);
        let at = sample * cols * pixels + pixel;
        let mut norm = PixelNorm::NOTHING;
        let (x, y) = (x.wrapping_add(at).cast(), y.wrapping_add(at).cast());
        let tile = PixelTile {
            x,
            y,
            stride: pixels,
            rows: n,
            root,
            centered: M::CENTERED,
            factors,
            addends,
            sums,
            norm: &mut norm,
        };
        if isa.run_simd(tile) != Some(true) {
            return false;
        }
        if !self.stats.are_wanted() {
            return true;
        }
        for k in 0..n {
            let RowNorm { mean, mean_lo, rstd } = norm.of_row(k, n);
            let [mean, mean_lo, rstd] = [mean, mean_lo, rstd].map(T::Float::from_f32);
            self.stats.set(r + k, &RowNorm { mean, mean_lo, rstd });
        }
        true
    }
}

/// The job of taking the gradients of normalization over channels that come first: of some parts of all rows. See
/// [`Parts`].
#[derive(Debug)]
pub struct ChannelsBackward<'a, T: Storage, M: Center> {
    dy: *const T,
    x: *const T,
    dx: Option<*mut T>,
    shape: Shape,
    stats: Stats<'a, T::Float>,
    params: Params<'a, T>,
    eps: f64,
    sums: bool,
    parts: Parts,
    center: PhantomData<(M, &'a mut [T])>,
}

// SAFETY: as for ChannelsFirst.
unsafe impl<T: Storage, M: Center> Send for ChannelsBackward<'_, T, M> {}

impl<'a, T: Storage, M: Center> ChannelsBackward<'a, T, M> {
    /// The job for dy, x and, if wanted, dx of [samples, `cols` channels, `pixels`]. All rows make parts of their own:
    /// [`Parts::new`] of their number.
    ///
    /// # Errors
    /// For the reasons of [`Backward::new`] and of [`ChannelsFirst::new`].
    pub fn new(
        (dy, x, dx): (&'a [T], &'a [T], Option<&'a mut [T]>),
        (cols, pixels): (usize, usize),
        stats: Stats<'a, T::Float>,
        params: Params<'a, T>,
        eps: f64,
        sums: bool,
    ) -> Result<Self, Error> {
        Error::length("dx", dx.as_ref().map_or(dy.len(), |dx| dx.len()), dy.len())?;
        Self::checked(
            (dy.as_ptr(), dy.len()),
            x,
            dx.map(|dx| dx.as_mut_ptr()),
            (cols, pixels),
            stats,
            params,
            eps,
            sums,
        )
    }

    /// The same with dx over dy.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_place(
        (dy, x): (&'a mut [T], &'a [T]),
        size: (usize, usize),
        stats: Stats<'a, T::Float>,
        params: Params<'a, T>,
        eps: f64,
        sums: bool,
    ) -> Result<Self, Error> {
        let (p, len) = (dy.as_mut_ptr(), dy.len());
        Self::checked((p.cast_const(), len), x, Some(p), size, stats, params, eps, sums)
    }

    #[expect(clippy::too_many_arguments, reason = "those of both constructors")]
    fn checked(
        (dy, len): (*const T, usize),
        x: &'a [T],
        dx: Option<*mut T>,
        (cols, pixels): (usize, usize),
        stats: Stats<'a, T::Float>,
        params: Params<'a, T>,
        eps: f64,
        sums: bool,
    ) -> Result<Self, Error> {
        let shape = Shape::new("dy", len, cols, pixels)?;
        Error::length("x", x.len(), len)?;
        Error::length("gamma", params.gamma.map_or(cols, |gamma| gamma.len()), cols)?;
        stats.fit(shape.rows, M::CENTERED)?;
        if dx.is_none() && !sums {
            return Err(Error::NoGradient);
        }
        params.root(M::CENTERED, eps)?;
        let parts = Parts::new(shape.rows, cols);
        Ok(Self { dy, x: x.as_ptr(), dx, shape, stats, params, eps, sums, parts, center: PhantomData })
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        self.shape.rows.div_ceil(self.parts.part_rows())
    }

    /// The job for the first `parts` parts, and the job for the rest. If there are fewer parts, the first job has them
    /// all.
    pub fn split_at_part(self, parts: usize) -> (Self, Self) {
        let (a, b) = self.shape.split_at(parts.saturating_mul(self.parts.part_rows()));
        (Self { shape: a, ..self }, Self { shape: b, ..self })
    }

    /// Runs the job, unless it has no rows, by `run` for the jobs that it is made of.
    // Not inlined: see `in_default_environment`.
    #[inline(never)]
    pub(crate) fn run_here(
        &mut self,
        isa: Isa,
        run: RunBackward<T, M>,
        partials: &mut [T::Float],
        work: &mut [T::Float],
    ) {
        let &mut Self { dy, x, dx, shape, params, eps, sums, parts, .. } = self;
        let Shape { cols, rows, first, .. } = shape;
        if rows == 0 {
            return;
        }
        let len = parts.partial_len::<T>(M::CENTERED);
        if sums {
            assert_len("partials", partials.len(), len.and_then(|len| len.checked_mul(self.parts())));
        }
        assert_len_at_least("work", work.len(), parts.channels_work_len::<T>(M::CENTERED));
        let (len, of_backward) = (len.unwrap_or(0), parts.work_len::<T>(M::CENTERED).unwrap_or(0));
        let (work, rooms) = work.split_at_mut(of_backward);
        let tile = tile_rows::<T>(cols);
        // The elements of the rows are no larger than their float, and any of their bits are elements.
        let room_of_x: *mut T = rooms.as_mut_ptr().cast();
        let room_of_dy = room_of_x.wrapping_add(tile * cols);
        let mut r = 0;
        while r < rows {
            let of_part = r % parts.part_rows();
            let n = tile.min(rows - r).min(parts.part_rows() - of_part);
            // SAFETY: there are these rows, and this job alone has those of dx. The rooms have place for a tile each.
            let (x_rows, dy_rows) = unsafe {
                shape.move_rows(isa, x.cast_mut(), room_of_x, (r, n), true);
                shape.move_rows(isa, dy.cast_mut(), room_of_dy, (r, n), true);
                (slice::from_raw_parts(room_of_x, n * cols), slice::from_raw_parts_mut(room_of_dy, n * cols))
            };
            let of_rows = |s: Option<&'a [T::Float]>| s.map(|s| &s[first + r..][..n]);
            let Stats { mean, mean_lo, rstd } = self.stats;
            let stats = Stats { mean: of_rows(mean), mean_lo: of_rows(mean_lo), rstd: of_rows(rstd) };
            let grad_rows = if dx.is_some() {
                GradRows::in_place((dy_rows, cols), (x_rows, cols), n, cols)
            } else {
                GradRows::new((dy_rows, cols), (x_rows, cols), n, cols)
            };
            let is_open = r + n < rows && !(r + n).is_multiple_of(parts.part_rows());
            let partial = if sums { &mut partials[r / parts.part_rows() * len..][..len] } else { &mut [] };
            match grad_rows.and_then(|rows| Backward::<T, M>::new(rows, stats, params, eps, sums, false)) {
                Ok(job) => run(&mut job.within(&parts, of_part, is_open), partial, work, isa),
                Err(error) => unreachable!("the lengths have been checked: {error}"),
            }
            if let Some(dx) = dx {
                // SAFETY: as above.
                unsafe { shape.move_rows(isa, dx, room_of_dy, (r, n), false) };
            }
            r += n;
        }
    }
}

impl Parts {
    /// The elements of memory that a thread takes to work on the gradients of rows whose channels come first. `None` on
    /// overflow.
    pub fn channels_work_len<T: Storage>(&self, centered: bool) -> Option<usize> {
        let tiles = (2 * tile_rows::<T>(self.cols)).checked_mul(self.cols)?;
        self.work_len::<T>(centered)?.checked_add(tiles.checked_next_multiple_of(LINE / size_of::<T::Float>())?)
    }
}
