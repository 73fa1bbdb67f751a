"""A network that comes quantized, converted to float32 with marks at the places of its scales.

Exporters write ``quantize`` and ``dequantize`` around operators that compute in integers. This pass replaces each pair
by a call of a private function with the attribute ``mark``: a value that is rounded to int8, with its scale and zero
point (those of uint8 are shifted by 128). A weight becomes an ordinary constant. After the convolution or product that
reads it stands a mark with the steps of its output channels, from which `quantize` makes the same integers again.
`channels_last` reads the marks.
"""

from __future__ import annotations

import json

import numpy as np
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.passes.rewrite import Rewriter, array, op_name, static_shape

_UNSIGNED = 128  # a uint8 minus the int8 of the same rank
_MOVES = ("reshape", "permute_dims", "squeeze", "expand_dims", "flatten", "nn.batch_flatten", "nn.pad", "nn.max_pool2d")
_STATIC = "quantize it statically, weights and activations to int8 or uint8, as QDQ"
_FLOAT = "give the float32 model with --dtype int8 and --calibrate FOLDER, or " + _STATIC


class GivenScales(Rewriter):
    """The pass of this module; it runs on an imported graph."""

    def __init__(self, mod, weights: bool = True):
        super().__init__(mod)
        self._keeps_weights = weights
        self._marked: dict[relax.Var, str] = {}  # the marks of values
        self._steps: list[tuple[relax.Constant, np.ndarray, int]] = []  # steps of weights, and their axis
        self._functions: dict[tuple, object] = {}
        self._left: dict[relax.Var, str] = {}  # integers that no dequantize has read yet
        whose = str((self.main.attrs or {}).get("tables", ""))
        self._tables = {"tables": whose} if whose else {}  # activation tables of the file's runtime
        self.activations = self.weights = 0

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return value
        name = op_name(value)
        if name == "quantize":
            return self._quantize(value)
        if name == "dequantize":
            return self._dequantize(value)
        whole = next((a for a in value.args if isinstance(a, relax.Var) and a in self._left), None)
        if whole is not None:
            raise TvmMobilenetError(
                f"{name} at {self.where} reads the integers of {self._left[whole]}: a dequantize between them is "
                "missing",
                _STATIC,
            )
        if name in ("permute_dims", "reshape") and self._weight(value.args[0]) is not None:
            return self._moved_weight(name, value)
        if name in ("nn.conv2d", "matmul", "nn.conv1d") and self._weight(value.args[1]) is not None:
            return self._with_steps(name, value)
        if name == "multiply" and any(self._weight(a) is not None for a in value.args):
            return self._scaled(value)
        return value

    # ---- quantize and dequantize

    def _quantize(self, call: relax.Call) -> relax.Expr:
        x, scale, zero = call.args[0], array(call.args[1]), array(call.args[2])
        if array(x) is not None:  # a weight in float32, as quantization-aware training exports it
            ends = np.iinfo(str(call.attrs.out_dtype))
            by = (
                _along(scale, static_shape(x), int(call.attrs.axis)),
                _along(zero, static_shape(x), int(call.attrs.axis)),
            )
            whole = np.clip(np.rint(array(x).astype(np.float32) / by[0]) + by[1].astype(np.float32), ends.min, ends.max)
            return relax.const(whole.astype(str(call.attrs.out_dtype)))
        if scale.ndim:
            raise TvmMobilenetError(f"quantize at {self.where}: an activation with a scale a channel", _STATIC)
        var = self.emit(call)
        self._left[var] = self.where
        return var

    def _dequantize(self, call: relax.Call) -> relax.Expr:
        data, scale, zero = call.args[0], array(call.args[1]).astype(np.float64), array(call.args[2]).astype(np.int64)
        shape, axis = static_shape(data, self.where), int(call.attrs.axis)
        stored = array(data)
        if stored is not None:
            whole = stored.astype(np.int64) - _along(zero, shape, axis)
            made = relax.const((whole * _along(scale, shape, axis)).astype(np.float32))
            if stored.dtype.itemsize == 1 and self._keeps_weights:
                self._steps.append((made, scale, axis))
            return made
        pair = self.made_by(data, "quantize")
        if pair is None:
            raise TvmMobilenetError(
                f"dequantize at {self.where} reads a value that no quantize made",
                "the network takes float32, and quantizes it itself: quantize it as QDQ",
            )
        if not (np.array_equal(array(pair.args[1]), array(call.args[1])) and np.array_equal(array(pair.args[2]), zero)):
            raise TvmMobilenetError(
                f"dequantize at {self.where} has another scale or zero point than the quantize before it", _STATIC
            )
        dtype = str(pair.attrs.out_dtype)
        point = int(zero) - (_UNSIGNED if dtype == "uint8" else 0)
        return self._mark(pair.args[0], {"step": float(scale), "zero": point, **self._tables})

    def _mark(self, x: relax.Expr, what: dict) -> relax.Expr:
        text = json.dumps(what)
        if self._is_on_grid(x, text):  # already rounded to this scale
            return x
        self.activations += 1
        var = self.emit(self._call(text, x))
        self._marked[var] = text
        return var

    def _is_on_grid(self, x: relax.Expr, mark: str) -> bool:
        """Whether a value is a reordered or cut copy of one with this very mark."""
        while isinstance(x, relax.Var):
            if x in self._marked:
                return self._marked[x] == mark
            made = self._made.get(x)
            pads = op_name(made) == "nn.pad" and float(made.attrs.pad_value) != 0
            if op_name(made) not in _MOVES or pads:
                return False
            x = made.args[0]
        return False

    # ---- weights

    def _weight(self, expr: relax.Expr) -> tuple[np.ndarray, int] | None:
        """Steps and axis of a constant that came as integers."""
        return next(((steps, axis) for made, steps, axis in self._steps if made.same_as(expr)), None)

    def _moved_weight(self, name: str, call: relax.Call) -> relax.Expr:
        steps, axis = self._weight(call.args[0])
        value = array(call.args[0])
        if name == "permute_dims":
            rank = value.ndim
            axes = range(rank)[::-1] if call.attrs.axes is None else [int(a) % rank for a in call.attrs.axes]
            made, axis = np.transpose(value, list(axes)), list(axes).index(axis)
        else:
            made = value.reshape(tuple(int(d) for d in call.args[1].values))
            kept = [i for i, d in enumerate(made.shape) if d == value.shape[axis]]
            before = int(np.prod(value.shape[:axis]))
            axis = next((i for i in kept if int(np.prod(made.shape[:i])) == before), -1)
            if axis < 0 and steps.ndim:
                raise TvmMobilenetError(f"reshape at {self.where} takes the channels of a weight apart", _STATIC)
        constant = relax.const(np.ascontiguousarray(made))
        self._steps.append((constant, steps, max(axis, 0)))
        return constant

    def _with_steps(self, name: str, call: relax.Call) -> relax.Expr:
        steps, axis = self._weight(call.args[1])
        shape = static_shape(call.args[1])
        of_outputs = len(shape) - 1 if name == "matmul" else 0
        if steps.ndim and axis != of_outputs:
            raise TvmMobilenetError(
                f"{name} at {self.where}: its weight of the shape {list(shape)} has scales along axis {axis}, "
                f"output channels are axis {of_outputs}",
                "quantize weights by output channel, or by tensor",
            )
        self.weights += 1
        made = self.emit(call)
        every = np.broadcast_to(steps, (shape[of_outputs],)) if not steps.ndim else steps
        return self.emit(self._call(json.dumps({"steps": every.tolist()}), made))

    def _scaled(self, call: relax.Call) -> relax.Expr:
        """Data times a constant: a layer with one weight a channel, if all of these have the same step."""
        data, constant = call.args if self._weight(call.args[1]) is not None else call.args[::-1]
        steps, _ = self._weight(constant)
        made = self.emit(call)
        if steps.ndim or static_shape(made) != static_shape(data):
            return made
        return self.emit(self._call(json.dumps({"steps": [float(steps)]}), made))

    def _call(self, text: str, x: relax.Expr) -> relax.Call:
        x = x if isinstance(x, relax.Var) else self.emit(x)
        shape, dtype = static_shape(x, self.where), str(x.ty.dtype)
        if (text, shape) not in self._functions:
            bb = relax.BlockBuilder()
            param = relax.Var("x", relax.TensorType(shape, dtype))
            with bb.function("marked", [param], private=True):
                with bb.dataflow():
                    out = bb.emit_output(relax.op.add(param, relax.const(0.0, dtype)))
                bb.emit_func_output(out)
            self._functions[text, shape] = self._bb.add_func(bb.get()["marked"].with_attr("mark", text), "marked")
        return relax.Call(self._functions[text, shape], [x])


def run(mod):
    """The module without quantize and dequantize; the same module if it has none.

    Raises
    ------
    TvmMobilenetError
        The network is quantized in a way that is not supported; the message says where, and what to do.
    """
    names = {op_name(b.value) for block in mod["main"].body.blocks for b in block.bindings}
    if not names & {"quantize", "dequantize"}:
        return mod
    taken = GivenScales(mod)
    made = taken.run()
    if "quantize" in {op_name(b.value) for block in made["main"].body.blocks for b in block.bindings}:
        raise TvmMobilenetError(
            "an output of this network holds integers: a dequantize at its end is missing",
            "leave out its last quantize, or add a dequantize behind it",
        )
    if not taken.activations:  # a network in float32, whose file stores its weights as integers
        return GivenScales(mod, weights=False).run()
    if not taken.weights:
        raise TvmMobilenetError("only the activations of this network are quantized, its weights are float32", _FLOAT)
    return made


def _along(values: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """A scalar, or the values of an axis in a shape that broadcasts."""
    return values if not values.ndim else values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
