"""From operators of an NCHW graph to channels-last layers, without a transpose between them.

Each operator becomes one layer. Its tensors are laid out ``(N, H, W, C)``, so permutes, flattens and squeezes are only
bookkeeping (`axes`). A convolution reads the network's input in its given layout. A last copying layer writes an output
that must be NCHW, and `fuse_epilogue` then fuses it into the layer before. Batch norm and bias are depthwise 1x1 layers
here; `fold_batch_norm` removes them. Each kind takes operators by its ``patterns``. An operator that no kind takes
becomes a generic layer, if TVM has a loop nest for it (`generic`). The pass collects all operators without a layer and
reports them at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf, prod

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet import kinds
from tvm_mobilenet.dtypes import OF_DATA
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.layer import ImpossibleLayerError, Layer
from tvm_mobilenet.passes import axes
from tvm_mobilenet.passes.axes import Axis, Tensor, dim, flat, fresh
from tvm_mobilenet.passes.generic import NotGeneric, Piece, constant, piece, pieces_of, transposed
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature, copying
from tvm_mobilenet.passes.marks import Marks
from tvm_mobilenet.passes.problems import Problem, told
from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.passes.reordered import NHWC, reordered
from tvm_mobilenet.passes.reordered import takes as reorders
from tvm_mobilenet.passes.rewrite import array, op_name, static_shape


class Unsupported(Exception):
    """An operator that no kind computes; the message gives the reason. It may still become a generic layer."""


class Refused(Exception):
    """An operator that must not become any layer, because its result would be wrong; the message gives the reason."""


class ChannelsLast:
    """The pass of this module; it runs after `simplify`, `activations` and `fold_pad`. The patterns of kinds get it as
    ``make``.
    """

    Unsupported, Refused, axes, layer = Unsupported, Refused, axes, Layer
    array, shape_of, four = staticmethod(array), staticmethod(static_shape), staticmethod(lambda shape: _four(shape))

    def __init__(self, mod: tvm.IRModule):
        self.mod = mod
        self.main = mod["main"]
        self.sources = dict((self.main.attrs or {}).get("sources", {}))
        self.calls: list[LayerCall] = []
        self.tensors: dict[relax.Var, Tensor] = {}
        self.tuples: dict[relax.Var, list[relax.Expr]] = {}
        self.splits: dict[relax.Var, relax.Call] = {}
        self.constants: dict[relax.Var, relax.Expr] = {}
        self.copies: dict[tuple, Tensor] = {}  # copies of tensors whose reader needs another layout
        self.dtypes: dict[str, str] = {}  # of each value
        self.placed: set[str] = set()  # values in the memory of an input or output
        self.problems: list[Problem] = []
        self.where, self.at = "", 0

    def run(self) -> LayerGraph:
        """The list of layers.

        Raises
        ------
        TvmMobilenetError
            Some operators have no layer; the message names each with its place and shapes. Or there is no input.
        """
        inputs = []
        for i, param in enumerate(self.main.params):
            shape = static_shape(param, f"input {param.name}")
            value = f"input_{i}"  # not the user's name, which a layer's value may have too
            inputs.append(Port(param.name, shape, str(param.ty.dtype), value))
            self.dtypes[value] = inputs[-1].dtype
            self.placed.add(value)
            self.tensors[param] = fresh(value, _four(shape), shape)
        if not any(prod(port.shape) for port in inputs):  # none, or all without values
            raise TvmMobilenetError("the network has no input", "give a model whose outputs depend on something")
        for i, binding in enumerate(b for block in self.main.body.blocks for b in block.bindings):
            value, self.at = binding.value, i
            self.where = self.sources.get(binding.var.name) or f"operator {i}"
            if isinstance(value, relax.Tuple):
                self.tuples[binding.var] = list(value.fields)
            elif isinstance(value, tvm.ir.Constant):
                self.constants[binding.var] = value  # folded where it is read; an output is written
            elif isinstance(value, relax.Var):
                if value in self.tuples:
                    self.tuples[binding.var] = self.tuples[value]
                else:
                    self.tensors[binding.var] = self.tensors[value]
            else:
                self.tensors[binding.var] = self._operator(binding.var, value)
        result = self.main.body.body
        fields = self.tuples.get(result) or (list(result.fields) if isinstance(result, relax.Tuple) else None)
        called = (self.main.attrs or {}).get("outputs")
        outputs = tuple(
            self._output(i, str(called[i]) if called else f"output{i}", f) for i, f in enumerate(fields or [result])
        )
        if self.problems:
            raise TvmMobilenetError(*told(self.problems, self.products))
        return LayerGraph(tuple(self.calls), Signature(tuple(inputs), outputs, fields is not None))

    def _operator(self, var: relax.Var, value: relax.Expr) -> Tensor:
        name = op_name(value)
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.splits:
            value = piece(self.splits[value.tuple_value], value.index)
            name = op_name(value)
        elif isinstance(value, relax.TupleGetItem):  # of an operator that is reported already
            shape = static_shape(var)
            return fresh("?", _four(shape), shape)
        if name == "split":
            self.splits[var] = value
            return fresh("?", (1, 1, 1, 1), (1,))
        if name in ("call_dps_packed", "call_tir"):
            name = getattr(value.args[0], "global_symbol", None) or value.args[0].name_hint
        name, _, why = name.partition("\n")
        try:
            if why:
                raise Refused(why)
            if isinstance(value.op, tvm.ir.GlobalVar) and "activation" in (self.mod[value.op].attrs or {}):
                return self._activation(value)
            if isinstance(value.op, tvm.ir.GlobalVar) and "mark" in (self.mod[value.op].attrs or {}):
                return self._mark(value)
            return self._by_kind(name, value)
        except (Unsupported, Refused, ImpossibleLayerError, NotGeneric) as e:
            args = [f for a in value.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
            shapes = ", ".join(str(list(static_shape(a))) for a in args if isinstance(a.ty, relax.TensorType))
            self.problems.append(Problem(name, self.where, shapes or "no tensors", str(e), self.at))
            shape = static_shape(var) if isinstance(var.ty, relax.TensorType) else (1,)
            return fresh("?", _four(shape), shape)

    def _by_kind(self, name: str, call: relax.Call) -> Tensor:
        """The layer of the kind that knows the operator; a generic layer if no kind knows it or its layout."""
        views = {"reshape": ChannelsLast._reshape, "permute_dims": ChannelsLast._permute_dims}
        patterns = [views[name]] if name in views else kinds.patterns(name)
        before, why = len(self.calls), None
        try:
            for pattern in patterns:
                if (found := pattern(self, call)) is not None:
                    return found
                self._take_back(before)
        except (Unsupported, ImpossibleLayerError) as e:
            why = e
        self._take_back(before)
        try:
            return self._generic(call)
        except (NotGeneric, Unsupported) as e:
            raise why or e from None

    def _take_back(self, before: int) -> None:
        """Remove layers whose value has no reader: copies of operands for an operator that then got no layer."""
        gone = {call.output for call in self.calls[before:]}
        del self.calls[before:]
        self.copies = {key: made for key, made in self.copies.items() if made.value not in gone}

    @property
    def products(self) -> int:
        """The place of the last operator that sums products, the core of a network; -1 without one."""
        bindings = [b for block in self.main.body.blocks for b in block.bindings]
        return max((i for i, b in enumerate(bindings) if op_name(b.value) in ("nn.conv2d", "matmul")), default=-1)

    # ---- views

    def _reshape(self, call: relax.Call) -> Tensor:
        x, shape = self.tensor(call.args[0]), tuple(int(d) for d in call.args[1].values)
        return x.reshaped(shape) or self.in_order(x).reshaped(shape)

    def _permute_dims(self, call: relax.Call) -> Tensor:
        order = call.attrs.axes
        return self.tensor(call.args[0]).permuted(None if order is None else [int(a) for a in order])

    # ---- element by element

    def _activation(self, call: relax.Call) -> Tensor:
        name = str(self.mod[call.op].attrs["activation"])
        return self.elementwise("none", self.tensor(call.args[0]), activation=name)

    def _mark(self, call: relax.Call) -> Tensor:
        """A scale from the file, as a copying layer; the steps of weights are noted at the layer that has the
        weights.
        """
        what, x = json.loads(str(self.mod[call.op].attrs["mark"])), self.tensor(call.args[0])
        if "steps" not in what:
            x = self.elementwise("none", x)
            scale, tables = Scale(what["step"], what["zero"]), what.get("tables", "")
            self.calls[-1] = self.calls[-1].replace(marks=Marks(scale, source=self.where, tables=tables))
        elif self.calls and self.calls[-1].output == x.value and self.calls[-1].layer.weight_shape:
            steps = what["steps"] * (self.calls[-1].layer.out_channels if len(what["steps"]) == 1 else 1)
            self.calls[-1] = self.calls[-1].replace(marks=Marks(steps=tuple(steps)))
        return x

    # ---- all other operators

    def _generic(self, call: relax.Call) -> Tensor:
        """A generic layer, whose loop nest TVM makes, on tensors in the order of their dimensions."""
        flat_args = [f for a in call.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
        found = [a for a in flat_args if isinstance(a.ty, relax.TensorType) and array(a) is None]
        if op_name(call) == "call_dps_packed":
            raise Unsupported("no layer computes it")
        if isinstance(call.ty, relax.TupleType):
            raise Unsupported("it returns several tensors, a layer only one")
        if not found or not isinstance(call.ty, relax.TensorType):
            raise Unsupported("no layer computes it")
        given = [self.tensor(a) for a in found]
        if any(x.value == "?" for x in given):  # of an operator that is reported already
            return fresh("?", _four(static_shape(call)), static_shape(call))
        if (made := self._as_it_lies(call, found, given)) is not None:
            return made
        made = self._pieces(pieces_of(call, found, self.mod), [self._copy_in_order(x) for x in given])
        shape = static_shape(call)
        return made if made.shape == shape else made.reshaped(shape)  # a single value

    def _pieces(self, pieces: list[Piece], values: list[Tensor]) -> Tensor:
        """Several generic layers in order; returns the output of the last one."""
        for one in pieces:
            shape = one.layer.output_shape
            reads = [values[i] for i in one.reads]
            values.append(self._called(one.layer, reads, fresh("", _four(shape), shape), one.constants))
        return values[-1]

    def _as_it_lies(self, call: relax.Call, found: list[relax.Expr], given: list[Tensor]) -> Tensor | None:
        """The same operator on data in its order in memory; None if that is the logical order, or the operator cannot
        be reordered.
        """
        if not reorders(call):
            return None
        given = [self.image(x) if len(x.dims) == 4 and not x.contiguous and not x.order else x for x in given]
        largest = max(prod(x.shape) for x in given)
        moved = [x for x in given if not x.contiguous and 2 * prod(x.shape) >= largest and x.order]
        if not moved:
            return None
        order = max(moved, key=lambda x: prod(x.shape)).order
        other = reordered(call, order, found)
        if other is None:
            return None
        try:
            pieces = pieces_of(*other, self.mod)
        except NotGeneric:
            return None
        whole = [x.reshaped((1,) * (len(order) - len(x.dims)) + x.shape) for x in given]
        made = self._pieces(pieces, [self._laid(x, order) for x in whole])
        back = made.permuted([order.index(i) for i in range(len(order))])
        shape = static_shape(call)
        if back.shape == shape:
            return back
        kept = [d for d in back.dims if d]  # a reduction drops its dimensions, which have size one here
        dims = [kept.pop(0) if size > 1 else () for size in shape]
        return Tensor(back.value, back.nhwc, back.stored, tuple(dims))

    def _laid(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """The tensor with its dimensions in this order in memory, copied if they have another."""
        y = x.permuted(list(order))
        if y.contiguous:
            return y
        return self.nhwc(x).permuted(list(order)) if order == NHWC else self._copy_in_order(y)

    def _copy_in_order(self, x: Tensor) -> Tensor:
        """The tensor in logical order, copied once for all its readers."""
        return self._once(("in order", x.value, x.stored, x.dims), lambda: self.in_order(x))

    def _once(self, key: tuple, copy: Callable[[], Tensor]) -> Tensor:
        if key not in self.copies:
            self.copies[key] = copy()
        return self.copies[key]

    # ---- building layers

    def tensor(self, expr: relax.Expr) -> Tensor:
        if not isinstance(expr, relax.Var) or expr not in self.tensors:
            raise Unsupported("a constant where a tensor was expected")
        return self.tensors[expr]

    def nhwc(self, x: Tensor) -> Tensor:
        """The tensor in NHWC, copied if necessary."""
        x = self.image(x)
        n, c, h, w = x.shape
        if x.layout == "NHWC" or c == 1 or h * w == 1:
            return Tensor(x.value, (n, h, w, c), x.stored, x.dims)
        dims, stored = x.dims, flat((x.dims[0], x.dims[2], x.dims[3], x.dims[1]))
        if (dtype := self.dtypes.get(x.value, OF_DATA[0])) not in OF_DATA:
            moved = transposed(tuple(a.size for a in x.stored), tuple(x.stored.index(a) for a in stored), dtype)
            made = Tensor("", (n, h, w, c), stored, dims)
            return self._once(("nhwc", x.value, x.stored, dims), lambda: self._called(moved, [x], made, {}))
        layer = Layer(kind="elementwise", op="none", height=h, width=w, channels=c, out_channels=c, batch=n)
        layer = layer.replace(input_layout="NCHW")
        return self._once(("nhwc", x.value, x.stored, dims), lambda: self.call(layer, [x], stored, dims))

    def image(self, x: Tensor) -> Tensor:
        """The tensor as NCHW or NHWC, copied to NHWC if it has another layout, as a permuted tensor or a view may."""
        if len(x.dims) != 4:
            raise Unsupported(f"its data has {len(x.dims)} dimensions where 4 are expected")
        return x if x.layout else self._copy_in_order(x.permuted(list(NHWC))).permuted([0, 3, 1, 2])

    def in_order(self, x: Tensor) -> Tensor:
        """The tensor in logical order in memory. A feature map is copied to NCHW, however many dimensions it has."""
        if x.contiguous:
            return x
        logical, channel = flat(x.dims), x.stored[-1]
        place = logical.index(channel)
        n, pixels = logical[:place], logical[place + 1 :]
        dtype = self.dtypes.get(x.value, OF_DATA[0])
        if n + pixels + (channel,) != x.stored or dtype not in OF_DATA:
            sizes = tuple(a.size for a in x.stored)
            layer = transposed(sizes, tuple(x.stored.index(a) for a in logical), dtype)
            return self._called(layer, [x], fresh("", _four(x.shape), x.shape), {})
        batch, rest, c = (prod(a.size for a in axes) for axes in (n, pixels, (channel,)))
        h, w = x.nhwc[1:3] if x.nhwc[0] == batch and x.nhwc[3] == c else (rest, 1)
        layer = Layer(kind="elementwise", op="none", height=h, width=w, channels=c, out_channels=c, batch=batch)
        return self.call(layer.replace(output_layout="NCHW"), [x], logical, x.dims)

    def elementwise(self, op: str, *operands: Tensor, activation: str = "none", slopes=None) -> Tensor:
        x = operands[0]
        n, h, w, c = x.nhwc
        layer = Layer(
            kind="elementwise", op=op, height=h, width=w, channels=c, out_channels=c, batch=n, activation=activation
        )
        return self.call(layer, list(operands), x.stored, x.dims, slopes=slopes)

    def feature_map(self, call: relax.Call, layer: Layer, x: Tensor, weight=None, bias=None, nhwc=False) -> Tensor:
        """The layer of a call on feature maps, whose result is NHWC if ``nhwc``, else NCHW."""
        shape = static_shape(call)
        _, c, h, w = (shape[i] for i in (0, 3, 1, 2)) if nhwc else shape
        n, c, h, w = x.dims[0], dim(c), dim(h), dim(w)
        out = self.call(layer, [x], flat((n, h, w, c)), (n, c, h, w), weight=weight, bias=bias)
        n, c, h, w = out.shape
        made = Tensor(out.value, (n, h, w, c), out.stored, out.dims)
        return made.permuted(list(NHWC)) if nhwc else made

    def call(
        self, layer: Layer, inputs: list[Tensor], stored: tuple[Axis, ...], dims, weight=None, bias=None, slopes=None
    ) -> Tensor:
        dtype = self.dtypes.get(inputs[0].value, layer.dtype)
        if np.issubdtype(dtype, np.integer):  # it becomes a generic layer: those of int8 have scales, later
            raise Unsupported(f"it computes with {dtype} as plain numbers")
        layer = layer.replace(dtype=dtype)
        constants = {} if slopes is None else {SLOPES: slopes}
        if weight is not None:
            constants = {"weight": weight, "bias": np.zeros(layer.out_channels) if bias is None else bias}
        return self._called(layer, inputs, Tensor("", layer.output_shape, stored, dims), constants)

    def _called(self, layer: Layer, inputs: list[Tensor], made: Tensor, constants: dict[str, np.ndarray]) -> Tensor:
        name = f"layer_{len(self.calls):03d}"
        call = LayerCall(name, layer, self.where, tuple(x.value for x in inputs), {}, name)
        self.calls.append(call.replace(**constants))
        self.dtypes[name] = layer.output_dtype
        return Tensor(name, made.nhwc, made.stored, made.dims)

    def _copy(self, x: Tensor) -> Tensor:
        """A copy in the same order: each of a plan's inputs and outputs has memory of its own."""
        dtype = self.dtypes[x.value]
        of_floats = dtype in OF_DATA and not np.issubdtype(dtype, np.integer)
        layer = copying(x.shape, dtype) if of_floats else transposed((prod(x.shape),), (0,), dtype)
        return self._called(layer, [x], x, {})

    def _constant(self, value: np.ndarray | None) -> Tensor:
        """A value that does not depend on the inputs, written beside an input or an earlier output."""
        if value is None:
            raise Unsupported("it is neither computed nor a constant")
        beside = min((x for x in self.tensors.values() if x.value in self.placed), key=lambda x: prod(x.shape) or inf)
        one = constant(value, beside.shape, self.dtypes[beside.value])
        shape = one.layer.output_shape
        made = self._called(one.layer, [beside], fresh("", _four(shape), shape), one.constants)
        return made if made.shape == value.shape else made.reshaped(value.shape)

    def _output(self, index: int, name: str, expr: relax.Expr) -> Port:
        self.where = f"output{index}"
        x = self.tensors.get(expr)
        try:
            if x is None:
                x = self._constant(array(self.constants.get(expr, expr)))
            elif 0 in x.shape:
                x = self._constant(np.zeros(x.shape, self.dtypes.get(x.value, "float32")))
            x = self.in_order(x)
            if x.value in self.placed and x.value in self.dtypes:  # not of an operator that is reported
                x = self._copy(x)
        except (Unsupported, ImpossibleLayerError, NotGeneric) as e:
            x = x or fresh("?", (1, 1, 1, 1), (0,))
            self.problems.append(Problem("output", str(index), str(list(x.shape)), str(e), self.at))
        self.placed.add(x.value)
        return Port(name, x.shape, self.dtypes.get(x.value, "?"), x.value)


def run(mod: tvm.IRModule) -> LayerGraph:
    """The module as layers, channels-last."""
    return ChannelsLast(mod).run()


def _four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Any shape as four dimensions: the last is the channels, the first of four or more the batch."""
    if len(shape) == 4:
        return shape
    return (1, prod(shape[:-1]), 1, shape[-1]) if shape else (1, 1, 1, 1)
