//! f32 and f64.

use super::{Aligned, Format, Pair, Storage};
use crate::simd::{Float, Lanes};
use crate::table::Dtype;

/// f32 and f64: computed in themselves.
macro_rules! float_element {
    ($t:ident, $dtype:expr, $run:literal) => {
        impl Storage for $t {
            type Float = Self;

            const DTYPE: Dtype = $dtype;
            const SINGLE_ROWS: bool = matches!($dtype, Dtype::F32);
            const STREAMS_APART: bool = matches!($dtype, Dtype::F32);
            const ROUNDS: bool = false;
            const MIXES: bool = matches!($dtype, Dtype::F32);
            const RUN: usize = $run;

            fn step_of_ones() -> &'static [Self] {
                static ONES: Aligned<[$t; $t::STEP]> = Aligned([1.0; $t::STEP]);
                &ONES.0
            }

            fn step_of_negative_zeros() -> &'static [Self] {
                static NEGATIVE_ZEROS: Aligned<[$t; $t::STEP]> = Aligned([-0.0; $t::STEP]);
                &NEGATIVE_ZEROS.0
            }

            #[inline(always)]
            fn to_computed(self) -> Self {
                self
            }

            #[inline(always)]
            fn from_computed(v: Self) -> Self {
                v
            }

            #[inline(always)]
            fn is_finite_with(self, offset: Self) -> bool {
                (self + offset).is_finite()
            }

            consecutive!($t);

            #[inline(always)]
            unsafe fn simd_round<S: Lanes>(_: S, v: Pair<S, Self>) -> Pair<S, Self> {
                v
            }

            #[inline(always)]
            unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, _: Format, i: usize) -> Pair<S, Self> {
                Self::simd_load(simd, p.add(i))
            }

            #[inline(always)]
            unsafe fn simd_load_beside_tail<S: Lanes>(
                simd: S,
                p: *const Self,
                _: Format,
                i: usize,
                n: usize,
            ) -> Pair<S, Self> {
                Self::simd_load_tail(simd, p.add(i), n, Self::splat(simd, 0.0))
            }

            #[inline(always)]
            unsafe fn simd_store_beside<S: Lanes, const STREAM: bool>(
                simd: S,
                p: *mut Self,
                _: bool,
                i: usize,
                v: Pair<S, Self>,
            ) {
                if STREAM {
                    store_consecutive!(simd, p.add(i), v, stream);
                } else {
                    store_consecutive!(simd, p.add(i), v, store);
                }
            }

            #[inline(always)]
            unsafe fn simd_store_beside_tail<S: Lanes>(
                simd: S,
                p: *mut Self,
                _: bool,
                i: usize,
                n: usize,
                v: Pair<S, Self>,
            ) {
                store_consecutive_tail!(simd, p.add(i), n, v);
            }

            #[inline(always)]
            unsafe fn simd_store_packed<S: Lanes>(_: S, _: *mut f32, _: Pair<S, Self>) {}
        }
    };
}

float_element!(f32, Dtype::F32, 8);
float_element!(f64, Dtype::F64, 4);
