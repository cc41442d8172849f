"""Modules that drop in for those of PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lanenorm.torch._functions import dims_of, fitting
from lanenorm.torch._operators import (
    AddLayerNormFunction,
    AddRMSNormFunction,
    LayerNormFunction,
    RMSNormFunction,
    ops,
)

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_layer_norm, _layer_norm_general = ops.layer_norm, ops.layer_norm_general
_rms_norm, _rms_norm_general = ops.rms_norm, ops.rms_norm_general
_add_layer_norm, _add_rms_norm = ops.add_layer_norm_general, ops.add_rms_norm_general
# Without eps, PyTorch takes the epsilon of the type of input, or that of float32 beside 16 bits: 2.15 does.
_HAS_EPS_OF_16_BITS = F.rms_norm(torch.full((2,), 1e-3, dtype=torch.float16), (2,))[0].item() < 0.5
_is_transformed = torch._C._are_functorch_transforms_active


def takes(input: Tensor) -> bool:
    """Whether the operators take a tensor: others are left to PyTorch."""
    return (input.is_cpu or input.is_meta) and input.dtype in _DTYPES and not input.is_nested


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether to call a Function at once. An operator calls it too, but hides exceptions by which others steer."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _is_transformed():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def parameters_of(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """weight and bias, which are no parameters where a parametrization makes them."""
    given = module._parameters
    weight = given["weight"] if "weight" in given else getattr(module, "weight", None)
    return weight, given["bias"] if "bias" in given else getattr(module, "bias", None)


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` by `lanenorm.torch.layer_norm`, with the same parameters and the same state.

    On other devices than CPUs, and for other types, it is PyTorch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not takes(input):
            return super().forward(input)
        dims, (weight, bias) = dims_of(input, self.normalized_shape), parameters_of(self)
        if is_differentiated(input, weight, bias):
            return LayerNormFunction.apply(input, weight, bias, self.eps, dims, 0.0, 0)[0]
        if dims == 1:
            return _layer_norm(input, weight, bias, self.eps)
        return _layer_norm_general(input, weight, bias, self.eps, dims)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` by `lanenorm.torch.rms_norm`, with the same parameters and the same state.

    On other devices than CPUs, and for other types, it is PyTorch's, and so it is where weight has another type than
    input: PyTorch's result has the type of both together there. Without eps, it is the number that PyTorch takes.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, _ = parameters_of(self)
        if not takes(input) or (weight is not None and weight.dtype != input.dtype):
            return super().forward(input)
        dims, eps = dims_of(input, self.normalized_shape), self.eps
        if eps is None:
            eps = torch.finfo(input.dtype if input.dtype.itemsize > 2 or _HAS_EPS_OF_16_BITS else torch.float32).eps
        if is_differentiated(input, weight):
            return RMSNormFunction.apply(input, weight, eps, dims, 0.0, 0)[0]
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
        dims, (weight, bias), residual = (
            dims_of(input, self.normalized_shape),
            parameters_of(self),
            fitting(input, residual),
        )
        if is_differentiated(input, residual, weight, bias):
            return AddLayerNormFunction.apply(input, residual, weight, bias, self.eps, dims, 0.0, 0)[:2]
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
        dims, (weight, _), residual = (
            dims_of(input, self.normalized_shape),
            parameters_of(self),
            fitting(input, residual),
        )
        if is_differentiated(input, residual, weight):
            return AddRMSNormFunction.apply(input, residual, weight, self.eps, dims, 0.0, 0)[:2]
        return _add_rms_norm(input, residual, weight, self.eps, dims)
