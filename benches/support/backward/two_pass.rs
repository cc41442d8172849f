//! The backward pass in loops that compilers vectorize ([`sums`](crate::support::sums)): for each row one loop for its
//! sums, and one for all gradients. Compiled twice, as the forward baseline is.

use lanenorm::Tier;
use lanenorm::kernels::simd::{Kernel, Lanes};
use lanenorm_harness::naive::{Gradients, constants};
use lanenorm_harness::number::{Number, Real, Widen};

use crate::support::sums::{SUMS, fold, mul_add, padded};

/// Compiled for the processor that the build is for.
pub(crate) fn layer_norm<T: Number>(grads: Gradients<'_, T>) {
    rows::<T, true, false>(grads);
}

/// Compiled for the processor that the build is for.
pub(crate) fn rms_norm<T: Number>(grads: Gradients<'_, T>) {
    rows::<T, false, false>(grads);
}

/// Compiled for the default tier.
pub(crate) fn layer_norm_simd<T: Number>(grads: Gradients<'_, T>) {
    run_on_default::<T, true>(grads);
}

/// Compiled for the default tier.
pub(crate) fn rms_norm_simd<T: Number>(grads: Gradients<'_, T>) {
    run_on_default::<T, false>(grads);
}

fn run_on_default<T: Number, const CENTERED: bool>(grads: Gradients<'_, T>) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(Backward::<T, CENTERED, false>(grads));
    } else {
        isa.run(Backward::<T, CENTERED, true>(grads));
    }
}

struct Backward<'a, T: Number, const CENTERED: bool, const FMA: bool>(Gradients<'a, T>);

impl<T: Number, const CENTERED: bool, const FMA: bool> Kernel for Backward<'_, T, CENTERED, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        rows::<T, CENTERED, FMA>(self.0);
    }
}

#[inline(always)]
fn rows<T: Number, const CENTERED: bool, const FMA: bool>(grads: Gradients<'_, T>) {
    let Gradients { dy, x, cols, gamma, mean, rstd, dx, dgamma, dbeta } = grads;
    let (zero, _, n) = constants::<T>(cols);
    dgamma.fill(zero);
    if CENTERED {
        dbeta.fill(zero);
    }
    for (r, dx) in dx.chunks_exact_mut(cols).enumerate() {
        let (dy, x, rstd) = (&dy[r * cols..][..cols], &x[r * cols..][..cols], rstd[r]);
        let mean = if CENTERED { mean[r] } else { zero };
        let (c1, c2) = sums::<T, FMA>(dy, x, gamma, mean, rstd);
        let (c1, c2) = (if CENTERED { c1 / n } else { zero }, c2 / n);
        let rows = dx.iter_mut().zip(dy).zip(x);
        let params = gamma.iter().zip(&mut *dgamma).zip(&mut *dbeta);
        for (((dx, &dy), &x), ((&gamma, dgamma), dbeta)) in rows.zip(params) {
            let (dy, xhat) = (dy.widen(), (x.widen() - mean) * rstd);
            *dx = T::narrow(rstd * (mul_add::<T::Float, FMA>(dy, gamma.widen(), -c1) - xhat * c2));
            *dgamma = mul_add::<T::Float, FMA>(dy, xhat, *dgamma);
            if CENTERED {
                *dbeta += dy;
            }
        }
    }
}

/// The sums of g = dy * gamma and of g * xhat.
#[inline(always)]
fn sums<T: Number, const FMA: bool>(
    dy: &[T],
    x: &[T],
    gamma: &[T],
    mean: T::Float,
    rstd: T::Float,
) -> (T::Float, T::Float) {
    let ((dy, dy_tail), (x, x_tail), (gamma, gamma_tail)) = (dy.as_chunks(), x.as_chunks(), gamma.as_chunks());
    let mut sums = [[T::Float::default(); SUMS]; 2];
    for ((dy, x), gamma) in dy.iter().zip(x).zip(gamma) {
        add::<T::Float, FMA>(&mut sums, dy, x, gamma, mean, rstd);
    }
    if !dy_tail.is_empty() {
        let zero = T::Float::default();
        let [dy, x, gamma] = [dy_tail, x_tail, gamma_tail].map(|tail| padded(tail, zero));
        add::<T::Float, FMA>(&mut sums, &dy, &x, &gamma, mean, rstd);
    }
    (fold(sums[0]), fold(sums[1]))
}

#[inline(always)]
fn add<F: Real, const FMA: bool>(
    [s1, s2]: &mut [[F; SUMS]; 2],
    dy: &[impl Widen<F>; SUMS],
    x: &[impl Widen<F>; SUMS],
    gamma: &[impl Widen<F>; SUMS],
    mean: F,
    rstd: F,
) {
    for i in 0..SUMS {
        let g = dy[i].widen() * gamma[i].widen();
        s1[i] += g;
        s2[i] = mul_add::<F, FMA>(g, (x[i].widen() - mean) * rstd, s2[i]);
    }
}
