"""The operators: their registration, what they give for fake tensors, and their gradients.

`lanenorm::layer_norm` and the other public operators have kernels for CPUs and for autograd, in Rust. The latter calls
`lanenorm::_layer_norm_autograd` if a gradient is wanted, whose autograd is here. `lanenorm::layer_norm_general` takes
the axes of a row, an offset and a rounding too: each argument costs time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lanenorm import _native


def _register() -> None:
    """Registers the operators with the libraries of PyTorch that have been loaded."""
    name = {"darwin": "lib{}.dylib", "win32": "{}.dll"}.get(sys.platform, "lib{}.so")
    folder = Path(torch.__file__).parent / "lib"
    _native.register_torch(*(str(folder / name.format(library)) for library in ("torch_cpu", "c10")))


_register()
ops = torch.ops.lanenorm


# What operators give for fake tensors.


def _check_row(name: str, given: Tensor | None, input: Tensor, dims: int) -> None:
    row = input.shape[input.dim() - dims :]
    if given is not None:
        torch._check(given.device == input.device, lambda: f"{name} is on {given.device}, and input on {input.device}")
        torch._check(given.shape == row, lambda: f"{name} has shape {tuple(given.shape)}, expected {tuple(row)}")


def _like(input: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(input, dtype=dtype, memory_format=torch.contiguous_format)


def _forward(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    kept: int = 0,
) -> tuple[Tensor, ...]:
    """The result, the sum if there is a residual, and as many statistics."""
    torch._check(1 <= dims <= input.dim(), lambda: f"dims is {dims}, but input has {input.dim()} dimensions")
    _check_row("weight", weight, input, dims)
    _check_row("bias", bias, input, dims)
    outputs = [_like(input)]
    if residual is not None:
        devices = residual.device, input.device
        torch._check(devices[0] == devices[1], lambda: "residual is on {}, and input on {}".format(*devices))
        shapes = tuple(residual.shape), tuple(input.shape)
        torch._check(shapes[0] == shapes[1], lambda: "residual has shape {}, expected {}".format(*shapes))
        outputs.append(_like(input, residual.dtype))
    if kept:
        rows = 1
        for size in input.shape[: input.dim() - dims]:
            rows = rows * size
        outputs.append(input.new_empty((kept, rows), dtype=_of_statistics(input)))
    return tuple(outputs)


def _of_statistics(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _backward(input: Tensor, dims: int, wanted: int, params: int) -> tuple[Tensor, ...]:
    row, dtype = input.shape[input.dim() - dims :], _of_statistics(input)
    dx = _like(input) if wanted & 1 else input.new_empty((0,))
    return dx, *(input.new_empty(row if wanted & 2 << i else (0,), dtype=dtype) for i in range(params))


def _fakes_of_layer_norm() -> None:
    fake = torch.library.register_fake

    def plain(input, weight=None, bias=None, eps=1e-5, dims=1, offset=0.0, rounding=0):
        return _forward(input, None, weight, bias, dims)[0]

    def adding(input, residual, weight=None, bias=None, eps=1e-5, dims=1, offset=0.0, rounding=0):
        return _forward(input, residual, weight, bias, dims)

    for name in ("layer_norm", "layer_norm_general", "_layer_norm", "_layer_norm_autograd"):
        fake(f"lanenorm::{name}")(plain)
    for name in ("add_layer_norm", "add_layer_norm_general", "_add_layer_norm", "_add_layer_norm_autograd"):
        fake(f"lanenorm::{name}")(adding)

    @fake("lanenorm::_layer_norm_keeping")
    def _(input, weight=None, bias=None, eps=1e-5, dims=1, offset=0.0, rounding=0):
        return _forward(input, None, weight, bias, dims, 3)

    @fake("lanenorm::_add_layer_norm_keeping")
    def _(input, residual, weight=None, bias=None, eps=1e-5, dims=1, offset=0.0, rounding=0):
        return _forward(input, residual, weight, bias, dims, 3)

    @fake("lanenorm::_layer_norm_backward")
    def _(dy, ds, input, weight, statistics, eps, dims, offset, rounding, wanted):
        return _backward(input, dims, wanted, 2)


def _fakes_of_rms_norm() -> None:
    fake = torch.library.register_fake

    def plain(input, weight=None, eps=1e-6, dims=1, offset=0.0, rounding=0):
        return _forward(input, None, weight, None, dims)[0]

    def adding(input, residual, weight=None, eps=1e-6, dims=1, offset=0.0, rounding=0):
        return _forward(input, residual, weight, None, dims)

    for name in ("rms_norm", "rms_norm_general", "_rms_norm", "_rms_norm_autograd"):
        fake(f"lanenorm::{name}")(plain)
    for name in ("add_rms_norm", "add_rms_norm_general", "_add_rms_norm", "_add_rms_norm_autograd"):
        fake(f"lanenorm::{name}")(adding)

    @fake("lanenorm::_rms_norm_keeping")
    def _(input, weight=None, eps=1e-6, dims=1, offset=0.0, rounding=0):
        return _forward(input, None, weight, None, dims, 1)

    @fake("lanenorm::_add_rms_norm_keeping")
    def _(input, residual, weight=None, eps=1e-6, dims=1, offset=0.0, rounding=0):
        return _forward(input, residual, weight, None, dims, 1)

    @fake("lanenorm::_rms_norm_backward")
    def _(dy, ds, input, weight, statistics, eps, dims, offset, rounding, wanted):
        return _backward(input, dims, wanted, 1)


_fakes_of_layer_norm()
_fakes_of_rms_norm()


# Gradients.

_layer_norm_keeping = ops._layer_norm_keeping.default
_rms_norm_keeping = ops._rms_norm_keeping.default
_add_layer_norm_keeping = ops._add_layer_norm_keeping.default
_add_rms_norm_keeping = ops._add_rms_norm_keeping.default
_layer_norm_backward = ops._layer_norm_backward.default
_rms_norm_backward = ops._rms_norm_backward.default


def _gradients(centered, dy, ds, input, weight, statistics, numbers, wanted):
    """The gradients of input, weight and bias, by a kernel; or by a formula, if they are to be differentiated again."""
    if torch.is_grad_enabled():
        return _by_formula(centered, dy, ds, input, weight, numbers)
    if centered:
        return _layer_norm_backward(dy, ds, input, weight, statistics, *numbers, wanted)
    return _rms_norm_backward(dy, ds, input, weight, statistics, *numbers, wanted)


def _xhat(centered, input, numbers):
    """Rows that are normalized, and 1 / sqrt(var + eps) of each, by operators that autograd can follow."""
    eps, dims, *_ = numbers
    row = tuple(range(-dims, 0))
    x = input.to(_of_statistics(input))
    if centered:
        x = x - x.mean(row, keepdim=True)
    rstd = (x.square().mean(row, keepdim=True) + eps).rsqrt()
    return x * rstd, rstd


def _through(centered, v, xhat, rstd, dims):
    """v times the derivative of xhat by x, which is symmetric."""
    row = tuple(range(-dims, 0))
    result = v - xhat * (v * xhat).mean(row, keepdim=True)
    if centered:
        result = result - v.mean(row, keepdim=True)
    return result * rstd


def _by_formula(centered, dy, ds, input, weight, numbers):
    """Gradients that autograd can follow."""
    _, dims, offset, _ = numbers
    lead = tuple(range(input.dim() - dims))
    xhat, rstd = _xhat(centered, input, numbers)
    dy = dy.to(xhat.dtype)
    g = dy if weight is None else dy * (weight.to(xhat.dtype) + offset)
    dx = _through(centered, g, xhat, rstd, dims).to(input.dtype)
    dweight, dbias = ((v.sum(lead) if lead else v) for v in (dy * xhat, dy))
    return dx if ds is None else dx + ds, dweight, *((dbias,) if centered else ())


def _tangent(centered, input, weight, to_input, to_weight, to_bias, numbers):
    """The derivative of a result in the direction of tangents, of which some are None."""
    _, dims, offset, _ = numbers
    xhat, rstd = _xhat(centered, input, numbers)
    result = torch.zeros_like(xhat)
    if to_input is not None:
        moved = _through(centered, to_input.to(xhat.dtype), xhat, rstd, dims)
        result = result + (moved if weight is None else moved * (weight.to(xhat.dtype) + offset))
    if to_weight is not None:
        result = result + xhat * to_weight
    if to_bias is not None:
        result = result + to_bias
    return result.to(input.dtype)


def _as(gradient: Tensor, of: Tensor) -> Tensor:
    return gradient if gradient.dtype == of.dtype else gradient.to(of.dtype)


class LayerNormFunction(Function):
    """`layer_norm` with its gradient, and with statistics as its last result."""

    @staticmethod
    def forward(input, weight, bias, *numbers):
        return _layer_norm_keeping(input, weight, bias, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        input, weight, bias, *ctx.numbers = inputs
        statistics = output[1]
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, bias, statistics)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, dy, _):
        if dy is None:
            return (None,) * 7
        input, weight, bias, statistics = ctx.saved_tensors
        to_input, to_weight, to_bias, *_ = ctx.needs_input_grad
        wanted = to_input | to_weight << 1 | to_bias << 2
        dx, dweight, dbias = _gradients(True, dy, None, input, weight, statistics, ctx.numbers, wanted)
        return (
            dx if to_input else None,
            _as(dweight, weight) if to_weight else None,
            _as(dbias, bias) if to_bias else None,
            *(None,) * 4,
        )

    @staticmethod
    def jvp(ctx: Any, to_input, to_weight, to_bias, *_):
        input, weight = ctx.saved_tensors
        return _tangent(True, input, weight, to_input, to_weight, to_bias, ctx.numbers), None


class RMSNormFunction(Function):
    """`rms_norm` with its gradient, and with statistics as its last result."""

    @staticmethod
    def forward(input, weight, *numbers):
        return _rms_norm_keeping(input, weight, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        input, weight, *ctx.numbers = inputs
        statistics = output[1]
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, statistics)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, dy, _):
        if dy is None:
            return (None,) * 6
        input, weight, statistics = ctx.saved_tensors
        to_input, to_weight, *_ = ctx.needs_input_grad
        wanted = to_input | to_weight << 1
        dx, dweight = _gradients(False, dy, None, input, weight, statistics, ctx.numbers, wanted)
        return dx if to_input else None, _as(dweight, weight) if to_weight else None, *(None,) * 4

    @staticmethod
    def jvp(ctx: Any, to_input, to_weight, *_):
        input, weight = ctx.saved_tensors
        return _tangent(False, input, weight, to_input, to_weight, None, ctx.numbers), None


def _of_sum(ctx: Any, dy, ds, params: int):
    """The gradients of input, residual and parameters, of a normalized sum that has also been returned."""
    s, weight, bias, statistics = ctx.saved_tensors
    to_input, to_residual, *to_params = ctx.needs_input_grad[: 2 + params]
    to_sum = to_input or to_residual
    of_params: list[Tensor | None] = [None] * params
    dx = ds
    if dy is not None:
        wanted = to_sum | sum(bool(to) << i + 1 for i, to in enumerate(to_params))
        ds = ds if to_sum else None
        dx, *got = _gradients(params == 2, _as(dy, s), ds, s, weight, statistics, ctx.numbers, wanted)
        of_params = [
            _as(gradient, of) if to else None for gradient, of, to in zip(got, (weight, bias), to_params, strict=False)
        ]
    dinput = dx.to(ctx.dtype) if to_input and dx is not None else None
    return dinput, dx if to_residual else None, *of_params, *(None,) * 4


def _tangents_of_sum(ctx: Any, to_input, to_residual, to_weight, to_bias, *, centered: bool):
    s, weight = ctx.saved_tensors
    to_sum = [tangent.to(s.dtype) for tangent in (to_input, to_residual) if tangent is not None]
    to_sum = sum(to_sum[1:], to_sum[0]) if to_sum else None
    y = _tangent(centered, s, weight, to_sum, to_weight, to_bias, ctx.numbers).to(ctx.dtype)
    return y, torch.zeros_like(s) if to_sum is None else to_sum, None


class AddLayerNormFunction(Function):
    """`add_layer_norm` with its gradient, and with statistics as its last result."""

    @staticmethod
    def forward(input, residual, weight, bias, *numbers):
        return _add_layer_norm_keeping(input, residual, weight, bias, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        input, _, weight, bias, *ctx.numbers = inputs
        _, s, statistics = output
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(s, weight, bias, statistics)
        ctx.save_for_forward(s, weight)
        ctx.dtype = input.dtype

    @staticmethod
    def backward(ctx: Any, dy, ds, _):
        return _of_sum(ctx, dy, ds, 2)

    @staticmethod
    def jvp(ctx: Any, to_input, to_residual, to_weight, to_bias, *_):
        return _tangents_of_sum(ctx, to_input, to_residual, to_weight, to_bias, centered=True)


class AddRMSNormFunction(Function):
    """`add_rms_norm` with its gradient, and with statistics as its last result."""

    @staticmethod
    def forward(input, residual, weight, *numbers):
        return _add_rms_norm_keeping(input, residual, weight, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        input, _, weight, *ctx.numbers = inputs
        _, s, statistics = output
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(s, weight, None, statistics)
        ctx.save_for_forward(s, weight)
        ctx.dtype = input.dtype

    @staticmethod
    def backward(ctx: Any, dy, ds, _):
        return _of_sum(ctx, dy, ds, 1)

    @staticmethod
    def jvp(ctx: Any, to_input, to_residual, to_weight, *_):
        return _tangents_of_sum(ctx, to_input, to_residual, to_weight, None, centered=False)


# Kept for as long as the process: kernels end with their library.
_library = torch.library.Library("lanenorm", "IMPL")


def _by_operators(centered, input, weight, bias, numbers):
    """The result by operators of PyTorch, for transforms of torch.func: these take no Function in a kernel."""
    xhat, _ = _xhat(centered, input, numbers)
    y = xhat if weight is None else xhat * (weight.to(xhat.dtype) + numbers[2])
    return (y if bias is None else y + bias).to(input.dtype)


def _register_gradients() -> None:
    is_transformed = torch._C._are_functorch_transforms_active

    def layer_norm(input, weight=None, bias=None, eps=1e-5, dims=1, offset=0.0, rounding=0):
        numbers = eps, dims, offset, rounding
        if is_transformed():
            return _by_operators(True, input, weight, bias, numbers)
        return LayerNormFunction.apply(input, weight, bias, *numbers)[0]

    def rms_norm(input, weight=None, eps=1e-6, dims=1, offset=0.0, rounding=0):
        numbers = eps, dims, offset, rounding
        if is_transformed():
            return _by_operators(False, input, weight, None, numbers)
        return RMSNormFunction.apply(input, weight, *numbers)[0]

    def add_layer_norm(input, residual, weight=None, bias=None, eps=1e-5, dims=1, offset=0.0, rounding=0):
        numbers = eps, dims, offset, rounding
        if is_transformed():
            s = (input + residual).to(residual.dtype)
            return _by_operators(True, s, weight, bias, numbers).to(input.dtype), s
        return AddLayerNormFunction.apply(input, residual, weight, bias, *numbers)[:2]

    def add_rms_norm(input, residual, weight=None, eps=1e-6, dims=1, offset=0.0, rounding=0):
        numbers = eps, dims, offset, rounding
        if is_transformed():
            s = (input + residual).to(residual.dtype)
            return _by_operators(False, s, weight, None, numbers).to(input.dtype), s
        return AddRMSNormFunction.apply(input, residual, weight, *numbers)[:2]

    for function in (layer_norm, rms_norm, add_layer_norm, add_rms_norm):
        _library.impl(f"_{function.__name__}_autograd", function, "Autograd")


_register_gradients()
