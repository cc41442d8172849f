//! The plans of all operations as one: how each of them takes the buffers of a call.

use lanenorm::{Isa, LayerNorm, Parallelism, RmsNorm, StatsMut, Store, Sum};

use super::case::Case;
use super::placement::Call;

/// Cases are valid and buffers fit, so that nothing can fail.
const VALID: &str = "the cases are valid";

/// A plan of any operation.
pub(crate) trait Plan {
    fn new(case: &Case, isa: Isa, parallelism: Parallelism, store: Store) -> Self;
    fn forward(&self, call: &mut Call<'_>);
    fn forward_in_place(&self, call: &mut Call<'_>);
    fn forward_without_affine(&self, call: &mut Call<'_>);
    fn forward_with_stats(&self, call: &mut Call<'_>);
    fn forward_sum(&self, call: &mut Call<'_>);
}

impl Plan for LayerNorm {
    fn new(case: &Case, isa: Isa, parallelism: Parallelism, store: Store) -> Self {
        Self::new(case.cols, case.eps).expect(VALID).with_isa(isa).with_parallelism(parallelism).with_store(store)
    }

    fn forward(&self, c: &mut Call<'_>) {
        self.forward(c.x, Some(c.gamma), Some(c.beta), &mut *c.y).expect(VALID);
    }

    fn forward_in_place(&self, c: &mut Call<'_>) {
        self.forward_in_place(&mut *c.y, Some(c.gamma), Some(c.beta)).expect(VALID);
    }

    fn forward_without_affine(&self, c: &mut Call<'_>) {
        self.forward(c.x, None, None, &mut *c.y).expect(VALID);
    }

    fn forward_with_stats(&self, c: &mut Call<'_>) {
        let stats = StatsMut { mean: Some(c.mean), rstd: Some(c.rstd), ..StatsMut::default() };
        self.forward_with_stats(c.x, Some(c.gamma), Some(c.beta), &mut *c.y, stats).expect(VALID);
    }

    fn forward_sum(&self, c: &mut Call<'_>) {
        let sum = Sum::new(c.x, c.residual, &mut *c.s);
        self.forward_sum(sum, Some(c.gamma), Some(c.beta), &mut *c.y).expect(VALID);
    }
}

impl Plan for RmsNorm {
    fn new(case: &Case, isa: Isa, parallelism: Parallelism, store: Store) -> Self {
        Self::new(case.cols, case.eps).expect(VALID).with_isa(isa).with_parallelism(parallelism).with_store(store)
    }

    fn forward(&self, c: &mut Call<'_>) {
        self.forward(c.x, Some(c.gamma), &mut *c.y).expect(VALID);
    }

    fn forward_in_place(&self, c: &mut Call<'_>) {
        self.forward_in_place(&mut *c.y, Some(c.gamma)).expect(VALID);
    }

    fn forward_without_affine(&self, c: &mut Call<'_>) {
        self.forward(c.x, None, &mut *c.y).expect(VALID);
    }

    fn forward_with_stats(&self, c: &mut Call<'_>) {
        self.forward_with_rstd(c.x, Some(c.gamma), &mut *c.y, c.rstd).expect(VALID);
    }

    fn forward_sum(&self, c: &mut Call<'_>) {
        self.forward_sum(Sum::new(c.x, c.residual, &mut *c.s), Some(c.gamma), &mut *c.y).expect(VALID);
    }
}
