//! The gradients, for the plans of both normalizations.

use lanenorm_kernels::element::Companion;
use lanenorm_kernels::gate::Gate;
use lanenorm_kernels::ops::backward::{Backward, Parts, Stats};
use lanenorm_kernels::ops::gate::GatedBackward;
use lanenorm_kernels::rows::{GradRows, LINE, Params, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::{Center, Compiled, Element, Error as Refused, GateGradients, Gateable};

use crate::channels::GradTensors;
use crate::gradients::{GateGradIo, GradIo, GradOut, ParamGrads};
use crate::jobs::GradParts;
use crate::parallel::Tasks;
use crate::plan::{Plan, Written, dx_row_bytes};
use crate::scratch::{GroupParts, Scratch};
use crate::{Error, jobs, runs, shape};

/// The rows of the buffers of a call, and their strides.
struct Layouts {
    rows: usize,
    dy: usize,
    x: usize,
    ds: usize,
    dx: usize,
}

/// The memory of a backward call, for the rows of each group in turn.
struct Memory<'s, F> {
    parts: GroupParts,
    tasks: Tasks,
    partials: &'s mut [F],
    work: &'s mut [F],
}

/// Registers of scratch memory that straddle two cache lines cost a fifth of the time.
const ALIGN: usize = LINE;

impl Plan {
    /// The elements of scratch memory that a backward call takes, with all tasks that it might be cut into now.
    pub(crate) fn backward_scratch_len<T: Element>(&self, rows: usize, centered: bool) -> Result<usize, Error> {
        self.scratch_len::<T::Float>(rows, |parts| Scratch::new::<T>(parts, centered))
    }

    /// The same for gated rows.
    pub(crate) fn gate_scratch_len(&self, rows: usize, centered: bool) -> Result<usize, Error> {
        self.scratch_len::<f32>(rows, |parts| Scratch::gated(parts, centered))
    }

    /// The same for rows whose channels come first.
    pub(crate) fn channels_scratch_len<T: Element>(&self, rows: usize, centered: bool) -> Result<usize, Error> {
        self.scratch_len::<T::Float>(rows, |parts| Scratch::channels::<T>(parts, centered))
    }

    fn scratch_len<F>(&self, rows: usize, lens: impl Fn(&Parts) -> Option<Scratch>) -> Result<usize, Error> {
        if rows == 0 || self.cols == 0 {
            return Ok(0);
        }
        let parts = GroupParts::new(self.groups, (rows, self.cols), lens).ok_or_else(|| self.scratch_overflow(rows))?;
        let tasks = self.parallelism.most_tasks_for(backward_elements(rows, self.cols));
        let tasks: Tasks = tasks.at_most(parts.most());
        let total = parts.room().total(tasks.count);
        let total = total.and_then(|total| total.checked_add(ALIGN / size_of::<F>()));
        total.ok_or_else(|| self.scratch_overflow(rows))
    }

    #[cold]
    fn scratch_overflow(&self, rows: usize) -> Error {
        Error::Arguments(Refused::Overflow { what: "scratch", rows, stride: self.cols })
    }

    /// Memory for the gradients of `rows` rows, from `scratch` or, if there is none, allocated in `own`.
    fn scratch_memory<'s, F: Float>(
        &self,
        rows: usize,
        lens: impl Fn(&Parts) -> Option<Scratch>,
        scratch: Option<&'s mut [F]>,
        own: &'s mut Vec<F>,
    ) -> Result<Memory<'s, F>, Error> {
        let cols = self.cols;
        let overflow = || self.scratch_overflow(rows);
        let parts = GroupParts::new(self.groups, (rows, cols), &lens).ok_or_else(overflow)?;
        let (tasks, sizes) = (self.backward_tasks(rows, parts.most()), parts.room());
        let needed = sizes.total(1).ok_or_else(overflow)?;
        let scratch = match scratch {
            Some(scratch) if scratch.len() < needed => {
                return Err(Error::Scratch { len: scratch.len(), needed, rows, cols });
            }
            Some(scratch) => scratch,
            None => {
                *own = vec![F::default(); self.scratch_len::<F>(rows, lens)?];
                &mut own[..]
            }
        };
        let tasks = tasks.at_most((scratch.len() - sizes.partials) / sizes.work.max(1));
        let spare = scratch.len() - sizes.partials - tasks.count * sizes.work;
        let skipped = Some(scratch.as_ptr().align_offset(ALIGN)).filter(|&skipped| skipped <= spare);
        let (partials, work) = scratch[skipped.unwrap_or(0)..].split_at_mut(sizes.partials);
        Ok(Memory { parts, tasks, partials, work })
    }

    /// Takes the gradients of the rows of one group, for which `job` is, and the sums of all of them if `sums`.
    fn gradients_of_group<T, M: Center, J>(
        &self,
        group: usize,
        job: Result<J, Refused>,
        memory: &mut Memory<'_, T::Float>,
        sums: bool,
        grads: &mut ParamGrads<'_, T::Float>,
    ) where
        T: Element + Compiled<M>,
        J: GradParts<Float = T::Float>,
    {
        let Memory { parts, tasks, partials, work } = memory;
        let Ok(job) = job else { unreachable!("all lengths have been checked") };
        let (parts, sizes) = parts.of(self.groups, group);
        let partials = &mut partials[..sizes.partials];
        jobs::backward(self.isa, job, partials, work, sizes, *tasks);
        if sums {
            let of_group = group * self.cols..(group + 1) * self.cols;
            let dgamma = grads.dgamma.as_deref_mut().map(|dgamma| &mut dgamma[of_group.clone()]);
            let dbeta = grads.dbeta.as_deref_mut().map(|dbeta| &mut dbeta[of_group]);
            jobs::merge::<T, M, true>(self.isa, parts, partials, ParamGrads { dgamma, dbeta }, *tasks);
        }
    }

    /// Checks where the gradients of gamma and beta go, and whether `has_rows` says that gradients of rows are wanted.
    /// Returns whether sums are.
    fn check_sums<F>(&self, grads: &ParamGrads<'_, F>, has_rows: bool) -> Result<bool, Error> {
        let ParamGrads { dgamma, dbeta } = grads;
        let sums = dgamma.is_some() || dbeta.is_some();
        let params_len = self.params_len(if dgamma.is_some() { "dgamma" } else { "dbeta" }, sums)?;
        shape::length("dgamma", dgamma.as_deref(), params_len)?;
        shape::length("dbeta", dbeta.as_deref(), params_len)?;
        if !has_rows && !sums {
            return Err(Error::Arguments(Refused::NoGradient));
        }
        Ok(sums)
    }

    /// How many tasks a backward call is cut into, `parts` at most. To be asked once for each call.
    pub(crate) fn backward_tasks<const POOLS: bool>(&self, rows: usize, parts: usize) -> Tasks<POOLS> {
        self.parallelism.tasks_for(backward_elements(rows, self.cols)).at_most(parts)
    }

    /// Takes gradients, with memory from `scratch` or, if there is none, allocated for this call. If `dx` is given, it
    /// allocates the rows of dx, which are [`RowsMut::room`](crate::RowsMut::room) until all has been checked.
    pub(crate) fn backward<T, M: Center>(
        &self,
        mut io: GradIo<'_, T>,
        gamma: Option<Vector<'_, T>>,
        stats: Stats<'_, T::Float>,
        mut grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
        dx: Option<&mut dyn FnMut() -> *mut T>,
    ) -> Result<(), Error>
    where
        T: Element + Compiled<M>,
    {
        let &Self { cols, groups, .. } = self;
        let in_place = matches!(io.out, GradOut::InPlace { .. });
        let has_dx = in_place || matches!(io.out, GradOut::Apart { .. });
        let mut grad_rows = self.rows_of_gradients(&mut io)?;
        let rows = grad_rows.rows();
        self.params(rows, gamma, None)?;
        check_stats::<_, M>(rows, &stats)?;
        let sums = self.check_sums(&grads, has_dx)?;
        // Before anything is allocated: there may be more columns or groups than memory has room for.
        if rows == 0 || cols == 0 {
            grads.fill_with_zeros();
            return Ok(());
        }

        let mut own = Vec::new();
        let lens = |parts: &Parts| Scratch::new::<T>(parts, M::CENTERED);
        let mut memory = self.scratch_memory(rows, lens, scratch, &mut own)?;
        if let Some(dx) = dx {
            io.out.place(dx());
            grad_rows = self.rows_of_gradients(&mut io)?;
        }
        let streaming = self.streams_dx(&grad_rows);
        for group in 0..groups.groups() {
            let job = self.grad_job::<T, M>(grad_rows.reborrow(), group, gamma, stats, sums, streaming);
            self.gradients_of_group::<T, M, _>(group, job, &mut memory, sums, &mut grads);
        }
        Ok(())
    }

    /// Takes the gradients of gated rows.
    pub(crate) fn gate_backward<T: Gateable, Z: Companion<f32>, M: GateGradients>(
        &self,
        mut io: GateGradIo<'_, T, Z>,
        [gamma, beta]: [Option<Vector<'_, T>>; 2],
        gate: Gate,
        mut grads: ParamGrads<'_, f32>,
        scratch: Option<&mut [f32]>,
    ) -> Result<(), Error>
    where
        f32: Compiled<M>,
    {
        let &Self { cols, groups, eps, .. } = self;
        let has_rows = io.dz.is_some() || !matches!(io.out, GradOut::WithoutDx { .. });
        let mut grad_rows = runs::gate_grad_rows(&mut io, cols)?;
        let rows = grad_rows.rows();
        self.params(rows, gamma, beta)?;
        let sums = self.check_sums(&grads, has_rows)?;
        if rows == 0 || cols == 0 {
            grads.fill_with_zeros();
            return Ok(());
        }
        let mut own = Vec::new();
        let lens = |parts: &Parts| Scratch::gated(parts, M::CENTERED);
        let mut memory = self.scratch_memory(rows, lens, scratch, &mut own)?;
        for group in 0..groups.groups() {
            let [gamma, beta] = [gamma, beta].map(|v| v.map(|v| v.part(group * cols, cols).beside::<f32>()));
            let &Self { offset, rounding, divisor, .. } = self;
            let params = Params { gamma, beta, offset, rounding, divisor, ..Params::default() };
            let job = grad_rows.reborrow().with_group(group, groups);
            let job = job.and_then(|rows| GatedBackward::<M>::new(rows, params, eps, gate, sums));
            self.gradients_of_group::<f32, M, _>(group, job, &mut memory, sums, &mut grads);
        }
        Ok(())
    }

    /// Takes the gradients over channels that come first.
    pub(crate) fn channels_backward<T, M: Center>(
        &self,
        tensors: GradTensors<'_, T>,
        pixels: usize,
        params: Params<'_, T>,
        stats: Stats<'_, T::Float>,
        mut grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
    ) -> Result<(), Error>
    where
        T: Element + Compiled<M>,
    {
        let (rows, has_dx) = (tensors.rows(self.cols), tensors.has_dx());
        let sums = self.check_sums(&grads, has_dx)?;
        let job = tensors.into_job::<M>((self.cols, pixels), stats, params, self.eps, sums);
        let job = job.map_err(Error::Arguments)?;
        if rows == 0 {
            grads.fill_with_zeros();
            return Ok(());
        }
        let mut own = Vec::new();
        let lens = |parts: &Parts| Scratch::channels::<T>(parts, M::CENTERED);
        let mut memory = self.scratch_memory(rows, lens, scratch, &mut own)?;
        self.gradients_of_group::<T, M, _>(0, Ok(job), &mut memory, sums, &mut grads);
        Ok(())
    }

    /// The rows of the buffers, if they fit together.
    fn rows_of_gradients<'b, T: Element>(&self, io: &'b mut GradIo<'_, T>) -> Result<GradRows<'b, T>, Error> {
        if io.has_grid() { runs::grad_rows(io, self.cols) } else { self.grad_rows(io) }
    }

    /// Whether dx is wanted, and written past the caches.
    fn streams_dx<T: Element>(&self, rows: &GradRows<'_, T>) -> bool {
        let row_bytes = rows.cols() * size_of::<T>();
        rows.has_dx()
            && self.streams_to(&Written {
                bytes: rows.rows() * row_bytes,
                row_bytes,
                tensors: if rows.has_ds() { 4 } else { 3 },
                on_lines: rows.dx_is_on_lines(),
                in_place: rows.is_in_place(),
                least_row_bytes: dx_row_bytes(size_of::<T>()),
            })
    }

    /// The job of the rows of group `group`. `gamma` is the gamma of all groups.
    fn grad_job<'a, T: Element, M: Center>(
        &self,
        rows: GradRows<'a, T>,
        group: usize,
        gamma: Option<Vector<'a, T>>,
        stats: Stats<'a, T::Float>,
        sums: bool,
        streaming: bool,
    ) -> Result<Backward<'a, T, M>, Refused> {
        let &Self { cols, groups, .. } = self;
        let rows = rows.with_group(group, groups)?;
        let gamma = gamma.map(|gamma| gamma.part(group * cols, cols));
        let offset = T::Float::from_f32(self.offset);
        let &Self { rounding, divisor, eps, .. } = self;
        let params = Params { gamma, offset, rounding, divisor, ..Params::default() };
        Backward::new(rows, stats, params, eps, sums, streaming)
    }

    /// The rows of the buffers, none of which is a grid, if they fit together.
    fn grad_rows<'b, T: Element>(&self, io: &'b mut GradIo<'_, T>) -> Result<GradRows<'b, T>, Error> {
        let layouts = self.grad_layouts(io)?;
        let Ok(rows) = grad_rows(io, &layouts, self.cols) else { unreachable!("all lengths have been checked") };
        Ok(rows)
    }

    fn grad_layouts<T>(&self, io: &GradIo<'_, T>) -> Result<Layouts, Error> {
        let (dy_len, dy_layout) = match &io.out {
            GradOut::Apart { dy, .. } | GradOut::WithoutDx { dy } => (dy.data.len(), dy.layout),
            GradOut::InPlace { dy } => (dy.data.len(), dy.layout),
        };
        let (rows, dy) = shape::rows("dy", dy_len, dy_layout, self.cols)?;
        let same = |what, len, layout| match shape::rows(what, len, layout, self.cols)? {
            (n, stride) if n == rows => Ok(stride),
            (n, _) => Err(Error::GradRows { what, dy: rows, rows: n }),
        };
        let x = same("x", io.x.data.len(), io.x.layout)?;
        let ds = io.ds.as_ref().map_or(Ok(0), |ds| same("ds", ds.data.len(), ds.layout))?;
        let dx = match &io.out {
            GradOut::Apart { dx, .. } => same("dx", dx.data.len(), dx.layout)?,
            _ => dy,
        };
        Ok(Layouts { rows, dy, x, ds, dx })
    }
}

/// How many elements of a forward call take the time of a backward call.
fn backward_elements(rows: usize, cols: usize) -> usize {
    rows.saturating_mul(cols).saturating_mul(2)
}

/// An error if the rows have not been checked.
fn grad_rows<'b, T: Element>(
    io: &'b mut GradIo<'_, T>,
    layouts: &Layouts,
    cols: usize,
) -> Result<GradRows<'b, T>, Refused> {
    let &Layouts { rows, .. } = layouts;
    let x = (io.x.data, layouts.x);
    let grads = match &mut io.out {
        GradOut::Apart { dy, dx } => {
            GradRows::new((dy.data, layouts.dy), x, rows, cols)?.with_dx((&mut *dx.data, layouts.dx))?
        }
        GradOut::InPlace { dy } => GradRows::in_place((&mut *dy.data, layouts.dy), x, rows, cols)?,
        GradOut::WithoutDx { dy } => GradRows::new((dy.data, layouts.dy), x, rows, cols)?,
    };
    match &io.ds {
        Some(ds) => grads.with_ds((ds.data, layouts.ds)),
        None => Ok(grads),
    }
}

fn check_stats<F, M: Center>(rows: usize, stats: &Stats<'_, F>) -> Result<(), Error> {
    let &Stats { mean, mean_lo, rstd } = stats;
    shape::length("mean", mean, rows)?;
    shape::length("mean_lo", mean_lo, rows)?;
    shape::length("rstd", rstd, rows)?;
    check_stats_together(rows, M::CENTERED, [mean.is_some(), mean_lo.is_some(), rstd.is_some()])
}

/// Checks that statistics are given together that belong together. `given` says whether mean, `mean_lo` and rstd are
/// given.
pub(crate) fn check_stats_together(rows: usize, centered: bool, given: [bool; 3]) -> Result<(), Error> {
    let (given, missing) = match given {
        [true, _, false] => ("mean", "rstd"),
        [false, _, true] if centered => ("rstd", "mean"),
        [false, true, _] => ("mean_lo", "mean"),
        _ => return Ok(()),
    };
    Err(Error::Arguments(Refused::Statistics { rows, given, missing }))
}
