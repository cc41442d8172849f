//! Gradients, against candle's slow path, against f64, and against differences.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Module, Result, Tensor, Var};
use lanenorm_candle::{LayerNorm, RmsNorm, ops};

use crate::support::{assert_same, distance, elements, layer_norm_f64, normal, rms_norm_f64, var};

const EPS: f64 = 1e-5;

/// Variables, and the weights of y and of s in a loss.
struct Case {
    x: Var,
    residual: Var,
    gamma: Var,
    beta: Var,
    of_y: Tensor,
    of_s: Tensor,
}

impl Case {
    fn new(shape: &[usize], mean: f64, dtype: DType, params: DType) -> Result<Self> {
        let cols = &shape[shape.len() - 1..];
        Ok(Self {
            x: var(&normal(1, shape, mean)?, dtype)?,
            residual: var(&normal(2, shape, 0.0)?, dtype)?,
            gamma: var(&normal(3, cols, 1.0)?, params)?,
            beta: var(&normal(4, cols, 0.0)?, params)?,
            of_y: normal(5, shape, 0.0)?.to_dtype(dtype)?,
            of_s: normal(6, shape, 0.0)?.to_dtype(dtype)?,
        })
    }

    /// The same values in f64.
    fn exact(&self) -> Result<Self> {
        let exact = |v: &Var| var(v, DType::F64);
        Ok(Self {
            x: exact(&self.x)?,
            residual: exact(&self.residual)?,
            gamma: exact(&self.gamma)?,
            beta: exact(&self.beta)?,
            of_y: self.of_y.to_dtype(DType::F64)?,
            of_s: self.of_s.to_dtype(DType::F64)?,
        })
    }

    fn loss(&self, y: &Tensor) -> Result<GradStore> {
        (y * &self.of_y)?.sum_all()?.backward()
    }

    fn loss_of_both(&self, s: &Tensor, y: &Tensor) -> Result<GradStore> {
        ((s * &self.of_s)?.sum_all()? + (y * &self.of_y)?.sum_all()?)?.backward()
    }
}

#[track_caller]
fn grad<'a>(grads: &'a GradStore, of: &Var) -> &'a Tensor {
    let grad = grads.get(of).expect("a gradient");
    assert_eq!((grad.dtype(), grad.dims()), (of.dtype(), of.dims()));
    grad
}

/// The largest difference relative to the largest element.
fn relative(grad: &Tensor, expected: &Tensor) -> Result<f64> {
    let largest = elements(expected)?.into_iter().map(f64::abs).fold(0.0, f64::max);
    Ok(distance(grad, expected)? / largest)
}

const SHAPES: [&[usize]; 5] = [&[7], &[3, 64], &[2, 3, 384], &[4, 1, 7, 33], &[600, 200]];

/// Types of x and of gamma, and how far gradients may be from the gradients in f64, relative to the largest.
const TYPES: [(DType, DType, f64); 6] = [
    (DType::F32, DType::F32, 2e-6),
    (DType::F64, DType::F64, 1e-13),
    (DType::F16, DType::F16, 1e-3),
    (DType::F16, DType::F32, 1e-3),
    (DType::BF16, DType::BF16, 8e-3),
    (DType::BF16, DType::F32, 8e-3),
];

#[test]
fn are_those_of_f64_in_all_types() -> Result<()> {
    for (dtype, params, tolerance) in TYPES {
        for shape in SHAPES {
            let case = Case::new(shape, 0.5, dtype, params)?;
            let Case { x, gamma, beta, .. } = &case;
            let exact = case.exact()?;
            let grads = case.loss(&ops::layer_norm(x, gamma.as_tensor(), beta.as_tensor(), EPS)?)?;
            let expected = exact.loss(&layer_norm_f64(&exact.x, &exact.gamma, &exact.beta, EPS)?)?;
            for (what, of, exact) in [("x", x, &exact.x), ("gamma", gamma, &exact.gamma), ("beta", beta, &exact.beta)] {
                let error = relative(grad(&grads, of), grad(&expected, exact))?;
                assert!(error < tolerance, "layer_norm {dtype:?} {params:?} {shape:?} {what}: {error:e}");
            }
            let grads = case.loss(&ops::rms_norm(x, gamma.as_tensor(), EPS)?)?;
            let expected = exact.loss(&rms_norm_f64(&exact.x, &exact.gamma, EPS)?)?;
            for (what, of, exact) in [("x", x, &exact.x), ("gamma", gamma, &exact.gamma)] {
                let error = relative(grad(&grads, of), grad(&expected, exact))?;
                assert!(error < tolerance, "rms_norm {dtype:?} {params:?} {shape:?} {what}: {error:e}");
            }
        }
    }
    Ok(())
}

#[test]
fn agree_with_the_slow_path_of_candle() -> Result<()> {
    for shape in SHAPES {
        let case = Case::new(shape, 0.5, DType::F32, DType::F32)?;
        let Case { x, gamma, beta, .. } = &case;
        let ours = case.loss(&ops::layer_norm(x, gamma.as_tensor(), beta.as_tensor(), EPS)?)?;
        let slow = case.loss(&candle_nn::ops::layer_norm_slow(x, gamma, beta, 1e-5)?)?;
        for of in [x, gamma, beta] {
            assert!(relative(grad(&ours, of), grad(&slow, of))? < 1e-5);
        }
        let ours = case.loss(&ops::rms_norm(x, gamma.as_tensor(), EPS)?)?;
        let slow = case.loss(&candle_nn::ops::rms_norm_slow(x, gamma, 1e-5)?)?;
        for of in [x, gamma] {
            assert!(relative(grad(&ours, of), grad(&slow, of))? < 1e-5);
        }
    }
    Ok(())
}

#[test]
fn are_right_at_an_offset_where_the_slow_path_of_candle_is_not() -> Result<()> {
    let case = Case::new(&[16, 384], 1e4, DType::F32, DType::F32)?;
    let exact = case.exact()?;
    let Case { x, gamma, beta, .. } = &case;
    let expected = exact.loss(&layer_norm_f64(&exact.x, &exact.gamma, &exact.beta, EPS)?)?;
    let ours = case.loss(&ops::layer_norm(x, gamma.as_tensor(), beta.as_tensor(), EPS)?)?;
    let slow = case.loss(&candle_nn::ops::layer_norm_slow(x, gamma, beta, 1e-5)?)?;
    for (what, of, exact) in [("x", x, &exact.x), ("gamma", gamma, &exact.gamma)] {
        let expected = grad(&expected, exact);
        let (ours, slow) = (relative(grad(&ours, of), expected)?, relative(grad(&slow, of), expected)?);
        println!("{what} at 1e4: {ours:.1e}, candle's slow path {slow:.1e}");
        assert!(ours < 2e-6 && slow > 1e-5, "{what}: {ours:e}, {slow:e}");
    }
    Ok(())
}

#[test]
fn are_limits_of_differences() -> Result<()> {
    let case = Case::new(&[3, 5], 0.5, DType::F64, DType::F64)?;
    let Case { x, residual, gamma, beta, of_y, of_s } = &case;
    let loss = || -> Result<Tensor> {
        let (s, y) = ops::add_layer_norm(x, residual, gamma.as_tensor(), beta.as_tensor(), EPS)?;
        (y * of_y)?.sum_all()? + (s * of_s)?.sum_all()?
    };
    let grads = loss()?.backward()?;
    for of in [x, residual, gamma, beta] {
        let (values, grad) = (elements(of)?, elements(grad(&grads, of))?);
        for i in 0..values.len() {
            let at = |step: f64| -> Result<f64> {
                let mut moved = values.clone();
                moved[i] += step;
                of.set(&Tensor::from_vec(moved, of.shape(), &Device::Cpu)?)?;
                loss()?.to_scalar()
            };
            let difference = (at(1e-6)? - at(-1e-6)?) / 2e-6;
            at(0.0)?;
            assert!((difference - grad[i]).abs() < 1e-7 * (1.0 + grad[i].abs()), "{difference} {}", grad[i]);
        }
    }
    Ok(())
}

#[test]
fn of_a_sum_come_from_both_results() -> Result<()> {
    for (dtype, params, tolerance) in TYPES {
        for shape in SHAPES {
            let case = Case::new(shape, 0.5, dtype, params)?;
            let exact = case.exact()?;
            let Case { x, residual, gamma, beta, .. } = &case;
            let both = |case: &Case| -> Result<_> {
                let Case { x, residual, gamma, beta, .. } = case;
                let (s, y) = ops::add_layer_norm(x, residual, gamma.as_tensor(), beta.as_tensor(), EPS)?;
                case.loss_of_both(&s, &y)
            };
            let ours = both(&case)?;
            let s = (exact.x.as_tensor() + exact.residual.as_tensor())?;
            // The sum is rounded to its type before it is normalized.
            let rounded = (x.as_tensor() + residual.as_tensor())?.to_dtype(DType::F64)?;
            let s = (&s + (rounded - &s)?.detach())?;
            let expected = exact.loss_of_both(&s, &layer_norm_f64_of(&s, &exact)?)?;
            for (of, exact) in [(x, &exact.x), (residual, &exact.residual), (gamma, &exact.gamma), (beta, &exact.beta)]
            {
                let error = relative(grad(&ours, of), grad(&expected, exact))?;
                assert!(error < 2.0 * tolerance, "{dtype:?} {params:?} {shape:?}: {error:e}");
            }
            assert_same(grad(&ours, x), grad(&ours, residual));

            let apart = (x.as_tensor() + residual.as_tensor())?;
            let y = ops::layer_norm(&apart, gamma.as_tensor(), beta.as_tensor(), EPS)?;
            let apart = case.loss_of_both(&apart, &y)?;
            for of in [x, residual, gamma, beta] {
                assert_same(grad(&ours, of), grad(&apart, of));
            }
        }
    }
    Ok(())
}

/// y of a sum in f64, by operations that have gradients.
fn layer_norm_f64_of(s: &Tensor, exact: &Case) -> Result<Tensor> {
    layer_norm_f64(s, &exact.gamma, &exact.beta, EPS)
}

#[test]
fn of_a_sum_come_from_one_result_if_the_other_is_not_used() -> Result<()> {
    let case = Case::new(&[4, 33], 0.5, DType::F32, DType::F32)?;
    let Case { x, residual, gamma, of_y, of_s, .. } = &case;
    let sum = || ops::add_rms_norm(x, residual, gamma.as_tensor(), EPS);

    let grads = (sum()?.0 * of_s)?.sum_all()?.backward()?;
    assert_same(grad(&grads, x), of_s);
    assert!(grads.get(gamma).is_none());

    let grads = (sum()?.1 * of_y)?.sum_all()?.backward()?;
    let apart = ops::rms_norm(&(x.as_tensor() + residual.as_tensor())?, gamma.as_tensor(), EPS)?;
    let apart = case.loss(&apart)?;
    for of in [x, residual, gamma] {
        assert_same(grad(&grads, of), grad(&apart, of));
    }

    let (_, y) = ops::add_rms_norm(x, x, None, EPS)?;
    let grads = case.loss(&y)?;
    let (_, y) = ops::add_rms_norm(x, &x.as_detached_tensor(), None, EPS)?;
    assert_same(grad(&grads, x), &(grad(&case.loss(&y)?, x) * 2.0)?);
    Ok(())
}

#[test]
fn reach_those_arguments_that_are_variables() -> Result<()> {
    let case = Case::new(&[4, 33], 0.5, DType::F32, DType::F32)?;
    let Case { x, gamma, beta, .. } = &case;
    let all = case.loss(&ops::layer_norm(x, gamma.as_tensor(), beta.as_tensor(), EPS)?)?;
    for wanted in 1..8 {
        let pick =
            |i: u32, of: &Var| if wanted >> i & 1 == 1 { of.as_tensor().clone() } else { of.as_detached_tensor() };
        let args = [pick(0, x), pick(1, gamma), pick(2, beta)];
        let grads = case.loss(&ops::layer_norm(&args[0], &args[1], &args[2], EPS)?)?;
        for (arg, of) in args.iter().zip([x, gamma, beta]) {
            match grads.get(arg) {
                Some(grad) => assert_same(grad, all.get(of).expect("a gradient")),
                None => assert!(!arg.is_variable()),
            }
        }
    }
    let without_gamma = case.loss(&ops::layer_norm(x, None, beta.as_tensor(), EPS)?)?;
    assert_same(grad(&without_gamma, beta), grad(&all, beta));
    Ok(())
}

#[test]
fn reach_views_and_come_from_them() -> Result<()> {
    let x = var(&normal(1, &[4, 6, 96], 3.0)?, DType::F32)?;
    for (what, view) in [
        ("some columns", x.narrow(2, 5, 64)?),
        ("some rows of each sample", x.narrow(1, 1, 3)?),
        ("exchanged dimensions", x.transpose(0, 1)?),
        ("columns apart", x.transpose(1, 2)?),
        ("one row again and again", x.get(0)?.get(0)?.expand((5, 96))?),
    ] {
        println!("{what}");
        let loss = |x: &Tensor| -> Result<GradStore> {
            let y = ops::layer_norm(x, None, None, EPS)?;
            // A gradient that is not contiguous either: every other column counts, and all rows have the same gradient.
            let (rank, cols) = (y.rank(), y.dims()[y.rank() - 1]);
            let weights = normal(2, &[cols], 0.0)?.to_dtype(DType::F32)?.broadcast_as(y.shape())?;
            (y * weights)?.narrow(rank - 1, 0, cols - 1)?.sum_all()?.backward()
        };
        assert_same(grad(&loss(&view)?, &x), grad(&loss(&view.contiguous()?)?, &x));
        let sums = ops::rms_norm(&view, None, EPS)?.sum_all()?.backward()?;
        let slow = candle_nn::ops::rms_norm_slow(
            &view,
            &Tensor::ones(view.dim(candle_core::D::Minus1)?, DType::F32, &Device::Cpu)?,
            1e-5,
        )?;
        assert!(relative(grad(&sums, &x), grad(&slow.sum_all()?.backward()?, &x))? < 1e-5);
    }
    Ok(())
}

#[test]
fn of_no_rows_are_zero() -> Result<()> {
    let x = Var::zeros((0, 8), DType::F32, &Device::Cpu)?;
    let gamma = Var::ones(8, DType::F32, &Device::Cpu)?;
    let grads = ops::rms_norm(&x, gamma.as_tensor(), EPS)?.sum_all()?.backward()?;
    assert_eq!(grad(&grads, &gamma).to_vec1::<f32>()?, [0.0; 8]);
    Ok(())
}

#[test]
fn reach_the_weights_of_modules_where_those_of_candle_get_none() -> Result<()> {
    let case = Case::new(&[4, 33], 0.5, DType::F32, DType::F32)?;
    let Case { x, gamma, beta, .. } = &case;
    let (weight, bias) = (gamma.as_tensor().clone(), beta.as_tensor().clone());

    let candle = case.loss(&candle_nn::LayerNorm::new(weight.clone(), bias.clone(), EPS).forward(x)?)?;
    assert!([x, gamma, beta].into_iter().all(|of| candle.get(of).is_none()));
    let candle = case.loss(&candle_nn::RmsNorm::new(weight.clone(), EPS).forward(x)?)?;
    assert!([x, gamma].into_iter().all(|of| candle.get(of).is_none()));

    let ours = case.loss(&LayerNorm::new(weight.clone(), bias, EPS).forward(x)?)?;
    assert!([x, gamma, beta].into_iter().all(|of| ours.get(of).is_some()));
    let ours = case.loss(&RmsNorm::new(weight.clone(), EPS).forward(x)?)?;
    assert!([x, gamma].into_iter().all(|of| ours.get(of).is_some()));

    let gemma = case.loss(&RmsNorm::new(weight, EPS).with_offset(1.0).forward(x)?)?;
    let one_more = (gamma.as_tensor() + 1.0)?;
    let expected = case.loss(&candle_nn::ops::rms_norm_slow(x, &one_more, 1e-5)?)?;
    for of in [x, gamma] {
        assert!(relative(grad(&gemma, of), grad(&expected, of))? < 1e-5);
    }
    Ok(())
}
