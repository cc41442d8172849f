"""ggml, by its C API: the shared libraries of the wheel pywhispercpp."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_bool, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from cases import Buffers
from contender import Contender, NotAsked, Unsupported, from_blocks

# Of enum ggml_type.
F32, Q8_0 = 0, 8
CONTEXT_BYTES = 1 << 20


class InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


def load(name: str) -> ctypes.CDLL:
    """A library of the wheel. Those that need each other are in a folder of their own."""
    for file in metadata.files("pywhispercpp") or []:
        if file.name.startswith(f"lib{name}-") and file.parent.name == "pywhispercpp.libs":
            return ctypes.CDLL(str(Path(str(file.locate())).resolve()), mode=ctypes.RTLD_GLOBAL)
    raise ImportError(f"the wheel pywhispercpp has no {name}")


class Graph:
    """RMSNorm, the product with gamma, and the copy to blocks, on the buffers. ggml does the first two in one pass."""

    def __init__(self, base: ctypes.CDLL, buffers: Buffers) -> None:
        case = buffers.problem.case
        self._base = base
        # Metadata alone: the arrays are those of the buffers.
        self.context = c_void_p(base.ggml_init(InitParams(CONTEXT_BYTES, None, True)))
        self._memories: list[c_void_p] = []

        def tensor(kind: int, *shape: int) -> c_void_p:
            dims = (c_int64(n) for n in (*shape, *(1,) * (4 - len(shape))))
            return c_void_p(base.ggml_new_tensor_4d(self.context, c_int(kind), *dims))

        x, gamma = tensor(F32, case.cols, case.rows), tensor(F32, case.cols)
        q = tensor(Q8_0, case.cols, case.rows)
        normalized = c_void_p(base.ggml_rms_norm(self.context, x, c_float(case.eps)))
        y = c_void_p(base.ggml_mul(self.context, normalized, gamma))
        copied = c_void_p(base.ggml_cpy(self.context, y, q))
        # As its allocator would, the product lies where its factor was.
        for of, name in ((x, "x"), (gamma, "gamma"), (q, "q"), (normalized, "y"), (y, "y")):
            self._put(of, buffers[name])
        base.ggml_backend_view_init(copied)
        self.graph = c_void_p(base.ggml_new_graph(self.context))
        base.ggml_build_forward_expand(self.graph, copied)

    def _put(self, tensor: c_void_p, array: np.ndarray) -> None:
        start = c_void_p(array.ctypes.data)
        memory = c_void_p(self._base.ggml_backend_cpu_buffer_from_ptr(start, c_size_t(array.nbytes)))
        self._memories.append(memory)
        if self._base.ggml_backend_tensor_alloc(memory, tensor, start) != 0:
            raise Unsupported("ggml does not take the buffers")

    def __del__(self) -> None:
        self._base.ggml_free(self.context)
        for memory in self._memories:
            self._base.ggml_backend_buffer_free(memory)


class Ggml:
    """Graphs on the backend for CPUs."""

    name = "ggml"

    def __init__(self, threads: int) -> None:
        self._base, cpu = load("ggml-base"), load("ggml-cpu")
        for function in (
            *("ggml_init", "ggml_new_tensor_4d", "ggml_rms_norm", "ggml_mul", "ggml_cpy", "ggml_new_graph"),
            "ggml_backend_cpu_buffer_from_ptr",
        ):
            getattr(self._base, function).restype = c_void_p
        self._base.ggml_version.restype = ctypes.c_char_p
        self.version = self._base.ggml_version().decode()
        cpu.ggml_backend_cpu_init.restype = c_void_p
        self._backend = c_void_p(cpu.ggml_backend_cpu_init())
        cpu.ggml_backend_cpu_set_n_threads(self._backend, c_int(threads))

    def contenders(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        if case.op != "rms_norm_q8_0":
            raise NotAsked
        graph = Graph(self._base, buffers)
        run = partial(self._base.ggml_backend_graph_compute, self._backend, graph.graph)
        # The graph lives as long as the call can be made.
        run.keep = graph

        def outputs(status: object) -> dict[str, np.ndarray]:
            if status != 0:
                raise RuntimeError(f"ggml: status {status}")
            return from_blocks(buffers["q"])

        return [Contender(self.name, run, outputs)]
