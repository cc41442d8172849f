//! Normalizes rows of f32 some times, by a plan or by a plain loop of NEON, for `count.sh`, which counts instructions.
//!
//! The plain loop is what one writes without a library: a pass for the mean and one for the variance (one for RMSNorm),
//! four or eight accumulators, f32 throughout, a scalar loop for the end of a row. It keeps no promise of the library.

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddvq_f32, vdupq_n_f32, vfmaq_f32, vld1q_f32, vmulq_f32, vst1q_f32, vsubq_f32,
};
use std::hint::black_box;

use lanenorm::{LayerNorm, Parallelism, RmsNorm};

const LANES: usize = 4;
const EPS: f32 = 1e-5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [contender, op, rows, cols, calls] = &arguments[..] else {
        panic!("expected: plan or plain, layer_norm or rms_norm, rows, columns, calls");
    };
    let number = |v: &str| v.parse::<usize>().unwrap_or_else(|_| panic!("{v} is not a number"));
    let (rows, cols, calls) = (number(rows), number(cols), number(calls));
    let x: Vec<f32> = (0..rows * cols).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let (gamma, beta) = (&x[..cols], &x[(rows - 1) * cols..]);
    let mut y = vec![0.0; rows * cols];
    let layer_norm = LayerNorm::new(cols, f64::from(EPS)).expect("a plan").with_parallelism(Parallelism::Serial);
    let rms_norm = RmsNorm::new(cols, f64::from(EPS)).expect("a plan").with_parallelism(Parallelism::Serial);
    for _ in 0..calls {
        let y = black_box(&mut y[..]);
        match (contender.as_str(), op.as_str()) {
            ("plan", "layer_norm") => layer_norm.forward(&x, Some(gamma), Some(beta), y).expect("a valid call"),
            ("plan", "rms_norm") => rms_norm.forward(&x, Some(gamma), y).expect("a valid call"),
            ("plain", "layer_norm") => plain_layer_norm(&x, gamma, beta, y),
            ("plain", "rms_norm") => plain_rms_norm(&x, gamma, y),
            _ => panic!("unknown: {contender} {op}"),
        }
    }
}

/// `of(v)` for each register of `x`, added up in `N` accumulators, and `rest(v)` for what is left.
#[inline(always)]
fn sum<const N: usize>(
    x: &[f32],
    of: impl Fn(float32x4_t, float32x4_t) -> float32x4_t,
    rest: impl Fn(f32) -> f32,
) -> f32 {
    // SAFETY: NEON is a part of aarch64, and each chunk has the elements that are loaded.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); N];
        let mut chunks = x.chunks_exact(N * LANES);
        for chunk in &mut chunks {
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = of(*sum, vld1q_f32(chunk.as_ptr().add(k * LANES)));
            }
        }
        let mut registers = chunks.remainder().chunks_exact(LANES);
        for (register, sum) in (&mut registers).zip(&mut sums) {
            *sum = of(*sum, vld1q_f32(register.as_ptr()));
        }
        let mut n = N;
        while n > 1 {
            n /= 2;
            for k in 0..n {
                sums[k] = vaddq_f32(sums[k], sums[k + n]);
            }
        }
        vaddvq_f32(sums[0]) + registers.remainder().iter().map(|&v| rest(v)).sum::<f32>()
    }
}

fn plain_layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) {
    let cols = gamma.len();
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        // SAFETY: NEON is a part of aarch64; gamma, beta, x and y have `cols` elements.
        unsafe {
            let mean = sum::<4>(x, |s, v| vaddq_f32(s, v), |v| v) / cols as f32;
            let means = vdupq_n_f32(mean);
            let square = |s, v| {
                let d = vsubq_f32(v, means);
                vfmaq_f32(s, d, d)
            };
            let rstd = 1.0 / (sum::<4>(x, square, |v| (v - mean) * (v - mean)) / cols as f32 + EPS).sqrt();
            let rstds = vdupq_n_f32(rstd);
            let whole = cols - cols % LANES;
            for i in (0..whole).step_by(LANES) {
                let xhat = vmulq_f32(vsubq_f32(vld1q_f32(x.as_ptr().add(i)), means), rstds);
                let (gamma, beta) = (vld1q_f32(gamma.as_ptr().add(i)), vld1q_f32(beta.as_ptr().add(i)));
                vst1q_f32(y.as_mut_ptr().add(i), vfmaq_f32(beta, xhat, gamma));
            }
            for i in whole..cols {
                y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
            }
        }
    }
}

fn plain_rms_norm(x: &[f32], gamma: &[f32], y: &mut [f32]) {
    let cols = gamma.len();
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        // SAFETY: as above.
        unsafe {
            let rstd = 1.0 / (sum::<8>(x, |s, v| vfmaq_f32(s, v, v), |v| v * v) / cols as f32 + EPS).sqrt();
            let rstds = vdupq_n_f32(rstd);
            let whole = cols - cols % LANES;
            for i in (0..whole).step_by(LANES) {
                let xhat = vmulq_f32(vld1q_f32(x.as_ptr().add(i)), rstds);
                vst1q_f32(y.as_mut_ptr().add(i), vmulq_f32(xhat, vld1q_f32(gamma.as_ptr().add(i))));
            }
            for i in whole..cols {
                y[i] = x[i] * rstd * gamma[i];
            }
        }
    }
}
