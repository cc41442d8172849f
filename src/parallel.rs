//! How a job is spread over the threads of the current rayon pool.
//!
//! Rows are cut into contiguous ranges. Where there are too few, long rows are cut too: their moments are taken per
//! subtree and merged along the tree that their length fixes, so the number of threads changes no bits; rows of sums are
//! never cut. On a thread of a pool nothing is allocated: there, `rayon::join` does it all.

mod team;

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lanenorm_kernels::Isa;
use lanenorm_kernels::backward::Backward;
use lanenorm_kernels::forward::{Forward, Normalize};
use lanenorm_kernels::lanes::{Compiled, Element};
use lanenorm_kernels::moments::{CHUNK, Moments, RowMoments};

use crate::backward::Scratch;

/// How many tasks a call is cut into. Whatever is chosen, the bits of the result are the same.
///
/// Tasks run on the rayon pool that is current: the one whose `install` the caller is in, or else the global one. From outside of a
/// pool the calling thread works itself, and as many others help as come in time; a few words that they share are allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parallelism {
    /// Everything on the calling thread; rayon is not touched.
    Serial,
    /// As many tasks as the pool has threads, or fewer where handing out the work would cost more than it saves, or some more for
    /// the sake of balance.
    #[default]
    Auto,
    /// This many tasks, as far as there are rows (or long rows to cut). No more threads than that work at once.
    Tasks(NonZeroUsize),
    /// As [`Auto`](Self::Auto), but on no more than this many threads.
    AtMost(NonZeroUsize),
}

/// A pool that sleeps takes tens of microseconds to wake: the least number of elements worth calling one of its threads from
/// outside. Twice as many are worth calling all.
const ELEMENTS_FROM_OUTSIDE: usize = 192 * 1024;

/// The least number of elements per task.
const ELEMENTS_PER_TASK: usize = 32 * 1024;

/// Rows shorter than twice this are not cut.
const CUT_COLS: usize = 32 * 1024;

/// The least number of elements per part, where there are more parts than tasks.
const ELEMENTS_PER_PART: usize = 128 * 1024;

/// The parts for each task, at most.
const PARTS_PER_TASK: usize = 4;

/// The pieces into which a thread from outside would cut its share.
const CALLER_PIECES: usize = 4;

/// The subtrees whose moments are taken apart, at most.
const MAX_SUBTREES: usize = 64;

impl Parallelism {
    /// The number of tasks for a job of `elements`.
    #[inline(always)]
    pub(crate) fn tasks(self, elements: usize) -> usize {
        match self {
            Self::Serial => 1,
            Self::Tasks(n) => n.get(),
            Self::AtMost(n) if n.get() == 1 => 1,
            Self::AtMost(n) => Self::Auto.tasks(elements).min(n.get()),
            Self::Auto => {
                let tasks = elements / ELEMENTS_PER_TASK;
                if tasks < 2 {
                    return 1;
                }
                let most = match elements {
                    _ if rayon::current_thread_index().is_some() => tasks,
                    ..ELEMENTS_FROM_OUTSIDE => return 1,
                    _ if elements < 2 * ELEMENTS_FROM_OUTSIDE => 2,
                    _ => tasks,
                };
                rayon::current_num_threads().min(most)
            }
        }
    }
}

/// Work that can be cut, and that some threads can do at once.
pub(crate) trait Work: Send + Sized {
    /// What a thread needs memory of.
    type Memory: Send;

    /// How much there is: of rows, or of whatever it can be cut into.
    fn len(&self) -> usize;

    /// The first `at` of these, and the others.
    fn split_at(self, at: usize) -> (Self, Self);

    /// How many elements it touches, if it may be done in more parts than there are tasks.
    fn elements(&self) -> usize {
        0
    }

    /// How much memory a thread needs.
    fn memory(&self) -> usize {
        0
    }

    /// Does it on the calling thread.
    fn run(self, memory: &mut [Self::Memory]);
}

/// Does the work on up to `tasks` threads, for each of which there is memory.
pub(crate) fn share<W: Work>(work: W, memory: &mut [W::Memory], tasks: usize) {
    if tasks <= 1 || work.len() <= 1 {
        work.run(memory);
    } else if rayon::current_thread_index().is_some() {
        let parts = parts(&work, tasks, tasks >= rayon::current_num_threads());
        in_pool(work, memory, parts);
    } else {
        from_outside(work, memory, tasks);
    }
}

/// In how many parts a pool does what is to be cut into so many tasks: more where it is large, so that threads which are late, or
/// slow, leave some to the others; but not where others of the pool are to be left alone.
fn parts<W: Work>(work: &W, tasks: usize, all: bool) -> usize {
    if all { tasks * (work.elements() / ELEMENTS_PER_PART / tasks).clamp(1, PARTS_PER_TASK) } else { tasks }
}

/// On a thread of a pool.
fn in_pool<W: Work>(work: W, memory: &mut [W::Memory], parts: usize) {
    if parts <= 1 || work.len() <= 1 {
        return work.run(memory);
    }
    let left = parts / 2;
    let (memory_a, memory_b) = memory.split_at_mut(left * work.memory());
    let at = (work.len() * left).div_ceil(parts);
    let (a, b) = work.split_at(at);
    join(|| in_pool(a, memory_a, left), || in_pool(b, memory_b, parts - left));
}

/// On a thread of no pool, beside which a pool helps as soon as it is awake: the thread takes piece after piece from the front, and
/// the pool what is its due of the rest from the back.
fn from_outside<W: Work>(work: W, memory: &mut [W::Memory], tasks: usize) {
    let helpers = tasks - 1;
    let (own, of_helpers) = memory.split_at_mut(work.memory());
    let piece = work.len().div_ceil(CALLER_PIECES * tasks);
    // Short rows are normalized by eights.
    let piece = if piece > 8 { piece.next_multiple_of(8) } else { piece };
    let rest = Rest(Mutex::new(Some(work)));
    let mut work_here = || {
        while let Some(front) = rest.take(Take::Front(piece)) {
            front.run(own);
        }
    };
    let mut help = || {
        while let Some(back) = rest.take(Take::AllButOneOf(tasks)) {
            let parts = parts(&back, helpers, tasks >= rayon::current_num_threads());
            in_pool(back, of_helpers, parts);
        }
    };
    team::call(&mut work_here, &mut help);
}

/// What nobody has taken yet.
struct Rest<W>(Mutex<Option<W>>);

enum Take {
    /// So many from the front.
    Front(usize),
    /// From the back, but for one of so many equal shares.
    AllButOneOf(usize),
}

impl<W: Work> Rest<W> {
    /// Once for both ends: moving a job takes much code.
    #[inline(never)]
    fn take(&self, what: Take) -> Option<W> {
        let mut rest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let work = rest.take()?;
        let (at, front) = match what {
            Take::Front(n) => (n, true),
            Take::AllButOneOf(shares) => (work.len() / shares, false),
        };
        if at == 0 || at >= work.len() {
            return Some(work);
        }
        let (a, b) = work.split_at(at);
        let (taken, left) = if front { (a, b) } else { (b, a) };
        *rest = Some(left);
        Some(taken)
    }
}

/// [`rayon::join`], compiled once and not for each pair of closures.
#[inline(always)]
fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    #[inline(never)]
    fn erased(a: &mut (dyn FnMut() + Send), b: &mut (dyn FnMut() + Send)) {
        rayon::join(a, b);
    }
    let (mut a, mut b) = (Some(a), Some(b));
    let mut run_a = || {
        if let Some(a) = a.take() {
            a();
        }
    };
    let mut run_b = || {
        if let Some(b) = b.take() {
            b();
        }
    };
    erased(&mut run_a, &mut run_b);
}

/// Whether the first of so many rows is to be cut.
pub(crate) fn first_is_cut(rows: usize, cols: usize, is_sum: bool, tasks: usize) -> bool {
    let few = rows == 1 || (rows < 8 * tasks && !rows.is_multiple_of(tasks));
    tasks > 1 && cols >= 2 * CUT_COLS && !is_sum && few
}

/// Runs the job on up to `tasks` threads.
pub(crate) fn run<T, const CENTERED: bool>(isa: Isa, mut job: Forward<'_, T, CENTERED>, tasks: usize)
where
    T: Element + Compiled<CENTERED>,
{
    while first_is_cut(job.rows().rows(), job.rows().cols(), job.rows().is_sum(), tasks) {
        let (row, rest) = job.split_at(1);
        cut_row(isa, row, tasks);
        job = rest;
    }
    share(Rows { isa, job }, &mut [], tasks);
}

struct Rows<'a, T: Element, const CENTERED: bool> {
    isa: Isa,
    job: Forward<'a, T, CENTERED>,
}

impl<T: Element + Compiled<CENTERED>, const CENTERED: bool> Work for Rows<'_, T, CENTERED> {
    type Memory = ();

    fn len(&self) -> usize {
        self.job.rows().rows()
    }

    fn elements(&self) -> usize {
        self.len() * self.job.rows().cols()
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at(row);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn run(mut self, _: &mut [()]) {
        self.job.run_on(self.isa);
    }
}

/// One long row, which is no sum: its moments in parallel, then its columns in parallel.
pub(crate) fn cut_row<T, const CENTERED: bool>(isa: Isa, job: Forward<'_, T, CENTERED>, tasks: usize)
where
    T: Element + Compiled<CENTERED>,
{
    let Some(x) = job.rows().x_row(0) else { return };
    let moments = moments_of_row(isa, RowMoments { x, centered: CENTERED, scale: None }, tasks);
    match job.with_moments(&moments) {
        Ok(job) => share(Columns { isa, job }, &mut [], tasks),
        Err(mut job) => job.run_on(isa),
    }
}

struct Columns<'a, T: Element, const CENTERED: bool> {
    isa: Isa,
    job: Normalize<'a, T, CENTERED>,
}

/// Whole cache lines, so that two threads do not write to one.
const COLUMNS: usize = 64;

impl<T: Element + Compiled<CENTERED>, const CENTERED: bool> Work for Columns<'_, T, CENTERED> {
    type Memory = ();

    fn len(&self) -> usize {
        self.job.cols().div_ceil(COLUMNS)
    }

    fn elements(&self) -> usize {
        self.job.cols()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at_col(at * COLUMNS);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn run(self, _: &mut [()]) {
        self.job.run_on(self.isa);
    }
}

/// The moments of a row, by subtrees.
fn moments_of_row<T: Element>(isa: Isa, row: RowMoments<'_, T>, tasks: usize) -> Moments {
    if tasks <= 1 {
        return row.run_on(isa);
    }
    let mut out = [Moments::EMPTY; MAX_SUBTREES];
    let chunks = row.x.len().div_ceil(CHUNK);
    let least = chunks.div_ceil((4 * tasks).min(MAX_SUBTREES));
    let subtree = CHUNK * least.next_power_of_two();
    let count = row.x.len().div_ceil(subtree);
    share(Subtrees { isa, row, subtree, out: &mut out[..count] }, &mut [], tasks);
    Moments::merge_all(out)
}

struct Subtrees<'a, 'o, T> {
    isa: Isa,
    row: RowMoments<'a, T>,
    /// The elements of each but the last.
    subtree: usize,
    out: &'o mut [Moments],
}

impl<T: Element> Work for Subtrees<'_, '_, T> {
    type Memory = ();

    fn len(&self) -> usize {
        self.out.len()
    }

    fn elements(&self) -> usize {
        self.row.x.len()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (x_a, x_b) = self.row.x.split_at(self.row.x.len().min(at * self.subtree));
        let (a, b) = self.out.split_at_mut(at);
        let row = |x| RowMoments { x, ..self.row };
        (Self { row: row(x_a), out: a, ..self }, Self { row: row(x_b), out: b, ..self })
    }

    fn run(self, _: &mut [()]) {
        for (x, out) in self.row.x.chunks(self.subtree).zip(self.out) {
            *out = RowMoments { x, ..self.row }.run_on(self.isa);
        }
    }
}

/// The moments of each row that `row` gives, on up to `tasks` threads.
pub(crate) fn moments<'a, T: Element>(
    isa: Isa,
    out: &mut [Moments],
    row: &(impl Fn(usize) -> RowMoments<'a, T> + Sync),
    tasks: usize,
) {
    match out {
        [out] => *out = moments_of_row(isa, row(0), tasks),
        _ => share(OfRows { isa, first: 0, out, row }, &mut [], tasks),
    }
}

struct OfRows<'o, F> {
    isa: Isa,
    first: usize,
    out: &'o mut [Moments],
    row: &'o F,
}

impl<'a, T: Element, F: Fn(usize) -> RowMoments<'a, T> + Sync> Work for OfRows<'_, F> {
    type Memory = ();

    fn len(&self) -> usize {
        self.out.len()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (a, b) = self.out.split_at_mut(at);
        (Self { out: a, ..self }, Self { out: b, first: self.first + at, ..self })
    }

    fn run(self, _: &mut [()]) {
        for (r, out) in (self.first..).zip(self.out) {
            *out = (self.row)(r).run_on(self.isa);
        }
    }
}

/// Normalizes rows whose moments are known, on up to `tasks` threads.
pub(crate) fn run_with<T, const CENTERED: bool>(
    isa: Isa,
    job: Forward<'_, T, CENTERED>,
    moments: &[Moments],
    tasks: usize,
) where
    T: Element + Compiled<CENTERED>,
{
    share(RowsWith { isa, job, moments }, &mut [], tasks);
}

struct RowsWith<'a, 'm, T: Element, const CENTERED: bool> {
    isa: Isa,
    job: Forward<'a, T, CENTERED>,
    moments: &'m [Moments],
}

impl<T: Element + Compiled<CENTERED>, const CENTERED: bool> Work for RowsWith<'_, '_, T, CENTERED> {
    type Memory = ();

    fn len(&self) -> usize {
        self.moments.len()
    }

    fn elements(&self) -> usize {
        self.len() * self.job.rows().cols()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let ((a, b), (moments_a, moments_b)) = (self.job.split_at(at), self.moments.split_at(at));
        (Self { job: a, moments: moments_a, ..self }, Self { job: b, moments: moments_b, ..self })
    }

    fn run(self, _: &mut [()]) {
        let done = self.job.run_with(self.isa, self.moments);
        debug_assert!(done, "the plans have checked all lengths");
    }
}

/// Takes the gradients of the job's parts on up to `tasks` threads; there is work memory for so many.
pub(crate) fn backward<T, const CENTERED: bool>(
    isa: Isa,
    job: Backward<'_, T, CENTERED>,
    partials: &mut [T::Float],
    work: &mut [T::Float],
    scratch: &Scratch,
    tasks: usize,
) where
    T: Element + Compiled<CENTERED>,
{
    share(Gradients { isa, job, partials, scratch }, work, tasks);
}

struct Gradients<'a, 'p, T: Element, const CENTERED: bool> {
    isa: Isa,
    job: Backward<'a, T, CENTERED>,
    partials: &'p mut [T::Float],
    scratch: &'p Scratch,
}

impl<T: Element + Compiled<CENTERED>, const CENTERED: bool> Work for Gradients<'_, '_, T, CENTERED> {
    type Memory = T::Float;

    fn len(&self) -> usize {
        self.job.parts()
    }

    fn split_at(self, part: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at_part(part);
        let (partials_a, partials_b) = self.partials.split_at_mut(part * self.scratch.partial);
        (Self { job: a, partials: partials_a, ..self }, Self { job: b, partials: partials_b, ..self })
    }

    fn memory(&self) -> usize {
        self.scratch.work
    }

    fn run(mut self, work: &mut [T::Float]) {
        self.job.run_on(self.isa, self.partials, work);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn at_most_n_tasks_are_those_of_auto_or_n() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
        let tasks = |n, elements| Parallelism::AtMost(NonZeroUsize::new(n).expect("not zero")).tasks(elements);
        pool.install(|| {
            for elements in [0, ELEMENTS_PER_TASK, 2 * ELEMENTS_PER_TASK, 3 * ELEMENTS_PER_TASK, usize::MAX] {
                for n in 1..6 {
                    assert_eq!(tasks(n, elements), Parallelism::Auto.tasks(elements).min(n), "{n}, {elements}");
                }
            }
            assert_eq!([1, 3, 9].map(|n| tasks(n, usize::MAX)), [1, 3, 4]);
        });
        assert_eq!(tasks(9, ELEMENTS_FROM_OUTSIDE - 1), 1, "not worth waking the pool");
        assert!(tasks(9, 2 * ELEMENTS_FROM_OUTSIDE - 1) <= 2, "not worth waking all of it");
    }

    /// Counts how often each of its numbers is done, and checks the memory of who does it.
    struct Count<'a> {
        numbers: &'a [AtomicUsize],
        elements: usize,
    }

    impl Work for Count<'_> {
        type Memory = usize;

        fn len(&self) -> usize {
            self.numbers.len()
        }

        fn split_at(self, at: usize) -> (Self, Self) {
            let (a, b) = self.numbers.split_at(at);
            (Self { numbers: a, ..self }, Self { numbers: b, ..self })
        }

        fn elements(&self) -> usize {
            self.elements
        }

        fn memory(&self) -> usize {
            if self.elements == 0 { 3 } else { 0 }
        }

        fn run(self, memory: &mut [usize]) {
            assert!(memory.len() >= self.memory());
            for (number, i) in self.numbers.iter().zip(1..) {
                memory.fill(i);
                number.fetch_add(1, Ordering::Relaxed);
                assert!(memory.iter().all(|&m| m == i), "nobody else has it");
            }
        }
    }

    #[test]
    fn no_more_threads_than_tasks() {
        struct Slow<'a>(usize, &'a [AtomicUsize; 2]);
        impl Work for Slow<'_> {
            type Memory = ();
            fn len(&self) -> usize {
                self.0
            }
            fn split_at(self, at: usize) -> (Self, Self) {
                (Slow(at, self.1), Slow(self.0 - at, self.1))
            }
            fn elements(&self) -> usize {
                usize::MAX
            }
            fn run(self, _: &mut [()]) {
                let [now, most] = self.1;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(1));
                now.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
        for tasks in 1..4 {
            let count = [AtomicUsize::new(0), AtomicUsize::new(0)];
            pool.install(|| share(Slow(40, &count), &mut [], tasks));
            let most = count[1].load(Ordering::SeqCst);
            assert!((1..=tasks).contains(&most), "{most} threads for {tasks} tasks");
        }
    }

    #[test]
    fn all_work_is_done_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        for len in [0, 1, 2, 7, 8, 100, 1001] {
            for tasks in [1, 2, 3, 8, 64] {
                for elements in [0, usize::MAX] {
                    let numbers: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                    let share = || share(Count { numbers: &numbers, elements }, &mut vec![0; 3 * tasks], tasks);
                    share();
                    pool.install(share);
                    assert!(numbers.iter().all(|n| n.load(Ordering::Relaxed) == 2), "{len} {tasks} {elements}");
                }
            }
        }
    }
}
