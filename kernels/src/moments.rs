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
//!   (Of f64 there are 16 lanes, each with a sum for either half of a chunk, and of bf16 neighbours are paired: see
//!   [`Element`] and [`Float::BANK_AT`].)
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

use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::Isa;
use crate::forward::{WholeRow, is_eps};
use crate::lanes::{
    Center, Centered, Compiled, Element, Float, Input, Lanes, MAX_REGS, Mean, Pair, Source, Uncentered,
    in_default_environment, regs,
};
use crate::rescue;

/// The number of elements whose sums are taken in the type that they are computed in.
///
/// Worst error of the normalized value on random steps in f32, 1000 seeds, in units of 2^-24: 4.0 with 512,
/// 12 with 1024, 27 with 1536, 41 with 2048.
pub const CHUNK: usize = 1024;

/// The runs of samples that the shift is taken from.
const RUNS: usize = 8;

/// Count, mean and sum of squared deviations of some elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The number of elements.
    pub count: f64,
    /// A number close to their mean.
    pub origin: f64,
    /// Their mean, less `origin`: the sum of the two, rounded to f64, would be too coarse for a row that is constant
    /// but for the last bits of a few elements.
    pub offset: f64,
    /// The sum of squared deviations from the mean.
    pub m2: f64,
    /// What the elements were multiplied by first: 1 in fast sums, and another power of two on the slow path.
    pub scale: f64,
}

impl Moments {
    /// The moments of no elements.
    pub const EMPTY: Self = Self { count: 0.0, origin: 0.0, offset: 0.0, m2: 0.0, scale: 1.0 };

    /// The moments of elements of which one is not finite, but for their number.
    pub(crate) const NAN: Self = Self { count: 0.0, origin: f64::NAN, offset: f64::NAN, m2: f64::NAN, scale: 1.0 };

    /// The mean of the elements, rounded to f64; 0 if there are none.
    pub fn mean(&self) -> f64 {
        #[inline(never)]
        fn mean(&Moments { origin, offset, scale, .. }: &Moments) -> f64 {
            (origin + offset) / scale
        }
        in_default_environment(|| mean(self))
    }

    /// The variance, M2 divided by the number of elements; without a mean, the mean of the squares. NaN if there are no
    /// elements.
    pub fn var(&self) -> f64 {
        #[inline(never)]
        fn var(&Moments { count, m2, scale, .. }: &Moments) -> f64 {
            m2 / count / scale / scale
        }
        in_default_environment(|| var(self))
    }

    /// The moments of the elements of both. The order matters in the last bits.
    ///
    /// Those of no elements change nothing. Where the two differ in scale they have no sum, and all but the count is
    /// NaN: they belong to no row then ([`are_of`](Self::are_of)).
    pub fn merge(self, other: Self) -> Self {
        Self::merge_all([self, other])
    }

    /// The moments of the elements of all parts of a row, first to last, merged along the tree that their number fixes.
    ///
    /// They are those of the whole row, bit by bit, where all parts but the last have the same length, [`CHUNK`] times
    /// a power of two, and the last is not longer. Parts of no elements, and those that differ in scale, are merged as
    /// [`merge`](Self::merge) does it.
    pub fn merge_all(parts: impl IntoIterator<Item = Self>) -> Self {
        in_default_environment(|| Self::merge_parts(parts))
    }

    #[inline(never)]
    fn merge_parts(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut stack = no_subtrees();
        let mut tree = Tree::new(&mut stack);
        let mut first = None;
        let mut of_one_scale = true;
        // Those of no elements have no scale.
        for part in parts.into_iter().filter(|part| part.count != 0.0) {
            of_one_scale &= *first.get_or_insert(part.scale) == part.scale;
            tree.push(part);
        }
        match first {
            None => Self::EMPTY,
            Some(_) if of_one_scale => tree.total(),
            Some(_) => Self { count: tree.total().count, scale: f64::NAN, ..Self::NAN },
        }
    }

    /// Whether these can be the moments of a row of `T` of which `cols` elements are to be normalized: they count as
    /// many elements or more, their scale is 1 or one that [`rescale`](Self::rescale) gives for the type, `m2` is not
    /// negative, and where it is finite, so is the mean.
    pub fn are_of<T: Element>(&self, cols: usize) -> bool {
        in_default_environment(|| self.fit(cols, &T::Float::RESCALE))
    }

    #[inline(never)]
    fn fit(&self, cols: usize, scales: &[f64; 3]) -> bool {
        let Self { count, origin, offset, m2, scale } = *self;
        let mean = origin + offset;
        let is_possible = (m2 >= 0.0 || m2.is_nan()) && (mean.is_finite() || !m2.is_finite());
        count >= cols as f64 && (scale == 1.0 || scales.contains(&scale)) && is_possible
    }

    /// What the variance (or, not centered, the mean of squares) and eps add up to, which the root is taken of.
    #[inline(always)]
    pub(crate) fn v(&self, eps: f64) -> f64 {
        self.m2 * (1.0 / self.count) + eps
    }

    /// `None` if a row of `T` with these moments is in the range where the fast sums can be trusted. Else the scale
    /// with which the moments of the row, or of each of its parts, are to be taken again, on the slow path: see
    /// [`RowMoments::scale`]. (Also of a row with a NaN or an infinity, whose squares cannot be told from those that
    /// overflow.)
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN.
    pub fn rescale<T: Element>(&self, eps: f64) -> Result<Option<f64>, BadEps> {
        if is_eps(eps) { Ok(in_default_environment(|| self.slow_scale::<T>(eps))) } else { Err(BadEps(eps)) }
    }

    /// The same for an eps that has been checked.
    #[inline(never)]
    pub(crate) fn slow_scale<T: Element>(&self, eps: f64) -> Option<f64> {
        let v = self.v(eps);
        let trusted = T::Float::TRUSTED.contains(&v);
        (!trusted).then(|| scale_for::<T::Float>(v, self.origin + self.offset))
    }
}

/// Count, origin, offset, m2 and scale, to be sent to another process.
impl From<Moments> for [f64; 5] {
    fn from(Moments { count, origin, offset, m2, scale }: Moments) -> Self {
        [count, origin, offset, m2, scale]
    }
}

impl From<[f64; 5]> for Moments {
    fn from([count, origin, offset, m2, scale]: [f64; 5]) -> Self {
        Self { count, origin, offset, m2, scale }
    }
}

/// An eps that is negative, infinite or NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadEps(pub f64);

impl fmt::Display for BadEps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eps is {}, expected a finite number not less than 0", self.0)
    }
}

impl core::error::Error for BadEps {}

/// Whether [`Moments::rescale`] gives this scale for rows of `T`.
pub fn is_slow_scale<T: Element>(scale: f64) -> bool {
    /// Not inlined: see [`in_default_environment`].
    #[inline(never)]
    fn is_one_of(scales: &[f64; 3], scale: f64) -> bool {
        scales.contains(&scale)
    }
    in_default_environment(|| is_one_of(&T::Float::RESCALE, scale))
}

/// The scale at which the slow path takes the moments of a row whose v is not trusted.
pub(crate) fn scale_for<F: Float>(v: f64, mean: f64) -> f64 {
    let [down, up, constant] = F::RESCALE;
    let too_small = v < *F::TRUSTED.start();
    if !too_small {
        down
    } else if mean.abs() > 1.0 {
        // The squares would not be small if the elements differed, and zeros do not underflow.
        constant
    } else {
        up
    }
}

/// The deepest tree: 2^47 bytes of f32, as many as today's processors can address.
const DEPTH: usize = 36;

/// What is merged along a [`Tree`]. The order matters in the last bits.
pub(crate) trait Merge: Copy {
    fn merge(self, other: Self) -> Self;
}

impl Merge for Moments {
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = (other.origin - self.origin) + (other.offset - self.offset);
        let share = other.count / count;
        Self {
            count,
            origin: self.origin,
            offset: self.offset + delta * share,
            m2: self.m2 + other.m2 + delta * delta * (self.count * share),
            scale: self.scale,
        }
    }
}

/// Two sums.
impl Merge for (f64, f64) {
    #[inline(always)]
    fn merge(self, other: Self) -> Self {
        (self.0 + other.0, self.1 + other.1)
    }
}

/// Room for one subtree of each depth. Apart from the [`Tree`], so that it is never filled with anything.
pub(crate) type Subtrees<M = Moments> = [MaybeUninit<M>; DEPTH];

#[inline(always)]
pub(crate) fn no_subtrees<M: Copy>() -> Subtrees<M> {
    [MaybeUninit::uninit(); _]
}

/// Merges the moments (or other sums) of successive chunks along the tree, in one pass and without recursion: the
/// stack holds one finished subtree for each bit set in the number of chunks so far, as in a binary counter.
#[derive(Debug)]
pub(crate) struct Tree<'s, M = Moments> {
    /// Those below `depth` have been written.
    stack: &'s mut Subtrees<M>,
    depth: usize,
    chunks: usize,
}

impl<'s, M: Merge> Tree<'s, M> {
    #[inline(always)]
    pub(crate) fn new(stack: &'s mut Subtrees<M>) -> Self {
        Self { stack, depth: 0, chunks: 0 }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, mut chunk: M) {
        let mut full = self.chunks;
        while full & 1 == 1 {
            chunk = self.pop().merge(chunk);
            full >>= 1;
        }
        self.stack[self.depth] = MaybeUninit::new(chunk);
        self.depth += 1;
        self.chunks += 1;
    }

    /// The moments of all chunks, of which there is at least one.
    #[inline(always)]
    pub(crate) fn total(mut self) -> M {
        let mut total = self.pop();
        while self.depth > 0 {
            total = self.pop().merge(total);
        }
        total
    }

    #[inline(always)]
    fn pop(&mut self) -> M {
        self.depth -= 1;
        // SAFETY: it was below the depth.
        unsafe { self.stack[self.depth].assume_init() }
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
pub(crate) struct ChunkLen<T: Element> {
    pub(crate) len: usize,
    count: f64,
    inv_count: f64,
    inv_samples: T::Float,
}

impl<T: Element> ChunkLen<T> {
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

type Reg<S, T> = <<T as Element>::Float as Float>::Reg<S>;

/// The running sums of one chunk: S and Q per virtual lane.
#[derive(Clone, Copy)]
pub(crate) struct Sums<S: Lanes, T: Element, M: Center> {
    c: Reg<S, T>,
    s: [Reg<S, T>; MAX_REGS],
    q: [Reg<S, T>; MAX_REGS],
    /// S and Q of the first part of a chunk, where [`Float::BANK_AT`] cuts it.
    bank: [[Reg<S, T>; MAX_REGS]; 2],
    center: PhantomData<M>,
}

impl<S: Lanes, T: Element, M: Center> Sums<S, T, M> {
    /// No elements yet, to be counted from the shift `c`.
    #[inline(always)]
    pub(crate) fn new(simd: S, c: T::Float) -> Self {
        let zero = T::Float::splat(simd, T::Float::default());
        Self { c: T::Float::splat(simd, c), s: [zero; _], q: [zero; _], bank: [[zero; _]; 2], center: PhantomData }
    }

    /// Begins the second sums where element `i` starts a step.
    #[inline(always)]
    fn bank_at(&mut self, simd: S, i: usize) {
        if T::Float::BANK_AT < CHUNK && i == T::Float::BANK_AT {
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

    /// The sums over all lanes, halving the registers before the lanes within one.
    #[inline(always)]
    pub(crate) fn halve(mut self, simd: S) -> (Reg<S, T>, Reg<S, T>) {
        let mut r = regs::<S>();
        if T::Float::BANK_AT < CHUNK {
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
pub(crate) fn finish<T: Element>(c: T::Float, s: T::Float, q: T::Float, len: ChunkLen<T>) -> Moments {
    let (s, q): (f64, f64) = (s.into(), q.into());
    let offset = s * len.inv_count;
    let m2 = q - s * offset;
    Moments { count: len.count, origin: c.into(), offset, m2: if m2 < 0.0 { 0.0 } else { m2 }, scale: 1.0 }
}

/// The sum of the samples less the first element, one register still to be folded.
///
/// # Safety
/// - x has at least `len` elements, `len > 0`.
#[inline(always)]
pub(crate) unsafe fn sample<S: Lanes, T: Element>(simd: S, x: Source<T>, len: usize) -> Reg<S, T> {
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
        for (j, sum) in sums[..r].iter_mut().enumerate() {
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
fn less<S: Lanes, T: Element>(simd: S, [a, b]: Pair<S, T>, x0: Reg<S, T>) -> Reg<S, T> {
    T::Float::plus(simd, T::Float::minus(simd, a, x0), T::Float::minus(simd, b, x0))
}

/// The shift from the first element and the folded [`sample`].
#[inline(always)]
pub(crate) fn shift<T: Element>(x0: T::Float, samples: T::Float, len: ChunkLen<T>) -> T::Float {
    x0 + samples * len.inv_samples
}

/// The shift of a chunk: close to its mean, equal to it when all elements are equal; zero for sums of squares alone.
///
/// # Safety
/// - x has at least `len.len` elements.
#[inline(always)]
pub(crate) unsafe fn chunk_shift<S: Lanes, T: Element, M: Center>(
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

/// The same for the chunk from element `at` on, whose sums are taken before.
///
/// # Safety
/// - The row has at least `at + len.len` elements.
#[inline(always)]
unsafe fn next_shift<S: Lanes, T: Element, M: Center>(
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
/// - x has at least `len.len` elements.
#[inline(always)]
unsafe fn chunk<S: Lanes, T: Element, M: Center>(
    simd: S,
    input: Input<T>,
    from: usize,
    c: T::Float,
    len: ChunkLen<T>,
    mean: Mean<M>,
) -> Moments {
    // SAFETY: the caller's duty.
    let x = unsafe { input.row().after(from) };
    let mut sums = Sums::<S, T, M>::new(simd, c);
    let mut i = 0;
    while i + T::STEP <= len.len {
        if input.asks() {
            input.prefetch_ahead(simd, from + i);
        }
        // SAFETY: the loop's condition and the caller's duty.
        unsafe { sums.step(simd, x, i) };
        i += T::STEP;
    }
    if i < len.len {
        // SAFETY: the caller's duty.
        unsafe { sums.step_tail(simd, x, i, len.len - i) };
    }
    sums.finish(simd, c, len, mean)
}

/// The moments of a row or of a subtree of it, `cols > 0` elements. Sums are taken chunk by chunk, while they are in
/// the cache.
///
/// # Safety
/// - x has at least `cols` elements.
#[inline(always)]
pub(crate) unsafe fn row<S: Lanes, T: Element, M: Center>(
    simd: S,
    input: Input<T>,
    cols: usize,
    mean: Mean<M>,
) -> Moments {
    let (inner, last) = ChunkLen::of_row(cols);
    let len_at = |at: usize| if cols - at > CHUNK { inner } else { last };
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    let (mut at, mut len) = (0, len_at(0));
    // The shift of the next chunk is on its way while one is summed, but on the portable tier, which has one piece of
    // code for it.
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

/// The moments of a row, or of a part of it that starts at a multiple of [`CHUNK`] elements and that
/// [`split_point`] has cut off. Parts are merged in the order in which they were cut.
#[derive(Clone, Copy, Debug)]
pub struct RowMoments<'a, T> {
    /// The elements.
    pub x: &'a [T],
    /// Whether squares are those of the deviations from the mean, as layer normalization needs them. Else they are
    /// those of the elements, and origin and offset are zero.
    pub centered: bool,
    /// `None` for the fast sums. Else they are taken on the slow path, right for every finite element, of elements
    /// times a power of two that [`Moments::rescale`] has given. (Moments at any other scale belong to no row: see
    /// [`Moments::are_of`].)
    pub scale: Option<f64>,
}

impl<T: Element> RowMoments<'_, T> {
    /// Does the job on one tier, on the calling thread.
    #[inline(never)]
    pub fn run_on(self, isa: Isa) -> Moments {
        if self.x.is_empty() {
            return Moments::EMPTY;
        }
        if let Some(scale) = self.scale {
            // SAFETY: the slice has as many elements, and is not empty.
            return in_default_environment(|| unsafe {
                rescue::moments(isa, Source::from(self.x), self.x.len(), scale, self.centered)
            });
        }
        if self.centered {
            <T as Compiled<Centered>>::moments(self, isa)
        } else {
            <T as Compiled<Uncentered>>::moments(self, isa)
        }
    }

    #[inline(never)]
    pub(crate) fn run_here<M: Center>(self, isa: Isa) -> Moments {
        let Self { x, centered, .. } = self;
        // SAFETY: the slice has as many elements, and is not empty.
        unsafe { isa.run(WholeRow::<T, M>::moments(&Source::from(x).into(), x.len(), Mean::new(centered))).0 }
    }
}
