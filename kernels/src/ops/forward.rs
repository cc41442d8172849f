//! The jobs of normalizing rows.

use core::marker::PhantomData;

use crate::divisor::Divisor;
use crate::element::Storage;
use crate::error::Error;
use crate::isa::Isa;
use crate::loops::{AffineRow, Columns, Epilogues, Job, SingleRow};
use crate::loops::{finish_row, run_columns, run_job};
use crate::mean::Center;
use crate::rounding::Rounding;
use crate::rows::{Groups, OneRow, Params, RowIo, Vector};
use crate::simd::{Float, in_default_environment};
use crate::stack;
use crate::stats::{CHUNK, Moments, Root, RowNorm, StatsMut, check_eps};

use super::{mixed, unrounded};

/// The job of normalizing some rows: see [`LayerNorm`](super::layer_norm::LayerNorm) and
/// [`RmsNorm`](super::rms_norm::RmsNorm).
#[derive(Debug)]
pub struct Forward<'a, T: Storage, M: Center>(Job<'a, T, Params<'a, T>>, PhantomData<M>);

/// Runs such a job, which has rows and columns, on one tier: see `compile.rs`.
pub(super) type RunForward<T, M> = fn(&mut Forward<'_, T, M>, Isa);

impl<'a, T: Storage, M: Center> Forward<'a, T, M> {
    /// Refuses arguments for the reasons that the constructors name.
    #[inline(always)]
    pub(crate) fn checked(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        if !rows.has_y() {
            return Err(Error::NoY { rows: rows.rows() });
        }
        Self::checked_without_y(rows, params, eps, streaming, stats)
    }

    /// The same for jobs that may be without y.
    #[inline(always)]
    pub(super) fn checked_without_y(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        params.fit(rows.rows(), rows.cols())?;
        stats.fit(rows.rows())?;
        let root = params.root(M::CENTERED, eps)?;
        let streaming = streaming && rows.may_stream();
        let job = Job::new(M::CENTERED, rows, params.with_harmless_offset(), root, streaming, stats);
        Ok(Self(job, PhantomData))
    }

    /// The same job with a row that is added to each sum of x and residual.
    ///
    /// # Errors
    /// If the bias does not have an element for each column, if the rows are no sums, or if the job has a bias already.
    #[inline(always)]
    pub fn with_bias(self, bias: &'a [T]) -> Result<Self, Error> {
        let Self(mut job, _) = self;
        if !job.rows.is_sum() {
            return Err(Error::BiasWithoutSum { len: bias.len() });
        }
        if job.bias.is_some() {
            return Err(Error::Twice { what: "bias" });
        }
        Error::length("bias", bias.len(), job.rows.cols())?;
        job.bias = Some(bias);
        Ok(Self(job, PhantomData))
    }

    /// The job for the first `row` rows, and the job for the rest. If there are fewer rows, the first job has them all.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.0.split_at(row);
        (Self(a, PhantomData), Self(b, PhantomData))
    }

    /// Turns the job of normalizing one row, whose moments have been taken elsewhere (by several threads, say), into
    /// one that can be split by columns. The statistics are written. The job is given back, to be run as it is, if it
    /// does not have exactly one row, if that row is a sum, if the moments count fewer elements than the row has, or if
    /// the moments leave the range in which they can be trusted.
    #[allow(clippy::result_large_err, reason = "the job is given back to be run, not to be propagated")]
    pub fn with_moments(self, moments: &Moments) -> Result<Normalize<'a, T, M>, Self> {
        let Self(mut job, _) = self;
        if job.rows.rows() != 1 || job.rows.is_sum() || !moments.are_of::<T>(job.rows.cols()) {
            return Err(Self(job, PhantomData));
        }
        match in_default_environment(|| trusted(moments, &job.root)) {
            Some(norm) => {
                job.stats.set(0, &norm);
                let epilogues = job.epilogues.of_row(0, job.rows.cols());
                let Job { rows: row, streaming, .. } = job;
                Ok(Normalize(Columns { centered: M::CENTERED, row, epilogues, norm, streaming }, PhantomData))
            }
            None => Err(Self(job, PhantomData)),
        }
    }

    /// Runs the job, which has rows and columns, through the loops for `L`.
    #[inline(always)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa) {
        self.0.isa = isa;
        if mixed::is_mixed(&self.0.rows, &self.0.epilogues) {
            mixed::run(&mut self.0, isa, &const { mixed::Loops::of::<L>() });
        } else if let Some(loops) = &const { unrounded::Loops::of_sums::<L>() }
            && unrounded::are_unrounded(&self.0)
        {
            unrounded::run(&mut self.0, isa, loops);
        } else if self.0.streaming {
            stack::within_a_page(&mut self.0, isa, run_job::<T, L, _>);
        } else {
            run_job::<T, L, _>(&mut self.0, isa);
        }
    }

    /// Normalizes the only row of the job with moments that cannot be trusted, on the slow path.
    #[cold]
    #[inline(never)]
    pub(crate) fn finish(&mut self, isa: Isa, moments: &Moments) {
        self.0.isa = isa;
        if mixed::is_mixed(&self.0.rows, &self.0.epilogues) {
            return mixed::run_exactly(&mut self.0, isa, moments);
        }
        finish_row(&mut self.0, 0, moments);
        self.0.canonicalize_nans();
    }

    /// The same job, while this one is borrowed.
    pub(super) fn reborrow(&mut self) -> Forward<'_, T, M> {
        let rows = self.0.rows.rows();
        Forward(self.0.part(0, rows), PhantomData)
    }

    /// The job without its type.
    #[inline(always)]
    pub(super) fn job(&mut self) -> &mut Job<'a, T, Params<'a, T>> {
        &mut self.0
    }

    /// The rows.
    pub fn rows(&self) -> &RowIo<'a, T> {
        &self.0.rows
    }
}

/// The most columns of a [`ForwardRow`].
pub const SINGLE_ROW_COLS: usize = 16 * CHUNK;

/// The job of normalizing one row, not a long one, of which no statistics are wanted, with ordinary stores. y has the
/// bits that [`Forward`] gives it. A short row takes less time than it takes to make a [`Forward`].
#[derive(Debug)]
pub struct ForwardRow<'a, T: Storage, M: Center> {
    row: SingleRow<T, M, AffineRow<T>>,
    rows: PhantomData<(RowIo<'a, T>, Params<'a, T>)>,
}

impl<'a, T: Storage, M: Center> ForwardRow<'a, T, M> {
    /// The job of normalizing `row`. `offset` is added to gamma, and `rounding` says what is rounded. `None` if there
    /// is no such job: the row has more than [`SINGLE_ROW_COLS`] elements, the types have no code of their own for
    /// this, or a constructor of [`Forward`] would refuse these arguments. [`Forward`] does the first two, and says
    /// what is wrong with the arguments.
    #[inline(always)]
    pub fn new(
        mut row: OneRow<'a, T>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        offset: T::Float,
        rounding: Rounding,
        eps: f64,
    ) -> Option<Self> {
        let cols = row.cols();
        let params = Params { gamma, beta, groups: Groups::ONE, offset, rounding, divisor: Divisor::RootMeanSquare };
        let fits = |v: Option<Vector<'_, T>>| v.is_none_or(|v| v.len() == cols);
        let of_one_type = match (gamma, beta) {
            (Some(gamma), Some(beta)) => gamma.kind() == beta.kind(),
            _ => true,
        };
        let fits = fits(gamma) && fits(beta) && of_one_type && (M::CENTERED || beta.is_none());
        if !T::SINGLE_ROWS || cols > SINGLE_ROW_COLS || !fits || params.are_narrow() || check_eps(eps).is_err() {
            return None;
        }
        let epilogue = params.with_harmless_offset().to(row.target());
        // SAFETY: these are borrowed for 'a, and have `cols` elements, few enough. The target is an ordinary one.
        Some(Self { row: unsafe { SingleRow::new(row.source(), cols, epilogue, eps) }, rows: PhantomData })
    }

    /// Runs the job on a tier of SIMD. Returns false, and has written nothing, if the row takes other loops.
    #[inline(always)]
    pub(crate) fn run_single(&mut self, isa: Isa) -> bool {
        if !T::SINGLE_ROWS {
            return false;
        }
        match isa.run_simd(&self.row) {
            Some(Some(finite)) => {
                if !finite {
                    self.canonicalize_nans();
                }
                true
            }
            _ => false,
        }
    }

    /// This job as a [`Forward`] with one row.
    #[inline(always)]
    fn as_rows(&mut self) -> Forward<'_, T, M> {
        let (x, cols, epilogue, eps) = self.row.parts();
        // SAFETY: all have been made of the arguments of the constructor, which are borrowed for longer than this.
        let (params, rows) = unsafe {
            let (params, y) = epilogue.parts(cols);
            (params, OneRow::rows(x, y, cols))
        };
        Forward(Job::new(M::CENTERED, rows, params, Root::of_mean(eps), false, StatsMut::default()), PhantomData)
    }

    /// Runs the job through the loops for `L`.
    #[cold]
    #[inline(never)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa) {
        self.as_rows().run_here::<L>(isa);
    }

    #[cold]
    #[inline(never)]
    fn canonicalize_nans(&mut self) {
        self.as_rows().0.canonicalize_nans();
    }
}

// SAFETY: ForwardRow stands for rows, gamma and beta, which are Send.
unsafe impl<T: Storage, M: Center> Send for ForwardRow<'_, T, M> {}

/// The job of normalizing one row, or some columns of it, whose statistics are known.
#[derive(Debug)]
pub struct Normalize<'a, T: Storage, M: Center>(Columns<'a, T, Params<'a, T>>, PhantomData<M>);

impl<'a, T: Storage, M: Center> Normalize<'a, T, M> {
    /// Refuses arguments for the reasons that the constructors name.
    pub(crate) fn checked(
        row: RowIo<'a, T>,
        params: Params<'a, T>,
        norm: RowNorm<T::Float>,
        streaming: bool,
    ) -> Result<Self, Error> {
        if row.rows() != 1 {
            return Err(Error::OneRow { rows: row.rows() });
        }
        // The statistics of a sum can be known only after the sum has been written, and then it is a row like any
        // other.
        if row.is_sum() {
            return Err(Error::UntakenSum { what: "statistics" });
        }
        if !row.has_y() {
            return Err(Error::NoY { rows: 1 });
        }
        params.fit(1, row.cols())?;
        let streaming = streaming && row.may_stream();
        let epilogues = params.with_harmless_offset().of_row(0, row.cols());
        Ok(Self(Columns { centered: M::CENTERED, row, epilogues, norm, streaming }, PhantomData))
    }

    /// The job for the first `col` columns, and the job for the rest. If there are fewer columns, the first job has
    /// them all.
    pub fn split_at_col(self, col: usize) -> (Self, Self) {
        let (a, b) = self.0.split_at_col(col);
        (Self(a, PhantomData), Self(b, PhantomData))
    }

    /// Runs the job, which has columns, through the loops for `L`.
    #[inline(always)]
    pub(crate) fn run_here<L: Center>(mut self, isa: Isa) {
        if mixed::is_mixed(&self.0.row, &self.0.epilogues) {
            return mixed::run_known(&mut self.0, isa, &const { mixed::Loops::of::<L>() });
        }
        stack::within_a_page(&mut self.0, isa, run_columns::<T, L, _>);
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.0.row.cols()
    }
}

/// The statistics for normalizing a row with these moments, if the moments can be trusted.
#[inline(never)]
fn trusted<F: Float>(moments: &Moments, root: &Root) -> Option<RowNorm<F>> {
    RowNorm::trusted(pulp::Scalar, moments, root)
}
