use crate::rows::{Rows, RowsMut};

/// The rows of a backward call: the gradient dy of y, x, and where the gradient dx goes.
///
/// dy, x, ds and dx have one type.
#[derive(Debug)]
pub struct GradIo<'a, T = f32> {
    pub(crate) form: GradForm<'a, T>,
    pub(crate) x: Rows<'a, T>,
    pub(crate) ds: Option<Rows<'a, T>>,
}

#[derive(Debug)]
pub(crate) enum GradForm<'a, T> {
    Apart { dy: Rows<'a, T>, dx: RowsMut<'a, T> },
    InPlace { dy: RowsMut<'a, T> },
    WithoutDx { dy: Rows<'a, T> },
}

impl<'a, T> GradIo<'a, T> {
    /// dy and x, dx written to a buffer of its own.
    pub fn new(dy: impl Into<Rows<'a, T>>, x: impl Into<Rows<'a, T>>, dx: impl Into<RowsMut<'a, T>>) -> Self {
        Self { form: GradForm::Apart { dy: dy.into(), dx: dx.into() }, x: x.into(), ds: None }
    }

    /// dy and x, dx written over dy.
    pub fn in_place(dy: impl Into<RowsMut<'a, T>>, x: impl Into<Rows<'a, T>>) -> Self {
        Self { form: GradForm::InPlace { dy: dy.into() }, x: x.into(), ds: None }
    }

    /// dy and x, where dx is not wanted.
    pub fn without_dx(dy: impl Into<Rows<'a, T>>, x: impl Into<Rows<'a, T>>) -> Self {
        Self { form: GradForm::WithoutDx { dy: dy.into() }, x: x.into(), ds: None }
    }

    /// The same rows with a gradient that reaches x by another way, to be added to dx (which must be wanted).
    ///
    /// Where x is a [`Sum`](crate::Sum) s with a residual, ds is the gradient of the s that was written, and dx that of both
    /// addends.
    pub fn with_ds(self, ds: impl Into<Rows<'a, T>>) -> Self {
        Self { ds: Some(ds.into()), ..self }
    }
}

/// Where the gradients of gamma and beta go, each if wanted: `cols` elements (of each group), of f64 for rows of f64 and else of
/// f32. What was there is overwritten.
#[derive(Debug)]
pub struct ParamGrads<'a, F = f32> {
    /// The gradient of gamma.
    pub dgamma: Option<&'a mut [F]>,
    /// The gradient of beta.
    pub dbeta: Option<&'a mut [F]>,
}

impl<F> Default for ParamGrads<'_, F> {
    /// Neither is wanted.
    fn default() -> Self {
        Self { dgamma: None, dbeta: None }
    }
}
