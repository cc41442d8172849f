//! What the plans of all operations share.

use lanenorm_kernels::Isa;
use lanenorm_kernels::forward::Forward;
use lanenorm_kernels::lanes::RowIo;

use crate::rows::{Rows, RowsMut};
use crate::sum::{Place, Sum};
use crate::{Error, Parallelism, default_isa, parallel, shape};

/// Which stores write y. The bits of the result are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Store {
    /// Streaming stores for large outputs that are not in place, ordinary ones for the rest.
    #[default]
    Auto,
    /// Ordinary stores, which leave y in the caches.
    Ordinary,
    /// Streaming stores, which write past the caches where the tier has them. In place they are never used.
    Streaming,
}

/// Outputs beyond this many bytes are streamed by [`Store::Auto`], if their rows are long enough.
const STREAM_BYTES: usize = 16 << 20;

/// Shorter rows leave too many cache lines half streamed.
const STREAM_COLS: usize = 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cols: usize,
    pub(crate) eps: f64,
    pub(crate) isa: Isa,
    pub(crate) parallelism: Parallelism,
    pub(crate) store: Store,
}

impl Plan {
    pub(crate) fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        shape::eps(eps)?;
        let isa = default_isa()?;
        Ok(Self { cols, eps, isa, parallelism: Parallelism::default(), store: Store::default() })
    }

    /// The rows of x and y, if they fit together.
    #[inline(always)]
    pub(crate) fn rows<'a>(&self, x: Rows<'a>, y: RowsMut<'a>) -> Result<RowIo<'a>, Error> {
        let (rows, x_stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let (y_rows, y_stride) = shape::rows("y", y.data.len(), y.layout, self.cols)?;
        if rows != y_rows {
            return Err(Error::Rows { x: rows, y: y_rows });
        }
        let io = RowIo::new(x.data, x_stride, y.data, y_stride, rows, self.cols);
        Ok(io.unwrap_or_else(|| unreachable!("shape.rs has checked the rows")))
    }

    /// The rows of x, to be written where they lie.
    #[inline(always)]
    pub(crate) fn rows_in_place<'a>(&self, x: RowsMut<'a>) -> Result<RowIo<'a>, Error> {
        let (rows, stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let io = RowIo::in_place(x.data, stride, rows, self.cols);
        Ok(io.unwrap_or_else(|| unreachable!("shape.rs has checked the rows")))
    }

    /// The rows of a sum and of y, if they fit together.
    pub(crate) fn rows_of_sum<'a>(&self, sum: Sum<'a>, y: RowsMut<'a>) -> Result<RowIo<'a>, Error> {
        let Sum { x, place, bias } = sum;
        shape::length("bias", bias, self.cols)?;
        let (rows, x_stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let same = |what, len, layout| match shape::rows(what, len, layout, self.cols)? {
            (n, stride) if n == rows => Ok(stride),
            (n, _) => Err(Error::SumRows { what, x: rows, rows: n }),
        };
        let y_stride = same("y", y.data.len(), y.layout)?;
        let (x, y) = ((x.data, x_stride), (y.data, y_stride));
        let io = match place {
            Place::Over(s) => {
                let stride = same("residual", s.data.len(), s.layout)?;
                RowIo::sum_in_place(x, (s.data, stride), y, rows, self.cols)
            }
            Place::Apart { residual, s } => {
                let residual_stride = same("residual", residual.data.len(), residual.layout)?;
                let s_stride = same("s", s.data.len(), s.layout)?;
                RowIo::sum(x, (residual.data, residual_stride), (s.data, s_stride), y, rows, self.cols)
            }
        };
        Ok(io.unwrap_or_else(|| unreachable!("shape.rs has checked the rows")))
    }

    /// Runs the job that `job` makes, once it is known whether to stream.
    #[inline(always)]
    pub(crate) fn run<'a, const CENTERED: bool>(
        &self,
        io: RowIo<'a>,
        job: impl FnOnce(RowIo<'a>, bool) -> Option<Forward<'a, CENTERED>>,
    ) {
        let elements = io.rows() * self.cols;
        let streaming = self.streams(elements, io.is_in_place());
        // Not moved out of the option: see `Forward::run_on`.
        let mut job = job(io, streaming);
        debug_assert!(job.is_some(), "the plans have checked all lengths");
        let tasks = self.parallelism.tasks(elements);
        if tasks > 1 {
            job.into_iter().for_each(|job| parallel::run(self.isa, job, tasks));
        } else if let Some(job) = &mut job {
            job.run_on(self.isa);
        }
    }

    #[inline]
    fn streams(&self, elements: usize, in_place: bool) -> bool {
        !in_place
            && match self.store {
                Store::Auto => self.cols >= STREAM_COLS && elements > STREAM_BYTES / size_of::<f32>(),
                Store::Ordinary => false,
                Store::Streaming => true,
            }
    }
}
