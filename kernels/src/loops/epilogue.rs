//! What becomes of rows once they are normalized: the last part of an operation, over which the loops are generic.

use core::ops::Range;

use crate::element::{Pair, Storage};
use crate::isa::Isa;
use crate::mean::{Center, Mean};
use crate::rows::{RowIo, Target};
use crate::simd::Lanes;
use crate::stats::exact::WideNorm;

/// A loop that has one piece of code for each [way](crate::rows::way) of an epilogue.
pub(crate) trait Body {
    /// Whether rows may be written past the caches, or in another type than their own.
    const GENERAL: bool;

    type Output;

    fn run<const WAY: u8>(self) -> Self::Output;
}

/// What becomes of the normalized elements of one row, a pair of registers at a time.
///
/// Whoever holds one knows that all that it reads and writes has an element for each column.
pub(crate) trait Epilogue<T: Storage>: Copy {
    /// What is read for a pair of registers beside x: gamma and beta, say.
    type Operands<S: Lanes>: Copy;

    /// Runs the piece of code that is quickest for this row.
    fn by_way<S: Lanes, M: Center, B: Body>(&self, body: B) -> B::Output;

    /// The operands for the elements from `i + j` on, where `i` is the start of a step and `j` a place within it.
    ///
    /// # Safety
    /// - There are that many elements.
    /// - `j` plus a pair is at most a step.
    /// - `WAY` is what [`by_way`](Self::by_way) gives, or the most general one.
    unsafe fn operands<S: Lanes, M: Center, const WAY: u8>(&self, simd: S, i: usize, j: usize) -> Self::Operands<S>;

    /// The operands for `n` elements from `i` on, at most a pair of registers.
    ///
    /// # Safety
    /// - There are that many elements.
    unsafe fn operands_tail<S: Lanes, M: Center>(&self, simd: S, i: usize, n: usize) -> Self::Operands<S>;

    /// What xhat becomes.
    fn apply<S: Lanes, M: Center, const WAY: u8>(
        simd: S,
        mean: Mean<M>,
        xhat: Pair<S, T>,
        operands: Self::Operands<S>,
    ) -> Pair<S, T>;

    /// Writes what a pair of registers became, from element `i` on.
    ///
    /// # Safety
    /// - As for [`Target::store`].
    unsafe fn store<S: Lanes, const WAY: u8>(self, simd: S, i: usize, v: Pair<S, T>);

    /// Writes `n` elements from `i` on, at most a pair of registers.
    ///
    /// # Safety
    /// - There are that many.
    unsafe fn store_tail<S: Lanes>(self, simd: S, i: usize, n: usize, v: Pair<S, T>);

    /// Where it writes, which may be past the caches.
    fn target(&self) -> Target<T>;

    /// The same epilogue, which writes elsewhere.
    fn to(self, y: Target<T>) -> Self;
}

/// The epilogues of the rows of a job.
pub(crate) trait Epilogues<T: Storage>: Sized {
    /// The epilogue of a row.
    type Row: Epilogue<T>;

    /// What a loop keeps while it asks for the epilogues of successive rows.
    type Successive<'p>: Successive<T, Self>;

    /// Room for what is made once for many rows.
    type Room;

    /// Room in which nothing has been made.
    fn room() -> Self::Room;

    /// The epilogues of the rows after the first `rows`.
    fn after(&self, rows: usize) -> Self;

    /// The epilogues of the first `col` columns, which are there, and of the others.
    fn split_at_col(self, col: usize, cols: usize) -> (Self, Self);

    /// The epilogues of row `r` alone.
    fn of_row(&self, r: usize, cols: usize) -> Self;

    /// The epilogue of row `r`, the only row that these are of. It writes past the caches if `streaming`.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn only_row(&self, rows: &mut RowIo<'_, T>, r: usize, streaming: bool) -> Self::Row;

    /// For a loop that asks for the epilogues of a range of rows, one row after another.
    fn successive<'p>(
        &self,
        rows: &RowIo<'_, T>,
        range: Range<usize>,
        streaming: bool,
        room: &'p Self::Room,
    ) -> Self::Successive<'p>;

    /// Whether rows differ in their operands.
    fn differ(&self) -> bool;

    /// Does for row `r`, the only row that these are of, whose statistics are known in f64, what the loops do for other rows.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn finish_exactly(&self, isa: Isa, rows: &mut RowIo<'_, T>, r: usize, streaming: bool, norm: WideNorm);

    /// Writes what becomes of row `r` if every element of xhat is NaN.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn finish_nan(&self, rows: &mut RowIo<'_, T>, r: usize);

    /// Makes all NaNs of row `r`, the only row that these are of, canonical.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn canonicalize(&self, rows: &mut RowIo<'_, T>, r: usize);

    /// Whether no operand can make a NaN of a finite xhat.
    fn are_finite(&self) -> bool;
}

/// The epilogues of successive rows.
pub(crate) trait Successive<T: Storage, E: Epilogues<T>> {
    /// The epilogue of row `r`, which comes after the rows asked for before.
    ///
    /// # Safety
    /// - There is such a row.
    /// - What is returned is not used after the next call.
    /// - The room that this was made with is not used for others.
    unsafe fn row<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        of: &E,
        rows: &mut RowIo<'_, T>,
        r: usize,
        streaming: bool,
    ) -> E::Row;

    /// The epilogues of two rows from row `r` on, which do not differ in their operands.
    ///
    /// # Safety
    /// - As for [`row`](Self::row).
    unsafe fn two_rows<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        of: &E,
        rows: &mut RowIo<'_, T>,
        r: usize,
        streaming: bool,
    ) -> [E::Row; 2];
}
