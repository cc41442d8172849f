//! What a call takes in: types that say what is normalized, where y goes, and which types go together.

use std::marker::PhantomData;

use lanenorm_kernels::Element;
use lanenorm_kernels::element::{Addend, Companion};
use lanenorm_kernels::rows::{OneRow, RowIo, Vector};
use lanenorm_kernels::stats::Moments;

use crate::Error;
use crate::plan::Plan;
use crate::rows::{Rows, RowsMut};
use crate::runs::Buffers;

/// Rows are normalized as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// What is normalized is a sum of x and a residual: [`Dropped`], [`Kept`] or written [`Over`] the residual.
#[derive(Debug)]
pub struct Sum<'a, T, R, S = ()> {
    pub(crate) residual: R,
    pub(crate) s: S,
    pub(crate) bias: Option<&'a [T]>,
}

/// A [`Sum`] of which nothing is kept.
pub type Dropped<'a, T> = Sum<'a, T, Rows<'a, T>>;

impl<'a, T> Dropped<'a, T> {
    /// The same, kept.
    #[inline(always)]
    pub(crate) fn kept_in(self, s: RowsMut<'a, T>) -> Kept<'a, T> {
        let Self { residual, bias, .. } = self;
        Sum { residual, s, bias }
    }
}

/// A [`Sum`] that goes to rows of its own.
pub type Kept<'a, T> = Sum<'a, T, Rows<'a, T>, RowsMut<'a, T>>;

/// A [`Sum`] that is written over the residual.
pub type Over<'a, T> = Sum<'a, T, RowsMut<'a, T>>;

/// The moments of rows are given.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a>(pub(crate) &'a [Moments]);

/// y is apart from x.
#[derive(Clone, Copy, Debug)]
pub struct Apart;

/// y is written over x.
#[derive(Clone, Copy, Debug)]
pub struct InPlace;

/// gamma and beta have not been given, and may have any type that fits x.
#[derive(Clone, Copy, Debug)]
pub struct AnyType;

/// gamma or beta has been given with elements of this type.
#[derive(Debug)]
pub struct Of<G>(PhantomData<G>);

/// [`Apart`] or [`InPlace`].
pub trait Place: sealed::Sealed {
    /// How x is borrowed.
    #[doc(hidden)]
    type Rows<'a, T: Element>: std::fmt::Debug;
}

impl Place for Apart {
    type Rows<'a, T: Element> = Rows<'a, T>;
}

impl Place for InPlace {
    type Rows<'a, T: Element> = RowsMut<'a, T>;
}

/// That parameters may have elements of type `G`: gamma and beta have one type.
pub trait Allows<G>: sealed::Sealed {}

impl<G> Allows<G> for AnyType {}
impl<G> Allows<G> for Of<G> {}

/// What is normalized, where x has elements of type `T`: rows of x as they are, or sums, to whose type x can be added.
pub trait Normalizes<'a, T: Element>: sealed::Input<'a> {
    /// The type of the rows that are normalized: of x, or of the sum.
    type Of: Element<Float = T::Float>;

    #[doc(hidden)]
    const IS_SUM: bool;

    #[doc(hidden)]
    fn bias(&self) -> Option<&'a [Self::Of]>;

    /// gamma or beta, beside these rows.
    #[doc(hidden)]
    fn beside(v: Vector<'a, T>) -> Vector<'a, Self::Of>;
}

/// That what is normalized may have a y of type `Y`.
#[diagnostic::on_unimplemented(message = "y cannot have elements of `{Y}` here", label = "y has elements of `{Y}`")]
pub trait Gives<'a, T: Element, Y>: Normalizes<'a, T> {
    #[doc(hidden)]
    fn rows(self, on: sealed::On<'_>, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> Result<RowIo<'a, Self::Of>, Error>;

    /// The row, if one contiguous row of x is all that is normalized, by its own moments, into its own type.
    #[doc(hidden)]
    #[inline(always)]
    fn one_row<'r>(&self, _x: &'r Rows<'a, T>, _y: &'r mut RowsMut<'a, Y>) -> Option<OneRow<'r, Self::Of>> {
        None
    }

    /// The same rows, if a buffer is a grid.
    #[doc(hidden)]
    fn runs(self, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> sealed::InRuns<'a, Self::Of>;
}

/// That what is normalized may be normalized where x lies.
pub trait GivesInPlace<'a, T: Element>: Normalizes<'a, T, Of = T> {
    #[doc(hidden)]
    fn rows_in_place(self, on: sealed::On<'_>, x: RowsMut<'a, T>) -> Result<RowIo<'a, T>, Error>;

    /// The row, if one contiguous row of x is all that is normalized, by its own moments.
    #[doc(hidden)]
    #[inline(always)]
    fn one_row_in_place<'r>(&self, _x: &'r mut RowsMut<'a, T>) -> Option<OneRow<'r, T>> {
        None
    }

    /// The same rows, if a buffer is a grid.
    #[doc(hidden)]
    fn runs_in_place(self, x: RowsMut<'a, T>) -> sealed::InRuns<'a, T>;
}

pub(crate) mod sealed {
    use super::{AnyType, Apart, Buffers, InPlace, Known, Moments, Of, Plain, Plan, Rows, RowsMut, Sum};

    pub trait Sealed {}

    impl Sealed for Apart {}
    impl Sealed for InPlace {}
    impl Sealed for AnyType {}
    impl<G> Sealed for Of<G> {}

    /// The plan of a call.
    #[derive(Clone, Copy, Debug)]
    pub struct On<'p>(pub(crate) &'p Plan);

    /// The buffers of a call, of which one is a grid.
    #[derive(Debug)]
    pub struct InRuns<'a, T>(pub(crate) Buffers<'a, T>);

    /// What is normalized.
    pub trait Input<'a> {
        /// Whether it has a buffer beside x and y that is a grid.
        fn has_grid(&self) -> bool {
            false
        }

        fn moments(&self) -> Option<&'a [Moments]> {
            None
        }
    }

    /// What has x itself normalized.
    pub trait OfX<'a>: Input<'a> {}

    impl Input<'_> for Plain {}
    impl OfX<'_> for Plain {}
    impl<'a> OfX<'a> for Known<'a> {}

    impl<'a> Input<'a> for Known<'a> {
        #[inline(always)]
        fn moments(&self) -> Option<&'a [Moments]> {
            Some(self.0)
        }
    }

    impl<T, R: MayBeGrid, S: MayBeGrid> Input<'_> for Sum<'_, T, R, S> {
        #[inline(always)]
        fn has_grid(&self) -> bool {
            self.residual.is_grid() || self.s.is_grid()
        }
    }

    /// A buffer, or none.
    pub trait MayBeGrid {
        fn is_grid(&self) -> bool;
    }

    impl<T> MayBeGrid for Rows<'_, T> {
        #[inline(always)]
        fn is_grid(&self) -> bool {
            self.layout.is_grid()
        }
    }

    impl<T> MayBeGrid for RowsMut<'_, T> {
        #[inline(always)]
        fn is_grid(&self) -> bool {
            self.layout.is_grid()
        }
    }

    impl MayBeGrid for () {
        #[inline(always)]
        fn is_grid(&self) -> bool {
            false
        }
    }
}

impl<'a, T: Element, I: sealed::OfX<'a>> Normalizes<'a, T> for I {
    type Of = T;

    const IS_SUM: bool = false;

    #[inline(always)]
    fn bias(&self) -> Option<&'a [T]> {
        None
    }

    #[inline(always)]
    fn beside(v: Vector<'a, T>) -> Vector<'a, T> {
        v
    }
}

impl<'a, T, B: Element, R: sealed::MayBeGrid, S: sealed::MayBeGrid> Normalizes<'a, T> for Sum<'a, B, R, S>
where
    T: Element<Float = B::Float> + Addend<B>,
{
    type Of = B;

    const IS_SUM: bool = true;

    #[inline(always)]
    fn bias(&self) -> Option<&'a [B]> {
        self.bias
    }

    #[inline(always)]
    fn beside(v: Vector<'a, T>) -> Vector<'a, B> {
        v.beside()
    }
}

impl<'a, T: Element, Y: Companion<T>, I: sealed::OfX<'a>> Gives<'a, T, Y> for I {
    #[inline(always)]
    fn rows(self, on: sealed::On<'_>, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> Result<RowIo<'a, T>, Error> {
        on.0.rows(x, y)
    }

    #[inline(always)]
    fn one_row<'r>(&self, x: &'r Rows<'a, T>, y: &'r mut RowsMut<'a, Y>) -> Option<OneRow<'r, T>> {
        let is_one = x.layout.is_contiguous() && y.layout.is_contiguous() && self.moments().is_none();
        if is_one { OneRow::new(x.data, &mut *y.data) } else { None }
    }

    fn runs(self, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> sealed::InRuns<'a, T> {
        sealed::InRuns(Buffers::plain(x, y))
    }
}

impl<'a, T: Element<Float = R::Float> + Addend<R>, R: Element> Gives<'a, T, R> for Dropped<'a, R> {
    #[inline(always)]
    fn rows(self, on: sealed::On<'_>, x: Rows<'a, T>, y: RowsMut<'a, R>) -> Result<RowIo<'a, R>, Error> {
        on.0.rows_of_dropped_sum(x, self.residual, self.bias, y)
    }

    fn runs(self, x: Rows<'a, T>, y: RowsMut<'a, R>) -> sealed::InRuns<'a, R> {
        sealed::InRuns(Buffers::dropped(x, self.residual, y))
    }
}

impl<'a, T, R: Element, Y: Companion<R>> Gives<'a, T, Y> for Kept<'a, R>
where
    T: Element<Float = R::Float> + Addend<R>,
{
    #[inline(always)]
    fn rows(self, on: sealed::On<'_>, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> Result<RowIo<'a, R>, Error> {
        on.0.rows_of_sum(x, self.residual, self.bias, self.s, y)
    }

    fn runs(self, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> sealed::InRuns<'a, R> {
        sealed::InRuns(Buffers::kept(x, self.residual, self.s, y))
    }
}

impl<'a, T, R: Element, Y: Companion<R>> Gives<'a, T, Y> for Over<'a, R>
where
    T: Element<Float = R::Float> + Addend<R>,
{
    #[inline(always)]
    fn rows(self, on: sealed::On<'_>, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> Result<RowIo<'a, R>, Error> {
        on.0.rows_of_sum_in_place(x, self.residual, self.bias, y)
    }

    fn runs(self, x: Rows<'a, T>, y: RowsMut<'a, Y>) -> sealed::InRuns<'a, R> {
        sealed::InRuns(Buffers::over(x, self.residual, y))
    }
}

impl<'a, T: Element, I: sealed::OfX<'a>> GivesInPlace<'a, T> for I {
    #[inline(always)]
    fn rows_in_place(self, on: sealed::On<'_>, x: RowsMut<'a, T>) -> Result<RowIo<'a, T>, Error> {
        on.0.rows_in_place(x)
    }

    #[inline(always)]
    fn one_row_in_place<'r>(&self, x: &'r mut RowsMut<'a, T>) -> Option<OneRow<'r, T>> {
        let is_one = x.layout.is_contiguous() && self.moments().is_none();
        if is_one { OneRow::in_place(&mut *x.data) } else { None }
    }

    fn runs_in_place(self, x: RowsMut<'a, T>) -> sealed::InRuns<'a, T> {
        sealed::InRuns(Buffers::in_place(x))
    }
}

impl<'a, T: Element, R: Addend<T>> GivesInPlace<'a, T> for Sum<'a, T, Rows<'a, R>> {
    #[inline(always)]
    fn rows_in_place(self, on: sealed::On<'_>, x: RowsMut<'a, T>) -> Result<RowIo<'a, T>, Error> {
        on.0.rows_of_sum_over_x(x, self.residual, self.bias)
    }

    fn runs_in_place(self, x: RowsMut<'a, T>) -> sealed::InRuns<'a, T> {
        sealed::InRuns(Buffers::over_x(x, self.residual))
    }
}
