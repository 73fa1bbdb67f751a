"""Pads, folded into the convolution or pool that reads them.

TensorFlow's exporters write stride-2 layers as a Pad of ``[0, 0, 1, 1]`` and a convolution without padding. Two kinds
of pad become the operator's own padding: zeros before a convolution, or before an average pool that counts its padding;
and minus infinity before a max pool. No copy of the activation remains. Negative pads become slices.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.passes.rewrite import Rewriter, op_name, static_shape


class FoldPad(Rewriter):
    """The pass of this module."""

    def rewrite(self, value: relax.Expr) -> relax.Expr:
        name = op_name(value)
        if name == "nn.pad":
            return self._cut(value)
        if name not in ("nn.conv2d", "nn.avg_pool2d", "nn.max_pool2d"):
            return value
        pad = self.made_by(value.args[0], "nn.pad")
        if pad is None or str(pad.attrs.pad_mode) != "constant":
            return value
        wanted = -np.inf if name == "nn.max_pool2d" else 0.0
        widths = [int(w) for w in pad.attrs.pad_width]
        if len(widths) != 8 or any(widths[:4]) or min(widths) < 0 or float(pad.attrs.pad_value) != wanted:
            return value
        attrs = value.attrs
        own = [int(p) for p in attrs.padding]
        if name == "nn.avg_pool2d" and any(own) and not attrs.count_include_pad:
            return value
        padding = [widths[4] + own[0], widths[6] + own[1], widths[5] + own[2], widths[7] + own[3]]
        strides, dilation = [int(s) for s in attrs.strides], [int(d) for d in attrs.dilation]
        if name == "nn.conv2d":
            return relax.op.nn.conv2d(
                pad.args[0], value.args[1], strides, padding, dilation, int(attrs.groups), "NCHW", "OIHW"
            )
        pool = relax.op.nn.avg_pool2d if name == "nn.avg_pool2d" else relax.op.nn.max_pool2d
        window = [int(k) for k in attrs.pool_size]
        return pool(pad.args[0], window, strides, padding, dilation, bool(attrs.ceil_mode), count_include_pad=True)

    def _cut(self, pad: relax.Call) -> relax.Expr:
        """A constant pad whose negative widths, which cut the data, are a slice before it."""
        widths = np.reshape([int(w) for w in pad.attrs.pad_width], (-1, 2))
        shape = static_shape(pad.args[0], self.where)
        ends = [size + min(after, 0) for size, (_, after) in zip(shape, widths.tolist(), strict=True)]
        begins = [-min(before, 0) for before, _ in widths.tolist()]
        if str(pad.attrs.pad_mode) != "constant" or widths.min() >= 0 or min(np.subtract(ends, begins)) < 1:
            return pad
        cut = relax.op.strided_slice(pad.args[0], list(range(len(shape))), begins, ends)
        if widths.max() <= 0:
            return cut
        widths = [int(w) for w in np.maximum(widths, 0).reshape(-1)]
        return relax.op.nn.pad(self.emit(cut), widths, "constant", float(pad.attrs.pad_value))


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with its pads folded."""
    return FoldPad(mod).run()
