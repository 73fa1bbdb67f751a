"""From operators of an NCHW graph to layers that are channels-last, without one transpose between them.

Each operator becomes one layer: its tensors are laid out ``(N, H, W, C)``, and permutes, flattens and squeezes are
only bookkeeping (`axes`). The network's own input is read as it came by the convolution that reads it; an output that
must be NCHW is written so by a last copying layer, which `fuse_epilogue` then takes into the layer before it. Batch
norm and bias are depthwise 1x1 layers here; `fold_batch_norm` removes them. An operator
that no kind knows becomes a generic layer, if TVM has a loop nest for it (`generic`). What has no layer is collected
and reported at once.
"""

from __future__ import annotations

from math import prod

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import ImpossibleLayerError, Layer
from tvm_mobilenet.passes.axes import Axis, Tensor, dim, flat, fresh
from tvm_mobilenet.passes.generic import NotGeneric, layer_of, piece, transposed
from tvm_mobilenet.passes.layer_graph import Interface, LayerCall, LayerGraph, Port
from tvm_mobilenet.passes.rewrite import array, op_name, static_shape

GENERIC_TOO = ("add", "subtract", "multiply", "matmul", "nn.softmax")  # of tensors that lie as no kind has them


class Unsupported(Exception):
    """An operator that no layer computes; the message says why."""


class ChannelsLast:
    """See the module; it expects what `simplify`, `activations` and `fold_pad` leave."""

    def __init__(self, mod: tvm.IRModule):
        self.mod = mod
        self.main = mod["main"]
        self.sources = dict((self.main.attrs or {}).get("sources", {}))
        self.calls: list[LayerCall] = []
        self.tensors: dict[relax.Var, Tensor] = {}
        self.tuples: dict[relax.Var, list[relax.Expr]] = {}
        self.splits: dict[relax.Var, relax.Call] = {}
        self.copies: dict[tuple, Tensor] = {}  # in logical order, of tensors that are not
        self.dtypes: dict[str, str] = {}  # of values
        self.problems: list[str] = []
        self.where = ""

    def run(self) -> LayerGraph:
        """The list of layers.

        Raises
        ------
        TvmMobilenetError
            Names every operator that has no layer, with its place and shapes.
        """
        inputs = []
        for i, param in enumerate(self.main.params):
            shape = static_shape(param, f"input {param.name}")
            value = f"input_{i}"  # whatever the user calls it: a layer's value may be called so
            inputs.append(Port(param.name, shape, str(param.ty.dtype), value))
            self.dtypes[value] = inputs[-1].dtype
            self.tensors[param] = fresh(value, _four(shape), shape)
        for i, binding in enumerate(b for block in self.main.body.blocks for b in block.bindings):
            value = binding.value
            self.where = self.sources.get(binding.var.name) or f"operator {i}"
            if isinstance(value, relax.Tuple):
                self.tuples[binding.var] = list(value.fields)
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
            raise TvmMobilenetError(
                f"{len(self.problems)} operator(s) are not supported:\n    " + "\n    ".join(self.problems),
                "cut the model before them (export a backbone), or replace them in the model",
            )
        return LayerGraph(tuple(self.calls), Interface(tuple(inputs), outputs, fields is not None))

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
        try:
            if isinstance(value.op, tvm.ir.GlobalVar) and "activation" in (self.mod[value.op].attrs or {}):
                return self._activation(value)
            return self._by_kind(name, value)
        except (Unsupported, ImpossibleLayerError, NotGeneric) as e:
            args = [f for a in value.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
            shapes = ", ".join(str(list(static_shape(a))) for a in args if isinstance(a.ty, relax.TensorType))
            self.problems.append(f"{name} at {self.where}, {shapes or 'no tensors'}: {e}")
            shape = static_shape(var) if isinstance(var.ty, relax.TensorType) else (1,)
            return fresh("?", _four(shape), shape)

    def _by_kind(self, name: str, call: relax.Call) -> Tensor:
        """By the kind that knows the operator; else, and where it lies as no kind has it, as a generic layer."""
        method = getattr(self, "_" + name.replace(".", "_"), None)
        if method is None:
            return self._generic(call)
        before = len(self.calls)
        try:
            return method(call)
        except (Unsupported, ImpossibleLayerError) as e:
            if name not in GENERIC_TOO:
                raise
            del self.calls[before:]  # copies of its operands
            try:
                return self._generic(call)
            except NotGeneric:
                raise e from None

    # ---- views

    def _reshape(self, call: relax.Call) -> Tensor:
        x, shape = self._tensor(call.args[0]), tuple(int(d) for d in call.args[1].values)
        return x.reshaped(shape) or self._in_order(x).reshaped(shape)

    def _permute_dims(self, call: relax.Call) -> Tensor:
        return self._tensor(call.args[0]).permuted([int(a) for a in call.attrs.axes])

    # ---- convolutions and products

    def _nn_conv2d(self, call: relax.Call) -> Tensor:
        x, weight = self._tensor(call.args[0]), array(call.args[1])
        attrs = call.attrs
        if weight is None or str(attrs.data_layout) != "NCHW":
            raise Unsupported("only convolutions of NCHW data with constant weights")
        n, c, h, w = x.shape
        out, groups = weight.shape[0], int(attrs.groups)
        kernel, window = tuple(weight.shape[2:]), _window(attrs)
        _check_window(kernel, window, (h, w))
        plain = kernel == (1, 1) and window == _window(None) and groups == 1
        if groups == c == out and c > 1:
            x, kind = self._nhwc(x), "depthwise"
        else:
            kind = "conv"
        layout = x.layout
        if (layout == "NCHW" and h * w == 1) or c == 1:
            layout = "NHWC"
        if layout is None:
            raise Unsupported("its data is neither NCHW nor NHWC in memory")
        if plain and layout == "NHWC":
            kind = "dense" if h * w == 1 else "pointwise"
            layer = Layer(kind=kind, height=n * h * w, channels=c, out_channels=out)
            weight = weight.reshape(out, c)
        else:
            geometry = {"height": h, "width": w, "channels": c, "out_channels": out, "batch": n, "groups": groups}
            layer = Layer(kind=kind, kernel=kernel, input_layout=layout, **geometry, **window)
        return self._feature_map(call, layer, x, weight=weight)

    def _matmul(self, call: relax.Call) -> Tensor:
        x, weight = self._tensor(call.args[0]), array(call.args[1])
        if weight is None or weight.ndim != 2:
            raise Unsupported("only products with a constant matrix")
        rows, k = flat(x.dims[:-1]), x.dims[-1]
        if x.stored[: len(rows)] != rows:
            raise Unsupported("its rows are not contiguous in memory")
        # the weight's k in the order of memory: a flatten of a feature map costs nothing at run time
        memory = x.stored[len(rows) :]
        by_axis = weight.reshape([a.size for a in k] + [weight.shape[1]])
        weight = by_axis.transpose([k.index(a) for a in memory] + [len(k)]).reshape(weight.shape).T
        m = prod(x.shape[:-1])
        layer = Layer(kind="dense", height=m, channels=weight.shape[1], out_channels=weight.shape[0])
        columns = dim(weight.shape[0])
        return self._call(layer, [x], rows + columns, (*x.dims[:-1], columns), weight=weight)

    def _nn_batch_norm(self, call: relax.Call) -> Tensor:
        raise Unsupported("its statistics are not fixed; export the model in inference mode (model.eval())")

    # ---- pads and pools

    def _nn_pad(self, call: relax.Call) -> Tensor:
        """Zeros that no convolution took in: a depthwise 1x1 layer that pads."""
        x = self._nhwc(self._tensor(call.args[0]))
        n, c, h, w = x.shape
        widths = [int(i) for i in call.attrs.pad_width]
        if str(call.attrs.pad_mode) != "constant" or float(call.attrs.pad_value) or any(widths[:4]):
            raise Unsupported("only zeros around the height and width")
        if min(widths) < 0:
            raise Unsupported("a negative pad")
        padding = (widths[4], widths[6], widths[5], widths[7])
        geometry = {"height": h, "width": w, "channels": c, "out_channels": c, "batch": n, "groups": c}
        layer = Layer(kind="depthwise", padding=padding, **geometry)
        return self._feature_map(call, layer, x, weight=np.ones((c, 1, 1, 1)))

    def _nn_avg_pool2d(self, call: relax.Call) -> Tensor:
        attrs = call.attrs
        if any(int(p) for p in attrs.padding) and not attrs.count_include_pad:
            raise Unsupported("an average that does not count its padding")
        return self._pool(call, "avg")

    def _nn_max_pool2d(self, call: relax.Call) -> Tensor:
        return self._pool(call, "max")

    def _pool(self, call: relax.Call, op: str) -> Tensor:
        x = self._nhwc(self._tensor(call.args[0]))
        n, c, h, w = x.shape
        window = _window(call.attrs)
        kernel = tuple(int(k) for k in call.attrs.pool_size)
        _check_window(kernel, window, (h, w))
        layer = Layer(
            kind="pool", op=op, height=h, width=w, channels=c, out_channels=c, batch=n, kernel=kernel, **window
        )
        expected = static_shape(call)[2:]
        if (layer.out_height, layer.out_width) != expected:  # ceil_mode: rows and columns beyond the end
            if op == "avg":
                raise Unsupported("an average pool with ceil_mode")
            top, left, bottom, right = layer.padding
            bottom += (expected[0] - layer.out_height) * layer.stride[0]
            right += (expected[1] - layer.out_width) * layer.stride[1]
            layer = layer.replace(padding=(top, left, bottom, right))
        return self._feature_map(call, layer, x)

    # ---- element by element

    def _activation(self, call: relax.Call) -> Tensor:
        name = str(self.mod[call.op].attrs["activation"])
        return self._elementwise("none", self._tensor(call.args[0]), activation=name)

    def _add(self, call: relax.Call) -> Tensor:
        return self._binary(call, "add")

    def _subtract(self, call: relax.Call) -> Tensor:
        return self._binary(call, "sub")

    def _multiply(self, call: relax.Call) -> Tensor:
        return self._binary(call, "mul")

    def _binary(self, call: relax.Call, op: str) -> Tensor:
        constant = array(call.args[1])
        if constant is not None:
            return self._affine(call, op, constant)
        a, b = (self._tensor(x) for x in call.args)
        if op == "mul" and prod(a.shape) < prod(b.shape):
            a, b = b, a
        if a.shape != b.shape:
            return self._scale(op, a, b)
        same = b.with_axes_of(a)
        if same is None or same.stored != a.stored:
            a, b = self._nhwc(a), self._nhwc(b)
            same = b.with_axes_of(a)
            if same is None or same.stored != a.stored:
                raise Unsupported("its operands lie differently in memory")
        return self._elementwise(op, a, b)

    def _scale(self, op: str, a: Tensor, b: Tensor) -> Tensor:
        a = self._nhwc(a)
        if op != "mul" or b.shape != (*a.shape[:2], 1, 1):
            raise Unsupported("its operands have different shapes, and are no gate (N, C, 1, 1)")
        return self._elementwise("scale", a, b)

    def _affine(self, call: relax.Call, op: str, constant: np.ndarray) -> Tensor:
        """Multiply by or add one constant a channel: a depthwise 1x1 layer."""
        x = self._tensor(call.args[0])
        if static_shape(call) != x.shape:
            raise Unsupported("a constant of more dimensions than the data")
        shape = (1,) * (len(x.shape) - constant.ndim) + constant.shape
        varying = [i for i, s in enumerate(shape) if s > 1]
        # the network's own input, normalised: its channels are not the last axis yet
        own = x.value.startswith("input_") and x.layout == "NCHW" and prod(x.shape[2:]) > 1
        from_nchw = own and x.shape[1] > 1 and varying in ([], [1])
        channels = x.shape[1] if from_nchw else x.nhwc[-1]
        last = x.dims[1] if from_nchw else x.stored[-1:]
        if varying and (len(varying) > 1 or x.dims[varying[0]] != last or constant.size != channels):
            raise Unsupported("a constant that is not one value a channel")
        values = np.broadcast_to(constant.reshape(-1), (channels,))
        shift = {"add": values, "sub": -values, "mul": np.zeros(channels)}[op]
        if from_nchw:  # the network's input, normalised: a 1x1 convolution that reads NCHW
            n, c, h, w = x.shape
            weight = np.diag(values if op == "mul" else np.ones(c)).reshape(c, c, 1, 1)
            layer = Layer(kind="conv", height=h, width=w, channels=c, out_channels=c, batch=n, input_layout="NCHW")
            return self._feature_map(call, layer, x, weight=weight, bias=shift)
        n, h, w, c = x.nhwc
        weight = values if op == "mul" else np.ones(c)
        layer = Layer(kind="depthwise", height=h, width=w, channels=c, out_channels=c, batch=n, groups=c)
        return self._call(layer, [x], x.stored, x.dims, weight=weight.reshape(c, 1, 1, 1), bias=shift)

    def _nn_softmax(self, call: relax.Call) -> Tensor:
        x = self._tensor(call.args[0])
        axis = int(call.attrs.axis) % len(x.shape)
        if x.dims[axis] != x.stored[-1:] and axis == len(x.shape) - 1:
            x = self._in_order(x)
            x = fresh(x.value, _four(x.shape), x.shape)
        if x.dims[axis] != x.stored[-1:] or x.shape[axis] != x.nhwc[-1]:
            raise Unsupported("a softmax over another axis than the channels")
        n, h, w, c = x.nhwc
        return self._call(
            Layer(kind="softmax", height=h, width=w, channels=c, out_channels=c, batch=n), [x], x.stored, x.dims
        )

    # ---- anything else

    def _generic(self, call: relax.Call) -> Tensor:
        """By the loop nest that TVM makes of it, of tensors that lie in the order of their dimensions."""
        flat_args = [f for a in call.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
        found = [a for a in flat_args if isinstance(a.ty, relax.TensorType) and array(a) is None]
        if not found or not isinstance(call.ty, relax.TensorType):
            raise Unsupported("no layer computes it")
        given = [self._tensor(a) for a in found]
        if any(x.value == "?" for x in given):  # of an operator that is reported already
            return fresh("?", _four(static_shape(call)), static_shape(call))
        inputs = [self._copy_in_order(x) for x in given]
        layer, constants = layer_of(call, found, self.dtypes.get(inputs[0].value, "?"))
        return self._called(layer, inputs, fresh("", _four(layer.output_shape), layer.output_shape), constants)

    def _copy_in_order(self, x: Tensor) -> Tensor:
        """The tensor in logical order, copied once for all who read it so."""
        key = x.value, x.stored, x.dims
        if key not in self.copies:
            self.copies[key] = self._in_order(x)
        return self.copies[key]

    # ---- building layers

    def _tensor(self, expr: relax.Expr) -> Tensor:
        if not isinstance(expr, relax.Var) or expr not in self.tensors:
            raise Unsupported("a constant where a tensor was expected")
        return self.tensors[expr]

    def _nhwc(self, x: Tensor) -> Tensor:
        """The tensor in NHWC, copied if it must be (only ever the network's own input)."""
        if len(x.dims) != 4 or x.layout is None:
            raise Unsupported("its data is neither NCHW nor NHWC in memory")
        n, c, h, w = x.shape
        if x.layout == "NHWC" or c == 1 or h * w == 1:
            return Tensor(x.value, (n, h, w, c), x.stored, x.dims)
        layer = Layer(kind="elementwise", op="none", height=h, width=w, channels=c, out_channels=c, batch=n)
        dims = x.dims
        return self._call(layer.replace(input_layout="NCHW"), [x], flat((dims[0], dims[2], dims[3], dims[1])), dims)

    def _in_order(self, x: Tensor) -> Tensor:
        """The tensor with memory in logical order: copied to NCHW if it is a feature map, whatever its dimensions."""
        if x.contiguous:
            return x
        logical, channel = flat(x.dims), x.stored[-1]
        place = logical.index(channel)
        n, pixels = logical[:place], logical[place + 1 :]
        if n + pixels + (channel,) != x.stored:
            sizes = tuple(a.size for a in x.stored)
            layer = transposed(sizes, tuple(x.stored.index(a) for a in logical), self.dtypes.get(x.value, "?"))
            return self._called(layer, [x], Tensor("", _four(x.shape), logical, x.dims), {})
        batch, rest, c = (prod(a.size for a in axes) for axes in (n, pixels, (channel,)))
        h, w = x.nhwc[1:3] if x.nhwc[0] == batch and x.nhwc[3] == c else (rest, 1)
        layer = Layer(kind="elementwise", op="none", height=h, width=w, channels=c, out_channels=c, batch=batch)
        return self._call(layer.replace(output_layout="NCHW"), [x], logical, x.dims)

    def _elementwise(self, op: str, *operands: Tensor, activation: str = "none") -> Tensor:
        x = operands[0]
        n, h, w, c = x.nhwc
        layer = Layer(
            kind="elementwise", op=op, height=h, width=w, channels=c, out_channels=c, batch=n, activation=activation
        )
        return self._call(layer, list(operands), x.stored, x.dims)

    def _feature_map(self, call: relax.Call, layer: Layer, x: Tensor, weight=None, bias=None) -> Tensor:
        _, c, h, w = static_shape(call)
        n, c, h, w = x.dims[0], dim(c), dim(h), dim(w)
        out = self._call(layer, [x], flat((n, h, w, c)), (n, c, h, w), weight=weight, bias=bias)
        n, c, h, w = out.shape
        return Tensor(out.value, (n, h, w, c), out.stored, out.dims)

    def _call(
        self, layer: Layer, inputs: list[Tensor], stored: tuple[Axis, ...], dims, weight=None, bias=None
    ) -> Tensor:
        layer = layer.replace(dtype=self.dtypes.get(inputs[0].value, layer.dtype))
        constants = {}
        if weight is not None:
            constants = {"weight": weight, "bias": np.zeros(layer.out_channels) if bias is None else bias}
        return self._called(layer, inputs, Tensor("", layer.output_shape, stored, dims), constants)

    def _called(self, layer: Layer, inputs: list[Tensor], made: Tensor, constants: dict[str, np.ndarray]) -> Tensor:
        name = f"layer_{len(self.calls):03d}"
        call = LayerCall(name, layer, self.where, tuple(x.value for x in inputs), {}, name)
        self.calls.append(call.replace(**constants))
        self.dtypes[name] = layer.output_dtype
        return Tensor(name, made.nhwc, made.stored, made.dims)

    def _output(self, index: int, name: str, expr: relax.Expr) -> Port:
        self.where = f"output{index}"
        x = self.tensors.get(expr)
        if x is None:
            self.problems.append(f"output {index}: a constant")
            return Port(name, (1,), "?", "?")
        try:
            x = self._in_order(x)
        except (Unsupported, ImpossibleLayerError) as e:
            self.problems.append(f"{self.where}, {list(x.shape)}: {e}")
        return Port(name, x.shape, self.dtypes.get(x.value, "?"), x.value)


def run(mod: tvm.IRModule) -> LayerGraph:
    """The module as layers, channels-last."""
    return ChannelsLast(mod).run()


def _four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Any shape as four dimensions: the last is the channels, the first of four or more the batch."""
    if len(shape) == 4:
        return shape
    return (1, prod(shape[:-1]), 1, shape[-1]) if shape else (1, 1, 1, 1)


def _check_window(kernel: tuple, window: dict, size: tuple) -> None:
    """Refuse pads that cut instead of adding, and a kernel that its data, pads included, has no room for."""
    top, left, bottom, right = window["padding"]
    if min(window["padding"]) < 0:
        raise Unsupported(f"negative pads {list(window['padding'])} (top, left, bottom, right) cut the data; slice it")
    room = size[0] + top + bottom, size[1] + left + right
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, window["dilation"], strict=True))
    if reach[0] > room[0] or reach[1] > room[1]:
        raise Unsupported(
            f"its kernel reaches over {reach[0]}x{reach[1]}, the data with its pads is {room[0]}x{room[1]}"
        )


def _window(attrs) -> dict:
    """Stride, padding (top, left, bottom, right) and dilation of a convolution or pool; of none, the defaults."""
    if attrs is None:
        return {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    padding = [int(p) for p in attrs.padding]
    padding = padding * 4 if len(padding) == 1 else padding * 2 if len(padding) == 2 else padding
    return {
        "stride": tuple(int(s) for s in attrs.strides),
        "padding": tuple(padding),
        "dilation": tuple(int(d) for d in attrs.dilation),
    }
