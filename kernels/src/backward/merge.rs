//! The sums of all parts, merged.

use super::Parts;
use crate::Isa;
use crate::lanes::{Compiled, Element, Float, Kernel, Lanes, Pair};

/// The subtrees that are pending at most: 64 parts have a tree of depth 6.
const DEPTH: usize = 8;

/// Merges the sums of all parts into dgamma and dbeta, each if wanted.
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
    let len = parts.partial_len::<T>(CENTERED).unwrap_or(usize::MAX);
    let expected = len.checked_mul(parts.count());
    assert!(Some(partials.len()) == expected, "{} elements, expected {expected:?}", partials.len());
    let padded = len / if CENTERED { 2 } else { 1 };
    for (out, at) in [(dgamma, 0), (dbeta, padded)] {
        let Some(out) = out else { continue };
        assert!(out.len() == parts.cols, "{} elements, expected {}", out.len(), parts.cols);
        if parts.rows == 0 || parts.cols == 0 || at == len {
            out.fill(T::Float::default());
        } else {
            <T as Compiled<CENTERED>>::merge(Merge { partials, len, at, out }, isa);
        }
    }
}

/// The elements from `at` on of each part, each of which has `len`.
#[derive(Debug)]
pub struct Merge<'a, T: Element> {
    partials: &'a [T::Float],
    len: usize,
    at: usize,
    out: &'a mut [T::Float],
}

impl<T: Element> Kernel for Merge<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { partials, len, at, out } = self;
        let pair = 2 * T::Float::lanes::<S>();
        let zero = T::Float::splat(simd, T::Float::default());
        for (k, out) in out.chunks_mut(pair).enumerate() {
            let mut stack = [[zero; 2]; DEPTH];
            let mut depth = 0;
            for (p, part) in partials.chunks_exact(len).enumerate() {
                // SAFETY: a part has whole pairs of all columns from at on.
                let mut sum = unsafe { T::simd_load_computed(simd, part[at + k * pair..][..pair].as_ptr()) };
                for _ in 0..p.trailing_ones() {
                    depth -= 1;
                    sum = add::<S, T>(simd, stack[depth], sum);
                }
                stack[depth] = sum;
                depth += 1;
            }
            let mut sum = stack[depth - 1];
            for d in (0..depth - 1).rev() {
                sum = add::<S, T>(simd, stack[d], sum);
            }
            let mut lanes = [T::Float::default(); 2 * <f32 as Float>::LANES];
            // SAFETY: a pair has no more elements.
            unsafe { T::simd_store_computed(simd, lanes.as_mut_ptr(), T::simd_in_order(simd, sum)) };
            for (out, &v) in out.iter_mut().zip(&lanes) {
                *out = if v.into().is_nan() { T::Float::NAN } else { v };
            }
        }
    }
}

#[inline(always)]
fn add<S: Lanes, T: Element>(simd: S, a: Pair<S, T>, b: Pair<S, T>) -> Pair<S, T> {
    [T::Float::plus(simd, a[0], b[0]), T::Float::plus(simd, a[1], b[1])]
}
