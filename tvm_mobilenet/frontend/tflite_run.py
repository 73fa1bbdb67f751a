"""A run of a TFLite file in LiteRT, its own interpreter: the reference outputs, and the integers inside the file.

The kernels are LiteRT's default: XNNPACK's, and its own for other operators. All values are kept, so that those before
a last softmax are known too. LiteRT's reference kernels round sums twice, so they differ from XNNPACK's if a sum lies
between two units (docs/concepts/int8-arithmetic.md).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import tflite_graph
from tvm_mobilenet.frontend.tflite_graph import NONE, Graph
from tvm_mobilenet.frontend.tflite_quantized import BYTES, computes_in_bytes
from tvm_mobilenet.frontend.tflite_tensors import Tensor

KERNELS = "BUILTIN"  # member of LiteRT's OpResolverType
_VIEWS = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "QUANTIZE", "DEQUANTIZE"}
_DETECTOR = "CUSTOM_TFLite_Detection_PostProcess"  # it leaves what stood in memory behind the last box
_AFFINE = {"ADD", "SUB", "MUL", "DIV"}  # with a constant
_FUNCTIONS = {
    "SOFTMAX": "softmax",
    "LOGISTIC": "sigmoid",
    "RELU": "relu",
    "RELU6": "clip",
    "HARD_SWISH": "hardswish",
}


def name() -> str:
    """The interpreter, with its version."""
    return f"LiteRT {importlib.metadata.version('ai-edge-litert')}"


def outputs(
    path: Path, inputs: list[tuple[np.ndarray, ...]], kernels: str = KERNELS, signature: str | None = None
) -> tuple[list, list, tuple[str, ...]]:
    """The outputs of a file, as real values.

    Parameters
    ----------
    inputs : list of tuples of ndarray
        float32, also for integer inputs, as their real values.

    Returns
    -------
    values, before : lists of lists of ndarray (or None)
        The outputs for each of the inputs, and the same without the last function of each.
    functions : tuple of str
        The last function of each output; empty for none.

    Raises
    ------
    TvmMobilenetError
        The interpreter does not run the file.
    """
    graph = tflite_graph.read(path, signature)
    last = [_before_last(graph, o) for o in graph.outputs]
    wanted = {*graph.outputs, *(i for _, i in last if i != NONE)}
    values, before = [], []
    for found in run(path, graph, inputs, wanted, kernels):
        real = {i: _real(graph.tensors[i], array) for i, array in found.items()}
        values.append([real[o] for o in graph.outputs])
        before.append([real[i] if function else None for function, i in last])
    return values, before, tuple(function for function, _ in last)


def steps(path: Path, signature: str | None = None) -> tuple[tuple[float, float], ...]:
    """The steps of a file's outputs, and of what stands before their last functions, if no layer computes in bytes."""
    graph = tflite_graph.read(path, signature)
    if computes_in_bytes(graph):
        return ()
    makers = {o: operator for operator in graph.operators for o in operator.outputs}

    def step(i: int) -> float:
        while i != NONE and not graph.tensors[i].quantized:
            operator = makers.get(i)
            if operator is None or operator.name not in _VIEWS:
                return 0.0
            i = operator.inputs[0]
        return 0.0 if i == NONE else float(graph.tensors[i].scales.scale.max())

    found = tuple((step(o), step(_before_last(graph, o)[1])) for o in graph.outputs)
    return found if any(map(any, found)) else ()


def whole_numbers(
    path: Path, inputs: list[tuple[np.ndarray, ...]], kernels: str = KERNELS, signature: str | None = None
) -> list[dict[str, np.ndarray]]:
    """For each of the inputs, the integers of every quantized value, by its place; feature maps in NCHW."""
    graph = tflite_graph.read(path, signature)
    places = tflite_graph.places(graph)
    made = {*graph.inputs, *(o for operator in graph.operators for o in operator.outputs)}
    wanted = {i for i in made if graph.tensors[i].quantized and graph.tensors[i].dtype in BYTES}
    return [
        {places[i]: array.transpose(0, 3, 1, 2) if array.ndim == 4 else array for i, array in found.items()}
        for found in run(path, graph, inputs, wanted, kernels)
    ]


def run(path: Path, graph: Graph, inputs: list, wanted: set[int], kernels: str = KERNELS) -> list[dict]:
    """Values of a graph by their numbers, for each of the inputs.

    Parameters
    ----------
    wanted : set of int
    kernels : str
        One of LiteRT's ``OpResolverType``: ``BUILTIN_WITHOUT_DEFAULT_DELEGATES`` for only its own kernels,
        ``BUILTIN_REF`` for its reference kernels.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        raise packages.missing("comparing with a TFLite file", ["ai_edge_litert"]) from None
    try:
        with _quiet():
            made = interpreter.Interpreter(
                str(path),
                experimental_op_resolver_type=interpreter.OpResolverType[kernels],
                experimental_preserve_all_tensors=True,
                num_threads=1,
            )
            if not graph.number:
                for i, x in zip(graph.inputs, inputs[0], strict=True):
                    if tuple(x.shape) != graph.tensors[i].shape:
                        made.resize_tensor_input(i, x.shape)
            made.allocate_tensors()
        found, detectors = [], [o.outputs for o in graph.operators if o.name == _DETECTOR and wanted & {*o.outputs}]
        wanted = wanted | {i for outputs in detectors for i in outputs}
        for xs in inputs:
            stored = [_stored(graph.tensors[i], x) for i, x in zip(graph.inputs, xs, strict=True)]
            made.reset_all_variables()
            if graph.number:
                made.get_signature_runner(graph.signature)(**dict(zip(graph.keys, stored, strict=True)))
            else:
                for i, x in zip(graph.inputs, stored, strict=True):
                    made.set_tensor(i, x)
                made.invoke()
            found.append({i: made.get_tensor(i, graph.number) for i in wanted})
            for *values, number in detectors:
                for i in values:
                    found[-1][i][:, int(found[-1][number].reshape(())) :] = 0
        return found
    except (RuntimeError, ValueError) as e:
        text = " ".join(str(e).split())
        raise TvmMobilenetError(
            f"{path} cannot be verified: LiteRT, the reference, does not run it: {text[:300]}",
            "mend the model so that LiteRT runs it, or convert it again",
        ) from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard the output of a library on stderr: LiteRT prints the name of its delegate there."""
    with warnings.catch_warnings(), open(os.devnull, "wb") as nowhere:
        warnings.simplefilter("ignore")
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _before_last(graph: Graph, output: int) -> tuple[str, int]:
    """The last function of an output, and the number of its operand."""
    makers = {o: operator for operator in graph.operators for o in operator.outputs}
    readers: dict[int, int] = {}
    for i in (*(i for operator in graph.operators for i in operator.inputs), *graph.outputs):
        readers[i] = readers.get(i, 0) + 1
    at = output
    while (operator := makers.get(at)) is not None and readers[at] == 1:
        made = [i for i in operator.inputs if i != NONE and graph.tensors[i].data is None]
        if operator.name in _FUNCTIONS:
            return _FUNCTIONS[operator.name], operator.inputs[0]
        plain = operator.options.get("activation", "NONE") == "NONE"
        if not made or not (operator.name in _VIEWS or (operator.name in _AFFINE and plain and len(made) == 1)):
            break
        at = made[0]
    return "", NONE


def _stored(tensor: Tensor, x: np.ndarray) -> np.ndarray:
    """Real values as a tensor of the file stores them."""
    if not tensor.quantized:
        return x.astype(tensor.dtype, copy=False)
    ends, scale, zero = np.iinfo(tensor.dtype), tensor.scales.scale[0], int(tensor.scales.zero[0])
    return np.clip(np.rint(x / scale) + zero, ends.min, ends.max).astype(tensor.dtype)


def _real(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """The real values of a tensor."""
    if not tensor.quantized:
        return array
    return (array.astype(np.float32) - np.float32(tensor.scales.zero[0])) * tensor.scales.scale[0]
