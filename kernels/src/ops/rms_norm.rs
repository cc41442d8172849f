//! RMS normalization, forward (Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, 2019).
//!
//! ```text
//! Q    = sum x^2                                          per lane, chunks merged in f64: see `moments`
//! v    = Q / n + eps                                      in f64
//! rstd = 1 / sqrt(v)
//! y    = (x * rstd) * (gamma + offset)                    each operation rounded
//! ```
//!
//! It is layer normalization without the mean: nothing is subtracted, so nothing cancels, and no shift is needed. The
//! offset is 1 in models that keep gamma - 1 (Gemma), else 0. The types are the types of layer normalization, and the
//! loops are in [`forward`]. f64 shares the loops of layer normalization, with a mean of 0.

use super::forward;
use crate::element::Storage;
use crate::error::Error;
use crate::mean::Uncentered;
use crate::rows::{Params, RowIo};
use crate::stats::{RowNorm, StatsMut};

/// RMS normalization of some rows.
pub type RmsNorm<'a, T = f32> = forward::Forward<'a, T, Uncentered>;

/// RMS normalization of one row, or of some columns of it, whose rstd is known.
pub type Normalize<'a, T = f32> = forward::Normalize<'a, T, Uncentered>;

impl<'a, T: Storage> RmsNorm<'a, T> {
    /// The job of normalizing `rows`. y is written past the caches if `streaming`.
    ///
    /// # Errors
    /// If
    /// - there is a beta,
    /// - gamma does not have an element for each column of each group,
    /// - rstd does not have an element for each row,
    /// - the groups do not divide the rows (groups made by [`Groups::after`](crate::rows::Groups::after) divide any
    ///   number), or
    /// - eps is negative, infinite or NaN.
    #[inline(always)]
    pub fn new(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        rstd: Option<&'a mut [T::Float]>,
    ) -> Result<Self, Error> {
        without_beta(&params)?;
        Self::checked(rows, params, eps, streaming, StatsMut { rstd, ..StatsMut::default() })
    }
}

impl<'a, T: Storage> Normalize<'a, T> {
    /// The job of normalizing the one row that `row` has, with the gamma of its group.
    ///
    /// # Errors
    /// If
    /// - there are more rows or none,
    /// - the row is a sum that is yet to be taken: its rstd cannot be known,
    /// - there is a beta,
    /// - gamma does not have an element for each column of each group, or
    /// - the groups do not divide one row (groups made by [`Groups::after`](crate::rows::Groups::after) do).
    pub fn new(row: RowIo<'a, T>, params: Params<'a, T>, rstd: T::Float, streaming: bool) -> Result<Self, Error> {
        let norm = RowNorm { mean: T::Float::default(), mean_lo: T::Float::default(), rstd };
        without_beta(&params)?;
        Self::checked(row, params, norm, streaming)
    }
}

/// Refuses a beta.
#[inline(always)]
fn without_beta<T: Storage>(params: &Params<'_, T>) -> Result<(), Error> {
    match &params.beta {
        Some(beta) => Err(Error::NotInRms { what: "beta", len: beta.len() }),
        None => Ok(()),
    }
}
