"""The record as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

OURS = "lanenorm"
# The kinds of the other contenders, by the start of their names.
OTHERS = ("torch", "onnxruntime", "onednn", "ggml")
NOTHING = "-"


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
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(value))))}f}" if value else "0"


def scientific(entry: dict | None) -> str:
    if entry is None:
        return NOTHING
    return f"{entry['max_abs_error']:.1e}" if entry["finite"] else "NaN or inf"


def in_order(names: Iterator[str]) -> list[str]:
    """Each contender once: ours first, then the others by kind."""
    found = list(dict.fromkeys(names))
    return sorted(found, key=lambda name: ("copy", OURS, *OTHERS).index(name.split()[0]))


class Report:
    """Tables of a record: the object that is written as JSON."""

    def __init__(self, record: dict) -> None:
        self.record = record
        self.cases: dict[tuple[int, str, str], dict[str, dict]] = {}
        for result in record["results"]:
            key = (result["threads"], f"{result['op']} {result['dtype']}", result["shape"])
            self.cases.setdefault(key, {})[result["contender"]] = result

    def text(self) -> str:
        sections = [self._machine(), *self._times(), *self._means(), self._losses(), self._wrong(), self._absent()]
        sections += [self._accuracy(), self._bits()]
        return "\n\n".join(section for section in sections if section)

    def _machine(self) -> str:
        machine = self.record["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        load = "unknown" if machine["load"] is None else f"{machine['load']:.2f}"
        cpu, cores = machine["cpu"], machine["logical_cores"]
        partial = " Cut short." if machine["partial"] else ""
        return f"{cpu}, {cores} logical cores, load {load} at the start. {versions}. {machine['date']}.{partial}"

    def _times(self) -> Iterator[str]:
        if self.cases:
            yield "Times as multiples of those of a copy on one thread:"
        for threads in self._threads():
            for op in dict.fromkeys(op for t, op, _ in self.cases if t == threads):
                yield self._times_of(threads, op)

    def _times_of(self, threads: int, op: str) -> str:
        shapes = {shape: timings for (t, o, shape), timings in self.cases.items() if (t, o) == (threads, op)}
        names = [n for n in in_order(n for timings in shapes.values() for n in timings) if n != "copy"]
        head = [f"{op}, {threads} thr", "copy µs", f"{OURS} µs", *names, "best other / ours"]
        rows = []
        for shape, timings in shapes.items():
            copies = [digits(timings[n]["copies"]) if n in timings else NOTHING for n in names]
            micros = [
                digits(timings[n]["lower_quartile_ns"] / 1e3) if n in timings else NOTHING for n in ("copy", OURS)
            ]
            gain = self._gain(timings)
            rows.append([shape, *micros, *copies, NOTHING if gain is None else digits(gain)])
        return table(head, rows)

    def _means(self) -> Iterator[str]:
        for threads in self._threads():
            of = [timings for (t, op, _), timings in self.cases.items() if (t, op) == (threads, "layer_norm f32")]
            gains = [gain for gain in map(self._gain, of) if gain is not None]
            if gains:
                mean = np.exp(np.mean(np.log(gains)))
                yield (
                    f"Geometric mean of (best of PyTorch, ONNX Runtime, oneDNN) / lanenorm, LayerNorm f32, "
                    f"{len(gains)} shapes, {threads} thr: {mean:.2f}"
                )

    def _losses(self) -> str:
        lines = []
        for (threads, op, shape), timings in self.cases.items():
            gain = self._gain(timings)
            if gain is not None and gain < 1:
                best = min(self._others(timings).values(), key=lambda timing: timing["copies"])
                lines.append(
                    f"- {op} {shape}, {threads} thr: {best['contender']} {digits(best['copies'])} copies, "
                    f"{OURS} {digits(timings[OURS]['copies'])} ({digits(1 / gain)} times as long)"
                )
        return "\n".join([f"Cases in which another is faster: {len(lines) or 'none'}.", *lines]) if self.cases else ""

    def _wrong(self) -> str:
        lines = [
            f"- {r['op']} {r['dtype']} {r['shape']}, {r['threads']} thr: {r['contender']}, {error(r)}"
            for r in self.record["results"]
            if not r["right"]
        ]
        return "\n".join(["Timed with answers that are wrong (error, of the largest answer):", *lines]) if lines else ""

    def _absent(self) -> str:
        entries = {(a["contender"], f"{a['op']} {a['dtype']}"): a["reason"] for a in self.record["absent"]}
        lines = [f"- {name}, {op}: {reason[:100]}" for (name, op), reason in entries.items()]
        return "\n".join(["Not there:", *lines]) if lines else ""

    def _accuracy(self) -> str:
        entries = self.record["accuracy"]
        if not entries:
            return ""
        names = in_order(e["contender"] for e in entries)
        found = {(e["case"], e["contender"]): e for e in entries}
        cases = dict.fromkeys(e["case"] for e in entries)
        rows = [[case, *(scientific(found.get((case, name))) for name in names)] for case in cases]
        return f"LayerNorm f32, largest absolute error against float64:\n\n{table(['input', *names], rows)}"

    def _bits(self) -> str:
        entries = self.record["bits"]
        if not entries:
            return ""
        names = in_order(e["contender"] for e in entries)
        groups: dict[str, dict[str, list[dict]]] = {}
        for e in entries:
            op, dtype, shape = e["case"].split("/", 2)
            label = {
                "threads": f"threads 1 and more, {op} {dtype} {e['output']}",
                "batch": f"alone and in a batch, {op} {dtype}",
                "sum of ones": f"{op} {dtype} {e['output']}, {shape}, dy = 1",
            }[e["check"]]
            groups.setdefault(label, {}).setdefault(e["contender"], []).append(e)
        rows = [[label, *(verdict(by.get(name, [])) for name in names)] for label, by in groups.items()]
        title = "Bits (cases in which they are the same, of all; the sum that differs most)"
        return f"{title}:\n\n{table(['check', *names], rows)}"

    def _threads(self) -> list[int]:
        return list(dict.fromkeys(threads for threads, _, _ in self.cases))

    def _others(self, timings: dict[str, dict]) -> dict[str, dict]:
        return {name: timing for name, timing in timings.items() if name.split()[0] in OTHERS}

    def _gain(self, timings: dict[str, dict]) -> float | None:
        """How many times as long the best of the others takes."""
        others = self._others(timings).values()
        if OURS not in timings or not others:
            return None
        return min(timing["copies"] for timing in others) / timings[OURS]["copies"]


def error(result: dict) -> str:
    return NOTHING if result["max_error"] is None else f"{result['max_error']:.1e}"


def verdict(entries: list[dict]) -> str:
    if not entries:
        return NOTHING
    if "value" in entries[0]:
        return f"{entries[0]['value']:g}"
    return f"{sum(e['same'] for e in entries)} of {len(entries)}"
