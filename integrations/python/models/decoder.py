#!/usr/bin/env python3
"""A decoder like Llama with random weights, with the norms of transformers and of lanenorm. See README.md."""

from __future__ import annotations

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import common

PROMPT, STEPS = 512, 64
# The widths of TinyLlama. The vocabulary is smaller as the number of layers is (4 of 22), so that the last product has
# about the share of the time that it has there.
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 6144,
}
QUICK = SHAPE | {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "vocab_size": 512}


class Decoder:
    """Runs of a model on tokens that are given, of which the first `prompt` come at once."""

    def __init__(self, module: LlamaForCausalLM, tokens: torch.Tensor, prompt: int) -> None:
        self.module, self.tokens, self.prompt = module, tokens, prompt
        self.cache = DynamicCache()
        module(tokens[:, :prompt], cache=self.cache)

    def prefill(self) -> torch.Tensor:
        return self.module(self.tokens[:, : self.prompt], cache=DynamicCache(), logits_to_keep=1).logits

    def step(self, i: int) -> torch.Tensor:
        return self.module(self.tokens[:, i : i + 1], cache=self.cache).logits

    def decode(self) -> None:
        for i in range(self.prompt, self.tokens.shape[1]):
            self.step(i)
        self.cache.crop(self.prompt - self.tokens.shape[1])

    def first(self) -> None:
        self.step(self.prompt)
        self.cache.crop(-1)


def main() -> None:
    options = common.arguments(__doc__, budget=20)
    record = common.prepare(options)
    shape, prompt, steps = (QUICK, 32, 4) if options.quick else (SHAPE, PROMPT, STEPS)
    budget = 0.5 if options.quick else options.budget
    module = LlamaForCausalLM(LlamaConfig(**shape))
    for norm in (m for m in module.modules() if type(m).__name__.endswith("Norm")):
        # Trained ones are not all 1.
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    tokens = torch.randint(shape["vocab_size"], (1, prompt + steps))

    times, agreements = [], []
    for kind, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        model = common.Model(module.to(dtype))
        with torch.inference_mode():
            decoder = Decoder(module, tokens, prompt)
            for name, run, one, count in (
                (f"prefill of {prompt}", decoder.prefill, decoder.prefill, 1),
                (f"decode of {steps}", decoder.decode, decoder.first, steps),
            ):
                inputs = model.captured(one)
                inside, alone = (
                    common.times_inside(model, run, budget / 4),
                    common.times_alone(model, inputs, budget / 4),
                )
                alone = {state: seconds * count for state, seconds in alone.items()}
                found = common.summary(common.times_of_model(model, run, budget), inside, alone)
                found |= {f"norms_error_{s}": e for s, e in common.errors_of_norms(model, inputs).items()}
                record["results"].append({"dtype": kind, "run": name} | found)
                times.append([f"{kind} {name}", *common.times_row(found)])

            # All tokens at once are the same as one after the other, and give all logits.
            outputs = {state: model.to(state).module(tokens).logits for state in (common.BEFORE, common.AFTER)}
            exact = model.in_float64()(tokens).logits
            agrees = common.agreement(outputs, exact)
            agrees |= {name: found[name] for name in found if name.startswith("norms_error")}
            likeliest = exact.argmax(-1)
            same = {state: (of.argmax(-1) == likeliest).double().mean().item() for state, of in outputs.items()}
        record["results"].append({"dtype": kind, "run": "agreement"} | agrees | {"same_token": same})
        agreements.append([kind, *common.agreement_row(agrees), *map(common.percent, same.values())])

    print(common.table(["model", *common.TIMES_HEAD], times), common.TIMES_KEY, sep="\n\n", end="\n\n")
    print(common.table(["logits", *common.AGREEMENT_HEAD, "same token before", "after"], agreements), end="\n\n")
    print(common.AGREEMENT_KEY, "same token: how often the likeliest one is that of float64.", sep="\n")
    common.finish(record, options)


if __name__ == "__main__":
    main()
