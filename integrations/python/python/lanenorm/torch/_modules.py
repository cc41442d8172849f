"""Modules that drop in for those of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lanenorm.torch._functions import dims_of
from lanenorm.torch._operators import (
    AddLayerNormFunction,
    AddRMSNormFunction,
    LayerNormFunction,
    RMSNormFunction,
    ops,
)

_layer_norm = ops.layer_norm
_rms_norm = ops.rms_norm
_add_layer_norm = ops.add_layer_norm
_add_rms_norm = ops.add_rms_norm
_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_transforms = torch._C._functorch.maybe_current_level


def takes(input: Tensor) -> bool:
    """Whether the operators take a tensor: others are left to PyTorch."""
    return input.device.type == "cpu" and input.dtype in _DTYPES


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether to call a Function at once, which the operators would do too, after some microseconds."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _transforms() is not None:
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` by `lanenorm.torch.layer_norm`, with the same parameters and the same state.

    On other devices than CPUs, and for other types, it is PyTorch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not takes(input):
            return super().forward(input)
        dims = dims_of(input, self.normalized_shape)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        if wants_gradient(input, weight, bias):
            return LayerNormFunction.apply(input, weight, bias, self.eps, dims, 0.0, 0)
        return _layer_norm(input, weight, bias, self.eps, dims)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` by `lanenorm.torch.rms_norm`, with the same parameters and the same state.

    On other devices than CPUs, and for other types, it is PyTorch's, and so it is where weight has another type than
    input: PyTorch's result has the type of both together there. Without eps, the epsilon of the type of input is taken.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight = self._parameters["weight"]
        if not takes(input) or (weight is not None and weight.dtype != input.dtype):
            return super().forward(input)
        dims = dims_of(input, self.normalized_shape)
        eps = torch.finfo(input.dtype).eps if self.eps is None else self.eps
        if wants_gradient(input, weight):
            return RMSNormFunction.apply(input, weight, eps, dims, 0.0, 0)
        return _rms_norm(input, weight, eps, dims)


class AddLayerNorm(nn.LayerNorm):
    """Layer normalization of input + residual, in one touch of memory: `add_layer_norm` as a module.

    Its parameters and its state are those of `torch.nn.LayerNorm`. Calls return the result and the sum, which is the
    residual of the next call.
    """

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        if not takes(input):
            s = input + residual
            return super().forward(s), s
        dims = dims_of(input, self.normalized_shape)
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        if wants_gradient(input, residual, weight, bias):
            return AddLayerNormFunction.apply(input, residual, weight, bias, self.eps, dims, 0.0, 0)
        return _add_layer_norm(input, residual, weight, bias, self.eps, dims)


class AddRMSNorm(nn.RMSNorm):
    """RMS normalization of input + residual, in one touch of memory: `add_rms_norm` as a module.

    Its parameters and its state are those of `torch.nn.RMSNorm`; eps is 1e-6 by default. Calls return the result and
    the sum, which is the residual of the next call.
    """

    def __init__(self, normalized_shape: Any, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(normalized_shape, eps, **options)

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        if not takes(input):
            s = input + residual
            return super().forward(s), s
        dims = dims_of(input, self.normalized_shape)
        weight = self._parameters["weight"]
        if wants_gradient(input, residual, weight):
            return AddRMSNormFunction.apply(input, residual, weight, self.eps, dims, 0.0, 0)
        return _add_rms_norm(input, residual, weight, self.eps, dims)
