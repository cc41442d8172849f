"""What calls return beside arrays."""

from __future__ import annotations

from typing import Any, NamedTuple


class Statistics(NamedTuple):
    """The statistics of rows, in float64 for float64 and else in float32."""

    mean: Any
    """The mean of each row; None of RMS normalization."""
    mean_lo: Any
    """What rounding took from the mean; None of RMS normalization."""
    rstd: Any
    """1 / sqrt(var + eps), or 1 / sqrt(mean(x**2) + eps)."""


class Gradients(NamedTuple):
    """The gradients of a normalization."""

    dx: Any
    dgamma: Any
    dbeta: Any
    """None of RMS normalization."""


class GateGradients(NamedTuple):
    """The gradients of a normalization with a gate."""

    dx: Any
    dz: Any
    dgamma: Any
    dbeta: Any
    """None of RMS normalization."""


class Quantized(NamedTuple):
    """Rows of 8 bits."""

    q: Any
    scale: Any
    """The scales; None where they are given, or lie in the blocks of q."""
    zero_point: Any
    """The integers that stand for 0; None where the scheme has none."""
