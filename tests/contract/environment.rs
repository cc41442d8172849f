//! The bits do not depend on the floating-point environment of the calling thread, nor of a thread of the pool: whether
//! numbers are flushed to zero, how the processor rounds, which exceptions trap. The caller finds its environment as it
//! was, flags too.

use lanenorm::gate::Function;
use lanenorm::kernels::stats::CHUNK;
use lanenorm::{
    Companion, Error, Gate, Gateable, GroupNorm, Isa, LayerNorm, Moments, Parallelism, RmsNorm, Store, bf16, f16,
};

use super::moments::{Own, in_parts};
use super::sum::Case;
use crate::support::{
    Call, ENVIRONMENTS, GradCall, GradProblem, KINDS, Problem, Random, Statistics, Types, special_row, tiers,
};

/// Rows of every kind, for blocks, fused rows, whole rows, and rows of several chunks.
fn problems<K: Types>(eps: f64) -> impl Iterator<Item = Problem<K>> {
    [(2 * KINDS, 5), (2 * KINDS, 64), (KINDS, 300), (KINDS, 1100)].into_iter().map(move |(rows, cols)| {
        let mut problem = Problem::<K>::ordinary(rows, cols, 11).with_eps(eps);
        let mut random = Random::new(12);
        for (r, row) in problem.x.chunks_exact_mut(cols).enumerate() {
            special_row(r % KINDS, &mut random, row);
        }
        problem
    })
}

fn the_caller_may_be_in_any_environment<K: Types>() {
    for (i, eps) in [0.0, 1e-5].into_iter().enumerate() {
        for (j, problem) in problems::<K>(eps).enumerate() {
            for (k, problem) in problem.in_every_form().into_iter().enumerate() {
                let expected = problem.expected();
                for &isa in tiers() {
                    for (l, environment) in ENVIRONMENTS.into_iter().enumerate() {
                        if K::takes(i + j + k + l) {
                            problem.assert_gives(&expected, &Call { environment, ..Call::plain(isa) });
                        }
                    }
                }
            }
        }
    }
}

fn the_caller_of_gradients_may_be_in_any_environment<K: Types>() {
    for (i, eps) in [0.0, 1e-5].into_iter().enumerate() {
        for (j, forward) in problems::<K>(eps).enumerate() {
            // Rows of each kind of x with rows of each kind of dy.
            let gradients = GradProblem::of(forward, |r, _| r / 3 % KINDS);
            for (k, problem) in gradients.in_every_form().into_iter().enumerate() {
                let expected = problem.expected();
                for &isa in tiers() {
                    for (l, environment) in ENVIRONMENTS.into_iter().enumerate() {
                        if K::takes(i + j + k + l) {
                            let statistics = if l % 2 == 0 { Statistics::Kept } else { Statistics::Taken };
                            let call = GradCall { environment, statistics, ..GradCall::plain(isa) };
                            problem.assert_gives(&expected, &call);
                        }
                    }
                }
            }
        }
    }
}

/// Threads of a pool start with an environment of their own, and the caller has the default one.
fn threads_of_the_pool_may_be_in_any_environment<K: Types>() {
    for environment in ENVIRONMENTS {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(move |_| environment.enter());
        let pool = pool.build().expect("a pool");
        for problem in problems::<K>(0.0) {
            let gradients = GradProblem::of(problem.clone(), |r, _| r / 3 % KINDS);
            let (expected, of_gradients) = (problem.expected(), gradients.expected());
            let parallelism = Parallelism::Tasks(2.try_into().expect("not zero"));
            for &isa in tiers() {
                // In the pool the test itself does no arithmetic: it compares bits.
                pool.install(|| {
                    problem.assert_gives(&expected, &Call { parallelism, environment, ..Call::plain(isa) });
                    let call = GradCall { parallelism, environment, ..GradCall::plain(isa) };
                    gradients.assert_gives(&of_gradients, &call);
                });
            }
        }
    }
}

fn sums_in_any_environment<K: Types>() {
    for (seed, (rows, cols)) in [(17, 5), (9, 64), (5, 300), (3, 1100)].into_iter().enumerate() {
        let case = Case::<K>::new(rows, cols, seed as u64);
        let solutions = case.solutions();
        for &isa in tiers() {
            for environment in ENVIRONMENTS {
                environment.within(|| {
                    case.check_against(&solutions, isa, Parallelism::Serial, Store::Auto, [0; 4]);
                });
            }
        }
    }
}

fn moments_in_any_environment<K: Own>() {
    for eps in [0.0, 1e-5] {
        let mut problem = Problem::<K>::ordinary(KINDS, 3 * CHUNK - 7, 3).with_eps(eps);
        let mut random = Random::new(2);
        for (r, row) in problem.x.chunks_exact_mut(problem.cols).enumerate() {
            special_row(r, &mut random, row);
        }
        for problem in problem.of_every_operation() {
            let expected = problem.expected().y;
            for &isa in tiers() {
                for environment in ENVIRONMENTS {
                    let y = environment.within(|| in_parts(&problem, CHUNK, |plan| plan.with_isa(isa)));
                    let what = format_args!("{isa}, {environment:?}, {problem}");
                    crate::support::assert_same_bits(what, problem.cols, &expected, &y);
                }
            }
        }
    }
}

const CHANNELS: usize = 18;
const PIXELS: usize = 1024;

/// Everything that channels and gates give of x and dy, gamma and beta, one after the other.
fn channels_and_gates<T: Gateable + Companion<T>>(
    isa: Isa,
    [x, dy]: &[Vec<T>; 2],
    [gamma, beta]: &[Vec<T>; 2],
) -> Vec<T> {
    let (mut y, mut all) = (x.clone(), Vec::new());
    let layer = LayerNorm::new(CHANNELS, 1e-5).expect("a plan").with_isa(isa).with_offset(0.1);
    let rms = RmsNorm::new(CHANNELS, 1e-5).expect("a plan").with_isa(isa);
    let group = GroupNorm::new(CHANNELS, 1, 1e-5).expect("a plan").with_isa(isa);
    let mut keep = |result: Result<(), Error>, y: &[T]| {
        result.expect("a valid call");
        all.extend_from_slice(y);
    };
    keep(layer.call(x).gamma(gamma).beta(beta).channels_first(PIXELS).to(&mut y), &y);
    keep(layer.backward(dy, x).gamma(gamma).channels_first(PIXELS).to(&mut y), &y);
    keep(rms.call(x).gamma(gamma).channels_first(PIXELS).to(&mut y), &y);
    keep(rms.backward(dy, x).gamma(gamma).channels_first(PIXELS).to(&mut y), &y);
    keep(rms.call(x).gamma(gamma).gate(dy, Gate::SILU).to(&mut y), &y);
    keep(rms.backward(dy, x).gamma(gamma).gate(x, Gate::SILU).to(&mut y), &y);
    keep(group.call(x, PIXELS).gamma(gamma).beta(beta).to(&mut y), &y);
    let last = group.call(x, PIXELS).gamma(gamma).beta(beta).channels_last();
    keep(last.activation(Function::Silu).to(&mut y), &y);
    keep(group.backward(dy, x, PIXELS).gamma(gamma).to(&mut y), &y);
    all
}

fn channels_and_gates_in_any_environment<T: Gateable + Companion<T> + bytemuck::Pod>(to: fn(f64) -> T) {
    let numbers = |len: usize, seed: u64| -> Vec<T> {
        let mut random = Random::new(seed);
        (0..len).map(|_| to(random.normal())).collect()
    };
    // Subnormal numbers too, which some environments take for zeros.
    let vector = |seed| -> Vec<T> {
        let numbers = numbers(CHANNELS, seed).into_iter().enumerate();
        numbers.map(|(i, v)| if i % 3 == 0 { to(1e-41) } else { v }).collect()
    };
    let (tensors, vectors) = ([1, 2].map(|seed| numbers(2 * CHANNELS * PIXELS, seed)), [3, 4].map(vector));
    for &isa in tiers() {
        let expected = channels_and_gates(isa, &tensors, &vectors);
        for environment in ENVIRONMENTS {
            let got = environment.within(|| channels_and_gates(isa, &tensors, &vectors));
            let [got, expected]: [&[u8]; 2] = [&got, &expected].map(|v| bytemuck::cast_slice(v));
            assert!(got == expected, "{isa}, {environment:?}");
        }
    }
}

#[test]
fn channels_and_gates_of_f32_in_any_environment() {
    channels_and_gates_in_any_environment::<f32>(|v| v as f32);
}

#[test]
fn channels_and_gates_of_f16_in_any_environment() {
    channels_and_gates_in_any_environment::<f16>(f16::from_f64);
}

#[test]
fn channels_and_gates_of_bf16_in_any_environment() {
    channels_and_gates_in_any_environment::<bf16>(bf16::from_f64);
}

for_all_types!(the_caller_may_be_in_any_environment);
for_all_gradients!(the_caller_of_gradients_may_be_in_any_environment);
for_every_type!(threads_of_the_pool_may_be_in_any_environment, sums_in_any_environment, moments_in_any_environment);

/// An offset of gamma and an eps that count as zero where subnormal numbers count as zero.
#[test]
fn subnormal_offsets_and_eps_count() {
    let x: [f64; 3] = [1e-310, -2e-310, 3e-310];
    let small = f32::from_bits(3);
    let gamma = [f64::from_bits(1); 3];
    let run = |isa: Isa| {
        let plan = LayerNorm::new(3, 1e-320).expect("a valid eps").with_offset(small).with_isa(isa);
        let mut y = [0.0; 3];
        plan.with_parallelism(Parallelism::Serial).forward(&x, Some(&gamma), None, &mut y).expect("a valid call");
        y.map(f64::to_bits)
    };
    let expected = run(Isa::SCALAR);
    assert!(expected.iter().all(|&bits| bits << 1 != 0));
    for &isa in tiers() {
        for environment in ENVIRONMENTS {
            assert_eq!(environment.within(|| run(isa)), expected, "{isa}, {environment:?}");
        }
    }
}

/// Where subnormal numbers count as zeros, a negative one is not less than zero.
#[test]
fn a_negative_subnormal_eps_is_refused() {
    for environment in ENVIRONMENTS {
        assert!(environment.within(|| LayerNorm::new(3, -1e-310)).is_err(), "{environment:?}");
        assert!(environment.within(|| LayerNorm::new(3, -0.0)).is_ok(), "{environment:?}");
    }
}

/// Numbers that raise flags, or trap, where they are compared.
#[test]
fn moments_that_are_refused_leave_the_environment_alone() {
    let signaling = f64::from_bits(0x7ff0_0000_0000_0001);
    let x = [1.0_f32, 2.0, 3.0];
    let plan = LayerNorm::new(3, 1e-5).expect("a valid eps");
    let known = Moments { count: 3.0, origin: 2.0, m2: 2.0, ..Moments::EMPTY };
    for environment in ENVIRONMENTS {
        for bad in [5e-324, signaling] {
            let of_all = [
                Moments { count: bad, ..known },
                Moments { scale: bad, ..known },
                Moments { m2: -f64::from_bits(1), origin: bad, ..known },
            ];
            let errors = environment.within(|| {
                let (mut moments, mut y) = ([known], [7.0; 3]);
                let mut errors = usize::from(plan.moments_at_scale(&x, bad, &mut moments).is_err());
                for moments in of_all {
                    errors += usize::from(plan.call(&x).moments(&[moments]).to(&mut y).is_err());
                }
                assert!(moments == [known] && y == [7.0; 3], "something has been written");
                errors
            });
            assert_eq!(errors, 4, "{environment:?}, {bad:e}");
        }
    }
}
