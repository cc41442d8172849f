//! The gradients fit the results of forward: they are compared with differences of sum(y * dy), in f64, as x, gamma and
//! beta are moved. Found by proptest, which shrinks what fails.

use lanenorm::Isa;
use proptest::prelude::*;

use crate::support::{Call, F64, FORMS, GradCall, GradProblem, Random, Value, quick};

/// How far the differences may be off, relative to the sizes of the terms: they neglect the fourth power of the step,
/// and cancellation leaves them about 12 digits.
const TOLERANCE: f64 = 1e-9;

/// The number whose gradients are dx, dgamma and dbeta, ds included.
fn loss(GradProblem { forward, dy, ds }: &GradProblem<F64>) -> f64 {
    let y = forward.run(&Call::plain(Isa::best())).y;
    let of_y: f64 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
    let of_x: f64 = ds.iter().flatten().zip(&forward.x).map(|(ds, x)| ds * x).sum();
    of_y + of_x
}

/// The derivative by the number that `at` finds, as a central difference of fourth order.
fn difference(problem: &GradProblem<F64>, step: f64, at: impl Fn(&mut GradProblem<F64>) -> &mut f64) -> f64 {
    let moved = |steps: f64| {
        let mut moved = problem.clone();
        *at(&mut moved) += steps * step;
        loss(&moved)
    };
    (8.0 * (moved(1.0) - moved(-1.0)) - (moved(2.0) - moved(-2.0))) / (12.0 * step)
}

fn problem(rows: usize, cols: usize, form: usize, groups: usize, eps: f64, seed: u64) -> GradProblem<F64> {
    let mut random = Random::new(seed);
    let problem = GradProblem::<F64>::ordinary(rows * groups, cols, seed).with_eps(eps);
    let mut problem = problem.in_every_form()[form].clone();
    problem.forward.x.iter_mut().for_each(|x| *x = random.normal() + 3.0);
    problem.dy.iter_mut().for_each(|dy| *dy = random.normal());
    problem.ds.iter_mut().flatten().for_each(|ds| *ds = random.normal());
    if problem.forward.gamma.is_some() {
        problem.forward = problem.forward.with_groups(groups, 1);
    }
    problem
}

fn close(got: f64, difference: f64, size: f64) -> bool {
    (got - difference).abs() <= TOLERANCE * (size + got.abs())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if quick() { 20 } else { 300 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn gradients_are_the_limits_of_differences(
        rows in 1usize..5,
        cols in 1usize..40,
        form in 0..FORMS,
        groups in 1usize..3,
        eps in 0.01f64..1.0,
        seed in 0u64..1 << 32,
    ) {
        let problem = problem(rows, cols, form, groups, eps, seed);
        let grads = problem.run(&GradCall::plain(Isa::best()));
        let size = problem.dy.iter().map(|dy| dy.abs()).sum::<f64>() / eps.sqrt();
        // y bends at the scale of the deviation, or of the root of eps where that is larger.
        let step = 1e-3 * eps.sqrt();
        for (i, &dx) in grads.dx().iter().enumerate() {
            let d = difference(&problem, step, |p| &mut p.forward.x[i]);
            prop_assert!(close(dx, d, size), "{problem}: dx of element {i}: {dx:e}, differences {d:e}");
        }
        for (i, &dgamma) in grads.dgamma().iter().enumerate().filter(|_| problem.forward.gamma.is_some()) {
            let d = difference(&problem, 1.0, |p| &mut p.forward.gamma.as_mut().expect("gamma")[i]);
            prop_assert!(close(dgamma, d, size), "{problem}: dgamma of {i}: {dgamma:e}, differences {d:e}");
        }
        for (i, &dbeta) in grads.dbeta.iter().flatten().enumerate().filter(|_| problem.forward.beta.is_some()) {
            let d = difference(&problem, 1.0, |p| &mut p.forward.beta.as_mut().expect("beta")[i]);
            prop_assert!(close(dbeta, d, size), "{problem}: dbeta of {i}: {dbeta:e}, differences {d:e}");
        }
        prop_assert!(grads.dx().iter().all(|dx| !dx.wide().is_nan()));
    }
}
