//! The rows of calls of which a buffer has two strides, or is given by a pointer: they are taken run by run.
//!
//! What borrows the buffers is checked against the plan here, and becomes pointers for the kernels.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::{mem, ptr, slice};

use lanenorm_kernels::element::{Addend, Companion, Kind};
use lanenorm_kernels::gate::Gate;
use lanenorm_kernels::ops::gate::Gated;
use lanenorm_kernels::ops::quantize::Quants;
use lanenorm_kernels::rows::{
    GateGradRows, GradRows, Params, RawGateRows, RawGradRows, RawRows, RowIo, start_on_lines,
};
use lanenorm_kernels::scheme::{Byte, Scheme};
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Element, Error as Refused, Gateable};

use crate::error::{Error, Misfit};
use crate::gradients::{GateGradIo, GradIo, GradOut};
use crate::grid::Ptr;
use crate::rows::{Layout, Rows, RowsMut};
use crate::shape::{self, Runs};

/// The rows of one buffer before they are checked.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    what: &'static str,
    p: Ptr,
    len: usize,
    layout: Layout,
}

impl Buffer {
    fn read<T>(what: &'static str, Rows { data, layout }: &Rows<'_, T>) -> Self {
        Self::new(what, data.as_ptr(), data.len(), *layout)
    }

    fn written<T>(what: &'static str, RowsMut { data, layout }: &mut RowsMut<'_, T>) -> Self {
        Self::new(what, data.as_mut_ptr().cast_const(), data.len(), *layout)
    }

    fn new<T>(what: &'static str, data: *const T, len: usize, layout: Layout) -> Self {
        let p = if let Layout::Grid(grid) = layout { grid.p } else { Ptr(data.cast()) };
        Self { what, p, len, layout }
    }

    fn runs(&self, cols: usize) -> Result<Runs, Error> {
        shape::runs(self.what, self.len, self.layout, cols)
    }
}

/// The buffers of a forward call before they are checked.
#[derive(Debug)]
pub(crate) struct Buffers<'a, T> {
    x: Buffer,
    /// The residual, and where its sum with x goes.
    sum: Option<[Buffer; 2]>,
    /// `None` if only quantized rows are wanted.
    y: Option<Buffer>,
    /// The types of x and y.
    kinds: [Kind; 2],
    /// Whether x and the residual are to be exchanged once they have been checked: the first type is that of the
    /// residual. The order of two addends changes no bits.
    exchanged: bool,
    marker: PhantomData<(&'a [T], &'a mut [T])>,
}

impl<'a, T: Element> Buffers<'a, T> {
    pub(crate) fn plain<Y: Companion<T>>(x: Rows<'a, T>, mut y: RowsMut<'a, Y>) -> Self {
        Self::of::<T, Y>(Buffer::read("x", &x), None, Some(Buffer::written("y", &mut y)))
    }

    pub(crate) fn without_y(x: Rows<'a, T>) -> Self {
        Self::of::<T, T>(Buffer::read("x", &x), None, None)
    }

    pub(crate) fn in_place(mut x: RowsMut<'a, T>) -> Self {
        let x = Buffer::written("x", &mut x);
        Self::of::<T, T>(x, None, Some(x))
    }

    /// The sum goes to `s`.
    pub(crate) fn kept<X: Addend<T>, Y: Companion<T>>(
        x: Rows<'a, X>,
        residual: Rows<'a, T>,
        mut s: RowsMut<'a, T>,
        mut y: RowsMut<'a, Y>,
    ) -> Self {
        let sum = [Buffer::read("residual", &residual), Buffer::written("sum", &mut s)];
        Self::of::<X, Y>(Buffer::read("x", &x), Some(sum), Some(Buffer::written("y", &mut y)))
    }

    /// The same without y.
    pub(crate) fn kept_alone<X: Addend<T>>(x: Rows<'a, X>, residual: Rows<'a, T>, mut s: RowsMut<'a, T>) -> Self {
        let sum = [Buffer::read("residual", &residual), Buffer::written("sum", &mut s)];
        Self::of::<X, T>(Buffer::read("x", &x), Some(sum), None)
    }

    /// The sum is written over the residual.
    pub(crate) fn over<X: Addend<T>, Y: Companion<T>>(
        x: Rows<'a, X>,
        mut residual: RowsMut<'a, T>,
        mut y: RowsMut<'a, Y>,
    ) -> Self {
        let residual = Buffer::written("residual", &mut residual);
        Self::of::<X, Y>(Buffer::read("x", &x), Some([residual, residual]), Some(Buffer::written("y", &mut y)))
    }

    /// The same without y.
    pub(crate) fn over_alone<X: Addend<T>>(x: Rows<'a, X>, mut residual: RowsMut<'a, T>) -> Self {
        let residual = Buffer::written("residual", &mut residual);
        Self::of::<X, T>(Buffer::read("x", &x), Some([residual, residual]), None)
    }

    /// The sum is not kept.
    pub(crate) fn dropped<X: Addend<T>>(x: Rows<'a, X>, residual: Rows<'a, T>, mut y: RowsMut<'a, T>) -> Self {
        let y = Buffer::written("y", &mut y);
        Self::of::<X, T>(Buffer::read("x", &x), Some([Buffer::read("residual", &residual), y]), Some(y))
    }

    /// The sum is not kept, and normalized over x.
    pub(crate) fn over_x<R: Addend<T>>(mut x: RowsMut<'a, T>, residual: Rows<'a, R>) -> Self {
        let x = Buffer::written("x", &mut x);
        let sum = [Buffer::read("residual", &residual), x];
        Self { exchanged: true, ..Self::of::<R, T>(x, Some(sum), Some(x)) }
    }

    fn of<X: Companion<T>, Y: Companion<T>>(x: Buffer, sum: Option<[Buffer; 2]>, y: Option<Buffer>) -> Self {
        Self { x, sum, y, kinds: [X::KIND, Y::KIND], exchanged: false, marker: PhantomData }
    }

    /// The rows, if they fit together.
    pub(crate) fn check(self, cols: usize) -> Result<RunsIo<'a, T>, Error> {
        let (io, _) = self.check_beside(cols, None)?;
        Ok(io)
    }

    /// The rows, and where they are quantized to, if all rows fit together. The scheme goes with these columns, and the
    /// lengths of its scales and zero points have been checked for as many rows as x has.
    pub(crate) fn check_quantized<Q: Byte>(
        self,
        cols: usize,
        mut q: RowsMut<'a, Q>,
        scheme: &Scheme,
    ) -> Result<(RunsIo<'a, T>, QuantsInRuns<'a>), Error> {
        let row_bytes = scheme.row_bytes(cols);
        let q = (Buffer::written("q", &mut q), row_bytes);
        // Without columns, a contiguous buffer has no rows that could be counted.
        let (io, q) = self.check_beside(cols, (row_bytes > 0).then_some(q))?;
        let RunsIo { inner_rows, rows, .. } = io;
        let (q, nothing) = (q.unwrap_or(At::NOWHERE), Ptr(ptr::null()));
        let marker = PhantomData;
        let quants = QuantsInRuns {
            q,
            scale: nothing,
            zero_point: nothing,
            scheme: *scheme,
            inner_rows,
            first: 0,
            rows,
            cols,
            marker,
        };
        Ok((io, quants))
    }

    /// The rows, and those of a gate, if all fit together.
    pub(crate) fn check_gated<Z: Companion<T>>(
        self,
        cols: usize,
        z: Rows<'a, Z>,
    ) -> Result<(RunsIo<'a, T>, GatesInRuns<'a>), Error> {
        let (io, z) = self.check_beside(cols, Some((Buffer::read("z", &z), cols)))?;
        let RunsIo { inner_rows, rows, .. } = io;
        let z = z.unwrap_or(At::NOWHERE);
        Ok((io, GatesInRuns { z, kind: Z::KIND, inner_rows, first: 0, rows, marker: PhantomData }))
    }

    /// The rows, and the same rows with a second y, if all fit together. They are normalized in turn: both read x, and
    /// the first y may lie over it.
    pub(crate) fn check_second<Y: Companion<T>>(
        self,
        cols: usize,
        mut y: RowsMut<'a, Y>,
    ) -> Result<[RunsIo<'a, T>; 2], Error> {
        let (first, y) = self.check_beside(cols, Some((Buffer::written("second y", &mut y), cols)))?;
        let (y, kinds) = (y.unwrap_or(At::NOWHERE), [first.kinds[0], Y::KIND]);
        let second = RunsIo { y, kinds, ..first };
        Ok([first, second])
    }

    /// The rows, and rows of another length, if all fit together.
    fn check_beside(self, cols: usize, q: Option<(Buffer, usize)>) -> Result<(RunsIo<'a, T>, Option<At>), Error> {
        let Self { x, sum, y, kinds, exchanged, .. } = self;
        let mut rows = Checked::first(x, cols)?;
        let of_sum = sum.is_some();
        let mut beside = |buffer: Buffer| {
            rows.beside(buffer, cols, |what, x, rows| {
                if of_sum { Error::SumRows { what, x, rows } } else { Error::Rows { x, y: rows } }
            })
        };
        let y = match y {
            Some(y) => Some(beside(y)?),
            None => None,
        };
        let sum = match sum {
            Some([residual, s]) => Some([beside(residual)?, beside(s)?]),
            None => None,
        };
        let q = match q {
            Some((q, cols)) => Some(rows.beside(q, cols, |what, x, rows| Error::SumRows { what, x, rows })?),
            None => None,
        };
        let (inner_rows, at) = (rows.inner_rows(), |placed: Placed| placed.at(&rows));
        let (mut x, mut sum, y) = (at(rows.of_first), sum.map(|sum| sum.map(at)), y.map_or(At::NOWHERE, at));
        if let Some([residual, _]) = &mut sum
            && exchanged
        {
            mem::swap(&mut x, residual);
        }
        let io = RunsIo { x, sum, y, kinds, inner_rows, first: 0, rows: rows.rows, cols, marker: PhantomData };
        Ok((io, q.map(at)))
    }
}

/// Where the rows of a buffer are.
#[derive(Clone, Copy, Debug)]
struct Placed {
    p: Ptr,
    runs: Runs,
}

impl Placed {
    /// The same in the runs of the call.
    fn at(self, rows: &Checked) -> At {
        let Runs { inner_rows, strides: [outer, stride], .. } = self.runs;
        // Without a second run the product, which may overflow, is of no consequence.
        let outer = if inner_rows.is_some() { outer } else { rows.inner_rows().wrapping_mul(stride) };
        At { p: self.p, strides: [outer, stride] }
    }
}

/// What the buffers of a call that have been checked have in common.
struct Checked {
    rows: usize,
    /// The rows of a run, if a buffer has several.
    inner_rows: Option<usize>,
    of_first: Placed,
}

impl Checked {
    fn first(buffer: Buffer, cols: usize) -> Result<Self, Error> {
        let runs = buffer.runs(cols)?;
        let of_first = Placed { p: buffer.p, runs };
        Ok(Self { rows: runs.rows, inner_rows: runs.inner_rows, of_first })
    }

    /// Another buffer, with rows of `cols` columns, if it has as many rows and no other runs. If it has not as many
    /// rows, `error` is given the buffer, the rows of the first one and its own.
    fn beside(
        &mut self,
        buffer: Buffer,
        cols: usize,
        error: impl FnOnce(&'static str, usize, usize) -> Error,
    ) -> Result<Placed, Error> {
        let Buffer { what, p, .. } = buffer;
        let runs = buffer.runs(cols)?;
        if runs.rows != self.rows {
            return Err(error(what, self.rows, runs.rows));
        }
        match (self.inner_rows, runs.inner_rows) {
            (Some(expected), Some(inner_rows)) if inner_rows != expected => {
                let Runs { rows, strides, .. } = runs;
                // There are runs of rows, or one stride would be enough.
                let (shape, misfit) = ([rows / inner_rows, inner_rows], Misfit::RunLen { expected });
                return Err(Error::Runs { what, shape, strides, misfit });
            }
            (None, inner_rows) => self.inner_rows = inner_rows,
            _ => {}
        }
        Ok(Placed { p, runs })
    }

    /// The number of rows of a run. Without a buffer that has several runs, all rows are one run.
    fn inner_rows(&self) -> usize {
        self.inner_rows.unwrap_or(self.rows.max(1))
    }
}

/// Where rows start.
#[derive(Clone, Copy, Debug)]
struct At {
    p: Ptr,
    /// From run to run, and from row to row.
    strides: [usize; 2],
}

impl At {
    /// Of a buffer that is not there.
    const NOWHERE: Self = Self { p: Ptr(ptr::null()), strides: [0, 0] };

    /// The row with this number within this run, and those behind it.
    fn raw<T>(&self, kind: Kind, [run, row]: [usize; 2]) -> RawRows<T> {
        let [outer_stride, stride] = self.strides;
        let bytes = (run * outer_stride + row * stride) * kind.size::<T>();
        RawRows { p: self.p.0.wrapping_byte_add(bytes).cast::<T>().cast_mut(), stride, kind }
    }
}

/// The rows of a forward call, which have been checked.
#[derive(Debug)]
pub(crate) struct RunsIo<'a, T> {
    x: At,
    /// The residual, and where its sum with x goes.
    sum: Option<[At; 2]>,
    y: At,
    kinds: [Kind; 2],
    /// Not zero.
    inner_rows: usize,
    /// Of all rows of the buffers, these are `rows` from `first` on.
    first: usize,
    rows: usize,
    cols: usize,
    marker: PhantomData<(&'a [T], &'a mut [T])>,
}

impl<'a, T: Element> RunsIo<'a, T> {
    /// Gives memory to outputs that are [`RowsMut::room`]: y, and `s` if the sum goes to rows of its own. A sum that
    /// goes where y goes gets the memory of y.
    ///
    /// # Safety
    /// - The memory has all rows of the output, and nothing else uses it while this lives.
    pub(crate) unsafe fn place<Y>(&mut self, y: *mut Y, s: Option<*mut T>) {
        let y = Ptr(y.cast_const().cast());
        let s = s.map_or(y, |s| Ptr(s.cast_const().cast()));
        if let Some([_, sum]) = &mut self.sum
            && sum.p.0.is_null()
        {
            sum.p = s;
        }
        self.y.p = y;
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// The number of elements of y. Rows lie apart from one another in memory, so that it does not overflow.
    pub(crate) fn elements(&self) -> usize {
        if self.cols == 0 { 0 } else { self.rows * self.cols }
    }

    /// The size of an element of y.
    pub(crate) fn y_element(&self) -> usize {
        self.kinds[1].size::<T>()
    }

    /// Whether every row of y starts on a cache line.
    pub(crate) fn y_is_on_lines(&self) -> bool {
        start_on_lines(self.y.p.0.addr(), self.y.strides.map(|stride| stride.wrapping_mul(self.y_element())))
    }

    /// Whether y is x itself, or the sum.
    pub(crate) fn is_in_place(&self) -> bool {
        ptr::eq(self.sum.map_or(self.x, |[_, s]| s).p.0, self.y.p.0)
    }

    pub(crate) fn is_sum(&self) -> bool {
        self.sum.is_some()
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        (Self { rows: row, ..self }, Self { first: self.first + row, rows: self.rows - row, ..self })
    }

    /// The same rows, while these are borrowed.
    pub(crate) fn reborrow(&mut self) -> RunsIo<'_, T> {
        RunsIo { marker: PhantomData, ..*self }
    }

    /// How many of these rows are of the first run.
    pub(crate) fn first_run(&self) -> usize {
        (self.inner_rows - self.first % self.inner_rows).min(self.rows)
    }

    /// The rows of the first run.
    pub(crate) fn into_first_run(self) -> RowIo<'a, T> {
        let row = [self.first / self.inner_rows, self.first % self.inner_rows];
        let ([x, y], own) = (self.kinds, Kind::Own);
        let (x, y) = (self.x.raw(x, row), self.y.raw(y, row));
        let sum = self.sum.map(|[residual, s]| (residual.raw(own, row), s.raw(own, row)));
        // SAFETY: `Buffers` has borrowed all buffers for 'a, those that are written as mutable ones, so that they are
        // apart from one another, or are given as one. `shape::runs` has checked that the rows of each lie within its
        // elements, or are those that the maker of the grid has vouched for, and that they do not overlap. These rows
        // are here alone: a `RunsIo` is not copied, and its parts have rows of their own. (`check_second` makes two
        // with one x, which are used in turn.)
        unsafe { RowIo::from_raw(x, sum, y, self.first_run(), self.cols) }
    }
}

/// Where quantized rows go that have been checked, with their scales and zero points.
#[derive(Debug)]
pub(crate) struct QuantsInRuns<'a> {
    q: At,
    scale: Ptr,
    zero_point: Ptr,
    scheme: Scheme,
    /// Not zero.
    inner_rows: usize,
    /// Of all rows, these are `rows` from `first` on.
    first: usize,
    rows: usize,
    cols: usize,
    marker: PhantomData<&'a mut [u8]>,
}

impl<'a> QuantsInRuns<'a> {
    /// The same with arrays of scales and zero points, as long as the scheme says.
    pub(crate) fn with_arrays(self, scale: &'a mut [f32], zero_point: &'a mut [u8]) -> Self {
        debug_assert_eq!(scale.len(), self.scheme.scales(self.rows, self.cols));
        debug_assert_eq!(zero_point.len(), self.scheme.zero_points(self.rows));
        let scale = Ptr(scale.as_mut_ptr().cast_const().cast());
        Self { scale, zero_point: Ptr(zero_point.as_mut_ptr().cast_const().cast()), ..self }
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        (Self { rows: row, ..self }, Self { first: self.first + row, rows: self.rows - row, ..self })
    }

    /// The same rows, while these are borrowed.
    pub(crate) fn reborrow(&mut self) -> QuantsInRuns<'_> {
        QuantsInRuns { marker: PhantomData, ..*self }
    }

    /// Those of the rows of the first run.
    pub(crate) fn into_first_run(self) -> Quants<'a> {
        let Self { q, scale, zero_point, ref scheme, inner_rows, first, rows, cols, .. } = self;
        let (row, At { p, strides: [outer_stride, stride] }) = (first % inner_rows, q);
        let p = p.0.wrapping_byte_add(first / inner_rows * outer_stride + row * stride).cast::<u8>();
        let [scale, zero_point] = [scale, zero_point].map(|p| p.0.cast_mut());
        let size = [(inner_rows - row).min(rows), cols];
        // SAFETY: `check_quantized` has borrowed q for 'a as a mutable buffer, and `with_arrays` the arrays, which are
        // as long as the scheme says. `shape::runs` has checked the rows, as for `RunsIo`. These rows are here alone.
        unsafe { Quants::from_raw(scheme, first, size, p.cast_mut(), stride, scale.cast(), zero_point.cast()) }
    }
}

/// The rows of a gate, which have been checked.
#[derive(Debug)]
pub(crate) struct GatesInRuns<'a> {
    z: At,
    kind: Kind,
    /// Not zero.
    inner_rows: usize,
    /// Of all rows, these are `rows` from `first` on.
    first: usize,
    rows: usize,
    marker: PhantomData<&'a [u8]>,
}

impl<'a> GatesInRuns<'a> {
    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        (Self { rows: row, ..self }, Self { first: self.first + row, rows: self.rows - row, ..self })
    }

    /// The job of normalizing `rows`, the rows of the first run, with this gate.
    pub(crate) fn into_job<T: Gateable, M: Center>(
        self,
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, f32>,
        gate: Gate,
    ) -> Result<Gated<'a, T, M>, Refused> {
        let z = self.z.raw(self.kind, [self.first / self.inner_rows, self.first % self.inner_rows]);
        // SAFETY: `check_gated` has borrowed z for 'a, and has checked its rows, as for `RunsIo`.
        unsafe { Gated::from_raw(rows, params, eps, stats, gate, z) }
    }
}

/// Rows that are read, one at a time.
#[derive(Debug)]
pub(crate) struct RowReader<'a, T> {
    at: At,
    inner_rows: usize,
    rows: usize,
    cols: usize,
    marker: PhantomData<&'a [T]>,
}

impl<'a, T> RowReader<'a, T> {
    pub(crate) fn new(x: Rows<'a, T>, cols: usize) -> Result<Self, Error> {
        let rows = Checked::first(Buffer::read("x", &x), cols)?;
        let (at, inner_rows) = (rows.of_first.at(&rows), rows.inner_rows());
        Ok(Self { at, inner_rows, rows: rows.rows, cols, marker: PhantomData })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Row `r`.
    pub(crate) fn row(&self, r: usize) -> &'a [T] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        if self.cols == 0 {
            return &[];
        }
        let RawRows { p, .. } = self.at.raw::<T>(Kind::Own, [r / self.inner_rows, r % self.inner_rows]);
        // SAFETY: x is borrowed for 'a, and `shape::runs` has checked that its rows lie within its elements, or are
        // those that the maker of the grid has vouched for.
        unsafe { slice::from_raw_parts(p.cast_const(), self.cols) }
    }
}

/// Reads dy, and says where dx goes, if it is wanted.
fn grad_buffers<T>(out: &mut GradOut<'_, T>) -> (Buffer, Option<Buffer>) {
    match out {
        GradOut::Apart { dy, dx } => (Buffer::read("dy", dy), Some(Buffer::written("dx", dx))),
        GradOut::InPlace { dy } => {
            let dy = Buffer::written("dy", dy);
            (dy, Some(dy))
        }
        GradOut::WithoutDx { dy } => (Buffer::read("dy", dy), None),
    }
}

impl Placed {
    /// The same rows for the kernels.
    fn for_gradients<T>(self, rows: &Checked) -> RawGradRows<T> {
        let At { p, strides: [outer_stride, stride] } = self.at(rows);
        RawGradRows { p: p.0.cast::<T>().cast_mut(), stride, outer_stride }
    }
}

/// The rows of a backward call of gated rows, if they fit together.
pub(crate) fn gate_grad_rows<'b, T: Gateable, Z: Companion<f32>>(
    io: &'b mut GateGradIo<'_, T, Z>,
    cols: usize,
) -> Result<GateGradRows<'b>, Error> {
    let (x, z) = (Buffer::read("x", &io.x), Buffer::read("z", &io.z));
    let dz = io.dz.as_mut().map(|dz| Buffer::written("dz", dz));
    let (dy, dx) = grad_buffers(&mut io.out);
    let mut rows = Checked::first(dy, cols)?;
    let mut beside = |buffer| rows.beside(buffer, cols, |what, dy, rows| Error::GradRows { what, dy, rows });
    let (x, z) = (beside(x)?, beside(z)?);
    let dx = dx.map(&mut beside).transpose()?;
    let dz = dz.map(beside).transpose()?;
    let raw = |placed: Placed, kind| RawGateRows { rows: placed.for_gradients(&rows), kind };
    let [own, of_z] = [<T as Companion<f32>>::KIND, <Z as Companion<f32>>::KIND];
    let inputs = [raw(rows.of_first, own), raw(x, own), raw(z, of_z)];
    let outputs = [dx.map(|dx| raw(dx, own)), dz.map(|dz| raw(dz, of_z))];
    // SAFETY: as for `grad_rows`.
    Ok(unsafe { GateGradRows::from_raw(inputs, outputs, rows.inner_rows(), rows.rows, cols) })
}

/// The rows of a backward call, if they fit together.
pub(crate) fn grad_rows<'b, T: Element>(io: &'b mut GradIo<'_, T>, cols: usize) -> Result<GradRows<'b, T>, Error> {
    let x = Buffer::read("x", &io.x);
    let ds = io.ds.as_ref().map(|ds| Buffer::read("ds", ds));
    let (dy, dx) = grad_buffers(&mut io.out);
    let mut rows = Checked::first(dy, cols)?;
    let mut beside = |buffer| rows.beside(buffer, cols, |what, dy, rows| Error::GradRows { what, dy, rows });
    let x = beside(x)?;
    let ds = ds.map(&mut beside).transpose()?;
    let dx = dx.map(beside).transpose()?;
    let raw = |placed: Placed| placed.for_gradients::<T>(&rows);
    let (dy, x, ds, dx) = (raw(rows.of_first), raw(x), ds.map(raw), dx.map(raw));
    // SAFETY: `io`, which is borrowed for as long as the rows, has borrowed all buffers, those that are written as
    // mutable ones. `shape::runs` has checked that the rows of each lie within its elements, or are those that the
    // maker of the grid has vouched for, and that they do not overlap.
    Ok(unsafe { GradRows::from_raw(dy, x, ds, dx, rows.inner_rows(), rows.rows, cols) })
}
