"""Average and maximum pools; an average divides by the kernel's size."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import padded


def _reference(layer, x, weight, bias, second):
    windows = padded(layer, x, 0.0 if layer.op == "avg" else float("-inf"))
    for axis in (0, 1):
        kernel, dilation = layer.kernel[axis], layer.dilation[axis]
        windows = windows.unfold(2 + axis, (kernel - 1) * dilation + 1, layer.stride[axis])[..., ::dilation]
    return windows.mean((-1, -2)) if layer.op == "avg" else windows.amax((-1, -2))


register(
    Kind(
        name="pool",
        schedule="pool",
        ops=("avg", "max"),
        windowed=True,
        pitched=True,
        reference=_reference,
    )
)
