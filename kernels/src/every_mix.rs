//! Rows of f32 with buffers of 16 bits beside them. Each tier of this machine must give the bits of a call on f32, on
//! the portable tier, whose inputs are these, widened, and whose y is rounded.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::element::{Addend, Companion, Kind, Storage};
use crate::every_loop::{bits, numbers};
use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::forward::{Forward, Normalize};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::moments::RowMoments;
use crate::ops::rms_norm::RmsNorm;
use crate::rows::{GradRows, Groups, Params, RowIo, Vector};
use crate::stats::{CHUNK, Moments, StatsMut};
use crate::{Center, Centered, Compiled, Isa, Uncentered};

/// A type that any buffer beside f32 may have.
trait Beside: Addend<f32> + Storage<Float = f32> {}

impl<T: Addend<f32> + Storage<Float = f32>> Beside for T {}

/// The same numbers, widened or as they are.
fn wide<G: Beside>(v: &[G]) -> Vec<f32> {
    v.iter().map(|v| v.to_computed()).collect()
}

/// The same numbers, rounded or as they are.
fn rounded<G: Beside>(v: &[f32]) -> Vec<G> {
    v.iter().map(|&v| if v.is_nan() { <G as Companion<f32>>::NAN } else { G::from_computed(v) }).collect()
}

/// How rows lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Apart,
    Streamed,
    InPlace,
    Sum,
    SumInPlace,
    SumInto,
    SumOver,
}

const FORMS: [Form; 7] =
    [Form::Apart, Form::Streamed, Form::InPlace, Form::Sum, Form::SumInPlace, Form::SumInto, Form::SumOver];

/// A call.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: Form,
    rows: usize,
    cols: usize,
    /// The elements between two rows.
    gap: usize,
    groups: usize,
    offset: f32,
    /// Whether gamma has an infinity and a NaN.
    is_wild: bool,
}

/// The constructors of either operation.
trait Jobs: Center {
    fn job<'a>(
        io: RowIo<'a, f32>,
        params: Params<'a, f32>,
        streaming: bool,
        stats: StatsMut<'a>,
    ) -> Forward<'a, f32, Self>;

    fn known<'a>(io: RowIo<'a, f32>, params: Params<'a, f32>, moments: &Moments) -> Normalize<'a, f32, Self> {
        let job = Self::job(io, params, false, StatsMut::default());
        job.with_moments(moments).expect("an ordinary row")
    }
}

impl Jobs for Centered {
    fn job<'a>(io: RowIo<'a, f32>, params: Params<'a, f32>, streaming: bool, stats: StatsMut<'a>) -> LayerNorm<'a> {
        LayerNorm::new(io, params, 0.0, streaming, stats).expect("a job")
    }
}

impl Jobs for Uncentered {
    fn job<'a>(io: RowIo<'a, f32>, params: Params<'a, f32>, streaming: bool, stats: StatsMut<'a>) -> RmsNorm<'a> {
        RmsNorm::new(io, Params { beta: None, ..params }, 0.0, streaming, stats.rstd).expect("a job")
    }
}

/// Everything that a call reads and writes.
#[derive(Clone)]
struct Buffers<X, V, Y> {
    x: Vec<X>,
    /// x, where only f32 may be.
    x32: Vec<f32>,
    residual: Vec<f32>,
    bias: Vec<f32>,
    s: Vec<f32>,
    gamma: Vec<V>,
    beta: Vec<V>,
    y: Vec<Y>,
    y32: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

impl<X: Beside, V: Beside, Y: Beside> Buffers<X, V, Y> {
    fn new(case: Case) -> Self {
        let Case { rows, cols, gap, groups, is_wild, .. } = case;
        let stride = cols + gap;
        let len = rows * stride;
        let mut x: Vec<f32> = numbers(len, 1);
        let mut residual: Vec<f32> = numbers(len, 2);
        if rows > 4 {
            // Rows for the slow path, and a row of equal elements.
            x[2 * stride + 1] = f32::NAN;
            x[3 * stride] = 1e30;
            residual[3 * stride + 2] = 1e-30;
            x[4 * stride..][..cols].fill(0.0);
            residual[4 * stride..][..cols].fill(0.0);
        }
        let x: Vec<X> = rounded(&x);
        let mut gamma: Vec<V> = rounded(&numbers(groups * cols, 5));
        if is_wild {
            gamma[cols / 2] = V::from_computed(f32::INFINITY);
            gamma[cols - 1] = <V as Companion<f32>>::NAN;
        }
        Self {
            x32: wide(&x),
            x,
            residual,
            bias: numbers(cols, 3),
            s: numbers(len, 4),
            gamma,
            beta: rounded(&numbers(groups * cols, 6)),
            y: rounded(&numbers(len, 7)),
            y32: numbers(len, 8),
            mean: vec![0.0; rows],
            rstd: vec![0.0; rows],
        }
    }

    /// The same with every buffer in f32.
    fn widened(&self) -> Buffers<f32, f32, f32> {
        let Self { x32, residual, bias, s, y32, mean, rstd, .. } = self.clone();
        let (gamma, beta, y) = (wide(&self.gamma), wide(&self.beta), wide(&self.y));
        Buffers { x: x32.clone(), x32, residual, bias, s, gamma, beta, y, y32, mean, rstd }
    }

    fn run<M: Jobs>(&mut self, isa: Isa, case: Case)
    where
        f32: Compiled<M>,
    {
        let Case { form, rows, cols, gap, groups, offset, .. } = case;
        let at = cols + gap;
        let Self { x, x32, residual, bias, s, gamma, beta, y, y32, mean, rstd } = self;
        let params = Params {
            gamma: Some(Vector::from(&gamma[..])),
            beta: Some(Vector::from(&beta[..])),
            groups: Groups::new(groups, 1).expect("groups"),
            offset,
            ..Params::default()
        };
        let io = match form {
            Form::Apart | Form::Streamed => RowIo::new(x32, at, &mut y[..], at, rows, cols),
            Form::InPlace => RowIo::in_place(x32, at, rows, cols),
            Form::Sum => RowIo::sum((&x[..], at), (residual, at), (s, at), (&mut y[..], at), rows, cols),
            Form::SumInPlace => RowIo::sum_in_place((&x[..], at), (residual, at), (&mut y[..], at), rows, cols),
            Form::SumInto => RowIo::sum_into((&x[..], at), (residual, at), (y32, at), rows, cols),
            Form::SumOver => RowIo::sum_over((&x[..], at), (residual, at), rows, cols),
        };
        let io = io.expect("the rows fit");
        let is_sum = io.is_sum();
        let stats = StatsMut { mean: Some(mean), rstd: Some(rstd), ..StatsMut::default() };
        let mut job = M::job(io, params, form == Form::Streamed, stats);
        if is_sum {
            job = job.with_bias(bias).expect("a bias");
        }
        // Parts of jobs are jobs of their own.
        let (mut first, mut rest) = job.split_at(1);
        first.run_on(isa);
        rest.run_on(isa);
    }

    /// The bits of everything, once y has been rounded to `T`.
    fn bits<T: Beside>(&self) -> [Vec<u8>; 7] {
        let Self { x32, residual, s, y, y32, mean, rstd, .. } = self;
        [bits(x32), bits(residual), bits(s), bits(&rounded::<T>(&wide(y))), bits(y32), bits(mean), bits(rstd)]
    }
}

/// Asserts that a call with these types gives the bits of the call on f32.
fn agrees<X: Beside, V: Beside, Y: Beside, M: Jobs>(case: Case)
where
    f32: Compiled<M>,
{
    let given = Buffers::<X, V, Y>::new(case);
    let mut expected = given.widened();
    expected.run::<M>(Isa::SCALAR, case);
    for isa in Isa::available() {
        let mut found = given.clone();
        found.run::<M>(isa, case);
        let types = (X::DTYPE, V::DTYPE, Y::DTYPE);
        assert!(found.bits::<Y>() == expected.bits::<Y>(), "{isa}, {case:?}, {types:?}, {}", M::CENTERED);
        let nans = found.y.iter().filter(|v| v.to_computed().is_nan());
        assert!(nans.into_iter().all(|v| bits(&[*v]) == bits(&[<Y as Companion<f32>>::NAN])), "{isa}, {case:?}");
    }
}

/// Asserts it for all calls that have 16 bits somewhere.
fn all_agree<G: Beside>() {
    // Rows in blocks and fused rows, more of them than are widened at once; rows of one piece and of some.
    let shapes: &[(usize, usize)] = if cfg!(miri) {
        &[(5, 6), (2, CHUNK + 9)]
    } else {
        &[(11, 5), (70, 64), (9, 900), (5, CHUNK), (6, 2 * CHUNK + 9)]
    };
    for &(rows, cols) in shapes {
        for form in FORMS {
            for (gap, groups, offset, is_wild) in [(0, 1, 0.0, false), (3, rows, 1.0, false), (16, 1, 0.0, true)] {
                let case = Case { form, rows, cols, gap, groups, offset, is_wild };
                agrees::<f32, G, f32, Centered>(case);
                agrees::<f32, G, f32, Uncentered>(case);
                agrees::<f32, f32, G, Centered>(case);
                agrees::<f32, G, G, Uncentered>(case);
                agrees::<G, f32, f32, Centered>(case);
                agrees::<G, f32, G, Uncentered>(case);
                agrees::<G, G, G, Centered>(case);
            }
        }
    }
}

/// Asserts that rows whose moments are known, in pieces of columns, give the bits of whole rows.
fn known_rows_agree<G: Beside, M: Jobs>()
where
    f32: Compiled<M>,
{
    let cols = 2 * CHUNK + 70;
    for scale in [1.0, 1e30] {
        let x: Vec<f32> = numbers(cols, 1).iter().map(|v: &f32| v * scale).collect();
        let gamma: Vec<G> = rounded(&numbers(cols, 2));
        let params = Params { gamma: Some(Vector::from(&gamma[..])), ..Params::default() };
        let mut expected = vec![G::from_computed(0.0); cols];
        let io = RowIo::new(&x, cols, &mut expected, cols, 1, cols).expect("the row fits");
        M::job(io, params, false, StatsMut::default()).run_on(Isa::SCALAR);
        for isa in Isa::available() {
            let part = |scale| {
                let moments = |x| RowMoments { x, centered: M::CENTERED, scale }.run_on(isa);
                Moments::merge_all(x.chunks(CHUNK).map(moments))
            };
            let mut moments = part(None);
            let mut y = vec![G::from_computed(7.0); cols];
            let io = RowIo::new(&x, cols, &mut y, cols, 1, cols).expect("the row fits");
            match moments.rescale::<f32>(0.0).expect("eps") {
                None => {
                    let (a, b) = M::known(io, params, &moments).split_at_col(cols / 3);
                    a.run_on(isa);
                    b.run_on(isa);
                    assert_eq!(bits(&y), bits(&expected), "{isa}, in pieces");
                }
                scale => moments = part(scale),
            }
            y.fill(G::from_computed(7.0));
            let io = RowIo::new(&x, cols, &mut y, cols, 1, cols).expect("the row fits");
            let job = M::job(io, params, false, StatsMut::default());
            job.run_with(isa, &[moments]).expect("moments of this row");
            assert_eq!(bits(&y), bits(&expected), "{isa}, {scale}");
        }
    }
}

/// Asserts that gradients take a gamma of 16 bits as they take the same gamma in f32.
fn gradients_agree<G: Beside, M: Center>()
where
    f32: Compiled<M>,
{
    let (rows, cols) = (7, 37);
    let (x, mut dy) = (numbers::<f32>(rows * cols, 9), numbers::<f32>(rows * cols, 10));
    dy[3 * cols..4 * cols].fill(1e-30);
    let gamma: Vec<G> = rounded(&numbers(cols, 11));
    let gamma32 = wide(&gamma);
    for isa in Isa::available() {
        let gradients = |gamma: Vector<'_, f32>| {
            let mut dx = numbers::<f32>(rows * cols, 12);
            let grads = GradRows::new((&dy, cols), (&x, cols), rows, cols).expect("rows");
            let grads = grads.with_dx((&mut dx, cols)).expect("rows");
            let params = Params { gamma: Some(gamma), offset: 1.0, ..Params::default() };
            let job = Backward::<f32, M>::new(grads, Stats::default(), params, 1e-5, true, false);
            let parts = Parts::new(rows, cols);
            let len = parts.partial_len::<f32>(M::CENTERED).expect("a length") * parts.count();
            let (mut partials, mut work) =
                (vec![0.0; len], vec![0.0; parts.work_len::<f32>(M::CENTERED).expect("a length")]);
            job.expect("the lengths fit").run_on(isa, &mut partials, &mut work);
            let mut dgamma = vec![0.0; cols];
            parts.merge::<f32, M>(isa, &partials, Some(&mut dgamma), None);
            (bits(&dx), bits(&dgamma))
        };
        assert_eq!(gradients(Vector::from(&gamma[..])), gradients(Vector::from(&gamma32[..])), "{isa}");
    }
}

fn all<G: Beside>() {
    all_agree::<G>();
    known_rows_agree::<G, Centered>();
    known_rows_agree::<G, Uncentered>();
    gradients_agree::<G, Centered>();
    gradients_agree::<G, Uncentered>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn f16_beside_f32() {
    assert_eq!(<f16 as Companion<f32>>::KIND, Kind::F16);
    all::<f16>();
}

#[test]
fn bf16_beside_f32() {
    assert_eq!(<bf16 as Companion<f32>>::KIND, Kind::Bf16);
    all::<bf16>();
}
