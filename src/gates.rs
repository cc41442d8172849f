//! Calls with a gate: see [`Call::gate`].

use std::marker::PhantomData;

use lanenorm_kernels::element::Companion;
use lanenorm_kernels::gate::Gate;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Centered, Element, Gateable, Gates, Uncentered};

use crate::Error;
use crate::call::Call;
use crate::input::{Apart, InPlace, Place, Plain};
use crate::jobs::Vectors;
use crate::norm::Norm;
use crate::parallel::{Tasks, Work, share};
use crate::plan::Plan;
use crate::rows::{Rows, RowsMut};
use crate::runs::{Buffers, GatesInRuns, RunsIo};

/// A call with a gate, to be run by [`to`](Self::to), or by [`run`](Self::run) in place.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct GateCall<'a, T: Element, M: Center, D: Place, P, Z> {
    call: Call<'a, T, M, Plain, D, P>,
    gate: Gate,
    z: Rows<'a, Z>,
}

impl<'a, T: Element, M: Center, D: Place, P> Call<'a, T, M, Plain, D, P> {
    /// Multiplies by a function of z, after the normalization or before it: see [`Gate`]. z has as many rows as x, of
    /// as many columns, in any type that y may have. y may be x, and z is apart from both.
    ///
    /// ```
    /// use lanenorm::{Gate, RmsNorm};
    ///
    /// let (x, z, mut y) = ([3.0f32, -3.0], [0.0f32, 1.0], [0.0f32; 2]);
    /// RmsNorm::new(2, 0.0)?.call(&x).gate(&z, Gate::SIGMOID).to(&mut y)?;
    /// assert_eq!(y, [0.5, -0.7310586]); // 1 and -1, times sigmoid(0) and sigmoid(1)
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// Groups within a row (Mamba 2) are rows, with a gamma for each group:
    ///
    /// ```
    /// use lanenorm::{Gate, RmsNorm};
    ///
    /// let (tokens, groups, cols) = (2, 4, 64);
    /// let (x, z) = (vec![1.0f32; tokens * groups * cols], vec![2.0f32; tokens * groups * cols]);
    /// let (gamma, mut y) = (vec![1.0f32; groups * cols], x.clone());
    /// let plan = RmsNorm::new(cols, 1e-5)?.with_groups(groups, 1)?;
    /// plan.call(&x).gamma(&gamma).gate(&z, Gate::SILU_BEFORE).to(&mut y)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// The gate comes last: gamma, beta and statistics come before it. Rows of f64 have no gate, nor have sums, nor
    /// rows whose moments are given, nor rows that are quantized. For gradients see
    /// [`BackwardCall::gate`](crate::BackwardCall::gate).
    #[inline]
    pub fn gate<Z: Companion<T>>(self, z: impl Into<Rows<'a, Z>>, gate: Gate) -> GateCall<'a, T, M, D, P, Z> {
        GateCall { call: self, gate, z: z.into() }
    }
}

impl<'a, T: Gateable, M: Center, P, Z: Companion<T>> GateCall<'a, T, M, Apart, P, Z> {
    /// Runs the call; its result goes to y.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn to<Y: Companion<T> + 'a>(self, y: impl Into<RowsMut<'a, Y>>) -> Result<(), Error> {
        let Self { call, gate, z } = self;
        let (norm, x, _, gamma, beta, stats) = call.into_parts()?;
        norm.run_gated(Buffers::plain(x, y.into()), [gamma, beta], stats, gate, z)
    }
}

impl<'a, T: Gateable, M: Center, P, Z: Companion<T>> GateCall<'a, T, M, Apart, P, Z> {
    /// Runs the call; its result is a new vector of contiguous rows, of any type that y may have.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_vec<Y: Companion<T> + 'a>(self) -> Result<Vec<Y>, Error> {
        let Self { call, gate, z } = self;
        let (norm, x, _, gamma, beta, stats) = call.into_parts()?;
        norm.gated_to_vec(x, [gamma, beta], stats, gate, z)
    }
}

impl<'a, T: Gateable, M: Center, P, Z: Companion<T>> GateCall<'a, T, M, InPlace, P, Z> {
    /// Runs the call; its result goes where x lies.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn run(self) -> Result<(), Error> {
        let Self { call, gate, z } = self;
        let (norm, x, _, gamma, beta, stats) = call.into_parts()?;
        norm.run_gated(Buffers::in_place(x), [gamma, beta], stats, gate, z)
    }
}

/// Rows with a gate that have been checked, and all that goes with them.
pub(crate) struct CheckedGate<'a, T: Element> {
    pub(crate) io: RunsIo<'a, T>,
    vectors: Vectors<'a, 'a, T>,
    gate: Gate,
    z: GatesInRuns<'a>,
}

impl<M: Center> Norm<M> {
    fn run_gated<'a, T: Gateable, Z: Companion<T>>(
        &self,
        buffers: Buffers<'a, T>,
        params: [Option<Vector<'a, T>>; 2],
        stats: StatsMut<'a, f32>,
        gate: Gate,
        z: Rows<'a, Z>,
    ) -> Result<(), Error> {
        self.finish_gated(self.check_gated(buffers, params, stats, gate, z)?);
        Ok(())
    }

    pub(crate) fn check_gated<'a, T: Gateable, Z: Companion<T>>(
        &self,
        buffers: Buffers<'a, T>,
        [gamma, beta]: [Option<Vector<'a, T>>; 2],
        stats: StatsMut<'a, f32>,
        gate: Gate,
        z: Rows<'a, Z>,
    ) -> Result<CheckedGate<'a, T>, Error> {
        let plan = self.plan();
        let (io, z) = buffers.check_gated(plan.cols, z)?;
        let params = plan.params(io.rows(), gamma, beta)?;
        Plan::check_stats(io.rows(), &stats)?;
        Ok(CheckedGate { io, vectors: Vectors { params, bias: None, stats, moments: None }, gate, z })
    }

    pub(crate) fn finish_gated<T: Gateable>(&self, checked: CheckedGate<'_, T>) {
        let (plan, CheckedGate { io, mut vectors, gate, z }) = (self.plan(), checked);
        let elements = io.elements();
        if elements == 0 {
            return;
        }
        // Groups need not divide a run.
        vectors.params.groups = vectors.params.groups.after(0);
        let tasks: Tasks = plan.parallelism.tasks_for(elements);
        if M::CENTERED {
            share(GatedRuns::<T, Centered> { plan, io, vectors, gate, z, center: PhantomData }, &mut [], tasks);
        } else {
            share(GatedRuns::<T, Uncentered> { plan, io, vectors, gate, z, center: PhantomData }, &mut [], tasks);
        }
    }
}

/// Rows in runs. All has been checked.
struct GatedRuns<'a, 'p, T: Element, M> {
    plan: &'p Plan,
    io: RunsIo<'a, T>,
    vectors: Vectors<'a, 'a, T>,
    gate: Gate,
    z: GatesInRuns<'a>,
    center: PhantomData<M>,
}

impl<T: Gateable + Gates<M>, M: Center> Work for GatedRuns<'_, '_, T, M> {
    type Memory = ();

    fn len(&self) -> usize {
        self.io.rows()
    }

    fn elements(&self) -> usize {
        self.io.elements()
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let ((io, other_io), (vectors, others)) = (self.io.split_at(row), self.vectors.split_at(row));
        let (z, other_z) = self.z.split_at(row);
        (Self { io, vectors, z, ..self }, Self { io: other_io, vectors: others, z: other_z, ..self })
    }

    fn run(mut self, _: &mut [()]) {
        while self.io.rows() > 0 {
            let rows = self.io.first_run();
            let (run, rest) = self.split_at(rows);
            let Self { plan: &Plan { isa, eps, .. }, io, vectors: Vectors { params, stats, .. }, gate, z, .. } = run;
            match z.into_job::<T, M>(io.into_first_run(), params, eps, stats, gate) {
                Ok(mut job) => job.run_on(isa),
                Err(error) => unreachable!("the plans have checked all lengths: {error}"),
            }
            self = rest;
        }
    }
}
