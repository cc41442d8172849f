//! A linear layer on int8: rows are normalized and quantized in one touch, and a product of i8 x i8 -> i32 follows,
//! which is exact. Beside it, the same layer in f32.
//!
//! ```sh
//! cargo run --release --example int8_matmul
//! ```

use lanenorm::scheme::Scheme;
use lanenorm::{Error, RmsNorm};

const TOKENS: usize = 64;
const COLS: usize = 768;
const OUT: usize = 256;

/// Numbers of mean 0, of which a few are large, as activations are.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|i| next() * if i % 251 == 0 { 8.0 } else { 1.0 }).collect()
}

/// One output: the sum of 768 products of at most 127 * 127 fits into an i32.
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

fn main() -> Result<(), Error> {
    let (x, gamma, weights) = (numbers(TOKENS * COLS, 1), vec![1.0f32; COLS], numbers(OUT * COLS, 2));
    let plan = RmsNorm::new(COLS, 1e-6)?;

    // The weights have a scale for each output, made once. Without eps and gamma, normalizing a row changes its scale
    // alone, so that 1 / rstd gives the weights back.
    let (mut w, mut w_scale, mut w_rstd) = (vec![0i8; OUT * COLS], vec![0.0f32; OUT], vec![0.0f32; OUT]);
    let of_weights = RmsNorm::new(COLS, 0.0)?;
    of_weights.call(&weights).rstd_to(&mut w_rstd).quantize(&Scheme::I8).scale_to(&mut w_scale).to(&mut w)?;

    // The rows: one byte for each element is written, and y in f32 is not.
    let (mut q, mut scale) = (vec![0i8; TOKENS * COLS], vec![0.0f32; TOKENS]);
    plan.call(&x).gamma(&gamma).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;

    let mut y = vec![0.0f32; TOKENS * COLS];
    plan.forward(&x, Some(&gamma), &mut y)?;

    let (mut error, mut size) = (0.0f64, 0.0f64);
    for ((q, y), scale) in q.chunks(COLS).zip(y.chunks(COLS)).zip(&scale) {
        for ((w, weights), (w_scale, w_rstd)) in
            w.chunks(COLS).zip(weights.chunks(COLS)).zip(w_scale.iter().zip(&w_rstd))
        {
            let int8 = dot(q, w) as f32 * scale * w_scale / w_rstd;
            let f32: f32 = y.iter().zip(weights).map(|(y, w)| y * w).sum();
            error += f64::from(int8 - f32).powi(2);
            size += f64::from(f32).powi(2);
        }
    }
    let relative = (error / size).sqrt();
    println!("{TOKENS}x{COLS} by {COLS}x{OUT}: int8 differs from f32 by {:.2} % (root mean square)", 100.0 * relative);
    // The largest elements, eight times as large as most, set the scales.
    assert!(relative < 0.05, "int8 is within five percent: {relative}");
    Ok(())
}
