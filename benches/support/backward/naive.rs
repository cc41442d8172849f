//! The backward pass as the reference implementations of frameworks have it: for each row a loop for its sums, one for dx,
//! and one that adds to dgamma and dbeta.

use super::Gradients;
use crate::support::baselines::constants;
use crate::support::number::Number;

pub(crate) fn layer_norm<T: Number>(grads: Gradients<'_, T>) {
    let Gradients { dy, x, cols, gamma, mean, rstd, dx, dgamma, dbeta } = grads;
    let (zero, _, n) = constants::<T>(cols);
    dgamma.fill(zero);
    dbeta.fill(zero);
    for (r, dx) in dx.chunks_exact_mut(cols).enumerate() {
        let (dy, x, mean, rstd) = (&dy[r * cols..][..cols], &x[r * cols..][..cols], mean[r], rstd[r]);
        let (mut c1, mut c2) = (zero, zero);
        for ((&dy, &x), &gamma) in dy.iter().zip(x).zip(gamma) {
            let g = dy.widen() * gamma.widen();
            c1 += g;
            c2 += g * ((x.widen() - mean) * rstd);
        }
        (c1, c2) = (c1 / n, c2 / n);
        for (((dx, &dy), &x), &gamma) in dx.iter_mut().zip(dy).zip(x).zip(gamma) {
            let xhat = (x.widen() - mean) * rstd;
            *dx = T::narrow(rstd * (dy.widen() * gamma.widen() - c1 - xhat * c2));
        }
        for (((dgamma, dbeta), &dy), &x) in dgamma.iter_mut().zip(&mut *dbeta).zip(dy).zip(x) {
            *dgamma += dy.widen() * ((x.widen() - mean) * rstd);
            *dbeta += dy.widen();
        }
    }
}

pub(crate) fn rms_norm<T: Number>(grads: Gradients<'_, T>) {
    let Gradients { dy, x, cols, gamma, rstd, dx, dgamma, .. } = grads;
    let (zero, _, n) = constants::<T>(cols);
    dgamma.fill(zero);
    for (r, dx) in dx.chunks_exact_mut(cols).enumerate() {
        let (dy, x, rstd) = (&dy[r * cols..][..cols], &x[r * cols..][..cols], rstd[r]);
        let mut c2 = zero;
        for ((&dy, &x), &gamma) in dy.iter().zip(x).zip(gamma) {
            c2 += dy.widen() * gamma.widen() * (x.widen() * rstd);
        }
        c2 = c2 / n;
        for (((dx, &dy), &x), &gamma) in dx.iter_mut().zip(dy).zip(x).zip(gamma) {
            *dx = T::narrow(rstd * (dy.widen() * gamma.widen() - x.widen() * rstd * c2));
        }
        for ((dgamma, &dy), &x) in dgamma.iter_mut().zip(dy).zip(x) {
            *dgamma += dy.widen() * (x.widen() * rstd);
        }
    }
}
