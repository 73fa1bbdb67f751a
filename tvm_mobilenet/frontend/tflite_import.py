"""From the operators of a TFLite graph to Relax.

A graph that an operator runs is written out in place of the operator. Values keep the place of their tensor for
messages and for the comparison with LiteRT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import tflite_fold, tflite_quantized
from tvm_mobilenet.frontend.imported import finished, opaque
from tvm_mobilenet.frontend.tflite_graph import NONE, Graph, Operator, places, ports
from tvm_mobilenet.frontend.tflite_operators import COMPLEX, CONVERTERS, STATE, STATEFUL, unknown
from tvm_mobilenet.frontend.tflite_tensors import Scales, Tensor
from tvm_mobilenet.frontend.tflite_values import Call, Value
from tvm_mobilenet.models.images import TAKES_BYTES
from tvm_mobilenet.terminal.console import say

_AGAIN = "it may be damaged: convert it again"


@dataclass
class _Scope:
    """A graph, the places of its tensors, and the values that are known so far, by tensor."""

    graph: Graph
    places: list[str]
    values: dict[int, Value] = field(default_factory=dict)


class Import:
    """The import of one file."""

    def __init__(self, graph: Graph, path: Path):
        self.graph, self.path = graph, path
        self.bb = relax.BlockBuilder()
        self.noted: dict[str, str] = {}
        self.variables: dict[str, Value] = {}
        self.bytes = tflite_quantized.computes_in_bytes(graph)
        self.written = 0  # operators

    def run(self, shapes: list[list[int]]) -> tvm.IRModule:
        graph = self.graph
        names = ports(graph, graph.inputs)
        dtypes = ["float32" if graph.tensors[i].quantized else graph.tensors[i].dtype for i in graph.inputs]
        params = [
            relax.Var(re.sub(r"\W", "_", name), relax.TensorType(shape, dtype))
            for name, shape, dtype in zip(names, shapes, dtypes, strict=True)
        ]
        self.open = any(list(graph.tensors[i].shape) != s for i, s in zip(graph.inputs, shapes, strict=True))
        self._note_states()
        with self.bb.function("main", params):
            with self.bb.dataflow():
                found, failed = self._main(params)
                out = self.bb.emit_output(found)
            self.bb.emit_func_output(out)
        if failed is not None:
            raise failed
        bytes_in = any(self.graph.tensors[i].dtype in tflite_quantized.BYTES for i in graph.inputs)
        attrs = {"tables": "tflite", **({TAKES_BYTES: "yes"} if bytes_in else {})}
        return finished(self.bb.get(), self.noted, tuple(ports(graph, graph.outputs)), **attrs)

    def _note_states(self) -> None:
        """Say where each run begins anew, and refuse a state that leaves its layer."""
        graph = self.graph
        states = {i for i, tensor in enumerate(graph.tensors) if tensor.state}
        readers = [o.place for o in graph.operators if o.name in STATEFUL and states & {*o.inputs}]
        read = [i for o in graph.operators for i in o.inputs if i in states]
        if odd := [i for i in states if read.count(i) > 1 or i in graph.outputs]:
            raise TvmMobilenetError(f"{self.path}: {graph.tensors[min(odd)].name}: {STATE}", "convert it again")
        if readers:
            say(f"note: {self.path}: each run begins with states of zeros: {', '.join(readers[:3])}")

    def _main(self, params: list[relax.Var]) -> tuple[relax.Expr, Exception | None]:
        """The result of the graph, or its error. The caller raises the error after the block, since TVM warns about an
        open block.
        """
        try:
            scope = _Scope(self.graph, places(self.graph))
            outputs = [self._output(v) for v in self._written_out(scope, [Value(own=p) for p in params])]
        except Exception as e:
            return params[0], e
        return outputs[0] if len(outputs) == 1 else relax.Tuple(outputs), None

    def _inner(self, graph: Graph, given: list[Value | None], where: str) -> list[Value]:
        """The outputs of a graph that an operator runs."""
        if len(given) != len(graph.inputs):
            raise ValueError(f"{len(given)} operands for a graph of {len(graph.inputs)}")
        scope = _Scope(graph, [f"{where}/{place}" for place in places(graph)])
        return self._written_out(scope, given)

    def _written_out(self, scope: _Scope, given: list[Value | None]) -> list[Value]:
        for i, value in zip(scope.graph.inputs, given, strict=True):
            if value is not None:
                self._bind(scope, i, value)
        for operator in scope.graph.operators:
            self.written += 1
            if self.written > limits.MOST_NODES:
                raise TvmMobilenetError(f"{self.path}: its graphs, written out, have too many operators", _AGAIN)
            self._operator(scope, operator)
        return [self._value(scope, i) for i in scope.graph.outputs]

    def _operator(self, scope: _Scope, operator: Operator) -> None:
        values = [None if i == NONE else self._value(scope, i) for i in operator.inputs]
        read = [scope.graph.tensors[i] for i in operator.inputs if i != NONE]
        written = [scope.graph.tensors[o] for o in operator.outputs]
        call = Call(
            self.bb,
            operator,
            values,
            written[0].shape if written else (),
            written[0].dtype if written else "",
            lambda graph, given: self._inner(graph, given, scope.places[operator.outputs[0]] if written else "start"),
            self.variables,
            self.bytes and not any(t.quantized and t.dtype == "int16" and t.data is None for t in read),
        )
        try:
            made = self._made(call, read, written)
        except TvmMobilenetError:
            raise
        except Exception as e:
            said = str(e).strip().splitlines() if isinstance(e, ValueError) else []
            made = self._opaque(call, read, written, said[-1] if said else "its operands do not fit it")
        made = made if isinstance(made, list) else [made]
        if len(made) != len(operator.outputs):
            raise TvmMobilenetError(
                f"{self.path}: {call.where} has {len(operator.outputs)} outputs, {len(made)} are expected", _AGAIN
            )
        for o, value in zip(operator.outputs, made, strict=True):
            self._check_shape(call, scope.graph.tensors[o], value)
            self._bind(scope, o, value)

    def _made(self, call: Call, read: list[Tensor], written: list[Tensor]) -> list[Value] | Value:
        name = call.operator.name
        if name not in STATEFUL and any(tensor.state for tensor in read):
            return self._opaque(call, read, written, STATE)
        if name not in COMPLEX and any(v is not None and v.imaginary is not None for v in call.values):
            return self._opaque(call, read, written, "complex numbers, of which layers have no such function")
        known = tflite_fold.computed(call)
        if known is not None:
            whole = known.dtype.kind == "i" and written[0].dtype in ("int32", "int64") and not written[0].quantized
            return [Value(known=known.astype(written[0].dtype) if whole else known)]
        if name not in CONVERTERS:
            return self._opaque(call, read, written, unknown(name))
        return CONVERTERS[name](call)

    def _opaque(self, call: Call, read: list[Tensor], written: list[Tensor], why: str = "") -> list[Value]:
        """The placeholder of an operator without a converter."""
        if not written:
            raise TvmMobilenetError(f"{self.path}: {call.where} is not supported: {why or 'it has no output'}", _AGAIN)
        types = [relax.TensorType(t.shape, _dtype_of(t)) for t in written]
        given = [v for v in call.values if v is not None and v.known is None and not v.resource]
        given = [v.nchw if v.own is None else v.own for v in given]
        made = self.bb.emit(opaque(call.operator.name, given, types, why))
        self.noted[made.name] = call.operator.place
        if len(types) == 1:
            return [Value(own=made)]
        return [Value(own=self.bb.emit(relax.TupleGetItem(made, i))) for i in range(len(types))]

    def _check_shape(self, call: Call, tensor: Tensor, value: Value) -> None:
        """Refuse a file that declares another shape of a value than its operator gives."""
        if value.resource or self.open or not tensor.shape or -1 in tensor.signature:
            return
        if value.shape != tensor.shape:
            raise TvmMobilenetError(
                f"{self.path}: {call.where} makes the shape {list(value.shape)}, the file says {list(tensor.shape)}",
                _AGAIN,
            )

    def _bind(self, scope: _Scope, index: int, value: Value) -> None:
        """Store a value under its number; integers as their real values."""
        tensor = scope.graph.tensors[index]
        value = replace(value, place=scope.places[index])
        held = value.nchw if value.nchw is not None else value.own
        if held is not None:
            self.noted.setdefault(held.name, value.place)
            if tensor.quantized and tensor.dtype in tflite_quantized.ROUNDED and not _same(value.scales, tensor.scales):
                made = tflite_quantized.rounded(self.bb, tensor, held, self.bytes)
                self.noted |= {one.name: value.place for one in made}
                value.own, value.nchw = (None, made[-1]) if value.nchw is not None else (made[-1], None)
                value.scales = tensor.scales
        scope.values[index] = value

    def _value(self, scope: _Scope, index: int) -> Value:
        if index not in scope.values:
            tensor, data = scope.graph.tensors[index], scope.graph.tensors[index].data
            if data is None and tensor.state:
                data = np.zeros(tensor.shape, _dtype_of(tensor))
            if data is None:
                raise TvmMobilenetError(f"{self.path}: {tensor.name} is computed by no operator", "convert it again")
            scales = tensor.scales if tensor.dtype not in ("float32", "float16") else None
            scope.values[index] = Value(known=data, scales=scales, place=scope.places[index])
        return scope.values[index]

    def _output(self, value: Value) -> relax.Expr:
        if value.imaginary is not None or value.resource:
            raise TvmMobilenetError(
                f"{self.path}: the output {value.place} holds no real numbers", "convert the model with real outputs"
            )
        if value.known is not None:
            return self.bb.emit(relax.const(np.ascontiguousarray(value.real)))
        if value.own is None:
            value.own = self.bb.emit(relax.op.permute_dims(value.nchw, (0, 2, 3, 1)))
            self.noted[value.own.name] = value.place
        return value.own


def _dtype_of(tensor: Tensor) -> str:
    """The dtype of a tensor's values between layers."""
    return "float32" if tensor.quantized or tensor.dtype.startswith("complex") else tensor.dtype


def _same(a: Scales | None, b: Scales) -> bool:
    return a is not None and np.array_equal(a.scale, b.scale) and np.array_equal(a.zero, b.zero)
