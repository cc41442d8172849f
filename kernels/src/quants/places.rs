//! Where rows of y lie, and where quantized rows go.

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
    /// The places of the rows from row `r` on.
    ///
    /// # Safety
    /// - These places have `r` rows or more, of `cols` elements each.
    pub(crate) unsafe fn after(self, scheme: &Scheme, r: usize, cols: usize) -> Self {
        let Self { q, q_stride, scale, zero_point } = self;
        // SAFETY: the caller's duty.
        unsafe {
            Self {
                q: q.add(r * q_stride),
                scale: if scheme.scope == Scope::Tensor { scale } else { scale.add(scheme.scales(r, cols)) },
                zero_point: if scheme.scope == Scope::Row { zero_point.add(scheme.zero_points(r)) } else { zero_point },
                ..self
            }
        }
    }

    /// Writes the scale and the zero point of the first row, of elements in `range`, where these have arrays, and
    /// returns them.
    ///
    /// # Safety
    /// - There is a row.
    #[inline(always)]
    pub(crate) unsafe fn set(self, scheme: &Scheme, range: Range) -> (f32, i32) {
        let (scale, zero_point) = scheme.scale_of(range);
        // SAFETY: the caller's duty.
        unsafe {
            if scheme.scales(1, 1) > 0 {
                *self.scale = scale;
            }
            if scheme.zero_points(1) > 0 {
                *self.zero_point = zero_point as u8;
            }
        }
        (scale, zero_point)
    }
}
