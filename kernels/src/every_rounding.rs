//! Rounding before the end: every form of a call gives, on every tier, what the definition makes of xhat in f32.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::element::{Addend, Companion, Kind, Storage};
use crate::every_loop::{bits, numbers};
use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::forward::{Forward, ForwardRow, Normalize};
use crate::reference;
use crate::rounding::{Rounding, Sums};
use crate::rows::{GradRows, Groups, OneRow, Params, RowIo, Vector};
use crate::simd::Float;
use crate::stats::{CHUNK, RowNorm, StatsMut};
use crate::{Center, Centered, Compiled, Element, Isa, Uncentered};

/// 16 bits.
trait Half: Element + Storage<Float = f32> + Compiled<Centered> + Compiled<Uncentered> + Addend<f32> {}

impl Half for f16 {}
impl Half for bf16 {}

/// The type of gamma and beta, or of y.
trait Beside<T>: Companion<T> + Storage<Float = f32> {}

impl<T, G: Companion<T> + Storage<Float = f32>> Beside<T> for G {}

const STEPS: [Rounding; 4] = [Rounding::ONCE, Rounding::STEPS, Rounding::GAMMA, Rounding::STEPS_AND_GAMMA];

/// How rows lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Apart,
    /// With gaps between the rows.
    Strided,
    Streamed,
    InPlace,
    /// One row, which has a loop of its own.
    One,
    Sum,
    /// The sums are written over the residual.
    SumOver,
    /// The sums lie in y meanwhile.
    SumInto,
}

/// A call.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: Form,
    rows: usize,
    cols: usize,
    groups: usize,
    has_gamma: bool,
    has_beta: bool,
    offset: f32,
    /// Whether gamma has an infinity and a NaN.
    is_wild: bool,
    rounding: Rounding,
}

const CASE: Case = Case {
    form: Form::Apart,
    rows: 1,
    cols: 1,
    groups: 1,
    has_gamma: true,
    has_beta: true,
    offset: 1.0,
    is_wild: false,
    rounding: Rounding::ONCE,
};

/// The elements of rows, among them rows for the slow path, of equal elements, and with a NaN.
fn rows_of<T: Half>(case: Case, seed: u64) -> Vec<T> {
    let Case { rows, cols, .. } = case;
    let mut x = numbers::<T>(rows * cols, seed);
    let mut fill = |r: usize, v: f32| {
        if r < rows {
            x[r * cols..][..cols].fill(T::from_computed(v));
        }
    };
    fill(3, 3.0);
    fill(5, 0.0);
    if rows > 6 {
        x[2 * cols + cols / 2] = <T as Companion<T>>::NAN;
    }
    // The slow path computes in f64, and without steps it rounds once.
    if rows > 6 && case.rounding.steps {
        // Out of the range of the loops: the greatest numbers, and numbers whose squares vanish.
        x[4 * cols] = T::from_computed(if T::DTYPE == bf16::DTYPE { 3e38 } else { 6e4 });
        x[6 * cols..][..cols].iter_mut().for_each(|v| *v = T::from_computed(v.to_computed() * 1e-30));
    }
    x
}

fn params<'a, T: Half, G: Beside<T>>(case: Case, gamma: &'a [G], beta: &'a [G], centered: bool) -> Params<'a, T> {
    Params {
        gamma: case.has_gamma.then(|| Vector::from(gamma)),
        beta: (case.has_beta && centered).then(|| Vector::from(beta)),
        groups: Groups::new(case.groups, 1).expect("groups"),
        offset: case.offset,
        rounding: case.rounding,
        ..Params::default()
    }
}

/// The numbers that y is rounded from, to its type, or a canonical NaN.
fn rounded<T, Y: Beside<T>>(v: f32) -> Y {
    if v.is_nan() { <Y as Companion<T>>::NAN } else { Y::from_computed(v) }
}

/// xhat of rows of f32 or 16 bits, in f32.
fn xhat<T: Element<Float = f32> + Compiled<M>, M: Center>(x: &[T], rows: usize, cols: usize, eps: f64) -> Vec<f32>
where
    f32: Companion<T>,
{
    let mut xhat = vec![0.0f32; x.len()];
    let io = RowIo::new(x, cols, &mut xhat, cols, rows, cols).expect("rows");
    let job = Forward::<T, M>::checked(io, Params::default(), eps, false, StatsMut::default());
    job.expect("a job").run_on(Isa::SCALAR);
    xhat
}

/// Asserts that a case gives the definition on every tier.
fn check<T: Half + Compiled<M>, G: Beside<T>, Y: Beside<T>, M: Center>(case: Case)
where
    f32: Companion<T> + Compiled<M>,
{
    const EPS: f64 = 0.0;
    let Case { form, rows, cols, groups, offset, rounding, .. } = case;
    let (mut gamma, beta) = (numbers::<f32>(groups * cols, 5), numbers::<f32>(groups * cols, 6));
    if case.is_wild {
        (gamma[0], gamma[cols / 2], gamma[cols - 1]) = (f32::NAN, f32::INFINITY, f32::MAX);
    }
    let of = |v: Vec<f32>| v.into_iter().map(rounded::<T, G>).collect::<Vec<G>>();
    let (gamma, beta) = (of(gamma), of(beta));
    let round = |v: f32| T::from_computed(v).to_computed();
    let (x, residual, bias) = (rows_of::<T>(case, 1), numbers::<T>(rows * cols, 2), numbers::<T>(cols, 3));
    let is_sum = matches!(form, Form::Sum | Form::SumOver | Form::SumInto);

    // The definition.
    let sum = |i: usize| x[i].to_computed() + residual[i].to_computed() + bias[i % cols].to_computed();
    let wide: Vec<f32> = (0..rows * cols).map(|i| if is_sum { sum(i) } else { x[i].to_computed() }).collect();
    let narrow: Vec<T> = wide.iter().map(|&v| rounded::<T, T>(v)).collect();
    let xhat = if is_sum && rounding.sums == Sums::Unrounded {
        xhat::<f32, M>(&wide, rows, cols, EPS)
    } else if is_sum && rounding.sums == Sums::Statistics {
        by_statistics::<T, M>(&wide, &narrow, cols, EPS)
    } else {
        xhat::<T, M>(&narrow, rows, cols, EPS)
    };
    let is_wide = <G as Companion<T>>::KIND == Kind::F32 && (case.has_gamma || case.has_beta && M::CENTERED);
    let y: Vec<Y> = (0..rows * cols)
        .map(|i| {
            let k = i / cols % groups * cols + i % cols;
            let gamma = case.has_gamma.then(|| gamma[k].to_computed());
            let beta = (case.has_beta && M::CENTERED).then(|| beta[k].to_computed());
            let offset = if offset == 0.0 { -0.0 } else { offset };
            rounded::<T, Y>(reference::affine(&rounding, xhat[i], gamma, offset, beta, is_wide, round))
        })
        .collect();

    for isa in Isa::available() {
        let got = run::<T, G, Y, M>(isa, case, &x, &residual, &bias, [&gamma, &beta], EPS);
        let Some((got_y, got_sums)) = got else { continue };
        let first = got_y.iter().zip(&y).position(|(a, b)| bits(&[*a]) != bits(&[*b]));
        let types = (T::DTYPE, G::DTYPE, Y::DTYPE);
        assert!(
            first.is_none(),
            "{isa}, {types:?}, {}, {case:?}: element {first:?}: {:?}, expected {:?} from {}",
            M::CENTERED,
            first.map(|i| got_y[i]),
            first.map(|i| y[i]),
            first.map_or(0.0, |i| xhat[i]),
        );
        if let Some(sums) = got_sums {
            assert_eq!(bits(&sums), bits(&narrow), "{isa}, {types:?}, {case:?}: sums");
        }
    }
}

/// xhat of rounded sums, by the statistics of unrounded ones.
fn by_statistics<T: Half + Compiled<M>, M: Center>(wide: &[f32], narrow: &[T], cols: usize, eps: f64) -> Vec<f32>
where
    f32: Companion<T> + Compiled<M>,
{
    let mut xhat = vec![0.0f32; wide.len()];
    for (r, (wide, narrow)) in wide.chunks(cols).zip(narrow.chunks(cols)).enumerate() {
        let (mut y, [mut mean, mut mean_lo, mut rstd]) = (vec![0.0f32; cols], [[0.0f32]; 3]);
        let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
        let io = RowIo::new(wide, cols, &mut y, cols, 1, cols).expect("rows");
        let job = Forward::<f32, M>::checked(io, Params::default(), eps, false, stats);
        job.expect("a job").run_on(Isa::SCALAR);
        let norm = RowNorm { mean: mean[0], mean_lo: mean_lo[0], rstd: rstd[0] };
        let xhat = &mut xhat[r * cols..][..cols];
        let v = f64::from(norm.rstd).powi(-2);
        if f32::TRUSTED.contains(&v) {
            let io = RowIo::new(narrow, cols, xhat, cols, 1, cols).expect("rows");
            Normalize::<T, M>::checked(io, Params::default(), norm, false).expect("a job").run_on(Isa::SCALAR);
        } else {
            // The slow path computes in f64.
            let stats = reference::stats(wide, eps);
            let rstd = if M::CENTERED { stats.rstd } else { reference::rms_rstd(wide, eps) };
            for (xhat, v) in xhat.iter_mut().zip(narrow) {
                let d = f64::from(v.to_computed()) - if M::CENTERED { stats.mean } else { 0.0 };
                *xhat = if d == 0.0 && !rstd.is_nan() || rstd.is_infinite() { 0.0 } else { (d * rstd) as f32 };
            }
        }
    }
    xhat
}

/// y and the sums, if they are kept. `None` if there is no such call.
fn run<T: Half + Compiled<M>, G: Beside<T>, Y: Beside<T>, M: Center>(
    isa: Isa,
    case: Case,
    x: &[T],
    residual: &[T],
    bias: &[T],
    [gamma, beta]: [&[G]; 2],
    eps: f64,
) -> Option<(Vec<Y>, Option<Vec<T>>)> {
    let Case { form, rows, cols, .. } = case;
    let params = params(case, gamma, beta, M::CENTERED);
    let own = <Y as Companion<T>>::KIND == Kind::Own;
    let stride = if form == Form::Strided { cols + 3 } else { cols };
    let x: Vec<T> = x.chunks(cols).flat_map(|row| row.iter().copied().chain(vec![row[0]; stride - cols])).collect();
    let mut y: Vec<Y> = vec![Y::from_computed(0.0); x.len()];
    let mut over: Vec<T> = if form == Form::InPlace { x.clone() } else { residual.to_vec() };
    let streaming = form == Form::Streamed;
    let stats = StatsMut::default();
    match form {
        Form::Apart | Form::Strided | Form::Streamed => {
            let io = RowIo::new(&x, stride, &mut y, stride, rows, cols).expect("rows");
            Forward::<T, M>::checked(io, params, eps, streaming, stats).expect("a job").run_on(isa);
            let y = y.chunks(stride).flat_map(|row| row[..cols].to_vec()).collect();
            Some((y, None))
        }
        Form::One => {
            let row = OneRow::new(&x, &mut y)?;
            let Params { gamma, beta, offset, rounding, .. } = params;
            ForwardRow::<T, M>::new(row, gamma, beta, offset, rounding, eps)?.run_on(isa);
            Some((y, None))
        }
        Form::InPlace => {
            own.then_some(())?;
            let io = RowIo::in_place(&mut over, cols, rows, cols).expect("rows");
            Forward::<T, M>::checked(io, params, eps, false, stats).expect("a job").run_on(isa);
            Some((bytemuck::cast_slice(&over).to_vec(), None))
        }
        Form::Sum => {
            let mut s = vec![T::from_computed(7.0); rows * cols];
            let io = RowIo::sum((&x, cols), (residual, cols), (&mut s, cols), (&mut y, cols), rows, cols);
            let job = Forward::<T, M>::checked(io.expect("rows"), params, eps, false, stats).expect("a job");
            job.with_bias(bias).expect("a bias").run_on(isa);
            Some((y, Some(s)))
        }
        Form::SumOver => {
            let io = RowIo::sum_in_place((&x, cols), (&mut over, cols), (&mut y, cols), rows, cols);
            let job = Forward::<T, M>::checked(io.expect("rows"), params, eps, false, stats).expect("a job");
            job.with_bias(bias).expect("a bias").run_on(isa);
            Some((y, Some(over)))
        }
        Form::SumInto => {
            own.then_some(())?;
            let io = RowIo::sum_over((&x, cols), (&mut over, cols), rows, cols);
            let job = Forward::<T, M>::checked(io.expect("rows"), params, eps, false, stats).expect("a job");
            job.with_bias(bias).expect("a bias").run_on(isa);
            Some((bytemuck::cast_slice(&over).to_vec(), None))
        }
    }
}

fn check_types<T: Half>(case: Case)
where
    f32: Companion<T>,
{
    check::<T, T, T, Centered>(case);
    check::<T, T, T, Uncentered>(case);
    check::<T, f32, T, Centered>(case);
    check::<T, T, f32, Centered>(case);
    check::<T, T, f32, Uncentered>(case);
    check::<T, f32, f32, Uncentered>(case);
}

fn steps_of<T: Half>()
where
    f32: Companion<T>,
{
    let forms = [Form::Apart, Form::Strided, Form::Streamed, Form::InPlace, Form::SumOver];
    // Rows that would have a lane each, rows in blocks, rows that are fused, and rows of some chunks.
    let shapes: &[(usize, usize)] =
        if cfg!(miri) { &[(9, 70)] } else { &[(19, 5), (17, 48), (18, 100), (11, 768), (9, CHUNK + 9), (8, 3000)] };
    for &(rows, cols) in shapes {
        for rounding in STEPS {
            let case = Case { rows, cols, rounding, ..CASE };
            for form in forms {
                check_types::<T>(Case { form, ..case });
            }
            check_types::<T>(Case { has_gamma: false, offset: 0.0, ..case });
            check_types::<T>(Case { has_beta: false, ..case });
            check_types::<T>(Case { has_gamma: false, has_beta: false, ..case });
            check_types::<T>(Case { groups: rows, form: Form::Streamed, ..case });
            check_types::<T>(Case { is_wild: true, ..case });
            check_types::<T>(Case { is_wild: true, groups: rows, offset: 0.0, ..case });
            check_types::<T>(Case { form: Form::One, rows: 1, ..case });
        }
    }
}

#[test]
fn steps_are_those_of_the_definition() {
    steps_of::<bf16>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn steps_of_f16_are_those_of_the_definition() {
    steps_of::<f16>();
}

fn sums_of<T: Half>()
where
    f32: Companion<T>,
{
    let shapes: &[(usize, usize)] =
        if cfg!(miri) { &[(2, CHUNK + 70)] } else { &[(19, 5), (9, 100), (8, CHUNK), (9, CHUNK + 9), (8, 3000)] };
    for &(rows, cols) in shapes {
        for sums in [Sums::Statistics, Sums::Unrounded] {
            for steps in [Rounding::ONCE, Rounding::STEPS_AND_GAMMA] {
                for form in [Form::Sum, Form::SumOver, Form::SumInto] {
                    let case = Case { rows, cols, form, rounding: Rounding { sums, ..steps }, ..CASE };
                    check_types::<T>(case);
                    check_types::<T>(Case { groups: rows, has_beta: false, is_wild: true, ..case });
                }
            }
        }
    }
}

#[test]
fn sums_are_normalized_before_they_are_rounded() {
    sums_of::<bf16>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn sums_of_f16_are_normalized_before_they_are_rounded() {
    sums_of::<f16>();
}

/// Beside rows of f32, the sum of a gamma of 16 bits and the offset is rounded to the type of gamma, forward and
/// backward: the bits are those of a gamma of f32 that has these sums.
#[test]
fn gamma_of_16_bits_is_rounded_with_its_offset() {
    gamma_is_rounded::<f32, bf16>();
    gamma_is_rounded::<bf16, bf16>();
    #[cfg(not(miri))]
    gamma_is_rounded::<f16, f16>();
}

fn gamma_is_rounded<T: Element<Float = f32>, G: Companion<T> + Storage<Float = f32>>()
where
    f32: Companion<T>,
{
    for (rows, cols) in [(9, 70), (3, CHUNK + 70)] {
        let (mut x, dy, gamma) = (numbers::<T>(rows * cols, 1), numbers::<T>(rows * cols, 2), numbers::<f32>(cols, 3));
        // A row for the slow path.
        x[0] = T::from_computed(6e4);
        x[cols..2 * cols].iter_mut().for_each(|v| *v = T::from_computed(v.to_computed() * 1e-30));
        let gamma: Vec<G> = gamma.into_iter().map(G::from_computed).collect();
        let sums: Vec<f32> = gamma.iter().map(|v| G::from_computed(v.to_computed() + 1.0).to_computed()).collect();
        let rounding = Rounding::GAMMA;
        let given = Params { gamma: Some(Vector::from(&gamma[..])), offset: 1.0, rounding, ..Params::default() };
        let expected = Params { gamma: Some(Vector::from(&sums[..])), ..Params::default() };
        for isa in Isa::available() {
            let run = |params: Params<'_, T>| {
                let (mut y, mut dx) = (numbers::<T>(rows * cols, 4), numbers::<T>(rows * cols, 4));
                let io = RowIo::new(&x, cols, &mut y, cols, rows, cols).expect("rows");
                let job = Forward::<T, Centered>::checked(io, params, 1e-5, false, StatsMut::default());
                job.expect("a job").run_on(isa);
                let grads = GradRows::new((&dy, cols), (&x, cols), rows, cols).expect("rows");
                let grads = grads.with_dx((&mut dx, cols)).expect("rows");
                let job = Backward::<T, Centered>::new(grads, Stats::default(), params, 1e-5, false, false);
                let parts = Parts::new(rows, cols);
                let mut work = vec![0.0; parts.work_len::<T>(true).expect("a length")];
                job.expect("a job").run_on(isa, &mut [], &mut work);
                [bits(&y), bits(&dx)]
            };
            assert_eq!(run(given), run(expected), "{isa}, {}, {cols}", T::DTYPE.name());
        }
    }
}

/// Sums that are finite, and infinite when they are rounded: 0 * infinity is the canonical NaN on every tier.
#[test]
fn sums_that_become_infinite_give_canonical_nans() {
    fn check<T: Half>(x: f32, residual: f32) {
        for cols in [1, 4, 70] {
            let (x, residual) = (vec![T::from_computed(x); cols], vec![T::from_computed(residual); cols]);
            let gamma = vec![T::from_computed(0.0); cols];
            for eps in [1e-30, 1e-5] {
                for isa in Isa::available() {
                    let (mut s, mut y) = (x.clone(), x.clone());
                    let io = RowIo::sum((&x, cols), (&residual, cols), (&mut s, cols), (&mut y, cols), 1, cols);
                    let rounding = Rounding::SUM_STATISTICS;
                    let params = Params { gamma: Some(Vector::from(&gamma[..])), rounding, ..Params::default() };
                    let job =
                        Forward::<T, Uncentered>::checked(io.expect("rows"), params, eps, false, StatsMut::default());
                    job.expect("a job").run_on(isa);
                    assert!(s.iter().all(|s| s.to_computed() == f32::INFINITY), "{isa}");
                    let nan = <T as Companion<T>>::NAN;
                    assert!(y.iter().all(|y| bits(&[*y]) == bits(&[nan])), "{isa}, {eps}, {}: {y:?}", T::DTYPE.name());
                }
            }
        }
    }
    check::<bf16>(3.389_531_4e38, 1.2e36);
    #[cfg(not(miri))]
    check::<f16>(40_000.0, 40_000.0);
}
