//! The gradients, for the plans of both normalizations.

use lanenorm_kernels::ops::backward::{Backward, Parts, Stats};
use lanenorm_kernels::rows::{GradRows, LINE, Params, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::{Center, Compiled, Element, Error as Refused};

use crate::gradients::{GradIo, GradOut, ParamGrads};
use crate::parallel::Tasks;
use crate::plan::{Plan, Written, dx_row_bytes};
use crate::scratch::Scratch;
use crate::{Error, jobs, runs, shape};

/// The rows of the buffers of a call, and their strides.
struct Layouts {
    rows: usize,
    dy: usize,
    x: usize,
    ds: usize,
    dx: usize,
}

/// Registers of scratch memory that straddle two cache lines cost a fifth of the time.
const ALIGN: usize = LINE;

impl Plan {
    /// The elements of scratch memory that a backward call takes, with all tasks that it might be cut into now.
    pub(crate) fn backward_scratch_len<T: Element>(&self, rows: usize, centered: bool) -> Result<usize, Error> {
        if rows == 0 || self.cols == 0 {
            return Ok(0);
        }
        let parts = Parts::new(rows / self.groups, self.cols);
        let tasks: Tasks = self.parallelism.most_tasks_for(backward_elements(rows, self.cols)).at_most(parts.count());
        let total = Scratch::new::<T>(&parts, centered).and_then(|scratch| scratch.total(tasks.count));
        let total = total.and_then(|total| total.checked_add(ALIGN / size_of::<T::Float>()));
        total.ok_or(Error::Arguments(Refused::Overflow { what: "scratch", rows, stride: self.cols }))
    }

    /// How many tasks a backward call is cut into. To be asked once for each call.
    pub(crate) fn backward_tasks<const POOLS: bool>(&self, rows: usize, parts: &Parts) -> Tasks<POOLS> {
        self.parallelism.tasks_for(backward_elements(rows, self.cols)).at_most(parts.count())
    }

    /// Takes gradients, with memory from `scratch` or, if there is none, allocated for this call. If `dx` is given, it
    /// allocates the rows of dx, which are [`RowsMut::room`](crate::RowsMut::room) until all has been checked.
    pub(crate) fn backward<T, M: Center>(
        &self,
        mut io: GradIo<'_, T>,
        gamma: Option<Vector<'_, T>>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
        dx: Option<&mut dyn FnMut() -> *mut T>,
    ) -> Result<(), Error>
    where
        T: Element + Compiled<M>,
    {
        let &Self { cols, groups, .. } = self;
        let ParamGrads { mut dgamma, mut dbeta } = grads;
        let in_place = matches!(io.out, GradOut::InPlace { .. });
        let has_dx = in_place || matches!(io.out, GradOut::Apart { .. });
        let mut grad_rows = self.rows_of_gradients(&mut io)?;
        let rows = grad_rows.rows();
        self.params(rows, gamma, None)?;
        check_stats::<_, M>(rows, &stats)?;
        let sums = dgamma.is_some() || dbeta.is_some();
        let params_len = self.params_len(if dgamma.is_some() { "dgamma" } else { "dbeta" }, sums)?;
        shape::length("dgamma", dgamma.as_deref(), params_len)?;
        shape::length("dbeta", dbeta.as_deref(), params_len)?;
        if !has_dx && !sums {
            return Err(Error::Arguments(Refused::NoGradient));
        }
        // Before anything is allocated: there may be more columns or groups than memory has room for.
        if rows == 0 || cols == 0 {
            [dgamma, dbeta].into_iter().flatten().for_each(|sums| sums.fill(T::Float::default()));
            return Ok(());
        }

        let parts = Parts::new(rows / groups, cols);
        let tasks = self.backward_tasks(rows, &parts);
        let overflow = || Error::Arguments(Refused::Overflow { what: "scratch", rows, stride: cols });
        let lens = Scratch::new::<T>(&parts, M::CENTERED).ok_or_else(overflow)?;
        let needed = lens.total(1).ok_or_else(overflow)?;
        let mut own;
        let scratch = match scratch {
            Some(scratch) if scratch.len() < needed => {
                return Err(Error::Scratch { len: scratch.len(), needed, rows, cols });
            }
            Some(scratch) => scratch,
            None => {
                own = vec![T::Float::default(); self.backward_scratch_len::<T>(rows, M::CENTERED)?];
                &mut own[..]
            }
        };
        let tasks = tasks.at_most((scratch.len() - lens.partials) / lens.work.max(1));
        let spare = scratch.len() - lens.partials - tasks.count * lens.work;
        let skipped = Some(scratch.as_ptr().align_offset(ALIGN)).filter(|&skipped| skipped <= spare);
        let (partials, work) = scratch[skipped.unwrap_or(0)..].split_at_mut(lens.partials);
        if let Some(dx) = dx {
            io.out.place(dx());
            grad_rows = self.rows_of_gradients(&mut io)?;
        }
        let streaming = self.streams_dx(&grad_rows);
        for group in 0..groups {
            let of_group = group * cols..(group + 1) * cols;
            let grad_rows = grad_rows.reborrow();
            let Ok(job) = self.grad_job::<T, M>(grad_rows, group, gamma, stats, sums, streaming) else {
                unreachable!("all lengths have been checked")
            };
            jobs::backward(self.isa, job, partials, work, &lens, tasks);
            if sums {
                let dgamma = dgamma.as_deref_mut().map(|dgamma| &mut dgamma[of_group.clone()]);
                let dbeta = dbeta.as_deref_mut().map(|dbeta| &mut dbeta[of_group]);
                jobs::merge::<T, M, true>(self.isa, &parts, partials, ParamGrads { dgamma, dbeta }, tasks);
            }
        }
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
        let &Self { cols, groups, repeat, .. } = self;
        let rows = rows.with_group(group, groups, repeat)?;
        let gamma = gamma.map(|gamma| gamma.part(group * cols, cols));
        let offset = T::Float::from_f32(self.offset);
        let params = Params { gamma, offset, rounding: self.rounding, ..Params::default() };
        Backward::new(rows, stats, params, self.eps, sums, streaming)
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
