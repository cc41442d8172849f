"""Layer, RMS and group normalization of numpy arrays on CPUs.

The same bits on every processor and for any number of threads, accurate at any offset, the speed of a memory copy.
`lanenorm.torch` has operators and modules for PyTorch.
"""

from lanenorm._native import (
    __version__,
    add_layer_norm,
    add_rms_norm,
    gated_layer_norm,
    gated_layer_norm_backward,
    gated_rms_norm,
    gated_rms_norm_backward,
    group_norm,
    group_norm_backward,
    isa,
    l2_norm,
    layer_norm,
    layer_norm_backward,
    layer_norm_quantized,
    rms_norm,
    rms_norm_backward,
    rms_norm_quantized,
)
from lanenorm._types import GateGradients, Gradients, Quantized, Statistics

__all__ = [
    "GateGradients",
    "Gradients",
    "Quantized",
    "Statistics",
    "__version__",
    "add_layer_norm",
    "add_rms_norm",
    "gated_layer_norm",
    "gated_layer_norm_backward",
    "gated_rms_norm",
    "gated_rms_norm_backward",
    "group_norm",
    "group_norm_backward",
    "isa",
    "l2_norm",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_quantized",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_quantized",
]
