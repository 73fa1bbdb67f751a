"""Canonicalize exporter-specific patterns.

Constants are folded. Tuples that are only taken apart again disappear, and so do casts, reshapes and slices that change
nothing. Batch norm becomes a multiply and an add by channel. Divide and subtract of constants become multiply and add,
with the constant as second operand. Linear, addmm and similar operators become a ``matmul`` with a constant ``(k, n)``.
Means and maxima over a feature map become pools. TVM's ONNX importer writes Clip and Pad as TIR; they become Relax
operators again.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.kinds.windows import window_of
from tvm_mobilenet.passes import folded_constants, kinks, truths
from tvm_mobilenet.passes.folded_constants import constant
from tvm_mobilenet.passes.generic import piece
from tvm_mobilenet.passes.rewrite import Rewriter, array, op_name, scalar, static_shape

_MOST_FACTORS = 8  # most factors of a power that becomes products
_FEWER = 4  # if divisors are this many times fewer than values, their inverses are computed instead
_BROADCASTS = ("add", "divide", "maximum", "minimum", "multiply", "subtract")


def _require_variances(variance: np.ndarray, epsilon: float, where: str) -> None:
    """Refuse batch-norm variances that have no real square root."""
    odd = np.flatnonzero(variance + epsilon < 0)
    if len(odd):
        raise TvmMobilenetError(
            f"{where or 'a batch norm'}: the variance of channel {odd[0]}"
            + f" and {len(odd) - 1} more channels" * (len(odd) > 1)
            + f" is {variance[odd[0]]:.6g}: a variance is not negative",
            "export it again from a checkpoint whose batch-norm statistics were counted, not averaged or subtracted",
        )


class Simplify(Rewriter):
    """The pass of this module."""

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem):
            return self._item(value)
        if not isinstance(value, relax.Call):
            return value
        name = op_name(value)
        folded = folded_constants.of(name, value, self._bb)
        if folded is not None:
            return folded
        logical = truths.of(name, value, self._bb)
        if logical is not None:
            return logical
        if name in _BROADCASTS:
            value = self._unexpanded(value)
        method = getattr(self, "_" + name.replace(".", "_").lstrip("@"), None)
        return value if method is None else method(value)

    def _unexpanded(self, call: relax.Call) -> relax.Call:
        """Operands without an expand to a shape that another operand has anyway, as PyTorch's normalize writes it."""
        args = list(call.args)
        for i, argument in enumerate(args):
            inner = self.made_by(argument, "broadcast_to")
            if inner is None:
                continue
            shapes = [static_shape(a, self.where) for a in (*args[:i], inner.args[0], *args[i + 1 :])]
            if np.broadcast_shapes(*shapes) == static_shape(self._bb.normalize(call)):
                args[i] = inner.args[0]
        return self._bb.normalize(relax.Call(call.op, args, call.attrs, call.ty_args))

    # ---- constants and tuples

    def _item(self, item: relax.TupleGetItem) -> relax.Expr:
        made = self._made.get(item.tuple_value)
        if isinstance(item.tuple_value, relax.Tuple):
            return item.tuple_value.fields[item.index]
        if op_name(made) == "nn.batch_norm" and item.index == 0 and not made.attrs.training:
            return self._batch_norm(made)
        if op_name(made) == "nn.dropout" and item.index == 0:
            return made.args[0]
        if op_name(made) == "split" and array(made.args[0]) is not None:
            return folded_constants.of("strided_slice", piece(made, item.index), self._bb)
        return item

    def _batch_norm(self, call: relax.Call) -> relax.Expr:
        x, gamma, beta, mean, variance = call.args
        gamma, beta, mean, variance = (array(a).astype(np.float64) for a in (gamma, beta, mean, variance))
        _require_variances(variance, float(call.attrs.epsilon), self.where)
        scale = (gamma if call.attrs.scale else 1.0) / np.sqrt(variance + float(call.attrs.epsilon))
        shift = (beta if call.attrs.center else 0.0) - mean * scale
        shape = [1] * len(static_shape(x))
        shape[int(call.attrs.axis)] = -1
        y = self.emit(relax.op.multiply(x, constant(scale.reshape(shape).astype(str(x.ty.dtype)))))
        return relax.op.add(y, constant(shift.reshape(shape).astype(str(x.ty.dtype))))

    # ---- shapes as data

    def _shape_of(self, call: relax.Call) -> relax.Expr:
        return relax.ShapeExpr(static_shape(call.args[0], self.where))

    def _shape_to_tensor(self, call: relax.Call) -> relax.Expr:
        return constant(np.array([int(d) for d in call.args[0].values], np.int64))

    def _broadcast_to(self, call: relax.Call) -> relax.Expr:
        shape = tuple(int(d) for d in call.args[1].values)
        return call.args[0] if static_shape(call.args[0], self.where) == shape else call

    def _take(self, call: relax.Call) -> relax.Expr:
        """A single index, which drops a dimension, becomes a slice. Other indices never read beyond the data."""
        index = array(call.args[1]) if len(call.args) > 1 else None
        axis = call.attrs.axis
        if index is None or index.ndim or axis is None:
            return relax.op.take(*call.args[:2], None if axis is None else int(axis), mode="clip")
        axis = int(axis) % len(shape := static_shape(call.args[0], self.where))
        at = int(index) % shape[axis]
        cut = self.emit(relax.op.strided_slice(call.args[0], [axis], [at], [at + 1]))
        return self._reshape(relax.op.reshape(cut, shape[:axis] + shape[axis + 1 :]))

    def _where(self, call: relax.Call) -> relax.Expr:
        """A number becomes a tensor of one element, which TVM's loop nests read; so does a tensor of one number that
        only fills the shape of another operand.
        """
        leaky = kinks.chosen_by_sign(self, *call.args)
        if leaky is not None:
            return leaky
        shapes = [static_shape(a, self.where) for a in call.args]
        whole, told = np.broadcast_shapes(*shapes), []
        for i, value in enumerate(call.args):
            known, rest = array(value), shapes[:i] + shapes[i + 1 :]
            one = (
                known is not None
                and known.size
                and np.array_equal(known, np.full_like(known, known.flat[0]), known.dtype.kind == "f")
            )
            one = one and (known.ndim == 0 or np.broadcast_shapes(*rest) == whole)
            told.append(constant(known.reshape(-1)[:1]) if one else value)
        made = relax.op.where(*told)
        return made if whole else self._reshape(relax.op.reshape(self.emit(made), whole))

    # ---- arithmetic with constants

    def _add(self, call: relax.Call) -> relax.Expr:
        a, b = call.args
        if array(a) is not None:
            a, b = b, a
        if array(b) is not None and not np.any(array(b)) and static_shape(a) == static_shape(self._bb.normalize(call)):
            return a
        return relax.op.add(a, b)

    def _multiply(self, call: relax.Call) -> relax.Expr:
        a, b = call.args
        if array(a) is not None:
            a, b = b, a
        if array(b) is not None and np.all(array(b) == 1) and static_shape(a) == static_shape(self._bb.normalize(call)):
            return a
        return relax.op.multiply(a, b)

    def _divide(self, call: relax.Call) -> relax.Expr:
        a, b = call.args
        if _whole(a):
            return call
        if array(b) is None:
            return self._multiplied(call)
        inverse = 1 / array(b).astype(np.float64)
        return self._multiply(relax.op.multiply(a, constant(inverse.astype(str(a.ty.dtype)))))

    def _multiplied(self, call: relax.Call) -> relax.Call:
        """A division by few divisors for many values, such as a norm over all channels, becomes a multiplication by
        their inverses: a division takes as long as ten products. The rounding adds a relative error of 2^-24.
        """
        a, b = call.args
        shapes = [static_shape(x, self.where) for x in (a, b)]
        if str(a.ty.dtype) != "float32" or _FEWER * np.prod(shapes[1]) > np.prod(shapes[0]):
            return call
        return relax.op.multiply(a, self.emit(relax.op.divide(relax.const(1.0, "float32"), b)))

    def _subtract(self, call: relax.Call) -> relax.Expr:
        a, b = call.args
        return call if array(b) is None else self._add(relax.op.add(a, constant(-array(b))))

    def _power(self, call: relax.Call) -> relax.Expr:
        """A power of one integer becomes products, since TVM's power knows only floats and is slow. A power of 1/2
        becomes a square root.
        """
        x, power = call.args[0], array(call.args[1])
        same = static_shape(x, self.where) == static_shape(self._bb.normalize(call))
        if power is None or not same or np.unique(power).size != 1:
            return call
        count = power.flat[0]
        if count == 0.5 and not _whole(x):
            return relax.op.sqrt(x)
        if count not in (range(1, _MOST_FACTORS + 1) if _whole(x) else (2,)):
            return call
        positive = self.made_by(x, "abs")
        x = positive.args[0] if count % 2 == 0 and positive is not None else x
        y = x
        for _ in range(int(count) - 2):
            y = self.emit(relax.op.multiply(y, x))
        return relax.op.multiply(y, x) if count > 1 else y

    # ---- clips

    def _clip(self, call: relax.Call) -> relax.Expr:
        x, low, high = call.args[0], _number(call.args[1]), _number(call.args[2])
        if _whole(x):
            return _whole_clip(x, low, high)
        inner = self.made_by(x, "clip", "nn.relu")
        if inner is not None:  # two nested clips are one clip to the common range
            inner_low, inner_high = (0.0, np.inf) if op_name(inner) == "nn.relu" else map(_number, inner.args[1:])
            if inner_low <= high and low <= inner_high:
                x, low, high = inner.args[0], max(low, inner_low), min(high, inner_high)
        if low == 0 and high == np.inf:
            return relax.op.nn.relu(x)
        return relax.op.clip(x, low, high)

    def _nn_relu(self, call: relax.Call) -> relax.Expr:
        inner = self.made_by(call.args[0], "clip")
        return self._clip(relax.op.clip(call.args[0], 0.0, np.inf)) if inner is not None else call

    def _maximum(self, call: relax.Call) -> relax.Expr:
        x, low = self._and_number(call)
        return call if low is None else self._clip(relax.op.clip(x, low, np.inf))

    def _minimum(self, call: relax.Call) -> relax.Expr:
        x, high = self._and_number(call)
        return call if high is None else self._clip(relax.op.clip(x, -np.inf, high))

    def _and_number(self, call: relax.Call) -> tuple[relax.Expr, float | None]:
        """The operand that is a tensor, and the number that the other operand is; None if it is not a number."""
        a, b = call.args
        a, b = (b, a) if scalar(b) is None else (a, b)
        same = static_shape(a) == static_shape(self._bb.normalize(call)) and str(a.ty.dtype) == "float32"
        return a, scalar(b) if same else None

    # ---- shapes

    def _reshape(self, call: relax.Call) -> relax.Expr:
        inner = self.made_by(call.args[0], "reshape")
        x = call.args[0] if inner is None else inner.args[0]
        shape = static_shape(self._bb.normalize(call), self.where)
        return x if static_shape(x) == shape else relax.op.reshape(x, shape)

    def _as_reshape(self, call: relax.Call) -> relax.Expr:
        return self._reshape(relax.op.reshape(call.args[0], static_shape(self._bb.normalize(call), self.where)))

    _squeeze = _expand_dims = _flatten = _nn_batch_flatten = _as_reshape

    def _permute_dims(self, call: relax.Call) -> relax.Expr:
        rank = len(static_shape(call.args[0]))
        axes = list(range(rank))[::-1] if call.attrs.axes is None else [int(a) % rank for a in call.attrs.axes]
        inner = self.made_by(call.args[0], "permute_dims")
        if inner is None:
            return self._permuted_before(call, axes) if axes != list(range(rank)) else call.args[0]
        inner_axes = list(range(rank))[::-1] if inner.attrs.axes is None else [int(a) % rank for a in inner.attrs.axes]
        axes = [inner_axes[a] for a in axes]
        return inner.args[0] if axes == list(range(rank)) else relax.op.permute_dims(inner.args[0], axes)

    def _permuted_before(self, call: relax.Call, axes: list[int]) -> relax.Expr:
        """A permute after a pad, or after arithmetic with constants on the network's input, moves before it.

        Graphs from TensorFlow normalise and pad NHWC data, and permute it for each convolution. After this step all of
        that is NCHW.
        """
        inner = self.made_by(call.args[0], "nn.pad", "add", "multiply")
        if inner is None:
            return call
        x, rank = inner.args[0], len(axes)

        def permuted() -> relax.Expr:
            moved = self._permute_dims(self._bb.normalize(relax.op.permute_dims(x, axes)))
            return moved if isinstance(moved, relax.Var) else self.emit(moved)

        if op_name(inner) == "nn.pad":
            widths = np.reshape([int(w) for w in inner.attrs.pad_width], (rank, 2))[axes]
            mode, value = str(inner.attrs.pad_mode), float(inner.attrs.pad_value)
            return relax.op.nn.pad(permuted(), [int(w) for w in widths.reshape(-1)], mode, value)
        held = array(inner.args[1])
        if held is None or held.ndim > rank or not self._normalises_input(x):
            return call
        held = held.reshape((1,) * (rank - held.ndim) + held.shape).transpose(axes)
        operator = {"add": relax.op.add, "multiply": relax.op.multiply}[op_name(inner)]
        return operator(permuted(), constant(held))

    def _normalises_input(self, x: relax.Expr) -> bool:
        """Whether a value is the network's input after arithmetic with constants only."""
        while (inner := self.made_by(x, "add", "multiply")) is not None and array(inner.args[1]) is not None:
            x = inner.args[0]
        return x in list(self.main.params)

    def _astype(self, call: relax.Call) -> relax.Expr:
        return call.args[0] if str(call.args[0].ty.dtype) == str(call.attrs.dtype) else call

    def _strided_slice(self, call: relax.Call) -> relax.Expr:
        """A slice that takes everything, as after GhostNet's concatenations, is dropped; one of an input stays."""
        whole = static_shape(call.args[0]) == static_shape(self._bb.normalize(call), self.where)
        steps = {int(step.value) for given in call.args[4:] for step in given.fields}
        return call.args[0] if whole and steps <= {1} and call.args[0] in self._made else call

    def _concat(self, call: relax.Call) -> relax.Expr:
        """Operands without values are left out, such as a slice of no channels; a single one is the result."""
        fields = getattr(call.args[0], "fields", None)
        if fields is None:
            return call
        kept = [f for f in fields if 0 not in static_shape(f, self.where)]
        if len(kept) == 1 and len(fields) > 1:
            return kept[0]
        return call if not kept or len(kept) == len(fields) else relax.op.concat(kept, int(call.attrs.axis))

    def _nn_dropout(self, call: relax.Call) -> relax.Expr:
        return relax.Tuple([call.args[0], call.args[0]])

    # ---- pooling

    def _mean(self, call: relax.Call) -> relax.Expr:
        return self._pooled(call, relax.op.nn.avg_pool2d)

    def _max(self, call: relax.Call) -> relax.Expr:
        return self._pooled(call, relax.op.nn.max_pool2d)

    def _pooled(self, call: relax.Call, pool) -> relax.Expr:
        x = call.args[0]
        shape = static_shape(x, self.where)
        axes = sorted(int(a) % len(shape) for a in (call.attrs.axis or range(len(shape))))
        layout = {(2, 3): "NCHW", (1, 2): "NHWC"}.get(tuple(axes))
        if len(shape) != 4 or layout is None:
            return call
        if layout == "NHWC":
            x = self.emit(relax.op.permute_dims(x, (0, 3, 1, 2)))
        pooled = self.emit(pool(x, tuple(shape[a] for a in axes)))
        if layout == "NHWC":
            pooled = self.emit(relax.op.permute_dims(pooled, (0, 2, 3, 1)))
        return self._reshape(relax.op.reshape(pooled, static_shape(self._bb.normalize(call))))

    def _nn_max_pool2d(self, call: relax.Call) -> relax.Expr:
        return self._of_whole_windows(call, relax.op.nn.max_pool2d)

    def _nn_avg_pool2d(self, call: relax.Call) -> relax.Expr:
        return self._of_whole_windows(call, relax.op.nn.avg_pool2d)

    def _of_whole_windows(self, call: relax.Call, pool) -> relax.Expr:
        """A pool with ``ceil_mode``, written with pads that give its output size. As in PyTorch and ONNX Runtime, there
        is no window that would begin after the data.
        """
        a = call.attrs
        if not a.ceil_mode or str(a.layout) != "NCHW":
            return call
        window = window_of(a)
        size, pads, more = static_shape(call.args[0], self.where)[2:], list(window["padding"]), False
        for i, kernel in enumerate(int(k) for k in a.pool_size):
            stride, reach = window["stride"][i], (kernel - 1) * window["dilation"][i] + 1
            count = -(-(size[i] + pads[i] + pads[2 + i] - reach) // stride) + 1
            count -= (count - 1) * stride >= size[i] + pads[i]
            end = max(0, (count - 1) * stride + reach - size[i] - pads[i])
            more |= end > pads[2 + i]
            pads[2 + i] = end
        counts = bool(a.count_include_pad)
        if more and pool is relax.op.nn.avg_pool2d and counts:  # its own pads count, these do not
            if any(window["padding"]):
                return call
            counts = False
        kernel, strides, dilation = ([int(v) for v in values] for values in (a.pool_size, a.strides, a.dilation))
        return pool(call.args[0], kernel, strides, pads, dilation, False, counts)

    def _nn_adaptive_avg_pool2d(self, call: relax.Call) -> relax.Expr:
        height, width = static_shape(call.args[0], self.where)[2:]
        out_height, out_width = static_shape(self._bb.normalize(call))[2:]
        if height % out_height or width % out_width:
            return call
        window = (height // out_height, width // out_width)
        return relax.op.nn.avg_pool2d(call.args[0], window, strides=window)


def run(mod):
    """The module with canonical operators."""
    return Simplify(mod).run()


def _number(expr: relax.Expr) -> float | int:
    value = getattr(expr, "value", expr)
    return value if isinstance(value, int) else float(value)


def _whole(expr: relax.Expr) -> bool:
    """Whether a tensor has integers, which have another division and no infinities."""
    return np.dtype(str(expr.ty.dtype)).kind in "iu"


def _whole_clip(x: relax.Expr, low: float | int, high: float | int) -> relax.Expr:
    """A clip of integers to bounds within their dtype; the tensor itself if the bounds are the dtype's."""
    held = np.iinfo(str(x.ty.dtype))
    low, high = (min(max(bound, held.min), held.max) for bound in (low, high))
    low, high = math.ceil(low), math.floor(high)
    return x if (low, high) == (held.min, held.max) else relax.op.clip(x, low, high)
