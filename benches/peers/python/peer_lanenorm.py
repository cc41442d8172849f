"""lanenorm, by its C ABI (include/lanenorm.h)."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_float, c_size_t, c_void_p
from functools import partial
from pathlib import Path

import numpy as np

from cases import Buffers
from contender import Contender, written


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
