"""lanenorm, by its C ABI (include/lanenorm.h)."""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int, c_size_t, c_void_p
from functools import partial
from pathlib import Path

import numpy as np

from cases import Buffers
from contender import Contender, Unsupported, dequantized, from_blocks, written

SCHEMES = {"i8": 0, "u8": 1, "i8_given": 2, "q8_0": 3}


class Lanenorm:
    """The functions of the C ABI, on the calling thread or on all threads of the pool."""

    name = "lanenorm"

    def __init__(self, library: Path, quantized: Path, threads: int) -> None:
        self._library = ctypes.CDLL(str(library))
        for function in ("lanenorm_version", "lanenorm_isa_name", "lanenorm_last_error_message"):
            getattr(self._library, function).restype = c_char_p
        self.version = self._library.lanenorm_version().decode()
        self.isa = self._library.lanenorm_isa_name().decode()
        self._quantized = ctypes.CDLL(str(quantized)) if quantized.exists() else None
        self._threads = c_size_t(1 if threads == 1 else 0)

    def contenders(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        if case.is_quantized:
            return self._quantizing(buffers)

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
        run = partial(getattr(self._library, f"lanenorm_{case.op}_{case.dtype}"), *arguments, self._threads)

        def outputs(status: object) -> dict[str, np.ndarray]:
            if status != 0:
                raise RuntimeError(f"lanenorm: {self._library.lanenorm_last_error_message().decode()}")
            return written(buffers)(status)

        return [Contender(self.name, run, outputs)]

    def _quantizing(self, buffers: Buffers) -> list[Contender]:
        """The C ABI has no such calls. A library of this benchmark has."""
        if self._quantized is None:
            raise Unsupported("the library of quantized calls is not built")
        case, problem = buffers.problem.case, buffers.problem
        scheme = case.op.removeprefix("layer_norm_").removeprefix("rms_norm_")
        beta = c_void_p(buffers.address("beta") if case.is_centered else None)
        given = c_float(problem.given_scale if scheme == "i8_given" else 0)
        run = partial(
            self._quantized.lanenorm_quantize,
            *(c_bool(case.is_centered), c_bool(case.dtype == "bf16"), c_int(SCHEMES[scheme])),
            *(c_void_p(buffers.address("x")), c_size_t(case.rows), c_size_t(case.cols)),
            *(c_void_p(buffers.address("gamma")), beta, c_float(case.eps), given),
            *(c_void_p(buffers.address(name)) for name in ("q", "scale", "zero_point")),
            self._threads,
        )

        def outputs(status: object) -> dict[str, np.ndarray]:
            if status != 0:
                raise RuntimeError("lanenorm refuses the call")
            q, scale = buffers["q"], buffers["scale"]
            match scheme:
                case "q8_0":
                    return from_blocks(q)
                case "u8":
                    return dequantized(q, scale[0, 0], int(buffers["zero_point"][0, 0]))
                case "i8_given":
                    return dequantized(q.view(np.int8), problem.given_scale)
            return dequantized(q.view(np.int8), scale)

        return [Contender(self.name, run, outputs)]
