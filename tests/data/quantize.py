"""Writes quantize.json: what public libraries make of rows of float32 when they quantize them, as hashes.

    pip install numpy==2.4.6 ml_dtypes==0.6.0 gguf==0.19.0 onnx==1.23.2 onnxruntime==1.32.0 torch==2.15.0 \
        torchao==0.18.0 pywhispercpp==1.5.1
    python tests/data/quantize.py

pywhispercpp has ggml 0.13.1 within, as shared libraries: its code for x86-64 is meant where a preset says so.

The rows are made of a generator of random numbers (splitmix64), here and in tests/quantize.rs.
"""

import ctypes
import importlib.metadata
import json
import pathlib

import gguf
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch.ao.quantization.fx import _decomposed  # registers the operators
from torchao.quantization import PerRow
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

ROWS, COLS = 160, 2048
KINDS = ["uniform", "heavy", "ties", "tiny", "large", "wide", "zeros", "near"]
F32 = np.float32


def splitmix64(seed, count):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def rows_of(kind, seed, preset=None, given_scale=None):
    """Rows of float32. All products are of two float32, rounded."""
    z = splitmix64(seed, ROWS * COLS)
    v = (z >> np.uint64(40)).astype(F32) * F32(2**-23) - F32(1)
    if kind == "heavy":
        v = v * v * v * v * v
    elif kind == "ties":
        # Scales are powers of two, so that every other element lies half-way between two integers.
        v = ((z >> np.uint64(40)) % np.uint64(255)).astype(F32) * F32(0.5) - F32(63.5)
        v[::32] = F32(127)
    elif kind == "tiny":
        v = v * F32(1e-6)
    elif kind == "large":
        v = v * F32(1e6)
    elif kind == "wide":
        v = np.ldexp(v, (z & np.uint64(63)).astype(np.int32) - 32).astype(F32)
    elif kind == "zeros":
        v = v * F32(0)
    elif kind == "near":
        v = near(z.reshape(ROWS, COLS), preset, given_scale)
    return v.reshape(ROWS, COLS)


def near(z, preset, given_scale):
    """Halves of integers times the scale, rounded, and floats up to two away: each rule of rounding shows in many.

    Each 32nd element is the greatest, or its negative: one of each row, or of the tensor.
    """
    amax = ((z if preset != "ONNX_U8" else z[:1])[:, :1] >> np.uint64(40)).astype(F32) + F32(1)
    scale = amax / F32(AMAX_OVER_SCALE.get(preset, 127)) if given_scale is None else F32(given_scale)
    halves = ((z >> np.uint64(40)) % np.uint64(253)).astype(np.float64) - 126.5
    v = (halves * scale.astype(np.float64)).astype(F32)
    v = (v.view(np.int32) + (z & np.uint64(7)).astype(np.int32) % 5 - 2).view(F32)
    v[:, ::32] = np.where((z[:, ::32] >> np.uint64(9)) & np.uint64(1) == 1, amax, -amax)
    return v


def hash_of(array):
    data = np.frombuffer(np.ascontiguousarray(array).tobytes(), dtype=np.uint8).astype(np.uint64)
    with np.errstate(over="ignore"):
        return str(int(((data + np.uint64(1)) * splitmix64(0, data.size)).sum(dtype=np.uint64)))


def torch_ao_i8(x, _):
    x = torch.from_numpy(x)
    ops = torch.ops.quantized_decomposed
    scale, zero_point = ops.choose_qparams_per_token(x, torch.int8)
    q = ops.quantize_per_token(x, scale, zero_point, -128, 127, torch.int8)
    return q.numpy(), scale.float().numpy().ravel(), None


def torchao_i8(x, _):
    tensor = Int8Tensor.from_hp(torch.from_numpy(x), granularity=PerRow())
    return tensor.qdata.numpy(), tensor.scale.float().numpy().ravel(), None


def session(node, inputs, outputs):
    graph = helper.make_graph(
        [node],
        "quantize",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def onnx_u8(tensors):
    run = session(
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero_point"]),
        [("x", TensorProto.FLOAT, ["n"])],
        [("q", TensorProto.UINT8, ["n"]), ("scale", TensorProto.FLOAT, []), ("zero_point", TensorProto.UINT8, [])],
    )

    def quantize(x, _):
        return tuple(map(np.array, zip(*(run.run(None, {"x": tensor}) for tensor in tensors(x)))))

    return quantize


def onnx_given(dtype, numpy_dtype):
    def quantize(x, params):
        run = session(
            helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["q"]),
            [("x", TensorProto.FLOAT, x.shape), ("scale", TensorProto.FLOAT, []), ("zero_point", dtype, [])],
            [("q", dtype, x.shape)],
        )
        scale = np.array(params["given_scale"], dtype=F32)
        zero_point = np.array(params["given_zero_point"], dtype=numpy_dtype)
        return run.run(None, {"x": x, "scale": scale, "zero_point": zero_point})[0], None, None

    return quantize


def gguf_q8_0(x, _):
    return gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0), None, None


def ggml(library, function, elements, size):
    files = importlib.metadata.files("pywhispercpp")
    path = next(file.locate() for file in files if file.name.startswith(f"libggml-{library}-"))
    base = next(file.locate() for file in files if file.name.startswith("libggml-base-"))
    ctypes.CDLL(str(base), mode=ctypes.RTLD_GLOBAL)
    code = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    if library == "cpu":
        code.ggml_cpu_init()

    def quantize(x, _):
        q = np.zeros((ROWS, COLS // elements * size), dtype=np.uint8)
        pointer = x.ctypes.data_as(ctypes.c_void_p), q.ctypes.data_as(ctypes.c_void_p)
        getattr(code, function)(*pointer, ctypes.c_int64(x.size))
        return q, None, None

    return quantize


def numpy_i8(x, _):
    scale = np.abs(x).max(axis=1, keepdims=True) / F32(127)
    with np.errstate(invalid="ignore"):
        quotient = np.where(scale == 0, F32(0), x / scale)
    return np.clip(np.rint(quotient), -127, 127).astype(np.int8), scale.ravel(), None


def float8(dtype):
    def quantize(x, _):
        most = F32(ml_dtypes.finfo(dtype).max)
        scale = np.abs(x).max(axis=1, keepdims=True) / most
        with np.errstate(invalid="ignore"):
            quotient = np.where(scale == 0, F32(0), x / scale)
        return np.clip(quotient, -most, most).astype(dtype).view(np.uint8), scale.ravel(), None

    return quantize


LIBRARIES = {
    "TORCH_AO_I8": torch_ao_i8,
    "TORCHAO_I8": torchao_i8,
    "ONNX_U8": onnx_u8(lambda x: [x.ravel()]),
    "I8_GIVEN": onnx_given(TensorProto.INT8, np.int8),
    "U8_GIVEN": onnx_given(TensorProto.UINT8, np.uint8),
    "Q8_0": gguf_q8_0,
    "Q8_0_REF": ggml("base", "quantize_row_q8_0_ref", 32, 34),
    "Q8_1": ggml("base", "quantize_row_q8_1_ref", 32, 36),
    "Q8_K": ggml("base", "quantize_row_q8_K_ref", 256, 292),
    "Q8_0_X86": ggml("cpu", "quantize_row_q8_0", 32, 34),
    "Q8_1_X86": ggml("cpu", "quantize_row_q8_1", 32, 36),
    "Q8_K_X86": ggml("cpu", "quantize_row_q8_K", 256, 292),
    "E4M3": float8(ml_dtypes.float8_e4m3fn),
    "E5M2": float8(ml_dtypes.float8_e5m2),
    "I8": numpy_i8,
    "U8": onnx_u8(list),
}

# In rows of both signs whose greatest magnitude is amax. It is 127 for other presets.
AMAX_OVER_SCALE = {"TORCHAO_I8": 127.5, "ONNX_U8": 127.5, "U8": 127.5, "E4M3": 448, "E5M2": 57344}

GIVEN = {
    "I8_GIVEN": [(0.0078125, 0), (0.011, -5), (3.1, 127)],
    "U8_GIVEN": [(0.0078125, 128), (0.0123, 100), (3.1, 0)],
}


def main():
    cases = []
    for p, (preset, quantize) in enumerate(LIBRARIES.items()):
        for k, kind in enumerate(KINDS):
            for scale, zero_point in GIVEN.get(preset, [(None, None)]):
                case = {"preset": preset, "kind": kind, "seed": str(1000 * p + k + 1), "rows": ROWS, "cols": COLS}
                if scale is not None:
                    case |= {"given_scale": scale, "given_zero_point": zero_point}
                q, scales, zero_points = quantize(rows_of(kind, int(case["seed"]), preset, scale), case)
                case["q"], case["first"] = hash_of(q), q.view(np.uint8).ravel()[:64].tobytes().hex()
                if scales is not None:
                    scales = np.asarray(scales, dtype=F32)
                    case["scale"] = hash_of(scales)
                    case["first_scales"] = [f"{bits:08x}" for bits in scales.view(np.uint32)[:4]]
                if zero_points is not None:
                    case["zero_point"] = hash_of(np.asarray(zero_points, dtype=np.uint8))
                cases.append(case)
    packages = ["numpy", "ml_dtypes", "gguf", "onnx", "onnxruntime", "torch", "torchao", "pywhispercpp"]
    versions = {package: importlib.metadata.version(package).split("+")[0] for package in packages}
    lines = ",\n".join(f"  {json.dumps(case)}" for case in cases)
    text = f'{{\n "versions": {json.dumps(versions)},\n "cases": [\n{lines}\n ]\n}}'
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
