//! Rows of 16 bits widened to f32, and rows of f32 rounded to 16 bits.

use core::marker::PhantomData;

use super::io::RawRows;
use crate::element::{Format, Storage};
use crate::simd::{Kernel, Lanes};

/// The elements of the widest pair of registers.
const MOST_LANES: usize = 32;

/// Widens rows of 16 bits to f32, or rounds rows of f32 to 16 bits. Whoever makes it knows that both have these rows.
pub(crate) struct Convert<G> {
    narrow: *mut G,
    stride: usize,
    wide: *mut f32,
    wide_stride: usize,
    rows: usize,
    cols: usize,
    widens: bool,
}

impl<G> Convert<G> {
    /// For `n` elements.
    #[inline(always)]
    pub(crate) fn of(narrow: *mut G, wide: *mut f32, n: usize, widens: bool) -> Self {
        Self { narrow, stride: n, wide, wide_stride: n, rows: 1, cols: n, widens }
    }

    /// For rows of f32 and of `G`, both given beside rows of `T`, which is f32.
    #[inline(always)]
    pub(crate) fn rows<T>(narrow: RawRows<T>, wide: RawRows<T>, widens: bool, [rows, cols]: [usize; 2]) -> Self {
        let (narrow, stride) = (narrow.p.cast(), narrow.stride);
        Self { narrow, stride, wide: wide.p.cast(), wide_stride: wide.stride, rows, cols, widens }
    }
}

/// Adds a number to elements of f32, and rounds the sums to `G`. Whoever makes it knows that the elements are there.
pub(crate) struct AddRounded<G> {
    wide: *mut f32,
    n: usize,
    addend: f32,
    to: PhantomData<G>,
}

impl<G> AddRounded<G> {
    #[inline(always)]
    pub(crate) fn new(wide: *mut f32, n: usize, addend: f32) -> Self {
        Self { wide, n, addend, to: PhantomData }
    }
}

impl<G: Storage<Float = f32>> Kernel for AddRounded<G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { wide, n, addend, .. } = self;
        let (pair, addend) = (2 * S::F32_LANES, simd.splat_f32s(addend));
        let mut pad = [0.0_f32; MOST_LANES];
        for i in (0..n).step_by(pair) {
            let len = pair.min(n - i);
            // SAFETY: whoever made this knew that the elements are there. The pad has place for a pair.
            unsafe {
                let given = wide.add(i);
                let p = if len == pair { given } else { pad.as_mut_ptr() };
                if len < pair {
                    p.copy_from_nonoverlapping(given, len);
                }
                let [a, b] = G::simd_load_beside(simd, p.cast(), Format::Wide, 0);
                let sums = [simd.add_f32s(a, addend), simd.add_f32s(b, addend)];
                G::simd_store_beside::<S, false>(simd, p.cast(), true, 0, G::simd_round(simd, sums));
                if len < pair {
                    given.copy_from_nonoverlapping(p, len);
                }
            }
        }
    }
}

impl<G: Storage> Kernel for Convert<G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { cols, widens, .. } = self;
        let pair = 2 * S::F32_LANES;
        // What is left of a row goes by way of these, so that there is one piece of code for whole pairs.
        let (mut narrow_pad, mut wide_pad) = ([0_u16; MOST_LANES], [0.0_f32; MOST_LANES]);
        for r in 0..self.rows {
            // SAFETY: whoever made this knew that the rows are there. The pads have place for a pair.
            unsafe {
                let (narrow, wide) = (self.narrow.add(r * self.stride), self.wide.add(r * self.wide_stride));
                for i in (0..cols).step_by(pair) {
                    let n = pair.min(cols - i);
                    let (given_narrow, given_wide) = (narrow.add(i), wide.add(i));
                    let (narrow, wide) = if n == pair {
                        (given_narrow, given_wide)
                    } else {
                        (narrow_pad.as_mut_ptr().cast(), wide_pad.as_mut_ptr())
                    };
                    if widens {
                        if n < pair {
                            narrow.copy_from_nonoverlapping(given_narrow, n);
                        }
                        let v = G::simd_load(simd, narrow);
                        G::simd_store_beside::<S, false>(simd, wide.cast(), true, 0, v);
                        if n < pair {
                            given_wide.copy_from_nonoverlapping(wide, n);
                        }
                    } else {
                        if n < pair {
                            wide.copy_from_nonoverlapping(given_wide, n);
                        }
                        let v = G::simd_load_beside(simd, wide.cast(), Format::Wide, 0);
                        G::simd_store_beside::<S, false>(simd, narrow, false, 0, v);
                        if n < pair {
                            given_narrow.copy_from_nonoverlapping(narrow, n);
                        }
                    }
                }
            }
        }
    }
}
