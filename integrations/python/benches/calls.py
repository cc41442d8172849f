"""What calls cost: of numpy beside the C ABI by ctypes, and of PyTorch beside PyTorch's own functions and modules.

    python integrations/python/benches/calls.py [--seconds 4] [--library target/release/liblanenorm.so]

Everything is timed in one process by one thread, in turns of random order; the figures are lower quartiles. Memory that
is freed stays with the process (MALLOC_TRIM_THRESHOLD_ and others are set): otherwise whoever comes first after a large
result pays for its pages.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial

KEEP = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "67108864"}
COLS = 768


def measured(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Microseconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        began = time.perf_counter()
        call()
        times.setdefault("", []).append(time.perf_counter() - began)
    # Blocks of about half a millisecond.
    repeats = max(1, int(5e-4 / max(times.pop(""))))
    end = time.perf_counter() + seconds
    names = list(calls)
    while time.perf_counter() < end:
        random.shuffle(names)
        for name in names:
            call = calls[name]
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter() - began) / repeats * 1e6)
    return {name: sorted(of)[len(of) // 4] for name, of in times.items()}


def numpy_calls(library: str | None) -> dict[str, dict[str, Callable[[], object]]]:
    import numpy as np

    import lanenorm

    rng = np.random.default_rng(0)
    cases: dict[str, dict[str, Callable[[], object]]] = {}
    for rows in (1, 8, 512):
        x = rng.standard_normal((rows, COLS), dtype=np.float32)
        gamma, beta = (rng.standard_normal(COLS, dtype=np.float32) for _ in range(2))
        y = np.empty_like(x)
        calls: dict[str, Callable[[], object]] = {
            "lanenorm, out=": partial(lanenorm.layer_norm, x, gamma, beta, out=y, threads=1),
            "lanenorm": partial(lanenorm.layer_norm, x, gamma, beta, threads=1),
        }
        if library:
            size, p = ctypes.c_size_t, [ctypes.c_void_p(v.ctypes.data) for v in (x, gamma, beta, y)]
            function, eps = ctypes.CDLL(library).lanenorm_layer_norm_f32, ctypes.c_float(1e-5)
            by_ctypes = partial(function, p[0], size(rows), size(COLS), p[1], p[2], eps, p[3], None, None, size(1))
            calls = {"ctypes": by_ctypes, **calls}
        cases[f"numpy {rows}x{COLS}"] = calls
    return cases


def torch_calls() -> dict[str, dict[str, Callable[[], object]]]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    import lanenorm.torch as lt

    torch.set_num_threads(1)
    ops, grad = torch.ops.lanenorm, torch.autograd.grad
    cases: dict[str, dict[str, Callable[[], object]]] = {}
    for rows in (1, 8, 512):
        x, weight, bias = torch.randn(rows, COLS), torch.randn(COLS), torch.randn(COLS)
        modules = [m.requires_grad_(False) for m in (nn.LayerNorm(COLS), lt.LayerNorm(COLS))]
        cases[f"layer_norm {rows}x{COLS}"] = {
            "F.layer_norm": lambda x=x, w=weight, b=bias: F.layer_norm(x, (COLS,), w, b),
            "torch.ops.lanenorm": lambda x=x, w=weight, b=bias: torch.ops.lanenorm.layer_norm(x, w, b),
        }
        cases[f"LayerNorm {rows}x{COLS}"] = {
            "torch.nn": partial(modules[0], x),
            "lanenorm.torch": partial(modules[1], x),
        }
        cases[f"rms_norm {rows}x{COLS}"] = {
            "F.rms_norm": lambda x=x, w=weight: F.rms_norm(x, (COLS,), w, 1e-6),
            "torch.ops.lanenorm": lambda x=x, w=weight: torch.ops.lanenorm.rms_norm(x, w, 1e-6),
        }
    for rows in (8, 512):
        leaves = [v.requires_grad_() for v in (torch.randn(rows, COLS), torch.randn(COLS), torch.randn(COLS))]
        dy = torch.randn(rows, COLS)
        cases[f"forward and backward {rows}x{COLS}"] = {
            "F.layer_norm": lambda v=leaves, dy=dy: grad(F.layer_norm(v[0], (COLS,), *v[1:]), v, dy),
            "torch.ops.lanenorm": lambda v=leaves, dy=dy: grad(ops.layer_norm(*v), v, dy),
        }
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case")
    parser.add_argument("--library", help="a C library of lanenorm, for ctypes")
    options = parser.parse_args()
    if sys.platform == "linux" and not KEEP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
    cases = numpy_calls(options.library)
    try:
        cases |= torch_calls()
    except ImportError as error:
        print(f"without PyTorch: {error}")
    print(f"{'µs, one thread, float32':<28} {'':<20} {'µs':>8} {'of the first':>13}")
    for case, calls in cases.items():
        times = measured(calls, options.seconds)
        first = next(iter(times.values()))
        for name, microseconds in times.items():
            print(f"{case:<28} {name:<20} {microseconds:8.2f} {microseconds / first:13.2f}")
            case = ""


if __name__ == "__main__":
    main()
