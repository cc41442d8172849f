//! Blocks of a row, each with a scale.

use core::ops::Range;
use core::slice::{from_raw_parts, from_raw_parts_mut};

use half::f16;

use super::ahead::Ahead;
use super::elements::{self, Rule, way};
use super::places::Places;
use super::ranges::{self, magnitude};
use crate::reference;
use crate::scheme::{LEAST_QUICK_SCALE, Layout, MOST_QUICK_SCALE, Quotient, Scheme, Ties};
use crate::simd::{Access, Kernel, Lanes, outline};

/// The blocks whose scales are taken at once.
const BATCH: usize = 16;

/// Quantizes the blocks of a row, and meanwhile asks for as many elements `ahead`.
///
/// # Safety
/// - y and the places have `cols` elements, which are whole blocks.
#[inline(always)]
pub(super) unsafe fn quantize<S: Lanes>(
    simd: S,
    scheme: &Scheme,
    y: *const f32,
    cols: usize,
    places: Places,
    ahead: Ahead,
) {
    let block = scheme.block(cols);
    let blocks = Blocks { scheme, y, block, blocks: cols.checked_div(block).unwrap_or(0), places, ahead };
    if scheme.layout == Layout::Q8K {
        return outline(simd, Q8K(blocks));
    }
    if !S::SPECIALIZES {
        return outline(simd, Batches::<{ way::GENERAL }>(blocks));
    }
    let way = if scheme.divisor > scheme.format.max() || !scheme.format.is_integer() {
        way::GENERAL
    } else {
        match (scheme.quotient, scheme.ties) {
            (Quotient::Divide, Ties::Even) => way::DIVIDE,
            (Quotient::Reciprocal | Quotient::Ratio, Ties::Even) => way::MULTIPLY,
            (Quotient::Reciprocal | Quotient::Ratio, Ties::Away) => way::AWAY,
            (Quotient::Divide, Ties::Away) => way::GENERAL,
        }
    };
    match way {
        way::DIVIDE => outline(simd, Batches::<{ way::DIVIDE }>(blocks)),
        way::MULTIPLY => outline(simd, Batches::<{ way::MULTIPLY }>(blocks)),
        way::AWAY => outline(simd, Batches::<{ way::AWAY }>(blocks)),
        _ => outline(simd, Batches::<{ way::GENERAL }>(blocks)),
    }
}

/// Blocks of a row. Whoever makes it knows that they are there.
struct Blocks<'a> {
    scheme: &'a Scheme,
    y: *const f32,
    block: usize,
    blocks: usize,
    places: Places,
    ahead: Ahead,
}

impl Blocks<'_> {
    /// Where the elements of block `b` are, and where it goes: its bytes, and how many of them lie before its elements.
    ///
    /// # Safety
    /// - There is such a block.
    #[inline(always)]
    unsafe fn at(&self, b: usize) -> (*const f32, *mut u8, usize) {
        let (elements, bytes) = self.scheme.layout.block().unwrap_or((self.block, self.block));
        // SAFETY: the caller's duty.
        unsafe { (self.y.add(b * self.block), self.places.q.add(b * bytes), bytes - elements) }
    }

    /// Writes a block whose scale is 0.
    ///
    /// # Safety
    /// - There is such a block.
    #[inline(always)]
    unsafe fn clear(&self, b: usize) {
        // SAFETY: the caller's duty.
        unsafe {
            let (_, bytes, head) = self.at(b);
            bytes.write_bytes(0, head + self.block);
            if self.scheme.layout == Layout::Apart {
                *self.places.scale.add(b) = 0.0;
            }
        }
    }

    /// Quantizes a block by `reference.rs`.
    ///
    /// # Safety
    /// - There is such a block.
    #[cold]
    #[inline(never)]
    unsafe fn slowly(&self, b: usize) {
        // SAFETY: the caller's duty.
        unsafe {
            let (y, bytes, _) = self.at(b);
            let y = from_raw_parts(y, self.block);
            match self.scheme.layout.block() {
                Some((_, size)) => reference::quantize_block(self.scheme, y, from_raw_parts_mut(bytes, size)),
                None => {
                    let (scale, _) = reference::quantize(self.scheme, y, from_raw_parts_mut(bytes, self.block));
                    *self.places.scale.add(b) = scale;
                }
            }
        }
    }
}

/// Blocks whose elements take one way, some at a time: first all of their scales, whose divisions take one instruction
/// then.
struct Batches<'a, const WAY: u8>(Blocks<'a>);

/// The scales of a batch of blocks: each array has an element for each of them.
struct Scales {
    amax: [f32; BATCH],
    scale: [f32; BATCH],
    inverse: [f32; BATCH],
    halves: [f16; BATCH],
    /// Whether all blocks have a quick rule.
    are_quick: bool,
}

impl Blocks<'_> {
    /// The scales of `count` blocks from `first` on.
    ///
    /// # Safety
    /// - There are such blocks, at most a batch.
    #[inline(always)]
    unsafe fn scales<S: Lanes>(&self, simd: S, first: usize, count: usize) -> Scales {
        let &Self { scheme, block, .. } = self;
        let mut all = Scales {
            amax: [0.0; BATCH],
            scale: [0.0; BATCH],
            inverse: [0.0; BATCH],
            halves: [f16::ZERO; BATCH],
            are_quick: false,
        };
        let (divisor, least_quick) = (simd.splat_f32s(scheme.divisor), simd.splat_u32s(LEAST_QUICK_SCALE.to_bits()));
        let (mut above_least, mut most) = (simd.splat_u32s(0), simd.splat_u32s(0));
        // SAFETY: the caller's duty. Arrays have a multiple of a register.
        unsafe {
            let (y, ..) = self.at(first);
            for from in (0..count).step_by(S::F32_LANES) {
                let mut greatest = [simd.splat_u32s(0); 16];
                if from + S::F32_LANES <= count && block == 2 * S::F32_LANES {
                    for b in 0..S::F32_LANES {
                        greatest[b] = greatest_of_two(simd, y.add((from + b) * 2 * S::F32_LANES));
                    }
                } else if from + S::F32_LANES <= count && block == 4 * S::F32_LANES {
                    for b in 0..S::F32_LANES {
                        let y = y.add((from + b) * 4 * S::F32_LANES);
                        let two = greatest_of_two(simd, y);
                        greatest[b] = simd.max_u32s(two, greatest_of_two(simd, y.add(2 * S::F32_LANES)));
                    }
                } else {
                    for b in 0..S::F32_LANES {
                        // The last block stands in for those that are not there.
                        let y = y.add((from + b).min(count - 1) * block);
                        for i in (0..block).step_by(2 * S::F32_LANES) {
                            greatest[b] = simd.max_u32s(greatest[b], greatest_of_two(simd, y.add(i)));
                        }
                    }
                }
                let amax = simd.transmute_f32s_u32s(simd.fold_max_rows(&greatest));
                simd.store(all.amax.as_mut_ptr().add(from), amax);
                let least = simd.max_f32s(amax, simd.splat_f32s(scheme.least_amax));
                let scale = simd.max_f32s(simd.div_f32s(least, divisor), simd.splat_f32s(scheme.least_scale));
                simd.store(all.scale.as_mut_ptr().add(from), scale);
                Access::<f16>::store(simd, all.halves.as_mut_ptr().add(from), scale);
                let inverse = if scheme.quotient == Quotient::Ratio {
                    simd.div_f32s(divisor, amax)
                } else {
                    simd.div_f32s(simd.splat_f32s(1.0), scale)
                };
                simd.store(all.inverse.as_mut_ptr().add(from), inverse);
                // None is negative, so that bits as integers are in the order of numbers, and NaNs come last.
                let bits = simd.transmute_u32s_f32s(scale);
                above_least = simd.max_u32s(above_least, simd.sub_u32s(bits, least_quick));
                let greater = simd.max_u32s(simd.transmute_u32s_f32s(amax), simd.transmute_u32s_f32s(inverse));
                most = simd.max_u32s(most, greater);
            }
        }
        let range = MOST_QUICK_SCALE.to_bits() - LEAST_QUICK_SCALE.to_bits();
        all.are_quick = simd.fold_max(above_least) <= range && simd.fold_max(most) <= f32::MAX.to_bits();
        all
    }

    /// Writes what blocks of a batch, in `range` from `first` on, have beside their elements, which have been written.
    ///
    /// # Safety
    /// - There are such blocks.
    #[inline(always)]
    unsafe fn finish(&self, first: usize, range: Range<usize>, scales: &Scales) {
        // SAFETY: the caller's duty.
        unsafe {
            let (_, bytes, head) = self.at(first);
            let step = head + self.block;
            match self.scheme.layout {
                Layout::Apart => {
                    for b in range {
                        *self.places.scale.add(first + b) = scales.scale[b];
                    }
                }
                Layout::Q8_1 => {
                    for b in range {
                        let bytes = bytes.add(b * step);
                        let q = from_raw_parts(bytes.add(head), self.block);
                        let sum: i32 = q.iter().map(|&q| i32::from(q as i8)).sum();
                        let sum = f16::from_f32_const(sum as f32 * scales.scale[b]);
                        bytes.cast::<[u8; 2]>().write(scales.halves[b].to_le_bytes());
                        bytes.add(2).cast::<[u8; 2]>().write(sum.to_le_bytes());
                    }
                }
                Layout::Q8_0 | Layout::Q8K => {
                    for b in range {
                        bytes.add(b * step).cast::<[u8; 2]>().write(scales.halves[b].to_le_bytes());
                    }
                }
            }
        }
    }
}

/// Blocks of a batch, in `range` from `first` on, whose scales may be any. Whoever makes it knows that they are there,
/// and that these are their scales.
struct Each<'a> {
    all: &'a Blocks<'a>,
    first: usize,
    range: Range<usize>,
    scales: &'a Scales,
}

impl Kernel for Each<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { all, first, range, scales } = self;
        for b in range {
            let (scale, inverse, amax) = (scales.scale[b], scales.inverse[b], scales.amax[b]);
            // SAFETY: whoever made this knew that the block is there.
            unsafe {
                let (y, bytes, head) = all.at(first + b);
                if let Some(rule) = Rule::quick_with(all.scheme, scale, inverse, 0, amax) {
                    elements::quantize_block::<S, { way::GENERAL }>(simd, &rule, y, bytes.add(head), all.block);
                    all.finish(first, b..b + 1, scales);
                } else if scale == 0.0 && amax <= f32::MAX && all.scheme.zero_scale == 0.0 {
                    all.clear(first + b);
                } else {
                    all.slowly(first + b);
                }
            }
        }
    }
}

/// The greater magnitudes of two registers.
///
/// # Safety
/// - There are as many elements.
#[inline(always)]
unsafe fn greatest_of_two<S: Lanes>(simd: S, y: *const f32) -> S::u32s {
    // SAFETY: the caller's duty.
    let (v, w) = unsafe { (simd.load(y), simd.load(y.add(S::F32_LANES))) };
    simd.max_u32s(magnitude(simd, v), magnitude(simd, w))
}

impl<const WAY: u8> Kernel for Batches<'_, WAY> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self(all) = self;
        let Blocks { block, blocks, .. } = all;
        let (in_two, in_fours) = (block == 2 * S::F32_LANES, block.is_multiple_of(4 * S::F32_LANES));
        for first in (0..blocks).step_by(BATCH) {
            let count = BATCH.min(blocks - first);
            all.ahead.ask(simd, first * block, count * block);
            // SAFETY: whoever made this knew that the blocks are there.
            unsafe {
                let scales = all.scales(simd, first, count);
                if WAY == way::GENERAL || !scales.are_quick || !(in_two || in_fours) {
                    outline(simd, Each { all: &all, first, range: 0..count, scales: &scales });
                    continue;
                }
                let (y, bytes, head) = all.at(first);
                let (q, step) = (bytes.add(head), head + block);
                let done = if in_two { count & !1 } else { count };
                for b in (0..done).step_by(if in_two { 2 } else { 1 }) {
                    let (y, to) = (y.add(b * block), q.add(b * step));
                    let (scale, inverse) = (scales.scale.as_ptr().add(b), scales.inverse.as_ptr().add(b));
                    if in_two {
                        let (scale, inverse) = ([*scale, *scale.add(1)], [*inverse, *inverse.add(1)]);
                        elements::quantize_two::<S, WAY>(simd, scale, inverse, y, [to, to.add(step)]);
                    } else {
                        elements::quantize_one::<S, WAY>(simd, *scale, *inverse, y, to, block);
                    }
                }
                all.finish(first, 0..done, &scales);
                if done < count {
                    outline(simd, Each { all: &all, first, range: done..count, scales: &scales });
                }
            }
        }
    }
}

/// Blocks of [`Layout::Q8K`].
struct Q8K<'a>(Blocks<'a>);

impl Kernel for Q8K<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self(all) = self;
        for b in 0..all.blocks {
            // SAFETY: whoever made this knew that the block is there.
            unsafe {
                let (y, bytes, _) = all.at(b);
                let extreme = ranges::extreme(simd, y, all.block).unwrap_or(f32::NAN);
                let inverse = -127.0 / extreme;
                let scale = 1.0 / inverse;
                let Some(rule) = Rule::quick_with(all.scheme, scale.abs(), inverse, 0, extreme.abs()) else {
                    all.slowly(b);
                    continue;
                };
                bytes.cast::<[u8; 4]>().write(scale.to_le_bytes());
                let q = bytes.add(4);
                if S::SPECIALIZES {
                    elements::quantize_block::<S, { way::MULTIPLY }>(simd, &rule, y, q, all.block);
                } else {
                    elements::quantize(simd, &rule, y, q, all.block, Ahead::NOTHING);
                }
                for (i, q) in from_raw_parts(q, all.block).chunks(16).enumerate() {
                    let sum: i16 = q.iter().map(|&q| i16::from(q as i8)).sum();
                    bytes.add(4 + all.block + 2 * i).cast::<[u8; 2]>().write(sum.to_le_bytes());
                }
            }
        }
    }
}
