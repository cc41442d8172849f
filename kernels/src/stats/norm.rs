//! The statistics that normalizing a row takes, and where statistics are written.

use pulp::Simd;

use super::{Moments, Root};
use crate::error::Error;
use crate::simd::{Float, sqrt_f64};

/// The statistics that normalizing the elements of one row takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm<F = f32> {
    /// The mean, rounded.
    pub mean: F,
    /// What rounding took from the mean.
    pub mean_lo: F,
    /// 1 / sqrt(var + eps).
    pub rstd: F,
}

impl<F: Float> RowNorm<F> {
    pub(crate) const NAN: Self = Self { mean: F::NAN, mean_lo: F::NAN, rstd: F::NAN };

    #[inline(always)]
    pub(crate) fn new(origin: f64, offset: f64, rstd: f64) -> Self {
        let mean = F::from_f64(origin + offset);
        Self { mean, mean_lo: F::from_f64((origin - mean.into()) + offset), rstd: F::from_f64(rstd) }
    }

    /// From moments of the slow path, and from `v`, which the root is taken of at their scale.
    pub(crate) fn rescued(moments: &Moments, v: f64) -> Self {
        let &Moments { origin, offset, scale, .. } = moments;
        Self::new(origin / scale, offset / scale, 1.0 / sqrt_f64(pulp::Scalar, v) * scale)
    }

    /// From the moments of a row. `None` if they leave the range in which they can be trusted, or were taken at
    /// another scale.
    #[inline(always)]
    pub(crate) fn trusted<S: Simd>(simd: S, moments: &Moments, root: &Root) -> Option<Self> {
        Self::of_v(simd, moments, root.at_least(root.above(moments.m2, moments.count)))
    }

    /// The same with what the root is taken of.
    #[inline(always)]
    pub(crate) fn of_v<S: Simd>(simd: S, moments: &Moments, v: f64) -> Option<Self> {
        let trusted = F::TRUSTED.contains(&v) && moments.scale == 1.0;
        trusted.then(|| Self::new(moments.origin, moments.offset, 1.0 / sqrt_f64(simd, v)))
    }
}

/// Where to write the statistics of each row. Each statistic is optional, and has one element for each row.
#[derive(Debug)]
pub struct StatsMut<'a, F = f32> {
    /// The mean, rounded.
    pub mean: Option<&'a mut [F]>,
    /// What rounding took from the mean: in f32, `mean + mean_lo` has 48 bits.
    pub mean_lo: Option<&'a mut [F]>,
    /// 1 / sqrt(var + eps): infinite beyond the range of its type, and for a constant row with eps = 0.
    pub rstd: Option<&'a mut [F]>,
}

impl<F> Default for StatsMut<'_, F> {
    /// Nothing is wanted.
    fn default() -> Self {
        Self { mean: None, mean_lo: None, rstd: None }
    }
}

impl<'a, F: Float> StatsMut<'a, F> {
    /// Refuses statistics that do not have an element for each row.
    #[inline(always)]
    pub(crate) fn fit(&self, rows: usize) -> Result<(), Error> {
        let len = |s: &Option<&mut [F]>| s.as_ref().map_or(rows, |s| s.len());
        Error::length("mean", len(&self.mean), rows)?;
        Error::length("mean_lo", len(&self.mean_lo), rows)?;
        Error::length("rstd", len(&self.rstd), rows)
    }

    /// Whether there is a statistic to be written.
    pub(crate) fn are_wanted(&self) -> bool {
        self.mean.is_some() || self.mean_lo.is_some() || self.rstd.is_some()
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, r: usize, norm: &RowNorm<F>) {
        for (out, v) in [(&mut self.mean, norm.mean), (&mut self.mean_lo, norm.mean_lo), (&mut self.rstd, norm.rstd)] {
            if let Some(out) = out {
                out[r] = v;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_block<const R: usize>(&mut self, r: usize, mean: &[F; R], mean_lo: &[F; R], rstd: &[F; R]) {
        for (out, v) in [(&mut self.mean, mean), (&mut self.mean_lo, mean_lo), (&mut self.rstd, rstd)] {
            if let Some(out) = out {
                out[r..r + R].copy_from_slice(v);
            }
        }
    }

    /// The outputs of `rows` rows from row `r` on, while these are borrowed.
    pub(crate) fn part(&mut self, r: usize, rows: usize) -> StatsMut<'_, F> {
        let all = StatsMut {
            mean: self.mean.as_deref_mut(),
            mean_lo: self.mean_lo.as_deref_mut(),
            rstd: self.rstd.as_deref_mut(),
        };
        all.split_at(r).1.split_at(rows).0
    }

    /// The outputs of the first `row` rows, and of the rest. If there are fewer rows, the first has all outputs.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let cut = |s: Option<&'a mut [F]>| s.map(|s| s.split_at_mut(row.min(s.len()))).unzip();
        let ((mean, mean_b), (mean_lo, mean_lo_b), (rstd, rstd_b)) =
            (cut(self.mean), cut(self.mean_lo), cut(self.rstd));
        (Self { mean, mean_lo, rstd }, Self { mean: mean_b, mean_lo: mean_lo_b, rstd: rstd_b })
    }
}
