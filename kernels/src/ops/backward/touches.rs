//! The two touches of the rows that take the fast path.

use super::job::{BLOCK_ROWS, FIRST_ROWS, GradJob};
use crate::element::{Pair, Reg, Storage};
use crate::loops::probe;
use crate::mean::{Center, Mean};
use crate::rows::{RowPointers, Source, Target, way};
use crate::simd::{Float, Lanes, MAX_REGS, regs};
use crate::stats::{CHUNK, RowNorm, Tree, no_subtrees};

/// How much of a row the loops are trusted with: the slow path does the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    Nothing,
    /// mean and rstd, but not the sums that dx takes.
    Statistics,
    All,
}

/// The numbers of some rows that the second touch needs. The numbers of one kind lie together: a vector that is stored
/// can be loaded number by number without a wait, but numbers that are stored cannot be loaded as a vector.
#[derive(Debug)]
pub(super) struct Terms<F> {
    pub(super) hi: [F; FIRST_ROWS],
    pub(super) rstd: [F; FIRST_ROWS],
    /// -lo * rstd.
    pub(super) offset: [F; FIRST_ROWS],
    /// -rstd * c1 and -rstd * c2.
    pub(super) neg_rstd_c1: [F; FIRST_ROWS],
    pub(super) neg_rstd_c2: [F; FIRST_ROWS],
}

impl<F: Float> Terms<F> {
    pub(super) const NAN: Self = Self {
        hi: [F::NAN; FIRST_ROWS],
        rstd: [F::NAN; FIRST_ROWS],
        offset: [F::NAN; FIRST_ROWS],
        neg_rstd_c1: [F::NAN; FIRST_ROWS],
        neg_rstd_c2: [F::NAN; FIRST_ROWS],
    };

    /// Sets the terms of row `k`.
    #[inline(always)]
    pub(super) fn set(&mut self, k: usize, norm: &RowNorm<F>, c1: f64, c2: f64) {
        let k = k % FIRST_ROWS;
        let &RowNorm { mean, mean_lo, rstd } = norm;
        let rstd_f64: f64 = rstd.into();
        (self.hi[k], self.rstd[k], self.offset[k]) = (mean, rstd, -mean_lo * rstd);
        self.neg_rstd_c1[k] = F::from_f64(-rstd_f64 * c1);
        self.neg_rstd_c2[k] = F::from_f64(-rstd_f64 * c2);
    }
}

/// S1 and S2 of row `r`: the sums of g and of g * (x - hi). Without a mean, S1 is zero and hi is 0.
///
/// # Safety
/// - There is such a row.
/// - gamma has as many columns, in whole steps.
#[inline(always)]
pub(super) unsafe fn project<S: Lanes, T: Storage, M: Center>(
    simd: S,
    job: &GradJob<'_, T>,
    r: usize,
    hi: T::Float,
    gamma: &[T::Float],
) -> (f64, f64) {
    let cols = job.rows.cols();
    let place = job.rows.place(r);
    // SAFETY: the caller's duty.
    let (dy, x) = unsafe { (job.rows.dy(place), job.rows.x(place)) };
    let mean = Mean::<M>::new(job.centered).on::<S>();
    let prefetches = job.asks_ahead::<S>();
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    let mut at = 0;
    loop {
        let len = CHUNK.min(cols - at);
        // SAFETY: at < cols.
        let [s1, s2] = unsafe { project_chunk::<S, T, M>(simd, [dy, x], hi, gamma, at, len, prefetches) };
        let s1 = if mean.is_taken::<S>() { T::Float::fold(simd, s1) } else { T::Float::default() };
        let sums = (s1.into(), T::Float::fold(simd, s2).into());
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

/// The sums over `len` columns from `from` on, at most a chunk, still to be folded. What follows in memory is
/// prefetched if `prefetches`.
///
/// # Safety
/// - dy and x have `from + len` elements; gamma has them in whole steps.
#[inline(always)]
pub(super) unsafe fn project_chunk<S: Lanes, T: Storage, M: Center>(
    simd: S,
    [dy, x]: [Source<T>; 2],
    hi: T::Float,
    gamma: &[T::Float],
    from: usize,
    len: usize,
    prefetches: bool,
) -> [Reg<S, T>; 2] {
    let zero = T::Float::splat(simd, T::Float::default());
    let hi = T::Float::splat(simd, hi);
    let (mut s1, mut s2) = ([zero; MAX_REGS], [zero; MAX_REGS]);
    let mut add = |j: usize, [dy_a, dy_b]: Pair<S, T>, [x_a, x_b]: Pair<S, T>, [gamma_a, gamma_b]: Pair<S, T>| {
        let (g_a, g_b) = (T::Float::times(simd, dy_a, gamma_a), T::Float::times(simd, dy_b, gamma_b));
        let (mut d_a, mut d_b) = (x_a, x_b);
        if M::CENTERED {
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
            if prefetches {
                dy.prefetch_near(simd, i);
                x.prefetch_near(simd, i);
            }
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
fn halve<S: Lanes, T: Storage>(simd: S, mut v: [Reg<S, T>; MAX_REGS]) -> Reg<S, T> {
    let mut r = regs::<S>();
    while r > 1 {
        r /= 2;
        for j in 0..r {
            v[j] = T::Float::plus(simd, v[j], v[j + r]);
        }
    }
    v[0]
}

/// The terms of a row in registers, and where its elements are.
#[derive(Clone, Copy)]
struct Loaded<S: Lanes, T: Storage, M> {
    hi: Reg<S, T>,
    rstd: Reg<S, T>,
    offset: Reg<S, T>,
    neg_rstd_c1: Reg<S, T>,
    neg_rstd_c2: Reg<S, T>,
    mean: Mean<M>,
    dy: Source<T>,
    x: Source<T>,
    ds: Option<Source<T>>,
    dx: Option<Target<T>>,
    /// dy and x of the row that is prefetched meanwhile.
    ahead: [Source<T>; 2],
}

impl<S: Lanes, T: Storage, M: Center> Loaded<S, T, M> {
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    unsafe fn new(
        simd: S,
        job: &GradJob<'_, T>,
        p: RowPointers<T>,
        r: usize,
        terms: &Terms<T::Float>,
        k: usize,
        ahead: usize,
    ) -> Self {
        let k = k % FIRST_ROWS;
        let splat = |v| T::Float::splat(simd, v);
        let mut later = [p.dy, p.x];
        // Where a block of f32 or f64 is larger than L1, this loop waits for cache lines itself, and prefetches would
        // not come sooner.
        if job.streaming && (T::ROUNDS || job.block_is_in_l1()) && r + ahead < job.rows.rows() {
            let at = job.rows.place(r + ahead);
            // SAFETY: there is such a row.
            later = unsafe { [job.rows.dy(at), job.rows.x(at)] };
        }
        Self {
            hi: splat(terms.hi[k]),
            rstd: splat(terms.rstd[k]),
            offset: splat(terms.offset[k]),
            neg_rstd_c1: splat(terms.neg_rstd_c1[k]),
            neg_rstd_c2: splat(terms.neg_rstd_c2[k]),
            mean: Mean::new(job.centered).on::<S>(),
            dy: p.dy,
            x: p.x,
            ds: job.rows.has_ds().then_some(p.ds),
            dx: job.rows.has_dx().then_some(job.rows.target(p, job.streaming)),
            ahead: later,
        }
    }

    #[inline(always)]
    fn xhat(&self, simd: S, x: Reg<S, T>) -> Reg<S, T> {
        if self.mean.is_computed::<S>() {
            T::Float::fma(simd, T::Float::minus(simd, x, self.hi), self.rstd, self.offset)
        } else {
            T::Float::times(simd, x, self.rstd)
        }
    }

    /// dx without ds.
    #[inline(always)]
    fn dx(&self, simd: S, dy: Reg<S, T>, xhat: Reg<S, T>, gamma: Reg<S, T>) -> Reg<S, T> {
        let projected = if self.mean.is_computed::<S>() {
            T::Float::fma(simd, xhat, self.neg_rstd_c2, self.neg_rstd_c1)
        } else {
            T::Float::times(simd, xhat, self.neg_rstd_c2)
        };
        T::Float::fma(simd, T::Float::times(simd, dy, gamma), self.rstd, projected)
    }
}

/// What the rows of a block have in common: gamma and the running sums, in pairs of registers and whole steps of
/// columns.
#[derive(Clone, Copy)]
struct Shared<T: Storage> {
    gamma: *const T::Float,
    dgamma: *mut T::Float,
    /// Equal to `dgamma` where there is no beta: the store of dgamma then overwrites what is stored here.
    dbeta: *mut T::Float,
}

/// The work of a loop, as bits. Most calls want all gradients, and have loops of their own.
pub(super) mod ways {
    pub(in crate::ops::backward) const DX: u8 = 1;
    pub(in crate::ops::backward) const SUMS: u8 = 2;
    pub(in crate::ops::backward) const DS: u8 = 4;
    pub(in crate::ops::backward) const STREAM: u8 = 8;
    /// The other bits are read while running, and not when compiling.
    pub(in crate::ops::backward) const ANY: u8 = 16;

    pub(in crate::ops::backward) const ALL: u8 = DX | SUMS;
    pub(in crate::ops::backward) const ALL_STREAMED: u8 = ALL | STREAM;
}

/// Writes dx of the `rows` rows from `r` on, a multiple of `R`, whose `terms` begin at number `k`, and adds them to the
/// sums of dgamma and dbeta, `R` rows at a time, as far as both `wanted` and the job ask for it.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn second_touch<S: Lanes, T: Storage, M: Center, const R: usize>(
    simd: S,
    job: &mut GradJob<'_, T>,
    r: usize,
    rows: usize,
    terms: &Terms<T::Float>,
    k: usize,
    wanted: u8,
    gamma: &[T::Float],
    leaf: &mut [T::Float],
) {
    let cols = job.rows.cols();
    let sums = if Mean::<M>::new(job.centered).is_taken::<S>() { 2 } else { 1 };
    let has_rows = rows.is_multiple_of(R) && r + rows <= job.rows.rows();
    assert!(has_rows && gamma.len() >= cols && leaf.len() == sums * gamma.len());
    let dgamma = leaf.as_mut_ptr();
    let dbeta = dgamma.wrapping_add((sums - 1) * gamma.len());
    let shared = Shared::<T> { gamma: gamma.as_ptr(), dgamma, dbeta };
    let ahead = job.first_rows().max(BLOCK_ROWS);
    let is_one_run = job.rows.is_one_run();
    let mut p = None;
    for i in (0..rows).step_by(R) {
        // SAFETY: there are these rows, checked above. (Not `array::from_fn`: its closure is not always inlined.)
        unsafe {
            let mut at = match p {
                Some(p) if is_one_run => p,
                _ => job.rows.pointers(job.rows.place(r + i)),
            };
            let mut loaded = [Loaded::new(simd, job, at, r + i, terms, k + i, ahead); R];
            for j in 1..R {
                let below = i + j;
                at = if is_one_run { job.rows.below(at) } else { job.rows.pointers(job.rows.place(r + below)) };
                loaded[j] = Loaded::new(simd, job, at, r + below, terms, k + below, ahead);
            }
            p = Some(job.rows.below(at));
            touch_block::<S, T, M, R>(simd, job, &loaded, shared, wanted);
        }
    }
}

/// The second touch of the rows `loaded`.
///
/// # Safety
/// - These are rows of the job; gamma and the sums have its columns in whole steps.
#[inline(always)]
unsafe fn touch_block<S: Lanes, T: Storage, M: Center, const R: usize>(
    simd: S,
    job: &GradJob<'_, T>,
    loaded: &[Loaded<S, T, M>; R],
    shared: Shared<T>,
    wanted: u8,
) {
    let cols = job.rows.cols();
    // Rows that do not start on cache lines are not streamed.
    let mut streams = job.streaming;
    for row in loaded {
        streams &= row.dx.is_some_and(|dx| dx.misalignment() == 0);
    }
    let has_ds = loaded[0].ds.is_some();
    let mut way = if job.sums { ways::SUMS } else { 0 };
    way |= if job.rows.has_dx() { ways::DX } else { 0 };
    way |= if has_ds { ways::DS } else { 0 };
    way |= if streams { ways::STREAM } else { 0 };
    way &= wanted;
    let pair = 2 * T::Float::lanes::<S>();
    // The portable tier takes the whole row in the loop for tails: two loops would be twice the code.
    let mut at = if S::SPECIALIZES { cols - cols % pair } else { 0 };
    // SAFETY: all rows have cols elements, gamma and the sums have them in whole steps. `way` names what the rows have.
    unsafe {
        let mut nan_probe = match way {
            _ if !S::SPECIALIZES => T::Float::splat(simd, T::Float::default()),
            ways::ALL if R > 1 => touch::<S, T, M, { ways::ALL }, R>(simd, loaded, shared, way, at),
            ways::ALL_STREAMED if R > 1 => touch::<S, T, M, { ways::ALL_STREAMED }, R>(simd, loaded, shared, way, at),
            _ => touch::<S, T, M, { ways::ANY }, R>(simd, loaded, shared, way, at),
        };
        while at < cols {
            let tail = touch_tail::<S, T, M, R>(simd, loaded, shared, way, at, pair.min(cols - at));
            nan_probe = T::Float::plus(simd, nan_probe, tail);
            at += pair;
            if S::SPECIALIZES {
                break;
            }
        }
        if way & ways::DX != 0 && has_ds && T::Float::any_nan(simd, nan_probe) {
            loaded.iter().filter_map(|row| row.dx).for_each(|dx| dx.canonicalize_nans(cols));
        }
    }
}

/// Adds `R` rows to registers of the sums of dgamma and dbeta. Two rows are added to each other first, which makes
/// chains of additions half as long.
#[inline(always)]
fn add_rows<S: Lanes, F: Float, M: Center, const R: usize>(
    simd: S,
    dy: &[F::Reg<S>; R],
    xhat: &[F::Reg<S>; R],
    dgamma: F::Reg<S>,
    dbeta: F::Reg<S>,
) -> [F::Reg<S>; 2] {
    let (mut first, mut second) = (F::times(simd, dy[0], xhat[0]), dy[0]);
    if R == 1 {
        first = F::fma(simd, dy[0], xhat[0], dgamma);
        return [first, if M::CENTERED { F::plus(simd, dbeta, second) } else { dbeta }];
    }
    for r in 1..R {
        first = F::fma(simd, dy[r], xhat[r], first);
        second = F::plus(simd, second, dy[r]);
    }
    [F::plus(simd, dgamma, first), if M::CENTERED { F::plus(simd, dbeta, second) } else { dbeta }]
}

/// Takes the first `to` elements of all rows, whole pairs of registers. Returns zeros, or a NaN in some lane if an
/// element of dx with its ds is not finite.
///
/// # Safety
/// - All rows, gamma and the sums have `to` elements.
/// - What `way` names is there, and `way` is `WAY` unless `WAY` is `ANY`.
/// - If `way` names streaming, rows of dx are aligned to registers.
#[inline(always)]
unsafe fn touch<S: Lanes, T: Storage, M: Center, const WAY: u8, const R: usize>(
    simd: S,
    rows: &[Loaded<S, T, M>; R],
    shared: Shared<T>,
    way: u8,
    to: usize,
) -> Reg<S, T> {
    let has = |bit| if WAY == ways::ANY { way & bit != 0 } else { WAY & bit != 0 };
    let mut nan_probe = T::Float::splat(simd, T::Float::default());
    // The terms of two rows with a mean take ten registers. A tier with few registers takes the two registers of a pair
    // in turn.
    let apart = S::FEW_REGISTERS && !T::ROUNDS && M::CENTERED && WAY == ways::ALL;
    let mut i = 0;
    while i < to {
        // SAFETY: the caller's duty; a pair is left.
        unsafe {
            if apart {
                nan_probe = touch_registers::<S, T, M, R, 0, 1>(simd, rows, shared, has, i, nan_probe);
                nan_probe = touch_registers::<S, T, M, R, 1, 2>(simd, rows, shared, has, i, nan_probe);
            } else {
                nan_probe = touch_registers::<S, T, M, R, 0, 2>(simd, rows, shared, has, i, nan_probe);
            }
        }
        i += 2 * T::Float::lanes::<S>();
    }
    nan_probe
}

/// Takes registers `FROM` to `TO` of the pair from `i` on, of all rows. Returns what `touch` does, added to
/// `nan_probe`.
///
/// # Safety
/// - As for `touch`; `has` tells what `way` names. All rows have that pair.
/// - Both registers are taken if the type rounds, and if dx is streamed.
#[inline(always)]
unsafe fn touch_registers<S: Lanes, T: Storage, M: Center, const R: usize, const FROM: usize, const TO: usize>(
    simd: S,
    rows: &[Loaded<S, T, M>; R],
    shared: Shared<T>,
    has: impl Fn(u8) -> bool,
    i: usize,
    mut nan_probe: Reg<S, T>,
) -> Reg<S, T> {
    let zero = T::Float::splat(simd, T::Float::default());
    let lanes = T::Float::lanes::<S>();
    let (mut dys, mut xhats) = ([[zero; R]; 2], [[zero; R]; 2]);
    // SAFETY: the caller's duty.
    unsafe {
        let gamma = T::simd_load_computed(simd, shared.gamma.add(i));
        for r in 0..R {
            let row = &rows[r];
            let (dy, x) = (row.dy.load(simd, i), row.x.load(simd, i));
            let mut dx = dy;
            for k in FROM..TO {
                let xhat = row.xhat(simd, x[k]);
                dx[k] = row.dx(simd, dy[k], xhat, gamma[k]);
                (dys[k][r], xhats[k][r]) = (dy[k], xhat);
            }
            if has(ways::DX) {
                if has(ways::DS) {
                    let ds = row.ds.unwrap_unchecked().load(simd, i);
                    for k in FROM..TO {
                        dx[k] = T::Float::plus(simd, dx[k], ds[k]);
                        nan_probe = probe::<S, T::Float>(simd, nan_probe, dx[k]);
                    }
                }
                let target = row.dx.unwrap_unchecked();
                if TO - FROM == 1 {
                    target.store_register(simd, i + FROM * lanes, dx[FROM]);
                } else if has(ways::STREAM) {
                    row.ahead[0].prefetch(simd, i, 2 * lanes);
                    row.ahead[1].prefetch(simd, i, 2 * lanes);
                    target.store::<S, { way::GENERAL }>(simd, i, dx);
                } else {
                    target.store::<S, { way::PLAIN }>(simd, i, dx);
                }
            }
        }
        if has(ways::SUMS) {
            add_to_sums::<S, T, M, R, FROM, TO>(simd, shared, i, &dys, &xhats);
        }
    }
    nan_probe
}

/// Takes the `n` elements of all rows from `i` on, at most a pair of registers. Returns what `touch` does.
///
/// # Safety
/// - All rows have `i + n` elements; gamma and the sums have them in whole steps.
/// - What `way` names is there.
#[inline(always)]
unsafe fn touch_tail<S: Lanes, T: Storage, M: Center, const R: usize>(
    simd: S,
    rows: &[Loaded<S, T, M>; R],
    shared: Shared<T>,
    way: u8,
    i: usize,
    n: usize,
) -> Reg<S, T> {
    let zero = T::Float::splat(simd, T::Float::default());
    let mut nan_probe = zero;
    // SAFETY: the caller's duty.
    unsafe {
        let gamma = T::simd_load_computed(simd, shared.gamma.add(i));
        let (mut dys, mut xhats) = ([[zero; R]; 2], [[zero; R]; 2]);
        for r in 0..R {
            let [dy, xhat] = if S::SPECIALIZES {
                touch_row_tail::<S, T, M>(simd, &rows[r], &gamma, way, i, n, &mut nan_probe)
            } else {
                touch_row_tail_outlined::<S, T, M>(simd, &rows[r], &gamma, way, i, n, &mut nan_probe)
            };
            for k in 0..2 {
                (dys[k][r], xhats[k][r]) = (dy[k], xhat[k]);
            }
        }
        if way & ways::SUMS != 0 {
            add_to_sums::<S, T, M, R, 0, 2>(simd, shared, i, &dys, &xhats);
        }
    }
    nan_probe
}

/// `touch_tail` for one row: writes its dx, returns its dy and xhat, and adds to `nan_probe`.
///
/// # Safety
/// - As for `touch_tail`.
#[inline(always)]
unsafe fn touch_row_tail<S: Lanes, T: Storage, M: Center>(
    simd: S,
    row: &Loaded<S, T, M>,
    gamma: &Pair<S, T>,
    way: u8,
    i: usize,
    n: usize,
    nan_probe: &mut Reg<S, T>,
) -> [Pair<S, T>; 2] {
    let zero = T::Float::splat(simd, T::Float::default());
    // SAFETY: the caller's duty.
    unsafe {
        let (dy, x) = (row.dy.load_tail(simd, i, n, zero), row.x.load_tail(simd, i, n, row.hi));
        let (mut dx, mut xhat) = (dy, x);
        for k in 0..2 {
            xhat[k] = row.xhat(simd, x[k]);
            dx[k] = row.dx(simd, dy[k], xhat[k], gamma[k]);
        }
        if way & ways::DX != 0
            && let Some(target) = row.dx
        {
            if let Some(ds) = row.ds {
                let ds = ds.load_tail(simd, i, n, zero);
                dx = [T::Float::plus(simd, dx[0], ds[0]), T::Float::plus(simd, dx[1], ds[1])];
                for v in dx {
                    *nan_probe = probe::<S, T::Float>(simd, *nan_probe, v);
                }
            }
            target.store_tail(simd, i, n, dx);
        }
        [dy, xhat]
    }
}

/// `touch_row_tail` out of line: the portable tier has one copy, since fma is long there.
///
/// # Safety
/// - As for `touch_tail`.
#[inline(never)]
unsafe fn touch_row_tail_outlined<S: Lanes, T: Storage, M: Center>(
    simd: S,
    row: &Loaded<S, T, M>,
    gamma: &Pair<S, T>,
    way: u8,
    i: usize,
    n: usize,
    nan_probe: &mut Reg<S, T>,
) -> [Pair<S, T>; 2] {
    // SAFETY: the caller's duty.
    unsafe { touch_row_tail::<S, T, M>(simd, row, gamma, way, i, n, nan_probe) }
}

/// Adds registers `FROM` to `TO` of a pair of dy and xhat of each row to the sums from `i` on.
///
/// # Safety
/// - The sums have that pair.
#[inline(always)]
unsafe fn add_to_sums<S: Lanes, T: Storage, M: Center, const R: usize, const FROM: usize, const TO: usize>(
    simd: S,
    shared: Shared<T>,
    i: usize,
    dys: &[[Reg<S, T>; R]; 2],
    xhats: &[[Reg<S, T>; R]; 2],
) {
    let zero = T::Float::splat(simd, T::Float::default());
    let lanes = T::Float::lanes::<S>();
    // SAFETY: the caller's duty.
    unsafe {
        let mut dgamma = T::simd_load_computed(simd, shared.dgamma.add(i));
        let mut dbeta = if M::CENTERED { T::simd_load_computed(simd, shared.dbeta.add(i)) } else { [zero; 2] };
        for k in FROM..TO {
            [dgamma[k], dbeta[k]] = add_rows::<S, T::Float, M, R>(simd, &dys[k], &xhats[k], dgamma[k], dbeta[k]);
        }
        if M::CENTERED {
            for k in FROM..TO {
                T::Float::store(simd, shared.dbeta.add(i + k * lanes), dbeta[k]);
            }
        }
        for k in FROM..TO {
            T::Float::store(simd, shared.dgamma.add(i + k * lanes), dgamma[k]);
        }
    }
}
