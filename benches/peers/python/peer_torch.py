"""PyTorch, eager, in inference mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers the operators)
from torchao.quantization import PerRow
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

from cases import Buffers, Case, Images
from contender import Contender, NotAsked, dequantized


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
        self._compiled: dict[Case, Callable] = {}

    def contenders(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        if case.op in ("layer_norm_i8", "rms_norm_i8"):
            return self._int8(buffers)
        if case.is_quantized:
            raise NotAsked
        if isinstance(case.shape, Images):
            return self._images(buffers, case.shape)
        return getattr(self, f"_{case.op}")(buffers)

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

    def _gated_rms_norm(self, buffers: Buffers) -> list[Contender]:
        x, z, gamma = (tensor(buffers[name]) for name in ("x", "z", "gamma"))
        case = buffers.problem.case
        run = partial(gated, (case.cols,), case.eps)
        ways = {"torch": partial(run, x, z, gamma), "torch compiled": partial(self._compile(case, run), x, z, gamma)}
        return [Contender(name, way, lambda y: {"y": array(y)}) for name, way in ways.items()]

    def _images(self, buffers: Buffers, shape: Images) -> list[Contender]:
        case = buffers.problem.case
        given, gamma, beta = (tensor(buffers[name]) for name in ("x", "gamma", "beta"))
        sides = shape.sides
        if case.is_channels_last:
            x = given.view(shape.samples, *sides, shape.channels).permute(0, 3, 1, 2)
        else:
            x = given.view(shape.samples, shape.channels, *sides)
        of_channels = {"torch": channels_by_layer_norm, "torch elementary": channels_by_moments}
        plain = of_channels if not shape.groups else {"torch": partial(group_norm, shape.groups)}
        if case.has_silu:
            plain = {"torch": partial(group_norm_silu, False, shape.groups)}
            plain["torch silu in place"] = partial(group_norm_silu, True, shape.groups)
        ways = {name: partial(way, case.eps) for name, way in plain.items()}
        if case.has_silu or not shape.groups:
            ways["torch compiled"] = self._compile(case, ways["torch"])

        def outputs(y: torch.Tensor) -> dict[str, np.ndarray]:
            in_order = y.permute(0, 2, 3, 1) if case.is_channels_last else y
            return {"y": array(in_order.contiguous().view(case.tensor))}

        return [Contender(name, partial(way, x, gamma, beta), outputs) for name, way in ways.items()]

    def _compile(self, case: Case, function: Callable) -> Callable:
        if case not in self._compiled:
            torch.compiler.reset()
            self._compiled[case] = torch.compile(function, dynamic=False)
        return self._compiled[case]

    def _int8(self, buffers: Buffers) -> list[Contender]:
        """The norm, and then int8 with a scale for each row, in the ways that there are."""
        case = buffers.problem.case
        x, gamma = tensor(buffers["x"]), tensor(buffers["gamma"])
        beta = tensor(buffers["beta"]) if case.is_centered else None
        norm = partial(normalize, (case.cols,), case.eps)
        ways = {
            "torch": partial(elementary, norm, x, gamma, beta),
            "torch per_token": partial(per_token, norm, x, gamma, beta),
            "torch torchao": partial(torchao, norm, x, gamma, beta),
            "torch compiled": partial(self._compile(case, partial(elementary, norm)), x, gamma, beta),
        }

        def outputs(result: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
            q, scale = result
            return dequantized(q.numpy(), scale.float().numpy().reshape(case.rows, 1))

        return [Contender(name, run, outputs) for name, run in ways.items()]


def gated(shape: tuple[int], eps: float, x: torch.Tensor, z: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, shape, gamma, eps) * F.silu(z)


def group_norm(groups: int, eps: float, x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x, groups, *affine, eps)


def group_norm_silu(in_place: bool, groups: int, eps: float, x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    return F.silu(F.group_norm(x, groups, *affine, eps), inplace=in_place)


def channels_by_layer_norm(eps: float, x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    """With the channels last, and then first again, as the next layer has them."""
    y = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], *affine, eps)
    return y.permute(0, 3, 1, 2).contiguous()


def channels_by_moments(eps: float, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """By elementary operations: ConvNeXt's `LayerNorm` with its `channels_first`."""
    mean = x.mean(1, keepdim=True)
    var = (x - mean).pow(2).mean(1, keepdim=True)
    xhat = (x - mean) / torch.sqrt(var + eps)
    return gamma[:, None, None] * xhat + beta[:, None, None]


def normalize(
    shape: tuple[int], eps: float, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor | None
) -> torch.Tensor:
    return F.rms_norm(x, shape, gamma, eps) if beta is None else F.layer_norm(x, shape, gamma, beta, eps)


def elementary(norm: Callable[..., torch.Tensor], *of: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """By elementary operations."""
    y = norm(*of).float()
    scale = y.abs().amax(-1, keepdim=True) / 127
    return (y / scale).round().to(torch.int8), scale


def per_token(norm: Callable[..., torch.Tensor], *of: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """By the operators of `torch.ao`."""
    y, ops = norm(*of), torch.ops.quantized_decomposed
    scale, zero_point = ops.choose_qparams_per_token(y, torch.int8)
    return ops.quantize_per_token(y, scale, zero_point, -128, 127, torch.int8), scale


def torchao(norm: Callable[..., torch.Tensor], *of: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """By torchao's tensor of int8."""
    made = Int8Tensor.from_hp(norm(*of), granularity=PerRow())
    return made.qdata, made.scale
