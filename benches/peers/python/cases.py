"""The inputs: shapes, random values, page offsets, and the answers in float64."""

from __future__ import annotations

import math
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
GATED_GRID = ["512x4096"]
# Diffusion models, and a ResNet.
GROUPS_GRID = "1x320/32x4096 2x640/32x1024 2x1280/32x64 8x256/32x49".split()
# ConvNeXt.
CHANNELS_GRID = "8x96x3136 8x384x196 8x768x49".split()
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
    ("gated_rms_norm", "f32"): GATED_GRID,
    ("gated_rms_norm", "bf16"): GATED_GRID,
    ("group_norm", "f32"): GROUPS_GRID,
    ("group_norm", "bf16"): GROUPS_GRID,
    ("group_norm_silu", "f32"): GROUPS_GRID,
    ("group_norm_silu", "bf16"): GROUPS_GRID,
    ("group_norm_last", "f32"): GROUPS_GRID,
    ("group_norm_last", "bf16"): GROUPS_GRID,
    ("layer_norm_channels", "f32"): CHANNELS_GRID,
    ("layer_norm_channels", "bf16"): CHANNELS_GRID,
}

# The arrays that have the type and the size of x, and those of an element for each column or channel. `between` is for
# what passes between two calls.
OF_X = {"x", "residual", "z", "y", "sum", "dy", "dx", "between"}
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
    "gated_rms_norm": ("x", "z", "gamma"),
    "group_norm": ("x", "gamma", "beta"),
    "group_norm_silu": ("x", "gamma", "beta"),
    "group_norm_last": ("x", "gamma", "beta"),
    "layer_norm_channels": ("x", "gamma", "beta"),
}
# What 8 bits stand for: int8 with a scale for each row, uint8 with one scale and one zero point, int8 with a scale that
# is given, and the blocks of GGUF. Their output is y, from the elements and the scales.
QUANTIZED = ("layer_norm_i8", "rms_norm_i8", "layer_norm_u8", "layer_norm_i8_given", "rms_norm_q8_0")
BLOCK, BLOCK_BYTES = 32, 34
OUTPUTS = dict.fromkeys(INPUTS, ("y",)) | {
    "add_layer_norm": ("y", "sum"),
    "layer_norm_backward": ("dx", "dgamma", "dbeta"),
}


@dataclass(frozen=True)
class Rows:
    """Rows that are normalized, each by itself: `512x768`."""

    rows: int
    cols: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"


@dataclass(frozen=True)
class Images:
    """Samples of channels of pixels. What is normalized are groups of channels, `1x320/32x4096`, or the channels of
    each pixel, `8x96x3136`."""

    samples: int
    channels: int
    pixels: int
    groups: int = 0

    @property
    def rows(self) -> int:
        return self.samples * (self.groups or self.pixels)

    @property
    def cols(self) -> int:
        return self.channels // self.groups * self.pixels if self.groups else self.channels

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width: those of a square, if it is one."""
        side = math.isqrt(self.pixels)
        return (side, side) if side * side == self.pixels else (1, self.pixels)

    def __str__(self) -> str:
        groups = f"/{self.groups}" if self.groups else ""
        return f"{self.samples}x{self.channels}{groups}x{self.pixels}"


Shape = Rows | Images


@dataclass(frozen=True)
class Case:
    """An operation on a shape. The types are f32, f16 (as float16) and bf16 (by its bits, as uint16)."""

    op: str
    dtype: str
    shape: Shape
    eps: float = EPS

    @property
    def rows(self) -> int:
        return self.shape.rows

    @property
    def cols(self) -> int:
        return self.shape.cols

    @property
    def tensor(self) -> tuple[int, ...]:
        """The shape of x, in the order of memory."""
        if isinstance(self.shape, Rows):
            return self.rows, self.cols
        samples, channels, pixels = self.shape.samples, self.shape.channels, self.shape.pixels
        return (samples, pixels, channels) if self.is_channels_last else (samples, channels, pixels)

    @property
    def params(self) -> int:
        """The elements of gamma."""
        return self.cols if isinstance(self.shape, Rows) else self.shape.channels

    @property
    def name(self) -> str:
        return f"{self.op}/{self.dtype}/{self.shape}"

    @property
    def elements(self) -> int:
        return self.rows * self.cols

    @property
    def is_centered(self) -> bool:
        return "rms_norm" not in self.op

    @property
    def is_of_images(self) -> bool:
        return isinstance(self.shape, Images)

    @property
    def is_channels_last(self) -> bool:
        return self.op.endswith("_last")

    @property
    def has_silu(self) -> bool:
        return self.op.endswith("_silu")

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


def all_cases(
    shapes: list[str] | None = None, ops: list[str] | None = None, dtypes: list[str] | None = None
) -> list[Case]:
    """The grid, or its cases with these shapes, operations and types. Shapes that it lacks are added for an operation
    of their form, in f32."""
    grid = {key: [parse_shape(s) for s in names] for key, names in GRID.items()}
    if shapes:
        wanted = [parse_shape(s) for s in shapes]
        lacking = [s for s in wanted if not any(s in of_op for of_op in grid.values())]
        grid = {key: [s for s in of_op if s in wanted] for key, of_op in grid.items()}
        for shape in lacking:
            grid[op_of_form(shape), "f32"].append(shape)
    cases = [Case(op, dtype, shape) for (op, dtype), of_op in grid.items() for shape in of_op]
    return [case for case in cases if (ops is None or case.op in ops) and (dtypes is None or case.dtype in dtypes)]


def parse_shape(shape: str) -> Shape:
    match shape.split("x"):
        case [rows, cols]:
            return Rows(int(rows), int(cols))
        case [samples, channels, pixels]:
            channels, _, groups = channels.partition("/")
            return Images(int(samples), int(channels), int(pixels), int(groups or 0))
    raise ValueError(f"{shape!r} is no shape such as 512x768, 1x320/32x4096 or 8x96x3136")


def op_of_form(shape: Shape) -> str:
    """The plain operation on shapes of this form."""
    if isinstance(shape, Rows):
        return "layer_norm"
    return "group_norm" if shape.groups else "layer_norm_channels"


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

    inputs = {name: normal(*case.tensor) for name in INPUTS[case.op] if name in OF_X}
    inputs["gamma"] = 1 + 0.1 * normal(case.params)
    inputs["beta"] = 0.1 * normal(case.params)
    return {name: encode(values, case.dtype) for name, values in inputs.items()}


def silu(values: np.ndarray) -> np.ndarray:
    return values / (1 + np.exp(-values))


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
        if isinstance(case.shape, Images):
            return {"y": self._answer_of_images(case.shape, x, gamma, beta)}
        if not case.is_centered:
            y = x / np.sqrt((x * x).mean(1, keepdims=True) + case.eps) * gamma
            return {"y": y * silu(given["z"]) if case.op == "gated_rms_norm" else y}
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

    def _answer_of_images(self, shape: Images, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        case = self.case
        first = np.moveaxis(x, 2, 1) if case.is_channels_last else x
        rows, axis = (first.reshape(shape.samples, shape.groups, -1), 2) if shape.groups else (first, 1)
        centered = rows - rows.mean(axis, keepdims=True)
        xhat = centered / np.sqrt((centered * centered).mean(axis, keepdims=True) + case.eps)
        y = xhat.reshape(first.shape) * gamma[:, None] + beta[:, None]
        y = silu(y) if case.has_silu else y
        return np.moveaxis(y, 1, 2) if case.is_channels_last else y

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
        shape = (case.params,) if name in OF_COLS else case.tensor if name in OF_X else (case.rows,)
        array = random_offset(shape, dtype, self._rng)
        if name in self.problem.inputs:
            array[:] = self.problem.inputs[name]
        elif name in {"mean", "var", "rstd"}:
            array[:] = self.problem.statistics[name]
        elif name in {"gamma_f32", "beta_f32"}:
            array[:] = decode(self.problem.inputs[name.removesuffix("_f32")])
        return array
