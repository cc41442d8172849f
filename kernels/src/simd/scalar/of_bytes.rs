use pulp::{Scalar128b, f32x4, u32x4};

use super::N;
use crate::simd::ByteLanes;

/// Adding this to a number of less than 2^22 leaves no bits after the point, rounded to nearest even.
const SHIFT: f32 = (3 << 22) as f32;

#[inline(always)]
fn narrow(v: u32x4, flip: u8) -> [u8; N] {
    let v: [i32; N] = pulp::cast(v);
    v.map(|v| v.clamp(i8::MIN.into(), i8::MAX.into()) as u8 ^ flip)
}

impl ByteLanes for Scalar128b {
    #[inline(always)]
    fn nearest(self, v: f32x4) -> u32x4 {
        let v: [f32; N] = pulp::cast(v);
        pulp::cast(v.map(|v| ((v + SHIFT) - SHIFT) as i32))
    }

    #[inline(always)]
    fn truncate(self, v: f32x4) -> u32x4 {
        let v: [f32; N] = pulp::cast(v);
        pulp::cast(v.map(|v| v as i32))
    }

    #[inline(always)]
    fn fold_max(self, v: u32x4) -> u32 {
        let [a, b, c, d]: [u32; N] = pulp::cast(v);
        a.max(b).max(c).max(d)
    }

    #[inline(always)]
    fn fold_max_rows(self, v: &[u32x4; 16]) -> u32x4 {
        pulp::cast([self.fold_max(v[0]), self.fold_max(v[1]), self.fold_max(v[2]), self.fold_max(v[3])])
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [u32x4; 4], flip: u8) {
        // SAFETY: the caller's duty.
        unsafe {
            let [a, b, c, d] = v;
            *p.cast::<[[u8; N]; 4]>() = [narrow(a, flip), narrow(b, flip), narrow(c, flip), narrow(d, flip)];
        }
    }

    #[inline(always)]
    unsafe fn store_halves(self, p: [*mut u8; 2], [a, b, c, d]: [u32x4; 4], flip: u8) {
        // SAFETY: the caller's duty.
        unsafe {
            *p[0].cast::<[[u8; N]; 2]>() = [narrow(a, flip), narrow(b, flip)];
            *p[1].cast::<[[u8; N]; 2]>() = [narrow(c, flip), narrow(d, flip)];
        }
    }
}
