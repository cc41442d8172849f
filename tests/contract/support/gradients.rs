//! The problem of the gradients, which has the values that determine the bits, and calls, which have everything that
//! must not.

use std::fmt;

use lanenorm::kernels::ops::backward::Parts;
use lanenorm::{Isa, Parallelism, Store};

use super::forms::{GradIo, ParamGrads, Stats};
use super::{
    Buffer, Call, DEFAULT, Environment, FORMS, KINDS, Problem, Random, Types, Value, assert_same_bits, special_row,
};

/// A problem of normalization, and the gradients that reach y and x. beta and the type of y make no difference.
#[derive(Clone)]
pub(crate) struct GradProblem<K: Types> {
    pub(crate) forward: Problem<K>,
    pub(crate) dy: Vec<K::X>,
    pub(crate) ds: Option<Vec<K::X>>,
}

/// The gradients that a call was asked for.
#[derive(Clone)]
pub(crate) struct Grads<K: Types> {
    pub(crate) dx: Option<Vec<K::X>>,
    pub(crate) dgamma: Option<Vec<K::F>>,
    pub(crate) dbeta: Option<Vec<K::F>>,
}

/// Where the statistics come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Statistics {
    /// They are computed again from x.
    Taken,
    /// Forward has kept them.
    Kept,
}

/// Where the scratch memory of a call comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scratch {
    Allocated,
    /// Given, filled with NaN: just enough for one task.
    Least,
    /// Given: as much as the plan asks for.
    Planned,
    /// Given: more than the plan asks for.
    Long,
}

/// The tier, how the buffers lie, and which gradients are wanted.
#[derive(Clone, Copy)]
pub(crate) struct GradCall {
    pub(crate) isa: Isa,
    pub(crate) parallelism: Parallelism,
    pub(crate) store: Store,
    /// Whether dx goes over dy.
    pub(crate) in_place: bool,
    /// The gaps between the rows of dy, x, ds and dx.
    pub(crate) gaps: [usize; 4],
    /// Where dy, x, ds, dx, gamma, dgamma and dbeta start, in elements from the start of a cache line.
    pub(crate) misalignment: [usize; 7],
    pub(crate) statistics: Statistics,
    pub(crate) scratch: Scratch,
    /// Whether dx, dgamma and dbeta are wanted. dbeta is not if the operation has none.
    pub(crate) wanted: [bool; 3],
    /// The environment of the calling thread.
    pub(crate) environment: Environment,
}

impl GradCall {
    /// The plain call: one thread, ordinary stores, contiguous rows, aligned, out of place, all gradients from x and dy
    /// alone.
    pub(crate) fn plain(isa: Isa) -> Self {
        Self {
            isa,
            parallelism: Parallelism::Serial,
            store: Store::Ordinary,
            in_place: false,
            gaps: [0; 4],
            misalignment: [0; 7],
            statistics: Statistics::Taken,
            scratch: Scratch::Allocated,
            wanted: [true; 3],
            environment: DEFAULT,
        }
    }
}

impl<K: Types> GradProblem<K> {
    /// Ordinary rows, and dy of about the same size.
    pub(crate) fn ordinary(rows: usize, cols: usize, seed: u64) -> Self {
        Self::of(Problem::ordinary(rows, cols, seed), |_, _| 0)
    }

    /// Rows of all kinds in x and in dy: about half of either are ordinary.
    pub(crate) fn mixed(rows: usize, cols: usize, seed: u64) -> Self {
        Self::of(Problem::mixed(rows, cols, seed), |_, random| {
            let kind = random.below(2 * KINDS);
            if kind < KINDS { kind } else { 0 }
        })
    }

    /// Any rows, with rows of dy of the given kinds.
    pub(crate) fn of(forward: Problem<K>, kind: impl Fn(usize, &mut Random) -> usize) -> Self {
        let Problem { rows, cols, .. } = forward;
        let mut random = Random::new(0xd7 ^ (cols as u64) << 24 ^ (rows as u64) << 8);
        let mut dy = vec![K::X::default(); rows * cols];
        for (r, row) in dy.chunks_exact_mut(cols.max(1)).enumerate() {
            let kind = kind(r, &mut random);
            special_row(kind, &mut random, row);
        }
        Self { forward, dy, ds: None }
    }

    /// The same problem with a ds, which is ordinary but for a few numbers.
    pub(crate) fn with_ds(self) -> Self {
        let mut random = Random::new(0xd5 ^ self.dy.len() as u64);
        let special = [K::X::INFINITY, -K::X::QUIET_NAN, K::X::MAX, K::X::of(-0.0), K::X::SMALLEST];
        let ds = self.dy.iter().map(|_| match random.below(1000) {
            0 => special[random.below(special.len())],
            _ => K::X::of(K::X::signed(&mut random)),
        });
        Self { ds: Some(ds.collect()), ..self }
    }

    /// The same values in all forms of problems, half of them with ds.
    pub(crate) fn in_every_form(self) -> [Self; FORMS] {
        let Self { forward, dy, .. } = self;
        let mut number = 0;
        forward.in_every_form().map(|forward| {
            number += 1;
            let problem = Self { forward, dy: dy.clone(), ds: None };
            if number % 4 < 2 { problem } else { problem.with_ds() }
        })
    }

    /// The same values with every operation.
    pub(crate) fn of_every_operation(self) -> [Self; 2] {
        let Self { forward, dy, ds } = self;
        forward.of_every_operation().map(|forward| Self { forward, dy: dy.clone(), ds: ds.clone() })
    }

    pub(crate) fn rms_norm(self, offset: f32) -> Self {
        Self { forward: self.forward.rms_norm(offset), ..self }
    }

    pub(crate) fn with_eps(self, eps: f64) -> Self {
        Self { forward: self.forward.with_eps(eps), ..self }
    }

    /// The problem of some of the rows, all of one group, with the gamma of the group.
    pub(crate) fn only(&self, rows: &[usize]) -> Self {
        let cols = self.forward.cols;
        let of_rows = |v: &[K::X]| rows.iter().flat_map(|r| v[r * cols..][..cols].to_vec()).collect();
        let one = self.forward.only_row(*rows.first().expect("a row"));
        let forward = Problem { rows: rows.len(), x: of_rows(&self.forward.x), ..one };
        Self { forward, dy: of_rows(&self.dy), ds: self.ds.as_deref().map(of_rows) }
    }

    /// The yardstick: the scalar tier in its plainest use.
    pub(crate) fn expected(&self) -> Grads<K> {
        self.run(&GradCall::plain(Isa::SCALAR))
    }

    /// Panics unless the call gives the bits of `expected`.
    #[track_caller]
    pub(crate) fn assert_gives(&self, expected: &Grads<K>, call: &GradCall) {
        self.run(call).assert_same(expected, self.forward.cols, format_args!("{self}, {call:?}"));
    }

    /// The least number of elements of scratch memory that is not an error.
    pub(crate) fn least_scratch(&self) -> usize {
        let Problem { operation, groups: (groups, _), rows, cols, .. } = self.forward;
        let (parts, centered) = (Parts::new(rows / groups, cols), operation.is_layer_norm());
        let partial = parts.partial_len::<K::X>(centered).expect("a length");
        partial * parts.count() + parts.work_len::<K::X>(centered).expect("a length")
    }

    /// Solves the problem. Panics if anything but the gradients that are wanted has been written.
    #[track_caller]
    pub(crate) fn run(&self, call: &GradCall) -> Grads<K> {
        let problem = &self.forward;
        let Problem { groups: (groups, _), rows, cols, .. } = *problem;
        let [dy_gap, x_gap, ds_gap, dx_gap] = call.gaps;
        let [dy_at, x_at, ds_at, dx_at, gamma_at, dgamma_at, dbeta_at] = call.misalignment;
        let [wants_dx, wants_dgamma, wants_dbeta] = call.wanted;
        let centered = problem.operation.is_layer_norm();

        let mut dy = Buffer::holding(&self.dy, cols, dy_gap, dy_at);
        let x = Buffer::holding(&problem.x, cols, x_gap, x_at);
        let ds = self.ds.as_ref().filter(|_| wants_dx).map(|ds| Buffer::holding(ds, cols, ds_gap, ds_at));
        let mut dx = (wants_dx && !call.in_place).then(|| Buffer::blank(rows, cols, dx_gap, dx_at));
        let gamma = problem.gamma.as_ref().map(|gamma| Buffer::holding(gamma, cols, 0, gamma_at));
        let per_group = |wanted: bool, at| wanted.then(|| Buffer::blank(groups, cols, 0, at));
        let mut dgamma = per_group(wants_dgamma, dgamma_at);
        let mut dbeta = per_group(wants_dbeta && centered, dbeta_at);

        let kept = match call.statistics {
            Statistics::Kept => Some(problem.run(&Call::plain(call.isa))),
            Statistics::Taken => None,
        };
        let kept = kept.as_ref();
        let mean = kept.filter(|_| centered);
        let stats = Stats {
            mean: mean.map(|kept| &kept.mean[..]),
            mean_lo: mean.map(|kept| &kept.mean_lo[..]),
            rstd: kept.map(|kept| &kept.rstd[..]),
        };

        let plan = problem.plan(call.isa).with_parallelism(call.parallelism).with_store(call.store);
        let planned = plan.backward_scratch_len::<K::X>(rows).expect("a length");
        let scratch = match call.scratch {
            Scratch::Allocated => None,
            Scratch::Least => Some(self.least_scratch()),
            Scratch::Planned => Some(planned),
            Scratch::Long => Some(planned + 1000),
        };
        let io = match &mut dx {
            Some(dx) => GradIo::new(dy.rows(), x.rows(), dx.rows_mut()),
            None if wants_dx => GradIo::in_place(dy.rows_mut(), x.rows()),
            None => GradIo::without_dx(dy.rows(), x.rows()),
        };
        let io = match &ds {
            Some(ds) => io.with_ds(ds.rows()),
            None => io,
        };
        let gamma = gamma.as_ref().map(Buffer::contiguous);
        let grads = ParamGrads {
            dgamma: dgamma.as_mut().map(Buffer::contiguous_mut),
            dbeta: dbeta.as_mut().map(Buffer::contiguous_mut),
        };
        let mut scratch = scratch.map(|len| vec![-K::F::QUIET_NAN; len]);
        let result = call.environment.within(|| match &mut scratch {
            Some(scratch) => plan.backward_with_scratch(io, gamma, stats, grads, scratch),
            None => plan.backward_mixed(io, gamma, stats, grads),
        });
        assert_eq!(result, Ok(()), "{self}, {call:?}");

        assert_same_bits(format_args!("{call:?}: x has changed"), cols, &problem.x, &x.into_rows());
        if let (Some(held), Some(ds)) = (&self.ds, ds) {
            assert_same_bits(format_args!("{call:?}: ds has changed"), cols, held, &ds.into_rows());
        }
        let dy = dy.into_rows();
        let dx = if wants_dx && call.in_place {
            Some(dy)
        } else {
            assert_same_bits(format_args!("{call:?}: dy has changed"), cols, &self.dy, &dy);
            dx.map(Buffer::into_rows)
        };
        Grads { dx, dgamma: dgamma.map(Buffer::into_rows), dbeta: dbeta.map(Buffer::into_rows) }
    }
}

impl<K: Types> Grads<K> {
    /// Asserts that the gradients that were wanted have the expected bits.
    #[track_caller]
    pub(crate) fn assert_same(&self, expected: &Self, cols: usize, what: fmt::Arguments<'_>) {
        if let Some(dx) = &self.dx {
            assert_same_bits(format_args!("{what}: dx"), cols, expected.dx(), dx);
        }
        if let Some(dgamma) = &self.dgamma {
            assert_same_bits(format_args!("{what}: dgamma"), cols, expected.dgamma(), dgamma);
        }
        if let Some(dbeta) = &self.dbeta {
            assert_same_bits(format_args!("{what}: dbeta"), cols, expected.dbeta(), dbeta);
        }
    }

    pub(crate) fn dx(&self) -> &[K::X] {
        self.dx.as_ref().expect("dx was wanted")
    }

    pub(crate) fn dgamma(&self) -> &[K::F] {
        self.dgamma.as_ref().expect("dgamma was wanted")
    }

    pub(crate) fn dbeta(&self) -> &[K::F] {
        self.dbeta.as_ref().expect("dbeta was wanted")
    }
}

impl<K: Types> fmt::Display for GradProblem<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { forward: Problem { operation, groups, rows, cols, gamma, eps, .. }, ds, .. } = self;
        write!(f, "{}: gradients of {operation:?}, {rows} x {cols}, groups: {groups:?}, ", K::NAME)?;
        write!(f, "gamma: {}, ds: {}, eps: {eps:e}", gamma.is_some(), ds.is_some())
    }
}

impl fmt::Debug for GradCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { isa, parallelism, store, in_place, gaps, misalignment, statistics, scratch, wanted, environment } =
            self;
        write!(f, "{isa}, {parallelism:?}, {store:?} stores, in place: {in_place}, gaps {gaps:?}, ")?;
        write!(
            f,
            "misaligned by {misalignment:?}, statistics {statistics:?}, scratch {scratch:?}, wanted: {wanted:?}, "
        )?;
        write!(f, "{environment:?}")
    }
}
