use crate::rows::{Rows, RowsMut};

/// The rows of a backward call.
#[derive(Debug)]
pub(crate) struct GradIo<'a, T> {
    pub(crate) out: GradOut<'a, T>,
    pub(crate) x: Rows<'a, T>,
    pub(crate) ds: Option<Rows<'a, T>>,
}

/// The gradient dy of y, and where the gradient dx goes.
#[derive(Debug)]
pub(crate) enum GradOut<'a, T> {
    Apart { dy: Rows<'a, T>, dx: RowsMut<'a, T> },
    InPlace { dy: RowsMut<'a, T> },
    WithoutDx { dy: Rows<'a, T> },
}

/// Where the gradients of gamma and beta go; either may be absent.
#[derive(Debug)]
pub(crate) struct ParamGrads<'a, F> {
    pub(crate) dgamma: Option<&'a mut [F]>,
    pub(crate) dbeta: Option<&'a mut [F]>,
}

impl<F> Default for ParamGrads<'_, F> {
    /// Neither is wanted.
    fn default() -> Self {
        Self { dgamma: None, dbeta: None }
    }
}
