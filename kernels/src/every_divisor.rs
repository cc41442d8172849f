//! L2 norms: on every tier and in every loop, rows have the bits of one tier, which are close to the formulas, and so
//! have their gradients.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::divisor::Divisor;
use crate::element::{Companion, Storage};
use crate::every_loop::{bits, numbers};
use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::forward::Forward;
use crate::reference;
use crate::rows::{GradRows, Params, RowIo, Vector};
use crate::simd::Float;
use crate::stats::{CHUNK, StatsMut};
use crate::{Compiled, Element, Isa, Uncentered};

/// Rows whose norms are ordinary, and, in every third row, small beside eps, or zero.
fn rows<T: Element>(rows: usize, cols: usize, eps: f64) -> Vec<T> {
    let mut x = numbers::<f32>(rows * cols, 1);
    for (r, row) in x.chunks_mut(cols).enumerate() {
        let scale = match r % 6 {
            2 => eps as f32 / (4.0 * (cols as f32).sqrt()),
            5 => 0.0,
            _ => 3.0,
        };
        row.iter_mut().for_each(|v| *v *= scale);
    }
    x.into_iter().map(|v| T::from_computed(T::Float::from_f64(v.into()))).collect()
}

fn wide<T: Storage>(v: &[T]) -> Vec<f64> {
    v.iter().map(|v| v.to_computed().into()).collect()
}

fn wide_bits<F: Float>(v: &[F]) -> Vec<u64> {
    v.iter().map(|&v| v.into().to_bits()).collect()
}

/// The largest error that a number has when it is rounded to `T`, relative to it, and a little more.
fn unit<T: Storage>() -> f64 {
    match size_of::<T>() {
        8 => 1e-14,
        4 => 1e-6,
        _ => 8e-3,
    }
}

fn params<T: Element + Companion<T>>(gamma: &[T], divisor: Divisor) -> Params<'_, T> {
    Params { gamma: Some(Vector::from(gamma)), divisor, ..Params::default() }
}

fn check<T: Element + Companion<T> + Compiled<Uncentered> + bytemuck::Pod>(
    n: usize,
    cols: usize,
    divisor: Divisor,
    eps: f64,
) {
    let x = rows::<T>(n, cols, eps);
    let gamma: Vec<T> = numbers::<T>(cols, 2);
    let what = (T::DTYPE, n, cols, divisor);
    let mut expected = None;
    for isa in Isa::available() {
        for cut in [0, n / 3] {
            let (mut y, mut rstd) = (x.clone(), vec![T::Float::default(); n]);
            let io = RowIo::new(&x, cols, &mut y, cols, n, cols).expect("rows");
            let stats = StatsMut { rstd: Some(&mut rstd), ..StatsMut::default() };
            let job = Forward::<T, Uncentered>::checked(io, params(&gamma, divisor), eps, false, stats);
            let (mut a, mut b) = job.expect("a job").split_at(cut);
            a.run_on(isa);
            b.run_on(isa);
            let got = (bits(&y), wide_bits(&rstd));
            let first = expected.get_or_insert_with(|| got.clone());
            assert!(*first == got, "{isa}, {what:?}, {cut}");
            if isa != Isa::SCALAR {
                continue;
            }
            for (r, (x, y)) in wide(&x).chunks(cols).zip(wide(&y).chunks(cols)).enumerate() {
                let factor = reference::rstd_of(x, divisor, eps);
                let is_close = (rstd[r].into() - factor).abs() <= 1e-6 * factor || rstd[r].into() == factor;
                assert!(is_close, "{what:?}: row {r} has {:?}, expected {factor}", rstd[r]);
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    let xhat = if *x == 0.0 { 0.0 } else { x * factor };
                    let exact = xhat * gamma[i].to_computed().into();
                    assert!((y - exact).abs() <= unit::<T>() * exact.abs() + 1e-7, "{what:?}: {r}, {i}: {y}, {exact}");
                }
            }
        }
    }
    check_gradients(&x, &gamma, (n, cols), divisor, eps);
}

fn check_gradients<T: Element + Companion<T> + bytemuck::Pod>(
    x: &[T],
    gamma: &[T],
    (n, cols): (usize, usize),
    divisor: Divisor,
    eps: f64,
) {
    let what = (T::DTYPE, n, cols, divisor);
    let dy = numbers::<T>(n * cols, 3);
    let mut rstd = vec![T::Float::default(); n];
    let mut y = x.to_vec();
    let io = RowIo::new(x, cols, &mut y, cols, n, cols).expect("rows");
    let stats = StatsMut { rstd: Some(&mut rstd), ..StatsMut::default() };
    let forward = Forward::<T, Uncentered>::checked(io, params(gamma, divisor), eps, false, stats);
    forward.expect("a job").run_on(Isa::SCALAR);
    let mut expected = None;
    for isa in Isa::available() {
        for kept in [false, true] {
            let mut dx = vec![T::from_computed(T::Float::from_f64(7.0)); n * cols];
            let grads = GradRows::new((&dy, cols), (x, cols), n, cols).and_then(|rows| rows.with_dx((&mut dx, cols)));
            let stats = Stats { rstd: kept.then_some(&rstd[..]), ..Stats::default() };
            let job =
                Backward::<T, Uncentered>::new(grads.expect("rows"), stats, params(gamma, divisor), eps, true, false);
            let parts = Parts::new(n, cols);
            let zeros = |len: Option<usize>| vec![T::Float::default(); len.expect("a length")];
            let mut partials = zeros(parts.partial_len::<T>(false).map(|len| len * parts.count()));
            let mut dgamma = vec![T::Float::default(); cols];
            job.expect("a job").run_on(isa, &mut partials, &mut zeros(parts.work_len::<T>(false)));
            parts.merge::<T, Uncentered>(isa, &partials, Some(&mut dgamma), None);
            let got = (bits(&dx), wide_bits(&dgamma));
            let first = expected.get_or_insert_with(|| got.clone());
            assert!(*first == got, "{isa}, {what:?}, kept: {kept}");
            if isa != Isa::SCALAR || kept {
                continue;
            }
            let (x, dy, gamma, dx) = (wide(x), wide(&dy), wide(gamma), wide(&dx));
            for r in 0..n {
                let row = r * cols..(r + 1) * cols;
                let (x, dy, dx) = (&x[row.clone()], &dy[row.clone()], &dx[row]);
                let factor = reference::rstd_of(x, divisor, eps);
                if factor.is_infinite() {
                    assert!(dx.iter().all(|&dx| dx == 0.0), "{what:?}: dx {r}");
                    continue;
                }
                let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                let g: Vec<f64> = dy.iter().zip(&gamma).map(|(dy, gamma)| dy * gamma).collect();
                let c2 = x.iter().zip(&g).map(|(x, g)| x * factor * g).sum::<f64>();
                let c2 = if divisor == Divisor::NormAtLeast && norm < eps { 0.0 } else { c2 };
                for i in 0..cols {
                    let exact = factor * (g[i] - x[i] * factor * c2);
                    let size = factor * (g[i].abs() + (x[i] * factor * c2).abs());
                    let bound = unit::<T>() * size + 1e-7 * factor;
                    assert!((dx[i] - exact).abs() <= bound, "{what:?}: dx {r}, {i}: {}, {exact}", dx[i]);
                }
            }
        }
    }
}

fn check_all<T: Element + Companion<T> + bytemuck::Pod>() {
    let shapes: &[(usize, usize)] = if cfg!(miri) {
        &[(6, 40)]
    } else {
        &[(1, 64), (40, 3), (70, 24), (19, 64), (18, 200), (9, 768), (6, CHUNK + 9), (6, 5000)]
    };
    for &(n, cols) in shapes {
        for (divisor, eps) in [(Divisor::Norm, 1e-3), (Divisor::NormAtLeast, 1e-2), (Divisor::NormAtLeast, 0.0)] {
            check::<T>(n, cols, divisor, eps);
        }
    }
    // Floors out of the range of the loops.
    if size_of::<T>() >= 4 {
        for eps in [1e-20, 1e20] {
            check::<T>(12, 70, Divisor::NormAtLeast, eps);
        }
    }
}

#[test]
fn l2_norms_of_f32() {
    check_all::<f32>();
}

#[test]
fn l2_norms_of_f64() {
    check_all::<f64>();
}

#[test]
fn l2_norms_of_bf16() {
    check_all::<bf16>();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn l2_norms_of_f16() {
    check_all::<f16>();
}
