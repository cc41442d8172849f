//! The slow path: rows whose statistics or gradients leave the range in which the loops are trusted, and rows with a
//! number that is not finite.
//!
//! It computes in f64, as [`exact`] does. Rows that are computed in f32 stay well within the range of f64: a product of
//! dy, gamma, xhat and rstd lies between 2^-450 and 2^450, or is zero. Rows of f64 have no type beyond their own: they
//! are computed element by element with exponents apart, so that neither products nor sums leave the range.

use super::job::{BLOCK_ROWS, GradJob, Trusted, power_of_two, trusted};
use super::touches::Trust;
use crate::element::{Pair, Storage};
use crate::rows::{Source, Tail, Target};
use crate::simd::{Float, Kernel, Lanes, WIDE_REGS, sqrt_f64};
use crate::stats::exact::{self, BLOCK, WideNorm, WideSums, each, in_the_loop, pair_and_step, rounded, wide_regs};
use crate::stats::{Moments, RowNorm};

/// Whether all of row `r` of dy is zero, of one sign.
#[cold]
#[inline(never)]
pub(super) fn is_zero<T: Storage>(job: &GradJob<'_, T>, r: usize) -> bool {
    // SAFETY: callers count the rows; rows have cols elements.
    unsafe { exact::is_constant(job.rows.dy(job.rows.place(r)), job.rows.cols(), false) }
}

/// Whether the loops are trusted with the rows from `r` on, whose sums have these sizes: sums of zero are moderate too
/// where dy is zero.
#[cold]
#[inline(never)]
pub(super) fn are_moderate<T: Storage>(job: &GradJob<'_, T>, r: usize, sizes: &[f64], rstds: &[f64]) -> bool {
    let mut rows = (r..).zip(sizes.iter().zip(rstds));
    rows.all(|(r, (size, rstd))| {
        let Trusted { rstd: rstds, sums, products } = trusted::<T>();
        rstds.contains(rstd)
            && (sums.contains(size) && products.contains(&(size * rstd)) || *size == 0.0 && is_zero(job, r))
    })
}

/// The statistics of row `r` for the loops, and whether the row is constant; `None` if the loops cannot take the row.
/// Its rstd or its moments are not trusted. If forward has kept no statistics, `taken` has the moments of the loops. If
/// the moments are taken here on the slow path, they replace these.
#[cold]
#[inline(never)]
pub(super) fn norm_of_untrusted<T: Storage>(
    job: &GradJob<'_, T>,
    r: usize,
    taken: &mut Option<Moments>,
) -> Option<(RowNorm<T::Float>, bool)> {
    if let Some(norm) = constant(job, r) {
        return Some((norm, true));
    }
    let (moments, v) = moments(job, r, (*taken)?);
    *taken = Some(moments);
    let norm = RowNorm::<T::Float>::rescued(&moments, v);
    trusted::<T>().rstd.contains(&norm.rstd.into()).then_some((norm, false))
}

/// The statistics of row `r` for the loops if its xhat is defined to be zero: all elements are equal and eps is 0.
fn constant<T: Storage>(job: &GradJob<'_, T>, r: usize) -> Option<RowNorm<T::Float>> {
    if !job.root.may_be_zero() {
        return None;
    }
    // SAFETY: as above.
    let (mean, is_constant) = unsafe {
        let x = job.rows.x(job.rows.place(r));
        (x.get(0).to_computed(), exact::is_constant(x, job.rows.cols(), job.centered))
    };
    let zero = T::Float::default();
    is_constant.then_some(RowNorm { mean: if job.centered { mean } else { zero }, mean_lo: zero, rstd: zero })
}

/// The moments of row `r`, and what the root is taken of at their scale. They are the moments of the slow path if the
/// moments of the loops are not trusted. `taken_before` may be moments of either.
#[inline(never)]
fn moments<T: Storage>(job: &GradJob<'_, T>, r: usize, taken_before: Moments) -> (Moments, f64) {
    let mut m = taken_before;
    // Moments of the loops have this scale, and moments of the slow path another.
    let is_fast = m.scale == 1.0;
    if let Some(scale) = m.slow_scale::<T>(&job.root).filter(|_| is_fast) {
        // SAFETY: there is a row r, and rows have cols > 0 elements.
        m = unsafe { exact::moments(job.isa, job.rows.x(job.rows.place(r)), job.rows.cols(), scale, job.centered) };
    }
    (m, job.root.exact(m.m2, m.count, m.scale))
}

/// The statistics of row `r` for the slow path. rstd is zero if all elements are equal and eps is 0: xhat is 0 then,
/// and dx is defined to be 0. Also whether the row is divided by the floor of the norm, so that xhat has no part in dx.
#[inline(never)]
fn norm_of<T: Storage>(job: &GradJob<'_, T>, r: usize, taken: Moments) -> (WideNorm, bool) {
    let (m, v) = moments(job, r, taken);
    let norm = WideNorm::new::<T::Float>(&m, if v == 0.0 { 0.0 } else { 1.0 / sqrt_f64(pulp::Scalar, v) });
    let floor = job.root.floor * m.scale * m.scale;
    (norm, floor > 0.0 && v <= floor)
}

/// Takes one or two rows from `r` on, as far as the loops are not trusted with them. Writes dx of each row that is not
/// trusted with everything. Adds all rows to the sums of dgamma and dbeta if `adds`. The `moments` of these rows have
/// been taken. gamma and the sums are kept in the order of the pairs of registers.
#[cold]
#[inline(never)]
pub(super) fn take_rows<T: Storage>(
    job: &mut GradJob<'_, T>,
    r: usize,
    rows: &[Trust],
    moments: &[Option<Moments>],
    gamma: &[T::Float],
    leaf: &mut [T::Float],
    adds: bool,
) {
    let cols = job.rows.cols();
    let padded = cols.next_multiple_of(T::STEP);
    assert!(gamma.len() == padded && leaf.len() == padded * if job.centered { 2 } else { 1 });
    let mut taken = [None; BLOCK_ROWS];
    for (k, ((&trust, moments), taken)) in rows.iter().zip(moments).zip(&mut taken).enumerate() {
        if let (true, &Some(moments)) = (adds || trust != Trust::All, moments) {
            let ((norm, is_floor), place) = (norm_of(job, r + k, moments), job.rows.place(r + k));
            // SAFETY: there is the row.
            *taken = Some(unsafe { SlowRow { norm, is_floor, dy: job.rows.dy(place), x: job.rows.x(place) } });
        }
    }
    if adds {
        let dgamma = leaf.as_mut_ptr();
        let dbeta = dgamma.wrapping_add(leaf.len() - padded);
        job.isa.run(&AddRows { rows: &taken, dgamma, dbeta, cols });
    }
    for (k, (&trust, taken)) in rows.iter().zip(&taken).enumerate() {
        if let (true, Some(taken)) = (trust != Trust::All, taken) {
            write_dx(job, r + k, taken, gamma);
        }
    }
}

/// A row that the slow path takes.
#[derive(Clone, Copy)]
struct SlowRow<T> {
    norm: WideNorm,
    is_floor: bool,
    dy: Source<T>,
    x: Source<T>,
}

/// Adds the rows of a block to the sums of dgamma and dbeta. Without a beta, `dbeta` is `dgamma`, and the store of
/// dgamma overwrites what is stored there. Whoever makes this knows that rows have `cols` elements, and the sums whole
/// steps.
struct AddRows<'j, T: Storage> {
    rows: &'j [Option<SlowRow<T>>; BLOCK_ROWS],
    dgamma: *mut T::Float,
    dbeta: *mut T::Float,
    cols: usize,
}

impl<T: Storage> Kernel for &AddRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let &AddRows { rows, dgamma, dbeta, cols } = self;
        let mut tails = [const { Tail::NEW }; 2];
        let (pair, _) = pair_and_step::<S, T>();
        let mut i = 0;
        while i < cols {
            let n = cols - i;
            // The sums begin with zeros too, so that the sign of a zero makes no difference.
            let (mut to_dgamma, mut to_dbeta) = ([simd.splat_f64s(0.0); _], [simd.splat_f64s(0.0); _]);
            for &SlowRow { norm, dy, x, .. } in rows.iter().flatten() {
                let norm = norm.in_registers(simd);
                // SAFETY: rows have n elements from i on.
                let [dy, x] = unsafe {
                    let [dy, x] = Source::padded([dy, x], i, n, pair, &mut tails);
                    [dy.load_wide(simd, 0), x.load_wide(simd, 0)]
                };
                for j in 0..wide_regs::<S, T>() {
                    let xhat = norm.xhat(simd, norm.scaled::<T>(simd, x[j]));
                    to_dgamma[j] = simd.add_f64s(to_dgamma[j], simd.mul_f64s(dy[j], xhat));
                    // A sum of two f32 may be rounded to f64 first: that does no harm.
                    to_dbeta[j] = simd.add_f64s(to_dbeta[j], dy[j]);
                }
            }
            // SAFETY: the sums have whole pairs.
            unsafe {
                let dgamma = dgamma.add(i);
                let sums = sum_wide::<S, T>(simd, dgamma, to_dgamma);
                let dbeta = dbeta.add(i);
                T::simd_store_computed(simd, dbeta, sum_wide::<S, T>(simd, dbeta, to_dbeta));
                T::simd_store_computed(simd, dgamma, sums);
            }
            i += pair;
        }
    }
}

/// The pair at `to` plus a pair of f64, rounded.
///
/// # Safety
/// - `to` is valid for reads of a pair.
#[inline(always)]
unsafe fn sum_wide<S: Lanes, T: Storage>(simd: S, to: *const T::Float, v: [S::f64s; WIDE_REGS]) -> Pair<S, T> {
    let [a, b] = T::Float::from_f64s(simd, v);
    // SAFETY: the caller's duty.
    let [to_a, to_b] = unsafe { T::simd_load_computed(simd, to) };
    [T::Float::plus(simd, to_a, a), T::Float::plus(simd, to_b, b)]
}

/// Writes dx of row `r`, if dx is wanted. gamma has whole steps of columns.
#[inline(never)]
fn write_dx<T: Storage>(job: &mut GradJob<'_, T>, r: usize, row: &SlowRow<T>, gamma: &[T::Float]) {
    let &SlowRow { ref norm, is_floor, dy, x } = row;
    let at = job.rows.place(r);
    // SAFETY: r < rows.
    let Some(dx) = (unsafe { job.rows.dx(at, false) }) else { return };
    let cols = job.rows.cols();
    let is_done = if const { size_of::<T::Float>() == size_of::<f64>() } {
        // SAFETY: r < rows.
        let ds = unsafe { job.rows.ds(at) };
        // SAFETY: callers ask for i < cols.
        let get = |p: Source<T>, i| -> f64 { unsafe { p.get(i) }.to_computed().into() };
        let element = |i| Inputs { dy: get(dy, i), gamma: job.gamma(i).into(), x: get(x, i) };
        // What c2 is divided by.
        let count = if is_floor { f64::INFINITY } else { job.root.count(cols as f64) };
        project(cols, job.centered, norm, count, &element, &mut |i, projected| {
            let v = rounded(projected + ds.map_or(-0.0, |ds| get(ds, i)));
            // SAFETY: i < cols.
            unsafe { dx.set(i, v) };
        })
    } else {
        write_row(job, r, row, dx, gamma)
    };
    if !is_done {
        // SAFETY: rows have cols elements.
        unsafe { dx.canonicalize(cols, |_| true) };
    }
}

/// Writes dx of row `r`, where gamma has whole steps of columns. Returns false, and writes nothing, if a number is not
/// finite.
fn write_row<T: Storage>(job: &GradJob<'_, T>, r: usize, row: &SlowRow<T>, dx: Target<T>, gamma: &[T::Float]) -> bool {
    let (isa, cols) = (job.isa, job.rows.cols());
    let &SlowRow { ref norm, is_floor, dy, x } = row;
    // SAFETY: r < rows.
    let ds = unsafe { job.rows.ds(job.rows.place(r)) };
    let [s1, s2] = isa.run(&ProjectRow { dy, x, gamma, norm, cols });
    // If all numbers are finite, both sums are; if one number is not, neither is the first sum.
    if !((s1 + s2).is_finite() && norm.rstd.is_finite()) {
        return false;
    }
    let share = job.root.share(cols as f64);
    let c = [if job.centered { s1 * share } else { 0.0 }, if is_floor { 0.0 } else { s2 * share }];
    if isa.run(&GradRow { dy, x, ds, dx, gamma, norm, c, cols }) {
        // SAFETY: rows have cols elements.
        unsafe { dx.canonicalize_nans(cols) };
    }
    true
}

/// The sums of g and of g * xhat over a row. Whoever makes this knows that there are `cols` elements, of gamma in whole
/// steps.
struct ProjectRow<'b, T: Storage> {
    dy: Source<T>,
    x: Source<T>,
    gamma: &'b [T::Float],
    norm: &'b WideNorm,
    cols: usize,
}

impl<T: Storage> Kernel for &ProjectRow<'_, T> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> [f64; 2] {
        let &ProjectRow { dy, x, gamma, norm, cols } = self;
        let norm = norm.in_registers(simd);
        let mut tails = [const { Tail::NEW }; 2];
        let (pair, step) = pair_and_step::<S, T>();
        let (mut s1, mut s2) = (0.0, 0.0);
        let mut i = 0;
        while i < cols {
            let end = cols.min(i + BLOCK);
            let mut sums = WideSums::new(simd);
            while i < end {
                // SAFETY: there are elements up to the end, and of gamma in whole steps. The tails have a step.
                unsafe {
                    // Beyond the end dy is zero.
                    let [dy, x] = Source::padded([dy, x], i, end - i, step, &mut tails);
                    for k in 0..each::<S>(step / pair) {
                        let at = k * pair;
                        let gamma = T::simd_load_computed(simd, gamma.as_ptr().add(i + at));
                        let (dy, x) = (dy.load_wide(simd, at), x.load_wide(simd, at));
                        let gamma = T::Float::to_f64s(simd, gamma);
                        for j in 0..wide_regs::<S, T>() {
                            let (g, xhat) = (simd.mul_f64s(dy[j], gamma[j]), norm.xhat(simd, x[j]));
                            sums.add(simd, WideSums::<S>::register::<T>(k, j), g, xhat);
                        }
                    }
                }
                i += step;
            }
            let [g, projected] = sums.fold::<T>(simd);
            (s1, s2) = (s1 + g, s2 + projected);
            i = end;
        }
        [s1, s2]
    }
}

/// Writes dx of a row, and returns whether it may have a NaN, which is yet to be made canonical. Only ds can bring a
/// NaN, and adding it loses no digits. Whoever makes this knows that there are `cols` elements, of gamma in whole
/// steps. dx may be dy.
struct GradRow<'b, T: Storage> {
    dy: Source<T>,
    x: Source<T>,
    ds: Option<Source<T>>,
    dx: Target<T>,
    gamma: &'b [T::Float],
    norm: &'b WideNorm,
    /// c1 and c2.
    c: [f64; 2],
    cols: usize,
}

impl<T: Storage> Kernel for &GradRow<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let &GradRow { dy, x, ds, dx, gamma, norm, c: [c1, c2], cols } = self;
        let (has_ds, ds_or_dy) = (ds.is_some(), ds.unwrap_or(dy));
        let norm = norm.in_registers(simd);
        let (c1, c2) = (simd.splat_f64s(c1), simd.splat_f64s(c2));
        let mut tails = [const { Tail::NEW }; 3];
        let mut nan_probe = simd.splat_f64s(0.0);
        let (pair, _) = pair_and_step::<S, T>();
        let mut i = 0;
        while i < cols {
            let n = cols - i;
            // SAFETY: all have n elements from i on, and gamma whole pairs.
            let (mut v, x, ds, gamma) = unsafe {
                let [dy, x, ds] = Source::padded([dy, x, ds_or_dy], i, n, pair, &mut tails);
                let gamma = T::simd_load_computed(simd, gamma.as_ptr().add(i));
                (dy.load_wide(simd, 0), x.load_wide(simd, 0), ds, T::Float::to_f64s(simd, gamma))
            };
            for j in 0..wide_regs::<S, T>() {
                let g = simd.sub_f64s(simd.mul_f64s(v[j], gamma[j]), c1);
                let projected = simd.sub_f64s(g, simd.mul_f64s(norm.xhat(simd, x[j]), c2));
                v[j] = simd.mul_f64s(projected, norm.rstd);
            }
            if in_the_loop(has_ds) {
                // SAFETY: there is a pair.
                let ds = unsafe { ds.load_wide(simd, 0) };
                for j in 0..wide_regs::<S, T>() {
                    v[j] = simd.add_f64s(v[j], ds[j]);
                    nan_probe = simd.add_f64s(nan_probe, v[j]);
                }
            }
            // SAFETY: as above.
            unsafe { dx.store_wide(simd, i, n, v, &mut tails[0]) };
            i += pair;
        }
        f64::any_nan(simd, nan_probe)
    }
}

/// xhat, also where xhat is out of range, if the mean is in range.
fn wide_xhat(norm: &WideNorm, x: f64) -> Wide {
    let &WideNorm { scale, mean, mean_lo, rstd } = norm;
    let d = if mean == 0.0 && mean_lo == 0.0 {
        Wide::new(x).times(Wide::new(scale))
    } else {
        Wide::new((x * scale - mean) - mean_lo)
    };
    d.times(Wide::new(rstd))
}

/// m * 2^exponent, with an m near 1, or 0.
#[derive(Clone, Copy)]
struct Wide {
    m: f64,
    exponent: i64,
}

impl Wide {
    fn new(v: f64) -> Self {
        let exponent = exponent(v);
        Self { m: times_power_of_two(v, -exponent), exponent }
    }

    fn times(self, other: Self) -> Self {
        Self { m: self.m * other.m, exponent: self.exponent + other.exponent }
    }

    /// The number divided by 2^exponent.
    fn at(self, exponent: i64) -> f64 {
        times_power_of_two(self.m, self.exponent - exponent)
    }

    /// The largest exponent among the numbers that are not 0.
    fn largest(all: impl Iterator<Item = Self>) -> i64 {
        all.filter(|v| v.m != 0.0).map(|v| v.exponent).max().unwrap_or(0)
    }

    /// The sum of `n` numbers divided by `count`.
    fn mean(n: usize, count: f64, of: impl Fn(usize) -> Self) -> Self {
        let largest = Self::largest((0..n).map(&of));
        let mean = Self::new(sum((0..n).map(|i| of(i).at(largest))) / count);
        Self { exponent: mean.exponent + largest, ..mean }
    }

    fn minus(self, other: Self) -> Self {
        let largest = Self::largest([self, other].into_iter());
        let v = Self::new(self.at(largest) - other.at(largest));
        Self { exponent: v.exponent + largest, ..v }
    }
}

/// The sum of the terms, with the errors of the additions (Knuth's `TwoSum`) added at the end.
fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut errors) = (0.0, 0.0);
    for term in terms {
        let next: f64 = sum + term;
        let part = next - sum;
        errors += (sum - (next - part)) + (term - part);
        sum = next;
    }
    sum + errors
}

/// The inputs of one element of dx.
struct Inputs {
    dy: f64,
    gamma: f64,
    x: f64,
}

/// Hands dx without ds to `write`, element by element. c2 is a sum divided by `count`. Returns false, and writes
/// nothing, if a number is not finite.
fn project(
    cols: usize,
    centered: bool,
    norm: &WideNorm,
    count: f64,
    element: &dyn Fn(usize) -> Inputs,
    write: &mut dyn FnMut(usize, f64),
) -> bool {
    let is_finite = |i| {
        let Inputs { dy, gamma, .. } = element(i);
        dy.is_finite() && gamma.is_finite()
    };
    if !((0..cols).all(is_finite) && norm.rstd.is_finite()) {
        return false;
    }
    let g_and_xhat = |i| {
        let Inputs { dy, gamma, x } = element(i);
        (Wide::new(dy).times(Wide::new(gamma)), wide_xhat(norm, x))
    };
    let c1 = if centered { Wide::mean(cols, cols as f64, |i| g_and_xhat(i).0) } else { Wide::new(0.0) };
    let c2 = Wide::mean(cols, count, |i| {
        let (g, xhat) = g_and_xhat(i);
        g.times(xhat)
    });
    let rstd = Wide::new(norm.rstd).times(Wide::new(norm.scale));
    for i in 0..cols {
        let (g, xhat) = g_and_xhat(i);
        write(i, g.minus(c1).minus(xhat.times(c2)).times(rstd).at(0));
    }
    true
}

/// The exponent of a finite number; 0 for 0.
fn exponent(v: f64) -> i64 {
    const SUBNORMAL: f64 = 18446744073709551616.0; // 2^64
    let (v, less) = if v.is_subnormal() { (v * SUBNORMAL, 64) } else { (v, 0) };
    if v == 0.0 { 0 } else { (v.to_bits() >> 52 & 0x7ff) as i64 - 1023 - less }
}

/// v * 2^exponent, also where the power itself is out of range.
fn times_power_of_two(mut v: f64, mut exponent: i64) -> f64 {
    while exponent != 0 {
        let step = exponent.clamp(-1000, 1000);
        v *= power_of_two(step);
        exponent -= step;
    }
    v
}
