//! The plans of all operations as one: how each of them takes the buffers of a call.

use lanenorm::{Beside, Element, GradIo, Io, Isa, LayerNorm, Parallelism, ParamGrads, RmsNorm, Stats, StatsMut, Store};

use lanenorm_harness::number::Number;

use super::case::Case;
use super::placement::Call;
use super::variant::Variant;

/// Cases are valid and buffers fit, so that nothing can fail.
const VALID: &str = "the cases are valid";

/// A plan of any operation.
pub(crate) trait Plan: Sized {
    /// With all threads of the pool, or only the calling one.
    fn new(case: &Case, isa: Isa, threads: bool, variant: Variant) -> Self;

    /// With a 1 + gamma and a beta for each group of rows.
    fn with_groups(self, groups: usize, repeat: usize) -> Self;

    /// The plain call.
    fn forward<T: Number>(&self, call: &mut Call<'_, T>);

    /// Any other, with gamma and beta if `affine`.
    fn forward_mixed<'a, T: Number, G: Beside<T>>(
        &self,
        io: Io<'a, T>,
        affine: Option<[&'a [G]; 2]>,
        stats: StatsMut<'a, T::Float>,
    );

    /// The elements of scratch memory that a backward call with so many rows can use.
    fn scratch_len<T: Element>(&self, rows: usize) -> usize;

    /// Allocates if there is no `scratch`.
    fn backward<T: Number, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
    );
}

fn parallelism(threads: bool) -> Parallelism {
    if threads { Parallelism::Auto } else { Parallelism::Serial }
}

fn store(variant: Variant) -> Store {
    match variant {
        Variant::Ordinary => Store::Ordinary,
        Variant::Streaming => Store::Streaming,
        _ => Store::Auto,
    }
}

impl Plan for LayerNorm {
    fn new(case: &Case, isa: Isa, threads: bool, variant: Variant) -> Self {
        let plan = Self::new(case.cols, case.eps).expect(VALID).with_isa(isa);
        plan.with_parallelism(parallelism(threads)).with_store(store(variant))
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
        stats: StatsMut<'a, T::Float>,
    ) {
        let [gamma, beta] = affine.map_or([None; 2], |affine| affine.map(Some));
        self.forward_mixed(io, gamma, beta, stats).expect(VALID);
    }

    fn scratch_len<T: Element>(&self, rows: usize) -> usize {
        self.backward_scratch_len::<T>(rows).expect(VALID)
    }

    fn backward<T: Number, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
    ) {
        match scratch {
            Some(scratch) => self.backward_with_scratch(io, gamma, stats, grads, scratch),
            None => self.backward_mixed(io, gamma, stats, grads),
        }
        .expect(VALID);
    }
}

impl Plan for RmsNorm {
    fn new(case: &Case, isa: Isa, threads: bool, variant: Variant) -> Self {
        let plan = Self::new(case.cols, case.eps).expect(VALID).with_isa(isa);
        plan.with_parallelism(parallelism(threads)).with_store(store(variant))
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
        stats: StatsMut<'a, T::Float>,
    ) {
        self.forward_mixed(io, affine.map(|[gamma, _]| gamma), stats.rstd).expect(VALID);
    }

    fn scratch_len<T: Element>(&self, rows: usize) -> usize {
        self.backward_scratch_len::<T>(rows).expect(VALID)
    }

    fn backward<T: Number, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
    ) {
        match scratch {
            Some(scratch) => self.backward_with_scratch(io, gamma, stats.rstd, grads.dgamma, scratch),
            None => self.backward_mixed(io, gamma, stats.rstd, grads.dgamma),
        }
        .expect(VALID);
    }
}
