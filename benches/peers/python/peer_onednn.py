"""oneDNN, by its C API, version 3. gamma and beta are f32 for all types, which is all that 3.2 takes.

Group normalization came with 3.3. SiLU as its post-operation, and layer normalization of channels that come first, are
left to reference code: primitives before and behind are faster.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_uint, c_void_p
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from cases import OF_COLS, OF_X, Buffers, Case, Images
from contender import Contender, NotAsked, Unsupported, dequantized, written

# From dnnl_types.h and dnnl_common_types.h.
CPU = 1
IN_ORDER = 1
F16, BF16, F32, S8 = 1, 2, 3, 5
# By the number of dimensions: those in the order of memory, and those whose second one is the innermost in memory.
TAGS = {1: 2, 2: 3, 3: 4, 4: 5}
TAGS_OF_SECOND = {3: 15, 4: 22}
FORWARD_INFERENCE = 96
FORWARD_TRAINING = 64
BACKWARD = 128
USE_SCALE_AND_SHIFT = 2 | 4
BINARY_ADD = 0x1FFF0
SWISH = 0x2C
ARGUMENTS = {
    "src": 1,
    "src_1": 2,
    "dst": 17,
    "mean": 49,
    "var": 50,
    "gamma_f32": 51,
    "beta_f32": 52,
    "scale_of_dst": 4096 | 17,
    "diff_src": 129,
    "diff_dst": 145,
    "dgamma": 255,
    "dbeta": 256,
}
DTYPES = {"f32": F32, "f16": F16, "bf16": BF16}


class Version(Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


class Argument(Structure):
    _fields_ = [("argument", c_int), ("memory", c_void_p)]


class Handle:
    """An object of the library, destroyed with this."""

    def __init__(self, value: c_void_p, destroy: Callable[[c_void_p], int]) -> None:
        self.value = value
        self._destroy = destroy

    def __del__(self) -> None:
        self._destroy(self.value)


def find_library() -> Path:
    """The library of the wheel."""
    for file in metadata.files("onednn-cpu-gomp") or []:
        if file.name == "libdnnl.so.3":
            return Path(str(file.locate())).resolve()
    raise ImportError("the wheel onednn-cpu-gomp has no libdnnl.so.3")


class OneDnn:
    """Primitives on the CPU engine. The number of threads is OpenMP's."""

    name = "onednn"

    def __init__(self, library: Path | None = None) -> None:
        self._library = ctypes.CDLL(str(library or find_library()))
        self._library.dnnl_version.restype = POINTER(Version)
        version = self._library.dnnl_version().contents
        self.version = f"{version.major}.{version.minor}.{version.patch}"
        # These two live as long as the process: primitives refer to them until its end.
        self._engine, self._stream = c_void_p(), c_void_p()
        self._call("engine_create", byref(self._engine), c_int(CPU), ctypes.c_size_t(0))
        self._call("stream_create", byref(self._stream), self._engine, c_uint(IN_ORDER))
        self._primitives: dict[tuple[Case, str], Handle] = {}

    def contenders(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        norm = {"src": "x", "dst": "y", "gamma_f32": "gamma_f32", "beta_f32": "beta_f32"}
        match case.op:
            case "layer_norm":
                run = self._bound(case, "norm", self._forward_desc, norm, buffers)
            case "layer_norm_i8_given":
                names = norm | {"dst": "q", "scale_of_dst": "scale"}
                buffers["scale"][0, 0] = buffers.problem.given_scale
                run = self._bound(case, "quantizing norm", self._quantizing_desc, names, buffers)
            case "add_layer_norm":
                add = self._bound(case, "add", self._add_desc, {"src": "x", "src_1": "residual", "dst": "sum"}, buffers)
                then = self._bound(case, "norm", self._forward_desc, norm | {"src": "sum"}, buffers)

                def run() -> int:
                    return add() or then()
            case "group_norm" | "group_norm_last":
                run = self._bound(case, "group norm", self._group_desc, norm, buffers)
            case "group_norm_silu":
                groups = self._bound(case, "group norm", self._group_desc, norm, buffers)
                silu = self._bound(case, "silu", self._silu_desc, {"src": "y", "dst": "y"}, buffers)

                def run() -> int:
                    return groups() or silu()
            case "layer_norm_channels":
                between = norm | {"src": "between", "dst": "between"}
                to_last = partial(self._reorder_desc, "x", "between")
                to_first = partial(self._reorder_desc, "between", "y")
                steps = [
                    self._bound(case, "to last", to_last, {"src": "x", "dst": "between"}, buffers),
                    self._bound(case, "norm", partial(self._forward_desc, name="between"), between, buffers),
                    self._bound(case, "to first", to_first, {"src": "between", "dst": "y"}, buffers),
                ]

                def run() -> int:
                    return steps[0]() or steps[1]() or steps[2]()
            case "layer_norm_backward":
                same = ("mean", "var", "gamma_f32", "beta_f32", "dgamma", "dbeta")
                names = {"src": "x", "diff_dst": "dy", "diff_src": "dx"} | {name: name for name in same}
                run = self._bound(case, "backward", self._backward_desc, names, buffers)
            case _ if case.is_quantized:
                raise NotAsked
            case _:
                raise Unsupported(f"no primitive for {case.op}")

        def outputs(status: object) -> dict:
            if status != 0:
                raise RuntimeError(f"oneDNN: status {status}")
            if case.is_quantized:
                return dequantized(buffers["q"].view(np.int8), buffers["scale"][0, 0])
            return written(buffers)(status)

        return [Contender(self.name, run, outputs)]

    def _bound(
        self,
        case: Case,
        kind: str,
        describe: Callable[[Case], Handle],
        names: dict[str, str],
        buffers: Buffers,
    ) -> Callable[[], int]:
        """A primitive with its arguments, which are named as oneDNN does and as the buffers are."""
        if (case, kind) not in self._primitives:
            description = describe(case)
            self._primitives[case, kind] = self._make("primitive", "primitive_create", description.value)
        memories = {argument: self._memory(case, name, buffers.address(name)) for argument, name in names.items()}
        arguments = (Argument * len(memories))(*((ARGUMENTS[name], m.value) for name, m in memories.items()))
        primitive = self._primitives[case, kind]
        execute = partial(
            self._library.dnnl_primitive_execute, primitive.value, self._stream, c_int(len(memories)), arguments
        )
        # The buffers of the arguments live as long as the call can be made.
        execute.keep = (memories, primitive)
        return execute

    def _forward_desc(self, case: Case, kind: int = FORWARD_INFERENCE, name: str = "x") -> Handle:
        x, stats = self._memory_desc(case, name), self._memory_desc(case, "mean")
        of = (self._engine, c_int(kind), x.value, x.value, stats.value)
        with_options = (c_float(case.eps), c_uint(USE_SCALE_AND_SHIFT), None)
        return self._make("primitive_desc", "layer_normalization_forward_primitive_desc_create", *of, *with_options)

    def _group_desc(self, case: Case) -> Handle:
        x = self._memory_desc(case, "x")
        of = (self._engine, c_int(FORWARD_INFERENCE), x.value, x.value, c_int64(case.shape.groups))
        with_options = (c_float(case.eps), c_uint(USE_SCALE_AND_SHIFT), None)
        return self._make("primitive_desc", "group_normalization_forward_primitive_desc_create", *of, *with_options)

    def _silu_desc(self, case: Case) -> Handle:
        y = self._memory_desc(case, "y")
        of = (self._engine, c_int(FORWARD_INFERENCE), c_int(SWISH), y.value, y.value, c_float(1), c_float(0), None)
        return self._make("primitive_desc", "eltwise_forward_primitive_desc_create", *of)

    def _quantizing_desc(self, case: Case) -> Handle:
        """y, divided by a scale and rounded to int8."""
        attributes = self._make("primitive_attr", "primitive_attr_create")
        self._call("primitive_attr_set_scales_mask", attributes.value, c_int(ARGUMENTS["dst"]), c_int(0))
        x, q, stats = (self._memory_desc(case, name) for name in ("x", "q", "mean"))
        of = (self._engine, c_int(FORWARD_INFERENCE), x.value, q.value, stats.value)
        with_options = (c_float(case.eps), c_uint(USE_SCALE_AND_SHIFT), attributes.value)
        return self._make("primitive_desc", "layer_normalization_forward_primitive_desc_create", *of, *with_options)

    def _backward_desc(self, case: Case) -> Handle:
        forward = self._forward_desc(case, FORWARD_TRAINING)
        x, stats = self._memory_desc(case, "x"), self._memory_desc(case, "mean")
        of = (self._engine, c_int(BACKWARD), x.value, x.value, x.value, stats.value)
        with_options = (c_float(case.eps), c_uint(USE_SCALE_AND_SHIFT), forward.value, None)
        return self._make("primitive_desc", "layer_normalization_backward_primitive_desc_create", *of, *with_options)

    def _reorder_desc(self, source: str, target: str, case: Case) -> Handle:
        x, y = self._memory_desc(case, source), self._memory_desc(case, target)
        of = (x.value, self._engine, y.value, self._engine, None)
        return self._make("primitive_desc", "reorder_primitive_desc_create", *of)

    def _add_desc(self, case: Case) -> Handle:
        x = self._memory_desc(case, "x")
        of = (self._engine, c_int(BINARY_ADD), x.value, x.value, x.value, None)
        return self._make("primitive_desc", "binary_primitive_desc_create", *of)

    def _memory(self, case: Case, name: str, address: int) -> Handle:
        description = self._memory_desc(case, name)
        return self._make("memory", "memory_create", description.value, self._engine, c_void_p(address))

    def _memory_desc(self, case: Case, name: str) -> Handle:
        of_x = name in OF_X or name == "q"
        dtype = S8 if name == "q" else DTYPES[case.dtype] if of_x else F32
        tags = TAGS
        if isinstance(case.shape, Images) and name not in OF_COLS:
            shape, tags = self._image_dims(case, case.shape, name)
        else:
            shape = [case.rows, case.cols] if of_x else [case.params] if name in OF_COLS else [case.rows]
        if name == "scale":
            shape = [1]
        dims = (c_int64 * 12)(*shape)
        of = (c_int(len(shape)), dims, c_int(dtype), c_int(tags[len(shape)]))
        return self._make("memory_desc", "memory_desc_create_with_tag", *of)

    def _image_dims(self, case: Case, shape: Images, name: str) -> tuple[list[int], dict[int, int]]:
        """The dimensions of x, of y, of what is between them, or of statistics, and their tags."""
        if shape.groups:
            tags = TAGS_OF_SECOND if case.is_channels_last else TAGS
            return [shape.samples, shape.channels, *shape.sides], tags
        pixels = [shape.samples, shape.pixels]
        if name not in OF_X:
            return pixels, TAGS
        return [*pixels, shape.channels], TAGS if name == "between" else TAGS_OF_SECOND

    def _make(self, kind: str, function: str, *arguments: object) -> Handle:
        made = c_void_p()
        self._call(function, byref(made), *arguments)
        return Handle(made, getattr(self._library, f"dnnl_{kind}_destroy"))

    def _call(self, function: str, *arguments: object) -> None:
        if not hasattr(self._library, f"dnnl_{function}"):
            raise Unsupported(f"version {self.version} has no dnnl_{function}")
        status = getattr(self._library, f"dnnl_{function}")(*arguments)
        if status != 0:
            raise Unsupported(f"dnnl_{function} returns status {status}")
