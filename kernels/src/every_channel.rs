//! Channels that come first: on every tier, however the job is cut, rows have the bits of rows that lie side by side.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::element::Companion;
use crate::every_loop::{bits, numbers};
use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::channels::{ChannelsBackward, ChannelsFirst};
use crate::ops::forward::Forward;
use crate::rows::{GradRows, Params, RowIo, Vector};
use crate::stats::StatsMut;
use crate::{Center, Centered, Compiled, Element, Isa, Uncentered};

/// Samples, channels and pixels.
type Shape = (usize, usize, usize);

/// [samples, channels, pixels] as [samples, pixels, channels].
fn rows_of<T: Copy>(v: &[T], (samples, cols, pixels): Shape) -> Vec<T> {
    let at = |s: usize, p: usize, c: usize| v[(s * cols + c) * pixels + p];
    (0..samples)
        .flat_map(|s| (0..pixels).flat_map(move |p| (0..cols).map(move |c| (s, p, c))))
        .map(|(s, p, c)| at(s, p, c))
        .collect()
}

fn params<'a, T: Element + Companion<T>>(gamma: &'a [T], centered: bool) -> Params<'a, T> {
    let gamma = Vector::from(gamma);
    Params { gamma: Some(gamma), beta: centered.then_some(gamma), ..Params::default() }
}

fn check<T: Element + Companion<T> + Compiled<M> + bytemuck::Pod, M: Center>(shape: Shape)
where
    T::Float: bytemuck::Pod,
{
    let (samples, cols, pixels) = shape;
    let (n, len) = (samples * pixels, samples * cols * pixels);
    let (mut x, dy, gamma) = (numbers::<T>(len, 1), numbers::<T>(len, 2), numbers::<T>(cols, 3));
    x[len / 2] = <T as Companion<T>>::NAN;
    let what = (T::DTYPE, M::CENTERED, shape);
    let zeros = |len: usize| vec![T::Float::default(); len];

    // Rows side by side.
    let (x_rows, dy_rows) = (rows_of(&x, shape), rows_of(&dy, shape));
    let (mut y, mut mean, mut mean_lo, mut rstd) = (x_rows.clone(), zeros(n), zeros(n), zeros(n));
    let io = RowIo::new(&x_rows, cols, &mut y, cols, n, cols).expect("rows");
    let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
    let job = Forward::<T, M>::checked(io, params(&gamma, M::CENTERED), 1e-5, false, stats);
    job.expect("a job").run_on(Isa::SCALAR);
    let parts = Parts::new(n, cols);
    let partial = parts.partial_len::<T>(M::CENTERED).expect("a length");
    let kept = Stats { mean: M::CENTERED.then_some(&mean[..]), mean_lo: None, rstd: Some(&rstd) };
    let (mut dx, mut dgamma) = (x_rows.clone(), zeros(cols));
    let grads = GradRows::new((&dy_rows, cols), (&x_rows, cols), n, cols);
    let grads = grads.and_then(|rows| rows.with_dx((&mut dx, cols))).expect("rows");
    let mut partials = zeros(partial * parts.count());
    let job = Backward::<T, M>::new(grads, kept, params(&gamma, false), 1e-5, true, false);
    let mut work = zeros(parts.work_len::<T>(M::CENTERED).expect("a length"));
    job.expect("a job").run_on(Isa::SCALAR, &mut partials, &mut work);
    parts.merge::<T, M>(Isa::SCALAR, &partials, Some(&mut dgamma), None);
    let of_stats = |[mean, mean_lo, rstd]: [&[T::Float]; 3]| [bits(mean), bits(mean_lo), bits(rstd)];
    let expected = (bits(&y), of_stats([&mean, &mean_lo, &rstd]), bits(&dx), bits(&dgamma));

    for isa in Isa::available() {
        for in_place in [false, true] {
            let mut y = if in_place { x.clone() } else { dy.clone() };
            let [mut mean_of, mut mean_lo_of, mut rstd_of] = [0; 3].map(|_| zeros(n));
            let stats = StatsMut { mean: Some(&mut mean_of), mean_lo: Some(&mut mean_lo_of), rstd: Some(&mut rstd_of) };
            let params_of = params(&gamma, M::CENTERED);
            let job = if in_place {
                ChannelsFirst::<T, M>::in_place(&mut y, (cols, pixels), params_of, 1e-5, stats)
            } else {
                ChannelsFirst::<T, M>::new(&x, &mut y, (cols, pixels), params_of, 1e-5, stats)
            };
            let (mut a, mut b) = job.expect("a job").split_at(n / 3);
            let len = ChannelsFirst::<T, M>::work_len(cols).expect("a length");
            let mut work = vec![<T as Companion<T>>::NAN; len];
            b.run_on(isa, &mut work);
            a.run_on(isa, &mut work);

            let mut dx = if in_place { dy.clone() } else { x.clone() };
            let params_of = params(&gamma, false);
            let job = if in_place {
                ChannelsBackward::<T, M>::in_place((&mut dx, &x), (cols, pixels), kept, params_of, 1e-5, true)
            } else {
                ChannelsBackward::<T, M>::new((&dy, &x, Some(&mut dx)), (cols, pixels), kept, params_of, 1e-5, true)
            };
            let (mut a, mut b) = job.expect("a job").split_at_part(1);
            let (mut partials, mut dgamma) = (zeros(partial * parts.count()), zeros(cols));
            let (of_a, of_b) = partials.split_at_mut(partial * a.parts());
            let mut work = zeros(parts.channels_work_len::<T>(M::CENTERED).expect("a length"));
            b.run_on(isa, of_b, &mut work);
            a.run_on(isa, of_a, &mut work);
            parts.merge::<T, M>(isa, &partials, Some(&mut dgamma), None);
            let (y, dx) = (rows_of(&y, shape), rows_of(&dx, shape));
            let got = (bits(&y), of_stats([&mean_of, &mean_lo_of, &rstd_of]), bits(&dx), bits(&dgamma));
            assert!(got.0 == expected.0, "{isa}, {what:?}, in place: {in_place}: y");
            assert!(got.1 == expected.1, "{isa}, {what:?}, in place: {in_place}: statistics");
            assert!(got.2 == expected.2, "{isa}, {what:?}, in place: {in_place}: dx");
            assert!(got.3 == expected.3, "{isa}, {what:?}, in place: {in_place}: dgamma");
        }
    }
}

fn check_all<T: Element + Companion<T> + bytemuck::Pod>()
where
    T::Float: bytemuck::Pod,
{
    let shapes: &[Shape] = if cfg!(miri) {
        &[(2, 8, 33)]
    } else {
        &[
            (1, 1, 1),
            (3, 5, 7),
            (2, 8, 33),
            (3, 16, 49),
            (2, 96, 196),
            (1, 100, 70),
            (1, 1025, 40),
            (7, 3, 64),
            (2, 1, 300),
            (1, 33, 143),
            (2, 65, 271),
        ]
    };
    for &shape in shapes {
        check::<T, Centered>(shape);
        check::<T, Uncentered>(shape);
    }
}

#[test]
fn channels_of_f32() {
    check_all::<f32>();
}

#[test]
fn channels_of_f64() {
    check_all::<f64>();
}

#[test]
fn channels_of_bf16() {
    check_all::<bf16>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn channels_of_f16() {
    check_all::<f16>();
}
