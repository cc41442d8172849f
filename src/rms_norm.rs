use lanenorm_kernels::Isa;
use lanenorm_kernels::backward::Stats;
use lanenorm_kernels::lanes::{Beside, Element, RowIo};
use lanenorm_kernels::moments::Moments;
use lanenorm_kernels::rms_norm::RmsNorm as Job;

use crate::gradients::{GradIo, ParamGrads};
use crate::io::{Form, Io};
use crate::plan::{Plan, Store};
use crate::rows::{Rows, RowsMut};
use crate::{Error, Parallelism, Sum, shape};

/// A plan for RMS normalization: y = x / sqrt(mean(x^2) + eps) * (gamma + offset) for each row of `cols` elements.
///
/// The formula is that of Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, 2019. A plan is a
/// handful of numbers: cheap to make, to copy and to share between threads. Running it allocates nothing, but for what
/// it takes to start a thread ([`Parallelism`]).
///
/// Elements are f32, f64, f16 or bf16. gamma, if given, has `cols` elements (of each [group](Self::with_groups)); without it
/// the factor is 1. x and y are slices of whole rows (row-major) or strided [`Rows`] and [`RowsMut`]. Zero rows or zero
/// columns are fine, and nothing happens.
///
/// |y - exact| <= 4 u |gamma + offset| (1 + |xhat|) on ordinary rows, with u = 2^-24 (2^-53 in f64) and xhat the exact
/// normalized value; on adversarial ones (a step, one huge outlier) the factor may reach 16. To this, 16 bits add the half
/// unit in the last place of their one rounding.
///
/// ```
/// use lanenorm::RmsNorm;
///
/// let plan = RmsNorm::new(4, 0.0)?;
/// let x = [1.0f32, -1.0, 1.0, -1.0, 1e30, 1e30, -1e30, -1e30];
/// let mut y = [0.0; 8];
/// plan.forward(&x, None, &mut y)?;
/// assert_eq!(y, [1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0]);
/// # Ok::<(), lanenorm::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm(Plan);

impl RmsNorm {
    /// A plan for rows of `cols` elements, with an offset of 0, on the [default tier](crate::default_isa), which obeys
    /// the environment variable `LANENORM_ISA`.
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a tier that is not there.
    pub fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        Plan::new(cols, eps).map(Self)
    }

    /// A plan for the last dimensions of a tensor, flattened into one row: `normalized_shape` as in `PyTorch`'s module. No
    /// dimensions are one element.
    ///
    /// These are the dimensions that share an rstd, and not the shape of the tensor. With `&[3, 8]`, 24 elements
    /// are one row; three rows of eight take `&[8]`. A plan cannot tell which is meant: both are valid calls.
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

    /// The same plan with another number added to gamma, in the type that rows are computed in: 1 for models that keep
    /// gamma - 1, as Gemma does. It has no effect where there is no gamma.
    pub fn with_offset(self, offset: f32) -> Self {
        Self(Plan { offset, ..self.0 })
    }

    /// The same plan with a gamma for each of several groups of rows: row r has that of group (r / repeat) % groups. gamma
    /// then has `groups * cols` elements, group after group. With a group for each head, and repeat 1, each head has its own.
    ///
    /// # Errors
    /// If there are no groups or rows, or if their product overflows. A call returns one if its rows are no multiple of
    /// `groups * repeat`.
    pub fn with_groups(self, groups: usize, repeat: usize) -> Result<Self, Error> {
        self.0.with_groups(groups, repeat).map(Self)
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

    /// The number added to the mean of squares.
    pub fn eps(&self) -> f64 {
        self.0.eps
    }

    /// The number added to gamma.
    pub fn offset(&self) -> f32 {
        self.0.offset
    }

    /// The tier that runs.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    /// Normalizes the rows of x into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&[T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        self.finish(self.0.rows(x.into(), y.into())?, None, gamma, None)
    }

    /// Normalizes the rows of x into y, and keeps rstd = 1 / sqrt(mean(x^2) + eps) of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_with_rstd<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&[T]>,
        y: impl Into<RowsMut<'a, T>>,
        rstd: &mut [T::Float],
    ) -> Result<(), Error> {
        self.finish(self.0.rows(x.into(), y.into())?, None, gamma, Some(rstd))
    }

    /// Normalizes rows where they lie.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
    ) -> Result<(), Error> {
        self.finish(self.0.rows_in_place(x.into())?, None, gamma, None)
    }

    /// Normalizes rows where they lie, and keeps rstd = 1 / sqrt(mean(x^2) + eps) of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place_with_rstd<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
        rstd: &mut [T::Float],
    ) -> Result<(), Error> {
        self.finish(self.0.rows_in_place(x.into())?, None, gamma, Some(rstd))
    }

    /// Takes a sum, writes it, and normalizes it into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum<'a, T: Element>(
        &self,
        sum: Sum<'a, T>,
        gamma: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        self.forward_mixed(Io::sum(sum, y), gamma, None)
    }

    /// Takes a sum, writes it, normalizes it into y, and keeps rstd = 1 / sqrt(mean(s^2) + eps) of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum_with_rstd<'a, T: Element>(
        &self,
        sum: Sum<'a, T>,
        gamma: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
        rstd: &'a mut [T::Float],
    ) -> Result<(), Error> {
        self.forward_mixed(Io::sum(sum, y), gamma, Some(rstd))
    }

    /// What all other forms are special cases of: beside an x of 16 bits, gamma and y may have f32.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_mixed<'a, T: Element, G: Beside<T>, Y: Beside<T>>(
        &self,
        io: Io<'a, T, Y>,
        gamma: Option<&'a [G]>,
        rstd: Option<&'a mut [T::Float]>,
    ) -> Result<(), Error> {
        match io.0 {
            Form::Apart { x, y } => self.finish(self.0.rows(x, y)?, None, gamma, rstd),
            Form::InPlace { x } => self.finish(self.0.rows_in_place(x)?, None, gamma, rstd),
            Form::Sum { sum, y } => {
                let bias = sum.bias;
                self.finish(self.0.rows_of_sum(sum, y)?, bias, gamma, rstd)
            }
            Form::Dropped { x, residual, bias, y } => {
                self.finish(self.0.rows_of_dropped_sum(x, residual, bias, y)?, bias, gamma, rstd)
            }
        }
    }

    #[inline(always)]
    fn finish<'a, T: Element, G: Beside<T>>(
        &self,
        io: RowIo<'a, T>,
        bias: Option<&'a [T]>,
        gamma: Option<&'a [G]>,
        rstd: Option<&'a mut [T::Float]>,
    ) -> Result<(), Error> {
        let params = self.0.params(io.rows(), gamma, None)?;
        shape::length("rstd", rstd.as_deref(), io.rows())?;
        self.0.run(io, bias, |io, streaming| Job::new(io, params, self.0.eps, streaming, rstd));
        Ok(())
    }

    /// The gradients dx and dgamma, each if wanted: of a sum of y * dy, by x and gamma. gamma is that of the forward call, and
    /// so are eps, [offset](Self::with_offset) and [groups](Self::with_groups); absent, it counts as 1.
    ///
    /// The rstd that forward has kept spares taking it again; dx and dgamma have the same bits without it. dgamma depends on
    /// the order of the rows and on nothing else: it has the same bits for any number of threads. It is summed up in f32 (f64
    /// for f64) whatever the type of x.
    ///
    /// A row with a NaN or an infinity in x, dy or gamma has a dx of NaN; its neighbours are untouched. Of a row of
    /// zeros, with eps 0, dx is defined to be 0. Memory is allocated for the call: see
    /// [`backward_with_scratch`](Self::backward_with_scratch).
    ///
    /// ```
    /// use lanenorm::{GradIo, RmsNorm};
    ///
    /// let plan = RmsNorm::new(2, 0.0)?;
    /// let (x, gamma, dy) = ([3.0, 4.0], [1.0, 1.0], [3.0, 4.0]);
    /// let (mut dx, mut dgamma) = ([0.0; 2], [0.0; 2]);
    /// plan.backward(GradIo::new(&dy, &x, &mut dx), Some(&gamma), None, Some(&mut dgamma))?;
    /// assert!(dx.iter().all(|v: &f32| v.abs() < 1e-6)); // y does not change with the scale of x
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together, or if no gradient is wanted; nothing has been written then.
    pub fn backward<T: Element>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[T]>,
        rstd: Option<&[T::Float]>,
        dgamma: Option<&mut [T::Float]>,
    ) -> Result<(), Error> {
        self.backward_mixed(io, gamma, rstd, dgamma)
    }

    /// The same, with a gamma that may have f32 beside an x of 16 bits.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn backward_mixed<T: Element, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        rstd: Option<&[T::Float]>,
        dgamma: Option<&mut [T::Float]>,
    ) -> Result<(), Error> {
        let (stats, grads) = (Stats { rstd, ..Stats::default() }, ParamGrads { dgamma, dbeta: None });
        self.0.backward::<T, G, false>(io, gamma, stats, grads, None)
    }

    /// The same, without allocating: with scratch memory of [`backward_scratch_len`](Self::backward_scratch_len) elements, or
    /// fewer for fewer tasks. What is in it before does not matter.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and if the scratch memory is too short even for one task.
    pub fn backward_with_scratch<T: Element, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        rstd: Option<&[T::Float]>,
        dgamma: Option<&mut [T::Float]>,
        scratch: &mut [T::Float],
    ) -> Result<(), Error> {
        let (stats, grads) = (Stats { rstd, ..Stats::default() }, ParamGrads { dgamma, dbeta: None });
        self.0.backward::<T, G, false>(io, gamma, stats, grads, Some(scratch))
    }

    /// The elements of scratch memory that a backward call for `rows` rows takes, if it is cut into as many tasks as
    /// it would be now: none without rows or columns. Else 64 * `cols`, columns rounded up to whole steps of 64 (32 for
    /// f64), for the sums of 32 parts or fewer, 2 * `cols` for each task, and 64 bytes, so that all this can start on a
    /// cache line. Without those bytes calls are slower, unless the memory starts on one.
    ///
    /// # Errors
    /// If their number overflows.
    pub fn backward_scratch_len<T: Element>(&self, rows: usize) -> Result<usize, Error> {
        self.0.backward_scratch_len::<T>(rows, false)
    }

    /// The moments (about zero) of each row of x, which may be some columns of longer rows: one part of a row that several
    /// processes share. Merged by [`Moments::merge_all`], they are those of the whole row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn moments<'a, T: Element>(&self, x: impl Into<Rows<'a, T>>, moments: &mut [Moments]) -> Result<(), Error> {
        self.0.moments(x.into(), false, None, moments)
    }

    /// `None` if the moments of a whole row can be trusted. Else the row is of extreme range, or not finite, and the moments
    /// of all its parts must be taken again, by [`moments_at_scale`](Self::moments_at_scale) with the scale that this gives.
    pub fn rescale<T: Element>(&self, moments: &Moments) -> Option<f64> {
        moments.rescale::<T>(self.0.eps).unwrap_or_else(|e| unreachable!("the plan has checked eps: {e}"))
    }

    /// The moments of each row of x times a power of two, on the slow path, which is right for every finite element.
    ///
    /// The scale is one that [`rescale`](Self::rescale) gives for the type of x: 0.5 for f32, f16 and bf16, and one of
    /// three for f64. [`normalize_with`](Self::normalize_with) takes these moments and the fast ones, and no others.
    ///
    /// # Errors
    /// If the scale is another number, or if the lengths do not fit together; nothing has been written then.
    pub fn moments_at_scale<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        scale: f64,
        moments: &mut [Moments],
    ) -> Result<(), Error> {
        self.0.moments(x.into(), false, Some(scale), moments)
    }

    /// Normalizes the rows of x into y with the moments of the whole rows that they are, or are parts of: one for each row.
    /// With those of [`moments`](Self::moments), taken again where [`rescale`](Self::rescale) says so, y has the bits of
    /// [`forward`](Self::forward) on the whole.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if moments cannot be those of such rows of x (see
    /// [`Moments::are_of`]); nothing has been written then.
    pub fn normalize_with<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        moments: &[Moments],
        gamma: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        let io = self.0.rows(x.into(), y.into())?;
        let params = self.0.params(io.rows(), gamma, None)?;
        self.0.run_with(io, moments, |io, streaming| Job::new(io, params, self.0.eps, streaming, None))
    }
}

/// RMS normalization of the rows of x, `cols` elements each, into y: [`RmsNorm::forward`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn rms_norm<T: Element>(x: &[T], cols: usize, gamma: Option<&[T]>, eps: f64, y: &mut [T]) -> Result<(), Error> {
    RmsNorm::new(cols, eps)?.forward(x, gamma, y)
}

/// RMS normalization of the rows of x where they lie: [`RmsNorm::forward_in_place`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn rms_norm_in_place<T: Element>(x: &mut [T], cols: usize, gamma: Option<&[T]>, eps: f64) -> Result<(), Error> {
    RmsNorm::new(cols, eps)?.forward_in_place(x, gamma)
}
