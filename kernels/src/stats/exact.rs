//! The slow path: rows whose squares or gradients leave the range of the type that they are computed in, and rows with
//! a NaN or an infinity.
//!
//! It computes in f64, which holds the square of every f32 (down to 2^-298, up to 2^256). Elements that are f64
//! themselves are first multiplied by a power of two that brings their squares into range.
//!
//! Kernels load pairs of registers as the loops of the fast path do, and widen them to f64 in registers. Sums are taken
//! of blocks of [`BLOCK`] elements, in [`LANES`] lanes on every tier, so that the bits are the same: element i of a
//! block is added to lane i mod `LANES`, and lanes are folded by halves. Where a pair holds even and odd elements, the
//! lanes of even elements and of odd elements are folded apart, and added last.
//!
//! The moments of a block are sums of the deviations from a number close to its mean, and of their squares. Blocks are
//! merged along a binary tree. The tree of the fast path's chunks is the upper part of it, so that a row in parts has
//! the moments of the whole.

use core::slice::from_raw_parts;

use super::{CHUNK, Moments, Tree, no_subtrees};
use crate::element::Storage;
use crate::isa::Isa;
use crate::rows::{Source, TAIL, Tail};
use crate::simd::{Float, Kernel, Lanes, MAX_REGS, rolled};

/// The elements that are summed at once.
pub(crate) const BLOCK: usize = 256;

/// The sums that are taken side by side.
pub(crate) const LANES: usize = 16;

const _: () = assert!((CHUNK / BLOCK).is_power_of_two() && BLOCK.is_multiple_of(LANES));

/// The number of elements of a pair of registers, and of a step: the fewest pairs with an element for each of the
/// [`LANES`].
#[inline(always)]
pub(crate) fn pair_and_step<S: Lanes, T: Storage>() -> (usize, usize) {
    let pair = 2 * T::Float::lanes::<S>();
    (pair, pair.max(LANES))
}

/// `choice`, hidden from the compiler, which would make a loop for either value.
#[inline(always)]
pub(crate) fn in_the_loop(choice: bool) -> bool {
    core::hint::black_box(choice)
}

/// The elements of a block from `i` to `n`, and after them elements that do not deviate from `origin`; and the factor
/// by which all of these must still be multiplied.
///
/// # Safety
/// - x begins a block of at least `n` elements, and `n - i` elements fit into the room.
#[inline(never)]
unsafe fn pad_block<T: Storage>(
    x: Source<T>,
    i: usize,
    n: usize,
    scale: f64,
    origin: f64,
    room: &mut Tail,
) -> (Source<T>, f64) {
    let is_f64 = size_of::<T>() == size_of::<f64>();
    let of = |v| T::from_computed(T::Float::from_f64(v));
    let to = room.as_mut_ptr().cast::<T>();
    // SAFETY: the caller's duty. A block has a first element.
    unsafe {
        // Types other than f64 are summed in one pass, from the first element or from zero.
        let fill = match origin {
            _ if is_f64 => of(origin),
            0.0 => T::zeroed(),
            _ => x.get(0),
        };
        for k in 0..rolled(TAIL / size_of::<T>()) {
            let v = if i + k >= n {
                fill
            } else if is_f64 {
                of(x.get(i + k).to_computed().into() * scale)
            } else {
                x.get(i + k)
            };
            to.add(k).write(v);
        }
        (Source::from(from_raw_parts(to, TAIL / size_of::<T>())), if is_f64 { 1.0 } else { scale })
    }
}

/// Two running sums, of [`LANES`] lanes each.
#[derive(Clone, Copy)]
pub(crate) struct WideSums<S: Lanes> {
    s: [S::f64s; MAX_REGS],
    q: [S::f64s; MAX_REGS],
}

impl<S: Lanes> WideSums<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S) -> Self {
        let zero = simd.splat_f64s(0.0);
        Self { s: [zero; MAX_REGS], q: [zero; MAX_REGS] }
    }

    /// Adds a to register `j` of the first sum, and a * b to register `j` of the second.
    #[inline(always)]
    pub(crate) fn add(&mut self, simd: S, j: usize, a: S::f64s, b: S::f64s) {
        self.s[j] = simd.add_f64s(self.s[j], a);
        self.q[j] = simd.add_f64s(self.q[j], simd.mul_f64s(a, b));
    }

    /// The register of the sums that register `j` of pair `k` of a step is added to.
    #[inline(always)]
    pub(crate) fn register<T: Storage>(k: usize, j: usize) -> usize {
        let (regs, of_pair) = (LANES / S::F64_LANES, wide_regs::<S, T>());
        if T::SPLITS && regs < of_pair { j * regs / of_pair } else { (k * of_pair + j) % regs }
    }

    /// The sums over all lanes, by halves. Where pairs are split, even and odd lanes are added last.
    #[inline(always)]
    pub(crate) fn fold<T: Storage>(mut self, simd: S) -> [f64; 2] {
        let (pair, _) = pair_and_step::<S, T>();
        let (mut regs, mut apart) = (LANES / S::F64_LANES, 1);
        if T::SPLITS {
            apart = pair.min(LANES) / S::F64_LANES;
        }
        while regs > apart {
            regs /= 2;
            self.halve(simd, 0, regs);
        }
        if !T::SPLITS {
            return [simd.fold_f64(self.s[0]), simd.fold_f64(self.q[0])];
        }
        let odd = regs / 2;
        regs = odd;
        while regs > 1 {
            regs /= 2;
            self.halve(simd, 0, regs);
            self.halve(simd, odd, regs);
        }
        let Self { s, q } = self;
        [simd.fold_f64(s[0]) + simd.fold_f64(s[odd]), simd.fold_f64(q[0]) + simd.fold_f64(q[odd])]
    }

    /// Adds to each of the `regs` registers from `at` on the register that lies `regs` after it.
    #[inline(always)]
    fn halve(&mut self, simd: S, at: usize, regs: usize) {
        for j in at..at + regs {
            self.s[j] = simd.add_f64s(self.s[j], self.s[j + regs]);
            self.q[j] = simd.add_f64s(self.q[j], self.q[j + regs]);
        }
    }
}

/// The number of f64 registers that a pair is widened to.
#[inline(always)]
pub(crate) fn wide_regs<S: Lanes, T: Storage>() -> usize {
    2 * T::Float::lanes::<S>() / S::F64_LANES
}

/// `pairs`, as the bound of a loop that is not unrolled on the portable tier, where little code is worth more.
#[inline(always)]
pub(crate) fn each<S: Lanes>(pairs: usize) -> usize {
    if S::SPECIALIZES { pairs } else { rolled(pairs) }
}

/// The sums of x * scale - origin and of its squares, over `n` elements. Whoever makes this knows that x has them.
struct SumsOfDeviations<T> {
    x: Source<T>,
    n: usize,
    scale: f64,
    origin: f64,
}

impl<T: Storage> Kernel for SumsOfDeviations<T> {
    type Output = [f64; 2];

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> [f64; 2] {
        let Self { x, n, scale, origin } = self;
        let mut sums = WideSums::new(simd);
        let (mut scales, origins) = (simd.splat_f64s(scale), simd.splat_f64s(origin));
        let (pair, step) = pair_and_step::<S, T>();
        let mut tail = Tail::NEW;
        let mut i = 0;
        while i < n {
            // SAFETY: there are n elements. The tail has a step.
            let x = unsafe {
                if i + step <= n {
                    x.after(i)
                } else {
                    let (x, scale) = pad_block(x, i, n, scale, origin, &mut tail);
                    scales = simd.splat_f64s(scale);
                    x
                }
            };
            for k in 0..each::<S>(step / pair) {
                // SAFETY: there is a step.
                let x = unsafe { x.load_wide(simd, k * pair) };
                for j in 0..wide_regs::<S, T>() {
                    let d = simd.sub_f64s(simd.mul_f64s(x[j], scales), origins);
                    sums.add(simd, WideSums::<S>::register::<T>(k, j), d, d);
                }
            }
            i += step;
        }
        sums.fold::<T>(simd)
    }
}

/// The moments of a row of elements times `scale`, about zero unless `centered`. All NaN if an element is not finite.
///
/// # Safety
/// - x has at least `cols` elements, `cols > 0`.
#[cold]
#[inline(never)]
pub(crate) unsafe fn moments<T: Storage>(isa: Isa, x: Source<T>, cols: usize, scale: f64, centered: bool) -> Moments {
    // SAFETY: the caller's duty.
    merged(cols, scale, &mut |at, n| unsafe { block_moments(isa, x.after(at), n, scale, centered) })
}

/// The moments of a row. `block` gives the moments of `n` elements from `at` on.
fn merged(cols: usize, scale: f64, block: &mut dyn FnMut(usize, usize) -> Moments) -> Moments {
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    for at in (0..cols).step_by(BLOCK) {
        tree.push(block(at, BLOCK.min(cols - at)));
    }
    let total = tree.total();
    // Finite elements have finite squares at this scale.
    if total.m2 < f64::INFINITY { total } else { Moments { count: total.count, scale, ..Moments::NAN } }
}

/// The moments of a block.
///
/// # Safety
/// - x has at least `n` elements, `n > 0`.
unsafe fn block_moments<T: Storage>(isa: Isa, x: Source<T>, n: usize, scale: f64, centered: bool) -> Moments {
    let count = n as f64;
    // SAFETY: the caller's duty.
    let mut origin = if centered { unsafe { x.get(0) }.to_computed().into() * scale } else { 0.0 };
    // For results in f32 any element is close enough to the mean: f64 has 29 bits more.
    let mut passes = if centered && size_of::<T>() == size_of::<f64>() { 2 } else { 1 };
    let [s, q] = loop {
        let sums = isa.run(SumsOfDeviations { x, n, scale, origin });
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

/// Whether all elements of a row are finite and have the same bits. If not `centered`, they must be 0 or -0 too.
///
/// # Safety
/// - x has at least `cols` elements, `cols > 0`.
#[inline(never)]
pub(crate) unsafe fn is_constant<T: Storage>(x: Source<T>, cols: usize, centered: bool) -> bool {
    // SAFETY: the caller's duty.
    let x = unsafe { from_raw_parts(x.as_ptr(), cols) };
    let first = x[0].to_computed();
    let fits = if centered { first.into().is_finite() } else { first.is_zero() };
    let bytes: &[u8] = bytemuck::cast_slice(x);
    fits && bytes[size_of::<T>()..] == bytes[..bytes.len() - size_of::<T>()]
}

/// The statistics of a row for the slow path. The row is multiplied by `scale`, a power of two. Its mean then is the
/// sum of `mean` and `mean_lo`, and `rstd` is its reciprocal standard deviation. Rows that are computed in f32 have a
/// scale of 1.
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
    pub(crate) fn in_registers<S: Lanes>(&self, simd: S) -> RegNorm<S> {
        let Self { scale, mean, mean_lo, rstd } = *self;
        let splat = |v| simd.splat_f64s(v);
        RegNorm { scale: splat(scale), mean: splat(mean), mean_lo: splat(mean_lo), rstd: splat(rstd) }
    }
}

/// A [`WideNorm`] in registers.
#[derive(Clone, Copy)]
pub(crate) struct RegNorm<S: Lanes> {
    scale: S::f64s,
    mean: S::f64s,
    mean_lo: S::f64s,
    pub(crate) rstd: S::f64s,
}

impl<S: Lanes> RegNorm<S> {
    /// x times the scale.
    #[inline(always)]
    pub(crate) fn scaled<T: Storage>(&self, simd: S, x: S::f64s) -> S::f64s {
        if size_of::<T>() == size_of::<f64>() { simd.mul_f64s(x, self.scale) } else { x }
    }

    /// xhat, of x times the scale.
    #[inline(always)]
    pub(crate) fn xhat(&self, simd: S, x: S::f64s) -> S::f64s {
        simd.mul_f64s(simd.sub_f64s(simd.sub_f64s(x, self.mean), self.mean_lo), self.rstd)
    }
}

/// v rounded, or the canonical NaN.
#[inline(always)]
pub(crate) fn rounded<F: Float>(v: f64) -> F {
    if v.is_nan() { F::NAN } else { F::from_f64(v) }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// The element that `lane` has, where pairs of `split` elements are split into even and odd ones.
    fn element_of(lane: usize, split: usize) -> usize {
        let (start, at, half) = (lane / split * split, lane % split, split / 2);
        start + if at < half { 2 * at } else { 2 * (at - half) + 1 }
    }

    /// Each element of a step is added to the lane of its number, also on tiers that this processor lacks.
    fn elements_have_their_lanes<S: Lanes, T: Storage>() {
        let (pair, step) = pair_and_step::<S, T>();
        for k in 0..step / pair {
            for i in 0..pair {
                let (half, at) = (i / (pair / 2), i % (pair / 2));
                let element = k * pair + if T::SPLITS { 2 * at + half } else { i };
                let register = WideSums::<S>::register::<T>(k, i / S::F64_LANES);
                let mut lane = register * S::F64_LANES + i % S::F64_LANES;
                if T::SPLITS {
                    lane = element_of(lane, pair.min(LANES));
                }
                assert_eq!(lane, element % LANES, "{:?}, {} lanes of f64", T::DTYPE, S::F64_LANES);
            }
        }
    }

    fn of_all_types<S: Lanes>() {
        elements_have_their_lanes::<S, f32>();
        elements_have_their_lanes::<S, f64>();
        elements_have_their_lanes::<S, f16>();
        elements_have_their_lanes::<S, bf16>();
    }

    #[test]
    fn elements_have_their_lanes_on_all_tiers() {
        of_all_types::<pulp::Scalar128b>();
        #[cfg(target_arch = "x86_64")]
        {
            of_all_types::<pulp::x86::V3>();
            of_all_types::<pulp::x86::V4>();
        }
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        of_all_types::<pulp::aarch64::Neon>();
    }
}
