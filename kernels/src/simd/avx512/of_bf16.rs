use core::arch::{asm, x86_64::*};

use half::bf16;
use pulp::{f32x16, x86::V4};

use super::mask;
use crate::simd::{Access, Bf16Lanes};

/// The first `n` of 32 elements.
#[inline(always)]
fn mask_of_elements(n: usize) -> __mmask32 {
    debug_assert!(n <= 32);
    ((1u64 << n) - 1) as __mmask32
}

/// The even and the odd elements.
///
/// # Safety
/// - AVX-512F is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn widen(v: __m512i) -> [__m512; 2] {
    let odd = _mm512_and_si512(v, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)), _mm512_castsi512_ps(odd)]
}

/// Each word has the rounded element in its upper half, and anything in its lower half.
///
/// # Safety
/// - As for [`widen`].
#[inline(always)]
unsafe fn round(v: __m512) -> __m512i {
    let bits = _mm512_castps_si512(v);
    let odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
    let half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    _mm512_mask_add_epi32(half, odd, bits, _mm512_set1_epi32(0x8000))
}

/// The inverse of [`widen`], rounded as [`round`] does, for both registers at once. A result is the upper half of a
/// word, plus 1 if the lower half is more than half a unit, or exactly half a unit and the upper half is odd.
///
/// In assembly, since LLVM turns masked shuffles into a permutation of words, which takes three operations, and a
/// masked addition of 1 into two.
///
/// # Safety
/// - AVX-512F and BW are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn narrow_bits(even: __m512i, odd: __m512i) -> __m512i {
    let swapped = _mm512_set4_epi32(0x0d0c_0f0e, 0x0908_0b0a, 0x0504_0706, 0x0100_0302);
    let (one, half) = (_mm512_set1_epi16(1), _mm512_set1_epi16(i16::MIN));
    // These outputs are variables so that they have a type: an output without one counts as a byte, which no such
    // register holds.
    let (of_even, of_odd): (u64, u64);
    let mut upper = odd;
    let least: __m512i;
    let up: u64;
    // SAFETY: the caller's duty; nothing but registers is used.
    unsafe {
        // In blocks of their own, so that loops set the masks once.
        asm!("kmovq {}, {}", out(kreg) of_even, in(reg) 0x3333_3333_3333_3333_u64, options(pure, nomem, nostack, preserves_flags));
        asm!("kmovq {}, {}", out(kreg) of_odd, in(reg) 0xcccc_cccc_cccc_cccc_u64, options(pure, nomem, nostack, preserves_flags));
        asm!(
            "vpshufb {lower}{{{of_odd}}}, {upper}, {swapped}",
            "vpshufb {upper}{{{of_even}}}, {even}, {swapped}",
            "vmovdqa64 {least}, {upper}",
            // half | !upper & 1
            "vpternlogd {least}, {one}, {half}, 0xae",
            "vpcmpnltuw {up}, {lower}, {least}",
            "vpaddw {upper}{{{up}}}, {upper}, {one}",
            lower = inout(zmm_reg) even => _,
            upper = inout(zmm_reg) upper,
            even = in(zmm_reg) even,
            least = out(zmm_reg) least,
            up = out(kreg) up,
            of_even = in(kreg) of_even,
            of_odd = in(kreg) of_odd,
            swapped = in(zmm_reg) swapped,
            one = in(zmm_reg) one,
            half = in(zmm_reg) half,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    let _ = (least, up);
    upper
}

/// [`narrow_bits`] for registers of pulp.
///
/// # Safety
/// - As for [`narrow_bits`].
#[inline(always)]
unsafe fn narrow([even, odd]: [f32x16; 2]) -> __m512i {
    narrow_bits(pulp::cast(even), pulp::cast(odd))
}

impl Access<bf16> for V4 {
    type Regs = [f32x16; 2];
    type Reg = f32x16;

    #[inline(always)]
    unsafe fn load(self, p: *const bf16) -> [f32x16; 2] {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        let [even, odd] = unsafe { widen(_mm512_loadu_si512(p.cast())) };
        [pulp::cast(even), pulp::cast(odd)]
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const bf16, n: usize, fill: f32x16) -> [f32x16; 2] {
        // SAFETY: masked-off lanes are not read; a V4 token exists, so AVX-512F and BW are there.
        unsafe {
            let [even, odd] = widen(_mm512_maskz_loadu_epi16(mask_of_elements(n), p.cast()));
            let fill = pulp::cast(fill);
            [
                pulp::cast(_mm512_mask_mov_ps(fill, mask(n.div_ceil(2)), even)),
                pulp::cast(_mm512_mask_mov_ps(fill, mask(n / 2), odd)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const bf16, stride: usize, j: usize) -> [f32x16; 2] {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe {
            let p = p.add(4 * j * stride);
            let v = _mm512_castsi128_si512(_mm_loadu_si128(p.cast()));
            let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(p.add(stride).cast()));
            let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(p.add(2 * stride).cast()));
            let [even, odd] = widen(_mm512_inserti32x4::<3>(v, _mm_loadu_si128(p.add(3 * stride).cast())));
            [pulp::cast(even), pulp::cast(odd)]
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut bf16, v: [f32x16; 2]) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and BW are there.
        unsafe { _mm512_storeu_si512(p.cast(), narrow(v)) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut bf16, n: usize, v: [f32x16; 2]) {
        // SAFETY: masked-off lanes are not written; a V4 token exists, so AVX-512F and BW are there.
        unsafe { _mm512_mask_storeu_epi16(p.cast(), mask_of_elements(n), narrow(v)) };
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut bf16, v: [f32x16; 2]) {
        debug_assert!(p.cast::<__m512i>().is_aligned());
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and BW are there.
        unsafe { _mm512_stream_si512(p.cast(), narrow(v)) };
    }
}

impl Bf16Lanes for V4 {
    #[inline(always)]
    fn round_bf16(self, v: f32x16) -> f32x16 {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            pulp::cast(_mm512_and_si512(round(pulp::cast(v)), upper))
        }
    }

    #[inline(always)]
    fn split(self, [first, second]: [f32x16; 2]) -> [f32x16; 2] {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            let (a, b) = (pulp::cast(first), pulp::cast(second));
            [pulp::cast(_mm512_permutex2var_ps(a, even, b)), pulp::cast(_mm512_permutex2var_ps(a, odd, b))]
        }
    }

    #[inline(always)]
    fn join(self, [even, odd]: [f32x16; 2]) -> [f32x16; 2] {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        unsafe {
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            let (a, b) = (pulp::cast(even), pulp::cast(odd));
            [pulp::cast(_mm512_permutex2var_ps(a, first, b)), pulp::cast(_mm512_permutex2var_ps(a, second, b))]
        }
    }
}
