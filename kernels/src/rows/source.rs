//! Elements to be read, and where loops prefetch them.

use super::line::LINE;
use super::tail::{Tail, pad};
use crate::element::{Pair, Storage};
use crate::simd::{Float, Lanes, WIDE_REGS, rolled};

/// How far ahead loops prefetch f32 and f64 from memory, in bytes: `FAR` into the L2 cache, then each of `NEAR` into
/// the L1 cache. The L1 cache is asked several times, since it drops requests while others wait.
const FAR: usize = 16 << 10;
pub(super) const NEAR: [usize; 5] = [8 << 10, 7 << 10, 6 << 10, 5 << 10, 4 << 10];

/// Where loops prefetch, in bytes from the place for rows that follow one another without a gap. (A single number is
/// cheap to copy.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefetchOffset(pub(super) usize);

impl PrefetchOffset {
    pub(super) const NOTHING: Self = Self(usize::MAX);

    /// The offset for rows that are `stride` elements apart. With `gaps` between the rows, the farthest request of the
    /// L1 cache (`NEAR[0]`) is for the same column of the row below, and the nearer requests are for columns before it.
    /// Elements of 16 bits are prefetched once, in the row below.
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
    /// Elements from `p` on.
    #[inline(always)]
    pub(crate) fn of(p: *const T) -> Self {
        Self(p)
    }

    /// Element `i`.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn get(self, i: usize) -> T {
        *self.0.add(i)
    }

    /// Element `i`, in a load of its own. The compiler would turn the loads from several rows into one instruction that
    /// gathers, which takes longer than all of them.
    ///
    /// # Safety
    /// - There are more than `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn get_alone(self, i: usize) -> T {
        // SAFETY: the caller's duty.
        unsafe { self.0.add(i).read_volatile() }
    }

    /// Where the elements are.
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

    /// Pair `j` of the step that starts at `i`, where `n` elements are left from `i` on, and `fill` in the lanes above.
    ///
    /// # Safety
    /// - There are `n` elements from `i` on.
    #[inline(always)]
    pub(crate) unsafe fn load_lanes_tail<S: Lanes>(
        self,
        simd: S,
        i: usize,
        j: usize,
        n: usize,
        fill: <T::Float as Float>::Reg<S>,
    ) -> Pair<S, T> {
        // SAFETY: the caller's duty.
        unsafe {
            if S::SPECIALIZES && T::simd_pair_end::<S>(j) <= n {
                self.load_lanes(simd, i, j)
            } else {
                T::simd_load_lanes_tail(simd, self.0.add(i), j, n, fill)
            }
        }
    }

    /// Pair `j` of a step that is made of runs of elements, `stride` apart.
    ///
    /// # Safety
    /// - All elements of the runs are there.
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

    /// Prefetches `n` elements from `i` on, which need not be there. f32 and f64 come into the L2 cache: other loads
    /// wait while the L1 cache is asked for elements that are in memory. 16 bits come into the L1 cache, since their
    /// loops wait for arithmetic, and not for loads.
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

    /// Prefetches into the L1 cache the step that lies a page after the step at `i`.
    #[inline(always)]
    pub(crate) fn prefetch_near<S: Lanes>(self, simd: S, i: usize) {
        let p = self.0.wrapping_add(i).cast::<u8>();
        for line in (0..T::STEP * size_of::<T>()).step_by(LINE) {
            simd.prefetch(p.wrapping_add(NEAR[4] + line));
        }
    }

    /// Prefetches elements that are read some time after the step that starts at `i`, at the offset `ahead`.
    #[inline(always)]
    pub(super) fn prefetch_ahead<S: Lanes>(self, simd: S, i: usize, ahead: PrefetchOffset) {
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

    /// Prefetches `n` elements into the L2 cache, of f32 or f64: those from `i` on, at the farthest offset at which the
    /// L1 cache would be asked for them.
    #[inline(always)]
    pub(super) fn prefetch_chunk<S: Lanes>(self, simd: S, i: usize, n: usize, ahead: PrefetchOffset) {
        Self(self.0.wrapping_byte_add(ahead.0.wrapping_add(NEAR[0]))).prefetch(simd, i, n);
    }

    /// A pair of registers of consecutive elements from `i` on.
    ///
    /// # Safety
    /// - There is a pair from `i` on.
    #[inline(always)]
    pub(crate) unsafe fn load<S: Lanes>(self, simd: S, i: usize) -> Pair<S, T> {
        T::simd_load(simd, self.0.add(i))
    }

    /// A pair of registers of elements from `i` on, widened.
    ///
    /// # Safety
    /// - There is a pair from `i` on.
    #[inline(always)]
    pub(crate) unsafe fn load_wide<S: Lanes>(self, simd: S, i: usize) -> [S::f64s; WIDE_REGS] {
        // SAFETY: the caller's duty.
        T::Float::to_f64s(simd, unsafe { self.load(simd, i) })
    }

    /// The elements of each source from `i` on. If `n`, the number of elements left, is less than `whole` (at most a
    /// step of sums in f64), they are copied into `tails`, with zeros after them. The copies last until the tails are
    /// used again.
    ///
    /// # Safety
    /// - Each source has `n` elements from `i` on.
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
    /// - There are `n` elements from `i` on.
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
