"""The depthwise layers, and their rows, that the strips of ``in_order/depthwise.py`` can compute."""

from __future__ import annotations

from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.registers import sum_lanes
from tvm_mobilenet.schedules.window import runs

from tvm_mobilenet.layer import Layer


def possible(layer: Layer, core) -> bool:
    """Whether a layer can be computed in strips. That needs whole vectors of channels, channels-last tensors, no
    dilation, no window that reads only padding, no epilogue but clamps, and registers for at least one row.
    """
    return (
        inorder.pairs(core, layer)
        and layer.channels % sum_lanes(layer, core) == 0
        and layer.input_layout == layer.output_layout == "NHWC"
        and layer.dilation == (1, 1)
        and (layer.activation in inorder_depthwise.CLAMPS and layer.residual == "none")
        and all(taps for axis in (0, 1) for run in runs(layer, axis, 1) for taps in run.taps)
        and not refuse(layer, 1)
    )


def refuse(layer: Layer, rows: int) -> str:
    """The reason why there are no strips of so many rows, or the empty string."""
    inner = (tuple(range(k)) for k in layer.kernel)
    return inorder_depthwise.refuse(strip_of(layer, (next(inner),) * rows, (next(inner),)))


def strip_of(layer: Layer, taps_h, taps_w) -> inorder_depthwise.Strip:
    """The strip of outputs whose rows and columns read these taps."""
    clamps = inorder_depthwise.CLAMPS[layer.activation]
    return inorder_depthwise.Strip(tuple(taps_h), tuple(taps_w), layer.stride, clamps)
