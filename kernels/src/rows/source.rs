//! Elements to be read, and what loops ask for before they read it.

use super::line::LINE;
use super::tail::{Tail, pad};
use crate::element::{Pair, Storage};
use crate::simd::{Float, Lanes, WIDE_REGS, rolled};

/// How many bytes before loops read wide elements from memory, these are asked for: to come into the second-level
/// cache, and then into the first, more than once, since requests are lost where others wait.
const FAR: usize = 16 << 10;
pub(super) const NEAR: [usize; 5] = [8 << 10, 7 << 10, 6 << 10, 5 << 10, 4 << 10];

/// Which elements loops ask for before they read them, in bytes from where they would do so if rows followed one
/// another without a gap. (A number, as cheap to copy as it gets.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead(pub(super) usize);

impl Ahead {
    pub(super) const NOTHING: Self = Self(usize::MAX);

    /// Of rows that are `stride` elements apart. If there are gaps between the rows, the first request for L1 is for
    /// the row below, and the others are for what was asked for in that row just before. Elements of 16 bits are asked
    /// for once, in the row below.
    #[inline(always)]
    pub(super) fn new<T: Storage>(stride: usize, gaps: bool) -> Self {
        let below = stride.wrapping_mul(size_of::<T>());
        if T::ROUNDS {
            Self(below)
        } else if gaps {
            Self(below.wrapping_sub(NEAR[0]))
        } else {
            Self(0)
        }
    }
}

/// Elements to be read. Whoever holds one knows how many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<T>(pub(super) *const T);

impl<T> From<&[T]> for Source<T> {
    #[inline(always)]
    fn from(x: &[T]) -> Self {
        Self(x.as_ptr())
    }
}

impl<T: Storage> Source<T> {
    /// Storage `i`.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn get(self, i: usize) -> T {
        *self.0.add(i)
    }

    /// Where they are.
    pub(crate) fn as_ptr(self) -> *const T {
        self.0
    }

    /// Pair `j` of the step that starts at `i`.
    ///
    /// # Safety
    /// - There is such a step.
    #[inline(always)]
    pub(crate) unsafe fn load_lanes<S: Lanes>(self, simd: S, i: usize, j: usize) -> Pair<S, T> {
        T::simd_load_lanes(simd, self.0.add(i), j)
    }

    /// The same where `n` elements are left, from `i` on; `fill` in the lanes above.
    ///
    /// # Safety
    /// - There are that many.
    #[inline(always)]
    pub(crate) unsafe fn load_lanes_tail<S: Lanes>(
        self,
        simd: S,
        i: usize,
        j: usize,
        n: usize,
        fill: <T::Float as Float>::Reg<S>,
    ) -> Pair<S, T> {
        T::simd_load_lanes_tail(simd, self.0.add(i), j, n, fill)
    }

    /// Pair `j` of a step that is made of runs of elements, `stride` apart.
    ///
    /// # Safety
    /// - There are all the elements of the runs.
    #[inline(always)]
    pub(crate) unsafe fn load_runs<S: Lanes>(self, simd: S, stride: usize, j: usize) -> Pair<S, T> {
        T::simd_load_runs(simd, self.0, stride, j)
    }

    /// The elements from `i` on.
    ///
    /// # Safety
    /// - There are at least `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn after(self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        Self(unsafe { self.0.add(i) })
    }

    /// Asks for `n` elements from `i` on, which need not be there. Wide ones come into the second-level cache: where
    /// the first is asked for what memory has, other loads wait. Loops over 16 bits wait for arithmetic, and not for
    /// loads.
    #[inline(always)]
    pub(crate) fn prefetch<S: Lanes>(self, simd: S, i: usize, n: usize) {
        let p = self.0.wrapping_add(i).cast::<u8>();
        let mut line = 0;
        while line < n * size_of::<T>() {
            if T::ROUNDS {
                simd.prefetch(p.wrapping_add(line));
            } else {
                simd.prefetch_to_l2(p.wrapping_add(line));
            }
            line += 64;
        }
    }

    /// Asks for the step that comes a page after the one that starts at `i`, to come into the first-level cache.
    #[inline(always)]
    pub(crate) fn prefetch_near<S: Lanes>(self, simd: S, i: usize) {
        let p = self.0.wrapping_add(i).cast::<u8>();
        for line in (0..T::STEP * size_of::<T>()).step_by(LINE) {
            simd.prefetch(p.wrapping_add(NEAR[4] + line));
        }
    }

    /// Asks for what is read some time after the step that starts at `i`: what lies `ahead`.
    #[inline(always)]
    pub(super) fn prefetch_ahead<S: Lanes>(self, simd: S, i: usize, ahead: Ahead) {
        if T::ROUNDS {
            return Self(self.0.wrapping_byte_add(ahead.0)).prefetch(simd, i, T::STEP);
        }
        let p = self.0.wrapping_add(i).cast::<u8>().wrapping_add(ahead.0);
        let lines = (0..T::STEP * size_of::<T>()).step_by(LINE);
        lines.clone().for_each(|line| simd.prefetch_to_l2(p.wrapping_add(FAR + line)));
        for near in NEAR {
            lines.clone().for_each(|line| simd.prefetch(p.wrapping_add(near + line)));
        }
    }

    /// A pair of registers of consecutive elements from `i` on.
    ///
    /// # Safety
    /// - There are that many.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Lanes>(self, simd: S, i: usize) -> Pair<S, T> {
        T::simd_load(simd, self.0.add(i))
    }

    /// A pair of registers of elements from `i` on, widened.
    ///
    /// # Safety
    /// - There are that many.
    #[inline(always)]
    pub(crate) unsafe fn load_wide<S: Lanes>(self, simd: S, i: usize) -> [S::f64s; WIDE_REGS] {
        // SAFETY: the caller's duty.
        T::Float::to_f64s(simd, unsafe { self.load(simd, i) })
    }

    /// The elements of each source from `i` on. If the `n` elements left are fewer than `whole` (a step of sums in f64
    /// at most), they are copies in the tails, with zeros above, for as long as the tails are not used again.
    ///
    /// # Safety
    /// - There are that many.
    #[inline(always)]
    pub(crate) unsafe fn padded<const N: usize>(
        mut all: [Self; N],
        i: usize,
        n: usize,
        whole: usize,
        tails: &mut [Tail; N],
    ) -> [Self; N] {
        for k in 0..N {
            // SAFETY: the caller's duty.
            all[k] = unsafe { all[k].after(i) };
        }
        if n < whole {
            for (of, tail) in all.iter_mut().zip(tails).take(rolled(N)) {
                // SAFETY: the caller's duty.
                *of = Self(unsafe { pad(of.0.cast(), n * size_of::<T>(), tail) }.cast());
            }
        }
        all
    }

    /// `n` elements from `i` on, at most a pair of registers, and `fill` in the lanes above.
    ///
    /// # Safety
    /// - There are that many.
    #[inline(always)]
    pub(crate) unsafe fn load_tail<S: Lanes>(
        self,
        simd: S,
        i: usize,
        n: usize,
        fill: <T::Float as Float>::Reg<S>,
    ) -> Pair<S, T> {
        T::simd_load_tail(simd, self.0.add(i), n, fill)
    }
}
