use lanenorm_kernels::divisor::Divisor;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Element, Uncentered};

use crate::Error;
use crate::input::Plain;
use crate::norm::Norm;
use crate::plan::Plan;
use crate::rows::{Rows, RowsMut};

/// A plan for RMS normalization: y = x / sqrt(mean(x^2) + eps) * (gamma + offset) for each row of `cols` elements.
///
/// The formula is from Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, 2019. [`Norm`]
/// documents what both kinds of plans have in common.
///
/// |y - exact| <= 4 u |gamma + offset| (1 + |xhat|) on ordinary rows, with u = 2^-24 (2^-53 in f64) and xhat the exact
/// normalized value; on adversarial rows (a step, one huge outlier) the factor may reach 16. Types of 16 bits add half
/// a unit in the last place, for their one rounding.
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
    /// The same plan with another divisor, for L2 normalization: y = x / divisor * (gamma + offset). All else, from
    /// gamma to gradients, 8 bits and gates, is as in RMS normalization. [`rstd_to`](crate::Call::rstd_to) keeps
    /// 1 / divisor.
    ///
    /// ```
    /// use lanenorm::{Divisor, RmsNorm};
    ///
    /// // As `torch.nn.functional.normalize(x, eps=1e-12)`.
    /// let plan = RmsNorm::new(2, 1e-12)?.with_divisor(Divisor::NormAtLeast);
    /// let y = plan.forward_to_vec(&[3.0f32, 4.0, 0.0, 0.0], None)?;
    /// assert_eq!(y, [0.6, 0.8, 0.0, 0.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    /// A call returns an error if the plan's eps does not fit the divisor.
    #[doc(alias = "l2_norm")]
    #[doc(alias = "normalize")]
    pub fn with_divisor(self, divisor: Divisor) -> Self {
        Self::from(Plan { divisor, ..self.plan })
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
        self.normalize(Plain, x.into(), y.into(), gamma.map(Vector::from), None, StatsMut::default())
    }

    /// Normalizes the rows of x into a new vector, one row after the other.
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
        self.normalize_to_vec(Plain, x.into(), gamma.map(Vector::from), None, StatsMut::default())
    }

    /// Normalizes rows in place.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
    ) -> Result<(), Error> {
        self.normalize_in_place(Plain, x.into(), gamma.map(Vector::from), None, StatsMut::default())
    }
}

/// RMS normalization of the rows of x, `cols` elements each, into y: [`RmsNorm::forward`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn rms_norm<T: Element>(x: &[T], cols: usize, gamma: Option<&[T]>, eps: f64, y: &mut [T]) -> Result<(), Error> {
    RmsNorm::new(cols, eps)?.forward(x, gamma, y)
}

/// RMS normalization of the rows of x in place: [`RmsNorm::forward_in_place`] for the common case.
///
/// # Errors
/// If eps is negative, infinite or NaN, or if the lengths do not fit together; nothing has been written then.
pub fn rms_norm_in_place<T: Element>(x: &mut [T], cols: usize, gamma: Option<&[T]>, eps: f64) -> Result<(), Error> {
    RmsNorm::new(cols, eps)?.forward_in_place(x, gamma)
}
