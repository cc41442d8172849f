//! RMS normalization, forward, f32 (Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, 2019).
//!
//! ```text
//! Q    = sum x^2                                          per lane in f32, chunks merged in f64: see `moments`
//! v    = Q / n + eps                                      in f64
//! rstd = f32(1 / sqrt(v))
//! y    = (x * rstd) * (gamma + offset)                    each operation rounded
//! ```
//!
//! It is layer normalization without the mean: nothing is subtracted, so nothing cancels, and no shift is needed. The
//! offset is 1 in models that keep gamma - 1 (Gemma), else 0. The loops are those of [`forward`].

use crate::forward::{self, RowNorm, StatsMut};
use crate::lanes::RowIo;

/// RMS normalization of some rows.
pub type RmsNorm<'a> = forward::Forward<'a, false>;

/// RMS normalization of one row, or of some columns of it, whose rstd is known.
pub type Normalize<'a> = forward::Normalize<'a, false>;

impl<'a> RmsNorm<'a> {
    /// The job of normalizing `rows`, with `streaming` stores if so asked. gamma, if there is one, has `offset` added. `None`
    /// if gamma or rstd have another length than the rows ask for.
    #[inline(always)]
    pub fn new(
        rows: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        offset: f32,
        eps: f64,
        streaming: bool,
        rstd: Option<&'a mut [f32]>,
    ) -> Option<Self> {
        let offset = without_effect_if_zero(offset);
        Self::checked(rows, gamma, None, offset, eps, streaming, StatsMut { rstd, ..StatsMut::default() })
    }
}

impl<'a> Normalize<'a> {
    /// The job of normalizing the one row that `row` has. `None` if there are more or fewer, or if gamma has another
    /// length.
    pub fn new(row: RowIo<'a>, gamma: Option<&'a [f32]>, offset: f32, rstd: f32, streaming: bool) -> Option<Self> {
        let offset = without_effect_if_zero(offset);
        let norm = RowNorm { mean: 0.0, mean_lo: 0.0, rstd };
        Self::checked(row, gamma, None, offset, norm, streaming)
    }
}

/// Adding -0 changes no bits; adding +0 changes those of -0.
#[inline(always)]
fn without_effect_if_zero(offset: f32) -> f32 {
    if offset == 0.0 { -0.0 } else { offset }
}
