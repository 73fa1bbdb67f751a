"""The outputs of a model in its own framework: PyTorch, ONNX Runtime for an ONNX file, LiteRT for a TFLite file.

All of them also give the values before a last softmax or activation, by running the graph without that operator.
Probabilities of 1.0 and 0.0 hide differences that the logits show.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError

# operators that may stand between the last function and the output, and these functions; PyTorch's are in `torch_run`
_VIEWS = {"Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
_AFFINE = {"Add", "Sub", "Mul", "Div"}  # with a constant
_FUNCTIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "Relu": "relu",
    "Clip": "clip",
    "HardSwish": "hardswish",
}
_IN_FLOAT32 = " in float32"  # behind the framework's name, for a model in other floats


@dataclass(frozen=True)
class Outputs:
    """The outputs of a framework.

    Attributes
    ----------
    values : list of lists of ndarray
        The outputs for each of the inputs.
    before : list of lists of (ndarray or None)
        The same without the last function; None for an output that has none.
    functions : tuple of str
        The function of each output: ``softmax``, ``sigmoid``, ``hardsigmoid``, ``relu``, ``clip``, ``silu``,
        ``hardswish``; empty for none.
    name : str
        The name of the framework, with its version.
    steps : tuple of (float, float)
        For each output and for its value before the last function the step to which the file rounds it, and a network
        in float32 with it: where these differ by rounding, their results are a step apart. Zero for none; empty if all
        are zero.
    """

    values: list
    before: list
    functions: tuple[str, ...]
    name: str
    steps: tuple[tuple[float, float], ...] = ()

    def telling(self, output: int) -> list[np.ndarray]:
        """One output for each of the inputs, before its last function if it has one."""
        chosen = self.before if self.functions[output] else self.values
        return [outputs[output] for outputs in chosen]

    def shown(self) -> Outputs:
        """Without functions of infinities, which a mask puts before a softmax: they show no differences."""
        finite = [
            bool(f) and all(np.isfinite(values[j]).all() for values in self.before)
            for j, f in enumerate(self.functions)
        ]
        functions = tuple(f if finite[j] else "" for j, f in enumerate(self.functions))
        before = [[v if finite[j] else None for j, v in enumerate(values)] for values in self.before]
        return replace(self, before=before, functions=functions)


def run(options, model, inputs: list[tuple[np.ndarray, ...]], before: bool = True) -> Outputs:
    """Run a model in its own framework.

    Parameters
    ----------
    options : ModelOptions
    model : models.registry.ModelSpec or None
        The PyTorch network; None for a file.
    inputs : list of tuples of ndarray
    before : bool
        Whether the values before a last function are wanted. If not, a framework that computes them in a second run
        leaves them out, and reports no functions.

    Raises
    ------
    TvmMobilenetError
        The framework does not run the model.
    """
    if model is None and options.file_kind == "onnx":
        return _onnx(Path(options.model), inputs, before)
    if model is None and options.file_kind == "tflite":
        from tvm_mobilenet.frontend import tflite_run

        path = Path(options.model)
        return Outputs(
            *tflite_run.outputs(path, inputs, signature=options.signature),
            tflite_run.name(),
            tflite_run.steps(path, options.signature),
        )
    import torch

    from tvm_mobilenet.frontend import torch_run, torch_widened

    name = f"PyTorch {torch.__version__.split('+')[0]}"
    if model is not None and before and not options.in_registry:  # the network may end in any function
        program = _exported(model.module, tuple(x.shape for x in inputs[0])).module()
        return Outputs(*torch_run.with_and_without_last(program, inputs), name)
    if model is not None:
        return _only(torch_run.outputs(model.module, inputs), name)
    if options.trust_file:
        from tvm_mobilenet.frontend.torch_program import load_trusted

        program = load_trusted(Path(options.model))
        name += _IN_FLOAT32 * torch_widened.is_converted(program)
        return Outputs(*torch_run.with_and_without_last(torch_widened.module(program), inputs), name)
    return _read_and_run(Path(options.model), inputs, name)


def _only(values: list, name: str) -> Outputs:
    """Outputs without the values before their last functions."""
    functions = ("",) * len(values[0])
    return Outputs(values, [[None] * len(functions) for _ in values], functions, name)


@functools.lru_cache(maxsize=1)  # a verification runs one network some times
def _exported(module, shapes: tuple[tuple[int, ...], ...]):
    import torch

    from tvm_mobilenet.frontend import torch_export

    return torch_export.export(module, tuple(torch.zeros(shape) for shape in shapes))


def _read_and_run(path: Path, inputs: list, name: str) -> Outputs:
    """The outputs of a saved program, computed in the process that reads it and checked here."""
    from tvm_mobilenet.frontend import pt2_reader, torch_run

    data, tensors = pt2_reader.run(path, inputs)
    name += _IN_FLOAT32 * (data.get("widened") is True)
    try:
        functions = tuple(data["functions"])
        values, before = (torch_run.from_named(tensors, kind) for kind in ("values", "before"))
        known = {"", *torch_run.FUNCTIONS.values()}
        if len(values) != len(inputs) or any(len(ys) != len(functions) for ys in values) or set(functions) - known:
            raise ValueError
        if not any(functions):
            return _only([list(ys) for ys in values], name)
        if len(before) != len(inputs) or any(len(ys) != sum(map(bool, functions)) for ys in before):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise TvmMobilenetError(
            f"{path} cannot be verified: the process that ran it gave no outputs",
            "export it again, or export the model to ONNX",
        ) from None
    told = [iter(ys) for ys in before]
    return Outputs(
        [list(ys) for ys in values],
        [[next(ys) if function else None for function in functions] for ys in told],
        functions,
        name,
    )


def _onnx(path: Path, inputs: list, before: bool) -> Outputs:
    try:
        import onnxruntime
    except ImportError:
        raise packages.missing("comparing with an ONNX file", ["onnxruntime"]) from None
    from tvm_mobilenet.frontend import onnx_widened
    from tvm_mobilenet.frontend.torch_run import where

    def outputs(model: str | bytes) -> list:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are reported below
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            names = [i.name for i in session.get_inputs()]
            return [session.run(None, dict(zip(names, x, strict=True))) for x in inputs]
        except Exception as e:  # it has a dozen error classes
            text = " ".join(str(e).split()).split(" : ", 2)[-1]
            raise TvmMobilenetError(
                f"{path} cannot be verified: ONNX Runtime, the reference, does not run it: {text[:300]}",
                "mend the model so that ONNX Runtime runs it, or export it as a .pt2 file",
            ) from e

    model, widened = onnx_widened.loaded(path)
    values = outputs(model.SerializeToString() if widened else str(path))
    name = f"ONNX Runtime {onnxruntime.__version__}" + _IN_FLOAT32 * widened
    functions = _leave_out_of_onnx(model.graph) if before else ()
    if not any(functions):
        return _only(values, name)
    return Outputs(values, where(functions, outputs(model.SerializeToString())), functions, name)


def _leave_out_of_onnx(graph) -> tuple[str, ...]:
    """Replace the last function of each output by an Identity; returns the functions."""
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
