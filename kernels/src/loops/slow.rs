//! Rows of extreme range, in f64.

use super::gamma_beta::GammaBeta;
use crate::element::Storage;
use crate::mean::Centered;
use crate::rows::{Params, Source, Tail, Target, way};
use crate::simd::{Float, Kernel, Lanes};
use crate::stats::exact::{WideNorm, in_the_loop, pair_and_step, wide_regs};

/// Computes y = (x - mean) * rstd * (gamma + offset) + beta in f64, and rounds it once to the float and once to the
/// type of y. mean and rstd belong to x times the scale of the moments. `has_beta` is false only if there is no beta. A
/// NaN that comes from gamma or beta may have any bits: the caller makes it canonical.
///
/// Whoever makes it knows that x, y, and gamma and beta if present have `cols` elements, and that x and y are the same
/// or apart.
pub(crate) struct NormalizeRow<T: Storage> {
    x: Source<T>,
    y: Target<T>,
    cols: usize,
    norm: WideNorm,
    gamma_beta: GammaBeta<T>,
    has_beta: bool,
}

impl<T: Storage> NormalizeRow<T> {
    /// For `cols` elements with what `params` has.
    pub(crate) fn new(x: Source<T>, y: Target<T>, cols: usize, norm: WideNorm, params: &Params<'_, T>) -> Self {
        Self { x, y, cols, norm, gamma_beta: GammaBeta::new(params), has_beta: params.beta.is_some() }
    }
}

/// For a reference: passing one is less code than passing the struct.
impl<T: Storage> Kernel for &NormalizeRow<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let &NormalizeRow { x, y, cols, norm, gamma_beta, has_beta } = self;
        // Leaving out a mean of 0 and an absent beta changes no bits.
        let is_plain = !has_beta && norm.mean == 0.0 && norm.mean_lo == 0.0;
        let norm = norm.in_registers(simd);
        let (pair, _) = pair_and_step::<S, T>();
        let (mut tail, mut tails) = ([Tail::NEW], [const { Tail::NEW }; 2]);
        let mut i = 0;
        while i < cols {
            let n = cols - i;
            // SAFETY: all have n elements from i on.
            let (mut v, [gamma, beta]) = unsafe {
                let [x] = Source::padded([x], i, n, pair, &mut tail);
                let (mut gamma_beta, mut at) = (gamma_beta, i);
                if n < pair {
                    (gamma_beta, at) = (gamma_beta.padded(i, n, &mut tails), 0);
                }
                (x.load_wide(simd, 0), gamma_beta.load::<S, Centered, { way::STEPS_GENERAL }>(simd, at, 0))
            };
            let (gamma, beta) = (T::Float::to_f64s(simd, gamma), T::Float::to_f64s(simd, beta));
            let is_plain_here = in_the_loop(is_plain);
            for j in 0..wide_regs::<S, T>() {
                let x = norm.scaled::<T>(simd, v[j]);
                v[j] = if is_plain_here {
                    simd.mul_f64s(simd.mul_f64s(x, norm.rstd), gamma[j])
                } else {
                    simd.add_f64s(simd.mul_f64s(norm.xhat(simd, x), gamma[j]), beta[j])
                };
            }
            // SAFETY: as above.
            unsafe { y.store_wide(simd, i, n, v, &mut tail[0]) };
            i += pair;
        }
    }
}
