//! Channels that come first: all bits are those of the same rows with their channels side by side.

use lanenorm::{Divisor, Element, Error, LayerNorm, Norm, Parallelism, RmsNorm, Rounding, Rows, bf16, f16};

use crate::support::{Random, quick, tiers};

/// Samples, channels and pixels.
type Shape = (usize, usize, usize);

fn numbers<T: Element>(len: usize, seed: u64, to: impl Fn(f64) -> T) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..len).map(|_| to(random.normal() * 2.0 + 1.0)).collect()
}

/// [samples, channels, pixels] as [samples, pixels, channels].
fn last<T: Copy>(v: &[T], (samples, channels, pixels): Shape) -> Vec<T> {
    let mut to = v.to_vec();
    for (i, &v) in v.iter().enumerate() {
        let (s, c, p) = (i / (channels * pixels), i / pixels % channels, i % pixels);
        to[(s * pixels + p) * channels + c] = v;
    }
    assert_eq!(to.len(), samples * channels * pixels);
    to
}

fn bits<T: bytemuck::Pod>(v: &[T]) -> &[u8] {
    bytemuck::cast_slice(v)
}

fn check<T: Element + bytemuck::Pod + lanenorm::Companion<T>>(shape: Shape, to: impl Fn(f64) -> T)
where
    T::Float: bytemuck::Pod,
{
    let (samples, channels, pixels) = shape;
    let (len, rows) = (samples * channels * pixels, samples * pixels);
    let [x, dy] = [1, 2].map(|seed| numbers(len, seed, &to));
    let [gamma, beta] = [3, 4].map(|seed| numbers(channels, seed, &to));
    let (x_rows, dy_rows) = (last(&x, shape), last(&dy, shape));
    let zeros = |n: usize| vec![T::Float::default(); n];
    let layer_norm = LayerNorm::new(channels, 1e-5).expect("a plan").with_rounding(Rounding::STEPS);
    let rms_norm = RmsNorm::new(channels, 1e-2).expect("a plan").with_offset(1.0).with_divisor(Divisor::NormAtLeast);
    for isa in tiers() {
        for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
            let what = format!("{isa}, {parallelism:?}, {shape:?}");
            let plan = layer_norm.with_isa(*isa).with_parallelism(parallelism);
            let (mut mean, mut rstd, mut mean_of, mut rstd_of) = (zeros(rows), zeros(rows), zeros(rows), zeros(rows));
            let call = plan.call(&x_rows).gamma(&gamma).beta(&beta).mean_to(&mut mean).rstd_to(&mut rstd);
            let expected: Vec<T> = call.to_vec().expect("y");
            let mut y = dy.clone();
            let call = plan.call(&x).gamma(&gamma).beta(&beta).mean_to(&mut mean_of).rstd_to(&mut rstd_of);
            call.channels_first(pixels).to(&mut y).expect("y");
            assert!(bits(&last(&y, shape)) == bits(&expected), "y, {what}");
            assert!((bits(&mean_of), bits(&rstd_of)) == (bits(&mean), bits(&rstd)), "statistics, {what}");

            let (mut dgamma, mut dbeta, mut dgamma_of, mut dbeta_of) =
                (zeros(channels), zeros(channels), zeros(channels), zeros(channels));
            let call = plan.backward(&dy_rows, &x_rows).gamma(&gamma).mean(&mean).rstd(&rstd);
            let expected = call.dgamma_to(&mut dgamma).dbeta_to(&mut dbeta).to_vec().expect("dx");
            let mut dx = x.clone();
            let call = plan.backward(&dy, &x).gamma(&gamma).mean(&mean).rstd(&rstd);
            let mut scratch = zeros(plan.channels_backward_scratch_len::<T>(rows).expect("a length"));
            let call = call.dgamma_to(&mut dgamma_of).dbeta_to(&mut dbeta_of).scratch(&mut scratch);
            call.channels_first(pixels).to(&mut dx).expect("dx");
            assert!(bits(&last(&dx, shape)) == bits(&expected), "dx, {what}");
            assert!((bits(&dgamma_of), bits(&dbeta_of)) == (bits(&dgamma), bits(&dbeta)), "sums, {what}");

            // In place, and without statistics.
            let plan = rms_norm.with_isa(*isa).with_parallelism(parallelism);
            let expected: Vec<T> = plan.call(&x_rows).gamma(&gamma).to_vec().expect("y");
            let mut y = x.clone();
            plan.call_in_place(&mut y).gamma(&gamma).channels_first(pixels).run().expect("y");
            assert!(bits(&last(&y, shape)) == bits(&expected), "in place, {what}");
            let expected = plan.backward(&dy_rows, &x_rows).gamma(&gamma).to_vec().expect("dx");
            let mut dx = dy.clone();
            plan.backward_in_place(&mut dx, &x).gamma(&gamma).channels_first(pixels).run().expect("dx");
            assert!(bits(&last(&dx, shape)) == bits(&expected), "dx in place, {what}");
            plan.backward(&dy, &x).dgamma_to(&mut dgamma_of).channels_first(pixels).run().expect("dgamma");
            plan.backward(&dy_rows, &x_rows).dgamma_to(&mut dgamma).run().expect("dgamma");
            assert!(bits(&dgamma_of) == bits(&dgamma), "dgamma alone, {what}");
        }
    }
}

#[test]
fn channels_that_come_first_have_the_bits_of_channels_that_come_last() {
    let shapes: &[Shape] = &[(1, 1, 1), (3, 5, 7), (2, 96, 196), (2, 24, 3136), (1, 1100, 50)];
    for &shape in shapes.iter().take(if quick() { 3 } else { 5 }) {
        check(shape, |v| v as f32);
        check(shape, |v| v);
        check(shape, bf16::from_f64);
        check(shape, f16::from_f64);
    }
}

#[test]
fn channels_that_do_not_fit_are_refused() -> Result<(), Error> {
    fn says<M>(plan: &Norm<M>, x: Rows<'_, f32>, pixels: usize, expected: &str)
    where
        M: lanenorm::Center,
    {
        let mut y = [7.0; 24];
        let error = plan.call(x).channels_first(pixels).to(&mut y).expect_err("it does not fit");
        assert_eq!((error.to_string().as_str(), y), (expected, [7.0; 24]));
    }
    let (plan, x) = (LayerNorm::new(3, 1e-5)?, [1.0f32; 24]);
    says(
        &plan,
        (&x[..]).into(),
        5,
        "x has 24 elements, which is not a whole number of samples of 3 channels of 5 pixels",
    );
    says(&plan, (&x[..12]).into(), 4, "y has 24 elements, expected 12");
    says(&plan, (&x[..]).into(), 0, "x has 24 elements, expected 0");
    says(&plan, Rows::strided(&x, 2, 5), 4, "x has strides, but tensors whose channels come first are contiguous");
    let grouped = plan.with_groups(2, 1)?;
    says(&grouped, (&x[..]).into(), 4, "the plan has 2 groups of 1, but channels that come first have one gamma");
    let huge = RmsNorm::new(usize::MAX / 2, 1e-5)?;
    let error = huge.call(&x).channels_first(4).to(&mut [7.0; 24]).expect_err("too many channels").to_string();
    assert!(error.contains("x") && error.contains("overflow"), "{error}");

    let (mut y, mut rstd, mut dx) = ([7.0; 24], [7.0; 9], [7.0; 24]);
    let error = plan.call(&x).rstd_to(&mut rstd[..7]).channels_first(4).to(&mut y).expect_err("rstd is short");
    assert_eq!(error.to_string(), "rstd has 7 elements, expected 8");
    let error = plan.call(&x).gamma(&[1.0f32; 4]).channels_first(4).to(&mut y).expect_err("gamma is long");
    assert_eq!(error.to_string(), "gamma has 4 elements, expected 3");
    let error = plan.backward(&x, &x[..12]).channels_first(4).to(&mut dx).expect_err("x is short");
    assert_eq!(error.to_string(), "x has 12 elements, expected 24");
    let error = plan.backward(&x, &x).channels_first(4).to(&mut dx[..12]).expect_err("dx is short");
    assert_eq!(error.to_string(), "dx has 12 elements, expected 24");
    let error = plan.backward(&x, &x).channels_first(4).run().expect_err("nothing is wanted");
    assert!(error.to_string().starts_with("no gradient is wanted"));
    assert_eq!((y, dx), ([7.0; 24], [7.0; 24]));
    // No samples.
    plan.call(&[0.0f32; 0]).channels_first(4).to(&mut [])?;
    plan.call(&[0.0f32; 0]).channels_first(usize::MAX).to(&mut [])?;
    let mut dgamma = [7.0; 3];
    plan.backward(&[0.0f32; 0], &[0.0; 0]).dgamma_to(&mut dgamma).channels_first(4).run()?;
    assert_eq!(dgamma, [0.0; 3]);
    Ok(())
}
