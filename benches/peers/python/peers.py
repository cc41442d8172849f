#!/usr/bin/env python3
"""lanenorm beside PyTorch, ONNX Runtime and oneDNN: speed, accuracy and bits. See README.md."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import exactness
from cases import GRID, Buffers, Case, Images, Problem, Rows, all_cases, op_of_form, parse_shape
from contender import Peer
from measure import contenders, measure
from report import Report

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "target" / "release" / "liblanenorm.so"
BUILD = "cargo rustc --release --features capi --crate-type cdylib"


# Errors above this, in parts of the largest answer, are wrong. Half a step of 8 bits is 4e-3.
TOLERANCE = {"f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}
TOLERANCE_OF_8_BITS = {"f32": 5e-3, "bf16": 1.5e-2}

CHECK_SHAPES = [
    *(Rows(1, 8), Rows(7, 333), Rows(33, 64), Rows(8, 768), Rows(3, 1000)),
    *(Images(1, 8, 4, groups=2), Images(2, 96, 49, groups=32), Images(3, 6, 35, groups=1)),
    *(Images(1, 8, 4), Images(2, 96, 49), Images(3, 33, 35)),
]


def environment(threads: int) -> dict[str, str]:
    """Sets the variables that must be set before libraries are loaded."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        # A fraction of a millisecond: OpenMP's threads stay awake from call to call, and sleep when the next is timed.
        "GOMP_SPINCOUNT": "20000",
        "KMP_BLOCKTIME": "1",
        # PyTorch allocates its outputs: let it have the same memory again, not fresh pages in each call.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        # Pages of one size for all.
        "NUMPY_MADVISE_HUGEPAGE": "0",
    }


def tolerance(case: Case) -> float:
    return (TOLERANCE_OF_8_BITS if case.is_quantized else TOLERANCE)[case.dtype]


def load_peers(threads: int, arguments: argparse.Namespace) -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and why the others are not used."""
    # PyTorch first: it brings the OpenMP that oneDNN then shares.
    makers: dict[str, Callable[[], Peer]] = {
        "torch": lambda: importlib.import_module("peer_torch").Torch(threads),
        "onnxruntime": lambda: importlib.import_module("peer_onnxruntime").OnnxRuntime(threads),
        "onednn": lambda: importlib.import_module("peer_onednn").OneDnn(arguments.onednn),
        "ggml": lambda: importlib.import_module("peer_ggml").Ggml(threads),
        "lanenorm": lambda: importlib.import_module("peer_lanenorm").Lanenorm(arguments.library, threads),
    }
    peers, missing = [], []
    for name, make in makers.items():
        try:
            peers.append(make())
        except (ImportError, OSError) as error:
            if name == "lanenorm":
                raise
            missing.append(f"{name} is skipped: {error}")
    return peers[::-1], missing


def is_among(name: str, wanted: list[str] | None) -> bool:
    return wanted is None or name in wanted


def check(arguments: argparse.Namespace) -> int:
    """All contenders once on small shapes, against float64."""
    peers, missing = load_peers(arguments.threads[0], arguments)
    for line in missing:
        print(line)
    passed = failed = 0
    said: set[str] = set()
    for (op, dtype), (first, *_) in GRID.items():
        if not (is_among(op, arguments.ops) and is_among(dtype, arguments.dtypes)):
            continue
        form = op_of_form(parse_shape(first))
        for shape in CHECK_SHAPES:
            case = Case(op, dtype, shape)
            if op_of_form(shape) != form or not case.is_valid:
                continue
            problem = Problem.random(case)
            found, absent = contenders(peers, Buffers(problem, np.random.default_rng(0)))
            for name, reason in absent.items():
                line = f"{name} has no {op} in {dtype}: {reason}"
                if line not in said:
                    said.add(line)
                    print(line)
            for contender in found:
                error = problem.error(contender.answers())
                right = error <= tolerance(case)
                passed, failed = passed + right, failed + (not right)
                if not right:
                    print(f"FAILED: {contender.name} {problem.case.name}: error {error:.1e}")
    for peer in peers:
        print(f"{peer.name} {peer.version}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


# Ctrl-C, and what a time limit sends. It may reach a pass twice: by itself, and by way of its parent.
ENDS = (signal.SIGINT, signal.SIGTERM)


def interrupt(*_: object) -> None:
    """Ends a pass, once: its results so far are written without another interruption."""
    for end in ENDS:
        signal.signal(end, lambda *_: None)
    raise KeyboardInterrupt


class Pass:
    """All measurements with one number of threads, in a process of its own, written to a file as they come."""

    def __init__(self, arguments: argparse.Namespace, threads: int, part: Path) -> None:
        self._arguments = arguments
        self._threads = threads
        self._part = part
        self._peers, missing = load_peers(threads, arguments)
        for line in missing:
            print(line, file=sys.stderr)
        self._record: dict = {
            "threads": threads,
            "versions": {peer.name: peer.version for peer in self._peers},
            "isa": next((peer.isa for peer in self._peers if peer.name == "lanenorm"), None),
            "interrupted": False,
            **{key: [] for key in ("results", "absent", "accuracy", "bits", "hashes")},
        }

    def run(self) -> None:
        from tqdm import tqdm

        for end in ENDS:
            signal.signal(end, interrupt)
        steps = self._steps()
        bar = tqdm(total=len(steps), unit="step", desc=f"{self._threads} thr", dynamic_ncols=True)
        try:
            for name, step in steps:
                bar.set_postfix_str(name)
                step()
                self._write()
                bar.update()
        except KeyboardInterrupt:
            self._record["interrupted"] = True
        finally:
            bar.close()
            self._write()

    def _steps(self) -> list[tuple[str, Callable[[], None]]]:
        cases = all_cases(self._arguments.shapes, self._arguments.ops, self._arguments.dtypes)
        budget = self._arguments.budget / len(self._arguments.threads) / max(1, len(cases))
        steps = [(case.name, lambda case=case: self._time(case, budget)) for case in cases]
        if self._arguments.ops or self._arguments.dtypes:
            return steps
        if self._threads == self._arguments.threads[0]:
            steps.append(("accuracy", lambda: self._record["accuracy"].extend(exactness.accuracy(self._peers))))
        return [*steps, ("bits", self._bits)]

    def _time(self, case: Case, budget: float) -> None:
        timings, absent = measure(Problem.random(case), self._peers, self._threads, budget)
        names = {"op": case.op, "dtype": case.dtype, "shape": str(case.shape), "rows": case.rows, "cols": case.cols}
        names["threads"] = self._threads
        for timing in timings:
            finite = math.isfinite(timing.error)
            self._record["results"].append(
                names
                | {
                    "elements": case.elements,
                    "contender": timing.contender,
                    "lower_quartile_ns": timing.lower_quartile,
                    "median_ns": timing.median,
                    "copies": timing.copies,
                    "blocks": timing.blocks,
                    "max_error": timing.error if finite else None,
                    "right": timing.error <= tolerance(case),
                }
            )
        self._record["absent"] += [names | {"contender": name, "reason": why} for name, why in absent.items()]

    def _bits(self) -> None:
        self._record["hashes"].extend(exactness.hashes(self._peers))
        self._record["bits"].extend(exactness.same_in_batches(self._peers, self._threads))
        self._record["bits"].extend(exactness.bf16_ones(self._peers, self._threads))

    def _write(self) -> None:
        self._part.write_text(json.dumps(self._record))


def run_passes(arguments: argparse.Namespace) -> list[dict]:
    """A process for each number of threads. On Ctrl-C or SIGTERM the running process ends early, as the last."""
    passes = []
    child: subprocess.Popen | None = None
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, end) for number in ENDS}
    with tempfile.TemporaryDirectory() as folder:
        for threads in arguments.threads:
            part = Path(folder) / f"{threads}.json"
            command = [sys.executable, *sys.argv, "--pass-threads", str(threads), "--pass-part", str(part)]
            child = subprocess.Popen(command, env=environment(threads))
            if ended:
                child.send_signal(signal.SIGINT)
            status = child.wait()
            if part.exists():
                passes.append(json.loads(part.read_text()))
            if status != 0:
                print(f"the pass with {threads} threads ended with status {status}", file=sys.stderr)
            if passes and ended:
                passes[-1]["interrupted"] = True
            if status != 0 or ended or passes[-1]["interrupted"]:
                break
    for number, handler in before.items():
        signal.signal(number, handler)
    return passes


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else f"unknown {platform.machine()}"


def machine(arguments: argparse.Namespace) -> dict:
    return {
        "cpu": cpu_model(),
        "logical_cores": len(os.sched_getaffinity(0)),
        "threads": arguments.threads,
        "load": os.getloadavg()[0],
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": "python benches/peers/python/peers.py" + "".join(f" {shlex.quote(a)}" for a in sys.argv[1:]),
    }


def assemble(passes: list[dict], about: dict) -> dict:
    """The record of all passes."""
    versions = passes[0]["versions"] | {"python": platform.python_version(), "numpy": np.__version__}
    joined = {key: [entry for p in passes for entry in p[key]] for key in ("results", "absent", "accuracy", "bits")}
    joined["bits"] = exactness.compare_passes(passes) + joined["bits"]
    ours = versions.get("lanenorm")
    about = about | {
        "build": ours and f"lanenorm {ours}, release profile",
        "default_tier": passes[0]["isa"],
        "versions": versions,
        "partial": passes[-1]["interrupted"],
    }
    return {"machine": about, **joined}


def parse() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--budget", type=float, default=420, help="seconds for all timings, about (default: %(default)s)"
    )
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="only these (default: the whole grid)")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, cores}), help="(default: 1 and all)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the record")
    parser.add_argument("--check", action="store_true", help="every contender once, answers checked, no timing")
    parser.add_argument("--library", type=Path, default=LIBRARY, help=f"built by: {BUILD}")
    ops, dtypes = (list(dict.fromkeys(names)) for names in zip(*GRID, strict=True))
    parser.add_argument("--ops", nargs="+", choices=ops, help="only these, without accuracy and bits (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=dtypes, help="only these, likewise (default: all)")
    parser.add_argument("--onednn", type=Path, help="libdnnl.so.3 (default: that of the wheel onednn-cpu-gomp)")
    parser.add_argument("--pass-threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pass-part", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.library.exists():
        parser.error(f"there is no {arguments.library}; build it by: {BUILD}")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.check:
        return check(arguments)
    if arguments.pass_threads:
        Pass(arguments, arguments.pass_threads, arguments.pass_part).run()
        return 0
    about = machine(arguments)
    start = time.monotonic()
    passes = run_passes(arguments)
    if not passes:
        return 1
    record = assemble(passes, about)
    print(Report(record).text())
    print(f"\n{time.monotonic() - start:.0f} s.")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
