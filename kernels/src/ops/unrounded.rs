//! Sums of 16 bits that are normalized as they are before they are rounded, or by the statistics that they have then:
//! see [`Sums`].
//!
//! The sums of a piece of a row are taken in f32, in a room that an L1 cache keeps. Rows that are longer than the room
//! are summed twice: for their moments, and again to normalize them. Nothing of a row is written before its moments are
//! known, since a sum may lie over what it is made of.

use super::mixed::{self, Jobs, Room};
use super::moments::RowMoments;
use crate::element::Storage;
use crate::isa::Isa;
use crate::loops::{Columns, Epilogues, Known, NormalizeRow, WideRow, exactly, finish_exactly, run_columns, unit_norm};
use crate::mean::Center;
use crate::rounding::Sums;
use crate::rows::{Params, Source, Target};
use crate::stats::{CHUNK, Moments, RowNorm, exact, scale_for};

/// Whether a job normalizes sums that are not rounded, or takes the statistics of these.
#[inline(always)]
pub(super) fn are_unrounded<T: Storage>(job: &Jobs<'_, T>) -> bool {
    T::ROUNDS && job.rows.is_sum() && job.epilogues.rounding.sums != Sums::Rounded
}

/// The loops of one kind of rows, by pointers, so that this is compiled once for both kinds.
pub(super) struct Loops<T: Storage> {
    moments: fn(RowMoments<'_, f32>, Isa) -> Moments,
    columns: fn(&mut Columns<'_, T, Params<'_, T>>, Isa),
}

impl<T: Storage> Loops<T> {
    pub(super) const fn of<L: Center>() -> Self {
        fn columns<T: Storage, L: Center>(job: &mut Columns<'_, T, Params<'_, T>>, isa: Isa) {
            run_columns::<T, L, _>(job, isa);
        }
        // Types that do not round have no such sums, and are not to have the code for them.
        if T::ROUNDS {
            Self { moments: |row, isa| row.run_here::<L>(isa), columns: columns::<T, L> }
        } else {
            Self { moments: |_, _| Moments::EMPTY, columns: |_, _| () }
        }
    }
}

/// Runs a job of such sums, which has rows and columns.
#[cold]
#[inline(never)]
pub(super) fn run<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) {
    let mut room = Room::<CHUNK>::NEW;
    for r in 0..job.rows.rows() {
        let known = know_row(job, isa, loops, r, &mut room);
        if job.epilogues.rounding.sums == Sums::Statistics {
            mixed::take_sums(isa, job.rows.part(r, 1), job.bias);
            finish_rounded(job, isa, loops, r, known);
        } else {
            finish_unrounded(job, isa, r, known, &mut room);
        }
    }
    job.canonicalize_nans();
}

/// The sums of row `r` in f32, in the columns from `at` on that the room has place for. They are rounded to where sums
/// are kept if `keeps`.
fn sums<'r, T: Storage>(
    job: &Jobs<'_, T>,
    isa: Isa,
    r: usize,
    at: usize,
    keeps: bool,
    room: &'r mut Room<CHUNK>,
) -> &'r mut [f32] {
    let (n, p) = (CHUNK.min(job.rows.cols() - at), room.as_mut_ptr());
    // SAFETY: there is such a row, and the room has place for `n` elements.
    unsafe {
        let sums = job.rows.input(r, job.bias, false).wide_sums(at, n, p, keeps);
        if let Some(sums) = sums {
            isa.run(sums);
        }
        core::slice::from_raw_parts_mut(p, n)
    }
}

/// The statistics of row `r`, which are written: of its sums in f32. If the row fits into the room, its sums are left
/// there.
fn know_row<T: Storage>(
    job: &mut Jobs<'_, T>,
    isa: Isa,
    loops: &Loops<T>,
    r: usize,
    room: &mut Room<CHUNK>,
) -> Known<T::Float> {
    let (cols, centered) = (job.rows.cols(), job.centered);
    let mut moments_at = |job: &Jobs<'_, T>, scale: Option<f64>| {
        Moments::merge_parts((0..cols).step_by(CHUNK).map(|at| {
            let row = RowMoments { x: sums(job, isa, r, at, false, room), centered, scale: None };
            match scale {
                None => (loops.moments)(row, isa),
                Some(scale) => row.run_exactly(isa, scale),
            }
        }))
    };
    let moments = moments_at(job, None);
    if let Some(norm) = RowNorm::trusted(pulp::Scalar, &moments, job.eps) {
        job.stats.set(r, &norm);
        return Known::Norm(norm);
    }
    let v = moments.v(job.eps);
    let exact = moments_at(job, Some(scale_for::<T::Float>(v, moments.mean())));
    if v == 0.0 && is_constant(job, isa, r, room) {
        let norm = RowNorm::new(moments.mean(), 0.0, f64::INFINITY);
        job.stats.set(r, &norm);
        return Known::Norm(RowNorm { rstd: T::Float::default(), ..norm });
    }
    Known::Exact(exactly(job, r, &exact))
}

/// Whether xhat is 0 everywhere in row `r`.
fn is_constant<T: Storage>(job: &Jobs<'_, T>, isa: Isa, r: usize, room: &mut Room<CHUNK>) -> bool {
    let mut first = None;
    (0..job.rows.cols()).step_by(CHUNK).all(|at| {
        let x = sums(job, isa, r, at, false, room);
        let first = *first.get_or_insert(x[0]);
        // SAFETY: the slice has as many elements, and is not empty.
        first == x[0] && unsafe { exact::is_constant(Source::from(&*x), x.len(), job.centered) }
    })
}

/// Normalizes row `r`, whose sums have been rounded.
fn finish_rounded<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>, r: usize, known: Known<T::Float>) {
    match known {
        Known::Norm(norm) => {
            let (centered, streaming) = (job.centered, job.streaming);
            let epilogues = job.epilogues.of_row(r, job.rows.cols());
            let row = job.rows.part(r, 1).summed();
            (loops.columns)(&mut Columns { centered, row, epilogues, norm, streaming }, isa);
        }
        Known::Exact(norm) => {
            // SAFETY: there is such a row.
            unsafe { job.rows.canonicalize_sum(r) };
            finish_exactly(job, r, norm);
        }
    }
}

/// Normalizes row `r`, whose sums are rounded meanwhile to where they are kept.
fn finish_unrounded<T: Storage>(
    job: &mut Jobs<'_, T>,
    isa: Isa,
    r: usize,
    known: Known<T::Float>,
    room: &mut Room<CHUNK>,
) {
    let (cols, centered) = (job.rows.cols(), job.centered);
    let (norm, wide) = match known {
        Known::Norm(norm) => (norm, None),
        // xhat is made on the slow path, and is not to be changed then.
        Known::Exact(norm) => (unit_norm(), Some(norm)),
    };
    let mut params = job.epilogues.of_row(r, cols);
    for at in (0..cols).step_by(CHUNK) {
        let x = sums(job, isa, r, at, true, room);
        let (n, x) = (x.len(), x.as_mut_ptr());
        let (given, rest) = params.split_at_col(n, cols - at);
        params = rest;
        if let Some(Some(norm)) = wide {
            let plain = Params::<'_, f32>::default().with_harmless_offset();
            isa.run(&NormalizeRow::new(Source::of(x), Target::of(x), n, norm, &plain));
        }
        let row = job.rows.part(r, 1).summed();
        let mut piece = row.split_at_col(at).1.split_at_col(n).0;
        // SAFETY: the piece has a row of `n` elements, and so has the room.
        unsafe {
            let epilogue = given.only_row(&mut piece, 0, false);
            isa.run(WideRow { x, cols: n, centered, norm, epilogue });
        }
    }
    if let Some(None) = wide {
        // SAFETY: there is such a row.
        unsafe {
            job.rows.canonicalize_sum(r);
            job.epilogues.finish_nan(&mut job.rows, r);
        }
    }
}
