//! Rows in memory with gaps, in all layouts that the C structures can describe.

use std::fmt::Debug;
use std::ptr::null;

use lanenorm::capi::{lanenorm_rows, lanenorm_rows_mut};

use crate::types::Value;

/// What rows have.
pub(crate) trait Kept: Copy + Debug {
    /// A value that no call writes to many elements in a row.
    const BLANK: Self;

    fn number(self) -> u64;
}

impl<V: Value> Kept for V {
    const BLANK: Self = V::SENTINEL;

    fn number(self) -> u64 {
        self.bits()
    }
}

/// Quantized elements, and bytes of blocks.
impl Kept for u8 {
    const BLANK: Self = 0x77;

    fn number(self) -> u64 {
        self.into()
    }
}

/// Where rows start, by the formula of the header, some elements into the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    rows: usize,
    inner_rows: usize,
    cols: usize,
    /// The strides that the call is given: 0 for the default.
    given: (usize, usize),
    row_stride: usize,
    outer_stride: usize,
}

/// The number of kinds of layouts.
pub(crate) const LAYOUTS: usize = 5;

impl Layout {
    pub(crate) fn new(kind: usize, rows: usize, inner_rows: usize, cols: usize) -> Self {
        let runs = rows / inner_rows;
        let given = match kind % LAYOUTS {
            0 => (0, 0),
            1 => (cols + 3, 0),
            // Heads, with other heads behind them.
            2 => (0, inner_rows * cols + 2 * cols + 1),
            3 => (cols + 1, inner_rows * (cols + 1) + 5),
            // Exchanged dimensions: the rows of runs alternate.
            _ => (runs * (cols + 2) + 1, cols + 2),
        };
        let row_stride = if given.0 == 0 { cols } else { given.0 };
        let outer_stride = if given.1 == 0 { inner_rows * row_stride } else { given.1 };
        Self { rows, inner_rows, cols, given, row_stride, outer_stride }
    }

    fn start(&self, r: usize) -> usize {
        r / self.inner_rows * self.outer_stride + r % self.inner_rows * self.row_stride
    }
}

/// Rows, with a value in all gaps that no call writes.
#[derive(Clone, Debug)]
pub(crate) struct Buffer<V> {
    data: Vec<V>,
    layout: Layout,
}

impl<V: Kept> Buffer<V> {
    /// A buffer with that value in the rows too.
    pub(crate) fn blank(layout: Layout) -> Self {
        let len = (0..layout.rows).map(|r| layout.start(r) + layout.cols).max().unwrap_or(0);
        Self { data: vec![V::BLANK; len], layout }
    }

    pub(crate) fn holding(layout: Layout, values: &[V]) -> Self {
        let mut this = Self::blank(layout);
        for (r, row) in values.chunks_exact(layout.cols).enumerate() {
            this.data[layout.start(r)..][..layout.cols].copy_from_slice(row);
        }
        this
    }

    /// The elements of all rows.
    pub(crate) fn values(&self) -> Vec<V> {
        (0..self.layout.rows).flat_map(|r| &self.data[self.layout.start(r)..][..self.layout.cols]).copied().collect()
    }

    /// Asserts that nothing but rows has been written.
    #[track_caller]
    pub(crate) fn assert_gaps(&self, what: &str) {
        let Layout { rows, cols, .. } = self.layout;
        let mut in_row = vec![false; self.data.len()];
        (0..rows).for_each(|r| in_row[self.layout.start(r)..][..cols].fill(true));
        for (i, v) in self.data.iter().enumerate() {
            assert!(in_row[i] || v.number() == V::BLANK.number(), "{what}: element {i}, in a gap, is {v:?}");
        }
    }

    pub(crate) fn input(&self) -> lanenorm_rows {
        let (row_stride, outer_stride) = self.layout.given;
        lanenorm_rows { data: self.data.as_ptr().cast(), row_stride, outer_stride }
    }

    pub(crate) fn output(&mut self) -> lanenorm_rows_mut {
        let (row_stride, outer_stride) = self.layout.given;
        lanenorm_rows_mut { data: self.data.as_mut_ptr().cast(), row_stride, outer_stride }
    }
}

/// The same rows, as an input.
pub(crate) fn as_input(rows: lanenorm_rows_mut) -> lanenorm_rows {
    lanenorm_rows { data: rows.data, row_stride: rows.row_stride, outer_stride: rows.outer_stride }
}

pub(crate) const NONE: lanenorm_rows = lanenorm_rows { data: null(), row_stride: 0, outer_stride: 0 };

pub(crate) const NONE_MUT: lanenorm_rows_mut =
    lanenorm_rows_mut { data: std::ptr::null_mut(), row_stride: 0, outer_stride: 0 };
