//! The plans of all operations as one: how each of them takes the buffers of a call.

use lanenorm::{Beside, Io, Isa, LayerNorm, Parallelism, RmsNorm, StatsMut, Store};

use super::case::Case;
use super::number::Number;
use super::placement::Call;

/// Cases are valid and buffers fit, so that nothing can fail.
const VALID: &str = "the cases are valid";

/// A plan of any operation.
pub(crate) trait Plan: Sized {
    fn new(case: &Case, isa: Isa, parallelism: Parallelism, store: Store) -> Self;

    /// With a 1 + gamma and a beta for each group of rows.
    fn with_groups(self, groups: usize, repeat: usize) -> Self;

    /// The plain call.
    fn forward<T: Number>(&self, call: &mut Call<'_, T>);

    /// Any other, with gamma and beta if `affine`, and with mean and rstd if `stats`.
    fn forward_mixed<'a, T: Number, G: Beside<T>>(
        &self,
        io: Io<'a, T>,
        affine: Option<[&'a [G]; 2]>,
        stats: Option<[&'a mut [T::Float]; 2]>,
    );
}

impl Plan for LayerNorm {
    fn new(case: &Case, isa: Isa, parallelism: Parallelism, store: Store) -> Self {
        Self::new(case.cols, case.eps).expect(VALID).with_isa(isa).with_parallelism(parallelism).with_store(store)
    }

    fn with_groups(self, groups: usize, repeat: usize) -> Self {
        self.with_groups(groups, repeat).expect(VALID).with_offset(1.0)
    }

    fn forward<T: Number>(&self, c: &mut Call<'_, T>) {
        let [gamma, beta] = c.affine;
        self.forward(c.x, Some(gamma), Some(beta), &mut *c.y).expect(VALID);
    }

    fn forward_mixed<'a, T: Number, G: Beside<T>>(
        &self,
        io: Io<'a, T>,
        affine: Option<[&'a [G]; 2]>,
        stats: Option<[&'a mut [T::Float]; 2]>,
    ) {
        let [gamma, beta] = affine.map_or([None; 2], |affine| affine.map(Some));
        let [mean, rstd] = stats.map_or([None, None], |stats| stats.map(Some));
        self.forward_mixed(io, gamma, beta, StatsMut { mean, rstd, ..StatsMut::default() }).expect(VALID);
    }
}

impl Plan for RmsNorm {
    fn new(case: &Case, isa: Isa, parallelism: Parallelism, store: Store) -> Self {
        Self::new(case.cols, case.eps).expect(VALID).with_isa(isa).with_parallelism(parallelism).with_store(store)
    }

    fn with_groups(self, groups: usize, repeat: usize) -> Self {
        self.with_groups(groups, repeat).expect(VALID).with_offset(1.0)
    }

    fn forward<T: Number>(&self, c: &mut Call<'_, T>) {
        let [gamma, _] = c.affine;
        self.forward(c.x, Some(gamma), &mut *c.y).expect(VALID);
    }

    fn forward_mixed<'a, T: Number, G: Beside<T>>(
        &self,
        io: Io<'a, T>,
        affine: Option<[&'a [G]; 2]>,
        stats: Option<[&'a mut [T::Float]; 2]>,
    ) {
        let (gamma, rstd) = (affine.map(|[gamma, _]| gamma), stats.map(|[_, rstd]| rstd));
        self.forward_mixed(io, gamma, rstd).expect(VALID);
    }
}
