use crate::rows::{Rows, RowsMut};
use crate::sum::Sum;

/// The rows of a call: what is normalized, and where the result goes.
///
/// y has the type of x, or f32 where x has 16 bits.
#[derive(Debug)]
pub struct Io<'a, T = f32, Y = T>(pub(crate) Form<'a, T, Y>);

#[derive(Debug)]
pub(crate) enum Form<'a, T, Y> {
    Apart { x: Rows<'a, T>, y: RowsMut<'a, Y> },
    InPlace { x: RowsMut<'a, T> },
    Sum { sum: Sum<'a, T>, y: RowsMut<'a, Y> },
}

impl<'a, T, Y> Io<'a, T, Y> {
    /// Rows of x, normalized into y.
    pub fn new(x: impl Into<Rows<'a, T>>, y: impl Into<RowsMut<'a, Y>>) -> Self {
        Self(Form::Apart { x: x.into(), y: y.into() })
    }

    /// A sum, which is taken, written, and normalized into y.
    pub fn sum(sum: Sum<'a, T>, y: impl Into<RowsMut<'a, Y>>) -> Self {
        Self(Form::Sum { sum, y: y.into() })
    }
}

impl<'a, T> Io<'a, T> {
    /// Rows normalized where they lie.
    pub fn in_place(x: impl Into<RowsMut<'a, T>>) -> Self {
        Self(Form::InPlace { x: x.into() })
    }
}
