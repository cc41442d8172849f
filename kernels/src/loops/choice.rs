//! The choice of the loops that rows go through.

use core::marker::PhantomData;

use super::blocks::Blocks;
use super::epilogue::Epilogues;
use super::fused::Fused;
use super::job::{BLOCK_COLS, Job};
use super::transposed::{TRANSPOSED_COLS, Transposed};
use super::whole::WholeRow;
use crate::element::Storage;
use crate::isa::{Isa, Tier};
use crate::mean::{Center, Mean};
use crate::rows::LINE;
use crate::simd::FOLD_ROWS;

/// Runs a job. Both normalizations share this function if they share the loops.
#[inline(never)]
pub(crate) fn run_job<T: Storage, M: Center, E: Epilogues<T>>(job: &mut Job<'_, T, E>, isa: Isa) {
    if !job.epilogues.differ() || job.epilogues.same_from(0) < FEWEST_TOGETHER || isa.tier() == Tier::Scalar {
        run_some::<T, M, E>(job, isa);
    } else {
        run_groups(job, isa, run_some::<T, M, E>);
    }
}

/// Runs the rows of each group as a job of their own.
#[inline(never)]
fn run_groups<T: Storage, E: Epilogues<T>>(job: &mut Job<'_, T, E>, isa: Isa, run: fn(&mut Job<'_, T, E>, Isa)) {
    let (rows, cols) = (job.rows.rows(), job.rows.cols());
    let mut r = 0;
    while r < rows {
        let n = job.epilogues.same_from(r).min(rows - r);
        let mut part = job.part(r, n);
        part.epilogues = part.epilogues.of_row(0, cols);
        run(&mut part, isa);
        r += n;
    }
}

/// As many rows of a job that have the same operands are a job of their own: the loops take several rows at once then.
const FEWEST_TOGETHER: usize = 8;

#[inline(never)]
fn run_some<T: Storage, M: Center, E: Epilogues<T>>(job: &mut Job<'_, T, E>, isa: Isa) {
    if !job.forward::<M>(isa) || job.epilogues.differ() {
        job.canonicalize_nans();
    }
}

impl<T: Storage, E: Epilogues<T>> Job<'_, T, E> {
    /// Whether each row gets a lane of its own.
    fn transposes(&self) -> bool {
        let cols = self.rows.cols();
        (T::MIXES || T::ROUNDS)
            && cols <= TRANSPOSED_COLS
            && !self.streaming
            && (!T::ROUNDS || self.rows.strides() == [cols; 2])
            && !self.epilogues.differ()
            && !self.epilogues.has_steps()
    }

    /// Whether short rows go through the loop over blocks on a tier.
    fn takes_blocks(&self, isa: Isa) -> bool {
        let cols = self.rows.cols();
        let suits_long_rows = match isa.tier() {
            // A register is a cache line. Where rows do not begin on lines, each access touches two, and blocks wait
            // for that more than fused rows do.
            Tier::Avx512 => (cols * size_of::<T>()).is_multiple_of(LINE),
            // Fused rows take fewer instructions.
            Tier::Neon => false,
            _ => true,
        };
        self.blocks && (T::ROUNDS || cols <= BLOCK_COLS || suits_long_rows)
    }

    /// Chooses the loops. Each loop is dispatched by itself: without optimization, the frame of a function has room for
    /// every value of everything inlined into it, and one frame for all loops would overflow the stack of a thread.
    ///
    /// Returns whether all that is written for some row is known to be finite.
    #[inline(always)]
    fn forward<M: Center>(&mut self, isa: Isa) -> bool {
        let (rows, cols) = (self.rows.rows(), self.rows.cols());
        let mut first = 0;
        if self.transposes() {
            match isa.run_simd(Transposed { job: self }) {
                Some(done) if done == rows => return self.epilogues.are_finite(),
                Some(done) => first = done,
                None => {}
            }
        }
        if first == 0 && self.takes_blocks(isa) && rows >= FOLD_ROWS {
            let whole = rows - rows % FOLD_ROWS;
            match isa.run_simd(Blocks::<T, M, E> { job: self, rows: whole, center: PhantomData }) {
                Some(finite) if whole == rows => return finite,
                Some(_) => first = whole,
                None => {}
            }
        }
        if rows - first >= 2 && self.fused && (self.streaming || !self.epilogues.has_steps()) {
            let finite = if T::STREAMS_APART && self.streaming {
                isa.run_simd(Fused::<T, M, E, true> { job: self, first, center: PhantomData })
            } else {
                isa.run_simd(Fused::<T, M, E, false> { job: self, first, center: PhantomData })
            };
            if let Some(finite) = finite {
                return finite;
            }
        }
        let mut finite = false;
        for r in first..rows {
            // SAFETY: r < rows.
            let row = unsafe { self.input(r) };
            let mean = Mean::<M>::new(self.centered);
            (_, finite) = isa.run(WholeRow { row: &row, cols, mean, job: Some((&mut *self, r)) });
        }
        finite
    }
}
