//! The buffers of a case, and the operations that run over them.

use anyhow::ensure;
use lanenorm::{Isa, LayerNorm, RmsNorm};
use lanenorm_harness::answer::{Gradients, Norm, larger};
use lanenorm_harness::buffer::Buffer;
use lanenorm_harness::copy::copy_threads;
use lanenorm_harness::input::bells;
use lanenorm_harness::number;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

const EPS: f64 = 1e-5;

/// The largest error that counts as right, in units of the allowed rounding error.
const BOUND: f64 = 16.0;

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Copy,
    LayerNorm,
    RmsNorm,
    LayerNormBackward,
}

impl Op {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::LayerNormBackward => "layer_norm_backward",
        }
    }
}

/// An element type that is computed in f32.
pub(crate) trait Number: number::Number<Float = f32> {
    const NAME: &'static str = Self::DTYPE.name();
}

impl<T: number::Number<Float = f32>> Number for T {}

/// The buffers of a case.
pub(crate) struct Tensors<T: Number> {
    cols: usize,
    x: Buffer<T>,
    /// y, or dx.
    y: Buffer<T>,
    /// Empty if there is no backward pass.
    dy: Buffer<T>,
    gamma: Buffer<T>,
    beta: Buffer<T>,
    stats: [Vec<f32>; 3],
    grads: [Vec<f32>; 2],
    scratch: Vec<f32>,
}

impl<T: Number> Tensors<T> {
    /// Buffers for `rows` rows, and work memory for the tasks of the current pool.
    pub(crate) fn new(rows: usize, cols: usize, backward: bool) -> Self {
        let rng = &mut SmallRng::seed_from_u64(1);
        let x: Vec<T> = bells(1, rows * cols, 0.5, 1.0);
        let dy: Vec<T> = bells(2, if backward { rows * cols } else { 0 }, 0.0, 1.0);
        let (gamma, beta): (Vec<T>, Vec<T>) = (bells(3, cols, 1.0, 0.25), bells(4, cols, 0.0, 0.25));
        let of_rows = || vec![0.0; if backward { rows } else { 0 }];
        let of_cols = || vec![0.0; if backward { cols } else { 0 }];
        let plan = LayerNorm::new(cols, EPS).expect("a plan");
        let work = if backward { plan.backward_scratch_len::<T>(rows).expect("a length") } else { 0 };
        let mut tensors = Self {
            cols,
            y: Buffer::new(&x, rng),
            x: Buffer::new(&x, rng),
            dy: Buffer::new(&dy, rng),
            gamma: Buffer::new(&gamma, rng),
            beta: Buffer::new(&beta, rng),
            stats: [of_rows(), of_rows(), of_rows()],
            grads: [of_cols(), of_cols()],
            scratch: vec![0.0; work],
        };
        if backward {
            tensors.keep_stats();
        }
        tensors
    }

    fn keep_stats(&mut self) {
        let [mean, mean_lo, rstd] = &mut self.stats;
        let plan = LayerNorm::new(self.cols, EPS).expect("a plan");
        let call = plan.call(self.x.get()).gamma(self.gamma.get()).beta(self.beta.get());
        let call = call.mean_to(mean).mean_lo_to(mean_lo).rstd_to(rstd);
        call.to(self.y.get_mut()).expect("lengths that fit");
    }

    /// Cuts the same tensor into rows of `cols` columns, at most as many as it was made with. For forward passes only.
    pub(crate) fn set_cols(&mut self, cols: usize) {
        self.cols = cols;
    }

    /// Puts the buffers at other places.
    pub(crate) fn place(&mut self, rng: &mut SmallRng) {
        for buffer in [&mut self.x, &mut self.y, &mut self.dy, &mut self.gamma, &mut self.beta] {
            buffer.shift(rng);
        }
    }

    /// Runs once over the first rows, spread over the current pool.
    pub(crate) fn run(&mut self, op: Op, isa: Isa, rows: usize) {
        let (cols, len) = (self.cols, rows * self.cols);
        let (x, y) = (&self.x.get()[..len], &mut self.y.get_mut()[..len]);
        let (gamma, beta) = (&self.gamma.get()[..cols], &self.beta.get()[..cols]);
        let done = match op {
            Op::Copy => {
                copy_threads(x, y, rayon::current_num_threads());
                Ok(())
            }
            Op::LayerNorm => {
                LayerNorm::new(cols, EPS).and_then(|plan| plan.with_isa(isa).forward(x, Some(gamma), Some(beta), y))
            }
            Op::RmsNorm => RmsNorm::new(cols, EPS).and_then(|plan| plan.with_isa(isa).forward(x, Some(gamma), y)),
            Op::LayerNormBackward => {
                let [mean, mean_lo, rstd] = self.stats.each_ref().map(|v| &v[..rows]);
                let [dgamma, dbeta] = &mut self.grads;
                LayerNorm::new(cols, EPS).and_then(|plan| {
                    let plan = plan.with_isa(isa);
                    let call = plan.backward(&self.dy.get()[..len], x).gamma(gamma).scratch(&mut self.scratch);
                    let call = call.mean(mean).mean_lo(mean_lo).rstd(rstd);
                    call.dgamma_to(dgamma).dbeta_to(dbeta).to(y)
                })
            }
        };
        done.expect("lengths that fit");
    }

    /// Puts NaN wherever a result goes.
    pub(crate) fn spoil(&mut self) {
        self.y.get_mut().fill(T::narrow(f32::NAN));
        self.grads.iter_mut().flatten().for_each(|v| *v = f32::NAN);
    }

    /// The hash of the bits that the last run left.
    pub(crate) fn hash(&self, op: Op, rows: usize) -> u64 {
        let mut parts: Vec<u64> = self.y.get()[..rows * self.cols]
            .par_chunks(1 << 14)
            .map(|y| hash(y.iter().map(|y| y.widen().to_bits())))
            .collect();
        if op == Op::LayerNormBackward {
            parts.extend(self.grads.iter().map(|v| hash(v.iter().map(|v| v.to_bits()))));
        }
        hash(parts.iter().flat_map(|part| [*part as u32, (part >> 32) as u32]))
    }

    /// The largest error of the last run in the first `rows` rows, in units of the allowed rounding error.
    ///
    /// # Errors
    /// If it is too large.
    pub(crate) fn error(&self, op: Op, rows: usize) -> anyhow::Result<f64> {
        let len = rows * self.cols;
        let (x, y) = (&self.x.get()[..len], &self.y.get()[..len]);
        let wide = |v: &Buffer<T>| v.get()[..self.cols].iter().map(|v| v.to_f64()).collect::<Vec<_>>();
        let (gamma, beta) = (wide(&self.gamma), wide(&self.beta));
        let norm = Norm { centered: op != Op::RmsNorm, cols: self.cols, eps: EPS };
        let error = match op {
            Op::Copy => 0.0,
            Op::LayerNorm | Op::RmsNorm => {
                norm.forward(x, |_| [Some(&gamma), Some(&beta[..]).filter(|_| norm.centered)]).error(y, T::U)
            }
            Op::LayerNormBackward => {
                let Gradients { dx, dgamma, dbeta } = norm.backward(&self.dy.get()[..len], x, Some(&gamma));
                let of_params = larger(dgamma.error(&self.grads[0], T::U), dbeta.error(&self.grads[1], T::U));
                larger(dx.error(y, T::U), of_params)
            }
        };
        ensure!(error <= BOUND, "{} {} {rows}x{}: an error of {error:.1} units", op.name(), T::NAME, self.cols);
        Ok(error)
    }
}

fn hash(words: impl Iterator<Item = u32>) -> u64 {
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    xxh3_64(&bytes)
}
