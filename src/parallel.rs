//! How work is spread over threads: over the caller's rayon pool, or over threads of the library. `jobs` says what the
//! work is. Nothing is allocated for a call.
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

use std::mem;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

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
/// Before it sleeps, a helper that has been woken or has helped keeps its processor busy for 50 microseconds, looking
/// for another call; so does a caller that waits for a helper's last part. A helper that looks comes at once, so that
/// short calls (64 to 192 thousand elements) that one thread makes one after the other are helped too. The environment
/// variable `LANENORM_SPIN_MICROS`, which is read once, sets another number of microseconds, 10000 at most. With 0
/// nobody looks, and short calls are done by their thread alone.
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

/// The least number of elements for which one helper is called even if it sleeps; for twice as many elements all
/// helpers are called. A helper that is awake comes in a microsecond, one that sleeps in tens of microseconds. Calls of
/// fewer elements are short: one helper is called where it is at hand.
const ELEMENTS_FROM_OUTSIDE: usize = 192 * 1024;

/// The most tasks of a call, so that products with the number of tasks do not overflow.
const MOST_TASKS: usize = 4096;

/// The least number of elements per task.
const ELEMENTS_PER_TASK: usize = 32 * 1024;

/// The least number of elements per part, where there are more parts than tasks.
const ELEMENTS_PER_PART: usize = 128 * 1024;

/// The most parts for each task.
const PARTS_PER_TASK: usize = 4;

/// The pieces into which a thread from outside would cut its share.
const CALLER_PIECES: usize = 4;

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

    /// `is_at_hand` says whether a short call gets help.
    #[inline(never)]
    fn auto(elements: usize, own_threads: bool, is_at_hand: fn() -> bool) -> Self {
        let tasks = elements / ELEMENTS_PER_TASK;
        if !own_threads && Self::has_pool() {
            return Self { count: rayon::current_num_threads().min(tasks), pool: true };
        }
        let most = match elements {
            ..ELEMENTS_FROM_OUTSIDE if !is_at_hand() => return Self::ONE,
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

    /// The tasks for a job of `elements`, which is to be run. To be asked once for each call: it counts calls.
    #[inline(always)]
    pub(crate) fn tasks_for<const POOLS: bool>(self, elements: usize) -> Tasks<POOLS> {
        self.tasks_with(elements, team::is_at_hand)
    }

    /// The most tasks for a job of `elements`, whether or not a helper is at hand.
    pub(crate) fn most_tasks_for<const POOLS: bool>(self, elements: usize) -> Tasks<POOLS> {
        self.tasks_with(elements, || true)
    }

    #[inline(always)]
    fn tasks_with<const POOLS: bool>(self, elements: usize, is_at_hand: fn() -> bool) -> Tasks<POOLS> {
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
        Tasks::auto(elements, self == Self::OwnThreads, is_at_hand).at_most(most)
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
    /// How much a thread takes at least (`least`), and at most: the caller (`piece`), and a helper (`part`).
    least: usize,
    piece: usize,
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
        let most = if helper.is_some() { rest.part } else { rest.piece };
        let n = (len / rest.due).clamp(rest.least, most);
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
