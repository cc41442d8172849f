//! Channels that come last, in f32, where chunks of a group are pixels of one channel: channels are lanes, and no
//! element is moved.

use super::{GroupNorm, trusted};
use crate::element::Storage;
use crate::isa::{Isa, Tier};
use crate::loops::{Activate, ChannelSums, ChannelsTouch, FEWEST_CHANNELS, sums_len};
use crate::rows::Vector;
use crate::simd::Float;
use crate::stats::sums::{ChunkLen, finish};
use crate::stats::{CHUNK, RowNorm, Tree, no_subtrees};

/// The pixels that are normalized before they go through an activation.
const PIXELS: usize = 16;

/// The most channels that are taken together: a cache keeps their sums.
const MOST: usize = 512;

/// The elements that each channel takes, of `chunks` chunks, beside the sums of a chunk.
fn of_channel(chunks: usize) -> usize {
    5 + 3 * chunks
}

impl<T: Storage> GroupNorm<'_, T> {
    /// Whether channels may be lanes: of f32 with a gamma and beta that make no NaNs, on a tier of SIMD.
    pub(super) fn has_lanes(&self, isa: Isa) -> bool {
        let all_finite = |v: &Vector<'_, T>| (0..v.len()).all(|i| v.get(i).into().is_finite());
        T::MIXES
            && isa.tier() != Tier::Scalar
            && self.shape.pixels.is_multiple_of(CHUNK)
            && [self.gamma, self.beta].iter().flatten().all(all_finite)
    }

    /// How many of `left` groups of a sample go together where channels are lanes, in `work` elements of memory. 0 if
    /// channels cannot be lanes.
    pub(super) fn lanes_together(&self, left: usize, work: usize) -> usize {
        let (cols, chunks) = (self.shape.cols(), self.shape.pixels / CHUNK);
        let fit = work.saturating_sub(sums_len(FEWEST_CHANNELS))
            / (of_channel(chunks) + sums_len(FEWEST_CHANNELS) / FEWEST_CHANNELS);
        let n = (fit.min(MOST) / cols).max(usize::from(cols <= fit)).min(left);
        if n * cols < FEWEST_CHANNELS { 0 } else { n }
    }

    /// Normalizes groups `r` to `r + n` of these, which are of one sample, and as many as
    /// [go together](Self::lanes_together). The first element of the first is element `start` of x and y. Returns
    /// false, and has written nothing of y, if a group needs the slow path.
    pub(super) fn run_lanes(&mut self, isa: Isa, (r, n): (usize, usize), start: usize, work: &mut [T]) -> bool {
        let &mut Self { x, y, shape, first, root, activation, .. } = self;
        let (cols, pixels, stride) = (shape.cols(), shape.pixels, shape.channels);
        let (channels, chunks) = (n * cols, pixels / CHUNK);
        let (x, y) = (x.wrapping_add(start).cast::<f32>(), y.wrapping_add(start).cast::<f32>());
        let work: &mut [f32] = bytemuck::cast_slice_mut(work);
        let (room, work) = work.split_at_mut(sums_len(channels));
        let (sums, operands) = work[..of_channel(chunks) * channels].split_at_mut(3 * chunks * channels);
        for (k, sums) in sums.chunks_exact_mut(3 * channels).enumerate() {
            let (c, sums) = sums.split_at_mut(channels);
            let (s, q) = sums.split_at_mut(channels);
            let x = x.wrapping_add(k * CHUNK * stride);
            isa.run_simd(ChannelSums { x, stride, room, to: [c, s, q] });
        }
        let len = ChunkLen::<f32>::new(CHUNK);
        for i in 0..n {
            let mut stack = no_subtrees();
            let mut tree = Tree::new(&mut stack);
            for channel in i * cols..(i + 1) * cols {
                for of_chunk in sums.chunks_exact(3 * channels) {
                    let [c, s, q] = [0, 1, 2].map(|k| of_chunk[k * channels + channel]);
                    tree.push(finish::<f32>(c, s, q, len));
                }
            }
            let Some(norm) = trusted::<f32>(&tree.total(), &root) else { return false };
            let RowNorm { mean, mean_lo, rstd } = norm;
            for (to, v) in operands.chunks_exact_mut(channels).zip([mean, mean_lo, rstd]) {
                to[i * cols..(i + 1) * cols].fill(v);
            }
            let [mean, mean_lo, rstd] = [mean, mean_lo, rstd].map(T::Float::from_f32);
            self.stats.set(r + i, &RowNorm { mean, mean_lo, rstd });
        }
        let (gammas, betas) = operands[3 * channels..].split_at_mut(channels);
        self.write_affine((first + r) % shape.groups * cols, [gammas, betas]);

        for at in (0..pixels).step_by(PIXELS) {
            let (x, y) = (x.wrapping_add(at * stride), y.wrapping_add(at * stride));
            isa.run_simd(ChannelsTouch { x, y, stride, pixels: PIXELS, channels, operands });
            if let Some(function) = activation {
                for k in 0..PIXELS {
                    isa.run_simd(Activate { v: y.wrapping_add(k * stride), n: channels, function });
                }
            }
        }
        true
    }

    /// Writes gamma and beta of channels, from `from` on.
    fn write_affine(&self, from: usize, [gammas, betas]: [&mut [f32]; 2]) {
        gammas.fill(1.0);
        betas.fill(-0.0);
        for (given, to) in [(self.gamma, gammas), (self.beta, betas)] {
            if let Some(given) = given {
                given.copy_to(from, bytemuck::cast_slice_mut(to));
            }
        }
    }
}
