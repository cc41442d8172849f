"""Modules that drop in for those of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from lanenorm.torch._functions import dims_of
from lanenorm.torch._operators import ops
from torch import Tensor, nn

_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_layer_norm, _layer_norm_general = ops.layer_norm, ops.layer_norm_general
_rms_norm, _rms_norm_general = ops.rms_norm, ops.rms_norm_general
_add_layer_norm, _add_rms_norm = ops.add_layer_norm_general, ops.add_rms_norm_general


def takes(input: Tensor) -> bool:
    """Whether the operators take a tensor: others are left to PyTorch."""
    return (input.is_cpu or input.is_meta) and input.dtype in _DTYPES


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` by `lanenorm.torch.layer_norm`, with the same parameters and the same state.

    On other devices than CPUs, and for other types, it is PyTorch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not takes(input):
            return super().forward(input)
        dims, parameters = dims_of(input, self.normalized_shape), self._parameters
        weight, bias = parameters["weight"], parameters["bias"]
        if dims == 1:
            return _layer_norm(input, weight, bias, self.eps)
        return _layer_norm_general(input, weight, bias, self.eps, dims)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` by `lanenorm.torch.rms_norm`, with the same parameters and the same state.

    On other devices than CPUs, and for other types, it is PyTorch's, and so it is where weight has another type than
    input: PyTorch's result has the type of both together there. Without eps, the epsilon of the type of input is taken.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight = self._parameters["weight"]
        if not takes(input) or (weight is not None and weight.dtype != input.dtype):
            return super().forward(input)
        dims, eps = dims_of(input, self.normalized_shape), self.eps
        if eps is None:
            eps = torch.finfo(input.dtype).eps
        if dims == 1:
            return _rms_norm(input, weight, eps)
        return _rms_norm_general(input, weight, eps, dims)


class AddLayerNorm(nn.LayerNorm):
    """Layer normalization of input + residual, in one touch of memory: `add_layer_norm` as a module.

    Its parameters and its state are those of `torch.nn.LayerNorm`. Calls return the result and the sum, which is the
    residual of the next call.
    """

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        if not takes(input):
            s = input + residual
            return super().forward(s), s
        dims, parameters = dims_of(input, self.normalized_shape), self._parameters
        return _add_layer_norm(input, residual, parameters["weight"], parameters["bias"], self.eps, dims)


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
        return _add_rms_norm(input, residual, self._parameters["weight"], self.eps, dims)
