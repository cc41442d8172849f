//! Calls whose outputs are new vectors, which are not initialized before they are written.
#![allow(unsafe_code)]

use lanenorm_kernels::element::{Addend, Companion};
use lanenorm_kernels::gate::Gate;
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Element, Gateable};

use crate::error::Error;
use crate::gradients::{GradIo, GradOut, ParamGrads};
use crate::input::{Dropped, Gives};
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};
use crate::runs::Buffers;
use crate::shape::{self, Runs};

/// A vector that is to hold the rows of an output. It gets its memory once the call has been checked.
struct Room<Y> {
    y: Vec<Y>,
    rows: usize,
    cols: usize,
}

impl<Y> Room<Y> {
    /// For as many rows as x has. If x is at fault, there are none, and the check of the call says why.
    fn beside<T>(x: &Rows<'_, T>, cols: usize) -> Self {
        let rows = shape::runs("x", x.data.len(), x.layout, cols).map_or(0, |Runs { rows, .. }| rows);
        Self { y: Vec::new(), rows, cols }
    }

    /// The rows, for the check of the call.
    fn rows<'a>(&self) -> RowsMut<'a, Y> {
        RowsMut::room(self.rows, self.cols)
    }

    /// The memory of the rows, which is not initialized.
    fn memory(&mut self) -> *mut Y {
        // The rows of x lie in memory. Without columns there may be any number of rows, and the product is 0.
        self.y.reserve_exact(self.rows * self.cols);
        self.y.as_mut_ptr()
    }

    /// # Safety
    /// - All elements of the rows have been written.
    unsafe fn written(self) -> Vec<Y> {
        let Self { mut y, rows, cols } = self;
        // SAFETY: the caller's duty.
        unsafe { y.set_len(rows * cols) };
        y
    }
}

/// Calls whose outputs are new vectors.
impl<M: Center> Norm<M> {
    pub(crate) fn normalize_to_vec<'a, T: Element, Y: 'a, I: Gives<'a, T, Y>>(
        &self,
        input: I,
        x: Rows<'a, T>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Vec<Y>, Error> {
        let mut y = Room::beside(&x, self.plan.cols);
        let (mut io, vectors) = self.check_in_runs(input, x, y.rows(), gamma, beta, stats)?;
        // SAFETY: the memory has all rows of y, and nothing else uses it before they are written.
        unsafe { io.place(y.memory(), None) };
        self.finish_in_runs(io, vectors);
        // SAFETY: the call has written all elements of its outputs.
        Ok(unsafe { y.written() })
    }

    /// y of rows with a gate.
    pub(crate) fn gated_to_vec<'a, T: Gateable, Y: Companion<T> + 'a, Z: Companion<T>>(
        &self,
        x: Rows<'a, T>,
        params: [Option<Vector<'a, T>>; 2],
        stats: StatsMut<'a, f32>,
        gate: Gate,
        z: Rows<'a, Z>,
    ) -> Result<Vec<Y>, Error> {
        let mut y = Room::beside(&x, self.plan.cols);
        let mut checked = self.check_gated(Buffers::plain(x, y.rows()), params, stats, gate, z)?;
        // SAFETY: as above.
        unsafe { checked.io.place(y.memory(), None) };
        self.finish_gated(checked);
        // SAFETY: as above.
        Ok(unsafe { y.written() })
    }

    /// Both outputs of rows with a second gamma and beta.
    pub(crate) fn second_to_vecs<'a, T: Element, Y: Companion<T> + 'a, Z: Companion<T> + 'a>(
        &self,
        x: Rows<'a, T>,
        params: [[Option<Vector<'a, T>>; 2]; 2],
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(Vec<Y>, Vec<Z>), Error> {
        let (mut y, mut second) = (Room::beside(&x, self.plan.cols), Room::beside(&x, self.plan.cols));
        let mut checked = self.check_second(Buffers::plain(x, y.rows()), second.rows(), params, stats)?;
        let [of_y, of_second] = &mut checked;
        // SAFETY: the memories have all rows of the outputs, and nothing else uses them before these are written.
        unsafe {
            of_y.io.place(y.memory(), None);
            of_second.io.place(second.memory(), None);
        }
        self.finish_second(checked);
        // SAFETY: the call has written all elements of its outputs.
        Ok(unsafe { (y.written(), second.written()) })
    }

    /// The sums, and y.
    pub(crate) fn normalize_to_vecs<'a, T, R: Element, Y: Companion<R>>(
        &self,
        sum: Dropped<'a, R>,
        x: Rows<'a, T>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(Vec<R>, Vec<Y>), Error>
    where
        T: Element<Float = R::Float> + Addend<R>,
    {
        let (mut s, mut y) = (Room::beside(&x, self.plan.cols), Room::beside(&x, self.plan.cols));
        let (mut io, vectors) = self.check_in_runs(sum.kept_in(s.rows()), x, y.rows(), gamma, beta, stats)?;
        // SAFETY: the memories have all rows of y and of the sum, and nothing else uses them before these are written.
        unsafe { io.place(y.memory(), Some(s.memory())) };
        self.finish_in_runs(io, vectors);
        // SAFETY: the call has written all elements of its outputs.
        Ok(unsafe { (s.written(), y.written()) })
    }

    /// The gradient of x.
    pub(crate) fn backward_to_vec<'a, T: Element>(
        &self,
        [dy, x]: [Rows<'a, T>; 2],
        ds: Option<Rows<'a, T>>,
        gamma: Option<Vector<'_, T>>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
    ) -> Result<Vec<T>, Error> {
        let mut room = Room::beside(&x, self.plan.cols);
        let io = GradIo { out: GradOut::Apart { dy, dx: room.rows() }, x, ds };
        self.run_backward(io, gamma, stats, grads, scratch, Some(&mut || room.memory()))?;
        // SAFETY: a call that returns no error has written all elements of its outputs.
        Ok(unsafe { room.written() })
    }
}
