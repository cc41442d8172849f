//! Rows of 16 bits that are normalized as they are before they are rounded, or by the statistics that they have then:
//! sums (see [`Sums`]), and rows behind a gate.
//!
//! A piece of a row is made in f32, in a room that an L1 cache keeps. Where a row has several pieces, this is done
//! twice: for the moments of the row, and again to normalize it. Nothing of a row is written before its moments are
//! known, since a sum may lie over what it is made of.

use core::slice::from_raw_parts;

use super::mixed::{self, Jobs, Room};
use super::moments::RowMoments;
use crate::element::{Kind, Storage};
use crate::isa::Isa;
use crate::loops::{Columns, Epilogues, Known, NormalizeRow, WideRow, finish_exactly, unit_norm, wide_norm};
use crate::mean::Center;
use crate::rounding::Sums;
use crate::rows::{Convert, Params, RawRows, RowIo, Source, Target, Vector};
use crate::stats::{CHUNK, Moments, RowNorm, exact, scale_for};
use crate::table::Dtype;

/// Whether a job normalizes sums that are not rounded, or takes the statistics of these.
#[inline(always)]
pub(super) fn are_unrounded<T: Storage>(job: &Jobs<'_, T>) -> bool {
    T::ROUNDS && job.rows.is_sum() && job.epilogues.rounding.sums != Sums::Rounded
}

/// The elements of a row that are kept in f32.
pub(super) const PIECE: usize = 4 * CHUNK;

/// What rows are made of, in f32.
pub(super) trait Rows<T: Storage> {
    /// Makes the elements of row `r` in the columns from `at` on that the room has place for.
    fn make(&self, job: &Jobs<'_, T>, r: usize, at: usize, room: &mut Room<PIECE>);

    /// Writes what is to be kept of them beside y, once the moments of the row are known.
    fn keep(&self, _job: &Jobs<'_, T>, _r: usize, _at: usize, _room: &mut Room<PIECE>) {}
}

/// The number of columns from `at` on that a room has place for.
pub(super) fn piece_len<T: Storage>(job: &Jobs<'_, T>, at: usize) -> usize {
    PIECE.min(job.rows.cols() - at)
}

/// Sums, which are kept rounded.
struct SumsOfRows(Isa);

impl<T: Storage> Rows<T> for SumsOfRows {
    fn make(&self, job: &Jobs<'_, T>, r: usize, at: usize, room: &mut Room<PIECE>) {
        // SAFETY: there is such a row, and the room has place for these elements.
        let sums = unsafe { job.rows.input(r, job.bias, false).wide_sums(at, piece_len(job, at), room.as_mut_ptr()) };
        if let Some(sums) = sums {
            self.0.run(sums);
        }
    }

    fn keep(&self, job: &Jobs<'_, T>, r: usize, at: usize, room: &mut Room<PIECE>) {
        // SAFETY: there is such a row, and sums may be written. The room has these elements.
        unsafe {
            let sums = job.rows.source(r).after(at).as_ptr().cast_mut();
            self.0.run(Convert::<T>::of(sums, room.as_mut_ptr(), piece_len(job, at), false));
        }
    }
}

/// The loops of one kind of rows, by pointers, so that this is compiled once for both kinds.
pub(super) struct Loops<T: Storage> {
    moments: fn(RowMoments<'_, f32>, Isa) -> Moments,
    rows: mixed::Loops<T>,
}

impl<T: Storage> Loops<T> {
    pub(super) const fn of_all<L: Center>() -> Self {
        Self { moments: |row, isa| row.run_here::<L>(isa), rows: mixed::Loops::of::<L>() }
    }

    /// The loops for sums. Types that do not round have no sums that are rounded, and are not to have the code for
    /// them.
    pub(super) const fn of_sums<L: Center>() -> Option<Self> {
        if T::ROUNDS { Some(Self::of_all::<L>()) } else { None }
    }

    pub(super) fn of_rows(&self) -> &mixed::Loops<T> {
        &self.rows
    }
}

/// Runs a job of sums that [are not rounded](are_unrounded), which has rows and columns.
#[cold]
#[inline(never)]
pub(super) fn run<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) {
    let sums = SumsOfRows(isa);
    if job.epilogues.rounding.sums == Sums::Unrounded {
        return run_rows(job, isa, loops, &sums);
    }
    let mut room = Room::NEW;
    for r in 0..job.rows.rows() {
        let known = know_row(job, isa, loops, &sums, r, &mut room);
        mixed::take_sums(isa, job.rows.part(r, 1), job.bias);
        finish_rounded(job, isa, loops, r, known);
    }
    job.canonicalize_nans();
}

/// Normalizes what rows are made of in f32, for a job that has rows and columns.
#[inline(never)]
pub(super) fn run_rows<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>, wide: &dyn Rows<T>) {
    let mut room = Room::NEW;
    for r in 0..job.rows.rows() {
        let known = know_row(job, isa, loops, wide, r, &mut room);
        finish_unrounded(job, isa, loops, wide, r, &known, &mut room);
    }
    if !T::MIXES {
        job.canonicalize_nans();
    }
}

/// The statistics of row `r`, which are written: of what it is made of in f32. The last piece is left in the room.
fn know_row<T: Storage>(
    job: &mut Jobs<'_, T>,
    isa: Isa,
    loops: &Loops<T>,
    wide: &dyn Rows<T>,
    r: usize,
    room: &mut Room<PIECE>,
) -> Known<T::Float> {
    let (cols, centered) = (job.rows.cols(), job.centered);
    let mut moments_at = |job: &Jobs<'_, T>, scale: Option<f64>| {
        Moments::merge_parts((0..cols).step_by(PIECE).map(|at| {
            wide.make(job, r, at, room);
            // SAFETY: these elements have been made.
            let x = unsafe { from_raw_parts(room.as_mut_ptr(), piece_len(job, at)) };
            let row = RowMoments { x, centered, scale: None };
            match scale {
                None => (loops.moments)(row, isa),
                Some(scale) => row.run_exactly(isa, scale),
            }
        }))
    };
    let moments = moments_at(job, None);
    if let Some(norm) = RowNorm::trusted(pulp::Scalar, &moments, &job.root) {
        job.stats.set(r, &norm);
        return Known::Norm(norm);
    }
    let v = job.root.at_least(job.root.above(moments.m2, moments.count));
    let exact = moments_at(job, Some(scale_for::<T::Float>(v, moments.mean())));
    if v == 0.0 && is_constant(job, wide, r, room) {
        let norm = RowNorm::new(moments.mean(), 0.0, f64::INFINITY);
        job.stats.set(r, &norm);
        return Known::Norm(RowNorm { rstd: T::Float::default(), ..norm });
    }
    Known::Exact(wide_norm(job, r, &exact))
}

/// Whether xhat is 0 everywhere in row `r`.
fn is_constant<T: Storage>(job: &Jobs<'_, T>, wide: &dyn Rows<T>, r: usize, room: &mut Room<PIECE>) -> bool {
    let mut first = None;
    (0..job.rows.cols()).step_by(PIECE).all(|at| {
        wide.make(job, r, at, room);
        // SAFETY: these elements have been made, and are not none.
        unsafe {
            let x = from_raw_parts(room.as_mut_ptr(), piece_len(job, at));
            let first = *first.get_or_insert(x[0]);
            first == x[0] && exact::is_constant(Source::from(x), x.len(), job.centered)
        }
    })
}

/// Normalizes row `r`, whose sums have been rounded.
fn finish_rounded<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>, r: usize, known: Known<T::Float>) {
    match known {
        Known::Norm(norm) => {
            let (centered, streaming) = (job.centered, job.streaming);
            let epilogues = job.epilogues.of_row(r, job.rows.cols());
            let row = job.rows.part(r, 1).summed();
            loops.rows.run_columns(&mut Columns { centered, row, epilogues, norm, streaming }, isa);
        }
        Known::Exact(norm) => {
            // SAFETY: there is such a row.
            unsafe { job.rows.canonicalize_sum(r) };
            finish_exactly(job, r, norm);
            // Other elements than those of the statistics can be infinite, and so can xhat.
            let epilogues = job.epilogues.of_row(r, job.rows.cols());
            // SAFETY: as above.
            unsafe { epilogues.canonicalize(&mut job.rows, r) };
        }
    }
}

/// Normalizes row `r`, of which is kept meanwhile what is to be kept.
fn finish_unrounded<T: Storage>(
    job: &mut Jobs<'_, T>,
    isa: Isa,
    loops: &Loops<T>,
    wide: &dyn Rows<T>,
    r: usize,
    known: &Known<T::Float>,
    room: &mut Room<PIECE>,
) {
    let (cols, centered) = (job.rows.cols(), job.centered);
    let mut params = job.epilogues.of_row(r, cols);
    for at in (0..cols).step_by(PIECE) {
        // A row of one piece is there still.
        if cols > PIECE {
            wide.make(job, r, at, room);
        }
        wide.keep(job, r, at, room);
        let (n, x) = (piece_len(job, at), room.as_mut_ptr());
        let (given, rest) = params.split_at_col(n, cols - at);
        params = rest;
        let row = job.rows.part(r, 1).summed();
        let mut piece = row.split_at_col(at).1.split_at_col(n).0;
        if T::MIXES {
            // SAFETY: the room has this piece, in the type of the rows, and nothing else uses it meanwhile.
            let piece = unsafe { piece.with_x(x.cast()) };
            mixed::finish(isa, centered, piece, given, false, known, Some(&loops.rows));
            continue;
        }
        let norm = match *known {
            Known::Norm(norm) => norm,
            Known::Exact(None) => continue,
            Known::Exact(Some(norm)) if given.rounding.steps => {
                let plain = Params::<'_, f32>::default().with_harmless_offset();
                isa.run(&NormalizeRow::new(Source::of(x), Target::of(x), n, norm, &plain));
                unit_norm()
            }
            Known::Exact(Some(norm)) => {
                let row = beside_f32(x, &piece, given);
                mixed::finish(isa, centered, row.0, row.1, false, &Known::Exact(Some(norm)), None);
                continue;
            }
        };
        // SAFETY: the piece has a row of `n` elements, and so has the room.
        unsafe {
            let epilogue = given.only_row(&mut piece, 0, false);
            isa.run(WideRow { x, cols: n, centered, norm, epilogue });
        }
    }
    if let (false, Known::Exact(None)) = (T::MIXES, known) {
        // SAFETY: there is such a row.
        unsafe {
            job.rows.canonicalize_sum(r);
            job.epilogues.finish_nan(&mut job.rows, r);
        }
    }
}

/// A row of f32 at `x`, with the y of a row of 16 bits, and with gamma and beta of that row.
fn beside_f32<'p, T: Storage>(
    x: *mut f32,
    row: &RowIo<'p, T>,
    params: Params<'p, T>,
) -> (RowIo<'p, f32>, Params<'p, f32>) {
    let kind = |kind: Kind| match kind.dtype::<T>() {
        Dtype::F16 => Kind::F16,
        Dtype::Bf16 => Kind::Bf16,
        Dtype::F32 | Dtype::F64 => Kind::Own,
    };
    let cols = row.cols();
    // SAFETY: these are elements of the same types at the same places.
    let vector = |v: Vector<'p, T>| unsafe { Vector::from_raw(v.as_ptr().cast(), v.len(), kind(v.kind())) };
    let Params { gamma, beta, groups, rounding, divisor, .. } = params;
    let offset: f64 = params.offset.into();
    let RawRows { p, stride, kind: y } = row.y();
    let (x, y) = (RawRows { p: x, stride: cols, kind: Kind::Own }, RawRows { p: p.cast(), stride, kind: kind(y) });
    let params =
        Params { gamma: gamma.map(vector), beta: beta.map(vector), groups, offset: offset as f32, rounding, divisor };
    // SAFETY: as above; the caller's x has as many elements, apart from all else.
    (unsafe { RowIo::from_raw(x, None, y, 1, cols) }, params)
}
