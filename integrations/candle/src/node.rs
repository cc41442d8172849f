//! Results that have been computed, as nodes of candle's graph.
//!
//! An operation of candle has one output and at most three arguments. A sum that is normalized in the same touch has two
//! outputs and four arguments, so both are computed first, and then each becomes a node of its own: s of (x, residual),
//! and y of (s, gamma, beta). The graph is the one that separate operations make: candle itself adds the gradient that
//! reaches s by other ways to the one through y, before it goes on to x and residual.

use std::sync::{Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use crate::norm::{Affine, Norm};

/// What leads from the gradient of a result to those of its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Of x and residual.
    Sum,
    /// Of x, and of gamma and beta as far as they are given.
    Norm(Norm),
}

/// The gradients of up to three arguments.
type Grads = [Option<Tensor>; 3];

impl Op {
    /// The tensor of a result.
    pub(crate) fn tensor(self, args: &[&Tensor], value: CpuStorage, shape: &Shape) -> Result<Tensor> {
        if !args.iter().any(|arg| arg.track_op()) {
            return Ok(Tensor::from_storage(Storage::Cpu(value), shape, BackpropOp::none(), false));
        }
        let node = Node { op: self, value: Mutex::new(Some((value, shape.clone()))) };
        match args {
            [x] => x.apply_op1(node),
            [x, a] => x.apply_op2(a, node),
            [x, a, b] => x.apply_op3(a, b, node),
            _ => bail!("{} has {} arguments, expected 1 to 3", self.name(), args.len()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sum => "lanenorm sum",
            Self::Norm(norm) => norm.name(),
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
    value: Mutex<Option<(CpuStorage, Shape)>>,
}

impl Node {
    fn take(&self) -> Result<(CpuStorage, Shape)> {
        match self.value.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Ok(value),
            None => bail!("the result of {} has been taken", self.op.name()),
        }
    }
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
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

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
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
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
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
