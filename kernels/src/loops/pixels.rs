//! Rows of f32 that lie side by side while their columns are apart, as the pixels of a tensor whose channels come
//! first: a lane is a row.
//!
//! A register has one column of as many rows as it has lanes. Rows are taken in tiles that a cache keeps for their
//! second touch, and tiles in groups. Sums have the bits that folds give, as they are made of the same additions: the
//! lanes of a row that lies by itself are sums here that are taken one after the other, in the order in which a fold
//! adds them up. So a group has few sums at a time, which stay in registers.

use core::mem::MaybeUninit;

use super::blocks::{BlockNormMut, settle_block};
use crate::simd::{FOLD_ROWS, Float, Kernel, Lanes, outline, rolled, sqrt_f64};
use crate::stats::sums::{ChunkLen, finish};
use crate::stats::{CHUNK, Root, RowNorm, Tree, no_subtrees};

/// The rows of a group: a cache line of each column.
const GROUP: usize = 16;

/// The fewest rows of a tile.
pub(crate) const FEWEST_PIXELS: usize = GROUP;

/// The most rows of a tile.
pub(crate) const MOST_PIXELS: usize = GROUPS * GROUP;

const GROUPS: usize = 8;

/// The registers that the rows of a group take on the narrowest tier.
const MAX_REGS: usize = GROUP / 4;

/// The sums of a row that lies by itself.
const LANES: usize = <f32 as Float>::LANES;

/// The columns of which one after the other goes to the same sum, two by two.
const STEP: usize = 2 * LANES;

/// The length of a run of samples.
const RUN: usize = STEP / 8;

/// The depth of the tree in which the sums of all lanes are added up.
const DEPTH: usize = LANES.ilog2() as usize;

/// A number for each row of a tile. Those of the last group are also those of rows before it, if groups do not divide
/// the tile.
pub(crate) type OfRows = [[f32; GROUP]; GROUPS];

/// Shift, S and Q of each row, of one chunk of columns.
pub(crate) type ChunkSums = [OfRows; 3];

/// Where group `g` of a tile of `rows` rows begins.
#[inline(always)]
fn start(g: usize, rows: usize) -> usize {
    (g * GROUP).min(rows - GROUP)
}

/// The statistics of the rows of a tile.
pub(crate) struct PixelNorm {
    mean: OfRows,
    mean_lo: OfRows,
    rstd: OfRows,
    /// The product of `-mean_lo` and rstd.
    offset: OfRows,
}

impl PixelNorm {
    pub(crate) const NOTHING: Self =
        Self { mean: [[0.0; _]; _], mean_lo: [[0.0; _]; _], rstd: [[0.0; _]; _], offset: [[0.0; _]; _] };

    /// Of row `r` of `rows`.
    pub(crate) fn of_row(&self, r: usize, rows: usize) -> RowNorm {
        let g = r / GROUP;
        let at = r - start(g, rows);
        RowNorm { mean: self.mean[g][at], mean_lo: self.mean_lo[g][at], rstd: self.rstd[g][at] }
    }
}

/// Normalizes a tile of rows. If the sums of one of them cannot be trusted, it writes nothing, and returns false. One
/// kernel is for rows with a mean and without one, for less code: a mean of 0 changes no bits (see
/// [`loops`](crate::loops)). Whoever makes it knows that the rows are there, and that all has as many columns as there
/// are factors.
pub(crate) struct PixelTile<'n> {
    /// The first column of the first row, and the distance between two columns. y may be x.
    pub(crate) x: *const f32,
    pub(crate) y: *mut f32,
    pub(crate) stride: usize,
    /// From [`FEWEST_PIXELS`] to [`MOST_PIXELS`].
    pub(crate) rows: usize,
    pub(crate) root: Root,
    /// Whether rows have a mean.
    pub(crate) centered: bool,
    /// gamma plus offset, and beta, of each column.
    pub(crate) factors: &'n [f32],
    pub(crate) addends: &'n [f32],
    /// Room for each chunk of columns.
    pub(crate) sums: &'n mut [ChunkSums],
    pub(crate) norm: &'n mut PixelNorm,
}

impl Kernel for PixelTile<'_> {
    type Output = bool;

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { x, y, stride, rows, root, centered, factors, addends, sums, norm } = self;
        let cols = factors.len();
        assert!(addends.len() == cols && sums.len() == cols.div_ceil(CHUNK));
        assert!((FEWEST_PIXELS..=MOST_PIXELS).contains(&rows));
        let mut subtrees: Subtrees = [[const { MaybeUninit::uninit() }; 2]; DEPTH + 1];
        for (at, sums) in (0..cols).step_by(CHUNK).zip(sums.iter_mut()) {
            let (x, len) = (x.wrapping_add(at * stride), CHUNK.min(cols - at));
            outline(simd, Sums { x, stride, len, rows, centered, sums, subtrees: &mut subtrees });
        }
        let trusted = outline(simd, Settle { sums, rows, root, centered, cols, norm });
        if trusted {
            outline(simd, Finish { x, y, stride, rows, factors, addends, norm });
        }
        trusted
    }
}

/// The registers of one column of a group, of which a tier uses the first few.
type Column<S> = [<S as pulp::Simd>::f32s; MAX_REGS];

/// The number of registers of a column.
#[inline(always)]
fn regs<S: Lanes>() -> usize {
    GROUP / S::F32_LANES
}

/// `f` of the registers of two columns.
#[inline(always)]
fn zip<S: Lanes>(mut a: Column<S>, b: Column<S>, f: impl Fn(S::f32s, S::f32s) -> S::f32s) -> Column<S> {
    for j in 0..regs::<S>() {
        a[j] = f(a[j], b[j]);
    }
    a
}

#[inline(always)]
unsafe fn load<S: Lanes>(simd: S, p: *const f32) -> Column<S> {
    let mut v = [simd.splat_f32s(0.0); MAX_REGS];
    for (j, v) in v.iter_mut().enumerate().take(regs::<S>()) {
        // SAFETY: the caller's duty.
        *v = unsafe { simd.load(p.add(j * S::F32_LANES)) };
    }
    v
}

#[inline(always)]
unsafe fn store<S: Lanes>(simd: S, p: *mut f32, v: Column<S>) {
    for (j, &v) in v.iter().enumerate().take(regs::<S>()) {
        // SAFETY: the caller's duty.
        unsafe { simd.store(p.add(j * S::F32_LANES), v) };
    }
}

/// The lane that comes as number `k` in the order of a fold: the bits of `k` from the back.
#[inline(always)]
fn lane(k: usize) -> usize {
    k.reverse_bits() >> (usize::BITS as usize - DEPTH)
}

/// One or two sums of 1, 2, 4 and more lanes, of each row.
type Subtrees = [[MaybeUninit<OfRows>; 2]; DEPTH + 1];

/// Adds the sums of the lane that comes as number `k` to those of group `g`. After the last lane, the last subtree has
/// the sums of all.
#[inline(always)]
unsafe fn push<S: Lanes, const N: usize>(simd: S, subtrees: &mut Subtrees, k: usize, g: usize, mut v: [Column<S>; N]) {
    let full = k.trailing_ones() as usize;
    // SAFETY: full <= DEPTH, and all levels below have been written.
    unsafe {
        for level in subtrees.iter().take(full) {
            for n in 0..N {
                let other = load(simd, level[n].as_ptr().cast::<[f32; GROUP]>().add(g).cast());
                v[n] = zip::<S>(other, v[n], |a, b| simd.add_f32s(a, b));
            }
        }
        for n in 0..N {
            store(simd, subtrees.get_unchecked_mut(full)[n].as_mut_ptr().cast::<[f32; GROUP]>().add(g).cast(), v[n]);
        }
    }
}

/// Takes the shift, S and Q of each row of a tile, of a chunk of columns. The first column of the first row is at `x`.
/// Whoever makes it knows that the rows are there.
struct Sums<'s> {
    x: *const f32,
    stride: usize,
    len: usize,
    rows: usize,
    centered: bool,
    sums: &'s mut ChunkSums,
    /// Room.
    subtrees: &'s mut Subtrees,
}

impl Kernel for Sums<'_> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(mut self, simd: S) {
        // SAFETY: whoever made this knew it.
        unsafe {
            if self.centered {
                self.shifts(simd);
            } else {
                self.sums[0] = [[0.0; _]; _];
            }
            for k in 0..rolled(LANES) {
                let (this, next) = (lane(k), lane((k + 1) % LANES));
                for g in 0..self.rows.div_ceil(GROUP) {
                    let sums = self.lane(simd, this, next, g);
                    push(simd, self.subtrees, k, g, sums);
                }
            }
            let [s, q] = &self.subtrees[DEPTH];
            for g in 0..self.rows.div_ceil(GROUP) {
                self.sums[1][g] = s.as_ptr().cast::<[f32; GROUP]>().add(g).read();
                self.sums[2][g] = q.as_ptr().cast::<[f32; GROUP]>().add(g).read();
            }
        }
    }
}

impl Sums<'_> {
    /// S and Q of one lane of a group. Asks for the columns of the next lane.
    #[inline(always)]
    unsafe fn lane<S: Lanes>(&self, simd: S, lane: usize, next: usize, g: usize) -> [Column<S>; 2] {
        let &Self { x, stride, len, rows, ref sums, .. } = self;
        let zeros = [simd.splat_f32s(0.0); MAX_REGS];
        let (mut s, mut q) = (zeros, zeros);
        let x = x.wrapping_add(start(g, rows));
        let ahead = x.wrapping_add(next * stride).wrapping_sub(lane * stride);
        let mut i = lane;
        // SAFETY: the caller's duty.
        unsafe {
            let c = load(simd, sums[0][g].as_ptr());
            while i + LANES < len {
                let (mut a, mut b) = (load(simd, x.add(i * stride)), load(simd, x.add((i + LANES) * stride)));
                simd.prefetch(ahead.wrapping_add(i * stride).cast());
                simd.prefetch(ahead.wrapping_add((i + LANES) * stride).cast());
                (a, b) = (zip::<S>(a, c, |a, c| simd.sub_f32s(a, c)), zip::<S>(b, c, |b, c| simd.sub_f32s(b, c)));
                let pair = zip::<S>(a, b, |a, b| simd.add_f32s(a, b));
                s = zip::<S>(s, pair, |s, pair| simd.add_f32s(s, pair));
                let squares = zip::<S>(a, b, |a, b| simd.fma(b, b, simd.mul_f32s(a, a)));
                q = zip::<S>(q, squares, |q, squares| simd.add_f32s(q, squares));
                i += STEP;
            }
            if i < len {
                // The second of the pair is missing, and counts as c. Sums begin with +0, so that none is -0.
                let mut a = load(simd, x.add(i * stride));
                simd.prefetch(ahead.wrapping_add(i * stride).cast());
                a = zip::<S>(a, c, |a, c| simd.sub_f32s(a, c));
                s = zip::<S>(s, a, |s, a| simd.add_f32s(s, a));
                q = zip::<S>(q, a, |q, a| simd.add_f32s(q, simd.mul_f32s(a, a)));
            }
        }
        [s, q]
    }

    /// The shift of each row.
    #[inline(always)]
    unsafe fn shifts<S: Lanes>(&mut self, simd: S) {
        let &mut Self { x, stride, len, rows, ref mut sums, ref mut subtrees, .. } = self;
        let apart = if len >= STEP { (len / (STEP / RUN)) & !(RUN - 1) } else { RUN };
        let inv_samples = simd.splat_f32s(f32::from_f64(1.0 / len.min(STEP) as f64));
        let zeros = [simd.splat_f32s(0.0); MAX_REGS];
        let at = |n: usize| (n / RUN * apart + n % RUN) * stride;
        // SAFETY: the caller's duty. Samples are columns of the chunk, or missing.
        unsafe {
            for k in 0..rolled(LANES) {
                let (this, next) = (lane(k), lane((k + 1) % LANES));
                for g in 0..rows.div_ceil(GROUP) {
                    let x = x.add(start(g, rows));
                    let x0 = load(simd, x);
                    let sample = |n: usize| zip::<S>(load(simd, x.add(at(n))), x0, |v, x0| simd.sub_f32s(v, x0));
                    let pair = if this >= len {
                        zeros
                    } else {
                        let other = if this + LANES < len { sample(this + LANES) } else { zeros };
                        zip::<S>(sample(this), other, |a, b| simd.add_f32s(a, b))
                    };
                    simd.prefetch(x.wrapping_add(at(next)).cast());
                    simd.prefetch(x.wrapping_add(at(next + LANES)).cast());
                    push(simd, subtrees, k, g, [pair]);
                }
            }
            let [samples, _] = &subtrees[DEPTH];
            for g in 0..rows.div_ceil(GROUP) {
                let x0 = load(simd, x.add(start(g, rows)));
                let sum = load(simd, samples.as_ptr().cast::<[f32; GROUP]>().add(g).cast());
                let c = zip::<S>(x0, sum, |x0, sum| simd.add_f32s(x0, simd.mul_f32s(sum, inv_samples)));
                store(simd, sums[0][g].as_mut_ptr(), c);
            }
        }
    }
}

/// Makes the statistics of the rows of a tile from the sums of their chunks. Returns whether all can be trusted.
struct Settle<'s> {
    sums: &'s [ChunkSums],
    rows: usize,
    root: Root,
    centered: bool,
    cols: usize,
    norm: &'s mut PixelNorm,
}

impl Kernel for Settle<'_> {
    type Output = bool;

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { sums, rows, root, centered, cols, norm: PixelNorm { mean, mean_lo, rstd, .. } } = self;
        let groups = rows.div_ceil(GROUP);
        let [sums] = sums else { return self.merge(simd) };
        let mut trusted = true;
        for g in 0..groups {
            for k in 0..rolled(GROUP / FOLD_ROWS) {
                let sums = sums.each_ref().map(|v| &v[g].as_chunks::<FOLD_ROWS>().0[k]);
                let [mean, mean_lo, rstd] =
                    [&mut *mean, mean_lo, rstd].map(|v| &mut v[g].as_chunks_mut::<FOLD_ROWS>().0[k]);
                let (mut v, mut wide_mean, mut rescued) = ([0.0; FOLD_ROWS], [0.0; FOLD_ROWS], [false; FOLD_ROWS]);
                let norm = BlockNormMut { mean, mean_lo, rstd, rescued: &mut rescued };
                trusted &= settle_block(simd, sums, centered, (root, cols), norm, &mut v, &mut wide_mean);
            }
        }
        trusted
    }
}

impl Settle<'_> {
    /// The same for rows of several chunks.
    #[inline(always)]
    fn merge<S: Lanes>(self, simd: S) -> bool {
        let Self { sums, rows, root, centered, cols, norm } = self;
        let (whole, last) = ChunkLen::<f32>::of_row(cols);
        let share = root.share(cols as f64);
        for g in 0..rows.div_ceil(GROUP) {
            for r in 0..rolled(GROUP) {
                let r = r % GROUP;
                let mut stack = no_subtrees();
                let mut tree = Tree::new(&mut stack);
                for (k, [c, s, q]) in sums.iter().enumerate() {
                    let len = if k + 1 < sums.len() { whole } else { last };
                    let (c, s) = (c[g][r], if centered { s[g][r] } else { 0.0 });
                    tree.push(finish::<f32>(c, s, q[g][r], len));
                }
                let moments = tree.total();
                let v = moments.m2 * share + root.eps;
                if !(root.least::<f32>()..=*f32::TRUSTED.end()).contains(&v) {
                    return false;
                }
                let of_row = RowNorm::new(moments.origin, moments.offset, 1.0 / sqrt_f64(simd, v));
                (norm.mean[g][r], norm.mean_lo[g][r], norm.rstd[g][r]) = (of_row.mean, of_row.mean_lo, of_row.rstd);
            }
        }
        true
    }
}

/// Normalizes a tile. Whoever makes it knows that all is there.
struct Finish<'n> {
    x: *const f32,
    y: *mut f32,
    stride: usize,
    rows: usize,
    factors: &'n [f32],
    addends: &'n [f32],
    norm: &'n mut PixelNorm,
}

impl Kernel for Finish<'_> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, y, stride, rows, factors, addends, norm, .. } = self;
        let PixelNorm { mean, mean_lo, rstd, offset } = norm;
        let groups = rows.div_ceil(GROUP);
        for g in 0..groups {
            // SAFETY: all have a group.
            unsafe {
                let (lo, rstd) = (load(simd, mean_lo[g].as_ptr()), load(simd, rstd[g].as_ptr()));
                let v = zip::<S>(lo, rstd, |lo, rstd| simd.mul_f32s(simd.neg_f32s(lo), rstd));
                store(simd, offset[g].as_mut_ptr(), v);
            }
        }
        let norm = [&*mean, rstd, offset];
        let cols = factors.len();
        let mut i = 0;
        while i < cols {
            let two = i + 1 < cols;
            let j = if two { i + 1 } else { i };
            // SAFETY: whoever made this knew that the elements are there.
            unsafe {
                let places = [i, j].map(|i| (x.add(i * stride), y.add(i * stride)));
                let operands = [i, j].map(|i| [factors, addends].map(|v| simd.splat_f32s(*v.get_unchecked(i))));
                // The last group may have rows of the one before, and y may be x.
                let last = places.map(|(x, _)| load(simd, x.add(start(groups - 1, rows))));
                for g in 0..groups - 1 {
                    let v = places.map(|(x, _)| load(simd, x.add(g * GROUP)));
                    Self::group(simd, g, norm, operands, v, places.map(|(_, y)| y.add(g * GROUP)));
                }
                let at = start(groups - 1, rows);
                Self::group(simd, groups - 1, norm, operands, last, places.map(|(_, y)| y.add(at)));
            }
            i += 2;
        }
    }
}

impl Finish<'_> {
    /// Normalizes two columns of group `g`, and writes them to `y`.
    #[inline(always)]
    unsafe fn group<S: Lanes>(
        simd: S,
        g: usize,
        norm: [&OfRows; 3],
        operands: [[S::f32s; 2]; 2],
        x: [Column<S>; 2],
        y: [*mut f32; 2],
    ) {
        for r in 0..regs::<S>() {
            // SAFETY: the caller's duty.
            unsafe {
                let [hi, rstd, offset] = norm.map(|v| simd.load(v.get_unchecked(g).as_ptr().add(r * S::F32_LANES)));
                for k in 0..2 {
                    let [factor, addend] = operands[k];
                    let xhat = simd.fma(simd.sub_f32s(x[k][r], hi), rstd, offset);
                    let v = simd.fma(xhat, factor, addend);
                    simd.store(y[k].add(r * S::F32_LANES), v);
                }
            }
        }
    }
}

const _: () = assert!(GROUP.is_multiple_of(FOLD_ROWS) && CHUNK.is_multiple_of(STEP));
