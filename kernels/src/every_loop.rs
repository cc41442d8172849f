//! Small shapes that enter every loop: rows in blocks, fused rows, streamed rows, packed gammas, rows by columns,
//! gradients and their sums. Each tier of this machine must give the bits of the portable one.
//!
//! The shapes are small enough for Miri, which runs the AVX2 tier if it is told that the processor has it: see
//! CONTRIBUTING.md.

use std::vec;
use std::vec::Vec;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::forward::{Forward, ForwardRow, SINGLE_ROW_COLS};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::moments::RowMoments;
use crate::ops::rms_norm::RmsNorm;
use crate::rows::{GradRows, Groups, OneRow, Params, RowIo, Vector};
use crate::simd::Float;
use crate::stats::{CHUNK, Moments, StatsMut};
use crate::{Center, Centered, Compiled, Element, Error, Isa, Uncentered};

/// Numbers between -1 and 1, and some larger ones that take a row out of the range of the loops.
pub(crate) fn numbers<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..len).map(|_| T::from_computed(T::Float::from_f64(next()))).collect()
}

fn of_f32<T: Element>(v: f32) -> T {
    T::from_computed(T::Float::from_f32(v))
}

/// The bytes of `v`: a conversion of floats may change the sign of a NaN.
pub(crate) fn bits<T: Pod>(v: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(v).to_vec()
}

/// How rows lie.
#[derive(Clone, Copy, Debug)]
enum Form {
    Apart,
    /// With gaps between the rows of x and of y.
    Strided,
    Streamed,
    InPlace,
    Sum,
    SumOver,
}

const FORMS: [Form; 6] = [Form::Apart, Form::Strided, Form::Streamed, Form::InPlace, Form::Sum, Form::SumOver];

/// The constructors of either operation.
trait Jobs<M: Center>: Element {
    fn job<'a>(
        io: RowIo<'a, Self>,
        params: Params<'a, Self>,
        streaming: bool,
        stats: StatsMut<'a, Self::Float>,
    ) -> Result<Forward<'a, Self, M>, Error>;
}

impl<T: Element> Jobs<Centered> for T {
    fn job<'a>(
        io: RowIo<'a, T>,
        params: Params<'a, T>,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<LayerNorm<'a, T>, Error> {
        LayerNorm::new(io, params, 1e-5, streaming, stats)
    }
}

impl<T: Element> Jobs<Uncentered> for T {
    fn job<'a>(
        io: RowIo<'a, T>,
        params: Params<'a, T>,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<RmsNorm<'a, T>, Error> {
        RmsNorm::new(io, Params { beta: None, ..params }, 1e-5, streaming, stats.rstd)
    }
}

/// The bits of y, the sum and rstd.
fn forward<T: Jobs<M> + Compiled<M>, M: Center>(
    isa: Isa,
    form: Form,
    (rows, cols): (usize, usize),
    (groups, offset): (usize, f64),
) -> [Vec<u8>; 3] {
    let (x_stride, y_stride) = if matches!(form, Form::Strided) { (cols + 3, cols + 1) } else { (cols, cols) };
    let mut x = numbers::<T>(rows * x_stride, 1);
    // A row for the slow path.
    if rows > 2 {
        x[2 * x_stride..3 * x_stride].fill(T::from_computed(T::Float::NAN));
    }
    let (mut y, mut s) = (numbers::<T>(rows * y_stride, 2), numbers::<T>(rows * cols, 3));
    let residual = numbers::<T>(rows * cols, 4);
    let (gamma, beta) = (numbers::<T>(groups * cols, 5), numbers::<T>(groups * cols, 6));
    let mut rstd = vec![T::Float::default(); rows];
    let params = Params {
        gamma: Some(Vector::from(&gamma[..])),
        beta: Some(Vector::from(&beta[..])),
        groups: Groups::new(groups, 1).expect("groups"),
        offset: T::Float::from_f64(offset),
        ..Params::default()
    };
    let io = match form {
        Form::Apart | Form::Strided | Form::Streamed => RowIo::new(&x, x_stride, &mut y, y_stride, rows, cols),
        Form::InPlace => {
            y.copy_from_slice(&x);
            RowIo::in_place(&mut y, cols, rows, cols)
        }
        Form::Sum => RowIo::sum((&x, cols), (&residual, cols), (&mut s, cols), (&mut y, cols), rows, cols),
        Form::SumOver => RowIo::sum_over((&x, cols), (&mut y, cols), rows, cols),
    };
    let stats = StatsMut { rstd: Some(&mut rstd), ..StatsMut::default() };
    let job = T::job(io.expect("the rows fit"), params, matches!(form, Form::Streamed), stats);
    job.expect("the lengths fit").run_on(isa);
    [bits(&y), bits(&s), bits(&rstd)]
}

/// How gamma and beta are given: gamma with an offset, and beta. Some of their elements are not finite.
#[derive(Clone, Copy, Debug)]
struct Given {
    gamma: bool,
    beta: bool,
    offset: f32,
    is_finite: bool,
}

/// The bits of y from [`ForwardRow`], and from [`Forward`] with one row. `None` if [`ForwardRow`] has no loop for this
/// row.
fn one_row<T: Element + Compiled<M>, M: Center>(
    isa: Isa,
    x: &[T],
    given: Given,
    eps: f64,
    in_place: bool,
) -> Option<[Vec<u8>; 2]> {
    let cols = x.len();
    let (mut gamma, beta) = (numbers::<T>(cols, 13), numbers::<T>(cols, 14));
    if !given.is_finite {
        (gamma[0], gamma[cols / 2]) = (of_f32::<T>(-f32::NAN), of_f32::<T>(f32::INFINITY));
    }
    let vector = |is_given: bool, v| is_given.then_some(Vector::from(v));
    let params = Params {
        gamma: vector(given.gamma, &gamma[..]),
        beta: vector(given.beta && M::CENTERED, &beta[..]),
        offset: T::Float::from_f32(given.offset),
        ..Params::default()
    };
    let (mut y, mut expected) = (x.to_vec(), x.to_vec());
    let io = if in_place {
        RowIo::in_place(&mut expected, cols, 1, cols)
    } else {
        RowIo::new(x, cols, &mut expected, cols, 1, cols)
    };
    let job = Forward::<T, M>::checked(io.expect("the row fits"), params, eps, false, StatsMut::default());
    job.expect("the lengths fit").run_on(isa);
    let row = if in_place { OneRow::in_place(&mut y) } else { OneRow::new(x, &mut y) };
    let row = row.expect("a row with elements");
    ForwardRow::<T, M>::new(row, params.gamma, params.beta, params.offset, params.rounding, eps)?.run_on(isa);
    Some([bits(&y), bits(&expected)])
}

/// The job of one row gives the bits of the job of rows, on every tier: also for rows of extreme range, for rows of
/// equal elements, and where x, gamma or beta are not finite.
#[test]
fn one_row_has_the_bits_of_rows() {
    one_row_of::<f32>();
    one_row_of::<f16>();
    one_row_of::<bf16>();
}

fn one_row_of<T: Element>() {
    let all = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 200, 768, 1000, CHUNK, CHUNK + 1];
    let long = [2 * CHUNK, 2 * CHUNK + 7, 5000, SINGLE_ROW_COLS];
    let lengths = if cfg!(miri) { vec![9, 70] } else { [&all[..], &long[..]].concat() };
    for isa in Isa::available() {
        for &cols in &lengths {
            let ordinary = numbers::<f32>(cols, 15);
            let (mut nan, mut infinite) = (ordinary.clone(), ordinary.clone());
            (nan[cols - 1], infinite[cols / 2]) = (f32::NAN, f32::NEG_INFINITY);
            let scaled = |by: f32| ordinary.iter().map(|v| v * by).collect::<Vec<_>>();
            let rows = [scaled(1e-40), scaled(3e38), scaled(1e-30), vec![3.0; cols], nan, infinite, ordinary.clone()];
            for (x, eps) in rows.iter().flat_map(|x| [(x, 1e-5), (x, 0.0)]) {
                let x: Vec<T> = x.iter().map(|&v| of_f32::<T>(v)).collect();
                for (gamma, beta) in [(false, false), (true, false), (false, true), (true, true)] {
                    for (offset, is_finite) in [(0.0, true), (1.0, true), (0.0, false)] {
                        let given = Given { gamma, beta, offset, is_finite };
                        for in_place in [false, true] {
                            for both in [
                                one_row::<T, Centered>(isa, &x, given, eps, in_place),
                                one_row::<T, Uncentered>(isa, &x, given, eps, in_place),
                            ] {
                                let [y, expected] = both.expect("a single row");
                                let case = std::format!("{}, {isa}, {cols}, {given:?}, {eps}", T::DTYPE.name());
                                assert_eq!(y, expected, "{case}, in place: {in_place}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Normalizes one row by its moments, in two pieces. Returns the bits of y.
fn by_columns<T: Jobs<M> + Compiled<M>, M: Center>(isa: Isa, cols: usize) -> Vec<u8> {
    let (x, mut y) = (numbers::<T>(cols, 7), numbers::<T>(cols, 8));
    let part = |x| RowMoments { x, centered: M::CENTERED, scale: None }.run_on(isa);
    let moments = Moments::merge_all(x.chunks(CHUNK).map(part));
    let io = RowIo::new(&x, cols, &mut y, cols, 1, cols).expect("the row fits");
    let job = T::job(io, Params::default(), false, StatsMut::default()).expect("the lengths fit");
    let (a, b) = job.with_moments(&moments).expect("an ordinary row").split_at_col(cols / 3);
    a.run_on(isa);
    b.run_on(isa);
    bits(&y)
}

/// The bits of dx, dgamma and dbeta.
fn backward<T: Element + Compiled<M>, M: Center>(
    isa: Isa,
    (rows, cols): (usize, usize),
    streaming: bool,
) -> [Vec<u8>; 3] {
    let (x, mut dy) = (numbers::<T>(rows * cols, 9), numbers::<T>(rows * cols, 10));
    // Row 0 takes the slow path for dx alone, and another row for everything.
    dy[..cols].fill(T::from_computed(T::Float::from_f64(1e-30)));
    if rows > 3 {
        dy[3 * cols] = T::from_computed(T::Float::NAN);
    }
    let (gamma, mut dx) = (numbers::<T>(cols, 11), numbers::<T>(rows * cols, 12));
    let grads = GradRows::new((&dy, cols), (&x, cols), rows, cols).and_then(|rows| rows.with_dx((&mut dx, cols)));
    let gamma = Some(Vector::from(&gamma[..]));
    let params = Params { gamma, offset: T::Float::from_f64(1.0), ..Params::default() };
    let job = Backward::<T, M>::new(grads.expect("rows"), Stats::default(), params, 1e-5, true, streaming);
    let parts = Parts::new(rows, cols);
    let len = parts.partial_len::<T>(M::CENTERED).expect("a length") * parts.count();
    let mut partials = vec![T::Float::NAN; len];
    let mut work = vec![T::Float::NAN; parts.work_len::<T>(M::CENTERED).expect("a length")];
    job.expect("the lengths fit").run_on(isa, &mut partials, &mut work);
    let (mut dgamma, mut dbeta) = (vec![T::Float::NAN; cols], vec![T::Float::NAN; cols]);
    let dbeta_if_any = M::CENTERED.then_some(&mut dbeta[..]);
    parts.merge::<T, M>(isa, &partials, Some(&mut dgamma), dbeta_if_any);
    [bits(&dx), bits(&dgamma), bits(&dbeta)]
}

/// The tiers other than the portable one. The tier that `LANENORM_TEST_MIN_ISA` names must be among them.
pub(crate) fn tiers() -> impl Iterator<Item = Isa> {
    if let Ok(least) = std::env::var("LANENORM_TEST_MIN_ISA") {
        assert!(Isa::available().any(|isa| isa.tier().name() == least), "{least} is not here");
    }
    Isa::available().filter(|&isa| isa != Isa::SCALAR)
}

/// Shapes of rows, the forms in which they lie, and for each the numbers of groups of gamma and beta with the offset.
type Cases<'a> = &'a [((usize, usize), &'a [Form], &'a [(usize, f64)])];

/// Rows that have a lane each, of every number of columns that their sums tell apart, with a few rows left that are
/// fused; blocks, of whole steps and not; rows that are fused; and two chunks.
const CASES: Cases<'_> = &[
    ((11, 5), &FORMS, &[(1, 0.0), (1, 1.0), (11, 0.0)]),
    ((35, 1), &FORMS, &[(1, 0.0)]),
    ((18, 3), &FORMS, &[(1, 0.0)]),
    ((16, 8), &FORMS, &[(1, 1.0)]),
    ((17, 16), &[Form::Apart, Form::Strided], &[(1, 0.0)]),
    ((33, 19), &FORMS, &[(1, 0.0)]),
    ((50, 32), &[Form::Apart, Form::InPlace], &[(1, 0.0)]),
    ((20, 38), &FORMS, &[(1, 0.0)]),
    ((34, 48), &FORMS, &[(1, 1.0)]),
    ((8, 64), &[Form::Apart, Form::Streamed], &[(1, 0.0)]),
    ((9, 250), &FORMS, &[(1, 0.0), (3, 0.0)]),
    ((3, 200), &FORMS, &[(1, 1.0)]),
    ((2, CHUNK + 9), &[Form::Apart], &[(1, 1.0)]),
];

/// Miri takes seconds for each. These enter all functions and reach all code that [`CASES`] do, as the compiler counts
/// it (`-Cinstrument-coverage`) for f32, f64 and bf16.
const CASES_OF_MIRI: Cases<'_> = &[
    ((9, 3), &[Form::Strided], &[(1, 0.0)]),
    ((8, 38), &[Form::Apart], &[(1, 1.0)]),
    ((11, 5), &[Form::Streamed, Form::SumOver], &[(11, 0.0)]),
    ((8, 64), &[Form::Apart], &[(1, 0.0)]),
    ((2, 200), &[Form::Streamed, Form::InPlace, Form::Sum], &[(1, 1.0)]),
    ((3, 200), &[Form::Streamed], &[(1, 1.0)]),
    ((2, CHUNK + 9), &[Form::Apart], &[(1, 1.0)]),
];

/// Shapes of gradients, and whether dx is streamed. The last have two leaves, and two parts.
const GRADIENTS: &[((usize, usize), &[bool])] =
    &[((1, 70), &[false, true]), ((19, 9), &[false, true]), ((67, 3), &[false, true])];

/// Fewer shapes of gradients, for Miri, like [`CASES_OF_MIRI`].
const GRADIENTS_OF_MIRI: &[((usize, usize), &[bool])] = &[((1, 70), &[true]), ((7, 9), &[false]), ((67, 3), &[false])];

/// Asserts that all tiers give the bits of the portable one for all shapes.
fn every_loop<T: Element>() {
    let (cases, gradients) = if cfg!(miri) { (CASES_OF_MIRI, GRADIENTS_OF_MIRI) } else { (CASES, GRADIENTS) };
    for isa in tiers() {
        for &(shape, forms, vectors) in cases {
            for (&form, &vectors) in forms.iter().flat_map(|form| vectors.iter().map(move |vectors| (form, vectors))) {
                let all = |isa| {
                    (
                        forward::<T, Centered>(isa, form, shape, vectors),
                        forward::<T, Uncentered>(isa, form, shape, vectors),
                    )
                };
                assert_eq!(all(isa), all(Isa::SCALAR), "{isa}, {form:?}, {shape:?}, {vectors:?}");
            }
        }
        let all = |isa| (by_columns::<T, Centered>(isa, 270), by_columns::<T, Uncentered>(isa, 70));
        assert_eq!(all(isa), all(Isa::SCALAR), "{isa}: by columns");
        for &(shape, streaming) in gradients {
            for &streaming in streaming {
                let all = |isa| {
                    (backward::<T, Centered>(isa, shape, streaming), backward::<T, Uncentered>(isa, shape, streaming))
                };
                assert_eq!(all(isa), all(Isa::SCALAR), "{isa}: gradients, {shape:?}, streaming: {streaming}");
            }
        }
    }
}

#[test]
fn every_loop_of_f32() {
    every_loop::<f32>();
}

#[test]
fn every_loop_of_f64() {
    every_loop::<f64>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn every_loop_of_f16() {
    every_loop::<f16>();
}

#[test]
fn every_loop_of_bf16() {
    every_loop::<bf16>();
}
