"""What the scripts have in common: a model with the norms of PyTorch and with those of lanenorm, times, and a table.

There is one model in memory, whose norms are replaced and restored in turns, so that both have the same weights at the
same addresses. Times are lower quartiles of runs that take turns in random order: what disturbs only ever adds time.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import lanenorm
import lanenorm.torch
import torch
import transformers
from torch import Tensor, nn

BEFORE, AFTER, WITHOUT = "before", "after", "without"

Run = Callable[[], object]

# Of malloc.h: the numbers of settings, and the values for which freed memory is kept.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


def arguments(what: str, budget: float) -> argparse.Namespace:
    """The options of a script."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch, and of lanenorm (default 1)")
    parser.add_argument("--malloc", choices=["keep", "default"], default="keep", help="what becomes of freed memory")
    parser.add_argument("--budget", type=float, default=budget, help="seconds for each case (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small case, in a few seconds: does it run?")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> dict:
    """Sets up PyTorch and malloc, prints the machine, and begins a record."""
    if options.malloc == "keep":
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    machine = {
        "cpu": processor(),
        "isa": lanenorm.isa(),
        "threads": options.threads,
        "malloc": options.malloc,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lanenorm": lanenorm.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()), end="\n\n")
    return {"machine": machine, "results": []}


def keep_freed_memory() -> None:
    """glibc gives the memory of a large tensor back when it is freed, and takes fresh pages for the next one. Whom that
    hits depends on what else lies on the heap. Now freed memory is kept, for both."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, NEVER)
        mallopt(M_MMAP_MAX, NONE)


def processor() -> str:
    """The name, family and model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in known:
        return platform.machine()
    return f"{known['model name']} (family {known.get('cpu family')}, model {known.get('model')})"


def finish(record: dict, options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class Model:
    """A model whose norms can be those it had, those of lanenorm, or none."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()
        self.norms = {name: m for name, m in module.named_modules() if type(m).__name__.endswith("Norm")}
        # Only the classes of modules change, so that they can be swapped without another look at what they compute.
        self.classes = {BEFORE: self.classes_now()}
        lanenorm.torch.accelerate(module)
        print()
        self.classes[AFTER] = self.classes_now()
        self.to(BEFORE)

    def classes_now(self) -> dict[str, type]:
        return {name: type(norm) for name, norm in self.norms.items()}

    def to(self, state: str) -> Model:
        if state == WITHOUT:
            put(self.module, dict.fromkeys(self.norms, nn.Identity()))
            return self
        put(self.module, self.norms)
        for name, norm in self.norms.items():
            norm.__class__ = self.classes[state][name]
        return self

    def captured(self, run: Run) -> dict[str, Tensor]:
        """The input of each norm in a run of the model with the norms it had."""
        inputs = {}

        def keep(name: str, _: nn.Module, given: tuple) -> None:
            inputs[name] = given[0].detach().clone()

        self.to(BEFORE)
        hooks = [norm.register_forward_pre_hook(partial(keep, name)) for name, norm in self.norms.items()]
        run()
        for hook in hooks:
            hook.remove()
        return inputs

    def in_float64(self) -> nn.Module:
        """A copy with the same weights, in float64 throughout."""
        self.to(BEFORE)
        exact = copy.deepcopy(self.module).double()
        put(exact, {name: exact_norm(norm) for name, norm in self.norms.items()})
        return exact


def put(module: nn.Module, norms: dict[str, nn.Module]) -> None:
    """Replaces submodules."""
    for name, norm in norms.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, norm)


def exact_norm(norm: nn.Module) -> nn.Module:
    """A norm in float64."""
    return copy.deepcopy(norm).double() if isinstance(norm, nn.LayerNorm) else ExactRms(norm)


class ExactRms(nn.Module):
    """The norm of Llama in float64, where that of transformers computes in float32."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().double())
        self.eps = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


@contextmanager
def no_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def quartiles(
    enter: dict[str, Callable[[], Run]], budget: float, least: int = 3, block: float = 0.02
) -> dict[str, float]:
    """The lower quartile of the seconds of a run of each contender, in about `budget` seconds.

    A contender is entered before its block, which gives what to run: once untimed if that is short, and then as often
    as fits.
    """
    order = random.Random(0)
    repeats, times, names = {}, {name: [] for name in enter}, list(enter)
    for name in names:
        run = enter[name]()
        run()
        start = time.perf_counter()
        run()
        repeats[name] = max(1, int(block / (time.perf_counter() - start)))
    with no_garbage():
        begin, turns = time.perf_counter(), 0
        while turns < least or time.perf_counter() - begin < budget:
            order.shuffle(names)
            for name in names:
                run, n = enter[name](), repeats[name]
                if n > 1:
                    run()
                start = time.perf_counter()
                for _ in range(n):
                    run()
                times[name].append((time.perf_counter() - start) / n)
            turns += 1
    return {name: lower_quartile(of) for name, of in times.items()}


def lower_quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]


def times_of_model(
    model: Model, run: Run, budget: float, states: tuple[str, ...] = (BEFORE, AFTER, WITHOUT)
) -> dict[str, float]:
    """Seconds of a run of the model with each kind of norms, and with none."""

    def enter(state: str) -> Run:
        model.to(state)
        return run

    times = quartiles({state: partial(enter, state) for state in states}, budget)
    model.to(BEFORE)
    return times


def times_inside(model: Model, run: Run, budget: float, least: int = 3) -> dict[str, float]:
    """Seconds of all norms in a run of the model, by a clock around each. It takes a fraction of a microsecond."""
    sums, spent = {BEFORE: [], AFTER: []}, 0

    def timed(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        nonlocal spent
        start = time.perf_counter_ns()
        y = forward(x)
        spent += time.perf_counter_ns() - start
        return y

    order, states = random.Random(0), list(sums)
    with no_garbage():
        begin = time.perf_counter()
        while len(sums[AFTER]) < least or time.perf_counter() - begin < budget:
            order.shuffle(states)
            for state in states:
                for norm in model.to(state).norms.values():
                    norm.forward = partial(timed, norm.forward)
                spent = 0
                run()
                sums[state].append(spent * 1e-9)
                for norm in model.norms.values():
                    del norm.forward
    model.to(BEFORE)
    return {state: lower_quartile(of) for state, of in sums.items()}


def times_alone(model: Model, inputs: dict[str, Tensor], budget: float) -> dict[str, float]:
    """Seconds of all norms by themselves, each again and again on one input, so that all is in caches."""
    total = {BEFORE: 0.0, AFTER: 0.0}

    def enter(state: str, name: str) -> Run:
        return partial(model.to(state).norms[name], inputs[name])

    for name in inputs:
        contenders = {state: partial(enter, state, name) for state in total}
        for state, seconds in quartiles(contenders, budget / len(inputs), block=1e-3).items():
            total[state] += seconds
    model.to(BEFORE)
    return total


def summary(model: dict[str, float], norms: dict[str, float], alone: dict[str, float] | None) -> dict[str, float]:
    """Shares of the time of the model, and what it gained of the most that it could."""
    before, after = model[BEFORE], model[AFTER]
    found = {"before_ms": before * 1e3, "after_ms": after * 1e3, "gain": 1 - after / before}
    found |= {"norms_before_ms": norms[BEFORE] * 1e3, "norms_after_ms": norms[AFTER] * 1e3}
    found |= {"share_before": norms[BEFORE] / before, "share_after": norms[AFTER] / after}
    found["gain_by_norms"] = (norms[BEFORE] - norms[AFTER]) / before
    if alone:
        found |= {"alone_before_ms": alone[BEFORE] * 1e3, "alone_after_ms": alone[AFTER] * 1e3}
    if WITHOUT in model:
        found |= {"without_ms": model[WITHOUT] * 1e3, "gain_without": 1 - model[WITHOUT] / before}
    return found


TIMES_HEAD = [
    "before ms",
    "after ms",
    "norms before",
    "after",
    "alone before",
    "after",
    "share before",
    "after",
    "model gained",
    "norms say",
    "none at all",
]


def times_row(found: dict[str, float]) -> list[str]:
    names = ("before_ms", "after_ms", "norms_before_ms", "norms_after_ms", "alone_before_ms", "alone_after_ms")
    parts = ("share_before", "share_after", "gain", "gain_by_norms", "gain_without")
    return [
        *(digits(found[name]) if name in found else "-" for name in names),
        *(percent(found[name]) if name in found else "-" for name in parts),
    ]


TIMES_KEY = """\
ms: of a run of the model, with the norms it had (before) and with lanenorm's (after). norms: ms of all norms in such a
run. alone: ms of the same norms by themselves, where all is in caches. share: of the norms, in the time of the model.
model gained: 1 - after / before, as measured. norms say: what it should gain, by the times of the norms. none at all:
what it gains without any norms: the bound."""


def errors_of_norms(model: Model, inputs: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of the norms on their inputs, against float64, in parts of the largest answer of the norm."""
    worst = {BEFORE: 0.0, AFTER: 0.0}
    for state in worst:
        for name, x in inputs.items():
            exact = exact_norm(model.to(BEFORE).norms[name])(x.double())
            error = (model.to(state).norms[name](x).double() - exact).abs().max() / exact.abs().max()
            worst[state] = max(worst[state], error.item())
    model.to(BEFORE)
    return worst


def agreement(outputs: dict[str, Tensor], exact: Tensor) -> dict[str, float]:
    """Differences between outputs, and of each from float64: the largest, and the root of the mean square."""
    before, after = outputs[BEFORE].double(), outputs[AFTER].double()
    found = {"largest_output": exact.abs().max().item(), "difference": (before - after).abs().max().item()}
    for state, output in ((BEFORE, before), (AFTER, after)):
        found[f"max_error_{state}"] = (output - exact).abs().max().item()
        found[f"rms_error_{state}"] = (output - exact).square().mean().sqrt().item()
    return found


AGREEMENT_HEAD = [
    "largest output",
    "difference",
    "max error before",
    "after",
    "rms error before",
    "after",
    "norms before",
    "after",
]


def agreement_row(found: dict[str, float]) -> list[str]:
    names = ["largest_output", "difference"]
    names += [f"{kind}_error_{state}" for kind in ("max", "rms", "norms") for state in (BEFORE, AFTER)]
    return [f"{found[name]:.2e}" for name in names]


AGREEMENT_KEY = """\
difference: the largest one between outputs before and after. error: of outputs against the same weights in float64.
norms: the largest error of any norm on its input, in parts of its largest answer."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned Markdown; the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        aligned = [cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * widths[0]] + [f"{'-' * (w - 1)}:" for w in widths[1:]]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def digits(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def percent(part: float) -> str:
    return f"{part * 100:.1f} %"
