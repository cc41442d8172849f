use lanenorm_kernels::Isa;
use lanenorm_kernels::lanes::RowIo;
use lanenorm_kernels::layer_norm::{LayerNorm as Job, StatsMut};

use crate::plan::{Plan, Store};
use crate::rows::{Rows, RowsMut};
use crate::{Error, Parallelism, Sum, shape};

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
pub struct LayerNorm(Plan);

impl LayerNorm {
    /// A plan for rows of `cols` elements, on the [default tier](crate::default_isa).
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a tier that is not there.
    pub fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        Plan::new(cols, eps).map(Self)
    }

    /// A plan for the last dimensions of a tensor, flattened into one row: `normalized_shape` as in `PyTorch`'s module. No
    /// dimensions are one element.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the product of the dimensions overflows.
    pub fn with_normalized_shape(normalized_shape: &[usize], eps: f64) -> Result<Self, Error> {
        Self::new(shape::product(normalized_shape)?, eps)
    }

    /// A plan for the dimensions from `axis` on of tensors of a shape, flattened into one row: `axis` as in ONNX's operator,
    /// where a negative one counts from the end and -1 is the default.
    ///
    /// # Errors
    /// As [`new`](Self::new), if the shape has no such axis, and if the product of its dimensions overflows.
    pub fn with_axis(shape: &[usize], axis: isize, eps: f64) -> Result<Self, Error> {
        Self::with_normalized_shape(shape::from_axis(shape, axis)?, eps)
    }

    /// The same plan with another parallelism.
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Self(Plan { parallelism, ..self.0 })
    }

    /// The same plan on another tier (see [`isa`](crate::isa())).
    pub fn with_isa(self, isa: Isa) -> Self {
        Self(Plan { isa, ..self.0 })
    }

    /// The same plan with another choice of stores.
    pub fn with_store(self, store: Store) -> Self {
        Self(Plan { store, ..self.0 })
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// The number added to the variance.
    pub fn eps(&self) -> f64 {
        self.0.eps
    }

    /// The tier that runs.
    pub fn isa(&self) -> Isa {
        self.0.isa
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
        let io = self.0.rows(x.into(), y.into())?;
        self.run(io, gamma, beta, stats)
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
        let io = self.0.rows_in_place(x.into())?;
        self.run(io, gamma, beta, stats)
    }

    /// Takes a sum, writes it, and normalizes it into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum<'a>(
        &self,
        sum: Sum<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        y: impl Into<RowsMut<'a>>,
    ) -> Result<(), Error> {
        self.forward_sum_with_stats(sum, gamma, beta, y, StatsMut::default())
    }

    /// Takes a sum, writes it, normalizes it into y, and keeps statistics of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum_with_stats<'a>(
        &self,
        sum: Sum<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        y: impl Into<RowsMut<'a>>,
        stats: StatsMut<'a>,
    ) -> Result<(), Error> {
        let bias = sum.bias;
        let io = self.0.rows_of_sum(sum, y.into())?;
        self.check(&io, gamma, beta, &stats)?;
        self.0.run(io, |io, streaming| {
            let job = Job::new(io, gamma, beta, self.0.eps, streaming, stats)?;
            match bias {
                Some(bias) => job.with_bias(bias),
                None => Some(job),
            }
        });
        Ok(())
    }

    #[inline(always)]
    fn run<'a>(
        &self,
        io: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        stats: StatsMut<'a>,
    ) -> Result<(), Error> {
        self.check(&io, gamma, beta, &stats)?;
        self.0.run(io, |io, streaming| Job::new(io, gamma, beta, self.0.eps, streaming, stats));
        Ok(())
    }

    #[inline(always)]
    fn check(
        &self,
        io: &RowIo<'_>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        stats: &StatsMut<'_>,
    ) -> Result<(), Error> {
        shape::length("gamma", gamma, self.0.cols)?;
        shape::length("beta", beta, self.0.cols)?;
        shape::length("mean", stats.mean.as_deref(), io.rows())?;
        shape::length("mean_lo", stats.mean_lo.as_deref(), io.rows())?;
        shape::length("rstd", stats.rstd.as_deref(), io.rows())
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
