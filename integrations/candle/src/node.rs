//! Operations as nodes of candle's graph, which lends them the elements of their arguments.
//!
//! An operation of candle has one output and at most three arguments. A sum that is normalized in the same touch has
//! two outputs and four arguments, so both are computed first, and then each becomes a node of its own: s of (x,
//! residual), and y of (s, gamma, beta). The graph is the one that separate operations make: candle itself adds the
//! gradient that reaches s by other ways to the one through y, before it goes on to x and residual.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::norm::{Affine, Norm, sum};
use crate::view::View;

/// An operation: from arguments to a result, and from the gradient of the result to the gradients of the arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// x + residual; the arguments are x and residual.
    Sum,
    /// A normalization; the arguments are x, and gamma and beta as far as they are given.
    Norm(Norm),
}

/// The gradients of up to three arguments.
type Grads = [Option<Tensor>; 3];

impl Op {
    /// The tensor of the result, which may have been computed before.
    pub(crate) fn tensor(self, args: &[&Tensor], computed: Option<CpuStorage>) -> Result<Tensor> {
        let node = Node { op: self, computed: Mutex::new(computed) };
        let tracked = args.iter().any(|arg| arg.track_op());
        match args {
            [x] if tracked => x.apply_op1(node),
            [x] => x.apply_op1_no_bwd(&node),
            [x, a] if tracked => x.apply_op2(a, node),
            [x, a] => x.apply_op2_no_bwd(a, &node),
            [x, a, b] if tracked => x.apply_op3(a, b, node),
            [x, a, b] => x.apply_op3_no_bwd(a, b, &node),
            _ => bail!("{} has {} arguments, expected 1 to 3", self.name(), args.len()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sum => "lanenorm sum",
            Self::Norm(norm) => norm.name(),
        }
    }

    fn forward(&self, x: View<'_>, a: Option<View<'_>>, b: Option<View<'_>>) -> Result<CpuStorage> {
        match (self, a) {
            (Self::Norm(norm), gamma) => norm.forward(x, gamma, b),
            (Self::Sum, Some(residual)) => sum(x, residual),
            (Self::Sum, None) => bail!("{} has 1 argument, expected 2", self.name()),
        }
    }

    /// candle expects a gradient of every argument that is tracked.
    fn backward(&self, x: &Tensor, a: Option<&Tensor>, b: Option<&Tensor>, grad: &Tensor) -> Result<Grads> {
        match self {
            Self::Norm(norm) => norm.backward(x, Affine { gamma: a, beta: b }, grad),
            Self::Sum => Ok([Some(x), a, b].map(|arg| arg.filter(|arg| arg.track_op()).map(|_| grad.clone()))),
        }
    }
}

struct Node {
    op: Op,
    computed: Mutex<Option<CpuStorage>>,
}

impl Node {
    fn run(&self, x: View<'_>, a: Option<View<'_>>, b: Option<View<'_>>) -> Result<(CpuStorage, Shape)> {
        let computed = self.computed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let result = computed.map_or_else(|| self.op.forward(x, a, b), Ok)?;
        Ok((result, x.shape().clone()))
    }
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(View::new(x, x_layout), None, None)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [dx, ..] = self.op.backward(x, None, None, grad)?;
        Ok(dx)
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(View::new(x, x_layout), Some(View::new(a, a_layout)), None)
    }

    fn bwd(&self, x: &Tensor, a: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, da, _] = self.op.backward(x, Some(a), None, grad)?;
        Ok((dx, da))
    }
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(View::new(x, x_layout), Some(View::new(a, a_layout)), Some(View::new(b, b_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, da, db] = self.op.backward(x, Some(a), Some(b), grad)?;
        Ok((dx, da, db))
    }
}
