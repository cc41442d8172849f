#!/usr/bin/env bash
# ml_dtypes 0.6.0 and onnx 1.20.0 (its reference evaluator): f32 cast to float8_e8m0fnu, the type of MX block scales,
# which has the powers of two from 2^-127 to 2^127, NaN, and no zero.
#
# Guess before the run: both keep each power of two that the type has. Zero becomes 2^-127, the smallest number, in
# both, and a negative number becomes NaN in both. ml_dtypes rounds to nearest and a tie to the even exponent field, as
# it does for its other types; onnx rounds up, which is the default of Cast.
#
# Seen: ml_dtypes takes ties up: 3 becomes 4, as 1.5 becomes 2 and 6 becomes 8. Zero becomes NaN, while 2^-149, the
# smallest number above it, becomes 2^-127. So a block of zeros whose scale is computed as 0 has the scale NaN.
# onnx makes 2^-126 of 2^-127, which the type has, and of 2^-149, but 2^-127 of 2^-128, which lies between them, and of
# zero. -1 becomes 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0 onnx==1.20.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

nan = np.nan
#         x          ml_dtypes  onnx
cases = [(0.0,       nan,       2.0**-127),
         (2.0**-149, 2.0**-127, 2.0**-126),
         (2.0**-128, 2.0**-127, 2.0**-127),
         (2.0**-127, 2.0**-127, 2.0**-126),
         (1.0,       1.0,       1.0),
         (1.4,       1.0,       2.0),
         (1.5,       2.0,       2.0),
         (3.0,       4.0,       4.0),
         (6.0,       8.0,       8.0),
         (2.0**127,  2.0**127,  2.0**127),
         (-1.0,      nan,       1.0),
         (np.inf,    nan,       nan)]
print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__, "onnx", onnx.__version__)
x = np.array([case[0] for case in cases], np.float32)
value = lambda name, kind: helper.make_tensor_value_info(name, kind, [None])
cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0)
graph = helper.make_graph([cast], "g", [value("x", TensorProto.FLOAT)], [value("y", TensorProto.FLOAT8E8M0)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
by_onnx = ReferenceEvaluator(model).run(None, {"x": x})[0]


def numbers(v):
    codes = v.view(np.uint8).astype(int)
    return np.where(codes == 255, nan, np.exp2(codes - 127.0))


changed = False
for name, got, column in ("ml_dtypes", x.astype(ml_dtypes.float8_e8m0fnu), 1), ("onnx", by_onnx, 2):
    for (x_i, *expected), y_i in zip(cases, numbers(got)):
        same = np.array_equal(y_i, expected[column - 1], equal_nan=True)
        changed |= not same
        print(f"{name}: {x_i!r} becomes {float(y_i)!r}" + ("" if same else f", CHANGED from {expected[column - 1]!r}"))
sys.exit(changed)
PY
