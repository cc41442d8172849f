"""The inputs: shapes, random values, page offsets, and the answers in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

EPS = 1e-5
PAGE = 4096
LINE = 64

LAYER_NORM_GRID = (
    "1x8 1x4096 1x16384 8x768 32x1024 128x768 512x384 512x768 2048x1024 4096x4096 65536x64 16384x128 197x1000 7x333 "
    "4x1000003 1x16777216"
).split()
OTHER_GRID = "8x768 512x768 2048x1024 4096x4096".split()
QUANTIZED_GRID = "512x768 8x4096 4096x4096".split()
BACKWARD_GRID = "512x768 2048x1024 4096x4096".split()
GRID = {
    ("layer_norm", "f32"): LAYER_NORM_GRID,
    ("layer_norm", "bf16"): OTHER_GRID,
    ("layer_norm", "f16"): OTHER_GRID,
    ("rms_norm", "f32"): OTHER_GRID,
    ("add_layer_norm", "f32"): OTHER_GRID,
    ("layer_norm_i8", "f32"): QUANTIZED_GRID,
    ("layer_norm_i8", "bf16"): QUANTIZED_GRID,
    ("rms_norm_i8", "f32"): QUANTIZED_GRID,
    ("rms_norm_i8", "bf16"): QUANTIZED_GRID,
    ("layer_norm_u8", "f32"): QUANTIZED_GRID,
    ("layer_norm_i8_given", "f32"): QUANTIZED_GRID,
    ("rms_norm_q8_0", "f32"): QUANTIZED_GRID,
    ("layer_norm_backward", "f32"): BACKWARD_GRID,
    ("layer_norm_backward", "bf16"): BACKWARD_GRID,
}

# The arrays that have the type of x, and the arrays of one row.
OF_X = {"x", "residual", "y", "sum", "dy", "dx"}
OF_COLS = {"gamma", "beta", "gamma_f32", "beta_f32", "dgamma", "dbeta"}
INPUTS = {
    "layer_norm": ("x", "gamma", "beta"),
    "rms_norm": ("x", "gamma"),
    "add_layer_norm": ("x", "residual", "gamma", "beta"),
    "layer_norm_i8": ("x", "gamma", "beta"),
    "rms_norm_i8": ("x", "gamma"),
    "layer_norm_u8": ("x", "gamma", "beta"),
    "layer_norm_i8_given": ("x", "gamma", "beta"),
    "rms_norm_q8_0": ("x", "gamma"),
    "layer_norm_backward": ("dy", "x", "gamma", "beta"),
}
# What 8 bits stand for: int8 with a scale for each row, uint8 with one scale and one zero point, int8 with a scale that
# is given, and the blocks of GGUF. Their output is y, from the elements and the scales.
QUANTIZED = ("layer_norm_i8", "rms_norm_i8", "layer_norm_u8", "layer_norm_i8_given", "rms_norm_q8_0")
BLOCK, BLOCK_BYTES = 32, 34
OUTPUTS = {
    "layer_norm": ("y",),
    "rms_norm": ("y",),
    "add_layer_norm": ("y", "sum"),
    **dict.fromkeys(QUANTIZED, ("y",)),
    "layer_norm_backward": ("dx", "dgamma", "dbeta"),
}


@dataclass(frozen=True)
class Case:
    """An operation on a shape. The types are f32, f16 (as float16) and bf16 (by its bits, as uint16)."""

    op: str
    dtype: str
    rows: int
    cols: int
    eps: float = EPS

    @property
    def shape(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def name(self) -> str:
        return f"{self.op}/{self.dtype}/{self.shape}"

    @property
    def elements(self) -> int:
        return self.rows * self.cols

    @property
    def is_centered(self) -> bool:
        return not self.op.startswith("rms_norm")

    @property
    def is_quantized(self) -> bool:
        return self.op in QUANTIZED

    @property
    def is_valid(self) -> bool:
        """Whether rows are whole blocks, where there are blocks."""
        return not self.op.endswith("q8_0") or self.cols % BLOCK == 0

    @property
    def outputs(self) -> tuple[str, ...]:
        return OUTPUTS[self.op]

    @property
    def numpy_dtype(self) -> type[np.generic]:
        return {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}[self.dtype]


def all_cases(shapes: list[str] | None = None, ops: list[str] | None = None) -> list[Case]:
    """The grid, or its cases with these shapes and operations; shapes that it lacks are added for LayerNorm in f32."""
    grid = {key: list(names) for key, names in GRID.items()}
    if shapes:
        grid = {key: [s for s in names if s in shapes] for key, names in grid.items()}
        grid["layer_norm", "f32"] = shapes
    cases = [Case(op, dtype, *parse_shape(s)) for (op, dtype), names in grid.items() for s in names]
    return [case for case in cases if ops is None or case.op in ops]


def parse_shape(shape: str) -> tuple[int, int]:
    rows, cols = shape.split("x")
    return int(rows), int(cols)


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds floats to a type, to nearest, ties to even."""
    if dtype == "bf16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype({"f32": np.float32, "f16": np.float16}[dtype])


def decode(values: np.ndarray) -> np.ndarray:
    """An array of any of the types in float64; uint16 counts as bf16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def random_inputs(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Standard normal rows, gamma around 1 and beta around 0."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    inputs = {name: normal(case.rows, case.cols) for name in INPUTS[case.op] if name in OF_X}
    inputs["gamma"] = 1 + 0.1 * normal(case.cols)
    inputs["beta"] = 0.1 * normal(case.cols)
    return {name: encode(values, case.dtype) for name, values in inputs.items()}


class Problem:
    """A case with its inputs and their answers."""

    def __init__(self, case: Case, inputs: dict[str, np.ndarray]) -> None:
        self.case = case
        self.inputs = inputs

    @classmethod
    def random(cls, case: Case, seed: int = 0) -> Problem:
        return cls(case, random_inputs(case, np.random.default_rng(seed)))

    @cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """The outputs in float64, by the formulas."""
        case = self.case
        given = {name: decode(values) for name, values in self.inputs.items()}
        x, gamma, beta = given["x"], given["gamma"], given["beta"]
        if not case.is_centered:
            return {"y": x / np.sqrt((x * x).mean(1, keepdims=True) + case.eps) * gamma}
        answers = {}
        if case.op == "add_layer_norm":
            rounded = encode((x + given["residual"]).astype(np.float32), case.dtype)
            x = answers["sum"] = decode(rounded)
        centered = x - x.mean(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            rstd = 1 / np.sqrt((centered * centered).mean(1, keepdims=True) + case.eps)
            normalized = centered * rstd
        if case.op != "layer_norm_backward":
            return answers | {"y": normalized * gamma + beta}
        dy = given["dy"]
        scaled = dy * gamma
        along = (scaled * normalized).mean(1, keepdims=True)
        dx = rstd * (scaled - scaled.mean(1, keepdims=True) - normalized * along)
        return {"dx": dx, "dgamma": (dy * normalized).sum(0), "dbeta": dy.sum(0)}

    @cached_property
    def statistics(self) -> dict[str, np.ndarray]:
        """The statistics of a forward call, rounded to f32: mean, rstd and var of each row."""
        x = decode(self.inputs["x"])
        mean, var = x.mean(1), x.var(1)
        kept = {"mean": mean, "var": var, "rstd": 1 / np.sqrt(var + self.case.eps)}
        return {name: values.astype(np.float32) for name, values in kept.items()}

    @cached_property
    def given_scale(self) -> float:
        """The scale with which the answer fills int8, as a float32."""
        return float(np.float32(np.abs(self.answers["y"]).max() / 127))

    def error(self, outputs: dict[str, np.ndarray], relative: bool = True) -> float:
        """The largest error of any output, divided by the largest answer of that output (or 1 if that is smaller)."""
        errors = []
        for name, answer in self.answers.items():
            with np.errstate(invalid="ignore", over="ignore"):
                error = np.abs(decode(outputs[name]) - answer).max()
            errors.append(error / max(1.0, np.abs(answer).max()) if relative else error)
        return float(np.max(errors))


def random_offset(shape: tuple[int, ...], dtype: type[np.generic], rng: np.random.Generator) -> np.ndarray:
    """Zeros that start at a random cache line of a page, their pages touched.

    Loads are slow that are a few bytes behind stores modulo 4096, and an allocator deals out one such offset only.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 2 * PAGE, np.uint8)
    memory.fill(0)
    start = -memory.ctypes.data % PAGE + int(rng.integers(PAGE // LINE)) * LINE
    return memory[start : start + size].view(dtype).reshape(shape)


class Buffers:
    """The arrays of a problem at random places, made when they are first asked for and shared by all contenders."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem = problem
        self._rng = rng
        self._arrays: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = self._make(name)
        return self._arrays[name]

    def address(self, name: str) -> int:
        return self[name].ctypes.data

    def _make(self, name: str) -> np.ndarray:
        case = self.problem.case
        if name == "q":
            bytes_of_row = case.cols // BLOCK * BLOCK_BYTES if case.op.endswith("q8_0") else case.cols
            return random_offset((case.rows, bytes_of_row), np.uint8, self._rng)
        if name == "scale":
            return random_offset((case.rows, 1), np.float32, self._rng)
        if name == "zero_point":
            return random_offset((1, 1), np.uint8, self._rng)
        of_f32 = name.endswith("_f32") or name in {"mean", "var", "rstd", "dgamma", "dbeta"}
        dtype = np.float32 if of_f32 else case.numpy_dtype
        shape = (case.cols,) if name in OF_COLS else (case.rows, case.cols) if name in OF_X else (case.rows,)
        array = random_offset(shape, dtype, self._rng)
        if name in self.problem.inputs:
            array[:] = self.problem.inputs[name]
        elif name in {"mean", "var", "rstd"}:
            array[:] = self.problem.statistics[name]
        elif name in {"gamma_f32", "beta_f32"}:
            array[:] = decode(self.problem.inputs[name.removesuffix("_f32")])
        return array
