//! The second touch: normalizes elements of rows whose statistics are known.

use core::array::from_ref;

use super::epilogue::{Body, Epilogue};
use crate::element::{Pair, Storage};
use crate::mean::{Center, Mean};
use crate::rows::{CacheLine, Source, Target, way};
use crate::simd::{Float, Kernel, Lanes, outline};
use crate::stats::{CHUNK, RowNorm};

/// Longer rows are normalized from the back, in pieces of this many columns.
pub(super) const PIECE_COLS: usize = 16 * CHUNK;

/// A [`RowNorm`] in registers.
#[derive(Clone, Copy)]
pub(super) struct NormRegs<S: Lanes, F: Float, M> {
    pub(super) hi: F::Reg<S>,
    rstd: F::Reg<S>,
    offset: F::Reg<S>,
    mean: Mean<M>,
}

impl<S: Lanes, F: Float, M: Center> NormRegs<S, F, M> {
    #[inline(always)]
    pub(super) fn new(simd: S, norm: &RowNorm<F>, mean: Mean<M>) -> Self {
        // Without a mean the offset is -0. (-0 * rstd would be NaN if rstd is infinite, and +0 if it is negative.)
        let offset = if mean.is_taken::<S>() { -norm.mean_lo * norm.rstd } else { -F::default() };
        Self { hi: F::splat(simd, norm.mean), rstd: F::splat(simd, norm.rstd), offset: F::splat(simd, offset), mean }
    }

    /// xhat of a pair of registers.
    #[inline(always)]
    fn xhat(&self, simd: S, [a, b]: [F::Reg<S>; 2]) -> [F::Reg<S>; 2] {
        let xhat = |x| {
            if self.mean.is_computed::<S>() {
                F::fma(simd, F::minus(simd, x, self.hi), self.rstd, self.offset)
            } else {
                F::times(simd, x, self.rstd)
            }
        };
        [xhat(a), xhat(b)]
    }

    /// Normalizes `x`, a pair of registers, and makes y from it.
    #[inline(always)]
    pub(super) fn apply<T: Storage<Float = F>, E: Epilogue<T>, const WAY: u8>(
        &self,
        simd: S,
        x: Pair<S, T>,
        operands: E::Operands<S>,
    ) -> Pair<S, T> {
        E::apply::<S, M, WAY>(simd, self.mean, self.xhat(simd, x), operands)
    }
}

/// `sum` + 0 * `v`. Such a sum stays zero as long as no value is infinite or NaN, and becomes NaN then.
#[inline(always)]
pub(crate) fn probe<S: Lanes, F: Float>(simd: S, sum: F::Reg<S>, v: F::Reg<S>) -> F::Reg<S> {
    let zero = F::splat(simd, F::default());
    // Both are exact. The portable tier has no instruction for fma.
    if S::SPECIALIZES { F::fma(simd, v, zero, sum) } else { F::plus(simd, F::times(simd, v, zero), sum) }
}

/// `sum` + `a` * `b`, one instruction for two registers. Such a sum stops being finite when a value is infinite or NaN.
/// It also does when a product overflows, which is a false alarm. From a sum of one on it is never subnormal.
#[inline(always)]
fn probe_pair<S: Lanes, F: Float>(simd: S, sum: F::Reg<S>, [a, b]: [F::Reg<S>; 2]) -> F::Reg<S> {
    if S::SPECIALIZES {
        F::fma(simd, a, b, sum)
    } else {
        // A product of small numbers can be subnormal, which takes long where it is not added at once.
        probe::<S, F>(simd, probe::<S, F>(simd, sum, a), b)
    }
}

/// Normalizes the elements from..to of `R` rows, whose epilogues have the same operands and ways that are among `WAYS`.
/// May normalize elements before `from` again, but none before `least`. Returns zeros, or a NaN in some lane if an
/// element that is written is not finite.
///
/// # Safety
/// - Every x and every epilogue has at least `to` elements.
/// - When streaming, `from` is the misalignment of every y plus a multiple of a pair of registers.
#[inline(always)]
pub(super) unsafe fn normalize<S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const R: usize, const WAYS: u8>(
    simd: S,
    x: [Source<T>; R],
    epilogue: &[E; R],
    norm: &[NormRegs<S, T::Float, M>; R],
    [least, from, to]: [usize; 3],
) -> <T::Float as Float>::Reg<S> {
    let overlaps = may_overlap(x[0], &epilogue[0], least, to, 2 * T::Float::lanes::<S>());
    let (i, mut nan_probe) =
        epilogue[0].by_way::<S, M, _>(Pairs::<_, _, _, _, R, WAYS> { simd, x, epilogue, norm, from, to, overlaps });
    if i < to {
        for r in 0..R {
            // SAFETY: to - i elements are left, fewer than a pair.
            let v = unsafe { normalize_tail::<S, T, M, E, WAYS>(simd, x[r], epilogue[r], &norm[r], i, to - i) };
            for v in v {
                nan_probe = probe::<S, T::Float>(simd, nan_probe, v);
            }
        }
    }
    nan_probe
}

/// Whether a last pair of registers may end at element `to`, so that elements before it are normalized twice. That
/// takes less time than to treat the rest of the row by itself. Not where y is x, whose elements are needed.
#[inline(always)]
fn may_overlap<T: Storage, E: Epilogue<T>>(x: Source<T>, epilogue: &E, least: usize, to: usize, pair: usize) -> bool {
    let y = epilogue.target();
    to - least >= pair && !y.streams() && epilogue.is_in_order() && !core::ptr::eq(x.as_ptr(), y.as_mut_ptr())
}

/// Normalizes the whole pairs of registers among the elements from..to, and the rest of them by a pair that `overlaps`.
/// Returns where the pairs end, and zeros or NaNs as [`normalize`] does. Whoever makes it meets the conditions of
/// `normalize`.
struct Pairs<'r, S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const R: usize, const WAYS: u8> {
    simd: S,
    x: [Source<T>; R],
    epilogue: &'r [E; R],
    norm: &'r [NormRegs<S, T::Float, M>; R],
    from: usize,
    to: usize,
    overlaps: bool,
}

impl<S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const R: usize, const WAYS: u8> Body
    for Pairs<'_, S, T, M, E, R, WAYS>
{
    const WAYS: u8 = WAYS;

    type Output = (usize, <T::Float as Float>::Reg<S>);

    #[inline(always)]
    fn run<const WAY: u8>(self) -> Self::Output {
        let Self { simd, x, epilogue, norm, from, to, overlaps } = self;
        // A copy, since through a reference all of it would be read again after each store.
        let epilogue = *epilogue;
        // Two, since one would be the longest chain of the loop over one row. A tier of short registers waits for other
        // instructions.
        let mut probes = [T::Float::splat(simd, T::Float::from_f32(1.0)); 2];
        let alternate = S::F32_LANES > 4;
        let mut i = from;
        let pair = 2 * T::Float::lanes::<S>();
        loop {
            while i + pair <= to {
                // SAFETY: the loop's condition and the duty of the caller of `normalize`.
                unsafe {
                    let operands = epilogue[0].operands::<S, M, WAY>(simd, i, 0);
                    for r in 0..R {
                        let v = norm[r].apply::<T, E, WAY>(simd, x[r].load(simd, i), operands);
                        epilogue[r].store::<S, WAY>(simd, i, v);
                        // One row is enough.
                        if r + 1 == R {
                            let probe = probe_pair::<S, T::Float>(simd, probes[0], v);
                            probes = if alternate { [probes[1], probe] } else { [probe, probes[1]] };
                        }
                    }
                }
                i += pair;
            }
            if i >= to || !overlaps {
                break;
            }
            i = to - pair;
        }
        let sum = T::Float::plus(simd, probes[0], probes[1]);
        (i, T::Float::minus(simd, sum, sum))
    }
}

/// Normalizes `n` elements from `i` on, at most a pair of registers, with ordinary stores. Returns the elements of y,
/// and finite numbers in the lanes above.
///
/// # Safety
/// - x and the epilogue have at least `i + n` elements.
#[inline(always)]
unsafe fn normalize_tail<S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const WAYS: u8>(
    simd: S,
    x: Source<T>,
    epilogue: E,
    norm: &NormRegs<S, T::Float, M>,
    i: usize,
    n: usize,
) -> Pair<S, T> {
    // SAFETY: the caller's duty.
    unsafe {
        let x = x.load_tail(simd, i, n, norm.hi);
        let v = norm.apply::<T, E, { way::OFFSET }>(simd, x, epilogue.operands_tail::<S, M, WAYS>(simd, i, n));
        epilogue.store_tail(simd, i, n, v);
        v
    }
}

/// A row whose statistics are known. Whoever makes one knows that x and the epilogue have all elements that are to be
/// normalized.
#[derive(Clone, Copy)]
pub(super) struct KnownRow<T: Storage, M: Center, E: Epilogue<T>> {
    /// Whether the row has a mean.
    pub(super) mean: Mean<M>,
    pub(super) x: Source<T>,
    pub(super) norm: RowNorm<T::Float>,
    pub(super) epilogue: E,
}

impl<T: Storage, M: Center, E: Epilogue<T>> KnownRow<T, M, E> {
    /// Normalizes the first `cols` elements. Returns whether what is written is finite.
    ///
    /// # Safety
    /// - The row has `cols` elements.
    #[inline(always)]
    pub(super) unsafe fn normalize<S: Lanes>(&self, simd: S, cols: usize) -> bool {
        // SAFETY: the caller's duty.
        let (head, mut finite) = unsafe { self.normalize_head(simd, cols) };
        let mut to = cols;
        loop {
            let from = head + (to - head).saturating_sub(1) / PIECE_COLS * PIECE_COLS;
            // SAFETY: head <= from <= to <= cols, and PIECE_COLS is a multiple of every pair of registers.
            finite &= unsafe { self.normalize_part(simd, from, to) };
            if from == head {
                return finite;
            }
            to = from;
        }
    }

    /// The same row, which is written to `y`.
    #[inline(always)]
    pub(super) fn moved(&self, y: Target<T>) -> Self {
        Self { epilogue: self.epilogue.to(y), ..*self }
    }

    /// The elements of the row from `i` on.
    ///
    /// # Safety
    /// - The row has `i` elements, and operands that are in order.
    #[inline(always)]
    pub(super) unsafe fn after(&self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe { Self { x: self.x.after(i), epilogue: self.epilogue.after(i), ..*self } }
    }

    /// When streaming, normalizes the elements before the first whole cache line, at most `cols`. Returns their number,
    /// and whether what is written is finite.
    ///
    /// # Safety
    /// - The row has `cols` elements.
    #[inline(always)]
    pub(super) unsafe fn normalize_head<S: Lanes>(&self, simd: S, cols: usize) -> (usize, bool) {
        let head = self.epilogue.target().misalignment().min(cols);
        if head == 0 {
            return (0, true);
        }
        // A copy, so that the row itself can stay in registers.
        let row = *self;
        // SAFETY: the caller's duty.
        (head, unsafe { row.normalize_part(simd, 0, head) })
    }

    /// Normalizes the elements from..to, less than a step. When streaming, they are whole cache lines.
    ///
    /// # Safety
    /// - The row has `to` elements.
    #[inline(always)]
    pub(super) unsafe fn normalize_few<S: Lanes>(
        self,
        simd: S,
        norm: &NormRegs<S, T::Float, M>,
        from: usize,
        to: usize,
    ) {
        // SAFETY: the caller's duty.
        unsafe {
            if !T::STREAMS_APART {
                // What few rows take is out of line.
                self.normalize_part(simd, from, to);
            } else if self.epilogue.target().streams() {
                let pair = 2 * T::Float::lanes::<S>();
                let mut i = from;
                while i + pair <= to {
                    let operands = self.epilogue.operands::<S, M, { way::GENERAL }>(simd, i, 0);
                    let v = norm.apply::<T, E, { way::GENERAL }>(simd, self.x.load(simd, i), operands);
                    self.epilogue.store::<S, { way::GENERAL }>(simd, i, v);
                    i += pair;
                }
                if i < to {
                    normalize_tail::<S, T, M, E, { way::ONCE }>(simd, self.x, self.epilogue, norm, i, to - i);
                }
            } else {
                self.normalize_rest(simd, norm, from, to);
            }
        }
    }

    /// Normalizes the elements from..to, a few, with ordinary stores.
    ///
    /// # Safety
    /// - The row has `to` elements.
    #[inline(always)]
    pub(super) unsafe fn normalize_rest<S: Lanes>(
        &self,
        simd: S,
        norm: &NormRegs<S, T::Float, M>,
        from: usize,
        to: usize,
    ) {
        let pair = 2 * T::Float::lanes::<S>();
        let overlaps = may_overlap(self.x, &self.epilogue, 0, to, pair);
        let mut i = from;
        loop {
            while i + pair <= to {
                // SAFETY: the loop's condition and the caller's duty.
                unsafe {
                    let operands = self.epilogue.operands::<S, M, { way::GENERAL }>(simd, i, 0);
                    let v = norm.apply::<T, E, { way::GENERAL }>(simd, self.x.load(simd, i), operands);
                    // With an ordinary store.
                    self.epilogue.store::<S, { way::OFFSET }>(simd, i, v);
                }
                i += pair;
            }
            if i >= to {
                return;
            }
            if !overlaps {
                // SAFETY: the caller's duty.
                unsafe { normalize_tail::<S, T, M, E, { way::ONCE }>(simd, self.x, self.epilogue, norm, i, to - i) };
                return;
            }
            i = to - pair;
        }
    }

    /// Normalizes the elements from..to. Returns whether what is written is finite.
    ///
    /// # Safety
    /// - As for [`normalize`]. When streaming, the elements may also be the ones before the first whole cache line.
    #[inline(always)]
    pub(super) unsafe fn normalize_part<S: Lanes>(&self, simd: S, from: usize, to: usize) -> bool {
        outline(simd, Part { row: self, from, to, split: false })
    }
}

/// Normalizes the elements from..to of a row. Whoever makes it meets the conditions of [`KnownRow::normalize_part`].
struct Part<'r, T: Storage, M: Center, E: Epilogue<T>> {
    row: &'r KnownRow<T, M, E>,
    from: usize,
    to: usize,
    /// Whether the row has been split, so that all these elements are written in the same way.
    split: bool,
}

impl<T: Storage, M: Center, E: Epilogue<T>> Kernel for Part<'_, T, M, E> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { row: &KnownRow { mean, x, ref norm, ref epilogue }, from, to, split } = self;
        if epilogue.target().streams() && !split {
            return self.split(simd);
        }
        let norm = [NormRegs::new(simd, norm, mean)];
        // Lines that are streamed are not written again.
        let least = if split { from } else { 0 };
        // SAFETY: whoever made this meets the conditions.
        let nan_probe = unsafe {
            normalize::<S, T, M, E, 1, { way::ALL }>(simd, [x], from_ref(epilogue), &norm, [least, from, to])
        };
        !T::Float::any_nan(simd, nan_probe)
    }
}

impl<T: Storage, M: Center, E: Epilogue<T>> Part<'_, T, M, E> {
    /// Streams the whole cache lines of a row. The first and the last line may have elements of other rows too. These
    /// two are written with ordinary stores, since a line that is streamed in part costs as much as dozens of whole
    /// lines.
    #[inline(always)]
    fn split<S: Lanes>(self, simd: S) -> bool {
        let Self { row, from, to, .. } = self;
        let y = row.epilogue.target();
        let mut edge = KnownRow { epilogue: row.epilogue.to(y.ordinary()), ..*row };
        if from == 0 && y.misalignment() != 0 {
            // A store touches the next line even with the lanes that it leaves out, and that line is about to be
            // streamed. So the elements are written to a line of their own, and copied from there.
            let mut line = CacheLine::ZERO;
            edge.epilogue = edge.epilogue.to(y.ordinary().moved(&mut line));
            let finite = outline(simd, Part { row: &edge, from, to, split: true });
            // SAFETY: y has `to` elements here, fewer than a cache line holds.
            unsafe { y.copy_from(&line, to) };
            return finite;
        }
        // Pairs of registers, a register that is a line, and the rest.
        let (pair, line) = (2 * T::Float::lanes::<S>(), y.line());
        let pairs = to - (to - from) % pair.max(line);
        let lines = to - (to - pairs) % line;
        let mut finite = true;
        for (row, from, to) in [(row, from, pairs), (row, pairs, lines), (&edge, lines, to)] {
            if from < to {
                finite &= outline(simd, Part { row, from, to, split: true });
            }
        }
        finite
    }
}

const _: () = assert!(PIECE_COLS.is_multiple_of(<f32 as Storage>::STEP));
