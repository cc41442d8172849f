//! Blocks of a row, each with a scale.

use core::slice::{from_raw_parts, from_raw_parts_mut};

use half::f16;

use super::Places;
use super::elements::{self, Rule, way};
use super::ranges::{self, magnitude};
use crate::reference;
use crate::scheme::{Layout, Quotient, Scheme, Ties};
use crate::simd::{Access, Kernel, Lanes, outline};

/// The blocks whose scales are taken at once.
const BATCH: usize = 16;

/// Quantizes the blocks of a row.
///
/// # Safety
/// - y and the places have `cols` elements, which are whole blocks.
#[inline(always)]
pub(super) unsafe fn quantize<S: Lanes>(simd: S, scheme: &Scheme, y: *const f32, cols: usize, places: Places) {
    let block = scheme.block(cols);
    let blocks = Blocks { scheme, y, block, blocks: cols / block, places };
    if scheme.layout == Layout::Q8K {
        return outline(simd, Q8K(blocks));
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

impl<const WAY: u8> Kernel for Batches<'_, WAY> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self(all) = self;
        let Blocks { scheme, block, blocks, places, .. } = all;
        for first in (0..blocks).step_by(BATCH) {
            let count = BATCH.min(blocks - first);
            let (mut amax, mut scale, mut inverse) = ([0.0f32; BATCH], [0.0f32; BATCH], [0.0f32; BATCH]);
            let mut halves = [f16::ZERO; BATCH];
            // SAFETY: whoever made this knew that the blocks are there. Arrays have a multiple of a register.
            unsafe {
                for (b, amax) in amax.iter_mut().enumerate().take(count) {
                    let (y, ..) = all.at(first + b);
                    let mut greatest = simd.splat_u32s(0);
                    for i in (0..block).step_by(2 * S::F32_LANES) {
                        let (v, w) = (simd.load(y.add(i)), simd.load(y.add(i + S::F32_LANES)));
                        let of_two = simd.max_u32s(magnitude(simd, v), magnitude(simd, w));
                        greatest = simd.max_u32s(greatest, of_two);
                    }
                    *amax = f32::from_bits(simd.fold_max(greatest));
                }
                let divisor = simd.splat_f32s(scheme.divisor);
                for i in (0..BATCH).step_by(S::F32_LANES) {
                    let of_block: S::f32s = simd.load(amax.as_ptr().add(i));
                    let least = simd.max_f32s(of_block, simd.splat_f32s(scheme.least_amax));
                    let v = simd.max_f32s(simd.div_f32s(least, divisor), simd.splat_f32s(scheme.least_scale));
                    simd.store(scale.as_mut_ptr().add(i), v);
                    Access::<f16>::store(simd, halves.as_mut_ptr().add(i), v);
                    let inverted = if scheme.quotient == Quotient::Ratio {
                        simd.div_f32s(divisor, of_block)
                    } else {
                        simd.div_f32s(simd.splat_f32s(1.0), v)
                    };
                    simd.store(inverse.as_mut_ptr().add(i), inverted);
                }
                for b in 0..count {
                    if scale[b] == 0.0 && amax[b] <= f32::MAX && scheme.zero_scale == 0.0 {
                        all.clear(first + b);
                        continue;
                    }
                    let Some(rule) = Rule::quick_with(scheme, scale[b], inverse[b], 0, amax[b]) else {
                        all.slowly(first + b);
                        continue;
                    };
                    let (y, bytes, head) = all.at(first + b);
                    let q = bytes.add(head);
                    elements::quantize_block::<S, WAY>(simd, &rule, y, q, block);
                    if scheme.layout == Layout::Apart {
                        *places.scale.add(first + b) = scale[b];
                        continue;
                    }
                    bytes.cast::<[u8; 2]>().write(halves[b].to_le_bytes());
                    if scheme.layout == Layout::Q8_1 {
                        let sum: i32 = from_raw_parts(q, block).iter().map(|&q| i32::from(q as i8)).sum();
                        let sum = f16::from_f32_const(sum as f32 * scale[b]);
                        bytes.add(2).cast::<[u8; 2]>().write(sum.to_le_bytes());
                    }
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
                elements::quantize_block::<S, { way::MULTIPLY }>(simd, &rule, y, q, all.block);
                for (i, q) in from_raw_parts(q, all.block).chunks(16).enumerate() {
                    let sum: i16 = q.iter().map(|&q| i16::from(q as i8)).sum();
                    bytes.add(4 + all.block + 2 * i).cast::<[u8; 2]>().write(sum.to_le_bytes());
                }
            }
        }
    }
}
