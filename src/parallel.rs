//! How a job is spread over threads: over the caller's rayon pool, or over threads of the library.
//!
//! Rows are cut into contiguous ranges. Where there are too few rows, long rows are cut too: their moments are taken
//! per subtree and merged along the tree that their length fixes, so the number of threads changes no bits. Rows of
//! sums are never cut. Nothing is allocated for a call.
//!
//! On a thread of a rayon pool `rayon::join` spreads the job. The halves of a join may run jobs of other people while
//! they wait.
//!
//! A thread of no pool is helped by threads that `team` keeps. It takes piece after piece from the front, and each
//! helper part after part from the back, until nothing is left. Rayon could help from outside as well, at a price that
//! these threads do not ask: `rayon::join` puts the caller to sleep and wakes two others; a job in the pool's queue is
//! allocated, stays there while the pool is busy, and may be run by a thread that then takes up somebody else's job and
//! makes the call wait for it; the pool cannot be started a second time when that fails once; and a child process
//! cannot use its locks. On an AMD EPYC of the Milan generation, a call of 512 rows of 768 f32 takes 0.50 of the time
//! of one thread with a helper, and 0.55 with a job in a pool's queue; with a call every millisecond, 0.59 and 0.77
//! (`benches/record/experiments.md`).

mod pin;
mod team;

use std::marker::PhantomData;
use std::mem;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lanenorm_kernels::ops::backward::Backward;
use lanenorm_kernels::ops::forward::{Forward, Normalize};
use lanenorm_kernels::ops::moments::RowMoments;
use lanenorm_kernels::rows::{Params, RowIo};
use lanenorm_kernels::stats::{CHUNK, Moments, StatsMut};
use lanenorm_kernels::{Center, Compiled, Element, Error as Refused, Isa};

use crate::runs::RunsIo;
use crate::scratch::Scratch;

/// How many tasks a call is cut into, and which threads do them. The choice changes no bits of the result.
///
/// A call from a thread of a rayon pool (inside of `install`, `join`, `scope` or a parallel iterator) is done by that
/// pool. While the call runs, rayon may run other jobs of that pool on the calling thread. Hold no lock during such a
/// call that one of these jobs wants, or choose [`Serial`](Self::Serial), [`OwnThreads`](Self::OwnThreads), or a pool
/// that does nothing else.
///
/// A call from any other thread is done by that thread, and by threads of the library that help it. These start with
/// the first call that wants help, sleep while there is nothing to do, and end after ten idle seconds. They run nothing
/// but parts of calls, so a caller may hold locks. A call does not wait for a helper that has not begun, and waits for
/// at most one part of a helper that has begun. If no helper can be started, the calling thread does all of it. Rayon's
/// global pool is not started.
///
/// The environment variable `RAYON_NUM_THREADS`, which is read once, says how many threads the caller and its helpers
/// are together. Without the variable, [`std::thread::available_parallelism`] says it. A helper may run on the
/// processors on which the thread that started it may run: if the first large call comes from a pinned thread, its
/// helpers are pinned too, until they end. After `fork`, the child process starts helpers of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parallelism {
    /// Everything on the calling thread.
    Serial,
    /// As many tasks as there are threads, or fewer where handing out the work would cost more than it saves, or some
    /// more for the sake of balance.
    #[default]
    Auto,
    /// As [`Auto`](Self::Auto) on a thread of no rayon pool, wherever the caller is: the library's own threads help,
    /// and nobody else's job runs during the call. This is for callers that hold locks, or that do not know whose pool
    /// they are on.
    OwnThreads,
    /// This many tasks, as far as there are rows (or long rows to cut), and 4096 at most. No more than this many
    /// threads work at once.
    Tasks(NonZeroUsize),
    /// As [`Auto`](Self::Auto), but on no more than this many threads.
    AtMost(NonZeroUsize),
}

/// How many tasks a call is cut into, and whether the rayon pool of the calling thread does them. With `POOLS` false no
/// pool does them: so the C library contains nothing of rayon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tasks<const POOLS: bool = true> {
    pub(crate) count: usize,
    pool: bool,
}

/// The least number of elements for which one helper is called; for twice as many elements all helpers are called. A
/// helper takes some microseconds to come, and tens of microseconds if it sleeps.
const ELEMENTS_FROM_OUTSIDE: usize = 192 * 1024;

/// The most tasks of a call, so that products with the number of tasks do not overflow.
const MOST_TASKS: usize = 4096;

/// The least number of elements per task.
const ELEMENTS_PER_TASK: usize = 32 * 1024;

/// Rows shorter than twice this are not cut.
const CUT_COLS: usize = 32 * 1024;

/// The least number of elements per part, where there are more parts than tasks.
const ELEMENTS_PER_PART: usize = 128 * 1024;

/// The most parts for each task.
const PARTS_PER_TASK: usize = 4;

/// The pieces into which a thread from outside would cut its share.
const CALLER_PIECES: usize = 4;

/// The most subtrees whose moments are taken one by one.
const MAX_SUBTREES: usize = 64;

impl<const POOLS: bool> Tasks<POOLS> {
    /// Everything on the calling thread.
    pub(crate) const ONE: Self = Self { count: 1, pool: false };

    /// No more than this number of threads.
    #[inline]
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { count: self.count.min(most).max(1), ..self }
    }

    /// Whether the calling thread is one of a rayon pool that may do the work. This starts no pool.
    #[inline]
    fn has_pool() -> bool {
        POOLS && rayon::current_thread_index().is_some()
    }

    #[inline(never)]
    fn auto(elements: usize, own_threads: bool) -> Self {
        let tasks = elements / ELEMENTS_PER_TASK;
        if !own_threads && Self::has_pool() {
            return Self { count: rayon::current_num_threads().min(tasks), pool: true };
        }
        let most = match elements {
            ..ELEMENTS_FROM_OUTSIDE => return Self::ONE,
            _ if elements < 2 * ELEMENTS_FROM_OUTSIDE => 2,
            _ => tasks,
        };
        Self { count: team::threads().min(most), pool: false }
    }
}

impl Parallelism {
    /// [`Tasks`](Self::Tasks) of this number, at least one.
    pub fn tasks(count: usize) -> Self {
        Self::Tasks(NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN))
    }

    /// [`AtMost`](Self::AtMost) this number of threads, at least one.
    pub fn at_most(threads: usize) -> Self {
        Self::AtMost(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN))
    }

    /// The tasks for a job of `elements`.
    #[inline(always)]
    pub(crate) fn tasks_for<const POOLS: bool>(self, elements: usize) -> Tasks<POOLS> {
        let most = match self {
            Self::Serial => 1,
            Self::Tasks(n) if n.get() > 1 => {
                return Tasks { count: n.get().min(MOST_TASKS), pool: Tasks::<POOLS>::has_pool() };
            }
            Self::AtMost(n) | Self::Tasks(n) => n.get(),
            Self::Auto | Self::OwnThreads => MOST_TASKS,
        };
        if elements < 2 * ELEMENTS_PER_TASK || most < 2 {
            return Tasks::ONE;
        }
        Tasks::auto(elements, self == Self::OwnThreads).at_most(most)
    }
}

/// Work that can be cut, and that some threads can do at once.
pub(crate) trait Work: Send + Sized {
    /// The elements of the memory that a thread needs.
    type Memory: Send;

    /// How much work there is, in rows or in whatever it can be cut into.
    fn len(&self) -> usize;

    /// The first `at` rows (or whatever it is cut into), and the rest.
    fn split_at(self, at: usize) -> (Self, Self);

    /// How many elements the work touches. 0 if it must not be cut into more parts than there are tasks.
    fn elements(&self) -> usize {
        0
    }

    /// How much memory a thread needs.
    fn memory(&self) -> usize {
        0
    }

    /// Does the work on the calling thread.
    fn run(self, memory: &mut [Self::Memory]);
}

/// Does the work on up to `tasks` threads. There is memory for each of them.
pub(crate) fn share<W: Work, const POOLS: bool>(work: W, memory: &mut [W::Memory], tasks: Tasks<POOLS>) {
    let Tasks { count, pool } = tasks.at_most(work.len());
    if count <= 1 {
        work.run(memory);
    } else if POOLS && pool {
        let parts = count * parts_per_task(&work, count, count >= rayon::current_num_threads());
        in_pool(work, memory, parts);
    } else {
        with_helpers(work, memory, count);
    }
}

/// How many parts are made for each of `tasks` tasks. Much work is cut into several parts for each task, so that fast
/// threads can take parts over from late or slow ones. If not `all` threads of the pool are to work, there is one part
/// for each task: more parts would wake the other threads.
fn parts_per_task<W: Work>(work: &W, tasks: usize, all: bool) -> usize {
    if all { (work.elements() / ELEMENTS_PER_PART / tasks).clamp(1, PARTS_PER_TASK) } else { 1 }
}

/// Does the work in up to `parts` parts, on a thread of a pool.
fn in_pool<W: Work>(work: W, memory: &mut [W::Memory], parts: usize) {
    if parts <= 1 || work.len() <= 1 {
        return work.run(memory);
    }
    let left = parts / 2;
    let (memory_a, memory_b) = memory.split_at_mut(left * work.memory());
    // The product of the length and `left` may overflow.
    let at = work.len() / parts * left + (work.len() % parts * left).div_ceil(parts);
    let (a, b) = work.split_at(at);
    join(|| in_pool(a, memory_a, left), || in_pool(b, memory_b, parts - left));
}

/// Does the work on the calling thread, which takes piece after piece from the front, and on helpers, which take part
/// after part from the back.
#[inline(never)]
fn with_helpers<W: Work>(work: W, memory: &mut [W::Memory], tasks: usize) {
    let helpers = team::threads().min(tasks) - 1;
    if helpers == 0 {
        return work.run(memory);
    }
    let (len, each) = (work.len(), work.memory());
    // Short rows are normalized in blocks of eight.
    let eights = |n: usize| if n > 8 { n.next_multiple_of(8) } else { n };
    let piece = eights(len.div_ceil(CALLER_PIECES * tasks));
    let least = eights(piece.div_ceil(4));
    let part = eights(len.div_ceil(tasks * parts_per_task(&work, tasks, true)));
    let (own, of_helpers) = memory.split_at_mut(each);
    let rest = Mutex::new(Rest { work: Some(work), due: helpers + 1, piece, least, part });
    let of_helpers = Mutex::new(of_helpers);
    let mut work_here = || {
        while let Some(front) = Rest::take(&rest, None) {
            front.run(own);
        }
    };
    let help = || {
        let memory = {
            let mut left = of_helpers.lock().unwrap_or_else(PoisonError::into_inner);
            let (memory, others) = mem::take(&mut *left).split_at_mut(each);
            *left = others;
            memory
        };
        let mut comes = true;
        while let Some(back) = Rest::take(&rest, Some(mem::take(&mut comes))) {
            back.run(memory);
        }
    };
    team::call(helpers, &mut work_here, &help);
}

/// The work that nobody has taken yet.
struct Rest<W> {
    work: Option<W>,
    /// How many threads would share the work if all came now: the caller, and the helpers that have not come yet. At
    /// least two.
    due: usize,
    /// How much the caller takes at once (`piece`), and how much a helper takes at least (`least`) and at most
    /// (`part`).
    piece: usize,
    least: usize,
    part: usize,
}

impl<W: Work> Rest<W> {
    /// The next piece of the caller (`helper` is `None`), or the next part of a helper, which says whether it is its
    /// first. There is one function for both ends, since moving a job takes much code.
    #[inline(never)]
    fn take(rest: &Mutex<Self>, helper: Option<bool>) -> Option<W> {
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        let work = rest.work.take()?;
        let len = work.len();
        let n = match helper {
            None => rest.piece,
            Some(_) => (len / rest.due).clamp(rest.least, rest.part),
        };
        if helper == Some(true) {
            rest.due = (rest.due - 1).max(2);
        }
        if n >= len {
            return Some(work);
        }
        let (a, b) = work.split_at(if helper.is_some() { len - n } else { n });
        let (taken, left) = if helper.is_some() { (b, a) } else { (a, b) };
        rest.work = Some(left);
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

/// Whether the first of `rows` rows is to be cut, for `count` tasks.
pub(crate) fn first_is_cut(rows: usize, cols: usize, is_sum: bool, count: usize) -> bool {
    let few = rows == 1 || (rows < 8 * count && !rows.is_multiple_of(count));
    count > 1 && cols >= 2 * CUT_COLS && !is_sum && few
}

/// Runs the job on up to `tasks` threads.
pub(crate) fn run<T, M: Center>(isa: Isa, mut job: Forward<'_, T, M>, tasks: Tasks)
where
    T: Element + Compiled<M>,
{
    while first_is_cut(job.rows().rows(), job.rows().cols(), job.rows().is_sum(), tasks.count) {
        let (row, rest) = job.split_at(1);
        cut_row(isa, row, tasks);
        job = rest;
    }
    share(Rows { isa, job }, &mut [], tasks);
}

struct Rows<'a, T: Element, M: Center> {
    isa: Isa,
    job: Forward<'a, T, M>,
}

impl<T: Element + Compiled<M>, M: Center> Work for Rows<'_, T, M> {
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

/// Normalizes one long row, which is not a sum: takes its moments in parallel, then its columns in parallel.
#[inline(never)]
pub(crate) fn cut_row<T, M: Center, const POOLS: bool>(isa: Isa, job: Forward<'_, T, M>, tasks: Tasks<POOLS>)
where
    T: Element + Compiled<M>,
{
    let Some(x) = job.rows().x_row(0) else { return };
    let moments = moments_of_row(isa, RowMoments::new(x, M::CENTERED), tasks);
    match job.with_moments(&moments) {
        Ok(job) => share(Columns { isa, job }, &mut [], tasks),
        Err(mut job) => job.run_on(isa),
    }
}

struct Columns<'a, T: Element, M: Center> {
    isa: Isa,
    job: Normalize<'a, T, M>,
}

/// Columns are cut into pieces of this many, whole cache lines, so that no two threads write to one line.
const COLUMNS: usize = 64;

impl<T: Element + Compiled<M>, M: Center> Work for Columns<'_, T, M> {
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
fn moments_of_row<T: Element, const POOLS: bool>(isa: Isa, row: RowMoments<'_, T>, tasks: Tasks<POOLS>) -> Moments {
    if tasks.count <= 1 {
        return row.run_on(isa);
    }
    let mut out = [Moments::EMPTY; MAX_SUBTREES];
    let chunks = row.x.len().div_ceil(CHUNK);
    let least = chunks.div_ceil((4 * tasks.count).min(MAX_SUBTREES));
    let subtree = CHUNK * least.next_power_of_two();
    let count = row.x.len().div_ceil(subtree);
    share(Subtrees { isa, row, subtree, out: &mut out[..count] }, &mut [], tasks);
    Moments::merge_all(out)
}

struct Subtrees<'a, 'o, T> {
    isa: Isa,
    row: RowMoments<'a, T>,
    /// The number of elements of each subtree but the last.
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
        (Self { row: self.row.of(x_a), out: a, ..self }, Self { row: self.row.of(x_b), out: b, ..self })
    }

    fn run(self, _: &mut [()]) {
        for (x, out) in self.row.x.chunks(self.subtree).zip(self.out) {
            *out = self.row.of(x).run_on(self.isa);
        }
    }
}

/// The moments of each row that `row` gives, on up to `tasks` threads.
pub(crate) fn moments<'a, T: Element>(
    isa: Isa,
    out: &mut [Moments],
    row: &(impl Fn(usize) -> RowMoments<'a, T> + Sync),
    tasks: Tasks,
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
pub(crate) fn run_with<T, M: Center>(isa: Isa, job: Forward<'_, T, M>, moments: &[Moments], tasks: Tasks)
where
    T: Element + Compiled<M>,
{
    share(RowsWith { isa, job, moments }, &mut [], tasks);
}

struct RowsWith<'a, 'm, T: Element, M: Center> {
    isa: Isa,
    job: Forward<'a, T, M>,
    moments: &'m [Moments],
}

impl<T: Element + Compiled<M>, M: Center> Work for RowsWith<'_, '_, T, M> {
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
        // `Plan::run_with` has compared the lengths and asked `Moments::are_of` of all moments, as `Forward::run_with`
        // does. Rows whose moments are known are no sums: `GivesInPlace` and `Gives` make them of plain rows.
        let Ok(()) = self.job.run_with(self.isa, self.moments) else {
            unreachable!("the plans have checked all lengths and moments")
        };
    }
}

/// The vectors and statistics of a forward call: all that it takes but its rows.
#[derive(Debug)]
pub(crate) struct Vectors<'a, 'm, T: Element> {
    pub(crate) params: Params<'a, T>,
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) stats: StatsMut<'a, T::Float>,
    /// The moments of the rows, if they are known.
    pub(crate) moments: Option<&'m [Moments]>,
}

impl<T: Element> Vectors<'_, '_, T> {
    /// The same for the first `row` rows, and for the others.
    fn split_at(self, row: usize) -> (Self, Self) {
        let Self { params, bias, stats, moments } = self;
        let (stats, other_stats) = stats.split_at(row);
        let (moments, other_moments) = moments.map(|moments| moments.split_at(row)).unzip();
        let other_params = Params { groups: params.groups.after(row), ..params };
        let others = Self { params: other_params, bias, stats: other_stats, moments: other_moments };
        (Self { params, bias, stats, moments }, others)
    }
}

/// Runs the jobs that `job` makes of the rows of one run, on up to `tasks` threads.
pub(crate) fn run_in_runs<'a, T, M: Center, F>(
    isa: Isa,
    io: RunsIo<'a, T>,
    mut vectors: Vectors<'a, '_, T>,
    job: &F,
    tasks: Tasks,
) where
    T: Element + Compiled<M>,
    F: Fn(RowIo<'a, T>, Params<'a, T>, StatsMut<'a, T::Float>) -> Result<Forward<'a, T, M>, Refused> + Sync,
{
    let (cols, is_cut) = (io.cols(), vectors.moments.is_none());
    // Groups need not divide a run.
    vectors.params.groups = vectors.params.groups.after(0);
    let mut work = InRuns { isa, io, vectors, job, center: PhantomData::<M> };
    while is_cut && first_is_cut(work.len(), cols, work.io.is_sum(), tasks.count) {
        let (row, rest) = work.split_at(1);
        let Ok(job) = row.into_job() else { unreachable!("the plans have checked all lengths") };
        cut_row(isa, job, tasks);
        work = rest;
    }
    share(work, &mut [], tasks);
}

struct InRuns<'a, 'm, T: Element, M, F> {
    isa: Isa,
    io: RunsIo<'a, T>,
    vectors: Vectors<'a, 'm, T>,
    job: &'m F,
    center: PhantomData<M>,
}

impl<'a, T, M: Center, F> InRuns<'a, '_, T, M, F>
where
    T: Element + Compiled<M>,
    F: Fn(RowIo<'a, T>, Params<'a, T>, StatsMut<'a, T::Float>) -> Result<Forward<'a, T, M>, Refused> + Sync,
{
    /// The job of these rows, which are of one run.
    fn into_job(self) -> Result<Forward<'a, T, M>, Refused> {
        let Vectors { params, bias, stats, .. } = self.vectors;
        let job = (self.job)(self.io.into_first_run(), params, stats);
        match bias {
            Some(bias) => job?.with_bias(bias),
            None => job,
        }
    }
}

impl<'a, T, M: Center, F> Work for InRuns<'a, '_, T, M, F>
where
    T: Element + Compiled<M>,
    F: Fn(RowIo<'a, T>, Params<'a, T>, StatsMut<'a, T::Float>) -> Result<Forward<'a, T, M>, Refused> + Sync,
{
    type Memory = ();

    fn len(&self) -> usize {
        self.io.rows()
    }

    fn elements(&self) -> usize {
        self.io.elements()
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let ((io, other_io), (vectors, others)) = (self.io.split_at(row), self.vectors.split_at(row));
        (Self { io, vectors, ..self }, Self { io: other_io, vectors: others, ..self })
    }

    fn run(mut self, _: &mut [()]) {
        while self.len() > 0 {
            let rows = self.io.first_run();
            let (run, rest) = self.split_at(rows);
            let (isa, moments) = (run.isa, run.vectors.moments);
            // Not moved out of the result: see `Forward::run_on`.
            let mut job = run.into_job();
            match (&mut job, moments) {
                (Ok(job), None) => job.run_on(isa),
                (Ok(_), Some(moments)) => {
                    // y may not be initialized yet: it must have been written.
                    let done = job.and_then(|job| job.run_with(isa, moments));
                    assert!(done.is_ok(), "the plans have checked all lengths");
                }
                (Err(_), _) => unreachable!("the plans have checked all lengths"),
            }
            self = rest;
        }
    }
}

/// Takes the gradients of the job's parts on up to `tasks` threads. There is work memory for each of them.
pub(crate) fn backward<T, M: Center>(
    isa: Isa,
    job: Backward<'_, T, M>,
    partials: &mut [T::Float],
    work: &mut [T::Float],
    scratch: &Scratch,
    tasks: Tasks,
) where
    T: Element + Compiled<M>,
{
    share(Gradients { isa, job, partials, scratch }, work, tasks);
}

struct Gradients<'a, 'p, T: Element, M: Center> {
    isa: Isa,
    job: Backward<'a, T, M>,
    partials: &'p mut [T::Float],
    scratch: &'p Scratch,
}

impl<T: Element + Compiled<M>, M: Center> Work for Gradients<'_, '_, T, M> {
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

    fn tasks(parallelism: Parallelism, elements: usize) -> usize {
        parallelism.tasks_for::<true>(elements).count
    }

    fn number(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).expect("not zero")
    }

    #[test]
    fn at_most_n_tasks_are_those_of_auto_or_n() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("a pool");
        let at_most = |n, elements| tasks(Parallelism::AtMost(number(n)), elements);
        pool.install(|| {
            for elements in [0, ELEMENTS_PER_TASK, 2 * ELEMENTS_PER_TASK, 3 * ELEMENTS_PER_TASK, usize::MAX] {
                for n in 1..6 {
                    assert_eq!(at_most(n, elements), tasks(Parallelism::Auto, elements).min(n), "{n}, {elements}");
                }
            }
            assert_eq!([1, 3, 9, usize::MAX].map(|n| at_most(n, usize::MAX)), [1, 3, 4, 4]);
            let own = Parallelism::OwnThreads.tasks_for::<true>(usize::MAX);
            assert_eq!(own, Tasks { count: team::threads().min(MOST_TASKS), pool: false }, "as outside of the pool");
            assert!(Parallelism::Auto.tasks_for::<true>(usize::MAX).pool);
            assert!(!Parallelism::Auto.tasks_for::<false>(usize::MAX).pool);
        });
        assert_eq!(at_most(9, ELEMENTS_FROM_OUTSIDE - 1), 1, "not worth calling anybody");
        assert!(at_most(9, 2 * ELEMENTS_FROM_OUTSIDE - 1) <= 2, "not worth calling all");
        assert_eq!(tasks(Parallelism::Tasks(number(usize::MAX)), 0), MOST_TASKS);
        assert_eq!(tasks(Parallelism::Tasks(number(1)), usize::MAX), 1);
    }

    /// Work that counts how often each of its numbers is done, and checks that each thread has memory of its own.
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
            for on_pool in [true, false] {
                let count = [AtomicUsize::new(0), AtomicUsize::new(0)];
                let share = || share(Slow(40, &count), &mut [], Parallelism::Tasks(number(tasks)).tasks_for::<true>(0));
                if on_pool {
                    pool.install(share);
                } else {
                    share();
                }
                let most = count[1].load(Ordering::SeqCst);
                assert!((1..=tasks).contains(&most), "{most} threads for {tasks} tasks");
            }
        }
    }

    #[test]
    fn all_work_is_done_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        for len in [0, 1, 2, 7, 8, 100, 1001] {
            for tasks in [1, 2, 3, 8, 64, usize::MAX] {
                for elements in [0, usize::MAX] {
                    let numbers: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                    let share = || {
                        let tasks = Parallelism::Tasks(number(tasks)).tasks_for::<true>(0);
                        share(Count { numbers: &numbers, elements }, &mut vec![0; 3 * tasks.count], tasks);
                    };
                    share();
                    pool.install(share);
                    assert!(numbers.iter().all(|n| n.load(Ordering::Relaxed) == 2), "{len} {tasks} {elements}");
                }
            }
        }
    }
}
