//! Rows at a chosen place in memory. The values around them must not be touched.

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
        let data = vec![V::SENTINEL; rows * stride + misalignment + CACHE_LINE / size_of::<V>() + 2 * MARGIN];
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
    pub(crate) fn into_rows(mut self) -> Vec<V> {
        let mut rows = Vec::with_capacity(self.rows * self.cols);
        for r in 0..self.rows {
            let at = self.start + r * self.stride;
            let row = &mut self.data[at..at + self.cols];
            rows.extend_from_slice(row);
            row.fill(V::SENTINEL);
        }
        let touched = self.data.iter().position(|v| v.bits() != V::SENTINEL.bits());
        if let Some(i) = touched {
            let at = i as isize - self.start as isize;
            panic!(
                "element {at} lies outside the rows ({} x {}, stride {}), but was written",
                self.rows, self.cols, self.stride
            );
        }
        rows
    }
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
