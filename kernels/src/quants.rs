//! Quantization of rows of f32: what each tier does for a [`Scheme`]. Every result is that of
//! [`quantize`](crate::reference::quantize), in all bits.
//!
//! Elements take one of five ways. The first is for quotients that are correctly rounded. A division takes as long as
//! ten products, so it is
//!
//! ```text
//! r = 1 / scale                        rounded, once for all
//! t = y * r
//! t = fma(fma(-scale, t, y), r, t)
//! ```
//!
//! (Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor", IBM J. Res. Dev. 34(1),
//! 1990). It is asked for t rounded to an integer or to a number of 8 bits, so that t has to be on the right side of
//! each number half-way between two of these, which has at most nine bits: of all 2^23 scales and all such numbers,
//! each y within three units of such a border was tried, and all quotients were correctly rounded. (The test
//! `three_operations_divide` tries some.) Nothing may under- or overflow: other scales, and rows with a NaN or an
//! infinity, are left to `reference.rs`.

mod ahead;
mod blocks;
mod elements;
mod places;
mod ranges;
mod rows;

pub(crate) use ahead::{Ahead, Below};
pub(crate) use places::{Places, Wide};
pub(crate) use rows::{Elements, Quantizer, RangeOf, Rounded, RowIsDone, Rows};
