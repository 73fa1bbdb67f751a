"""The search space of a depthwise layer: tiles that fit the registers, lanes, blocks of channels, the inner loop."""

from __future__ import annotations

from tvm_mobilenet.schedules.choices import Choice, Decisions, divisors, line_channels
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.in_order import strips
from tvm_mobilenet.schedules.registers import depthwise_registers, sum_lanes

from tvm_mobilenet.layer import Layer

# These hold for every core: the limits of the candidates. `refuse` excludes tiles that need too many registers.
HEIGHTS = (1, 2, 3, 4)
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 14)


def tiles(layer: Layer, core) -> tuple[list[int], list[int]]:
    """The rows and columns that a tile may have; a strip may have all columns."""
    whole = {layer.out_width} if strips.possible(layer, core) else set()
    return [t for t in HEIGHTS if t <= layer.out_height], sorted({t for t in WIDTHS if t <= layer.out_width} | whole)


def lanes_of(layer: Layer, core) -> tuple[int, ...]:
    """The channels that a tile may take at a time: one, two or four vectors, or a cache line, if registers allow."""
    vector = sum_lanes(layer, core)
    return tuple(
        v
        for v in sorted({vector, 2 * vector, 4 * vector, line_channels(layer, core)})
        if v <= max(layer.channels, vector) and depthwise_registers(1, 1, v, vector) <= core.vector_registers
    )


def blocks(layer: Layer, core) -> list[int]:
    """The numbers of channels that a task may take: at least half a cache line, or a vector."""
    channels, least = layer.channels, max(line_channels(layer, core) // 2, sum_lanes(layer, core))
    return [b for b in divisors(channels) if b % min(least, channels) == 0 or b == channels]


def choices(layer: Layer, core) -> dict[str, tuple]:
    """The candidates of each choice, except for who writes the loop."""
    heights, widths = tiles(layer, core)
    return {
        "tile_h": tuple(heights),
        "tile_w": tuple(widths),
        "lanes": lanes_of(layer, core),
        "c_block": tuple(blocks(layer, core)),
        "inner": ("columns", "channels"),
    }


def loop_choice(layer: Layer, core) -> dict[str, Choice]:
    """The choice of who writes a tile: LLVM, from TIR, or on in-order cores ``schedules/in_order/depthwise.py``."""
    return {"loop": Choice(inorder.LOOPS, "dual_issue")} if strips.possible(layer, core) else {}


def refuse(layer: Layer, d: Decisions, core) -> str:
    """The reason why these decisions are invalid, or the empty string."""
    vector = sum_lanes(layer, core)
    if d.get("loop") == "dual_issue":
        if d["lanes"] != vector or d["c_block"] % vector:
            return "the dual-issue kernel takes one vector of channels at a time"
        return strips.refuse(layer, d["tile_h"])
    need = depthwise_registers(d["tile_h"], d["tile_w"], d["lanes"], vector)
    if need > core.vector_registers:
        return f"a {d['tile_h']}x{d['tile_w']} tile of {d['lanes']} lanes needs {need} registers"
    if d["c_block"] < d["lanes"] and d["lanes"] > vector:
        return "a block of channels is shorter than a vector"
    return ""
