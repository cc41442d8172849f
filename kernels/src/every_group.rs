//! Groups of channels: on every tier, in both orders of memory, however the job is cut, their bits are those of layer
//! normalization of the same rows, with gamma and beta written out.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::element::Companion;
use crate::every_loop::{bits, numbers};
use crate::gate::Function;
use crate::loops::Activate;
use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::forward::Forward;
use crate::ops::group_norm::{GroupBackward, GroupNorm, Order, Shape};
use crate::ops::moments::RowMoments;
use crate::rows::{GradRows, Groups, Params, RowIo, Vector};
use crate::simd::Float;
use crate::stats::{Moments, StatsMut, split_point};
use crate::{Centered, Element, Isa};

/// [samples, channels, pixels] in the order of `shape`.
fn ordered<T: Copy>(v: &[T], shape: Shape) -> Vec<T> {
    let Shape { channels, pixels, order, .. } = shape;
    let mut to = v.to_vec();
    if order == Order::ChannelsLast {
        for (i, &v) in v.iter().enumerate() {
            let (s, c, p) = (i / (channels * pixels), i / pixels % channels, i % pixels);
            to[(s * pixels + p) * channels + c] = v;
        }
    }
    to
}

/// Layer normalization of the groups, written to y of any type.
fn expected<T: Element + Companion<T>, Y: Companion<T> + Copy>(
    x: &[T],
    mut y: Vec<Y>,
    shape: Shape,
    [gamma, beta]: [&[T]; 2],
    stats: StatsMut<'_, T::Float>,
) -> Vec<Y> {
    let Shape { channels, groups, pixels, .. } = shape;
    let cols = channels / groups * pixels;
    let [gamma, beta] = [gamma, beta].map(|v| -> Vec<T> { v.iter().flat_map(|&v| vec![v; pixels]).collect() });
    let [gamma, beta] = [&gamma, &beta].map(|v| Some(Vector::from(&v[..])));
    let params = Params { gamma, beta, groups: Groups::new(groups, 1).expect("groups"), ..Params::default() };
    let io = RowIo::new(x, cols, &mut y, cols, x.len() / cols, cols).expect("rows");
    Forward::<T, Centered>::checked(io, params, 1e-5, false, stats).expect("a job").run_on(Isa::SCALAR);
    y
}

fn check<T: Element + Companion<T> + bytemuck::Pod, Wide: Companion<T> + bytemuck::Pod>(
    (samples, channels, groups, pixels): (usize, usize, usize, usize),
    change: impl Fn(&mut [T]),
) where
    T::Float: bytemuck::Pod,
{
    let (rows, len) = (samples * groups, samples * channels * pixels);
    let group_len = len / rows;
    let (mut x, mut gamma, mut beta) = (numbers::<T>(len, 1), numbers::<T>(channels, 2), numbers::<T>(channels, 3));
    change(&mut x);
    if channels == 12 {
        // Processors differ in the NaN that comes of a difference of infinities.
        let [up, down] = [f64::INFINITY, f64::NEG_INFINITY].map(|v| T::from_computed(T::Float::from_f64(v)));
        (gamma[1], gamma[2], beta[2], beta[5]) = (<T as Companion<T>>::NAN, up, down, up);
    }
    let zeros = vec![T::Float::default(); rows];
    for order in [Order::ChannelsFirst, Order::ChannelsLast] {
        let shape = Shape { channels, groups, pixels, order };
        let what = (T::DTYPE, samples, shape);
        let (mut mean, mut rstd) = (zeros.clone(), zeros.clone());
        let stats = StatsMut { mean: Some(&mut mean), mean_lo: None, rstd: Some(&mut rstd) };
        let y = ordered(&expected(&x, x.clone(), shape, [&gamma, &beta], stats), shape);
        // What is between is f32 or f64, and so is what comes of a function.
        let between = vec![Wide::zeroed(); len];
        let mut silu = expected(&x, between, shape, [&gamma, &beta], StatsMut::default());
        let (v, n, function) = (silu.as_mut_ptr(), len, Function::Silu);
        if size_of::<Wide>() == 8 {
            Isa::SCALAR.run(Activate::<f64> { v: v.cast(), n, function });
        } else {
            Isa::SCALAR.run(Activate::<f32> { v: v.cast(), n, function });
        }
        let silu: &[T::Float] = bytemuck::cast_slice(&silu);
        let silu = ordered(&silu.iter().map(|&v| T::from_computed(v)).collect::<Vec<T>>(), shape);
        let x = ordered(&x, shape);
        let vectors = [&gamma, &beta].map(|v| Some(Vector::from(&v[..])));
        for isa in Isa::available() {
            for activates in [false, true] {
                let expected = if activates { &silu } else { &y };
                for (in_place, streaming) in [(false, false), (true, false), (false, true)] {
                    let mut out = if in_place { x.clone() } else { y.clone() };
                    let [mut mean_of, mut rstd_of] = [0; 2].map(|_| zeros.clone());
                    let stats = StatsMut { mean: Some(&mut mean_of), mean_lo: None, rstd: Some(&mut rstd_of) };
                    let job = if in_place {
                        GroupNorm::in_place(&mut out, shape, vectors, 1e-5, stats)
                    } else {
                        GroupNorm::new(&x, &mut out, shape, vectors, 1e-5, streaming, stats)
                    };
                    let job = job.expect("a job");
                    let job = if activates { job.with_activation(Function::Silu) } else { job };
                    let (mut a, mut b) = job.split_at(rows / 3);
                    let mut work = vec![<T as Companion<T>>::NAN; shape.work_len::<T>().expect("a length")];
                    b.run_on(isa, &mut work);
                    a.run_on(isa, &mut work);
                    let what = (isa, what, in_place, streaming, activates);
                    assert!(bits(&out) == bits(expected), "{what:?}: y");
                    assert!(bits(&mean_of) == bits(&mean), "{what:?}: mean");
                    assert!(bits(&rstd_of) == bits(&rstd), "{what:?}: rstd");
                }
                // Group by group, each in parts.
                let mut out = y.clone();
                let job = GroupNorm::new(&x, &mut out, shape, vectors, 1e-5, true, StatsMut::default());
                let mut rest = job.expect("a job");
                if activates {
                    rest = rest.with_activation(Function::Silu);
                }
                while rest.rows() > 0 {
                    let (mut one, others) = rest.split_at(1);
                    rest = others;
                    let Some(group) = one.group() else {
                        one.run_on(isa, &mut vec![x[0]; shape.work_len::<T>().expect("a length")]);
                        continue;
                    };
                    let at = split_point(group_len).unwrap_or(group_len);
                    let moments = [&group[..at], &group[at..]].map(|x| RowMoments::new(x, true).run_on(isa));
                    match one.with_moments(&Moments::merge_all(moments)) {
                        Ok(elements) => {
                            let (a, b) = elements.split_at(group_len / 3);
                            b.run_on(isa);
                            a.run_on(isa);
                        }
                        Err(mut one) => one.run_on(isa, &mut []),
                    }
                }
                assert!(bits(&out) == bits(expected), "{isa}, {what:?}, {activates}: in parts");
            }
        }
    }
}

fn check_all<T: Element + Companion<T> + bytemuck::Pod, Wide: Companion<T> + bytemuck::Pod>()
where
    T::Float: bytemuck::Pod,
{
    let shapes: &[(usize, usize, usize, usize)] = if cfg!(miri) {
        &[(2, 8, 4, 53)]
    } else {
        &[
            (1, 1, 1, 1),
            (3, 6, 3, 1),
            (2, 8, 4, 7),
            (2, 8, 4, 53),
            (2, 20, 2, 64),
            (1, 32, 32, 196),
            (2, 12, 1, 257),
            (2, 51, 3, 1024),
            (1, 20, 2, 2048),
            (1, 6, 3, 1500),
        ]
    };
    for &shape in shapes {
        check::<T, Wide>(shape, |_| {});
    }
    if size_of::<T>() == size_of::<f32>() && !cfg!(miri) {
        // More channels than go together as lanes, in groups of more than that, and groups of which some go slowly.
        check::<T, Wide>((1, 1040, 130, 1024), |_| {});
        check::<T, Wide>((1, 1040, 2, 1024), |_| {});
        check::<T, Wide>((2, 64, 8, 1024), |x| {
            let (n, to_float) = (x.len(), T::Float::from_f64(1e30));
            x[n / 4] = <T as Companion<T>>::NAN;
            x[n / 2..n * 5 / 8].iter_mut().for_each(|v| *v = T::from_computed(v.to_computed() * to_float));
        });
    }
    let last = shapes[shapes.len() - 1];
    // A group with a NaN, and one whose squares overflow or, of 16 bits, are large.
    check::<T, Wide>(last, |x| {
        x[0] = <T as Companion<T>>::NAN;
        let from = x.len() / 2;
        x[from..].iter_mut().for_each(|v| *v = T::from_computed(v.to_computed() * T::Float::from_f64(1e30)));
    });
    // Constant groups, and tiny numbers.
    check::<T, Wide>(last, |x| {
        let at = x.len() / 2;
        x[..at].fill(T::from_computed(T::Float::from_f64(3.0)));
        x[at..].iter_mut().for_each(|v| *v = T::from_computed(v.to_computed() * T::Float::from_f64(1e-38)));
    });
}

#[test]
fn groups_of_f32() {
    check_all::<f32, f32>();
}

#[test]
fn groups_of_f64() {
    check_all::<f64, f64>();
}

#[test]
fn groups_of_bf16() {
    check_all::<bf16, f32>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn groups_of_f16() {
    check_all::<f16, f32>();
}

/// The gradients of layer normalization of the groups, with gamma written out, are those of groups.
fn check_gradients<T: Element + Companion<T> + bytemuck::Pod>(
    (samples, channels, groups, pixels): (usize, usize, usize, usize),
) where
    T::Float: bytemuck::Pod,
{
    let (rows, len, cols) = (samples * groups, samples * channels * pixels, channels / groups * pixels);
    let (x, dy, gamma) = (numbers::<T>(len, 1), numbers::<T>(len, 2), numbers::<T>(channels, 3));
    let zeros = |n: usize| vec![T::Float::default(); n];
    let shape = Shape { channels, groups, pixels, order: Order::ChannelsFirst };
    let (mut mean, mut mean_lo, mut rstd) = (zeros(rows), zeros(rows), zeros(rows));
    let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
    expected(&x, x.clone(), shape, [&gamma, &gamma], stats);
    let written: Vec<T> = gamma.iter().flat_map(|&v| vec![v; pixels]).collect();

    // The rows of each group of channels, as a job of layer normalization takes them.
    let (mut dx, mut sums) = (x.clone(), [zeros(channels), zeros(channels)]);
    for g in 0..groups {
        let rows_of = |v: &[T]| -> Vec<T> {
            (0..samples).flat_map(|s| v[(s * groups + g) * cols..][..cols].iter().copied()).collect()
        };
        let stats_of = |v: &[T::Float]| -> Vec<T::Float> { (0..samples).map(|s| v[s * groups + g]).collect() };
        let (x, dy) = (rows_of(&x), rows_of(&dy));
        let (mean, mean_lo, rstd) = (stats_of(&mean), stats_of(&mean_lo), stats_of(&rstd));
        let mut dx_of = x.clone();
        let rows = GradRows::new((&dy, cols), (&x, cols), samples, cols);
        let rows = rows.and_then(|rows| rows.with_dx((&mut dx_of, cols))).expect("rows");
        let stats = Stats { mean: Some(&mean), mean_lo: Some(&mean_lo), rstd: Some(&rstd) };
        let params = Params { gamma: Some(Vector::from(&written[g * cols..][..cols])), ..Params::default() };
        let parts = Parts::new(samples, cols);
        let mut partials = zeros(parts.partial_len::<T>(true).expect("a length") * parts.count());
        let mut work = zeros(parts.work_len::<T>(true).expect("a length"));
        let job = Backward::<T, Centered>::new(rows, stats, params, 1e-5, true, false);
        job.expect("a job").run_on(Isa::SCALAR, &mut partials, &mut work);
        let (mut dgamma, mut dbeta) = (zeros(cols), zeros(cols));
        parts.merge::<T, Centered>(Isa::SCALAR, &partials, Some(&mut dgamma), Some(&mut dbeta));
        for (out, of_elements) in sums.iter_mut().zip([&dgamma, &dbeta]) {
            for (out, elements) in out[g * channels / groups..].iter_mut().zip(of_elements.chunks(pixels)) {
                // With the errors of additions kept.
                let (mut sum, mut error) = (0.0f64, 0.0f64);
                for &v in elements {
                    let v: f64 = v.into();
                    let next = sum + v;
                    error += if sum.abs() >= v.abs() { (sum - next) + v } else { (v - next) + sum };
                    sum = next;
                }
                *out = T::Float::from_f64(sum + error);
            }
        }
        for (s, row) in dx_of.chunks(cols).enumerate() {
            dx[(s * groups + g) * cols..][..cols].copy_from_slice(row);
        }
    }

    let kept = Stats { mean: Some(&mean[..]), mean_lo: Some(&mean_lo[..]), rstd: Some(&rstd[..]) };
    let mut activated = None;
    for order in [Order::ChannelsFirst, Order::ChannelsLast] {
        let shape = Shape { order, ..shape };
        let (dx, dy, x) = (ordered(&dx, shape), ordered(&dy, shape), ordered(&x, shape));
        let vectors = [&gamma, &gamma].map(|v| Some(Vector::from(&v[..])));
        for isa in Isa::available() {
            for (in_place, function) in [(false, None), (true, None), (true, Some(Function::Silu))] {
                let what = (isa, T::DTYPE, samples, shape, in_place, function);
                let (mut out, mut dgamma, mut dbeta) =
                    (if in_place { dy.clone() } else { x.clone() }, zeros(channels), zeros(channels));
                let of_sums = [Some(&mut dgamma[..]), Some(&mut dbeta[..])];
                let job = if in_place {
                    GroupBackward::in_place((&mut out, &x), shape, kept, vectors, 1e-5, of_sums)
                } else {
                    GroupBackward::new((&dy, &x, Some(&mut out)), shape, kept, vectors, 1e-5, of_sums)
                };
                let mut job = job.expect("a job");
                if let Some(function) = function {
                    job = job.with_activation(function);
                }
                let (mut a, mut b) = job.split_at(groups / 3);
                let mut work = zeros(a.work_len().expect("a length"));
                b.run_on(isa, &mut work);
                a.run_on(isa, &mut work);
                if function.is_none() {
                    assert!(bits(&out) == bits(&dx), "{what:?}: dx");
                    assert!(bits(&dgamma) == bits(&sums[0]), "{what:?}: dgamma");
                    assert!(bits(&dbeta) == bits(&sums[1]), "{what:?}: dbeta");
                    continue;
                }
                // The same on all tiers and in both orders, and those of the formula.
                let first = unordered(&out, shape);
                let got = (bits(&first), bits(&dgamma), bits(&dbeta));
                let wanted = activated.get_or_insert_with(|| got.clone());
                assert!(got == *wanted, "{what:?}");
                check_formula(&first, &dgamma, &dbeta, shape, [&unordered(&x, shape), &unordered(&dy, shape), &gamma]);
            }
        }
    }
}

/// [samples, channels, pixels] of the order of `shape`.
fn unordered<T: Copy>(v: &[T], shape: Shape) -> Vec<T> {
    let Shape { channels, pixels, order, .. } = shape;
    if order == Order::ChannelsFirst {
        return v.to_vec();
    }
    ordered(v, Shape { channels: pixels, pixels: channels, ..shape })
}

/// The gradients of silu(n * gamma + gamma), from formulas in f64.
fn check_formula<T: Element>(
    dx: &[T],
    dgamma: &[T::Float],
    dbeta: &[T::Float],
    shape: Shape,
    [x, dy, gamma]: [&[T]; 3],
) {
    let Shape { channels, groups, pixels, .. } = shape;
    let f64_of = |v: &T| -> f64 { v.to_computed().into() };
    let cols = channels / groups * pixels;
    let tolerance = if size_of::<T>() == 2 { 2e-2 } else { 2e-5 };
    let (mut sums, mut size) = (vec![[0.0; 2]; channels], 0.0f64);
    for (r, ((x, dy), dx)) in x.chunks(cols).zip(dy.chunks(cols)).zip(dx.chunks(cols)).enumerate() {
        let x: Vec<f64> = x.iter().map(f64_of).collect();
        let mean = x.iter().sum::<f64>() / cols as f64;
        let var = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / cols as f64;
        let rstd = 1.0 / (var + 1e-5).sqrt();
        let channel = |i: usize| r % groups * (channels / groups) + i / pixels;
        let of_element = |i: usize| {
            let (xhat, gamma) = ((x[i] - mean) * rstd, f64_of(&gamma[channel(i)]));
            let n = xhat * gamma + gamma;
            let sigmoid = 1.0 / (1.0 + (-n).exp());
            (xhat, f64_of(&dy[i]) * sigmoid * (1.0 + n * (1.0 - sigmoid)), gamma)
        };
        let (mut c1, mut c2) = (0.0, 0.0);
        for i in 0..cols {
            let (xhat, dn, gamma) = of_element(i);
            c1 += dn * gamma / cols as f64;
            c2 += dn * gamma * xhat / cols as f64;
            sums[channel(i)][0] += dn * xhat;
            sums[channel(i)][1] += dn;
            size += dn.abs();
        }
        for i in 0..cols {
            let (xhat, dn, gamma) = of_element(i);
            let (wanted, got) = (rstd * (dn * gamma - c1 - xhat * c2), f64_of(&dx[i]));
            assert!((got - wanted).abs() <= tolerance * (1.0 + rstd), "{shape:?}: dx {got}, expected {wanted}");
        }
    }
    for (c, wanted) in sums.iter().enumerate() {
        let got: [f64; 2] = [dgamma[c].into(), dbeta[c].into()];
        for (got, wanted) in got.into_iter().zip(wanted) {
            assert!((got - wanted).abs() <= 1e-5 * (1.0 + size), "{shape:?}: a sum {got}, expected {wanted}");
        }
    }
}

fn check_all_gradients<T: Element + Companion<T> + bytemuck::Pod>()
where
    T::Float: bytemuck::Pod,
{
    let shapes: &[(usize, usize, usize, usize)] = if cfg!(miri) {
        &[(3, 4, 2, 33)]
    } else {
        &[(1, 4, 2, 5), (3, 6, 3, 1), (9, 8, 4, 53), (130, 4, 1, 3), (2, 64, 2, 40)]
    };
    for &shape in shapes {
        check_gradients::<T>(shape);
    }
}

#[test]
fn gradients_of_groups_of_f32() {
    check_all_gradients::<f32>();
}

#[test]
fn gradients_of_groups_of_f64() {
    check_all_gradients::<f64>();
}

#[test]
fn gradients_of_groups_of_bf16() {
    check_all_gradients::<bf16>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn gradients_of_groups_of_f16() {
    check_all_gradients::<f16>();
}
