//! f16.

use half::f16;

use super::{Aligned, Format, Pair, Storage};
use crate::simd::{Float, Lanes};
use crate::table::Dtype;

impl Storage for f16 {
    sixteen_bits!(f16, Dtype::F16);

    /// The largest f16 is nothing beside the largest f32.
    #[inline(always)]
    fn is_finite_with(self, _: f32) -> bool {
        self.is_finite()
    }

    consecutive!(f32);

    #[inline(always)]
    unsafe fn simd_round<S: Lanes>(simd: S, [first, second]: Pair<S, Self>) -> Pair<S, Self> {
        [simd.round_f16(first), simd.round_f16(second)]
    }

    #[inline(always)]
    unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, format: Format, i: usize) -> Pair<S, Self> {
        if format == Format::Own {
            Self::simd_load(simd, p.add(i))
        } else {
            <f32 as Storage>::simd_load(simd, p.cast::<f32>().add(i))
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
        if format == Format::Own {
            Self::simd_load_tail(simd, p.add(i), n, zero)
        } else {
            <f32 as Storage>::simd_load_tail(simd, p.cast::<f32>().add(i), n, zero)
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
            <f32 as Storage>::simd_store_beside::<S, STREAM>(simd, p.cast::<f32>(), false, i, v);
        } else if STREAM {
            store_consecutive!(simd, p.add(i), v, stream);
        } else {
            store_consecutive!(simd, p.add(i), v, store);
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
            <f32 as Storage>::simd_store_beside_tail(simd, p.cast::<f32>(), false, i, n, v);
        } else {
            store_consecutive_tail!(simd, p.add(i), n, v);
        }
    }
}
