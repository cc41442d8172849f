from collections.abc import Sequence
from typing import Any, Literal, overload

from numpy import ndarray
from numpy.typing import ArrayLike

from lanenorm._types import GateGradients, Gradients, Quantized, Statistics

_Axis = int | Sequence[int]
_Rounding = Literal["once", "steps", "gamma", "steps_and_gamma"]
_Sums = Literal["rounded", "statistics", "unrounded"]
_Gate = Literal["silu", "sigmoid", "gelu_tanh", "silu_before", "sigmoid_before", "gelu_tanh_before"]
_Function = Literal["silu", "sigmoid", "gelu_tanh"]
_Scheme = Literal[
    "i8",
    "torch_ao_i8",
    "torchao_i8",
    "vllm_i8",
    "u8",
    "onnx_u8",
    "q8_0",
    "q8_0_x86",
    "q8_1",
    "q8_1_x86",
    "q8_k",
    "e4m3",
    "e5m2",
]
# What speaks DLPack has no type of its own.
_Array = ArrayLike | Any

__version__: str

def isa() -> str: ...
def register_torch(libtorch_cpu: str, libc10: str) -> None: ...
@overload
def layer_norm(
    x: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> ndarray: ...
@overload
def layer_norm(
    x: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, Statistics]: ...
@overload
def rms_norm(
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> ndarray: ...
@overload
def rms_norm(
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, Statistics]: ...
def l2_norm(
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-12,
    *,
    inside: bool = False,
    axis: _Axis = -1,
    out: ndarray | None = None,
    threads: int | None = None,
) -> ndarray: ...
@overload
def add_layer_norm(
    x: _Array,
    residual: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    bias: _Array | None = None,
    axis: _Axis = -1,
    out: ndarray | None = None,
    sum_out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    sums: _Sums = "rounded",
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> tuple[ndarray, ndarray]: ...
@overload
def add_layer_norm(
    x: _Array,
    residual: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    bias: _Array | None = None,
    axis: _Axis = -1,
    out: ndarray | None = None,
    sum_out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    sums: _Sums = "rounded",
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, ndarray, Statistics]: ...
@overload
def add_rms_norm(
    x: _Array,
    residual: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    bias: _Array | None = None,
    axis: _Axis = -1,
    out: ndarray | None = None,
    sum_out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    sums: _Sums = "rounded",
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> tuple[ndarray, ndarray]: ...
@overload
def add_rms_norm(
    x: _Array,
    residual: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    bias: _Array | None = None,
    axis: _Axis = -1,
    out: ndarray | None = None,
    sum_out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    sums: _Sums = "rounded",
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, ndarray, Statistics]: ...
def layer_norm_backward(
    dy: _Array,
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-5,
    *,
    statistics: Statistics | None = None,
    ds: _Array | None = None,
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    threads: int | None = None,
) -> Gradients: ...
def rms_norm_backward(
    dy: _Array,
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    statistics: Statistics | None = None,
    ds: _Array | None = None,
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    threads: int | None = None,
) -> Gradients: ...
@overload
def gated_layer_norm(
    x: _Array,
    z: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    gate: _Gate = "silu",
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> ndarray: ...
@overload
def gated_layer_norm(
    x: _Array,
    z: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    gate: _Gate = "silu",
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, Statistics]: ...
@overload
def gated_rms_norm(
    x: _Array,
    z: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    gate: _Gate = "silu",
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> ndarray: ...
@overload
def gated_rms_norm(
    x: _Array,
    z: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    gate: _Gate = "silu",
    axis: _Axis = -1,
    out: ndarray | None = None,
    offset: float = 0.0,
    rounding: _Rounding = "once",
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, Statistics]: ...
def gated_layer_norm_backward(
    dy: _Array,
    x: _Array,
    z: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    gate: _Gate = "silu",
    axis: _Axis = -1,
    offset: float = 0.0,
    threads: int | None = None,
) -> GateGradients: ...
def gated_rms_norm_backward(
    dy: _Array,
    x: _Array,
    z: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    gate: _Gate = "silu",
    axis: _Axis = -1,
    offset: float = 0.0,
    threads: int | None = None,
) -> GateGradients: ...
@overload
def group_norm(
    x: _Array,
    groups: int,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    channels_last: bool = False,
    activation: _Function | None = None,
    out: ndarray | None = None,
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> ndarray: ...
@overload
def group_norm(
    x: _Array,
    groups: int,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    channels_last: bool = False,
    activation: _Function | None = None,
    out: ndarray | None = None,
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[ndarray, Statistics]: ...
def group_norm_backward(
    dy: _Array,
    x: _Array,
    groups: int,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    channels_last: bool = False,
    activation: _Function | None = None,
    statistics: Statistics | None = None,
    threads: int | None = None,
) -> Gradients: ...
@overload
def layer_norm_quantized(
    x: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    scheme: _Scheme = "i8",
    block: int | None = None,
    scale: float | None = None,
    zero_point: int = 0,
    axis: _Axis = -1,
    offset: float = 0.0,
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> Quantized: ...
@overload
def layer_norm_quantized(
    x: _Array,
    gamma: _Array | None = None,
    beta: _Array | None = None,
    eps: float = 1e-5,
    *,
    scheme: _Scheme = "i8",
    block: int | None = None,
    scale: float | None = None,
    zero_point: int = 0,
    axis: _Axis = -1,
    offset: float = 0.0,
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[Quantized, Statistics]: ...
@overload
def rms_norm_quantized(
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    scheme: _Scheme = "i8",
    block: int | None = None,
    scale: float | None = None,
    zero_point: int = 0,
    axis: _Axis = -1,
    offset: float = 0.0,
    statistics: Literal[False] = False,
    threads: int | None = None,
) -> Quantized: ...
@overload
def rms_norm_quantized(
    x: _Array,
    gamma: _Array | None = None,
    eps: float = 1e-6,
    *,
    scheme: _Scheme = "i8",
    block: int | None = None,
    scale: float | None = None,
    zero_point: int = 0,
    axis: _Axis = -1,
    offset: float = 0.0,
    statistics: Literal[True],
    threads: int | None = None,
) -> tuple[Quantized, Statistics]: ...
