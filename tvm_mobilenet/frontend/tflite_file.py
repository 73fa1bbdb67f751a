"""Import of TFLite files to Relax, as the converters and quantizers of TensorFlow and PyTorch write them.

The file is read by this project's own reader (`flatbuffer`, `tflite_graph`), which checks it and runs nothing. Its
operators have converters of ours (`tflite_operators`). An operator without one becomes an opaque call, which the passes
report together with all others. Float and integer models are imported in one way: each quantized value becomes
``quantize`` and ``dequantize`` around its operator (`tflite_quantized`). TVM's own importer of TFLite keeps integers
between operators and compares scales only to 1e-5, so it is not used.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.frontend import sizes, tflite_fold, tflite_graph, tflite_quantized
from tvm_mobilenet.frontend.imported import finished, opaque
from tvm_mobilenet.frontend.tflite_graph import NONE, Graph, Operator, Tensor, places, ports
from tvm_mobilenet.frontend.tflite_operators import CONVERTERS, unknown
from tvm_mobilenet.frontend.tflite_values import Call, Value
from tvm_mobilenet.models.images import TAKES_BYTES
from tvm_mobilenet.terminal.console import say


def from_tflite(
    path: str | Path, batch: int | None = None, size: tuple[int, int] | None = None, layout: str = "NHWC"
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

    Raises
    ------
    TvmMobilenetError
        The file is missing, damaged, not TFLite, or quantized in an unsupported way; or sizes are open, or differ from
        the given ones.
    """
    path = Path(path)
    graph = tflite_graph.read(path)
    if graph.others:
        own, others = graph.signature or "its first one", ", ".join(graph.others)
        say(
            f"note: {path} holds several networks; {own} is built, which an interpreter runs by default, not {others}: "
            "convert the model with one signature alone to build that"
        )
    try:
        tflite_quantized.check(graph, path)
        return _Import(graph, path).run(_shapes(graph, batch, size, layout, path))
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
        if tensor.dtype not in tflite_quantized.BYTES or not tensor.quantized:
            sizes.check_input(name, list(tensor.shape), tensor.dtype)
    return sizes.fix(inputs, batch, size, path)


class _Import:
    """The import of one file."""

    def __init__(self, graph: Graph, path: Path):
        self.graph, self.path = graph, path
        self.bb = relax.BlockBuilder()
        self.noted: dict[str, str] = {}
        self.places = places(graph)
        self.values: dict[int, Value] = {}

    def run(self, shapes: list[list[int]]) -> tvm.IRModule:
        graph = self.graph
        names = ports(graph, graph.inputs)
        dtypes = ["float32" if graph.tensors[i].quantized else graph.tensors[i].dtype for i in graph.inputs]
        params = [
            relax.Var(re.sub(r"\W", "_", name), relax.TensorType(shape, dtype))
            for name, shape, dtype in zip(names, shapes, dtypes, strict=True)
        ]
        self.open = any(list(graph.tensors[i].shape) != s for i, s in zip(graph.inputs, shapes, strict=True))
        with self.bb.function("main", params):
            with self.bb.dataflow():
                found, failed = self._body(params)
                out = self.bb.emit_output(found)
            self.bb.emit_func_output(out)
        if failed is not None:
            raise failed
        bytes_in = any(self.graph.tensors[i].dtype in tflite_quantized.BYTES for i in graph.inputs)
        attrs = {"tables": "tflite", **({TAKES_BYTES: "yes"} if bytes_in else {})}
        return finished(self.bb.get(), self.noted, tuple(ports(graph, graph.outputs)), **attrs)

    def _body(self, params: list[relax.Var]) -> tuple[relax.Expr, Exception | None]:
        """The result of the graph, or its error. The caller raises the error after the block, since TVM warns about an
        open block.
        """
        try:
            for i, param in zip(self.graph.inputs, params, strict=True):
                self._bind(i, Value(own=param))
            for operator in self.graph.operators:
                self._operator(operator)
            outputs = [self._output(i) for i in self.graph.outputs]
        except Exception as e:
            return params[0], e
        return outputs[0] if len(outputs) == 1 else relax.Tuple(outputs), None

    def _operator(self, operator: Operator) -> None:
        values = [None if i == NONE else self._value(i) for i in operator.inputs]
        written = [self.graph.tensors[o] for o in operator.outputs]
        call = Call(self.bb, operator, values, written[0].shape, written[0].dtype)
        try:
            known = tflite_fold.computed(call)
            if known is not None:
                made = [Value(known=known)]
            elif operator.name not in CONVERTERS:
                made = self._opaque(call, written, unknown(operator.name))
            else:
                made = CONVERTERS[operator.name](call)
        except TvmMobilenetError:
            raise
        except Exception as e:
            said = str(e).strip().splitlines() if isinstance(e, ValueError) else []
            made = self._opaque(call, written, said[-1] if said else "its operands do not fit it")
        made = made if isinstance(made, list) else [made]
        if len(made) != len(operator.outputs):
            raise TvmMobilenetError(
                f"{self.path}: {call.where} has {len(operator.outputs)} outputs, {len(made)} are expected",
                "it may be damaged: convert it again",
            )
        for o, value in zip(operator.outputs, made, strict=True):
            self._check_shape(call, self.graph.tensors[o], value)
            self._bind(o, value)

    def _opaque(self, call: Call, written: list[Tensor], why: str = "") -> list[Value]:
        """The placeholder of an operator without a converter."""
        types = [relax.TensorType(t.shape, "float32" if t.quantized else t.dtype) for t in written]
        read = [call.own(i) for i in range(len(call.values)) if call.has(i) and call.value(i).known is None]
        made = self.bb.emit(opaque(call.operator.name, read, types, why))
        self.noted[made.name] = self.places[call.operator.outputs[0]]
        if len(types) == 1:
            return [Value(own=made)]
        return [Value(own=self.bb.emit(relax.TupleGetItem(made, i))) for i in range(len(types))]

    def _check_shape(self, call: Call, tensor: Tensor, value: Value) -> None:
        """Refuse a file that declares another shape of a value than its operator gives."""
        if not self.open and tensor.shape and value.shape != tensor.shape and -1 not in tensor.signature:
            raise TvmMobilenetError(
                f"{self.path}: {call.where} makes the shape {list(value.shape)}, the file says {list(tensor.shape)}",
                "it may be damaged: convert it again",
            )

    def _bind(self, index: int, value: Value) -> None:
        """Store a value under its number; integers as their real values."""
        tensor = self.graph.tensors[index]
        value.place = self.places[index]
        held = value.nchw if value.nchw is not None else value.own
        if held is not None:
            self.noted.setdefault(held.name, value.place)
            if tensor.quantized and tensor.dtype in tflite_quantized.BYTES:
                whole, real = tflite_quantized.rounded(self.bb, tensor, held)
                self.noted[whole.name] = self.noted[real.name] = value.place
                value.own, value.nchw = (None, real) if value.nchw is not None else (real, None)
                value.scales = tensor.scales
        self.values[index] = value

    def _value(self, index: int) -> Value:
        if index not in self.values:
            tensor = self.graph.tensors[index]
            if tensor.data is None:
                raise TvmMobilenetError(f"{self.path}: {tensor.name} is computed by no operator", "convert it again")
            scales = tensor.scales if tensor.dtype not in ("float32", "float16") else None
            self.values[index] = Value(known=tensor.data, scales=scales, place=self.places[index])
        return self.values[index]

    def _output(self, index: int) -> relax.Expr:
        value = self._value(index)
        if value.known is not None:
            return self.bb.emit(relax.const(np.ascontiguousarray(value.real)))
        if value.own is None:
            value.own = self.bb.emit(relax.op.permute_dims(value.nchw, (0, 2, 3, 1)))
            self.noted[value.own.name] = value.place
        return value.own
