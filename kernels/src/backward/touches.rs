//! The two touches of the rows that take the fast path.

use super::{BLOCK_ROWS, Backward};
use crate::forward::{RowNorm, probe};
use crate::lanes::{Element, FOLD_ROWS, Float, Lanes, MAX_REGS, Pair, Source, Target, regs, way};
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

/// S1 and S2 of the rows from `r` on, of which the means are known, as many as there are: the sums of g and of g * (x - hi). Without a mean,
/// S1 is zero and hi is 0.
///
/// # Safety
/// - There are `n` such rows.
/// - gamma has as many columns, in whole steps.
#[inline(always)]
pub(super) unsafe fn project<S: Lanes, T: Element, const CENTERED: bool>(
    simd: S,
    job: &Backward<'_, T, CENTERED>,
    r: usize,
    n: usize,
    hi: &[T::Float; BLOCK_ROWS],
    gamma: &[T::Float],
) -> [(f64, f64); BLOCK_ROWS] {
    let cols = job.rows.cols();
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    let mut at = 0;
    loop {
        let mut sums = [T::Float::splat(simd, T::Float::default()); FOLD_ROWS];
        for k in 0..n {
            // SAFETY: the caller's duty; at < cols.
            let [s1, s2] = unsafe {
                let (dy, x) = (job.rows.dy(r + k), job.rows.x(r + k));
                project_chunk::<S, T, CENTERED>(simd, dy, x, hi[k], gamma, at, CHUNK.min(cols - at))
            };
            (sums[k], sums[k + BLOCK_ROWS]) = (s1, s2);
        }
        let folded = T::Float::widen(simd, &T::Float::fold_rows(simd, &sums));
        let mut sums = [(0.0, 0.0); BLOCK_ROWS];
        for k in 0..n {
            sums[k] = (folded[k], folded[k + BLOCK_ROWS]);
        }
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

const _: () = assert!(2 * BLOCK_ROWS <= FOLD_ROWS);

/// The sums over `len` columns from `from` on, at most a chunk, still to be folded.
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
) -> [<T::Float as Float>::Reg<S>; 2] {
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
    [halve::<S, T>(simd, s1), halve::<S, T>(simd, s2)]
}

/// Halves the registers to one, whose lanes are still to be folded.
#[inline(always)]
fn halve<S: Lanes, T: Element>(simd: S, mut v: [<T::Float as Float>::Reg<S>; MAX_REGS]) -> <T::Float as Float>::Reg<S> {
    let mut r = regs::<S>();
    while r > 1 {
        r /= 2;
        for j in 0..r {
            v[j] = T::Float::plus(simd, v[j], v[j + r]);
        }
    }
    v[0]
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

    #[inline(always)]
    fn xhat<const CENTERED: bool>(&self, simd: S, x: <T::Float as Float>::Reg<S>) -> <T::Float as Float>::Reg<S> {
        if CENTERED {
            T::Float::fma(simd, T::Float::minus(simd, x, self.hi), self.rstd, self.offset)
        } else {
            T::Float::times(simd, x, self.rstd)
        }
    }

    /// dx but for ds.
    #[inline(always)]
    fn dx<const CENTERED: bool>(
        &self,
        simd: S,
        dy: <T::Float as Float>::Reg<S>,
        xhat: <T::Float as Float>::Reg<S>,
        gamma: <T::Float as Float>::Reg<S>,
    ) -> <T::Float as Float>::Reg<S> {
        let projected =
            if CENTERED { T::Float::fma(simd, xhat, self.b, self.a) } else { T::Float::times(simd, xhat, self.b) };
        T::Float::fma(simd, T::Float::times(simd, dy, gamma), self.rstd, projected)
    }
}

/// What the rows of a block have in common: gamma and the running sums, in pairs of registers and whole steps of columns.
#[derive(Clone, Copy)]
struct Beside<T: Element> {
    gamma: *const T::Float,
    dgamma: *mut T::Float,
    dbeta: *mut T::Float,
}

/// What a loop does. Most calls want all gradients, and have a loop of their own.
mod ways {
    pub(super) const DX: u8 = 1;
    pub(super) const SUMS: u8 = 2;
    pub(super) const DS: u8 = 4;
    pub(super) const STREAM: u8 = 8;
    /// What is done is decided while running.
    pub(super) const ANY: u8 = 16;

    pub(super) const ALL: u8 = DX | SUMS;
    pub(super) const ALL_STREAMED: u8 = ALL | STREAM;
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
    let (dgamma, dbeta) = if CENTERED { leaf.split_at_mut(gamma.len()) } else { (leaf, &mut [] as &mut [_]) };
    assert!(r + R <= job.rows.rows() && gamma.len() >= cols && dgamma.len() >= cols);
    let beside = Beside::<T> { gamma: gamma.as_ptr(), dgamma: dgamma.as_mut_ptr(), dbeta: dbeta.as_mut_ptr() };
    let mut at = r;
    let loaded = rows.map(|row| {
        at += 1;
        // SAFETY: there are R rows from r on, checked above.
        unsafe { Loaded::<S, T>::new(simd, job, at - 1, &row) }
    });
    // Only from whole registers on can they be streamed; rows that are not aligned are stored as others.
    let streams = loaded.iter().all(|row| row.dx.is_some_and(|dx| dx.streams() && dx.misalignment::<S>() == 0));
    let has_ds = loaded.iter().any(|row| row.ds.is_some());
    let flags = [(job.rows.has_dx(), ways::DX), (job.sums, ways::SUMS), (has_ds, ways::DS), (streams, ways::STREAM)];
    let way = flags.into_iter().fold(0, |way, (is_so, bit)| if is_so { way | bit } else { way });
    let pair = 2 * T::Float::lanes::<S>();
    let whole = cols - cols % pair;
    // SAFETY: all rows have cols elements, gamma and the sums have them in whole steps. The flags are those of the rows.
    unsafe {
        let mut seen = match way {
            ways::ALL if R > 1 => touch::<S, T, CENTERED, { ways::ALL }, R>(simd, &loaded, beside, way, whole),
            ways::ALL_STREAMED if R > 1 => {
                touch::<S, T, CENTERED, { ways::ALL_STREAMED }, R>(simd, &loaded, beside, way, whole)
            }
            _ => touch::<S, T, CENTERED, { ways::ANY }, R>(simd, &loaded, beside, way, whole),
        };
        if whole < cols {
            let tail = touch_tail::<S, T, CENTERED, R>(simd, &loaded, beside, job.sums, whole, cols - whole);
            seen = T::Float::plus(simd, seen, tail);
        }
        if has_ds && T::Float::any_nan(simd, seen) {
            loaded.iter().filter_map(|row| row.dx).for_each(|dx| dx.canonicalize(cols, |_| false));
        }
    }
}

/// The first `to` elements of all rows, whole pairs of registers. Returns zeros, or a NaN in some lane if an element of dx with its ds
/// is not finite.
///
/// # Safety
/// - All rows have `to` elements; gamma and the sums have them.
/// - What `way` names is there, and it is `WAY` unless that is ANY.
/// - If it names streaming, rows of dx are aligned to registers.
#[inline(always)]
unsafe fn touch<S: Lanes, T: Element, const CENTERED: bool, const WAY: u8, const R: usize>(
    simd: S,
    rows: &[Loaded<S, T>; R],
    beside: Beside<T>,
    way: u8,
    to: usize,
) -> <T::Float as Float>::Reg<S> {
    let has = |bit| if WAY == ways::ANY { way & bit != 0 } else { WAY & bit != 0 };
    let (has_dx, has_sums, has_ds, streams) = (has(ways::DX), has(ways::SUMS), has(ways::DS), has(ways::STREAM));
    let zero = T::Float::splat(simd, T::Float::default());
    let mut seen = zero;
    let mut i = 0;
    while i < to {
        // SAFETY: the caller's duty; a pair is left.
        unsafe {
            let gamma = T::simd_load_computed(simd, beside.gamma.add(i));
            let (mut dgamma, mut dbeta) = ([zero; 2], [zero; 2]);
            if has_sums {
                dgamma = T::simd_load_computed(simd, beside.dgamma.add(i));
                if CENTERED {
                    dbeta = T::simd_load_computed(simd, beside.dbeta.add(i));
                }
            }
            for row in rows {
                let (dy, x) = (row.dy.load(simd, i), row.x.load(simd, i));
                let mut dx = [zero; 2];
                for k in 0..2 {
                    let xhat = row.xhat::<CENTERED>(simd, x[k]);
                    dgamma[k] = T::Float::fma(simd, dy[k], xhat, dgamma[k]);
                    if CENTERED {
                        dbeta[k] = T::Float::plus(simd, dbeta[k], dy[k]);
                    }
                    dx[k] = row.dx::<CENTERED>(simd, dy[k], xhat, gamma[k]);
                }
                if has_dx {
                    if has_ds {
                        let ds = row.ds.unwrap_unchecked().load(simd, i);
                        dx = [T::Float::plus(simd, dx[0], ds[0]), T::Float::plus(simd, dx[1], ds[1])];
                        seen = probe::<S, T::Float>(simd, seen, dx);
                    }
                    let target = row.dx.unwrap_unchecked();
                    if streams {
                        target.store::<S, { way::REST }>(simd, i, dx);
                    } else {
                        target.store::<S, { way::PLAIN }>(simd, i, dx);
                    }
                }
            }
            if has_sums {
                T::simd_store_computed(simd, beside.dgamma.add(i), dgamma);
                if CENTERED {
                    T::simd_store_computed(simd, beside.dbeta.add(i), dbeta);
                }
            }
        }
        i += 2 * T::Float::lanes::<S>();
    }
    seen
}

/// The last `n` elements of all rows, from `i` on: less than a pair of registers. Returns what `touch` does.
///
/// # Safety
/// - All rows have `i + n` elements; gamma and the sums have them in whole steps.
#[inline(always)]
unsafe fn touch_tail<S: Lanes, T: Element, const CENTERED: bool, const R: usize>(
    simd: S,
    rows: &[Loaded<S, T>; R],
    beside: Beside<T>,
    sums: bool,
    i: usize,
    n: usize,
) -> <T::Float as Float>::Reg<S> {
    let zero = T::Float::splat(simd, T::Float::default());
    let mut seen = zero;
    // SAFETY: the caller's duty.
    unsafe {
        let gamma = T::simd_load_computed(simd, beside.gamma.add(i));
        for row in rows {
            let (dy, x) = (row.dy.load_tail(simd, i, n, zero), row.x.load_tail(simd, i, n, row.hi));
            let xhat = [row.xhat::<CENTERED>(simd, x[0]), row.xhat::<CENTERED>(simd, x[1])];
            if sums {
                let [a, b] = T::simd_load_computed(simd, beside.dgamma.add(i));
                let added = [T::Float::fma(simd, dy[0], xhat[0], a), T::Float::fma(simd, dy[1], xhat[1], b)];
                T::simd_store_computed(simd, beside.dgamma.add(i), added);
                if CENTERED {
                    let [a, b] = T::simd_load_computed(simd, beside.dbeta.add(i));
                    let added = [T::Float::plus(simd, a, dy[0]), T::Float::plus(simd, b, dy[1])];
                    T::simd_store_computed(simd, beside.dbeta.add(i), added);
                }
            }
            let Some(target) = row.dx else { continue };
            let mut dx = [
                row.dx::<CENTERED>(simd, dy[0], xhat[0], gamma[0]),
                row.dx::<CENTERED>(simd, dy[1], xhat[1], gamma[1]),
            ];
            if let Some(ds) = row.ds {
                let ds = ds.load_tail(simd, i, n, zero);
                dx = [T::Float::plus(simd, dx[0], ds[0]), T::Float::plus(simd, dx[1], ds[1])];
                seen = probe::<S, T::Float>(simd, seen, dx);
            }
            target.store_tail(simd, i, n, dx);
        }
    }
    seen
}
