//! The slow path: rows whose statistics or gradients leave the range in which the loops are trusted, and rows with a
//! number that is not finite.
//!
//! It computes in f64, block by block as [`rescue`] does. What is made of f32 stays well within the range of f64: a
//! product of dy, gamma, xhat and rstd lies between 2^-450 and 2^450, or is zero. Rows of f64 have no type beyond
//! their own: they are computed element by element with exponents apart, so that neither products nor sums leave the
//! range.

use super::{Job, power_of_two, trusted};
use crate::forward::{Params, RowNorm};
use crate::lanes::{Element, Float, Kernel, Lanes, Source, rolled, sqrt_f64};
use crate::moments::{Moments, RowMoments};
use crate::rescue::{self, BLOCK, LANES, Room, Sums, WideNorm, blocks, halves, rounded, steps};

/// Whether all of row `r` of dy is zero, of one sign.
#[cold]
#[inline(never)]
pub(super) fn is_zero<T: Element>(job: &Job<'_, T>, r: usize) -> bool {
    // SAFETY: callers count the rows; rows have cols elements.
    unsafe { rescue::is_constant(job.rows.dy(job.rows.place(r)), job.rows.cols(), false) }
}

/// What the loops take of row `r`, whose rstd or moments are not trusted, and whether it is constant: `None` if it is
/// not for them. `fast` are the moments of the loops if forward has kept no statistics. What the slow path takes goes
/// to `wide` if it comes to be known.
#[cold]
#[inline(never)]
pub(super) fn norm_of_untrusted<T: Element>(
    job: &Job<'_, T>,
    r: usize,
    fast: Option<&Moments>,
    wide: &mut Option<WideNorm>,
) -> Option<(RowNorm<T::Float>, bool)> {
    if let Some(norm) = constant(job, r) {
        return Some((norm, true));
    }
    let (moments, v) = moments(job, r, *fast?);
    let norm = RowNorm::<T::Float>::rescued(&moments, v);
    *wide = Some(wide_norm::<T::Float>(&moments, v));
    trusted::<T>().rstd.contains(&norm.rstd.into()).then_some((norm, false))
}

/// What the loops take of row `r` if its xhat is defined to be zero: all elements are equal and eps is 0.
fn constant<T: Element>(job: &Job<'_, T>, r: usize) -> Option<RowNorm<T::Float>> {
    if job.eps != 0.0 {
        return None;
    }
    // SAFETY: as above.
    let (mean, is_constant) = unsafe {
        let x = job.rows.x(job.rows.place(r));
        (x.get(0).to_computed(), rescue::is_constant(x, job.rows.cols(), job.centered))
    };
    let zero = T::Float::default();
    is_constant.then_some(RowNorm { mean: if job.centered { mean } else { zero }, mean_lo: zero, rstd: zero })
}

/// The moments of row `r`, those of the loops or at a scale.
fn taken<T: Element>(job: &Job<'_, T>, r: usize, scale: Option<f64>) -> Moments {
    RowMoments { x: job.rows.x_row(r), centered: job.centered, scale }.run_on(job.isa)
}

/// The moments of a row, of the slow path if those of the loops are not trusted, and what the root is taken of at
/// their scale.
#[inline(never)]
fn moments<T: Element>(job: &Job<'_, T>, r: usize, fast: Moments) -> (Moments, f64) {
    let mut m = fast;
    if let Some(scale) = m.slow_scale::<T>(job.eps) {
        m = taken(job, r, Some(scale));
    }
    (m, m.m2 / m.count + job.eps * m.scale * m.scale)
}

/// What normalizing takes. rstd is zero if all elements are equal and eps is 0: xhat is 0 then, and dx is defined to
/// be.
fn wide_norm<F: Float>(moments: &Moments, v: f64) -> WideNorm {
    WideNorm::new::<F>(moments, if v == 0.0 { 0.0 } else { 1.0 / sqrt_f64(pulp::Scalar, v) })
}

/// What the slow path takes of row `r`.
#[cold]
#[inline(never)]
pub(super) fn norm_of<T: Element>(job: &Job<'_, T>, r: usize) -> WideNorm {
    let (m, v) = moments(job, r, taken(job, r, None));
    wide_norm::<T::Float>(&m, v)
}

/// Adds the rows from `r` on, one or two, as a block is added, to the sums of dgamma and dbeta. These are kept in
/// pairs of registers of `lanes` elements.
#[cold]
#[inline(never)]
pub(super) fn add_rows<T: Element>(
    job: &Job<'_, T>,
    r: usize,
    norms: &[WideNorm],
    leaf: &mut [T::Float],
    lanes: usize,
) {
    let cols = job.rows.cols();
    let (dgamma, dbeta) = leaf.split_at_mut(cols.next_multiple_of(T::STEP));
    let mut rooms = [const { Room::<T::Float>::NEW }; 3];
    let [dy_room, x_room, to_dbeta] = &mut rooms;
    let to_dbeta = to_dbeta.zeros();
    for (at, len) in blocks(cols) {
        // The sums begin with zeros too, so that the sign of a zero makes no difference.
        let mut sums = [0.0; BLOCK];
        to_dbeta.fill(T::Float::ZERO);
        for (k, norm) in norms.iter().enumerate().take(rolled(norms.len())) {
            // SAFETY: there are the rows, and they have cols elements.
            let (dy, x) = unsafe {
                let place = job.rows.place(r + k);
                (dy_room.of(job.isa, job.rows.dy(place), at, len), x_room.of(job.isa, job.rows.x(place), at, len))
            };
            job.isa.run(AddRow { dy, x, norm, dgamma: &mut sums, dbeta: &mut *to_dbeta });
        }
        let pair = if T::SPLITS { Some(lanes) } else { None };
        add_rounded(&mut dgamma[at..], &sums[..len], pair);
        if job.centered {
            add_in_order(&mut dbeta[at..], &to_dbeta[..len], pair);
        }
    }
}

/// Adds numbers, rounded, to a vector as [`add_in_order`] does.
#[inline(never)]
fn add_rounded<F: Float>(to: &mut [F], v: &[f64], lanes: Option<usize>) {
    let mut room = Room::NEW;
    let rounded = room.map(v.len(), |i| F::from_f64(v[i]));
    add_in_order(to, rounded, lanes);
}

/// Adds v to the elements of a vector from where a pair of registers begins. If the registers of a pair hold the even
/// and the odd elements, `lanes` is the number of elements in each.
#[inline(never)]
fn add_in_order<F: Float>(to: &mut [F], v: &[F], lanes: Option<usize>) {
    let Some(lanes) = lanes else {
        to.iter_mut().zip(v).for_each(|(to, &v)| *to = *to + v);
        return;
    };
    for (to, v) in to.chunks_mut(2 * lanes).zip(v.chunks(2 * lanes)) {
        let (even, odd) = to.split_at_mut(lanes);
        let (pairs, last) = v.as_chunks();
        for ((even, odd), &[a, b]) in even.iter_mut().zip(odd).zip(pairs) {
            (*even, *odd) = (*even + a, *odd + b);
        }
        if let [last] = last {
            even[pairs.len()] = even[pairs.len()] + *last;
        }
    }
}

/// Adds what a block of dy and x, slices of one length, adds to the sums of dgamma and dbeta.
struct AddRow<'b, F> {
    dy: &'b [F],
    x: &'b [F],
    norm: &'b WideNorm,
    dgamma: &'b mut [f64; BLOCK],
    dbeta: &'b mut [F; BLOCK],
}

impl<F: Float> Kernel for AddRow<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let Self { dy, x, norm, dgamma, dbeta } = self;
        let (norm, n) = (*norm, dy.len());
        let (x, dgamma, dbeta) = (&x[..n], &mut dgamma[..n], &mut dbeta[..n]);
        for i in 0..n {
            dgamma[i] += dy[i].into() * norm.xhat(x[i]);
            dbeta[i] = dbeta[i] + dy[i];
        }
    }
}

/// Writes dx of row `r`, if it is wanted.
#[cold]
#[inline(never)]
pub(super) fn write_dx<T: Element>(job: &mut Job<'_, T>, r: usize, norm: &WideNorm) {
    let at = job.rows.place(r);
    // SAFETY: r < rows.
    let Some(dx) = (unsafe { job.rows.dx(at, false) }) else { return };
    let cols = job.rows.cols();
    let is_done = if const { size_of::<T::Float>() == size_of::<f64>() } {
        // SAFETY: r < rows.
        let (dy, x, ds) = unsafe { (job.rows.dy(at), job.rows.x(at), job.rows.ds(at)) };
        // SAFETY: callers ask for i < cols.
        let get = |p: Source<T>, i| -> f64 { unsafe { p.get(i) }.to_computed().into() };
        let element = |i| Inputs { dy: get(dy, i), gamma: job.gamma(i).into(), x: get(x, i) };
        project(cols, job.centered, norm, &element, &mut |i, projected| {
            let v = rounded(projected + ds.map_or(-0.0, |ds| get(ds, i)));
            // SAFETY: i < cols.
            unsafe { dx.set(i, v) };
        })
    } else {
        write_blocks(job, r, norm)
    };
    if !is_done {
        // SAFETY: rows have cols elements.
        unsafe { dx.canonicalize(cols, |_| true) };
    }
}

/// Writes dx of row `r`, block by block. Returns false, and writes nothing, if a number is not finite.
fn write_blocks<T: Element>(job: &mut Job<'_, T>, r: usize, norm: &WideNorm) -> bool {
    let (isa, place, cols) = (job.isa, job.rows.place(r), job.rows.cols());
    let params = Params { gamma: job.gamma, offset: job.offset, ..Params::default() };
    let mut rooms = [const { Room::<T::Float>::NEW }; 5];
    let [of_dy, of_x, of_ds, of_gamma, out] = &mut rooms;
    let out = out.zeros();
    // SAFETY: r < rows.
    let (dy, x, ds, dx) =
        unsafe { (job.rows.dy(place), job.rows.x(place), job.rows.ds(place), job.rows.dx(place, false)) };
    let (mut s1, mut s2) = (0.0, 0.0);
    for (at, n) in blocks(cols) {
        let gamma = params.read_gamma(isa, at, n, of_gamma);
        // SAFETY: rows have cols elements.
        let (dy, x) = unsafe { (of_dy.of(isa, dy, at, n), of_x.of(isa, x, at, n)) };
        let [g, projected] = isa.run(ProjectBlock { dy, x, gamma, norm });
        (s1, s2) = (s1 + g, s2 + projected);
    }
    // Where all is finite, so are the sums, and where one number is not, the first of them is not either.
    if !((s1 + s2).is_finite() && norm.rstd.is_finite()) {
        return false;
    }
    let inv_cols = 1.0 / cols as f64;
    let c = [if job.centered { s1 * inv_cols } else { 0.0 }, s2 * inv_cols];
    for (at, n) in blocks(cols) {
        let gamma = params.read_gamma(isa, at, n, of_gamma);
        // SAFETY: as above; dx may be dy, of which this block is read before it is written.
        unsafe {
            let (dy, x) = (of_dy.of(isa, dy, at, n), of_x.of(isa, x, at, n));
            let ds = match ds {
                Some(ds) => of_ds.of(isa, ds, at, n),
                None => of_ds.fill(n, -T::Float::ZERO),
            };
            isa.run(GradBlock { dy, x, ds, gamma, norm, c, out: &mut out[..n] });
            if let Some(dx) = dx {
                dx.write(isa, at, out, n);
            }
        }
    }
    true
}

/// The sums of g and of g * xhat over a block. All slices have one length.
struct ProjectBlock<'b, F> {
    dy: &'b [F],
    x: &'b [F],
    gamma: &'b [F],
    norm: &'b WideNorm,
}

impl<F: Float> Kernel for ProjectBlock<'_, F> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> [f64; 2] {
        let Self { dy, x, gamma, norm } = self;
        let mut sums = Sums::new(simd);
        let ((dys, dy), (xs, x), (gammas, gamma)) = (steps(dy), steps(x), steps(gamma));
        for ((dy, x), gamma) in dys.iter().zip(xs).zip(gammas) {
            project_step(simd, &mut sums, norm, dy, x, gamma);
        }
        // Beyond the end dy is zero.
        project_step(simd, &mut sums, norm, &dy, &x, &gamma);
        sums.fold(simd)
    }
}

#[inline(always)]
fn project_step<S: Lanes, F: Float>(
    simd: S,
    sums: &mut Sums<S>,
    norm: &WideNorm,
    dy: &[F; LANES],
    x: &[F; LANES],
    gamma: &[F; LANES],
) {
    let (mean, mean_lo) = (simd.splat_f64s(norm.mean), simd.splat_f64s(norm.mean_lo));
    let rstd = simd.splat_f64s(norm.rstd);
    for k in 0..2 {
        let (dy, x) = (F::widen(simd, &halves(dy)[k]), F::widen(simd, &halves(x)[k]));
        let gamma = F::widen(simd, &halves(gamma)[k]);
        let (dy, x): (&[S::f64s], &[S::f64s]) = (bytemuck::cast_slice(&dy), bytemuck::cast_slice(&x));
        let gamma: &[S::f64s] = bytemuck::cast_slice(&gamma);
        for j in 0..dy.len() {
            let d = simd.sub_f64s(simd.sub_f64s(x[j], mean), mean_lo);
            sums.add(simd, k * dy.len() + j, simd.mul_f64s(dy[j], gamma[j]), simd.mul_f64s(d, rstd));
        }
    }
}

/// dx of a block. All slices have one length.
struct GradBlock<'b, F> {
    dy: &'b [F],
    x: &'b [F],
    ds: &'b [F],
    gamma: &'b [F],
    norm: &'b WideNorm,
    /// c1 and c2.
    c: [f64; 2],
    out: &'b mut [F],
}

impl<F: Float> Kernel for GradBlock<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let Self { dy, x, ds, gamma, norm, c: [c1, c2], out } = self;
        let norm = *norm;
        let n = out.len();
        let (dy, x, ds, gamma) = (&dy[..n], &x[..n], &ds[..n], &gamma[..n]);
        for i in 0..n {
            let g = dy[i].into() * gamma[i].into();
            out[i] = rounded(((g - c1) - norm.xhat(x[i]) * c2) * norm.rstd + ds[i].into());
        }
    }
}

/// xhat, also where it is out of range, as long as no mean is.
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

    /// Divided by 2^exponent.
    fn at(self, exponent: i64) -> f64 {
        times_power_of_two(self.m, self.exponent - exponent)
    }

    /// The largest exponent of those that are not 0.
    fn largest(all: impl Iterator<Item = Self>) -> i64 {
        all.filter(|v| v.m != 0.0).map(|v| v.exponent).max().unwrap_or(0)
    }

    /// The mean of `n` of them.
    fn mean(n: usize, of: impl Fn(usize) -> Self) -> Self {
        let largest = Self::largest((0..n).map(&of));
        let mean = Self::new(sum((0..n).map(|i| of(i).at(largest))) / n as f64);
        Self { exponent: mean.exponent + largest, ..mean }
    }

    fn minus(self, other: Self) -> Self {
        let largest = Self::largest([self, other].into_iter());
        let v = Self::new(self.at(largest) - other.at(largest));
        Self { exponent: v.exponent + largest, ..v }
    }
}

/// The sum, with the errors of its additions (Knuth's `TwoSum`) added at the end.
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

/// What an element of dx takes.
struct Inputs {
    dy: f64,
    gamma: f64,
    x: f64,
}

/// Gives dx without ds, element by element, to `write`. Returns false, and writes nothing, if a number is not finite.
fn project(
    cols: usize,
    centered: bool,
    norm: &WideNorm,
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
    let c1 = if centered { Wide::mean(cols, |i| g_and_xhat(i).0) } else { Wide::new(0.0) };
    let c2 = Wide::mean(cols, |i| {
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
