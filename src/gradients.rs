use lanenorm_kernels::simd::Float;

use crate::grid::Ptr;
use crate::rows::{Layout, Rows, RowsMut};

/// The rows of a backward call.
#[derive(Debug)]
pub(crate) struct GradIo<'a, T> {
    pub(crate) out: GradOut<'a, T>,
    pub(crate) x: Rows<'a, T>,
    pub(crate) ds: Option<Rows<'a, T>>,
}

impl<T> GradIo<'_, T> {
    /// Whether a buffer is a grid.
    pub(crate) fn has_grid(&self) -> bool {
        let of_out = match &self.out {
            GradOut::Apart { dy, dx } => dy.layout.is_grid() || dx.layout.is_grid(),
            GradOut::InPlace { dy } => dy.layout.is_grid(),
            GradOut::WithoutDx { dy } => dy.layout.is_grid(),
        };
        of_out || self.x.layout.is_grid() || self.ds.as_ref().is_some_and(|ds| ds.layout.is_grid())
    }
}

/// The rows of a backward call of gated rows.
#[derive(Debug)]
pub(crate) struct GateGradIo<'a, T, Z> {
    pub(crate) out: GradOut<'a, T>,
    pub(crate) x: Rows<'a, T>,
    pub(crate) z: Rows<'a, Z>,
    pub(crate) dz: Option<RowsMut<'a, Z>>,
}

/// The gradient dy of y, and where the gradient dx goes.
#[derive(Debug)]
pub(crate) enum GradOut<'a, T> {
    Apart { dy: Rows<'a, T>, dx: RowsMut<'a, T> },
    InPlace { dy: RowsMut<'a, T> },
    WithoutDx { dy: Rows<'a, T> },
}

impl<T> GradOut<'_, T> {
    /// Gives memory to a dx that is [`RowsMut::room`]. It has all rows of dx, for as long as these are used.
    pub(crate) fn place(&mut self, memory: *mut T) {
        if let Self::Apart { dx: RowsMut { layout: Layout::Grid(grid), .. }, .. } = self {
            grid.p = Ptr(memory.cast_const().cast());
        }
    }
}

/// Where the gradients of gamma and beta go; either may be absent.
#[derive(Debug)]
pub(crate) struct ParamGrads<'a, F> {
    pub(crate) dgamma: Option<&'a mut [F]>,
    pub(crate) dbeta: Option<&'a mut [F]>,
}

impl<F: Float> ParamGrads<'_, F> {
    /// The sums over no rows.
    pub(crate) fn fill_with_zeros(self) {
        [self.dgamma, self.dbeta].into_iter().flatten().for_each(|sums| sums.fill(F::default()));
    }
}

impl<F> Default for ParamGrads<'_, F> {
    /// Neither is wanted.
    fn default() -> Self {
        Self { dgamma: None, dbeta: None }
    }
}
