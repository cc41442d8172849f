//! Short rows, each in a lane of its own: a register has one column of as many rows as it has lanes.
//!
//! Nothing is folded then, and the square roots and divisions of all rows of a register are one instruction each. Sums
//! have the bits that folds give, as they are made of the same additions: see [`Columns::tree`].
//!
//! Rows of 16 bits are widened into a room that an L1 cache keeps, and rounded out of it. So the code that takes
//! columns is compiled for f32 alone.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::blocks::{BlockNormMut, rescue_block, settle_block};
use super::epilogue::{ColumnOperands, Epilogues};
use super::job::Job;
use super::normalize::KnownRow;
use crate::element::Storage;
use crate::mean::{Center, Centered, Mean, Uncentered};
use crate::rows::Convert;
use crate::simd::{FOLD_ROWS, Float, Kernel, Lanes, QUAD, outline, rolled};
use crate::stats::{Root, RowNorm};

/// Rows of up to this many columns go through this loop.
pub(super) const TRANSPOSED_COLS: usize = 48;

/// The most rows that are transposed at a time, on any tier.
const MOST_ROWS: usize = 16;

/// The lanes of a step that the other lanes are added onto.
const EIGHT: usize = 8;

/// The lanes that are left after one more addition.
const FOUR: usize = 4;

/// Room for a block of rows, and for the rest of a pair of registers.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Room([MaybeUninit<f32>; TRANSPOSED_COLS * MOST_ROWS]);

impl Room {
    const NEW: Self = Self([MaybeUninit::uninit(); _]);

    #[inline(always)]
    fn at(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// The parts of eight rows that a block has, on any tier.
const PARTS: usize = MOST_ROWS / FOLD_ROWS;

/// The parts that a block of this tier has.
#[inline(always)]
fn parts<S: Lanes>() -> usize {
    S::F32_LANES.div_ceil(FOLD_ROWS)
}

/// A number for each row of a block.
type OfRows = [f32; MOST_ROWS];

/// Normalizes rows of a job, a block of them at a time. They have at most [`TRANSPOSED_COLS`] columns, are computed in
/// f32, and have the same operands. Rows of 16 bits follow one another. Works on three blocks at a time: it takes the
/// sums of one, makes the statistics of the block before, and normalizes the block before that. So the chain from the
/// elements of a block to its rstd, which is longer than what a processor looks ahead, hides behind the work on other
/// blocks. What is written is not checked for NaNs.
pub(super) struct Transposed<'j, 'a, T: Storage, E> {
    pub(super) job: &'j mut Job<'a, T, E>,
}

impl<T: Storage, E: Epilogues<T>> Kernel for Transposed<'_, '_, T, E> {
    /// The number of rows that have been normalized.
    type Output = usize;

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> usize {
        let Self { job } = self;
        let block = S::F32_LANES.max(FOLD_ROWS);
        let rows = job.rows.rows() / block * block;
        if rows == 0 {
            return 0;
        }
        let mut operands: ColumnOperands = [[MaybeUninit::uninit(); _]; 2];
        job.epilogues.by_column(simd, job.rows.cols(), &mut operands);
        let (mut rooms, mut staged) = ([Room::NEW; 3], Room::NEW);
        let mut rooms = rooms.each_mut();
        let mut known = [Known::NOTHING; 2];
        let mut known = known.each_mut();
        let mut sums = [[0.0; MOST_ROWS]; 3];
        // The end of the block whose statistics are made.
        let mut r = 0;
        while r <= rows + block {
            // SAFETY: the rows are there.
            unsafe {
                if block <= r && r <= rows {
                    settle(simd, job, r - block, &sums, known[0]);
                }
                if r >= 2 * block {
                    normalize(simd, job, r - 2 * block, rooms[0], &mut staged, known[1], &operands);
                }
                if r < rows {
                    take_sums(simd, job, r, rooms[2], &mut staged, &mut sums);
                }
            }
            rooms.rotate_left(1);
            known.swap(0, 1);
            r += block;
        }
        rows
    }
}

/// The statistics of a block of rows, in parts of eight.
struct Known {
    mean: [[f32; FOLD_ROWS]; PARTS],
    mean_lo: [[f32; FOLD_ROWS]; PARTS],
    rstd: [[f32; FOLD_ROWS]; PARTS],
    /// Whether the slow path has normalized the row already.
    rescued: [[bool; FOLD_ROWS]; PARTS],
    any_rescued: bool,
    /// The number under the root, and the mean.
    v: [[f64; FOLD_ROWS]; PARTS],
    wide_mean: [[f64; FOLD_ROWS]; PARTS],
}

impl Known {
    const NOTHING: Self = Self {
        mean: [[0.0; _]; _],
        mean_lo: [[0.0; _]; _],
        rstd: [[0.0; _]; _],
        rescued: [[false; _]; _],
        any_rescued: false,
        v: [[0.0; _]; _],
        wide_mean: [[0.0; _]; _],
    };
}

/// Takes the columns of the block that starts at row `r` into the room, and the shift, S and Q of each row.
///
/// # Safety
/// - The rows are there, and are computed in f32.
#[inline(always)]
unsafe fn take_sums<S: Lanes, T: Storage, E: Epilogues<T>>(
    simd: S,
    job: &mut Job<'_, T, E>,
    r: usize,
    room: &mut Room,
    staged: &mut Room,
    sums: &mut [OfRows; 3],
) {
    let cols = job.rows.cols();
    let block = S::F32_LANES.max(FOLD_ROWS);
    for k in r + block..r + 2 * block {
        job.rows.prefetch_strided(simd, k);
    }
    // SAFETY: the caller's duty.
    unsafe {
        job.input(r).take_sums(simd, block, 0, cols);
        let x = job.rows.source(r).as_ptr();
        let [stride, _] = job.rows.strides();
        let (x, stride) = if T::ROUNDS {
            outline(simd, Convert::of(x.cast_mut(), staged.at(), block * cols, true));
            (staged.at().cast_const(), cols)
        } else {
            (x.cast(), stride)
        };
        let columns = Columns { p: room.at(), cols };
        match (job.centered, T::SPLITS) {
            (true, true) => outline(simd, Sums::<Centered, true> { x, stride, columns, sums, center: PhantomData }),
            (true, false) => outline(simd, Sums::<Centered, false> { x, stride, columns, sums, center: PhantomData }),
            (false, true) => outline(simd, Sums::<Uncentered, true> { x, stride, columns, sums, center: PhantomData }),
            (false, false) => {
                outline(simd, Sums::<Uncentered, false> { x, stride, columns, sums, center: PhantomData });
            }
        }
    }
}

/// Makes the statistics of the block that starts at row `r`.
#[inline(always)]
fn settle<S: Lanes, T: Storage, E: Epilogues<T>>(
    simd: S,
    job: &mut Job<'_, T, E>,
    r: usize,
    sums: &[OfRows; 3],
    known: &mut Known,
) {
    let root = (job.root, job.rows.cols());
    let trusted = if job.centered {
        outline(simd, Settle { sums, root, known, center: PhantomData::<Centered> })
    } else {
        outline(simd, Settle { sums, root, known, center: PhantomData::<Uncentered> })
    };
    for k in 0..parts::<S>() {
        // The float is f32, whatever the compiler knows of it.
        let [mean, mean_lo, rstd]: [&[T::Float; FOLD_ROWS]; 3] =
            [&known.mean, &known.mean_lo, &known.rstd].map(|v| bytemuck::cast_ref(&v[k]));
        job.stats.set_block(r + k * FOLD_ROWS, mean, mean_lo, rstd);
    }
    known.any_rescued = !trusted && rescue(job, r, parts::<S>(), known);
}

/// Sends rows of the block that starts at row `r` to the slow path, if they need it. Returns whether some did.
#[cold]
#[inline(never)]
fn rescue<T: Storage, E: Epilogues<T>>(job: &mut Job<'_, T, E>, r: usize, parts: usize, known: &mut Known) -> bool {
    let mut any_rescued = false;
    for k in 0..parts {
        let norm = BlockNormMut {
            mean: bytemuck::cast_mut(&mut known.mean[k]),
            mean_lo: bytemuck::cast_mut(&mut known.mean_lo[k]),
            rstd: bytemuck::cast_mut(&mut known.rstd[k]),
            rescued: &mut known.rescued[k],
        };
        any_rescued |= rescue_block(job, r + k * FOLD_ROWS, known.v[k], known.wide_mean[k], norm);
    }
    any_rescued
}

/// Makes the statistics of a block from its sums. Returns whether all rows can be trusted.
struct Settle<'k, M> {
    sums: &'k [OfRows; 3],
    /// What the root is taken of, and the columns.
    root: (Root, usize),
    known: &'k mut Known,
    center: PhantomData<M>,
}

impl<M: Center> Kernel for Settle<'_, M> {
    type Output = bool;

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { sums, root, known, .. } = self;
        let mut trusted = true;
        for k in 0..parts::<S>() {
            let sums = sums.each_ref().map(|v| &v.as_chunks::<FOLD_ROWS>().0[k]);
            let norm = BlockNormMut {
                mean: &mut known.mean[k],
                mean_lo: &mut known.mean_lo[k],
                rstd: &mut known.rstd[k],
                rescued: &mut known.rescued[k],
            };
            let (v, wide_mean) = (&mut known.v[k], &mut known.wide_mean[k]);
            trusted &= settle_block(simd, sums, M::CENTERED, root, norm, v, wide_mean);
        }
        trusted
    }
}

/// Normalizes the block that starts at row `r`.
///
/// # Safety
/// - The rows are there, and the room has their columns.
#[inline(always)]
unsafe fn normalize<S: Lanes, T: Storage, E: Epilogues<T>>(
    simd: S,
    job: &mut Job<'_, T, E>,
    r: usize,
    room: &mut Room,
    staged: &mut Room,
    known: &Known,
    operands: &ColumnOperands,
) {
    let cols = job.rows.cols();
    let block = S::F32_LANES.max(FOLD_ROWS);
    if known.any_rescued {
        if job.centered {
            outline(simd, Apart { job, r, known, center: PhantomData::<Centered> });
        } else {
            outline(simd, Apart { job, r, known, center: PhantomData::<Uncentered> });
        }
        return;
    }
    let columns = Columns { p: room.at(), cols };
    // SAFETY: the caller's duty.
    unsafe {
        let y = job.rows.target(r, false);
        let rounds = T::ROUNDS && !y.is_wide();
        let [_, stride] = job.rows.strides();
        let (to, stride) = if rounds { (staged.at(), cols) } else { (y.as_mut_ptr().cast(), stride) };
        if job.centered {
            outline(simd, Finish { columns, known, operands, y: to, stride, center: PhantomData::<Centered> });
        } else {
            outline(simd, Finish { columns, known, operands, y: to, stride, center: PhantomData::<Uncentered> });
        }
        if rounds {
            outline(simd, Convert::of(y.as_mut_ptr(), staged.at(), block * cols, false));
        }
    }
}

/// Normalizes the rows of the block that starts at row `r`, each by itself, but for those that the slow path has
/// normalized. Whoever makes it knows that the rows are there.
struct Apart<'k, 'j, 'a, T: Storage, M, E> {
    job: &'j mut Job<'a, T, E>,
    r: usize,
    known: &'k Known,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center, E: Epilogues<T>> Kernel for Apart<'_, '_, '_, T, M, E> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { job, r, known, .. } = self;
        let (cols, mean) = (job.rows.cols(), Mean::<M>::new(job.centered));
        for k in 0..rolled(S::F32_LANES.max(FOLD_ROWS)) {
            if !known.rescued.as_flattened()[k] {
                let [hi, lo, rstd] =
                    [&known.mean, &known.mean_lo, &known.rstd].map(|v| T::Float::from_f32(v.as_flattened()[k]));
                let norm = RowNorm { mean: hi, mean_lo: lo, rstd };
                // SAFETY: whoever made this knew it.
                unsafe {
                    let (x, epilogue) = (job.rows.source(r + k), job.epilogue(r + k));
                    KnownRow { mean, x, norm, epilogue }.normalize_part(simd, 0, cols);
                }
            }
        }
    }
}

/// The columns of a block of rows. Register `i` from the start of a stripe on is column `i` of as many rows as a
/// register has lanes. The rows of a block are one stripe, or two where a register has four lanes.
#[derive(Clone, Copy)]
struct Columns {
    p: *mut f32,
    cols: usize,
}

impl Columns {
    /// The columns of the stripe that starts at row `at`.
    #[inline(always)]
    unsafe fn stripe(self, at: usize) -> Self {
        // SAFETY: the caller's duty.
        Self { p: unsafe { self.p.add(at * self.cols) }, ..self }
    }

    #[inline(always)]
    unsafe fn get<S: Lanes>(self, simd: S, i: usize) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe { f32::load(simd, self.p.add(i * S::F32_LANES)) }
    }

    #[inline(always)]
    unsafe fn put<S: Lanes>(self, simd: S, i: usize, v: S::f32s) {
        // SAFETY: the caller's duty.
        unsafe { f32::store(simd, self.p.add(i * S::F32_LANES), v) };
    }

    /// Takes the columns of rows, of which the first is at `x` and each `stride` elements after the one before.
    ///
    /// # Safety
    /// - The rows are there, and there is room for their columns.
    #[inline(always)]
    unsafe fn load<S: Lanes>(self, simd: S, x: *const f32, stride: usize) {
        let cols = self.cols;
        // SAFETY: the caller's duty.
        unsafe {
            if cols < QUAD {
                for i in 0..rolled(cols) {
                    for r in 0..S::F32_LANES {
                        *self.p.add(i * S::F32_LANES + r) = *x.add(r * stride + i);
                    }
                }
                return;
            }
            let mut i = 0;
            while i < cols {
                // The last quad may take columns again.
                i = i.min(cols - QUAD);
                let v = simd.load_quad(x.add(i), stride);
                for v in v {
                    self.put(simd, i, v);
                    i += 1;
                }
            }
        }
    }

    /// The number of lanes that take columns, in eights, rounded up to a number that [`tree`](Self::tree) has code for.
    /// A lane takes one column, or two that follow one another if `splits`.
    #[inline(always)]
    fn eights(self, splits: bool) -> usize {
        match self.cols.div_ceil(EIGHT) {
            1 => 1,
            2 => 1 + usize::from(!splits),
            3..=6 if splits => 3,
            3 | 4 => 4,
            _ => 6,
        }
    }

    /// Puts `v` into the columns that are missing of [`eights`](Self::eights).
    #[inline(always)]
    unsafe fn pad<S: Lanes>(self, simd: S, v: S::f32s, splits: bool) {
        let step = if splits { 2 * EIGHT } else { EIGHT };
        for i in self.cols..step * self.eights(splits) {
            // SAFETY: the caller's duty.
            unsafe { self.put(simd, i, v) };
        }
    }

    /// Adds up the terms of all lanes of a step as folds by halves do: the upper half onto the lower half.
    #[inline(always)]
    unsafe fn tree<S: Lanes, const N: usize, const SPLITS: bool>(
        self,
        simd: S,
        terms: impl Terms<S, N>,
    ) -> [S::f32s; N] {
        // SAFETY: the caller's duty.
        unsafe {
            if SPLITS {
                match self.eights(true) {
                    1 => self.tree_of::<S, N, true, 1>(simd, terms),
                    _ => self.tree_of::<S, N, true, 3>(simd, terms),
                }
            } else {
                match self.eights(false) {
                    1 => self.tree_of::<S, N, false, 1>(simd, terms),
                    2 => self.tree_of::<S, N, false, 2>(simd, terms),
                    4 => self.tree_of::<S, N, false, 4>(simd, terms),
                    _ => self.tree_of::<S, N, false, 6>(simd, terms),
                }
            }
        }
    }

    /// The same for `EIGHTS` times eight columns, or twice as many if `SPLITS`.
    #[inline(always)]
    unsafe fn tree_of<S: Lanes, const N: usize, const SPLITS: bool, const EIGHTS: usize>(
        self,
        simd: S,
        terms: impl Terms<S, N>,
    ) -> [S::f32s; N] {
        let mut fours = [[simd.splat_f32s(0.0); N]; FOUR];
        // More columns are more work for one piece of code, and worth a loop that stays one.
        let count = if EIGHTS <= 2 { FOUR } else { rolled(FOUR) };
        let mut l = 0;
        while l < count {
            // SAFETY: the caller's duty. `fours` has FOUR elements, and l < FOUR.
            unsafe {
                let lower = self.lane::<S, N, SPLITS, EIGHTS>(simd, &terms, l);
                let upper = self.lane::<S, N, SPLITS, EIGHTS>(simd, &terms, l + FOUR);
                *fours.as_mut_ptr().add(l) = plus(simd, lower, upper);
            }
            l += 1;
        }
        plus(simd, plus(simd, fours[0], fours[2]), plus(simd, fours[1], fours[3]))
    }

    /// The sum of lane `l < EIGHT` and of each lane that lies a multiple of eight above it.
    #[inline(always)]
    unsafe fn lane<S: Lanes, const N: usize, const SPLITS: bool, const EIGHTS: usize>(
        self,
        simd: S,
        terms: &impl Terms<S, N>,
        l: usize,
    ) -> [S::f32s; N] {
        // SAFETY: the caller's duty.
        unsafe {
            let mut v = self.term::<S, N, SPLITS, EIGHTS>(simd, terms, l, 0);
            if EIGHTS > 2 {
                v = plus(simd, v, self.term::<S, N, SPLITS, EIGHTS>(simd, terms, l, 2));
            }
            if EIGHTS > 1 {
                let mut w = self.term::<S, N, SPLITS, EIGHTS>(simd, terms, l, 1);
                if EIGHTS > 3 {
                    w = plus(simd, w, self.term::<S, N, SPLITS, EIGHTS>(simd, terms, l, 3));
                }
                v = plus(simd, v, w);
            }
            v
        }
    }

    /// The terms of lane `l + k * EIGHT`, which takes one or two columns.
    #[inline(always)]
    unsafe fn term<S: Lanes, const N: usize, const SPLITS: bool, const EIGHTS: usize>(
        self,
        simd: S,
        terms: &impl Terms<S, N>,
        l: usize,
        k: usize,
    ) -> [S::f32s; N] {
        const LANES: usize = <f32 as Float>::LANES;
        let l = l + k * EIGHT;
        // SAFETY: the caller's duty.
        unsafe {
            if SPLITS {
                terms.of_two(self.get(simd, 2 * l), self.get(simd, 2 * l + 1))
            } else if k + LANES / EIGHT < EIGHTS {
                terms.of_two(self.get(simd, l), self.get(simd, l + LANES))
            } else {
                terms.of_one(self.get(simd, l))
            }
        }
    }
}

#[inline(always)]
fn plus<S: Lanes, const N: usize>(simd: S, mut a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
    for k in 0..N {
        a[k] = simd.add_f32s(a[k], b[k]);
    }
    a
}

/// What is added up, for the one or the two columns that a lane takes.
trait Terms<S: Lanes, const N: usize> {
    fn of_one(&self, a: S::f32s) -> [S::f32s; N];
    fn of_two(&self, a: S::f32s, b: S::f32s) -> [S::f32s; N];
}

/// The differences from `from`, whose squares are not taken: what samples are.
struct Samples<S: Lanes> {
    simd: S,
    from: S::f32s,
}

impl<S: Lanes> Terms<S, 1> for Samples<S> {
    #[inline(always)]
    fn of_one(&self, a: S::f32s) -> [S::f32s; 1] {
        [self.simd.sub_f32s(a, self.from)]
    }

    #[inline(always)]
    fn of_two(&self, a: S::f32s, b: S::f32s) -> [S::f32s; 1] {
        [self.simd.add_f32s(self.simd.sub_f32s(a, self.from), self.simd.sub_f32s(b, self.from))]
    }
}

/// The differences from the shift, and their squares.
struct Deviations<S: Lanes> {
    simd: S,
    shift: S::f32s,
}

impl<S: Lanes> Terms<S, 2> for Deviations<S> {
    #[inline(always)]
    fn of_one(&self, a: S::f32s) -> [S::f32s; 2] {
        let a = self.simd.sub_f32s(a, self.shift);
        [a, self.simd.mul_f32s(a, a)]
    }

    #[inline(always)]
    fn of_two(&self, a: S::f32s, b: S::f32s) -> [S::f32s; 2] {
        let simd = self.simd;
        let (a, b) = (simd.sub_f32s(a, self.shift), simd.sub_f32s(b, self.shift));
        [simd.add_f32s(a, b), simd.fma(b, b, simd.mul_f32s(a, a))]
    }
}

struct Squares<S>(S);

impl<S: Lanes> Terms<S, 1> for Squares<S> {
    #[inline(always)]
    fn of_one(&self, a: S::f32s) -> [S::f32s; 1] {
        [self.0.mul_f32s(a, a)]
    }

    #[inline(always)]
    fn of_two(&self, a: S::f32s, b: S::f32s) -> [S::f32s; 1] {
        [self.0.fma(b, b, self.0.mul_f32s(a, a))]
    }
}

/// Takes the columns of a block of rows, and the shift, S and Q of each row. The first row is at `x`, and each `stride`
/// elements after the one before. Whoever makes it knows that the rows are there, and that there is room for their
/// columns.
struct Sums<'r, M, const SPLITS: bool> {
    x: *const f32,
    stride: usize,
    columns: Columns,
    sums: &'r mut [OfRows; 3],
    center: PhantomData<M>,
}

impl<M: Center, const SPLITS: bool> Kernel for Sums<'_, M, SPLITS> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, stride, columns, sums, .. } = self;
        let zero = simd.splat_f32s(0.0);
        for at in (0..S::F32_LANES.max(FOLD_ROWS)).step_by(S::F32_LANES) {
            // SAFETY: whoever made this knew it.
            unsafe {
                let columns = columns.stripe(at);
                columns.load(simd, x.add(at * stride), stride);
                let (mut c, mut s) = (zero, zero);
                let q = if M::CENTERED {
                    let x0 = columns.get(simd, 0);
                    columns.pad(simd, x0, SPLITS);
                    let [samples] = columns.tree::<S, 1, SPLITS>(simd, Samples { simd, from: x0 });
                    // All columns are samples, as there are fewer than a step has.
                    let inv_samples = f32::from_f64(1.0 / columns.cols as f64);
                    c = simd.add_f32s(x0, simd.mul_f32s(samples, simd.splat_f32s(inv_samples)));
                    columns.pad(simd, c, SPLITS);
                    let [sum, q] = columns.tree::<S, 2, SPLITS>(simd, Deviations { simd, shift: c });
                    // Sums begin with +0, so that none is -0.
                    s = simd.add_f32s(sum, zero);
                    q
                } else {
                    columns.pad(simd, zero, SPLITS);
                    let [q] = columns.tree::<S, 1, SPLITS>(simd, Squares(simd));
                    q
                };
                for (sums, v) in sums.iter_mut().zip([c, s, q]) {
                    f32::store(simd, sums.as_mut_ptr().add(at), v);
                }
            }
        }
    }
}

/// Normalizes a block of rows out of its columns, and writes the rows, the first to `y` and each `stride` elements
/// after the one before. Whoever makes it knows that the columns are there, and that the rows of `y` may be written.
struct Finish<'k, M> {
    columns: Columns,
    known: &'k Known,
    operands: &'k ColumnOperands,
    y: *mut f32,
    stride: usize,
    center: PhantomData<M>,
}

impl<M: Center> Kernel for Finish<'_, M> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { columns, known, operands: [factors, addends], y, stride, .. } = self;
        let (factors, addends) = (factors.as_ptr().cast::<f32>(), addends.as_ptr().cast::<f32>());
        for at in (0..S::F32_LANES.max(FOLD_ROWS)).step_by(S::F32_LANES) {
            // SAFETY: whoever made this knew it.
            unsafe {
                let [mean, mean_lo, rstd] =
                    [&known.mean, &known.mean_lo, &known.rstd].map(|v| v.as_flattened().as_ptr().add(at));
                let (hi, lo, rstd) = (f32::load(simd, mean), f32::load(simd, mean_lo), f32::load(simd, rstd));
                let offset = simd.mul_f32s(simd.neg_f32s(lo), rstd);
                let columns = Normalized::<S, M> {
                    simd,
                    columns: columns.stripe(at),
                    hi,
                    rstd,
                    offset,
                    factors,
                    addends,
                    center: PhantomData,
                };
                columns.store(y.add(at * stride), stride);
            }
        }
    }
}

/// The columns of y of one stripe.
struct Normalized<S: Lanes, M> {
    simd: S,
    columns: Columns,
    hi: S::f32s,
    rstd: S::f32s,
    offset: S::f32s,
    factors: *const f32,
    addends: *const f32,
    center: PhantomData<M>,
}

impl<S: Lanes, M: Center> Normalized<S, M> {
    /// Column `i`.
    #[inline(always)]
    unsafe fn get(&self, i: usize) -> S::f32s {
        let simd = self.simd;
        // SAFETY: the caller's duty.
        unsafe {
            let (x, factor) = (self.columns.get(simd, i), simd.splat_f32s(*self.factors.add(i)));
            if M::CENTERED {
                let xhat = simd.fma(simd.sub_f32s(x, self.hi), self.rstd, self.offset);
                simd.fma(xhat, factor, simd.splat_f32s(*self.addends.add(i)))
            } else {
                simd.mul_f32s(simd.mul_f32s(x, self.rstd), factor)
            }
        }
    }

    /// Writes the rows, the first to `y` and each `stride` elements after the one before.
    #[inline(always)]
    unsafe fn store(&self, y: *mut f32, stride: usize) {
        let (simd, cols) = (self.simd, self.columns.cols);
        // SAFETY: the caller's duty.
        unsafe {
            if cols < QUAD {
                for i in 0..rolled(cols) {
                    // A column takes the place of a column of x, whose last use this is.
                    self.columns.put(simd, i, self.get(i));
                    for r in 0..S::F32_LANES {
                        *y.add(r * stride + i) = *self.columns.p.add(i * S::F32_LANES + r);
                    }
                }
                return;
            }
            let mut i = 0;
            while i < cols {
                // The last quad may write columns again.
                i = i.min(cols - QUAD);
                let v = [self.get(i), self.get(i + 1), self.get(i + 2), self.get(i + 3)];
                simd.store_quad(y.add(i), stride, v);
                i += QUAD;
            }
        }
    }
}

const _: () = assert!(size_of::<ColumnOperands>() == 2 * (TRANSPOSED_COLS + 2 * MOST_ROWS) * size_of::<f32>());
