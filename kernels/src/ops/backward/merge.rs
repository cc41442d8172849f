//! The sums of all parts, merged.

use super::parts::{Parts, assert_len, sums};
use crate::element::Storage;
use crate::isa::Isa;
use crate::simd::{Float, Kernel, Lanes};

/// The most subtrees that are pending: 32 parts have a tree of depth 5.
const DEPTH: usize = 8;

/// Does the work of `Parts::merge`. `run` runs the job of one parameter.
#[inline(never)]
pub(crate) fn merge_sums<T: Storage>(
    isa: Isa,
    parts: &Parts,
    partials: &[T::Float],
    dgamma: Option<&mut [T::Float]>,
    dbeta: Option<&mut [T::Float]>,
    centered: bool,
    run: fn(Merge<'_, T::Float>, Isa),
) {
    let len = parts.partial_len::<T>(centered);
    let expected = if parts.rows == 0 { Some(0) } else { len.and_then(|len| len.checked_mul(parts.count())) };
    assert_len("partials", partials.len(), expected);
    // Where it overflows there are no rows.
    let len = len.unwrap_or(0);
    let each = len / sums(centered);
    assert!(centered || dbeta.is_none(), "there is a dbeta, but RMS normalization has no beta");
    let lens = [&dgamma, &dbeta].map(|out| out.as_ref().map_or(parts.cols, |out| out.len()));
    for (what, len) in ["dgamma", "dbeta"].into_iter().zip(lens) {
        assert_len(what, len, Some(parts.cols));
    }
    for (out, at) in [(dgamma, 0), (dbeta, each)] {
        let Some(out) = out else { continue };
        if parts.rows == 0 || parts.cols == 0 {
            out.fill(T::Float::default());
        } else {
            run(Merge { partials, count: parts.count(), len, at, errors: each / 2, out }, isa);
        }
    }
}

/// Merges the sums of one parameter over `count` parts into `out`. A part has `len` elements in `partials`. Its sums
/// for this parameter begin at element `at` of them, and the errors of these sums `errors` elements later.
#[derive(Debug)]
pub struct Merge<'a, F: Float> {
    partials: &'a [F],
    count: usize,
    len: usize,
    at: usize,
    errors: usize,
    out: &'a mut [F],
}

impl<F: Float> Merge<'_, F> {
    #[inline(never)]
    pub(crate) fn run_on(self, isa: Isa) {
        isa.run(self);
    }
}

impl<F: Float> Kernel for Merge<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { partials, count, len, at, errors, out } = self;
        let lanes = F::lanes::<S>();
        let mut stack = [zero::<S, F>(simd); DEPTH];
        for (k, out) in out.chunks_mut(lanes).enumerate() {
            let parts = Register { partials: &partials[at + k * lanes..], len, errors };
            let sum = if count == 1 { parts.sum::<S>(simd, 0) } else { parts.add::<S>(simd, count, &mut stack) };
            // The error of a sum that is not finite is NaN.
            let no_error = F::minus(simd, sum.error, sum.error);
            let merged = F::select_nonzero(simd, no_error, sum.v, F::plus(simd, sum.v, sum.error));
            if out.len() == lanes {
                // SAFETY: a register fits.
                unsafe { F::store(simd, out.as_mut_ptr(), merged) };
            } else {
                let mut room = [F::default(); <f32 as Float>::LANES];
                // SAFETY: a register has no more elements.
                unsafe { F::store(simd, room.as_mut_ptr(), merged) };
                out.copy_from_slice(&room[..out.len()]);
            }
            if F::any_nan(simd, merged) {
                out.iter_mut().filter(|v| (**v).into().is_nan()).for_each(|v| *v = F::NAN);
            }
        }
    }
}

/// A register of sums, and their errors.
struct Sum<S: Lanes, F: Float> {
    v: F::Reg<S>,
    error: F::Reg<S>,
}

impl<S: Lanes, F: Float> Clone for Sum<S, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Lanes, F: Float> Copy for Sum<S, F> {}

#[inline(always)]
fn zero<S: Lanes, F: Float>(simd: S) -> Sum<S, F> {
    let zero = F::splat(simd, F::default());
    Sum { v: zero, error: zero }
}

/// One register of the sums of all parts, at the same columns in each.
struct Register<'a, F: Float> {
    partials: &'a [F],
    len: usize,
    errors: usize,
}

impl<F: Float> Register<'_, F> {
    /// The register of part `p`.
    #[inline(always)]
    fn sum<S: Lanes>(&self, simd: S, p: usize) -> Sum<S, F> {
        let part = &self.partials[p * self.len..][..self.errors + F::lanes::<S>()];
        // SAFETY: `part` begins with a register of sums, and ends with a register of errors.
        unsafe {
            let v = F::load(simd, part.as_ptr());
            Sum { v, error: F::load(simd, part[self.errors..].as_ptr()) }
        }
    }

    /// The sum of the registers of parts `p` and `p + 1`.
    #[inline(always)]
    fn two<S: Lanes>(&self, simd: S, p: usize) -> Sum<S, F> {
        add::<S, F>(simd, self.sum(simd, p), self.sum(simd, p + 1))
    }

    /// The sum of the registers of `count` parts along a binary tree, four parts at a time in registers. What is in
    /// `stack` before does not matter.
    #[inline(always)]
    fn add<S: Lanes>(&self, simd: S, count: usize, stack: &mut [Sum<S, F>; DEPTH]) -> Sum<S, F> {
        let mut depth = 0;
        for group in 0..count / 4 {
            let mut sum = add::<S, F>(simd, self.two(simd, 4 * group), self.two(simd, 4 * group + 2));
            for _ in 0..group.trailing_ones() {
                depth -= 1;
                sum = add::<S, F>(simd, stack[depth], sum);
            }
            stack[depth] = sum;
            depth += 1;
        }
        if count % 4 >= 2 {
            stack[depth] = self.two(simd, count / 4 * 4);
            depth += 1;
        }
        if count % 2 == 1 {
            stack[depth] = self.sum(simd, count - 1);
            depth += 1;
        }
        let mut sum = stack[depth - 1];
        for d in (0..depth - 1).rev() {
            sum = add::<S, F>(simd, stack[d], sum);
        }
        sum
    }
}

/// Adds the sums of a leaf to the sums of its part, of `padded` columns each, and sets the leaf to zero. The leaf is in
/// the order of the pairs of registers. The part is in the order of the columns, which is the same on all tiers. If
/// `is_first`, the part has no sums yet.
#[inline(always)]
pub(super) fn add_leaf<S: Lanes, T: Storage>(
    simd: S,
    leaf: &mut [T::Float],
    part: &mut [T::Float],
    padded: usize,
    is_first: bool,
) {
    let zero = zero::<S, T::Float>(simd);
    let lanes = T::Float::lanes::<S>();
    for (leaf, part) in leaf.chunks_exact_mut(padded).zip(part.chunks_exact_mut(2 * padded)) {
        let (sums, errors) = part.split_at_mut(padded);
        let pairs = sums.chunks_exact_mut(2 * lanes).zip(errors.chunks_exact_mut(2 * lanes));
        for (leaf, (v, error)) in leaf.chunks_exact_mut(2 * lanes).zip(pairs) {
            // SAFETY: all have a pair.
            unsafe {
                let pair = T::simd_in_order(simd, T::simd_load_computed(simd, leaf.as_ptr()));
                T::simd_store_computed(simd, leaf.as_mut_ptr(), [zero.v; 2]);
                let registers = v.chunks_exact_mut(lanes).zip(error.chunks_exact_mut(lanes));
                for (leaf, (v, error)) in pair.into_iter().zip(registers) {
                    let mut sum = zero;
                    if !is_first {
                        sum = Sum { v: T::Float::load(simd, v.as_ptr()), error: T::Float::load(simd, error.as_ptr()) };
                    }
                    let sum = add::<S, T::Float>(simd, sum, Sum { v: leaf, ..zero });
                    T::Float::store(simd, v.as_mut_ptr(), sum.v);
                    T::Float::store(simd, error.as_mut_ptr(), sum.error);
                }
            }
        }
    }
}

/// Adds two sums with their errors, and keeps the error of this addition (Knuth's `TwoSum`).
#[inline(always)]
fn add<S: Lanes, F: Float>(simd: S, a: Sum<S, F>, b: Sum<S, F>) -> Sum<S, F> {
    let v = F::plus(simd, a.v, b.v);
    let part = F::minus(simd, v, a.v);
    let error = F::plus(simd, F::minus(simd, a.v, F::minus(simd, v, part)), F::minus(simd, b.v, part));
    Sum { v, error: F::plus(simd, a.error, F::plus(simd, b.error, error)) }
}
