//! The second touch: normalizing elements whose row's statistics are known.

use pulp::Simd;

use crate::lanes::{Affine, Element, Float, Lanes, Pair, Source, Target, regs, sqrt_f64, way};
use crate::moments::{CHUNK, Moments};

/// Longer rows are normalized from the back, in pieces of this many columns.
pub(super) const PIECE_COLS: usize = 16 * CHUNK;

/// Everything that normalizing the elements of one row takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm<F = f32> {
    /// The mean, rounded.
    pub mean: F,
    /// What rounding took from the mean.
    pub mean_lo: F,
    /// 1 / sqrt(var + eps).
    pub rstd: F,
}

impl<F: Float> RowNorm<F> {
    pub(super) const NAN: Self = Self { mean: F::NAN, mean_lo: F::NAN, rstd: F::NAN };

    #[inline(always)]
    pub(super) fn new(origin: f64, offset: f64, rstd: f64) -> Self {
        let mean = F::from_f64(origin + offset);
        Self { mean, mean_lo: F::from_f64((origin - mean.into()) + offset), rstd: F::from_f64(rstd) }
    }

    /// From moments of the slow path, and from what the root is taken of at their scale.
    pub(crate) fn rescued(moments: &Moments, v: f64) -> Self {
        let &Moments { origin, offset, scale, .. } = moments;
        Self::new(origin / scale, offset / scale, 1.0 / sqrt_f64(pulp::Scalar, v) * scale)
    }

    /// From the moments of a row. `None` if they leave the range in which they can be trusted, or were taken at
    /// another scale.
    #[inline(always)]
    pub(crate) fn trusted<S: Simd>(simd: S, moments: &Moments, eps: f64) -> Option<Self> {
        let v = moments.v(eps);
        let trusted = F::TRUSTED.contains(&v) && moments.scale == 1.0;
        trusted.then(|| Self::new(moments.origin, moments.offset, 1.0 / sqrt_f64(simd, v)))
    }
}

/// A [`RowNorm`] in registers.
#[derive(Clone, Copy)]
pub(super) struct Norm<S: Lanes, F: Float> {
    pub(super) hi: F::Reg<S>,
    rstd: F::Reg<S>,
    offset: F::Reg<S>,
}

impl<S: Lanes, F: Float> Norm<S, F> {
    #[inline(always)]
    pub(super) fn new(simd: S, norm: &RowNorm<F>) -> Self {
        Self {
            hi: F::splat(simd, norm.mean),
            rstd: F::splat(simd, norm.rstd),
            offset: F::splat(simd, -norm.mean_lo * norm.rstd),
        }
    }

    #[inline(always)]
    fn apply<const CENTERED: bool, const WAY: u8>(
        &self,
        simd: S,
        x: F::Reg<S>,
        gamma: F::Reg<S>,
        beta: F::Reg<S>,
    ) -> F::Reg<S> {
        let xhat = if CENTERED {
            F::fma(simd, F::minus(simd, x, self.hi), self.rstd, self.offset)
        } else {
            F::times(simd, x, self.rstd)
        };
        match (WAY, CENTERED) {
            (way::PLAIN, _) => xhat,
            (_, true) => F::fma(simd, xhat, gamma, beta),
            (_, false) => F::times(simd, xhat, gamma),
        }
    }

    /// A pair of registers.
    #[inline(always)]
    pub(super) fn apply_pair<const CENTERED: bool, const WAY: u8>(
        &self,
        simd: S,
        [a, b]: [F::Reg<S>; 2],
        [gamma, beta]: [[F::Reg<S>; 2]; 2],
    ) -> [F::Reg<S>; 2] {
        [
            self.apply::<CENTERED, WAY>(simd, a, gamma[0], beta[0]),
            self.apply::<CENTERED, WAY>(simd, b, gamma[1], beta[1]),
        ]
    }
}

/// A sum that stays zero as long as no value is infinite or NaN, and becomes NaN then.
#[inline(always)]
pub(crate) fn probe<S: Lanes, F: Float>(simd: S, sum: F::Reg<S>, [a, b]: [F::Reg<S>; 2]) -> F::Reg<S> {
    let zero = F::splat(simd, F::default());
    F::fma(simd, b, zero, F::fma(simd, a, zero, sum))
}

/// Normalizes the elements from..to of `R` rows. Returns zeros, or a NaN in some lane if an element of y is not finite.
///
/// # Safety
/// - Every x and y has at least `to` elements, as have gamma and beta if present.
/// - When streaming, `from` is the misalignment of every y plus a multiple of a pair of registers.
#[inline(always)]
pub(super) unsafe fn normalize<S: Lanes, T: Element, const CENTERED: bool, const R: usize>(
    simd: S,
    x: [Source<T>; R],
    y: [Target<T>; R],
    norm: &[Norm<S, T::Float>; R],
    affine: &Affine<T>,
    from: usize,
    to: usize,
) -> <T::Float as Float>::Reg<S> {
    // SAFETY: the caller's duty.
    let (mut i, mut seen) = unsafe {
        match affine.way::<CENTERED>(y[0]) {
            way::PLAIN if !T::ROUNDS => steps::<S, T, CENTERED, { way::PLAIN }, R>(simd, x, y, norm, affine, from, to),
            way::AFFINE => steps::<S, T, CENTERED, { way::AFFINE }, R>(simd, x, y, norm, affine, from, to),
            way::OFFSET => steps::<S, T, CENTERED, { way::OFFSET }, R>(simd, x, y, norm, affine, from, to),
            _ => steps::<S, T, CENTERED, { way::REST }, R>(simd, x, y, norm, affine, from, to),
        }
    };
    while i < to {
        let n = (to - i).min(2 * T::Float::lanes::<S>());
        for r in 0..R {
            // SAFETY: n elements are left.
            let v = unsafe { normalize_tail::<S, T, CENTERED>(simd, x[r], y[r], &norm[r], affine, i, n) };
            seen = probe::<S, T::Float>(simd, seen, v);
        }
        i += n;
    }
    seen
}

/// The whole steps among the elements from..to. Returns where they end, and what `normalize` does.
///
/// # Safety
/// - As there.
#[inline(always)]
unsafe fn steps<S: Lanes, T: Element, const CENTERED: bool, const WAY: u8, const R: usize>(
    simd: S,
    x: [Source<T>; R],
    y: [Target<T>; R],
    norm: &[Norm<S, T::Float>; R],
    affine: &Affine<T>,
    from: usize,
    to: usize,
) -> (usize, <T::Float as Float>::Reg<S>) {
    // More than one, lest they become the longest chain of the loop.
    let mut probes = [T::Float::splat(simd, T::Float::default()); 2];
    let mut i = from;
    while i + T::STEP <= to {
        for k in 0..regs::<S>() {
            let j = k * 2 * T::Float::lanes::<S>();
            // SAFETY: the loop's condition and the caller's duty.
            unsafe {
                let affine_ij = affine.load::<S, CENTERED, WAY>(simd, i, j);
                for r in 0..R {
                    let v = norm[r].apply_pair::<CENTERED, WAY>(simd, x[r].load(simd, i + j), affine_ij);
                    y[r].store::<S, WAY>(simd, i + j, v);
                    probes[k % 2] = probe::<S, T::Float>(simd, probes[k % 2], v);
                }
            }
        }
        i += T::STEP;
    }
    (i, T::Float::plus(simd, probes[0], probes[1]))
}

/// Normalizes `n` elements from `i` on, at most a pair of registers, with ordinary stores. Returns them, and finite ones
/// above.
///
/// # Safety
/// - x and y have at least `i + n` elements, as have gamma and beta if present.
#[inline(always)]
unsafe fn normalize_tail<S: Lanes, T: Element, const CENTERED: bool>(
    simd: S,
    x: Source<T>,
    y: Target<T>,
    norm: &Norm<S, T::Float>,
    affine: &Affine<T>,
    i: usize,
    n: usize,
) -> Pair<S, T> {
    // SAFETY: the caller's duty.
    unsafe {
        let x = x.load_tail(simd, i, n, norm.hi);
        let v = norm.apply_pair::<CENTERED, { way::OFFSET }>(simd, x, affine.load_tail::<S, CENTERED>(simd, i, n));
        y.store_tail(simd, i, n, v);
        v
    }
}

/// Normalizes a row whose statistics are known. Returns zeros, or a NaN in some lane if an element of y is not finite.
///
/// # Safety
/// - x and y have at least `cols` elements, as have gamma and beta if present.
#[inline(always)]
pub(super) unsafe fn normalize_row<S: Lanes, T: Element, const CENTERED: bool>(
    simd: S,
    x: Source<T>,
    y: Target<T>,
    norm: &RowNorm<T::Float>,
    affine: &Affine<T>,
    cols: usize,
) -> <T::Float as Float>::Reg<S> {
    let norm = [Norm::new(simd, norm)];
    // SAFETY: the caller's duty.
    let (head, mut probe) = unsafe { normalize_head::<S, T, CENTERED>(simd, x, y, &norm[0], affine, cols) };
    let mut to = cols;
    loop {
        let from = head + (to - head).saturating_sub(1) / PIECE_COLS * PIECE_COLS;
        // SAFETY: head <= from <= to <= cols, and PIECE_COLS is a multiple of every pair of registers.
        let piece = unsafe { normalize::<S, T, CENTERED, 1>(simd, [x], [y], &norm, affine, from, to) };
        probe = T::Float::plus(simd, probe, piece);
        if from == head {
            return probe;
        }
        to = from;
    }
}

/// When streaming, normalizes the elements that precede the first aligned one. Returns how many those were, and
/// zeros, or a NaN if one of them is not finite.
///
/// # Safety
/// - x and y have at least `cols` elements, as have gamma and beta if present.
#[inline(always)]
pub(super) unsafe fn normalize_head<S: Lanes, T: Element, const CENTERED: bool>(
    simd: S,
    x: Source<T>,
    y: Target<T>,
    norm: &Norm<S, T::Float>,
    affine: &Affine<T>,
    cols: usize,
) -> (usize, <T::Float as Float>::Reg<S>) {
    let zero = T::Float::splat(simd, T::Float::default());
    let head = y.misalignment::<S>().min(cols);
    if head == 0 {
        return (0, zero);
    }
    // SAFETY: head <= cols, and less than a pair.
    let v = unsafe { normalize_tail::<S, T, CENTERED>(simd, x, y, norm, affine, 0, head) };
    (head, probe::<S, T::Float>(simd, zero, v))
}

const _: () = assert!(PIECE_COLS.is_multiple_of(<f32 as Element>::STEP));
