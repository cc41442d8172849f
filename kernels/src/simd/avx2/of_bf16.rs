use core::arch::x86_64::*;

use half::bf16;
use pulp::{f32x8, x86::V3};

use super::{N, keep_first};
use crate::simd::{Access, Bf16Lanes};

/// Each word has the rounded element in its upper half, and anything in its lower half.
///
/// # Safety
/// - AVX2 is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn round(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last)
}

/// The even and the odd elements.
///
/// # Safety
/// - As for [`round`].
#[inline(always)]
unsafe fn widen(v: __m256i) -> [f32x8; 2] {
    let odd = _mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
    [pulp::cast(_mm256_slli_epi32::<16>(v)), pulp::cast(odd)]
}

/// The inverse of [`widen`], rounded as [`round`] does, for both registers at once. A result is the upper half of a
/// word, plus 1 if the lower half is more than half a unit, or exactly half a unit and the upper half is odd.
///
/// # Safety
/// - As for [`round`].
#[inline(always)]
unsafe fn narrow([even, odd]: [f32x8; 2]) -> __m256i {
    const ODD: i32 = 0b1010_1010;
    let (even, odd) = (pulp::cast(even), pulp::cast(odd));
    let upper = _mm256_blend_epi16::<ODD>(_mm256_srli_epi32::<16>(even), odd);
    let lower = _mm256_blend_epi16::<ODD>(even, _mm256_slli_epi32::<16>(odd));
    let is_even = _mm256_andnot_si256(upper, _mm256_set1_epi16(1));
    _mm256_add_epi16(upper, _mm256_srli_epi16::<15>(_mm256_subs_epu16(lower, is_even)))
}

impl Access<bf16> for V3 {
    type Regs = [f32x8; 2];
    type Reg = f32x8;

    #[inline(always)]
    unsafe fn load(self, p: *const bf16) -> [f32x8; 2] {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe { widen(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const bf16, n: usize, fill: f32x8) -> [f32x8; 2] {
        debug_assert!(n <= 2 * N);
        let mut tail = [bf16::ZERO; 2 * N];
        // SAFETY: the caller's duty: n elements at p, n <= 2 * N; the buffer has 2 * N.
        unsafe {
            core::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), n);
            let [even, odd] = self.load(tail.as_ptr());
            [keep_first(even, n.div_ceil(2), fill), keep_first(odd, n / 2, fill)]
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const bf16, stride: usize, j: usize) -> [f32x8; 2] {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe {
            let low = _mm_loadu_si128(p.add(2 * j * stride).cast());
            let high = _mm_loadu_si128(p.add((2 * j + 1) * stride).cast());
            widen(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut bf16, v: [f32x8; 2]) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe { _mm256_storeu_si256(p.cast(), narrow(v)) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut bf16, n: usize, v: [f32x8; 2]) {
        debug_assert!(n <= 2 * N);
        let mut tail = [bf16::ZERO; 2 * N];
        // SAFETY: the caller's duty: n elements at p, n <= 2 * N; the buffer has 2 * N.
        unsafe {
            self.store(tail.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(tail.as_ptr(), p, n);
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut bf16, v: [f32x8; 2]) {
        debug_assert!(p.cast::<__m256i>().is_aligned());
        if cfg!(miri) {
            return self.store(p, v);
        }
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe { _mm256_stream_si256(p.cast(), narrow(v)) };
    }
}

impl Bf16Lanes for V3 {
    #[inline(always)]
    fn round_bf16(self, v: f32x8) -> f32x8 {
        // SAFETY: a V3 token exists, so AVX2 is there.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            pulp::cast(_mm256_and_si256(round(pulp::cast(v)), upper))
        }
    }

    #[inline(always)]
    fn split(self, [first, second]: [f32x8; 2]) -> [f32x8; 2] {
        // SAFETY: a V3 token exists, so AVX2 is there.
        unsafe {
            let (a, b) = (pulp::cast(first), pulp::cast(second));
            let (even, odd) = (_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
            // Quarters in the order 0, 2, 1, 3: the shuffles work within halves.
            [
                pulp::cast(_mm256_permute4x64_pd::<0xd8>(_mm256_castps_pd(even))),
                pulp::cast(_mm256_permute4x64_pd::<0xd8>(_mm256_castps_pd(odd))),
            ]
        }
    }

    #[inline(always)]
    fn join(self, [even, odd]: [f32x8; 2]) -> [f32x8; 2] {
        // SAFETY: a V3 token exists, so AVX is there.
        unsafe {
            let (a, b) = (pulp::cast(even), pulp::cast(odd));
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            [
                pulp::cast(_mm256_permute2f128_ps::<0x20>(low, high)),
                pulp::cast(_mm256_permute2f128_ps::<0x31>(low, high)),
            ]
        }
    }
}
