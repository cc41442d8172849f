use crate::rows::{Rows, RowsMut};

/// The sum x + residual, or (x + residual) + bias, of rows that are to be normalized: what a transformer does before each
/// of its normalizations. It is rounded to f32 and written, and the rows are read no more often than without it.
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
pub struct Sum<'a> {
    pub(crate) x: Rows<'a>,
    pub(crate) place: Place<'a>,
    pub(crate) bias: Option<&'a [f32]>,
}

/// Where the residual is, and where the sum goes.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    Over(RowsMut<'a>),
    Apart { residual: Rows<'a>, s: RowsMut<'a> },
}

impl<'a> Sum<'a> {
    /// x + residual, to be written to s.
    pub fn new(x: impl Into<Rows<'a>>, residual: impl Into<Rows<'a>>, s: impl Into<RowsMut<'a>>) -> Self {
        Self { x: x.into(), place: Place::Apart { residual: residual.into(), s: s.into() }, bias: None }
    }

    /// x + residual, to be written over the residual.
    pub fn in_place(x: impl Into<Rows<'a>>, residual: impl Into<RowsMut<'a>>) -> Self {
        Self { x: x.into(), place: Place::Over(residual.into()), bias: None }
    }

    /// The same sum with a row of `cols` elements added to each of its rows.
    pub fn with_bias(self, bias: &'a [f32]) -> Self {
        Self { bias: Some(bias), ..self }
    }
}
