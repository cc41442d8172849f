//! Rows at a chosen place in memory. The values around them must not be touched.

use std::ops::Range;

use lanenorm::{Rows, RowsMut};

use super::Value;

/// The number of elements ahead of the rows, and behind them.
const MARGIN: usize = 16;

const CACHE_LINE: usize = 64;

/// Rows at a chosen distance from one another. The first starts a chosen number of elements after a cache line.
pub(crate) struct Buffer<V> {
    data: Vec<V>,
    start: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<V: Value> Buffer<V> {
    /// `rows` rows of the sentinel.
    pub(crate) fn blank(rows: usize, cols: usize, gap: usize, misalignment: usize) -> Self {
        let stride = cols + gap;
        let data: Vec<V> = sentinels(rows * stride + misalignment + CACHE_LINE / size_of::<V>() + 2 * MARGIN);
        let start = MARGIN + data[MARGIN..].as_ptr().align_offset(CACHE_LINE) + misalignment;
        Self { data, start, rows, cols, stride }
    }

    /// The rows of a contiguous slice.
    pub(crate) fn holding(contiguous: &[V], cols: usize, gap: usize, misalignment: usize) -> Self {
        let rows = contiguous.len().checked_div(cols).unwrap_or(0);
        let mut buffer = Self::blank(rows, cols, gap, misalignment);
        for r in 0..rows {
            let at = buffer.start + r * buffer.stride;
            buffer.data[at..at + cols].copy_from_slice(&contiguous[r * cols..(r + 1) * cols]);
        }
        buffer
    }

    /// All rows, of a buffer without gaps.
    pub(crate) fn contiguous(&self) -> &[V] {
        assert_eq!(self.stride, self.cols);
        &self.data[self.start..][..self.rows * self.cols]
    }

    /// The same elements, to be written.
    pub(crate) fn contiguous_mut(&mut self) -> &mut [V] {
        assert_eq!(self.stride, self.cols);
        &mut self.data[self.start..][..self.rows * self.cols]
    }

    /// The elements from the first row on, and the stride of rows.
    #[allow(dead_code, reason = "for the fuzz targets, which share this module")]
    pub(crate) fn slice(&self) -> (&[V], usize) {
        (&self.data[self.start..], self.stride)
    }

    /// The same elements, to be written.
    #[allow(dead_code, reason = "for the fuzz targets, which share this module")]
    pub(crate) fn slice_mut(&mut self) -> (&mut [V], usize) {
        (&mut self.data[self.start..], self.stride)
    }

    pub(crate) fn rows(&self) -> Rows<'_, V> {
        Rows::strided(&self.data[self.start..], self.rows, self.stride)
    }

    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_, V> {
        RowsMut::strided(&mut self.data[self.start..], self.rows, self.stride)
    }

    /// The rows, one after the other. Panics if anything around them has changed.
    #[track_caller]
    pub(crate) fn into_rows(self) -> Vec<V> {
        let mut rows = Vec::with_capacity(self.rows * self.cols);
        let mut end = 0;
        for r in 0..self.rows {
            let at = self.start + r * self.stride;
            self.assert_untouched(end..at);
            end = at + self.cols;
            rows.extend_from_slice(&self.data[at..end]);
        }
        self.assert_untouched(end..self.data.len());
        rows
    }

    #[track_caller]
    fn assert_untouched(&self, between: Range<usize>) {
        let elements = &self.data[between.clone()];
        let Some((first, others)) = elements.split_first() else { return };
        // Whether the first is the sentinel, and each other is as the one before it.
        if first.bits() == V::SENTINEL.bits() && bytes(others) == bytes(&elements[..others.len()]) {
            return;
        }
        let touched = elements.iter().position(|v| v.bits() != V::SENTINEL.bits());
        let at = between.start + touched.expect("another number than the sentinel");
        panic!(
            "element {} lies outside the rows ({} x {}, stride {}), but was written",
            at as isize - self.start as isize,
            self.rows,
            self.cols,
            self.stride
        );
    }
}

/// The memory of numbers. To compare it as a whole is fast without optimization too.
pub(crate) fn bytes<V: Value>(numbers: &[V]) -> &[u8] {
    // SAFETY: it is memory of the slice, without padding: the types of this trait are numbers.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// As many sentinels, at least one. What has been made is copied, which is fast without optimization too.
fn sentinels<V: Value>(len: usize) -> Vec<V> {
    let mut all = Vec::with_capacity(len);
    all.push(V::SENTINEL);
    while all.len() < len {
        all.extend_from_within(..all.len().min(len - all.len()));
    }
    all
}

#[test]
fn a_write_beside_the_rows_is_seen() {
    for outside in [-1, 3, 4, 8] {
        let mut buffer = Buffer::holding(&[1.0f32; 6], 3, 2, 5);
        let at = buffer.start as isize + outside;
        buffer.data[at as usize] = 0.0;
        assert!(std::panic::catch_unwind(|| buffer.into_rows()).is_err());
    }
    assert_eq!(Buffer::holding(&[1.0f32; 6], 3, 2, 5).into_rows(), [1.0; 6]);
}
