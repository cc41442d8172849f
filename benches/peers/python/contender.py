"""What all contenders have in common."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from cases import BLOCK, BLOCK_BYTES, Buffers


class Unsupported(Exception):
    """A peer has no such operation, or refuses it."""


class NotAsked(Unsupported):
    """A peer is not compared in this operation. Nobody need be told."""


@dataclass
class Contender:
    """A way to run a case on given buffers. All that a call needs has been made before it."""

    name: str
    run: Callable[[], object]
    # Makes the outputs, by name, from the value that `run` returned.
    outputs: Callable[[object], dict[str, np.ndarray]]

    def answers(self) -> dict[str, np.ndarray]:
        """Runs the contender once. The arrays are copies."""
        outputs = self.outputs(self.run())
        return {name: np.array(values) for name, values in outputs.items()}


class Peer(Protocol):
    """A library."""

    name: str
    version: str

    def contenders(self, buffers: Buffers) -> list[Contender]:
        """All contenders for the case of the buffers; raises Unsupported if there is none."""
        ...


def written(buffers: Buffers) -> Callable[[object], dict[str, np.ndarray]]:
    """The outputs of a contender that writes them to the buffers."""
    return lambda _: {name: buffers[name] for name in buffers.problem.case.outputs}


def dequantized(q: np.ndarray, scale: np.ndarray | float, zero_point: int = 0) -> dict[str, np.ndarray]:
    """y, from elements and scales."""
    return {"y": (q.astype(np.float32) - np.float32(zero_point)) * scale}


def from_blocks(q: np.ndarray) -> dict[str, np.ndarray]:
    """y, from blocks of GGUF `Q8_0`: a scale in float16, and 32 elements."""
    blocks = q.reshape(q.shape[0], -1, BLOCK_BYTES)
    scales = blocks[:, :, : BLOCK_BYTES - BLOCK].copy().view(np.float16).astype(np.float32)
    elements = blocks[:, :, BLOCK_BYTES - BLOCK :].view(np.int8)
    return {"y": (elements * scales).reshape(q.shape[0], -1)}


def copy(buffers: Buffers) -> Contender:
    """A plain copy, by the C library, of one tensor of the case's shape, on the calling thread."""
    source, target = ("dy", "dx") if "dx" in buffers.problem.case.outputs else ("x", "y")
    memmove = ctypes.CDLL(None).memmove
    to, of = ctypes.c_void_p(buffers.address(target)), ctypes.c_void_p(buffers.address(source))
    return Contender("copy", partial(memmove, to, of, ctypes.c_size_t(buffers[source].nbytes)), lambda _: {})
