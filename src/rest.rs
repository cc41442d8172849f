//! Calls that copy what lies behind the columns of each row: see [`Call::copy_rest`].

use lanenorm_kernels::ops::forward::Forward;
use lanenorm_kernels::ops::{layer_norm, rms_norm};
use lanenorm_kernels::rows::{RowIo, Vector};
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Centered, Compiled, Element, Uncentered};

use crate::call::Call;
use crate::input::{Apart, Plain};
use crate::jobs::{self, MakeJob, Vectors};
use crate::norm::Norm;
use crate::parallel::{Tasks, Work, share};
use crate::plan::Plan;
use crate::rows::{Layout, Rows, RowsMut};
use crate::{Error, shape};

/// The bytes of x that are normalized before the rest of their rows is copied, while it is in a cache.
const TILE: usize = 256 << 10;

/// A call that copies the rest of each row, to be run by [`to`](Self::to).
#[derive(Debug)]
#[must_use = "nothing happens before `to`"]
pub struct RestCall<'a, T: Element, M: Center, P> {
    call: Call<'a, T, M, Plain, Apart, P>,
}

impl<'a, T: Element, M: Center, P> Call<'a, T, M, Plain, Apart, P> {
    /// Copies what lies behind the columns of each row of x, up to the next row, to the same place in y: normalizes
    /// the first columns of longer rows, and leaves the others as they are.
    ///
    /// ```
    /// use lanenorm::{RmsNorm, Rows, RowsMut};
    ///
    /// // Rows of 3, of which the first 2 columns are normalized.
    /// let (x, mut y) = ([3.0, -3.0, 7.0, 5.0, 5.0, 9.0], [0.0; 6]);
    /// let plan = RmsNorm::new(2, 0.0)?;
    /// plan.call(Rows::strided(&x, 2, 3)).copy_rest().to(RowsMut::strided(&mut y, 2, 3))?;
    /// assert_eq!(y, [1.0, -1.0, 7.0, 1.0, 1.0, 9.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// y has the type and the stride of x, and the rest of the last row is there too, in both. Rows are given by
    /// slices, at one stride; those that follow one another have no rest. In place there is nothing to copy, and no
    /// such call:
    ///
    /// ```compile_fail,E0599
    /// # let mut x = [1.0f32; 4];
    /// lanenorm::RmsNorm::new(4, 1e-6)?.call_in_place(&mut x).copy_rest();
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline]
    pub fn copy_rest(self) -> RestCall<'a, T, M, P> {
        RestCall { call: self }
    }
}

impl<'a, T: Element, M: Center, P> RestCall<'a, T, M, P> {
    /// Runs the call; its result goes to y.
    ///
    /// # Errors
    /// If the lengths or the strides do not fit together; nothing has been written then.
    pub fn to(self, y: impl Into<RowsMut<'a, T>>) -> Result<(), Error> {
        let (norm, x, _, gamma, beta, stats) = self.call.into_parts()?;
        norm.run_with_rest(x, y.into(), [gamma, beta], stats)
    }
}

/// The rows of a buffer and their stride, if it has all of each row.
fn whole_rows(what: &'static str, len: usize, layout: Layout, cols: usize) -> Result<(usize, usize), Error> {
    if layout.is_grid() {
        return Err(Error::NoRest { what });
    }
    let (rows, stride) = shape::rows(what, len, layout, cols)?;
    shape::rows(what, len, Layout::Strided { rows, stride }, stride)
}

impl<M: Center> Norm<M> {
    fn run_with_rest<'a, T: Element>(
        &self,
        x: Rows<'a, T>,
        y: RowsMut<'a, T>,
        [gamma, beta]: [Option<Vector<'a, T>>; 2],
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        let plan = self.plan();
        let (rows, stride) = whole_rows("x", x.data.len(), x.layout, plan.cols)?;
        let (y_rows, y_stride) = whole_rows("y", y.data.len(), y.layout, plan.cols)?;
        if rows != y_rows {
            return Err(Error::Rows { x: rows, y: y_rows });
        }
        if rows > 0 && stride != y_stride {
            return Err(Error::RestStrides { x: stride, y: y_stride });
        }
        let mut params = plan.params(rows, gamma, beta)?;
        Plan::check_stats(rows, &stats)?;
        // Groups need not divide a tile.
        params.groups = params.groups.after(0);
        let (x, y, vectors) = (x.data, y.data, Vectors { params, bias: None, stats, moments: None });
        let rows = Whole { x, y, vectors, rows, stride };
        if M::CENTERED {
            plan.run_whole::<T, Centered>(rows, |io, params, eps, streaming, stats| {
                layer_norm::LayerNorm::new(io, params, eps, streaming, stats)
            });
        } else {
            plan.run_whole::<T, Uncentered>(rows, |io, params, eps, streaming, stats| {
                rms_norm::RmsNorm::new(io, params, eps, streaming, stats.rstd)
            });
        }
        Ok(())
    }
}

impl Plan {
    #[inline(never)]
    fn run_whole<T, M: Center>(&self, mut rows: Whole<'_, T>, job: MakeJob<T, M>)
    where
        T: Element + Compiled<M>,
    {
        let row_len = rows.stride.max(self.cols);
        if rows.rows == 0 || row_len == 0 {
            return;
        }
        let streaming = self.streams(&rows.io(self.cols));
        let tasks: Tasks = self.parallelism.tasks_for(rows.rows.saturating_mul(row_len));
        let tile = (TILE / (row_len * size_of::<T>())).max(1);
        let mut work = WithRest { plan: self, rows, job, streaming, tile };
        while jobs::first_is_cut(work.len(), self.cols, false, tasks.count) {
            let (row, rest) = work.split_at(1);
            row.run_tile(|job| jobs::cut_row(self.isa, job, tasks));
            work = rest;
        }
        share(work, &mut [], tasks);
    }
}

/// Rows with what lies behind their columns, and the vectors of the call.
struct Whole<'a, T: Element> {
    x: &'a [T],
    y: &'a mut [T],
    vectors: Vectors<'a, 'a, T>,
    rows: usize,
    stride: usize,
}

impl<T: Element> Whole<'_, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let Self { x, y, vectors, rows, stride } = self;
        let row = row.min(rows);
        // A single row may be longer than its stride.
        let at = if row < rows { row * stride } else { x.len().min(y.len()) };
        let ((x, other_x), (y, other_y)) = (x.split_at(at), y.split_at_mut(at));
        let (vectors, others) = vectors.split_at(row);
        let rest = Self { x: other_x, y: other_y, vectors: others, rows: rows - row, stride };
        (Self { x, y, vectors, rows: row, stride }, rest)
    }

    fn io(&mut self, cols: usize) -> RowIo<'_, T> {
        let &mut Self { x, ref mut y, rows, stride, .. } = self;
        let io = RowIo::new(x, stride, y, stride, rows, cols);
        io.unwrap_or_else(|_| unreachable!("shape.rs has checked the rows"))
    }
}

/// Rows of which the columns are normalized and the rest is copied. All has been checked.
struct WithRest<'a, 'p, T: Element, M: Center> {
    plan: &'p Plan,
    rows: Whole<'a, T>,
    job: MakeJob<T, M>,
    streaming: bool,
    /// The rows of a tile.
    tile: usize,
}

impl<T: Element + Compiled<M>, M: Center> WithRest<'_, '_, T, M> {
    /// Normalizes rows by `run`, and copies the rest of them.
    fn run_tile(self, run: impl FnOnce(Forward<'_, T, M>)) {
        let Self { plan: &Plan { cols, eps, .. }, rows: mut tile, job, streaming, .. } = self;
        if cols > 0 {
            let (params, stats) = (tile.vectors.params, std::mem::take(&mut tile.vectors.stats));
            match job(tile.io(cols), params, eps, streaming, stats) {
                Ok(job) => run(job),
                Err(error) => unreachable!("the plans have checked all lengths: {error}"),
            }
        }
        let Whole { x, y, stride, rows, .. } = tile;
        if stride > cols {
            for (x, y) in x.chunks(stride).zip(y.chunks_mut(stride)).take(rows) {
                y[cols..].copy_from_slice(&x[cols..]);
            }
        }
    }
}

impl<T: Element + Compiled<M>, M: Center> Work for WithRest<'_, '_, T, M> {
    type Memory = ();

    fn len(&self) -> usize {
        self.rows.rows
    }

    fn elements(&self) -> usize {
        self.len() * self.rows.stride.max(self.plan.cols)
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let (rows, others) = self.rows.split_at(row);
        (Self { rows, ..self }, Self { rows: others, ..self })
    }

    fn run(mut self, _: &mut [()]) {
        while self.len() > 0 {
            let at = self.tile;
            let (tile, rest) = self.split_at(at);
            let isa = tile.plan.isa;
            tile.run_tile(|mut job| job.run_on(isa));
            self = rest;
        }
    }
}
