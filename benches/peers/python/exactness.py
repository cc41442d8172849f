"""Exactness: errors against float64, and whether the same input gets the same bits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from cases import Buffers, Case, Problem, Rows, decode, encode, random_inputs
from contender import Peer, Unsupported

OFFSETS = (0.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)

# The cases whose bits are compared between passes with other numbers of threads.
THREAD_CASES = [
    Case("layer_norm", "f32", Rows(512, 768)),
    Case("layer_norm", "f32", Rows(8, 4096)),
    Case("layer_norm", "f32", Rows(4, 100003)),
    Case("layer_norm", "f32", Rows(1, 1000003)),
    Case("layer_norm", "bf16", Rows(512, 768)),
    Case("rms_norm", "f32", Rows(512, 768)),
    Case("add_layer_norm", "f32", Rows(512, 768)),
    Case("layer_norm_backward", "f32", Rows(512, 768)),
    Case("layer_norm_backward", "f32", Rows(2048, 1024)),
    Case("layer_norm_backward", "bf16", Rows(512, 768)),
]
BATCHES = (2, 3, 5, 8, 64, 257)
BATCH_COLS = (64, 333, 768, 4096)


def run(peer: Peer, problem: Problem) -> dict[str, np.ndarray]:
    """The outputs of a peer's first contender; raises Unsupported."""
    return peer.contenders(Buffers(problem, np.random.default_rng(0)))[0].answers()


def accuracy(peers: list[Peer]) -> Iterator[dict]:
    """The largest absolute error of each peer on rows that are hard; None if it gives NaN or infinity."""
    for name, value, problem in hard_problems():
        for peer in peers:
            try:
                error = problem.error(run(peer, problem), relative=False)
            except Unsupported:
                continue
            finite = math.isfinite(error)
            case = problem.case
            yield {
                "case": name,
                "offset": value,
                "rows": case.rows,
                "cols": case.cols,
                "eps": case.eps,
                "contender": peer.name,
                "finite": finite,
                "max_abs_error": error if finite else None,
            }


def hard_problems() -> Iterator[tuple[str, float | None, Problem]]:
    """LayerNorm in f32 with gamma 1 and beta 0: a name, the offset if it is the difficulty, and the problem."""
    rng = np.random.default_rng(1)
    shape = (64, 768)
    normal = rng.standard_normal(shape)
    signs = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    for offset in OFFSETS:
        yield f"mean {offset:.0e}, std 1" if offset else "mean 0, std 1", offset, plain(normal + offset)
    # Beside the usual eps such rows would count as zeros.
    yield "std 1e-30, eps 0", None, plain(normal * 1e-30, eps=0.0)
    yield "std 1e19", None, plain(normal * 1e19)
    yield "std 1e30", None, plain(normal * 1e30)
    yield "all near 3e38 or -3e38", None, plain(signs * (3 + 0.3 * rng.random(shape)) * 1e38)
    yield "constant 1234.567", None, plain(np.full(shape, 1234.567))
    yield "one row of 2^24 in 100 to 101", None, plain(100 + rng.random((1, 1 << 24), np.float32))


def plain(x: np.ndarray, eps: float = 1e-5) -> Problem:
    case = Case("layer_norm", "f32", Rows(*x.shape), eps=eps)
    ones = np.ones(case.cols, np.float32)
    return Problem(case, {"x": x.astype(np.float32), "gamma": ones, "beta": 0 * ones})


def hashes(peers: list[Peer]) -> Iterator[dict]:
    """A hash of each output, to be compared between passes."""
    for case in THREAD_CASES:
        problem = Problem.random(case)
        for peer in peers:
            try:
                outputs = run(peer, problem)
            except Unsupported:
                continue
            for output, values in outputs.items():
                digest = hashlib.sha256(values.tobytes()).hexdigest()
                yield {"contender": peer.name, "case": case.name, "output": output, "hash": digest}


def same_in_batches(peers: list[Peer], threads: int) -> Iterator[dict]:
    """Whether a row gets the same bits alone and as the first or last of a batch."""
    for dtype in ("f32", "bf16"):
        for cols in BATCH_COLS:
            alone = Case("layer_norm", dtype, Rows(1, cols))
            inputs = random_inputs(alone, np.random.default_rng(2))
            for peer in peers:
                try:
                    expected = run(peer, Problem(alone, inputs))["y"][0].tobytes()
                except Unsupported:
                    continue
                for rows in BATCHES:
                    y = run(peer, batch(inputs, Case("layer_norm", dtype, Rows(rows, cols))))["y"]
                    yield {
                        "check": "batch",
                        "contender": peer.name,
                        "case": Case("layer_norm", dtype, Rows(rows, cols)).name,
                        "output": "y",
                        "threads": threads,
                        "same": y[0].tobytes() == expected == y[-1].tobytes(),
                    }


def batch(inputs: dict[str, np.ndarray], case: Case) -> Problem:
    """Random rows. The first and the last are the given row."""
    x = random_inputs(case, np.random.default_rng(3))["x"]
    x[0] = x[-1] = inputs["x"][0]
    return Problem(case, inputs | {"x": x})


def bf16_ones(peers: list[Peer], threads: int) -> Iterator[dict]:
    """dbeta over 8192 rows of a gradient of ones: 8192, if it is summed in more than bf16."""
    case = Case("layer_norm_backward", "bf16", Rows(8192, 64))
    inputs = random_inputs(case, np.random.default_rng(4))
    inputs["dy"] = encode(np.ones((case.rows, case.cols), np.float32), "bf16")
    for peer in peers:
        try:
            dbeta = decode(run(peer, Problem(case, inputs))["dbeta"])
        except Unsupported:
            continue
        value = float(dbeta[np.abs(dbeta - case.rows).argmax()])
        yield {
            "check": "sum of ones",
            "contender": peer.name,
            "case": case.name,
            "output": "dbeta",
            "threads": threads,
            "value": value,
            "same": value == case.rows,
        }


def compare_passes(passes: list[dict]) -> list[dict]:
    """Whether passes with other numbers of threads gave the bits of the first one."""
    if len(passes) < 2:
        return []
    first = {(h["contender"], h["case"], h["output"]): h["hash"] for h in passes[0]["hashes"]}
    compared = []
    for other in passes[1:]:
        for h in other["hashes"]:
            key = (h["contender"], h["case"], h["output"])
            if key in first:
                names = {"check": "threads", "contender": h["contender"], "case": h["case"], "output": h["output"]}
                compared.append(names | {"threads": other["threads"], "same": first[key] == h["hash"]})
    return compared
