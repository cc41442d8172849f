//! The sums of all parts, merged.

use super::Parts;
use crate::Isa;
use crate::lanes::{Compiled, Element, Float, Kernel, Lanes, Pair};

/// The subtrees that are pending at most: 32 parts have a tree of depth 5.
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
    let each = len / super::sums(CENTERED);
    for (out, at) in [(dgamma, 0), (dbeta, each)] {
        let Some(out) = out else { continue };
        assert!(out.len() == parts.cols, "{} elements, expected {}", out.len(), parts.cols);
        if parts.rows == 0 || parts.cols == 0 || at == len {
            out.fill(T::Float::default());
        } else {
            <T as Compiled<CENTERED>>::merge(
                Merge { partials, count: parts.count(), len, at, errors: each / 2, out },
                isa,
            );
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

impl<T: Element> Kernel for Merge<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { partials, count, len, at, errors, out } = self;
        let pair = 2 * T::Float::lanes::<S>();
        let zero = T::Float::splat(simd, T::Float::default());
        for (k, out) in out.chunks_mut(pair).enumerate() {
            let mut stack = [[[zero; 2]; 2]; DEPTH];
            let mut depth = 0;
            let part = |p: usize| &partials[p * len + at + k * pair..][..errors + pair];
            // Four parts are merged in registers.
            for group in 0..count / 4 {
                let p = 4 * group;
                // SAFETY: each begins with a pair of sums, and ends with one of errors.
                let mut sum = unsafe {
                    let first = add::<S, T>(simd, load::<S, T>(simd, part(p)), load::<S, T>(simd, part(p + 1)));
                    let second = add::<S, T>(simd, load::<S, T>(simd, part(p + 2)), load::<S, T>(simd, part(p + 3)));
                    add::<S, T>(simd, first, second)
                };
                for _ in 0..group.trailing_ones() {
                    depth -= 1;
                    sum = add::<S, T>(simd, stack[depth], sum);
                }
                stack[depth] = sum;
                depth += 1;
            }
            if count % 4 >= 2 {
                let p = count / 4 * 4;
                // SAFETY: as above.
                stack[depth] =
                    unsafe { add::<S, T>(simd, load::<S, T>(simd, part(p)), load::<S, T>(simd, part(p + 1))) };
                depth += 1;
            }
            if count % 2 == 1 {
                // SAFETY: as above.
                stack[depth] = unsafe { load::<S, T>(simd, part(count - 1)) };
                depth += 1;
            }
            let mut sum = stack[depth - 1];
            for d in (0..depth - 1).rev() {
                sum = add::<S, T>(simd, stack[d], sum);
            }
            let mut merged = [zero; 2];
            for h in 0..2 {
                // The error of a sum that is not finite is NaN.
                let (v, error) = (sum[0][h], sum[1][h]);
                let no_error = T::Float::minus(simd, error, error);
                merged[h] = T::Float::select_nonzero(simd, no_error, v, T::Float::plus(simd, v, error));
            }
            let merged = T::simd_in_order(simd, merged);
            let mut lanes = [T::Float::default(); 2 * <f32 as Float>::LANES];
            // SAFETY: a pair has no more elements.
            unsafe { T::simd_store_computed(simd, lanes.as_mut_ptr(), merged) };
            if T::Float::any_nan(simd, T::Float::plus(simd, merged[0], merged[1])) {
                lanes.iter_mut().filter(|v| (**v).into().is_nan()).for_each(|v| *v = T::Float::NAN);
            }
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}

/// A pair of sums at the start of `part`, and that of their errors at its end.
///
/// # Safety
/// - `part` has a pair of registers.
#[inline(always)]
unsafe fn load<S: Lanes, T: Element>(simd: S, part: &[T::Float]) -> [Pair<S, T>; 2] {
    let errors = part.len() - 2 * T::Float::lanes::<S>();
    // SAFETY: the caller's duty.
    unsafe { [T::simd_load_computed(simd, part.as_ptr()), T::simd_load_computed(simd, part[errors..].as_ptr())] }
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
    let zero = [T::Float::splat(simd, T::Float::default()); 2];
    let pair = 2 * T::Float::lanes::<S>();
    for (leaf, part) in leaf.chunks_exact_mut(padded).zip(part.chunks_exact_mut(2 * padded)) {
        let (sums, errors) = part.split_at_mut(padded);
        let pairs = sums.chunks_exact_mut(pair).zip(errors.chunks_exact_mut(pair));
        for (leaf, (sum, error)) in leaf.chunks_exact_mut(pair).zip(pairs) {
            // SAFETY: all have a pair.
            unsafe {
                let old = if is_first {
                    [zero; 2]
                } else {
                    [T::simd_load_computed(simd, sum.as_ptr()), T::simd_load_computed(simd, error.as_ptr())]
                };
                let [new_sum, new_error] = add::<S, T>(simd, old, [T::simd_load_computed(simd, leaf.as_ptr()), zero]);
                T::simd_store_computed(simd, sum.as_mut_ptr(), new_sum);
                T::simd_store_computed(simd, error.as_mut_ptr(), new_error);
                T::simd_store_computed(simd, leaf.as_mut_ptr(), zero);
            }
        }
    }
}

/// Adds two sums with their errors, and keeps the error of this addition.
#[inline(always)]
fn add<S: Lanes, T: Element>(simd: S, a: [Pair<S, T>; 2], b: [Pair<S, T>; 2]) -> [Pair<S, T>; 2] {
    let ([a, errors_a], [b, errors_b]) = (a, b);
    let mut sum = a;
    let mut errors = errors_a;
    for k in 0..2 {
        sum[k] = T::Float::plus(simd, a[k], b[k]);
        let part = T::Float::minus(simd, sum[k], a[k]);
        let error = T::Float::plus(
            simd,
            T::Float::minus(simd, a[k], T::Float::minus(simd, sum[k], part)),
            T::Float::minus(simd, b[k], part),
        );
        errors[k] = T::Float::plus(simd, errors_a[k], T::Float::plus(simd, errors_b[k], error));
    }
    [sum, errors]
}
