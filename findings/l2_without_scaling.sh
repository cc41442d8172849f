#!/usr/bin/env bash
# numpy 2.4.6, scipy 1.17.1, jax 0.10.2, keras 3.15.1, onnx 1.23.2, ONNX Runtime 1.32.0: L2 norms of rows whose squares
# leave the range of their type.
#
# Guess before the run: norms are taken as BLAS's nrm2 takes them, which scales, so that 3e20 and 4e20 in float32 have
# norm 5e20 and 3e-25 and 4e-25 have 5e-25. What divides by a norm, with no eps in its definition (ONNX's
# LpNormalization), gives 0.6 and 0.8 for all of these. What normalizes float16 does so in float32, as PyTorch's
# normalize does: 300, -300, 300 and -300 become 0.5, -0.5, 0.5 and -0.5.
#
# Seen: scipy.linalg.norm alone scales, and only for one dimension: along an axis it is numpy's. numpy and jax have
# norms of infinity and 0, also of float16 300. ONNX Runtime and onnx's reference evaluator give zeros for large and
# for small rows, which are not the zeros that their definition has for a norm of 0. In float16 ONNX Runtime is right;
# onnx's reference evaluator and Keras's UnitNormalization give zeros.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 jax==0.10.2 keras==3.15.1 onnx==1.23.2 onnxruntime==1.32.0
KERAS_BACKEND=jax JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import jax
import jax.numpy as jnp
import keras
import numpy as np
import onnx
import onnxruntime
import scipy
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

seen = {}
large, small = np.array([3e20, 4e20], "f4"), np.array([3e-25, 4e-25], "f4")
half = np.array([[300, -300, 300, -300]], "f2")
for name, row in {"3e20, 4e20": large, "3e-25, 4e-25": small}.items():
    limit = np.inf if row is large else 0
    seen[f"numpy.linalg.norm of {name}"] = [np.linalg.norm(row)], [limit]
    seen[f"jax.numpy.linalg.norm of {name}"] = [jnp.linalg.norm(jnp.array(row))], [limit]
    seen[f"scipy.linalg.norm of {name}"] = [scipy.linalg.norm(row)], [np.hypot(*row.astype("f8"))]
    seen[f"the same along an axis, {name}"] = scipy.linalg.norm(row[None], axis=1), [limit]
seen["numpy.linalg.norm of float16 300"] = [np.linalg.norm(half)], [np.inf]
seen["jax.numpy.linalg.norm of float16 300"] = [jnp.linalg.norm(jnp.array(half))], [np.inf]
seen["keras UnitNormalization of float16 300"] = keras.layers.UnitNormalization(dtype="float16")(half)[0], [0] * 4


def normalize(x):
    kind = TensorProto.FLOAT16 if x.dtype == np.float16 else TensorProto.FLOAT
    value = lambda name: helper.make_tensor_value_info(name, kind, None)
    node = helper.make_node("LpNormalization", ["x"], ["y"], axis=-1, p=2)
    graph = helper.make_graph([node], "graph", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.ravel(evaluate(None, {"x": x})[0]) for evaluate in (ReferenceEvaluator(model).run, session.run)]


for name, row in {"3e20, 4e20": large[None], "3e-25, 4e-25": small[None]}.items():
    reference, runtime = normalize(row)
    seen[f"onnx reference, LpNormalization of {name}"] = reference, [0, 0]
    seen[f"ONNX Runtime, LpNormalization of {name}"] = runtime, [0, 0]
reference, runtime = normalize(half)
seen["onnx reference, LpNormalization of float16 300"] = reference, [0] * 4
seen["ONNX Runtime, LpNormalization of float16 300"] = runtime, [0.5, -0.5, 0.5, -0.5]

print("numpy", np.__version__, "scipy", scipy.__version__, "jax", jax.__version__, "keras", keras.__version__)
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
changed = False
for what, (got, expected) in seen.items():
    same = np.allclose(np.array(got, "f8"), np.array(expected, "f8"), rtol=1e-6, atol=0)
    changed |= not same
    print(f"{what}: {[float(v) for v in got]}" + ("" if same else f", CHANGED from {[float(v) for v in expected]}"))
sys.exit(changed)
PY
