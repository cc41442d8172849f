#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6: sorting bfloat16 arrays in which there is a NaN.
#
# Guess before the run: np.sort puts NaNs last, as numpy documents it and does for float16, float32 and float64.
# np.argmax gives the first NaN and np.max is NaN, as with those.
#
# np.median of an array with a NaN is NaN, as numpy documents it.
#
# Seen: argmax and max are as guessed. But np.sort of [1, NaN, 3, 2, -1] gives [1, NaN, -1, 2, 3]: the NaN stays where
# it was, and the numbers around it are not in order. np.argsort does the same. What builds on sorted arrays goes wrong
# too: np.unique of two NaNs gives both, and np.median of the bfloat16 array is -1, its smallest number.
# float16 and float32 with the same values are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import ml_dtypes
import numpy as np

nan = np.nan
values = [1, nan, 3, 2, -1]
ordered, unordered = [-1, 1, 2, 3, nan], [1, nan, -1, 2, 3]
print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
changed = False


def check(what, got, expected):
    global changed
    got = np.ravel(got).astype("f8")
    same = np.array_equal(got, np.array(expected, "f8"), equal_nan=True)
    changed |= not same
    print(f"{what}: {got.tolist()}" + ("" if same else f", CHANGED from {expected}"))


for kind in np.float32, np.float16, ml_dtypes.bfloat16:
    x = np.array(values).astype(kind)
    of_numpy = kind in (np.float32, np.float16)
    name = np.dtype(kind).name
    check(f"{name}: sort", np.sort(x), ordered if of_numpy else unordered)
    check(f"{name}: sort of what argsort gives", x[np.argsort(x)], ordered if of_numpy else unordered)
    unique = np.unique(np.array([nan, nan, 1]).astype(kind))
    check(f"{name}: unique of NaN, NaN, 1", unique, [1, nan] if of_numpy else [nan, nan, 1])
    check(f"{name}: median", np.median(x), [nan] if of_numpy else [-1])
    check(f"{name}: argmax, max", [np.argmax(x), np.max(x)], [1, nan])
sys.exit(changed)
PY
