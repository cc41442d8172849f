#!/usr/bin/env bash
# Casts of float64 to float16 and bfloat16: numpy 2.4.6, ml_dtypes 0.6.0, ONNX Runtime 1.32.0, onnx 1.23.2.
#
# Guess before the run: each cast rounds once, to the nearest number, ties to even. A number just above the middle of
# two neighbours, 1 + ulp/2 + 2^-40, becomes the upper one: 1.0009765625 in float16, 1.0078125 in bfloat16.
#
# Seen: numpy rounds once to float16. ONNX Runtime's Cast to FLOAT16 gives 1, and inf for 65519.999, which is nearer to
# 65504, the largest number: it rounds to float32 first. So it differs from onnx's reference evaluator, which is numpy's
# cast. To bfloat16 all three that were tried round twice: ml_dtypes, the reference evaluator and ONNX Runtime.
# ml_dtypes does so to float8_e4m3fn too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

versions = {m.__name__: m.__version__ for m in (np, ml_dtypes, onnx, onnxruntime)}
print(versions)
changed = False


def check(what, got, expected):
    global changed
    got = np.ravel(got).astype("f8").tolist()
    changed |= got != expected
    print(f"{what}: {got}" + ("" if got == expected else f", CHANGED from {expected}"))


def cast(to):
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["z"], to=to),
        helper.make_node("Cast", ["z"], ["y"], to=TensorProto.DOUBLE),
    ]
    ends = [value("x", TensorProto.DOUBLE, [None])], [value("y", TensorProto.DOUBLE, [None])]
    graph = helper.make_graph(nodes, "casts", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return (lambda x: ReferenceEvaluator(model).run(None, {"x": x})[0]), (lambda x: session.run(None, {"x": x})[0])


f16 = np.array([1 + 2**-11 + 2**-40, 65519.999])
reference, runtime = cast(TensorProto.FLOAT16)
check("to float16, numpy", f16.astype(np.float16), [1.0009765625, 65504.0])
check("to float16, onnx reference", reference(f16), [1.0009765625, 65504.0])
check("to float16, ONNX Runtime", runtime(f16), [1.0, np.inf])

bf16 = np.array([1 + 2**-8 + 2**-40])
reference, runtime = cast(TensorProto.BFLOAT16)
check("to bfloat16, ml_dtypes", bf16.astype(ml_dtypes.bfloat16), [1.0])
check("to bfloat16, onnx reference", reference(bf16), [1.0])
check("to bfloat16, ONNX Runtime", runtime(bf16), [1.0])

e4m3 = np.array([1 + 2**-4 + 2**-40])
check("to float8_e4m3fn, ml_dtypes", e4m3.astype(ml_dtypes.float8_e4m3fn), [1.0])
e4m3 = np.array([1 + 2**-4 + 2**-20], np.float32)
check("the same from float32 (1 + 2^-4 + 2^-20)", e4m3.astype(ml_dtypes.float8_e4m3fn), [1.125])
sys.exit(changed)
PY
