//! Calls with a second gamma and beta: see [`Call::second`].
//!
//! Rows of a tile or less are normalized by two calls. More are taken tile by tile. Each tile is normalized into the
//! second y, and then, while x is in a cache, into the first one, which may lie over x. Of rows that are a tile by
//! themselves the moments are taken once. So both outputs have the bits of calls of their own, whose jobs these are.

use std::marker::PhantomData;

use lanenorm_kernels::element::Companion;
use lanenorm_kernels::ops::moments::RowMoments;
use lanenorm_kernels::ops::{layer_norm, rms_norm};
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Centered, Compiled, Element, Uncentered};

use crate::call::Call;
use crate::input::{Allows, AnyType, Apart, InPlace, Of, Place, Plain};
use crate::jobs::{self, MakeJob, Vectors};
use crate::norm::Norm;
use crate::parallel::{Tasks, Work, share};
use crate::plan::Plan;
use crate::rows::{Rows, RowsMut};
use crate::runs::{Buffers, RunsIo};
use crate::slice::{Misgiven, Slice};
use crate::{Error, shape};

/// The bytes of x that are normalized into one output after the other: a part of an L2 cache. Smaller tiles lose more
/// at their starts than they gain.
pub(crate) const TILE: usize = 256 << 10;

/// The rows of a tile. A row has `cols` elements of `size` bytes; neither is zero.
pub(crate) fn tile(cols: usize, size: usize) -> usize {
    (TILE / (cols * size)).max(1)
}

/// A call with a second gamma and beta, to be run by [`to`](Self::to), or by [`run`](Self::run) in place. `Q` is the
/// type of the second gamma and beta.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct SecondCall<'a, T: Element, M: Center, D: Place, P, Q = AnyType> {
    call: Call<'a, T, M, Plain, D, P>,
    gamma: Option<Vector<'a, T>>,
    beta: Option<Vector<'a, T>>,
    misgiven: Misgiven,
    marker: PhantomData<Q>,
}

impl<'a, T: Element, M: Center, D: Place, P> Call<'a, T, M, Plain, D, P> {
    /// Normalizes each row twice, with a gamma and a beta for each of two outputs: what parallel blocks of attention
    /// and MLP read (GPT-NeoX, Falcon 40B). x is read from memory once. Each output has the bits of a call of its own.
    ///
    /// What is described before this belongs to the first output, and what follows to the second: a gamma that is not
    /// given there counts as 1. The offset of the plan is added to both gammas. Statistics are those of x: they are
    /// described before this.
    ///
    /// ```
    /// use lanenorm::LayerNorm;
    ///
    /// let (x, gamma, beta) = ([3.0f32, -3.0], [2.0, 2.0], [0.5, 0.5]);
    /// let (mut y, mut second_y) = ([0.0f32; 2], [0.0f32; 2]);
    /// let plan = LayerNorm::new(2, 0.0)?;
    /// plan.call(&x).gamma(&gamma).second().gamma(&gamma).beta(&beta).to(&mut y, &mut second_y)?;
    /// assert_eq!((y, second_y), ([2.0, -2.0], [2.5, -1.5]));
    ///
    /// // The first output lies over x, and the second has another type.
    /// let (mut h, mut second_y) = ([3.0f32, -3.0], [lanenorm::bf16::ZERO; 2]);
    /// plan.call_in_place(&mut h).gamma(&gamma).second().run(&mut second_y)?;
    /// assert_eq!((h, second_y.map(|y| y.to_f32())), ([2.0, -2.0], [1.0, -1.0]));
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// The gradient of x is a sum over both outputs. The backward call of one of them adds that of the other, as it
    /// adds the gradient of a residual:
    ///
    /// ```
    /// use lanenorm::RmsNorm;
    ///
    /// let (x, dy, second_dy) = ([3.0f32, -1.0], [1.0, 0.0], [0.0, 1.0]);
    /// let (gamma, second_gamma, plan) = ([1.0, 2.0], [0.5, 4.0], RmsNorm::new(2, 1e-5)?);
    /// let of_first: Vec<f32> = plan.backward(&dy, &x).gamma(&gamma).to_vec()?;
    /// let dx: Vec<f32> = plan.backward(&second_dy, &x).gamma(&second_gamma).ds(&of_first).to_vec()?;
    /// assert!((dx[0] - 0.581_377).abs() < 1e-6 && (dx[1] - 1.744_131).abs() < 1e-6);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// Sums have one gamma and beta, as have rows whose moments are given, rows with a gate, and rows that are
    /// quantized:
    ///
    /// ```compile_fail,E0599
    /// # let (x, mut y, mut z) = ([1.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
    /// lanenorm::RmsNorm::new(4, 1e-6)?.call(&x).residual(&x).second().to(&mut y, &mut z)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn second(self) -> SecondCall<'a, T, M, D, P> {
        SecondCall { call: self, gamma: None, beta: None, misgiven: Misgiven::default(), marker: PhantomData }
    }
}

impl<'a, T: Element, M: Center, D: Place, P, Q> SecondCall<'a, T, M, D, P, Q> {
    /// The factor of the second output: see [`Call::gamma`]. It may have another type than the first.
    #[doc(alias = "weight")]
    #[inline(always)]
    pub fn gamma<G: Companion<T>>(self, gamma: impl Into<Slice<'a, G>>) -> SecondCall<'a, T, M, D, P, Of<G>>
    where
        Q: Allows<G>,
    {
        let Self { call, beta, mut misgiven, .. } = self;
        let gamma = misgiven.slice("second gamma", gamma.into().0).map(Vector::from);
        SecondCall { call, gamma, beta, misgiven, marker: PhantomData }
    }
}

impl<'a, T: Element, D: Place, P, Q> SecondCall<'a, T, Centered, D, P, Q> {
    /// The addend of the second output, of the type of its gamma: see [`Call::beta`].
    #[doc(alias = "bias")]
    #[inline(always)]
    pub fn beta<G: Companion<T>>(self, beta: impl Into<Slice<'a, G>>) -> SecondCall<'a, T, Centered, D, P, Of<G>>
    where
        Q: Allows<G>,
    {
        let Self { call, gamma, mut misgiven, .. } = self;
        let beta = misgiven.slice("second beta", beta.into().0).map(Vector::from);
        SecondCall { call, gamma, beta, misgiven, marker: PhantomData }
    }
}

impl<'a, T: Element, M: Center, P, Q> SecondCall<'a, T, M, Apart, P, Q> {
    /// Runs the call; its results go to y and `second_y`, each of any type that y may have.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    #[inline(always)]
    pub fn to<Y: Companion<T> + 'a, Z: Companion<T> + 'a>(
        self,
        y: impl Into<RowsMut<'a, Y>>,
        second_y: impl Into<RowsMut<'a, Z>>,
    ) -> Result<(), Error> {
        let Self { call, gamma, beta, misgiven, .. } = self;
        let (norm, x, _, first_gamma, first_beta, stats) = call.into_parts()?;
        misgiven.refuse()?;
        let (y, second_y, params) = (y.into(), second_y.into(), [[first_gamma, first_beta], [gamma, beta]]);
        if norm.is_small(&x, &y, &second_y, &params, &stats) {
            norm.normalize(Plain, x, second_y, gamma, beta, StatsMut::default())?;
            return norm.normalize(Plain, x, y, first_gamma, first_beta, stats);
        }
        norm.finish_second(norm.check_second(Buffers::plain(x, y), second_y, params, stats)?);
        Ok(())
    }

    /// Runs the call; its results are new vectors of contiguous rows, each of any type that y may have.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_vecs<Y: Companion<T> + 'a, Z: Companion<T> + 'a>(self) -> Result<(Vec<Y>, Vec<Z>), Error> {
        let Self { call, gamma, beta, misgiven, .. } = self;
        let (norm, x, _, first_gamma, first_beta, stats) = call.into_parts()?;
        misgiven.refuse()?;
        norm.second_to_vecs(x, [[first_gamma, first_beta], [gamma, beta]], stats)
    }
}

impl<'a, T: Element, M: Center, P, Q> SecondCall<'a, T, M, InPlace, P, Q> {
    /// Runs the call; its first result goes where x lies, and the second to `second_y`, of any type that y may have.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    #[inline(always)]
    pub fn run<Z: Companion<T> + 'a>(self, second_y: impl Into<RowsMut<'a, Z>>) -> Result<(), Error> {
        let Self { call, gamma, beta, misgiven, .. } = self;
        let (norm, x, _, first_gamma, first_beta, stats) = call.into_parts()?;
        misgiven.refuse()?;
        let (second_y, params) = (second_y.into(), [[first_gamma, first_beta], [gamma, beta]]);
        let read = Rows { data: &*x.data, layout: x.layout };
        if norm.is_small(&read, &x, &second_y, &params, &stats) {
            norm.normalize(Plain, read, second_y, gamma, beta, StatsMut::default())?;
            return norm.normalize_in_place(Plain, x, first_gamma, first_beta, stats);
        }
        norm.finish_second(norm.check_second(Buffers::in_place(x), second_y, params, stats)?);
        Ok(())
    }
}

/// One of two outputs of rows that have been checked, and all that it takes.
pub(crate) struct Output<'a, T: Element> {
    pub(crate) io: RunsIo<'a, T>,
    vectors: Vectors<'a, 'a, T>,
    streaming: bool,
}

impl<'a, T: Element> Output<'a, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let Self { io, vectors, streaming } = self;
        let ((io, other_io), (vectors, others)) = (io.split_at(row), vectors.split_at(row));
        (Self { io, vectors, streaming }, Self { io: other_io, vectors: others, streaming })
    }
}

impl<M: Center> Norm<M> {
    /// Whether contiguous rows are a tile or less, and all fit together. Then two calls, one after the other, are as
    /// quick as can be, and neither is refused unless both are.
    #[inline(always)]
    fn is_small<T: Element, Y, Z>(
        &self,
        x: &Rows<'_, T>,
        y: &RowsMut<'_, Y>,
        second_y: &RowsMut<'_, Z>,
        params: &[[Option<Vector<'_, T>>; 2]; 2],
        stats: &StatsMut<'_, T::Float>,
    ) -> bool {
        let (&Plan { cols, groups, .. }, len) = (self.plan(), x.data.len());
        let are_contiguous = x.layout.is_contiguous() && y.layout.is_contiguous() && second_y.layout.is_contiguous();
        let is_tile = len <= TILE / size_of::<T>() && len.is_multiple_of(cols);
        if !are_contiguous || !is_tile || len == 0 || y.data.len() != len || second_y.data.len() != len {
            return false;
        }
        let rows = len / cols;
        let vectors_fit = params.iter().flatten().flatten().all(|v| Some(v.len()) == cols.checked_mul(groups.groups()));
        vectors_fit && rows.is_multiple_of(groups.period()) && Plan::check_stats(rows, stats).is_ok()
    }

    pub(crate) fn check_second<'a, T: Element, Z: Companion<T>>(
        &self,
        buffers: Buffers<'a, T>,
        second_y: RowsMut<'a, Z>,
        [[gamma, beta], [second_gamma, second_beta]]: [[Option<Vector<'a, T>>; 2]; 2],
        stats: StatsMut<'a, T::Float>,
    ) -> Result<[Output<'a, T>; 2], Error> {
        let plan = self.plan();
        let [first, second] = buffers.check_second(plan.cols, second_y)?;
        let rows = first.rows();
        let params = plan.params(rows, gamma, beta)?;
        let len = plan.params_len("second gamma", second_gamma.is_some() || second_beta.is_some())?;
        shape::len("second gamma", second_gamma.as_ref().map(Vector::len), len)?;
        shape::len("second beta", second_beta.as_ref().map(Vector::len), len)?;
        let second_params = plan.params(rows, second_gamma, second_beta)?;
        Plan::check_stats(rows, &stats)?;
        let output = |io, mut params: lanenorm_kernels::rows::Params<'a, T>, stats| {
            // Groups need not divide a tile.
            params.groups = params.groups.after(0);
            Output { io, vectors: Vectors { params, bias: None, stats, moments: None }, streaming: false }
        };
        Ok([output(first, params, stats), output(second, second_params, StatsMut::default())])
    }

    pub(crate) fn finish_second<T: Element>(&self, outputs: [Output<'_, T>; 2]) {
        if M::CENTERED {
            self.run_second::<T, Centered>(outputs, |io, params, eps, streaming, stats| {
                layer_norm::LayerNorm::new(io, params, eps, streaming, stats)
            });
        } else {
            self.run_second::<T, Uncentered>(outputs, |io, params, eps, streaming, stats| {
                rms_norm::RmsNorm::new(io, params, eps, streaming, stats.rstd)
            });
        }
    }

    #[inline(never)]
    fn run_second<T, L: Center>(&self, mut outputs: [Output<'_, T>; 2], job: MakeJob<T, L>)
    where
        T: Element + Compiled<L>,
    {
        let (plan, io) = (self.plan(), &outputs[0].io);
        let (elements, rows, cols) = (io.elements(), io.rows(), plan.cols);
        if elements == 0 {
            return;
        }
        for Output { io, streaming, .. } in &mut outputs {
            *streaming = plan.streams_in_runs(io, 3);
        }
        // Each element is normalized twice.
        let tasks: Tasks = plan.parallelism.tasks_for(elements.saturating_mul(2));
        let mut work = Twice { plan, outputs, job, tile: tile(cols, size_of::<T>()) };
        for rows in (1..=rows).rev() {
            if !jobs::first_is_cut(rows, cols, false, tasks.count) {
                break;
            }
            let (row, rest) = work.split_at(1);
            row.run_row(tasks);
            work = rest;
        }
        share(work, &mut [], tasks);
    }
}

/// Rows that are normalized into two outputs. All has been checked.
struct Twice<'a, 'p, T: Element, M: Center> {
    plan: &'p Plan,
    outputs: [Output<'a, T>; 2],
    job: MakeJob<T, M>,
    /// The rows of a tile.
    tile: usize,
}

impl<T: Element + Compiled<M>, M: Center> Twice<'_, '_, T, M> {
    /// Normalizes rows of one run, one output after the other.
    fn run_tile(self) {
        let Self { plan: &Plan { isa, eps, .. }, outputs: [first, second], job, .. } = self;
        for Output { io, vectors: Vectors { params, stats, .. }, streaming } in [second, first] {
            // Not moved out of the result: see `Forward::run_on`.
            match &mut job(io.into_first_run(), params, eps, streaming, stats) {
                Ok(job) => job.run_on(isa),
                Err(error) => unreachable!("the plans have checked all lengths: {error}"),
            }
        }
    }

    /// Normalizes one row, whose moments are taken once, on up to `tasks` threads.
    fn run_row(self, tasks: Tasks) {
        let Self { plan: &Plan { isa, eps, .. }, outputs: [first, second], job, .. } = self;
        let mut moments = None;
        for Output { io, vectors: Vectors { params, stats, .. }, streaming } in [second, first] {
            match job(io.into_first_run(), params, eps, streaming, stats) {
                Ok(job) => {
                    let x = job.rows().x_row(0).unwrap_or_default();
                    let take = || jobs::moments_of_row(isa, RowMoments::new(x, M::CENTERED), tasks);
                    let moments = moments.get_or_insert_with(take);
                    jobs::finish_row(isa, job, moments, tasks);
                }
                Err(error) => unreachable!("the plans have checked all lengths: {error}"),
            }
        }
    }
}

impl<T: Element + Compiled<M>, M: Center> Work for Twice<'_, '_, T, M> {
    type Memory = ();

    fn len(&self) -> usize {
        self.outputs[0].io.rows()
    }

    fn elements(&self) -> usize {
        self.outputs[0].io.elements()
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let [first, second] = self.outputs;
        let ((first, other_first), (second, other_second)) = (first.split_at(row), second.split_at(row));
        (Self { outputs: [first, second], ..self }, Self { outputs: [other_first, other_second], ..self })
    }

    fn run(mut self, _: &mut [()]) {
        while self.len() > 0 {
            let rows = self.outputs[0].io.first_run().min(self.tile);
            let (tile, rest) = self.split_at(rows);
            if tile.tile == 1 {
                tile.run_row(Tasks::ONE);
            } else {
                tile.run_tile();
            }
            self = rest;
        }
    }
}
