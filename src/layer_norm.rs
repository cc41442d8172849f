use lanenorm_kernels::Isa;
use lanenorm_kernels::lanes::RowIo;
use lanenorm_kernels::layer_norm::{LayerNorm as Job, StatsMut};

use crate::rows::{Rows, RowsMut};
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

/// A plan for layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta for each row of `cols` elements.
///
/// mean and var are those of the row, var divided by `cols` (Ba, Kiros and Hinton, "Layer Normalization",
/// arXiv:1607.06450, 2016). A plan is a handful of numbers: cheap to make, to copy and to share between threads. Running it
/// allocates nothing.
///
/// gamma and beta, if given, have `cols` elements. x and y are slices of whole rows (row-major) or strided
/// [`Rows`] and [`RowsMut`]. Zero rows or zero columns are fine, and nothing happens.
///
/// ```
/// use lanenorm::{LayerNorm, Parallelism};
///
/// let plan = LayerNorm::new(4, 1e-5)?.with_parallelism(Parallelism::Serial);
/// let x = [1.0, 2.0, 3.0, 4.0, 1e6, 1e6 + 1.0, 1e6 + 2.0, 1e6 + 3.0];
/// let mut y = [0.0; 8];
/// plan.forward(&x, None, None, &mut y)?;
/// assert_eq!(y[..4], y[4..]);
/// # Ok::<(), lanenorm::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    cols: usize,
    eps: f64,
    isa: Isa,
    parallelism: Parallelism,
    store: Store,
}

impl LayerNorm {
    /// A plan for rows of `cols` elements, on the [default tier](default_isa).
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a tier that is not there.
    pub fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        shape::eps(eps)?;
        let isa = default_isa()?;
        Ok(Self { cols, eps, isa, parallelism: Parallelism::default(), store: Store::default() })
    }

    /// The same plan with another parallelism.
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Self { parallelism, ..self }
    }

    /// The same plan on another tier (see [`isa`](crate::isa())).
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The same plan with another choice of stores.
    pub fn with_store(self, store: Store) -> Self {
        Self { store, ..self }
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// The tier that runs.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Normalizes the rows of x into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward<'a>(
        &self,
        x: impl Into<Rows<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        y: impl Into<RowsMut<'a>>,
    ) -> Result<(), Error> {
        self.forward_with_stats(x, gamma, beta, y, StatsMut::default())
    }

    /// Normalizes the rows of x into y, and keeps statistics of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_with_stats<'a>(
        &self,
        x: impl Into<Rows<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        y: impl Into<RowsMut<'a>>,
        stats: StatsMut<'_>,
    ) -> Result<(), Error> {
        let (x, y) = (x.into(), y.into());
        let (rows, x_stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let (y_rows, y_stride) = shape::rows("y", y.data.len(), y.layout, self.cols)?;
        if rows != y_rows {
            return Err(Error::Rows { x: rows, y: y_rows });
        }
        self.run(RowIo::new(x.data, x_stride, y.data, y_stride, rows, self.cols), rows, gamma, beta, stats)
    }

    /// Normalizes rows where they lie.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place<'a>(
        &self,
        x: impl Into<RowsMut<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
    ) -> Result<(), Error> {
        self.forward_in_place_with_stats(x, gamma, beta, StatsMut::default())
    }

    /// Normalizes rows where they lie, and keeps statistics of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place_with_stats<'a>(
        &self,
        x: impl Into<RowsMut<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        stats: StatsMut<'_>,
    ) -> Result<(), Error> {
        let x = x.into();
        let (rows, stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        self.run(RowIo::in_place(x.data, stride, rows, self.cols), rows, gamma, beta, stats)
    }

    #[inline(always)]
    fn run(
        &self,
        io: Option<RowIo<'_>>,
        rows: usize,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        stats: StatsMut<'_>,
    ) -> Result<(), Error> {
        shape::length("gamma", gamma, self.cols)?;
        shape::length("beta", beta, self.cols)?;
        shape::length("mean", stats.mean.as_deref(), rows)?;
        shape::length("mean_lo", stats.mean_lo.as_deref(), rows)?;
        shape::length("rstd", stats.rstd.as_deref(), rows)?;
        let elements = rows * self.cols;
        let Some(io) = io else { unreachable!("shape.rs has checked the rows") };
        let streaming = self.streams(elements, io.is_in_place());
        // Not moved out of the option: see `LayerNorm::run_on` of the kernels.
        let mut job = Job::new(io, gamma, beta, self.eps, streaming, stats);
        let tasks = self.parallelism.tasks(elements);
        if tasks > 1 {
            job.into_iter().for_each(|job| parallel::run(self.isa, job, tasks));
        } else if let Some(job) = &mut job {
            job.run_on(self.isa);
        }
        Ok(())
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

/// Layer normalization of the rows of x, `cols` elements each, into y: [`LayerNorm::forward`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn layer_norm(
    x: &[f32],
    cols: usize,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    eps: f64,
    y: &mut [f32],
) -> Result<(), Error> {
    LayerNorm::new(cols, eps)?.forward(x, gamma, beta, y)
}

/// Layer normalization of the rows of x where they lie: [`LayerNorm::forward_in_place`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn layer_norm_in_place(
    x: &mut [f32],
    cols: usize,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    eps: f64,
) -> Result<(), Error> {
    LayerNorm::new(cols, eps)?.forward_in_place(x, gamma, beta)
}
