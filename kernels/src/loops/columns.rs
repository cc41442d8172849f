//! One row, or some columns of it, whose statistics are known.

use core::marker::PhantomData;

use super::epilogue::Epilogues;
use super::normalize::KnownRow;
use crate::element::Storage;
use crate::isa::Isa;
use crate::mean::{Center, Mean};
use crate::rows::RowIo;
use crate::simd::{Kernel, Lanes};
use crate::stats::RowNorm;

pub(crate) fn run_columns<T: Storage, M: Center, E: Epilogues<T>>(job: &mut Columns<'_, T, E>, isa: Isa) {
    isa.run(RunColumns::<T, M, E> { job, center: PhantomData });
}

/// The job of normalizing one row, or some columns of it, whose statistics are known.
#[derive(Debug)]
pub(crate) struct Columns<'a, T: Storage, E> {
    pub(crate) centered: bool,
    pub(crate) row: RowIo<'a, T>,
    pub(crate) epilogues: E,
    pub(crate) norm: RowNorm<T::Float>,
    pub(crate) streaming: bool,
}

impl<T: Storage, E: Epilogues<T>> Columns<'_, T, E> {
    pub(crate) fn split_at_col(self, col: usize) -> (Self, Self) {
        let cols = self.row.cols();
        let col = col.min(cols);
        let (row_a, row_b) = self.row.split_at_col(col);
        let (epilogues_a, epilogues_b) = self.epilogues.split_at_col(col, cols);
        (Self { row: row_a, epilogues: epilogues_a, ..self }, Self { row: row_b, epilogues: epilogues_b, ..self })
    }
}

/// Normalizes the columns of a job.
struct RunColumns<'j, 'a, T: Storage, M: Center, E> {
    job: &'j mut Columns<'a, T, E>,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center, E: Epilogues<T>> Kernel for RunColumns<'_, '_, T, M, E> {
    type Output = ();

    const PORTABLE: bool = M::CENTERED;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let &mut Columns { centered, ref mut row, ref epilogues, norm, streaming } = self.job;
        let cols = row.cols();
        // SAFETY: there is a row 0.
        let (x, epilogue) = unsafe { (row.source(0), epilogues.only_row(row, 0, streaming)) };
        // SAFETY: all lengths are cols, checked by the constructor.
        let finite = unsafe { KnownRow { mean: Mean::<M>::new(centered), x, norm, epilogue }.normalize(simd, cols) };
        if streaming {
            simd.fence();
        }
        if !finite {
            // SAFETY: there is a row 0.
            unsafe { epilogues.canonicalize(row, 0) };
        }
    }
}
