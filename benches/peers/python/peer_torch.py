"""PyTorch, eager, in inference mode."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from cases import Buffers
from contender import Contender


def tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor in the array's memory."""
    shared = torch.from_numpy(array)
    return shared.view(torch.bfloat16) if array.dtype == np.uint16 else shared


def array(values: torch.Tensor) -> np.ndarray:
    return values.view(torch.uint16).numpy() if values.dtype == torch.bfloat16 else values.numpy()


class Torch:
    """The functions that users call, which allocate their output, and the operator that writes to a given one."""

    name = "torch"

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        # For as long as the process lives: a guard at each call would be timed too.
        self._mode = torch.inference_mode()
        self._mode.__enter__()
        self.version = torch.__version__

    def contenders(self, buffers: Buffers) -> list[Contender]:
        return getattr(self, f"_{buffers.problem.case.op}")(buffers)

    def _layer_norm(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        x, gamma, beta = (tensor(buffers[name]) for name in ("x", "gamma", "beta"))
        shape = (case.cols,)
        y = tensor(buffers["y"])
        kept = [torch.empty((case.rows, 1), dtype=x.dtype) for _ in range(2)]
        into = torch.ops.aten.native_layer_norm.out

        def run() -> torch.Tensor:
            return F.layer_norm(x, shape, gamma, beta, case.eps)

        def run_into() -> torch.Tensor:
            return into(x, shape, gamma, beta, case.eps, out0=y, out1=kept[0], out2=kept[1])[0]

        return [
            Contender("torch", run, lambda y: {"y": array(y)}),
            Contender("torch out", run_into, lambda y: {"y": array(y)}),
        ]

    def _rms_norm(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        x, gamma = tensor(buffers["x"]), tensor(buffers["gamma"])
        shape = (case.cols,)

        def run() -> torch.Tensor:
            return F.rms_norm(x, shape, gamma, case.eps)

        return [Contender("torch", run, lambda y: {"y": array(y)})]

    def _add_layer_norm(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        x, residual, gamma, beta, total = (tensor(buffers[n]) for n in ("x", "residual", "gamma", "beta", "sum"))
        shape = (case.cols,)

        def run() -> torch.Tensor:
            torch.add(x, residual, out=total)
            return F.layer_norm(total, shape, gamma, beta, case.eps)

        return [Contender("torch", run, lambda y: {"y": array(y), "sum": array(total)})]

    def _layer_norm_backward(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        dy, x, gamma, beta = (tensor(buffers[name]) for name in ("dy", "x", "gamma", "beta"))
        shape = (case.cols,)
        _, mean, rstd = torch.native_layer_norm(x, shape, gamma, beta, case.eps)
        backward = torch.ops.aten.native_layer_norm_backward.default
        wanted = [True, True, True]

        def run() -> tuple[torch.Tensor, ...]:
            return backward(dy, x, shape, mean, rstd, gamma, beta, wanted)

        return [Contender("torch", run, lambda grads: dict(zip(case.outputs, map(array, grads), strict=True)))]
