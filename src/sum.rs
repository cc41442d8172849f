use crate::rows::{Rows, RowsMut};

/// The sum x + residual, or (x + residual) + bias, of rows that are to be normalized: what a transformer does before each
/// of its normalizations. It is rounded to the type of x and written, and the rows are read no more often than without it.
///
/// For [`LayerNorm::forward_sum`](crate::LayerNorm::forward_sum) and
/// [`RmsNorm::forward_sum`](crate::RmsNorm::forward_sum), which give the same bits as adding first.
///
/// ```
/// use lanenorm::{RmsNorm, Sum};
///
/// let plan = RmsNorm::new(2, 0.0)?;
/// let (x, mut residual) = ([1.0, -1.0], [2.0, -2.0]);
/// let mut y = [0.0; 2];
/// plan.forward_sum(Sum::in_place(&x, &mut residual), None, &mut y)?;
/// assert_eq!((residual, y), ([3.0, -3.0], [1.0, -1.0]));
/// # Ok::<(), lanenorm::Error>(())
/// ```
#[derive(Debug)]
pub struct Sum<'a, T = f32> {
    pub(crate) x: Rows<'a, T>,
    pub(crate) place: Place<'a, T>,
    pub(crate) bias: Option<&'a [T]>,
}

/// Where the residual is, and where the sum goes.
#[derive(Debug)]
pub(crate) enum Place<'a, T> {
    Over(RowsMut<'a, T>),
    Apart { residual: Rows<'a, T>, s: RowsMut<'a, T> },
}

impl<'a, T> Sum<'a, T> {
    /// x + residual, to be written to s.
    pub fn new(x: impl Into<Rows<'a, T>>, residual: impl Into<Rows<'a, T>>, s: impl Into<RowsMut<'a, T>>) -> Self {
        Self { x: x.into(), place: Place::Apart { residual: residual.into(), s: s.into() }, bias: None }
    }

    /// x + residual, to be written over the residual: or, since the two may be exchanged, over x.
    pub fn in_place(x: impl Into<Rows<'a, T>>, residual: impl Into<RowsMut<'a, T>>) -> Self {
        Self { x: x.into(), place: Place::Over(residual.into()), bias: None }
    }

    /// The same sum with a row of `cols` elements added to each of its rows.
    pub fn with_bias(self, bias: &'a [T]) -> Self {
        Self { bias: Some(bias), ..self }
    }
}
