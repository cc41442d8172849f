//! The range of elements.

use crate::scheme::Range;
use crate::simd::Lanes;

/// The bits of infinity. The bits of greater magnitudes are those of NaNs.
const INFINITY: u32 = f32::INFINITY.to_bits();

/// The registers of a step.
const STEP: usize = 4;

/// The bits of the magnitude of each element. As integers they are in the order of magnitudes, and NaNs come last: the
/// greatest is the same in any order, on every tier.
#[inline(always)]
pub(super) fn magnitude<S: Lanes>(simd: S, v: S::f32s) -> S::u32s {
    simd.and_u32s(simd.transmute_u32s_f32s(v), simd.splat_u32s(i32::MAX.cast_unsigned()))
}

/// The range of which the greatest magnitude has these bits.
#[inline(always)]
fn of_bits(bits: u32) -> Range {
    if bits < INFINITY { Range { min: 0.0, max: f32::from_bits(bits) } } else { Range::NAN }
}

/// A range with the greatest magnitude of `n` elements. It has no least element.
///
/// # Safety
/// - There are `n` elements.
#[inline(always)]
pub(super) unsafe fn symmetric<S: Lanes>(simd: S, y: *const f32, n: usize) -> Range {
    let mut greatest = [simd.splat_u32s(0); STEP];
    let mut i = 0;
    while i + STEP * S::F32_LANES <= n {
        for k in 0..STEP {
            // SAFETY: the loop's condition and the caller's duty.
            let v = unsafe { simd.load(y.add(i + k * S::F32_LANES)) };
            greatest[k] = simd.max_u32s(greatest[k], magnitude(simd, v));
        }
        i += STEP * S::F32_LANES;
    }
    while i < n {
        let rest = (n - i).min(S::F32_LANES);
        // SAFETY: as above.
        let v = unsafe { simd.load_tail(y.add(i), rest, simd.splat_f32s(0.0)) };
        greatest[0] = simd.max_u32s(greatest[0], magnitude(simd, v));
        i += rest;
    }
    of_bits(fold(simd, greatest))
}

#[inline(always)]
fn fold<S: Lanes>(simd: S, [a, b, c, d]: [S::u32s; STEP]) -> u32 {
    simd.fold_max(simd.max_u32s(simd.max_u32s(a, b), simd.max_u32s(c, d)))
}

/// The range of `n` elements.
///
/// # Safety
/// - There are `n` elements.
#[inline(always)]
pub(super) unsafe fn range<S: Lanes>(simd: S, y: *const f32, n: usize) -> Range {
    let zero = simd.splat_f32s(0.0);
    let (mut least, mut most, mut greatest) = ([zero; 2], [zero; 2], [simd.splat_u32s(0); 2]);
    let mut i = 0;
    while i < n {
        // SAFETY: the caller's duty.
        let v = unsafe {
            if i + 2 * S::F32_LANES <= n {
                [simd.load(y.add(i)), simd.load(y.add(i + S::F32_LANES))]
            } else {
                let rest = (n - i).min(S::F32_LANES);
                [simd.load_tail(y.add(i), rest, zero), simd.load_tail(y.add(i + rest), n - i - rest, zero)]
            }
        };
        for k in 0..2 {
            least[k] = simd.min_f32s(least[k], v[k]);
            most[k] = simd.max_f32s(most[k], v[k]);
            greatest[k] = simd.max_u32s(greatest[k], magnitude(simd, v[k]));
        }
        i += 2 * S::F32_LANES;
    }
    if simd.fold_max(simd.max_u32s(greatest[0], greatest[1])) >= INFINITY {
        return Range::NAN;
    }
    // Each is a number, at most or at least 0, so that magnitudes are enough.
    let least = simd.fold_max(magnitude(simd, simd.min_f32s(least[0], least[1])));
    let most = simd.fold_max(magnitude(simd, simd.max_f32s(most[0], most[1])));
    Range { min: -f32::from_bits(least), max: f32::from_bits(most) }
}

/// The element of greatest magnitude of `n` elements, a multiple of a register, the first of several. `None` if an
/// element is NaN or infinite.
///
/// # Safety
/// - There are `n` elements.
#[inline(always)]
pub(super) unsafe fn extreme<S: Lanes>(simd: S, y: *const f32, n: usize) -> Option<f32> {
    // SAFETY: the caller's duty.
    let range = unsafe { range(simd, y, n) };
    if !range.is_finite() {
        return None;
    }
    let amax = range.amax();
    if range.max != -range.min {
        return Some(if range.max == amax { range.max } else { range.min });
    }
    // SAFETY: as above.
    let y = unsafe { core::slice::from_raw_parts(y, n) };
    y.iter().copied().find(|v| v.abs() == amax).or(Some(0.0))
}
