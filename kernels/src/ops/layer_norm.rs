//! Layer normalization, forward.
//!
//! ```text
//! mean, M2 = moments(x)                                   see `moments`
//! v        = M2 / n + eps                                 in f64
//! rstd     = 1 / sqrt(v)
//! hi, lo   = mean rounded, mean - hi                      the mean to 48 bits or more in f32
//! y        = fma(fma(x - hi, rstd, -lo * rstd), gamma + offset, beta)
//! ```
//!
//! in f32 for elements of f32, f16 and bf16, which are widened when they are loaded and rounded when they are stored,
//! and in f64 for f64. The offset is 1 where gamma enters as 1 + gamma (adaptive normalization), else 0.
//!
//! Keeping the mean as hi + lo is what makes a row of mean 1e6 as good as one of mean 0: x - hi is exact for elements
//! near the mean, and lo brings back what rounding the mean took. It costs two operations for each element, in a loop
//! that waits for loads and stores. The loops are in [`forward`].

use super::forward;
use crate::element::Storage;
use crate::error::Error;
use crate::mean::Centered;
use crate::rows::{Params, RowIo};
use crate::stats::{RowNorm, StatsMut};

/// Layer normalization of some rows.
pub type LayerNorm<'a, T = f32> = forward::Forward<'a, T, Centered>;

/// Layer normalization of one row, or of some columns of it, whose statistics are known.
pub type Normalize<'a, T = f32> = forward::Normalize<'a, T, Centered>;

impl<'a, T: Storage> LayerNorm<'a, T> {
    /// The job of normalizing `rows`. y is written past the caches if `streaming`.
    ///
    /// # Errors
    /// If
    /// - gamma or beta does not have an element for each column of each group,
    /// - a statistic does not have an element for each row,
    /// - gamma and beta differ in type,
    /// - the groups do not divide the rows (groups made by [`Groups::after`](crate::rows::Groups::after) divide any
    ///   number), or
    /// - eps is negative, infinite or NaN.
    #[inline(always)]
    pub fn new(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        Self::checked(rows, params, eps, streaming, stats)
    }
}

impl<'a, T: Storage> Normalize<'a, T> {
    /// The job of normalizing the one row that `row` has, with the gamma and beta of its group.
    ///
    /// # Errors
    /// If
    /// - there are more rows or none,
    /// - the row is a sum that is yet to be taken: its statistics cannot be known,
    /// - gamma or beta does not have an element for each column of each group,
    /// - gamma and beta differ in type, or
    /// - the groups do not divide one row (groups made by [`Groups::after`](crate::rows::Groups::after) do).
    pub fn new(
        row: RowIo<'a, T>,
        params: Params<'a, T>,
        norm: RowNorm<T::Float>,
        streaming: bool,
    ) -> Result<Self, Error> {
        Self::checked(row, params, norm, streaming)
    }
}
