"""Layers to kernels: the only place that writes Relax. Every layer becomes a call of its scheduled PrimFunc, with
packed constants.

Equal layers with equal decisions share one kernel. The result is an ordinary Relax module of `call_tir` and free
views. It builds like any other, and the plan is read from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import tvm
from tvm import relax

from tvm_mobilenet import schedules
from tvm_mobilenet.compiler.kernel_names import name_of
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerGraph


def lower_layers(graph: LayerGraph, decisions: Mapping[Layer, dict], core: str = "any") -> tvm.IRModule:
    """The module of a graph's layers under these decisions.

    Parameters
    ----------
    graph : LayerGraph
    decisions : mapping of Layer to dict
        One record for every distinct layer.
    core : str
        The core's name, which becomes part of the kernels' names.

    Returns
    -------
    tvm.IRModule
        ``main`` has the network's signature; each kernel has the attributes ``layer`` and ``scratch_bytes``.
    """
    bb, signature = relax.BlockBuilder(), graph.signature
    params = [relax.Var(p.name, relax.TensorType(p.shape, p.dtype)) for p in signature.inputs]
    values: dict[str, relax.Expr] = {p.value: param for p, param in zip(signature.inputs, params, strict=True)}
    kernels: dict[Layer, tvm.ir.GlobalVar] = {}
    home = {call.output: call.into for call in graph.calls if call.into}  # the tensor that a part belongs to

    def view(value: str, shape: tuple[int, ...]) -> relax.Expr:
        expr = values[home.get(value, value)]
        written = tuple(int(d) for d in expr.ty.shape)
        if written == tuple(shape) or 0 in shape:  # a size of 0 means another one to TVM's reshape
            return expr
        assert prod(written) == prod(shape), (value, written, shape)
        return bb.emit(relax.op.reshape(expr, shape))

    for call in graph.calls:
        if call.layer not in kernels:
            symbol = name_of(call.layer, decisions[call.layer], core)
            function = schedules.kernel(call.layer, decisions[call.layer])
            function = function.with_attrs({"global_symbol": symbol, "layer": call.layer.name})
            kernels[call.layer] = bb.add_func(function, symbol)
    with bb.function("main", params):
        with bb.dataflow():
            for call in graph.calls:
                layer = call.layer
                packed = schedules.pack(layer, decisions[layer], call.constants)
                data, *others = map(view, call.inputs, layer.operand_buffers)
                # without its dtype, a constant of 64 bits would be one of 32
                operands = [data, *(relax.const(array, str(array.dtype)) for array in packed), *others]
                out, place = relax.TensorType(layer.output_buffer, layer.output_dtype), call.into or call.output
                if place in values:  # another part of it is already written
                    made = relax.op.call_tir_inplace(kernels[layer], [*operands, values[place]], len(operands), out)
                else:
                    made = relax.call_tir(kernels[layer], operands, out)
                values[place] = bb.emit(made, name_hint=call.name)
            outputs = [view(p.value, p.shape) for p in signature.outputs]
            result = bb.emit_output(relax.Tuple(outputs) if signature.tuple_output else outputs[0])
        bb.emit_func_output(result)
    return bb.get()
