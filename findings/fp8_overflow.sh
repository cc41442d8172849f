#!/usr/bin/env bash
# PyTorch 2.15.0, ONNX Runtime 1.32.0 (CPU) and ml_dtypes 0.6.0: f32 beyond the range of 8-bit floats, cast to
# float8_e4m3fn (at most 448, NaN but no infinity) and float8_e5m2 (at most 57344, with infinities).
#
# Guess before the run: numbers that round to more than the greatest one become NaN in float8_e4m3fn and infinite in
# float8_e5m2, in PyTorch as in ml_dtypes, and in ONNX Runtime where Cast has saturate=0. With saturate=1 they become
# the greatest.
#
# Seen: PyTorch saturates in float8_e4m3fn, where even infinity becomes 448, and does not in float8_e5m2, where 61440
# becomes infinite. So one range check does not serve both. ONNX Runtime with saturate=0 is not monotonic: 470 becomes
# NaN, 490 becomes 448, and 500 becomes NaN again; in float8_e5m2, 62000 becomes NaN, which the type need not have, and
# 66000 becomes infinite. ml_dtypes is as guessed, and so is saturate=1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0 onnx==1.23.2 onnxruntime==1.32.0 torch==2.15.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import ml_dtypes
import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

nan, inf = np.nan, np.inf


def runtime(x, to, saturate):
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=to, saturate=saturate),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(nodes, "cast", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


# x, ml_dtypes, PyTorch, ONNX Runtime with saturate=0 and with saturate=1
cases = {
    "e4m3fn": [
        (448.0, 448.0, 448.0, 448.0, 448.0),
        (464.0, 448.0, 448.0, 448.0, 448.0),
        (470.0, nan, 448.0, nan, 448.0),
        (490.0, nan, 448.0, 448.0, 448.0),
        (500.0, nan, 448.0, nan, 448.0),
        (1e9, nan, 448.0, nan, 448.0),
        (inf, nan, 448.0, nan, 448.0),
    ],
    "e5m2": [
        (57344.0, 57344.0, 57344.0, 57344.0, 57344.0),
        (61439.0, 57344.0, 57344.0, 57344.0, 57344.0),
        (62000.0, inf, inf, nan, 57344.0),
        (66000.0, inf, inf, inf, 57344.0),
        (inf, inf, inf, inf, 57344.0),
    ],
}
kinds = {
    "e4m3fn": (ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn, TensorProto.FLOAT8E4M3FN),
    "e5m2": (ml_dtypes.float8_e5m2, torch.float8_e5m2, TensorProto.FLOAT8E5M2),
}
failed = False
for name, rows in cases.items():
    of_ml_dtypes, of_torch, of_onnx = kinds[name]
    expected = np.array(rows, dtype=np.float32)
    x = expected[:, 0].copy()
    seen = np.stack(
        [
            x,
            x.astype(of_ml_dtypes).astype(np.float32),
            torch.from_numpy(x).to(of_torch).float().numpy(),
            runtime(x, of_onnx, 0),
            runtime(x, of_onnx, 1),
        ],
        axis=1,
    )
    print(name, "x, ml_dtypes, PyTorch, ONNX Runtime with saturate=0 and 1")
    print(seen)
    failed |= not np.array_equal(seen, expected, equal_nan=True)
sys.exit(failed)
PY
