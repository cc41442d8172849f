//! Where the gradients of gated rows are read from and written to.

use core::marker::PhantomData;

use super::grad_rows::{Place, Which};
use super::{Groups, RawGradRows, RawRows};
use crate::element::Kind;
use crate::error::Error;

/// Rows of one buffer, of any type that stands beside rows of f32.
#[derive(Clone, Copy, Debug)]
pub struct RawGateRows {
    /// Where they are.
    pub rows: RawGradRows<f32>,
    /// The type of the elements.
    pub kind: Kind,
}

impl RawGateRows {
    /// The row at `at`.
    ///
    /// # Safety
    /// - There is such a row.
    unsafe fn row(self, at: Place) -> RawRows<f32> {
        let Self { rows: RawGradRows { p, stride, outer_stride }, kind } = self;
        // SAFETY: the caller's duty.
        let p = unsafe { kind.at(p, at.outer * outer_stride + at.inner * stride) }.cast_mut();
        RawRows { p, stride, kind }
    }
}

/// Rows of `cols` contiguous elements: the gradient dy, x, and z of the gate, and, each of them if wanted, where dx and
/// dz go. dx may be dy itself, and dz may be z.
#[derive(Debug)]
pub struct GateGradRows<'a> {
    dy: RawGateRows,
    x: RawGateRows,
    z: RawGateRows,
    dx: Option<RawGateRows>,
    dz: Option<RawGateRows>,
    which: Which,
    cols: usize,
    marker: PhantomData<&'a mut [f32]>,
}

// SAFETY: GateGradRows stands for slices and mutable slices of elements, which are Send.
unsafe impl Send for GateGradRows<'_> {}

/// One row of each buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateGradRow {
    pub(crate) dy: RawRows<f32>,
    pub(crate) x: RawRows<f32>,
    pub(crate) z: RawRows<f32>,
    pub(crate) dx: Option<RawRows<f32>>,
    pub(crate) dz: Option<RawRows<f32>>,
}

impl GateGradRows<'_> {
    /// Rows given by pointers: dy, x and z, and dx and dz if they are wanted, in runs of `inner_rows`.
    ///
    /// # Safety
    /// Unless there are no rows or no columns, for as long as the rows of a job that is run:
    /// - `inner_rows` is not zero.
    /// - All rows of a buffer lie in one allocation, are of its kind, aligned and valid for reads; those of dx and dz
    ///   for writes too.
    /// - What is written is read and written by nothing else.
    /// - No row of dx or dz overlaps another row of any buffer. dx may be dy, and dz may be z, with the same kind and
    ///   strides.
    pub unsafe fn from_raw(
        [dy, x, z]: [RawGateRows; 3],
        [dx, dz]: [Option<RawGateRows>; 2],
        inner_rows: usize,
        rows: usize,
        cols: usize,
    ) -> Self {
        Self { dy, x, z, dx, dz, which: Which::all(rows, inner_rows), cols, marker: PhantomData }
    }

    /// The same rows for a job that ends before these are used again.
    pub fn reborrow(&mut self) -> GateGradRows<'_> {
        GateGradRows { marker: PhantomData, ..*self }
    }

    /// Of all rows, those of one of several groups: see [`GradRows::with_group`](super::GradRows::with_group).
    ///
    /// # Errors
    /// If there is no such group, if the groups do not divide the rows, or if these are a part of the rows of the
    /// buffers.
    pub fn with_group(self, index: usize, groups: Groups) -> Result<Self, Error> {
        Ok(Self { which: self.which.with_group(index, groups)?, ..self })
    }

    /// The first `row` rows, and the others. All rows come first if there are fewer.
    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.which.split_at(row);
        (Self { which: a, ..self }, Self { which: b, ..self })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.which.rows
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether dx is wanted.
    pub fn has_dx(&self) -> bool {
        self.dx.is_some()
    }

    /// Whether dz is wanted.
    pub fn has_dz(&self) -> bool {
        self.dz.is_some()
    }

    /// Row `r` of each buffer.
    ///
    /// # Safety
    /// - There is such a row.
    pub(crate) unsafe fn row(&mut self, r: usize) -> GateGradRow {
        let &mut Self { dy, x, z, dx, dz, which, .. } = self;
        let at = which.place(r);
        // SAFETY: the caller's duty, and the constructor's.
        let row = |buffer: RawGateRows| unsafe { buffer.row(at) };
        GateGradRow { dy: row(dy), x: row(x), z: row(z), dx: dx.map(row), dz: dz.map(row) }
    }
}
