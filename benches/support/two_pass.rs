//! The two-pass algorithm as someone writes it who knows how compilers vectorize: sums in a small array, so that they may
//! be a register, and four elements added to each at once, so that additions need not wait for each other. Compiled twice,
//! for the build's baseline and for the default tier: the second is what `target-cpu=native` or a multiversioning crate
//! would give.

use lanenorm::Tier;
use lanenorm::kernels::lanes::{Kernel, Lanes};

/// As many as rustc 1.95 keeps in registers: loops over 32 or 64 are not unrolled early enough, and the sums stay in memory.
pub(crate) const SUMS: usize = 16;

/// The elements that one step takes.
const BLOCK: usize = 4 * SUMS;

/// For the build's baseline.
pub(crate) fn plain(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    forward::<false>(x, cols, gamma, beta, eps, y);
}

/// For the default tier.
pub(crate) fn simd(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(TwoPass::<false> { x, cols, gamma, beta, eps, y });
    } else {
        isa.run(TwoPass::<true> { x, cols, gamma, beta, eps, y });
    }
}

struct TwoPass<'a, const FMA: bool> {
    x: &'a [f32],
    cols: usize,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl<const FMA: bool> Kernel for TwoPass<'_, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        forward::<FMA>(self.x, self.cols, self.gamma, self.beta, self.eps, self.y);
    }
}

#[inline(always)]
fn forward<const FMA: bool>(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mean = sum(x) / cols as f32;
        let rstd = 1.0 / (sum_of_squares::<FMA>(x, mean) / cols as f32 + eps).sqrt();
        for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = mul_add::<FMA>((x - mean) * rstd, gamma, beta);
        }
    }
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let (blocks, tail) = x.as_chunks();
    let mut sums = [0.0; SUMS];
    for block in blocks {
        add(&mut sums, block);
    }
    if !tail.is_empty() {
        add(&mut sums, &padded(tail, 0.0));
    }
    fold(sums)
}

#[inline(always)]
fn add(sums: &mut [f32; SUMS], x: &[f32; BLOCK]) {
    for i in 0..SUMS {
        sums[i] += (x[i] + x[SUMS + i]) + (x[2 * SUMS + i] + x[3 * SUMS + i]);
    }
}

#[inline(always)]
fn sum_of_squares<const FMA: bool>(x: &[f32], mean: f32) -> f32 {
    let (blocks, tail) = x.as_chunks();
    let mut sums = [0.0; SUMS];
    for block in blocks {
        add_squares::<FMA>(&mut sums, block, mean);
    }
    if !tail.is_empty() {
        add_squares::<FMA>(&mut sums, &padded(tail, mean), mean);
    }
    fold(sums)
}

#[inline(always)]
fn add_squares<const FMA: bool>(sums: &mut [f32; SUMS], x: &[f32; BLOCK], mean: f32) {
    for i in 0..SUMS {
        let [a, b, c, d] = [x[i], x[SUMS + i], x[2 * SUMS + i], x[3 * SUMS + i]].map(|x| x - mean);
        sums[i] += mul_add::<FMA>(a, a, b * b) + mul_add::<FMA>(c, c, d * d);
    }
}

/// A last block. Were its elements added to `sums` at indices known at run time alone, the sums would live in memory.
#[inline(always)]
fn padded(tail: &[f32], fill: f32) -> [f32; BLOCK] {
    let mut block = [fill; BLOCK];
    block[..tail.len()].copy_from_slice(tail);
    block
}

/// By halves, unrolled for the same reason.
#[inline(always)]
fn fold(sums: [f32; SUMS]) -> f32 {
    let eight: [f32; 8] = halve(sums);
    let [a, b, c, d] = halve(eight);
    (a + c) + (b + d)
}

#[inline(always)]
fn halve<const N: usize, const HALF: usize>(sums: [f32; N]) -> [f32; HALF] {
    std::array::from_fn(|i| sums[i] + sums[HALF + i])
}

/// Fused only where it is one instruction.
#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
