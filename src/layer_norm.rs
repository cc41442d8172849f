use lanenorm_kernels::Element;
use lanenorm_kernels::element::Beside;
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::stats::{Moments, StatsMut};

use crate::gradients::{GradIo, ParamGrads};
use crate::io::Io;
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};
use crate::{Centered, Error, Sum};

/// A plan for layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta for each row of `cols` elements.
///
/// mean and var are those of the row, var divided by `cols` (Ba, Kiros and Hinton, "Layer Normalization",
/// arXiv:1607.06450, 2016). [`Norm`] tells what plans have in common.
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
pub type LayerNorm = Norm<Centered>;

impl LayerNorm {
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

    /// Normalizes the rows of x into a vector of their own, one after the other.
    ///
    /// ```
    /// use lanenorm::LayerNorm;
    ///
    /// let y = LayerNorm::new(2, 0.0)?.forward_to_vec(&[1.0, 3.0, 5.0, 3.0], None, None)?;
    /// assert_eq!(y, [-1.0, 1.0, 1.0, -1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together.
    pub fn forward_to_vec<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
    ) -> Result<Vec<T>, Error> {
        self.collect(x.into(), |x, y| self.forward(x, gamma, beta, y))
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
        self.finish(self.plan.rows(x.into(), y.into())?, None, gamma, beta, stats)
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
        self.finish(self.plan.rows_in_place(x.into())?, None, gamma, beta, stats)
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
        self.run(Io::sum(sum, y), gamma, beta, stats)
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
        self.run(io, gamma, beta, stats)
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
        self.run_backward(io, gamma, stats, grads, None)
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
        self.run_backward(io, gamma, stats, grads, Some(scratch))
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
        let io = self.plan.rows(x.into(), y.into())?;
        let params = self.plan.params(io.rows(), gamma, beta)?;
        self.run_with(io, moments, params)
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
