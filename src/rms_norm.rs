use lanenorm_kernels::Element;
use lanenorm_kernels::element::Beside;
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::stats::{Moments, StatsMut};

use crate::gradients::{GradIo, ParamGrads};
use crate::io::Io;
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};
use crate::{Error, Sum, Uncentered};

/// A plan for RMS normalization: y = x / sqrt(mean(x^2) + eps) * (gamma + offset) for each row of `cols` elements.
///
/// The formula is that of Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, 2019. [`Norm`]
/// tells what plans have in common.
///
/// |y - exact| <= 4 u |gamma + offset| (1 + |xhat|) on ordinary rows, with u = 2^-24 (2^-53 in f64) and xhat the exact
/// normalized value; on adversarial ones (a step, one huge outlier) the factor may reach 16. To this, 16 bits add the
/// half unit in the last place of their one rounding.
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
pub type RmsNorm = Norm<Uncentered>;

impl RmsNorm {
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
        self.finish(self.plan.rows(x.into(), y.into())?, None, gamma, None, StatsMut::default())
    }

    /// Normalizes the rows of x into a vector of their own, one after the other.
    ///
    /// ```
    /// use lanenorm::RmsNorm;
    ///
    /// let y = RmsNorm::new(2, 0.0)?.forward_to_vec(&[2.0, -2.0, 3.0, 3.0], None)?;
    /// assert_eq!(y, [1.0, -1.0, 1.0, 1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together.
    pub fn forward_to_vec<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&[T]>,
    ) -> Result<Vec<T>, Error> {
        self.collect(x.into(), |x, y| self.forward(x, gamma, y))
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
        self.finish(self.plan.rows(x.into(), y.into())?, None, gamma, None, rstd_alone(Some(rstd)))
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
        self.finish(self.plan.rows_in_place(x.into())?, None, gamma, None, StatsMut::default())
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
        self.finish(self.plan.rows_in_place(x.into())?, None, gamma, None, rstd_alone(Some(rstd)))
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
        self.run(Io::sum(sum, y), gamma, None, StatsMut::default())
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
        self.run(Io::sum(sum, y), gamma, None, rstd_alone(Some(rstd)))
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
        self.run(io, gamma, None, rstd_alone(rstd))
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
        rstd: Option<&[T::Float]>,
        dgamma: Option<&mut [T::Float]>,
        scratch: &mut [T::Float],
    ) -> Result<(), Error> {
        let (stats, grads) = (Stats { rstd, ..Stats::default() }, ParamGrads { dgamma, dbeta: None });
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
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        let io = self.plan.rows(x.into(), y.into())?;
        let params = self.plan.params(io.rows(), gamma, None)?;
        self.run_with(io, moments, params)
    }
}

#[inline(always)]
fn rstd_alone<F>(rstd: Option<&mut [F]>) -> StatsMut<'_, F> {
    StatsMut { rstd, ..StatsMut::default() }
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
