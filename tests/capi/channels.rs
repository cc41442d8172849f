//! Tensors of channels: the bits are those of Rust's plans.

use std::ptr::{null, null_mut};

use lanenorm::capi::*;
use lanenorm::gate::Function;
use lanenorm::{GroupNorm, LayerNorm, RmsNorm, bf16};

use crate::data::Random;
use crate::forward::ok;
use crate::tiers::tiers;
use crate::{DESC, init, last_error, tier};

const CHANNELS: lanenorm_channels = lanenorm_channels {
    struct_size: size_of::<lanenorm_channels>(),
    samples: 0,
    pixels: 0,
    groups: 0,
    order: 0,
    activation: 0,
    x: null(),
    y: null_mut(),
    gamma: null(),
    beta: null(),
    mean: null_mut(),
    mean_lo: null_mut(),
    rstd: null_mut(),
};

const GRADIENTS: lanenorm_channel_gradients = lanenorm_channel_gradients {
    struct_size: size_of::<lanenorm_channel_gradients>(),
    dy: null(),
    dx: null_mut(),
    dgamma: null_mut(),
    dbeta: null_mut(),
};

const SAMPLES: usize = 3;
const COLS: usize = 12;
const PIXELS: usize = 37;
const LEN: usize = SAMPLES * COLS * PIXELS;

fn numbers(seed: u64, len: usize) -> Vec<bf16> {
    let random = &mut Random::new(seed);
    (0..len).map(|_| bf16::from_f32(random.signed() * 2.0 + 0.5)).collect()
}

fn desc(op: lanenorm_op) -> lanenorm_desc {
    let dtype = lanenorm_dtype::Bf16 as i32;
    lanenorm_desc { op: op as i32, dtype, cols: COLS, eps: 1e-5, ..DESC }
}

#[test]
fn groups_are_those_of_rust() {
    let [x, dy] = [1, 2].map(|seed| numbers(seed, LEN));
    let [gamma, beta] = [3, 4].map(|seed| numbers(seed, COLS));
    let functions = [
        (lanenorm_activation::None, None),
        (lanenorm_activation::Silu, Some(Function::Silu)),
        (lanenorm_activation::Sigmoid, Some(Function::Sigmoid)),
        (lanenorm_activation::GeluTanh, Some(Function::GeluTanh)),
    ];
    for isa in tiers() {
        for (groups, is_last) in [(1, false), (4, true), (4, false), (12, false)] {
            for (activation, function) in functions {
                let what = format!("{isa}, {groups} groups, {is_last}, {function:?}");
                let rows = SAMPLES * groups;
                let plan = GroupNorm::new(COLS, groups, 1e-5).expect("a plan").with_isa(isa);
                let [mut mean, mut mean_lo, mut rstd] = [(); 3].map(|()| vec![0.0f32; rows]);
                let (mut expected, mut dx) = (x.clone(), x.clone());
                let [mut dgamma, mut dbeta] = [[0.0f32; COLS]; 2];
                let mut call = plan.call(&x, PIXELS).gamma(&gamma).beta(&beta);
                call = call.mean_to(&mut mean).mean_lo_to(&mut mean_lo).rstd_to(&mut rstd);
                if is_last {
                    call = call.channels_last();
                }
                if let Some(function) = function {
                    call = call.activation(function);
                }
                call.to(&mut expected).expect("y");
                let mut call = plan.backward(&dy, &x, PIXELS).gamma(&gamma).beta(&beta);
                call = call.mean(&mean).mean_lo(&mean_lo).rstd(&rstd).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
                if is_last {
                    call = call.channels_last();
                }
                if let Some(function) = function {
                    call = call.activation(function);
                }
                call.to(&mut dx).expect("dx");

                let plan = init(&lanenorm_desc { tier: tier(isa), ..desc(lanenorm_op::LayerNorm) });
                let [mut mean_of_c, mut mean_lo_of_c, mut rstd_of_c] = [(); 3].map(|()| vec![7.0f32; rows]);
                let order = if is_last { lanenorm_channel_order::Last } else { lanenorm_channel_order::First };
                let mut y = x.clone();
                let given = lanenorm_channels {
                    samples: SAMPLES,
                    pixels: PIXELS,
                    groups,
                    order: order as i32,
                    activation: activation as i32,
                    x: y.as_ptr().cast(),
                    y: y.as_mut_ptr().cast(),
                    gamma: gamma.as_ptr().cast(),
                    beta: beta.as_ptr().cast(),
                    mean: mean_of_c.as_mut_ptr().cast(),
                    mean_lo: mean_lo_of_c.as_mut_ptr().cast(),
                    rstd: rstd_of_c.as_mut_ptr().cast(),
                    ..CHANNELS
                };
                // In place, and then apart.
                // SAFETY: all buffers have the elements of the calls.
                unsafe { ok(lanenorm_plan_channels(&plan, &given, 1)) };
                assert_eq!(y, expected, "in place, {what}");
                assert_eq!((&mean_of_c, &mean_lo_of_c, &rstd_of_c), (&mean, &mean_lo, &rstd), "statistics, {what}");
                y.fill(bf16::ZERO);
                let given = lanenorm_channels { x: x.as_ptr().cast(), ..given };
                let [mut dgamma_of_c, mut dbeta_of_c] = [[7.0f32; COLS]; 2];
                let mut dx_of_c = dy.clone();
                let gradients = lanenorm_channel_gradients {
                    dy: dx_of_c.as_ptr().cast(),
                    dx: dx_of_c.as_mut_ptr().cast(),
                    dgamma: dgamma_of_c.as_mut_ptr().cast(),
                    dbeta: dbeta_of_c.as_mut_ptr().cast(),
                    ..GRADIENTS
                };
                // SAFETY: as above.
                unsafe {
                    ok(lanenorm_plan_channels(&plan, &lanenorm_channels { mean: null_mut(), ..given }, 3));
                    ok(lanenorm_plan_channels_backward(&plan, &given, &gradients, 2));
                }
                assert_eq!(y, expected, "{what}");
                assert_eq!((dx_of_c, dgamma_of_c, dbeta_of_c), (dx, dgamma, dbeta), "gradients, {what}");
            }
        }
    }
}

#[test]
fn channels_of_pixels_are_those_of_rust() {
    let [x, dy] = [1, 2].map(|seed| numbers(seed, LEN));
    let [gamma, beta] = [3, 4].map(|seed| numbers(seed, COLS));
    for is_layer_norm in [true, false] {
        let (mut expected, mut dx) = (x.clone(), x.clone());
        let (mut rstd, [mut dgamma, mut dbeta]) = ([0.0f32; SAMPLES * PIXELS], [[0.0f32; COLS]; 2]);
        if is_layer_norm {
            let plan = LayerNorm::new(COLS, 1e-5).expect("a plan");
            let call = plan.call(&x).gamma(&gamma).beta(&beta).rstd_to(&mut rstd);
            call.channels_first(PIXELS).to(&mut expected).expect("y");
            let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
            call.channels_first(PIXELS).to(&mut dx).expect("dx");
        } else {
            let plan = RmsNorm::new(COLS, 1e-5).expect("a plan");
            plan.call(&x).gamma(&gamma).rstd_to(&mut rstd).channels_first(PIXELS).to(&mut expected).expect("y");
            let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut dgamma);
            call.channels_first(PIXELS).to(&mut dx).expect("dx");
        }
        let plan = init(&desc(if is_layer_norm { lanenorm_op::LayerNorm } else { lanenorm_op::RmsNorm }));
        let (mut y, mut dx_of_c) = (dy.clone(), x.clone());
        let (mut rstd_of_c, [mut dgamma_of_c, mut dbeta_of_c]) = ([7.0f32; SAMPLES * PIXELS], [[0.0f32; COLS]; 2]);
        let given = lanenorm_channels {
            samples: SAMPLES,
            pixels: PIXELS,
            x: x.as_ptr().cast(),
            y: y.as_mut_ptr().cast(),
            gamma: gamma.as_ptr().cast(),
            beta: if is_layer_norm { beta.as_ptr().cast() } else { null() },
            rstd: rstd_of_c.as_mut_ptr().cast(),
            ..CHANNELS
        };
        let gradients = lanenorm_channel_gradients {
            dy: dy.as_ptr().cast(),
            dx: dx_of_c.as_mut_ptr().cast(),
            dgamma: dgamma_of_c.as_mut_ptr().cast(),
            dbeta: if is_layer_norm { dbeta_of_c.as_mut_ptr().cast() } else { null_mut() },
            ..GRADIENTS
        };
        // SAFETY: all buffers have the elements of the calls.
        unsafe {
            ok(lanenorm_plan_channels(&plan, &given, 2));
            let given = lanenorm_channels { rstd: null_mut(), ..given };
            ok(lanenorm_plan_channels_backward(&plan, &given, &gradients, 2));
        }
        assert_eq!((y, rstd_of_c), (expected, rstd), "{is_layer_norm}");
        assert_eq!((dx_of_c, dgamma_of_c, dbeta_of_c), (dx, dgamma, dbeta), "gradients, {is_layer_norm}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let x = numbers(1, LEN);
    let (mut y, mut sums) = (x.clone(), [7.0f32; COLS]);
    let given = lanenorm_channels {
        samples: SAMPLES,
        pixels: PIXELS,
        groups: 4,
        x: x.as_ptr().cast(),
        y: y.as_mut_ptr().cast(),
        ..CHANNELS
    };
    let gradients = lanenorm_channel_gradients { dy: x.as_ptr().cast(), dx: y.as_mut_ptr().cast(), ..GRADIENTS };
    let layer_norm = desc(lanenorm_op::LayerNorm);
    let says = |desc: &lanenorm_desc, given: &lanenorm_channels, status: lanenorm_status, words: &str| {
        let plan = init(desc);
        // SAFETY: nothing is read or written before all has been checked.
        let got = unsafe { [lanenorm_plan_channels(&plan, given, 1), lanenorm_plan_channels(&plan, given, 0)] };
        assert_eq!(got, [status; 2], "{words}");
        assert!(last_error().contains(words), "{}", last_error());
    };
    let size = lanenorm_status::Size;
    let unsupported = lanenorm_status::Unsupported;
    says(
        &layer_norm,
        &lanenorm_channels { groups: 5, ..given },
        size,
        "5 groups, expected a divisor of the 12 channels",
    );
    says(&layer_norm, &lanenorm_channels { order: 7, ..given }, unsupported, "order is 7");
    says(&layer_norm, &lanenorm_channels { activation: -1, ..given }, unsupported, "activation is -1");
    says(&layer_norm, &lanenorm_channels { groups: 0, order: 1, ..given }, unsupported, "order is LAST without groups");
    says(&layer_norm, &lanenorm_channels { groups: 0, activation: 1, ..given }, unsupported, "activation is given");
    says(&desc(lanenorm_op::RmsNorm), &given, unsupported, "groups are given, but op");
    says(&lanenorm_desc { gamma_offset: 1.0, ..layer_norm }, &given, unsupported, "gamma_offset or rounding");
    says(&lanenorm_desc { rounding: 1, ..layer_norm }, &given, unsupported, "gamma_offset or rounding");
    says(&lanenorm_desc { groups: 3, ..layer_norm }, &given, size, "3 groups of 1");
    let wide = lanenorm_desc { y_dtype: lanenorm_dtype::F32 as i32, ..layer_norm };
    says(&wide, &given, unsupported, "y_dtype");
    let huge = lanenorm_channels { samples: usize::MAX / 2, ..given };
    says(&layer_norm, &huge, lanenorm_status::Overflow, "x is too large");
    says(&layer_norm, &lanenorm_channels { x: null(), ..given }, lanenorm_status::NullPointer, "x");
    let shifted = lanenorm_channels { x: y[1..].as_ptr().cast(), samples: 1, ..given };
    says(&layer_norm, &shifted, lanenorm_status::Overlap, "overlaps x");
    let over_y = lanenorm_channels { gamma: y.as_ptr().cast(), ..given };
    says(&layer_norm, &over_y, lanenorm_status::Overlap, "overlaps gamma");
    let misaligned = lanenorm_channels { x: x.as_ptr().wrapping_byte_add(1).cast(), ..given };
    says(&layer_norm, &misaligned, lanenorm_status::Misaligned, "x is at");

    let plan = init(&layer_norm);
    let backward = |given: &lanenorm_channels, gradients: &lanenorm_channel_gradients| {
        // SAFETY: nothing is read or written before all has been checked, and without samples, but for sums.
        unsafe { lanenorm_plan_channels_backward(&plan, given, gradients, 1) }
    };
    let none = lanenorm_channel_gradients { dx: null_mut(), ..gradients };
    assert_eq!(backward(&given, &none), unsupported);
    assert!(last_error().starts_with("no gradient is wanted"), "{}", last_error());
    let over_x = lanenorm_channel_gradients { dy: y.as_ptr().cast(), dx: x.as_ptr().cast_mut().cast(), ..gradients };
    assert_eq!(backward(&given, &over_x), lanenorm_status::Overlap);
    let mut mean = [0.0f32; SAMPLES * 4];
    let alone = lanenorm_channels { mean: mean.as_mut_ptr().cast(), ..given };
    assert_eq!(backward(&alone, &gradients), unsupported);
    assert!(last_error().contains("without rstd"), "{}", last_error());
    assert!(y == x, "something has been written");
    let of_sums = lanenorm_channel_gradients { dgamma: sums.as_mut_ptr().cast(), ..GRADIENTS };
    assert_eq!(backward(&lanenorm_channels { samples: 0, x: null(), ..given }, &of_sums), lanenorm_status::Ok);
    assert_eq!(sums, [0.0; COLS]);
}
