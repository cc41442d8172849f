//! The two touches of the rows that take the fast path.

use super::Backward;
use crate::forward::RowNorm;
use crate::lanes::{Element, Float, Lanes, MAX_REGS, Pair, Source, Target, regs, way};
use crate::moments::{CHUNK, Tree, no_subtrees};

/// What the second touch of one row takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<F> {
    norm: RowNorm<F>,
    /// -rstd * c1 and -rstd * c2.
    a: F,
    b: F,
}

impl<F: Float> Row<F> {
    #[inline(always)]
    pub(super) fn new(norm: &RowNorm<F>, c1: f64, c2: f64) -> Self {
        let rstd: f64 = norm.rstd.into();
        Self { norm: *norm, a: F::from_f64(-rstd * c1), b: F::from_f64(-rstd * c2) }
    }
}

/// S1 and S2 of row `r`: the sums of g and of g * (x - hi). Without a mean, S1 is zero and hi is 0.
///
/// # Safety
/// - There is such a row.
/// - gamma has as many columns, in whole steps.
#[inline(always)]
pub(super) unsafe fn project<S: Lanes, T: Element, const CENTERED: bool>(
    simd: S,
    job: &Backward<'_, T, CENTERED>,
    r: usize,
    hi: T::Float,
    gamma: &[T::Float],
) -> (f64, f64) {
    let cols = job.rows.cols();
    // SAFETY: the caller's duty.
    let (dy, x) = unsafe { (job.rows.dy(r), job.rows.x(r)) };
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    let mut at = 0;
    loop {
        // SAFETY: at < cols.
        let sums = unsafe { project_chunk::<S, T, CENTERED>(simd, dy, x, hi, gamma, at, CHUNK.min(cols - at)) };
        if cols <= CHUNK {
            return sums;
        }
        tree.push(sums);
        at += CHUNK;
        if at >= cols {
            return tree.total();
        }
    }
}

/// The sums over `len` columns from `from` on, at most a chunk.
///
/// # Safety
/// - dy and x have so many elements; gamma has them in whole steps.
#[inline(always)]
unsafe fn project_chunk<S: Lanes, T: Element, const CENTERED: bool>(
    simd: S,
    dy: Source<T>,
    x: Source<T>,
    hi: T::Float,
    gamma: &[T::Float],
    from: usize,
    len: usize,
) -> (f64, f64) {
    let zero = T::Float::splat(simd, T::Float::default());
    let hi = T::Float::splat(simd, hi);
    let (mut s1, mut s2) = ([zero; MAX_REGS], [zero; MAX_REGS]);
    let mut add = |j: usize, [dy_a, dy_b]: Pair<S, T>, [x_a, x_b]: Pair<S, T>, [gamma_a, gamma_b]: Pair<S, T>| {
        let (g_a, g_b) = (T::Float::times(simd, dy_a, gamma_a), T::Float::times(simd, dy_b, gamma_b));
        let (mut d_a, mut d_b) = (x_a, x_b);
        if CENTERED {
            (d_a, d_b) = (T::Float::minus(simd, x_a, hi), T::Float::minus(simd, x_b, hi));
            s1[j] = T::Float::plus(simd, s1[j], T::Float::plus(simd, g_a, g_b));
        }
        s2[j] = T::Float::plus(simd, s2[j], T::Float::fma(simd, g_b, d_b, T::Float::times(simd, g_a, d_a)));
    };
    let mut i = from;
    let end = from + len;
    // SAFETY: the caller's duty.
    unsafe {
        let gamma = gamma.as_ptr();
        while i + T::STEP <= end {
            for j in 0..regs::<S>() {
                let gamma = T::simd_load_lanes_computed(simd, gamma.add(i), j);
                add(j, dy.load_lanes(simd, i, j), x.load_lanes(simd, i, j), gamma);
            }
            i += T::STEP;
        }
        if i < end {
            for j in 0..regs::<S>() {
                if T::simd_pair_start::<S>(j) >= end - i {
                    break;
                }
                let gamma = T::simd_load_lanes_computed(simd, gamma.add(i), j);
                let dy = dy.load_lanes_tail(simd, i, j, end - i, zero);
                add(j, dy, x.load_lanes_tail(simd, i, j, end - i, hi), gamma);
            }
        }
    }
    (halve_and_fold::<S, T>(simd, s1), halve_and_fold::<S, T>(simd, s2))
}

/// The sum over all lanes, halving the registers before the lanes within one.
#[inline(always)]
fn halve_and_fold<S: Lanes, T: Element>(simd: S, mut v: [<T::Float as Float>::Reg<S>; MAX_REGS]) -> f64 {
    let mut r = regs::<S>();
    while r > 1 {
        r /= 2;
        for j in 0..r {
            v[j] = T::Float::plus(simd, v[j], v[j + r]);
        }
    }
    T::Float::fold(simd, v[0]).into()
}

/// A [`Row`] in registers, and where its elements are.
#[derive(Clone, Copy)]
struct Loaded<S: Lanes, T: Element> {
    hi: <T::Float as Float>::Reg<S>,
    rstd: <T::Float as Float>::Reg<S>,
    offset: <T::Float as Float>::Reg<S>,
    a: <T::Float as Float>::Reg<S>,
    b: <T::Float as Float>::Reg<S>,
    dy: Source<T>,
    x: Source<T>,
    ds: Option<Source<T>>,
    dx: Option<Target<T>>,
}

impl<S: Lanes, T: Element> Loaded<S, T> {
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    unsafe fn new<const CENTERED: bool>(
        simd: S,
        job: &mut Backward<'_, T, CENTERED>,
        r: usize,
        row: &Row<T::Float>,
    ) -> Self {
        let &Row { norm: RowNorm { mean, mean_lo, rstd }, a, b } = row;
        let splat = |v| T::Float::splat(simd, v);
        // SAFETY: the caller's duty.
        let (dy, x, ds, dx) = unsafe { (job.rows.dy(r), job.rows.x(r), job.rows.ds(r), job.rows.dx(r, job.streaming)) };
        let offset = splat(-mean_lo * rstd);
        Self { hi: splat(mean), rstd: splat(rstd), offset, a: splat(a), b: splat(b), dy, x, ds, dx }
    }

    /// xhat, and dx but for ds.
    #[inline(always)]
    fn apply<const CENTERED: bool>(
        &self,
        simd: S,
        dy: <T::Float as Float>::Reg<S>,
        x: <T::Float as Float>::Reg<S>,
        gamma: <T::Float as Float>::Reg<S>,
    ) -> [<T::Float as Float>::Reg<S>; 2] {
        let (xhat, projected);
        if CENTERED {
            xhat = T::Float::fma(simd, T::Float::minus(simd, x, self.hi), self.rstd, self.offset);
            projected = T::Float::fma(simd, xhat, self.b, self.a);
        } else {
            xhat = T::Float::times(simd, x, self.rstd);
            projected = T::Float::times(simd, xhat, self.b);
        }
        [xhat, T::Float::fma(simd, T::Float::times(simd, dy, gamma), self.rstd, projected)]
    }
}

/// The ways of the second touch, each of which has a loop of its own.
mod ways {
    /// All gradients, no ds, ordinary stores.
    pub(super) const COMMON: u8 = 0;
    /// All that is left.
    pub(super) const REST: u8 = 1;
}

/// Writes dx of the `R` rows from `r` on, and adds to the sums of dgamma and dbeta.
#[inline(always)]
pub(super) fn second_touch<S: Lanes, T: Element, const CENTERED: bool, const R: usize>(
    simd: S,
    job: &mut Backward<'_, T, CENTERED>,
    r: usize,
    rows: &[Row<T::Float>; R],
    gamma: &[T::Float],
    leaf: &mut [T::Float],
) {
    let cols = job.rows.cols();
    assert!(r + R <= job.rows.rows() && gamma.len() >= cols && leaf.len() >= cols);
    let sums = job.sums;
    let mut at = r;
    let loaded = rows.map(|row| {
        at += 1;
        // SAFETY: there are R rows from r on, checked above.
        unsafe { Loaded::<S, T>::new(simd, job, at - 1, &row) }
    });
    let [first, ..] = &loaded[..] else { return };
    // Only from whole registers on can they be streamed; rows that are not aligned are stored as others.
    let streams = loaded.iter().all(|row| row.dx.is_some_and(|dx| dx.streams() && dx.misalignment::<S>() == 0));
    // SAFETY: all rows have cols elements, gamma and the sums have them in whole steps.
    unsafe {
        if R > 1 && sums && first.dx.is_some() && first.ds.is_none() && !streams {
            touch::<S, T, CENTERED, { ways::COMMON }, R>(simd, &loaded, sums, streams, gamma, leaf, cols);
        } else {
            touch::<S, T, CENTERED, { ways::REST }, R>(simd, &loaded, sums, streams, gamma, leaf, cols);
        }
    }
}

/// # Safety
/// - All rows have cols elements; gamma and the sums of dgamma, and of dbeta if there is a mean, have them in whole steps.
/// - If `streams`, rows of dx are aligned to registers.
#[inline(always)]
unsafe fn touch<S: Lanes, T: Element, const CENTERED: bool, const WAY: u8, const R: usize>(
    simd: S,
    rows: &[Loaded<S, T>; R],
    sums: bool,
    streams: bool,
    gamma: &[T::Float],
    leaf: &mut [T::Float],
    cols: usize,
) {
    let pair = 2 * T::Float::lanes::<S>();
    let (dgammas, dbetas) = if CENTERED { leaf.split_at_mut(gamma.len()) } else { (leaf, &mut [] as &mut [_]) };
    let (gammas, dgammas, dbetas) = (gamma.as_ptr(), dgammas.as_mut_ptr(), dbetas.as_mut_ptr());
    let zero = T::Float::splat(simd, T::Float::default());
    let mut seen = [zero; R];
    let mut i = 0;
    while i < cols {
        let n = pair.min(cols - i);
        // SAFETY: the caller's duty; n elements are left.
        unsafe {
            let gamma = T::simd_load_computed(simd, gammas.add(i));
            let (mut dgamma, mut dbeta) = ([zero; 2], [zero; 2]);
            if WAY == ways::COMMON || sums {
                dgamma = T::simd_load_computed(simd, dgammas.add(i));
                if CENTERED {
                    dbeta = T::simd_load_computed(simd, dbetas.add(i));
                }
            }
            for r in 0..R {
                let row = &rows[r];
                let (dy, x) = if n == pair {
                    (row.dy.load(simd, i), row.x.load(simd, i))
                } else {
                    (row.dy.load_tail(simd, i, n, zero), row.x.load_tail(simd, i, n, row.hi))
                };
                let [xhat_a, mut dx_a] = row.apply::<CENTERED>(simd, dy[0], x[0], gamma[0]);
                let [xhat_b, mut dx_b] = row.apply::<CENTERED>(simd, dy[1], x[1], gamma[1]);
                if WAY == ways::COMMON || sums {
                    dgamma =
                        [T::Float::fma(simd, dy[0], xhat_a, dgamma[0]), T::Float::fma(simd, dy[1], xhat_b, dgamma[1])];
                    if CENTERED {
                        dbeta = [T::Float::plus(simd, dbeta[0], dy[0]), T::Float::plus(simd, dbeta[1], dy[1])];
                    }
                }
                let Some(dx) = row.dx else { continue };
                if WAY == ways::REST
                    && let Some(ds) = row.ds
                {
                    let ds = if n == pair { ds.load(simd, i) } else { ds.load_tail(simd, i, n, zero) };
                    dx_a = T::Float::plus(simd, dx_a, ds[0]);
                    dx_b = T::Float::plus(simd, dx_b, ds[1]);
                    seen[r] = T::Float::fma(simd, dx_a, zero, T::Float::fma(simd, dx_b, zero, seen[r]));
                }
                if n < pair {
                    dx.store_tail(simd, i, n, [dx_a, dx_b]);
                } else if WAY == ways::REST && streams {
                    dx.store::<S, { way::REST }>(simd, i, [dx_a, dx_b]);
                } else {
                    dx.store::<S, { way::PLAIN }>(simd, i, [dx_a, dx_b]);
                }
            }
            if WAY == ways::COMMON || sums {
                T::simd_store_computed(simd, dgammas.add(i), dgamma);
                if CENTERED {
                    T::simd_store_computed(simd, dbetas.add(i), dbeta);
                }
            }
        }
        i += pair;
    }
    if WAY == ways::REST {
        for r in 0..R {
            if let Some(dx) = rows[r].dx
                && T::Float::any_nan(simd, seen[r])
            {
                // SAFETY: rows of dx have cols elements.
                unsafe { dx.canonicalize(cols, |_| false) };
            }
        }
    }
}
