#!/usr/bin/env bash
# candle-core 0.11.1 and ggml 0.13.1 (of the wheel of pywhispercpp 1.5.1), x86-64: a block of 256 floats that Q8_K
# quantizes with a scale of 1, half of which lie half-way between two integers.
#
# Guess before the run: candle's Q8_K, whose rules for the scale and the sign are those of ggml, has ggml's integers.
#
# Seen: ggml sends ties to the even integer, in its reference and in its code for x86-64 (0.5 becomes 0, 2.5 becomes 2).
# candle sends them away from zero (1 and 3), as both libraries do in the reference of Q8_0. So activations quantized by
# the one are not those of the other, and every second tie differs by one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/candle/src"
cat >"$folder/candle/Cargo.toml" <<'END'
[package]
name = "q8-k"
version = "0.0.0"
edition = "2024"

[dependencies]
candle-core = "=0.11.1"
END
cat >"$folder/candle/src/main.rs" <<'END'
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};

fn main() -> Result<()> {
    // The first has the greatest magnitude, so that the scale is 1.
    let x: Vec<f32> = (0..256).map(|i| if i == 0 { -127.0 } else { (i % 16) as f32 * 0.5 }).collect();
    let x = Tensor::from_vec(x, 256, &Device::Cpu)?;
    let y: Vec<f32> = QTensor::quantize(&x, GgmlDType::Q8K)?.dequantize(&Device::Cpu)?.to_vec1()?;
    println!("{}", y.iter().map(|v| format!("{v}")).collect::<Vec<_>>().join(" "));
    Ok(())
}
END
(cd "$folder/candle" && cargo run -q --release >"$folder/candle.txt")
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 pywhispercpp==1.5.1
"$folder/venv/bin/python" - "$folder/candle.txt" <<'PY'
import ctypes
import importlib.metadata
import sys

import numpy as np

files = importlib.metadata.files("pywhispercpp")
libraries = []
for name in ("base", "cpu"):
    path = next(file.locate() for file in files if file.name.startswith(f"libggml-{name}-"))
    libraries.append(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))
libraries[1].ggml_cpu_init()

x = np.arange(256) % 16 * np.float32(0.5)
x[0] = -127
x = x.astype(np.float32)


def ggml(function):
    block = np.zeros(292, dtype=np.uint8)
    function(x.ctypes.data_as(ctypes.c_void_p), block.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(256))
    return block[:4].view(np.float32)[0], block[4:260].view(np.int8).astype(np.float32)


seen = {
    "ggml, reference": ggml(libraries[0].quantize_row_q8_K_ref),
    "ggml, x86-64": ggml(libraries[1].quantize_row_q8_K),
    "candle": (np.float32(1), np.array(open(sys.argv[1]).read().split(), dtype=np.float32)),
}
for name, (scale, q) in seen.items():
    print(f"{name}: scale {scale}, {x[1:8]} become {q[1:8]}")
even, away = np.rint(x), np.trunc(x + np.copysign(np.float32(0.5), x))
print(f"{np.count_nonzero(even != away)} of 256 differ")
as_seen = all(
    scale == 1 and np.array_equal(q, away if name == "candle" else even) for name, (scale, q) in seen.items()
)
sys.exit(not as_seen)
PY
