"""The layers of a module as a plain list, and back.

After the passes ``main`` is nothing but calls of layers and free views. `read` turns that into a list of `LayerCall`,
in execution order, with the views resolved: a layer names the value it reads, whatever shape it reads it in. `write`
makes the module again and puts a reshape wherever a layer reads a value in another shape than it was written in.
Fusing then is work on a list.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.reference import body


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer.

    Parameters
    ----------
    name : str
        Unique in the module, such as ``layer_007``; also the name of the private function.
    layer : Layer
        What is computed.
    source : str
        Where the layer comes from in the user's model: module path, parameter or ONNX node.
    inputs : tuple of str
        Values: the data, and the residual or second operand if there is one.
    constants : dict of str to ndarray
        Of the names, shapes and dtypes of ``layer.constants``.
    output : str
        The value written, of ``layer.output_shape``.
    """

    name: str
    layer: Layer
    source: str
    inputs: tuple[str, ...]
    constants: dict[str, np.ndarray]
    output: str

    def replace(self, **changes) -> LayerCall:
        """The call with other fields, or with other constants by their names, of a chain as `weight` has them.

        Constants are stored in the dtypes that its layer says.
        """
        layer = changes.get("layer", self.layer)
        own = {name: changes.pop(name) for name in ("weight", "bias", *layer.constants) if name in changes}
        if layer.parts:
            own = {f"{i}.{name}": array for name, arrays in own.items() for i, array in enumerate(arrays)}
        own = {n: np.ascontiguousarray(a, dtype=layer.constants[n][1]) for n, a in own.items()}
        return replace(self, **({"constants": {**self.constants, **own}} if own else {}), **changes)

    @property
    def weight(self) -> np.ndarray | tuple | None:
        """``layer.weight_shape``; of a chain, a tuple of those of its parts; None where there is none."""
        return self._constant("weight")

    @property
    def bias(self) -> np.ndarray | tuple | None:
        """``(out_channels,)``; of a chain, a tuple of those of its parts; None where there is none."""
        return self._constant("bias")

    def _constant(self, name: str) -> np.ndarray | tuple | None:
        if self.layer.parts:
            return tuple(self.constants.get(f"{i}.{name}") for i in range(len(self.layer.parts)))
        return self.constants.get(name)


@dataclass(frozen=True)
class Port:
    """An input or output of ``main``: its name, shape, dtype, and the value behind it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: str


@dataclass(frozen=True)
class Interface:
    """What ``main`` takes and returns; ``tuple_output`` says whether it returns a tuple."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tuple_output: bool


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(d) for d in expr.ty.shape)


def read(mod: tvm.IRModule) -> tuple[list[LayerCall], Interface]:
    """The calls of a module of layers, in execution order, and its interface.

    Raises
    ------
    TvmMobilenetError
        When ``main`` holds anything but calls of layers and views.
    """
    main = mod["main"]
    names: dict[relax.Var, str] = {p: p.name for p in main.params}
    tuples: dict[relax.Var, tuple] = {}
    calls: list[LayerCall] = []
    for block in main.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Var):
                names[binding.var] = names[value]
            elif isinstance(value, relax.Tuple):
                tuples[binding.var] = tuple(value.fields)
            elif isinstance(value.op, tvm.ir.GlobalVar):
                calls.append(_read_call(mod, value, names, f"layer_{len(calls):03d}"))
                names[binding.var] = calls[-1].output
            elif value.op.name == "relax.reshape":
                names[binding.var] = names[value.args[0]]
            else:
                raise TvmMobilenetError(f"{value.op.name} in a module of layers", "run tvm_mobilenet.passes.run first")
    result = main.body.body
    fields = tuples.get(result)
    if fields is None:
        fields = tuple(result.fields) if isinstance(result, relax.Tuple) else None
    inputs = tuple(Port(p.name, shape_of(p), str(p.ty.dtype), p.name) for p in main.params)
    called = [str(name) for name in (main.attrs or {}).get("outputs", ())]
    outputs = tuple(
        Port(called[i] if called else f"output{i}", shape_of(f), str(f.ty.dtype), names[f])
        for i, f in enumerate(fields or (result,))
    )
    return calls, Interface(inputs, outputs, fields is not None)


def _read_call(mod: tvm.IRModule, call: relax.Call, names: dict, name: str) -> LayerCall:
    function = mod[call.op]
    layer = Layer.parse(str(function.attrs["layer"]))
    arrays = [a.value.numpy() for a in call.args if isinstance(a, tvm.ir.Constant)]
    constants = dict(zip(layer.constants, arrays, strict=True))
    inputs = tuple(names[a] for a in call.args if isinstance(a, relax.Var))
    return LayerCall(name, layer, str(function.attrs["source"]), inputs, constants, name)


def write(calls: list[LayerCall], interface: Interface) -> tvm.IRModule:
    """The module of these calls: one private function a call, parameters as constant arguments, views between."""
    bb = relax.BlockBuilder()
    params = [relax.Var(p.name, relax.TensorType(p.shape, p.dtype)) for p in interface.inputs]
    values: dict[str, relax.Expr] = {p.name: p for p in params}

    def view(value: str, shape: tuple[int, ...]) -> relax.Expr:
        expr = values[value]
        if shape_of(expr) == shape:
            return expr
        assert prod(shape_of(expr)) == prod(shape), (value, shape_of(expr), shape)
        return bb.emit(relax.op.reshape(expr, shape))

    functions = [bb.add_func(_function(c), c.name) for c in calls]
    with bb.function("main", params):
        with bb.dataflow():
            for call, function in zip(calls, functions, strict=True):
                args = [view(call.inputs[0], call.layer.input_shape)]
                args += [relax.const(call.constants[name]) for name in call.layer.constants]
                if len(call.inputs) > 1:
                    args.append(view(call.inputs[1], call.layer.second_shape))
                values[call.output] = bb.emit(relax.Call(function, args), name_hint=call.output)
            outputs = [view(p.value, p.shape) for p in interface.outputs]
            result = bb.emit_output(relax.Tuple(outputs) if interface.tuple_output else outputs[0])
        bb.emit_func_output(result)
    return bb.get()


def _function(call: LayerCall) -> relax.Function:
    layer, bb = call.layer, relax.BlockBuilder()
    shapes = {"data": (layer.input_shape, layer.input_dtype), **layer.constants}
    if len(call.inputs) > 1:
        second = "residual" if layer.residual != "none" else "second"
        shapes[second] = (layer.second_shape, layer.second_dtype)
    params = [relax.Var(name, relax.TensorType(*what)) for name, what in shapes.items()]
    with bb.function(call.name, params, private=True):
        with bb.dataflow():
            result = bb.emit_output(body(layer, *params))
        bb.emit_func_output(result)
    function = bb.get()[call.name]
    return function.with_attrs({"layer": layer.name, "source": call.source})


def uses(calls: list[LayerCall], interface: Interface) -> Counter[str]:
    """How often each value is read, by layers and by the outputs."""
    return Counter([v for c in calls for v in c.inputs] + [p.value for p in interface.outputs])
