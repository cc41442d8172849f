//! What people write who do not use a library: the plain copy that no normalization can beat by much, the formula as
//! three loops, and Welford's algorithm from the textbook. The SIMD ones have files of their own.

use super::{simd_welford, sums, two_pass};

/// The arguments are x, cols, gamma, beta, eps and y.
pub(crate) type Forward = fn(&[f32], usize, &[f32], &[f32], f32, &mut [f32]);

/// A baseline that normalizes.
#[derive(Clone, Copy)]
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    pub(crate) run: Forward,
    /// The number of sums that each row is spread over: the more, the smaller their rounding errors.
    pub(crate) sums: usize,
}

/// Every baseline that normalizes, the simplest first.
pub(crate) const BASELINES: [Baseline; 5] = [
    Baseline { name: "naive", run: naive, sums: 1 },
    Baseline { name: "welford", run: welford, sums: 1 },
    Baseline { name: "two_pass", run: two_pass::plain, sums: sums::SUMS },
    Baseline { name: "two_pass_simd", run: two_pass::simd, sums: sums::SUMS },
    Baseline { name: "simd_welford", run: simd_welford::simd_welford, sums: simd_welford::GROUPS },
];

/// The formula: a loop for the mean, one for the variance, one for the output.
fn naive(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
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
