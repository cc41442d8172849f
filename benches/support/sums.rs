//! Sums as someone writes them who knows how compilers vectorize: in a small array, so that they may be a register, and
//! four elements added to each at once, so that additions need not wait for each other.

use std::array;

use lanenorm_harness::number::{Number, Real, Widen};

/// The most sums that rustc 1.95 keeps in registers: loops over 32 or 64 are not unrolled early enough, and the sums
/// stay in memory.
pub(crate) const SUMS: usize = 16;

/// The elements that one step takes.
const BLOCK: usize = 4 * SUMS;

#[inline(always)]
pub(crate) fn sum<T: Number>(x: &[T]) -> T::Float {
    let (blocks, tail) = x.as_chunks();
    let mut sums = [T::Float::default(); SUMS];
    for block in blocks {
        add(&mut sums, block);
    }
    if !tail.is_empty() {
        add(&mut sums, &padded(tail, T::Float::default()));
    }
    fold(sums)
}

#[inline(always)]
fn add<F: Real>(sums: &mut [F; SUMS], x: &[impl Widen<F>; BLOCK]) {
    for i in 0..SUMS {
        let [a, b, c, d] = [x[i], x[SUMS + i], x[2 * SUMS + i], x[3 * SUMS + i]].map(|x| x.widen());
        sums[i] += (a + b) + (c + d);
    }
}

/// The sum of the squared deviations from `mean`.
#[inline(always)]
pub(crate) fn sum_of_squares<T: Number, const FMA: bool>(x: &[T], mean: T::Float) -> T::Float {
    let (blocks, tail) = x.as_chunks();
    let mut sums = [T::Float::default(); SUMS];
    for block in blocks {
        add_squares::<T::Float, FMA>(&mut sums, block, mean);
    }
    if !tail.is_empty() {
        add_squares::<T::Float, FMA>(&mut sums, &padded(tail, mean), mean);
    }
    fold(sums)
}

#[inline(always)]
fn add_squares<F: Real, const FMA: bool>(sums: &mut [F; SUMS], x: &[impl Widen<F>; BLOCK], mean: F) {
    for i in 0..SUMS {
        let [a, b, c, d] = [x[i], x[SUMS + i], x[2 * SUMS + i], x[3 * SUMS + i]].map(|x| x.widen() - mean);
        sums[i] += mul_add::<F, FMA>(a, a, b * b) + mul_add::<F, FMA>(c, c, d * d);
    }
}

/// A last block, padded. If its elements were added to `sums` at indices that only the run time knows, the sums would
/// live in memory.
#[inline(always)]
pub(crate) fn padded<F: Real, const N: usize>(tail: &[impl Widen<F>], fill: F) -> [F; N] {
    let mut block = [fill; N];
    for (element, tail) in block.iter_mut().zip(tail) {
        *element = tail.widen();
    }
    block
}

/// Adds the sums by halves. Unrolled, so that they stay in registers.
#[inline(always)]
pub(crate) fn fold<F: Real>(sums: [F; SUMS]) -> F {
    let eight: [F; 8] = halve(sums);
    let [a, b, c, d] = halve(eight);
    (a + c) + (b + d)
}

#[inline(always)]
fn halve<F: Real, const N: usize, const HALF: usize>(sums: [F; N]) -> [F; HALF] {
    array::from_fn(|i| sums[i] + sums[HALF + i])
}

/// `a * b + c`, fused only where that is one instruction.
#[inline(always)]
pub(crate) fn mul_add<F: Real, const FMA: bool>(a: F, b: F, c: F) -> F {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
