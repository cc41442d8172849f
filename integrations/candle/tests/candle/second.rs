//! Gradients of gradients, against differences and against f64.

use candle_core::{DType, Device, Result, Tensor, Var};
use lanenorm_candle::{LayerNorm, RmsNorm, ops};

use crate::child::in_child;
use crate::support::{assert_same, distance, elements, layer_norm_f64, normal, rms_norm_f64, var};

const EPS: f64 = 1e-2;

/// candle keeps the graph of gradients.
const KEPT: [(&str, &str); 1] = [("CANDLE_GRAD_DO_NOT_DETACH", "1")];

/// x, residual, gamma and beta.
type Args = [Tensor; 4];

type Loss = fn(&Args) -> Result<Tensor>;

/// A penalty on first gradients: the sum of their squares.
fn penalty(loss: Loss, args: &Args) -> Result<Tensor> {
    let grads = loss(args)?.backward()?;
    let squares = args.iter().filter_map(|arg| grads.get(arg)).map(|grad| grad.sqr()?.sum_all());
    squares.reduce(|a, b| a? + b?).expect("a gradient")
}

const LOSSES: [(&str, Loss); 9] = [
    ("layer_norm(x)^2 * x", |[x, ..]| (ops::layer_norm(x, None, None, EPS)?.sqr()? * x)?.sum_all()),
    ("layer_norm(x)^3", |[x, ..]| ops::layer_norm(x, None, None, EPS)?.powf(3.0)?.sum_all()),
    ("layer_norm(x, gamma, beta)^3", |[x, _, gamma, beta]| ops::layer_norm(x, gamma, beta, EPS)?.powf(3.0)?.sum_all()),
    // The gradient of y is constant here, and the gradient of x is not.
    ("layer_norm(x) * c", |[x, _, gamma, beta]| (ops::layer_norm(x, gamma, beta, EPS)? * weights(x)?)?.sum_all()),
    ("rms_norm(x)^2 * x", |[x, ..]| (ops::rms_norm(x, None, EPS)?.sqr()? * x)?.sum_all()),
    ("rms_norm(x, gamma)^3", |[x, _, gamma, _]| ops::rms_norm(x, gamma, EPS)?.powf(3.0)?.sum_all()),
    ("rms_norm(x, 1 + gamma) * c", |[x, _, gamma, _]| {
        let y = RmsNorm::new(gamma.clone(), EPS).with_offset(1.0);
        (candle_core::Module::forward(&y, x)? * weights(x)?)?.sum_all()
    }),
    ("add_layer_norm", |[x, residual, gamma, beta]| {
        let (s, y) = ops::add_layer_norm(x, residual, gamma, beta, EPS)?;
        (y.sqr()? * s)?.sum_all()
    }),
    ("add_rms_norm", |[x, residual, gamma, _]| {
        let (s, y) = ops::add_rms_norm(x, residual, gamma, EPS)?;
        (y.sqr()? * s)?.sum_all()
    }),
];

fn weights(x: &Tensor) -> Result<Tensor> {
    normal(9, x.dims(), 0.0)?.to_dtype(x.dtype())
}

fn vars(dtype: DType) -> Result<[Var; 4]> {
    let var = |seed, shape: &[usize], mean| var(&normal(seed, shape, mean)?, dtype);
    Ok([var(1, &[3, 5], 0.5)?, var(2, &[3, 5], 0.0)?, var(3, &[5], 1.0)?, var(4, &[5], 0.0)?])
}

/// The arguments, with each combination of them as variables.
fn tracked(vars: &[Var; 4]) -> Vec<Args> {
    (1..16)
        .map(|which| {
            [0, 1, 2, 3].map(|i| if which >> i & 1 == 1 { vars[i].as_tensor().clone() } else { vars[i].detach() })
        })
        .collect()
}

#[test]
fn derivatives_are_limits_of_differences() -> Result<()> {
    in_child("second::derivatives_are_limits_of_differences", &KEPT, || {
        let vars = vars(DType::F64)?;
        for (what, loss) in LOSSES {
            for args in tracked(&vars) {
                if !loss(&args)?.track_op() {
                    continue;
                }
                let grads = penalty(loss, &args)?.backward()?;
                for of in vars.iter().filter(|of| args.iter().any(|arg| arg.id() == of.id())) {
                    let values = elements(of)?;
                    let grad = grads.get(of).map_or_else(|| Ok(vec![0.0; values.len()]), elements)?;
                    for i in 0..values.len() {
                        let at = |step: f64| -> Result<f64> {
                            let mut moved = values.clone();
                            moved[i] += step;
                            of.set(&Tensor::from_vec(moved, of.shape(), &Device::Cpu)?)?;
                            penalty(loss, &args)?.to_scalar()
                        };
                        let difference = (at(1e-6)? - at(-1e-6)?) / 2e-6;
                        at(0.0)?;
                        let error = (difference - grad[i]).abs();
                        assert!(error < 1e-6 * (1.0 + grad[i].abs()), "{what}: {difference} {}", grad[i]);
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn first_derivatives_of_all_types_stay_what_they_are() -> Result<()> {
    in_child("second::first_derivatives_of_all_types_stay_what_they_are", &KEPT, || {
        let types = [
            (DType::F32, DType::F32, 2e-6),
            (DType::F64, DType::F64, 1e-13),
            (DType::F16, DType::F16, 1e-3),
            (DType::BF16, DType::F32, 8e-3),
        ];
        for (dtype, params, tolerance) in types {
            // At an offset, where f32 would lose digits.
            let x = var(&(normal(1, &[2, 4, 33], 0.0)? + 100.0)?, dtype)?;
            let (gamma, beta) = (var(&normal(2, &[33], 1.0)?, params)?, var(&normal(3, &[33], 0.0)?, params)?);
            let [x_64, gamma_64, beta_64] = [&x, &gamma, &beta].map(|v| var(v, DType::F64));
            let (x_64, gamma_64, beta_64) = (x_64?, gamma_64?, beta_64?);
            // Rows of a transposed tensor, and a gradient without rows.
            let loss = |y: &Tensor| (y.transpose(0, 1)?.narrow(2, 0, 32)? * 0.5)?.sum_all()?.backward();
            let y = ops::layer_norm(&x.transpose(0, 1)?, gamma.as_tensor(), beta.as_tensor(), EPS)?;
            let grads = loss(&y)?;
            let expected = loss(&layer_norm_f64(&x_64.transpose(0, 1)?, &gamma_64, &beta_64, EPS)?)?;
            for (of, exact) in [(&x, &x_64), (&gamma, &gamma_64), (&beta, &beta_64)] {
                let (grad, exact) = (grads.get(of).expect("a gradient"), expected.get(exact).expect("a gradient"));
                assert_eq!((grad.dtype(), grad.dims()), (of.dtype(), of.dims()));
                let largest = elements(exact)?.into_iter().map(f64::abs).fold(0.0, f64::max);
                assert!(distance(grad, exact)? <= tolerance * largest, "{dtype:?}");
            }
            let grads = loss(&ops::rms_norm(&x, gamma.as_tensor(), EPS)?)?;
            let expected = loss(&rms_norm_f64(&x_64, &gamma_64, EPS)?)?;
            let (grad, exact) = (grads.get(&x).expect("a gradient"), expected.get(&x_64).expect("a gradient"));
            let largest = elements(exact)?.into_iter().map(f64::abs).fold(0.0, f64::max);
            assert!(distance(grad, exact)? <= tolerance * largest, "{dtype:?}");
        }
        let none = Var::zeros((0, 8), DType::F32, &Device::Cpu)?;
        let gamma = Var::ones(8, DType::F32, &Device::Cpu)?;
        let grads = LayerNorm::new_no_bias(gamma.as_tensor().clone(), EPS);
        let grads = candle_core::Module::forward(&grads, &none)?.sum_all()?.backward()?;
        assert_same(grads.get(&gamma).expect("a gradient"), &gamma.zeros_like()?);
        Ok(())
    })
}
