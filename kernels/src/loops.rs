//! The loops of both normalizations, the choice between them, and the way of rows to the slow path.
//!
//! A [`Job`] is three things: its input (the rows), its reduction (the moments, for `M: Center`) and its
//! [epilogues](epilogue). An epilogue says what becomes of the normalized elements of a row, and the loops are generic
//! over it. The affine epilogue multiplies by gamma and adds beta ([`affines`]).
//!
//! The type parameter `M` says whether the mean is subtracted: layer normalization does so, RMS normalization does not.
//! On the portable tier, and for types whose speed matters less than the size of their code
//! ([`Either`](crate::mean::Either)), the loops of layer normalization take the rows of RMS normalization too, with a
//! mean of 0. This changes no bits: c is 0 and S is taken as 0, so that M2 is Q; x - 0 is x; and fma with a third
//! operand of -0 is a rounded product.
//!
//! # Loops
//!
//! A loop touches a row twice. The first touch takes the moments; it is the only read from memory. The second touch
//! normalizes the row, out of the cache. There are five loops for rows, and every row gets the same bits from each.
//!
//! - *Fused*: one loop takes the moments of row r while it normalizes row r - 1 or r - 2. The loads, arithmetic and
//!   stores of two rows overlap. A long chain lies between the moments of a row and its second touch: folding, square
//!   root, division, about a hundred cycles. With a delay of two rows it runs beside the loop over the next row.
//! - *Blocks* of eight rows, where caches keep x and y: one transposed tree folds the lanes of eight rows, and square
//!   roots and divisions are taken for eight rows at once. Few rows from memory go there: memory would see eight rows
//!   read and then eight written, two at a time.
//! - *Transposed* rows of up to 48 columns, each in a lane of its own, so that nothing is folded at all.
//! - *Whole rows*, when there is only one or when two no longer share a cache: moments, then normalize. Very long rows
//!   are normalized from the back, whose elements the cache still holds. Rows in memory that are normalized in place go
//!   there too: memory is fastest if nothing interrupts its reads, and the writes find their lines in the cache.
//! - *A single row* of at most 16,384 columns, where a call is no more than that. It is the loop over whole rows
//!   without what other rows need: no job is made, and no loop is chosen. (f64 goes to whole rows.)
//! - Tensors of channels have loops of their own, for f32: `pixels`, whose rows are lanes, and `channels`, whose
//!   channels are lanes. Other types go through the loops above, a tile at a time.
//!
//! The portable tier has whole rows alone: it has no units that could overlap.
//!
//! Where x is the sum of two tensors, a loop adds up each chunk just before it takes the moments of the chunk, which
//! then comes out of the cache. Nothing else knows of sums.
//!
//! # Range
//!
//! v is the number under the root: M2 / cols + eps. The loops are trusted with a row if its v is in [`Float::TRUSTED`]
//! (2^-90 to 2^120 in f32), one compare for each row. Then no square that matters has under- or overflowed, rstd is
//! normal and x - hi is finite. All other rows take the slow path ([`exact`](crate::stats::exact)), but for rows of
//! equal elements where eps is 0. The rstd of such a row is infinite and its xhat is 0, which the loops give with an
//! rstd of 0.
//!
//! An infinite or NaN gamma or beta makes NaNs whose sign and payload differ between processors. Every row that has
//! this gamma or beta has such NaNs. So one row of each call is checked while it is normalized, and if it is not
//! finite, all NaNs are made canonical. (Where rows have different gammas and betas, or a lane each, gamma and beta are
//! checked instead.)

mod affine;
mod blocks;
mod carry;
mod channels;
mod choice;
mod columns;
mod epilogue;
mod fused;
mod gamma_beta;
mod group;
mod job;
mod normalize;
mod pixels;
mod slow;
mod tiles;
mod transposed;
mod whole;
mod wide;

pub(crate) use affine::AffineRow;
pub(crate) use channels::{ChannelSums, ChannelsTouch, FEWEST_CHANNELS, sums_len};
pub(crate) use choice::run_job;
pub(crate) use columns::{Columns, run_columns};
pub(crate) use epilogue::Epilogues;
pub(crate) use gamma_beta::GammaBeta;
pub(crate) use group::{Activate, Derive, GroupPiece, run_group};
pub(crate) use job::{Job, Known, exactly, finish_exactly, finish_row, rescue, wide_norm};
pub(crate) use normalize::probe;
pub(crate) use pixels::{ChunkSums, FEWEST_PIXELS, MOST_PIXELS, PixelNorm, PixelTile};
pub(crate) use slow::NormalizeRow;
pub(crate) use tiles::Tile;
pub(crate) use whole::{SingleRow, WholeRow};
pub(crate) use wide::{WideRow, unit_norm};
