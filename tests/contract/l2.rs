//! L2 normalization: every form of a call has the bits of a call on contiguous rows on one thread, which is close to
//! the formula.

use lanenorm::kernels::reference;
use lanenorm::{Divisor, Error, Gate, LayerNorm, Moments, Parallelism, RmsNorm, Rows, Scheme, bf16};

use crate::support::{Random, quick, tiers};

/// Ordinary rows, and rows whose norm is less than eps, or zero.
fn rows(n: usize, cols: usize, eps: f64) -> Vec<f32> {
    let mut random = Random::new(7);
    let mut x: Vec<f32> = (0..n * cols).map(|_| random.normal() as f32).collect();
    for (r, row) in x.chunks_mut(cols).enumerate() {
        let scale = [1.0, 1e10, eps as f32 / (3.0 * (cols as f32).sqrt()), 0.0, 1e-10][r % 5];
        row.iter_mut().for_each(|v| *v *= scale);
    }
    x
}

#[test]
fn l2_normalization_has_the_same_bits_in_every_form() -> Result<(), Error> {
    let sizes: &[(usize, usize)] = &[(5, 1), (40, 64), (11, 768), (5, 9000), (1, 100), (5, 200_000)];
    for &(n, cols) in sizes.iter().take(if quick() { 5 } else { 6 }) {
        for (divisor, eps) in [(Divisor::Norm, 1e-6), (Divisor::NormAtLeast, 1e-3), (Divisor::NormAtLeast, 1e-12)] {
            let x = rows(n, cols, eps);
            let plan = RmsNorm::new(cols, eps)?.with_divisor(divisor).with_parallelism(Parallelism::Serial);
            let (mut y, mut rstd) = (x.clone(), vec![0.0; n]);
            plan.call(&x).rstd_to(&mut rstd).to(&mut y)?;
            for (r, (x, y)) in x.chunks(cols).zip(y.chunks(cols)).enumerate() {
                let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
                let exact = reference::rstd_of(&wide, divisor, eps);
                assert!((f64::from(rstd[r]) - exact).abs() <= 1e-7 * exact, "{divisor:?}, row {r}");
                for (x, y) in wide.iter().zip(y) {
                    let error = (f64::from(*y) - x * exact).abs();
                    assert!(error <= 3e-7 * (x * exact).abs().max(1e-30), "{divisor:?}, row {r}: {x} {y}");
                }
            }
            for isa in tiers() {
                let what = format!("{isa}, {divisor:?}, {n} x {cols}");
                for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
                    let plan = plan.with_isa(*isa).with_parallelism(parallelism);
                    let mut in_place = x.clone();
                    plan.forward_in_place(&mut in_place, None)?;
                    assert!(in_place == y, "in place, {what}");
                    let spread: Vec<f32> = x.chunks(cols).flat_map(|row| [row, &[5.0; 3]].concat()).collect();
                    assert!(plan.forward_to_vec(Rows::strided(&spread, n, cols + 3), None)? == y, "apart, {what}");
                    let row = n / 2;
                    let one = plan.forward_to_vec(&x[row * cols..][..cols], None)?;
                    assert!(one == y[row * cols..][..cols], "one row, {what}");
                    let mut moments = vec![Moments::EMPTY; n];
                    plan.moments(&x, &mut moments)?;
                    for (row, moments) in x.chunks(cols).zip(moments.chunks_mut(1)) {
                        if let Some(scale) = plan.rescale::<f32>(&moments[0]) {
                            plan.moments_at_scale(row, scale, moments)?;
                        }
                    }
                    let mut known = x.clone();
                    plan.call(&x).moments(&moments).to(&mut known)?;
                    assert!(known == y, "moments, {what}");
                }
            }
        }
    }
    Ok(())
}

/// What goes beside normalization sees the same xhat: gamma, 8 bits, gates, sums, and rows of 16 bits.
#[test]
fn l2_normalization_goes_with_all_else() -> Result<(), Error> {
    let (n, cols, eps) = (10, 96, 1e-3);
    let x = rows(n, cols, eps);
    let plan = RmsNorm::new(cols, eps)?.with_divisor(Divisor::NormAtLeast);
    let xhat = plan.forward_to_vec(&x, None)?;
    let gamma: Vec<f32> = (0..cols).map(|i| 1.0 + i as f32).collect();
    let scaled: Vec<f32> = xhat.iter().enumerate().map(|(i, v)| v * gamma[i % cols]).collect();
    assert_eq!(plan.forward_to_vec(&x, Some(&gamma))?, scaled);

    let (mut q, mut scale, mut expected, mut expected_scale) =
        (vec![0i8; x.len()], vec![0.0f32; n], vec![0i8; x.len()], vec![0.0f32; n]);
    plan.call(&x).gamma(&gamma).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
    for (r, row) in scaled.chunks(cols).enumerate() {
        let bytes = bytemuck::cast_slice_mut(&mut expected[r * cols..][..cols]);
        (expected_scale[r], _) = reference::quantize(&Scheme::I8, row, bytes);
    }
    assert_eq!((q, scale), (expected, expected_scale));

    let mut gated = x.clone();
    plan.call(&x).gate(&x, Gate::SIGMOID).to(&mut gated)?;
    for ((gated, xhat), x) in gated.iter().zip(&xhat).zip(&x) {
        let exact = f64::from(*xhat) * reference::sigmoid((*x).into());
        assert!((f64::from(*gated) - exact).abs() <= 3e-7 * exact.abs(), "{gated}, {exact}");
    }

    let halves: Vec<f32> = x.iter().map(|x| x / 2.0).collect();
    let (_, of_sum): (_, Vec<f32>) = plan.call(&halves).residual(&halves).to_vecs()?;
    assert_eq!(of_sum, xhat);

    let narrow: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
    let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
    let y: Vec<f32> = plan.call(&narrow).to_vec()?;
    for (y, expected) in y.iter().zip(plan.forward_to_vec(&wide, None)?) {
        assert!((y - expected).abs() <= 2e-7 * expected.abs(), "{y}, {expected}");
    }
    assert_eq!(LayerNorm::new(cols, eps)?.divisor(), Divisor::RootMeanSquare);
    Ok(())
}

/// The square of the least norm is in the range of f64.
#[test]
fn least_norms_out_of_range_are_refused() -> Result<(), Error> {
    for eps in [1e200, 1e-200] {
        let plan = RmsNorm::new(2, eps)?.with_divisor(Divisor::NormAtLeast);
        let (x, mut y) = ([1.0f64, -3.0], [7.0f64; 2]);
        let expected = format!("eps is {eps:e}, the least norm of a row: expected 0, or a number from 1e-150 to 1e150");
        let says = |result: Result<(), Error>| {
            assert_eq!(result.expect_err("it is out of range").to_string(), expected);
        };
        says(plan.call(&x).to(&mut y));
        says(plan.forward_in_place(&mut y, None));
        says(plan.backward(&x, &x).to(&mut y));
        says(plan.call(&x).channels_first(1).to(&mut y));
        says(plan.backward(&x, &x).channels_first(1).to(&mut y));
        assert_eq!(y, [7.0; 2]);
        let (x, mut y) = ([1.0f32, -3.0], [7.0f32; 2]);
        says(plan.call(&x).gate(&x, Gate::SILU).to(&mut y));
        says(plan.backward(&x, &x).gate(&x, Gate::SILU).to(&mut y));
        says(plan.call(&x).quantize(&Scheme::I8).scale_to(&mut [0.0]).to(&mut [0i8; 2]));
        assert_eq!(y, [7.0; 2]);
        RmsNorm::new(2, eps)?.with_divisor(Divisor::Norm).call(&x).to(&mut y)?;
    }
    Ok(())
}

/// A row whose norm is less than eps has the gradient of x / eps; elsewhere dx is across x.
#[test]
fn gradients_of_l2_normalization() -> Result<(), Error> {
    let (n, cols, eps) = (10, 96, 1e-3);
    let x = rows(n, cols, eps);
    let dy: Vec<f32> = (0..x.len()).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    for divisor in [Divisor::Norm, Divisor::NormAtLeast] {
        let plan = RmsNorm::new(cols, eps)?.with_divisor(divisor);
        let (mut rstd, mut y) = (vec![0.0; n], x.clone());
        plan.call(&x).rstd_to(&mut rstd).to(&mut y)?;
        let dx = plan.backward(&dy, &x).to_vec()?;
        assert_eq!(plan.backward(&dy, &x).rstd(&rstd).to_vec()?, dx);
        for (r, dx) in dx.chunks(cols).enumerate() {
            let (x, dy) = (&x[r * cols..][..cols], &dy[r * cols..][..cols]);
            let norm = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let is_floor = divisor == Divisor::NormAtLeast && norm < eps;
            let factor = reference::rstd_of(&x.iter().map(|&x| x.into()).collect::<Vec<f64>>(), divisor, eps);
            let along = x.iter().zip(dy).map(|(&x, &dy)| f64::from(x) * factor * f64::from(dy)).sum::<f64>();
            for ((&x, &dy), &dx) in x.iter().zip(dy).zip(dx) {
                let along = if is_floor { 0.0 } else { along };
                let exact = factor * (f64::from(dy) - f64::from(x) * factor * along);
                let bound = 1e-6 * factor * (1.0 + along.abs());
                assert!((f64::from(dx) - exact).abs() <= bound, "{divisor:?}, row {r}: {dx}, {exact}");
            }
        }
    }
    Ok(())
}
