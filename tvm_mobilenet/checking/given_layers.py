"""Layers of a network that came quantized, each compared with the file's own runtime on the same integers.

Over a whole network a difference of one unit becomes many: a sum that lies between two units is rounded up by one
implementation and down by the other, and all later values differ. So each layer reads the runtime's values, and its
output is compared with the runtime's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.checking import reference
from tvm_mobilenet.errors import VerificationError

UNSIGNED = 128  # a uint8 minus the corresponding int8
SHARE = 0.02  # if a larger share of a channel's outputs differs by a unit, the layer was imported wrongly
FEW = 3
_NEAR = 1e-3  # units from the middle of two; of drawn scales a runtime's sum in float32 is off by up to 3e-5
_MANY = 0.005  # of all sums of two bytes, those as near: 0.2 % in the median of 2,000 drawn ratios, more than it in two


@dataclass(frozen=True)
class Difference:
    """The difference of one layer.

    Attributes
    ----------
    name, layer, source : str
    units : int
        The largest difference.
    count, size : int
        The number of outputs that differ, and of all outputs.
    in_channel, of_channel : int
        The same for the channel with the most differences: a wrong weight changes only one.
    most : int
        The most units of its output that one unit of its sums can become: several, if a table or a residual follows.
    averages : bool
        Whether many of its values lie between two units and may be rounded either way, as in a mean, or in a sum of two
        scales with a ratio of small integers.
    """

    name: str
    layer: str
    source: str
    units: int
    count: int
    size: int
    in_channel: int = 0
    of_channel: int = 0
    most: int = 1
    averages: bool = False


def differences(network, values: list[dict[str, np.ndarray]]) -> list[Difference]:
    """The differences of each int8 layer from the file's runtime, on the runtime's values.

    Parameters
    ----------
    network : Network
        A network that came quantized.
    values : list of dict of str to ndarray
        As ``frontend.onnx_values.whole_numbers`` gives them, one for each input.
    """
    places = {c.output: c.marks.source for c in network.original.calls if c.marks is not None and c.marks.source}
    found = []
    for call in network.layers:
        layer = call.layer
        moves = layer.copies and layer.activation == "none"
        if not reference.integral(layer) or moves or layer.output_dtype != "int8" or call.output not in places:
            continue
        inputs = [_place(v, places, network) for v in call.inputs]
        if any(place not in values[0] for place in (*inputs, places[call.output])):
            continue
        units, counts, size = 0, 0, 0
        for numbers in values:
            shapes = [layer.input_shape, *([layer.second_shape] if len(inputs) > 1 else [])]
            operands = [_as_ours(numbers[p], s, layer.input_layout) for p, s in zip(inputs, shapes, strict=True)]
            second = operands[1] if len(operands) > 1 else None
            made = reference.integers.run(layer, operands[0], call.constants, second)
            due = _as_ours(numbers[places[call.output]], made.shape, layer.output_layout)
            off = np.abs(made.astype(np.int64) - due)
            channels = np.moveaxis(off, 1, -1) if layer.output_layout == "NCHW" else off
            units, size = max(units, int(off.max())), size + off.size
            counts = counts + (channels.reshape(-1, layer.out_channels) > 0).sum(0)
        each = counts.max(), size // layer.out_channels
        told = units, int(counts.sum()), size, int(each[0]), each[1], _most(call), _between(call)
        found.append(Difference(call.name, layer.name, call.source, *told))
    return found


def require(found: list[Difference]) -> None:
    """Refuse a layer that differs from the file's runtime.

    Raises
    ------
    VerificationError
        A layer differs; the message names the first.
    """
    for one in found:
        if one.units > one.most or (one.in_channel > max(FEW, SHARE * one.of_channel) and not one.averages):
            raise VerificationError(
                f"{one.name}, {one.layer} (from {one.source}), differs from the file's runtime in {one.count} of "
                f"{one.size} outputs, by up to {one.units} units, given the same numbers",
                "the model was imported wrongly, or it changed since the build: build again",
            )


def _most(call) -> int:
    """The most units of its output that one unit of a layer's sums can become."""
    if "table" in call.layer.constants:
        return max(1, int(np.abs(np.diff(call.constants["table"].astype(int).reshape(-1))).max()))
    return max(1, math.ceil(call.constants["added"][0])) if call.layer.residual != "none" else 1


def _between(call) -> bool:
    """Whether many of a layer's values lie between two units."""
    if call.layer.kind == "pool":
        return True
    if "added" not in call.constants:
        return False
    every = np.arange(-UNSIGNED, UNSIGNED)
    left, right = (float(factor) * every for factor in call.constants["added"])
    rest = (left[:, None] + right) % 1
    return bool((np.abs(rest - 0.5) < _NEAR).mean() > _MANY)


def _place(value: str, places: dict[str, str], network) -> str:
    """The runtime's name for a value that a layer reads: of the value itself, or of the value that a conversion to int8
    reads.
    """
    if value in places:
        return places[value]
    made = {c.output: c for c in network.layers}
    inner = made[value].inputs[0] if value in made and made[value].layer.copies else ""
    ours = [c for c in network.original.calls if c.marks is not None and c.marks.source and c.layer.copies]
    return next((c.marks.source for c in ours if c.inputs[0] == inner), "")


def _as_ours(array: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """The runtime's numbers as int8, in the shape and layout of a layer's operand."""
    whole = array.astype(np.int64) - (UNSIGNED if array.dtype == np.uint8 else 0)
    if whole.ndim == 4 and layout == "NHWC":
        whole = whole.transpose(0, 2, 3, 1)
    return whole.reshape(shape).astype(np.int8)
