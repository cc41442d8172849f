//! bf16.

use half::bf16;

use super::{Aligned, Format, Pair, Storage};
use crate::simd::{Float, Lanes};
use crate::table::Dtype;

impl Storage for bf16 {
    sixteen_bits!(bf16, Dtype::Bf16);

    const SPLITS: bool = true;

    #[inline(always)]
    fn is_finite_with(self, offset: f32) -> bool {
        (self.to_computed() + offset).is_finite()
    }

    #[inline(always)]
    fn simd_pair_start<S: Lanes>(j: usize) -> usize {
        j * 2 * S::F32_LANES
    }

    #[inline(always)]
    unsafe fn simd_load_lanes<S: Lanes>(simd: S, p: *const Self, j: usize) -> Pair<S, Self> {
        simd.load(p.add(Self::simd_pair_start::<S>(j)))
    }

    #[inline(always)]
    unsafe fn simd_load_lanes_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        j: usize,
        n: usize,
        fill: S::f32s,
    ) -> Pair<S, Self> {
        let at = Self::simd_pair_start::<S>(j);
        // SAFETY: the caller's duty; nothing is read where nothing is left.
        unsafe { simd.load_tail(p.wrapping_add(at), n.saturating_sub(at).min(2 * S::F32_LANES), fill) }
    }

    #[inline(always)]
    unsafe fn simd_load_runs<S: Lanes>(simd: S, p: *const Self, stride: usize, j: usize) -> Pair<S, Self> {
        simd.load_runs(p, stride, j)
    }

    #[inline(always)]
    fn simd_in_order<S: Lanes>(simd: S, v: Pair<S, Self>) -> Pair<S, Self> {
        simd.join(v)
    }

    #[inline(always)]
    unsafe fn simd_round<S: Lanes>(simd: S, [even, odd]: Pair<S, Self>) -> Pair<S, Self> {
        [simd.round_bf16(even), simd.round_bf16(odd)]
    }

    #[inline(always)]
    unsafe fn simd_load<S: Lanes>(simd: S, p: *const Self) -> Pair<S, Self> {
        simd.load(p)
    }

    #[inline(always)]
    unsafe fn simd_load_tail<S: Lanes>(simd: S, p: *const Self, n: usize, fill: S::f32s) -> Pair<S, Self> {
        simd.load_tail(p, n, fill)
    }

    #[inline(always)]
    unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, format: Format, i: usize) -> Pair<S, Self> {
        match format {
            Format::Own => simd.load(p.add(i)),
            Format::Wide => simd.split(<f32 as Storage>::simd_load(simd, p.cast::<f32>().add(i))),
            Format::Packed => <f32 as Storage>::simd_load(simd, p.cast::<f32>().add(i)),
        }
    }

    #[inline(always)]
    unsafe fn simd_load_beside_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        format: Format,
        i: usize,
        n: usize,
    ) -> Pair<S, Self> {
        let zero = simd.splat_f32s(0.0);
        // SAFETY: the caller's duty. Packed vectors have whole pairs.
        unsafe {
            match format {
                Format::Own => simd.load_tail(p.add(i), n, zero),
                Format::Wide => simd.split(<f32 as Storage>::simd_load_tail(simd, p.cast::<f32>().add(i), n, zero)),
                Format::Packed => <f32 as Storage>::simd_load(simd, p.cast::<f32>().add(i)),
            }
        }
    }

    #[inline(always)]
    unsafe fn simd_store_beside<S: Lanes, const STREAM: bool>(
        simd: S,
        p: *mut Self,
        wide: bool,
        i: usize,
        v: Pair<S, Self>,
    ) {
        if wide {
            <f32 as Storage>::simd_store_beside::<S, STREAM>(simd, p.cast::<f32>(), false, i, simd.join(v));
        } else if STREAM {
            simd.stream(p.add(i), v);
        } else {
            simd.store(p.add(i), v);
        }
    }

    #[inline(always)]
    unsafe fn simd_store_beside_tail<S: Lanes>(
        simd: S,
        p: *mut Self,
        wide: bool,
        i: usize,
        n: usize,
        v: Pair<S, Self>,
    ) {
        if wide {
            <f32 as Storage>::simd_store_beside_tail(simd, p.cast::<f32>(), false, i, n, simd.join(v));
        } else {
            simd.store_tail(p.add(i), n, v);
        }
    }
}
