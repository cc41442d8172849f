"""lanenorm, by its C ABI (include/lanenorm.h)."""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint64, c_void_p, sizeof
from functools import partial
from pathlib import Path

import numpy as np

from cases import Buffers, Case, Images
from contender import Contender, dequantized, from_blocks, written

# Of the header.
F32, BF16 = 1, 4
SCOPE_GIVEN = 3
CHANNELS_LAST = 1
SILU = 1
PRESETS = {"i8": 0, "i8_given": 0, "u8": 5, "q8_0": 7}


class Desc(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        *((name, c_int32) for name in ("op", "dtype", "gamma_dtype", "y_dtype", "store", "tier")),
        ("cols", c_size_t),
        ("eps", c_double),
        ("groups", c_size_t),
        ("group_repeat", c_size_t),
        ("gamma_offset", c_float),
        ("sum_dtype", c_int32),
        ("rounding", c_int32),
        ("sums", c_int32),
    ]


class Rows(Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_size_t), ("outer_stride", c_size_t)]


class ForwardBuffers(Structure):
    _fields_ = [
        *((name, c_size_t) for name in ("struct_size", "rows", "inner_rows")),
        *((name, Rows) for name in ("x", "residual", "sum", "y")),
        *((name, c_void_p) for name in ("bias", "gamma", "beta", "mean", "mean_lo", "rstd")),
    ]


class Scheme(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        *((name, c_int32) for name in ("format", "scope", "layout", "quotient", "ties", "least")),
        ("block", c_size_t),
        *((name, c_float) for name in ("divisor", "least_amax", "least_scale", "zero_scale", "given_scale")),
        ("given_zero_point", c_int32),
    ]


class Quantized(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("q", Rows),
        *((name, c_void_p) for name in ("scale", "zero_point", "ranges")),
        ("range_count", c_size_t),
    ]


class Gate(Structure):
    _fields_ = [("struct_size", c_size_t), ("z", Rows), ("z_dtype", c_int32), ("kind", c_int32)]


class Channels(Structure):
    _fields_ = [
        *((name, c_size_t) for name in ("struct_size", "samples", "pixels", "groups")),
        *((name, c_int32) for name in ("order", "activation")),
        *((name, c_void_p) for name in ("x", "y", "gamma", "beta", "mean", "mean_lo", "rstd")),
    ]


class Lanenorm:
    """The functions of the C ABI, on the calling thread or on all threads of the pool."""

    name = "lanenorm"

    def __init__(self, library: Path, threads: int) -> None:
        self._library = ctypes.CDLL(str(library))
        for function in ("lanenorm_version", "lanenorm_isa_name", "lanenorm_last_error_message"):
            getattr(self._library, function).restype = c_char_p
        self.version = self._library.lanenorm_version().decode()
        self.isa = self._library.lanenorm_isa_name().decode()
        self._threads = c_size_t(1 if threads == 1 else 0)

    def contenders(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        if case.is_quantized:
            return self._quantizing(buffers)
        if isinstance(case.shape, Images):
            return self._channels(buffers, case.shape)
        if case.op == "gated_rms_norm":
            return self._gated(buffers)

        def pointers(*names: str) -> list[c_void_p]:
            return [c_void_p(buffers.address(name)) for name in names]

        eps = c_float(case.eps)
        size = [c_size_t(case.rows), c_size_t(case.cols)]
        match case.op:
            case "layer_norm":
                arguments = [*pointers("x"), *size, *pointers("gamma", "beta"), eps, *pointers("y"), None, None]
            case "rms_norm":
                arguments = [*pointers("x"), *size, *pointers("gamma"), c_float(0), eps, *pointers("y"), None]
            case "add_layer_norm":
                arguments = [*pointers("x", "residual"), *size, *pointers("gamma", "beta"), eps, *pointers("sum", "y")]
            case "layer_norm_backward":
                given = [*pointers("dy", "x", "mean", "rstd"), *size, *pointers("gamma"), eps]
                arguments = [*given, *pointers("dx", "dgamma", "dbeta")]
            case _:
                raise AssertionError(case.op)
        return self._writing(buffers, f"{case.op}_{case.dtype}", *arguments)

    def _writing(self, buffers: Buffers, function: str, *arguments: object) -> list[Contender]:
        """A function that writes all outputs to the buffers."""
        run = partial(getattr(self._library, f"lanenorm_{function}"), *arguments, self._threads)

        def outputs(status: object) -> dict[str, np.ndarray]:
            self._expect(status)
            return written(buffers)(status)

        return [Contender(self.name, run, outputs)]

    def _plan(self, case: Case) -> ctypes.Array:
        """A plan, which is made before the calls."""
        desc = Desc(struct_size=sizeof(Desc), op=int(not case.is_centered), cols=case.params, eps=case.eps)
        desc.dtype = BF16 if case.dtype == "bf16" else F32
        plan = (c_uint64 * 16)()
        self._expect(self._library.lanenorm_plan_init(plan, byref(desc)))
        return plan

    def _channels(self, buffers: Buffers, shape: Images) -> list[Contender]:
        case = buffers.problem.case
        of = Channels(sizeof(Channels), shape.samples, shape.pixels, shape.groups)
        of.order = CHANNELS_LAST if case.is_channels_last else 0
        of.activation = SILU if case.has_silu else 0
        for name in ("x", "y", "gamma", "beta"):
            setattr(of, name, buffers.address(name))
        return self._writing(buffers, "plan_channels", self._plan(case), byref(of))

    def _gated(self, buffers: Buffers) -> list[Contender]:
        x, y, z = (Rows(buffers.address(name)) for name in ("x", "y", "z"))
        of = ForwardBuffers(sizeof(ForwardBuffers), buffers.problem.case.rows, x=x, y=y, gamma=buffers.address("gamma"))
        gate = Gate(sizeof(Gate), z)
        return self._writing(buffers, "plan_gate", self._plan(buffers.problem.case), byref(of), byref(gate))

    def _quantizing(self, buffers: Buffers) -> list[Contender]:
        """By a plan and a scheme."""
        case, problem = buffers.problem.case, buffers.problem
        name = case.op.removeprefix("layer_norm_").removeprefix("rms_norm_")
        scheme = Scheme(struct_size=sizeof(Scheme))
        self._expect(self._library.lanenorm_scheme_init(byref(scheme), c_int32(PRESETS[name])))
        if name == "i8_given":
            scheme.scope, scheme.least, scheme.given_scale = SCOPE_GIVEN, -128, problem.given_scale
        x, q = (Rows(buffers.address(array)) for array in ("x", "q"))
        of = ForwardBuffers(struct_size=sizeof(ForwardBuffers), rows=case.rows, x=x, gamma=buffers.address("gamma"))
        if case.is_centered:
            of.beta = buffers.address("beta")
        to = Quantized(struct_size=sizeof(Quantized), q=q)
        if name in {"i8", "u8"}:
            to.scale = buffers.address("scale")
        if name == "u8":
            to.zero_point = buffers.address("zero_point")
        quantize = self._library.lanenorm_plan_quantize
        run = partial(quantize, self._plan(case), byref(of), byref(scheme), byref(to), self._threads)

        def outputs(status: object) -> dict[str, np.ndarray]:
            self._expect(status)
            q, scale = buffers["q"], buffers["scale"]
            match name:
                case "q8_0":
                    return from_blocks(q)
                case "u8":
                    return dequantized(q, scale[0, 0], int(buffers["zero_point"][0, 0]))
                case "i8_given":
                    return dequantized(q.view(np.int8), problem.given_scale)
            return dequantized(q.view(np.int8), scale)

        return [Contender(self.name, run, outputs)]

    def _expect(self, status: object) -> None:
        if status != 0:
            raise RuntimeError(f"lanenorm: {self._library.lanenorm_last_error_message().decode()}")
