"""Functions as those of `torch.nn.functional`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lanenorm.torch._operators import ops

# Roundings by their names, as the operators have them.
ROUNDINGS = {"once": 0, "steps": 1, "gamma": 2, "steps_and_gamma": 3}


def dims_of(input: Tensor, normalized_shape: int | Sequence[int]) -> int:
    """The number of axes of a row, which are the last ones of input."""
    if isinstance(normalized_shape, int):
        normalized_shape = (normalized_shape,)
    dims = len(normalized_shape)
    if dims == 0 or input.shape[-dims:] != tuple(normalized_shape):
        message = f"normalized_shape is {tuple(normalized_shape)}, but input has shape {tuple(input.shape)}"
        raise RuntimeError(message)
    return dims


def fitting(input: Tensor, residual: Tensor) -> Tensor:
    """The residual in a type that goes with input: autocast may have made it of 16 bits beside float32."""
    if residual.dtype == input.dtype or torch.promote_types(input.dtype, residual.dtype) != input.dtype:
        return residual
    return residual.to(input.dtype)


def rounding_of(name: str) -> int:
    """The number of a rounding."""
    if name not in ROUNDINGS:
        message = f"rounding is {name!r}, expected one of {', '.join(map(repr, ROUNDINGS))}"
        raise ValueError(message)
    return ROUNDINGS[name]


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    offset: float = 0.0,
    rounding: str = "once",
) -> Tensor:
    """Layer normalization over the last axes, as `torch.nn.functional.layer_norm`.

    input: a tensor on a CPU, of float32, float64, float16 or bfloat16. Rows at one stride or two are read where they
        lie; other layouts are copied once. The result has its type, and is contiguous.
    weight, bias: tensors of shape `normalized_shape`, of the type of input, of float32 beside 16 bits, or of 16 bits
        beside float32.
    offset: added to weight.
    rounding: where a result of 16 bits is rounded before the end: "once", "steps", "gamma" or "steps_and_gamma"
        (docs/numerics.md).

    A RuntimeError names what does not fit. Gradients of gradients are those of a formula in PyTorch, without the
    accuracy at large offsets.
    """
    dims = dims_of(input, normalized_shape)
    return ops.layer_norm_general(input, weight, bias, eps, dims, offset, rounding_of(rounding))


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    rounding: str = "once",
) -> Tensor:
    """RMS normalization over the last axes, as `torch.nn.functional.rms_norm`; the rest is as of `layer_norm`."""
    dims = dims_of(input, normalized_shape)
    return ops.rms_norm_general(input, weight, eps, dims, offset, rounding_of(rounding))


def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    offset: float = 0.0,
    rounding: str = "once",
) -> tuple[Tensor, Tensor]:
    """Layer normalization of input + residual, in one touch of memory. Returns the result and the sum.

    residual: a tensor of the shape of input, of its type, or of float32 beside 16 bits; the sum has its type. One of 16
        bits beside float32 is widened first. The rest is as of `layer_norm`.
    """
    dims = dims_of(input, normalized_shape)
    return ops.add_layer_norm_general(
        input, fitting(input, residual), weight, bias, eps, dims, offset, rounding_of(rounding)
    )


def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    offset: float = 0.0,
    rounding: str = "once",
) -> tuple[Tensor, Tensor]:
    """RMS normalization of input + residual, in one touch of memory. Returns the result and the sum."""
    dims = dims_of(input, normalized_shape)
    return ops.add_rms_norm_general(input, fitting(input, residual), weight, eps, dims, offset, rounding_of(rounding))
