//! A problem is the values that determine the bits; a call is everything that must not.

use std::fmt;

use lanenorm::{Isa, Parallelism, StatsMut, Store};

use super::{Buffer, KINDS, Operation, Plan, Random, assert_same_bits, special_row};

/// The operation, and the values of the rows, gamma, beta and eps.
#[derive(Clone)]
pub(crate) struct Problem {
    pub(crate) operation: Operation,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) x: Vec<f32>,
    pub(crate) gamma: Option<Vec<f32>>,
    /// Absent where the operation has none.
    pub(crate) beta: Option<Vec<f32>>,
    pub(crate) eps: f64,
}

/// All that a call returns. Statistics that the operation lacks are zeros.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) y: Vec<f32>,
    pub(crate) mean: Vec<f32>,
    pub(crate) mean_lo: Vec<f32>,
    pub(crate) rstd: Vec<f32>,
}

/// The tier, and how the buffers lie.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) isa: Isa,
    pub(crate) parallelism: Parallelism,
    pub(crate) store: Store,
    pub(crate) in_place: bool,
    pub(crate) x_gap: usize,
    pub(crate) y_gap: usize,
    /// Of x, y, gamma and beta, in elements from the start of a cache line.
    pub(crate) misalignment: [usize; 4],
}

impl Call {
    /// One thread, ordinary stores, contiguous rows, aligned, out of place.
    pub(crate) fn plain(isa: Isa) -> Self {
        Self {
            isa,
            parallelism: Parallelism::Serial,
            store: Store::Ordinary,
            in_place: false,
            x_gap: 0,
            y_gap: 0,
            misalignment: [0; 4],
        }
    }
}

impl Problem {
    /// LayerNorm of ordinary rows, each of its own offset, with gamma and beta.
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
        let mut x = vec![0.0; rows * cols];
        for (r, row) in x.chunks_exact_mut(cols.max(1)).enumerate() {
            let kind = kind(r, &mut random);
            special_row(kind, &mut random, row);
        }
        let mut vector = || Some((0..cols).map(|_| random.signed() * 2.0).collect());
        Self { operation: Operation::LayerNorm, rows, cols, x, gamma: vector(), beta: vector(), eps: 1e-5 }
    }

    /// The same values normalized by every operation, with all the vectors that it has.
    pub(crate) fn of_every_operation(self) -> [Self; 2] {
        [self.clone(), self.rms_norm(1.0)]
    }

    /// The same values normalized by every operation, with and without the vectors and numbers that it has.
    pub(crate) fn in_every_form(self) -> [Self; 7] {
        let (gamma, beta) = (self.gamma.clone(), self.beta.clone());
        [
            Self { gamma: None, beta: None, ..self.clone() },
            Self { gamma: None, ..self.clone() }.rms_norm(0.0),
            self.clone().rms_norm(0.0),
            Self { gamma, beta: None, ..self.clone() },
            self.clone().rms_norm(1.0),
            Self { gamma: None, beta, ..self.clone() },
            self,
        ]
    }

    /// RMSNorm of the same rows.
    pub(crate) fn rms_norm(self, offset: f32) -> Self {
        Self { operation: Operation::RmsNorm { offset }, beta: None, ..self }
    }

    pub(crate) fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// The problem of the rows from..to alone.
    pub(crate) fn only_rows(&self, from: usize, to: usize) -> Self {
        Self { rows: to - from, x: self.x[from * self.cols..to * self.cols].to_vec(), ..self.clone() }
    }

    /// The plan on one thread.
    pub(crate) fn plan(&self, isa: Isa) -> Plan {
        let plan = Plan::new(self.operation, self.cols, self.eps).expect("a valid eps");
        plan.with_isa(isa).with_parallelism(Parallelism::Serial)
    }

    /// The yardstick: the scalar tier in its plainest use.
    pub(crate) fn expected(&self) -> Output {
        self.run(&Call::plain(Isa::SCALAR))
    }

    /// Solves the problem. Panics if anything but y and the statistics has been written.
    #[track_caller]
    pub(crate) fn run(&self, call: &Call) -> Output {
        let [x_at, y_at, gamma_at, beta_at] = call.misalignment;
        let plan = self.plan(call.isa).with_parallelism(call.parallelism).with_store(call.store);
        let place = |v: &Option<Vec<f32>>, at| v.as_deref().map(|v| Buffer::holding(v, self.cols, 0, at));
        let (gamma, beta) = (place(&self.gamma, gamma_at), place(&self.beta, beta_at));
        let (gamma, beta) = (gamma.as_ref().map(Buffer::row), beta.as_ref().map(Buffer::row));
        let mut x = Buffer::holding(&self.x, self.cols, call.x_gap, x_at);
        let [mut mean, mut mean_lo, mut rstd] = [const { Vec::new() }; 3];
        for v in [&mut mean, &mut mean_lo, &mut rstd] {
            v.resize(self.rows, 0.0);
        }
        let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
        let y = if call.in_place {
            plan.forward_in_place_with_stats(x.rows_mut(), gamma, beta, stats).expect("a valid call");
            x.into_rows()
        } else {
            let mut y = Buffer::blank(self.rows, self.cols, call.y_gap, y_at);
            plan.forward_with_stats(x.rows(), gamma, beta, y.rows_mut(), stats).expect("a valid call");
            assert_same_bits(format_args!("{call:?}: x has changed"), self.cols, &self.x, &x.into_rows());
            y.into_rows()
        };
        Output { y, mean, mean_lo, rstd }
    }

    /// Panics unless the call gives the bits of `expected`.
    #[track_caller]
    pub(crate) fn assert_gives(&self, expected: &Output, call: &Call) {
        self.run(call).assert_same(expected, self.cols, format_args!("{self}, {call:?}"));
    }
}

impl Output {
    #[track_caller]
    pub(crate) fn assert_same(&self, expected: &Self, cols: usize, what: fmt::Arguments<'_>) {
        assert_same_bits(format_args!("{what}: mean"), 1, &expected.mean, &self.mean);
        assert_same_bits(format_args!("{what}: mean_lo"), 1, &expected.mean_lo, &self.mean_lo);
        assert_same_bits(format_args!("{what}: rstd"), 1, &expected.rstd, &self.rstd);
        assert_same_bits(format_args!("{what}: y"), cols, &expected.y, &self.y);
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gamma, beta) = (self.gamma.is_some(), self.beta.is_some());
        let Self { operation, rows, cols, eps, .. } = self;
        write!(f, "{operation:?}, {rows} x {cols}, gamma: {gamma}, beta: {beta}, eps: {eps:e}")
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { isa, parallelism, store, in_place, x_gap, y_gap, misalignment } = self;
        write!(f, "{isa}, {parallelism:?}, {store:?} stores, in place: {in_place}, gaps {x_gap} and {y_gap}, ")?;
        write!(f, "misaligned by {misalignment:?}")
    }
}
