//! What people write who do not use a library: scalar loops, and Welford's algorithm from the textbook. A sum is
//! written first. The backward pass computes the statistics again, as in the peers.

use lanenorm_harness::naive::{self, Forward, Gradients};

use crate::case::{Case, EPS, Op};
use crate::contender::{About, Buffers, Contender, Note};
use crate::images;
use crate::number::Number;

pub(crate) fn all<T: Number>(case: Case) -> Vec<Contender<T>> {
    let (op, cols) = (case.op, case.shape.cols);
    let about = |name| About { name, version: "", threads: false, note: Note::Plain };
    if let Some(shape) = case.shape.images {
        return vec![Contender::new(about("naive"), move |b| images::naive(op, shape, b))];
    }
    if op.is_backward() {
        return vec![Contender::new(about("naive"), move |b| backward(op, cols, b))];
    }
    let naive: Forward<T, f32> = if op.is_centered() { naive::layer_norm } else { naive::rms_norm };
    let mut all = vec![Contender::new(about("naive"), move |b| forward(op, cols, b, naive))];
    if op.is_centered() {
        all.push(Contender::new(about("welford"), move |b| forward(op, cols, b, naive::welford)));
    }
    all
}

fn forward<T: Number>(op: Op, cols: usize, b: &mut Buffers<T>, run: Forward<T, f32>) {
    if op.adds() {
        for ((s, &x), &r) in b.s.get_mut().iter_mut().zip(b.x.get()).zip(b.residual.get()) {
            *s = x.plus(r);
        }
    }
    let x = if op.adds() { b.s.get() } else { b.x.get() };
    run(x, cols, b.gamma.get(), b.beta.get(), EPS, b.y.get_mut());
}

fn backward<T: Number>(op: Op, cols: usize, b: &mut Buffers<T>) {
    let moments = if op.is_centered() { naive::moments } else { |x: &[T]| (0.0, naive::mean_square(x)) };
    let stats = b.x.get().chunks_exact(cols).map(moments).map(|(mean, var)| (mean, 1.0 / (var + EPS).sqrt()));
    let (mean, rstd): (Vec<f32>, Vec<f32>) = stats.unzip();
    let run = if op.is_centered() { naive::layer_norm_backward } else { naive::rms_norm_backward };
    run(Gradients {
        dy: b.dy.get(),
        x: b.x.get(),
        cols,
        gamma: b.gamma.get(),
        mean: &mean,
        rstd: &rstd,
        dx: b.y.get_mut(),
        dgamma: b.dgamma.get_mut(),
        dbeta: b.dbeta.get_mut(),
    });
}
