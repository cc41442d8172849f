//! The jobs that threads share: each is a [`Work`], which knows how it is cut.
//!
//! Rows are cut into contiguous ranges. Where there are too few rows, long rows are cut too: their moments are taken
//! per subtree and merged along the tree that their length fixes, so the number of threads changes no bits. Rows of
//! sums are never cut.

use std::marker::PhantomData;

use lanenorm_kernels::element::Storage;
use lanenorm_kernels::ops::backward::{Backward, Parts};
use lanenorm_kernels::ops::channels::ChannelsBackward;
use lanenorm_kernels::ops::forward::{Forward, Normalize};
use lanenorm_kernels::ops::gate::GatedBackward;
use lanenorm_kernels::ops::moments::RowMoments;
use lanenorm_kernels::rows::{Params, RowIo};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::stats::{CHUNK, Moments, StatsMut};
use lanenorm_kernels::{Center, Compiled, Element, Error as Refused, GateGradients, Isa};

use crate::gradients::ParamGrads;
use crate::parallel::{Tasks, Work, share};
use crate::runs::RunsIo;
use crate::scratch::Scratch;

/// Rows shorter than this are not cut.
pub(crate) const LEAST_CUT_COLS: usize = 64 * 1024;

/// The most subtrees whose moments are taken one by one.
const MAX_SUBTREES: usize = 64;

/// Whether the first of `rows` rows is to be cut, for `count` tasks.
pub(crate) fn first_is_cut(rows: usize, cols: usize, is_sum: bool, count: usize) -> bool {
    let few = rows == 1 || (rows < 8 * count && !rows.is_multiple_of(count));
    count > 1 && cols >= LEAST_CUT_COLS && !is_sum && few
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
    finish_row(isa, job, &moments, tasks);
}

/// Normalizes one row, which is not a sum, and whose moments have been taken by the fast sums: its columns in parallel.
#[inline(always)]
pub(crate) fn finish_row<T, M: Center, const POOLS: bool>(
    isa: Isa,
    job: Forward<'_, T, M>,
    moments: &Moments,
    tasks: Tasks<POOLS>,
) where
    T: Element + Compiled<M>,
{
    match job.with_moments(moments) {
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
pub(crate) fn moments_of_row<T: Element, const POOLS: bool>(
    isa: Isa,
    row: RowMoments<'_, T>,
    tasks: Tasks<POOLS>,
) -> Moments {
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

/// Makes the job of normalizing some rows: with these parameters, this eps, streaming or not, and these statistics.
pub(crate) type MakeJob<T, M> = for<'j> fn(
    RowIo<'j, T>,
    Params<'j, T>,
    f64,
    bool,
    StatsMut<'j, <T as Storage>::Float>,
) -> Result<Forward<'j, T, M>, Refused>;

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
    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
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

/// A job of taking gradients, in parts that have sums of their own.
pub(crate) trait GradParts: Send + Sized {
    type Float: Float;

    fn parts(&self) -> usize;
    fn split_at_part(self, parts: usize) -> (Self, Self);
    fn run_on(&mut self, isa: Isa, partials: &mut [Self::Float], work: &mut [Self::Float]);
}

/// The methods of a job, whose own have the same names.
macro_rules! grad_parts {
    ($float:ty) => {
        type Float = $float;

        fn parts(&self) -> usize {
            self.parts()
        }

        fn split_at_part(self, parts: usize) -> (Self, Self) {
            self.split_at_part(parts)
        }

        fn run_on(&mut self, isa: Isa, partials: &mut [$float], work: &mut [$float]) {
            self.run_on(isa, partials, work);
        }
    };
}

impl<T: Element + Compiled<M>, M: Center> GradParts for Backward<'_, T, M> {
    grad_parts!(T::Float);
}

impl<T: Element + Compiled<M>, M: Center> GradParts for ChannelsBackward<'_, T, M> {
    grad_parts!(T::Float);
}

impl<M: GateGradients> GradParts for GatedBackward<'_, M> {
    grad_parts!(f32);
}

/// Takes the gradients of the job's parts on up to `tasks` threads. There is work memory for each of them.
pub(crate) fn backward<J: GradParts, const POOLS: bool>(
    isa: Isa,
    job: J,
    partials: &mut [J::Float],
    work: &mut [J::Float],
    scratch: &Scratch,
    tasks: Tasks<POOLS>,
) {
    share(Gradients { isa, job, partials, scratch }, work, tasks);
}

struct Gradients<'p, J: GradParts> {
    isa: Isa,
    job: J,
    partials: &'p mut [J::Float],
    scratch: &'p Scratch,
}

impl<J: GradParts> Work for Gradients<'_, J> {
    type Memory = J::Float;

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

    fn run(mut self, work: &mut [J::Float]) {
        self.job.run_on(self.isa, self.partials, work);
    }
}

/// Sums of parts that are this long in all are merged on two threads, dgamma on one and dbeta on the other.
const LEAST_SHARED_SUMS: usize = 64 * 1024;

/// Merges the sums of all parts into dgamma and dbeta, on up to `tasks` threads.
pub(crate) fn merge<T, M: Center, const POOLS: bool>(
    isa: Isa,
    parts: &Parts,
    partials: &[T::Float],
    grads: ParamGrads<'_, T::Float>,
    tasks: Tasks<POOLS>,
) where
    T: Element + Compiled<M>,
{
    let tasks = if partials.len() < LEAST_SHARED_SUMS { Tasks::ONE } else { tasks };
    share(Merges { isa, parts, partials, grads, of: PhantomData::<(T, M)> }, &mut [], tasks);
}

struct Merges<'a, 'p, T: Element, M> {
    isa: Isa,
    parts: &'p Parts,
    partials: &'p [T::Float],
    grads: ParamGrads<'a, T::Float>,
    of: PhantomData<(T, M)>,
}

impl<T: Element + Compiled<M>, M: Center> Work for Merges<'_, '_, T, M> {
    type Memory = ();

    fn len(&self) -> usize {
        usize::from(self.grads.dgamma.is_some()) + usize::from(self.grads.dbeta.is_some())
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        debug_assert!(at == 1 && self.len() == 2, "dgamma and dbeta");
        let ParamGrads { dgamma, dbeta } = self.grads;
        let (a, b) = (ParamGrads { dgamma, dbeta: None }, ParamGrads { dgamma: None, dbeta });
        (Self { grads: a, ..self }, Self { grads: b, ..self })
    }

    fn run(self, _: &mut [()]) {
        let ParamGrads { dgamma, dbeta } = self.grads;
        self.parts.merge::<T, M>(self.isa, self.partials, dgamma, dbeta);
    }
}
