//! Layer normalization, forward, f32.
//!
//! ```text
//! mean, M2 = moments(x)                                   see `moments`
//! v        = M2 / n + eps                                 in f64
//! rstd     = f32(1 / sqrt(v))
//! hi, lo   = f32(mean), f32(mean - hi)                    the mean to 48 bits or more
//! y        = fma(fma(x - hi, rstd, -lo * rstd), gamma, beta)
//! ```
//!
//! Keeping the mean as hi + lo is what makes a row of mean 1e6 as good as one of mean 0: x - hi is exact for
//! elements near the mean, and lo brings back what rounding the mean took. It costs two operations for each
//! element, in a loop that waits for loads and stores. The loops are those of [`forward`].

use crate::forward;
pub use crate::forward::{RowNorm, StatsMut};
use crate::lanes::RowIo;

/// Layer normalization of some rows.
pub type LayerNorm<'a> = forward::Forward<'a, true>;

/// Layer normalization of one row, or of some columns of it, whose statistics are known.
pub type Normalize<'a> = forward::Normalize<'a, true>;

impl<'a> LayerNorm<'a> {
    /// The job of normalizing `rows`, with `streaming` stores if so asked. `None` if gamma, beta or the statistics have
    /// another length than the rows ask for.
    #[inline(always)]
    pub fn new(
        rows: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a>,
    ) -> Option<Self> {
        Self::checked(rows, gamma, beta, -0.0, eps, streaming, stats)
    }
}

impl<'a> Normalize<'a> {
    /// The job of normalizing the one row that `row` has. `None` if there are more or fewer, or if gamma or beta have
    /// another length.
    pub fn new(
        row: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        norm: RowNorm,
        streaming: bool,
    ) -> Option<Self> {
        Self::checked(row, gamma, beta, -0.0, norm, streaming)
    }
}
