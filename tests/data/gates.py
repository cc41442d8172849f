"""Writes gates.safetensors: what classes of transformers with a gate compute of rows of bf16 and f16.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0
    python tests/data/gates.py
"""

import importlib
import pathlib

import safetensors.torch
import torch

ROWS, COLS, GROUPS, EPS = 4, 256, 4, 1e-6

CLASSES = {
    "Qwen3NextRMSNormGated": ("qwen3_next", {}),
    "KimiLinearRMSNormGated": ("kimi_linear", {}),
    "Zamba2RMSNormGated": ("zamba2", {"group_size": COLS // GROUPS}),
}


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    x, z = (scale * torch.randn(ROWS, COLS, generator=generator) for scale in (2, 3))
    gamma = 1 + 0.25 * torch.randn(COLS, generator=generator)
    tensors = {}
    for suffix, dtype in ("bf16", torch.bfloat16), ("f16", torch.float16):
        given = {"x": x.to(dtype), "z": z.to(dtype), "gamma": gamma.to(dtype)}
        tensors |= {f"{name}.{suffix}": tensor for name, tensor in given.items()}
        for name, (model, arguments) in CLASSES.items():
            module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
            norm = getattr(module, name)(COLS, eps=EPS, **arguments)
            norm.weight = torch.nn.Parameter(given["gamma"].clone())
            with torch.no_grad():
                tensors[f"{name}.{suffix}"] = norm(given["x"], given["z"])
    safetensors.torch.save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
