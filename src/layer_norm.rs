use lanenorm_kernels::Isa;
use lanenorm_kernels::backward::Stats;
use lanenorm_kernels::lanes::{Beside, Element, RowIo};
use lanenorm_kernels::layer_norm::{LayerNorm as Job, StatsMut};
use lanenorm_kernels::moments::Moments;

use crate::gradients::{GradIo, ParamGrads};
use crate::io::{Form, Io};
use crate::plan::{Plan, Store};
use crate::rows::{Rows, RowsMut};
use crate::{Error, Parallelism, Sum, shape};

/// A plan for layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta for each row of `cols` elements.
///
/// mean and var are those of the row, var divided by `cols` (Ba, Kiros and Hinton, "Layer Normalization",
/// arXiv:1607.06450, 2016). A plan is a handful of numbers: cheap to make, to copy and to share between threads. Running
/// it allocates nothing, but for what it takes to start a thread ([`Parallelism`]).
///
/// Elements are f32, f64, f16 or bf16. gamma and beta, if given, have `cols` elements (of each
/// [group](Self::with_groups)). x and y are slices of whole rows (row-major) or strided [`Rows`] and [`RowsMut`]. Zero rows
/// or zero columns are fine, and nothing happens.
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
    /// A plan for rows of `cols` elements, on the [default tier](crate::default_isa), which obeys the environment
    /// variable `LANENORM_ISA`.
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a tier that is not there.
    pub fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        Plan::new(cols, eps).map(Self)
    }

    /// A plan for the last dimensions of a tensor, flattened into one row: `normalized_shape` as in `PyTorch`'s module. No
    /// dimensions are one element.
    ///
    /// These are the dimensions that share a mean and a variance, and not the shape of the tensor. With `&[3, 8]`, 24
    /// elements are one row; three rows of eight take `&[8]`. A plan cannot tell which is meant: both are valid calls.
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

    /// The same plan with another number added to gamma, in the type that rows are computed in: 1 for the scale of adaptive
    /// normalization (`AdaLN`), which enters as 1 + gamma. It has no effect where there is no gamma.
    pub fn with_offset(self, offset: f32) -> Self {
        Self(Plan { offset, ..self.0 })
    }

    /// The same plan with a gamma and a beta for each of several groups of rows: row r has those of group
    /// (r / repeat) % groups. gamma and beta then have `groups * cols` elements, group after group.
    ///
    /// One group (the default) is one gamma for all rows; a group for each head or gate, and repeat 1, gives each its own;
    /// a group for each sample, and repeat the rows of a sample, is adaptive normalization.
    ///
    /// # Errors
    /// If there are no groups or rows, or if their product overflows. A call returns one if its rows are no multiple of
    /// `groups * repeat`.
    pub fn with_groups(self, groups: usize, repeat: usize) -> Result<Self, Error> {
        self.0.with_groups(groups, repeat).map(Self)
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// The number added to the variance.
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
        beta: Option<&[T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        self.forward_with_stats(x, gamma, beta, y, StatsMut::default())
    }

    /// Normalizes the rows of x into y, and keeps statistics of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_with_stats<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
        y: impl Into<RowsMut<'a, T>>,
        stats: StatsMut<'_, T::Float>,
    ) -> Result<(), Error> {
        self.finish(self.0.rows(x.into(), y.into())?, None, gamma, beta, stats)
    }

    /// Normalizes rows where they lie.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
    ) -> Result<(), Error> {
        self.forward_in_place_with_stats(x, gamma, beta, StatsMut::default())
    }

    /// Normalizes rows where they lie, and keeps statistics of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place_with_stats<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
        stats: StatsMut<'_, T::Float>,
    ) -> Result<(), Error> {
        self.finish(self.0.rows_in_place(x.into())?, None, gamma, beta, stats)
    }

    /// Takes a sum, writes it, and normalizes it into y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum<'a, T: Element>(
        &self,
        sum: Sum<'a, T>,
        gamma: Option<&'a [T]>,
        beta: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        self.forward_sum_with_stats(sum, gamma, beta, y, StatsMut::default())
    }

    /// Takes a sum, writes it, normalizes it into y, and keeps statistics of each row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_sum_with_stats<'a, T: Element>(
        &self,
        sum: Sum<'a, T>,
        gamma: Option<&'a [T]>,
        beta: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        self.forward_mixed(Io::sum(sum, y), gamma, beta, stats)
    }

    /// What all other forms are special cases of: beside an x of 16 bits, gamma, beta and y may have f32.
    ///
    /// ```
    /// use lanenorm::{Io, LayerNorm, StatsMut, bf16};
    ///
    /// let x = [1.0, 3.0].map(bf16::from_f32);
    /// let (gamma, beta, mut y) = ([2.0, 2.0], [0.5, 0.5], [0.0; 2]); // all f32
    /// let io = Io::new(&x, &mut y);
    /// LayerNorm::new(2, 0.0)?.forward_mixed(io, Some(&gamma[..]), Some(&beta[..]), StatsMut::default())?;
    /// assert_eq!(y, [-1.5, 2.5]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_mixed<'a, T: Element, G: Beside<T>, Y: Beside<T>>(
        &self,
        io: Io<'a, T, Y>,
        gamma: Option<&'a [G]>,
        beta: Option<&'a [G]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        match io.0 {
            Form::Apart { x, y } => self.finish(self.0.rows(x, y)?, None, gamma, beta, stats),
            Form::InPlace { x } => self.finish(self.0.rows_in_place(x)?, None, gamma, beta, stats),
            Form::Sum { sum, y } => {
                let bias = sum.bias;
                self.finish(self.0.rows_of_sum(sum, y)?, bias, gamma, beta, stats)
            }
            Form::Dropped { x, residual, bias, y } => {
                self.finish(self.0.rows_of_dropped_sum(x, residual, bias, y)?, bias, gamma, beta, stats)
            }
        }
    }

    #[inline(always)]
    fn finish<'a, T: Element, G: Beside<T>>(
        &self,
        io: RowIo<'a, T>,
        bias: Option<&'a [T]>,
        gamma: Option<&'a [G]>,
        beta: Option<&'a [G]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        let params = self.0.params(io.rows(), gamma, beta)?;
        Plan::check_stats(io.rows(), &stats)?;
        self.0.run(io, bias, |io, streaming| Job::new(io, params, self.0.eps, streaming, stats));
        Ok(())
    }

    /// The gradients dx, dgamma and dbeta, each if wanted: of a sum of y * dy, by x, gamma and beta. gamma is that of the
    /// forward call, and so are eps, [offset](Self::with_offset) and [groups](Self::with_groups); absent, it counts as 1.
    ///
    /// Statistics that forward has kept ([`StatsMut`]) spare taking them again; dx, dgamma and dbeta have the same bits
    /// without them, if `mean_lo` has been kept too: without it the mean is one of 24 bits. dgamma and dbeta depend on
    /// the order of the rows and on nothing else: they have the same bits for any number of threads. They are summed up
    /// in f32 (f64 for f64) whatever the type of x.
    ///
    /// A row with a NaN or an infinity in x, dy or gamma has a dx of NaN; its neighbours are untouched. Of a row whose
    /// elements are all equal, with eps 0, dx is defined to be 0. Memory is allocated for the call: see
    /// [`backward_with_scratch`](Self::backward_with_scratch).
    ///
    /// ```
    /// use lanenorm::{GradIo, LayerNorm, ParamGrads, StatsMut};
    ///
    /// let plan = LayerNorm::new(3, 1e-5)?;
    /// let (x, gamma, dy) = ([1.0, 2.0, 4.0], [1.0, 0.5, 2.0], [0.1, -0.2, 0.3]);
    /// let (mut y, mut mean, mut mean_lo, mut rstd) = ([0.0; 3], [0.0], [0.0], [0.0]);
    /// let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
    /// plan.forward_with_stats(&x, Some(&gamma), None, &mut y, stats)?;
    ///
    /// let (mut dx, mut dgamma, mut dbeta) = ([0.0; 3], [0.0; 3], [0.0; 3]);
    /// let stats = lanenorm::Stats { mean: Some(&mean), mean_lo: Some(&mean_lo), rstd: Some(&rstd) };
    /// let grads = ParamGrads { dgamma: Some(&mut dgamma), dbeta: Some(&mut dbeta) };
    /// plan.backward(GradIo::new(&dy, &x, &mut dx), Some(&gamma), stats, grads)?;
    /// assert_eq!(dbeta, dy);
    /// assert!(dx.iter().sum::<f32>().abs() < 1e-6); // y does not change with an offset of x
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together, if mean comes without rstd or rstd without mean, or if no gradient is wanted;
    /// nothing has been written then.
    pub fn backward<T: Element>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[T]>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
    ) -> Result<(), Error> {
        self.backward_mixed(io, gamma, stats, grads)
    }

    /// The same, with a gamma that may have f32 beside an x of 16 bits.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn backward_mixed<T: Element, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
    ) -> Result<(), Error> {
        self.0.backward::<T, G, true>(io, gamma, stats, grads, None)
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
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: &mut [T::Float],
    ) -> Result<(), Error> {
        self.0.backward::<T, G, true>(io, gamma, stats, grads, Some(scratch))
    }

    /// The elements of scratch memory that a backward call for `rows` rows takes, if it is cut into as many tasks as
    /// it would be now: none without rows or columns. Else 128 * `cols`, columns rounded up to whole steps of 64 (32
    /// for f64), for the sums of 32 parts or fewer, 3 * `cols` for each task, and 64 bytes, so that all this can start
    /// on a cache line. Without those bytes calls are slower, unless the memory starts on one.
    ///
    /// # Errors
    /// If their number overflows.
    pub fn backward_scratch_len<T: Element>(&self, rows: usize) -> Result<usize, Error> {
        self.0.backward_scratch_len::<T>(rows, true)
    }

    /// The moments of each row of x, which may be some columns of longer rows: one part of a row that several processes
    /// share. Merged by [`Moments::merge_all`], they are those of the whole row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn moments<'a, T: Element>(&self, x: impl Into<Rows<'a, T>>, moments: &mut [Moments]) -> Result<(), Error> {
        self.0.moments(x.into(), true, None, moments)
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
        self.0.moments(x.into(), true, Some(scale), moments)
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
        beta: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        let io = self.0.rows(x.into(), y.into())?;
        let params = self.0.params(io.rows(), gamma, beta)?;
        let job = |io, streaming| Job::new(io, params, self.0.eps, streaming, StatsMut::default());
        self.0.run_with(io, moments, job)
    }
}

/// Layer normalization of the rows of x, `cols` elements each, into y: [`LayerNorm::forward`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn layer_norm<T: Element>(
    x: &[T],
    cols: usize,
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
    eps: f64,
    y: &mut [T],
) -> Result<(), Error> {
    LayerNorm::new(cols, eps)?.forward(x, gamma, beta, y)
}

/// Layer normalization of the rows of x where they lie: [`LayerNorm::forward_in_place`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn layer_norm_in_place<T: Element>(
    x: &mut [T],
    cols: usize,
    gamma: Option<&[T]>,
    beta: Option<&[T]>,
    eps: f64,
) -> Result<(), Error> {
    LayerNorm::new(cols, eps)?.forward_in_place(x, gamma, beta)
}
