//! Rows at two strides: they have the bits of contiguous rows, on all tiers, in every form of a call, for any number of
//! threads. Nothing between them is written. What cannot be is refused with the numbers, before anything is written.

use lanenorm::kernels::Error as Refused;
use lanenorm::{
    Companion, Element, Error, Isa, LayerNorm, Misfit, Moments, Parallelism, RmsNorm, Rows, RowsMut, Store, bf16, f16,
};

use crate::support::forms::{GradIo, Io, ParamGrads, Stats, StatsMut, Sum};
use crate::support::{
    GradCall, GradProblem, Grads, Output, Plan, Problem, Types, Value, assert_same_bits, quick, tiers,
};

/// How a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Contiguous,
    Strided,
    /// Some heads of tokens that have more: the rows of a run touch.
    Packed,
    /// Gaps between rows, and others between runs.
    Gaps,
    /// The larger stride is that of rows: axes have been exchanged.
    Woven,
    /// A run begins before the run ahead of it has ended, and their rows lie between one another.
    Interleaved,
}

const KINDS: [Kind; 6] = [Kind::Contiguous, Kind::Strided, Kind::Packed, Kind::Gaps, Kind::Woven, Kind::Interleaved];

/// Rows in a buffer that has a value around them which nobody may touch.
struct Spread<V> {
    data: Vec<V>,
    kind: Kind,
    shape: [usize; 2],
    strides: [usize; 2],
    cols: usize,
}

impl<V: Value> Spread<V> {
    fn blank(kind: Kind, shape: [usize; 2], cols: usize) -> Self {
        let [outer, inner] = shape;
        let strides = match kind {
            Kind::Contiguous => [inner * cols, cols],
            Kind::Strided => [inner * (cols + 3), cols + 3],
            Kind::Packed => [inner * cols + 7, cols],
            Kind::Gaps => [inner * (cols + 2) + 5, cols + 2],
            Kind::Woven => [cols + 1, outer * (cols + 1) + 2],
            Kind::Interleaved => [(outer * inner.saturating_sub(2) + 1) * (cols + 1), outer * (cols + 1)],
        };
        let len = (outer - 1) * strides[0] + (inner - 1) * strides[1] + cols;
        Self { data: vec![V::SENTINEL; len], kind, shape, strides, cols }
    }

    fn holding(contiguous: &[V], kind: Kind, shape: [usize; 2], cols: usize) -> Self {
        let mut this = Self::blank(kind, shape, cols);
        for (r, row) in contiguous.chunks_exact(cols).enumerate() {
            let at = this.start(r);
            this.data[at..at + cols].copy_from_slice(row);
        }
        this
    }

    fn start(&self, r: usize) -> usize {
        r / self.shape[1] * self.strides[0] + r % self.shape[1] * self.strides[1]
    }

    fn rows(&self) -> Rows<'_, V> {
        match self.kind {
            Kind::Contiguous => Rows::from(&self.data),
            Kind::Strided => Rows::strided(&self.data, self.shape[0] * self.shape[1], self.strides[1]),
            _ => Rows::strided_2d(&self.data, self.shape, self.strides),
        }
    }

    fn rows_mut(&mut self) -> RowsMut<'_, V> {
        match self.kind {
            Kind::Contiguous => RowsMut::from(&mut self.data),
            Kind::Strided => RowsMut::strided(&mut self.data, self.shape[0] * self.shape[1], self.strides[1]),
            _ => RowsMut::strided_2d(&mut self.data, self.shape, self.strides),
        }
    }

    /// The rows, one after the other. Panics if anything between them has changed.
    #[track_caller]
    fn into_rows(mut self) -> Vec<V> {
        let mut rows = Vec::new();
        for r in 0..self.shape[0] * self.shape[1] {
            let at = self.start(r);
            rows.extend_from_slice(&self.data[at..at + self.cols]);
            self.data[at..at + self.cols].fill(V::SENTINEL);
        }
        let touched = self.data.iter().position(|v| v.bits() != V::SENTINEL.bits());
        assert_eq!(touched, None, "an element between the rows was written: {:?}", self.kind);
        rows
    }
}

/// Runs, rows of each, columns: loops of blocks, fused rows and whole rows.
fn shapes() -> impl Iterator<Item = ([usize; 2], usize)> {
    let shapes = [([2, 3], 1), ([3, 4], 5), ([2, 9], 64), ([5, 3], 193), ([4, 2], 1025), ([2, 2], 4100)];
    shapes.into_iter().filter(|&(_, cols)| !quick() || cols < 1024)
}

/// One thread, and three that cut runs.
fn plans(problem: &Problem<impl Types>, isa: Isa) -> [Plan; 2] {
    let plan = problem.plan(isa);
    [plan, plan.with_parallelism(Parallelism::tasks(3)).with_store(Store::Streaming)]
}

/// Statistics with a value that none has.
struct Kept<K: Types>([Vec<K::F>; 3]);

impl<K: Types> Kept<K> {
    fn new(rows: usize) -> Self {
        Self([const { Vec::new() }; 3].map(|mut v: Vec<K::F>| {
            v.resize(rows, K::F::default());
            v
        }))
    }

    fn stats(&mut self) -> StatsMut<'_, K::F> {
        let [mean, mean_lo, rstd] = &mut self.0;
        StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) }
    }

    fn with(self, y: Vec<K::Y>) -> Output<K> {
        let [mean, mean_lo, rstd] = self.0;
        Output { y, mean, mean_lo, rstd }
    }
}

fn rows_in_runs_have_the_bits_of_contiguous_rows<K: Types>() {
    let mut number = 0;
    for (shape, cols) in shapes() {
        let rows = shape[0] * shape[1];
        // Groups of which a run has parts, and such as have several runs.
        for groups in [(1, 1), (rows, 1), (2, shape[1] / 2 + rows % 2)] {
            if rows % (groups.0 * groups.1) != 0 {
                continue;
            }
            let problem = Problem::<K>::mixed(rows, cols, 7).with_groups(groups.0, groups.1);
            for problem in problem.of_every_operation() {
                let expected = problem.expected();
                let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
                for (isa, of_x) in tiers().iter().flat_map(|&isa| KINDS.map(|kind| (isa, kind))) {
                    let of_y = KINDS[number % KINDS.len()];
                    number += 1;
                    for plan in plans(&problem, isa) {
                        let what = format!("{problem}, {plan:?}, {of_x:?}, {of_y:?}");
                        let x = Spread::holding(&problem.x, of_x, shape, cols);
                        let (mut y, mut kept) = (Spread::blank(of_y, shape, cols), Kept::<K>::new(rows));
                        let io = Io::new(x.rows(), y.rows_mut());
                        assert_eq!(plan.call_mixed(io, gamma, beta, kept.stats()), Ok(()), "{what}");
                        kept.with(y.into_rows()).assert_same(&expected, cols, format_args!("{what}"));

                        let (mut x, mut kept) = (x, Kept::<K>::new(rows));
                        if let Some(io) = K::in_place(x.rows_mut()) {
                            assert_eq!(plan.call_mixed(io, gamma, beta, kept.stats()), Ok(()), "{what}");
                            let y = x.into_rows().into_iter().map(|y| K::Y::of_bits(y.bits())).collect();
                            kept.with(y).assert_same(&expected, cols, format_args!("{what}, in place"));
                        }
                    }
                }
            }
        }
    }
}

fn with<'a, V>(bias: Option<&'a [V]>, sum: Sum<'a, V>) -> Sum<'a, V> {
    if let Some(bias) = bias { sum.with_bias(bias) } else { sum }
}

fn sums_in_runs_have_the_bits_of_contiguous_sums<K, V>()
where
    K: Types<X = V, Y = V>,
    V: Value + Element<Float = K::F> + Companion<V>,
{
    for (i, (shape, cols)) in shapes().enumerate() {
        let rows = shape[0] * shape[1];
        let problem = Problem::<K>::mixed(rows, cols, 3);
        let residual = Problem::<K>::mixed(rows, cols, 4).x;
        let bias: Option<Vec<V>> = (i % 2 == 0).then(|| problem.x[..cols].to_vec());
        let bias = bias.as_deref();
        for problem in problem.of_every_operation() {
            let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
            let (mut s, mut y, mut kept) = (vec![V::default(); rows * cols], problem.x.clone(), Kept::<K>::new(rows));
            let io = Io::sum(with(bias, Sum::sum_to(&problem.x, &residual, &mut s)), &mut y);
            problem.plan(Isa::SCALAR).call_mixed(io, gamma, beta, kept.stats()).expect("a valid call");
            let expected = kept.with(y);
            for (n, &isa) in tiers().iter().enumerate() {
                for (k, kind) in KINDS.into_iter().enumerate() {
                    let kind_of = |buffer: usize| KINDS[(k + n + buffer) % KINDS.len()];
                    for plan in plans(&problem, isa) {
                        let what = format!("{problem}, {plan:?}, {kind:?}");
                        let place = |v: &[V], kind| Spread::holding(v, kind, shape, cols);
                        let mut x = place(&problem.x, kind);
                        let mut held = place(&residual, kind_of(1));
                        let run = |io: Io<'_, V>, name: &str| {
                            let mut kept = Kept::<K>::new(rows);
                            assert_eq!(plan.call_mixed(io, gamma, beta, kept.stats()), Ok(()), "{what}, {name}");
                            kept
                        };
                        let check = |kept: Kept<K>, y: Vec<V>, name: &str| {
                            kept.with(y).assert_same(&expected, cols, format_args!("{what}, {name}"));
                        };
                        let (mut y, mut sums) =
                            (Spread::blank(kind_of(2), shape, cols), Spread::blank(kind_of(3), shape, cols));
                        let sum = with(bias, Sum::sum_to(x.rows(), held.rows(), sums.rows_mut()));
                        let kept = run(Io::sum(sum, y.rows_mut()), "kept");
                        check(kept, y.into_rows(), "kept");
                        assert_same_bits(format_args!("{what}: s"), cols, &s, &sums.into_rows());

                        let mut y = Spread::blank(kind_of(2), shape, cols);
                        let kept = run(Io::residual(x.rows(), held.rows(), bias, y.rows_mut()), "dropped");
                        check(kept, y.into_rows(), "dropped");

                        let mut y = Spread::blank(kind_of(4), shape, cols);
                        let sum = with(bias, Sum::residual_in_place(x.rows(), held.rows_mut()));
                        let kept = run(Io::sum(sum, y.rows_mut()), "over the residual");
                        check(kept, y.into_rows(), "over the residual");
                        assert_same_bits(format_args!("{what}: residual"), cols, &s, &held.into_rows());

                        let held = place(&residual, kind_of(1));
                        let kept = run(Io::in_place_with_residual(x.rows_mut(), held.rows(), bias), "over x");
                        check(kept, x.into_rows(), "over x");
                    }
                }
            }
        }
    }
}

fn sums<K: SumsOf>() {
    K::sums();
}

/// Types whose sums need not be kept.
trait SumsOf {
    fn sums();
}

macro_rules! sums_of {
    ($($t:ty)*) => {$(
        impl SumsOf for ($t, $t, $t) {
            fn sums() {
                sums_in_runs_have_the_bits_of_contiguous_sums::<($t, $t, $t), $t>();
            }
        }
    )*};
}

sums_of!(f32 f64 f16 bf16);

fn moments_of_rows_in_runs<K: Types>() {
    for (shape, cols) in shapes() {
        let rows = shape[0] * shape[1];
        for problem in Problem::<K>::mixed(rows, cols, 5).of_every_operation() {
            let expected = problem.expected();
            let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
            for (&isa, kind) in tiers().iter().flat_map(|isa| KINDS.map(|kind| (isa, kind))) {
                for plan in plans(&problem, isa) {
                    let what = format!("{problem}, {plan:?}, {kind:?}");
                    let mut moments = vec![Moments::EMPTY; rows];
                    let mut x = Spread::holding(&problem.x, kind, shape, cols);
                    assert_eq!(plan.moments(x.rows(), &mut moments), Ok(()), "{what}");
                    for (r, moments) in moments.iter_mut().enumerate() {
                        if let Some(scale) = plan.rescale::<K::X>(moments) {
                            let mut again = vec![Moments::EMPTY; rows];
                            assert_eq!(plan.moments_at_scale(x.rows(), scale, &mut again), Ok(()), "{what}");
                            *moments = again[r];
                        }
                    }
                    let (mut y, mut kept) = (Spread::blank(Kind::Gaps, shape, cols), Kept::<K>::new(rows));
                    let io = Io::moments(x.rows(), &moments, y.rows_mut());
                    assert_eq!(plan.call_mixed(io, gamma, beta, kept.stats()), Ok(()), "{what}");
                    kept.with(y.into_rows()).assert_same(&expected, cols, format_args!("{what}"));
                    if K::IN_PLACE && size_of::<K::X>() == size_of::<K::G>() {
                        let stats = StatsMut::default();
                        let io = Io::in_place_with_moments(x.rows_mut(), &moments);
                        assert_eq!(plan.call_mixed(io, gamma, beta, stats), Ok(()), "{what}");
                        let y: Vec<K::Y> = x.into_rows().into_iter().map(|y| K::Y::of_bits(y.bits())).collect();
                        assert_same_bits(format_args!("{what}, in place"), cols, &expected.y, &y);
                    }
                }
            }
        }
    }
}

fn gradients_of_rows_in_runs<K: Types>() {
    for (i, (shape, cols)) in shapes().enumerate() {
        let rows = shape[0] * shape[1];
        let groups = if i % 2 == 0 { (1, 1) } else { (rows, 1) };
        let mut problem = GradProblem::<K>::mixed(rows, cols, 6);
        problem.forward = problem.forward.with_groups(groups.0, groups.1);
        for problem in problem.with_ds().of_every_operation() {
            let GradProblem { forward, dy, ds } = &problem;
            let expected = problem.run(&GradCall::plain(Isa::SCALAR));
            let centered = forward.operation.is_layer_norm();
            let gamma = forward.gamma.as_deref();
            for (n, (isa, kind)) in tiers().iter().flat_map(|&isa| KINDS.map(|kind| (isa, kind))).enumerate() {
                let kind_of = |buffer: usize| KINDS[(n + buffer) % KINDS.len()];
                for plan in plans(forward, isa) {
                    let what = format!("{problem}, {plan:?}, {kind:?}");
                    let place = |v: &[K::X], kind| Spread::holding(v, kind, shape, cols);
                    let (mut held, x) = (place(dy, kind), place(&forward.x, kind_of(1)));
                    let ds = place(ds.as_deref().expect("ds"), kind_of(2));
                    for in_place in [false, true] {
                        let mut dx = Spread::blank(kind_of(3), shape, cols);
                        let mut sums = [const { Vec::new() }; 2];
                        sums.iter_mut().for_each(|v: &mut Vec<K::F>| v.resize(groups.0 * cols, K::F::default()));
                        let [dgamma, dbeta] = &mut sums;
                        let grads = ParamGrads { dgamma: Some(dgamma), dbeta: centered.then_some(dbeta) };
                        let io = if in_place {
                            GradIo::in_place(held.rows_mut(), x.rows())
                        } else {
                            GradIo::new(held.rows(), x.rows(), dx.rows_mut())
                        };
                        let result = plan.backward_mixed(io.with_ds(ds.rows()), gamma, Stats::default(), grads);
                        assert_eq!(result, Ok(()), "{what}");
                        let [dgamma, dbeta] = sums;
                        let dx = if in_place {
                            std::mem::replace(&mut held, place(dy, kind)).into_rows()
                        } else {
                            dx.into_rows()
                        };
                        let dbeta = centered.then_some(dbeta);
                        let grads: Grads<K> = Grads { dx: Some(dx), dgamma: Some(dgamma), dbeta };
                        grads.assert_same(&expected, cols, format_args!("{what}, in place: {in_place}"));
                    }
                    let mut dgamma = vec![K::F::default(); groups.0 * cols];
                    let grads = ParamGrads { dgamma: Some(&mut dgamma), dbeta: None };
                    let io = GradIo::without_dx(held.rows(), x.rows());
                    assert_eq!(plan.backward_mixed(io, gamma, Stats::default(), grads), Ok(()), "{what}");
                    assert_same_bits(format_args!("{what}: dgamma alone"), cols, expected.dgamma(), &dgamma);
                }
            }
        }
    }
}

for_every_type!(sums, moments_of_rows_in_runs);
for_all_types!(rows_in_runs_have_the_bits_of_contiguous_rows);
for_all_gradients!(gradients_of_rows_in_runs);

/// Few long rows, which threads cut.
#[test]
fn long_rows_in_runs() {
    let (shape, cols) = ([2, 2], 70_001);
    for problem in Problem::<(f32, f32, f32)>::mixed(4, cols, 8).of_every_operation() {
        let expected = problem.expected();
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
        let x = Spread::holding(&problem.x, Kind::Packed, shape, cols);
        for tasks in [1, 2, 3, 16] {
            for &isa in tiers() {
                let plan = problem.plan(isa).with_parallelism(Parallelism::tasks(tasks));
                let (mut y, mut kept) = (Spread::blank(Kind::Woven, shape, cols), Kept::<(f32, f32, f32)>::new(4));
                let io = Io::new(x.rows(), y.rows_mut());
                assert_eq!(plan.call_mixed(io, gamma, beta, kept.stats()), Ok(()));
                kept.with(y.into_rows()).assert_same(&expected, cols, format_args!("{problem}, {tasks} tasks"));
            }
        }
    }
}

#[test]
fn plain_calls_take_them_too() -> Result<(), Error> {
    let x: Vec<f32> = (0..40).map(|i| (i * i % 17) as f32).collect();
    let (layer_norm, rms_norm) = (LayerNorm::new(3, 1e-5)?, RmsNorm::new(3, 1e-5)?);
    // Runs of 3 rows, a packed token of 10 elements apart.
    let rows = || Rows::strided_2d(&x, [4, 3], [10, 3]);
    let touching: Vec<f32> = x.chunks(10).flat_map(|token| &token[..9]).copied().collect();
    let want = layer_norm.forward_to_vec(&touching, None, None)?;
    assert_eq!(layer_norm.forward_to_vec(rows(), None, None)?, want);
    let mut y = x.clone();
    layer_norm.forward_in_place(RowsMut::strided_2d(&mut y, [4, 3], [10, 3]), None, None)?;
    let mut expected = x.clone();
    for (token, want) in expected.chunks_mut(10).zip(want.chunks(9)) {
        token[..9].copy_from_slice(want);
    }
    assert_eq!(y, expected);
    let want = rms_norm.forward_to_vec(&touching, None)?;
    assert_eq!(rms_norm.forward_to_vec(rows(), None)?, want);
    let mut y = x.clone();
    rms_norm.forward_in_place(RowsMut::strided_2d(&mut y, [4, 3], [10, 3]), None)?;
    assert_eq!(y[..9], want[..9]);
    Ok(())
}

/// That the call fails with this error, with all these numbers in its message, and has written nothing.
#[track_caller]
fn refused(expected: &Error, call: impl FnOnce(&RmsNorm, &mut [f32; 40]) -> Result<(), Error>, numbers: &[usize]) {
    let mut y = [7.0; 40];
    let error = call(&RmsNorm::new(4, 0.0).expect("a plan"), &mut y).expect_err("bad input was accepted");
    assert_eq!(error, *expected);
    let message = error.to_string();
    for number in numbers {
        assert!(message.contains(&number.to_string()), "\"{message}\" does not say {number}");
    }
    assert_eq!(y, [7.0; 40], "{message}: but y has been written");
}

#[test]
fn runs_that_cannot_be() {
    let x = [1.0; 40];
    let error = |what, shape, strides, misfit| Error::Runs { what, shape, strides, misfit };
    let overlap = |what, shape, strides| error(what, shape, strides, Misfit::Overlap { cols: 4 });
    // Rows overlap within a run; runs overlap; runs are woven, but not far enough apart.
    for strides in [[20, 3], [11, 4], [7, 7], [4, 4], [0, 4], [4, 0], [4, 7], [5, 8]] {
        refused(
            &overlap("x", [2, 3], strides),
            |plan, y| plan.forward(Rows::strided_2d(&x, [2, 3], strides), None, &mut y[..24]),
            &[strides[0], strides[1], 4],
        );
        refused(
            &overlap("x", [2, 3], strides),
            |plan, y| plan.forward_in_place(RowsMut::strided_2d(y, [2, 3], strides), None),
            &[strides[0], strides[1], 4],
        );
    }
    let short = |what, len, shape, strides, needed| error(what, shape, strides, Misfit::TooShort { len, needed });
    let lens = |what, shape, strides, expected| error(what, shape, strides, Misfit::RunLen { expected });
    refused(
        &short("y", 40, [3, 2], [18, 4], 44),
        |plan, y| plan.forward(&x[..24], None, RowsMut::strided_2d(y, [3, 2], [18, 4])),
        &[40, 44, 18],
    );
    refused(
        &short("x", 30, [2, 3], [5, 11], 31),
        |plan, y| plan.forward(Rows::strided_2d(&x[..30], [2, 3], [5, 11]), None, &mut y[..24]),
        &[30, 31, 11],
    );
    let max = usize::MAX;
    for (shape, strides) in [
        ([2, 3], [max, 4]),
        ([2, 3], [20, max / 2]),
        ([3, 2], [max / 2, 4]),
        ([max, 2], [8, 5]),
        ([2, max], [8, 4]),
        ([max / 2, max / 2], [max / 4, max / 8]),
        // The product fits, but not with the last row.
        ([2, 2], [max - 5, 4]),
    ] {
        refused(
            &error("x", shape, strides, Misfit::Overflow { cols: 4 }),
            |plan, y| plan.forward_in_place(RowsMut::strided_2d(y, shape, strides), None),
            &[shape[0], strides[0], 4],
        );
    }
    // Without columns too, the number of rows must be one that usize has.
    let none = RmsNorm::new(0, 0.0).expect("a plan");
    for shape in [[max, 2], [max / 2, 3], [max, max]] {
        let overflow = error("x", shape, [max, 5], Misfit::Overflow { cols: 0 });
        refused(
            &overflow,
            |_, _| none.forward_in_place(RowsMut::<f32>::strided_2d(&mut [], shape, [max, 5]), None),
            &shape,
        );
    }
    refused(
        &lens("y", [3, 2], [9, 5], 3),
        |_, _| {
            none.forward(
                Rows::<f32>::strided_2d(&[], [2, 3], [9, 5]),
                None,
                RowsMut::strided_2d(&mut [], [3, 2], [9, 5]),
            )
        },
        &[2, 3],
    );
    // As many rows as x, and no other runs.
    refused(
        &Error::Rows { x: 6, y: 4 },
        |plan, y| plan.forward(Rows::strided_2d(&x, [2, 3], [14, 4]), None, RowsMut::strided_2d(y, [2, 2], [10, 4])),
        &[6, 4],
    );
    refused(
        &lens("y", [3, 2], [10, 4], 3),
        |plan, y| plan.forward(Rows::strided_2d(&x, [2, 3], [14, 4]), None, RowsMut::strided_2d(y, [3, 2], [10, 4])),
        &[2, 3],
    );
    let residual = Rows::strided_2d(&x, [3, 2], [10, 4]);
    refused(
        &lens("residual", [3, 2], [10, 4], 3),
        |plan, y| plan.call(&x[..24]).residual(residual).to(RowsMut::strided_2d(y, [2, 3], [14, 4])),
        &[2, 3],
    );
    refused(
        &Error::SumRows { what: "residual", x: 4, rows: 6 },
        |plan, y| plan.call_in_place(RowsMut::strided_2d(y, [2, 2], [14, 4])).residual(residual).run(),
        &[4, 6],
    );
    refused(
        &Error::Arguments(Refused::Length { what: "bias", len: 3, expected: 4 }),
        |plan, y| plan.call_in_place(RowsMut::strided_2d(y, [3, 2], [10, 4])).residual(residual).bias(&x[..3]).run(),
        &[3, 4],
    );
    refused(
        &Error::Arguments(Refused::Length { what: "moments", len: 1, expected: 6 }),
        |plan, y| plan.call(residual).moments(&[Moments::EMPTY]).to(&mut y[..24]),
        &[1, 6],
    );
    refused(
        &Error::GradRows { what: "ds", dy: 6, rows: 4 },
        |plan, y| plan.backward(residual, &x[..24]).ds(Rows::strided_2d(&x, [2, 2], [10, 4])).to(&mut y[..24]),
        &[6, 4],
    );
    refused(
        &lens("dx", [2, 3], [14, 4], 2),
        |plan, y| plan.backward(residual, &x[..24]).to(RowsMut::strided_2d(y, [2, 3], [14, 4])),
        &[3, 2],
    );
    refused(
        &short("x", 27, [3, 2], [10, 4], 28),
        |plan, _| plan.moments(Rows::strided_2d(&x[..27], [3, 2], [10, 4]), &mut [Moments::EMPTY; 6]),
        &[27, 28],
    );
    // One stride is enough here, and the message is that of rows at one.
    refused(
        &Error::Arguments(Refused::Overlap { what: "x", cols: 4, stride: 3 }),
        |plan, y| plan.forward_in_place(RowsMut::strided_2d(y, [1, 3], [99, 3]), None),
        &[4, 3],
    );
    refused(
        &Error::Arguments(Refused::TooShort { what: "x", len: 40, rows: 6, cols: 4, stride: 8, needed: 44 }),
        |plan, y| plan.forward_in_place(RowsMut::strided_2d(y, [2, 3], [24, 8]), None),
        &[40, 44],
    );
}

/// What messages say of runs: each number, with the word that belongs to it.
#[test]
fn messages_of_runs() {
    let says = |shape, strides, misfit| Error::Runs { what: "x", shape, strides, misfit }.to_string();
    let overlap = says([2, 1], [3, 4], Misfit::Overlap { cols: 1 });
    assert_eq!(
        overlap,
        "x has 2 runs of 1 row; runs start 3 elements apart and rows 4: they overlap, as each row has 1 column"
    );
    let overflow = says([1, 3], [9, 4], Misfit::Overflow { cols: 4 });
    assert_eq!(
        overflow,
        "x has 1 run of 3 rows; runs start 9 elements apart and rows 4: they overflow usize, as each row has 4 columns"
    );
    let short = says([2, 3], [9, 4], Misfit::TooShort { len: 1, needed: 21 });
    assert_eq!(
        short,
        "x has 2 runs of 3 rows; runs start 9 elements apart and rows 4: they take 21 elements, but the buffer has 1"
    );
    let lens = says([2, 3], [9, 4], Misfit::RunLen { expected: 1 });
    assert_eq!(
        lens,
        "x has 2 runs of 3 rows; runs start 9 elements apart and rows 4: expected runs of 1 row, as another buffer has"
    );
}

/// Runs whose rows lie between one another, and share no element.
#[test]
fn interleaved_runs() -> Result<(), Error> {
    let plan = RmsNorm::new(2, 0.0)?;
    // Rows 0, 1 and 2 start at elements 0, 4 and 8, and rows 3, 4 and 5 at 6, 10 and 14.
    let (shape, strides) = ([2, 3], [6, 4]);
    let mut data = [1.0, -1.0, 7.0, 7.0, 2.0, -2.0, 4.0, -4.0, 3.0, -3.0, 5.0, -5.0, 7.0, 7.0, 6.0, -6.0];
    let mut y = [0.0; 12];
    plan.forward(Rows::strided_2d(&data, shape, strides), None, &mut y)?;
    assert_eq!(y, [1.0, -1.0].repeat(6)[..]);
    plan.forward_in_place(RowsMut::strided_2d(&mut data, shape, strides), None)?;
    let (one, gap) = ([1.0, -1.0], [7.0, 7.0]);
    assert_eq!(data, [one, gap, one, one, one, one, gap, one].concat()[..]);
    Ok(())
}

/// Next to the errors: calls that look odd, and are valid.
#[test]
fn valid_calls_at_the_edge() -> Result<(), Error> {
    let (max, plan) = (usize::MAX, RmsNorm::new(4, 0.0)?);
    let (x, mut y) = ([1.0f32; 40], [0.0f32; 40]);
    for (shape, strides) in [([0, 3], [0, 0]), ([3, 0], [0, 0]), ([0, max], [max, max]), ([max, 0], [max, max])] {
        plan.forward_in_place(RowsMut::<f32>::strided_2d(&mut [], shape, strides), None)?;
        plan.forward(Rows::strided_2d(&x[..0], shape, strides), None, &mut y[..0])?;
        plan.backward(Rows::strided_2d(&x[..0], shape, strides), &x[..0]).to(&mut y[..0])?;
    }
    assert_eq!(y, [0.0; 40]);
    // One run, and runs of one row, whose other stride is of no consequence.
    plan.forward(Rows::strided_2d(&x, [1, 4], [max, 7]), None, RowsMut::strided_2d(&mut y, [4, 1], [4, max]))?;
    assert_eq!((&y[..16], y[16]), (&[1.0; 16][..], 0.0));
    // Without columns, nothing is read or written, however many rows there are.
    let none = RmsNorm::new(0, 0.0)?;
    for shape in [[2, 3], [max / 2, 2], [2, max / 2]] {
        none.forward_in_place(RowsMut::<f32>::strided_2d(&mut [], shape, [max, 5]), None)?;
        none.backward(Rows::<f32>::strided_2d(&[], shape, [max, 5]), Rows::strided_2d(&[], shape, [9, 5]))
            .dgamma_to(&mut [])
            .run()?;
    }
    let mut moments = [Moments { count: 1.0, ..Moments::EMPTY }; 6];
    none.moments(Rows::<f32>::strided_2d(&[], [2, 3], [9, 5]), &mut moments)?;
    assert!(moments.iter().all(|m| m.count == 0.0));
    Ok(())
}

/// Rows given by a pointer: halves of the columns of one buffer, of which each is lent to another thread.
#[test]
fn rows_given_by_pointers() -> Result<(), Error> {
    let plan = RmsNorm::new(2, 0.0)?;
    let mut data = [2.0, -2.0, 3.0, 3.0].repeat(6);
    let p = data.as_mut_ptr();
    // SAFETY: these are the 6 rows of the first two columns of four, and those of the last two, which do not overlap.
    // `data` is not used while they live.
    let halves = [0, 2].map(|at| unsafe { RowsMut::from_raw_parts(p.add(at), [2, 3, 2], [12, 4]) });
    std::thread::scope(|threads| {
        for half in halves {
            threads.spawn(move || plan.forward_in_place(half, None).expect("a valid call"));
        }
    });
    assert_eq!(data, [1.0, -1.0, 1.0, 1.0].repeat(6));
    let mut y = [7.0; 12];
    // SAFETY: they are the 6 rows of two columns, of which nothing is written.
    let rows = || unsafe { Rows::from_raw_parts(data.as_ptr(), [6, 1, 2], [4, 0]) };
    plan.forward(rows(), None, &mut y)?;
    assert_eq!(y, [1.0, -1.0].repeat(6)[..]);
    let wider = RmsNorm::new(4, 0.0)?;
    let error = wider.forward(rows(), None, &mut [0.0; 24]).expect_err("the columns are another's");
    assert_eq!(error, Error::Columns { what: "x", cols: 2, expected: 4 });
    assert_eq!(error.to_string(), "x has 2 columns, expected 4");
    Ok(())
}
