"""Transposed convolutions as convolutions: each position within a stride gets a filter of its own.

With a stride of s, output row ``s * m + r`` reads the data's rows m, m - 1, ... only through the taps r, r + s, ... So
a convolution with ``s * s`` times as many channels computes all output rows, without products of the zeros between
pixels. Its channels are then moved to their positions (Shi et al., "Is the deconvolution layer the same as a
convolutional layer?", 2016). A bias, a norm or an activation that follows moves before this, where it becomes part of
the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.passes.rewrite import Rewriter, array, op_name, static_shape

BY_CHANNEL = ("add", "multiply")
BY_VALUE = ("clip", "nn.relu", "nn.silu", "sigmoid")


@dataclass(frozen=True)
class _Way:
    """The computation of one dimension: ``steps`` rows of ``stride`` positions each; the output begins at ``first``."""

    taps: int
    lead: int  # zeros before the filter
    before: int
    after: int
    steps: int
    first: int
    stride: int
    size: int

    @classmethod
    def of(cls, size: int, kernel: int, stride: int, before: int, output: int) -> _Way:
        """For the rows of data, the taps with dilation, the stride, the rows cut before the output, and the output's
        rows.
        """
        lead = -before % stride
        taps = -(-kernel // stride)
        if -(-(kernel + lead) // stride) > taps:  # another tap costs more than moving the output
            lead = 0
        begin = before + lead
        low = min(begin // stride, taps - 1)
        high = max((begin + output - 1) // stride, size - 1)
        return cls(taps, lead, taps - 1 - low, high - size + 1, high - low + 1, begin - low * stride, stride, output)


class TransposedConv(Rewriter):
    """The pass of this module; it runs after `simplify`."""

    def __init__(self, mod: tvm.IRModule):
        super().__init__(mod)
        self._moved: dict[relax.Var, tuple[relax.Expr, int, tuple[_Way, _Way]]] = {}

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        name = op_name(value)
        if name == "nn.conv2d_transpose":
            made = self._convolution(value)
            return value if made is None else made
        before = self._moved.get(value.args[0]) if name in (*BY_CHANNEL, *BY_VALUE) else None
        if before is None:
            return value
        x, groups, ways = before
        if name in BY_VALUE:
            return self._placed(self.emit(relax.Call(value.op, [x, *value.args[1:]], value.attrs)), groups, ways)
        given, channels = array(value.args[1]), static_shape(value.args[0])[1]
        if given is None or given.size not in (1, channels) or given.shape[-2:] not in ((), (1, 1), (1,)):
            return value
        if given.size > 1 and (given.ndim < 3 or given.shape[-3] != channels):
            return value
        places = ways[0].stride * ways[1].stride
        each = np.broadcast_to(given.reshape(-1), (channels,)).reshape(groups, 1, -1)
        each = np.broadcast_to(each, (groups, places, channels // groups)).reshape(1, -1, 1, 1)
        constant = relax.const(np.ascontiguousarray(each), str(given.dtype))
        return self._placed(self.emit(relax.Call(value.op, [x, constant], value.attrs)), groups, ways)

    def _convolution(self, call: relax.Call) -> relax.Expr | None:
        weight, a = array(call.args[1]), call.attrs
        if weight is None or weight.ndim != 4 or (str(a.data_layout), str(a.kernel_layout)) != ("NCHW", "IOHW"):
            return None
        groups, strides = int(a.groups), [int(s) for s in a.strides]
        dilation, padding = [int(d) for d in a.dilation], [int(p) for p in a.padding]
        padding = padding * 4 if len(padding) == 1 else padding * 2 if len(padding) == 2 else padding
        size, output = static_shape(call.args[0])[2:], static_shape(self._bb.normalize(call))[2:]
        reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
        if min(padding) < 0:
            return None
        ways = tuple(_Way.of(size[i], reach[i], strides[i], padding[i], output[i]) for i in (0, 1))
        x = relax.op.nn.conv2d(
            call.args[0],
            relax.const(_filters(weight, groups, dilation, ways), str(weight.dtype)),
            padding=[ways[0].before, ways[1].before, ways[0].after, ways[1].after],
            groups=groups,
        )
        return self._placed(self.emit(x), groups, ways)

    def _placed(self, x: relax.Expr, groups: int, ways: tuple[_Way, _Way]) -> relax.Var:
        """Move the channels of each position within a stride to that position."""
        (rows, columns), moved = ways, x
        if rows.stride * columns.stride > 1:
            n, channels = static_shape(x)[:2]
            each = channels // (groups * rows.stride * columns.stride)
            shape = (n, groups, rows.stride, columns.stride, each, rows.steps, columns.steps)
            cut = self.emit(relax.op.reshape(x, shape))
            turned = self.emit(relax.op.permute_dims(cut, (0, 1, 4, 5, 2, 6, 3)))
            whole = (n, groups * each, rows.steps * rows.stride, columns.steps * columns.stride)
            moved = self.emit(relax.op.reshape(turned, whole))
        short = [(i + 2, w) for i, w in enumerate(ways) if w.first or w.size < w.steps * w.stride]
        if short:
            first, last = [w.first for _, w in short], [w.first + w.size for _, w in short]
            moved = self.emit(relax.op.strided_slice(moved, [axis for axis, _ in short], first, last))
        self._moved[moved] = (x, groups, ways)
        return moved


def _filters(weight: np.ndarray, groups: int, dilation: list[int], ways: tuple[_Way, _Way]) -> np.ndarray:
    """Weights ``(in, out / groups, rows, columns)`` as ``(groups * places * out / groups, in / groups, rows,
    columns)``.
    """
    channels, out = weight.shape[0] // groups, weight.shape[1]
    whole = np.zeros((*weight.shape[:2], *(w.taps * w.stride for w in ways)), weight.dtype)
    rows, columns = (
        slice(w.lead, w.lead + (k - 1) * d + 1, d) for w, k, d in zip(ways, weight.shape[2:], dilation, strict=True)
    )
    whole[:, :, rows, columns] = weight
    cut = whole.reshape(groups, channels, out, ways[0].taps, ways[0].stride, ways[1].taps, ways[1].stride)
    cut = cut[:, :, :, ::-1, :, ::-1]  # group, in, out, tap, place, tap, place
    made = cut.transpose(0, 4, 6, 2, 1, 3, 5)
    return np.ascontiguousarray(made).reshape(-1, channels, ways[0].taps, ways[1].taps)


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """The module without transposed convolutions that have constant filters."""
    bindings = (b for block in mod["main"].body.blocks for b in block.bindings)
    if not any(op_name(b.value) == "nn.conv2d_transpose" for b in bindings):
        return mod
    return TransposedConv(mod).run()
