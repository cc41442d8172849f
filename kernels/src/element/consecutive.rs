//! Macros for types whose pairs are consecutive registers, and for all types of 16 bits.

/// What the types whose pairs are consecutive registers have in common.
macro_rules! consecutive {
    ($float:ty) => {
        #[inline(always)]
        fn simd_pair_start<S: Lanes>(j: usize) -> usize {
            j * <$float>::lanes::<S>()
        }

        #[inline(always)]
        unsafe fn simd_load_lanes<S: Lanes>(simd: S, p: *const Self, j: usize) -> Pair<S, Self> {
            let at = Self::simd_pair_start::<S>(j);
            [simd.load(p.add(at)), simd.load(p.add(at + <$float>::LANES))]
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
                    simd.load_tail(p.wrapping_add(at), first.min(lanes), fill),
                    simd.load_tail(p.wrapping_add(at + <$float>::LANES), second.min(lanes), fill),
                ]
            }
        }

        #[inline(always)]
        unsafe fn simd_load_runs<S: Lanes>(simd: S, p: *const Self, stride: usize, j: usize) -> Pair<S, Self> {
            let regs = <$float>::LANES / <$float>::lanes::<S>();
            [simd.load_runs(p, stride, j), simd.load_runs(p, stride, j + regs)]
        }

        #[inline(always)]
        unsafe fn simd_load<S: Lanes>(simd: S, p: *const Self) -> Pair<S, Self> {
            [simd.load(p), simd.load(p.add(<$float>::lanes::<S>()))]
        }

        #[inline(always)]
        unsafe fn simd_load_tail<S: Lanes>(
            simd: S,
            p: *const Self,
            n: usize,
            fill: <$float as Float>::Reg<S>,
        ) -> Pair<S, Self> {
            let lanes = <$float>::lanes::<S>();
            if n <= lanes {
                [simd.load_tail(p, n, fill), fill]
            } else {
                [simd.load(p), simd.load_tail(p.add(lanes), n - lanes, fill)]
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
}

/// The same stores of the first `n` elements.
macro_rules! store_consecutive_tail {
    ($simd:ident, $p:expr, $n:ident, $v:ident) => {{
        let (p, [first, second]) = ($p, $v);
        let lanes = Self::Float::lanes::<S>();
        if $n <= lanes {
            $simd.store_tail(p, $n, first);
        } else {
            $simd.store(p, first);
            $simd.store_tail(p.add(lanes), $n - lanes, second);
        }
    }};
}

/// What the types of 16 bits have in common: they are computed in f32, and `half` converts single elements without
/// hardware.
macro_rules! sixteen_bits {
    ($t:ident, $dtype:expr) => {
        type Float = f32;

        const DTYPE: Dtype = $dtype;
        const ROUNDS: bool = true;
        const RUN: usize = 8;

        fn step_of_ones() -> &'static [Self] {
            static ONES: Aligned<[$t; $t::STEP]> = Aligned([$t::ONE; $t::STEP]);
            &ONES.0
        }

        fn step_of_negative_zeros() -> &'static [Self] {
            static NEGATIVE_ZEROS: Aligned<[$t; $t::STEP]> = Aligned([$t::NEG_ZERO; $t::STEP]);
            &NEGATIVE_ZEROS.0
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
        unsafe fn simd_store_packed<S: Lanes>(simd: S, p: *mut f32, v: Pair<S, Self>) {
            store_consecutive!(simd, p, v, store);
        }
    };
}
