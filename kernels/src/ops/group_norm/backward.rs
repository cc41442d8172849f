//! The gradients of group normalization.
//!
//! The groups of all samples that have the same channels are rows of one gamma, written out for all elements, and their
//! gradients are those of [layer normalization](super::super::backward). What is written out has a dgamma and a dbeta
//! for each element, which are added up over the pixels of each channel.
//!
//! With an [activation](GroupBackward::with_activation) f, n is computed again from x, and the gradient of n is
//! dy * f'(n). This, and what follows from it, is in f32, or f64 for f64.

use core::marker::PhantomData;
use core::slice;

use super::{MOVED_PIXELS, Shape};
use crate::element::{Kind, Storage};
use crate::error::Error;
use crate::gate::Function;
use crate::isa::Isa;
use crate::loops::{Derive, Tile};
use crate::mean::Centered;
use crate::ops::backward::{Backward, Merge, Parts, RunBackward, Stats, assert_len_at_least, merge_sums};
use crate::ops::forward::{Forward, RunForward};
use crate::rows::{Convert, GradRows, Params, RawGradRows, RowIo, Vector};
use crate::simd::Float;
use crate::stats::{StatsMut, check_eps};

/// The rows that are taken together where they are moved.
const TOGETHER: usize = 2;

/// The job of taking the gradients of some groups: of dx for all samples, and of dgamma and dbeta for the channels of
/// these groups.
#[derive(Debug)]
pub struct GroupBackward<'a, T: Storage> {
    dy: *const T,
    x: *const T,
    dx: Option<*mut T>,
    shape: Shape,
    samples: usize,
    /// The groups of a sample before these, and the number of these.
    first: usize,
    groups: usize,
    gamma: Option<Vector<'a, T>>,
    beta: Option<Vector<'a, T>>,
    eps: f64,
    stats: Stats<'a, T::Float>,
    activation: Option<Function>,
    /// dgamma and dbeta of the channels of these groups.
    sums: [Option<&'a mut [T::Float]>; 2],
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: GroupBackward stands for slices and mutable slices, and parts write different elements.
unsafe impl<T: Storage> Send for GroupBackward<'_, T> {}

/// How the jobs that this is made of are run: see `compile.rs`.
pub(crate) struct Runs<T: Storage>
where
    T::Float: Storage<Float = T::Float>,
{
    pub(crate) backward: RunBackward<T, Centered>,
    pub(crate) merge: fn(Merge<'_, T::Float>, Isa),
    /// The same of rows that have been widened.
    pub(crate) wide: RunBackward<T::Float, Centered>,
    pub(crate) forward: RunForward<T::Float, Centered>,
}

impl<'a, T: Storage> GroupBackward<'a, T> {
    /// The job for dy, x and, if wanted, dx of a shape. gamma and beta have an element for each channel, and so have
    /// dgamma and dbeta, of `sums`. beta counts where there is an activation. Statistics have an element for each group
    /// of each sample.
    ///
    /// # Errors
    /// If
    /// - the groups do not divide the channels,
    /// - dy has no whole number of samples, or x or dx has not as many elements,
    /// - gamma, beta, dgamma or dbeta does not have an element for each channel, or gamma and beta are of two types,
    /// - a statistic does not have an element for each group of each sample, or comes without one that it needs,
    /// - nothing is wanted, or
    /// - eps is negative, infinite or NaN.
    pub fn new(
        (dy, x, dx): (&'a [T], &'a [T], Option<&'a mut [T]>),
        shape: Shape,
        stats: Stats<'a, T::Float>,
        params: [Option<Vector<'a, T>>; 2],
        eps: f64,
        sums: [Option<&'a mut [T::Float]>; 2],
    ) -> Result<Self, Error> {
        shape.rows("dy", dy.len())?;
        Error::length("dx", dx.as_ref().map_or(dy.len(), |dx| dx.len()), dy.len())?;
        let dx = dx.map(|dx| dx.as_mut_ptr());
        Self::checked((dy.as_ptr(), dy.len()), x, dx, shape, stats, params, eps, sums)
    }

    /// The same with dx over dy.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_place(
        (dy, x): (&'a mut [T], &'a [T]),
        shape: Shape,
        stats: Stats<'a, T::Float>,
        params: [Option<Vector<'a, T>>; 2],
        eps: f64,
        sums: [Option<&'a mut [T::Float]>; 2],
    ) -> Result<Self, Error> {
        let (p, len) = (dy.as_mut_ptr(), dy.len());
        Self::checked((p.cast_const(), len), x, Some(p), shape, stats, params, eps, sums)
    }

    #[expect(clippy::too_many_arguments, reason = "those of both constructors")]
    fn checked(
        (dy, len): (*const T, usize),
        x: &'a [T],
        dx: Option<*mut T>,
        shape: Shape,
        stats: Stats<'a, T::Float>,
        [gamma, beta]: [Option<Vector<'a, T>>; 2],
        eps: f64,
        sums: [Option<&'a mut [T::Float]>; 2],
    ) -> Result<Self, Error> {
        let rows = shape.rows("dy", len)?;
        Error::length("x", x.len(), len)?;
        Params { gamma, beta, ..Params::default() }.fit(1, shape.channels)?;
        for (what, out) in ["dgamma", "dbeta"].into_iter().zip(&sums) {
            Error::length(what, out.as_ref().map_or(shape.channels, |out| out.len()), shape.channels)?;
        }
        stats.fit(rows, true)?;
        check_eps(eps)?;
        if dx.is_none() && sums.iter().all(|out| out.is_none()) {
            return Err(Error::NoGradient);
        }
        let (x, samples, groups, marker) = (x.as_ptr(), rows / shape.groups, shape.groups, PhantomData);
        Ok(Self {
            dy,
            x,
            dx,
            shape,
            samples,
            first: 0,
            groups,
            gamma,
            beta,
            eps,
            stats,
            activation: None,
            sums,
            marker,
        })
    }

    /// The same job for a y that has gone through a function: see
    /// [`GroupNorm::with_activation`](super::GroupNorm::with_activation).
    pub fn with_activation(self, function: Function) -> Self {
        Self { activation: Some(function), ..self }
    }

    /// The number of groups of a sample.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The job for the first groups, and the job for the rest. If there are fewer groups, the first job has them all.
    pub fn split_at(self, group: usize) -> (Self, Self) {
        let group = group.min(self.groups);
        let at = group * self.shape.cols();
        let [dgamma, dbeta] = self.sums.map(|out| out.map(|out| out.split_at_mut(at)).unzip());
        let ((dgamma, dgamma_b), (dbeta, dbeta_b)) = (dgamma, dbeta);
        let (first, groups) = (self.first + group, self.groups - group);
        (
            Self { groups: group, sums: [dgamma, dbeta], ..self },
            Self { first, groups, sums: [dgamma_b, dbeta_b], ..self },
        )
    }

    /// The elements of memory that a thread takes to work. `None` on overflow.
    pub fn work_len(&self) -> Option<usize> {
        self.rooms()?.into_iter().try_fold(0usize, usize::checked_add)
    }

    /// The elements of memory for the work on parts, for their sums, for what is written out, for the statistics of the
    /// samples, and for rows that are moved.
    fn rooms(&self) -> Option<[usize; 5]> {
        let len = self.shape.cols().checked_mul(self.shape.pixels)?;
        let parts = Parts::new(self.samples, len);
        let partials = parts.partial_len::<T>(true)?.checked_mul(parts.count())?;
        let moves = self.activation.is_some() || self.shape.is_apart();
        let moved = if moves { len.checked_mul(3 * TOGETHER)? } else { 0 };
        Some([parts.work_len::<T>(true)?, partials, len.checked_mul(4)?, self.samples.checked_mul(3)?, moved])
    }

    /// Runs the job by `runs` for the jobs that it is made of.
    // Not inlined: see `in_default_environment`.
    #[inline(never)]
    pub(crate) fn run_here(&mut self, isa: Isa, runs: &Runs<T>, work: &mut [T::Float])
    where
        T::Float: Storage<Float = T::Float>,
    {
        if self.samples == 0 {
            self.sums.iter_mut().flatten().for_each(|out| out.fill(T::Float::default()));
            return;
        }
        assert_len_at_least("work", work.len(), self.work_len());
        for group in 0..self.groups {
            self.run_group(isa, runs, group, work);
        }
    }

    fn run_group(&mut self, isa: Isa, runs: &Runs<T>, group: usize, work: &mut [T::Float])
    where
        T::Float: Storage<Float = T::Float>,
    {
        let Some([parts_len, partials_len, _, stats_len, _]) = self.rooms() else {
            unreachable!("the length of the work memory has been checked")
        };
        let (shape, samples, len) = (self.shape, self.samples, self.shape.group_len());
        let (of_parts, work) = work.split_at_mut(parts_len);
        let (partials, work) = work.split_at_mut(partials_len);
        let (kept, work) = work.split_at_mut(stats_len);
        let ([gammas, betas, dgammas, dbetas], rooms) = split_off::<_, 4>(work, len);
        let index = self.first + group;
        write_out(self.gamma, index * shape.cols(), shape.pixels, gammas, T::Float::from_f64(1.0));
        write_out(self.beta, index * shape.cols(), shape.pixels, betas, -T::Float::default());
        let stats = of_group(&self.stats, index, shape.groups, samples, kept);
        let sums = self.sums.iter().any(|out| out.is_some());
        let parts = Parts::new(samples, len);
        let partials: &mut [T::Float] = if sums { partials } else { &mut [] };
        let memory = Memory { parts: &parts, partials: &mut *partials, work: of_parts };
        let kind = if T::ROUNDS { Kind::F32 } else { Kind::Own };
        // SAFETY: this stands for a slice of the float of the rows.
        let gamma = unsafe { Vector::from_raw(gammas.as_ptr().cast(), len, kind) };
        let params = Params { gamma: Some(gamma), ..Params::default() };
        match (self.activation, shape.is_apart()) {
            (Some(function), _) => {
                self.run_activated(isa, runs, function, (index, stats), [gammas, betas], memory, rooms);
            }
            (None, true) => self.run_moved(isa, runs, (index, stats), params, memory, rooms),
            (None, false) => self.run_in_order(isa, runs, (index, stats), params, memory),
        }
        if !sums {
            return;
        }
        let outs = (Some(&mut *dgammas), Some(&mut *dbetas));
        merge_sums::<T>(isa, &parts, partials, outs.0, outs.1, true, runs.merge);
        let at = group * shape.cols();
        for (out, elements) in self.sums.iter_mut().zip([dgammas, dbetas]) {
            let Some(out) = out else { continue };
            for (out, elements) in out[at..][..shape.cols()].iter_mut().zip(elements.chunks_exact(shape.pixels)) {
                *out = sum(elements);
            }
        }
    }

    /// Takes the gradients of groups whose elements are next to one another, where they lie.
    fn run_in_order(
        &mut self,
        isa: Isa,
        runs: &Runs<T>,
        (index, stats): (usize, Stats<'_, T::Float>),
        params: Params<'_, T>,
        memory: Memory<'_, T::Float>,
    ) where
        T::Float: Storage<Float = T::Float>,
    {
        let (len, stride) = (self.shape.group_len(), self.shape.channels * self.shape.pixels);
        let rows = |p: *mut T| RawGradRows { p: p.wrapping_add(index * len), stride, outer_stride: 0 };
        let (dy, x) = (rows(self.dy.cast_mut()), rows(self.x.cast_mut()));
        // SAFETY: all have these rows, and this job alone has those of dx.
        let rows = unsafe { GradRows::from_raw(dy, x, None, self.dx.map(rows), self.samples, self.samples, len) };
        match Backward::<T, Centered>::new(rows, stats, params, self.eps, !memory.partials.is_empty(), false) {
            Ok(mut job) => (runs.backward)(&mut job, memory.partials, memory.work, isa),
            Err(error) => unreachable!("the lengths have been checked: {error}"),
        }
    }

    /// Takes the gradients of groups whose elements are not next to one another, which are moved to a room.
    fn run_moved(
        &mut self,
        isa: Isa,
        runs: &Runs<T>,
        (index, stats): (usize, Stats<'_, T::Float>),
        params: Params<'_, T>,
        mut memory: Memory<'_, T::Float>,
        rooms: &mut [T::Float],
    ) where
        T::Float: Storage<Float = T::Float>,
    {
        let len = self.shape.group_len();
        // The elements of the rows are no larger than their float, and any of their bits are elements.
        let x_room: *mut T = rooms.as_mut_ptr().cast();
        let dy_room = x_room.wrapping_add(TOGETHER * len);
        for r in (0..self.samples).step_by(TOGETHER) {
            let n = TOGETHER.min(self.samples - r);
            // SAFETY: there are these rows, and the rooms have place for them.
            let (x, dy) = unsafe {
                self.move_rows(isa, self.x.cast_mut(), x_room, (index, r, n), true);
                self.move_rows(isa, self.dy.cast_mut(), dy_room, (index, r, n), true);
                (slice::from_raw_parts(x_room, n * len), slice::from_raw_parts_mut(dy_room, n * len))
            };
            let rows = grad_rows((dy, x), n, len, self.dx.is_some());
            memory.run(isa, runs.backward, rows, &stats, params, self.eps, r);
            if let Some(dx) = self.dx {
                // SAFETY: as above.
                unsafe { self.move_rows(isa, dx, dy_room, (index, r, n), false) };
            }
        }
    }

    /// Takes the gradients of groups that have gone through a function.
    #[expect(clippy::too_many_arguments, reason = "what there is of a group")]
    fn run_activated(
        &mut self,
        isa: Isa,
        runs: &Runs<T>,
        function: Function,
        (index, stats): (usize, Stats<'_, T::Float>),
        [gammas, betas]: [&[T::Float]; 2],
        mut memory: Memory<'_, T::Float>,
        rooms: &mut [T::Float],
    ) where
        T::Float: Storage<Float = T::Float>,
    {
        let len = self.shape.group_len();
        let params = || {
            // SAFETY: these stand for slices of the float, which are rows here.
            let [gamma, beta] =
                [gammas, betas].map(|v| Some(unsafe { Vector::<T::Float>::from_raw(v.as_ptr(), v.len(), Kind::Own) }));
            Params { gamma, beta, ..Params::default() }
        };
        let ([x, n, dy], _) = split_off::<_, 3>(rooms, TOGETHER * len);
        for r in (0..self.samples).step_by(TOGETHER) {
            let rows = TOGETHER.min(self.samples - r);
            let (x, n, dy) = (&mut x[..rows * len], &mut n[..rows * len], &mut dy[..rows * len]);
            // n is a room for what is moved, before it is written and after it has been read.
            self.widen(isa, self.x, n, x, (index, r));
            self.widen(isa, self.dy, n, dy, (index, r));
            let io = RowIo::new(&*x, len, &mut *n, len, rows, len);
            let job = io.and_then(|io| Forward::checked(io, params(), self.eps, false, StatsMut::default()));
            match job {
                Ok(mut job) => (runs.forward)(&mut job, isa),
                Err(error) => unreachable!("the lengths have been checked: {error}"),
            }
            Derive::new(dy, n, function).run_on(isa);
            memory.run(
                isa,
                runs.wide,
                grad_rows((dy, x), rows, len, self.dx.is_some()),
                &stats,
                Params { beta: None, ..params() },
                self.eps,
                r,
            );
            if let Some(dx) = self.dx {
                self.narrow(isa, dy, n, dx, (index, r));
            }
        }
    }

    /// Widens the rows of a group from sample `r` on to their float.
    fn widen(
        &self,
        isa: Isa,
        from: *const T,
        room: &mut [T::Float],
        wide: &mut [T::Float],
        (index, r): (usize, usize),
    ) {
        let len = self.shape.group_len();
        let moved: *mut T = if T::ROUNDS { room.as_mut_ptr().cast() } else { wide.as_mut_ptr().cast() };
        // SAFETY: there are these rows. Elements are no larger than their float, and any of their bits are elements.
        unsafe {
            self.move_rows(isa, from.cast_mut(), moved, (index, r, wide.len() / len), true);
            if T::ROUNDS {
                isa.run(Convert::<T>::of(moved, wide.as_mut_ptr().cast(), wide.len(), true));
            }
        }
    }

    /// Rounds rows of their float to the rows of a group from sample `r` on.
    fn narrow(&self, isa: Isa, wide: &mut [T::Float], room: &mut [T::Float], to: *mut T, (index, r): (usize, usize)) {
        let len = self.shape.group_len();
        let moved: *mut T = if T::ROUNDS { room.as_mut_ptr().cast() } else { wide.as_mut_ptr().cast() };
        // SAFETY: as above, and this job alone has these rows of what is written.
        unsafe {
            if T::ROUNDS {
                isa.run(Convert::<T>::of(moved, wide.as_mut_ptr().cast(), wide.len(), false));
            }
            self.move_rows(isa, to, moved, (index, r, wide.len() / len), false);
        }
    }

    /// Fills `room` with the `n` rows of a group of `tensor` from sample `r` on if it `gathers`, or writes them there.
    ///
    /// # Safety
    /// - There are these rows, in both.
    unsafe fn move_rows(
        &self,
        isa: Isa,
        tensor: *mut T,
        room: *mut T,
        (index, r, n): (usize, usize, usize),
        gathers: bool,
    ) {
        let (shape, cols, len) = (self.shape, self.shape.cols(), self.shape.group_len());
        let Shape { channels, pixels, .. } = shape;
        for i in 0..n {
            let (sample, room) = (tensor.wrapping_add((r + i) * channels * pixels), room.wrapping_add(i * len));
            if shape.is_apart() {
                shape.move_channels(isa, sample.wrapping_add(index * cols), room, cols, gathers);
                continue;
            }
            let group = sample.wrapping_add(index * len);
            let (from, to) = if gathers { (group, room) } else { (room, group) };
            // SAFETY: the caller's duty.
            unsafe { to.copy_from_nonoverlapping(from, len) };
        }
    }
}

impl Shape {
    /// Fills `room` with `cols` channels of a sample of which the channels come last, if it `gathers`, or writes them
    /// there. In the room they come first. Whoever calls this knows that both have them.
    pub(super) fn move_channels<T: Copy>(&self, isa: Isa, sample: *mut T, room: *mut T, cols: usize, gathers: bool) {
        let &Self { channels: stride, pixels, .. } = self;
        // Some pixels at a time, so that lines with the channels of a pixel stay in the caches.
        for pixel in (0..pixels).step_by(MOVED_PIXELS) {
            let (tensor, room, rows) =
                (room.wrapping_add(pixel), sample.wrapping_add(pixel * stride), MOVED_PIXELS.min(pixels - pixel));
            Tile { tensor, pixels, room, stride, rows, cols, gathers: !gathers }.move_on(isa);
        }
    }
}

/// What the parts of a job take.
struct Memory<'w, F> {
    parts: &'w Parts,
    /// Empty if no sums are wanted.
    partials: &'w mut [F],
    work: &'w mut [F],
}

impl<F: Float> Memory<'_, F> {
    /// Takes the gradients of rows from row `r` on, an even number.
    #[expect(clippy::too_many_arguments, reason = "a job and where its rows are among others")]
    fn run<'s, R: Storage<Float = F>>(
        &mut self,
        isa: Isa,
        run: RunBackward<R, Centered>,
        rows: GradRows<'_, R>,
        stats: &Stats<'s, F>,
        params: Params<'_, R>,
        eps: f64,
        r: usize,
    ) {
        let (n, end, part_rows) = (rows.rows(), r + rows.rows(), self.parts.part_rows());
        let of_rows = |s: Option<&'s [F]>| s.map(|s| &s[r..][..n]);
        let stats = Stats { mean: of_rows(stats.mean), mean_lo: of_rows(stats.mean_lo), rstd: of_rows(stats.rstd) };
        let sums = !self.partials.is_empty();
        let len = self.partials.len() / self.parts.count();
        let is_open = end < self.parts.rows && !end.is_multiple_of(part_rows);
        let partial = if sums { &mut self.partials[r / part_rows * len..][..len] } else { &mut [] };
        match Backward::<R, Centered>::new(rows, stats, params, eps, sums, false) {
            Ok(job) => run(&mut job.within(self.parts, r % part_rows, is_open), partial, self.work, isa),
            Err(error) => unreachable!("the lengths have been checked: {error}"),
        }
    }
}

/// Rows in rooms, with dx over dy if it is wanted.
fn grad_rows<'r, R: Storage>(
    (dy, x): (&'r mut [R], &'r [R]),
    rows: usize,
    cols: usize,
    has_dx: bool,
) -> GradRows<'r, R> {
    let made = if has_dx {
        GradRows::in_place((dy, cols), (x, cols), rows, cols)
    } else {
        GradRows::new((&*dy, cols), (x, cols), rows, cols)
    };
    made.unwrap_or_else(|error| unreachable!("the rooms have these rows: {error}"))
}

/// Splits off `N` slices of this length.
fn split_off<F, const N: usize>(mut from: &mut [F], len: usize) -> ([&mut [F]; N], &mut [F]) {
    let parts = [(); N].map(|()| {
        let (part, rest) = core::mem::take(&mut from).split_at_mut(len);
        from = rest;
        part
    });
    (parts, from)
}

/// Writes out the elements of a vector from `channel` on, each for all pixels, or `absent` for all.
fn write_out<T: Storage>(
    v: Option<Vector<'_, T>>,
    channel: usize,
    pixels: usize,
    out: &mut [T::Float],
    absent: T::Float,
) {
    let Some(v) = v else { return out.fill(absent) };
    for (c, out) in out.chunks_exact_mut(pixels).enumerate() {
        out.fill(v.get(channel + c));
    }
}

/// The statistics of one group of all samples, kept in a room.
fn of_group<'r, F: Float>(
    stats: &Stats<'_, F>,
    index: usize,
    groups: usize,
    samples: usize,
    room: &'r mut [F],
) -> Stats<'r, F> {
    let ([mean, mean_lo, rstd], _) = split_off::<_, 3>(room, samples);
    let keep = |from: Option<&[F]>, to: &'r mut [F]| {
        let from = from?;
        for (from, to) in from[index..].iter().step_by(groups).zip(&mut *to) {
            *to = *from;
        }
        Some(&*to)
    };
    Stats { mean: keep(stats.mean, mean), mean_lo: keep(stats.mean_lo, mean_lo), rstd: keep(stats.rstd, rstd) }
}

/// The sum of some numbers, taken in f64, with the errors of additions kept (Knuth's `TwoSum`).
fn sum<F: Float>(v: &[F]) -> F {
    let (mut sum, mut error) = (0.0_f64, 0.0_f64);
    for &v in v {
        let v: f64 = v.into();
        let next = sum + v;
        let of_v = next - sum;
        error += (sum - (next - of_v)) + (v - of_v);
        sum = next;
    }
    F::from_f64(if sum.is_finite() { sum + error } else { sum })
}
