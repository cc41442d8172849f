//! Gradients of calls with a gate: all forms give the bits of a call on contiguous rows on one thread, and these are
//! what differences of forward calls say.

use std::fmt::Debug;

use lanenorm::{
    Centered, Companion, Error, Gate, Gateable, LayerNorm, Norm, Parallelism, RmsNorm, Rows, RowsMut, Uncentered, bf16,
    f16,
};

use crate::support::{Random, quick, tiers};

const GATES: [Gate; 4] = [Gate::SILU, Gate::SIGMOID, Gate::GELU_TANH, Gate::SILU_BEFORE];

fn numbers<T: Gateable>(len: usize, seed: u64, scale: f32) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..len).map(|_| T::from_computed(random.normal() as f32 * scale)).collect()
}

/// The inputs of a call: beta for layer normalization alone.
struct Given<T> {
    dy: Vec<T>,
    x: Vec<T>,
    z: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
}

/// dx, dz, dgamma and dbeta.
#[derive(Clone, Debug, PartialEq)]
struct Gradients<T> {
    dx: Vec<T>,
    dz: Vec<T>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
}

/// The two normalizations, with what only one of them has.
trait Plans: lanenorm::Center {
    fn run<T: Gateable + Companion<T>>(
        plan: &Norm<Self>,
        given: &Given<T>,
        gate: Gate,
        form: Form,
        scratch: Option<&mut [f32]>,
    ) -> Gradients<T>
    where
        Self: Sized;
}

/// How the buffers lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Contiguous,
    /// dx goes over dy.
    InPlace,
    /// Gaps between the rows of all buffers.
    Gaps,
    /// Two runs that are woven into one another.
    Woven,
}

impl Form {
    /// Where row `r` of `rows` starts, in rows of `cols` and a gap.
    fn place(self, r: usize, rows: usize) -> usize {
        if self == Self::Woven { r % (rows / 2) * 2 + r / (rows / 2) } else { r }
    }

    fn gap(self) -> usize {
        if self == Self::Gaps { 3 } else { 0 }
    }

    fn spread<T: Copy>(self, v: &[T], rows: usize) -> Vec<T> {
        let (cols, gap) = (v.len() / rows, self.gap());
        let mut to = vec![v[0]; rows * (cols + gap)];
        for r in 0..rows {
            to[self.place(r, rows) * (cols + gap)..][..cols].copy_from_slice(&v[r * cols..][..cols]);
        }
        to
    }

    fn gathered<T: Copy>(self, v: &[T], rows: usize) -> Vec<T> {
        let stride = v.len() / rows;
        (0..rows).flat_map(|r| v[self.place(r, rows) * stride..][..stride - self.gap()].to_vec()).collect()
    }

    fn rows<T>(self, v: &[T], rows: usize) -> Rows<'_, T> {
        let stride = v.len() / rows;
        match self {
            Self::Woven => Rows::strided_2d(v, [2, rows / 2], [stride, 2 * stride]),
            Self::Gaps => Rows::strided(v, rows, stride),
            _ => v.into(),
        }
    }

    fn rows_mut<T>(self, v: &mut [T], rows: usize) -> RowsMut<'_, T> {
        let stride = v.len() / rows;
        match self {
            Self::Woven => RowsMut::strided_2d(v, [2, rows / 2], [stride, 2 * stride]),
            Self::Gaps => RowsMut::strided(v, rows, stride),
            _ => v.into(),
        }
    }
}

/// Runs a call; `$of_layer_norm` adds what layer normalization alone has.
macro_rules! run {
    ($plan:ident, $given:ident, $gate:ident, $form:ident, $scratch:ident, $dbeta:ident, $has_beta:tt) => {{
        let Given { dy, x, z, gamma, .. } = $given;
        let rows = x.len() / $plan.cols();
        let [mut dy, x, z] = [dy, x, z].map(|v| $form.spread(v, rows));
        let (mut dx, mut dz, mut dgamma) = (x.clone(), z.clone(), vec![7.0; gamma.len()]);
        if $form == Form::InPlace {
            let call = $plan.backward_in_place($form.rows_mut(&mut dy, rows), $form.rows(&x, rows)).gamma(gamma);
            let call = run!(@sums call, dgamma, $dbeta, $has_beta).gate($form.rows(&z, rows), $gate);
            let call = run!(@beta call, $given, $has_beta);
            call.dz_to($form.rows_mut(&mut dz, rows)).run().expect("gradients");
            dx = dy;
        } else {
            let call = $plan.backward($form.rows(&dy, rows), $form.rows(&x, rows)).gamma(gamma);
            let mut call = run!(@sums call, dgamma, $dbeta, $has_beta);
            if let Some(scratch) = $scratch {
                call = call.scratch(scratch);
            }
            let call = call.gate($form.rows(&z, rows), $gate);
            let call = run!(@beta call, $given, $has_beta);
            call.dz_to($form.rows_mut(&mut dz, rows)).to($form.rows_mut(&mut dx, rows)).expect("gradients");
        }
        (($form.gathered(&dx, rows)), $form.gathered(&dz, rows), dgamma)
    }};
    (@sums $call:ident, $dgamma:ident, $dbeta:ident, true) => {
        $call.dgamma_to(&mut $dgamma).dbeta_to(&mut $dbeta)
    };
    (@sums $call:ident, $dgamma:ident, $dbeta:ident, false) => {
        $call.dgamma_to(&mut $dgamma)
    };
    (@beta $call:ident, $given:ident, true) => {
        $call.beta(&$given.beta)
    };
    (@beta $call:ident, $given:ident, false) => {
        $call
    };
}

impl Plans for Centered {
    fn run<T: Gateable + Companion<T>>(
        plan: &Norm<Self>,
        given: &Given<T>,
        gate: Gate,
        form: Form,
        scratch: Option<&mut [f32]>,
    ) -> Gradients<T> {
        let mut dbeta = vec![7.0; given.beta.len()];
        let (dx, dz, dgamma) = run!(plan, given, gate, form, scratch, dbeta, true);
        Gradients { dx, dz, dgamma, dbeta }
    }
}

impl Plans for Uncentered {
    fn run<T: Gateable + Companion<T>>(
        plan: &Norm<Self>,
        given: &Given<T>,
        gate: Gate,
        form: Form,
        scratch: Option<&mut [f32]>,
    ) -> Gradients<T> {
        let (dx, dz, dgamma) = run!(plan, given, gate, form, scratch, unused, false);
        Gradients { dx, dz, dgamma, dbeta: vec![] }
    }
}

fn check<T: Gateable + Companion<T> + Debug, M: Plans>(plan: Norm<M>, rows: usize) {
    let cols = plan.cols();
    let groups = if rows.is_multiple_of(3) { 3 } else { 1 };
    let plan = plan.with_groups(groups, 1).expect("groups").with_offset(0.25);
    let of = |len, seed, scale| numbers::<T>(len, seed, scale);
    let given = Given {
        dy: of(rows * cols, 1, 1.0),
        x: of(rows * cols, 2, 2.0),
        z: of(rows * cols, 3, 3.0),
        gamma: of(groups * cols, 4, 1.0),
        beta: of(groups * cols, 5, 1.0),
    };
    for gate in GATES {
        let serial = plan.with_parallelism(Parallelism::Serial);
        let expected = M::run(&serial, &given, gate, Form::Contiguous, None);
        for isa in tiers() {
            for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
                let plan = plan.with_isa(*isa).with_parallelism(parallelism);
                for form in [Form::Contiguous, Form::InPlace, Form::Gaps, Form::Woven] {
                    if form == Form::Woven && !rows.is_multiple_of(2) {
                        continue;
                    }
                    let mut scratch = vec![f32::NAN; plan.gate_backward_scratch_len(rows).expect("a length")];
                    let got = M::run(&plan, &given, gate, form, Some(&mut scratch));
                    assert!(got == expected, "{plan:?}, {gate:?}, {form:?}, {rows} rows");
                }
            }
        }
    }
}

#[test]
fn gradients_of_gates_have_the_same_bits_in_every_form() {
    let sizes: &[(usize, usize)] = &[(6, 7), (12, 128), (210, 33), (5, 768), (4, 5000)];
    for &(rows, cols) in sizes.iter().take(if quick() { 3 } else { 5 }) {
        let (layer_norm, rms_norm) = (LayerNorm::new(cols, 1e-5).expect("a plan"), RmsNorm::new(cols, 1e-6));
        let rms_norm = rms_norm.expect("a plan");
        check::<f32, _>(layer_norm, rows);
        check::<f32, _>(rms_norm, rows);
        check::<bf16, _>(rms_norm, rows);
        check::<f16, _>(layer_norm, rows);
    }
}

/// The gradient of sum(y * dy) in the direction of `v` is what a small step of x and z changes.
#[test]
fn gradients_of_gates_are_differences_of_forward_calls() -> Result<(), Error> {
    let (rows, cols) = (5, 24);
    let plan = LayerNorm::new(cols, 1e-3)?;
    let of = |len, seed| numbers::<f32>(len, seed, 1.0);
    let [dy, x, z, v, w] = [1, 2, 3, 4, 5].map(|seed| of(rows * cols, seed));
    let [gamma, beta] = [6, 7].map(|seed| of(cols, seed));
    for gate in GATES {
        let loss = |step: f32| -> Result<f64, Error> {
            let moved = |a: &[f32], by: &[f32]| a.iter().zip(by).map(|(a, by)| a + step * by).collect::<Vec<f32>>();
            let mut y = vec![0.0f32; x.len()];
            plan.call(&moved(&x, &v)).gamma(&gamma).beta(&beta).gate(&moved(&z, &w), gate).to(&mut y)?;
            Ok(y.iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum())
        };
        let step = 1.0 / 64.0;
        let difference = (loss(step)? - loss(-step)?) / (2.0 * f64::from(step));
        let (mut dx, mut dz) = (vec![0.0f32; x.len()], vec![0.0f32; x.len()]);
        plan.backward(&dy, &x).gamma(&gamma).gate(&z, gate).beta(&beta).dz_to(&mut dz).to(&mut dx)?;
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let slope = product(&dx, &v) + product(&dz, &w);
        assert!((difference - slope).abs() < 2e-3 * slope.abs().max(1.0), "{gate:?}: {difference}, {slope}");
    }
    Ok(())
}

#[test]
fn gradients_of_gates_that_do_not_fit_are_refused() -> Result<(), Error> {
    let plan = RmsNorm::new(4, 1e-6)?;
    let (dy, x, z) = ([1.0f32; 8], [1.0f32; 8], [1.0f32; 8]);
    let (mut dx, mut dz) = ([7.0f32; 8], [7.0f32; 12]);
    let mut says = |z: &[f32], dz_len: usize, expected: &str| {
        let call = plan.backward(&dy, &x).gate(z, Gate::SILU).dz_to(&mut dz[..dz_len]);
        let error = call.to(&mut dx).expect_err("it does not fit");
        assert_eq!((error.to_string().as_str(), dx, dz), (expected, [7.0; 8], [7.0; 12]));
    };
    says(&[0.0; 7], 8, "z has 7 elements, which is not a whole number of rows of 4");
    says(&[0.0; 12], 8, "dy has 2 rows, but z has 3");
    says(&z, 12, "dy has 2 rows, but dz has 3");
    let error = plan.backward(&dy, &x).gate(&z, Gate::SILU).run().expect_err("nothing is wanted");
    assert_eq!(error.to_string(), "no gradient is wanted: none of dx, dgamma and dbeta is given");
    let mut scratch = [0.0; 10];
    let call = plan.backward(&dy, &x).scratch(&mut scratch).gate(&z, Gate::SILU);
    let error = call.to(&mut dx).expect_err("scratch is short").to_string();
    assert!(error.contains("10") && dx == [7.0; 8], "{error}");
    // No rows: the sums over them are zero.
    let mut dgamma = [7.0; 4];
    plan.backward(&[0.0f32; 0], &[0.0; 0]).dgamma_to(&mut dgamma).gate(&[0.0f32; 0], Gate::SILU).run()?;
    assert_eq!(dgamma, [0.0; 4]);
    Ok(())
}
