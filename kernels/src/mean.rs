//! Whether rows have a mean.

use core::fmt::Debug;
use core::marker::PhantomData;

use crate::simd::Lanes;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Centered {}
    impl Sealed for super::Uncentered {}
    impl Sealed for super::Either {}
}

/// Whether a normalization subtracts the mean of a row: [`Centered`] or [`Uncentered`].
pub trait Center: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// Whether the normalization subtracts the mean. For loops: whether they can subtract one.
    #[doc(hidden)]
    const CENTERED: bool;

    /// Whether loops take rows of both kinds, on every tier.
    #[doc(hidden)]
    const TAKES_BOTH: bool = false;
}

/// The mean is subtracted: layer normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Centered;

/// Nothing is subtracted: RMS normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncentered;

/// Loops for rows of both kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Either;

impl Center for Centered {
    const CENTERED: bool = true;
}

impl Center for Uncentered {
    const CENTERED: bool = false;
}

impl Center for Either {
    const CENTERED: bool = true;
    const TAKES_BOTH: bool = true;
}

/// Whether the rows of a job have a mean, for the loops that `M` names.
///
/// Where little code is worth more than speed, the loops of layer normalization take the rows of RMS normalization too,
/// with a mean of 0. The loops of [`Either`] do so on every tier, and the loops of [`Centered`] on the portable one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mean<M> {
    is_wanted: bool,
    loops: PhantomData<M>,
}

impl<M: Center> Mean<M> {
    /// For a job whose rows have a mean if `is_wanted`.
    #[inline(always)]
    pub(crate) const fn new(is_wanted: bool) -> Self {
        Self { is_wanted, loops: PhantomData }
    }

    /// This value for one tier. Where [`is_taken`](Self::is_taken) is a constant there, the compiler knows it.
    #[inline(always)]
    pub(crate) const fn on<S: Lanes>(self) -> Self {
        Self::new(self.is_taken::<S>())
    }

    /// Whether a mean is taken. A constant unless the loops take both kinds of rows on this tier.
    #[inline(always)]
    pub(crate) const fn is_taken<S: Lanes>(self) -> bool {
        M::CENTERED && (self.is_wanted || S::SPECIALIZES && !M::TAKES_BOTH)
    }

    /// Whether the mean is subtracted, as 0 if there is none. On SIMD tiers subtracting takes no longer than a look at
    /// whether it is needed.
    #[inline(always)]
    pub(crate) const fn is_computed<S: Lanes>(self) -> bool {
        M::CENTERED && (self.is_wanted || S::SPECIALIZES)
    }
}
