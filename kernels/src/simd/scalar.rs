//! The portable tier: four-lane arrays that compilers turn into whatever the target's baseline has.

mod of_bf16;
mod of_bytes;
mod of_f16;
mod of_f64;

use super::lanes::{Access, FOLD_ROWS, Kernel, Lanes, QUAD};
use pulp::{Scalar128b, Simd, f32x4};

/// Keeps the portable code out of line, as `vectorize` keeps the code of the other tiers.
#[inline(never)]
pub(crate) fn scalar<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Scalar128b)
}

const N: usize = Scalar128b::F32_LANES;

/// `a * b + c` rounded once, from f64 operations alone.
///
/// The product of two f32 is exact in f64, so that only the sum and the conversion to f32 round. Rounding twice
/// differs from rounding once only if the sum lies half-way between two f32 (its last 29 bits are 100...0) or
/// where f32 has fewer bits, below its normal range: seldom enough to look, and then do it the long way.
#[inline(always)]
fn fma(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
    const TAIL: u64 = (1 << 29) - 1;
    const HALF: u64 = 1 << 28;
    let mut out = [0.0; N];
    let mut doubtful = false;
    for i in 0..N {
        let sum = f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i]);
        out[i] = sum as f32;
        doubtful |= sum.to_bits() & TAIL == HALF;
        doubtful |= sum.abs() < f64::from(f32::MIN_POSITIVE) && sum != 0.0;
    }
    if doubtful { fma_to_odd(a, b, c) } else { out }
}

/// The long way: the sum is rounded to odd (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums:
/// proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008). When it is inexact its last bit is
/// set, and the final rounding to f32, at least 29 bits shorter, cannot go wrong. Infinite and NaN results stay so.
#[cold]
#[inline(never)]
fn fma_to_odd(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
    let mut out = [0.0; N];
    for i in 0..N {
        let product = f64::from(a[i]) * f64::from(b[i]);
        let c = f64::from(c[i]);
        let sum = product + c;
        // Knuth's TwoSum: sum + error is exactly product + c.
        let part = sum - product;
        let error = (product - (sum - part)) + (c - part);
        let toward_zero = (error.to_bits() ^ sum.to_bits()) >> 63;
        let odd = sum.to_bits().wrapping_sub(toward_zero) | 1;
        // The error of an infinite or NaN sum is NaN.
        out[i] = f64::from_bits(if error.abs() > 0.0 { odd } else { sum.to_bits() }) as f32;
    }
    out
}

impl Access<f32> for Scalar128b {
    type Regs = f32x4;
    type Reg = f32x4;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x4 {
        // SAFETY: the caller's duty; [f32; 4] has the alignment of f32.
        pulp::cast(unsafe { *p.cast::<[f32; N]>() })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f32, n: usize, fill: f32x4) -> f32x4 {
        let mut lanes: [f32; N] = pulp::cast(fill);
        let tail = core::slice::from_raw_parts(p, n);
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane = x;
        }
        pulp::cast(lanes)
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f32, stride: usize, j: usize) -> f32x4 {
        // SAFETY: the caller's duty: a run is two registers.
        unsafe { self.load(p.add(j / 2 * stride + j % 2 * N)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x4) {
        // SAFETY: the caller's duty; [f32; 4] has the alignment of f32.
        unsafe { *p.cast::<[f32; N]>() = pulp::cast(v) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f32, n: usize, v: f32x4) {
        let lanes: [f32; N] = pulp::cast(v);
        let tail = core::slice::from_raw_parts_mut(p, n);
        for (x, &lane) in tail.iter_mut().zip(&lanes) {
            *x = lane;
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: f32x4) {
        self.store(p, v);
    }
}

impl Lanes for Scalar128b {
    const SPECIALIZES: bool = false;

    #[inline(always)]
    unsafe fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        scalar(kernel)
    }

    #[inline(always)]
    fn fence(self) {}

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn prefetch_to_l2(self, _: *const u8) {}

    #[inline(always)]
    fn fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        pulp::cast(fma(pulp::cast(a), pulp::cast(b), pulp::cast(c)))
    }

    #[inline(always)]
    fn fold(self, v: f32x4) -> f32 {
        let [a, b, c, d]: [f32; N] = pulp::cast(v);
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn fold_rows(self, v: &[f32x4; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        let mut folded = [0.0; FOLD_ROWS];
        for (folded, &v) in folded.iter_mut().zip(v) {
            *folded = self.fold(v);
        }
        folded
    }

    #[inline(always)]
    unsafe fn load_quad(self, p: *const f32, stride: usize) -> [f32x4; QUAD] {
        let mut columns = [[0.0; N]; QUAD];
        for r in 0..N {
            for (j, column) in columns.iter_mut().enumerate() {
                // SAFETY: the caller's duty.
                column[r] = unsafe { *p.add(r * stride).add(j) };
            }
        }
        pulp::cast(columns)
    }

    #[inline(always)]
    unsafe fn store_quad(self, p: *mut f32, stride: usize, v: [f32x4; QUAD]) {
        let columns: [[f32; N]; QUAD] = pulp::cast(v);
        for r in 0..N {
            for (j, column) in columns.iter().enumerate() {
                // SAFETY: the caller's duty.
                unsafe { *p.add(r * stride).add(j) = column[r] };
            }
        }
    }

    #[inline(always)]
    fn widen(self, v: &[f32; FOLD_ROWS]) -> [f64; FOLD_ROWS] {
        let mut wide = [0.0; FOLD_ROWS];
        for (wide, &v) in wide.iter_mut().zip(v) {
            *wide = f64::from(v);
        }
        wide
    }

    #[inline(always)]
    fn narrow(self, v: &[f64; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        let mut narrow = [0.0; FOLD_ROWS];
        for (narrow, &v) in narrow.iter_mut().zip(v) {
            *narrow = v as f32;
        }
        narrow
    }
}

#[cfg(test)]
mod tests {
    use super::{N, fma};

    #[test]
    fn fma_agrees_with_the_correctly_rounded_one() {
        let mut state = 0x243f_6a88_85a3_08d3_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let special = [
            0.0f32,
            -0.0,
            1.0,
            -1.0,
            1.5,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::MIN,
            1e-45,
            -1e-45,
            3e-39,
            1.0 + f32::EPSILON,
            1.0 - f32::EPSILON / 2.0,
            16_777_216.0,
            16_777_215.0,
        ];
        let check = |a: f32, b: f32, c: f32| {
            let ([got, ..], want) = (fma([a; N], [b; N], [c; N]), a.mul_add(b, c));
            assert!(
                got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                "fma({a:e}, {b:e}, {c:e}) = {got:e}, not {want:e}"
            );
        };
        for a in special {
            for b in special {
                for c in special {
                    check(a, b, c);
                }
            }
        }
        for _ in 0..2_000_000 {
            let (p, q) = (next(), next());
            let (a, b) = (f32::from_bits(p as u32), f32::from_bits((p >> 32) as u32));
            check(a, b, f32::from_bits(q as u32));
            // The hard case: the product nearly cancels c, or is a tiny part of its last bit.
            if a.is_finite() && b.is_finite() {
                let near = a * b;
                check(a, b, f32::from_bits(near.to_bits() ^ (1 << 31)));
                let step = (q >> 40) as i32 % 40;
                check(a, b, near * (step as f32).exp2());
                let half = f32::from_bits(0x3f80_0000 | (q as u32 & 0x7f_ffff));
                check(half, (-24f32).exp2() * (1.0 + f32::EPSILON * ((q >> 32) % 3) as f32), half);
            }
        }
    }
}
