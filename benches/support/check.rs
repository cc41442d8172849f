//! Answers are compared before they are timed: a fast wrong answer is no result.

use std::time::Duration;

use lanenorm::kernels::reference;
use lanenorm::kernels::simd::Float;
use lanenorm::kernels::table::Dtype;
use lanenorm::{Companion, Scheme};
use lanenorm_harness::answer::{Gradients, Norm, Part};
use lanenorm_harness::number::{Number, Value};
use rayon::prelude::*;

use super::case::{Case, Tensor};
use super::contender::Contender;
use super::images;
use super::placement::{PACKED, Placement};
use super::quantized::{self, Quantized};
use super::several::{self, HEADS, QUERIES};
use super::steps;
use super::variant::{self, Affine, Variant, grouped};

/// The bounds that the kernels promise for y and dx, in units of the rounding error of the type that rows are computed
/// in. Types of 16 bits add half a unit in the last place, for their own rounding.
const OURS_Y: f64 = 4.0;
const OURS_DX: f64 = 8.0;

/// What a gate adds to the bound of y: 3.4 units in the last place of silu, of two roundings each, and the product. A
/// gate that stands before does so twice, by what is normalized and by its statistics.
const OURS_GATE: f64 = 8.0;

/// The bound of dgamma and dbeta, where errors add up at random: about one column in a thousand is beyond 8.
const OURS_PARAMS: f64 = 12.0;

/// The error of the answer itself for f64, as no type is wider than the one to be checked: two of the mean, four of
/// rstd and two of the rest.
const OF_F64: f64 = 8.0;

/// The number of answers that differ: see [`place`].
const ANSWERS: usize = 13;

/// The answer for all tensors of a case, one after the other.
struct Answer<T: Number> {
    /// y, or dx.
    rows: Part,
    /// dgamma and dbeta, of the backward pass.
    params: Part,
    /// The rows of the first plan. All other plans must give the same bits.
    our_rows: Option<Vec<T>>,
    our_params: Option<Vec<T::Float>>,
}

/// The outputs of a contender. A plan may lack either.
struct Output<T: Number> {
    rows: Vec<T>,
    params: Vec<T::Float>,
}

/// The answers that are known for one case.
pub(crate) struct Answers<'a, T: Number> {
    case: &'a Case,
    /// The answers in their [`place`]s.
    known: [Option<Answer<T>>; ANSWERS],
    /// What `I8` and `Q8_0` give by their definition.
    quantized: [Option<Quantized>; 2],
}

impl<'a, T: Number> Answers<'a, T> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Self { case, known: [const { None }; _], quantized: [const { None }; _] }
    }

    /// Runs a contender once.
    ///
    /// # Panics
    /// If its answer is wrong.
    pub(crate) fn check(&mut self, contender: Contender, placement: &mut Placement<T>) {
        let (case, variant) = (self.case, contender.variant());
        prepare(case, variant, placement);
        contender.time(case, placement, Duration::ZERO, 0);
        let who = || format!("{} {} on {} {}", contender.name(), contender.options(), case.dtype.name(), case.name);
        // The error of a sum of n rounded terms grows as n at worst, and much slower as a rule.
        let bound_of_sums = |n: usize| 32.0 + n as f64 / 8.0;
        let bounds = match contender {
            Contender::Copy { .. } => {
                return assert!(placement.calls().iter().all(|c| c.x == &*c.y), "{} is no copy", who());
            }
            Contender::Baseline { baseline: b, .. } => {
                // Scalar loops round the result of their first step to 16 bits.
                let stored = if variant.gate().is_some() { T::from_f64(1.0).half_ulp() / T::U } else { 0.0 };
                [bound_of_sums(case.cols / b.sums()) + 2.0 * stored, bound_of_sums(case.rows)]
            }
            Contender::Plan { .. } => {
                let gate = match variant {
                    Variant::Silu | Variant::Activation => OURS_GATE,
                    Variant::SiluBefore => 2.0 * OURS_GATE,
                    _ => 0.0,
                };
                let rows = if case.op.is_backward() { OURS_DX } else { OURS_Y + gate };
                [rows, OURS_PARAMS].map(|bound| bound + if T::DTYPE == Dtype::F64 { OF_F64 } else { 0.0 })
            }
        };
        if let Some(scheme) = variant.scheme() {
            let plain = Variant::Default;
            let answer = self.known[place(plain)].get_or_insert_with(|| Answer::new(case, plain));
            let expected = match &mut self.quantized[usize::from(scheme == Scheme::Q8_0)] {
                Some(expected) => &*expected,
                empty => {
                    let (y, expected) = quantized::definition(case, &scheme, placement);
                    let y: Vec<T> = y.into_iter().map(|y| T::from_f64(y.into())).collect();
                    let worst = answer.rows.error(&y, T::U);
                    assert!(worst <= OURS_Y, "y in f32 of {} has an error of {worst} u", who());
                    empty.insert(expected)
                }
            };
            let exact =
                matches!(contender, Contender::Plan { .. }) && (T::DTYPE == Dtype::F32 || !variant.has_two_steps());
            let right = quantized::check(&scheme, expected, &Quantized::of(case, &scheme, placement), exact);
            return right.unwrap_or_else(|wrong| panic!("{}: {wrong}", who()));
        }
        let got = output(case, variant, placement);
        // What the definition gives has the bits that every plan must give.
        if variant == Variant::Steps && self.known[place(variant)].is_none() {
            let (xhat, y) = steps::definition(case, placement);
            let worst = self.answer(Variant::NoAffine).rows.error(&xhat, T::U);
            assert!(worst <= OURS_Y, "the normalized elements of {} have an error of {worst} u", who());
            self.known[place(variant)] = Some(Answer { our_rows: Some(y), ..Answer::empty() });
        }
        let answer = self.answer(variant);
        let is_plan = matches!(contender, Contender::Plan { .. });
        let rows = check(&answer.rows, &mut answer.our_rows, got.rows, T::U, bounds[0], is_plan);
        let params = check(&answer.params, &mut answer.our_params, got.params, T::U, bounds[1], is_plan);
        rows.and(params).unwrap_or_else(|wrong| panic!("{}: {wrong}", who()));
    }

    fn answer(&mut self, variant: Variant) -> &mut Answer<T> {
        self.known[place(variant)].get_or_insert_with(|| Answer::new(self.case, variant))
    }
}

/// Where the answer of a variant is. Those that share a place have the same bits. Sums of f32 have a place apart, as
/// they are summed up in the order of f32, so that their y may round another way than that of bf16.
fn place(variant: Variant) -> usize {
    match variant {
        Variant::SumF32 => 3,
        Variant::UnroundedSums => 4,
        Variant::Steps => 5,
        Variant::Silu => 6,
        Variant::SiluBefore => 7,
        Variant::L2 => 8,
        Variant::Activation => 9,
        // No case has both.
        Variant::ChannelsFirst | Variant::ChannelsLast => 10,
        Variant::SecondY | Variant::SecondYTwoCalls => 11,
        Variant::QAndK | Variant::QAndKTwoCalls => 12,
        _ => variant.affine() as usize,
    }
}

/// Says what is wrong with an answer, if anything is: an error of more than `bound` times `u` times its scale, or a
/// plan whose bits differ from the first plan's.
fn check<V: Value>(
    exact: &Part,
    ours: &mut Option<Vec<V>>,
    got: Vec<V>,
    u: f64,
    bound: f64,
    is_plan: bool,
) -> Result<(), String> {
    if let Some(ours) = ours.as_ref().filter(|_| is_plan && !got.is_empty()) {
        // No answer here is NaN, and values tell all bits but the sign of a zero.
        let is_positive = |v: &V| v.to_f64().is_sign_positive();
        let same = |(a, b): (&V, &V)| a == b && is_positive(a) == is_positive(b);
        let all = ours.len() == got.len() && ours.iter().zip(&got).all(same);
        return all.then_some(()).ok_or_else(|| "other bits than another plan gave".into());
    }
    let worst = exact.error(&got, u);
    if worst > bound || worst.is_nan() {
        return Err(format!("an error of {worst} u, expected at most {bound} u"));
    }
    if is_plan && !got.is_empty() {
        *ours = Some(got);
    }
    Ok(())
}

impl<T: Number> Answer<T> {
    fn empty() -> Self {
        Self { rows: Part::default(), params: Part::default(), our_rows: None, our_params: None }
    }

    fn new(case: &Case, variant: Variant) -> Self {
        let affine = variant.affine();
        let norm = Norm { centered: case.is_centered(), cols: case.cols, eps: case.eps };
        let mut answer = Self::empty();
        for Tensor { x, gamma, beta, dy } in case.tensors::<T>() {
            let x = images::rows(case, variant, &x);
            let groups_of = |v: &[T]| grouped(v).iter().map(|v| v.to_f64()).collect::<Vec<_>>();
            let several = if variant.has_groups() { [&gamma, &beta].map(|v| groups_of(v)) } else { Default::default() };
            let [gamma, beta] = parameters(affine, &gamma, &beta).map(|v| of_elements(case, v));
            if case.op.is_backward() {
                let gamma = (affine != Affine::Absent).then_some(&gamma[..]);
                let Gradients { dx, dgamma, dbeta } = norm.backward(&dy, &x, gamma);
                answer.rows.append(dx);
                answer.params.append(dgamma);
                if norm.centered {
                    answer.params.append(dbeta);
                }
                continue;
            }
            let groups = gamma.len() / case.cols;
            let affine_of = |row: usize| {
                // The rows of `GroupNorm` have the groups of channels in turn. The others are cut into groups of rows.
                let group = if case.is_group_norm() { row } else { row / (case.rows / groups) };
                let start = group % groups * case.cols;
                let [gamma, beta] =
                    [&gamma, &beta].map(|v| (affine != Affine::Absent).then_some(&v[start..][..case.cols]));
                [gamma, beta.filter(|_| norm.centered)]
            };
            let of_several = |group: usize| {
                let [gamma, beta] = several.each_ref().map(|v| &v[group * case.cols..][..case.cols]);
                [Some(gamma), norm.centered.then_some(beta)]
            };
            answer.rows.append(match variant {
                Variant::UnroundedSums => norm.forward(&with_z(&x, |x, z| (x.widen() + z.widen()).into()), affine_of),
                Variant::Silu => norm.forward(&x, affine_of).times(&with_z(&x, |_, z| reference::silu(z.to_f64()))),
                Variant::SiluBefore => {
                    norm.forward(&with_z(&x, |x, z| x.to_f64() * reference::silu(z.to_f64())), affine_of)
                }
                Variant::L2 => {
                    let n = case.cols as f64;
                    Norm { eps: norm.eps / n, ..norm }.forward(&x, affine_of).times(&vec![1.0 / n.sqrt(); x.len()])
                }
                Variant::SecondY | Variant::SecondYTwoCalls => {
                    let mut both = norm.forward(&x, |_| of_several(0));
                    both.append(norm.forward(&x, |_| of_several(1)));
                    both
                }
                Variant::QAndK | Variant::QAndKTwoCalls => {
                    norm.forward(&x, |row| of_several(usize::from(row % HEADS >= QUERIES)))
                }
                Variant::Activation => norm.forward(&x, affine_of).through(reference::silu, reference::silu_derivative),
                _ => norm.forward(&x, affine_of),
            });
        }
        answer
    }
}

/// What `f` makes of the elements of x and z.
fn with_z<T: Number>(x: &[T], f: impl Fn(T, T) -> f64 + Sync) -> Vec<f64> {
    x.par_iter().zip(&variant::z(x)).map(|(&x, &z)| f(x, z)).collect()
}

/// The factors and addends of all groups. 1 + gamma is rounded to the type that rows are computed in.
fn parameters<T: Number>(affine: Affine, gamma: &[T], beta: &[T]) -> [Vec<f64>; 2] {
    let wide = |v: &[T]| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    if affine == Affine::Grouped {
        let one = T::Float::from_f64(1.0);
        [grouped(gamma).into_iter().map(|gamma| (gamma.widen() + one).into()).collect(), wide(&grouped(beta))]
    } else {
        [wide(gamma), wide(beta)]
    }
}

/// gamma or beta with an element for each element of a group, if it has one for each channel.
fn of_elements(case: &Case, v: Vec<f64>) -> Vec<f64> {
    match case.images.filter(|_| case.is_group_norm()) {
        Some(images) => v.into_iter().flat_map(|v| std::iter::repeat_n(v, images.pixels)).collect(),
        None => v,
    }
}

/// Overwrites all outputs, so that no earlier answer is left.
fn prepare<T: Number>(case: &Case, variant: Variant, placement: &mut Placement<T>) {
    for mut call in placement.calls() {
        call.dgamma.fill(T::Float::NAN);
        call.dbeta.fill(T::Float::NAN);
        // No element is that.
        call.q.fill(0x80);
        call.scale.fill(f32::NAN);
        match variant {
            Variant::InPlace => call.restore(case.op),
            Variant::Qk => {
                let queries = call.packed.chunks_exact_mut(PACKED * case.cols);
                queries.zip(call.x.chunks_exact(case.cols)).for_each(|(to, x)| to[..case.cols].copy_from_slice(x));
            }
            Variant::QAndK | Variant::QAndKTwoCalls => several::restore(case, &mut call),
            _ => {
                call.y.fill(<T as Companion<T>>::NAN);
                call.s.fill(<T as Companion<T>>::NAN);
            }
        }
    }
}

/// The outputs of all tensors, one after the other.
fn output<T: Number>(case: &Case, variant: Variant, placement: &mut Placement<T>) -> Output<T> {
    let mut got = Output { rows: Vec::new(), params: Vec::new() };
    for call in placement.calls() {
        if variant == Variant::Qk {
            let queries = call.packed.chunks_exact(PACKED * case.cols);
            got.rows.extend(queries.flat_map(|row| &row[..case.cols]));
        } else if variant.has_heads() {
            got.rows.extend(several::rows(case, call.heads));
        } else if variant != Variant::ParamsOnly {
            got.rows.extend(images::rows(case, variant, call.y));
            if variant.has_second_y() {
                got.rows.extend(&*call.s);
            }
        }
        if case.op.is_backward() && variant != Variant::DxOnly {
            got.params.extend(&*call.dgamma);
            got.params.extend(call.dbeta.iter().filter(|_| case.is_centered()));
        }
    }
    got
}
