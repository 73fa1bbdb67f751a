"""How a chain is cut into tasks: strips of the last part's rows, bands of its columns, and what each keeps in between.

A window at a strip's or a band's side reaches into the next, so that what lies there is computed twice: the fewer sides
the better. The narrower a band, the less a task keeps; and 14 rows and columns make four even tasks only when both are
cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tvm_mobilenet.schedules.choices import EVEN, imbalance
from tvm_mobilenet.schedules.window import source

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer

BANDS = (1, 2, 4)  # of no core: each is code of its own, and narrower ones compute more columns twice


def strips_of(cpus: int) -> set[int]:
    """How many strips so many CPUs may share: by bands of 1, 2 and 4, and two and three strips a CPU."""
    return {*(-(-cpus // bands) for bands in BANDS), 2 * cpus, 3 * cpus}


def blocks_of(width: int) -> tuple[int, ...]:
    """How many positions of a row a pointwise part takes at a time: the row in 1, 2, 3, 4 or 8 pieces."""
    return tuple(sorted({-(-width // pieces) for pieces in (1, 2, 3, 4, 8)}))


@dataclass(frozen=True)
class Stage:
    """A part of a chain with the extents of its rows; a pointwise part by itself knows only how many positions it
    has."""

    part: Layer
    height: int
    width: int
    out_height: int
    out_width: int


def stages(layer: Layer) -> list[Stage]:
    """The parts with their rows and columns.

    Where a chain begins with a pointwise part, rows are not known: the next part with a window tells them, else the
    pixels count as one row each.
    """
    found: list[Stage] = []
    height, width = next(((p.height, p.width) for p in layer.parts if not p.declared.pixels), (layer.height, 1))
    for part in layer.parts:
        out = (height, width) if part.declared.pixels else (part.out_height, part.out_width)
        found.append(Stage(part, height, width, *out))
        height, width = out
    return found


def columns_of(layer: Layer, bands: int) -> list[list[range]]:
    """The columns that each part computes of each band: what the parts after it read of the image."""
    found = stages(layer)
    width = found[-1].out_width
    bands_of_parts = []
    for band in range(bands):
        columns = [range(width * band // bands, width * (band + 1) // bands)]
        for stage, after in reversed(list(pairwise(found))):
            read = window(after.part, columns[0])
            columns.insert(0, range(max(0, read.start), min(stage.out_width, read.stop)))
        bands_of_parts.append(columns)
    return bands_of_parts


def window(part: Layer, columns: range) -> range:
    """The columns under a part's window at some of its own, padding among them."""
    if part.declared.pixels:
        return columns
    reach = (part.kernel[1] - 1) * part.dilation[1] + 1
    return range(source(part, 1, columns.start, 0), source(part, 1, columns.stop - 1, 0) + reach)


def scratch_bytes(layer: Layer, bands: int) -> int:
    """How many bytes one strip keeps between the parts."""
    shapes = zip(between(layer, bands), layer.parts, strict=False)
    return sum(int(np.prod(shape)) * dtypes.of(part.output_dtype).bytes for shape, part in shapes)


def between(layer: Layer, bands: int) -> list[tuple[int, int, int, int]]:
    """The shapes of what parts hand to the next, as wide as the widest band's: a ring of rows for a depthwise part, a
    block of one row else."""
    columns = columns_of(layer, bands)
    shapes = []
    for i, (part, after) in enumerate(pairwise(layer.parts)):
        ring = (after.kernel[0] - 1) * after.dilation[0] + 1 if after.declared.windowed else 1
        shapes.append((1, ring, max(len(window(after, band[i + 1])) for band in columns), part.out_channels))
    return shapes


def weight_bytes(parts: Sequence[Layer]) -> int:
    """What the weights of pointwise parts take, which are read again for every row."""
    sizes = ((int(np.prod(p.weight_shape)), p.weight_dtype) for p in parts if p.declared.pixels)
    return sum(size * dtypes.of(dtype).bytes for size, dtype in sizes)


def tasks(layer: Layer, core) -> tuple[int, int] | None:
    """Strips and bands for all CPUs: the fewest bands, and even tasks if there are any; none where nothing fits.

    The L2 has to hold what is read again: pointwise weights, and of each task that runs at the same time what lies
    between parts and the rows of the input under the first part's window.
    """
    weights = weight_bytes(layer.parts)
    first = layer.parts[0]
    at_once, last = core.sharers(core.l2), stages(layer)[-1]

    def held(bands: int) -> int:
        columns = max(len(window(first, band[0])) for band in columns_of(layer, bands))
        rows = (first.kernel[0] - 1) * first.dilation[0] + 1
        return weights + at_once * (scratch_bytes(layer, bands) + rows * columns * first.channels * first.bytes)

    cuts = [(-(-core.cpus // b), b) for b in BANDS]
    fits = [
        (max(EVEN, unevenness(layer, strips, bands, core.cpus)), bands, strips)
        for strips, bands in cuts
        if bands <= last.out_width and strips <= last.out_height and held(bands) <= core.l2.bytes
    ]
    if not fits:
        return None
    _, bands, strips = min(fits)
    return strips, bands


def unevenness(layer: Layer, strips: int, bands: int, cpus: int) -> float:
    """The longest share of so many CPUs over the mean."""
    last = stages(layer)[-1]
    rows, columns = (
        [size * (i + 1) // pieces - size * i // pieces for i in range(pieces)]
        for size, pieces in ((last.out_height, strips), (last.out_width, bands))
    )
    return imbalance([r * c for c in columns for r in rows], cpus)
