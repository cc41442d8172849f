//! What the normalizations share: the job, the choice of loops, and the way out for rows of extreme range.
//!
//! Layer normalization subtracts the mean, RMS normalization does not: the type parameter `M` says which, of a job and
//! of the loops. Some loops of layer normalization take the rows of RMS normalization too, with a mean of 0: those on
//! the portable tier, and those of types whose speed matters less than their code ([`Either`](crate::mean::Either)).
//! This changes no bits: c is 0 and S is taken as 0, so that M2 is Q; x - 0 is x; and fma with a third operand of -0 is
//! a rounded product.
//!
//! # Loops
//!
//! A row is touched twice: once for its moments, its only read from memory, and once, out of the cache, to be
//! normalized. Three loops do this; every row gets the same bits from each.
//!
//! - *Fused*: one loop takes the moments of row r while it normalizes row r - 1 or r - 2. The
//!   loads, arithmetic and stores of two rows overlap. With a delay of two rows the long chain between them
//!   (folding, square root, division: about a hundred cycles) runs beside the loop and not between two of them.
//! - *Blocks* of eight short rows: the lanes of eight rows are folded as one transposed tree, and square roots
//!   and divisions are taken for eight rows at once. Not where rows come from memory, which would see eight rows read
//!   and then eight written, two at a time.
//! - *Whole rows*, when there is only one or when two no longer share a cache: moments, then normalize. Very long
//!   rows are normalized from the back, whose elements the cache still holds. Also in place in memory: reads that
//!   nothing interrupts are what it is fastest at, and writes find their lines in the cache.
//!
//! The portable tier has the last of them alone: it has no units that could overlap.
//!
//! Where x is the sum of two tensors, each chunk of it is taken just before its moments, which then read it from the
//! cache: nothing else knows of sums.
//!
//! # Range
//!
//! The loops are trusted when v, what the root is taken of, is in [`Float::TRUSTED`] (2^-90 to 2^120 in f32), one
//! compare for each row: then no square that matters has under- or overflowed, rstd is normal and x - hi is finite.
//! All other rows take the slow path ([`exact`]), but for rows of equal elements with eps = 0: their rstd is infinite
//! and their xhat 0, which the loops give with an rstd of 0.
//!
//! An infinite or NaN gamma or beta makes NaNs whose sign and payload differ between processors. It shows in every row
//! of y that it belongs to, so one row of each call is looked over while it is normalized, and all NaNs are made
//! canonical if need be. (Where rows have different gammas, the gammas are looked over instead.)

mod affine;
mod affines;
mod blocks;
mod choice;
mod columns;
mod epilogue;
mod fused;
mod job;
mod normalize;
mod slow;
mod whole;

pub(crate) use affine::Affine;
pub(crate) use choice::run_job;
pub(crate) use columns::{Columns, run_columns};
pub(crate) use job::{Job, finish_row};
pub(crate) use normalize::probe;
pub(crate) use whole::WholeRow;
