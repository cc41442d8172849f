//! Elements whose scale is known.

use super::ahead::Ahead;
use super::ranges::magnitude;
use crate::scheme::{Format, LEAST_QUICK_SCALE, MOST_QUICK_SCALE, Quotient, Scheme, Scope, Ties};
use crate::simd::{Kernel, Lanes, outline};

/// The ways of elements. Each has a loop of its own.
pub(super) mod way {
    /// Correctly rounded quotients, ties to even, to signed integers without a zero point.
    pub(crate) const DIVIDE: u8 = 0;
    /// Products, ties to even, to signed integers without a zero point.
    pub(crate) const MULTIPLY: u8 = 1;
    /// Products, ties away from zero, to signed integers without a zero point.
    pub(crate) const AWAY: u8 = 2;
    /// Correctly rounded quotients, ties to even, to integers that a zero point is added to and that are saturated.
    /// Elements of which one is NaN, or greater by far than all integers, take the next way afterwards.
    pub(crate) const SHIFT: u8 = 3;
    /// Everything else.
    pub(crate) const GENERAL: u8 = 4;
}

/// Integers are saturated when they have this magnitude at most.
const MOST_QUOTIENT: f32 = 1024.0;

/// How elements that share a scale become bytes.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    way: u8,
    format: Format,
    divides: bool,
    ties_away: bool,
    scale: f32,
    inverse: f32,
    /// Elements of greater magnitude are saturated before they are divided.
    most: f32,
    /// The least and the greatest quotient.
    quotients: [f32; 2],
    /// Added to integers.
    offset: i32,
    flip: u8,
}

impl Rule {
    /// The rule for elements whose magnitude is at most `amax`, if nothing under- or overflows.
    #[inline(always)]
    pub(super) fn quick(scheme: &Scheme, scale: f32, zero_point: i32, amax: f32) -> Option<Self> {
        let given = matches!(scheme.scope, Scope::Given { .. });
        let inverse = if scheme.quotient == Quotient::Ratio && !given { scheme.divisor / amax } else { 1.0 / scale };
        Self::quick_with(scheme, scale, inverse, zero_point, amax)
    }

    /// The same with the factor of products.
    #[inline(always)]
    pub(super) fn quick_with(scheme: &Scheme, scale: f32, inverse: f32, zero_point: i32, amax: f32) -> Option<Self> {
        let range = LEAST_QUICK_SCALE..=MOST_QUICK_SCALE;
        let quick = range.contains(&scale) && inverse <= f32::MAX && amax <= f32::MAX;
        quick.then(|| {
            let given = matches!(scheme.scope, Scope::Given { .. });
            let divides = scheme.quotient == Quotient::Divide;
            let ties_away = scheme.ties == Ties::Away && scheme.format.is_integer();
            let format = scheme.format;
            // Integers that leave the range by little are saturated when they are packed, but to -128.
            let by_far = scheme.divisor > MOST_QUOTIENT;
            let leaves = given || by_far || (scheme.divisor > format.max() && scheme.least == -127);
            let way = match (format, divides, ties_away, leaves) {
                (Format::I8, true, false, false) => way::DIVIDE,
                (Format::I8, false, false, false) => way::MULTIPLY,
                (Format::I8, false, true, false) => way::AWAY,
                (Format::I8 | Format::U8, true, false, _) => way::SHIFT,
                _ => way::GENERAL,
            };
            let quotients = match format {
                Format::I8 if scheme.least == -127 => [(-127 - zero_point) as f32, MOST_QUOTIENT],
                Format::I8 | Format::U8 => [-MOST_QUOTIENT, MOST_QUOTIENT],
                Format::E4m3 | Format::E5m2 => [-format.max(), format.max()],
            };
            let (offset, flip) = match format {
                Format::I8 => (zero_point, 0),
                Format::U8 => (zero_point - 128, 0x80),
                // Codes from 0 to 255.
                Format::E4m3 | Format::E5m2 => (-128, 0x80),
            };
            let most = scale * (2.0 * quotients[1]);
            Self { way, format, divides, ties_away, scale, inverse, most, quotients, offset, flip }
        })
    }
}

/// A [`Rule`] in registers.
#[derive(Clone, Copy)]
struct Regs<S: Lanes> {
    negative_scale: S::f32s,
    inverse: S::f32s,
    most: S::f32s,
    quotients: [S::f32s; 2],
    offset: S::u32s,
    /// The greatest magnitudes of the elements so far, where these decide on the way.
    greatest: S::u32s,
}

impl<S: Lanes> Regs<S> {
    #[inline(always)]
    fn new(simd: S, rule: &Rule) -> Self {
        Self {
            negative_scale: simd.splat_f32s(-rule.scale),
            inverse: simd.splat_f32s(rule.inverse),
            most: simd.splat_f32s(rule.most),
            quotients: [simd.splat_f32s(rule.quotients[0]), simd.splat_f32s(rule.quotients[1])],
            offset: simd.splat_u32s(rule.offset.cast_unsigned()),
            greatest: simd.splat_u32s(0),
        }
    }

    /// Whether the elements may take this way.
    #[inline(always)]
    fn allow<const WAY: u8>(&self, simd: S, rule: &Rule) -> bool {
        WAY != way::SHIFT || simd.fold_max(self.greatest) <= rule.most.to_bits()
    }

    /// y divided by the scale. See [`quants`](super).
    #[inline(always)]
    fn divide(&self, simd: S, y: S::f32s) -> S::f32s {
        divide(simd, y, self.negative_scale, self.inverse)
    }

    /// The integers of a register, before they are saturated.
    #[inline(always)]
    fn integers<const WAY: u8>(&self, simd: S, rule: &Rule, y: S::f32s) -> S::u32s {
        match WAY {
            way::DIVIDE => simd.nearest(self.divide(simd, y)),
            way::MULTIPLY => simd.nearest(simd.mul_f32s(y, self.inverse)),
            way::AWAY => away(simd, simd.mul_f32s(y, self.inverse)),
            way::SHIFT => {
                let quotient = simd.max_f32s(self.divide(simd, y), self.quotients[0]);
                simd.add_u32s(simd.nearest(quotient), self.offset)
            }
            _ => {
                let quotient = self.saturated(simd, rule.divides, y);
                let v = match rule.format {
                    Format::E4m3 => float::<_, 3, 7, 0x7f>(simd, y, quotient),
                    Format::E5m2 => float::<_, 2, 15, 0x7e>(simd, y, quotient),
                    Format::I8 | Format::U8 if rule.ties_away => away(simd, quotient),
                    Format::I8 | Format::U8 => simd.nearest(quotient),
                };
                simd.add_u32s(v, self.offset)
            }
        }
    }

    /// y divided by the scale, within the range of quotients. NaN counts as 0.
    #[inline(always)]
    fn saturated(&self, simd: S, divides: bool, y: S::f32s) -> S::f32s {
        let y = simd.select_f32s(simd.equal_f32s(y, y), y, simd.splat_f32s(0.0));
        let y = simd.max_f32s(simd.min_f32s(y, self.most), simd.neg_f32s(self.most));
        let quotient = if divides { self.divide(simd, y) } else { simd.mul_f32s(y, self.inverse) };
        simd.max_f32s(simd.min_f32s(quotient, self.quotients[1]), self.quotients[0])
    }
}

/// y divided by a scale: see [`quants`](super).
#[inline(always)]
fn divide<S: Lanes>(simd: S, y: S::f32s, negative_scale: S::f32s, inverse: S::f32s) -> S::f32s {
    if !S::SPECIALIZES {
        // The portable tier has no instruction for fma.
        return simd.div_f32s(y, simd.neg_f32s(negative_scale));
    }
    let t = simd.mul_f32s(y, inverse);
    simd.fma(simd.fma(negative_scale, t, y), inverse, t)
}

/// Rounded to an integer, ties away from zero: the greatest number below one half, with the sign of v, is added to it.
#[inline(always)]
fn away<S: Lanes>(simd: S, v: S::f32s) -> S::u32s {
    let below_half = simd.splat_f32s(0.5 - f32::EPSILON / 4.0);
    let sign = simd.and_f32s(v, simd.splat_f32s(-0.0));
    simd.truncate(simd.add_f32s(v, simd.or_f32s(sign, below_half)))
}

/// `v`, which is in range, is rounded to nearest even, to a number of 8 bits whose mantissa has `MANTISSA` bits and
/// whose exponent has the bias `BIAS`. This returns the code of that number, with the sign of `y`. It returns `NAN`
/// where `y` is NaN.
#[inline(always)]
fn float<S: Lanes, const MANTISSA: u32, const BIAS: u32, const NAN: u32>(simd: S, y: S::f32s, v: S::f32s) -> S::u32s {
    let splat = |v: u32| simd.splat_u32s(v);
    let bits = magnitude(simd, v);
    let cut = 23 - MANTISSA;
    // Normal numbers: the bits that are cut off are rounded up into the others.
    let odd = simd.and_u32s(simd.wrapping_dyn_shr_u32s(bits, splat(cut)), splat(1));
    let rounded = simd.add_u32s(simd.add_u32s(bits, splat((1 << (cut - 1)) - 1)), odd);
    let normal = simd.sub_u32s(simd.wrapping_dyn_shr_u32s(rounded, splat(cut)), splat((127 - BIAS) << MANTISSA));
    // Subnormal numbers: adding a number whose unit is theirs leaves a multiple of it.
    let shift = f32::from_bits((127 + 24 - BIAS - MANTISSA) << 23);
    let sum = simd.add_f32s(simd.transmute_f32s_u32s(bits), simd.splat_f32s(shift));
    let subnormal = simd.sub_u32s(simd.transmute_u32s_f32s(sum), splat(shift.to_bits()));
    let is_normal = simd.greater_than_or_equal_u32s(bits, splat((128 - BIAS) << 23));
    let code = simd.select_u32s(is_normal, normal, subnormal);
    let sign = simd.and_u32s(simd.wrapping_dyn_shr_u32s(simd.transmute_u32s_f32s(y), splat(24)), splat(0x80));
    simd.select_u32s(simd.equal_f32s(y, y), simd.or_u32s(code, sign), splat(NAN))
}

/// Quantizes `n` elements, in the way of the rule, and meanwhile asks for as many `ahead`.
///
/// # Safety
/// - y and q have `n` elements, and nothing of them is in both.
#[inline(always)]
pub(super) unsafe fn quantize<S: Lanes>(simd: S, rule: &Rule, y: *const f32, q: *mut u8, n: usize, ahead: Ahead) {
    // SAFETY: the caller's duty.
    unsafe {
        if !S::SPECIALIZES {
            return outline(simd, General { rule, y, q, n });
        }
        match rule.way {
            way::DIVIDE => _ = by_way::<S, { way::DIVIDE }>(simd, rule, y, q, n, ahead),
            way::MULTIPLY => _ = by_way::<S, { way::MULTIPLY }>(simd, rule, y, q, n, ahead),
            way::AWAY => _ = by_way::<S, { way::AWAY }>(simd, rule, y, q, n, ahead),
            way::SHIFT if by_way::<S, { way::SHIFT }>(simd, rule, y, q, n, ahead) => {}
            _ => outline(simd, General { rule, y, q, n }),
        }
    }
}

/// The way of all that is not worth a loop in each caller.
struct General<'a> {
    rule: &'a Rule,
    y: *const f32,
    q: *mut u8,
    n: usize,
}

impl Kernel for General<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        // SAFETY: whoever made this knew it.
        unsafe { by_way::<S, { way::GENERAL }>(simd, self.rule, self.y, self.q, self.n, Ahead::NOTHING) };
    }
}

/// So many elements are asked for ahead before as many are quantized.
const AT_ONCE: usize = 512;

/// The elements that the widest tier takes at once.
const MOST_ELEMENTS: usize = 64;

/// Returns whether the elements may take this way.
///
/// # Safety
/// - As for [`quantize`].
#[inline(always)]
unsafe fn by_way<S: Lanes, const WAY: u8>(
    simd: S,
    rule: &Rule,
    y: *const f32,
    q: *mut u8,
    n: usize,
    ahead: Ahead,
) -> bool {
    let mut regs = Regs::new(simd, rule);
    let step = 4 * S::F32_LANES;
    let mut i = 0;
    // SAFETY: the caller's duty.
    unsafe {
        loop {
            while i + step <= n {
                let end = n.min(i + AT_ONCE);
                ahead.ask(simd, i, end - i);
                while i + step <= end {
                    four::<S, WAY>(simd, rule, &mut regs, y.add(i), q.add(i));
                    i += step;
                }
            }
            if i >= n {
                return regs.allow::<WAY>(simd, rule);
            }
            if n < step {
                break;
            }
            // The last elements end at the end: some are quantized twice.
            i = n - step;
        }
        let (mut few, mut bytes) = ([0.0; MOST_ELEMENTS], [0; MOST_ELEMENTS]);
        y.copy_to_nonoverlapping(few.as_mut_ptr(), n);
        four::<S, WAY>(simd, rule, &mut regs, few.as_ptr(), bytes.as_mut_ptr());
        q.copy_from_nonoverlapping(bytes.as_ptr(), n);
    }
    regs.allow::<WAY>(simd, rule)
}

/// Quantizes four registers.
///
/// # Safety
/// - y and q have as many elements.
#[inline(always)]
unsafe fn four<S: Lanes, const WAY: u8>(simd: S, rule: &Rule, regs: &mut Regs<S>, y: *const f32, q: *mut u8) {
    let mut v = [simd.splat_u32s(0); 4];
    // SAFETY: the caller's duty.
    unsafe {
        for k in 0..4 {
            let y = simd.load(y.add(k * S::F32_LANES));
            if WAY == way::SHIFT {
                regs.greatest = simd.max_u32s(regs.greatest, magnitude(simd, y));
            }
            v[k] = regs.integers::<WAY>(simd, rule, y);
        }
        simd.store_bytes(q, v, flip::<WAY>(rule));
    }
}

/// The bits of bytes that are turned over.
#[inline(always)]
fn flip<const WAY: u8>(rule: &Rule) -> u8 {
    if matches!(WAY, way::DIVIDE | way::MULTIPLY | way::AWAY) { 0 } else { rule.flip }
}

/// Quantizes a block of `n` elements, a multiple of 32, in the way of the rule.
///
/// # Safety
/// - As for [`quantize`].
#[inline(always)]
pub(super) unsafe fn quantize_block<S: Lanes, const WAY: u8>(
    simd: S,
    rule: &Rule,
    y: *const f32,
    q: *mut u8,
    n: usize,
) {
    let mut regs = Regs::new(simd, rule);
    let mut i = 0;
    // SAFETY: the caller's duty.
    unsafe {
        while i + 4 * S::F32_LANES <= n {
            four::<S, WAY>(simd, rule, &mut regs, y.add(i), q.add(i));
            i += 4 * S::F32_LANES;
        }
        if i < n {
            // Two registers of the widest tier.
            let mut v = [simd.splat_u32s(0); 4];
            for k in 0..2 {
                v[k] = regs.integers::<WAY>(simd, rule, simd.load(y.add(i + k * S::F32_LANES)));
                v[k + 2] = v[k];
            }
            simd.store_halves([q.add(i); 2], v, flip::<WAY>(rule));
        }
    }
}

/// The integers of a register of a block whose scale is an ordinary number, in a way of signed integers.
#[inline(always)]
fn of_block<S: Lanes, const WAY: u8>(simd: S, y: S::f32s, negative_scale: S::f32s, inverse: S::f32s) -> S::u32s {
    match WAY {
        way::DIVIDE => simd.nearest(divide(simd, y, negative_scale, inverse)),
        way::MULTIPLY => simd.nearest(simd.mul_f32s(y, inverse)),
        _ => away(simd, simd.mul_f32s(y, inverse)),
    }
}

/// Quantizes a block of `n` elements, a multiple of four registers, in a way of signed integers.
///
/// # Safety
/// - There are as many elements.
#[inline(always)]
pub(super) unsafe fn quantize_one<S: Lanes, const WAY: u8>(
    simd: S,
    scale: f32,
    inverse: f32,
    y: *const f32,
    q: *mut u8,
    n: usize,
) {
    let (negative_scale, inverse) = (simd.splat_f32s(-scale), simd.splat_f32s(inverse));
    for i in (0..n).step_by(4 * S::F32_LANES) {
        let mut v = [simd.splat_u32s(0); 4];
        // SAFETY: the caller's duty.
        unsafe {
            for k in 0..4 {
                let y = simd.load(y.add(i + k * S::F32_LANES));
                v[k] = of_block::<S, WAY>(simd, y, negative_scale, inverse);
            }
            simd.store_bytes(q.add(i), v, 0);
        }
    }
}

/// Quantizes two consecutive blocks of two registers each, whose scales differ, in a way of signed integers.
///
/// # Safety
/// - There are as many elements.
#[inline(always)]
pub(super) unsafe fn quantize_two<S: Lanes, const WAY: u8>(
    simd: S,
    scale: [f32; 2],
    inverse: [f32; 2],
    y: *const f32,
    q: [*mut u8; 2],
) {
    let mut v = [simd.splat_u32s(0); 4];
    // SAFETY: the caller's duty.
    unsafe {
        for k in 0..4 {
            let (negative_scale, inverse) = (simd.splat_f32s(-scale[k / 2]), simd.splat_f32s(inverse[k / 2]));
            v[k] = of_block::<S, WAY>(simd, simd.load(y.add(k * S::F32_LANES)), negative_scale, inverse);
        }
        simd.store_halves(q, v, 0);
    }
}
