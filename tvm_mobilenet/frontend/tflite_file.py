"""Import of TFLite files to Relax, as the converters and quantizers of TensorFlow and PyTorch write them.

The file is read by this project's own reader (`flatbuffer`, `tflite_graph`), which checks it and runs nothing. Its
operators have converters of ours (`tflite_operators`). An operator without one becomes an opaque call, which the passes
report together with all others. Float and integer models are imported in one way: each quantized value becomes
``quantize`` and ``dequantize`` around its operator (`tflite_quantized`). TVM's own importer of TFLite keeps integers
between operators and compares scales only to 1e-5, so it is not used.
"""

from __future__ import annotations

from pathlib import Path

import tvm

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.frontend import sizes, tflite_graph, tflite_quantized
from tvm_mobilenet.frontend.tflite_graph import Graph, ports
from tvm_mobilenet.frontend.tflite_import import Import
from tvm_mobilenet.terminal.console import say


def from_tflite(
    path: str | Path,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NHWC",
    signature: str | None = None,
) -> tvm.IRModule:
    """The Relax module of a TFLite file.

    Parameters
    ----------
    path : str or Path
        A float32 model with weights in float32 or float16, or an 8-bit integer model.
    batch, size : int, (int, int), optional
        Batch size, height and width, if the file leaves them open.
    layout : str
        The layout of images, if their shape does not determine it.
    signature : str, optional
        The name of one of the file's networks; by default the one that an interpreter runs.

    Raises
    ------
    TvmMobilenetError
        The file is missing, damaged, not TFLite, or quantized in an unsupported way; or sizes are open, or differ from
        the given ones.
    """
    path = Path(path)
    graph = tflite_graph.read(path, signature)
    if graph.others and not signature:
        own, others = graph.signature or "its first one", ", ".join(graph.others)
        say(
            f"note: {path} holds several networks; {own} is built, which an interpreter runs by default, not {others}: "
            "--signature NAME builds another"
        )
    try:
        tflite_quantized.check(graph, path)
        return Import(graph, path).run(_shapes(graph, batch, size, layout, path))
    except TvmMobilenetError:
        raise
    except Exception as e:  # an invalid graph can fail in a hundred places
        raise TvmMobilenetError(
            f"{path} cannot be imported: {reason(e)[:300]}", "it may be damaged: convert it again"
        ) from e


def _shapes(graph: Graph, batch, size, layout: str, path: Path) -> list[list[int]]:
    """The shape of each input, with all sizes fixed."""
    inputs = []
    for name, i in zip(ports(graph, graph.inputs), graph.inputs, strict=True):
        tensor = graph.tensors[i]
        dims = tuple(sizes.Free() if d == -1 else d for d in tensor.signature)
        order = sizes.layout_of(tensor.shape, layout)
        inputs.append(sizes.Input(name, dims, order))
        if tensor.dtype not in tflite_quantized.ROUNDED or not tensor.quantized:
            sizes.check_input(name, list(tensor.shape), tensor.dtype)
    return sizes.fix(inputs, batch, size, path)
