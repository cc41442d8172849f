//! Group and instance normalization.

use std::marker::PhantomData;

use lanenorm_kernels::element::Companion;
use lanenorm_kernels::gate::Function;
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::ops::group_norm::{GroupBackward, GroupElements, GroupNorm as Job, Order, Shape};
use lanenorm_kernels::ops::moments::RowMoments;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Element, Error as Refused, Isa};

use crate::input::{Allows, AnyType, Of};
use crate::jobs::{first_is_cut, moments_of_row};
use crate::parallel::{Tasks, Work, share};
use crate::plan::{Plan, Store, Written, y_row_bytes};
use crate::scratch::allocate;
use crate::slice::{Misgiven, Slice, SliceMut};
use crate::{Error, Parallelism};

/// A plan for group normalization: the channels of each sample are cut into groups, and each group is normalized with
/// the mean and the variance of all its elements.
///
/// ```text
/// y = (x - mean) / sqrt(var + eps) * gamma + beta        gamma and beta of the channel
/// ```
///
/// (Wu and He, "Group Normalization", arXiv:1803.08494, 2018.) The variance is divided by the number of elements. With
/// one channel in each group it is [instance normalization](Self::instance_norm), with one group layer normalization
/// over all of a sample.
///
/// x and y are tensors of [samples, channels, pixels], as images are in `PyTorch` (NCHW, with height * width pixels),
/// or, with [`channels_last`](GroupCall::channels_last), of [samples, pixels, channels] (NHWC). The number of pixels is
/// given with x. ([`Call::channels_first`](crate::Call::channels_first) of the other plans is for rows that are the
/// channels of one pixel.) Elements are f32, f64, f16 or bf16; y and gradients of x have the type of x. y has the bits
/// that [`LayerNorm`](crate::LayerNorm) gives to rows of channels / groups * pixels elements, in the order [channels,
/// pixels], in both orders of memory.
///
/// ```
/// use lanenorm::GroupNorm;
///
/// // One sample of four channels of two pixels. The first two channels are a group, and the others.
/// let x = [1.0f32, 1.0, 3.0, 3.0, 1e6, 1e6 + 2.0, 1e6, 1e6 + 2.0];
/// let (gamma, mut y) = ([1.0, 2.0, 1.0, 1.0], [0.0; 8]);
/// GroupNorm::new(4, 2, 0.0)?.call(&x, 2).gamma(&gamma).to(&mut y)?;
/// assert_eq!(y, [-1.0, -1.0, 2.0, 2.0, -1.0, 1.0, -1.0, 1.0]);
/// # Ok::<(), lanenorm::Error>(())
/// ```
///
/// A plan is a handful of numbers: cheap to make, to copy and to share between threads. Groups are spread over threads,
/// and so are the elements of a long group where there are few groups. (Not where channels come last: there, and in
/// backward calls, one thread takes all of a group.) Where channels come last, a call allocates 4 MiB for each thread,
/// or the elements of a group if they are more. Backward calls allocate ten to twenty times the elements of a group for
/// each thread, and up to 140 times where there are thousands of samples. gamma and beta for each sample are not there:
/// a group norm without them, and what follows it, is the way to adaptive normalization.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    plan: Plan,
    groups: usize,
}

impl GroupNorm {
    /// A plan for tensors of `channels` channels in `groups` groups, on the [default tier](crate::default_isa). (In
    /// `PyTorch` the groups come first.)
    ///
    /// # Errors
    /// If the groups do not divide the channels, if eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a
    /// tier that is not there.
    pub fn new(channels: usize, groups: usize, eps: f64) -> Result<Self, Error> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Arguments(Refused::ChannelGroups { channels, groups }));
        }
        Ok(Self { plan: Plan::new(channels, eps)?, groups })
    }

    /// A plan for instance normalization: each channel of each sample is normalized by itself (Ulyanov, Vedaldi and
    /// Lempitsky, "Instance Normalization", arXiv:1607.08022, 2016).
    ///
    /// # Errors
    /// As [`new`](Self::new), and if there are no channels.
    pub fn instance_norm(channels: usize, eps: f64) -> Result<Self, Error> {
        Self::new(channels, channels, eps)
    }

    /// The same plan with another parallelism.
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Self { plan: Plan { parallelism, ..self.plan }, ..self }
    }

    /// The same plan on another tier (see [`isa`](crate::isa())).
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { plan: Plan { isa, ..self.plan }, ..self }
    }

    /// The same plan with another choice of stores.
    pub fn with_store(self, store: Store) -> Self {
        Self { plan: Plan { store, ..self.plan }, ..self }
    }

    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.plan.cols
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The tier that calls run on.
    pub fn isa(&self) -> Isa {
        self.plan.isa
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.plan.eps
    }

    /// Describes a call that normalizes x, of [samples, channels, `pixels`], into another tensor.
    pub fn call<'a, T: Element>(&'a self, x: &'a [T], pixels: usize) -> GroupCall<'a, T, &'a [T]> {
        self.describe(x, pixels)
    }

    /// Describes a call that normalizes x, of [samples, channels, `pixels`], where it lies.
    pub fn call_in_place<'a, T: Element>(&'a self, x: &'a mut [T], pixels: usize) -> GroupCall<'a, T, &'a mut [T]> {
        self.describe(x, pixels)
    }

    /// Describes a call that takes gradients from dy, the gradient of y, and x, both of [samples, channels, `pixels`].
    pub fn backward<'a, T: Element>(
        &'a self,
        dy: &'a [T],
        x: &'a [T],
        pixels: usize,
    ) -> GroupBackwardCall<'a, T, &'a [T]> {
        self.describe_backward(dy, x, pixels)
    }

    /// Describes a call whose gradient of x overwrites dy.
    pub fn backward_in_place<'a, T: Element>(
        &'a self,
        dy: &'a mut [T],
        x: &'a [T],
        pixels: usize,
    ) -> GroupBackwardCall<'a, T, &'a mut [T]> {
        self.describe_backward(dy, x, pixels)
    }

    fn shape(&self, pixels: usize) -> Shape {
        Shape { channels: self.plan.cols, groups: self.groups, pixels, order: Order::ChannelsFirst }
    }

    fn describe<'a, T: Element, X>(&'a self, x: X, pixels: usize) -> GroupCall<'a, T, X> {
        let shape = self.shape(pixels);
        let (stats, misgiven) = (StatsMut::default(), Misgiven::default());
        let (gamma, beta, activation, marker) = (None, None, None, PhantomData);
        GroupCall { plan: &self.plan, x, shape, gamma, beta, stats, activation, misgiven, marker }
    }
}

/// A call that is described, to be run by [`to`](Self::to) or, in place, by [`run`](Self::run).
///
/// `X` says how x is borrowed, and `P` the type of gamma and beta.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct GroupCall<'a, T: Element, X, P = AnyType> {
    plan: &'a Plan,
    x: X,
    shape: Shape,
    gamma: Option<Vector<'a, T>>,
    beta: Option<Vector<'a, T>>,
    stats: StatsMut<'a, T::Float>,
    activation: Option<Function>,
    misgiven: Misgiven,
    marker: PhantomData<P>,
}

impl<'a, T: Element, X, P> GroupCall<'a, T, X, P> {
    /// x and y are tensors of [samples, pixels, channels], also called NHWC. The bits of y are the same. A call
    /// allocates memory for some groups for each thread.
    #[doc(alias = "nhwc")]
    pub fn channels_last(mut self) -> Self {
        self.shape.order = Order::ChannelsLast;
        self
    }

    /// The factor: an element for each channel, of the type of x, of f32 beside an x of 16 bits, or of 16 bits beside
    /// an x of f32. Without it, it is 1.
    #[doc(alias = "weight")]
    pub fn gamma<G: Companion<T>>(self, gamma: impl Into<Slice<'a, G>>) -> GroupCall<'a, T, X, Of<G>>
    where
        P: Allows<G>,
    {
        let Self { plan, x, shape, beta, stats, activation, mut misgiven, .. } = self;
        let gamma = misgiven.slice("gamma", gamma.into().0).map(Vector::from);
        GroupCall { plan, x, shape, gamma, beta, stats, activation, misgiven, marker: PhantomData }
    }

    /// What is added at the end: an element for each channel, of the type of gamma. Without it, it is 0.
    #[doc(alias = "bias")]
    pub fn beta<G: Companion<T>>(self, beta: impl Into<Slice<'a, G>>) -> GroupCall<'a, T, X, Of<G>>
    where
        P: Allows<G>,
    {
        let Self { plan, x, shape, gamma, stats, activation, mut misgiven, .. } = self;
        let beta = misgiven.slice("beta", beta.into().0).map(Vector::from);
        GroupCall { plan, x, shape, gamma, beta, stats, activation, misgiven, marker: PhantomData }
    }

    /// Keeps the mean of each group, rounded: [samples, groups].
    pub fn mean_to(mut self, mean: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.stats.mean = self.misgiven.slice("mean", mean.into().0);
        self
    }

    /// Keeps what rounding took from the mean: in f32, `mean + mean_lo` has 48 bits.
    pub fn mean_lo_to(mut self, mean_lo: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.stats.mean_lo = self.misgiven.slice("mean_lo", mean_lo.into().0);
        self
    }

    /// Keeps rstd of each group, 1 / sqrt(var + eps): [samples, groups]. It is infinite beyond the range of its type,
    /// and for a constant group with eps = 0.
    pub fn rstd_to(mut self, rstd: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.stats.rstd = self.misgiven.slice("rstd", rstd.into().0);
        self
    }

    /// y goes through a function, [`Function::Silu`] in most diffusion models. What the function takes and gives is in
    /// f32 (in f64 for f64), and is rounded once, to the type of y. At minus infinity `SiLU` and GELU are NaN, as in
    /// `PyTorch`: where xhat * gamma + beta is beyond the range of f32, that is.
    ///
    /// ```
    /// use lanenorm::{GroupNorm, gate::Function};
    ///
    /// let mut x = [-1.0f32, 1.0, -1.0, 1.0];
    /// GroupNorm::new(2, 1, 0.0)?.call_in_place(&mut x, 2).activation(Function::Silu).run()?;
    /// assert_eq!(x, [-0.26894143, 0.7310586, -0.26894143, 0.7310586]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    pub fn activation(mut self, function: Function) -> Self {
        self.activation = Some(function);
        self
    }
}

impl<T: Element, P> GroupCall<'_, T, &[T], P> {
    /// Runs the call; its result goes to y, of the shape of x.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn to(self, y: &mut [T]) -> Result<(), Error> {
        let Self { plan, x, shape, gamma, beta, stats, activation, misgiven, .. } = self;
        misgiven.refuse()?;
        let streaming = streams(plan, size_of_val(y), shape.pixels.saturating_mul(size_of::<T>()));
        let job = Job::new(x, y, shape, [gamma, beta], plan.eps, streaming, stats);
        run::<_, _, true>(plan, job, activation, allocate)
    }

    /// Runs the call; its result is a new vector.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_vec(self) -> Result<Vec<T>, Error> {
        let mut y = vec![T::from_computed(T::Float::default()); self.x.len()];
        self.to(&mut y)?;
        Ok(y)
    }
}

impl<T: Element, P> GroupCall<'_, T, &mut [T], P> {
    /// Runs the call; its result goes where x lies.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn run(self) -> Result<(), Error> {
        let Self { plan, x, shape, gamma, beta, stats, activation, misgiven, .. } = self;
        misgiven.refuse()?;
        run::<_, _, true>(plan, Job::in_place(x, shape, [gamma, beta], plan.eps, stats), activation, allocate)
    }
}

/// A backward call that is described, to be run by [`to`](Self::to), or by [`run`](Self::run) in place and where dx is
/// not wanted.
///
/// `D` says how dy is borrowed, and `P` the type of gamma and beta.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct GroupBackwardCall<'a, T: Element, D, P = AnyType> {
    plan: &'a Plan,
    dy: D,
    x: &'a [T],
    shape: Shape,
    gamma: Option<Vector<'a, T>>,
    beta: Option<Vector<'a, T>>,
    stats: Stats<'a, T::Float>,
    sums: [Option<&'a mut [T::Float]>; 2],
    activation: Option<Function>,
    misgiven: Misgiven,
    marker: PhantomData<P>,
}

impl GroupNorm {
    fn describe_backward<'a, T: Element, D>(&'a self, dy: D, x: &'a [T], pixels: usize) -> GroupBackwardCall<'a, T, D> {
        let (stats, misgiven, marker) = (Stats::default(), Misgiven::default(), PhantomData);
        let (gamma, beta, sums, activation) = (None, None, [None, None], None);
        let shape = self.shape(pixels);
        GroupBackwardCall { plan: &self.plan, dy, x, shape, gamma, beta, stats, sums, activation, misgiven, marker }
    }
}

impl<'a, T: Element, D, P> GroupBackwardCall<'a, T, D, P> {
    /// dy, x and dx are tensors of [samples, pixels, channels]. All gradients have the same bits.
    #[doc(alias = "nhwc")]
    pub fn channels_last(mut self) -> Self {
        self.shape.order = Order::ChannelsLast;
        self
    }

    /// The gamma of the forward call.
    #[doc(alias = "weight")]
    pub fn gamma<G: Companion<T>>(self, gamma: impl Into<Slice<'a, G>>) -> GroupBackwardCall<'a, T, D, Of<G>>
    where
        P: Allows<G>,
    {
        let Self { plan, dy, x, shape, beta, stats, sums, activation, mut misgiven, .. } = self;
        let (gamma, marker) = (misgiven.slice("gamma", gamma.into().0).map(Vector::from), PhantomData);
        GroupBackwardCall { plan, dy, x, shape, gamma, beta, stats, sums, activation, misgiven, marker }
    }

    /// The beta of the forward call, which counts where there is an [activation](Self::activation).
    #[doc(alias = "bias")]
    pub fn beta<G: Companion<T>>(self, beta: impl Into<Slice<'a, G>>) -> GroupBackwardCall<'a, T, D, Of<G>>
    where
        P: Allows<G>,
    {
        let Self { plan, dy, x, shape, gamma, stats, sums, activation, mut misgiven, .. } = self;
        let (beta, marker) = (misgiven.slice("beta", beta.into().0).map(Vector::from), PhantomData);
        GroupBackwardCall { plan, dy, x, shape, gamma, beta, stats, sums, activation, misgiven, marker }
    }

    /// The mean that the forward call has kept: [samples, groups]. It needs [rstd](Self::rstd). Without both they are
    /// taken again.
    pub fn mean(mut self, mean: impl Into<Slice<'a, T::Float>>) -> Self {
        self.stats.mean = self.misgiven.slice("mean", mean.into().0);
        self
    }

    /// What rounding took from the mean. If absent it counts as 0, which costs digits where the mean is large beside
    /// the standard deviation.
    pub fn mean_lo(mut self, mean_lo: impl Into<Slice<'a, T::Float>>) -> Self {
        self.stats.mean_lo = self.misgiven.slice("mean_lo", mean_lo.into().0);
        self
    }

    /// The rstd that the forward call has kept: [samples, groups].
    pub fn rstd(mut self, rstd: impl Into<Slice<'a, T::Float>>) -> Self {
        self.stats.rstd = self.misgiven.slice("rstd", rstd.into().0);
        self
    }

    /// Takes the gradient of gamma: an element for each channel, of f64 for f64 and else of f32.
    pub fn dgamma_to(mut self, dgamma: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.sums[0] = self.misgiven.slice("dgamma", dgamma.into().0);
        self
    }

    /// Takes the gradient of beta: an element for each channel, of f64 for f64 and else of f32.
    pub fn dbeta_to(mut self, dbeta: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.sums[1] = self.misgiven.slice("dbeta", dbeta.into().0);
        self
    }

    /// y went through this function: see [`GroupCall::activation`]. What went into it is computed again, from x, gamma
    /// and beta, with statistics that are taken again. So the call needs both vectors of the forward call:
    ///
    /// ```
    /// use lanenorm::{Function, GroupNorm};
    ///
    /// let plan = GroupNorm::new(4, 2, 1e-5)?;
    /// let (x, dy) = ([1.0f32, 2.0, 4.0, 3.0, 5.0, 9.0, 7.0, 6.0], [1.0; 8]);
    /// let (gamma, beta) = ([1.0f32, 0.5, 1.0, 2.0], [0.0, 0.0, 0.1, 0.2]);
    /// let y = plan.call(&x, 2).gamma(&gamma).beta(&beta).activation(Function::Silu).to_vec()?;
    ///
    /// let (mut dx, mut dgamma, mut dbeta) = ([0.0; 8], [0.0; 4], [0.0; 4]);
    /// let call = plan.backward(&dy, &x, 2).gamma(&gamma).beta(&beta).activation(Function::Silu);
    /// call.dgamma_to(&mut dgamma).dbeta_to(&mut dbeta).to(&mut dx)?;
    /// assert!(y[0] < 0.0 && dx.iter().sum::<f32>().abs() < 1e-5);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    pub fn activation(mut self, function: Function) -> Self {
        self.activation = Some(function);
        self
    }
}

impl<T: Element, P> GroupBackwardCall<'_, T, &[T], P> {
    /// Runs the call. The gradient of x goes to dx.
    ///
    /// ```
    /// use lanenorm::GroupNorm;
    ///
    /// let (dy, x, mut dx, mut dbeta) = ([1.0f32, 2.0, 0.5, 0.0], [1.0, 2.0, 3.0, 6.0], [0.0; 4], [0.0; 2]);
    /// GroupNorm::new(2, 1, 1e-5)?.backward(&dy, &x, 2).dbeta_to(&mut dbeta).to(&mut dx)?;
    /// assert_eq!(dbeta, [3.0, 0.5]); // two channels of two pixels
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together, or if mean comes without rstd or rstd without mean; nothing has been written
    /// then.
    pub fn to(self, dx: &mut [T]) -> Result<(), Error> {
        self.run_to(Some(dx))
    }

    /// Runs the call without the gradient of x.
    ///
    /// # Errors
    /// As [`to`](Self::to), and if no other gradient is asked for.
    pub fn run(self) -> Result<(), Error> {
        self.run_to(None)
    }

    fn run_to(self, dx: Option<&mut [T]>) -> Result<(), Error> {
        let Self { plan, dy, x, shape, gamma, beta, stats, sums, activation, misgiven, .. } = self;
        misgiven.refuse()?;
        let job = GroupBackward::new((dy, x, dx), shape, stats, [gamma, beta], plan.eps, sums);
        run_backward::<_, _, true>(plan, job, x.len(), activation, allocate)
    }
}

impl<T: Element, P> GroupBackwardCall<'_, T, &mut [T], P> {
    /// Runs the call. The gradient of x overwrites dy.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if mean comes without rstd or rstd without mean; nothing has been written
    /// then.
    pub fn run(self) -> Result<(), Error> {
        let Self { plan, dy, x, shape, gamma, beta, stats, sums, activation, misgiven, .. } = self;
        misgiven.refuse()?;
        let job = GroupBackward::in_place((dy, x), shape, stats, [gamma, beta], plan.eps, sums);
        run_backward::<_, _, true>(plan, job, x.len(), activation, allocate)
    }
}

/// Whether y, of `bytes` bytes, is written past the caches where it is not in place.
pub(crate) fn streams(plan: &Plan, bytes: usize, channel_bytes: usize) -> bool {
    let (on_lines, in_place, tensors) = (false, false, 2);
    let least_row_bytes = y_row_bytes(size_of::<f32>(), false);
    plan.streams_to(&Written { bytes, row_bytes: channel_bytes, tensors, on_lines, in_place, least_row_bytes })
}

/// Runs a backward job on as many threads as the plan has for it.
pub(crate) fn run_backward<T: Element, E: From<Error>, const POOLS: bool>(
    plan: &Plan,
    job: Result<GroupBackward<'_, T>, Refused>,
    elements: usize,
    activation: Option<Function>,
    allocate: impl FnOnce(usize, T::Float) -> Result<Vec<T::Float>, E>,
) -> Result<(), E> {
    let mut job = job.map_err(Error::Arguments)?;
    if let Some(function) = activation {
        job = job.with_activation(function);
    }
    let (isa, groups) = (plan.isa, job.groups());
    let overflow = Error::Arguments(Refused::Overflow { what: "scratch", rows: groups, stride: elements });
    // Without samples, the pixels may be any number.
    let memory = if elements == 0 { Some(0) } else { job.work_len() };
    let tasks: Tasks<POOLS> = plan.parallelism.tasks_for(elements).at_most(groups);
    let (Some(memory), Some(total)) = (memory, memory.and_then(|memory| memory.checked_mul(tasks.count))) else {
        return Err(overflow.into());
    };
    share(Gradients { isa, job, memory }, &mut allocate(total, T::Float::default())?, tasks);
    Ok(())
}

/// Runs a job on as many threads as the plan has for it.
pub(crate) fn run<T: Element, E: From<Error>, const POOLS: bool>(
    plan: &Plan,
    job: Result<Job<'_, T>, Refused>,
    activation: Option<Function>,
    allocate: impl FnOnce(usize, T) -> Result<Vec<T>, E>,
) -> Result<(), E> {
    let mut job = job.map_err(Error::Arguments)?;
    if let Some(function) = activation {
        job = job.with_activation(function);
    }
    let (isa, rows, shape) = (plan.isa, job.rows(), job.shape());
    if rows == 0 {
        return Ok(());
    }
    let group_len = shape.channels / shape.groups * shape.pixels;
    let all_tasks: Tasks<POOLS> = plan.parallelism.tasks_for(rows * group_len);
    let (memory, together) = (shape.work_len::<T>(), shape.together::<T>());
    let tasks = all_tasks.at_most(rows.div_ceil(together));
    let (Some(memory), Some(total)) = (memory, memory.and_then(|memory| memory.checked_mul(tasks.count))) else {
        return Err(Error::Arguments(Refused::Overflow { what: "scratch", rows, stride: group_len }).into());
    };
    let mut memories = allocate(total, T::from_computed(T::Float::default()))?;
    while job.group().is_some() && first_is_cut(job.rows(), group_len, false, all_tasks.count) {
        let (one, rest) = job.split_at(1);
        cut_group(isa, one, all_tasks);
        job = rest;
    }
    share(Groups { isa, job, memory, together }, &mut memories, tasks);
    Ok(())
}

/// Normalizes one long group: takes its moments in parallel, then its elements in parallel.
fn cut_group<T: Element, const POOLS: bool>(isa: Isa, job: Job<'_, T>, tasks: Tasks<POOLS>) {
    let Some(x) = job.group() else { return };
    let moments = moments_of_row(isa, RowMoments::new(x, true), tasks);
    match job.with_moments(&moments) {
        Ok(job) => share(Elements { isa, job }, &mut [], tasks),
        Err(mut job) => job.run_on(isa, &mut []),
    }
}

struct Groups<'a, T: Element> {
    isa: Isa,
    job: Job<'a, T>,
    /// The elements of memory that a thread takes.
    memory: usize,
    /// The groups that are left together.
    together: usize,
}

impl<T: Element> Work for Groups<'_, T> {
    type Memory = T;

    fn len(&self) -> usize {
        self.job.rows().div_ceil(self.together)
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at(at * self.together);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn memory(&self) -> usize {
        self.memory
    }

    fn run(mut self, memory: &mut [T]) {
        self.job.run_on(self.isa, memory);
    }
}

/// Elements are cut into pieces of this many, so that few cache lines are written by two threads.
const ELEMENTS: usize = 1024;

struct Elements<'a, T: Element> {
    isa: Isa,
    job: GroupElements<'a, T>,
}

impl<T: Element> Work for Elements<'_, T> {
    type Memory = ();

    fn len(&self) -> usize {
        self.job.elements().div_ceil(ELEMENTS)
    }

    fn elements(&self) -> usize {
        self.job.elements()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at(at * ELEMENTS);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn run(self, _: &mut [()]) {
        self.job.run_on(self.isa);
    }
}

struct Gradients<'a, T: Element> {
    isa: Isa,
    job: GroupBackward<'a, T>,
    /// The elements of memory that a thread takes.
    memory: usize,
}

impl<T: Element> Work for Gradients<'_, T> {
    type Memory = T::Float;

    fn len(&self) -> usize {
        self.job.groups()
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at(at);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn memory(&self) -> usize {
        self.memory
    }

    fn run(mut self, memory: &mut [T::Float]) {
        self.job.run_on(self.isa, memory);
    }
}
