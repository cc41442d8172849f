//! One row, or some columns of it, whose statistics are known.

use core::marker::PhantomData;

use super::affine::Affine;
use super::job::canonicalize_row;
use super::normalize::KnownRow;
use crate::element::Storage;
use crate::isa::Isa;
use crate::mean::{Center, Mean};
use crate::rows::{Params, RowIo, Vector};
use crate::simd::{Kernel, Lanes};
use crate::stats::RowNorm;

pub(crate) fn run_columns<T: Storage, M: Center>(job: &mut Columns<'_, T>, isa: Isa) {
    isa.run(RunColumns::<T, M> { job, center: PhantomData });
}

/// The job of normalizing one row, or some columns of it, whose statistics are known: what both normalizations have in
/// common.
#[derive(Debug)]
pub(crate) struct Columns<'a, T: Storage> {
    pub(crate) centered: bool,
    pub(crate) row: RowIo<'a, T>,
    pub(crate) params: Params<'a, T>,
    pub(crate) norm: RowNorm<T::Float>,
    pub(crate) streaming: bool,
}

impl<'a, T: Storage> Columns<'a, T> {
    pub(crate) fn split_at_col(self, col: usize) -> (Self, Self) {
        let cols = self.row.cols();
        let col = col.min(cols);
        let (row_a, row_b) = self.row.split_at_col(col);
        let cut = |v: Option<Vector<'a, T>>| v.map(|v| (v.part(0, col), v.part(col, cols - col))).unzip();
        let ((gamma_a, gamma_b), (beta_a, beta_b)) = (cut(self.params.gamma), cut(self.params.beta));
        (
            Self { row: row_a, params: Params { gamma: gamma_a, beta: beta_a, ..self.params }, ..self },
            Self { row: row_b, params: Params { gamma: gamma_b, beta: beta_b, ..self.params }, ..self },
        )
    }
}

/// The columns of a job.
struct RunColumns<'j, 'a, T: Storage, M: Center> {
    job: &'j mut Columns<'a, T>,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for RunColumns<'_, '_, T, M> {
    type Output = ();

    const PORTABLE: bool = M::CENTERED;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let &mut Columns { centered, ref mut row, ref params, norm, streaming } = self.job;
        let cols = row.cols();
        let affine = Affine::new(params.gamma, params.beta, params.offset);
        // SAFETY: there is a row 0.
        let (x, y) = unsafe { (row.source(0), row.target(0, streaming)) };
        // SAFETY: all lengths are cols, checked by the constructor.
        let finite = unsafe { KnownRow { mean: Mean::<M>::new(centered), x, y, norm, affine }.normalize(simd, cols) };
        if streaming {
            simd.fence();
        }
        if !finite {
            // SAFETY: there is a row 0.
            unsafe { canonicalize_row(row, 0, params) };
        }
    }
}
