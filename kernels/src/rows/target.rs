//! Elements to be written.

use super::line::{CacheLine, LINE};
use super::tail::Tail;
use crate::element::{Companion, Pair, Storage};
use crate::simd::{Float, Lanes, WIDE_REGS};

/// The ways of the second touch of a row. Each has a loop of its own.
pub(crate) mod way {
    /// Neither gamma nor beta.
    pub(crate) const PLAIN: u8 = 0;
    /// gamma and beta. Beside 16 bits they are packed.
    pub(crate) const AFFINE: u8 = 1;
    /// gamma with an offset, and beta. Beside 16 bits they have 16 bits.
    pub(crate) const OFFSET: u8 = 2;
    /// All other rows. They are written past the caches, or beside 16 bits they have f32 for y, or for gamma and beta
    /// that are not packed. On the portable tier, every row.
    pub(crate) const GENERAL: u8 = 3;
    /// [`AFFINE`] beside 16 bits, where xhat is rounded before it is multiplied by gamma.
    pub(crate) const STEPS: u8 = 4;
    /// [`OFFSET`] beside 16 bits, where xhat, or the sum of gamma and offset, is rounded.
    pub(crate) const STEPS_OWN: u8 = 5;
    /// [`GENERAL`] beside 16 bits, where xhat, or the sum of gamma and offset, may be rounded.
    pub(crate) const STEPS_GENERAL: u8 = 6;

    /// The ways without rounding before the end, as [`Body::WAYS`](crate::loops::Body::WAYS).
    pub(crate) const ONCE: u8 = 1 << PLAIN | 1 << AFFINE | 1 << OFFSET | 1 << GENERAL;
    /// All ways.
    pub(crate) const ALL: u8 = ONCE | 1 << STEPS | 1 << STEPS_OWN | 1 << STEPS_GENERAL;
}

/// Elements to be written, which are f32 if wide. Whoever holds one knows how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<T> {
    p: *mut T,
    wide: bool,
    streaming: bool,
}

impl<T: Storage> Target<T> {
    /// Elements of type `T`, or of f32 if `wide`, to be written past the caches if `streaming`.
    #[inline(always)]
    pub(crate) fn new(p: *mut T, wide: bool, streaming: bool) -> Self {
        Self { p, wide, streaming }
    }

    /// Elements of type `T` from `p` on, to be written with ordinary stores.
    pub(crate) fn of(p: *mut T) -> Self {
        Self::new(p, false, false)
    }

    /// The same of f32, beside rows of 16 bits.
    pub(crate) fn wide(p: *mut T) -> Self {
        Self::new(p, true, false)
    }

    /// Where the elements are.
    #[inline(always)]
    pub(crate) fn as_mut_ptr(self) -> *mut T {
        self.p
    }

    /// The number of elements before the first whole cache line; none if nothing is streamed.
    #[inline(always)]
    pub(crate) fn misalignment(self) -> usize {
        if !self.streaming {
            return 0;
        }
        (self.p as usize).wrapping_neg() % LINE / self.element()
    }

    /// The number of elements in a cache line.
    #[inline(always)]
    pub(crate) fn line(self) -> usize {
        LINE / self.element()
    }

    /// The same elements, to be written with ordinary stores.
    #[inline(always)]
    pub(crate) fn ordinary(self) -> Self {
        Self { streaming: false, ..self }
    }

    /// The size of an element.
    #[inline(always)]
    pub(crate) fn element(self) -> usize {
        if self.wide { size_of::<f32>() } else { size_of::<T>() }
    }

    /// Elements in `line` in place of these. [`copy_from`](Self::copy_from) takes them from there.
    #[inline(always)]
    pub(crate) fn moved(self, line: &mut CacheLine) -> Self {
        self.at(line.0.as_mut_ptr())
    }

    /// Elements at `p` in place of these.
    #[inline(always)]
    pub(crate) fn at(self, p: *mut u8) -> Self {
        Self { p: p.cast(), ..self }
    }

    /// The elements from `i` on.
    ///
    /// # Safety
    /// - There are `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn after(self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        Self { p: unsafe { self.p.byte_add(i * self.element()) }, ..self }
    }

    /// Copies the first `n` elements from `line`.
    ///
    /// # Safety
    /// - There are `n` elements, here and in `line`.
    #[inline(always)]
    pub(crate) unsafe fn copy_from(self, line: &CacheLine, n: usize) {
        line.0.as_ptr().copy_to_nonoverlapping(self.p.cast(), n * self.element());
    }

    /// Whether the elements are written past the caches.
    #[inline(always)]
    pub(crate) fn streams(self) -> bool {
        self.streaming
    }

    /// Whether the elements are f32 beside 16 bits.
    #[inline(always)]
    pub(crate) fn is_wide(self) -> bool {
        T::ROUNDS && self.wide
    }

    /// Writes a pair of registers of consecutive elements from `i` on, in one of the [ways](way).
    ///
    /// # Safety
    /// - There is a pair from `i` on.
    /// - When streaming, `i` is the [`misalignment`](Self::misalignment) plus a multiple of a pair.
    #[inline(always)]
    pub(crate) unsafe fn store<S: Lanes, const WAY: u8>(self, simd: S, i: usize, v: Pair<S, T>) {
        if WAY != way::GENERAL && WAY != way::STEPS_GENERAL {
            T::simd_store_beside::<S, false>(simd, self.p, false, i, v);
        } else if !T::ROUNDS || self.streaming {
            T::simd_store_beside::<S, true>(simd, self.p, self.wide, i, v);
        } else {
            T::simd_store_beside::<S, false>(simd, self.p, self.wide, i, v);
        }
    }

    /// Writes one register, of elements that do not round, from `i` on.
    ///
    /// # Safety
    /// - There is a register of elements from `i` on.
    #[inline(always)]
    pub(crate) unsafe fn store_register<S: Lanes>(self, simd: S, i: usize, v: <T::Float as Float>::Reg<S>) {
        debug_assert!(!T::ROUNDS);
        // SAFETY: the caller's duty. Elements that do not round are computed in their own type.
        unsafe { T::Float::store(simd, self.p.add(i).cast(), v) };
    }

    /// Writes `n` elements from `i` on, at most a pair of registers.
    ///
    /// # Safety
    /// - There are `n` elements from `i` on.
    #[inline(always)]
    pub(crate) unsafe fn store_tail<S: Lanes>(self, simd: S, i: usize, n: usize, v: Pair<S, T>) {
        let is_line = !T::ROUNDS && n * size_of::<T>() == LINE && n == T::Float::lanes::<S>();
        // SAFETY: the caller's duty; a register that is a whole cache line is aligned. Elements that do not round are
        // computed in their own type.
        unsafe {
            if is_line && self.streaming && self.p.add(i).cast::<u8>().align_offset(LINE) == 0 {
                T::Float::stream(simd, self.p.add(i).cast(), v[0]);
            } else {
                T::simd_store_beside_tail(simd, self.p, self.wide, i, n, v);
            }
        }
    }

    /// Writes `v`, a pair of registers that has been widened, from `i` on, with ordinary stores. Only its first `n`
    /// elements are written if these are fewer. NaNs in `v` are canonical, or the caller makes them so later.
    ///
    /// # Safety
    /// - There are `n` elements from `i` on.
    #[inline(always)]
    pub(crate) unsafe fn store_wide<S: Lanes>(
        self,
        simd: S,
        i: usize,
        n: usize,
        v: [S::f64s; WIDE_REGS],
        tail: &mut Tail,
    ) {
        let is_whole = n >= 2 * T::Float::lanes::<S>();
        let element = if self.is_wide() { size_of::<f32>() } else { size_of::<T>() };
        // SAFETY: the caller's duty; the tail has a pair.
        unsafe {
            let y = self.p.cast::<u8>().add(i * element);
            let to = if is_whole { y } else { tail.as_mut_ptr() };
            let v = T::Float::from_f64s(simd, v);
            T::simd_store_beside::<S, false>(simd, to.cast(), self.is_wide(), 0, v);
            if !is_whole {
                y.copy_from_nonoverlapping(to, n * element);
            }
        }
    }

    /// Makes all NaNs canonical, and turns the elements that `is_nan` names into canonical NaNs.
    ///
    /// # Safety
    /// - There are at least `cols` elements.
    pub(crate) unsafe fn canonicalize(self, cols: usize, is_nan: impl Fn(usize) -> bool) {
        for i in 0..cols {
            // SAFETY: i < cols.
            unsafe {
                if is_nan(i) || self.get(i).is_nan() {
                    self.set_nan(i);
                }
            }
        }
    }

    /// Makes all NaNs canonical.
    ///
    /// # Safety
    /// - There are at least `cols` elements.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn canonicalize_nans(self, cols: usize) {
        self.canonicalize(cols, |_| false);
    }

    /// Element `i`.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    unsafe fn get(self, i: usize) -> f64 {
        if self.wide { f64::from(*self.p.cast::<f32>().add(i)) } else { (*self.p.add(i)).to_computed().into() }
    }

    /// Writes element `i`, which is of a type that does not round.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    pub(crate) unsafe fn set(self, i: usize, v: T::Float) {
        *self.p.add(i) = T::from_computed(v);
    }

    /// Writes the canonical NaN to element `i`.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    unsafe fn set_nan(self, i: usize) {
        if self.wide {
            *self.p.cast::<f32>().add(i) = f32::NAN;
        } else {
            *self.p.add(i) = <T as Companion<T>>::NAN;
        }
    }
}
