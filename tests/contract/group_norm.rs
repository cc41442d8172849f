//! Group and instance normalization: the bits are those of layer normalization of the groups, whatever the order of
//! memory and the number of threads, and exact at any offset.

use lanenorm::gate::Function;
use lanenorm::{Companion, Element, Error, GroupNorm, LayerNorm, Parallelism, Store, bf16, f16};

use crate::support::{Random, quick, tiers};

/// Samples, channels, groups and pixels.
type Shape = (usize, usize, usize, usize);

fn numbers<T: Element>(len: usize, seed: u64, to: impl Fn(f64) -> T) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..len).map(|_| to(random.normal() * 2.0 + 1.0)).collect()
}

/// [samples, channels, pixels] as [samples, pixels, channels].
fn last<T: Copy>(v: &[T], (_, channels, _, pixels): Shape) -> Vec<T> {
    let mut to = v.to_vec();
    for (i, &v) in v.iter().enumerate() {
        let (s, c, p) = (i / (channels * pixels), i / pixels % channels, i % pixels);
        to[(s * pixels + p) * channels + c] = v;
    }
    to
}

fn bits<T: bytemuck::Pod>(v: &[T]) -> &[u8] {
    bytemuck::cast_slice(v)
}

fn check<T: Element + bytemuck::Pod + Companion<T>>(shape: Shape, to: impl Fn(f64) -> T)
where
    T::Float: bytemuck::Pod,
{
    let (samples, channels, groups, pixels) = shape;
    let (len, rows) = (samples * channels * pixels, samples * groups);
    let [x, dy] = [1, 2].map(|seed| numbers(len, seed, &to));
    let [gamma, beta] = [3, 4].map(|seed| numbers(channels, seed, &to));
    let written = |v: &[T]| -> Vec<T> { v.iter().flat_map(|&v| vec![v; pixels]).collect() };
    let zeros = |n: usize| vec![T::Float::default(); n];
    let of_rows = LayerNorm::new(channels / groups * pixels, 1e-5).and_then(|plan| plan.with_groups(groups, 1));
    let of_rows = of_rows.expect("a plan");
    let (mut mean, mut rstd) = (zeros(rows), zeros(rows));
    let (gammas, betas) = (written(&gamma), written(&beta));
    let call = of_rows.call(&x).gamma(&gammas).beta(&betas).mean_to(&mut mean).rstd_to(&mut rstd);
    let expected: Vec<T> = call.to_vec().expect("y");
    let mut wanted_gradients = None;
    for isa in tiers() {
        for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
            let plan = GroupNorm::new(channels, groups, 1e-5).expect("a plan").with_isa(*isa);
            let plan = plan.with_parallelism(parallelism).with_store(Store::Streaming);
            let what = format!("{isa}, {parallelism:?}, {shape:?}");
            let (mut mean_of, mut rstd_of) = (zeros(rows), zeros(rows));
            let call = plan.call(&x, pixels).gamma(&gamma).beta(&beta).mean_to(&mut mean_of).rstd_to(&mut rstd_of);
            assert!(bits(&call.to_vec().expect("y")) == bits(&expected), "y, {what}");
            assert!((bits(&mean_of), bits(&rstd_of)) == (bits(&mean), bits(&rstd)), "statistics, {what}");
            let mut y = last(&x, shape);
            let call = plan.call_in_place(&mut y, pixels).gamma(&gamma).beta(&beta).channels_last();
            call.run().expect("y");
            assert!(bits(&y) == bits(&last(&expected, shape)), "channels last, in place, {what}");

            let plan = plan.with_store(Store::Auto);
            let silu = |channels_last: bool| {
                let x = if channels_last { last(&x, shape) } else { x.clone() };
                let call = plan.call(&x, pixels).gamma(&gamma).activation(Function::Silu);
                if channels_last { call.channels_last().to_vec() } else { call.to_vec() }.expect("y")
            };
            assert!(bits(&last(&silu(false), shape)) == bits(&silu(true)), "silu, {what}");

            for function in [None, Some(Function::Silu)] {
                let (mut dgamma, mut dbeta) = (zeros(channels), zeros(channels));
                let mut call = plan.backward(&dy, &x, pixels).gamma(&gamma).beta(&beta);
                call = call.mean(&mean).rstd(&rstd).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
                if let Some(function) = function {
                    call = call.activation(function);
                }
                let mut dx = x.clone();
                call.to(&mut dx).expect("dx");
                let (x, mut in_place) = (last(&x, shape), last(&dy, shape));
                let mut dgamma_of = zeros(channels);
                let mut call = plan.backward_in_place(&mut in_place, &x, pixels).gamma(&gamma).beta(&beta);
                call = call.channels_last().mean(&mean).rstd(&rstd).dgamma_to(&mut dgamma_of);
                if let Some(function) = function {
                    call = call.activation(function);
                }
                call.run().expect("dx");
                assert!(bits(&in_place) == bits(&last(&dx, shape)), "dx, channels last, {function:?}, {what}");
                assert!(bits(&dgamma_of) == bits(&dgamma), "dgamma, channels last, {function:?}, {what}");
                if function.is_none() {
                    let got = (dx, dgamma, dbeta);
                    let (dx, dgamma, dbeta) = wanted_gradients.get_or_insert_with(|| got.clone());
                    assert!(bits(&got.0) == bits(dx), "dx, {what}");
                    assert!((bits(&got.1), bits(&got.2)) == (bits(dgamma), bits(dbeta)), "sums, {what}");
                }
            }
        }
    }
}

#[test]
fn groups_have_the_bits_of_layer_normalization() {
    let shapes: &[Shape] = &[
        (1, 1, 1, 1),
        (3, 6, 3, 1),
        (2, 20, 4, 49),
        (2, 64, 64, 100),
        // Groups that are cut: of one channel, and of several.
        (1, 1, 1, 66_000),
        (1, 3, 1, 22_000),
        (2, 320, 32, 1024),
    ];
    for (i, &shape) in shapes.iter().enumerate() {
        check(shape, |v| v as f32);
        if i < 4 || !quick() {
            check(shape, |v| v);
            check(shape, bf16::from_f64);
            check(shape, f16::from_f64);
        }
    }
}

#[test]
fn a_mean_of_a_million_costs_nothing() -> Result<(), Error> {
    let (channels, groups, pixels) = (8, 2, 256);
    let mut random = Random::new(5);
    let x: Vec<f32> = (0..2 * channels * pixels).map(|_| (random.normal() + 1e6) as f32).collect();
    let (plan, x_last) = (GroupNorm::new(channels, groups, 1e-5)?, last(&x, (2, channels, groups, pixels)));
    let y = last(&plan.call(&x_last, pixels).channels_last().to_vec()?, (2, pixels, 1, channels));
    for (x, y) in x.chunks(channels / groups * pixels).zip(y.chunks(channels / groups * pixels)) {
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        for (&x, &y) in x.iter().zip(y) {
            let exact = (f64::from(x) - mean) / (var + 1e-5).sqrt();
            let bound = 4.0 * 2f64.powi(-24) * (1.0 + exact.abs());
            assert!((f64::from(y) - exact).abs() <= bound, "{y}, expected {exact}");
        }
    }
    Ok(())
}

#[test]
fn an_activation_is_taken_before_rounding() -> Result<(), Error> {
    let x: Vec<bf16> = numbers(2 * 6 * 50, 7, bf16::from_f64);
    let (gamma, beta) = (numbers(6, 8, |v| v as f32), numbers(6, 9, |v| v as f32));
    let plan = GroupNorm::new(6, 3, 1e-5)?;
    let y = plan.call(&x, 50).gamma(&gamma).beta(&beta).activation(Function::Silu).to_vec()?;
    let written = |v: &[f32]| -> Vec<f32> { v.iter().flat_map(|&v| vec![v; 50]).collect() };
    let rows = LayerNorm::new(2 * 50, 1e-5)?.with_groups(3, 1)?;
    let n: Vec<f32> = rows.call(&x).gamma(&written(&gamma)).beta(&written(&beta)).to_vec()?;
    let mut off = 0;
    for (n, y) in n.into_iter().map(f64::from).zip(y) {
        let exact = n / (1.0 + (-n).exp());
        // A function that is 4 units of 2^-24 off may round to a neighbour.
        off += usize::from(bf16::from_f64(exact) != y);
        assert!((y.to_f64() - exact).abs() <= exact.abs() * 2f64.powi(-8) * 1.004, "{y}, expected {exact}");
    }
    assert!(off <= 2, "{off} of 600 elements are not the rounded ones");
    Ok(())
}

#[test]
fn groups_that_do_not_fit_are_refused() -> Result<(), Error> {
    let says = |result: Result<_, Error>| result.map(|_: ()| ()).expect_err("it does not fit").to_string();
    let refused = |channels, groups| says(GroupNorm::new(channels, groups, 1e-5).map(|_| ()));
    assert_eq!(refused(6, 4), "4 groups, expected a divisor of the 6 channels");
    assert_eq!(refused(6, 0), "0 groups, expected a divisor of the 6 channels");
    assert_eq!(says(GroupNorm::new(6, 2, -1.0).map(|_| ())), "eps is -1, expected a finite number not less than 0");
    let plan = GroupNorm::new(6, 2, 1e-5)?;
    let (x, mut y, mut four) = ([1.0f32; 24], [7.0f32; 24], [7.0f32; 4]);
    let samples = "x has 24 elements, which is not a whole number of samples of 6 channels of 3 pixels";
    assert_eq!(says(plan.call(&x, 3).to(&mut y)), samples);
    assert_eq!(says(plan.call(&x, 0).to(&mut y)), "x has 24 elements, expected 0");
    assert_eq!(says(plan.call(&x, 4).to(&mut y[..23])), "y has 23 elements, expected 24");
    assert_eq!(says(plan.call(&x, 4).gamma(&x[..5]).to(&mut y)), "gamma has 5 elements, expected 6");
    assert_eq!(says(plan.call(&x, 4).beta(&x[..7]).to(&mut y)), "beta has 7 elements, expected 6");
    assert_eq!(says(plan.call(&x, 4).rstd_to(&mut four).to(&mut y)), "rstd has 4 elements, expected 2");
    assert_eq!(says(plan.call_in_place(&mut y, 3).run()), samples);
    let large = says(plan.call(&x, usize::MAX / 2).to(&mut y));
    assert!(large.starts_with("x is too large"), "{large}");
    assert_eq!(says(plan.backward(&x, &x[..12], 4).to(&mut y)), "x has 12 elements, expected 24");
    assert_eq!(says(plan.backward(&x, &x, 4).to(&mut y[..12])), "dx has 12 elements, expected 24");
    assert_eq!(says(plan.backward(&x, &x, 4).dbeta_to(&mut four).to(&mut y)), "dbeta has 4 elements, expected 6");
    assert!(says(plan.backward(&x, &x, 4).run()).starts_with("no gradient is wanted"));
    let alone = says(plan.backward(&x, &x, 4).mean(&x[..2]).to(&mut y));
    assert_eq!(alone, "mean of 2 rows is given without rstd: expected both or neither");
    assert_eq!((y, four), ([7.0; 24], [7.0; 4]));
    Ok(())
}

#[test]
fn nothing_is_fine() -> Result<(), Error> {
    let plan = GroupNorm::new(6, 2, 1e-5)?;
    plan.call(&[0.0f32; 0], 4).to(&mut [])?;
    plan.call(&[0.0f32; 0], usize::MAX).channels_last().to(&mut [])?;
    plan.call(&[0.0f32; 0], 0).to(&mut [])?;
    let mut dgamma = [7.0; 6];
    plan.backward(&[0.0f32; 0], &[], usize::MAX).channels_last().dgamma_to(&mut dgamma).run()?;
    assert_eq!(dgamma, [0.0; 6]);
    let none = GroupNorm::new(0, 1, 1e-5)?;
    none.call(&[0.0f32; 0], 4).to(&mut [])?;
    none.backward(&[0.0f32; 0], &[], 4).to(&mut [])?;
    assert_eq!(GroupNorm::instance_norm(3, 0.0)?.call(&[5.0f32, 5.0, 5.0], 1).to_vec()?, [0.0; 3]);
    Ok(())
}
