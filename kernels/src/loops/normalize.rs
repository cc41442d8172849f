//! The second touch: normalizing elements whose row's statistics are known.

use super::affine::Affine;
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
        // Where rstd is infinite or negative, 0 * rstd would change something.
        let offset = if mean.is_taken::<S>() { -norm.mean_lo * norm.rstd } else { -F::default() };
        Self { hi: F::splat(simd, norm.mean), rstd: F::splat(simd, norm.rstd), offset: F::splat(simd, offset), mean }
    }

    #[inline(always)]
    fn apply<const WAY: u8>(&self, simd: S, x: F::Reg<S>, gamma: F::Reg<S>, beta: F::Reg<S>) -> F::Reg<S> {
        let fused = self.mean.is_computed::<S>();
        let xhat = if fused {
            F::fma(simd, F::minus(simd, x, self.hi), self.rstd, self.offset)
        } else {
            F::times(simd, x, self.rstd)
        };
        match WAY {
            way::PLAIN => xhat,
            _ if fused => F::fma(simd, xhat, gamma, beta),
            _ => F::times(simd, xhat, gamma),
        }
    }

    /// A pair of registers.
    #[inline(always)]
    pub(super) fn apply_pair<const WAY: u8>(
        &self,
        simd: S,
        [a, b]: [F::Reg<S>; 2],
        [gamma, beta]: [[F::Reg<S>; 2]; 2],
    ) -> [F::Reg<S>; 2] {
        [self.apply::<WAY>(simd, a, gamma[0], beta[0]), self.apply::<WAY>(simd, b, gamma[1], beta[1])]
    }
}

/// A sum that stays zero as long as no value is infinite or NaN, and becomes NaN then.
#[inline(always)]
pub(crate) fn probe<S: Lanes, F: Float>(simd: S, sum: F::Reg<S>, v: F::Reg<S>) -> F::Reg<S> {
    let zero = F::splat(simd, F::default());
    // Both are exact, and the portable tier has no instruction for the first.
    if S::SPECIALIZES { F::fma(simd, v, zero, sum) } else { F::plus(simd, F::times(simd, v, zero), sum) }
}

/// Normalizes the elements from..to of `R` rows. Returns zeros, or a NaN in some lane if an element of y is not finite.
///
/// # Safety
/// - Every x and y has at least `to` elements, as have gamma and beta if present.
/// - When streaming, `from` is the misalignment of every y plus a multiple of a pair of registers.
#[inline(always)]
pub(super) unsafe fn normalize<S: Lanes, T: Storage, M: Center, const R: usize>(
    simd: S,
    x: [Source<T>; R],
    y: [Target<T>; R],
    norm: &[NormRegs<S, T::Float, M>; R],
    affine: &Affine<T>,
    from: usize,
    to: usize,
) -> <T::Float as Float>::Reg<S> {
    // SAFETY: the caller's duty.
    let (i, mut seen) = unsafe {
        match affine.way::<S, M>(y[0]) {
            way::PLAIN if !T::ROUNDS => pairs::<S, T, M, { way::PLAIN }, R>(simd, x, y, norm, affine, from, to),
            way::AFFINE if M::CENTERED || T::ROUNDS => {
                pairs::<S, T, M, { way::AFFINE }, R>(simd, x, y, norm, affine, from, to)
            }
            way::OFFSET => pairs::<S, T, M, { way::OFFSET }, R>(simd, x, y, norm, affine, from, to),
            _ => pairs::<S, T, M, { way::REST }, R>(simd, x, y, norm, affine, from, to),
        }
    };
    if i < to {
        for r in 0..R {
            // SAFETY: to - i elements are left, fewer than a pair.
            let v = unsafe { normalize_tail::<S, T, M>(simd, x[r], y[r], &norm[r], affine, i, to - i) };
            for v in v {
                seen = probe::<S, T::Float>(simd, seen, v);
            }
        }
    }
    seen
}

/// The whole pairs of registers among the elements from..to. Returns where they end, and what `normalize` does.
///
/// # Safety
/// - As there.
#[inline(always)]
unsafe fn pairs<S: Lanes, T: Storage, M: Center, const WAY: u8, const R: usize>(
    simd: S,
    x: [Source<T>; R],
    y: [Target<T>; R],
    norm: &[NormRegs<S, T::Float, M>; R],
    affine: &Affine<T>,
    from: usize,
    to: usize,
) -> (usize, <T::Float as Float>::Reg<S>) {
    let zero = T::Float::splat(simd, T::Float::default());
    // Two, lest they become the longest chain of the loop.
    let mut probes = [zero; 2];
    let mut i = from;
    while i + 2 * T::Float::lanes::<S>() <= to {
        // SAFETY: the loop's condition and the caller's duty.
        unsafe {
            let affine_i = affine.load::<S, M, WAY>(simd, i, 0);
            for r in 0..R {
                let v = norm[r].apply_pair::<WAY>(simd, x[r].load(simd, i), affine_i);
                y[r].store::<S, WAY>(simd, i, v);
                for k in 0..2 {
                    probes[k] = probe::<S, T::Float>(simd, probes[k], v[k]);
                }
            }
        }
        i += 2 * T::Float::lanes::<S>();
    }
    (i, T::Float::plus(simd, probes[0], probes[1]))
}

/// Normalizes `n` elements from `i` on, at most a pair of registers, with ordinary stores. Returns them, and finite
/// ones above.
///
/// # Safety
/// - x and y have at least `i + n` elements, as have gamma and beta if present.
#[inline(always)]
unsafe fn normalize_tail<S: Lanes, T: Storage, M: Center>(
    simd: S,
    x: Source<T>,
    y: Target<T>,
    norm: &NormRegs<S, T::Float, M>,
    affine: &Affine<T>,
    i: usize,
    n: usize,
) -> Pair<S, T> {
    // SAFETY: the caller's duty.
    unsafe {
        let x = x.load_tail(simd, i, n, norm.hi);
        let v = norm.apply_pair::<{ way::OFFSET }>(simd, x, affine.load_tail::<S, M>(simd, i, n));
        y.store_tail(simd, i, n, v);
        v
    }
}

/// A row whose statistics are known. Whoever makes one knows that x and y have as many elements as are to be
/// normalized, as have gamma and beta if present.
#[derive(Clone, Copy)]
pub(super) struct KnownRow<T: Storage, M: Center> {
    /// Whether it has a mean.
    pub(super) mean: Mean<M>,
    pub(super) x: Source<T>,
    pub(super) y: Target<T>,
    pub(super) norm: RowNorm<T::Float>,
    pub(super) affine: Affine<T>,
}

impl<T: Storage, M: Center> KnownRow<T, M> {
    /// Normalizes the first `cols` elements. Returns whether those of y are finite.
    ///
    /// # Safety
    /// - There are so many.
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

    /// When streaming, normalizes those of the first `cols` elements that precede the first whole cache line. Returns
    /// how many those were, and whether they are finite.
    ///
    /// # Safety
    /// - There are so many.
    #[inline(always)]
    pub(super) unsafe fn normalize_head<S: Lanes>(&self, simd: S, cols: usize) -> (usize, bool) {
        let head = self.y.misalignment().min(cols);
        if head == 0 {
            return (0, true);
        }
        // A copy, that the row itself can stay in registers.
        let row = *self;
        // SAFETY: the caller's duty.
        (head, unsafe { row.normalize_part(simd, 0, head) })
    }

    /// Normalizes the elements from..to, a few, with ordinary stores.
    ///
    /// # Safety
    /// - There are so many.
    #[inline(always)]
    pub(super) unsafe fn normalize_rest<S: Lanes>(
        &self,
        simd: S,
        norm: &NormRegs<S, T::Float, M>,
        from: usize,
        to: usize,
    ) {
        let pair = 2 * T::Float::lanes::<S>();
        let mut i = from;
        while i < to {
            // SAFETY: the loop's condition and the caller's duty.
            unsafe { normalize_tail::<S, T, M>(simd, self.x, self.y, norm, &self.affine, i, pair.min(to - i)) };
            i += pair;
        }
    }

    /// Normalizes the elements from..to. Returns whether those of y are finite.
    ///
    /// # Safety
    /// - As for [`normalize`], but that when streaming, they may also be those before the first whole cache line.
    #[inline(always)]
    pub(super) unsafe fn normalize_part<S: Lanes>(&self, simd: S, from: usize, to: usize) -> bool {
        outline(simd, Part { row: self, from, to, split: false })
    }
}

/// The elements from..to of a row: what [`KnownRow::normalize_part`] asks of them holds.
struct Part<'r, T: Storage, M: Center> {
    row: &'r KnownRow<T, M>,
    from: usize,
    to: usize,
    /// Whether all of them are written in the same way.
    split: bool,
}

impl<T: Storage, M: Center> Kernel for Part<'_, T, M> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { row: &KnownRow { mean, x, y, ref norm, ref affine }, from, to, split } = self;
        if y.streams() && !split {
            return self.split(simd);
        }
        let norm = [NormRegs::new(simd, norm, mean)];
        // SAFETY: whoever made this knew that.
        let seen = unsafe { normalize::<S, T, M, 1>(simd, [x], [y], &norm, affine, from, to) };
        !T::Float::any_nan(simd, seen)
    }
}

impl<T: Storage, M: Center> Part<'_, T, M> {
    /// Streams the whole cache lines of a row. The first and the last line may have elements of other rows too: these
    /// two are written with ordinary stores, since a line that is streamed in part costs as much as dozens of others.
    #[inline(always)]
    fn split<S: Lanes>(self, simd: S) -> bool {
        let Self { row, from, to, .. } = self;
        let mut edge = KnownRow { y: row.y.ordinary(), ..*row };
        if from == 0 && row.y.misalignment() != 0 {
            // Even the lanes that a store leaves out count as a touch of the next line, which is streamed: they are
            // written apart.
            let mut line = CacheLine::ZERO;
            edge.y = edge.y.moved(&mut line);
            let finite = outline(simd, Part { row: &edge, from, to, split: true });
            // SAFETY: there are so many, and fewer than a cache line holds.
            unsafe { row.y.copy_from(&line, to) };
            return finite;
        }
        // Pairs of registers, a register that is a line, and the rest.
        let (pair, line) = (2 * T::Float::lanes::<S>(), row.y.line());
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
