//! Epilogues: the last part of an operation, which makes y from normalized elements. The loops are generic over it.
//!
//! An [`Epilogue`] belongs to one row, [`Epilogues`] belong to the rows of a job, and [`Successive`] gives the
//! epilogues of rows that a loop takes one after another.

use core::mem::MaybeUninit;
use core::ops::Range;

use crate::element::{Pair, Storage};
use crate::isa::Isa;
use crate::mean::{Center, Mean};
use crate::rows::{RowIo, Target};
use crate::simd::Lanes;
use crate::stats::exact::WideNorm;

/// A loop that has one piece of code for each [way](crate::rows::way) of an epilogue.
pub(crate) trait Body {
    /// The ways that the loop has a piece of code for: bit `n` is set for way `n`. A loop without the general ways
    /// never writes past the caches, nor in a type other than the type of x.
    const WAYS: u8;

    type Output;

    fn run<const WAY: u8>(self) -> Self::Output;
}

/// The epilogue of one row: it makes y from xhat, a pair of registers at a time.
///
/// Whoever holds one knows that whatever it reads and writes has an element for each column.
pub(crate) trait Epilogue<T: Storage>: Copy {
    /// The operands of a pair of registers, which are read beside x: gamma and beta, for example.
    type Operands<S: Lanes>: Copy;

    /// Runs the piece of `body` for the way that is quickest for this row.
    fn by_way<S: Lanes, M: Center, B: Body>(&self, body: B) -> B::Output;

    /// The operands for a pair of registers, from element `i + j` on. A stand-in for an absent operand, which is as
    /// long as a step, is read from its element `j` on.
    ///
    /// # Safety
    /// - There is a pair of elements from `i + j` on.
    /// - `j` plus a pair is at most a step.
    /// - `WAY` is the way that [`by_way`](Self::by_way) chooses, or [`STEPS_GENERAL`](crate::rows::way::STEPS_GENERAL).
    ///   For a row without steps it may be [`GENERAL`](crate::rows::way::GENERAL).
    unsafe fn operands<S: Lanes, M: Center, const WAY: u8>(&self, simd: S, i: usize, j: usize) -> Self::Operands<S>;

    /// The operands for `n` elements from `i` on, at most a pair of registers. The way of the row is among `WAYS`.
    ///
    /// # Safety
    /// - There are `i + n` elements.
    unsafe fn operands_tail<S: Lanes, M: Center, const WAYS: u8>(
        &self,
        simd: S,
        i: usize,
        n: usize,
    ) -> Self::Operands<S>;

    /// Makes y, a pair of registers, from `xhat`.
    fn apply<S: Lanes, M: Center, const WAY: u8>(
        simd: S,
        mean: Mean<M>,
        xhat: Pair<S, T>,
        operands: Self::Operands<S>,
    ) -> Pair<S, T>;

    /// Writes `v`, a pair of registers of y, from element `i` on.
    ///
    /// # Safety
    /// - As for [`Target::store`].
    unsafe fn store<S: Lanes, const WAY: u8>(self, simd: S, i: usize, v: Pair<S, T>);

    /// Writes the first `n` elements of `v`, at most a pair of registers, from element `i` on.
    ///
    /// # Safety
    /// - There are `i + n` elements.
    unsafe fn store_tail<S: Lanes>(self, simd: S, i: usize, n: usize, v: Pair<S, T>);

    /// Whether operands can be read of any pair of consecutive elements, not only of pairs that begin at a multiple of
    /// their length.
    fn is_in_order(&self) -> bool;

    /// Where it writes y, perhaps past the caches.
    fn target(&self) -> Target<T>;

    /// The same epilogue, which writes to `y`.
    fn to(self, y: Target<T>) -> Self;

    /// Whether the row is rounded [in steps](crate::rows::way::STEPS).
    fn has_steps(&self) -> bool;

    /// Whether a loop with these ways has a piece of code for this row.
    fn is_among<S: Lanes>(&self, ways: u8) -> bool;

    /// The epilogue of the columns from `i` on.
    ///
    /// # Safety
    /// - There are `i` elements, and operands are [in order](Self::is_in_order).
    unsafe fn after(self, i: usize) -> Self;
}

/// The factor and the addend of each of at most 48 columns, and room for the rest of a pair of registers.
pub(crate) type ColumnOperands = [[MaybeUninit<f32>; 48 + 32]; 2];

/// The epilogues of the rows of a job.
pub(crate) trait Epilogues<T: Storage>: Sized {
    /// The epilogue of a row.
    type Row: Epilogue<T>;

    /// What a loop keeps from row to row: see [`Successive`].
    type Successive<'p>: Successive<T, Self>;

    /// Memory for what is made once for many rows: packed gamma and beta, for example.
    type Room;

    /// Memory in which nothing has been made.
    fn room() -> Self::Room;

    /// The epilogues of the rows after the first `rows`.
    fn after(&self, rows: usize) -> Self;

    /// The epilogues of the first `col` columns, at most `cols`, and the epilogues of the rest.
    fn split_at_col(self, col: usize, cols: usize) -> (Self, Self);

    /// The epilogues of row `r` alone.
    fn of_row(&self, r: usize, cols: usize) -> Self;

    /// The epilogue of the only row, which is written to `y`.
    fn to(&self, y: Target<T>) -> Self::Row;

    /// The epilogue of row `r`. These must be the epilogues of row `r` alone. It writes past the caches if `streaming`.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    unsafe fn only_row(&self, rows: &mut RowIo<'_, T>, r: usize, streaming: bool) -> Self::Row {
        // SAFETY: the caller's duty.
        self.to(unsafe { rows.target(r, streaming) })
    }

    /// The epilogues of the rows in `range`, for a loop that takes them one after another. They may use `room`.
    fn successive<'p>(
        &self,
        rows: &RowIo<'_, T>,
        range: Range<usize>,
        streaming: bool,
        room: &'p Self::Room,
    ) -> Self::Successive<'p>;

    /// Writes the factor and the addend of each column: y is xhat times the factor plus the addend, for all rows. Rows
    /// do not [differ](Self::differ), and there are no [steps](Self::has_steps).
    fn by_column<S: Lanes>(&self, simd: S, cols: usize, operands: &mut ColumnOperands);

    /// Whether rows differ in their operands.
    fn differ(&self) -> bool;

    /// The number of successive rows from row `r` on that have the same operands, if these differ.
    fn same_from(&self, r: usize) -> usize;

    /// Normalizes row `r` in f64, with the statistics `norm`, and makes y from it. These must be the epilogues of row
    /// `r` alone.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn finish_exactly(&self, isa: Isa, rows: &mut RowIo<'_, T>, r: usize, streaming: bool, norm: WideNorm);

    /// Writes row `r` of y for an xhat whose elements are all NaN.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn finish_nan(&self, rows: &mut RowIo<'_, T>, r: usize);

    /// Makes all NaNs in row `r` of y canonical. These must be the epilogues of row `r` alone.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn canonicalize(&self, rows: &mut RowIo<'_, T>, r: usize);

    /// Whether no operand can make a NaN from a finite xhat.
    fn are_finite(&self) -> bool;

    /// Whether rows may be rounded [in steps](crate::rows::way::STEPS).
    fn has_steps(&self) -> bool;
}

/// The epilogues of successive rows, each in turn.
pub(crate) trait Successive<T: Storage, E: Epilogues<T>> {
    /// The epilogue of row `r`, one of `of`. Each call has a later row than the call before.
    ///
    /// # Safety
    /// - There is such a row.
    /// - What is returned is not used after the next call.
    /// - Nothing else uses the room that this was made with.
    unsafe fn row<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        of: &E,
        rows: &mut RowIo<'_, T>,
        r: usize,
        streaming: bool,
    ) -> E::Row;

    /// The epilogues of rows `r` and `r + 1`, which must have the same operands.
    ///
    /// # Safety
    /// - As for [`row`](Self::row), for both rows.
    unsafe fn two_rows<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        of: &E,
        rows: &mut RowIo<'_, T>,
        r: usize,
        streaming: bool,
    ) -> [E::Row; 2];
}
