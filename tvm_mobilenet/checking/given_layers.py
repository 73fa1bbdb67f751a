"""Layers of a network that came quantized, each against what the file's own runtime makes of the same whole numbers.

Over a whole network one unit becomes many: a sum that lies between two of them is rounded up here and down there, and
what follows differs. So each layer is given the runtime's numbers, and its output compared with the runtime's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.checking import reference
from tvm_mobilenet.errors import VerificationError

UNSIGNED = 128  # what a uint8 is more than our int8
SHARE = 0.02  # of a layer's outputs, or one: more than that differ by a unit where a layer was imported wrongly
FEW = 3


@dataclass(frozen=True)
class Difference:
    """One layer's.

    Attributes
    ----------
    name, layer, source : str
    units : int
        The largest.
    count, size : int
        How many outputs differ, of how many.
    most : int
        Units that one unit of its sums becomes at most: where a table or a residual follows, it may be several.
    """

    name: str
    layer: str
    source: str
    units: int
    count: int
    size: int
    most: int = 1

    @property
    def averages(self) -> bool:
        """Whether it is a mean: many lie between two units, and may be rounded either way."""
        return self.layer.startswith("pool ")


def differences(network, values: list[dict[str, np.ndarray]]) -> list[Difference]:
    """What each layer in int8 makes of the runtime's numbers, against the runtime's.

    Parameters
    ----------
    network : Network
        One that came quantized.
    values : list of dict of str to ndarray
        As ``frontend.onnx_values.whole_numbers`` gives them, one for each input.
    """
    places = {c.output: c.marks.source for c in network.original.calls if c.marks is not None and c.marks.source}
    found = []
    for call in network.layers:
        layer = call.layer
        if not reference.integral(layer) or layer.copies or layer.output_dtype != "int8" or call.output not in places:
            continue
        inputs = [_place(v, places, network) for v in call.inputs]
        if any(place not in values[0] for place in (*inputs, places[call.output])):
            continue
        worst, count, size = 0, 0, 0
        for numbers in values:
            shapes = [layer.input_shape, *([layer.second_shape] if len(inputs) > 1 else [])]
            operands = [_as_ours(numbers[p], s, layer.input_layout) for p, s in zip(inputs, shapes, strict=True)]
            second = operands[1] if len(operands) > 1 else None
            made = reference.integers.run(layer, operands[0], call.constants, second)
            off = np.abs(
                made.astype(np.int64) - _as_ours(numbers[places[call.output]], made.shape, layer.output_layout)
            )
            worst, count, size = max(worst, int(off.max())), count + int((off > 0).sum()), size + off.size
        found.append(Difference(call.name, layer.name, call.source, worst, count, size, _most(call)))
    return found


def require(found: list[Difference]) -> None:
    """Refuse a layer that computes something else than the file's runtime.

    Raises
    ------
    VerificationError
        It names the first one.
    """
    for one in found:
        if one.units > one.most or (one.count > max(FEW, SHARE * one.size) and not one.averages):
            raise VerificationError(
                f"{one.name}, {one.layer} (from {one.source}), differs from the file's runtime in {one.count} of "
                f"{one.size} outputs, by up to {one.units} units, given the same numbers",
                "the model was imported wrongly, or it changed since the build: build again",
            )


def _most(call) -> int:
    """How many units of its output one unit of a layer's sums becomes at most."""
    if "table" in call.layer.constants:
        return max(1, int(np.abs(np.diff(call.constants["table"].astype(int).reshape(-1))).max()))
    return max(1, math.ceil(call.constants["added"][0])) if call.layer.residual != "none" else 1


def _place(value: str, places: dict[str, str], network) -> str:
    """Where the runtime has a value that a layer reads: a value, or a conversion of one to int8."""
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
