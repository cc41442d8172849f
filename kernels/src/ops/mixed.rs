//! Rows of f32 with buffers of 16 bits beside them: gamma and beta, y, or the x of sums.
//!
//! Loops know f32 alone here. Elements of 16 bits are widened into a room that an L1 cache keeps, and y is rounded out
//! of it. So the bits are those of a call on f32, with y rounded once more where it has 16 bits, and the loops of f32
//! are no longer for it.
//!
//! - Rows of up to [`VECTOR`] columns: gamma and beta are widened once for all rows that share them. If y or the x of
//!   sums has 16 bits, as many rows as the room has place for are normalized at a time.
//! - Longer rows, one by one: the sums if there are any, the moments, and then pieces of [`VECTOR`] columns, each with
//!   its piece of gamma and beta.

use core::mem::MaybeUninit;
use core::slice::from_raw_parts;

use half::{bf16, f16};

use super::moments::RowMoments;
use crate::element::{Kind, Storage};
use crate::isa::Isa;
use crate::loops::{Columns, Epilogues, Job, Known, exactly, rescue, run_columns, run_job};
use crate::mean::Center;
use crate::rows::{AddRounded, Convert, Input, LINE, Params, RawRows, RowIo, Vector};
use crate::simd::{Kernel, Lanes, outline};
use crate::stack;
use crate::stats::exact::WideNorm;
use crate::stats::{Moments, RowNorm};

/// The columns of gamma and beta that are widened at a time.
const VECTOR: usize = 1024;

/// The elements of rows that are widened or rounded at a time.
const ROWS: usize = 2048;

pub(super) type Jobs<'a, T> = Job<'a, T, Params<'a, T>>;

/// The loops of one kind of rows, by pointers, so that this module is compiled once for all.
pub(super) struct Loops<T: Storage> {
    job: fn(&mut Job<'_, T, Params<'_, T>>, Isa),
    columns: fn(&mut Columns<'_, T, Params<'_, T>>, Isa),
    moments: fn(RowMoments<'_, T>, Isa) -> Moments,
}

impl<T: Storage> Loops<T> {
    pub(super) const fn of<L: Center>() -> Self {
        fn job<T: Storage, L: Center>(job: &mut Job<'_, T, Params<'_, T>>, isa: Isa) {
            run_job::<T, L, _>(job, isa);
        }
        fn columns<T: Storage, L: Center>(job: &mut Columns<'_, T, Params<'_, T>>, isa: Isa) {
            run_columns::<T, L, _>(job, isa);
        }
        Self { job: job::<T, L>, columns: columns::<T, L>, moments: |row, isa| row.run_here::<L>(isa) }
    }

    /// Normalizes columns of a row that is not mixed.
    pub(super) fn run_columns(&self, columns: &mut Columns<'_, T, Params<'_, T>>, isa: Isa) {
        (self.columns)(columns, isa);
    }

    /// Runs a job that is not mixed.
    pub(super) fn run(&self, job: &mut Jobs<'_, T>, isa: Isa) {
        (self.job)(job, isa);
    }
}

/// Room for elements that have been widened, or are yet to be rounded.
#[repr(align(64))]
pub(super) struct Room<const N: usize>([MaybeUninit<f32>; N]);

impl<const N: usize> Room<N> {
    pub(super) const NEW: Self = Self([MaybeUninit::uninit(); N]);

    /// Where the elements are.
    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }

    /// Where the elements are. `T` is f32.
    fn at<T: Storage>(&mut self) -> *mut T {
        assert!(T::MIXES);
        self.0.as_mut_ptr().cast()
    }

    /// Contiguous rows in the room.
    fn rows<T: Storage>(&mut self, cols: usize) -> RawRows<T> {
        RawRows { p: self.at(), stride: cols, kind: Kind::Own }
    }
}

/// Whether a job has buffers of 16 bits beside rows of f32.
#[inline(always)]
pub(super) fn is_mixed<T: Storage>(rows: &RowIo<'_, T>, params: &Params<'_, T>) -> bool {
    T::MIXES && (rows.are_mixed() || params.are_narrow())
}

/// Runs a job, mixed or not.
pub(super) fn run_any<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) {
    if is_mixed(&job.rows, &job.epilogues) { run(job, isa, loops) } else { loops.run(job, isa) }
}

/// The kind of f32 beside rows of `T`.
pub(super) const fn wide_kind<T: Storage>() -> Kind {
    if T::ROUNDS { Kind::F32 } else { Kind::Own }
}

/// Rows of f32 in a room, beside rows of `T`.
pub(super) fn staged<T: Storage<Float = f32>, const N: usize>(room: &mut Room<N>, cols: usize) -> RawRows<T> {
    RawRows { p: room.as_mut_ptr().cast(), stride: cols, kind: wide_kind::<T>() }
}

/// Writes rows of f32 to y, rounded to its type.
///
/// # Safety
/// - Both have these rows, which are apart, and y may be written.
pub(super) unsafe fn write<T: Storage>(isa: Isa, y: RawRows<T>, wide: RawRows<T>, rows: usize, cols: usize) {
    let size = [rows, cols];
    match y.kind {
        Kind::Own if T::ROUNDS => isa.run(Convert::<T>::rows(y, wide, false, size)),
        Kind::F16 => isa.run(Convert::<f16>::rows(y, wide, false, size)),
        Kind::Bf16 => isa.run(Convert::<bf16>::rows(y, wide, false, size)),
        Kind::Own | Kind::F32 => {
            for r in 0..rows {
                // SAFETY: the caller's duty.
                unsafe {
                    let (from, to) = (wide.p.cast::<f32>().add(r * wide.stride), y.p.cast::<f32>().add(r * y.stride));
                    to.copy_from_nonoverlapping(from, cols);
                }
            }
        }
    }
}

/// Runs a job, which has rows and columns.
#[cold]
#[inline(never)]
pub(super) fn run<'a, T: Storage>(job: &mut Jobs<'a, T>, isa: Isa, loops: &Loops<T>) {
    if job.rows.cols() <= VECTOR { run_short(job, isa, loops) } else { run_long(job, isa, loops) }
}

/// Normalizes a row, or some columns of it, whose statistics are known.
#[cold]
#[inline(never)]
pub(super) fn run_known<T: Storage>(job: &mut Columns<'_, T, Params<'_, T>>, isa: Isa, loops: &Loops<T>) {
    let known = Known::Norm(job.norm);
    finish(isa, job.centered, job.row.part(0, 1), job.epilogues, job.streaming, &known, Some(loops));
}

/// Normalizes the only row of a job with moments of the slow path.
#[cold]
#[inline(never)]
pub(super) fn run_exactly<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, moments: &Moments) {
    let known = Known::Exact(exactly(job, 0, moments));
    let params = job.epilogues.of_row(0, job.rows.cols());
    finish(isa, job.centered, job.rows.part(0, 1), params, job.streaming, &known, None);
}

/// Out of line, so that long rows need no stack for these rooms.
#[inline(never)]
fn run_short<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) {
    let (mut vectors, mut room) = ([const { Room::<VECTOR>::NEW }; 2], Room::<ROWS>::NEW);
    let (rows, cols, params) = (job.rows.rows(), job.rows.cols(), job.epilogues);
    let together = if job.rows.are_mixed() { ROWS / cols } else { rows };
    let fit = params.groups.groups().saturating_mul(cols) <= VECTOR;
    let mut r = 0;
    while r < rows {
        let (params, n) =
            if fit { (params, rows) } else { (params.of_row(r, cols), params.groups.rows_from(r).min(rows - r)) };
        let mut part: Jobs<'_, T> = job.part(r, n);
        part.epilogues = widened(isa, params, &mut vectors);
        for at in (0..n).step_by(together) {
            run_some(part.part(at, together.min(n - at)), isa, loops, &mut room);
        }
        r += n;
    }
}

/// Runs a job whose rows fit into the room if they are mixed.
#[inline(never)]
fn run_some<T: Storage>(mut job: Jobs<'_, T>, isa: Isa, loops: &Loops<T>, room: &mut Room<ROWS>) {
    let (rows, cols) = (job.rows.rows(), job.rows.cols());
    let y = job.rows.y();
    let staged = room.rows(cols);
    job.rows = with_rows_in(isa, job.rows, staged);
    if job.streaming {
        stack::within_a_page(&mut job, isa, loops.job);
    } else {
        (loops.job)(&mut job, isa);
    }
    if y.kind.is_narrow() {
        // SAFETY: both have these rows.
        unsafe { convert(isa, y, staged, false, rows, cols) };
    }
}

fn run_long<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>) {
    let (cols, centered, streaming) = (job.rows.cols(), job.centered, job.streaming);
    for r in 0..job.rows.rows() {
        let known = know_row(job, isa, loops, r);
        let params = job.epilogues.of_row(r, cols);
        finish(isa, centered, job.rows.part(r, 1).summed(), params, streaming, &known, Some(loops));
    }
}

/// Takes the sums of row `r`, if it is a sum, and its statistics, which are written.
pub(super) fn know_row<T: Storage>(job: &mut Jobs<'_, T>, isa: Isa, loops: &Loops<T>, r: usize) -> Known<T::Float> {
    let (cols, centered) = (job.rows.cols(), job.centered);
    if job.rows.is_sum() {
        take_sums(isa, job.rows.part(r, 1), job.bias);
    }
    // SAFETY: there is such a row.
    let x = unsafe { from_raw_parts(job.rows.source(r).as_ptr(), cols) };
    let moments = (loops.moments)(RowMoments { x, centered, scale: None }, isa);
    match RowNorm::trusted(pulp::Scalar, &moments, &job.root) {
        Some(norm) => {
            job.stats.set(r, &norm);
            Known::Norm(norm)
        }
        None => rescue(job, r, job.root.above(moments.m2, moments.count), moments.mean()),
    }
}

/// Takes the sums of one row.
#[inline(never)]
pub(super) fn take_sums<T: Storage>(isa: Isa, mut row: RowIo<'_, T>, mut bias: Option<&[T]>) {
    let mut room = Room::<ROWS>::NEW;
    while row.cols() > 0 {
        let (piece, rest) = row.split_at_col(ROWS);
        let cols = piece.cols();
        let (bias_here, bias_rest) = bias.map(|bias| bias.split_at(cols)).unzip();
        (row, bias) = (rest, bias_rest);
        let is_narrow = piece.addend().is_some_and(|x| x.kind.is_narrow());
        let piece = if is_narrow { with_addend_in(isa, piece, room.rows(cols)) } else { piece };
        // SAFETY: there is a row, and the bias has an element for each column.
        let input = unsafe { piece.input(0, bias_here, false) };
        isa.run(TakeSums { input, cols });
    }
}

/// Takes the sums of a row of `cols` elements. Whoever makes it knows that they are there.
struct TakeSums<T> {
    input: Input<T>,
    cols: usize,
}

impl<T: Storage> Kernel for TakeSums<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        // SAFETY: whoever made this knew it.
        unsafe { self.input.take_sums(simd, 1, 0, self.cols) };
    }
}

/// Normalizes one row, or some columns of it, piece by piece.
pub(super) fn finish<T: Storage>(
    isa: Isa,
    centered: bool,
    mut row: RowIo<'_, T>,
    mut params: Params<'_, T>,
    streaming: bool,
    known: &Known<T::Float>,
    loops: Option<&Loops<T>>,
) {
    let (mut vectors, mut room) = ([const { Room::<VECTOR>::NEW }; 2], Room::<VECTOR>::NEW);
    // Pieces end with cache lines of y, which are streamed whole.
    let mut most = VECTOR - if streaming { row.y().p.addr() % LINE / size_of::<f32>() } else { 0 };
    while row.cols() > 0 {
        let all = row.cols();
        let (piece, rest) = row.split_at_col(most);
        let cols = piece.cols();
        let (given, params_rest) = params.split_at_col(cols, all);
        (row, params, most) = (rest, params_rest, VECTOR);
        let epilogues = widened(isa, given, &mut vectors);
        let y = piece.y();
        let mut piece = if y.kind.is_narrow() { with_y_in(piece, room.rows(cols)) } else { piece };
        match (known, loops) {
            (&Known::Norm(norm), Some(loops)) => {
                let mut job = Columns { centered, row: piece, epilogues, norm, streaming };
                stack::within_a_page(&mut job, isa, loops.columns);
            }
            (&Known::Exact(Some(norm)), _) => finish_exactly(isa, &mut piece, &epilogues, norm),
            // SAFETY: there is a row.
            _ => unsafe { epilogues.finish_nan(&mut piece, 0) },
        }
        if y.kind.is_narrow() {
            // SAFETY: both have this row.
            unsafe { convert(isa, y, room.rows(cols), false, 1, cols) };
        }
    }
}

#[inline(never)]
fn finish_exactly<T: Storage>(isa: Isa, row: &mut RowIo<'_, T>, params: &Params<'_, T>, norm: WideNorm) {
    // SAFETY: there is a row.
    unsafe {
        Epilogues::finish_exactly(params, isa, row, 0, false, norm);
        if !params.are_finite() {
            Epilogues::canonicalize(params, row, 0);
        }
    }
}

/// gamma and beta, widened into the room if they have 16 bits. The offset is added there if the sum is rounded.
#[inline(never)]
fn widened<'r, T: Storage>(
    isa: Isa,
    params: Params<'r, T>,
    [gammas, betas]: &'r mut [Room<VECTOR>; 2],
) -> Params<'r, T> {
    let widen = |v: Option<Vector<'r, T>>, room: &'r mut Room<VECTOR>| {
        let v = v?;
        if !v.kind().is_narrow() {
            return Some(v);
        }
        let len = v.len();
        assert!(len <= VECTOR);
        let (narrow, wide) = (RawRows { p: v.as_ptr().cast_mut(), stride: len, kind: v.kind() }, room.rows(len));
        // SAFETY: the vector and the room have `len` elements, and the room is borrowed for as long as the vector.
        Some(unsafe {
            convert(isa, narrow, wide, true, 1, len);
            Vector::from_raw(wide.p, len, Kind::Own)
        })
    };
    let (gamma, beta) = (widen(params.gamma, gammas), widen(params.beta, betas));
    match (params.gamma, gamma) {
        (Some(narrow), Some(wide)) if narrow.kind().is_narrow() && params.rounds_gamma() => {
            // It is in the room, and elements beside f32 are of its float.
            let (p, n, offset): (_, _, f64) = (wide.as_ptr().cast_mut().cast(), wide.len(), params.offset.into());
            match narrow.kind() {
                Kind::F16 => isa.run(AddRounded::<f16>::new(p, n, offset as f32)),
                _ => isa.run(AddRounded::<bf16>::new(p, n, offset as f32)),
            }
            Params { gamma, beta, offset: -T::Float::default(), ..params }
        }
        _ => Params { gamma, beta, ..params },
    }
}

/// Widens gamma, which has 16 bits, into `wide`, which is of f32 and as long, and adds the offset, for kernels.
#[inline(always)]
pub(super) fn widen_gamma<S: Lanes, T: Storage>(
    simd: S,
    params: &Params<'_, T>,
    narrow: Vector<'_, T>,
    wide: &mut [T::Float],
) {
    let (len, kind) = (narrow.len(), narrow.kind());
    assert!(T::MIXES && len == wide.len());
    let narrow = RawRows { p: narrow.as_ptr().cast_mut(), stride: len, kind };
    let p = wide.as_mut_ptr().cast::<f32>();
    let rows = RawRows { p: p.cast(), stride: len, kind: Kind::Own };
    let (rounds, offset): (_, f64) = (params.rounds_gamma(), params.offset.into());
    if kind == Kind::F16 {
        outline(simd, Convert::<f16>::rows(narrow, rows, true, [1, len]));
    } else {
        outline(simd, Convert::<bf16>::rows(narrow, rows, true, [1, len]));
    }
    match (rounds, kind) {
        (false, _) => wide.iter_mut().for_each(|gamma| *gamma = *gamma + params.offset),
        (true, Kind::F16) => outline(simd, AddRounded::<f16>::new(p, len, offset as f32)),
        (true, _) => outline(simd, AddRounded::<bf16>::new(p, len, offset as f32)),
    }
}

/// The same rows, of which the x of sums and y are in the room if they have 16 bits. Both may be there at once, as y
/// may be x.
fn with_rows_in<'r, T: Storage>(isa: Isa, rows: RowIo<'r, T>, staged: RawRows<T>) -> RowIo<'r, T> {
    with_y_in(with_addend_in(isa, rows, staged), staged)
}

/// The same rows, of which y is in the room if it has 16 bits.
#[inline(never)]
fn with_y_in<'r, T: Storage>(rows: RowIo<'r, T>, staged: RawRows<T>) -> RowIo<'r, T> {
    if !rows.y().kind.is_narrow() {
        return rows;
    }
    // SAFETY: the room has these rows, and nothing else uses it until they have been run.
    unsafe { rows.with_y(staged) }
}

/// The same rows, of which the x of sums has been widened into the room if it has 16 bits.
#[inline(never)]
fn with_addend_in<'r, T: Storage>(isa: Isa, rows: RowIo<'r, T>, staged: RawRows<T>) -> RowIo<'r, T> {
    match rows.addend() {
        // SAFETY: as above.
        Some(x) if x.kind.is_narrow() => unsafe {
            convert(isa, x, staged, true, rows.rows(), rows.cols());
            rows.with_addend(staged)
        },
        _ => rows,
    }
}

/// Widens rows of 16 bits, or rounds `wide` to 16 bits. `T` is f32.
///
/// # Safety
/// - Both have these rows, which are apart. What is written may be written.
/// - The kind of `narrow` is of 16 bits.
#[inline(never)]
unsafe fn convert<T: Storage>(isa: Isa, narrow: RawRows<T>, wide: RawRows<T>, widens: bool, rows: usize, cols: usize) {
    match narrow.kind {
        Kind::F16 => isa.run(Convert::<f16>::rows(narrow, wide, widens, [rows, cols])),
        Kind::Bf16 => isa.run(Convert::<bf16>::rows(narrow, wide, widens, [rows, cols])),
        Kind::Own | Kind::F32 => unreachable!("the kinds are of 16 bits"),
    }
}
