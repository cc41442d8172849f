//! How a job is spread over the threads of the current rayon pool.
//!
//! Rows are cut into contiguous ranges. Where there are too few, long rows are cut too: their moments are taken per
//! subtree and merged along the tree that their length fixes, so the number of tasks changes no bits; rows of sums are
//! never cut. Only `rayon::join` is used, which allocates nothing.

use std::num::NonZeroUsize;

use lanenorm_kernels::Isa;
use lanenorm_kernels::backward::Backward;
use lanenorm_kernels::forward::{Forward, Normalize};
use lanenorm_kernels::lanes::{Compiled, Element};
use lanenorm_kernels::moments::{Moments, RowMoments, split_point};

use crate::backward::Scratch;

/// How many tasks a call is cut into. Whatever is chosen, the bits of the result are the same.
///
/// Tasks run on the rayon pool that is current: the one whose `install` the caller is in, or else the global one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parallelism {
    /// Everything on the calling thread; rayon is not touched.
    Serial,
    /// As many tasks as the pool has threads, or fewer where handing out the work would cost more than it saves.
    #[default]
    Auto,
    /// This many tasks, as far as there are rows (or long rows to cut).
    Tasks(NonZeroUsize),
    /// As [`Auto`](Self::Auto), but no more than this many tasks.
    AtMost(NonZeroUsize),
}

/// Waking a pool from a thread outside it costs tens of microseconds: the least number of elements worth that.
const ELEMENTS_FROM_OUTSIDE: usize = 256 * 1024;

/// The least number of elements per task.
const ELEMENTS_PER_TASK: usize = 32 * 1024;

/// Rows shorter than twice this are not cut.
const CUT_COLS: usize = 32 * 1024;

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
                if elements < 2 * ELEMENTS_PER_TASK
                    || (elements < ELEMENTS_FROM_OUTSIDE && rayon::current_thread_index().is_none())
                {
                    return 1;
                }
                rayon::current_num_threads().min(elements / ELEMENTS_PER_TASK)
            }
        }
    }
}

/// Runs the job in about `tasks` tasks.
pub(crate) fn run<T, const CENTERED: bool>(isa: Isa, mut job: Forward<'_, T, CENTERED>, tasks: usize)
where
    T: Element + Compiled<CENTERED>,
{
    let (rows, cols) = (job.rows().rows(), job.rows().cols());
    if tasks <= 1 || rows == 0 {
        job.run_on(isa);
    } else if cols >= 2 * CUT_COLS && !job.rows().is_sum() && (rows == 1 || (rows < 8 * tasks && rows % tasks != 0)) {
        let (row, rest) = job.split_at(1);
        cut_row(isa, row, tasks);
        run(isa, rest, tasks);
    } else if rows == 1 {
        job.run_on(isa);
    } else {
        let left = tasks / 2;
        let (a, b) = job.split_at((rows * left).div_ceil(tasks));
        join(|| run(isa, a, left), || run(isa, b, tasks - left));
    }
}

/// [`rayon::join`], compiled once and not for each pair of closures.
#[inline(always)]
pub(crate) fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
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

/// One long row: its moments in parallel, then its columns in parallel.
fn cut_row<T, const CENTERED: bool>(isa: Isa, job: Forward<'_, T, CENTERED>, tasks: usize)
where
    T: Element + Compiled<CENTERED>,
{
    let Some(x) = job.rows().x_row(0) else { return };
    let moments = moments_of_row(isa, RowMoments { x, centered: CENTERED, scale: None }, x.len() / tasks);
    match job.with_moments(&moments) {
        Ok(job) => normalize(isa, job, tasks),
        Err(mut job) => job.run_on(isa),
    }
}

/// The moments of a row, by subtrees of about `grain` elements.
fn moments_of_row<T: Element>(isa: Isa, row: RowMoments<'_, T>, grain: usize) -> Moments {
    match split_point(row.x.len()) {
        Some(at) if row.x.len() > grain => {
            let (a, b) = row.x.split_at(at);
            let part = |x| moments_of_row(isa, RowMoments { x, ..row }, grain);
            let (mut of_a, mut of_b) = (Moments::EMPTY, Moments::EMPTY);
            join(|| of_a = part(a), || of_b = part(b));
            of_a.merge(of_b)
        }
        _ => row.run_on(isa),
    }
}

fn normalize<T, const CENTERED: bool>(isa: Isa, job: Normalize<'_, T, CENTERED>, tasks: usize)
where
    T: Element + Compiled<CENTERED>,
{
    if tasks <= 1 {
        return job.run_on(isa);
    }
    let left = tasks / 2;
    let col = job.cols() / tasks * left;
    // Whole cache lines, so that two threads do not write to one.
    let (a, b) = job.split_at_col(col - col % 64);
    join(|| normalize(isa, a, left), || normalize(isa, b, tasks - left));
}

/// The moments of each row that `row` gives, in about `tasks` tasks.
pub(crate) fn moments<'a, T: Element>(
    isa: Isa,
    first: usize,
    out: &mut [Moments],
    row: &(impl Fn(usize) -> RowMoments<'a, T> + Sync),
    tasks: usize,
) {
    match out {
        [out] => *out = moments_of_row(isa, row(first), row(first).x.len() / tasks.max(1)),
        _ if tasks > 1 => {
            let left = tasks / 2;
            let at = (out.len() * left).div_ceil(tasks);
            let (a, b) = out.split_at_mut(at);
            join(|| moments(isa, first, a, row, left), || moments(isa, first + at, b, row, tasks - left));
        }
        _ => out.iter_mut().enumerate().for_each(|(r, out)| *out = row(first + r).run_on(isa)),
    }
}

/// Normalizes rows whose moments are known, in about `tasks` tasks.
pub(crate) fn run_with<T, const CENTERED: bool>(
    isa: Isa,
    job: Forward<'_, T, CENTERED>,
    moments: &[Moments],
    tasks: usize,
) where
    T: Element + Compiled<CENTERED>,
{
    let rows = job.rows().rows();
    if tasks <= 1 || rows <= 1 {
        let done = job.run_with(isa, moments);
        debug_assert!(done, "the plans have checked all lengths");
        return;
    }
    let left = tasks / 2;
    let at = (rows * left).div_ceil(tasks);
    let ((a, b), (moments_a, moments_b)) = (job.split_at(at), moments.split_at(at));
    join(|| run_with(isa, a, moments_a, left), || run_with(isa, b, moments_b, tasks - left));
}

/// Takes the gradients of the job's parts in about `tasks` tasks; there is work memory for so many.
pub(crate) fn backward<T, const CENTERED: bool>(
    isa: Isa,
    mut job: Backward<'_, T, CENTERED>,
    partials: &mut [T::Float],
    work: &mut [T::Float],
    scratch: &Scratch,
    tasks: usize,
) where
    T: Element + Compiled<CENTERED>,
{
    let parts = job.parts();
    if tasks <= 1 || parts <= 1 {
        return job.run_on(isa, partials, work);
    }
    let left = tasks / 2;
    let at = (parts * left).div_ceil(tasks);
    let (a, b) = job.split_at_part(at);
    let (partials_a, partials_b) = partials.split_at_mut(at * scratch.partial);
    let (work_a, work_b) = work.split_at_mut(left * scratch.work);
    join(
        || backward(isa, a, partials_a, work_a, scratch, left),
        || backward(isa, b, partials_b, work_b, scratch, tasks - left),
    );
}

#[cfg(test)]
mod tests {
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
    }
}
