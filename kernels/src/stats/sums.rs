//! Mean and sum of squared deviations of a row, in one pass over memory.
//!
//! # The algorithm
//!
//! A row is cut into chunks of [`CHUNK`] elements. For each chunk
//!
//! ```text
//! c     = x0 + fold(x[s] - x0 over 64 samples s) / 64         close to the mean; exact for constant rows
//! d[i]  = x[i] - c
//! S, Q  = sum d[i], sum d[i]^2                                in f32, per virtual lane, then folded by halves
//! mean  = c + S / n,   M2 = Q - S * S / n                     in f64; c and S / n are kept apart
//! ```
//!
//! and the chunks are merged by the pairwise form of Welford's update (Chan, Golub and `LeVeque`, "Updating formulae
//! and a pairwise algorithm for computing sample variances", Stanford STAN-CS-79-773, 1979)
//!
//! ```text
//! delta = mean_b - mean_a
//! mean  = mean_a + delta * n_b / n
//! M2    = M2_a + M2_b + delta^2 * n_a * n_b / n
//! ```
//!
//! in f64, along a binary tree whose left part always holds a power of two of chunks: its shape depends on the
//! length alone, so several threads can work on one row and the bits stay.
//!
//! RMS normalization takes the sums of squares alone, with c = 0.
//!
//! # What fixes the bits
//!
//! - Elements `i` and `i + 32` of each block of 64 are paired (`d + d'`, and `fma(d', d', d * d)`), and the pair is
//!   added to lane `i mod 32`. The pairing halves the length of the chains of additions, and with it the rounding
//!   error, at no cost in registers: 32 lanes of S and Q are eight AVX2 registers, which leaves eight for the rest.
//!   (f64 has 16 lanes, each with a sum for either half of a chunk. bf16 pairs neighbours. See [`Storage`] and
//!   [`Float::SECOND_BANK_AT`].)
//! - Missing elements of the last block count as `c`: they add zeros, which change no sum.
//! - Lanes are folded by halves, the upper onto the lower.
//!
//! # Why the samples are spread
//!
//! `Q - S * S / n` loses digits when c is far from the mean, measured in standard deviations. With 64 samples from the
//! front, a row that steps up shortly after them puts c a long way off: an error of 107u at 768 columns in a
//! simulation of random steps. Eight runs of eight samples, spread evenly over the chunk, keep the same rows at 5u.
//! The runs are as long as an AVX2 register, and their first touch of a row that is not in cache yet opens eight lines
//! of it at once.

use core::marker::PhantomData;

use super::{CHUNK, Moments, Tree, no_subtrees};
use crate::element::{Pair, Storage};
use crate::mean::{Center, Mean};
use crate::rows::{Input, Source};
use crate::simd::{Float, Lanes, MAX_REGS, regs};

/// The runs of samples that the shift is taken from.
const RUNS: usize = 8;

/// The length of a chunk, and numbers that depend on the length alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkLen<T: Storage> {
    pub(crate) len: usize,
    count: f64,
    inv_count: f64,
    inv_samples: T::Float,
}

impl<T: Storage> ChunkLen<T> {
    #[inline(always)]
    pub(crate) fn new(len: usize) -> Self {
        debug_assert!(0 < len && len <= CHUNK);
        let count = len as f64;
        let inv_samples = T::Float::from_f64(1.0 / len.min(T::STEP) as f64);
        Self { len, count, inv_count: 1.0 / count, inv_samples }
    }

    /// The lengths of a row's chunks: those before the last, and the last.
    #[inline(always)]
    pub(crate) fn of_row(cols: usize) -> (Self, Self) {
        (Self::new(CHUNK), Self::new((cols - 1) % CHUNK + 1))
    }
}

type Reg<S, T> = <<T as Storage>::Float as Float>::Reg<S>;

/// The running sums of one chunk: S and Q per virtual lane.
#[derive(Clone, Copy)]
pub(crate) struct Sums<S: Lanes, T: Storage, M: Center> {
    c: Reg<S, T>,
    s: [Reg<S, T>; MAX_REGS],
    q: [Reg<S, T>; MAX_REGS],
    /// S and Q of the first part of a chunk, up to [`Float::SECOND_BANK_AT`].
    bank: [[Reg<S, T>; MAX_REGS]; 2],
    center: PhantomData<M>,
}

impl<S: Lanes, T: Storage, M: Center> Sums<S, T, M> {
    /// No elements yet, to be counted from the shift `c`.
    #[inline(always)]
    pub(crate) fn new(simd: S, c: T::Float) -> Self {
        let zero = T::Float::splat(simd, T::Float::default());
        Self { c: T::Float::splat(simd, c), s: [zero; _], q: [zero; _], bank: [[zero; _]; 2], center: PhantomData }
    }

    /// Begins the second sums where element `i` starts a step.
    #[inline(always)]
    fn bank_at(&mut self, simd: S, i: usize) {
        if T::Float::SECOND_BANK_AT < CHUNK && i == T::Float::SECOND_BANK_AT {
            self.bank = [self.s, self.q];
            let zero = T::Float::splat(simd, T::Float::default());
            (self.s, self.q) = ([zero; _], [zero; _]);
        }
    }

    #[inline(always)]
    fn add(&mut self, simd: S, j: usize, [a, b]: Pair<S, T>) {
        let (mut a, mut b) = (a, b);
        if M::CENTERED {
            (a, b) = (T::Float::minus(simd, a, self.c), T::Float::minus(simd, b, self.c));
            self.s[j] = T::Float::plus(simd, self.s[j], T::Float::plus(simd, a, b));
        }
        self.q[j] = T::Float::plus(simd, self.q[j], T::Float::fma(simd, b, b, T::Float::times(simd, a, a)));
    }

    /// Adds the step of elements from `i` on, counted from the start of the chunk.
    ///
    /// # Safety
    /// - x has at least `i + T::STEP` elements.
    #[inline(always)]
    pub(crate) unsafe fn step(&mut self, simd: S, x: Source<T>, i: usize) {
        self.bank_at(simd, i);
        for j in 0..regs::<S>() {
            // SAFETY: the caller's duty.
            let pair = unsafe { x.load_lanes(simd, i, j) };
            self.add(simd, j, pair);
        }
    }

    /// Adds the `n` elements from `i` on, fewer than a step.
    ///
    /// # Safety
    /// - x has at least `i + n` elements.
    #[inline(always)]
    pub(crate) unsafe fn step_tail(&mut self, simd: S, x: Source<T>, i: usize, n: usize) {
        self.bank_at(simd, i);
        for j in 0..regs::<S>() {
            if T::simd_pair_start::<S>(j) >= n {
                break;
            }
            // SAFETY: the caller's duty: n counts from i.
            let pair = unsafe { x.load_lanes_tail(simd, i, j, n, self.c) };
            self.add(simd, j, pair);
        }
    }

    /// Adds the `len` elements of a row from `from` on, where a chunk starts.
    ///
    /// # Safety
    /// - The row has at least `from + len` elements.
    #[inline(always)]
    pub(crate) unsafe fn take(&mut self, simd: S, input: Input<T>, from: usize, len: usize) {
        // SAFETY: the caller's duty.
        let x = unsafe { input.row().after(from) };
        let mut i = 0;
        while i + T::STEP <= len {
            if input.asks() {
                input.prefetch_ahead(simd, from + i);
            }
            // SAFETY: the loop's condition and the caller's duty.
            unsafe { self.step(simd, x, i) };
            i += T::STEP;
        }
        if i < len {
            // SAFETY: the caller's duty.
            unsafe { self.step_tail(simd, x, i, len - i) };
        }
    }

    /// The sums over all lanes, halving the registers before the lanes within one.
    #[inline(always)]
    pub(crate) fn halve(mut self, simd: S) -> (Reg<S, T>, Reg<S, T>) {
        let mut r = regs::<S>();
        if T::Float::SECOND_BANK_AT < CHUNK {
            for j in 0..r {
                self.s[j] = T::Float::plus(simd, self.bank[0][j], self.s[j]);
                self.q[j] = T::Float::plus(simd, self.bank[1][j], self.q[j]);
            }
        }
        while r > 1 {
            r /= 2;
            for j in 0..r {
                self.s[j] = T::Float::plus(simd, self.s[j], self.s[j + r]);
                self.q[j] = T::Float::plus(simd, self.q[j], self.q[j + r]);
            }
        }
        (self.s[0], self.q[0])
    }

    #[inline(always)]
    pub(crate) fn finish(self, simd: S, c: T::Float, len: ChunkLen<T>, mean: Mean<M>) -> Moments {
        let (s, q) = self.halve(simd);
        let s = if mean.is_taken::<S>() { T::Float::fold(simd, s) } else { T::Float::default() };
        finish(c, s, T::Float::fold(simd, q), len)
    }
}

/// The moments of a chunk from its folded sums.
///
/// Rounding can make Q - S * S / n negative; NaN stays NaN.
#[inline(always)]
pub(crate) fn finish<T: Storage>(c: T::Float, s: T::Float, q: T::Float, len: ChunkLen<T>) -> Moments {
    let (s, q): (f64, f64) = (s.into(), q.into());
    let offset = s * len.inv_count;
    let m2 = q - s * offset;
    Moments { count: len.count, origin: c.into(), offset, m2: if m2 < 0.0 { 0.0 } else { m2 }, scale: 1.0 }
}

/// The sum of the samples, each less the first element: one register, still to be folded.
///
/// # Safety
/// - x has at least `len` elements, `len > 0`.
#[inline(always)]
pub(crate) unsafe fn sample<S: Lanes, T: Storage>(simd: S, x: Source<T>, len: usize) -> Reg<S, T> {
    // SAFETY: len > 0.
    let x0 = T::Float::splat(simd, unsafe { x.get(0) }.to_computed());
    let mut r = regs::<S>();
    let mut sums = [x0; MAX_REGS];
    if len >= T::STEP {
        let stride = (len / RUNS) & !(T::RUN - 1);
        for j in 0..r {
            // SAFETY: run k ends at k * stride + RUN <= (k + 1) * (len / RUNS) <= len, as RUN <= len / RUNS.
            sums[j] = less::<S, T>(simd, unsafe { x.load_runs(simd, stride, j) }, x0);
        }
    } else {
        let zero = T::Float::splat(simd, T::Float::default());
        for (j, sum) in sums[..r].iter_mut().enumerate() {
            if T::simd_pair_start::<S>(j) >= len {
                // As many times x0 - x0.
                *sum = zero;
                continue;
            }
            // SAFETY: the caller's duty.
            *sum = less::<S, T>(simd, unsafe { x.load_lanes_tail(simd, 0, j, len, x0) }, x0);
        }
    }
    while r > 1 {
        r /= 2;
        for j in 0..r {
            sums[j] = T::Float::plus(simd, sums[j], sums[j + r]);
        }
    }
    sums[0]
}

/// (a - x0) + (b - x0).
#[inline(always)]
fn less<S: Lanes, T: Storage>(simd: S, [a, b]: Pair<S, T>, x0: Reg<S, T>) -> Reg<S, T> {
    T::Float::plus(simd, T::Float::minus(simd, a, x0), T::Float::minus(simd, b, x0))
}

/// The shift, from the first element and the folded [`sample`].
#[inline(always)]
pub(crate) fn shift<T: Storage>(x0: T::Float, samples: T::Float, len: ChunkLen<T>) -> T::Float {
    x0 + samples * len.inv_samples
}

/// The shift of a chunk: close to its mean, equal to it when all elements are equal; zero for sums of squares alone.
///
/// # Safety
/// - x has at least `len.len` elements.
#[inline(always)]
pub(crate) unsafe fn chunk_shift<S: Lanes, T: Storage, M: Center>(
    simd: S,
    x: Source<T>,
    len: ChunkLen<T>,
    mean: Mean<M>,
) -> T::Float {
    if !mean.is_taken::<S>() {
        return T::Float::default();
    }
    // SAFETY: the caller's duty.
    let (x0, samples) = unsafe { (x.get(0).to_computed(), sample(simd, x, len.len)) };
    shift(x0, T::Float::fold(simd, samples), len)
}

/// The shift of the chunk from element `at` on. If the row is a sum, the elements of the chunk are added first.
///
/// # Safety
/// - The row has at least `at + len.len` elements.
#[inline(always)]
unsafe fn next_shift<S: Lanes, T: Storage, M: Center>(
    simd: S,
    input: Input<T>,
    at: usize,
    len: ChunkLen<T>,
    mean: Mean<M>,
) -> T::Float {
    // SAFETY: the caller's duty.
    unsafe {
        input.take_sums(simd, 1, at, len.len);
        chunk_shift(simd, input.row().after(at), len, mean)
    }
}

/// The moments of one chunk.
///
/// # Safety
/// - The row has at least `from + len.len` elements.
#[inline(always)]
unsafe fn chunk<S: Lanes, T: Storage, M: Center>(
    simd: S,
    input: Input<T>,
    from: usize,
    c: T::Float,
    len: ChunkLen<T>,
    mean: Mean<M>,
) -> Moments {
    let mut sums = Sums::<S, T, M>::new(simd, c);
    // SAFETY: the caller's duty.
    unsafe { sums.take(simd, input, from, len.len) };
    sums.finish(simd, c, len, mean)
}

/// The moments of a row of one chunk, `0 < cols <= CHUNK` elements.
///
/// # Safety
/// - x has at least `cols` elements.
#[inline(always)]
pub(crate) unsafe fn short_row<S: Lanes, T: Storage, M: Center>(
    simd: S,
    x: Source<T>,
    cols: usize,
    mean: Mean<M>,
) -> Moments {
    let len = ChunkLen::new(cols);
    // SAFETY: the caller's duty.
    unsafe {
        let c = chunk_shift(simd, x, len, mean);
        chunk(simd, Input::from(x), 0, c, len, mean)
    }
}

/// The moments of a row or of a subtree of it, `cols > 0` elements. Sums are taken chunk by chunk, while they are in
/// the cache.
///
/// # Safety
/// - x has at least `cols` elements.
#[inline(always)]
pub(crate) unsafe fn row<S: Lanes, T: Storage, M: Center>(
    simd: S,
    input: Input<T>,
    cols: usize,
    mean: Mean<M>,
) -> Moments {
    let mean = mean.on::<S>();
    let (inner, last) = ChunkLen::of_row(cols);
    let len_at = |at: usize| if cols - at > CHUNK { inner } else { last };
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    let (mut at, mut len) = (0, len_at(0));
    // SIMD tiers compute the shift of the next chunk while one is summed. The portable tier has the code for it only
    // once.
    let ahead = S::SPECIALIZES;
    let mut c = T::Float::default();
    if ahead {
        // SAFETY: x has cols elements.
        c = unsafe { next_shift(simd, input, 0, len, mean) };
    }
    loop {
        let next = at + len.len;
        let (next_len, mut next_c) = (len_at(next.min(cols - 1)), c);
        if !ahead {
            // SAFETY: len elements are left at at.
            c = unsafe { next_shift(simd, input, at, len, mean) };
        } else if next < cols {
            // SAFETY: next_len elements are left at next.
            next_c = unsafe { next_shift(simd, input, next, next_len, mean) };
        }
        // SAFETY: len elements are left at at.
        let chunk = unsafe { chunk(simd, input, at, c, len, mean) };
        if cols <= CHUNK {
            return chunk;
        }
        tree.push(chunk);
        if next >= cols {
            return tree.total();
        }
        (at, len, c) = (next, next_len, next_c);
    }
}
