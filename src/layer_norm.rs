use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Centered, Element};

use crate::Error;
use crate::input::Plain;
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};

/// A plan for layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta for each row of `cols` elements.
///
/// mean and var are the mean and the variance of the row; the variance is divided by `cols` (Ba, Kiros and Hinton,
/// "Layer Normalization", arXiv:1607.06450, 2016). [`Norm`] documents what both kinds of plans have in common.
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
        let (gamma, beta) = (gamma.map(Vector::from), beta.map(Vector::from));
        self.normalize(Plain, x.into(), y.into(), gamma, beta, StatsMut::default())
    }

    /// Normalizes the rows of x into a new vector, one row after the other.
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
        let (gamma, beta) = (gamma.map(Vector::from), beta.map(Vector::from));
        self.normalize_to_vec(Plain, x.into(), gamma, beta, StatsMut::default())
    }

    /// Normalizes rows in place.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn forward_in_place<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
    ) -> Result<(), Error> {
        let (gamma, beta) = (gamma.map(Vector::from), beta.map(Vector::from));
        self.normalize_in_place(Plain, x.into(), gamma, beta, StatsMut::default())
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

/// Layer normalization of the rows of x in place: [`LayerNorm::forward_in_place`] for the common case.
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
