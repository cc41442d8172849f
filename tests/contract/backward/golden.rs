//! Comparison with the gradients of `PyTorch`'s autograd in float64: see `tests/data/README.md`.

use lanenorm::Isa;
use safetensors::{Dtype, SafeTensors};

use super::oracle::exact;
use crate::accuracy::u;
use crate::support::{F32, F64, GradCall, GradProblem, Operation, Problem, Types, Value, tiers};

/// The error of double precision in gradients of x with an offset of 1e6, relative to the size of the terms.
const OF_PYTORCH: f64 = 1e-9;

struct File<'a>(SafeTensors<'a>);

impl File<'_> {
    /// The tensor `name`, its numbers widened. `None` if the file does not have it.
    fn tensor(&self, name: &str) -> Option<Vec<f64>> {
        let tensor = self.0.tensor(name).ok()?;
        let data = tensor.data();
        Some(match tensor.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes).into()).collect(),
            Dtype::F64 => data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
            dtype => panic!("{name} has {dtype:?}"),
        })
    }
}

/// A problem, and its dx, dgamma and dbeta.
struct Case<K: Types> {
    problem: GradProblem<K>,
    expected: [Vec<f64>; 3],
}

fn cases<K: Types>() -> Vec<Case<K>> {
    let bytes = include_bytes!("../../data/backward.safetensors");
    let file = File(SafeTensors::deserialize(bytes).expect("a safetensors file"));
    let mut cases = Vec::new();
    for number in 0.. {
        let get = |name: &str| file.tensor(&format!("{number}.{name}"));
        let Some(x) = get("x") else { break };
        let of = |name: &str| get(name).expect("a tensor of every case");
        let (gamma, eps) = (of("gamma"), of("eps")[0]);
        let cols = gamma.len();
        for (operation, name) in
            [(Operation::LayerNorm { offset: 0.0 }, "layer_norm"), (Operation::RmsNorm { offset: 0.0 }, "rms_norm")]
        {
            let dbeta = if operation.is_layer_norm() { of("layer_norm.dbeta") } else { Vec::new() };
            let expected = [of(&format!("{name}.dx")), of(&format!("{name}.dgamma")), dbeta];
            let x: Vec<K::X> = x.iter().map(|&x| K::X::of(x)).collect();
            let gamma = Some(gamma.iter().map(|&gamma| K::G::of(gamma)).collect());
            let forward = Problem { operation, groups: (1, 1), rows: x.len() / cols, cols, x, gamma, beta: None, eps };
            let dy = of("dy").iter().map(|&dy| K::X::of(dy)).collect();
            cases.push(Case { problem: GradProblem { forward, dy, ds: None }, expected });
        }
    }
    assert!(cases.len() >= 18, "{} cases", cases.len());
    cases
}

/// Compares sums over the rows. The unit is the size of a sum of terms with random signs.
#[track_caller]
fn assert_close<K: Types>(what: &str, problem: &GradProblem<K>, expected: &[f64], got: &[f64], tolerance: f64) {
    assert_eq!(expected.len(), got.len(), "{what}");
    let size = (problem.dy.iter().map(|dy| dy.wide() * dy.wide()).sum::<f64>() / problem.forward.cols as f64).sqrt();
    for (i, (want, got)) in expected.iter().zip(got).enumerate() {
        assert!((want - got).abs() <= tolerance * (size + want.abs()), "{what}, {i}: {got:e}, PyTorch has {want:e}");
    }
}

/// Compares dx, in the unit of its errors.
#[track_caller]
fn assert_dx_close<K: Types>(what: &str, problem: &GradProblem<K>, dx: &[f64], tolerance: f64) {
    let cols = problem.forward.cols;
    for (r, dx) in dx.chunks_exact(cols).enumerate() {
        let exact = exact(problem, r);
        for (i, dx) in dx.iter().enumerate() {
            let near = (exact.dx(i) - dx).abs() <= tolerance * exact.scale(i);
            assert!(near, "{what}, row {r}, column {i}: {dx:e}, exact {:e}", exact.dx(i));
        }
    }
}

fn wide<V: Value>(v: &[V]) -> Vec<f64> {
    v.iter().map(|v| v.wide()).collect()
}

/// `PyTorch` itself loses digits where x has an offset: x of deviation 1 and mean m has been rounded to m 2^-53.
#[test]
fn gradients_of_f64_are_those_of_pytorch() {
    for Case { problem, expected: [dx, dgamma, dbeta] } in cases::<F64>() {
        let largest = problem.forward.x.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
        let tolerance = if largest > 1e3 { OF_PYTORCH } else { 1e-12 };
        for &isa in tiers() {
            let got = problem.run(&GradCall::plain(isa));
            let what = format!("{isa}, {problem}");
            assert_dx_close(&format!("{what}: dx"), &problem, got.dx(), 1e-14);
            assert_dx_close(&format!("{what}: dx of PyTorch"), &problem, &dx, tolerance);
            assert_close(&format!("{what}: dgamma"), &problem, &dgamma, got.dgamma(), tolerance);
            got.dbeta.iter().for_each(|got| assert_close(&format!("{what}: dbeta"), &problem, &dbeta, got, tolerance));
        }
    }
}

/// The gradients in f32 are as accurate as promised, compared with `PyTorch`'s.
#[test]
fn gradients_of_f32_are_those_of_pytorch() {
    for Case { problem, expected: [dx, dgamma, dbeta] } in cases::<F32>() {
        let got = problem.run(&GradCall::plain(Isa::best()));
        assert_dx_close(&format!("{problem}"), &problem, &wide(got.dx()), 8.0 * u::<F32>());
        assert_dx_close(&format!("{problem}: PyTorch"), &problem, &dx, OF_PYTORCH);
        let tolerance = 8.0 * u::<F32>() * (problem.forward.rows as f64).sqrt();
        assert_close(&format!("{problem}: dgamma"), &problem, &dgamma, &wide(got.dgamma()), tolerance);
        if let Some(got) = &got.dbeta {
            assert_close(&format!("{problem}: dbeta"), &problem, &dbeta, &wide(got), tolerance);
        }
    }
}
