//! Calls with two gammas: of two outputs, or of queries and keys in one packed tensor. Each is compared with two calls.

use lanenorm::{Norm, RowsMut};
use lanenorm_harness::number::Number;

use super::case::Case;
use super::placement::Call;
use super::plan::{Operation, VALID};

/// The heads of a token whose queries and keys are normalized together: those of a model with 3 billion parameters.
pub(crate) const QUERIES: usize = 24;
pub(crate) const KEYS: usize = 8;

/// The rows of a token that are normalized.
pub(crate) const HEADS: usize = QUERIES + KEYS;

/// The rows of a token in the packed tensor: queries, keys, and as many values.
pub(crate) const TOKEN: usize = HEADS + KEYS;

/// The first two of the groups.
fn two<'a, T: Number>(cols: usize, c: &Call<'a, T>) -> [[&'a [T]; 2]; 2] {
    let [gamma, beta] = c.grouped;
    [0, 1].map(|i| [gamma, beta].map(|v| &v[i * cols..][..cols]))
}

/// A call with a second output, which goes to s.
pub(crate) fn second<M: Operation, T: Number>(plan: &Norm<M>, c: &mut Call<'_, T>) {
    let [[gamma, beta], [second_gamma, second_beta]] = two(plan.cols(), c);
    let call = M::beta(plan.call(c.x).gamma(gamma), beta).second().gamma(second_gamma);
    M::second_beta(call, second_beta).to(&mut *c.y, &mut *c.s).expect(VALID);
}

/// The same by two calls.
pub(crate) fn second_in_two_calls<M: Operation, T: Number>(plan: &Norm<M>, c: &mut Call<'_, T>) {
    let [[gamma, beta], [second_gamma, second_beta]] = two(plan.cols(), c);
    M::beta(plan.call(c.x).gamma(gamma), beta).to(&mut *c.y).expect(VALID);
    M::beta(plan.call(c.x).gamma(second_gamma), second_beta).to(&mut *c.s).expect(VALID);
}

/// A plan for queries and keys.
pub(crate) fn plan_of_heads<M: Operation>(plan: Norm<M>) -> Norm<M> {
    plan.with_groups(2, QUERIES).and_then(|plan| plan.with_last_repeat(KEYS)).expect(VALID)
}

/// A call for queries and keys, in place.
pub(crate) fn heads<M: Operation, T: Number>(plan: &Norm<M>, c: &mut Call<'_, T>) {
    let cols = plan.cols();
    let (tokens, [gamma, _]) = (c.heads.len() / (TOKEN * cols), c.grouped);
    let rows = RowsMut::strided_2d(&mut *c.heads, [tokens, HEADS], [TOKEN * cols, cols]);
    plan.call_in_place(rows).gamma(&gamma[..2 * cols]).run().expect(VALID);
}

/// The same by two calls.
pub(crate) fn heads_in_two_calls<M: Operation, T: Number>(plan: &Norm<M>, c: &mut Call<'_, T>) {
    let cols = plan.cols();
    let tokens = c.heads.len() / (TOKEN * cols);
    let parts = [(0, QUERIES), (QUERIES, KEYS)].into_iter().zip(two(cols, c).map(|[gamma, _]| gamma));
    for ((first, heads), gamma) in parts {
        let rows = RowsMut::strided_2d(&mut c.heads[first * cols..], [tokens, heads], [TOKEN * cols, cols]);
        plan.call_in_place(rows).gamma(gamma).run().expect(VALID);
    }
}

/// The rows of x in a packed tensor, with values that are other rows of x.
pub(crate) fn packed<T: Copy>(x: &[T], cols: usize) -> Vec<T> {
    let token = |rows: &[T]| [rows, &rows[..KEYS * cols]].concat();
    x.chunks_exact(HEADS * cols).flat_map(token).collect()
}

/// Puts the rows of x in their places in the packed tensor.
pub(crate) fn restore<T: Number>(case: &Case, c: &mut Call<'_, T>) {
    let tokens = c.heads.chunks_exact_mut(TOKEN * case.cols).zip(c.x.chunks_exact(HEADS * case.cols));
    tokens.for_each(|(token, x)| token[..x.len()].copy_from_slice(x));
}

/// The queries and keys of a packed tensor.
pub(crate) fn rows<T: Copy>(case: &Case, heads: &[T]) -> Vec<T> {
    heads.chunks_exact(TOKEN * case.cols).flat_map(|token| &token[..HEADS * case.cols]).copied().collect()
}
