//! The slow path: rows whose squares leave the range of the type that they are computed in, rows with a NaN or an
//! infinity, and what of the gradients leaves it.
//!
//! It computes in f64, which holds the square of every f32 (down to 2^-298, up to 2^256). Elements that are f64
//! themselves are first multiplied by a power of two that brings their squares into range.
//!
//! A row is taken in blocks of [`BLOCK`] elements, those of 16 bits widened into a buffer. What is computed of a block
//! are loops over slices without branches, compiled for each tier, which the compiler makes vectors of. All sums have
//! [`LANES`] lanes on every tier, so that the bits are the same: element i of a block is added to lane i mod `LANES`,
//! and lanes are folded by halves.
//!
//! The moments of a block are sums of the deviations from a number close to its mean, and of their squares. Blocks are
//! merged along a binary tree, of which that of the fast path's chunks is the upper part, so that a row in parts has
//! the moments of the whole.

use core::mem::MaybeUninit;
use core::slice::from_raw_parts;

use crate::Isa;
use crate::forward::Params;
use crate::lanes::{Element, FOLD_ROWS, Float, Kernel, Lanes, MAX_REGS, Source, Target, rolled};
use crate::moments::{CHUNK, Moments, Tree, no_subtrees};

/// The elements that are taken at once: few enough that their buffers fit on any stack.
pub(crate) const BLOCK: usize = 256;

/// The sums that are taken side by side.
pub(crate) const LANES: usize = 16;

const _: () = assert!((CHUNK / BLOCK).is_power_of_two() && BLOCK.is_multiple_of(LANES));

/// Room for a block of elements in the type that they are computed in.
#[repr(align(64))]
pub(crate) struct Room<F>([MaybeUninit<F>; BLOCK]);

impl<F: Float> Room<F> {
    pub(crate) const NEW: Self = Self([const { MaybeUninit::uninit() }; BLOCK]);

    /// The `n` elements of x from `at` on: where they are, or from here.
    ///
    /// # Safety
    /// - x has `at + n` elements, and n is at most a block.
    /// - What is returned is used before they are written to.
    #[inline(never)]
    pub(crate) unsafe fn of<T: Element<Float = F>>(&mut self, isa: Isa, x: Source<T>, at: usize, n: usize) -> &[F] {
        // SAFETY: the caller's duty. Elements that do not round are computed in their own type.
        unsafe {
            let x = x.after(at);
            if !T::ROUNDS {
                return from_raw_parts(x.as_ptr().cast(), n);
            }
            isa.run(Widen { x, n, to: self });
            from_raw_parts(self.0.as_ptr().cast(), n)
        }
    }

    /// `v` in the first `n` elements.
    #[inline(never)]
    pub(crate) fn fill(&mut self, n: usize, v: F) -> &[F] {
        self.map(n, |_| v)
    }

    /// Each element of `v`, at most a block, and `offset`.
    #[inline(never)]
    pub(crate) fn add(&mut self, v: &[F], offset: F) -> &[F] {
        self.map(v.len(), |i| v[i] + offset)
    }

    /// What `v` gives for each of the first `n` elements.
    pub(crate) fn map(&mut self, n: usize, v: impl Fn(usize) -> F) -> &[F] {
        let room = &mut self.0[..n];
        room.iter_mut().enumerate().for_each(|(i, to)| *to = MaybeUninit::new(v(i)));
        // SAFETY: just written.
        unsafe { from_raw_parts(room.as_ptr().cast(), n) }
    }

    /// Zeros, to be written over.
    pub(crate) fn zeros(&mut self) -> &mut [F; BLOCK] {
        self.0 = [MaybeUninit::new(F::ZERO); BLOCK];
        // SAFETY: just written.
        unsafe { &mut *self.0.as_mut_ptr().cast() }
    }
}

/// Widens `n` elements of 16 bits, at most a block, which whoever makes this knows to be there.
struct Widen<'b, T: Element> {
    x: Source<T>,
    n: usize,
    to: &'b mut Room<T::Float>,
}

impl<T: Element> Kernel for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, n, to: Room(to) } = self;
        let zero = T::Float::splat(simd, T::Float::ZERO);
        let pair = 2 * T::Float::lanes::<S>();
        for (k, to) in to.chunks_exact_mut(pair).take(n.div_ceil(pair)).enumerate() {
            let at = k * pair;
            // SAFETY: there are n elements; the room has whole pairs.
            unsafe {
                let v = if at + pair <= n { x.load(simd, at) } else { x.load_tail(simd, at, n - at, zero) };
                T::simd_store_computed(simd, to.as_mut_ptr().cast(), T::simd_in_order(simd, v));
            }
        }
    }
}

/// The first element of each block of a row of `cols`, and how many there are.
pub(crate) fn blocks(cols: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..cols).step_by(BLOCK).map(move |at| (at, BLOCK.min(cols - at)))
}

/// Two running sums, of [`LANES`] lanes each.
#[derive(Clone, Copy)]
pub(crate) struct Sums<S: Lanes> {
    s: [S::f64s; MAX_REGS],
    q: [S::f64s; MAX_REGS],
}

impl<S: Lanes> Sums<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S) -> Self {
        let zero = simd.splat_f64s(0.0);
        Self { s: [zero; MAX_REGS], q: [zero; MAX_REGS] }
    }

    /// Adds register `j` of a step to the first sum, and its products with b to the second.
    #[inline(always)]
    pub(crate) fn add(&mut self, simd: S, j: usize, a: S::f64s, b: S::f64s) {
        self.s[j] = simd.add_f64s(self.s[j], a);
        self.q[j] = simd.add_f64s(self.q[j], simd.mul_f64s(a, b));
    }

    /// The sums over all lanes, by halves.
    #[inline(always)]
    pub(crate) fn fold(mut self, simd: S) -> [f64; 2] {
        let mut regs = LANES / S::F64_LANES;
        while regs > 1 {
            regs /= 2;
            for j in 0..regs {
                self.s[j] = simd.add_f64s(self.s[j], self.s[j + regs]);
                self.q[j] = simd.add_f64s(self.q[j], self.q[j + regs]);
            }
        }
        [simd.fold_f64(self.s[0]), simd.fold_f64(self.q[0])]
    }
}

/// The elements of a block in steps of [`LANES`], and the rest with zeros beyond the end.
#[inline(always)]
pub(crate) fn steps<F: Float>(x: &[F]) -> (&[[F; LANES]], [F; LANES]) {
    let (steps, rest) = x.as_chunks();
    let mut last = [F::ZERO; LANES];
    for (to, &x) in last.iter_mut().zip(rest) {
        *to = x;
    }
    (steps, last)
}

/// A step as [`Float::widen`] takes it.
#[inline(always)]
pub(crate) fn halves<F: Float>(step: &[F; LANES]) -> &[[F; FOLD_ROWS]; 2] {
    bytemuck::cast_ref(step)
}

/// The sums of x * scale - origin and of its squares.
#[inline(always)]
fn sums_of_deviations<S: Lanes, F: Float>(simd: S, x: &[F], scale: f64, origin: f64) -> [f64; 2] {
    let mut sums = Sums::new(simd);
    let (scales, origins) = (simd.splat_f64s(scale), simd.splat_f64s(origin));
    let (steps, last) = steps(x);
    for step in steps {
        for (k, half) in halves(step).iter().enumerate() {
            let wide = F::widen(simd, half);
            let wide: &[S::f64s] = bytemuck::cast_slice(&wide);
            for (j, &x) in wide.iter().enumerate() {
                let d = simd.sub_f64s(simd.mul_f64s(x, scales), origins);
                sums.add(simd, k * wide.len() + j, d, d);
            }
        }
    }
    let mut rest = [0.0; LANES];
    for i in 0..LANES {
        rest[i] = last[i].into() * scale - origin;
    }
    // No deviations beyond the end.
    rest[x.len() % LANES..].fill(0.0);
    let rest: &[S::f64s] = bytemuck::cast_slice(&rest);
    for (j, &d) in rest.iter().enumerate() {
        sums.add(simd, j, d, d);
    }
    sums.fold(simd)
}

/// The moments of a row of elements times `scale`, about zero unless `centered`. All NaN if an element is not finite.
///
/// # Safety
/// - x has at least `cols` elements, `cols > 0`.
#[cold]
#[inline(never)]
pub(crate) unsafe fn moments<T: Element>(isa: Isa, x: Source<T>, cols: usize, scale: f64, centered: bool) -> Moments {
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    let mut room = Room::NEW;
    for (at, n) in blocks(cols) {
        // SAFETY: the caller's duty.
        let x = unsafe { room.of(isa, x, at, n) };
        tree.push(isa.run(BlockMoments { x, scale, centered }));
    }
    let total = tree.total();
    // Finite elements have finite squares at this scale.
    if total.m2 < f64::INFINITY { total } else { Moments { count: total.count, scale, ..Moments::NAN } }
}

/// The moments of a block.
struct BlockMoments<'b, F> {
    x: &'b [F],
    scale: f64,
    centered: bool,
}

impl<F: Float> Kernel for BlockMoments<'_, F> {
    type Output = Moments;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Moments {
        let Self { x, scale, centered } = self;
        let count = x.len() as f64;
        let mut origin = if centered { x[0].into() * scale } else { 0.0 };
        // An element is close enough to the mean for what f32 is rounded to: f64 has 29 bits more.
        let mut passes = if centered && size_of::<F>() == size_of::<f64>() { 2 } else { 1 };
        let [s, q] = loop {
            let sums = sums_of_deviations(simd, x, scale, origin);
            passes -= 1;
            if rolled(passes) == 0 {
                break sums;
            }
            origin += sums[0] / count;
        };
        let offset = if centered { s / count } else { 0.0 };
        let m2 = q - s * offset;
        // NaN stays NaN.
        Moments { count, origin, offset, m2: if m2 < 0.0 { 0.0 } else { m2 }, scale }
    }
}

/// Whether all elements of a row are finite and have the same bits; without a mean, those of 0 or of -0.
///
/// # Safety
/// - x has at least `cols` elements, `cols > 0`.
#[inline(never)]
pub(crate) unsafe fn is_constant<T: Element>(x: Source<T>, cols: usize, centered: bool) -> bool {
    // SAFETY: the caller's duty.
    let x = unsafe { from_raw_parts(x.as_ptr(), cols) };
    let first = x[0].to_computed();
    let fits = if centered { first.into().is_finite() } else { first.is_zero() };
    let bytes: &[u8] = bytemuck::cast_slice(x);
    fits && bytes[size_of::<T>()..] == bytes[..bytes.len() - size_of::<T>()]
}

/// y = (x - mean) * rstd * (gamma + offset) + beta in f64, rounded once to what the row is computed in and once to y.
/// A NaN that comes from gamma or beta is any NaN, for the caller to see to. mean and rstd are those of x times the
/// scale of the moments.
///
/// # Safety
/// - x and y have at least `cols` elements; they are the same or apart.
#[cold]
#[inline(never)]
pub(crate) unsafe fn normalize<T: Element>(
    isa: Isa,
    x: Source<T>,
    y: Target<T>,
    cols: usize,
    moments: &Moments,
    rstd: f64,
    params: &Params<'_, T>,
) {
    let norm = WideNorm::new::<T::Float>(moments, rstd);
    let (mut room, mut gamma, mut beta, mut out) = (Room::NEW, Room::NEW, Room::NEW, Room::NEW);
    let out = out.zeros();
    for (at, n) in blocks(cols) {
        let gamma = params.read_gamma(isa, at, n, &mut gamma);
        let beta = match &params.beta {
            Some(v) => Some(v.read(isa, at, n, &mut beta)),
            None if norm.mean == 0.0 && norm.mean_lo == 0.0 => None,
            None => Some(beta.fill(n, -T::Float::ZERO)),
        };
        // SAFETY: the caller's duty.
        let x = unsafe { room.of(isa, x, at, n) };
        isa.run(NormalizeBlock { x, gamma, beta, norm: &norm, out: &mut out[..n] });
        // SAFETY: the caller's duty.
        unsafe { y.write(isa, at, out, n) };
    }
}

/// The mean of a row times a power of two, as a sum of two, and the reciprocal standard deviation of the row times it.
/// Rows that are computed in f32 need none: theirs is 1.
#[derive(Clone, Copy)]
pub(crate) struct WideNorm {
    pub(crate) scale: f64,
    pub(crate) mean: f64,
    pub(crate) mean_lo: f64,
    pub(crate) rstd: f64,
}

impl WideNorm {
    /// From the moments, and the reciprocal standard deviation at their scale.
    pub(crate) fn new<F: Float>(moments: &Moments, rstd: f64) -> Self {
        let &Moments { origin, offset, scale, .. } = moments;
        let mean = origin + offset;
        let mean_lo = (origin - mean) + offset;
        if size_of::<F>() == size_of::<f64>() {
            Self { scale, mean, mean_lo, rstd }
        } else {
            Self { scale: 1.0, mean: mean / scale, mean_lo: mean_lo / scale, rstd: rstd * scale }
        }
    }

    #[inline(always)]
    pub(crate) fn xhat<F: Float>(&self, x: F) -> f64 {
        ((self.scaled(x) - self.mean) - self.mean_lo) * self.rstd
    }

    #[inline(always)]
    fn scaled<F: Float>(&self, x: F) -> f64 {
        if size_of::<F>() == size_of::<f64>() { x.into() * self.scale } else { x.into() }
    }
}

/// v rounded, or the canonical NaN.
#[inline(always)]
pub(crate) fn rounded<F: Float>(v: f64) -> F {
    if v.is_nan() { F::NAN } else { F::from_f64(v) }
}

/// Normalizes a block. All slices have one length. A NaN that comes from gamma or beta is any NaN.
struct NormalizeBlock<'b, F> {
    x: &'b [F],
    gamma: &'b [F],
    /// None without a mean.
    beta: Option<&'b [F]>,
    norm: &'b WideNorm,
    out: &'b mut [F],
}

impl<F: Float> Kernel for NormalizeBlock<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        let Self { x, gamma, beta, norm, out } = self;
        let norm = *norm;
        let n = out.len();
        let (x, gamma) = (&x[..n], &gamma[..n]);
        match beta {
            Some(beta) => {
                let beta = &beta[..n];
                for i in 0..n {
                    out[i] = F::from_f64(norm.xhat(x[i]) * gamma[i].into() + beta[i].into());
                }
            }
            None => {
                for i in 0..n {
                    out[i] = F::from_f64(norm.scaled(x[i]) * norm.rstd * gamma[i].into());
                }
            }
        }
    }
}
