"""The search space of a convolution: tiles of columns and output channels, blocks of panels, unrolling."""

from __future__ import annotations

from tvm_mobilenet.schedules.choices import Decisions, divisors
from tvm_mobilenet.schedules.registers import registers, sum_lanes

from tvm_mobilenet.layer import Layer

# These hold for every core: the limits of the candidates.
MOST_PANELS = 64  # in a block
UNROLL = (1, 2, 4)


def blocks(layer: Layer, tiles_n: list[int]) -> list[int]:
    """The numbers of panels that a block may have."""
    n = layer.out_channels // layer.groups
    return sorted({b for t in tiles_n for b in divisors(max(1, n // t)) if b <= MOST_PANELS})


def unrolls(layer: Layer) -> tuple[int, ...]:
    """The numbers of input channels of a tap that one turn of the loop may have."""
    return tuple(u for u in UNROLL if u <= layer.channels // layer.groups)


def refuse(layer: Layer, d: Decisions, core) -> str:
    """The reason why these decisions are invalid, or the empty string."""
    if (need := registers(d["tile_w"], d["tile_n"], sum_lanes(layer, core))) > core.vector_registers:
        return f"a {d['tile_w']}x{d['tile_n']} tile needs {need} registers"
    panels = layer.out_channels // layer.groups // d["tile_n"]
    if panels % d["n_block"]:
        return f"n_block = {d['n_block']} does not divide {panels} panels"
    return ""
