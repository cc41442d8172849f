//! What people write who do not use a library: the plain copy that no normalization can beat by much, each formula as
//! scalar loops, and Welford's algorithm from the textbook. The SIMD ones have files of their own.

use lanenorm::kernels::table::Op;

use super::{simd_welford, sums, two_pass};

/// A baseline that normalizes.
#[derive(Clone, Copy)]
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// The number of sums that each row is spread over: the more, the smaller their rounding errors.
    pub(crate) sums: usize,
}

/// The function, which tells the operation.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
}

/// The arguments are x, cols, gamma, beta, eps and y.
type LayerNorm = fn(&[f32], usize, &[f32], &[f32], f32, &mut [f32]);

/// The arguments are x, cols, gamma, eps and y.
type RmsNorm = fn(&[f32], usize, &[f32], f32, &mut [f32]);

/// Every baseline that normalizes, the simplest of each operation first.
const BASELINES: [Baseline; 8] = [
    Baseline { name: "naive", run: Run::LayerNorm(naive_layer_norm), sums: 1 },
    Baseline { name: "welford", run: Run::LayerNorm(welford), sums: 1 },
    Baseline { name: "two_pass", run: Run::LayerNorm(two_pass::layer_norm), sums: sums::SUMS },
    Baseline { name: "two_pass_simd", run: Run::LayerNorm(two_pass::layer_norm_simd), sums: sums::SUMS },
    Baseline { name: "simd_welford", run: Run::LayerNorm(simd_welford::simd_welford), sums: simd_welford::GROUPS },
    Baseline { name: "naive", run: Run::RmsNorm(naive_rms_norm), sums: 1 },
    Baseline { name: "two_pass", run: Run::RmsNorm(two_pass::rms_norm), sums: sums::SUMS },
    Baseline { name: "two_pass_simd", run: Run::RmsNorm(two_pass::rms_norm_simd), sums: sums::SUMS },
];

/// The baselines of an operation.
pub(crate) fn baselines(op: Op) -> impl Iterator<Item = Baseline> {
    BASELINES.into_iter().filter(move |b| b.run.op() == op)
}

impl Run {
    fn op(self) -> Op {
        match self {
            Self::LayerNorm(_) => Op::LayerNorm,
            Self::RmsNorm(_) => Op::RmsNorm,
        }
    }
}

/// The formula: a loop for the mean, one for the variance, one for the output.
fn naive_layer_norm(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mut mean = 0.0;
        for &x in x {
            mean += x;
        }
        mean /= cols as f32;
        let mut var = 0.0;
        for &x in x {
            var += (x - mean) * (x - mean);
        }
        var /= cols as f32;
        normalize(x, gamma, beta, mean, 1.0 / (var + eps).sqrt(), y);
    }
}

/// B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4(3), 1962.
fn welford(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let (mut mean, mut m2) = (0.0, 0.0);
        for (i, &x) in x.iter().enumerate() {
            let delta = x - mean;
            mean += delta / (i + 1) as f32;
            m2 += delta * (x - mean);
        }
        normalize(x, gamma, beta, mean, 1.0 / (m2 / cols as f32 + eps).sqrt(), y);
    }
}

/// The last loop of both, which compilers vectorize.
fn normalize(x: &[f32], gamma: &[f32], beta: &[f32], mean: f32, rstd: f32, y: &mut [f32]) {
    for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
        *y = (x - mean) * rstd * gamma + beta;
    }
}

/// The formula: a loop for the mean of squares, one for the output.
fn naive_rms_norm(x: &[f32], cols: usize, gamma: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mut squares = 0.0;
        for &x in x {
            squares += x * x;
        }
        let rstd = 1.0 / (squares / cols as f32 + eps).sqrt();
        for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = x * rstd * gamma;
        }
    }
}

/// A copy by `tasks` threads of the current rayon pool.
pub(crate) fn copy_threads(x: &[f32], y: &mut [f32], tasks: usize) {
    if tasks <= 1 {
        return y.copy_from_slice(x);
    }
    let left = tasks / 2;
    let at = x.len() / tasks * left;
    let ((x_a, x_b), (y_a, y_b)) = (x.split_at(at), y.split_at_mut(at));
    rayon::join(|| copy_threads(x_a, y_a, left), || copy_threads(x_b, y_b, tasks - left));
}
