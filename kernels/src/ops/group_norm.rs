//! Group normalization: the channels of a sample are cut into groups, and each group of each sample is normalized like
//! a row of [layer normalization](super::layer_norm).
//!
//! ```text
//! mean, var  of the elements of a group: channels / groups channels of all pixels
//! y = f((x - mean) / sqrt(var + eps) * gamma + beta)        gamma and beta of the channel
//! ```
//!
//! (Wu and He, "Group Normalization", arXiv:1803.08494, 2018.) f is nothing, or an
//! [activation](GroupNorm::with_activation). With a group for each channel this is instance normalization (Ulyanov,
//! Vedaldi and Lempitsky, arXiv:1607.08022, 2016).
//!
//! The elements of a group are taken in the order [channels, pixels], wherever they lie: so the bits are those of layer
//! normalization of such rows, for both [orders](Order) of memory. Where channels come last, the elements of one or
//! more groups are moved to a room, normalized there, and moved to y; or, in f32, channels are lanes.

mod backward;
mod last;

use core::marker::PhantomData;
use core::slice;

use super::forward::Forward;
use super::mixed::{self, Loops, Room};
use crate::element::{Kind, Storage};
use crate::error::Error;
use crate::gate::Function;
use crate::isa::Isa;
use crate::loops::{Activate, GroupPiece, Job, Known, run_group};
use crate::mean::{Center, Centered};
use crate::rows::{Groups, Params, RawRows, RowIo, Vector};
use crate::simd::in_default_environment;
use crate::stack;
use crate::stats::{Moments, Root, RowNorm, StatsMut, check_eps};

pub use backward::GroupBackward;
pub(crate) use backward::Runs;

/// The elements that are taken together where gamma and beta are written out, or where there is an activation.
const PIECE: usize = 512;

/// As many channels are moved together, where they come last, so that their elements fill cache lines.
const MOVED_CHANNELS: usize = 32;

/// But no more than take this many bytes, unless they are one group.
const MOVED_BYTES: usize = 4 << 20;

/// The pixels that are moved at a time.
const MOVED_PIXELS: usize = 64;

/// The order of the elements of a tensor in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// [samples, channels, pixels], also called NCHW.
    #[default]
    ChannelsFirst,
    /// [samples, pixels, channels], also called NHWC.
    ChannelsLast,
}

/// The sizes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The channels of a sample.
    pub channels: usize,
    /// The groups of channels: a divisor of their number.
    pub groups: usize,
    /// The elements of a channel of a sample: height times width of an image.
    pub pixels: usize,
    /// The order in memory.
    pub order: Order,
}

impl Shape {
    /// The number of groups of all samples, if a tensor of `len` elements has a whole number of samples.
    ///
    /// # Errors
    /// If it does not, if the groups do not divide the channels, or if the elements of a sample overflow.
    pub fn rows(&self, what: &'static str, len: usize) -> Result<usize, Error> {
        let &Self { channels, groups, pixels, .. } = self;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::ChannelGroups { channels, groups });
        }
        if len == 0 {
            return Ok(0);
        }
        let sample = channels.checked_mul(pixels).ok_or(Error::Overflow { what, rows: pixels, stride: channels })?;
        if sample == 0 {
            Error::length(what, len, 0)?;
        } else if !len.is_multiple_of(sample) {
            return Err(Error::Samples { what, len, cols: channels, pixels });
        }
        Ok(len / sample * groups)
    }

    /// The channels of a group.
    fn cols(&self) -> usize {
        self.channels / self.groups
    }

    /// The elements of a group. There are rows.
    fn group_len(&self) -> usize {
        self.cols().wrapping_mul(self.pixels)
    }

    /// Whether the elements of a group are not next to one another.
    fn is_apart(&self) -> bool {
        self.order == Order::ChannelsLast && self.pixels > 1 && self.channels > 1
    }

    /// The groups of rows of `T` that are moved together, and so are best left to one thread: 1 where none are.
    pub fn together<T: Storage>(&self) -> usize {
        let of_lines = MOVED_CHANNELS.div_ceil(self.cols().max(1)).min(self.groups);
        let bytes = self.group_len().saturating_mul(size_of::<T>()).max(1);
        if self.is_apart() { of_lines.min(MOVED_BYTES / bytes).max(1) } else { 1 }
    }

    /// The elements of memory that a thread takes to work on rows of `T`. `None` on overflow.
    pub fn work_len<T: Storage>(&self) -> Option<usize> {
        let len = self.cols().checked_mul(self.pixels)?;
        if self.is_apart() { len.checked_mul(self.together::<T>()) } else { Some(0) }
    }
}

/// The job of normalizing some groups: those of all samples, or successive ones of these.
#[derive(Debug)]
pub struct GroupNorm<'a, T: Storage> {
    x: *const T,
    y: *mut T,
    shape: Shape,
    /// As the rows of a tensor have them.
    groups: Groups,
    /// The groups before these.
    first: usize,
    rows: usize,
    gamma: Option<Vector<'a, T>>,
    beta: Option<Vector<'a, T>>,
    root: Root,
    activation: Option<Function>,
    streaming: bool,
    stats: StatsMut<'a, T::Float>,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: GroupNorm stands for slices and mutable slices, and parts write different elements.
unsafe impl<T: Storage> Send for GroupNorm<'_, T> {}

impl<'a, T: Storage> GroupNorm<'a, T> {
    /// The job for x and y of a shape. gamma and beta have an element for each channel. Statistics have an element for
    /// each group: [samples, groups]. y is written past the caches if `streaming`, where channels come first and no
    /// activation follows.
    ///
    /// # Errors
    /// If
    /// - the groups do not divide the channels,
    /// - x has no whole number of samples, or y has not as many elements,
    /// - gamma or beta does not have an element for each channel, or they are of two types,
    /// - a statistic does not have an element for each group of each sample, or
    /// - eps is negative, infinite or NaN.
    pub fn new(
        x: &'a [T],
        y: &'a mut [T],
        shape: Shape,
        params: [Option<Vector<'a, T>>; 2],
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        let rows = shape.rows("x", x.len())?;
        Error::length("y", y.len(), x.len())?;
        Self::checked(x.as_ptr(), y.as_mut_ptr(), shape, rows, params, eps, streaming, stats)
    }

    /// The same with y over x.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_place(
        x: &'a mut [T],
        shape: Shape,
        params: [Option<Vector<'a, T>>; 2],
        eps: f64,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        let (p, rows) = (x.as_mut_ptr(), shape.rows("x", x.len())?);
        Self::checked(p.cast_const(), p, shape, rows, params, eps, false, stats)
    }

    #[expect(clippy::too_many_arguments, reason = "those of both constructors")]
    fn checked(
        x: *const T,
        y: *mut T,
        shape: Shape,
        rows: usize,
        [gamma, beta]: [Option<Vector<'a, T>>; 2],
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Self, Error> {
        Params { gamma, beta, ..Params::default() }.fit(1, shape.channels)?;
        stats.fit(rows)?;
        check_eps(eps)?;
        let groups = Groups::new(shape.groups, 1)?;
        let (first, root, activation, marker) = (0, Root::of_mean(eps), None, PhantomData);
        let streaming = streaming && !shape.is_apart();
        Ok(Self { x, y, shape, groups, first, rows, gamma, beta, root, activation, streaming, stats, marker })
    }

    /// The same job, whose results go through a function: in f32 (in f64 for f64), before they are rounded to 16 bits.
    pub fn with_activation(self, function: Function) -> Self {
        Self { activation: Some(function), streaming: false, ..self }
    }

    /// The number of groups.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The sizes of the tensor.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements of the first group, if there is one, and if they are next to one another.
    pub fn group(&self) -> Option<&[T]> {
        let has_group = self.rows > 0 && !self.shape.is_apart();
        // SAFETY: there is such a group of x, which nothing writes while this is borrowed.
        has_group.then(|| unsafe { slice::from_raw_parts(self.x.add(self.start()), self.shape.group_len()) })
    }

    /// The job for the first `row` groups, and the job for the rest. If there are fewer groups, the first job has them
    /// all.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        let (stats, stats_b) = self.stats.split_at(row);
        let (first, rows) = (self.first + row, self.rows - row);
        (Self { rows: row, stats, ..self }, Self { first, rows, stats: stats_b, ..self })
    }

    /// Turns the job of one group, whose moments have been taken elsewhere (by several threads, say), into one that can
    /// be split. The statistics are written. The job is given back, to be run as it is, if it does not have exactly one
    /// group, if the elements of the group are not next to one another, if the moments count fewer elements, or if they
    /// leave the range in which they can be trusted.
    #[allow(clippy::result_large_err, reason = "the job is given back to be run, not to be propagated")]
    pub fn with_moments(mut self, moments: &Moments) -> Result<GroupElements<'a, T>, Self> {
        let Some(group) = self.group() else { return Err(self) };
        let len = group.len();
        if self.rows != 1 || !moments.are_of::<T>(len) {
            return Err(self);
        }
        match in_default_environment(|| trusted(moments, &self.root)) {
            Some(norm) => {
                self.stats.set(0, &norm);
                let start = self.start();
                let piece = self.piece(self.x.wrapping_add(start), self.y.wrapping_add(start), self.first, norm);
                Ok(GroupElements { piece, activation: self.activation, marker: PhantomData })
            }
            None => Err(self),
        }
    }

    /// Where the first group begins, if its elements are next to one another.
    fn start(&self) -> usize {
        self.first * self.shape.group_len()
    }

    /// A group with these statistics, of which x and y are given.
    fn piece(&self, x: *const T, y: *mut T, group: usize, norm: RowNorm<T::Float>) -> GroupPiece<'a, T> {
        let &Self { shape, gamma, beta, streaming, .. } = self;
        let cols = shape.cols();
        let of_group = |v: Option<Vector<'a, T>>| v.map(|v| v.part(group % shape.groups * cols, cols));
        let (len, pixels, gamma, beta) = (shape.group_len(), shape.pixels, of_group(gamma), of_group(beta));
        GroupPiece { x, y, is_wide: false, at: 0, len, pixels, gamma, beta, norm, streaming }
    }

    /// Runs the job, unless it has no groups, through the loops for `L`.
    // Not inlined: see `in_default_environment`.
    #[inline(never)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa, work: &mut [T]) {
        let loops = &const { GroupLoops::<T>::of::<L>() };
        let &mut Self { x, y, shape, first, rows, .. } = self;
        if rows == 0 {
            return;
        }
        let (cols, pixels, len) = (shape.cols(), shape.pixels, shape.group_len());
        if pixels == 1 && self.activation.is_none() {
            return self.run_rows::<L>(isa);
        }
        if !shape.is_apart() {
            for r in 0..rows {
                let start = (first + r) * len;
                self.run_one(isa, loops, x.wrapping_add(start), y.wrapping_add(start), r);
            }
            return;
        }
        super::backward::assert_len_at_least("work", work.len(), shape.work_len::<T>());
        let has_lanes = self.has_lanes(isa);
        // The groups before this one are moved.
        let (mut r, mut slow_to) = (0, 0);
        while r < rows {
            let (sample, group) = ((first + r) / shape.groups, (first + r) % shape.groups);
            let n = shape.together::<T>().min(rows - r).min(shape.groups - group);
            let start = sample * shape.channels * pixels + group * cols;
            if has_lanes && r >= slow_to {
                let n = self.lanes_together((rows - r).min(shape.groups - group), work.len());
                if n > 0 && self.run_lanes(isa, (r, n), start, work) {
                    r += n;
                    continue;
                }
                slow_to = r + n;
            }
            let moved = work.as_mut_ptr();
            let move_all = |tensor: *mut T, gathers| {
                shape.move_channels(isa, tensor.wrapping_add(start), moved, n * cols, gathers);
            };
            move_all(x.cast_mut(), true);
            for i in 0..n {
                let group = moved.wrapping_add(i * len);
                self.run_one(isa, loops, group.cast_const(), group, r + i);
            }
            move_all(y, false);
            r += n;
        }
    }

    /// Normalizes groups whose channels have one element each: rows with a gamma and a beta for each group.
    fn run_rows<L: Center>(&mut self, isa: Isa) {
        let &mut Self { x, y, shape, first, rows, gamma, beta, root, streaming, .. } = self;
        let len = shape.group_len();
        let [x, y] =
            [x.cast_mut(), y].map(|p| RawRows { p: p.wrapping_add(first * len), stride: len, kind: Kind::Own });
        let groups = self.groups.after(first);
        // SAFETY: both have these rows, which are the same or apart, and this job alone has those of y.
        let io = unsafe { RowIo::from_raw(x, None, y, rows, len) };
        let params = Params { gamma, beta, groups, ..Params::default() };
        let stats = self.stats.part(0, rows);
        match Forward::<T, Centered>::checked(io, params, root.eps, streaming, stats) {
            Ok(mut job) => job.run_here::<L>(isa),
            Err(error) => unreachable!("the lengths have been checked: {error}"),
        }
    }

    /// Normalizes group `r` of these, which has these elements.
    fn run_one(&mut self, isa: Isa, loops: &GroupLoops<T>, x: *const T, y: *mut T, r: usize) {
        let (len, root, group) = (self.shape.group_len(), self.root, self.first + r);
        let [from, to] = [x.cast_mut(), y].map(|p| RawRows { p, stride: len, kind: Kind::Own });
        // SAFETY: both have the elements of a group, which are the same or apart, and this job alone has those of y.
        let io = unsafe { RowIo::from_raw(from, None, to, 1, len) };
        let mut job = Job::new(true, io, Params::default(), root, false, self.stats.part(r, 1));
        job.isa = isa;
        let (mut norm, mut exact) = (RowNorm::NAN, None);
        match mixed::know_row(&mut job, isa, &loops.rows, 0) {
            Known::Norm(known) => norm = known,
            known @ Known::Exact(_) => exact = Some(known),
        }
        let mut piece = self.piece(x, y, group, norm);
        run_piece(isa, loops, &mut piece, self.activation, exact.as_ref());
    }
}

/// The job of normalizing some elements of a group whose statistics are known.
#[derive(Debug)]
pub struct GroupElements<'a, T: Storage> {
    piece: GroupPiece<'a, T>,
    activation: Option<Function>,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: as for GroupNorm.
unsafe impl<T: Storage> Send for GroupElements<'_, T> {}

impl<T: Storage> GroupElements<'_, T> {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.piece.len
    }

    /// The job for the first `at` elements, and the job for the rest. If there are fewer elements, the first job has
    /// them all.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.piece.len);
        (
            Self { piece: part(&self.piece, 0, at), ..self },
            Self { piece: part(&self.piece, at, self.piece.len - at), ..self },
        )
    }

    /// Runs the job through the loops for `L`.
    pub(crate) fn run_here<L: Center>(mut self, isa: Isa) {
        run_piece(isa, &const { GroupLoops::<T>::of::<L>() }, &mut self.piece, self.activation, None);
    }
}

/// The loops of one type, by pointers, so that this module is compiled once for all kinds of rows.
struct GroupLoops<T: Storage> {
    rows: Loops<T>,
    group: fn(&mut GroupPiece<'_, T>, Isa),
}

impl<T: Storage> GroupLoops<T> {
    const fn of<L: Center>() -> Self {
        Self { rows: Loops::of::<L>(), group: run_group::<T, L> }
    }
}

/// `len` elements of a piece from `from` on.
fn part<'a, T: Storage>(piece: &GroupPiece<'a, T>, from: usize, len: usize) -> GroupPiece<'a, T> {
    let &GroupPiece { x, y, at, .. } = piece;
    GroupPiece { x: x.wrapping_add(from), y: y.wrapping_add(from), at: at + from, len, ..*piece }
}

/// The statistics for normalizing a group with these moments, if the moments can be trusted.
#[inline(never)]
fn trusted<F: crate::simd::Float>(moments: &Moments, root: &Root) -> Option<RowNorm<F>> {
    RowNorm::trusted(pulp::Scalar, moments, root)
}

/// Normalizes the elements of a piece, with the statistics `exact` or else with its own.
fn run_piece<T: Storage>(
    isa: Isa,
    loops: &GroupLoops<T>,
    piece: &mut GroupPiece<'_, T>,
    activation: Option<Function>,
    exact: Option<&Known<T::Float>>,
) {
    let is_known = exact.is_none() && piece.pixels > 1;
    let Some(function) = activation else {
        if is_known {
            stack::within_a_page(piece, isa, loops.group);
        } else {
            write_out(isa, loops, piece, exact);
        }
        return;
    };
    let mut room = Room::<PIECE>::NEW;
    for from in (0..piece.len).step_by(PIECE) {
        let mut part = part(piece, from, PIECE.min(piece.len - from));
        let (y, n) = (part.y, part.len);
        if T::ROUNDS {
            (part.y, part.is_wide) = (room.as_mut_ptr().cast(), true);
        }
        if is_known {
            (loops.group)(&mut part, isa);
        } else {
            write_out(isa, loops, &part, exact);
        }
        // What is computed in f64 is y itself, and so is what is not rounded.
        let v = part.y;
        if size_of::<T::Float>() == size_of::<f64>() {
            isa.run(Activate::<f64> { v: v.cast(), n, function });
        } else {
            isa.run(Activate::<f32> { v: v.cast(), n, function });
        }
        if T::ROUNDS {
            let [wide, y] = [(v, Kind::F32), (y, Kind::Own)].map(|(p, kind)| RawRows { p, stride: n, kind });
            // SAFETY: the room and y have these elements.
            unsafe { mixed::write(isa, y, wide, 1, n) };
        }
    }
}

/// Normalizes a piece with gammas and betas that are written out for all elements.
#[inline(never)]
fn write_out<T: Storage>(isa: Isa, loops: &GroupLoops<T>, piece: &GroupPiece<'_, T>, exact: Option<&Known<T::Float>>) {
    let [mut gammas, mut betas] = [[T::Float::default(); PIECE]; 2];
    let known = Known::Norm(piece.norm);
    let known = exact.unwrap_or(&known);
    for from in (0..piece.len).step_by(PIECE) {
        let part = part(piece, from, PIECE.min(piece.len - from));
        let mut done = 0;
        while done < part.len {
            let (channel, pixel) = ((part.at + done) / part.pixels, (part.at + done) % part.pixels);
            let n = (part.pixels - pixel).min(part.len - done);
            let [mut gamma, mut beta] = [[T::Float::default()]; 2];
            part.gammas_betas(channel, [&mut gamma, &mut beta]);
            gammas[done..done + n].fill(gamma[0]);
            betas[done..done + n].fill(beta[0]);
            done += n;
        }
        let kind = if T::ROUNDS { Kind::F32 } else { Kind::Own };
        // SAFETY: the rooms have as many elements, of the float of the rows, and are borrowed for as long as the
        // vectors are used. x and y have these elements.
        unsafe {
            let [gamma, beta] = [&gammas, &betas].map(|v| Some(Vector::from_raw(v.as_ptr().cast(), part.len, kind)));
            let params = Params { gamma, beta, ..Params::default() }.with_harmless_offset();
            let y_kind = if part.is_wide { Kind::F32 } else { Kind::Own };
            let [x, y] = [(part.x.cast_mut(), Kind::Own), (part.y, y_kind)].map(|(p, kind)| RawRows {
                p,
                stride: part.len,
                kind,
            });
            let row = RowIo::from_raw(x, None, y, 1, part.len);
            mixed::finish(isa, true, row, params, false, known, Some(&loops.rows));
        }
    }
}
