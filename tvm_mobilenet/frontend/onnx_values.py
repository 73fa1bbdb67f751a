"""The integers inside a quantized ONNX file, as ONNX Runtime computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tvm_mobilenet import packages
from tvm_mobilenet.frontend import onnx_widened
from tvm_mobilenet.terminal.printable import printable


def whole_numbers(
    path: Path, inputs: list[tuple[np.ndarray, ...]], optimized: bool = False
) -> list[dict[str, np.ndarray]]:
    """For each of the inputs, the data of every dequantize of an activation, by its place.

    Parameters
    ----------
    inputs : list of tuples of ndarray
    optimized : bool
        Whether to use ONNX Runtime's integer kernels; otherwise it computes operator by operator, in float32 between
        the pairs.
    """
    try:
        import onnxruntime
    except ImportError:
        raise packages.missing("comparing with an ONNX file", ["onnxruntime"]) from None
    model, _ = onnx_widened.loaded(path)
    made: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" or (node.op_type == "Cast" and node.input[0] in made):
            made.update(node.output)
    whole = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in made]
    places = {printable(node.name or node.output[0]): node.input[0] for node in whole}
    outputs = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in {*places.values()} - outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    runs = [session.run(list(places.values()), dict(zip(names, x, strict=True))) for x in inputs]
    return [dict(zip(places, run, strict=True)) for run in runs]
