//! What rows without a mean are divided by.

use core::ops::RangeInclusive;

use crate::error::Error;

/// What a row of RMS normalization is divided by, and where eps stands. Layer normalization has
/// [`RootMeanSquare`](Self::RootMeanSquare) of x - mean.
///
/// ```text
/// y = x / divisor * (gamma + offset)          sum = the sum of the squares of a row of n elements
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Divisor {
    /// sqrt(sum / n + eps).
    #[default]
    RootMeanSquare,
    /// sqrt(sum + eps), the L2 norm: `l2norm` of Gated Delta Net and Qwen3-Next.
    Norm,
    /// max(sqrt(sum), eps), the L2 norm, but no less than eps: `torch.nn.functional.normalize`. eps is 0, or lies
    /// between 1e-150 and 1e150. The gradient of a row whose norm is less than eps is that of x / eps.
    NormAtLeast,
}

/// The squares of these numbers are in the range of f64.
const LEAST_NORMS: RangeInclusive<f64> = 1e-150..=1e150;

impl Divisor {
    /// Refuses an eps that rows cannot have with this divisor. It is finite and not negative.
    ///
    /// # Errors
    /// If the eps of [`NormAtLeast`](Self::NormAtLeast) is neither 0 nor between 1e-150 and 1e150.
    #[inline(always)]
    pub fn check_eps(self, eps: f64) -> Result<(), Error> {
        match self {
            Self::NormAtLeast if eps != 0.0 && !LEAST_NORMS.contains(&eps) => Err(Error::LeastNorm(eps)),
            _ => Ok(()),
        }
    }
}
