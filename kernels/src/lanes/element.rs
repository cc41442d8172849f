//! The types of elements, and how the virtual lanes take them.
//!
//! A *step* of the loops takes two elements for each virtual lane, a *pair of registers* at a time.
//!
//! - f32, f64, f16: the elements `i` and `i + LANES` of a step belong to lane `i`.
//! - bf16: the elements `2 * i` and `2 * i + 1` do. See [`Bf16Lanes`](super::Bf16Lanes).
//!
//! Where the order of the elements makes no difference, pairs of registers are taken as they come cheapest: as the two
//! registers of consecutive elements, or as their even and odd ones.

use core::fmt::Debug;

use bytemuck::Pod;
use half::{bf16, f16};

use super::{Float, Lanes};
use crate::Isa;
use crate::forward::{Forward, Normalize};
use crate::moments::{Moments, RowMoments};
use crate::table::Dtype;

/// Two registers of elements in the type that they are computed in.
pub(crate) type Pair<S, T> = [<<T as Element>::Float as Float>::Reg<S>; 2];

/// How a vector beside elements of 16 bits is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// In the type of the elements.
    Own,
    /// In f32.
    Wide,
    /// In f32, in the order of the pairs of registers.
    Packed,
}

/// No register of it lies across two cache lines.
#[repr(align(64))]
struct Aligned<V>(V);

/// What is compiled for each type in this crate, so that no other compiles it again.
#[doc(hidden)]
pub trait Compiled<const CENTERED: bool>: Sized {
    fn forward(job: &mut Forward<'_, Self, CENTERED>, isa: Isa)
    where
        Self: Element;
    fn normalize(job: Normalize<'_, Self, CENTERED>, isa: Isa)
    where
        Self: Element;
    fn moments(row: RowMoments<'_, Self>, isa: Isa) -> Moments
    where
        Self: Element;
}

/// A type of elements: f32, f64, f16 or bf16.
///
/// The hidden items are what the kernels do with a pair of registers of them. Where they take a pointer `p`, the elements
/// that they name must be there; tails have `n` elements at most as many as a pair, and `fill` in the lanes beyond.
pub trait Element: Pod + Compiled<true> + Compiled<false> + Beside<Self> + Debug + PartialEq + Send + Sync {
    /// The type that rows of these elements are computed in, and that their statistics have.
    type Float: Float;

    /// The type in the table of kernels.
    const DTYPE: Dtype;

    /// The elements that one step of the loops takes: one pair for each virtual lane.
    #[doc(hidden)]
    const STEP: usize = 2 * <Self::Float as Float>::LANES;

    /// Whether the type is narrower than the one computed in.
    #[doc(hidden)]
    const ROUNDS: bool;

    /// Whether the pairs of consecutive elements are the even and the odd ones.
    #[doc(hidden)]
    const SPLITS: bool = false;

    /// The samples in a run.
    #[doc(hidden)]
    const RUN: usize;

    /// One, and -0, in a step of elements: what stands in for absent vectors.
    #[doc(hidden)]
    fn step_of_ones() -> &'static [Self];
    #[doc(hidden)]
    fn step_of_negative_zeros() -> &'static [Self];

    /// The element, exactly.
    #[doc(hidden)]
    fn to_computed(self) -> Self::Float;

    /// Rounded to nearest even.
    #[doc(hidden)]
    fn from_computed(v: Self::Float) -> Self;

    /// Whether the sum with a finite offset is finite.
    #[doc(hidden)]
    fn is_finite_with(self, offset: Self::Float) -> bool;

    /// Where pair `j` of a step starts.
    #[doc(hidden)]
    fn simd_pair_start<S: Lanes>(j: usize) -> usize;

    /// Pair `j` of the step at `p`.
    #[doc(hidden)]
    unsafe fn simd_load_lanes<S: Lanes>(simd: S, p: *const Self, j: usize) -> Pair<S, Self>;

    /// The same where the step has only `n` elements.
    #[doc(hidden)]
    unsafe fn simd_load_lanes_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        j: usize,
        n: usize,
        fill: <Self::Float as Float>::Reg<S>,
    ) -> Pair<S, Self>;

    /// Pair `j` of a step that is made of runs of [`RUN`](Self::RUN) elements.
    #[doc(hidden)]
    unsafe fn simd_load_runs<S: Lanes>(simd: S, p: *const Self, stride: usize, j: usize) -> Pair<S, Self>;

    /// The inverse of [`simd_load_lanes`](Self::simd_load_lanes).
    #[doc(hidden)]
    unsafe fn simd_store_lanes<S: Lanes>(simd: S, p: *mut Self, j: usize, v: Pair<S, Self>);

    #[doc(hidden)]
    unsafe fn simd_store_lanes_tail<S: Lanes>(simd: S, p: *mut Self, j: usize, n: usize, v: Pair<S, Self>);

    /// Elements rounded to this type.
    #[doc(hidden)]
    fn simd_round<S: Lanes>(simd: S, v: Pair<S, Self>) -> Pair<S, Self>;

    /// A pair of consecutive elements.
    #[doc(hidden)]
    unsafe fn simd_load<S: Lanes>(simd: S, p: *const Self) -> Pair<S, Self>;

    #[doc(hidden)]
    unsafe fn simd_load_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        n: usize,
        fill: <Self::Float as Float>::Reg<S>,
    ) -> Pair<S, Self>;

    /// The same, from element `i` of a vector of the given format.
    #[doc(hidden)]
    unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, format: Format, i: usize) -> Pair<S, Self>;

    #[doc(hidden)]
    unsafe fn simd_load_beside_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        format: Format,
        i: usize,
        n: usize,
    ) -> Pair<S, Self>;

    /// The inverse of [`simd_load`](Self::simd_load), to element `i` of this type or, if wide, of f32.
    #[doc(hidden)]
    unsafe fn simd_store_beside<S: Lanes, const STREAM: bool>(
        simd: S,
        p: *mut Self,
        wide: bool,
        i: usize,
        v: Pair<S, Self>,
    );

    #[doc(hidden)]
    unsafe fn simd_store_beside_tail<S: Lanes>(simd: S, p: *mut Self, wide: bool, i: usize, n: usize, v: Pair<S, Self>);

    /// A pair to a packed vector, if the type rounds.
    #[doc(hidden)]
    unsafe fn simd_store_packed<S: Lanes>(simd: S, p: *mut f32, v: Pair<S, Self>);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A type that gamma, beta and y may have beside an x of type `T`: the same, or f32 beside 16 bits.
pub trait Beside<T>: Pod + sealed::Sealed {
    /// Whether it is f32 beside 16 bits.
    const WIDE: bool;

    /// The canonical NaN.
    const NAN: Self;
}

macro_rules! beside {
    ($($g:ty, $t:ty, $wide:literal;)*) => {$(
        impl Beside<$t> for $g {
            const WIDE: bool = $wide;
            const NAN: Self = <$g>::NAN;
        }
    )*};
}

beside! {
    f32, f32, false;
    f64, f64, false;
    f16, f16, false;
    f32, f16, true;
    bf16, bf16, false;
    f32, bf16, true;
}

macro_rules! compiled {
    ($($t:ty, $centered:literal;)*) => {$(
        impl Compiled<$centered> for $t {
            fn forward(job: &mut Forward<'_, Self, $centered>, isa: Isa) {
                job.run_here(isa);
            }

            fn normalize(job: Normalize<'_, Self, $centered>, isa: Isa) {
                isa.run(job);
            }

            fn moments(row: RowMoments<'_, Self>, isa: Isa) -> Moments {
                row.run_here::<$centered>(isa)
            }
        }
    )*};
}

compiled! {
    f32, true;
    f32, false;
    f64, true;
    f64, false;
    f16, true;
    f16, false;
    bf16, true;
    bf16, false;
}

/// What the types whose pairs are consecutive registers have in common.
macro_rules! consecutive {
    ($float:ty, $load:ident, $load_tail:ident, $load_runs:ident, $store:ident, $store_tail:ident) => {
        #[inline(always)]
        fn simd_pair_start<S: Lanes>(j: usize) -> usize {
            j * <$float>::lanes::<S>()
        }

        #[inline(always)]
        unsafe fn simd_load_lanes<S: Lanes>(simd: S, p: *const Self, j: usize) -> Pair<S, Self> {
            let at = Self::simd_pair_start::<S>(j);
            // SAFETY: the caller's duty.
            unsafe { [simd.$load(p.add(at)), simd.$load(p.add(at + <$float>::LANES))] }
        }

        #[inline(always)]
        unsafe fn simd_load_lanes_tail<S: Lanes>(
            simd: S,
            p: *const Self,
            j: usize,
            n: usize,
            fill: <$float as Float>::Reg<S>,
        ) -> Pair<S, Self> {
            let at = Self::simd_pair_start::<S>(j);
            let (first, second) = (n.saturating_sub(at), n.saturating_sub(at + <$float>::LANES));
            let lanes = <$float>::lanes::<S>();
            // SAFETY: the caller's duty; nothing is read where nothing is left.
            unsafe {
                [
                    simd.$load_tail(p.wrapping_add(at), first.min(lanes), fill),
                    simd.$load_tail(p.wrapping_add(at + <$float>::LANES), second.min(lanes), fill),
                ]
            }
        }

        #[inline(always)]
        unsafe fn simd_load_runs<S: Lanes>(simd: S, p: *const Self, stride: usize, j: usize) -> Pair<S, Self> {
            let regs = <$float>::LANES / <$float>::lanes::<S>();
            // SAFETY: the caller's duty.
            unsafe { [simd.$load_runs(p, stride, j), simd.$load_runs(p, stride, j + regs)] }
        }

        #[inline(always)]
        unsafe fn simd_store_lanes<S: Lanes>(simd: S, p: *mut Self, j: usize, v: Pair<S, Self>) {
            let at = Self::simd_pair_start::<S>(j);
            // SAFETY: the caller's duty.
            unsafe {
                simd.$store(p.add(at), v[0]);
                simd.$store(p.add(at + <$float>::LANES), v[1]);
            }
        }

        #[inline(always)]
        unsafe fn simd_store_lanes_tail<S: Lanes>(simd: S, p: *mut Self, j: usize, n: usize, v: Pair<S, Self>) {
            let at = Self::simd_pair_start::<S>(j);
            let (first, second) = (n.saturating_sub(at), n.saturating_sub(at + <$float>::LANES));
            let lanes = <$float>::lanes::<S>();
            // SAFETY: the caller's duty; nothing is written where nothing is left.
            unsafe {
                simd.$store_tail(p.wrapping_add(at), first.min(lanes), v[0]);
                simd.$store_tail(p.wrapping_add(at + <$float>::LANES), second.min(lanes), v[1]);
            }
        }

        #[inline(always)]
        unsafe fn simd_load<S: Lanes>(simd: S, p: *const Self) -> Pair<S, Self> {
            // SAFETY: the caller's duty.
            unsafe { [simd.$load(p), simd.$load(p.add(<$float>::lanes::<S>()))] }
        }

        #[inline(always)]
        unsafe fn simd_load_tail<S: Lanes>(
            simd: S,
            p: *const Self,
            n: usize,
            fill: <$float as Float>::Reg<S>,
        ) -> Pair<S, Self> {
            let lanes = <$float>::lanes::<S>();
            // SAFETY: the caller's duty.
            unsafe {
                if n <= lanes {
                    [simd.$load_tail(p, n, fill), fill]
                } else {
                    [simd.$load(p), simd.$load_tail(p.add(lanes), n - lanes, fill)]
                }
            }
        }
    };
}

/// The stores of pairs that are consecutive registers.
macro_rules! store_consecutive {
    ($simd:ident, $p:expr, $v:ident, $store:ident) => {{
        let (p, [first, second]) = ($p, $v);
        $simd.$store(p, first);
        $simd.$store(p.add(Self::Float::lanes::<S>()), second);
    }};
    ($simd:ident, $p:expr, $n:ident, $v:ident, $store:ident, $store_tail:ident) => {{
        let (p, [first, second]) = ($p, $v);
        let lanes = Self::Float::lanes::<S>();
        if $n <= lanes {
            $simd.$store_tail(p, $n, first);
        } else {
            $simd.$store(p, first);
            $simd.$store_tail(p.add(lanes), $n - lanes, second);
        }
    }};
}

/// f32 and f64: computed in themselves.
macro_rules! float_element {
    ($t:ident, $dtype:expr, $run:literal, $load:ident, $load_tail:ident, $load_runs:ident, $store:ident, $store_tail:ident, $stream:ident) => {
        impl Element for $t {
            type Float = Self;

            const DTYPE: Dtype = $dtype;
            const ROUNDS: bool = false;
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

            consecutive!($t, $load, $load_tail, $load_runs, $store, $store_tail);

            #[inline(always)]
            fn simd_round<S: Lanes>(_: S, v: Pair<S, Self>) -> Pair<S, Self> {
                v
            }

            #[inline(always)]
            unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, _: Format, i: usize) -> Pair<S, Self> {
                // SAFETY: the caller's duty.
                unsafe { Self::simd_load(simd, p.add(i)) }
            }

            #[inline(always)]
            unsafe fn simd_load_beside_tail<S: Lanes>(
                simd: S,
                p: *const Self,
                _: Format,
                i: usize,
                n: usize,
            ) -> Pair<S, Self> {
                // SAFETY: the caller's duty.
                unsafe { Self::simd_load_tail(simd, p.add(i), n, Self::splat(simd, 0.0)) }
            }

            #[inline(always)]
            unsafe fn simd_store_beside<S: Lanes, const STREAM: bool>(
                simd: S,
                p: *mut Self,
                _: bool,
                i: usize,
                v: Pair<S, Self>,
            ) {
                // SAFETY: the caller's duty.
                unsafe {
                    if STREAM {
                        store_consecutive!(simd, p.add(i), v, $stream);
                    } else {
                        store_consecutive!(simd, p.add(i), v, $store);
                    }
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
                // SAFETY: the caller's duty.
                unsafe { store_consecutive!(simd, p.add(i), n, v, $store, $store_tail) };
            }

            #[inline(always)]
            unsafe fn simd_store_packed<S: Lanes>(_: S, _: *mut f32, _: Pair<S, Self>) {}
        }
    };
}

float_element!(f32, Dtype::F32, 8, load, load_tail, load_runs, store, store_tail, stream);
float_element!(f64, Dtype::F64, 4, load_f64, load_f64_tail, load_f64_runs, store_f64, store_f64_tail, stream_f64);

impl Element for f16 {
    type Float = f32;

    const DTYPE: Dtype = Dtype::F16;
    const ROUNDS: bool = true;
    const RUN: usize = 8;

    fn step_of_ones() -> &'static [Self] {
        static ONES: [f16; f16::STEP] = [f16::ONE; f16::STEP];
        &ONES
    }

    fn step_of_negative_zeros() -> &'static [Self] {
        static NEGATIVE_ZEROS: [f16; f16::STEP] = [f16::NEG_ZERO; f16::STEP];
        &NEGATIVE_ZEROS
    }

    #[inline(always)]
    fn to_computed(self) -> f32 {
        self.to_f32_const()
    }

    #[inline(always)]
    fn from_computed(v: f32) -> Self {
        Self::from_f32_const(v)
    }

    /// The largest f16 is nothing beside the largest f32.
    #[inline(always)]
    fn is_finite_with(self, _: f32) -> bool {
        self.is_finite()
    }

    consecutive!(f32, load_f16, load_f16_tail, load_f16_runs, store_f16, store_f16_tail);

    #[inline(always)]
    fn simd_round<S: Lanes>(simd: S, [first, second]: Pair<S, Self>) -> Pair<S, Self> {
        [simd.round_f16(first), simd.round_f16(second)]
    }

    #[inline(always)]
    unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, format: Format, i: usize) -> Pair<S, Self> {
        // SAFETY: the caller's duty.
        unsafe {
            if format == Format::Own {
                Self::simd_load(simd, p.add(i))
            } else {
                <f32 as Element>::simd_load(simd, p.cast::<f32>().add(i))
            }
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
        // SAFETY: the caller's duty.
        unsafe {
            if format == Format::Own {
                Self::simd_load_tail(simd, p.add(i), n, zero)
            } else {
                <f32 as Element>::simd_load_tail(simd, p.cast::<f32>().add(i), n, zero)
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
        // SAFETY: the caller's duty.
        unsafe {
            if wide {
                <f32 as Element>::simd_store_beside::<S, STREAM>(simd, p.cast::<f32>(), false, i, v);
            } else if STREAM {
                store_consecutive!(simd, p.add(i), v, stream_f16);
            } else {
                store_consecutive!(simd, p.add(i), v, store_f16);
            }
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
        // SAFETY: the caller's duty.
        unsafe {
            if wide {
                <f32 as Element>::simd_store_beside_tail(simd, p.cast::<f32>(), false, i, n, v);
            } else {
                store_consecutive!(simd, p.add(i), n, v, store_f16, store_f16_tail);
            }
        }
    }

    #[inline(always)]
    unsafe fn simd_store_packed<S: Lanes>(simd: S, p: *mut f32, v: Pair<S, Self>) {
        // SAFETY: the caller's duty.
        unsafe { store_consecutive!(simd, p, v, store) };
    }
}

impl Element for bf16 {
    type Float = f32;

    const DTYPE: Dtype = Dtype::Bf16;
    const ROUNDS: bool = true;
    const SPLITS: bool = true;
    const RUN: usize = 8;

    fn step_of_ones() -> &'static [Self] {
        static ONES: [bf16; bf16::STEP] = [bf16::ONE; bf16::STEP];
        &ONES
    }

    fn step_of_negative_zeros() -> &'static [Self] {
        static NEGATIVE_ZEROS: [bf16; bf16::STEP] = [bf16::NEG_ZERO; bf16::STEP];
        &NEGATIVE_ZEROS
    }

    #[inline(always)]
    fn to_computed(self) -> f32 {
        self.to_f32_const()
    }

    #[inline(always)]
    fn from_computed(v: f32) -> Self {
        Self::from_f32_const(v)
    }

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
        // SAFETY: the caller's duty.
        unsafe { simd.load_bf16(p.add(Self::simd_pair_start::<S>(j))) }
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
        unsafe { simd.load_bf16_tail(p.wrapping_add(at), n.saturating_sub(at).min(2 * S::F32_LANES), fill) }
    }

    #[inline(always)]
    unsafe fn simd_load_runs<S: Lanes>(simd: S, p: *const Self, stride: usize, j: usize) -> Pair<S, Self> {
        // SAFETY: the caller's duty.
        unsafe { simd.load_bf16_runs(p, stride, j) }
    }

    #[inline(always)]
    unsafe fn simd_store_lanes<S: Lanes>(simd: S, p: *mut Self, j: usize, v: Pair<S, Self>) {
        // SAFETY: the caller's duty.
        unsafe { simd.store_bf16(p.add(Self::simd_pair_start::<S>(j)), v) };
    }

    #[inline(always)]
    unsafe fn simd_store_lanes_tail<S: Lanes>(simd: S, p: *mut Self, j: usize, n: usize, v: Pair<S, Self>) {
        let at = Self::simd_pair_start::<S>(j);
        // SAFETY: the caller's duty; nothing is written where nothing is left.
        unsafe { simd.store_bf16_tail(p.wrapping_add(at), n.saturating_sub(at).min(2 * S::F32_LANES), v) };
    }

    #[inline(always)]
    fn simd_round<S: Lanes>(simd: S, [even, odd]: Pair<S, Self>) -> Pair<S, Self> {
        [simd.round_bf16(even), simd.round_bf16(odd)]
    }

    #[inline(always)]
    unsafe fn simd_load<S: Lanes>(simd: S, p: *const Self) -> Pair<S, Self> {
        // SAFETY: the caller's duty.
        unsafe { simd.load_bf16(p) }
    }

    #[inline(always)]
    unsafe fn simd_load_tail<S: Lanes>(simd: S, p: *const Self, n: usize, fill: S::f32s) -> Pair<S, Self> {
        // SAFETY: the caller's duty.
        unsafe { simd.load_bf16_tail(p, n, fill) }
    }

    #[inline(always)]
    unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, format: Format, i: usize) -> Pair<S, Self> {
        // SAFETY: the caller's duty.
        unsafe {
            match format {
                Format::Own => simd.load_bf16(p.add(i)),
                Format::Wide => simd.split(<f32 as Element>::simd_load(simd, p.cast::<f32>().add(i))),
                Format::Packed => <f32 as Element>::simd_load(simd, p.cast::<f32>().add(i)),
            }
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
                Format::Own => simd.load_bf16_tail(p.add(i), n, zero),
                Format::Wide => simd.split(<f32 as Element>::simd_load_tail(simd, p.cast::<f32>().add(i), n, zero)),
                Format::Packed => <f32 as Element>::simd_load(simd, p.cast::<f32>().add(i)),
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
        // SAFETY: the caller's duty.
        unsafe {
            if wide {
                <f32 as Element>::simd_store_beside::<S, STREAM>(simd, p.cast::<f32>(), false, i, simd.join(v));
            } else if STREAM {
                simd.stream_bf16(p.add(i), v);
            } else {
                simd.store_bf16(p.add(i), v);
            }
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
        // SAFETY: the caller's duty.
        unsafe {
            if wide {
                <f32 as Element>::simd_store_beside_tail(simd, p.cast::<f32>(), false, i, n, simd.join(v));
            } else {
                simd.store_bf16_tail(p.add(i), n, v);
            }
        }
    }

    #[inline(always)]
    unsafe fn simd_store_packed<S: Lanes>(simd: S, p: *mut f32, v: Pair<S, Self>) {
        // SAFETY: the caller's duty.
        unsafe { store_consecutive!(simd, p, v, store) };
    }
}
