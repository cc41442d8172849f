//! Compiles the loops of each operation for each type of elements. No other crate compiles them again.

use half::{bf16, f16};

use crate::element::{Addend, Storage};
use crate::error::Error;
use crate::isa::{Isa, Tier};
use crate::mean::{Center, Centered, Either, Uncentered};
use crate::ops::backward::{Backward, Merge, Parts, merge_sums};
use crate::ops::channels::{ChannelsBackward, ChannelsFirst};
use crate::ops::forward::{Forward, ForwardRow, Normalize};
use crate::ops::gate::{Gated, GatedBackward};
use crate::ops::group_norm::{GroupBackward, GroupElements, GroupNorm, Runs};
use crate::ops::moments::RowMoments;
use crate::ops::quantize::Quantize;
use crate::scheme::Range;
use crate::simd::in_default_environment;
use crate::stats::Moments;

/// A type of elements: f32, f64, f16 or bf16.
pub trait Element: Storage + Compiled<Centered> + Compiled<Uncentered> + NormalizesGroups {}

impl<T: Storage + Compiled<Centered> + Compiled<Uncentered> + NormalizesGroups> Element for T {}

/// The compiled code for a type of elements and a kind of normalization.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "rows cannot have elements of `{Self}`",
    label = "expected f32, f64, f16 or bf16",
    note = "numbers of 16 bits that are kept as `u16` can be cast: `bytemuck::cast_slice::<u16, bf16>`"
)]
pub trait Compiled<M: Center>: Storage {
    fn forward(job: &mut Forward<'_, Self, M>, isa: Isa)
    where
        Self: Element;
    fn forward_row(job: &mut ForwardRow<'_, Self, M>, isa: Isa)
    where
        Self: Element;
    fn normalize(job: Normalize<'_, Self, M>, isa: Isa)
    where
        Self: Element;
    fn moments(row: RowMoments<'_, Self>, isa: Isa) -> Moments
    where
        Self: Element;
    fn backward(job: &mut Backward<'_, Self, M>, partials: &mut [Self::Float], work: &mut [Self::Float], isa: Isa)
    where
        Self: Element;
    fn merge(merge: Merge<'_, Self::Float>, isa: Isa)
    where
        Self: Element;
    fn channels(job: &mut ChannelsFirst<'_, Self, M>, work: &mut [Self], isa: Isa)
    where
        Self: Element;
    fn channels_backward(
        job: &mut ChannelsBackward<'_, Self, M>,
        partials: &mut [Self::Float],
        work: &mut [Self::Float],
        isa: Isa,
    ) where
        Self: Element;
}

/// The compiled code of group normalization for a type of elements.
#[doc(hidden)]
pub trait NormalizesGroups: Storage {
    fn groups(job: &mut GroupNorm<'_, Self>, work: &mut [Self], isa: Isa)
    where
        Self: Element;
    fn group_elements(job: GroupElements<'_, Self>, isa: Isa)
    where
        Self: Element;
    fn group_backward(job: &mut GroupBackward<'_, Self>, work: &mut [Self::Float], isa: Isa)
    where
        Self: Element;
}

impl<T: Element + Compiled<M>, M: Center> Forward<'_, T, M> {
    /// Does the job on one tier, on the calling thread. Nothing happens, and no statistics are written, if there are no
    /// columns.
    ///
    /// The job is borrowed, and should not be moved just before: a copy loads in wider pieces than the fields have just
    /// been stored in, which stalls for as long as a short row takes. A job that is run again reads x again. Where y or
    /// the sum lies over an input, the second run reads what the first has written.
    #[inline]
    pub fn run_on(&mut self, isa: Isa) {
        if self.rows().rows() > 0 && self.rows().cols() > 0 {
            T::forward(self, isa);
        }
    }

    /// Normalizes rows whose moments are known, on the calling thread: `moments` has an element for each row. The rows
    /// may be some columns of longer rows, with the moments of the longer rows. Moments that cannot be trusted must
    /// come from the slow path (see [`Moments::rescale`]).
    ///
    /// # Errors
    /// If there are more or fewer moments than rows, if the rows are sums, or if there are columns and some moments
    /// cannot belong to a row (see [`Moments::are_of`]). Nothing has been written then.
    pub fn run_with(self, isa: Isa, moments: &[Moments]) -> Result<(), Error> {
        let (rows, cols) = (self.rows().rows(), self.rows().cols());
        Error::length("moments", moments.len(), rows)?;
        if self.rows().is_sum() {
            return Err(Error::UntakenSum { what: "moments" });
        }
        if cols > 0 {
            Moments::check_all::<T>(moments, cols)?;
            in_default_environment(|| self.run_rows_with(isa, moments));
        }
        Ok(())
    }

    #[inline(never)]
    fn run_rows_with(mut self, isa: Isa, moments: &[Moments]) {
        for moments in moments {
            let (row, rest) = self.split_at(1);
            match row.with_moments(moments) {
                Ok(row) => row.run_on(isa),
                Err(mut row) => row.finish(isa, moments),
            }
            self = rest;
        }
    }
}

impl<T: Element + Compiled<M>, M: Center> ForwardRow<'_, T, M> {
    /// Does the job on one tier, on the calling thread.
    #[inline(always)]
    pub fn run_on(&mut self, isa: Isa) {
        T::forward_row(self, isa);
    }
}

impl<T: Element + Compiled<M>, M: Center> Normalize<'_, T, M> {
    /// Does the job on one tier, on the calling thread.
    pub fn run_on(self, isa: Isa) {
        if self.cols() > 0 {
            T::normalize(self, isa);
        }
    }
}

impl<T: Element> RowMoments<'_, T> {
    /// Does the job on one tier, on the calling thread.
    #[inline(never)]
    pub fn run_on(self, isa: Isa) -> Moments {
        if self.x.is_empty() {
            return Moments::EMPTY;
        }
        if let Some(scale) = self.scale {
            return in_default_environment(|| self.run_exactly(isa, scale));
        }
        if self.centered {
            <T as Compiled<Centered>>::moments(self, isa)
        } else {
            <T as Compiled<Uncentered>>::moments(self, isa)
        }
    }
}

impl<T: Element + Compiled<M>, M: Center> Backward<'_, T, M> {
    /// Does the job on one tier, on the calling thread: writes dx, and the sums of its parts to `partials`.
    /// [`Parts::merge`] merges the sums when all parts have written theirs. Each part and the merge may take another
    /// tier.
    ///
    /// # Panics
    /// If `partials` does not have [`Parts::partial_len`] elements for each part (it is not used, and may be empty, if
    /// no sums are wanted), or if `work` has fewer than [`Parts::work_len`].
    pub fn run_on(&mut self, isa: Isa, partials: &mut [T::Float], work: &mut [T::Float]) {
        if !self.is_empty(partials, work) {
            T::backward(self, partials, work, isa);
        }
    }
}

impl<T: Element + Compiled<M>, M: Center> ChannelsFirst<'_, T, M> {
    /// Does the job on one tier, on the calling thread.
    ///
    /// # Panics
    /// If `work` has fewer than [`work_len`](Self::work_len) elements.
    pub fn run_on(&mut self, isa: Isa, work: &mut [T]) {
        T::channels(self, work, isa);
    }
}

impl<T: Element + Compiled<M>, M: Center> ChannelsBackward<'_, T, M> {
    /// Does the job on one tier, on the calling thread, as [`Backward::run_on`] does.
    ///
    /// # Panics
    /// If `partials` does not have [`Parts::partial_len`] elements for each part (it is not used, and may be empty, if
    /// no sums are wanted), or if `work` has fewer than [`Parts::channels_work_len`].
    pub fn run_on(&mut self, isa: Isa, partials: &mut [T::Float], work: &mut [T::Float]) {
        T::channels_backward(self, partials, work, isa);
    }
}

impl<T: Element> GroupNorm<'_, T> {
    /// Does the job on one tier, on the calling thread.
    ///
    /// # Panics
    /// If `work` has fewer than [`Shape::work_len`](crate::ops::group_norm::Shape::work_len) elements, which is 0 where
    /// channels come first.
    pub fn run_on(&mut self, isa: Isa, work: &mut [T]) {
        T::groups(self, work, isa);
    }
}

impl<T: Element> GroupElements<'_, T> {
    /// Does the job on one tier, on the calling thread.
    pub fn run_on(self, isa: Isa) {
        T::group_elements(self, isa);
    }
}

impl<T: Element> GroupBackward<'_, T> {
    /// Does the job on one tier, on the calling thread.
    ///
    /// # Panics
    /// If `work` has fewer than [`work_len`](Self::work_len) elements.
    pub fn run_on(&mut self, isa: Isa, work: &mut [T::Float]) {
        T::group_backward(self, work, isa);
    }
}

impl Parts {
    /// Merges the sums of all parts into dgamma and dbeta; either may be absent. The parts may have been run on any
    /// tiers.
    ///
    /// # Panics
    /// If `partials` does not have [`Parts::partial_len`] elements for each part, if dgamma or dbeta does not have as
    /// many elements as there are columns, or if there is a dbeta in RMS normalization.
    pub fn merge<T: Element + Compiled<M>, M: Center>(
        &self,
        isa: Isa,
        partials: &[T::Float],
        dgamma: Option<&mut [T::Float]>,
        dbeta: Option<&mut [T::Float]>,
    ) {
        merge_sums::<T>(isa, self, partials, dgamma, dbeta, M::CENTERED, <T as Compiled<M>>::merge);
    }
}

/// A type of elements that are computed in f32, and so can be quantized: f32, f16 or bf16.
#[diagnostic::on_unimplemented(
    message = "rows of `{Self}` are not quantized",
    label = "expected rows, or sums of them, of f32, f16 or bf16"
)]
pub trait Quantizable: Element + Storage<Float = f32> + Quantizes<Centered> + Quantizes<Uncentered> {}

impl<T: Element + Storage<Float = f32> + Quantizes<Centered> + Quantizes<Uncentered>> Quantizable for T {}

/// The compiled code of quantizing jobs for a type of elements and a kind of normalization.
#[doc(hidden)]
#[diagnostic::on_unimplemented(message = "rows of `{Self}` cannot be quantized", label = "expected f32, f16 or bf16")]
pub trait Quantizes<M: Center>: Storage<Float = f32> {
    fn quantize(job: &mut Quantize<'_, Self, M>, isa: Isa, known: Option<Range>);
    fn range(job: &mut Quantize<'_, Self, M>, isa: Isa) -> Range;
}

impl<T: Quantizes<M>, M: Center> Quantize<'_, T, M> {
    /// Does the job on one tier, on the calling thread. Without rows or columns, scales and zero points are those of
    /// zeros.
    pub fn run_on(&mut self, isa: Isa) {
        if self.is_empty() {
            return in_default_environment(|| self.write_scales_of_zeros());
        }
        if self.needs_range() {
            let range = T::range(self, isa);
            self.reborrow().summed().run_with(isa, range);
        } else {
            T::quantize(self, isa, None);
        }
    }

    /// Where all rows share a scale: the range of these rows, which are normalized for it. Their sums are taken and
    /// their statistics written, but nothing is quantized. [`Range::merge`] merges the ranges of all parts of a call,
    /// and [`run_with`](Self::run_with) does the rest for each of them, as jobs that are [`summed`](Self::summed).
    pub fn range_on(&mut self, isa: Isa) -> Range {
        if self.is_empty() { Range::EMPTY } else { T::range(self, isa) }
    }

    /// Does the job where all rows share a scale, for elements in `range`.
    pub fn run_with(&mut self, isa: Isa, range: Range) {
        if !self.is_empty() {
            T::quantize(self, isa, Some(range));
        }
    }

    fn is_empty(&self) -> bool {
        self.rows().rows() == 0 || self.rows().cols() == 0
    }
}

/// A type of elements that are computed in f32, and so can have a gate: f32, f16 or bf16.
#[diagnostic::on_unimplemented(message = "rows of `{Self}` have no gate", label = "expected rows of f32, f16 or bf16")]
pub trait Gateable: Element + Storage<Float = f32> + Addend<f32> + Gates<Centered> + Gates<Uncentered> {}

impl<T: Element + Storage<Float = f32> + Addend<f32> + Gates<Centered> + Gates<Uncentered>> Gateable for T {}

/// The compiled code of jobs with a gate for a type of elements and a kind of normalization.
#[doc(hidden)]
pub trait Gates<M: Center>: Storage<Float = f32> {
    fn gate(job: &mut Gated<'_, Self, M>, isa: Isa);
}

impl<T: Gates<M>, M: Center> Gated<'_, T, M> {
    /// Does the job on one tier, on the calling thread. Nothing happens, and no statistics are written, if there are no
    /// columns.
    pub fn run_on(&mut self, isa: Isa) {
        if self.rows().rows() > 0 && self.rows().cols() > 0 {
            T::gate(self, isa);
        }
    }
}

/// The compiled code of the gradients of gated rows, for a kind of normalization.
#[doc(hidden)]
pub trait GateGradients: Center {
    fn gate_backward(job: &mut GatedBackward<'_, Self>, partials: &mut [f32], work: &mut [f32], isa: Isa)
    where
        Self: Sized;
}

impl<M: GateGradients> GatedBackward<'_, M> {
    /// Does the job on one tier, on the calling thread: writes dx and dz, and the sums of its parts to `partials`.
    /// [`Parts::merge`] for f32 merges the sums when all parts have written theirs.
    ///
    /// # Panics
    /// If `partials` does not have [`Parts::partial_len`] elements of f32 for each part (it is not used, and may be
    /// empty, if no sums are wanted), or if `work` has fewer than [`Parts::gate_work_len`].
    pub fn run_on(&mut self, isa: Isa, partials: &mut [f32], work: &mut [f32]) {
        M::gate_backward(self, partials, work, isa);
    }
}

macro_rules! gate_gradients {
    ($($center:ty),*) => {$(
        impl GateGradients for $center {
            fn gate_backward(job: &mut GatedBackward<'_, Self>, partials: &mut [f32], work: &mut [f32], isa: Isa) {
                let runs = (<f32 as Compiled<$center>>::forward as _, <f32 as Compiled<$center>>::backward as _);
                in_default_environment(|| job.run_here(isa, runs, partials, work));
            }
        }
    )*};
}

gate_gradients!(Centered, Uncentered);

/// Calls a method with the loops that a job goes through: `$loops`, or on the portable tier the loops of layer
/// normalization, which that tier has for both normalizations.
macro_rules! pick_loops {
    ($loops:ty, $isa:ident, $job:ident.$run:ident($($arg:ident),*)) => {
        if $isa.tier() == Tier::Scalar {
            $job.$run::<<$loops as Portable>::Loops>($($arg),*)
        } else {
            $job.$run::<$loops>($($arg),*)
        }
    };
}

/// The loops of the portable tier.
trait Portable {
    type Loops: Center;
}

impl Portable for Centered {
    type Loops = Self;
}

impl Portable for Uncentered {
    type Loops = Centered;
}

impl Portable for Either {
    type Loops = Self;
}

macro_rules! compiled {
    ($($t:ty, $center:ty => $loops:ty;)*) => {$(
        impl Compiled<$center> for $t {
            fn forward(job: &mut Forward<'_, Self, $center>, isa: Isa) {
                in_default_environment(|| pick_loops!($loops, isa, job.run_here(isa)));
            }

            fn forward_row(job: &mut ForwardRow<'_, Self, $center>, isa: Isa) {
                in_default_environment(|| {
                    if !job.run_single(isa) {
                        pick_loops!($loops, isa, job.run_here(isa));
                    }
                });
            }

            fn normalize(job: Normalize<'_, Self, $center>, isa: Isa) {
                in_default_environment(|| pick_loops!($loops, isa, job.run_here(isa)));
            }

            fn moments(row: RowMoments<'_, Self>, isa: Isa) -> Moments {
                in_default_environment(|| pick_loops!($loops, isa, row.run_here(isa)))
            }

            fn backward(
                job: &mut Backward<'_, Self, $center>,
                partials: &mut [<Self as Storage>::Float],
                work: &mut [<Self as Storage>::Float],
                isa: Isa,
            ) {
                in_default_environment(|| pick_loops!($loops, isa, job.run_here(isa, partials, work)));
            }

            fn merge(merge: Merge<'_, <Self as Storage>::Float>, isa: Isa) {
                in_default_environment(|| merge.run_on(isa));
            }

            fn channels(job: &mut ChannelsFirst<'_, Self, $center>, work: &mut [Self], isa: Isa) {
                in_default_environment(|| job.run_here(isa, <Self as Compiled<$center>>::forward, work));
            }

            fn channels_backward(
                job: &mut ChannelsBackward<'_, Self, $center>,
                partials: &mut [<Self as Storage>::Float],
                work: &mut [<Self as Storage>::Float],
                isa: Isa,
            ) {
                in_default_environment(|| {
                    job.run_here(isa, <Self as Compiled<$center>>::backward, partials, work);
                });
            }
        }
    )*};
}

// f64 has one set of loops for both normalizations: its speed matters less than the size of its code.
compiled! {
    f32, Centered => Centered;
    f32, Uncentered => Uncentered;
    f64, Centered => Either;
    f64, Uncentered => Either;
    f16, Centered => Centered;
    f16, Uncentered => Uncentered;
    bf16, Centered => Centered;
    bf16, Uncentered => Uncentered;
}

macro_rules! normalizes_groups {
    ($($t:ty => $loops:ty;)*) => {$(
        impl NormalizesGroups for $t {
            fn groups(job: &mut GroupNorm<'_, Self>, work: &mut [Self], isa: Isa) {
                in_default_environment(|| job.run_here::<$loops>(isa, work));
            }

            fn group_elements(job: GroupElements<'_, Self>, isa: Isa) {
                in_default_environment(|| job.run_here::<$loops>(isa));
            }

            fn group_backward(job: &mut GroupBackward<'_, Self>, work: &mut [<Self as Storage>::Float], isa: Isa) {
                let runs = &const {
                    Runs::<Self> {
                        backward: <Self as Compiled<Centered>>::backward,
                        merge: <Self as Compiled<Centered>>::merge,
                        wide: <<Self as Storage>::Float as Compiled<Centered>>::backward,
                        forward: <<Self as Storage>::Float as Compiled<Centered>>::forward,
                    }
                };
                in_default_environment(|| job.run_here(isa, runs, work));
            }
        }
    )*};
}

normalizes_groups! {
    f32 => Centered;
    f64 => Either;
    f16 => Centered;
    bf16 => Centered;
}

/// What is compiled for types that are computed in f32.
macro_rules! computed_in_f32 {
    ($($t:ty, $center:ty;)*) => {$(
        impl Quantizes<$center> for $t {
            fn quantize(job: &mut Quantize<'_, Self, $center>, isa: Isa, known: Option<Range>) {
                in_default_environment(|| pick_loops!($center, isa, job.run_here(isa, known)));
            }

            fn range(job: &mut Quantize<'_, Self, $center>, isa: Isa) -> Range {
                in_default_environment(|| pick_loops!($center, isa, job.range_here(isa)))
            }
        }

        impl Gates<$center> for $t {
            fn gate(job: &mut Gated<'_, Self, $center>, isa: Isa) {
                in_default_environment(|| pick_loops!($center, isa, job.run_here(isa)));
            }
        }
    )*};
}

computed_in_f32! {
    f32, Centered;
    f32, Uncentered;
    f16, Centered;
    f16, Uncentered;
    bf16, Centered;
    bf16, Uncentered;
}
