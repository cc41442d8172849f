//! The floor below the plans: jobs from any constructor, cut at any place by rows, columns or parts, each piece run on
//! any tier in any order, have the bits of the plan on the scalar tier; nothing else is written, and arguments that do
//! not fit are refused.

use arbitrary::Arbitrary;
use lanenorm::kernels::ops::backward::{Backward, Parts, Stats};
use lanenorm::kernels::ops::forward::{Forward, Normalize};
use lanenorm::kernels::ops::layer_norm::LayerNorm;
use lanenorm::kernels::ops::moments::RowMoments;
use lanenorm::kernels::ops::rms_norm::RmsNorm;
use lanenorm::kernels::ops::{layer_norm, rms_norm};
use lanenorm::kernels::rows::{GradRows, Groups, Params, RowIo, Vector};
use lanenorm::kernels::stats::{CHUNK, RowNorm, StatsMut};
use lanenorm::kernels::{Center, Centered, Compiled, Error, Uncentered};
use lanenorm::{Element, Isa, Moments};

use crate::forward::added;
use crate::shape::{Dtypes, Numbers, Shape, with_types};
use crate::support::{Buffer, Call, GradProblem, Output, Problem, Types, Value, assert_same_bits, tiers};

/// Values, and how the jobs made of them are cut and run.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    dtypes: Dtypes,
    shape: Shape,
    numbers: [Numbers; 7],
    form: Form,
    kept: bool,
    cuts: Vec<Cut>,
}

/// A constructor of rows.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Form {
    Apart,
    InPlace,
    Sum,
    SumInPlace,
    SumInto,
    SumOver,
}

/// How a piece is cut or run.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Cut {
    what: What,
    place: u16,
    /// Whether the second of two pieces is run first.
    backwards: bool,
    isa: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum What {
    Run,
    Split,
    ByMoments,
    Refuse,
}

/// The cuts that are still to be made. When none are left, pieces are run.
struct Cuts<'a>(std::slice::Iter<'a, Cut>);

impl Cuts<'_> {
    fn next(&mut self) -> Cut {
        self.0.next().copied().unwrap_or(Cut { what: What::Run, place: 0, backwards: false, isa: 0 })
    }
}

impl Cut {
    /// A place from 0 to `len`, or one beyond.
    fn place(self, len: usize) -> usize {
        usize::from(self.place) % (len + 2)
    }

    fn isa(self) -> Isa {
        tiers()[usize::from(self.isa) % tiers().len()]
    }

    fn in_order<P>(self, (a, b): (P, P)) -> [P; 2] {
        if self.backwards { [b, a] } else { [a, b] }
    }
}

impl Input {
    /// Runs all checks.
    pub fn run(&self) {
        with_types!(self.dtypes, run(self));
    }
}

fn run<K: Types>(input: &Input) {
    let Shape { rms, rows, cols, groups, eps, has, .. } = input.shape;
    let vector = |k: usize| has[k].then(|| input.numbers[1 + k].fill::<K::G>(groups.0, cols));
    let (gamma, beta) = (vector(0), vector(1).filter(|_| !rms));
    let x = input.numbers[0].fill(rows, cols);
    let problem = Problem::<K> { operation: input.shape.operation(), groups, rows, cols, x, gamma, beta, eps };
    if rms {
        forward::<K, Uncentered>(input, &problem);
        backward::<K, Uncentered>(input, problem);
    } else {
        forward::<K, Centered>(input, &problem);
        backward::<K, Centered>(input, problem);
    }
}

/// The constructors of either operation.
trait Jobs<T: Element, M: Center> {
    fn rows<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Forward<'a, T, M>, Error>;

    fn row<'a>(
        row: RowIo<'a, T>,
        params: Params<'a, T>,
        norm: RowNorm<T::Float>,
        streaming: bool,
    ) -> Result<Normalize<'a, T, M>, Error>;
}

struct Floor;

impl<T: Element> Jobs<T, Centered> for Floor {
    fn rows<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<LayerNorm<'a, T>, Error> {
        LayerNorm::new(rows, params, eps, streaming, stats)
    }

    fn row<'a>(
        row: RowIo<'a, T>,
        params: Params<'a, T>,
        norm: RowNorm<T::Float>,
        streaming: bool,
    ) -> Result<layer_norm::Normalize<'a, T>, Error> {
        layer_norm::Normalize::new(row, params, norm, streaming)
    }
}

impl<T: Element> Jobs<T, Uncentered> for Floor {
    fn rows<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<RmsNorm<'a, T>, Error> {
        RmsNorm::new(rows, params, eps, streaming, stats.rstd)
    }

    fn row<'a>(
        row: RowIo<'a, T>,
        params: Params<'a, T>,
        norm: RowNorm<T::Float>,
        streaming: bool,
    ) -> Result<rms_norm::Normalize<'a, T>, Error> {
        rms_norm::Normalize::new(row, params, norm.rstd, streaming)
    }
}

/// All arguments of forward jobs but the rows.
#[derive(Clone, Copy)]
struct Values<'a, T: Element> {
    params: Params<'a, T>,
    bias: Option<&'a [T]>,
    eps: f64,
    streaming: bool,
    /// The statistics of each row.
    known: &'a [RowNorm<T::Float>],
}

fn forward<K: Types, M: Center>(input: &Input, problem: &Problem<K>)
where
    Floor: Jobs<K::X, M>,
    K::X: Compiled<M>,
{
    let Problem { rows, cols, eps, .. } = *problem;
    let Shape { gaps, misalignment, has, streaming, .. } = input.shape;
    let own = size_of::<K::X>() == size_of::<K::Y>();
    let form = match input.form {
        Form::InPlace if !own => Form::Apart,
        Form::SumInto if !own => Form::Sum,
        Form::SumOver if !own => Form::SumInPlace,
        form => form,
    };
    let is_sum = !matches!(form, Form::Apart | Form::InPlace);
    let residual: Vec<K::X> = input.numbers[3].fill(rows, cols);
    let bias: Option<Vec<K::X>> = (is_sum && has[2]).then(|| input.numbers[4].fill(1, cols));
    let summed = if is_sum { added::<K>(&problem.x, &residual, bias.as_deref(), cols) } else { problem.x.clone() };
    let solved = Problem { x: summed.clone(), ..problem.clone() };
    let expected = solved.expected();
    let known: Vec<_> = (0..rows)
        .map(|r| RowNorm { mean: expected.mean[r], mean_lo: expected.mean_lo[r], rstd: expected.rstd[r] })
        .collect();
    let groups = Groups::new(problem.groups.0, problem.groups.1).expect("groups");
    let values = Values { params: params(problem, groups), bias: bias.as_deref(), eps, streaming, known: &known };

    let blank = |written: bool| vec![if written { K::F::SENTINEL } else { K::F::default() }; rows];
    let (mut mean, mut mean_lo, mut rstd) = (blank(M::CENTERED), blank(M::CENTERED), blank(true));
    let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
    let x = Buffer::holding(&problem.x, cols, gaps[0], misalignment[0]);
    let mut y = Buffer::<K::Y>::blank(rows, cols, gaps[1], misalignment[1]);
    let mut over = Buffer::holding(&residual, cols, gaps[2], misalignment[2]);
    let mut s = Buffer::blank(rows, cols, gaps[3], misalignment[3]);
    let mut own_y = match form {
        Form::InPlace => Buffer::holding(&problem.x, cols, gaps[1], misalignment[1]),
        Form::SumOver => Buffer::holding(&residual, cols, gaps[1], misalignment[1]),
        _ => Buffer::blank(rows, cols, gaps[1], misalignment[1]),
    };
    let io = match form {
        Form::Apart => {
            let ((x, x_stride), (y, y_stride)) = (x.slice(), y.slice_mut());
            RowIo::new(x, x_stride, y, y_stride, rows, cols)
        }
        Form::InPlace => {
            let (y, stride) = own_y.slice_mut();
            RowIo::in_place(y, stride, rows, cols)
        }
        Form::Sum => RowIo::sum(x.slice(), over.slice(), s.slice_mut(), y.slice_mut(), rows, cols),
        Form::SumInPlace => RowIo::sum_in_place(x.slice(), over.slice_mut(), y.slice_mut(), rows, cols),
        Form::SumInto => RowIo::sum_into(x.slice(), over.slice(), own_y.slice_mut(), rows, cols),
        Form::SumOver => RowIo::sum_over(x.slice(), own_y.slice_mut(), rows, cols),
    };
    let io = io.expect("the rows fit");
    assert_eq!((io.rows(), io.cols(), io.is_sum()), (rows, cols, is_sum));
    let mut cuts = Cuts(input.cuts.iter());
    run_rows::<K::X, M>(io, 0, values, stats, &mut cuts);

    let what = format_args!("{problem}, {form:?}, {:?}", input.cuts);
    let y = match form {
        Form::InPlace | Form::SumInto | Form::SumOver => {
            own_y.into_rows().into_iter().map(|y| K::Y::of_bits(y.bits())).collect()
        }
        _ => y.into_rows(),
    };
    Output { y, mean, mean_lo, rstd }.assert_same(&expected, cols, what);
    assert_same_bits(format_args!("{what}: x has changed"), cols, &problem.x, &x.into_rows());
    let taken = match form {
        Form::Sum => Some(s.into_rows()),
        Form::SumInPlace => Some(over.into_rows()),
        _ => None,
    };
    if let Some(taken) = taken {
        let differs = taken.iter().zip(&summed).position(|(a, b)| a.bits() != b.bits() && !(a.is_nan() && b.is_nan()));
        assert_eq!(differs, None, "{what}: the sum");
    }
}

fn params<K: Types>(problem: &Problem<K>, groups: Groups) -> Params<'_, K::X> {
    Params {
        gamma: problem.gamma.as_deref().map(Vector::from),
        beta: problem.beta.as_deref().map(Vector::from),
        groups,
        offset: K::F::of(problem.operation.offset().into()),
        ..Params::default()
    }
}

/// Runs rows that no job has been made of yet. `first` rows of the problem come before them.
fn run_rows<T: Element + Compiled<M>, M: Center>(
    io: RowIo<'_, T>,
    first: usize,
    values: Values<'_, T>,
    stats: StatsMut<'_, T::Float>,
    cuts: &mut Cuts<'_>,
) where
    Floor: Jobs<T, M>,
{
    let cut = cuts.next();
    let (rows, cols) = (io.rows(), io.cols());
    let params = Params { groups: values.params.groups.after(first), ..values.params };
    match cut.what {
        What::Split => {
            let at = cut.place(rows);
            let (a, b) = io.split_at(at);
            assert_eq!((a.rows(), b.rows()), (at.min(rows), rows - at.min(rows)));
            let second = first + a.rows();
            let (stats_a, stats_b) = stats.split_at(at);
            for (io, first, stats) in cut.in_order(((a, first, stats_a), (b, second, stats_b))) {
                run_rows::<T, M>(io, first, values, stats, cuts);
            }
        }
        // The statistics of a row of extreme range do not determine its y.
        What::ByMoments if rows == 1 && !io.is_sum() && cols > 0 => {
            let moments = moments_of::<T>(&io, M::CENTERED, values.eps, cut);
            if cut.place(1) == 0 && moments[0].scale == 1.0 {
                let norm = values.known[first];
                set(stats, norm, M::CENTERED);
                let job = Floor::row(io, params, norm, values.streaming).expect("the lengths fit");
                run_columns(job, cuts);
            } else {
                by_columns::<T, M>(io, params, values, stats, &moments, cut);
            }
        }
        What::Refuse => {
            refused::<T, M>(io.rows(), io.cols(), values, cut);
            run_rows::<T, M>(io, first, values, stats, cuts);
        }
        _ => {
            let job = Floor::rows(io, params, values.eps, values.streaming, stats).expect("the lengths fit");
            let job = match values.bias {
                Some(bias) => job.with_bias(bias).expect("the bias fits"),
                None => job,
            };
            run_job(job, values.eps, cuts);
        }
    }
}

fn set<F: Copy>(stats: StatsMut<'_, F>, norm: RowNorm<F>, centered: bool) {
    let outs =
        [(stats.mean, norm.mean, centered), (stats.mean_lo, norm.mean_lo, centered), (stats.rstd, norm.rstd, true)];
    for (out, v, is_there) in outs {
        if let Some(out) = out
            && is_there
        {
            out[0] = v;
        }
    }
}

/// Runs a row by its moments, whole or in two pieces of its columns.
fn by_columns<'a, T: Element + Compiled<M>, M: Center>(
    io: RowIo<'a, T>,
    params: Params<'a, T>,
    values: Values<'a, T>,
    stats: StatsMut<'a, T::Float>,
    moments: &[Moments],
    cut: Cut,
) where
    Floor: Jobs<T, M>,
{
    let cols = io.cols();
    let job = |io, params, stats| {
        let job = Floor::rows(io, params, values.eps, values.streaming, stats).expect("the lengths fit");
        assert_eq!(job.run_with(cut.isa(), moments), Ok(()));
    };
    if values.params.groups.groups() > 1 {
        return job(io, params, stats);
    }
    let at = cut.place(cols).min(cols);
    let (a, b) = io.split_at_col(at);
    let part = |v: Option<Vector<'a, T>>, at, len| v.map(|v| v.part(at, len));
    let of = |at, len| Params { gamma: part(params.gamma, at, len), beta: part(params.beta, at, len), ..params };
    // A job without columns writes no statistics.
    let (stats_a, stats_b) = if at > 0 { (stats, StatsMut::default()) } else { (StatsMut::default(), stats) };
    let pieces = ((a, of(0, at), stats_a), (b, of(at, cols - at), stats_b));
    for (io, params, stats) in cut.in_order(pieces) {
        job(io, params, stats);
    }
}

/// The moments of each row, taken in parts of some chunks, on the slow path where that is needed.
fn moments_of<T: Element>(io: &RowIo<'_, T>, centered: bool, eps: f64, cut: Cut) -> Vec<Moments> {
    let row = |r: usize| {
        let x = io.x_row(r).unwrap_or(&[]);
        let taken = |row: RowMoments<'_, T>| {
            let part = |x| row.of(x).run_on(cut.isa());
            Moments::merge_all(x.chunks(CHUNK << (cut.place % 3)).map(part))
        };
        let fast = RowMoments::new(x, centered);
        let moments = taken(fast);
        match moments.rescale::<T>(eps).expect("a valid eps") {
            Some(scale) if !x.is_empty() => taken(fast.at_scale(scale).expect("rescale has given it")),
            _ => moments,
        }
    };
    (0..io.rows()).map(row).collect()
}

fn run_job<T: Element + Compiled<M>, M: Center>(mut job: Forward<'_, T, M>, eps: f64, cuts: &mut Cuts<'_>) {
    let cut = cuts.next();
    let rows = job.rows().rows();
    match cut.what {
        What::Split => {
            let (a, b) = job.split_at(cut.place(rows));
            assert_eq!(a.rows().rows() + b.rows().rows(), rows);
            for job in cut.in_order((a, b)) {
                run_job(job, eps, cuts);
            }
        }
        What::ByMoments if !job.rows().is_sum() => {
            let moments = moments_of(job.rows(), M::CENTERED, eps, cut);
            if rows != 1 || cut.backwards {
                assert_eq!(job.run_with(cut.isa(), &moments), Ok(()));
                return;
            }
            match job.with_moments(&moments[0]) {
                Ok(job) => run_columns(job, cuts),
                Err(mut job) => job.run_on(cut.isa()),
            }
        }
        _ => job.run_on(cut.isa()),
    }
}

fn run_columns<T: Element + Compiled<M>, M: Center>(job: Normalize<'_, T, M>, cuts: &mut Cuts<'_>) {
    let cut = cuts.next();
    if cut.what == What::Split {
        let cols = job.cols();
        let (a, b) = job.split_at_col(cut.place(cols));
        assert_eq!(a.cols() + b.cols(), cols);
        for job in cut.in_order((a, b)) {
            run_columns(job, cuts);
        }
    } else {
        job.run_on(cut.isa());
    }
}

/// Calls constructors with arguments that do not fit.
fn refused<T: Element + Compiled<M>, M: Center>(rows: usize, cols: usize, values: Values<'_, T>, cut: Cut)
where
    Floor: Jobs<T, M>,
{
    let zero = T::from_computed(T::Float::default());
    let (x, long) = (vec![zero; rows * cols], vec![zero; cols + 1]);
    let (mut y, mut too_many) = (x.clone(), vec![T::Float::default(); rows + 1]);
    let none = Params::default;
    let mut s = x.clone();
    let (io, sum) = if cut.backwards {
        (RowIo::new(&x, cols, &mut y, cols, rows, cols), false)
    } else {
        (RowIo::sum((&x, cols), (&x, cols), (&mut s, cols), (&mut y, cols), rows, cols), true)
    };
    let io = io.expect("the rows fit");
    let default = StatsMut::default;
    let job = |io, params, eps, stats| Floor::rows(io, params, eps, values.streaming, stats);
    let fits = match cut.place % 7 {
        0 => job(io, none(), [-1.0, f64::NAN, f64::INFINITY][rows % 3], default()).is_ok(),
        1 => job(io, Params { gamma: Some((&long[..]).into()), ..none() }, 0.0, default()).is_ok(),
        2 => job(io, Params { beta: Some((&long[..]).into()), ..none() }, 0.0, default()).is_ok(),
        3 => job(io, none(), 0.0, StatsMut { rstd: Some(&mut too_many), ..default() }).is_ok(),
        4 => job(io, none(), 0.0, default()).and_then(|job| job.with_bias(&long)).is_ok(),
        5 if rows != 1 || sum => {
            let zero = T::Float::default();
            Floor::row(io, none(), RowNorm { mean: zero, mean_lo: zero, rstd: zero }, values.streaming).is_ok()
        }
        _ => {
            let groups = Groups::new(2, rows + 1).expect("groups");
            // Zero rows are a multiple of any number.
            rows > 0 && job(io, Params { groups, ..none() }, 0.0, default()).is_ok()
        }
    };
    assert!(!fits, "{cut:?}");
}

fn backward<K: Types, M: Center>(input: &Input, forward: Problem<K>)
where
    K::X: Compiled<M>,
{
    let Problem { rows, cols, eps, groups: (groups, repeat), .. } = forward;
    let Shape { gaps, misalignment, has, streaming, in_place, .. } = input.shape;
    let forward = Problem { beta: None, ..forward };
    let (dy, ds) = (input.numbers[5].fill(rows, cols), has[2].then(|| input.numbers[6].fill(rows, cols)));
    let problem = GradProblem::<K> { forward, dy, ds };
    let (expected, forward) = (problem.expected(), &problem.forward);
    let kept = input.kept.then(|| forward.run(&Call::plain(Isa::SCALAR)));
    let kept = kept.as_ref();
    let stats = Stats {
        mean: kept.filter(|_| M::CENTERED).map(|kept| &kept.mean[..]),
        mean_lo: kept.filter(|_| M::CENTERED).map(|kept| &kept.mean_lo[..]),
        rstd: kept.map(|kept| &kept.rstd[..]),
    };
    let offset = K::F::of(forward.operation.offset().into());

    let x = Buffer::holding(&forward.x, cols, gaps[0], misalignment[0]);
    let mut dy = Buffer::holding(&problem.dy, cols, gaps[1], misalignment[1]);
    let ds = problem.ds.as_ref().map(|ds| Buffer::holding(ds, cols, gaps[2], misalignment[2]));
    let mut dx = Buffer::blank(rows, cols, gaps[3], misalignment[3]);
    let mut cuts = Cuts(input.cuts.iter());
    for group in 0..groups {
        let grad_rows = if in_place {
            GradRows::in_place(dy.slice_mut(), x.slice(), rows, cols)
        } else {
            GradRows::new(dy.slice(), x.slice(), rows, cols).and_then(|rows| rows.with_dx(dx.slice_mut()))
        };
        let grad_rows = match &ds {
            Some(ds) => grad_rows.and_then(|rows| rows.with_ds(ds.slice())),
            None => grad_rows,
        };
        let grad_rows =
            grad_rows.and_then(|rows| rows.with_group(group, Groups::new(groups, repeat)?)).expect("the rows fit");
        let gamma = forward.gamma.as_deref().map(|gamma| Vector::from(&gamma[group * cols..][..cols]));
        let params = Params { gamma, offset, ..Params::default() };
        let make = |rows| Backward::<_, M>::new(rows, stats, params, eps, true, streaming).expect("the lengths fit");
        let run = |job: Backward<'_, K::X, M>, rows, cuts: &mut Cuts<'_>| {
            let parts = Parts::new(rows, cols);
            assert_eq!(job.parts(), parts.count());
            let partial = parts.partial_len::<K::X>(M::CENTERED).expect("a length");
            let mut partials = vec![K::F::QUIET_NAN; partial * parts.count()];
            let mut work = vec![K::F::QUIET_NAN; parts.work_len::<K::X>(M::CENTERED).expect("a length")];
            // Sums lie in the order of a tier's registers.
            let isa = cuts.next().isa();
            run_parts::<K, M>(job, isa, (&mut partials, partial), &mut work, cuts);
            let sums = || vec![K::F::SENTINEL; cols];
            let (mut dgamma, mut dbeta) = (sums(), M::CENTERED.then(sums));
            parts.merge::<K::X, M>(isa, &partials, Some(&mut dgamma), dbeta.as_deref_mut());
            (dgamma, dbeta)
        };
        let cut = cuts.next();
        if cut.what == What::Split {
            let at = cut.place(grad_rows.rows());
            for rows in cut.in_order(grad_rows.split_at(at)) {
                let count = rows.rows();
                run(make(rows), count, &mut cuts);
            }
        } else {
            let count = grad_rows.rows();
            let (dgamma, dbeta) = run(make(grad_rows), count, &mut cuts);
            let what = format_args!("{problem}, group {group}, {:?}", input.cuts);
            let of_group = group * cols..(group + 1) * cols;
            assert_same_bits(format_args!("{what}: dgamma"), cols, &expected.dgamma()[of_group.clone()], &dgamma);
            if let Some(dbeta) = dbeta {
                assert_same_bits(format_args!("{what}: dbeta"), cols, &expected.dbeta()[of_group], &dbeta);
            }
        }
    }
    let (dy, dx) = (dy.into_rows(), dx.into_rows());
    let got = if in_place { &dy } else { &dx };
    assert_same_bits(format_args!("{problem}, {:?}: dx", input.cuts), cols, expected.dx(), got);
    if !in_place {
        assert_same_bits(format_args!("{problem}: dy has changed"), cols, &problem.dy, &dy);
    }
    assert_same_bits(format_args!("{problem}: x has changed"), cols, &forward.x, &x.into_rows());
}

fn run_parts<K: Types, M: Center>(
    mut job: Backward<'_, K::X, M>,
    isa: Isa,
    (partials, partial): (&mut [K::F], usize),
    work: &mut [K::F],
    cuts: &mut Cuts<'_>,
) where
    K::X: Compiled<M>,
{
    let (cut, parts) = (cuts.next(), job.parts());
    if cut.what == What::Split {
        let at = cut.place(parts);
        let (a, b) = job.split_at_part(at);
        let sums = partials.split_at_mut(at.min(parts) * partial);
        for (job, partials) in cut.in_order(((a, sums.0), (b, sums.1))) {
            run_parts::<K, M>(job, isa, (partials, partial), work, cuts);
        }
    } else {
        job.run_on(isa, partials, work);
    }
}
