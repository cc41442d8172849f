use crate::rows::{Rows, RowsMut};
use crate::sum::Sum;

/// The rows of a call: what is normalized, and where the result goes.
///
/// y has the type of x, or f32 where x has 16 bits.
#[derive(Debug)]
pub struct Io<'a, T = f32, Y = T>(pub(crate) Form<'a, T, Y>);

#[derive(Debug)]
pub(crate) enum Form<'a, T, Y> {
    Apart {
        x: Rows<'a, T>,
        y: RowsMut<'a, Y>,
    },
    InPlace {
        x: RowsMut<'a, T>,
    },
    Sum {
        sum: Sum<'a, T>,
        y: RowsMut<'a, Y>,
    },
    /// A sum that is not kept. Without a residual y is the residual.
    Dropped {
        x: Rows<'a, T>,
        residual: Option<Rows<'a, T>>,
        bias: Option<&'a [T]>,
        y: RowsMut<'a, T>,
    },
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

    /// x + residual, or (x + residual) + bias, rounded and normalized as a [`Sum`] is, but not kept: y alone is written. That
    /// is what follows a residual connection whose sum nothing else reads (post-norm).
    pub fn sum_into(
        x: impl Into<Rows<'a, T>>,
        residual: impl Into<Rows<'a, T>>,
        bias: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Self {
        Self(Form::Dropped { x: x.into(), residual: Some(residual.into()), bias, y: y.into() })
    }

    /// The same, normalized over the residual: or, since the two may be exchanged, over x.
    ///
    /// ```
    /// use lanenorm::{Io, RmsNorm};
    ///
    /// let (x, mut h) = ([1.0, -1.0], [2.0, -2.0]);
    /// RmsNorm::new(2, 0.0)?.forward_mixed::<f32, f32, f32>(Io::sum_over(&x, &mut h, None), None, None)?;
    /// assert_eq!(h, [1.0, -1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    pub fn sum_over(x: impl Into<Rows<'a, T>>, residual: impl Into<RowsMut<'a, T>>, bias: Option<&'a [T]>) -> Self {
        Self(Form::Dropped { x: x.into(), residual: None, bias, y: residual.into() })
    }
}
