"""ONNX Runtime: models of one node, bound to buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from cases import Buffers, Case, Images
from contender import Contender, NotAsked, Unsupported, dequantized, written

TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

# What DynamicQuantizeLinear writes.
OF_8_BITS = {"q": TensorProto.UINT8, "scale": TensorProto.FLOAT, "zero_point": TensorProto.UINT8}

# The versions of the standard in which operators came that are younger than all others here.
OPSET = 17
YOUNGER = {"RMSNormalization": 23, "GroupNormalization": 21}

Node = tuple[str, str, list[str], list[str], dict[str, int | float | list[int]]]


def silu(of: str, to: str) -> Node:
    """What the runtime's optimizations make of a sigmoid and a product."""
    return "com.microsoft", "QuickGelu", [of], [to], {"alpha": 1.0}


# By operation: the name of the contender, and its nodes, each with domain, type, inputs, outputs, attributes.
MODELS: dict[str, dict[str, list[Node]]] = {
    "layer_norm": {
        "onnxruntime": [("", "LayerNormalization", ["x", "gamma", "beta"], ["y"], {"axis": -1})],
    },
    "rms_norm": {
        "onnxruntime": [("", "RMSNormalization", ["x", "gamma"], ["y"], {"axis": -1})],
        "onnxruntime simplified": [("", "SimplifiedLayerNormalization", ["x", "gamma"], ["y"], {"axis": -1})],
    },
    "layer_norm_u8": {
        "onnxruntime": [
            ("", "LayerNormalization", ["x", "gamma", "beta"], ["y"], {"axis": -1}),
            ("", "DynamicQuantizeLinear", ["y"], ["q", "scale", "zero_point"], {}),
        ],
    },
    "add_layer_norm": {
        "onnxruntime": [
            (
                "com.microsoft",
                "SkipLayerNormalization",
                ["x", "residual", "gamma", "beta"],
                ["y", "", "", "sum"],
                {},
            )
        ],
        "onnxruntime 2 nodes": [
            ("", "Add", ["x", "residual"], ["sum"], {}),
            ("", "LayerNormalization", ["sum", "gamma", "beta"], ["y"], {"axis": -1}),
        ],
    },
    "gated_rms_norm": {
        "onnxruntime": [
            ("", "RMSNormalization", ["x", "gamma"], ["normalized"], {"axis": -1}),
            silu("z", "gate"),
            ("", "Mul", ["normalized", "gate"], ["y"], {}),
        ],
    },
}


def models(case: Case) -> dict[str, list[Node]]:
    return of_images(case, case.shape) if isinstance(case.shape, Images) else MODELS.get(case.op, {})


def of_images(case: Case, shape: Images) -> dict[str, list[Node]]:
    """As `MODELS`. Groups by their operator, and by what PyTorch exports, which is older than that."""
    if case.is_channels_last:
        return {}
    if not shape.groups:
        transposed = {"perm": [0, 2, 1]}
        nodes = [
            ("", "Transpose", ["x"], ["last"], transposed),
            ("", "LayerNormalization", ["last", "gamma", "beta"], ["normalized"], {"axis": -1}),
            ("", "Transpose", ["normalized"], ["y"], transposed),
        ]
        return {"onnxruntime": nodes}
    to = "normalized" if case.has_silu else "y"
    operator = [("", "GroupNormalization", ["x", "gamma", "beta"], [to], {"num_groups": shape.groups})]
    exported = [
        ("", "Constant", [], ["grouped"], {"value_ints": [0, shape.groups, -1]}),
        ("", "Constant", [], ["ones"], {"value_floats": [1.0] * shape.groups}),
        ("", "Constant", [], ["zeros"], {"value_floats": [0.0] * shape.groups}),
        ("", "Constant", [], ["axis"], {"value_ints": [1]}),
        ("", "Shape", ["x"], ["shape"], {}),
        ("", "Reshape", ["x", "grouped"], ["groups"], {}),
        ("", "InstanceNormalization", ["groups", "ones", "zeros"], ["xhat"], {}),
        ("", "Reshape", ["xhat", "shape"], ["channels"], {}),
        ("", "Unsqueeze", ["gamma", "axis"], ["gammas"], {}),
        ("", "Unsqueeze", ["beta", "axis"], ["betas"], {}),
        ("", "Mul", ["channels", "gammas"], ["scaled"], {}),
        ("", "Add", ["scaled", "betas"], [to], {}),
    ]
    then = [silu(to, "y")] if case.has_silu else []
    return {"onnxruntime": operator + then, "onnxruntime exported": exported + then}


class OnnxRuntime:
    """Sessions on the CPU, with the given number of threads."""

    name = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(self, threads: int) -> None:
        onnxruntime.set_default_logger_severity(4)
        self._threads = threads
        self._sessions: dict[tuple, onnxruntime.InferenceSession | Unsupported] = {}

    def contenders(self, buffers: Buffers) -> list[Contender]:
        case = buffers.problem.case
        if case.is_quantized and case.op not in MODELS:
            raise NotAsked
        bound, refused = [], [f"no operator for {case.op}"]
        for name, nodes in models(case).items():
            session = self._session(name, nodes, case)
            if isinstance(session, Unsupported):
                refused.append(str(session))
                continue
            run = partial(session.run_with_iobinding, bind(session, buffers))
            bound.append(Contender(name, run, quantized(buffers) if case.is_quantized else written(buffers)))
        if not bound:
            raise Unsupported(refused[-1])
        return bound

    def _session(self, name: str, nodes: list[Node], case: Case) -> onnxruntime.InferenceSession | Unsupported:
        """Sessions are kept: they fit all shapes with as many groups."""
        key = (name, case.op, case.dtype, case.eps, case.shape.groups if isinstance(case.shape, Images) else 0)
        if key not in self._sessions:
            try:
                self._sessions[key] = self._new_session(model(nodes, case))
            except Exception as error:  # The type of the exception depends on what is missing.
                self._sessions[key] = Unsupported(str(error).strip().splitlines()[0])
        return self._sessions[key]

    def _new_session(self, serialized: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Its threads would spin for tens of milliseconds on the cores of the contender that is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Two nodes must stay two.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def quantized(buffers: Buffers) -> Callable[[object], dict[str, np.ndarray]]:
    return lambda _: dequantized(buffers["q"], buffers["scale"][0, 0], int(buffers["zero_point"][0, 0]))


def model(of_nodes: list[Node], case: Case) -> bytes:
    element = TYPES[case.dtype]
    nodes = []
    for domain, operator, inputs, outputs, attributes in of_nodes:
        extra = {"epsilon": case.eps} if operator.endswith("Normalization") else {}
        nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes, **extra))
    made = [output for node in nodes for output in node.output if output]
    # The graph may keep the others where it likes, as it may y where that is quantized.
    results = [name for name in made if name in (OF_8_BITS if case.is_quantized else case.outputs)]
    given = dict.fromkeys(name for node in nodes for name in node.input if name not in made)
    dims = ["samples", "channels", "pixels"] if case.is_of_images else ["rows", "cols"]
    shapes = {"gamma": ["params"], "beta": ["params"], "scale": [], "zero_point": []}

    def infos(names: list[str]) -> list:
        return [helper.make_tensor_value_info(n, OF_8_BITS.get(n, element), shapes.get(n, dims)) for n in names]

    graph = helper.make_graph(nodes, case.op, infos(list(given)), infos(results))
    opset = max(YOUNGER.get(node.op_type, OPSET) for node in nodes)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def bind(session: onnxruntime.InferenceSession, buffers: Buffers) -> onnxruntime.IOBinding:
    binding = session.io_binding()
    element = TYPES[buffers.problem.case.dtype]
    for ends, put in ((session.get_inputs(), binding.bind_input), (session.get_outputs(), binding.bind_output)):
        for end in ends:
            shape = list(buffers[end.name].shape) if end.shape else []
            put(end.name, "cpu", 0, OF_8_BITS.get(end.name, element), shape, buffers.address(end.name))
    return binding
