//! The second touch: normalizing elements whose row's statistics are known.

use super::TRUSTED;
use crate::lanes::{Lanes, NEGATIVE_ZEROS, Source, Target, regs, sqrt_f64};
use crate::moments::{CHUNK, Moments, STEP};

/// Longer rows are normalized from the back, in pieces of this many columns.
pub(super) const PIECE_COLS: usize = 16 * CHUNK;

/// Everything that normalizing the elements of one row takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// The mean, rounded to f32.
    pub mean: f32,
    /// What rounding took from the mean.
    pub mean_lo: f32,
    /// 1 / sqrt(var + eps).
    pub rstd: f32,
}

impl RowNorm {
    pub(super) const NAN: Self = Self { mean: f32::NAN, mean_lo: f32::NAN, rstd: f32::NAN };

    #[inline(always)]
    pub(super) fn new(origin: f64, offset: f64, rstd: f64) -> Self {
        let mean = (origin + offset) as f32;
        Self { mean, mean_lo: ((origin - f64::from(mean)) + offset) as f32, rstd: rstd as f32 }
    }

    /// From the moments of a row. `None` if they leave the range in which they can be trusted: then the row must be
    /// given whole to [`Forward`](super::Forward), which finds the same and takes the slow path.
    pub fn from_moments(moments: &Moments, eps: f64) -> Option<Self> {
        let v = moments.m2 * (1.0 / moments.count) + eps;
        TRUSTED.contains(&v).then(|| Self::new(moments.origin, moments.offset, 1.0 / sqrt_f64(pulp::Scalar, v)))
    }
}

/// A [`RowNorm`] in registers.
#[derive(Clone, Copy)]
pub(super) struct Norm<S: Lanes> {
    hi: S::f32s,
    rstd: S::f32s,
    offset: S::f32s,
}

impl<S: Lanes> Norm<S> {
    #[inline(always)]
    pub(super) fn new(simd: S, norm: &RowNorm) -> Self {
        Self {
            hi: simd.splat_f32s(norm.mean),
            rstd: simd.splat_f32s(norm.rstd),
            offset: simd.splat_f32s(-norm.mean_lo * norm.rstd),
        }
    }

    #[inline(always)]
    pub(super) fn apply<const CENTERED: bool, const AFFINE: bool>(
        &self,
        simd: S,
        x: S::f32s,
        (gamma, beta): (S::f32s, S::f32s),
    ) -> S::f32s {
        if !CENTERED {
            let xhat = simd.mul_f32s(x, self.rstd);
            return if AFFINE { simd.mul_f32s(xhat, gamma) } else { xhat };
        }
        let xhat = simd.fma(simd.sub_f32s(x, self.hi), self.rstd, self.offset);
        if AFFINE { simd.fma(xhat, gamma, beta) } else { xhat }
    }
}

/// gamma and beta as the loops read them. Where one is absent a step of ones, or of negative zeros, stands in and
/// is read again for each step: multiplying by 1 and adding -0 change no bits.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    gamma: Source,
    gamma_mask: usize,
    gamma_offset: f32,
    beta: Source,
    beta_mask: usize,
}

static ONES: [f32; STEP] = [1.0; STEP];

impl Affine {
    #[inline(always)]
    pub(super) fn new(gamma: Option<&[f32]>, beta: Option<&[f32]>, gamma_offset: f32) -> Self {
        let mask = |v: Option<&[f32]>| if v.is_some() { usize::MAX } else { 0 };
        Self {
            gamma: Source::from(gamma.unwrap_or(&ONES)),
            gamma_mask: mask(gamma),
            gamma_offset,
            beta: Source::from(beta.unwrap_or(&NEGATIVE_ZEROS)),
            beta_mask: mask(beta),
        }
    }

    /// The registers for element `i + j`, where `i` starts a step and `j` lies within it.
    ///
    /// # Safety
    /// - gamma and beta, if present, have at least `i + j + S::F32_LANES` elements.
    /// - `j + S::F32_LANES <= STEP`.
    #[inline(always)]
    pub(super) unsafe fn load<S: Lanes, const CENTERED: bool>(
        &self,
        simd: S,
        i: usize,
        j: usize,
    ) -> (S::f32s, S::f32s) {
        // SAFETY: the caller's duty.
        let gamma = unsafe { self.gamma.load(simd, (i & self.gamma_mask) + j) };
        if !CENTERED {
            return self.without_beta(simd, gamma);
        }
        // SAFETY: the caller's duty.
        (gamma, unsafe { self.beta.load(simd, (i & self.beta_mask) + j) })
    }

    #[inline(always)]
    fn without_beta<S: Lanes>(&self, simd: S, gamma: S::f32s) -> (S::f32s, S::f32s) {
        (simd.add_f32s(gamma, simd.splat_f32s(self.gamma_offset)), simd.splat_f32s(0.0))
    }

    /// `n` elements from `i` on, at most a register.
    ///
    /// # Safety
    /// - gamma and beta, if present, have at least `i + n` elements.
    #[inline(always)]
    pub(super) unsafe fn load_tail<S: Lanes, const CENTERED: bool>(
        &self,
        simd: S,
        i: usize,
        n: usize,
    ) -> (S::f32s, S::f32s) {
        let zero = simd.splat_f32s(0.0);
        // SAFETY: the caller's duty.
        let gamma = unsafe { self.gamma.load_tail(simd, i & self.gamma_mask, n, zero) };
        if !CENTERED {
            return self.without_beta(simd, gamma);
        }
        // SAFETY: the caller's duty.
        (gamma, unsafe { self.beta.load_tail(simd, i & self.beta_mask, n, zero) })
    }
}

/// Normalizes the elements from..to of `R` rows. Returns zeros, or a NaN in some lane if an element of y is not finite.
///
/// # Safety
/// - Every x and y has at least `to` elements, as have gamma and beta if present.
/// - If `STREAM`, `from` is the misalignment of every y plus a multiple of `S::F32_LANES`.
#[inline(always)]
pub(super) unsafe fn normalize<
    S: Lanes,
    const CENTERED: bool,
    const AFFINE: bool,
    const STREAM: bool,
    const R: usize,
>(
    simd: S,
    x: [Source; R],
    y: [Target; R],
    norm: &[Norm<S>; R],
    affine: Affine,
    from: usize,
    to: usize,
) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    // More than one, lest they become the longest chain of the loop.
    let mut probes = [zero; 4];
    let mut i = from;
    while i + STEP <= to {
        for k in 0..2 * regs::<S>() {
            let j = k * S::F32_LANES;
            // SAFETY: the loop's condition and the caller's duty.
            unsafe {
                let affine_ij = affine.load::<S, CENTERED>(simd, i, j);
                for r in 0..R {
                    let v = norm[r].apply::<CENTERED, AFFINE>(simd, x[r].load(simd, i + j), affine_ij);
                    y[r].store::<S, STREAM>(simd, i + j, v);
                    probes[k % 4] = simd.fma(v, zero, probes[k % 4]);
                }
            }
        }
        i += STEP;
    }
    while i + S::F32_LANES <= to {
        // SAFETY: the loop's condition and the caller's duty.
        unsafe {
            for r in 0..R {
                let v =
                    norm[r].apply::<CENTERED, AFFINE>(simd, x[r].load(simd, i), affine.load::<S, CENTERED>(simd, i, 0));
                y[r].store::<S, STREAM>(simd, i, v);
                probes[0] = simd.fma(v, zero, probes[0]);
            }
        }
        i += S::F32_LANES;
    }
    if i < to {
        for r in 0..R {
            // SAFETY: to - i elements are left.
            let v = unsafe { normalize_tail::<S, CENTERED, AFFINE>(simd, x[r], y[r], &norm[r], affine, i, to - i) };
            probes[0] = simd.fma(v, zero, probes[0]);
        }
    }
    simd.add_f32s(simd.add_f32s(probes[0], probes[1]), simd.add_f32s(probes[2], probes[3]))
}

/// Normalizes `n` elements from `i` on, at most a register, with ordinary stores. Returns them, and finite ones above.
///
/// # Safety
/// - x and y have at least `i + n` elements, as have gamma and beta if present.
#[inline(always)]
pub(super) unsafe fn normalize_tail<S: Lanes, const CENTERED: bool, const AFFINE: bool>(
    simd: S,
    x: Source,
    y: Target,
    norm: &Norm<S>,
    affine: Affine,
    i: usize,
    n: usize,
) -> S::f32s {
    // SAFETY: the caller's duty.
    unsafe {
        let v = norm.apply::<CENTERED, AFFINE>(
            simd,
            x.load_tail(simd, i, n, norm.hi),
            affine.load_tail::<S, CENTERED>(simd, i, n),
        );
        y.store_tail(simd, i, n, v);
        v
    }
}

/// Whether no element is infinite or NaN.
#[inline(always)]
pub(super) fn all_finite(v: &[f32]) -> bool {
    const ABS: u32 = u32::MAX >> 1;
    v.iter().fold(0, |max, v| (v.to_bits() & ABS).max(max)) < f32::INFINITY.to_bits()
}

/// Normalizes a row whose statistics are known. Returns zeros, or a NaN in some lane if an element of y is not finite.
///
/// # Safety
/// - x and y have at least `cols` elements, as have gamma and beta if present.
#[inline(always)]
pub(super) unsafe fn normalize_row<S: Lanes, const CENTERED: bool, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    x: Source,
    y: Target,
    norm: &RowNorm,
    affine: Affine,
    cols: usize,
) -> S::f32s {
    let norm = [Norm::new(simd, norm)];
    // SAFETY: the caller's duty.
    let (head, mut probe) =
        unsafe { normalize_head::<S, CENTERED, AFFINE, STREAM>(simd, x, y, &norm[0], affine, cols) };
    let mut to = cols;
    while to - head > PIECE_COLS {
        let from = head + (to - head - 1) / PIECE_COLS * PIECE_COLS;
        // SAFETY: head <= from < to <= cols, and PIECE_COLS is a multiple of every register.
        let piece = unsafe { normalize::<S, CENTERED, AFFINE, STREAM, 1>(simd, [x], [y], &norm, affine, from, to) };
        probe = simd.add_f32s(probe, piece);
        to = from;
    }
    // SAFETY: to <= cols.
    let piece = unsafe { normalize::<S, CENTERED, AFFINE, STREAM, 1>(simd, [x], [y], &norm, affine, head, to) };
    simd.add_f32s(probe, piece)
}

/// When streaming, normalizes the elements that precede the first aligned one. Returns how many those were, and
/// zeros, or a NaN if one of them is not finite.
///
/// # Safety
/// - x and y have at least `cols` elements, as have gamma and beta if present.
#[inline(always)]
pub(super) unsafe fn normalize_head<S: Lanes, const CENTERED: bool, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    x: Source,
    y: Target,
    norm: &Norm<S>,
    affine: Affine,
    cols: usize,
) -> (usize, S::f32s) {
    let zero = simd.splat_f32s(0.0);
    let head = if STREAM { y.misalignment::<S>().min(cols) } else { 0 };
    if head == 0 {
        return (0, zero);
    }
    // SAFETY: head <= cols.
    let v = unsafe { normalize_tail::<S, CENTERED, AFFINE>(simd, x, y, norm, affine, 0, head) };
    (head, simd.fma(v, zero, zero))
}

const _: () = assert!(PIECE_COLS.is_multiple_of(STEP));
