//! The job that the touches take, and the ranges in which they are trusted.

use core::ops::RangeInclusive;

use crate::element::Storage;
use crate::error::Error;
use crate::isa::{Isa, Tier};
use crate::rows::{GradRows, LINE, Params};
use crate::simd::{Float, Lanes};
use crate::stats::{CHUNK, Root, RowNorm};

/// The rows that the second touch takes together.
pub(super) const BLOCK_ROWS: usize = 2;

/// The bytes of a first-level cache.
const L1: usize = 32 << 10;

/// The most rows that the first touch takes together.
pub(super) const FIRST_ROWS: usize = 4;

/// Where a register is a cache line, rows of more bytes than this are taken together only if a tensor has at most
/// `TOGETHER_BYTES`: such loops wait for lines, and four rows at once wait longer.
const LONG_ROW_BYTES: usize = 1536;
const TOGETHER_BYTES: usize = 256 << 10;

/// The statistics of each row, as forward has kept them.
///
/// Each has one element for each row of the buffers: row r of the buffers has element r. That holds also where a job
/// takes a part of the rows, by [`GradRows::with_group`] or [`GradRows::split_at`].
#[derive(Clone, Copy, Debug)]
pub struct Stats<'a, F = f32> {
    /// The mean, rounded.
    pub mean: Option<&'a [F]>,
    /// What rounding took from the mean. If absent it counts as 0, which costs digits where the mean is large beside
    /// the standard deviation.
    pub mean_lo: Option<&'a [F]>,
    /// 1 / sqrt(var + eps). If absent, rstd and the mean are computed again from x.
    pub rstd: Option<&'a [F]>,
}

impl<F> Default for Stats<'_, F> {
    /// Nothing was kept: the statistics are taken again.
    fn default() -> Self {
        Self { mean: None, mean_lo: None, rstd: None }
    }
}

impl<'a, F: Float> Stats<'a, F> {
    /// Refuses statistics that do not have an element for each of `rows` rows, that are given without the ones that
    /// they need, or that the normalization does not have.
    #[inline(never)]
    pub(in crate::ops) fn fit(&self, rows: usize, centered: bool) -> Result<(), Error> {
        let all = [("mean", self.mean, centered), ("mean_lo", self.mean_lo, centered), ("rstd", self.rstd, true)];
        for (what, given, is_possible) in all {
            let Some(given) = given else { continue };
            if !is_possible {
                return Err(Error::NotInRms { what, len: given.len() });
            }
            Error::length(what, given.len(), rows)?;
        }
        let (given, missing) = match [self.mean, self.mean_lo, self.rstd].map(|s| s.is_some()) {
            [true, _, false] => ("mean", "rstd"),
            [false, _, true] if centered => ("rstd", "mean"),
            [false, true, _] => ("mean_lo", "mean"),
            _ => return Ok(()),
        };
        Err(Error::Statistics { rows, given, missing })
    }
}

/// The job of either normalization, as the loops take it.
#[derive(Debug)]
pub(super) struct GradJob<'a, T: Storage> {
    /// The tier that it runs on.
    pub(super) isa: Isa,
    /// Whether rows have a mean.
    pub(super) centered: bool,
    pub(super) rows: GradRows<'a, T>,
    pub(super) stats: Stats<'a, T::Float>,
    /// gamma and the offset.
    pub(super) params: Params<'a, T>,
    pub(super) root: Root,
    /// Whether dgamma or dbeta is wanted.
    pub(super) sums: bool,
    pub(super) streaming: bool,
    pub(super) part_rows: usize,
    /// Whether all rows, also those of the job that this is a part of, are one leaf.
    pub(super) is_leaf: bool,
    /// The rows of the first part that come before these, and whether other rows of the last part follow.
    pub(super) before: usize,
    pub(super) is_open: bool,
}

impl<T: Storage> GradJob<'_, T> {
    /// The gamma to multiply by.
    pub(super) fn gamma(&self, i: usize) -> T::Float {
        self.params.gamma(i)
    }

    /// The statistics of row `r`, if forward has kept them. In line, since a function would return them in memory, and
    /// what is loaded from there in wider pieces than it was stored in waits for all stores before it.
    #[inline(always)]
    pub(super) fn norm(&self, r: usize) -> Option<RowNorm<T::Float>> {
        let rstd = self.stats.rstd?;
        let at = self.index(r);
        let zero = T::Float::default();
        let (mut mean, mut mean_lo) = (zero, zero);
        if self.centered {
            if let Some(means) = self.stats.mean {
                mean = means[at];
            }
            if let Some(means) = self.stats.mean_lo {
                mean_lo = means[at];
            }
        }
        Some(RowNorm { mean, mean_lo, rstd: rstd[at] })
    }

    /// The index of row `r` among the rows of the buffers. Not inlined, for less code.
    #[inline(never)]
    fn index(&self, r: usize) -> usize {
        self.rows.index(r)
    }

    /// Whether the rows of a block of dy and x are in L1 for the second touch.
    #[inline(always)]
    pub(super) fn block_is_in_l1(&self) -> bool {
        BLOCK_ROWS * 2 * self.rows.cols() * size_of::<T>() <= L1
    }

    /// Whether the first touch prefetches what follows in memory. Where a register is a cache line, its loop waits for
    /// lines and not for arithmetic.
    #[inline(always)]
    pub(super) fn asks_ahead<S: Lanes>(&self) -> bool {
        self.streaming && T::Float::lanes::<S>() * size_of::<T>() == LINE && self.block_is_in_l1()
    }

    /// The most rows whose first touch is taken together, with statistics that forward has kept; 0 if the rows are
    /// taken one by one. Streamed rows are taken together only if four of them leave room in L1 for what the second
    /// touch reads beside them.
    pub(super) fn first_rows(&self) -> usize {
        let are_in_l1 = FIRST_ROWS * 2 * self.rows.cols() * size_of::<T>() <= L1 / 4 * 3;
        let has_norms = self.stats.rstd.is_some() && self.rows.is_one_run();
        let row_bytes = self.rows.cols() * size_of::<T>();
        let is_large = row_bytes > LONG_ROW_BYTES && self.rows.rows().saturating_mul(row_bytes) > TOGETHER_BYTES;
        let waits = self.isa.tier() == Tier::Avx512 && is_large;
        let has_floor = self.root.floor > 0.0;
        if !has_norms
            || waits
            || has_floor
            || !self.rows.has_dx()
            || self.rows.cols() > CHUNK
            || self.streaming && !are_in_l1
        {
            0
        } else if are_in_l1 {
            FIRST_ROWS
        } else {
            BLOCK_ROWS
        }
    }
}

/// The ranges of rstd, of the sums of a row, and of their products, within which the loops are trusted with the row.
pub(super) struct Trusted {
    pub(super) rstd: RangeInclusive<f64>,
    pub(super) sums: RangeInclusive<f64>,
    pub(super) products: RangeInclusive<f64>,
}

pub(super) const fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

const fn range(from: i64, to: i64) -> RangeInclusive<f64> {
    power_of_two(from)..=power_of_two(to)
}

/// Trusted moments give an rstd from 2^-60 to 2^45 in f32, and from 2^-500 to 2^480 in f64; a power of two less, lest
/// rounding move one across the border. Beyond these ranges a product can lose digits that matter, or overflow.
pub(super) const fn trusted<T: Storage>() -> Trusted {
    if size_of::<T::Float>() == size_of::<f64>() {
        Trusted { rstd: range(-499, 479), sums: range(-500, 900), products: range(-900, 900) }
    } else {
        Trusted { rstd: range(-59, 44), sums: range(-60, 100), products: range(-100, 100) }
    }
}
