//! NEON on aarch64: four lanes.

mod of_bf16;
mod of_bytes;
mod of_f16;
mod of_f64;

use core::arch::aarch64::*;
use core::arch::asm;

use super::lanes::{Access, Entry, FOLD_ROWS, Kernel, Lanes, QUAD};
use pulp::{Simd, aarch64::Neon, f32x4, f64x2};

const N: usize = Neon::F32_LANES;

/// The first `n` lanes of `v`, and `fill` in the lanes above.
///
/// # Safety
/// - NEON is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn keep_first(v: f32x4, n: usize, fill: f32x4) -> f32x4 {
    let lanes: uint32x4_t = pulp::cast([0u32, 1, 2, 3]);
    let keep = vcltq_u32(lanes, vdupq_n_u32(n as u32));
    pulp::cast(vbslq_f32(keep, pulp::cast(v), pulp::cast(fill)))
}

impl Access<f32> for Neon {
    type Regs = f32x4;
    type Reg = f32x4;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x4 {
        // SAFETY: the caller's duty; a Neon token exists.
        pulp::cast(unsafe { vld1q_f32(p) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f32, n: usize, fill: f32x4) -> f32x4 {
        debug_assert!(n <= N);
        // SAFETY: only elements 0..n are read; a Neon token exists.
        unsafe {
            let v: float32x4_t = pulp::cast(fill);
            pulp::cast(match n {
                0 => v,
                1 => vld1q_lane_f32::<0>(p, v),
                2 => vcombine_f32(vld1_f32(p), vget_high_f32(v)),
                3 => vld1q_lane_f32::<2>(p.add(2), vcombine_f32(vld1_f32(p), vget_high_f32(v))),
                _ => vld1q_f32(p),
            })
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f32, stride: usize, j: usize) -> f32x4 {
        // SAFETY: the caller's duty: a run is two registers.
        unsafe { self.load(p.add(j / 2 * stride + j % 2 * N)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x4) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe { vst1q_f32(p, pulp::cast(v)) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f32, n: usize, v: f32x4) {
        debug_assert!(n <= N);
        // SAFETY: only elements 0..n are written; a Neon token exists.
        unsafe {
            let v: float32x4_t = pulp::cast(v);
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, v),
                2 => vst1_f32(p, vget_low_f32(v)),
                3 => {
                    vst1_f32(p, vget_low_f32(v));
                    vst1q_lane_f32::<2>(p.add(2), v);
                }
                _ => vst1q_f32(p, v),
            }
        }
    }

    /// An ordinary store: aarch64's STNP is a hint that the stable intrinsics do not reach.
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: f32x4) {
        self.store(p, v);
    }
}

impl Lanes for Neon {
    #[inline(always)]
    unsafe fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        self.vectorize(Entry { simd: self, kernel })
    }

    #[inline(always)]
    fn fence(self) {}

    /// PRFM: the intrinsic is not stable.
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly)) };
    }

    #[inline(always)]
    fn prefetch_to_l2(self, p: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly)) };
    }

    #[inline(always)]
    fn fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        self.mul_add_f32s(a, b, c)
    }

    #[inline(always)]
    fn fold(self, v: f32x4) -> f32 {
        // SAFETY: a Neon token exists.
        unsafe {
            let v: float32x4_t = pulp::cast(v);
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }

    #[inline(always)]
    fn fold_rows(self, v: &[f32x4; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        let v: [float32x4_t; FOLD_ROWS] = pulp::cast(*v);
        // SAFETY: a Neon token exists.
        let folded: [f32x4; 2] = unsafe {
            let low = by1(by2(v[0], v[1]), by2(v[2], v[3]));
            let high = by1(by2(v[4], v[5]), by2(v[6], v[7]));
            [pulp::cast(low), pulp::cast(high)]
        };
        pulp::cast(folded)
    }

    #[inline(always)]
    unsafe fn load_quad(self, p: *const f32, stride: usize) -> [f32x4; QUAD] {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe {
            pulp::cast(transpose([
                vld1q_f32(p),
                vld1q_f32(p.add(stride)),
                vld1q_f32(p.add(2 * stride)),
                vld1q_f32(p.add(3 * stride)),
            ]))
        }
    }

    #[inline(always)]
    unsafe fn store_quad(self, p: *mut f32, stride: usize, v: [f32x4; QUAD]) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe {
            let rows = transpose(pulp::cast(v));
            for r in 0..QUAD {
                vst1q_f32(p.add(r * stride), rows[r]);
            }
        }
    }

    #[inline(always)]
    fn widen(self, v: &[f32; FOLD_ROWS]) -> [f64; FOLD_ROWS] {
        let [low, high]: [float32x4_t; 2] = pulp::cast(*v);
        // SAFETY: a Neon token exists.
        let wide: [float64x2_t; 4] = unsafe {
            [
                vcvt_f64_f32(vget_low_f32(low)),
                vcvt_high_f64_f32(low),
                vcvt_f64_f32(vget_low_f32(high)),
                vcvt_high_f64_f32(high),
            ]
        };
        pulp::cast::<[f64x2; 4], _>(pulp::cast(wide))
    }

    #[inline(always)]
    fn narrow(self, v: &[f64; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        let [a, b, c, d]: [float64x2_t; 4] = pulp::cast(*v);
        // SAFETY: a Neon token exists.
        let narrow: [float32x4_t; 2] =
            unsafe { [vcvt_high_f32_f64(vcvt_f32_f64(a), b), vcvt_high_f32_f64(vcvt_f32_f64(c), d)] };
        pulp::cast::<[f32x4; 2], _>(pulp::cast(narrow))
    }
}

/// Exchanges rows and columns.
///
/// # Safety
/// - NEON is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn transpose([a, b, c, d]: [float32x4_t; QUAD]) -> [float32x4_t; QUAD] {
    let even = [vreinterpretq_f64_f32(vtrn1q_f32(a, b)), vreinterpretq_f64_f32(vtrn1q_f32(c, d))];
    let odd = [vreinterpretq_f64_f32(vtrn2q_f32(a, b)), vreinterpretq_f64_f32(vtrn2q_f32(c, d))];
    [
        vreinterpretq_f32_f64(vzip1q_f64(even[0], even[1])),
        vreinterpretq_f32_f64(vzip1q_f64(odd[0], odd[1])),
        vreinterpretq_f32_f64(vzip2q_f64(even[0], even[1])),
        vreinterpretq_f32_f64(vzip2q_f64(odd[0], odd[1])),
    ]
}

/// Adds four lanes of a to two, and four lanes of b to two: the sums of a below, the sums of b above.
///
/// # Safety
/// - NEON is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn by2(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
    vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b)))
}

/// Adds neighbouring lanes of a and of b: the sums of a below, the sums of b above.
///
/// # Safety
/// - As for [`by2`].
#[inline(always)]
unsafe fn by1(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vaddq_f32(vuzp1q_f32(a, b), vuzp2q_f32(a, b))
}
