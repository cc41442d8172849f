//! What people write who do not use a library: each formula as scalar loops, and Welford's algorithm from the textbook.

use crate::case::{Case, EPS, Op};
use crate::contender::{About, Buffers, Contender, Note};
use crate::number::Number;

pub(crate) fn all<T: Number>(case: Case) -> Vec<Contender<T>> {
    let (op, cols) = (case.op, case.shape.cols);
    let about = |name| About { name, version: "", threads: false, note: Note::Plain };
    let mut all = vec![if op.is_backward() {
        Contender::new(about("naive"), move |b| backward(op, cols, b))
    } else {
        Contender::new(about("naive"), move |b| forward(op, cols, b, naive))
    }];
    if matches!(op, Op::LayerNorm | Op::AddLayerNorm) {
        all.push(Contender::new(about("welford"), move |b| forward(op, cols, b, |x, _| welford(x))));
    }
    all
}

/// The mean (0 if not centered) and the variance around it.
type Moments<T> = fn(&[T], bool) -> (f32, f32);

fn forward<T: Number>(op: Op, cols: usize, b: &mut Buffers<T>, moments: Moments<T>) {
    if op.adds() {
        for ((s, &x), &r) in b.s.get_mut().iter_mut().zip(b.x.get()).zip(b.residual.get()) {
            *s = x.plus(r);
        }
    }
    let (x, gamma, beta) = (if op.adds() { b.s.get() } else { b.x.get() }, b.gamma.get(), b.beta.get());
    for (x, y) in x.chunks_exact(cols).zip(b.y.get_mut().chunks_exact_mut(cols)) {
        let (mean, var) = moments(x, op.is_centered());
        let rstd = 1.0 / (var + EPS).sqrt();
        if op.is_centered() {
            for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = T::narrow((x.wide() - mean) * rstd * gamma.wide() + beta.wide());
            }
        } else {
            for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
                *y = T::narrow(x.wide() * rstd * gamma.wide());
            }
        }
    }
}

fn naive<T: Number>(x: &[T], is_centered: bool) -> (f32, f32) {
    let n = x.len() as f32;
    let mut mean = 0.0;
    if is_centered {
        for &x in x {
            mean += x.wide();
        }
        mean /= n;
    }
    let mut squares = 0.0;
    for &x in x {
        squares += (x.wide() - mean) * (x.wide() - mean);
    }
    (mean, squares / n)
}

/// B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4(3), 1962.
fn welford<T: Number>(x: &[T]) -> (f32, f32) {
    let (mut mean, mut m2) = (0.0, 0.0);
    for (i, &x) in x.iter().enumerate() {
        let delta = x.wide() - mean;
        mean += delta / (i + 1) as f32;
        m2 += delta * (x.wide() - mean);
    }
    (mean, m2 / x.len() as f32)
}

fn backward<T: Number>(op: Op, cols: usize, b: &mut Buffers<T>) {
    let (dgamma, dbeta) = (b.dgamma.get_mut(), b.dbeta.get_mut());
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    let n = cols as f32;
    let rows = b.x.get().chunks_exact(cols).zip(b.dy.get().chunks_exact(cols));
    for ((x, dy), dx) in rows.zip(b.y.get_mut().chunks_exact_mut(cols)) {
        let (mean, var) = naive(x, op.is_centered());
        let rstd = 1.0 / (var + EPS).sqrt();
        let (mut sum, mut dot) = (0.0, 0.0);
        for (i, (&x, &dy)) in x.iter().zip(dy).enumerate() {
            let (xhat, dy) = ((x.wide() - mean) * rstd, dy.wide());
            let g = dy * b.gamma.get()[i].wide();
            sum += g;
            dot += g * xhat;
            dgamma[i] += dy * xhat;
            dbeta[i] += dy;
        }
        let (mean_g, mean_gx) = (if op.is_centered() { sum / n } else { 0.0 }, dot / n);
        for (((dx, &x), &dy), &gamma) in dx.iter_mut().zip(x).zip(dy).zip(b.gamma.get()) {
            let xhat = (x.wide() - mean) * rstd;
            *dx = T::narrow(rstd * (dy.wide() * gamma.wide() - mean_g - xhat * mean_gx));
        }
    }
}
