//! What the root is taken of.

use crate::divisor::Divisor;
use crate::simd::{Float, in_default_environment, sqrt_f64};

/// Not inlined: see [`in_default_environment`].
#[inline(never)]
fn square(v: f64) -> f64 {
    v * v
}

/// What the root is taken of, `v`: a share of the sum of squares, plus eps, but at least a floor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    /// Whether the sum counts, and not the mean.
    is_sum: bool,
    pub(crate) eps: f64,
    /// Zero if there is none.
    pub(crate) floor: f64,
}

impl Root {
    /// sqrt(mean of squares + eps).
    #[inline(always)]
    pub(crate) fn of_mean(eps: f64) -> Self {
        Self { is_sum: false, eps, floor: 0.0 }
    }

    #[inline(always)]
    pub(crate) fn new(divisor: Divisor, eps: f64) -> Self {
        match divisor {
            Divisor::RootMeanSquare => Self::of_mean(eps),
            Divisor::Norm => Self { is_sum: true, eps, floor: 0.0 },
            Divisor::NormAtLeast => Self { is_sum: true, eps: 0.0, floor: in_default_environment(|| square(eps)) },
        }
    }

    /// What the sum of the squares of `n` elements is divided by.
    #[inline(always)]
    pub(crate) fn count(&self, n: f64) -> f64 {
        if self.is_sum { 1.0 } else { n }
    }

    /// The share that the square of each of `n` elements has in v.
    #[inline(always)]
    pub(crate) fn share(&self, n: f64) -> f64 {
        1.0 / self.count(n)
    }

    /// v of `n` elements whose squares have the sum `m2`, where no floor counts.
    #[inline(always)]
    pub(crate) fn above(&self, m2: f64, n: f64) -> f64 {
        m2 * self.share(n) + self.eps
    }

    /// The floor, if v is below it.
    #[inline(always)]
    pub(crate) fn at_least(&self, v: f64) -> f64 {
        if v < self.floor { self.floor } else { v }
    }

    /// Below this the loops hand a row to the slow path.
    #[inline(always)]
    pub(crate) fn least<F: Float>(&self) -> f64 {
        F::TRUSTED.start().max(self.floor)
    }

    /// v of `n` elements of the slow path, whose squares have the sum `m2` at a scale, at that scale.
    pub(crate) fn exact(&self, m2: f64, n: f64, scale: f64) -> f64 {
        let v = m2 / self.count(n) + self.eps * scale * scale;
        let floor = self.floor * scale * scale;
        if v < floor { floor } else { v }
    }

    /// Whether a row with this rstd is divided by the floor. Its xhat does not depend on its norm then.
    #[inline(always)]
    pub(crate) fn is_floor<F: Float>(&self, rstd: F) -> bool {
        self.floor > 0.0 && rstd.into() >= F::from_f64(1.0 / sqrt_f64(pulp::Scalar, self.floor)).into()
    }

    /// Whether equal elements may be divided by zero.
    pub(crate) fn may_be_zero(&self) -> bool {
        self.eps == 0.0 && self.floor == 0.0
    }
}
