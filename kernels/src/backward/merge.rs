//! The sums of all parts, merged.

use super::Parts;
use crate::Isa;
use crate::lanes::{Compiled, Element, Float, Kernel, Lanes, Reg};

/// The subtrees that are pending at most: 32 parts have a tree of depth 5.
const DEPTH: usize = 8;

/// Merges the sums of all parts into dgamma and dbeta, each if wanted. The tier is the one on which all parts were run,
/// since the order of the sums in `partials` is that of its registers; sums from another tier come out in other
/// columns.
///
/// # Panics
/// If `partials` does not have [`Parts::partial_len`] elements for each part, or dgamma or dbeta does not have as many
/// elements as there are columns.
pub fn merge<T: Element + Compiled<CENTERED>, const CENTERED: bool>(
    isa: Isa,
    parts: &Parts,
    partials: &[T::Float],
    dgamma: Option<&mut [T::Float]>,
    dbeta: Option<&mut [T::Float]>,
) {
    merge_sums::<T>(isa, parts, partials, dgamma, dbeta, CENTERED);
}

#[inline(never)]
fn merge_sums<T: Element>(
    isa: Isa,
    parts: &Parts,
    partials: &[T::Float],
    dgamma: Option<&mut [T::Float]>,
    dbeta: Option<&mut [T::Float]>,
    centered: bool,
) {
    let len = parts.partial_len::<T>(centered).unwrap_or(usize::MAX);
    let expected = len.checked_mul(parts.count());
    assert!(Some(partials.len()) == expected, "{} elements, expected {expected:?}", partials.len());
    let each = len / super::sums(centered);
    for (out, at) in [(dgamma, 0), (dbeta, each)] {
        let Some(out) = out else { continue };
        assert!(out.len() == parts.cols, "{} elements, expected {}", out.len(), parts.cols);
        if parts.rows == 0 || parts.cols == 0 || at == len {
            out.fill(T::Float::default());
        } else {
            // The job is the same for both normalizations.
            <T as Compiled<true>>::merge(Merge { partials, count: parts.count(), len, at, errors: each / 2, out }, isa);
        }
    }
}

/// The sums from `at` on of each of `count` parts, which have `len` elements each, and their errors, which follow as many elements later.
#[derive(Debug)]
pub struct Merge<'a, T: Element> {
    partials: &'a [T::Float],
    count: usize,
    len: usize,
    at: usize,
    errors: usize,
    out: &'a mut [T::Float],
}

impl<'a, T: Element> Merge<'a, T> {
    /// The job for another type whose pairs of registers have the same order.
    pub(crate) fn of<U: Element<Float = T::Float>>(self) -> Merge<'a, U> {
        let Self { partials, count, len, at, errors, out } = self;
        Merge { partials, count, len, at, errors, out }
    }
}

impl<T: Element> Merge<'_, T> {
    #[inline(never)]
    pub(crate) fn run_on(self, isa: Isa) {
        isa.run(self);
    }
}

impl<T: Element> Kernel for Merge<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { partials, count, len, at, errors, out } = self;
        let lanes = T::Float::lanes::<S>();
        let mut stack = [zero::<S, T>(simd); DEPTH];
        for (k, out) in out.chunks_mut(2 * lanes).enumerate() {
            let mut merged = [zero::<S, T>(simd).v; 2];
            for (half, merged) in merged.iter_mut().enumerate() {
                let parts = Register { partials: &partials[at + (2 * k + half) * lanes..], len, errors };
                let sum = if count == 1 { parts.sum::<S>(simd, 0) } else { parts.add::<S>(simd, count, &mut stack) };
                // The error of a sum that is not finite is NaN.
                let no_error = T::Float::minus(simd, sum.error, sum.error);
                *merged = T::Float::select_nonzero(simd, no_error, sum.v, T::Float::plus(simd, sum.v, sum.error));
            }
            let merged = T::simd_in_order(simd, merged);
            if out.len() == 2 * lanes {
                // SAFETY: a pair fits.
                unsafe { T::simd_store_computed(simd, out.as_mut_ptr(), merged) };
            } else {
                let mut room = [T::Float::default(); 2 * <f32 as Float>::LANES];
                // SAFETY: a pair has no more elements.
                unsafe { T::simd_store_computed(simd, room.as_mut_ptr(), merged) };
                out.copy_from_slice(&room[..out.len()]);
            }
            if T::Float::any_nan(simd, T::Float::plus(simd, merged[0], merged[1])) {
                out.iter_mut().filter(|v| (**v).into().is_nan()).for_each(|v| *v = T::Float::NAN);
            }
        }
    }
}

/// A register of sums, and their errors.
struct Sum<S: Lanes, T: Element> {
    v: Reg<S, T>,
    error: Reg<S, T>,
}

impl<S: Lanes, T: Element> Clone for Sum<S, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Lanes, T: Element> Copy for Sum<S, T> {}

#[inline(always)]
fn zero<S: Lanes, T: Element>(simd: S) -> Sum<S, T> {
    let zero = T::Float::splat(simd, T::Float::default());
    Sum { v: zero, error: zero }
}

/// The same register of the sums of each part.
struct Register<'a, T: Element> {
    partials: &'a [T::Float],
    len: usize,
    errors: usize,
}

impl<T: Element> Register<'_, T> {
    /// That of part `p`.
    #[inline(always)]
    fn sum<S: Lanes>(&self, simd: S, p: usize) -> Sum<S, T> {
        let part = &self.partials[p * self.len..][..self.errors + T::Float::lanes::<S>()];
        // SAFETY: it begins with a register of sums, and ends with one of errors.
        unsafe {
            let v = T::Float::load(simd, part.as_ptr());
            Sum { v, error: T::Float::load(simd, part[self.errors..].as_ptr()) }
        }
    }

    /// The sum of those of parts `p` and `p + 1`.
    #[inline(always)]
    fn two<S: Lanes>(&self, simd: S, p: usize) -> Sum<S, T> {
        add::<S, T>(simd, self.sum(simd, p), self.sum(simd, p + 1))
    }

    /// The sum of those of `count` parts along a binary tree, four of them in registers. What is in `stack` does not matter.
    #[inline(always)]
    fn add<S: Lanes>(&self, simd: S, count: usize, stack: &mut [Sum<S, T>; DEPTH]) -> Sum<S, T> {
        let mut depth = 0;
        for group in 0..count / 4 {
            let mut sum = add::<S, T>(simd, self.two(simd, 4 * group), self.two(simd, 4 * group + 2));
            for _ in 0..group.trailing_ones() {
                depth -= 1;
                sum = add::<S, T>(simd, stack[depth], sum);
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
            sum = add::<S, T>(simd, stack[d], sum);
        }
        sum
    }
}

/// Adds the sums of a leaf to those of its part, of `padded` columns, and begins new ones. If it is the first, those of the part
/// are yet to be written.
#[inline(always)]
pub(super) fn add_leaf<S: Lanes, T: Element>(
    simd: S,
    leaf: &mut [T::Float],
    part: &mut [T::Float],
    padded: usize,
    is_first: bool,
) {
    let zero = zero::<S, T>(simd);
    let lanes = T::Float::lanes::<S>();
    for (leaf, part) in leaf.chunks_exact_mut(padded).zip(part.chunks_exact_mut(2 * padded)) {
        let (sums, errors) = part.split_at_mut(padded);
        let sums = sums.chunks_exact_mut(lanes).zip(errors.chunks_exact_mut(lanes));
        for (leaf, (v, error)) in leaf.chunks_exact_mut(lanes).zip(sums) {
            // SAFETY: all have a register.
            unsafe {
                let mut sum = zero;
                if !is_first {
                    sum = Sum { v: T::Float::load(simd, v.as_ptr()), error: T::Float::load(simd, error.as_ptr()) };
                }
                let sum = add::<S, T>(simd, sum, Sum { v: T::Float::load(simd, leaf.as_ptr()), ..zero });
                T::Float::store(simd, v.as_mut_ptr(), sum.v);
                T::Float::store(simd, error.as_mut_ptr(), sum.error);
                T::Float::store(simd, leaf.as_mut_ptr(), zero.v);
            }
        }
    }
}

/// Adds two sums with their errors, and keeps the error of this addition (Knuth's `TwoSum`).
#[inline(always)]
fn add<S: Lanes, T: Element>(simd: S, a: Sum<S, T>, b: Sum<S, T>) -> Sum<S, T> {
    let v = T::Float::plus(simd, a.v, b.v);
    let part = T::Float::minus(simd, v, a.v);
    let error = T::Float::plus(
        simd,
        T::Float::minus(simd, a.v, T::Float::minus(simd, v, part)),
        T::Float::minus(simd, b.v, part),
    );
    Sum { v, error: T::Float::plus(simd, a.error, T::Float::plus(simd, b.error, error)) }
}
