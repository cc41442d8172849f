use lanenorm_kernels::Isa;
use lanenorm_kernels::lanes::RowIo;
use lanenorm_kernels::rms_norm::RmsNorm as Job;

use crate::plan::{Plan, Store};
use crate::rows::{Rows, RowsMut};
use crate::{Error, Parallelism, Sum, shape};

/// A plan for RMS normalization: y = x / sqrt(mean(x^2) + eps) * (gamma + offset) for each row of `cols` elements.
///
/// The formula is that of Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, 2019. A plan is a
/// handful of numbers: cheap to make, to copy and to share between threads. Running it allocates nothing.
///
/// gamma, if given, has `cols` elements; without it the factor is 1. x and y are slices of whole rows (row-major) or
/// strided [`Rows`] and [`RowsMut`]. Zero rows or zero columns are fine, and nothing happens.
///
/// |y - exact| <= 4 u |gamma + offset| (1 + |xhat|) on ordinary rows, with u = 2^-24 and xhat the exact normalized value; on
/// adversarial ones (a step, one huge outlier) the factor may reach 16.
///
/// ```
/// use lanenorm::RmsNorm;
///
/// let plan = RmsNorm::new(4, 0.0)?;
/// let x = [1.0, -1.0, 1.0, -1.0, 1e30, 1e30, -1e30, -1e30];
/// let mut y = [0.0; 8];
/// plan.forward(&x, None, &mut y)?;
/// assert_eq!(y, [1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0]);
/// # Ok::<(), lanenorm::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    plan: Plan,
    offset: f32,
}

impl RmsNorm {
    /// A plan for rows of `cols` elements, on the [default tier](crate::default_isa), with an offset of 0.
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a tier that is not there.
    pub fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        Ok(Self { plan: Plan::new(cols, eps)?, offset: 0.0 })
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

    /// The same plan with another number added to gamma, in f32: 1 for models that keep gamma - 1, as Gemma does. It has no
    /// effect where there is no gamma.
    pub fn with_offset(self, offset: f32) -> Self {
        Self { offset, ..self }
    }

    /// The same plan with another parallelism.
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Self { plan: Plan { parallelism, ..self.plan }, ..self }
    }

    /// The same plan on another tier (see [`isa`](crate::isa())).
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { plan: Plan { isa, ..self.plan }, ..self }
    }

    /// The same plan with another choice of stores.
    pub fn with_store(self, store: Store) -> Self {
        Self { plan: Plan { store, ..self.plan }, ..self }
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> usize {
        self.plan.cols
    }

    /// The number added to the mean of squares.
    pub fn eps(&self) -> f64 {
        self.plan.eps
    }

    /// The number added to gamma.
    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// The tier that runs.
    pub fn isa(&self) -> Isa {
        self.plan.isa
    }

    /// Normalizes the rows of x into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward<'a>(
        &self,
        x: impl Into<Rows<'a>>,
        gamma: Option<&[f32]>,
        y: impl Into<RowsMut<'a>>,
    ) -> Result<(), Error> {
        self.run(self.plan.rows(x.into(), y.into())?, gamma, None)
    }

    /// Normalizes the rows of x into y, and keeps rstd = 1 / sqrt(mean(x^2) + eps) of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_with_rstd<'a>(
        &self,
        x: impl Into<Rows<'a>>,
        gamma: Option<&[f32]>,
        y: impl Into<RowsMut<'a>>,
        rstd: &mut [f32],
    ) -> Result<(), Error> {
        self.run(self.plan.rows(x.into(), y.into())?, gamma, Some(rstd))
    }

    /// Normalizes rows where they lie.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place<'a>(&self, x: impl Into<RowsMut<'a>>, gamma: Option<&[f32]>) -> Result<(), Error> {
        self.run(self.plan.rows_in_place(x.into())?, gamma, None)
    }

    /// Normalizes rows where they lie, and keeps rstd = 1 / sqrt(mean(x^2) + eps) of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place_with_rstd<'a>(
        &self,
        x: impl Into<RowsMut<'a>>,
        gamma: Option<&[f32]>,
        rstd: &mut [f32],
    ) -> Result<(), Error> {
        self.run(self.plan.rows_in_place(x.into())?, gamma, Some(rstd))
    }

    /// Takes a sum, writes it, and normalizes it into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum<'a>(
        &self,
        sum: Sum<'a>,
        gamma: Option<&'a [f32]>,
        y: impl Into<RowsMut<'a>>,
    ) -> Result<(), Error> {
        self.run_sum(sum, gamma, y.into(), None)
    }

    /// Takes a sum, writes it, normalizes it into y, and keeps rstd = 1 / sqrt(mean(s^2) + eps) of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum_with_rstd<'a>(
        &self,
        sum: Sum<'a>,
        gamma: Option<&'a [f32]>,
        y: impl Into<RowsMut<'a>>,
        rstd: &'a mut [f32],
    ) -> Result<(), Error> {
        self.run_sum(sum, gamma, y.into(), Some(rstd))
    }

    fn run_sum<'a>(
        &self,
        sum: Sum<'a>,
        gamma: Option<&'a [f32]>,
        y: RowsMut<'a>,
        rstd: Option<&'a mut [f32]>,
    ) -> Result<(), Error> {
        let bias = sum.bias;
        let io = self.plan.rows_of_sum(sum, y)?;
        self.check(&io, gamma, rstd.as_deref())?;
        self.plan.run(io, |io, streaming| {
            let job = Job::new(io, gamma, self.offset, self.plan.eps, streaming, rstd)?;
            match bias {
                Some(bias) => job.with_bias(bias),
                None => Some(job),
            }
        });
        Ok(())
    }

    #[inline(always)]
    fn run<'a>(&self, io: RowIo<'a>, gamma: Option<&'a [f32]>, rstd: Option<&'a mut [f32]>) -> Result<(), Error> {
        self.check(&io, gamma, rstd.as_deref())?;
        self.plan.run(io, |io, streaming| Job::new(io, gamma, self.offset, self.plan.eps, streaming, rstd));
        Ok(())
    }

    #[inline(always)]
    fn check(&self, io: &RowIo<'_>, gamma: Option<&[f32]>, rstd: Option<&[f32]>) -> Result<(), Error> {
        shape::length("gamma", gamma, self.plan.cols)?;
        shape::length("rstd", rstd, io.rows())
    }
}

/// RMS normalization of the rows of x, `cols` elements each, into y: [`RmsNorm::forward`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn rms_norm(x: &[f32], cols: usize, gamma: Option<&[f32]>, eps: f64, y: &mut [f32]) -> Result<(), Error> {
    RmsNorm::new(cols, eps)?.forward(x, gamma, y)
}

/// RMS normalization of the rows of x where they lie: [`RmsNorm::forward_in_place`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn rms_norm_in_place(x: &mut [f32], cols: usize, gamma: Option<&[f32]>, eps: f64) -> Result<(), Error> {
    RmsNorm::new(cols, eps)?.forward_in_place(x, gamma)
}
