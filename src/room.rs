//! Calls whose outputs are new vectors, which are not initialized before they are written.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use lanenorm_kernels::element::{Addend, Companion};
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Element};

use crate::call::{Dropped, Gives};
use crate::error::Error;
use crate::gradients::{GradIo, GradOut, ParamGrads};
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};
use crate::shape::{self, Runs};

/// A vector that is to hold the rows of an output, which are not initialized yet.
struct Room<Y> {
    y: Vec<Y>,
    rows: usize,
    cols: usize,
}

impl<Y> Room<Y> {
    /// For as many rows as x has.
    fn beside<T>(x: &Rows<'_, T>, cols: usize) -> Result<Self, Error> {
        let Runs { rows, .. } = shape::runs("x", x.data.len(), x.layout, cols)?;
        // The rows of x lie in memory. Without columns there may be any number of rows.
        let len = if cols == 0 { 0 } else { rows * cols };
        Ok(Self { y: Vec::with_capacity(len), rows, cols })
    }

    /// The rows, to be written.
    ///
    /// # Safety
    /// - They are not used any more when `self` is moved or dropped.
    unsafe fn rows<'a>(&mut self) -> RowsMut<'a, Y> {
        let Self { y, rows, cols } = self;
        let room: *mut [MaybeUninit<Y>] = y.spare_capacity_mut();
        // SAFETY: the caller's duty.
        RowsMut::unwritten(unsafe { &mut *room }, *rows, *cols)
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
        let mut y = Room::beside(&x, self.plan.cols)?;
        // SAFETY: the call keeps nothing of the rows.
        self.normalize(input, x, unsafe { y.rows() }, gamma, beta, stats)?;
        // SAFETY: a call that returns no error has written all elements of its outputs.
        Ok(unsafe { y.written() })
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
        let (mut s, mut y) = (Room::beside(&x, self.plan.cols)?, Room::beside(&x, self.plan.cols)?);
        // SAFETY: the call keeps nothing of the rows.
        let (s_rows, y_rows) = unsafe { (s.rows(), y.rows()) };
        self.normalize(sum.kept_in(s_rows), x, y_rows, gamma, beta, stats)?;
        // SAFETY: a call that returns no error has written all elements of its outputs.
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
        let mut room = Room::beside(&x, self.plan.cols)?;
        // SAFETY: the call keeps nothing of the rows.
        let dx = unsafe { room.rows() };
        self.run_backward(GradIo { out: GradOut::Apart { dy, dx }, x, ds }, gamma, stats, grads, scratch)?;
        // SAFETY: a call that returns no error has written all elements of its outputs.
        Ok(unsafe { room.written() })
    }
}
