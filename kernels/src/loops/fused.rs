//! Rows fused with their neighbours: one loop takes the moments of a row while it normalizes an earlier one.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::carry::Carry;
use super::epilogue::{Body, Epilogue, Epilogues};
use super::job::{FUSED_BYTES, Job, settle};
use super::normalize::{KnownRow, NormRegs};
use crate::element::Storage;
use crate::mean::{Center, Mean};
use crate::rows::{Input, Source, way};
use crate::simd::{Float, Kernel, Lanes, regs};
use crate::stats::sums::{self, ChunkLen, Sums};
use crate::stats::{CHUNK, Moments, RowNorm, Tree};

/// Rows of f16, bf16 and f64 whose ends are carried have fewer bytes than this.
const CARRIED_ROW_BYTES: usize = 4 << 10;

/// The subtrees that the chunks of a row make before they are merged, at most: one for each binary digit of their
/// number. Rows of 16 bits have the most chunks.
const SUBTREES: usize = (FUSED_BYTES / size_of::<u16>() / CHUNK).ilog2() as usize + 1;

/// A row whose moments are settled, and whose first `at` elements are normalized.
struct Pending<S: Lanes, T: Storage, M: Center, E: Epilogue<T>> {
    row: KnownRow<T, M, E>,
    norm: NormRegs<S, T::Float, M>,
    at: usize,
}

/// The statistics of the last two rows, or of the last row where rows are one row late. Each statistic has an array of
/// its own: the compiler would load one structure for each row in wider pieces than it has just stored, which stalls.
struct Queue<F> {
    settled: [bool; 2],
    mean: [F; 2],
    mean_lo: [F; 2],
    rstd: [F; 2],
}

impl<F: Float> Queue<F> {
    const NOTHING: Self = Self { settled: [false; 2], mean: [F::NAN; 2], mean_lo: [F::NAN; 2], rstd: [F::NAN; 2] };

    /// The place of row `r`. (Statistics that are always in one place can stay in registers.)
    #[inline(always)]
    fn place(r: usize) -> usize {
        if size_of::<F>() <= size_of::<f32>() { r & 1 } else { 0 }
    }

    #[inline(always)]
    fn get(&self, r: usize) -> Option<RowNorm<F>> {
        let k = Self::place(r);
        self.settled[k].then_some(RowNorm { mean: self.mean[k], mean_lo: self.mean_lo[k], rstd: self.rstd[k] })
    }

    #[inline(always)]
    fn set(&mut self, r: usize, norm: Option<RowNorm<F>>) {
        let k = Self::place(r);
        self.settled[k] = norm.is_some();
        if let Some(norm) = norm {
            (self.mean[k], self.mean_lo[k], self.rstd[k]) = (norm.mean, norm.mean_lo, norm.rstd);
        }
    }
}

/// Normalizes the rows from `first` to the last; `first` is a row of the job. Rows of one chunk are normalized two rows
/// late, as long as an L1 cache has room for three rows, gamma and beta. Longer rows are normalized one row late. With
/// `STREAMS`, y is streamed (see [`Storage::STREAMS_APART`]). Returns whether all that is written for some row is known
/// to be finite.
pub(super) struct Fused<'j, 'a, T: Storage, M: Center, E, const STREAMS: bool> {
    pub(super) job: &'j mut Job<'a, T, E>,
    pub(super) first: usize,
    pub(super) center: PhantomData<M>,
}

impl<T: Storage, M: Center, E: Epilogues<T>, const STREAMS: bool> Kernel for Fused<'_, '_, T, M, E, STREAMS> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, first, .. } = self;
        let (rows, cols) = (job.rows.rows(), job.rows.cols());
        let one_chunk = cols <= CHUNK;
        let delay = if one_chunk && size_of::<T>() <= size_of::<f32>() { 2 } else { 1 };
        let share = job.root.share(cols as f64);
        let mean = Mean::<M>::new(job.centered).on::<S>();
        let (inner, last) = ChunkLen::of_row(cols);
        let room = E::room();
        let mut epilogues = job.successive(first..rows, &room);
        let mut queue = Queue::NOTHING;
        // Known to the compiler where rows that are streamed have a loop of their own.
        let streaming = job.streaming && (STREAMS || !T::STREAMS_APART);
        // Where what few elements take is out of line, long rows are better off with a line that is streamed in part.
        let carries =
            streaming && job.rows.y_has_no_gaps() && (T::STREAMS_APART || job.rows.y_row_bytes() < CARRIED_ROW_BYTES);
        let mut carry = Carry::nothing();
        let mut finite = false;
        for t in first..rows + delay {
            finite = true;
            let mut pending = match queue.get(t.wrapping_sub(delay)) {
                // SAFETY: row t - delay exists, and so do its elements.
                Some(norm) => unsafe {
                    let r = t - delay;
                    let x = job.rows.source(r);
                    if streaming && !carries {
                        job.rows.prefetch_edges(simd, r + 2);
                    }
                    let epilogue = job.next::<S, M>(simd, &mut epilogues, r);
                    let row = KnownRow { mean, x, norm, epilogue };
                    let norm = NormRegs::new(simd, &norm, mean);
                    let at;
                    if carries && t < rows {
                        at = carry.head(simd, row, &norm, cols);
                    } else {
                        // The last rows are not carried, so that every element is checked.
                        carry.flush();
                        (at, finite) = row.normalize_head(simd, cols);
                    }
                    Some(Pending { row, norm, at })
                },
                None => {
                    if carries {
                        // SAFETY: an earlier row of the job.
                        unsafe { carry.flush() };
                    }
                    None
                }
            };
            let mut moments = None;
            if t < rows {
                // SAFETY: row t exists.
                let input = unsafe { job.input(t) };
                let prefetches = job.prefetches_chunks() && input.asks();
                let mut stack = [MaybeUninit::uninit(); SUBTREES];
                let mut tree = Tree::new(&mut stack);
                let mut at = 0;
                moments = loop {
                    let len = if cols - at > CHUNK { inner } else { last };
                    if prefetches {
                        input.prefetch_chunk(simd, at, len.len);
                    }
                    // SAFETY: at + len.len <= cols; the pending row has cols elements.
                    let chunk =
                        unsafe { fused_chunk::<_, _, _, _, STREAMS>(simd, input, at, len, &mut pending, cols, mean) };
                    if one_chunk {
                        break Some(chunk);
                    }
                    tree.push(chunk);
                    at += len.len;
                    if at >= cols {
                        break Some(tree.total());
                    }
                };
            }
            let is_pending = pending.is_some();
            // The last row is fused with no other, so that every element of it is checked.
            finite &= match pending {
                Some(Pending { at, .. }) if at == cols => true,
                // Inlined, since a call costs as much as a step. (Tails of 16 bits take too many registers for that.)
                // SAFETY: as below.
                Some(p) if !T::ROUNDS && t < rows && !streaming && cols - p.at < T::STEP => unsafe {
                    p.row.normalize_rest(simd, &p.norm, p.at, cols);
                    false
                },
                // SAFETY: the pending row has cols elements, of which p.at are done.
                Some(p) if carries && t < rows => unsafe {
                    carry.rest(simd, p.row, &p.norm, p.at, cols);
                    false
                },
                // SAFETY: as above.
                Some(p) => unsafe { p.row.normalize_part(simd, p.at, cols) },
                None => false,
            };
            if carries {
                // SAFETY: rows of the job.
                unsafe { carry.stream(simd) };
            }
            // Only now, since around a call everything that is pending would be spilled. Before the next row is
            // settled, which may write it where this one is.
            if is_pending {
                job.row_is_done(simd, t - delay);
            }
            let norm = match moments {
                Some(moments) => settle(simd, job, t, &moments, share),
                None => None,
            };
            queue.set(t, norm);
        }
        if streaming {
            // SAFETY: rows of the job.
            unsafe {
                carry.stream(simd);
                carry.flush();
            }
            simd.fence();
        }
        finite
    }
}

/// Takes the moments of the chunk from `from` on, and meanwhile normalizes the pending row, step by step.
///
/// # Safety
/// - The row has at least `from + len.len` elements, and the pending row has `cols`.
#[inline(always)]
unsafe fn fused_chunk<S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const STREAMS: bool>(
    simd: S,
    input: Input<T>,
    from: usize,
    len: ChunkLen<T>,
    pending: &mut Option<Pending<S, T, M, E>>,
    cols: usize,
    mean: Mean<M>,
) -> Moments {
    // SAFETY: the caller's duty.
    let (x, c) = unsafe {
        input.take_sums(simd, 1, from, len.len);
        let x = input.row().after(from);
        (x, sums::chunk_shift(simd, x, len, mean))
    };
    let mut sums = Sums::<S, T, M>::new(simd, c);
    let steps = len.len / T::STEP;
    let mut i = 0;
    if let Some(p) = pending {
        let both = steps.min((cols - p.at) / T::STEP) * T::STEP;
        // `both` elements are left of the chunk, and of the pending row, which is another row.
        let Pending { row: KnownRow { x: pending_x, epilogue, .. }, norm, at } = *p;
        let (sums, len) = (&mut sums, both);
        let body = BothSteps::<S, T, M, E, STREAMS> { simd, sums, input, from, pending_x, epilogue, norm, at, len };
        if STREAMS {
            body.run::<{ way::GENERAL }>();
        } else {
            epilogue.by_way::<S, M, _>(body);
        }
        p.at += both;
        i = both;
    }
    while i < steps * T::STEP {
        // SAFETY: a step is left.
        unsafe { sums.step(simd, x, i) };
        i += T::STEP;
    }
    if i < len.len {
        // SAFETY: len.len - i elements are left.
        unsafe { sums.step_tail(simd, x, i, len.len - i) };
    }
    sums.finish(simd, c, len, mean)
}

/// Sums up `len` elements of a row from `from` on, and normalizes `len` elements of the pending row from `at` on.
/// Whoever makes it knows that both rows have these elements, and that `len` is a multiple of a step.
struct BothSteps<'r, S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const STREAMS: bool> {
    simd: S,
    sums: &'r mut Sums<S, T, M>,
    input: Input<T>,
    from: usize,
    pending_x: Source<T>,
    epilogue: E,
    norm: NormRegs<S, T::Float, M>,
    at: usize,
    len: usize,
}

impl<S: Lanes, T: Storage, M: Center, E: Epilogue<T>, const STREAMS: bool> Body for BothSteps<'_, S, T, M, E, STREAMS> {
    const WAYS: u8 = if STREAMS || !T::STREAMS_APART {
        way::ONCE | 1 << way::STEPS_GENERAL
    } else {
        way::ONCE & !(1 << way::GENERAL)
    };

    type Output = ();

    #[inline(always)]
    fn run<const WAY: u8>(self) {
        let Self { simd, sums, input, from, pending_x, epilogue, norm, at, len } = self;
        // SAFETY: whoever made this knew that the row has `from + len` elements.
        let x = unsafe { input.row().after(from) };
        let mut taken = *sums;
        let mut i = 0;
        while i < len {
            if WAY == way::GENERAL || WAY == way::STEPS_GENERAL {
                // Rows that are streamed come from memory, and hardware prefetchers stop at the end of each page.
                input.prefetch_ahead(simd, from + i);
            }
            // SAFETY: i + T::STEP <= len, and whoever made this knew that both rows have these elements.
            unsafe {
                taken.step(simd, x, i);
                for k in 0..regs::<S>() {
                    let j = k * 2 * T::Float::lanes::<S>();
                    let operands = epilogue.operands::<S, M, WAY>(simd, at + i, j);
                    let v = norm.apply::<T, E, WAY>(simd, pending_x.load(simd, at + i + j), operands);
                    epilogue.store::<S, WAY>(simd, at + i + j, v);
                }
            }
            i += T::STEP;
        }
        *sums = taken;
    }
}
