//! What the plans of all operations share.

use lanenorm_kernels::divisor::Divisor;
use lanenorm_kernels::element::{Addend, Companion};
use lanenorm_kernels::ops::forward::{Forward, ForwardRow, SINGLE_ROW_COLS};
use lanenorm_kernels::ops::moments::RowMoments;
use lanenorm_kernels::rounding::Rounding;
use lanenorm_kernels::rows::{Groups, OneRow, Params, RowIo, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::stats::{Moments, StatsMut};
use lanenorm_kernels::{Center, Compiled, Element, Error as Refused, Isa};

use crate::jobs::{self, Vectors};
use crate::rows::{Layout, Rows, RowsMut};
use crate::runs::{RowReader, RunsIo};
use crate::{Error, Parallelism, default_isa, shape};

/// Which stores write y. The bits of the result are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Store {
    /// Streaming stores where all tensors of a call have more than 16 MiB together and its rows are long, but not in
    /// place; else ordinary ones. Whoever reads y at once on a processor whose last cache keeps more than that may
    /// prefer ordinary ones.
    #[default]
    Auto,
    /// Ordinary stores, which leave y in the caches.
    Ordinary,
    /// Streaming stores, which write past the caches where the tier has them. In place they are never used.
    Streaming,
}

/// [`Store::Auto`] streams where the tensors of a call have more bytes than this together, if rows are long enough:
/// then the caches keep little of them until they are wanted again.
const STREAM_BYTES: usize = 16 << 20;

/// The bytes of a row of y from which on streaming pays where rows start on cache lines. Loops over 16 bits wait for
/// arithmetic, so that it takes longer rows to gain anything, and so do sums, of whose bytes y is a quarter.
#[inline]
pub(crate) const fn y_row_bytes(element: usize, is_sum: bool) -> usize {
    let plain = if is_sum { 1 << 10 } else { 512 };
    if element < size_of::<f32>() { 2 << 10 } else { plain }
}

/// The same of dx.
#[inline]
pub(crate) const fn dx_row_bytes(element: usize) -> usize {
    if element < size_of::<f32>() { 1 << 10 } else { 256 }
}

/// The same of both where rows start anywhere, but for rows of y without gaps: a cache line that is streamed in part
/// costs as much as many lines.
const RAGGED_ROW_BYTES: usize = 4 << 10;

// One row of a chunk is normalized by one thread, and with `Store::Auto` by ordinary stores.
const _: () = assert!(SINGLE_ROW_COLS < jobs::LEAST_CUT_COLS && SINGLE_ROW_COLS * size_of::<f64>() < STREAM_BYTES / 4);

/// What a call writes, and how much it touches.
pub(crate) struct Written {
    /// The bytes of all rows of the output.
    pub(crate) bytes: usize,
    pub(crate) row_bytes: usize,
    /// How many tensors of that size the call reads and writes.
    pub(crate) tensors: usize,
    /// Whether all rows of the output start on cache lines, or follow one another so that lines that they share are
    /// streamed too.
    pub(crate) on_lines: bool,
    pub(crate) in_place: bool,
    /// [`y_row_bytes`] or [`dx_row_bytes`].
    pub(crate) least_row_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cols: usize,
    pub(crate) eps: f64,
    pub(crate) offset: f32,
    pub(crate) rounding: Rounding,
    pub(crate) divisor: Divisor,
    pub(crate) groups: Groups,
    pub(crate) isa: Isa,
    pub(crate) parallelism: Parallelism,
    pub(crate) store: Store,
}

impl Plan {
    pub(crate) fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        shape::eps(eps)?;
        let isa = default_isa()?;
        let (parallelism, store) = (Parallelism::default(), Store::default());
        let (rounding, divisor) = (Rounding::ONCE, Divisor::RootMeanSquare);
        Ok(Self { cols, eps, offset: 0.0, rounding, divisor, groups: Groups::ONE, isa, parallelism, store })
    }

    pub(crate) fn with_groups(self, groups: usize, repeat: usize) -> Result<Self, Error> {
        let groups = Groups::new(groups, repeat).map_err(Error::Arguments)?;
        Ok(Self { groups, ..self })
    }

    pub(crate) fn with_last_repeat(self, last: usize) -> Result<Self, Error> {
        let groups = self.groups.with_last_repeat(last).map_err(Error::Arguments)?;
        Ok(Self { groups, ..self })
    }

    /// Whether one row of this many elements is a row of this plan that one thread normalizes with ordinary stores,
    /// whatever the parallelism, with the only gamma and beta.
    #[inline(always)]
    pub(crate) fn takes_one_row(&self, cols: usize) -> bool {
        let only_one = self.groups.period() == 1 && self.divisor == Divisor::RootMeanSquare;
        cols == self.cols && cols <= SINGLE_ROW_COLS && only_one && self.store != Store::Streaming
    }

    /// Normalizes a row that [`takes_one_row`](Self::takes_one_row) has found to be one. Returns false, and has done
    /// nothing, if gamma or beta does not fit.
    #[inline(always)]
    pub(crate) fn run_row<T, M: Center>(
        &self,
        row: OneRow<'_, T>,
        gamma: Option<Vector<'_, T>>,
        beta: Option<Vector<'_, T>>,
    ) -> bool
    where
        T: Element + Compiled<M>,
    {
        // Not moved out of the option: see `Forward::run_on`.
        let offset = T::Float::from_f32(self.offset);
        let mut job = ForwardRow::<T, M>::new(row, gamma, beta, offset, self.rounding, self.eps);
        let Some(job) = &mut job else { return false };
        job.run_on(self.isa);
        true
    }

    /// gamma and beta, if they fit the rows.
    #[inline(always)]
    pub(crate) fn params<'a, T: Element>(
        &self,
        rows: usize,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
    ) -> Result<Params<'a, T>, Error> {
        let &Self { groups, rounding, divisor, .. } = self;
        let offset = T::Float::from_f32(self.offset);
        let mut params = Params { gamma, beta, offset, rounding, divisor, ..Params::default() };
        divisor.check_eps(self.eps).map_err(Error::Arguments)?;
        let len = self.params_len("gamma", gamma.is_some() || beta.is_some())?;
        if groups.period() > 1 {
            if !rows.is_multiple_of(groups.period()) {
                return Err(Error::Arguments(groups.misfit(rows)));
            }
            params.groups = groups;
        }
        let fits = |what, v: &Option<Vector<'_, T>>| shape::len(what, v.as_ref().map(Vector::len), len);
        fits("gamma", &gamma)?;
        fits("beta", &beta)?;
        Ok(params)
    }

    /// The elements of gamma, or of another vector that groups have. Of no consequence unless one is given: without it,
    /// products may overflow.
    #[inline(always)]
    pub(crate) fn params_len(&self, what: &'static str, is_given: bool) -> Result<usize, Error> {
        let (cols, groups) = (self.cols, self.groups.groups());
        match cols.checked_mul(groups) {
            None if is_given => Err(Error::Arguments(Refused::Overflow { what, rows: groups, stride: cols })),
            len => Ok(len.unwrap_or(usize::MAX)),
        }
    }

    /// The rows of x and y, if they fit together.
    #[inline(always)]
    pub(crate) fn rows<'a, T: Element, Y: Companion<T>>(
        &self,
        x: Rows<'a, T>,
        y: RowsMut<'a, Y>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let (y_rows, y_stride) = shape::rows("y", y.data.len(), y.layout, self.cols)?;
        if rows != y_rows {
            return Err(Error::Rows { x: rows, y: y_rows });
        }
        let io = RowIo::new(x.data, x_stride, y.data, y_stride, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The rows of x, without y.
    pub(crate) fn rows_without_y<'a, T: Element>(&self, x: Rows<'a, T>) -> Result<RowIo<'a, T>, Error> {
        let (rows, stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let io = RowIo::without_y(x.data, stride, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The rows of x + residual, written to s, without y, if they fit together.
    pub(crate) fn rows_of_sum_alone<'a, T: Element, X: Addend<T>>(
        &self,
        x: Rows<'a, X>,
        residual: Rows<'a, T>,
        bias: Option<&'a [T]>,
        s: RowsMut<'a, T>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = self.rows_of_addend(x.data.len(), x.layout, bias)?;
        let residual_stride = self.rows_beside(rows, "residual", residual.data.len(), residual.layout)?;
        let s_stride = self.rows_beside(rows, "sum", s.data.len(), s.layout)?;
        let (residual, s) = ((residual.data, residual_stride), (s.data, s_stride));
        let io = RowIo::sum_into((x.data, x_stride), residual, s, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")).and_no_y())
    }

    /// The same of a sum that is written over the residual.
    pub(crate) fn rows_of_sum_alone_in_place<'a, T: Element, X: Addend<T>>(
        &self,
        x: Rows<'a, X>,
        residual: RowsMut<'a, T>,
        bias: Option<&'a [T]>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = self.rows_of_addend(x.data.len(), x.layout, bias)?;
        let residual_stride = self.rows_beside(rows, "residual", residual.data.len(), residual.layout)?;
        let io = RowIo::sum_over((x.data, x_stride), (residual.data, residual_stride), rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")).and_no_y())
    }

    /// The rows of x, to be written where they lie.
    #[inline(always)]
    pub(crate) fn rows_in_place<'a, T: Element>(&self, x: RowsMut<'a, T>) -> Result<RowIo<'a, T>, Error> {
        let (rows, stride) = shape::rows("x", x.data.len(), x.layout, self.cols)?;
        let io = RowIo::in_place(x.data, stride, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The rows of x + residual, written to s, and of y, if they fit together.
    #[inline(always)]
    pub(crate) fn rows_of_sum<'a, T: Element, X: Addend<T>, Y: Companion<T>>(
        &self,
        x: Rows<'a, X>,
        residual: Rows<'a, T>,
        bias: Option<&'a [T]>,
        s: RowsMut<'a, T>,
        y: RowsMut<'a, Y>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = self.rows_of_addend(x.data.len(), x.layout, bias)?;
        let y_stride = self.rows_beside(rows, "y", y.data.len(), y.layout)?;
        let residual_stride = self.rows_beside(rows, "residual", residual.data.len(), residual.layout)?;
        let s_stride = self.rows_beside(rows, "sum", s.data.len(), s.layout)?;
        let (residual, s, y) = ((residual.data, residual_stride), (s.data, s_stride), (y.data, y_stride));
        let io = RowIo::sum((x.data, x_stride), residual, s, y, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The same of a sum that is written over the residual.
    #[inline(always)]
    pub(crate) fn rows_of_sum_in_place<'a, T: Element, X: Addend<T>, Y: Companion<T>>(
        &self,
        x: Rows<'a, X>,
        residual: RowsMut<'a, T>,
        bias: Option<&'a [T]>,
        y: RowsMut<'a, Y>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = self.rows_of_addend(x.data.len(), x.layout, bias)?;
        let y_stride = self.rows_beside(rows, "y", y.data.len(), y.layout)?;
        let residual_stride = self.rows_beside(rows, "residual", residual.data.len(), residual.layout)?;
        let (residual, y) = ((residual.data, residual_stride), (y.data, y_stride));
        let io = RowIo::sum_in_place((x.data, x_stride), residual, y, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The same of a sum that is not kept.
    #[inline(always)]
    pub(crate) fn rows_of_dropped_sum<'a, T: Element, X: Addend<T>>(
        &self,
        x: Rows<'a, X>,
        residual: Rows<'a, T>,
        bias: Option<&'a [T]>,
        y: RowsMut<'a, T>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = self.rows_of_addend(x.data.len(), x.layout, bias)?;
        let y_stride = self.rows_beside(rows, "y", y.data.len(), y.layout)?;
        let residual_stride = self.rows_beside(rows, "residual", residual.data.len(), residual.layout)?;
        let (residual, y) = ((residual.data, residual_stride), (y.data, y_stride));
        let io = RowIo::sum_into((x.data, x_stride), residual, y, rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The same of a sum that is not kept, normalized over x.
    #[inline(always)]
    pub(crate) fn rows_of_sum_over_x<'a, T: Element, R: Addend<T>>(
        &self,
        x: RowsMut<'a, T>,
        residual: Rows<'a, R>,
        bias: Option<&'a [T]>,
    ) -> Result<RowIo<'a, T>, Error> {
        let (rows, x_stride) = self.rows_of_addend(x.data.len(), x.layout, bias)?;
        let residual_stride = self.rows_beside(rows, "residual", residual.data.len(), residual.layout)?;
        // The order of two addends changes no bits.
        let io = RowIo::sum_over((residual.data, residual_stride), (x.data, x_stride), rows, self.cols);
        Ok(io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows")))
    }

    /// The number of rows of the x of a sum and their stride, if they fit and the bias does.
    #[inline(always)]
    fn rows_of_addend<T>(&self, len: usize, layout: Layout, bias: Option<&[T]>) -> Result<(usize, usize), Error> {
        shape::length("bias", bias, self.cols)?;
        shape::rows("x", len, layout, self.cols)
    }

    /// The stride of a buffer of a sum, if it has as many rows as x.
    #[inline]
    fn rows_beside(&self, rows: usize, what: &'static str, len: usize, layout: Layout) -> Result<usize, Error> {
        match shape::rows(what, len, layout, self.cols)? {
            (n, stride) if n == rows => Ok(stride),
            (n, _) => Err(Error::SumRows { what, x: rows, rows: n }),
        }
    }

    /// That statistics have an element for each row.
    #[inline(always)]
    pub(crate) fn check_stats<F>(rows: usize, stats: &StatsMut<'_, F>) -> Result<(), Error> {
        shape::length("mean", stats.mean.as_deref(), rows)?;
        shape::length("mean_lo", stats.mean_lo.as_deref(), rows)?;
        shape::length("rstd", stats.rstd.as_deref(), rows)
    }

    /// Runs the job that `job` makes, once it is known whether to stream.
    #[inline(always)]
    pub(crate) fn run<'a, T, M: Center>(
        &self,
        io: RowIo<'a, T>,
        bias: Option<&'a [T]>,
        job: impl FnOnce(RowIo<'a, T>, bool) -> Result<Forward<'a, T, M>, Refused>,
    ) where
        T: Element + Compiled<M>,
    {
        // Rows lie in slices, so that this does not overflow.
        let elements = io.rows() * self.cols;
        if elements == 0 {
            return;
        }
        let streaming = self.streams(&io);
        // Not moved out of the result: see `Forward::run_on`.
        let mut job = job(io, streaming);
        if let Some(bias) = bias {
            job = job.and_then(|job| job.with_bias(bias));
        }
        let tasks = self.parallelism.tasks_for(elements);
        if tasks.count > 1 {
            let Ok(job) = job else { unreachable!("the plans have checked all lengths") };
            jobs::run(self.isa, job, tasks);
        } else {
            let Ok(job) = &mut job else { unreachable!("the plans have checked all lengths") };
            job.run_on(self.isa);
        }
    }

    /// The moments of each row of x, with a scale on the slow path.
    pub(crate) fn moments<T: Element>(
        &self,
        x: Rows<'_, T>,
        centered: bool,
        scale: Option<f64>,
        out: &mut [Moments],
    ) -> Result<(), Error> {
        let cols = self.cols;
        let none = RowMoments::new(&[], centered);
        let row_of = scale.map_or(Ok(none), |scale| none.at_scale(scale)).map_err(Error::Arguments)?;
        let tasks = |rows: usize| self.parallelism.tasks_for(rows.saturating_mul(cols));
        if x.layout.is_grid() {
            let x = RowReader::new(x, cols)?;
            shape::length("moments", Some(&*out), x.rows())?;
            let row = |r| row_of.of(x.row(r));
            jobs::moments(self.isa, out, &row, tasks(x.rows()));
            return Ok(());
        }
        let (rows, stride) = shape::rows("x", x.data.len(), x.layout, cols)?;
        shape::length("moments", Some(&*out), rows)?;
        let row = |r| row_of.of(if cols == 0 { &[] } else { &x.data[r * stride..][..cols] });
        jobs::moments(self.isa, out, &row, tasks(rows));
        Ok(())
    }

    /// Runs a job with moments that are known.
    pub(crate) fn run_with<'a, T, M: Center>(
        &self,
        io: RowIo<'a, T>,
        moments: &[Moments],
        job: impl FnOnce(RowIo<'a, T>, bool) -> Result<Forward<'a, T, M>, Refused>,
    ) -> Result<(), Error>
    where
        T: Element + Compiled<M>,
    {
        let cols = self.cols;
        shape::length("moments", Some(moments), io.rows())?;
        let elements = io.rows() * cols;
        if elements == 0 {
            return Ok(());
        }
        self.check_moments::<T>(moments)?;
        let streaming = self.streams(&io);
        let Ok(job) = job(io, streaming) else { unreachable!("the plans have checked all lengths") };
        jobs::run_with(self.isa, job, moments, self.parallelism.tasks_for(elements));
        Ok(())
    }

    /// That rows of this type can have these moments.
    pub(crate) fn check_moments<T: Element>(&self, moments: &[Moments]) -> Result<(), Error> {
        let cols = self.cols;
        match moments.iter().enumerate().find(|(_, moments)| !moments.are_of::<T>(cols)) {
            None => Ok(()),
            Some((row, moments)) => {
                let (&Moments { count, m2, scale, .. }, mean) = (moments, moments.mean());
                Err(Error::Arguments(Refused::Moments { row, count, scale, mean, m2, cols, dtype: T::DTYPE.name() }))
            }
        }
    }

    /// Runs the jobs that `job` makes of rows in runs, with moments if they are known. All has been checked.
    pub(crate) fn run_in_runs<'a, T, M: Center>(
        &self,
        io: RunsIo<'a, T>,
        vectors: Vectors<'a, '_, T>,
        job: impl Fn(RowIo<'a, T>, Params<'a, T>, bool, StatsMut<'a, T::Float>) -> Result<Forward<'a, T, M>, Refused> + Sync,
    ) where
        T: Element + Compiled<M>,
    {
        let elements = io.elements();
        if elements == 0 {
            return;
        }
        let streaming = self.streams_in_runs(&io, if io.is_sum() { 4 } else { 2 });
        let job = |io, params, stats| job(io, params, streaming, stats);
        jobs::run_in_runs(self.isa, io, vectors, &job, self.parallelism.tasks_for(elements));
    }

    /// Whether rows in runs are written past the caches by a call that reads and writes this many tensors.
    pub(crate) fn streams_in_runs<T: Element>(&self, io: &RunsIo<'_, T>, tensors: usize) -> bool {
        self.streams_to(&Written {
            bytes: io.elements() * io.y_element(),
            row_bytes: self.cols * io.y_element(),
            tensors,
            on_lines: io.y_is_on_lines(),
            in_place: io.is_in_place(),
            least_row_bytes: y_row_bytes(size_of::<T>(), io.is_sum()),
        })
    }

    #[inline]
    pub(crate) fn streams<T: Element>(&self, io: &RowIo<'_, T>) -> bool {
        self.streams_to(&Written {
            bytes: io.y_bytes(),
            row_bytes: io.y_row_bytes(),
            tensors: if io.is_sum() { 4 } else { 2 },
            on_lines: io.y_is_on_lines() || io.y_has_no_gaps(),
            in_place: io.is_in_place(),
            least_row_bytes: y_row_bytes(size_of::<T>(), io.is_sum()),
        })
    }

    /// Whether the output is written past the caches.
    #[inline]
    pub(crate) fn streams_to(&self, written: &Written) -> bool {
        let &Written { bytes, row_bytes, tensors, on_lines, in_place, least_row_bytes } = written;
        let least = if on_lines { least_row_bytes } else { RAGGED_ROW_BYTES };
        !in_place
            && match self.store {
                Store::Auto => bytes > STREAM_BYTES / tensors && row_bytes >= least,
                Store::Ordinary => false,
                Store::Streaming => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_outputs_of_long_rows_are_streamed() {
        let plan = Plan::new(1, 0.0).expect("a plan");
        let y = |rows: usize, row_bytes: usize| Written {
            bytes: rows * row_bytes,
            row_bytes,
            tensors: 2,
            on_lines: true,
            in_place: false,
            least_row_bytes: y_row_bytes(4, false),
        };
        assert!(!plan.streams_to(&y(2048, 4096)), "just 16 MiB of x and y");
        assert!(plan.streams_to(&y(2049, 4096)));
        assert!(plan.streams_to(&Written { tensors: 4, ..y(1025, 4096) }), "a sum");
        assert!(!plan.streams_to(&Written { in_place: true, ..y(2049, 4096) }));
        assert!(plan.streams_to(&y(1 << 20, 512)) && !plan.streams_to(&y(1 << 20, 511)));
        let sum = |row_bytes| Written { least_row_bytes: y_row_bytes(4, true), ..y(1 << 20, row_bytes) };
        assert!(plan.streams_to(&sum(1024)) && !plan.streams_to(&sum(1023)));
        let narrow = |row_bytes| Written { least_row_bytes: y_row_bytes(2, false), ..y(1 << 20, row_bytes) };
        assert!(plan.streams_to(&narrow(2048)) && !plan.streams_to(&narrow(2047)));
        let dx = |element, row_bytes| Written { least_row_bytes: dx_row_bytes(element), ..y(1 << 20, row_bytes) };
        assert!(plan.streams_to(&dx(4, 256)) && !plan.streams_to(&dx(4, 255)));
        assert!(plan.streams_to(&dx(2, 1024)) && !plan.streams_to(&dx(2, 1023)));
        let ragged = |row_bytes| Written { on_lines: false, ..y(1 << 20, row_bytes) };
        assert!(plan.streams_to(&ragged(4096)) && !plan.streams_to(&ragged(4095)));
        for (store, streams) in [(Store::Ordinary, false), (Store::Streaming, true)] {
            assert_eq!(Plan { store, ..plan }.streams_to(&y(1, 4)), streams);
            assert_eq!(Plan { store, ..plan }.streams_to(&y(2049, 4096)), streams);
        }
    }
}
