//! The buffers of a case, and what runs over them.

use lanenorm::{Element, Isa, LayerNorm, RmsNorm, bf16};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::answer;
use crate::buffer::Buffer;
use crate::copy::copy_threads;

pub(crate) const EPS: f64 = 1e-5;

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

/// An element type.
pub(crate) trait Number: Element<Float = f32> + Copy + Default + Send + Sync + 'static {
    const NAME: &'static str;
    /// Half the distance of neighbours around 1.
    const UNIT: f64;
    fn narrow(value: f32) -> Self;
    fn wide(self) -> f64;
    fn bits(self) -> u32;
}

impl Number for f32 {
    const NAME: &'static str = "f32";
    const UNIT: f64 = 1.0 / (1u32 << 24) as f64;

    fn narrow(value: f32) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self.into()
    }

    fn bits(self) -> u32 {
        self.to_bits()
    }
}

impl Number for bf16 {
    const NAME: &'static str = "bf16";
    const UNIT: f64 = 1.0 / 256.0;

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn wide(self) -> f64 {
        self.into()
    }

    fn bits(self) -> u32 {
        self.to_bits().into()
    }
}

/// The buffers of a case.
pub(crate) struct Tensors<T: Number> {
    cols: usize,
    x: Buffer<T>,
    /// y, or dx.
    y: Buffer<T>,
    /// Empty where there is no backward pass.
    dy: Buffer<T>,
    gamma: Buffer<T>,
    beta: Buffer<T>,
    stats: [Vec<f32>; 3],
    grads: [Vec<f32>; 2],
    scratch: Vec<f32>,
}

impl<T: Number> Tensors<T> {
    /// Buffers for so many rows, and work memory for the tasks of the current pool.
    pub(crate) fn new(rows: usize, cols: usize, backward: bool) -> Self {
        let rng = &mut SmallRng::seed_from_u64(1);
        let x = noise::<T>(rows * cols, 0.5, 2.0, 1);
        let dy = noise::<T>(if backward { rows * cols } else { 0 }, 0.0, 1.0, 2);
        let (gamma, beta) = (noise::<T>(cols, 1.0, 0.25, 3), noise::<T>(cols, 0.0, 0.25, 4));
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

    /// Cuts the same tensor into rows of so many columns, at most as many as it was made with: forward passes only.
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

    /// Of the bits that the last run left.
    pub(crate) fn hash(&self, op: Op, rows: usize) -> u64 {
        let mut parts: Vec<u64> =
            self.y.get()[..rows * self.cols].par_chunks(1 << 14).map(|y| hash(y.iter().map(|y| y.bits()))).collect();
        if op == Op::LayerNormBackward {
            parts.extend(self.grads.iter().map(|v| hash(v.iter().map(|v| v.to_bits()))));
        }
        hash(parts.iter().flat_map(|part| [*part as u32, (part >> 32) as u32]))
    }

    /// The largest error of what the last run left, in units of what rounding may add.
    pub(crate) fn error(&self, op: Op, rows: usize) -> f64 {
        let len = rows * self.cols;
        let (x, y, gamma) = (&self.x.get()[..len], &self.y.get()[..len], &self.gamma.get()[..self.cols]);
        match op {
            Op::Copy => 0.0,
            Op::LayerNorm => answer::forward_error(x, Some(&self.beta.get()[..self.cols]), gamma, y),
            Op::RmsNorm => answer::forward_error(x, None, gamma, y),
            Op::LayerNormBackward => {
                let grads = self.grads.each_ref().map(|v| &v[..]);
                answer::backward_error(&self.dy.get()[..len], x, gamma, y, grads)
            }
        }
    }
}

fn hash(words: impl Iterator<Item = u32>) -> u64 {
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    xxh3_64(&bytes)
}

/// Uniform noise around an offset, made by all threads: the same for any number of them.
fn noise<T: Number>(len: usize, offset: f32, width: f32, seed: u64) -> Vec<T> {
    let mut values = vec![T::default(); len];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(i, values)| {
        let mut rng = SmallRng::seed_from_u64(seed << 32 | i as u64);
        values.fill_with(|| T::narrow(offset + width * rng.random_range(-1.0f32..1.0)));
    });
    values
}
