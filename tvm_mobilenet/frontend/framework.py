"""What a model computes in its own framework: PyTorch, or ONNX Runtime for an ONNX file.

Both also tell what stands before a last softmax or activation (`before_last`): the same graph, that one operator left
out. Probabilities of 1.0 and 0.0 hide what the logits show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError

# operators that may stand between the last function and the output, and those functions; names of ONNX and of ATen
_VIEWS = {
    *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
    *("view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "clone", "alias", "dropout"),
    *("contiguous", "_unsafe_view", "t", "numpy_T"),
}
_AFFINE = {"Add", "Sub", "Mul", "Div", "add", "sub", "mul", "div", "add_", "mul_", "div_"}  # with a constant
_FUNCTIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "Relu": "relu",
    "Clip": "clip",
    "HardSwish": "hardswish",
    **{name: "softmax" for name in ("softmax", "_softmax")},
    **{name: name for name in ("sigmoid", "hardsigmoid", "relu", "silu", "hardswish")},
    **{name: "clip" for name in ("clamp", "clamp_min", "hardtanh", "relu6", "hardtanh_")},
    "relu_": "relu",
}


@dataclass(frozen=True)
class Outputs:
    """What a framework said.

    Attributes
    ----------
    values : list of lists of ndarray
        For each of the inputs, its outputs.
    before : list of lists of (ndarray or None)
        The same without the last function; None for an output that has none.
    functions : tuple of str
        The function of each output: ``softmax``, ``sigmoid``, ``hardsigmoid``, ``relu``, ``clip``, ``silu``,
        ``hardswish``; empty for none.
    name : str
        Of the framework, with its version.
    """

    values: list
    before: list
    functions: tuple[str, ...]
    name: str

    def telling(self, output: int) -> list[np.ndarray]:
        """One output for each of the inputs, before its last function where it has one."""
        chosen = self.before if self.functions[output] else self.values
        return [outputs[output] for outputs in chosen]


def run(options, model, inputs: list[tuple[np.ndarray, ...]]) -> Outputs:
    """Run a model in its own framework.

    Parameters
    ----------
    options : ModelOptions
    model : models.registry.ModelSpec or None
        None for a file.
    inputs : list of tuples of ndarray
    """
    if model is None and options.is_onnx:
        return _onnx(Path(options.model), inputs)
    import torch

    from tvm_mobilenet.frontend.torch_program import load_program

    module = model.module if model is not None else load_program(Path(options.model)).module()
    values = _torch(module, inputs)
    functions = ("",) * len(values[0])
    before = [[None] * len(functions) for _ in inputs]
    if model is None:
        functions = _leave_out_of_torch(module)
        if any(functions):
            before = _where(functions, _torch(module, inputs))
    return Outputs(values, before, functions, f"PyTorch {torch.__version__.split('+')[0]}")


def _where(functions: tuple[str, ...], found: list) -> list:
    return [[y if function else None for y, function in zip(ys, functions, strict=True)] for ys in found]


def _torch(module, inputs: list) -> list:
    import torch
    from torch.utils._pytree import tree_leaves

    with torch.no_grad():
        found = [tree_leaves(module(*(torch.from_numpy(a) for a in x))) for x in inputs]
    return [[t.numpy() for t in ys if isinstance(t, torch.Tensor)] for ys in found]


def _leave_out_of_torch(module) -> tuple[str, ...]:
    """Takes the last function of each output out of an exported module; which these were."""
    from torch.utils._pytree import tree_leaves

    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    functions = []
    for node in tree_leaves(output.args[0]):
        function, at = "", node
        while (before := _torch_view(at)) is not None:
            at = before
        if _aten(at) in _FUNCTIONS and len(at.users) == 1:
            function = _FUNCTIONS[_aten(at)]
            at.replace_all_uses_with(at.args[0])
        if hasattr(node, "meta") and getattr(node.meta.get("val"), "dtype", None) is not None:
            functions.append(function)
    module.recompile()
    return tuple(functions)


def _torch_view(node):
    """What a node shows in another shape, or scaled and shifted by constants; None for any other node."""
    import torch

    if len(getattr(node, "users", ())) != 1:
        return None
    if _aten(node) in _VIEWS:
        return node.args[0]
    made = [a for a in node.args if isinstance(a, torch.fx.Node) and a.op != "get_attr"]
    return made[0] if _aten(node) in _AFFINE and len(made) == 1 else None


def _aten(node) -> str:
    """``softmax`` of a call of aten.softmax.int."""
    packet = getattr(getattr(node, "target", None), "overloadpacket", None)
    return getattr(packet, "__name__", "")


def _onnx(path: Path, inputs: list) -> Outputs:
    try:
        import onnxruntime
    except ImportError:
        raise packages.missing("comparing with an ONNX file", ["onnxruntime"]) from None
    import onnx

    def outputs(model: str | bytes) -> list:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it refuses is told below
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            names = [i.name for i in session.get_inputs()]
            return [session.run(None, dict(zip(names, x, strict=True))) for x in inputs]
        except Exception as e:  # of a dozen classes of its own
            text = " ".join(str(e).split()).split(" : ", 2)[-1]
            raise TvmMobilenetError(
                f"{path} cannot be verified: ONNX Runtime, the reference, does not run it: {text[:300]}",
                "mend the model so that ONNX Runtime runs it, or export it as a .pt2 file",
            ) from e

    values = outputs(str(path))
    model = onnx.load(path)
    functions = _leave_out_of_onnx(model.graph)
    before = [[None] * len(functions) for _ in inputs]
    if any(functions):
        before = _where(functions, outputs(model.SerializeToString()))
    return Outputs(values, before, functions, f"ONNX Runtime {onnxruntime.__version__}")


def _leave_out_of_onnx(graph) -> tuple[str, ...]:
    """Makes the last function of each output an Identity; which these were."""
    import onnx

    makers = {name: node for node in graph.node for name in node.output}
    constants = {i.name for i in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    readers: dict[str, int] = {}
    for name in [i for node in graph.node for i in node.input] + [o.name for o in graph.output]:
        readers[name] = readers.get(name, 0) + 1
    functions = []
    for port in graph.output:
        function, name = "", port.name
        while (node := makers.get(name)) and readers[name] == 1:
            made = [i for i in node.input if i not in constants]
            if not (node.op_type in _VIEWS or (node.op_type in _AFFINE and len(made) == 1)):
                break
            name = made[0]
        if node and node.op_type in _FUNCTIONS and readers[name] == 1:
            function = _FUNCTIONS[node.op_type]
            node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]], node.name))
        functions.append(function)
    return tuple(functions)
