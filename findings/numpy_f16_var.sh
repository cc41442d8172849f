#!/usr/bin/env bash
# numpy 2.4.6: variance and standard deviation of float16.
#
# Guess before the run: np.mean of float16 is documented to be computed in float32 and rounded once, so np.var and
# np.std of float16 are too. A row of 1000 equal values 100 has mean 100, var 0 and std 0; -300 and 300 in turn have
# std 300.
#
# Seen: the mean is 100, but var and std are inf. They keep the sum of the row, 1e5, in float16, whose largest number is
# 65504, and the squares too: with -300 and 300 in turn the mean is right and std is inf, though 300 is a number of
# float16. With dtype=np.float32 all are right. onnx 1.23.2 inherits the like in its reference evaluator: its
# LayerNormalization of float16 gives NaN for a row of 99, 100 and 101, and its ReduceMean inf for the row of 100, where
# ONNX Runtime 1.32.0 gives what one expects. (np.mean is right, but not when it is told dtype=float16.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

seen = {}
row = np.full(1000, 100, np.float16)
turns = np.array([-300, 300] * 8, np.float16)
seen["numpy, 1000 x 100: mean, var, std"] = [row.mean(), row.var(), row.std()], [100, np.inf, np.inf]
seen["the same, dtype=float32"] = [row.mean(dtype="f4"), row.var(dtype="f4"), row.std(dtype="f4")], [100, 0, 0]
seen["the same, dtype=float16: mean"] = [row.mean(dtype="f2")], [np.inf]
seen["numpy, -300 and 300: mean, std"] = [turns.mean(), turns.std()], [0, np.inf]
seen["the same, dtype=float32: std"] = [turns.std(dtype="f4")], [300]


def model(op, *inputs, **attributes):
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT16, None)
    node = helper.make_node(op, inputs, ["y"], **attributes)
    graph = helper.make_graph([node], op, [value(name) for name in inputs], [value("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, feed):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.ravel(evaluate(None, feed)[0])[:4].tolist() for evaluate in (ReferenceEvaluator(model).run, session.run)]


reference, runtime = run(model("ReduceMean", "x", keepdims=0), {"x": row})
seen["onnx reference, ReduceMean of 1000 x 100"] = reference, [np.inf]
seen["ONNX Runtime, ReduceMean of 1000 x 100"] = runtime, [100]
near = np.array([[100, 101, 99, 100] * 250], np.float16)
feed = {"x": near, "scale": np.ones(1000, np.float16)}
reference, runtime = run(model("LayerNormalization", "x", "scale", axis=-1), feed)
seen["onnx reference, LayerNormalization of 99, 100, 101"] = reference, [np.nan] * 4
seen["ONNX Runtime, LayerNormalization of 99, 100, 101"] = runtime, [0, np.float16(2**0.5), np.float16(-(2**0.5)), 0]

print("numpy", np.__version__, "onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
changed = False
for what, (got, expected) in seen.items():
    same = np.array_equal(np.array(got, "f8"), np.array(expected, "f8"), equal_nan=True)
    changed |= not same
    print(f"{what}: {[float(v) for v in got]}" + ("" if same else f", CHANGED from {[float(v) for v in expected]}"))
sys.exit(changed)
PY
