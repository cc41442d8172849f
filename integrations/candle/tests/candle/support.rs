//! Tensors of known numbers, and exact results for them.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

/// Normally distributed numbers with a mean and standard deviation of 1, the same in every run.
pub fn normal(seed: u64, shape: &[usize], mean: f64) -> Result<Tensor> {
    let mut rng = StdRng::seed_from_u64(seed);
    let numbers = (0..shape.iter().product()).map(|_| mean + rng.sample::<f64, _>(StandardNormal));
    Tensor::from_iter(numbers, &Device::Cpu)?.reshape(shape)
}

/// x in f64, from values that its type has.
pub fn exact(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F64)
}

/// Layer normalization in f64, by candle's operations.
pub fn layer_norm_f64(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let x = exact(x)?;
    let x = x.broadcast_sub(&x.mean_keepdim(candle_core::D::Minus1)?)?;
    rms_norm_f64(&x, gamma, eps)?.broadcast_add(&exact(beta)?)
}

/// RMS normalization in f64, by candle's operations.
pub fn rms_norm_f64(x: &Tensor, gamma: &Tensor, eps: f64) -> Result<Tensor> {
    let x = exact(x)?;
    let rms = (x.sqr()?.mean_keepdim(candle_core::D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&rms)?.broadcast_mul(&exact(gamma)?)
}

/// The elements in f64.
pub fn elements(x: &Tensor) -> Result<Vec<f64>> {
    exact(x)?.flatten_all()?.to_vec1()
}

/// The largest difference of elements, NaN if one is NaN.
pub fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let worst = |worst: f64, (a, b): (f64, f64)| match (a - b).abs() {
        d if d.is_nan() => d,
        d => worst.max(d),
    };
    Ok(elements(a)?.into_iter().zip(elements(b)?).fold(0.0, worst))
}

/// Asserts that two tensors have the same type and the same elements.
#[track_caller]
pub fn assert_same(a: &Tensor, b: &Tensor) {
    assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()));
    assert_eq!(elements(a).expect("floats"), elements(b).expect("floats"));
}

/// The worst error of y, in units of lanenorm's bound: 4 u (|gamma| (1 + |xhat|) + |beta|), plus half a unit in the
/// last place if y has 16 bits.
pub fn error_in_bounds(y: &Tensor, y_exact: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<f64> {
    let (gamma, beta) = (elements(gamma)?, elements(beta)?);
    let (u, half_ulp, least): (f64, f64, f64) = match y.dtype() {
        DType::F64 => (2f64.powi(-53), 0.0, 0.0),
        DType::F16 => (2f64.powi(-24), 2f64.powi(-11), 2f64.powi(-25)),
        DType::BF16 => (2f64.powi(-24), 2f64.powi(-8), 0.0),
        _ => (2f64.powi(-24), 0.0, 0.0),
    };
    let mut worst: f64 = 0.0;
    for (i, (y, exact)) in elements(y)?.into_iter().zip(elements(y_exact)?).enumerate() {
        let (gamma, beta) = (gamma[i % gamma.len()], beta[i % beta.len()]);
        let scale = gamma.abs() + (exact - beta).abs() + beta.abs();
        // The reference in f64 has an error of its own, which counts if y is f64 too.
        let bound = 4.0 * u * scale + (half_ulp * exact.abs()).max(least) * (1.0 + 1e-6);
        worst = worst.max(if y.is_nan() { f64::INFINITY } else { (y - exact).abs() / bound });
    }
    Ok(worst)
}

/// A variable with the values of a tensor, in a type.
pub fn var(x: &Tensor, dtype: DType) -> Result<Var> {
    Var::from_tensor(&x.to_dtype(dtype)?)
}

/// The message of an error, without the backtrace that the environment may ask for.
#[track_caller]
pub fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}
