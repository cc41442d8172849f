//! A problem is the values that determine the bits; a call is everything that must not.

use std::fmt;

use lanenorm::{Isa, Parallelism, Store};

use super::forms::{Io, StatsMut};
use super::{
    Buffer, DEFAULT, Environment, KINDS, Operation, Plan, Random, Types, Value, assert_same_bits, special_row,
};

/// The operation, and the values of the rows, gamma, beta and eps.
#[derive(Clone)]
pub(crate) struct Problem<K: Types> {
    pub(crate) operation: Operation,
    /// The number of groups, and the number of successive rows that each group serves.
    pub(crate) groups: (usize, usize),
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) x: Vec<K::X>,
    /// gamma of all groups.
    pub(crate) gamma: Option<Vec<K::G>>,
    /// beta of all groups. Absent if the operation has none.
    pub(crate) beta: Option<Vec<K::G>>,
    pub(crate) eps: f64,
}

/// All outputs of a call. Statistics that the operation lacks are zeros.
#[derive(Clone)]
pub(crate) struct Output<K: Types> {
    pub(crate) y: Vec<K::Y>,
    pub(crate) mean: Vec<K::F>,
    pub(crate) mean_lo: Vec<K::F>,
    pub(crate) rstd: Vec<K::F>,
}

/// The tier, and how the buffers lie.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) isa: Isa,
    pub(crate) parallelism: Parallelism,
    pub(crate) store: Store,
    /// Whether y goes over x. Of no effect if y has another type than x.
    pub(crate) in_place: bool,
    pub(crate) x_gap: usize,
    pub(crate) y_gap: usize,
    /// Where x, y, gamma and beta start, in elements from the start of a cache line.
    pub(crate) misalignment: [usize; 4],
    /// The environment of the calling thread.
    pub(crate) environment: Environment,
}

impl Call {
    /// The plain call: one thread, ordinary stores, contiguous rows, aligned, out of place.
    pub(crate) fn plain(isa: Isa) -> Self {
        Self {
            isa,
            parallelism: Parallelism::Serial,
            store: Store::Ordinary,
            in_place: false,
            x_gap: 0,
            y_gap: 0,
            misalignment: [0; 4],
            environment: DEFAULT,
        }
    }
}

/// The number of problems that [`Problem::in_every_form`] gives.
pub(crate) const FORMS: usize = 8;

impl<K: Types> Problem<K> {
    /// LayerNorm of ordinary rows, each with an offset of its own, with gamma and beta.
    pub(crate) fn ordinary(rows: usize, cols: usize, seed: u64) -> Self {
        Self::new(rows, cols, seed, |r, _| r % 2)
    }

    /// LayerNorm of rows of all kinds, about half of them ordinary, with gamma and beta.
    pub(crate) fn mixed(rows: usize, cols: usize, seed: u64) -> Self {
        Self::new(rows, cols, seed, |r, random| {
            let kind = random.below(2 * KINDS);
            if kind < KINDS { kind } else { r % 2 }
        })
    }

    fn new(rows: usize, cols: usize, seed: u64, kind: impl Fn(usize, &mut Random) -> usize) -> Self {
        let rows = if cols == 0 { 0 } else { rows };
        let mut random = Random::new(seed ^ (cols as u64) << 24 ^ (rows as u64) << 8);
        let mut x = vec![K::X::default(); rows * cols];
        for (r, row) in x.chunks_exact_mut(cols.max(1)).enumerate() {
            let kind = kind(r, &mut random);
            special_row(kind, &mut random, row);
        }
        let operation = Operation::LayerNorm { offset: 0.0 };
        let problem = Self { operation, groups: (1, 1), rows, cols, x, gamma: None, beta: None, eps: 1e-5 };
        problem.with_vectors(&mut random)
    }

    /// The same problem with a gamma and a beta for each group.
    fn with_vectors(self, random: &mut Random) -> Self {
        let len = self.groups.0 * self.cols;
        let mut vector = || Some((0..len).map(|_| K::G::of(K::G::signed(random) * 2.0)).collect());
        Self { gamma: vector(), beta: vector(), ..self }
    }

    /// The same rows in groups of `repeat` rows, with a gamma and a beta for each group.
    pub(crate) fn with_groups(self, groups: usize, repeat: usize) -> Self {
        let mut random = Random::new(groups as u64 ^ (self.cols as u64) << 24);
        let grouped = Self { groups: (groups, repeat), ..self }.with_vectors(&mut random);
        if grouped.operation.is_layer_norm() { grouped } else { Self { beta: None, ..grouped } }
    }

    /// The same values for every operation, with all vectors that the operation has.
    pub(crate) fn of_every_operation(self) -> [Self; 2] {
        [self.clone(), self.rms_norm(1.0)]
    }

    /// The same values for every operation, with and without the vectors and numbers that the operation has.
    pub(crate) fn in_every_form(self) -> [Self; FORMS] {
        let (gamma, beta) = (self.gamma.clone(), self.beta.clone());
        [
            Self { gamma: None, beta: None, ..self.clone() },
            Self { gamma: None, ..self.clone() }.rms_norm(0.0),
            self.clone().rms_norm(0.0),
            Self { gamma, beta: None, ..self.clone() },
            self.clone().rms_norm(1.0),
            Self { gamma: None, beta, ..self.clone() },
            self.clone().with_offset(1.0),
            self,
        ]
    }

    /// RMSNorm of the same rows.
    pub(crate) fn rms_norm(self, offset: f32) -> Self {
        Self { operation: Operation::RmsNorm { offset }, beta: None, ..self }
    }

    pub(crate) fn with_offset(self, offset: f32) -> Self {
        let operation = match self.operation {
            Operation::LayerNorm { .. } => Operation::LayerNorm { offset },
            Operation::RmsNorm { .. } => Operation::RmsNorm { offset },
        };
        Self { operation, ..self }
    }

    pub(crate) fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// The problem of the rows from..to alone, for a problem with one group.
    pub(crate) fn only_rows(&self, from: usize, to: usize) -> Self {
        assert_eq!(self.groups, (1, 1));
        Self { rows: to - from, x: self.x[from * self.cols..to * self.cols].to_vec(), ..self.clone() }
    }

    /// The problem of row `r` alone, with the gamma and the beta of its group.
    pub(crate) fn only_row(&self, r: usize) -> Self {
        let (groups, repeat) = self.groups;
        let at = r / repeat % groups * self.cols;
        let part = |v: &Option<Vec<K::G>>| v.as_ref().map(|v| v[at..][..self.cols].to_vec());
        let x = self.x[r * self.cols..][..self.cols].to_vec();
        Self { groups: (1, 1), rows: 1, x, gamma: part(&self.gamma), beta: part(&self.beta), ..self.clone() }
    }

    /// The plan on one thread.
    pub(crate) fn plan(&self, isa: Isa) -> Plan {
        let plan = Plan::new(self.operation, self.cols, self.eps).expect("a valid eps");
        let plan = plan.with_groups(self.groups.0, self.groups.1).expect("groups");
        plan.with_isa(isa).with_parallelism(Parallelism::Serial)
    }

    /// The yardstick: the scalar tier in its plainest use.
    pub(crate) fn expected(&self) -> Output<K> {
        self.run(&Call::plain(Isa::SCALAR))
    }

    /// Solves the problem. Panics if anything but y and the statistics has been written.
    #[track_caller]
    pub(crate) fn run(&self, call: &Call) -> Output<K> {
        let [x_at, y_at, gamma_at, beta_at] = call.misalignment;
        let plan = || self.plan(call.isa).with_parallelism(call.parallelism).with_store(call.store);
        let place = |v: &Option<Vec<K::G>>, at| v.as_deref().map(|v| Buffer::holding(v, self.cols, 0, at));
        let (gamma, beta) = (place(&self.gamma, gamma_at), place(&self.beta, beta_at));
        let (gamma, beta) = (gamma.as_ref().map(Buffer::contiguous), beta.as_ref().map(Buffer::contiguous));
        let mut x = Buffer::holding(&self.x, self.cols, call.x_gap, x_at);
        let [mut mean, mut mean_lo, mut rstd] = [const { Vec::new() }; 3];
        for v in [&mut mean, &mut mean_lo, &mut rstd] {
            v.resize(self.rows, K::F::default());
        }
        let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
        let y = if call.in_place && K::IN_PLACE {
            let io = K::in_place(x.rows_mut()).expect("one type");
            let result = call.environment.within(|| plan().call_mixed(io, gamma, beta, stats));
            assert_eq!(result, Ok(()), "{self}, {call:?}");
            x.into_rows().into_iter().map(|y| K::Y::of_bits(y.bits())).collect()
        } else {
            let mut y = Buffer::blank(self.rows, self.cols, call.y_gap, y_at);
            let io = Io::new(x.rows(), y.rows_mut());
            let result = call.environment.within(|| plan().call_mixed(io, gamma, beta, stats));
            assert_eq!(result, Ok(()), "{self}, {call:?}");
            assert_same_bits(format_args!("{call:?}: x has changed"), self.cols, &self.x, &x.into_rows());
            y.into_rows()
        };
        Output { y, mean, mean_lo, rstd }
    }

    /// Panics unless the call gives the bits of `expected`.
    #[track_caller]
    pub(crate) fn assert_gives(&self, expected: &Output<K>, call: &Call) {
        self.run(call).assert_same(expected, self.cols, format_args!("{self}, {call:?}"));
    }
}

impl<K: Types> Output<K> {
    #[track_caller]
    pub(crate) fn assert_same(&self, expected: &Self, cols: usize, what: fmt::Arguments<'_>) {
        assert_same_bits(format_args!("{what}: mean"), 1, &expected.mean, &self.mean);
        assert_same_bits(format_args!("{what}: mean_lo"), 1, &expected.mean_lo, &self.mean_lo);
        assert_same_bits(format_args!("{what}: rstd"), 1, &expected.rstd, &self.rstd);
        assert_same_bits(format_args!("{what}: y"), cols, &expected.y, &self.y);
    }
}

impl<K: Types> fmt::Display for Problem<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gamma, beta) = (self.gamma.is_some(), self.beta.is_some());
        let Self { operation, groups, rows, cols, eps, .. } = self;
        write!(f, "{}: {operation:?}, {rows} x {cols}, groups: {groups:?}, ", K::NAME)?;
        write!(f, "gamma: {gamma}, beta: {beta}, eps: {eps:e}")
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { isa, parallelism, store, in_place, x_gap, y_gap, misalignment, environment } = self;
        write!(f, "{isa}, {parallelism:?}, {store:?} stores, in place: {in_place}, gaps {x_gap} and {y_gap}, ")?;
        write!(f, "misaligned by {misalignment:?}, {environment:?}")
    }
}
