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
    if parts.rows == 0 || parts.cols == 0 {
        [dgamma, dbeta].into_iter().flatten().for_each(|out| out.fill(T::Float::default()));
    } else if dgamma.is_some() || dbeta.is_some() {
        run(Merge { partials, count: parts.count(), len, each, is_leaf: parts.is_leaf(), outs: [dgamma, dbeta] }, isa);
    }
}

/// Merges the sums of each parameter over `count` parts into its one of `outs`, if that is wanted. A part has `len`
/// elements in `partials`: `each` for each parameter, the sums in the first half of these and the errors of the sums in
/// the second.
#[derive(Debug)]
pub struct Merge<'a, F: Float> {
    partials: &'a [F],
    count: usize,
    len: usize,
    each: usize,
    /// Whether there is one part, of one leaf: its sums have no errors.
    is_leaf: bool,
    outs: [Option<&'a mut [F]>; 2],
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
        let Self { partials, count, len, each, is_leaf, outs } = self;
        let (lanes, errors) = (F::lanes::<S>(), each / 2);
        assert!(count > 0 && partials.len() == count * len);
        let mut stack = [zero::<S, F>(simd); DEPTH];
        for (k, out) in outs.into_iter().enumerate() {
            let Some(out) = out else { continue };
            assert!(out.len().next_multiple_of(lanes) <= errors && (k + 1) * each <= len);
            // SAFETY: each part has registers of sums and of errors for all of `out`, checked above.
            let nan_probe = unsafe {
                let parts = OfParts { p: partials.as_ptr().add(k * each), count, len, errors };
                if is_leaf {
                    merge_into(simd, out, &mut Leaf(parts.p))
                } else if count == 1 {
                    merge_into(simd, out, &mut OnePart(parts))
                } else {
                    merge_into(simd, out, &mut Tree { parts, stack: &mut stack })
                }
            };
            if F::any_nan(simd, nan_probe) {
                out.iter_mut().filter(|v| (**v).into().is_nan()).for_each(|v| *v = F::NAN);
            }
        }
    }
}

/// Writes the merged sums to `out`. Returns a register with a NaN in some lane if one of them is NaN.
///
/// # Safety
/// - `sums` has registers for all of `out`.
#[inline(always)]
unsafe fn merge_into<S: Lanes, F: Float>(simd: S, out: &mut [F], sums: &mut impl Merged<S, F>) -> F::Reg<S> {
    let lanes = F::lanes::<S>();
    let whole = out.len() - out.len() % lanes;
    // Two, so that additions need not wait for each other.
    let mut nan_probes = [F::splat(simd, F::default()); 2];
    for i in (0..whole).step_by(lanes) {
        // SAFETY: the caller's duty; a register fits.
        unsafe {
            let merged = sums.register(simd, i);
            nan_probes = [nan_probes[1], F::plus(simd, nan_probes[0], merged)];
            F::store(simd, out.as_mut_ptr().add(i), merged);
        }
    }
    if whole < out.len() {
        let mut room = [F::default(); <f32 as Float>::LANES];
        // SAFETY: the caller's duty; the room has a register.
        unsafe {
            let merged = sums.register(simd, whole);
            nan_probes[0] = F::plus(simd, nan_probes[0], merged);
            F::store(simd, room.as_mut_ptr(), merged);
        }
        let rest = out.len() - whole;
        out[whole..].copy_from_slice(&room[..rest]);
    }
    F::plus(simd, nan_probes[0], nan_probes[1])
}

/// Merged sums, register by register.
trait Merged<S: Lanes, F: Float> {
    /// The register from column `i` on.
    ///
    /// # Safety
    /// - The parts have that register.
    unsafe fn register(&mut self, simd: S, i: usize) -> F::Reg<S>;
}

/// The sums of one leaf, which have no errors.
struct Leaf<F>(*const F);

impl<S: Lanes, F: Float> Merged<S, F> for Leaf<F> {
    #[inline(always)]
    unsafe fn register(&mut self, simd: S, i: usize) -> F::Reg<S> {
        // A sum of terms that have underflowed may be -0. Sums of several leaves never are.
        // SAFETY: the caller's duty.
        F::plus(simd, unsafe { F::load(simd, self.0.add(i)) }, F::splat(simd, F::default()))
    }
}

/// The sums of one part.
struct OnePart<F: Float>(OfParts<F>);

impl<S: Lanes, F: Float> Merged<S, F> for OnePart<F> {
    #[inline(always)]
    unsafe fn register(&mut self, simd: S, i: usize) -> F::Reg<S> {
        // SAFETY: the caller's duty.
        rounded::<S, F>(simd, unsafe { self.0.register(i).sum(simd, 0) })
    }
}

/// The sums of several parts.
struct Tree<'a, S: Lanes, F: Float> {
    parts: OfParts<F>,
    stack: &'a mut [Sum<S, F>; DEPTH],
}

impl<S: Lanes, F: Float> Merged<S, F> for Tree<'_, S, F> {
    #[inline(always)]
    unsafe fn register(&mut self, simd: S, i: usize) -> F::Reg<S> {
        // SAFETY: the caller's duty.
        rounded::<S, F>(simd, unsafe { self.parts.register(i).add(simd, self.parts.count, self.stack) })
    }
}

/// A sum with its error added.
#[inline(always)]
fn rounded<S: Lanes, F: Float>(simd: S, sum: Sum<S, F>) -> F::Reg<S> {
    // The error of a sum that is not finite is NaN.
    let no_error = F::minus(simd, sum.error, sum.error);
    F::select_nonzero(simd, no_error, sum.v, F::plus(simd, sum.v, sum.error))
}

/// The sums of one parameter over `count` parts, the first at `p`. Whoever makes it knows that they are there.
struct OfParts<F: Float> {
    p: *const F,
    count: usize,
    len: usize,
    errors: usize,
}

impl<F: Float> OfParts<F> {
    /// The registers from column `i` on.
    ///
    /// # Safety
    /// - There is that column.
    #[inline(always)]
    unsafe fn register(&self, i: usize) -> Register<F> {
        // SAFETY: the caller's duty.
        Register { p: unsafe { self.p.add(i) }, len: self.len, errors: self.errors }
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

/// One register of the sums of all parts, at the same columns in each. Whoever makes it knows that the parts, of `len`
/// elements, have a register there, and one `errors` elements later.
struct Register<F: Float> {
    p: *const F,
    len: usize,
    errors: usize,
}

impl<F: Float> Register<F> {
    /// The register of part `p`.
    ///
    /// # Safety
    /// - There is such a part.
    #[inline(always)]
    unsafe fn sum<S: Lanes>(&self, simd: S, p: usize) -> Sum<S, F> {
        // SAFETY: the caller's duty, and that of whoever made this.
        unsafe {
            let part = self.p.add(p * self.len);
            Sum { v: F::load(simd, part), error: F::load(simd, part.add(self.errors)) }
        }
    }

    /// The sum of the registers of parts `p` and `p + 1`.
    ///
    /// # Safety
    /// - There are such parts.
    #[inline(always)]
    unsafe fn two<S: Lanes>(&self, simd: S, p: usize) -> Sum<S, F> {
        // SAFETY: the caller's duty.
        unsafe { add::<S, F>(simd, self.sum(simd, p), self.sum(simd, p + 1)) }
    }

    /// The sum of the registers of `count` parts along a binary tree, four parts at a time in registers. What is in
    /// `stack` before does not matter.
    ///
    /// # Safety
    /// - There are `count > 0` parts.
    #[inline(always)]
    unsafe fn add<S: Lanes>(&self, simd: S, count: usize, stack: &mut [Sum<S, F>; DEPTH]) -> Sum<S, F> {
        let mut depth = 0;
        for group in 0..count / 4 {
            // SAFETY: as above.
            let mut sum = unsafe { add::<S, F>(simd, self.two(simd, 4 * group), self.two(simd, 4 * group + 2)) };
            for _ in 0..group.trailing_ones() {
                depth -= 1;
                sum = add::<S, F>(simd, stack[depth], sum);
            }
            stack[depth] = sum;
            depth += 1;
        }
        if count % 4 >= 2 {
            // SAFETY: as above.
            stack[depth] = unsafe { self.two(simd, count / 4 * 4) };
            depth += 1;
        }
        if count % 2 == 1 {
            // SAFETY: as above.
            stack[depth] = unsafe { self.sum(simd, count - 1) };
            depth += 1;
        }
        let mut sum = stack[depth - 1];
        for d in (0..depth - 1).rev() {
            sum = add::<S, F>(simd, stack[d], sum);
        }
        sum
    }
}

/// Stores the sums of the only leaf as the sums of the only part, of `padded` columns each: see [`Parts::is_leaf`].
#[inline(always)]
pub(super) fn store_leaf<S: Lanes, T: Storage>(simd: S, leaf: &[T::Float], part: &mut [T::Float], padded: usize) {
    let pair = 2 * T::Float::lanes::<S>();
    for (leaf, part) in leaf.chunks_exact(padded).zip(part.chunks_exact_mut(2 * padded)) {
        for (leaf, sums) in leaf.chunks_exact(pair).zip(part[..padded].chunks_exact_mut(pair)) {
            // SAFETY: both have a pair.
            unsafe {
                let sums_of_leaf = T::simd_in_order(simd, T::simd_load_computed(simd, leaf.as_ptr()));
                T::simd_store_computed(simd, sums.as_mut_ptr(), sums_of_leaf);
            }
        }
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
                    // The error of a sum that is not finite is NaN.
                    let mut sum = Sum { v: leaf, error: T::Float::minus(simd, leaf, leaf) };
                    if !is_first {
                        let part =
                            Sum { v: T::Float::load(simd, v.as_ptr()), error: T::Float::load(simd, error.as_ptr()) };
                        sum = plus_exact::<S, T::Float>(simd, part, leaf);
                    }
                    T::Float::store(simd, v.as_mut_ptr(), sum.v);
                    T::Float::store(simd, error.as_mut_ptr(), sum.error);
                }
            }
        }
    }
}

/// Adds two sums with their errors, and keeps the error of this addition.
#[inline(always)]
fn add<S: Lanes, F: Float>(simd: S, a: Sum<S, F>, b: Sum<S, F>) -> Sum<S, F> {
    let Sum { v, error } = two_sum::<S, F>(simd, a.v, b.v);
    Sum { v, error: F::plus(simd, a.error, F::plus(simd, b.error, error)) }
}

/// [`add`] for a sum that has no error.
#[inline(always)]
fn plus_exact<S: Lanes, F: Float>(simd: S, a: Sum<S, F>, b: F::Reg<S>) -> Sum<S, F> {
    let Sum { v, error } = two_sum::<S, F>(simd, a.v, b);
    Sum { v, error: F::plus(simd, a.error, error) }
}

/// The sum of two numbers, and its error (Knuth's `TwoSum`).
#[inline(always)]
fn two_sum<S: Lanes, F: Float>(simd: S, a: F::Reg<S>, b: F::Reg<S>) -> Sum<S, F> {
    let v = F::plus(simd, a, b);
    let part = F::minus(simd, v, a);
    Sum { v, error: F::plus(simd, F::minus(simd, a, F::minus(simd, v, part)), F::minus(simd, b, part)) }
}
