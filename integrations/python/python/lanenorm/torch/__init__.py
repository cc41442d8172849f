"""Layer and RMS normalization for PyTorch on CPUs.

`accelerate` replaces the norms of a model, and `restore` undoes that. `LayerNorm`, `RMSNorm`, `AddLayerNorm` and
`AddRMSNorm` are modules, and `layer_norm`, `rms_norm`, `add_layer_norm` and `add_rms_norm` functions, with gradients.
Operators are in ``torch.ops.lanenorm``; they are the quickest way of calling, with positional arguments.

Calls use as many threads as ``torch.get_num_threads()`` says, of the library and not of OpenMP. Results have the same
bits for any number of them.
"""

from lanenorm.torch._accelerate import accelerate, restore
from lanenorm.torch._functions import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from lanenorm.torch._modules import AddLayerNorm, AddRMSNorm, LayerNorm, RMSNorm

__all__ = [
    "AddLayerNorm",
    "AddRMSNorm",
    "LayerNorm",
    "RMSNorm",
    "accelerate",
    "add_layer_norm",
    "add_rms_norm",
    "layer_norm",
    "restore",
    "rms_norm",
]
