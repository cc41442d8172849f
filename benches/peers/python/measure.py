"""Times that can be compared on a machine that others use too: the rules of `cargo bench` (support/measure.rs).

All contenders of a case run in one process, in turn, in blocks of a millisecond or two and in an order that is drawn
anew for each round. Before each block the contender runs untimed: once on one thread; with threads for some
milliseconds, in which its threads wake and those of the one before go to sleep. This is repeated with buffers at other
places. Of the blocks at one place the lower quartile counts (what disturbs only ever adds time), of the places the
median.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from cases import Buffers, Problem
from contender import Contender, NotAsked, Peer, Unsupported, copy

BLOCK = 1.5e-3
WAKE = 8e-3
# A contender whose block takes more than this many times as long as the copy's sits rounds out.
SLOW = 4
PLACES = 5
ROUNDS = (4, 60)


@dataclass
class Timing:
    """Times of a call, in nanoseconds. `copies` is the lower quartile over the copy's at the same place."""

    contender: str
    lower_quartile: float
    median: float
    copies: float
    blocks: int
    # The largest error, as `Problem.error` gives it.
    error: float


@dataclass
class Pace:
    """How a contender is run: untimed and timed calls of a block, the seconds they take, and in which rounds."""

    warm: int
    repeats: int
    seconds: float
    every: int = 1


def contenders(peers: list[Peer], buffers: Buffers) -> tuple[list[Contender], dict[str, str]]:
    """The contenders of all peers, and why a peer has none."""
    found, absent = [], {}
    for peer in peers:
        try:
            found += peer.contenders(buffers)
        except NotAsked:
            continue
        except Unsupported as reason:
            absent[peer.name] = str(reason)
    return found, absent


def measure(problem: Problem, peers: list[Peer], threads: int, budget: float) -> tuple[list[Timing], dict[str, str]]:
    """Checks and times all contenders in about `budget` seconds; the copy is the first of the timings."""
    rng = np.random.default_rng(0)
    buffers = Buffers(problem, rng)
    found, absent = contenders(peers, buffers)
    errors = {"copy": 0.0} | {contender.name: problem.error(contender.answers()) for contender in found}

    paces: list[Pace] = []
    places: list[list[np.ndarray]] = []
    for _ in range(PLACES):
        buffers = Buffers(problem, rng)
        all_contenders = [copy(buffers), *contenders(peers, buffers)[0]]
        if not paces:
            paces = [pace(contender.run, threads) for contender in all_contenders]
            for p in paces:
                p.every = max(1, int(p.seconds / paces[0].seconds / SLOW))
        round_seconds = sum(p.seconds * (1 + p.warm / p.repeats) / p.every for p in paces)
        rounds = int(np.clip(budget / PLACES / round_seconds, *ROUNDS))
        places.append(run_rounds([c.run for c in all_contenders], paces, rounds, rng))
    return [summary(name, error, i, places) for i, (name, error) in enumerate(errors.items())], absent


def summary(name: str, error: float, index: int, places: list[list[np.ndarray]]) -> Timing:
    quartiles = [np.quantile(place[index], 0.25, method="lower") for place in places]
    copies = [q / np.quantile(place[0], 0.25, method="lower") for q, place in zip(quartiles, places, strict=True)]
    return Timing(
        contender=name,
        lower_quartile=float(np.median(quartiles)),
        median=float(np.median([np.median(place[index]) for place in places])),
        copies=float(np.median(copies)),
        blocks=sum(len(place[index]) for place in places),
        error=error,
    )


def seconds(run: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in repeat(None, repeats):
        run()
    return (time.perf_counter_ns() - start) * 1e-9


def pace(run: Callable[[], object], threads: int) -> Pace:
    run()
    repeats = 1
    while (taken := seconds(run, repeats)) * 4 < BLOCK:
        repeats *= 2
    fit = max(1, int(BLOCK / taken * repeats))
    block = taken / repeats * fit
    return Pace(warm=1 if threads == 1 else max(1, round(WAKE / block * fit)), repeats=fit, seconds=block)


def run_rounds(
    runs: list[Callable[[], object]], paces: list[Pace], rounds: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The nanoseconds of a call in each block of each contender."""
    blocks: list[list[float]] = [[] for _ in runs]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for i in rng.permutation(len(runs)):
                if number % paces[i].every == 0:
                    seconds(runs[i], paces[i].warm)
                    blocks[i].append(seconds(runs[i], paces[i].repeats) / paces[i].repeats * 1e9)
    finally:
        gc.enable()
    return [np.array(times) for times in blocks]
