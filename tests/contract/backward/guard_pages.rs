//! Nothing outside the buffers of a backward call is read or written: each ends exactly at an unmapped page, or begins
//! exactly after one. `placement` checks the gaps between rows.

use lanenorm::{Isa, Rows, RowsMut, Store};

use crate::guard_pages::Guarded;
use crate::support::forms::{GradIo, ParamGrads, Stats};
use crate::support::{Call, GradProblem, Grads, Output, Types, Value, assert_same_bits, quick, tiers};

/// All buffers, mapped once.
struct Memory<K: Types> {
    dy: Guarded<K::X>,
    x: Guarded<K::X>,
    ds: Guarded<K::X>,
    dx: Guarded<K::X>,
    gamma: Guarded<K::G>,
    /// mean, `mean_lo`, rstd, dgamma, dbeta, scratch.
    floats: [Guarded<K::F>; 6],
}

/// The rows with a stride. The buffer ends with the last row.
fn spread<V: Value>(rows: &[V], cols: usize, stride: usize) -> Vec<V> {
    let mut spread = vec![V::SENTINEL; rows.len() / cols * stride + cols - stride];
    for (row, at) in rows.chunks_exact(cols).zip((0..).step_by(stride)) {
        spread[at..at + cols].copy_from_slice(row);
    }
    spread
}

fn gathered<V: Value>(spread: &[V], cols: usize, stride: usize) -> Vec<V> {
    spread.chunks(stride).flat_map(|row| row[..cols].to_vec()).collect()
}

impl<K: Types> Memory<K> {
    fn new() -> Self {
        let xs = || Guarded::new(MOST);
        let floats = [ROWS[2], ROWS[2], ROWS[2], MOST, MOST, 8 * MOST].map(Guarded::new);
        Self { dy: xs(), x: xs(), ds: xs(), dx: xs(), gamma: Guarded::new(MOST), floats }
    }

    fn check(&mut self, problem: &GradProblem<K>, expected: &Grads<K>, kept: &Output<K>, isa: Isa, at_end: bool) {
        let GradProblem { forward, dy: dy_values, ds: ds_values } = problem;
        let (rows, cols, centered) = (forward.rows, forward.cols, forward.operation.is_layer_norm());
        let [mean, mean_lo, rstd, dgamma, dbeta, scratch] = &mut self.floats;
        let gamma = forward.gamma.as_ref().map(|v| &*self.gamma.holding(v, at_end));
        let (mean, mean_lo) = (mean.holding(&kept.mean, at_end), mean_lo.holding(&kept.mean_lo, at_end));
        let (mean, mean_lo) = (centered.then_some(&*mean), centered.then_some(&*mean_lo));
        let stats = Stats { mean, mean_lo, rstd: Some(rstd.holding(&kept.rstd, at_end)) };
        let plan = forward.plan(isa);
        let scratch = scratch.zeros(problem.least_scratch(), at_end);
        for (store, in_place, gap) in
            [(Store::Ordinary, false, 0), (Store::Streaming, false, 1), (Store::Ordinary, true, 3)]
        {
            let (stats, stride) = (if in_place { Stats::default() } else { stats }, cols + gap);
            let held = |v: &[K::X]| spread(v, cols, stride);
            let dy = self.dy.holding(&held(dy_values), at_end);
            let x = Rows::strided(self.x.holding(&held(&forward.x), at_end), rows, stride);
            let dx = self.dx.zeros(dy.len(), at_end);
            let io = if in_place {
                GradIo::in_place(RowsMut::strided(&mut *dy, rows, stride), x)
            } else {
                GradIo::new(Rows::strided(dy, rows, stride), x, RowsMut::strided(&mut *dx, rows, stride))
            };
            let io = match ds_values {
                Some(ds) => io.with_ds(Rows::strided(self.ds.holding(&held(ds), at_end), rows, stride)),
                None => io,
            };
            let (dgamma, dbeta) = (dgamma.zeros(cols, at_end), dbeta.zeros(cols, at_end));
            let grads = ParamGrads { dgamma: Some(&mut *dgamma), dbeta: centered.then_some(&mut *dbeta) };
            let plan = plan.with_store(store);
            plan.backward_with_scratch(io, gamma, stats, grads, scratch).expect("a valid call");

            let what = format!("{isa}, {problem}, {store:?}, in place: {in_place}, gap {gap}, at end: {at_end}");
            let dx = gathered(if in_place { dy } else { dx }, cols, stride);
            assert_same_bits(format_args!("{what}: dx"), cols, expected.dx(), &dx);
            assert_same_bits(format_args!("{what}: dgamma"), cols, expected.dgamma(), dgamma);
            if centered {
                assert_same_bits(format_args!("{what}: dbeta"), cols, expected.dbeta(), dbeta);
            }
        }
    }
}

fn columns() -> impl Iterator<Item = usize> {
    (1..=140).filter(|c| !quick() || c % 13 == 0).chain([191, 192, 193, 1023, 1024, 1025, 2049])
}

/// One row, less than a block, a block with a row left over.
const ROWS: [usize; 3] = [1, 3, 5];

const MOST: usize = 5 * 2060;

fn buffers_between_unmapped_pages<K: Types>() {
    let mut memory = Memory::<K>::new();
    for cols in columns() {
        for rows in ROWS {
            let ordinary = GradProblem::<K>::ordinary(rows, cols, 1).in_every_form();
            let problems = ordinary.into_iter().chain(GradProblem::mixed(rows, cols, 2).of_every_operation());
            for (i, problem) in problems.enumerate() {
                if !K::takes(i + cols + rows) || (cols + i) % 2 == 0 {
                    continue;
                }
                let (expected, kept) = (problem.expected(), problem.forward.run(&Call::plain(Isa::SCALAR)));
                for &isa in tiers() {
                    for at_end in [true, false] {
                        memory.check(&problem, &expected, &kept, isa, at_end);
                    }
                }
            }
        }
    }
}

for_all_gradients!(buffers_between_unmapped_pages);
