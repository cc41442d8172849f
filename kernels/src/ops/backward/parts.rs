//! Parts of the rows, each with sums of its own.

use crate::element::Storage;
use crate::error::Count;

/// The number of rows whose gradients of gamma and beta are added one after the other.
pub const LEAF_ROWS: usize = 16;

/// The least number of rows of a part.
const PART_ROWS: usize = 64;

/// The greatest number of parts.
const MAX_PARTS: usize = 32;

/// How rows are cut so that dgamma and dbeta have the same bits for any number of threads, and how much memory their
/// sums take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(super) part_rows: usize,
}

impl Parts {
    /// The parts of `rows` rows.
    pub fn new(rows: usize, cols: usize) -> Self {
        let part_rows = rows.div_ceil(MAX_PARTS).next_multiple_of(LEAF_ROWS).max(PART_ROWS);
        Self { rows, cols, part_rows }
    }

    /// The number of parts: 32 at most.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(self.part_rows)
    }

    /// The first row of a part, or the number of rows if there is no such part.
    pub fn first_row(&self, part: usize) -> usize {
        self.rows.min(part.saturating_mul(self.part_rows))
    }

    /// The number of rows of each part but the last.
    pub(crate) fn part_rows(&self) -> usize {
        self.part_rows
    }

    /// Whether all rows are one leaf. Its sums have no errors: they are the sums of the one part, and what stands where
    /// the errors of a part are kept does not count.
    pub(super) fn is_leaf(&self) -> bool {
        self.rows <= LEAF_ROWS
    }

    /// The elements of memory that the sums of one part take, with their errors: columns in whole steps, for gamma and,
    /// if `centered`, for beta. `None` on overflow.
    pub fn partial_len<T: Storage>(&self, centered: bool) -> Option<usize> {
        padded::<T>(self.cols)?.checked_mul(2 * sums(centered))
    }

    /// The elements of memory that a thread takes to work on its parts: gamma, and the sums of a leaf. `None` on
    /// overflow.
    pub fn work_len<T: Storage>(&self, centered: bool) -> Option<usize> {
        padded::<T>(self.cols)?.checked_mul(1 + sums(centered))
    }
}

/// The number of parameters whose gradients are sums over the rows.
pub(super) const fn sums(centered: bool) -> usize {
    if centered { 2 } else { 1 }
}

/// Panics unless memory has the elements that it must have; `None` if these are more than `usize` can count.
#[inline(always)]
pub(in crate::ops) fn assert_len(what: &'static str, len: usize, expected: Option<usize>) {
    if Some(len) != expected {
        wrong_len(what, len, "", expected)
    }
}

/// Panics unless memory has at least the elements that it must have.
#[inline(always)]
pub(in crate::ops) fn assert_len_at_least(what: &'static str, len: usize, expected: Option<usize>) {
    if expected.is_none_or(|expected| len < expected) {
        wrong_len(what, len, "at least ", expected)
    }
}

#[cold]
#[inline(never)]
fn wrong_len(what: &'static str, len: usize, least: &'static str, expected: Option<usize>) -> ! {
    match expected {
        Some(expected) => panic!("{what} has {}, expected {least}{expected}", Count(len, "element")),
        None => panic!("{what} has {}, expected more than usize can count", Count(len, "element")),
    }
}

/// A number of columns in whole steps.
fn padded<T: Storage>(cols: usize) -> Option<usize> {
    cols.checked_next_multiple_of(T::STEP)
}
