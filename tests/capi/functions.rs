//! The functions for the common cases, against the plans.

use std::ptr::{null, null_mut};

use lanenorm::capi::*;
use lanenorm::{Element, Error, LayerNorm, RmsNorm, bf16, f16};

use crate::data::{Random, special_row};
use crate::types::Value;
use crate::{assert_same_bits, last_error};

const SHAPES: [(usize, usize); 5] = [(1, 8), (9, 64), (5, 193), (2, 2100), (40, 768)];

/// Rows without large means: statistics without `mean_lo` are accurate for them.
fn rows<V: Value>(seed: u64, rows: usize, cols: usize) -> Vec<V> {
    let random = &mut Random::new(seed);
    let mut data = vec![V::default(); rows * cols];
    data.chunks_exact_mut(cols).for_each(|row| special_row(0, random, row));
    data
}

fn ok(status: lanenorm_status) {
    assert_eq!(status, lanenorm_status::Ok, "{}", last_error());
}

/// A pointer as the C functions take it: f16 and bf16 are passed by their bits.
macro_rules! c_ptr {
    ($v:expr) => {
        $v.as_ptr().cast()
    };
    (mut $v:expr) => {
        $v.as_mut_ptr().cast()
    };
}

macro_rules! layer_norm {
    ($($name:ident, $function:ident, $t:ty, $float:ty, $eps:literal;)+) => {$(
        #[test]
        fn $name() {
            for (number, (n, cols)) in SHAPES.into_iter().enumerate() {
                let (x, gamma, beta) = (rows::<$t>(1, n, cols), rows::<$t>(2, 1, cols), rows::<$t>(3, 1, cols));
                let has = |bit: usize| number & bit == 0;
                let mut want = (vec![<$t>::default(); n * cols], vec![<$float>::default(); n], vec![<$float>::default(); n]);
                let mut got = (vec![<$t>::SENTINEL; n * cols], vec![<$float>::SENTINEL; n], vec![<$float>::SENTINEL; n]);
                let (g, b) = (has(1).then_some(&gamma[..]), has(2).then_some(&beta[..]));
                let plan = LayerNorm::new(cols, ($eps).into()).expect("a plan");
                let call = plan.call(&x).gamma(g).beta(b).mean_to(&mut want.1).rstd_to(&mut want.2);
                call.to(&mut want.0).expect("a valid call");
                let g = if has(1) { c_ptr!(gamma) } else { null() };
                let b = if has(2) { c_ptr!(beta) } else { null() };
                let (x_p, y_p) = (c_ptr!(x), c_ptr!(mut got.0));
                let (mean, rstd) = (got.1.as_mut_ptr(), got.2.as_mut_ptr());
                // SAFETY: all buffers are valid.
                ok(unsafe { $function(x_p, n, cols, g, b, $eps, y_p, mean, rstd, number % 3) });
                assert_same_bits("y", &want.0, &got.0);
                assert_same_bits("mean", &want.1, &got.1);
                assert_same_bits("rstd", &want.2, &got.2);
                let mut in_place = x.clone();
                // SAFETY: all buffers are valid; y is x.
                ok(unsafe {
                    let p: *mut _ = c_ptr!(mut in_place);
                    $function(p, n, cols, g, b, $eps, p, null_mut(), null_mut(), 1)
                });
                assert_same_bits("y, in place", &want.0, &in_place);
            }
        }
    )+};
}

layer_norm! {
    layer_norm_f32, lanenorm_layer_norm_f32, f32, f32, 1e-5;
    layer_norm_f64, lanenorm_layer_norm_f64, f64, f64, 1e-5;
    layer_norm_f16, lanenorm_layer_norm_f16, f16, f32, 1e-5f32;
    layer_norm_bf16, lanenorm_layer_norm_bf16, bf16, f32, 1e-5f32;
}

macro_rules! rms_norm {
    ($($name:ident, $function:ident, $t:ty, $float:ty, $eps:literal;)+) => {$(
        #[test]
        fn $name() {
            for (number, (n, cols)) in SHAPES.into_iter().enumerate() {
                let (x, gamma) = (rows::<$t>(1, n, cols), rows::<$t>(2, 1, cols));
                let (has_gamma, offset) = (number & 1 == 0, (number & 2) as f32 / 2.0);
                let mut want = (vec![<$t>::default(); n * cols], vec![<$float>::default(); n]);
                let mut got = (vec![<$t>::SENTINEL; n * cols], vec![<$float>::SENTINEL; n]);
                let plan = RmsNorm::new(cols, ($eps).into()).expect("a plan").with_offset(offset);
                let g = has_gamma.then_some(&gamma[..]);
                plan.call(&x).gamma(g).rstd_to(&mut want.1).to(&mut want.0).expect("a valid call");
                let g = if has_gamma { c_ptr!(gamma) } else { null() };
                let (x_p, y_p, rstd) = (c_ptr!(x), c_ptr!(mut got.0), got.1.as_mut_ptr());
                // SAFETY: all buffers are valid.
                ok(unsafe { $function(x_p, n, cols, g, offset, $eps, y_p, rstd, number % 3) });
                assert_same_bits("y", &want.0, &got.0);
                assert_same_bits("rstd", &want.1, &got.1);
                let mut in_place = x.clone();
                // SAFETY: all buffers are valid; y is x.
                ok(unsafe {
                    let p: *mut _ = c_ptr!(mut in_place);
                    $function(p, n, cols, g, offset, $eps, p, null_mut(), 1)
                });
                assert_same_bits("y, in place", &want.0, &in_place);
            }
        }
    )+};
}

rms_norm! {
    rms_norm_f32, lanenorm_rms_norm_f32, f32, f32, 1e-6f32;
    rms_norm_f64, lanenorm_rms_norm_f64, f64, f64, 1e-6;
    rms_norm_f16, lanenorm_rms_norm_f16, f16, f32, 1e-6f32;
    rms_norm_bf16, lanenorm_rms_norm_bf16, bf16, f32, 1e-6f32;
}

/// The buffers of a sum, for the functions of C.
struct Pointers<T> {
    x: *mut T,
    residual: *mut T,
    gamma: *const T,
    beta: *const T,
    sum: *mut T,
    y: *mut T,
}

/// Compares sums: the sum goes apart, over the residual, over x, or is not wanted.
fn assert_sums_agree<T: Value + Element>(
    forward: impl Fn(usize, [&[T]; 4], &mut [T], &mut [T]) -> Result<(), Error>,
    call: impl Fn(Pointers<T>, usize, usize, usize) -> lanenorm_status,
) {
    for (number, (n, cols)) in SHAPES.into_iter().enumerate() {
        let (x, residual) = (rows::<T>(1, n, cols), rows::<T>(2, n, cols));
        let (gamma, beta) = (rows::<T>(3, 1, cols), rows::<T>(4, 1, cols));
        let blank = || vec![T::SENTINEL; n * cols];
        let (mut want_sum, mut want) = (blank(), blank());
        forward(cols, [&x, &residual, &gamma, &beta], &mut want_sum, &mut want).expect("a valid call");
        for place in 0..4 {
            let (mut x_now, mut residual_now, mut sum, mut y) = (x.clone(), residual.clone(), blank(), blank());
            let (x_p, residual_p) = (x_now.as_mut_ptr(), residual_now.as_mut_ptr());
            // If the sum goes over x or residual, y goes over the other one.
            let (sum_p, y_p) = match place {
                0 => (sum.as_mut_ptr(), y.as_mut_ptr()),
                1 => (residual_p, x_p),
                2 => (x_p, residual_p),
                _ => (null_mut(), y.as_mut_ptr()),
            };
            let (gamma, beta) = (gamma.as_ptr(), beta.as_ptr());
            let pointers = Pointers { x: x_p, residual: residual_p, gamma, beta, sum: sum_p, y: y_p };
            ok(call(pointers, n, cols, number % 3));
            let (got_sum, got) = match place {
                0 => (&sum, &y),
                1 => (&residual_now, &x_now),
                2 => (&x_now, &residual_now),
                _ => (&want_sum, &y),
            };
            assert_same_bits("sum", &want_sum, got_sum);
            assert_same_bits("y", &want, got);
        }
    }
}

macro_rules! add_layer_norm {
    ($($name:ident, $function:ident, $t:ty, $eps:literal;)+) => {$(
        #[test]
        fn $name() {
            assert_sums_agree::<$t>(
                |cols, [x, residual, gamma, beta], s, y| {
                    let plan = LayerNorm::new(cols, ($eps).into())?;
                    plan.call(x).residual(residual).sum_to(s).gamma(gamma).beta(beta).to(y)
                },
                |Pointers { x, residual, gamma, beta, sum, y }, n, cols, threads| {
                    let (x, residual, gamma, beta) = (x.cast(), residual.cast(), gamma.cast(), beta.cast());
                    // SAFETY: all buffers are valid.
                    unsafe { $function(x, residual, n, cols, gamma, beta, $eps, sum.cast(), y.cast(), threads) }
                },
            );
        }
    )+};
}

add_layer_norm! {
    add_layer_norm_f32, lanenorm_add_layer_norm_f32, f32, 1e-6f32;
    add_layer_norm_f64, lanenorm_add_layer_norm_f64, f64, 1e-6;
    add_layer_norm_f16, lanenorm_add_layer_norm_f16, f16, 1e-6f32;
    add_layer_norm_bf16, lanenorm_add_layer_norm_bf16, bf16, 1e-6f32;
}

macro_rules! add_rms_norm {
    ($($name:ident, $function:ident, $t:ty, $eps:literal;)+) => {$(
        #[test]
        fn $name() {
            assert_sums_agree::<$t>(
                |cols, [x, residual, gamma, _], s, y| {
                    let plan = RmsNorm::new(cols, ($eps).into())?.with_offset(0.5);
                    plan.call(x).residual(residual).sum_to(s).gamma(gamma).to(y)
                },
                |Pointers { x, residual, gamma, sum, y, .. }, n, cols, threads| {
                    let (x, residual, gamma) = (x.cast(), residual.cast(), gamma.cast());
                    // SAFETY: all buffers are valid.
                    unsafe { $function(x, residual, n, cols, gamma, 0.5, $eps, sum.cast(), y.cast(), threads) }
                },
            );
        }
    )+};
}

add_rms_norm! {
    add_rms_norm_f32, lanenorm_add_rms_norm_f32, f32, 1e-6f32;
    add_rms_norm_f64, lanenorm_add_rms_norm_f64, f64, 1e-6;
    add_rms_norm_f16, lanenorm_add_rms_norm_f16, f16, 1e-6f32;
    add_rms_norm_bf16, lanenorm_add_rms_norm_bf16, bf16, 1e-6f32;
}

macro_rules! layer_norm_backward {
    ($($name:ident, $function:ident, $t:ty, $float:ty, $eps:literal;)+) => {$(
        #[test]
        fn $name() {
            for (number, (n, cols)) in SHAPES.into_iter().enumerate() {
                let (dy, x, gamma) = (rows::<$t>(1, n, cols), rows::<$t>(2, n, cols), rows::<$t>(3, 1, cols));
                let plan = LayerNorm::new(cols, ($eps).into()).expect("a plan");
                let (mut mean, mut rstd) = (vec![<$float>::default(); n], vec![<$float>::default(); n]);
                let call = plan.call(&x).mean_to(&mut mean).rstd_to(&mut rstd);
                call.to(&mut dy.clone()).expect("a valid call");
                let kept = number % 2 == 0;
                let mut want = (vec![<$t>::SENTINEL; n * cols], vec![<$float>::default(); cols], vec![<$float>::default(); cols]);
                let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut want.1).dbeta_to(&mut want.2);
                let call = call.mean(kept.then_some(&mean)).rstd(kept.then_some(&rstd));
                call.to(&mut want.0).expect("a valid call");
                let (mean, rstd) = if kept { (mean.as_ptr(), rstd.as_ptr()) } else { (null(), null()) };
                let mut got = (vec![<$t>::SENTINEL; n * cols], vec![<$float>::SENTINEL; cols], vec![<$float>::SENTINEL; cols]);
                let (dx, dgamma, dbeta) = (c_ptr!(mut got.0), got.1.as_mut_ptr(), got.2.as_mut_ptr());
                let (dy_p, x_p, gamma) = (c_ptr!(dy), c_ptr!(x), c_ptr!(gamma));
                // SAFETY: all buffers are valid.
                ok(unsafe { $function(dy_p, x_p, mean, rstd, n, cols, gamma, $eps, dx, dgamma, dbeta, number % 3) });
                assert_same_bits("dx", &want.0, &got.0);
                assert_same_bits("dgamma", &want.1, &got.1);
                assert_same_bits("dbeta", &want.2, &got.2);
                let mut in_place = dy.clone();
                // SAFETY: all buffers are valid; dx is dy.
                ok(unsafe {
                    let p: *mut _ = c_ptr!(mut in_place);
                    $function(p, x_p, mean, rstd, n, cols, gamma, $eps, p, null_mut(), null_mut(), 1)
                });
                assert_same_bits("dx, in place", &want.0, &in_place);
            }
        }
    )+};
}

layer_norm_backward! {
    layer_norm_backward_f32, lanenorm_layer_norm_backward_f32, f32, f32, 1e-5f32;
    layer_norm_backward_f64, lanenorm_layer_norm_backward_f64, f64, f64, 1e-5;
    layer_norm_backward_f16, lanenorm_layer_norm_backward_f16, f16, f32, 1e-5f32;
    layer_norm_backward_bf16, lanenorm_layer_norm_backward_bf16, bf16, f32, 1e-5f32;
}

macro_rules! rms_norm_backward {
    ($($name:ident, $function:ident, $t:ty, $float:ty, $eps:literal;)+) => {$(
        #[test]
        fn $name() {
            for (number, (n, cols)) in SHAPES.into_iter().enumerate() {
                let (dy, x, gamma) = (rows::<$t>(1, n, cols), rows::<$t>(2, n, cols), rows::<$t>(3, 1, cols));
                let offset = number as f32 / 2.0;
                let plan = RmsNorm::new(cols, ($eps).into()).expect("a plan").with_offset(offset);
                let mut rstd = vec![<$float>::default(); n];
                plan.call(&x).rstd_to(&mut rstd).to(&mut dy.clone()).expect("a valid call");
                let kept = number % 2 == 0;
                let mut want = (vec![<$t>::SENTINEL; n * cols], vec![<$float>::default(); cols]);
                let call = plan.backward(&dy, &x).gamma(&gamma).rstd(kept.then_some(&rstd)).dgamma_to(&mut want.1);
                call.to(&mut want.0).expect("a valid call");
                let mut got = (vec![<$t>::SENTINEL; n * cols], vec![<$float>::SENTINEL; cols]);
                let (dx, dgamma) = (c_ptr!(mut got.0), got.1.as_mut_ptr());
                let rstd = if kept { rstd.as_ptr() } else { null() };
                let (dy_p, x_p, gamma) = (c_ptr!(dy), c_ptr!(x), c_ptr!(gamma));
                // SAFETY: all buffers are valid.
                ok(unsafe { $function(dy_p, x_p, rstd, n, cols, gamma, offset, $eps, dx, dgamma, number) });
                assert_same_bits("dx", &want.0, &got.0);
                assert_same_bits("dgamma", &want.1, &got.1);
            }
        }
    )+};
}

rms_norm_backward! {
    rms_norm_backward_f32, lanenorm_rms_norm_backward_f32, f32, f32, 1e-5f32;
    rms_norm_backward_f64, lanenorm_rms_norm_backward_f64, f64, f64, 1e-5;
    rms_norm_backward_f16, lanenorm_rms_norm_backward_f16, f16, f32, 1e-5f32;
    rms_norm_backward_bf16, lanenorm_rms_norm_backward_bf16, bf16, f32, 1e-5f32;
}
