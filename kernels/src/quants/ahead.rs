//! What is asked of memory while a row is quantized.

use crate::rows::LINE;
use crate::simd::Lanes;

/// Rows that loops read some time after the row that is being quantized, and that come from memory. The loops ask for
/// lines too, but memory would have nothing to do while they wait for a row to be quantized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Below {
    /// The first row.
    x: *const u8,
    /// The bytes from one row to the next, and those of an element.
    stride: usize,
    element: usize,
    /// How many rows lie between the row that is quantized and the row that is asked for.
    distance: usize,
}

impl Below {
    pub(crate) fn new<T>(x: *const T, stride: usize, distance: usize) -> Self {
        Self { x: x.cast(), stride: stride.wrapping_mul(size_of::<T>()), element: size_of::<T>(), distance }
    }

    /// What is asked for while row `r` is quantized. The row need not be there.
    #[inline(always)]
    pub(crate) fn row(self, r: usize) -> Ahead {
        let start = (r + self.distance).wrapping_mul(self.stride);
        Ahead { p: self.x.wrapping_add(start), element: self.element }
    }
}

/// A row that is asked for while another is quantized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Null if nothing is asked for.
    p: *const u8,
    element: usize,
}

impl Ahead {
    pub(crate) const NOTHING: Self = Self { p: core::ptr::null(), element: 0 };

    /// Asks for `n` elements from `i` on.
    #[inline(always)]
    pub(crate) fn ask<S: Lanes>(self, simd: S, i: usize, n: usize) {
        if !self.p.is_null() {
            let from = self.p.wrapping_add(i * self.element);
            for line in (0..n * self.element).step_by(LINE) {
                simd.prefetch_to_l2(from.wrapping_add(line));
            }
        }
    }
}
