//! What people write who do not use a library: each formula as scalar loops, and Welford's algorithm from the textbook.
//! The backward pass has three loops for each row, as in the reference implementations of frameworks: one for the sums
//! of the row, one for dx, and one that adds to dgamma and dbeta.

use lanenorm_kernels::half::f16;
use lanenorm_kernels::simd::Float;

use crate::number::{Number, Real};

/// The arguments are x, cols, gamma, beta, eps and y. RMSNorm has no use for beta.
pub type Forward<T, F> = fn(&[T], usize, &[T], &[T], F, &mut [T]);

/// The inputs and outputs of the backward pass.
#[derive(Debug)]
pub struct Gradients<'a, T: Number> {
    /// The gradient of y.
    pub dy: &'a [T],
    /// The input of forward.
    pub x: &'a [T],
    /// The length of rows.
    pub cols: usize,
    /// The factors.
    pub gamma: &'a [T],
    /// The means that forward has kept. RMSNorm has no use for them.
    pub mean: &'a [T::Float],
    /// The reciprocal standard deviations that forward has kept.
    pub rstd: &'a [T::Float],
    /// The gradient of x.
    pub dx: &'a mut [T],
    /// The gradient of gamma.
    pub dgamma: &'a mut [T::Float],
    /// The gradient of beta. RMSNorm has no use for it.
    pub dbeta: &'a mut [T::Float],
}

/// 0, 1 and the number of columns.
#[inline(always)]
pub fn constants<T: Number>(cols: usize) -> (T::Float, T::Float, T::Float) {
    (T::Float::from_f64(0.0), T::Float::from_f64(1.0), T::Float::from_f64(cols as f64))
}

/// The mean and the variance of a row, with a loop for each.
pub fn moments<T: Number>(x: &[T]) -> (T::Float, T::Float) {
    let (zero, _, n) = constants::<T>(x.len());
    let mut mean = zero;
    for &x in x {
        mean += x.widen();
    }
    mean = mean / n;
    let mut var = zero;
    for &x in x {
        var += (x.widen() - mean) * (x.widen() - mean);
    }
    (mean, var / n)
}

/// The mean of the squares of a row.
pub fn mean_square<T: Number>(x: &[T]) -> T::Float {
    let (mut squares, _, n) = constants::<T>(x.len());
    for &x in x {
        squares += x.widen() * x.widen();
    }
    squares / n
}

/// B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4(3), 1962.
fn welford_moments<T: Number>(x: &[T]) -> (T::Float, T::Float) {
    let (zero, _, n) = constants::<T>(x.len());
    let (mut mean, mut m2) = (zero, zero);
    for (i, &x) in x.iter().enumerate() {
        let delta = x.widen() - mean;
        mean += delta / T::Float::from_f64((i + 1) as f64);
        m2 += delta * (x.widen() - mean);
    }
    (mean, m2 / n)
}

/// The formula of LayerNorm: a loop for the mean, one for the variance, one for the output.
pub fn layer_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], beta: &[T], eps: T::Float, y: &mut [T]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        normalize(x, gamma, beta, moments(x), eps, y);
    }
}

/// LayerNorm by Welford's algorithm from the textbook.
pub fn welford<T: Number>(x: &[T], cols: usize, gamma: &[T], beta: &[T], eps: T::Float, y: &mut [T]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        normalize(x, gamma, beta, welford_moments(x), eps, y);
    }
}

/// The last loop of both functions above, which compilers vectorize.
fn normalize<T: Number>(
    x: &[T],
    gamma: &[T],
    beta: &[T],
    (mean, var): (T::Float, T::Float),
    eps: T::Float,
    y: &mut [T],
) {
    let (_, one, _) = constants::<T>(x.len());
    let rstd = one / (var + eps).sqrt();
    for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
        *y = T::narrow((x.widen() - mean) * rstd * gamma.widen() + beta.widen());
    }
}

/// The formula of RMSNorm: a loop for the mean of squares, one for the output.
pub fn rms_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], _: &[T], eps: T::Float, y: &mut [T]) {
    let (_, one, _) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let rstd = one / (mean_square(x) + eps).sqrt();
        for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = T::narrow(x.widen() * rstd * gamma.widen());
        }
    }
}

/// The L2 norm of a row, with eps below the root, divides it: a loop for the sum of squares, one for the output.
pub fn l2_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], _: &[T], eps: T::Float, y: &mut [T]) {
    let (zero, one, _) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mut squares = zero;
        for &x in x {
            squares += x.widen() * x.widen();
        }
        let rstd = one / (squares + eps).sqrt();
        for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = T::narrow(x.widen() * rstd * gamma.widen());
        }
    }
}

/// LayerNorm over the channels of [samples, channels, pixels]: a pass for the means of all pixels, one for the
/// variances, one for the output. Compilers vectorize all three, as pixels lie side by side.
pub fn layer_norm_channels_first<T: Number>(
    x: &[T],
    pixels: usize,
    gamma: &[T],
    beta: &[T],
    eps: T::Float,
    y: &mut [T],
) {
    let (zero, one, n) = constants::<T>(gamma.len());
    let (mut mean, mut rstd) = (vec![zero; pixels], vec![zero; pixels]);
    let sample = gamma.len() * pixels;
    for (x, y) in x.chunks_exact(sample).zip(y.chunks_exact_mut(sample)) {
        mean.fill(zero);
        for x in x.chunks_exact(pixels) {
            for (mean, &x) in mean.iter_mut().zip(x) {
                *mean += x.widen();
            }
        }
        for mean in &mut mean {
            *mean = *mean / n;
        }
        rstd.fill(zero);
        for x in x.chunks_exact(pixels) {
            for ((squares, &mean), &x) in rstd.iter_mut().zip(&mean).zip(x) {
                *squares += (x.widen() - mean) * (x.widen() - mean);
            }
        }
        for rstd in &mut rstd {
            *rstd = one / (*rstd / n + eps).sqrt();
        }
        let channels = x.chunks_exact(pixels).zip(y.chunks_exact_mut(pixels));
        for ((x, y), (&gamma, &beta)) in channels.zip(gamma.iter().zip(beta)) {
            for (((y, &x), &mean), &rstd) in y.iter_mut().zip(x).zip(&mean).zip(&rstd) {
                *y = T::narrow((x.widen() - mean) * rstd * gamma.widen() + beta.widen());
            }
        }
    }
}

/// `GroupNorm` of [samples, channels, pixels] with `group` channels in each group, and a function at the end: the three
/// loops of LayerNorm.
pub fn group_norm<T: Number>(
    x: &[T],
    group: usize,
    pixels: usize,
    [gamma, beta]: [&[T]; 2],
    eps: T::Float,
    y: &mut [T],
    function: impl Fn(T::Float) -> T::Float,
) {
    let (_, one, _) = constants::<T>(group);
    let params = gamma.chunks_exact(group).zip(beta.chunks_exact(group)).cycle();
    let groups = x.chunks_exact(group * pixels).zip(y.chunks_exact_mut(group * pixels));
    for ((x, y), (gamma, beta)) in groups.zip(params) {
        let (mean, var) = moments(x);
        let rstd = one / (var + eps).sqrt();
        let channels = x.chunks_exact(pixels).zip(y.chunks_exact_mut(pixels));
        for ((x, y), (&gamma, &beta)) in channels.zip(gamma.iter().zip(beta)) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = T::narrow(function((x.widen() - mean) * rstd * gamma.widen() + beta.widen()));
            }
        }
    }
}

/// The same for [samples, pixels, channels].
pub fn group_norm_channels_last<T: Number>(
    x: &[T],
    group: usize,
    pixels: usize,
    [gamma, beta]: [&[T]; 2],
    eps: T::Float,
    y: &mut [T],
) {
    let (zero, one, n) = constants::<T>(group * pixels);
    let channels = gamma.len();
    let samples = x.chunks_exact(channels * pixels).zip(y.chunks_exact_mut(channels * pixels));
    for (x, y) in samples {
        for start in (0..channels).step_by(group) {
            let (mut mean, mut var) = (zero, zero);
            for x in x.chunks_exact(channels) {
                for &x in &x[start..][..group] {
                    mean += x.widen();
                }
            }
            mean = mean / n;
            for x in x.chunks_exact(channels) {
                for &x in &x[start..][..group] {
                    var += (x.widen() - mean) * (x.widen() - mean);
                }
            }
            let rstd = one / (var / n + eps).sqrt();
            let (gamma, beta) = (&gamma[start..][..group], &beta[start..][..group]);
            for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
                let (x, y) = (&x[start..][..group], &mut y[start..][..group]);
                for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                    *y = T::narrow((x.widen() - mean) * rstd * gamma.widen() + beta.widen());
                }
            }
        }
    }
}

/// The gradients of LayerNorm.
pub fn layer_norm_backward<T: Number>(grads: Gradients<'_, T>) {
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

/// The gradients of RMSNorm.
pub fn rms_norm_backward<T: Number>(grads: Gradients<'_, T>) {
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

/// Multiplies y by silu(z).
pub fn multiply_by_silu<T: Number>(y: &mut [T], z: &[T]) {
    for (y, &z) in y.iter_mut().zip(z) {
        *y = T::narrow(y.widen() * silu(z.widen()));
    }
}

/// x times silu(z), which goes to u.
pub fn times_silu<T: Number>(x: &[T], z: &[T], u: &mut [T]) {
    for ((u, &x), &z) in u.iter_mut().zip(x).zip(z) {
        *u = T::narrow(x.widen() * silu(z.widen()));
    }
}

/// silu(z), as its formula has it.
#[inline(always)]
pub fn silu<F: Real>(z: F) -> F {
    z / (F::from_f64(1.0) + (F::from_f64(0.0) - z).exp())
}

/// Quantizes y, with a scale for each row. The arguments are y, cols, q and the scales.
pub type Quantize<T> = fn(&[T], usize, &mut [u8], &mut [f32]);

/// int8 with a scale for each row: a loop for the greatest magnitude, one for the elements.
pub fn quantize_i8<T: Number<Float = f32>>(y: &[T], cols: usize, q: &mut [u8], scale: &mut [f32]) {
    let rows = y.chunks_exact(cols).zip(q.chunks_exact_mut(cols));
    for ((y, q), scale) in rows.zip(scale) {
        *scale = amax(y) / 127.0;
        for (q, &y) in q.iter_mut().zip(y) {
            *q = (y.widen() / *scale).round_ties_even() as i8 as u8;
        }
    }
}

/// GGUF `Q8_0`, with the same loops for each block of 32: it has its scale in f16 in front.
pub fn quantize_q8_0<T: Number<Float = f32>>(y: &[T], _: usize, q: &mut [u8], _: &mut [f32]) {
    for (y, block) in y.chunks_exact(32).zip(q.chunks_exact_mut(34)) {
        let scale = amax(y) / 127.0;
        let inverse = 1.0 / scale;
        let (head, q) = block.split_at_mut(2);
        head.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        for (q, &y) in q.iter_mut().zip(y) {
            *q = (y.widen() * inverse).round() as i8 as u8;
        }
    }
}

fn amax<T: Number<Float = f32>>(y: &[T]) -> f32 {
    let mut most = 0.0;
    for &y in y {
        let y = y.widen().abs();
        if y > most {
            most = y;
        }
    }
    most
}
