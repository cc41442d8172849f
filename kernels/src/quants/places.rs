//! Where rows of y lie, and where quantized rows go.

use core::ptr::null_mut;

use crate::scheme::{Range, Scheme, Scope};

/// Rows of y, in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide {
    pub(crate) p: *const f32,
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Where rows of quantized elements go, and their scales and zero points, if these have arrays of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) q: *mut u8,
    /// The bytes from one row to the next.
    pub(crate) q_stride: usize,
    pub(crate) scale: *mut f32,
    pub(crate) zero_point: *mut u8,
}

impl Places {
    /// The places of the rows from row `r` on. Where all rows share a scale, only the first has a place for it, so that
    /// one thread alone writes it.
    ///
    /// # Safety
    /// - These places have `r` rows or more, of `cols` elements each.
    pub(crate) unsafe fn after(self, scheme: &Scheme, r: usize, cols: usize) -> Self {
        let Self { q, q_stride, scale, zero_point } = self;
        // SAFETY: the caller's duty.
        let q = unsafe { q.add(r * q_stride) };
        if scheme.scope == Scope::Tensor {
            return if r == 0 { self } else { Self { q, q_stride, scale: null_mut(), zero_point: null_mut() } };
        }
        // SAFETY: the caller's duty.
        unsafe {
            Self {
                q,
                q_stride,
                scale: scale.add(scheme.scales(r, cols)),
                zero_point: zero_point.add(scheme.zero_points(r)),
            }
        }
    }

    /// Writes the scale and the zero point of the first row, of elements in `range`, where these have places, and
    /// returns them.
    ///
    /// # Safety
    /// - There is a row.
    #[inline(always)]
    pub(crate) unsafe fn set(self, scheme: &Scheme, range: Range) -> (f32, i32) {
        let (scale, zero_point) = scheme.scale_for(range);
        // SAFETY: the caller's duty.
        unsafe {
            if scheme.scales(1, 1) > 0 && !self.scale.is_null() {
                *self.scale = scale;
            }
            if scheme.zero_points(1) > 0 && !self.zero_point.is_null() {
                *self.zero_point = zero_point as u8;
            }
        }
        (scale, zero_point)
    }
}
