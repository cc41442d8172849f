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
//! - Missing elements of the last block count as `c`: they add zeros, which change no sum.
//! - Lanes are folded by halves, the upper onto the lower.
//!
//! # Why the samples are spread
//!
//! `Q - S * S / n` loses digits when c is far from the mean, measured in standard deviations. With 64 samples from
//! the front, a row that steps up shortly after them puts c a long way off: an error of 107u at 768 columns in a simulation of random steps. Eight
//! runs of eight samples, spread evenly over the chunk, keep the same rows at 5u. The runs are as long as an
//! AVX2 register, and their first touch of a row that is not in cache yet opens eight lines of it at once.

use crate::Isa;
use crate::lanes::{Input, Kernel, LANES, Lanes, MAX_REGS, RUN, Source, regs};

/// The number of elements whose sums are taken in f32.
///
/// Worst error of the normalized value on random steps, 1000 seeds, in units of 2^-24: 4.0 with 512,
/// 12 with 1024, 27 with 1536, 41 with 2048.
pub const CHUNK: usize = 1024;

/// The elements that one step of the loops takes: one pair for each lane.
pub(crate) const STEP: usize = 2 * LANES;

/// The runs of [`RUN`] samples that the shift is taken from.
const RUNS: usize = STEP / RUN;

/// Count, mean and sum of squared deviations of some elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The number of elements.
    pub count: f64,
    /// A number close to them, which is an f32.
    pub origin: f64,
    /// Their mean, less `origin`: the sum of the two, rounded to f64, would be too coarse for a row that is constant
    /// but for the last bits of a few elements.
    pub offset: f64,
    /// The sum of squared deviations from the mean.
    pub m2: f64,
}

impl Moments {
    /// The moments of no elements.
    pub const EMPTY: Self = Self { count: 0.0, origin: 0.0, offset: 0.0, m2: 0.0 };

    /// The moments of the elements of both. The order matters in the last bits.
    #[inline(always)]
    pub fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = (other.origin - self.origin) + (other.offset - self.offset);
        let share = other.count / count;
        Self {
            count,
            origin: self.origin,
            offset: self.offset + delta * share,
            m2: self.m2 + other.m2 + delta * delta * (self.count * share),
        }
    }
}

/// The deepest tree: 2^47 bytes of f32, as many as today's processors can address.
const DEPTH: usize = 36;

/// Merges the moments of successive chunks along the tree, in one pass and without recursion: the stack holds one
/// finished subtree for each bit set in the number of chunks so far, as in a binary counter.
#[derive(Debug)]
pub(crate) struct Tree {
    stack: [Moments; DEPTH],
    depth: usize,
    chunks: usize,
}

impl Tree {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { stack: [Moments::EMPTY; _], depth: 0, chunks: 0 }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, mut chunk: Moments) {
        let mut full = self.chunks;
        while full & 1 == 1 {
            self.depth -= 1;
            chunk = self.stack[self.depth].merge(chunk);
            full >>= 1;
        }
        self.stack[self.depth] = chunk;
        self.depth += 1;
        self.chunks += 1;
    }

    /// The moments of all chunks, of which there is at least one.
    #[inline(always)]
    pub(crate) fn total(&self) -> Moments {
        let mut total = self.stack[self.depth - 1];
        for subtree in self.stack[..self.depth - 1].iter().rev() {
            total = subtree.merge(total);
        }
        total
    }
}

/// Where a long row may be cut so that the two parts are subtrees: a multiple of [`CHUNK`], or `None` when the
/// row is one chunk.
pub fn split_point(cols: usize) -> Option<usize> {
    let chunks = cols.div_ceil(CHUNK);
    (chunks > 1).then(|| CHUNK << (chunks - 1).ilog2())
}

/// What of a chunk depends on its length alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkLen {
    pub(crate) len: usize,
    count: f64,
    inv_count: f64,
    inv_samples: f32,
}

impl ChunkLen {
    #[inline(always)]
    pub(crate) fn new(len: usize) -> Self {
        debug_assert!(0 < len && len <= CHUNK);
        let count = len as f64;
        Self { len, count, inv_count: 1.0 / count, inv_samples: 1.0 / len.min(STEP) as f32 }
    }

    /// The lengths of a row's chunks: those before the last, and the last.
    #[inline(always)]
    pub(crate) fn of_row(cols: usize) -> (Self, Self) {
        (Self::new(CHUNK), Self::new((cols - 1) % CHUNK + 1))
    }
}

/// The running sums of one chunk: S and Q per virtual lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums<S: Lanes, const CENTERED: bool> {
    c: S::f32s,
    s: [S::f32s; MAX_REGS],
    q: [S::f32s; MAX_REGS],
}

impl<S: Lanes, const CENTERED: bool> Sums<S, CENTERED> {
    /// No elements yet, to be counted from the shift `c`.
    #[inline(always)]
    pub(crate) fn new(simd: S, c: f32) -> Self {
        let zero = simd.splat_f32s(0.0);
        Self { c: simd.splat_f32s(c), s: [zero; _], q: [zero; _] }
    }

    #[inline(always)]
    fn add(&mut self, simd: S, j: usize, a: S::f32s, b: S::f32s) {
        let (mut a, mut b) = (a, b);
        if CENTERED {
            (a, b) = (simd.sub_f32s(a, self.c), simd.sub_f32s(b, self.c));
            self.s[j] = simd.add_f32s(self.s[j], simd.add_f32s(a, b));
        }
        self.q[j] = simd.add_f32s(self.q[j], simd.fma(b, b, simd.mul_f32s(a, a)));
    }

    /// Adds the [`STEP`] elements from `i` on.
    ///
    /// # Safety
    /// - x has at least `i + STEP` elements.
    #[inline(always)]
    pub(crate) unsafe fn step<const ADD: bool>(&mut self, simd: S, x: Input<ADD>, i: usize) {
        for j in 0..regs::<S>() {
            let i = i + j * S::F32_LANES;
            // SAFETY: the caller's duty.
            let (a, b) = unsafe { (x.take(simd, i), x.take(simd, i + LANES)) };
            self.add(simd, j, a, b);
        }
    }

    /// Adds the `n` elements from `i` on, fewer than [`STEP`].
    ///
    /// # Safety
    /// - x has at least `i + n` elements.
    #[inline(always)]
    pub(crate) unsafe fn step_tail<const ADD: bool>(&mut self, simd: S, x: Input<ADD>, i: usize, n: usize) {
        for j in 0..regs::<S>() {
            let at = j * S::F32_LANES;
            if at >= n {
                break;
            }
            // SAFETY: the caller's duty: n counts from i.
            let a = unsafe { x.take_tail(simd, i + at, n - at, self.c) };
            // SAFETY: as above; nothing is read where nothing is left.
            let b = unsafe { x.take_tail(simd, i + at + LANES, n.saturating_sub(at + LANES), self.c) };
            self.add(simd, j, a, b);
        }
    }

    /// The sums over all lanes, halving the registers before the lanes within one.
    #[inline(always)]
    pub(crate) fn halve(mut self, simd: S) -> (S::f32s, S::f32s) {
        let mut r = regs::<S>();
        while r > 1 {
            r /= 2;
            for j in 0..r {
                self.s[j] = simd.add_f32s(self.s[j], self.s[j + r]);
                self.q[j] = simd.add_f32s(self.q[j], self.q[j + r]);
            }
        }
        (self.s[0], self.q[0])
    }

    #[inline(always)]
    pub(crate) fn finish(self, simd: S, c: f32, len: ChunkLen) -> Moments {
        let (s, q) = self.halve(simd);
        finish(c, simd.fold(s), simd.fold(q), len)
    }
}

/// The moments of a chunk from its folded sums.
///
/// Rounding can make Q - S * S / n negative; NaN stays NaN.
#[inline(always)]
pub(crate) fn finish(c: f32, s: f32, q: f32, len: ChunkLen) -> Moments {
    let (s, q) = (f64::from(s), f64::from(q));
    let offset = s * len.inv_count;
    let m2 = q - s * offset;
    Moments { count: len.count, origin: f64::from(c), offset, m2: if m2 < 0.0 { 0.0 } else { m2 } }
}

/// The sum of the samples less the first element, one register still to be folded.
///
/// # Safety
/// - x has at least `len` elements, `len > 0`.
#[inline(always)]
pub(crate) unsafe fn sample<S: Lanes, const ADD: bool>(simd: S, x: Input<ADD>, len: usize) -> S::f32s {
    // SAFETY: len > 0.
    let x0 = simd.splat_f32s(unsafe { x.peek_first() });
    let mut r = regs::<S>();
    let mut sums = [x0; MAX_REGS];
    if len >= STEP {
        let stride = (len / RUNS) & !(RUN - 1);
        for j in 0..r {
            // SAFETY: run k ends at k * stride + RUN <= (k + 1) * (len / RUNS) <= len, as RUN <= len / RUNS.
            let (a, b) = unsafe { (x.peek_runs(simd, stride, j), x.peek_runs(simd, stride, j + r)) };
            sums[j] = simd.add_f32s(simd.sub_f32s(a, x0), simd.sub_f32s(b, x0));
        }
    } else {
        let zero = simd.splat_f32s(0.0);
        for (j, sum) in sums[..r].iter_mut().enumerate() {
            let at = j * S::F32_LANES;
            *sum = zero;
            if at < len {
                // SAFETY: the caller's duty: at least len - at elements are left.
                *sum = simd.sub_f32s(unsafe { x.peek_tail(simd, at, len - at, x0) }, x0);
            }
            if at + LANES < len {
                // SAFETY: as above.
                let b = unsafe { x.peek_tail(simd, at + LANES, len - at - LANES, x0) };
                *sum = simd.add_f32s(*sum, simd.sub_f32s(b, x0));
            }
        }
    }
    while r > 1 {
        r /= 2;
        for j in 0..r {
            sums[j] = simd.add_f32s(sums[j], sums[j + r]);
        }
    }
    sums[0]
}

/// The shift from the first element and the folded [`sample`].
#[inline(always)]
pub(crate) fn shift(x0: f32, samples: f32, len: ChunkLen) -> f32 {
    x0 + samples * len.inv_samples
}

/// The shift of a chunk: close to its mean, equal to it when all elements are equal; zero for sums of squares alone.
///
/// # Safety
/// - x has at least `len.len` elements.
#[inline(always)]
pub(crate) unsafe fn chunk_shift<S: Lanes, const CENTERED: bool, const ADD: bool>(
    simd: S,
    x: Input<ADD>,
    len: ChunkLen,
) -> f32 {
    if !CENTERED {
        return 0.0;
    }
    // SAFETY: the caller's duty.
    let (x0, samples) = unsafe { (x.peek_first(), sample(simd, x, len.len)) };
    shift(x0, simd.fold(samples), len)
}

/// The moments of one chunk.
///
/// # Safety
/// - x has at least `len.len` elements.
#[inline(always)]
pub(crate) unsafe fn chunk<S: Lanes, const CENTERED: bool, const ADD: bool>(
    simd: S,
    x: Input<ADD>,
    c: f32,
    len: ChunkLen,
) -> Moments {
    let mut sums = Sums::<S, CENTERED>::new(simd, c);
    let mut i = 0;
    while i + STEP <= len.len {
        // SAFETY: the loop's condition and the caller's duty.
        unsafe { sums.step(simd, x, i) };
        i += STEP;
    }
    if i < len.len {
        // SAFETY: the caller's duty.
        unsafe { sums.step_tail(simd, x, i, len.len - i) };
    }
    sums.finish(simd, c, len)
}

/// The moments of a row or of a subtree of it, `cols > 0` elements.
///
/// # Safety
/// - x has at least `cols` elements.
#[inline(always)]
pub(crate) unsafe fn row<S: Lanes, const CENTERED: bool, const ADD: bool>(
    simd: S,
    x: Input<ADD>,
    cols: usize,
) -> Moments {
    let (inner, last) = ChunkLen::of_row(cols);
    if cols <= CHUNK {
        // SAFETY: the row is one chunk.
        return unsafe { chunk::<S, CENTERED, ADD>(simd, x, chunk_shift::<S, CENTERED, ADD>(simd, x, last), last) };
    }
    let mut tree = Tree::new();
    let mut at = 0;
    // SAFETY: there is more than one chunk.
    let mut c = unsafe { chunk_shift::<S, CENTERED, ADD>(simd, x, inner) };
    while cols - at > CHUNK {
        let next = at + CHUNK;
        // SAFETY: at least an element is left at `next`.
        unsafe {
            let next_c =
                chunk_shift::<S, CENTERED, ADD>(simd, x.after(next), if cols - next > CHUNK { inner } else { last });
            tree.push(chunk::<S, CENTERED, ADD>(simd, x.after(at), c, inner));
            c = next_c;
        }
        at = next;
    }
    // SAFETY: the last chunk is left.
    tree.push(unsafe { chunk::<S, CENTERED, ADD>(simd, x.after(at), c, last) });
    tree.total()
}

/// The moments of a row, or of a part of it that starts at a multiple of [`CHUNK`] elements and that
/// [`split_point`] has cut off. Parts are merged in the order in which they were cut.
#[derive(Clone, Copy, Debug)]
pub struct RowMoments<'a> {
    /// The elements.
    pub x: &'a [f32],
    /// Whether squares are those of the deviations from the mean, as layer normalization needs them. Else they are those of
    /// the elements, and origin and offset are zero.
    pub centered: bool,
}

impl RowMoments<'_> {
    /// Does the job on one tier, on the calling thread.
    pub fn run_on(self, isa: Isa) -> Moments {
        isa.run(self)
    }
}

impl Kernel for RowMoments<'_> {
    type Output = Moments;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Moments {
        if self.x.is_empty() {
            return Moments::EMPTY;
        }
        let x = Input::from(Source::from(self.x));
        // SAFETY: the source has as many elements as the slice, which is not empty.
        unsafe {
            if self.centered {
                row::<S, true, false>(simd, x, self.x.len())
            } else {
                row::<S, false, false>(simd, x, self.x.len())
            }
        }
    }
}
