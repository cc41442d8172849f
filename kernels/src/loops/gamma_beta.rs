//! gamma and beta, as the loops read them.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::element::{Format, Kind, Pair, Storage};
use crate::mean::Center;
use crate::rounding::Rounding;
use crate::rows::{Groups, Params, Tail, Target, Vector, pad, way};
use crate::simd::{Float, Kernel, Lanes, outline};

/// gamma and beta of a row for its second touch, and the offset that is added to gamma.
///
/// A step of ones stands in for an absent gamma, and a step of negative zeros for an absent beta. Each step of the row
/// reads the stand-in again. Multiplying by 1 and adding -0 change no bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GammaBeta<T: Storage> {
    gamma: *const T,
    beta: *const T,
    gamma_mask: usize,
    beta_mask: usize,
    format: Format,
    offset: T::Float,
    /// What is rounded to the type of x before the end.
    pub(super) steps: Steps,
}

/// What is rounded to the type of x before the end: some of these, or nothing. (One number is cheap to copy and to
/// test.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps(u8);

impl Steps {
    pub(super) const NONE: Self = Self(0);
    /// xhat, before it is multiplied by gamma.
    pub(super) const XHAT: Self = Self(1);
    /// xhat, and what comes of multiplying it.
    pub(super) const PRODUCT: Self = Self(2 | Self::XHAT.0);
    /// The sum of gamma and offset.
    const GAMMA: Self = Self(4);

    #[inline(always)]
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all that `other` has is rounded.
    #[inline(always)]
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl<T: Storage> GammaBeta<T> {
    #[inline(always)]
    pub(crate) fn new(params: &Params<'_, T>) -> Self {
        let &Params { gamma, beta, offset, rounding, .. } = params;
        let mask = |v: Option<Vector<'_, T>>| if v.is_some() { usize::MAX } else { 0 };
        // The elements of a stand-in are equal, so that any order is right for them.
        let format = match gamma.or(beta) {
            _ if !T::ROUNDS => Format::Own,
            None => Format::Packed,
            Some(v) if v.is_wide() && T::SPLITS => Format::Wide,
            Some(v) if v.is_wide() => Format::Packed,
            Some(_) => Format::Own,
        };
        let (ones, zeros) = if format == Format::Own {
            (T::step_of_ones().as_ptr(), T::step_of_negative_zeros().as_ptr())
        } else {
            (f32::step_of_ones().as_ptr().cast(), f32::step_of_negative_zeros().as_ptr().cast())
        };
        let mut steps = match gamma.or(beta) {
            _ if !T::ROUNDS || !rounding.steps => Steps::NONE,
            Some(v) if v.is_wide() => Steps::XHAT,
            _ => Steps::PRODUCT,
        };
        if T::ROUNDS && params.rounds_gamma() {
            steps = steps.and(Steps::GAMMA);
        }
        Self {
            gamma: gamma.map_or(ones, |v| v.as_ptr()),
            beta: beta.map_or(zeros, |v| v.as_ptr()),
            gamma_mask: mask(gamma),
            beta_mask: mask(beta),
            format,
            offset,
            steps,
        }
    }

    /// One gamma and one beta for all elements of a row that has a mean. They are written to `room`.
    ///
    /// # Safety
    /// - What is returned is used while the room is neither moved nor written again.
    #[inline(always)]
    pub(super) unsafe fn of_channel<S: Lanes>(
        simd: S,
        gamma: T::Float,
        beta: T::Float,
        room: &mut ChannelRoom<T>,
    ) -> Self {
        let [gammas, betas] = [0, 1].map(|i| room.0[i].as_mut_ptr().cast::<T::Float>());
        // SAFETY: the room has place for a pair of registers each.
        unsafe {
            T::simd_store_computed(simd, gammas, [T::Float::splat(simd, gamma); 2]);
            T::simd_store_computed(simd, betas, [T::Float::splat(simd, beta); 2]);
        }
        // The ways of rows without a stand-in for both would not read it. An index is below the mask of beta.
        let (gamma_mask, beta_mask) = (0, 1 << (usize::BITS - 1));
        let format = if T::ROUNDS { Format::Packed } else { Format::Own };
        let (gamma, beta) = (gammas.cast_const().cast(), betas.cast_const().cast());
        Self { gamma, beta, gamma_mask, beta_mask, format, offset: -T::Float::default(), steps: Steps::NONE }
    }

    /// What this has been made of: gamma and beta of `cols` elements.
    ///
    /// # Safety
    /// - gamma and beta have `cols` elements for `'a`, and have not been packed.
    pub(super) unsafe fn params<'a>(&self, cols: usize) -> Params<'a, T> {
        let kind = if self.format == Format::Own { Kind::Own } else { Kind::F32 };
        // SAFETY: the caller's duty. The format says the type.
        let vector = |p, mask| (mask != 0).then(|| unsafe { Vector::from_raw(p, cols, kind) });
        let (gamma, beta) = (vector(self.gamma, self.gamma_mask), vector(self.beta, self.beta_mask));
        let (steps, of_gamma) = (self.steps.has(Steps::XHAT), self.steps.has(Steps::GAMMA));
        let rounding = Rounding { steps, gamma: of_gamma, ..Rounding::ONCE };
        Params { gamma, beta, groups: Groups::ONE, offset: self.offset, rounding, ..Params::default() }
    }

    /// Whether `other` reads gamma and beta at the same places.
    #[inline(always)]
    pub(crate) fn same(&self, other: &Self) -> bool {
        core::ptr::eq(self.gamma, other.gamma) && core::ptr::eq(self.beta, other.beta)
    }

    /// Whether packing would change the format or the offset.
    #[inline(always)]
    pub(crate) fn packs(&self) -> bool {
        self.format != Format::Packed || self.offset != T::Float::default()
    }

    /// Whether gamma and beta lie in the order of the columns: packed ones lie in the order of pairs of registers.
    #[inline(always)]
    pub(super) fn is_in_order(&self) -> bool {
        !T::SPLITS || self.format != Format::Packed
    }

    /// gamma and beta of the columns from `i` on.
    ///
    /// # Safety
    /// - gamma and beta, if present, have `i` elements, and are [in order](Self::is_in_order).
    #[inline(always)]
    pub(super) unsafe fn after(self, i: usize) -> Self {
        let bytes = i * if self.format == Format::Own { size_of::<T>() } else { size_of::<f32>() };
        // SAFETY: the caller's duty.
        unsafe {
            let gamma = self.gamma.byte_add(bytes & self.gamma_mask);
            Self { gamma, beta: self.beta.byte_add(bytes & self.beta_mask), ..self }
        }
    }

    /// Whether xhat, or the sum of gamma and offset, is rounded.
    #[inline(always)]
    pub(super) fn has_steps(&self) -> bool {
        T::ROUNDS && self.steps != Steps::NONE
    }

    /// The way of the second touch for a row that has these and is written to `y`.
    #[inline(always)]
    pub(super) fn way<S: Lanes>(&self, y: Target<T>) -> u8 {
        let no_offset = self.offset == T::Float::default();
        let has_steps = self.has_steps();
        if !S::SPECIALIZES || y.streams() || y.is_wide() {
            if has_steps { way::STEPS_GENERAL } else { way::GENERAL }
        } else if T::ROUNDS {
            match self.format {
                Format::Packed if no_offset && !has_steps => way::AFFINE,
                Format::Packed if no_offset => way::STEPS,
                Format::Own if has_steps => way::STEPS_OWN,
                Format::Own => way::OFFSET,
                _ if has_steps => way::STEPS_GENERAL,
                _ => way::GENERAL,
            }
        } else if self.gamma_mask | self.beta_mask == 0 {
            way::PLAIN
        } else if no_offset && self.gamma_mask != 0 {
            way::AFFINE
        } else {
            way::OFFSET
        }
    }

    /// gamma and beta for a pair of registers, from element `i + j` on. A stand-in is read from its element `j` on.
    /// Unless `M` is centered, beta is zero and is not read.
    ///
    /// # Safety
    /// - gamma and beta, if present, have a pair of elements from `i + j` on.
    /// - `j` plus a pair is at most a step.
    /// - `WAY` is `STEPS_GENERAL` or what [`way`](Self::way) returns: every other way relies on what is present.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Lanes, M: Center, const WAY: u8>(
        &self,
        simd: S,
        i: usize,
        j: usize,
    ) -> [Pair<S, T>; 2] {
        let zeros = [T::Float::splat(simd, T::Float::default()); 2];
        if WAY == way::PLAIN {
            return [zeros; 2];
        }
        let format = match WAY {
            way::AFFINE | way::STEPS => Format::Packed,
            way::OFFSET | way::STEPS_OWN => Format::Own,
            _ => self.format,
        };
        // These ways have a gamma. A mask takes a register, which loops may lack.
        let has_gamma = !T::ROUNDS && (WAY == way::AFFINE || WAY == way::OFFSET && !M::CENTERED);
        let gamma_mask = if has_gamma { usize::MAX } else { self.gamma_mask };
        // SAFETY: the caller's duty.
        unsafe {
            let mut gamma = T::simd_load_beside(simd, self.gamma, format, (i & gamma_mask) + j);
            if WAY != way::AFFINE && WAY != way::STEPS {
                gamma = self.with_offset(
                    simd,
                    gamma,
                    WAY != way::GENERAL && WAY != way::OFFSET && self.steps.has(Steps::GAMMA),
                );
            }
            if !M::CENTERED {
                return [gamma, zeros];
            }
            [gamma, T::simd_load_beside(simd, self.beta, format, (i & self.beta_mask) + j)]
        }
    }

    /// gamma and beta for `n` elements from `i` on, at most a pair of registers.
    ///
    /// # Safety
    /// - gamma and beta, if present, have `i + n` elements.
    #[inline(always)]
    pub(crate) unsafe fn load_tail<S: Lanes, M: Center>(&self, simd: S, i: usize, n: usize) -> [Pair<S, T>; 2] {
        // SAFETY: the caller's duty.
        unsafe {
            let gamma = T::simd_load_beside_tail(simd, self.gamma, self.format, i & self.gamma_mask, n);
            let gamma = self.with_offset(simd, gamma, self.steps.has(Steps::GAMMA));
            if !M::CENTERED {
                return [gamma, [T::Float::splat(simd, T::Float::default()); 2]];
            }
            [gamma, T::simd_load_beside_tail(simd, self.beta, self.format, i & self.beta_mask, n)]
        }
    }

    /// Copies gamma and beta of the `n` elements from `i` on, fewer than a pair of registers, into tails with zeros
    /// after them. What is returned reads the copies as the pair from element 0 on.
    ///
    /// # Safety
    /// - gamma and beta, if present, have `i + n` elements.
    #[inline(always)]
    pub(crate) unsafe fn padded(mut self, i: usize, n: usize, [gamma, beta]: &mut [Tail; 2]) -> Self {
        let element = if self.format == Format::Own { size_of::<T>() } else { size_of::<f32>() };
        for (p, mask, tail) in
            [(&mut self.gamma, &mut self.gamma_mask, gamma), (&mut self.beta, &mut self.beta_mask, beta)]
        {
            if *mask != 0 {
                // SAFETY: the caller's duty.
                *p = unsafe { pad(p.cast::<u8>().add(i * element), n * element, tail).cast() };
                *mask = 0;
            }
        }
        self
    }

    #[inline(always)]
    fn with_offset<S: Lanes>(&self, simd: S, [a, b]: Pair<S, T>, rounds: bool) -> Pair<S, T> {
        let offset = T::Float::splat(simd, self.offset);
        let sum = [T::Float::plus(simd, a, offset), T::Float::plus(simd, b, offset)];
        // SAFETY: as in `outline`.
        if T::ROUNDS && rounds { unsafe { T::simd_round(simd, sum) } } else { sum }
    }
}

/// The elements of the widest pair of registers.
const PAIR: usize = 32;

/// Room for a pair of registers of one gamma, and of one beta.
#[repr(align(64))]
pub(super) struct ChannelRoom<T: Storage>([[MaybeUninit<T::Float>; PAIR]; 2]);

impl<T: Storage> ChannelRoom<T> {
    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self([[const { MaybeUninit::uninit() }; PAIR]; 2])
    }
}

/// The columns that [`Packed`] has room for. An L1 cache holds them beside the rows.
pub(crate) const PACKED_COLS: usize = 1024;

/// gamma plus offset, and beta, in f32 and in the order of the pairs of registers. For elements of 16 bits, this widens
/// them once for many rows.
///
/// A cell, since pointers read what has been packed while this is borrowed again.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Packed(UnsafeCell<[[MaybeUninit<f32>; PACKED_COLS]; 2]>);

impl Packed {
    #[inline(always)]
    pub(crate) const fn nothing() -> Self {
        Self(UnsafeCell::new([[MaybeUninit::uninit(); PACKED_COLS]; 2]))
    }

    /// Packs gamma and beta of `gamma_beta`. What is returned reads them from here.
    ///
    /// # Safety
    /// - `cols <= PACKED_COLS`, and gamma and beta, if present, have `cols` elements.
    /// - What is returned is used while this is neither moved nor packed again.
    #[inline(always)]
    pub(crate) unsafe fn pack<S: Lanes, T: Storage, M: Center>(
        &self,
        simd: S,
        gamma_beta: &GammaBeta<T>,
        cols: usize,
    ) -> GammaBeta<T> {
        let gammas: *mut f32 = self.0.get().cast();
        let betas = gammas.wrapping_add(PACKED_COLS);
        outline(simd, Pack::<T, M> { gamma_beta: *gamma_beta, cols, to: [gammas, betas], center: PhantomData });
        GammaBeta {
            gamma: gammas.cast_const().cast(),
            beta: betas.cast_const().cast(),
            gamma_mask: usize::MAX,
            beta_mask: usize::MAX,
            format: Format::Packed,
            offset: -T::Float::default(),
            steps: Steps(gamma_beta.steps.0 & Steps::PRODUCT.0),
        }
    }
}

/// Packs `cols` columns of gamma and beta. There is room for these columns and the rest of a pair.
struct Pack<T: Storage, M: Center> {
    gamma_beta: GammaBeta<T>,
    cols: usize,
    to: [*mut f32; 2],
    center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for Pack<T, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { gamma_beta, cols, to: [gammas, betas], .. } = self;
        let pair = 2 * S::F32_LANES;
        let mut i = 0;
        while i < cols {
            // SAFETY: the duty of the caller of `pack`. Pairs begin within the columns, and so end within the room.
            unsafe {
                let [gamma, beta] = gamma_beta.load_tail::<S, M>(simd, i, pair.min(cols - i));
                T::simd_store_packed(simd, gammas.add(i), gamma);
                T::simd_store_packed(simd, betas.add(i), beta);
            }
            i += pair;
        }
    }
}

const _: () = assert!(PACKED_COLS.is_multiple_of(f32::STEP));
