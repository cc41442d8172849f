//! The peers that take slices of f32. None of them uses threads.

use std::mem::MaybeUninit;

use lattice_compute::forward::cpu as lattice;
use rten_simd::SimdOp;
use rten_vecmath::{Normalize, NormalizeOptions, Sum, SumSquare, SumSquareSub};
use trueno::blis::norms as trueno_norms;

use crate::case::{Case, EPS, Op};
use crate::contender::{About, Contender, Note};
use crate::versions::version;

const VALID: &str = "the lengths fit";

pub(crate) fn all(case: Case) -> Vec<Contender<f32>> {
    let cols = case.shape.cols;
    let about = |name, note| About { name, version: version(name), threads: false, note };
    let rten = about("rten-vecmath", Note::Plain);
    let trueno = about("aprender-compute", Note::Plain);
    let lattice_in_place = about("lattice-compute", Note::InPlace);
    match case.op {
        Op::LayerNorm => vec![
            Contender::new(rten, move |b| {
                let (gamma, beta) = (b.gamma.get(), b.beta.get());
                for_rows(b.x.get(), b.y.get_mut(), cols, |x, y| rten_layer_norm(x, gamma, beta, y));
            }),
            Contender::new(trueno, move |b| {
                let (gamma, beta) = (b.gamma.get(), b.beta.get());
                for_rows(b.x.get(), b.y.get_mut(), cols, |x, y| {
                    trueno_norms::layer_norm(x, gamma, beta, EPS, y).expect(VALID);
                });
            }),
            Contender::new(lattice_in_place, move |b| {
                lattice::layer_norm(b.y.get_mut(), b.gamma.get(), b.beta.get(), cols, EPS);
            }),
        ],
        Op::RmsNorm => vec![
            Contender::new(rten, move |b| {
                let gamma = b.gamma.get();
                for_rows(b.x.get(), b.y.get_mut(), cols, |x, y| rten_rms_norm(x, gamma, y));
            }),
            Contender::new(trueno, move |b| {
                let gamma = b.gamma.get();
                for_rows(b.x.get(), b.y.get_mut(), cols, |x, y| {
                    trueno_norms::rms_norm(x, gamma, EPS, y).expect(VALID);
                });
            }),
            Contender::new(lattice_in_place, move |b| {
                lattice::rms_norm(b.y.get_mut(), b.gamma.get(), cols, EPS);
            }),
        ],
        Op::AddLayerNorm => vec![Contender::new(about("lattice-compute", Note::NoSum), move |b| {
            let (y, residual) = (b.y.get_mut(), b.residual.get());
            lattice::residual_add_layer_norm(y, residual, b.gamma.get(), b.beta.get(), cols, EPS);
        })],
        _ => Vec::new(),
    }
}

fn for_rows(x: &[f32], y: &mut [f32], cols: usize, mut row: impl FnMut(&[f32], &mut [f32])) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        row(x, y);
    }
}

/// Makes the three calls that rten's own operator makes for each row.
fn rten_layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) {
    let n = x.len() as f32;
    let mean = Sum::new(x).dispatch() / n;
    let var = SumSquareSub::new(x, mean).dispatch() / n;
    let scale = 1.0 / (var + EPS).sqrt();
    let (element_scale, element_bias) = (Some(gamma), Some(beta));
    let opts = NormalizeOptions { pre_scale_bias: mean, scale, element_scale, element_bias, ..Default::default() };
    Normalize::new(x, uninit(y), opts).dispatch();
}

fn rten_rms_norm(x: &[f32], gamma: &[f32], y: &mut [f32]) {
    let scale = 1.0 / (SumSquare::new(x).dispatch() / x.len() as f32 + EPS).sqrt();
    let opts = NormalizeOptions { scale, element_scale: Some(gamma), ..Default::default() };
    Normalize::new(x, uninit(y), opts).dispatch();
}

fn uninit(y: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the type has the layout of f32, and the only caller that writes through it writes numbers.
    unsafe { std::slice::from_raw_parts_mut(y.as_mut_ptr().cast(), y.len()) }
}
