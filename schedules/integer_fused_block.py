"""Fused blocks of int8: the tiles of `integer_products`, `integer_depthwise` and `integer_conv` on streamed rows.

A tile addresses its tensors by the names and indices of a layer that stands alone. In a block its data and its output
are line buffers or blocks of positions, so it gets tensors that translate those indices (`_Placed`). A depthwise part
reads a line buffer that is padded with the zero point of its data, so its tiles are those of a layer without padding.

Each layer rounds once, to int8, whether it is fused or not. So a block gives bit for bit the output of its single
layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm_mobilenet.schedules import integer_conv, integer_depthwise, integer_products, nest, values
from tvm_mobilenet.schedules.choices import Decisions
from tvm_mobilenet.schedules.position import Position
from tvm_mobilenet.schedules.streamed_rows import StreamedRows
from tvm_mobilenet.schedules.window import Run, runs

from tvm_mobilenet.layer import Layer


class IntegerBlock(StreamedRows):
    """The kernel's code, with one method for each kind of part."""

    def padding(self, i: int):
        return values.cast(self.f[f"ends{i + 1}"][0], self.out[i].dtype)

    def pointwise(self, i: int, row) -> None:
        part = self.stages[i].part
        if i:
            self.produce(i - 1, row)
            before, start = self.out[i - 1], self.columns[i].start
            data = _Placed(before, lambda index: (0, 0, index[1] - start, index[3]))
        elif part.input_layout == "NHWC":
            data = _Placed(self.input, lambda index: (self.image, row, index[1], index[3]))
        else:
            data = _Placed(self.input, lambda index: (self.image, index[1], row, index[2]))
        arguments = self._arguments(i, row, data, positions_axis=1)
        product = integer_products.Product(part, arguments.decisions, arguments)
        self.product_tiles(
            i,
            lambda column, height, first, channels: product.tile(Position(0, column, 0, first), height, channels, None),
        )

    def depthwise(self, i: int, row) -> None:
        part, start = self.stages[i].part, self.columns[i].start
        if i:
            self.fill(i - 1, row)
            slots, before = self.slots_under(i, row), self.out[i - 1]
            part = part.replace(padding=(0, 0, 0, 0), height=max(slots) + 1, width=before.shape[2])
            data = _Placed(before, lambda index: (0, slots[index[1]], index[2], index[3]))
            arguments = self._arguments(i, row, data, origin=start)
        else:
            arguments = self._arguments(i, row, self.input)
        filters = integer_depthwise.Filters(part, arguments.decisions, arguments)

        def positions(taps_h, taps_w, w, c, lanes: int) -> None:
            at = Position(0, 0, w - start, c) if i else Position(self.image, row, w, c)
            filters.tile(Run(0, 1, 1, (taps_h,)), Run(0, len(taps_w), 1, tuple(taps_w)), at, lanes)

        self.filter_tiles(i, row, positions)

    def conv(self, i: int, row) -> None:
        part = self.stages[i].part
        arguments = self._arguments(i, row, self.input)
        tiles = integer_conv.Tiles(part, arguments.decisions, arguments)

        def panel(first, channels: int) -> None:
            for run in runs(part, 1, self.d[f"{i}.tile_m"], self.columns[i]):
                with nest.serial(run.count) as t:
                    tiles.tile(run, Position(self.image, row, run.start + t * run.tile, first), 0, channels)

        self.panels(i, panel)

    def _arguments(self, i: int, row, data, positions_axis: int = 2, origin: int = 0) -> _Arguments:
        """A part's arguments for one of its rows. Its tiles count columns along an axis, from column ``origin`` on."""
        left, last, image = self.read(i).start, i == len(self.stages) - 1, self.image_of(i)
        slot = self.slot(i, row)
        slot = slot if isinstance(slot, int) or last else nest.named(slot, f"written{i}")

        def place(index: tuple) -> tuple:
            return image, slot, index[positions_axis] + (origin - left), index[3]

        own = {"data": data, "output": _Placed(self.out[i], place)}
        if last and (second := self.f.get("second")) is not None:
            shape = (*self.out[i].shape[:-1], self.stages[i].part.second_place.row)
            own["second"] = _Placed(second.reshaped(shape), place)
        return _Arguments(self.f, i, own, _of_part(self.stages[i].part, self.d, i))


def _of_part(part: Layer, d: Decisions, i: int) -> Decisions:
    """A block's decisions as the tiles of part i read them. Blocks have no choice of unrolling."""
    shared = {name: value for name, value in d.items() if "." not in name}
    own = {name.removeprefix(f"{i}."): value for name, value in d.items() if name.startswith(f"{i}.")}
    depth = part.channels // part.groups
    return {"k_unroll": min(4, depth), "c_unroll": min(2, depth), **shared, **own}


@dataclass(frozen=True)
class _Placed:
    """A tensor that translates the indices by which it is read and written."""

    tensor: nest.Tensor
    place: Callable[[tuple], tuple]

    def __getitem__(self, index: tuple):
        return self.tensor[self.place(index)]

    def __setitem__(self, index: tuple, value) -> None:
        self.tensor[self.place(index)] = value


@dataclass(frozen=True)
class _Arguments:
    """A kernel as the tiles of part ``number`` see it: its arguments under their names in a layer that stands alone."""

    kernel: nest.Kernel
    number: int
    own: dict[str, object]
    decisions: Decisions

    def __getitem__(self, name: str):
        return self.own[name] if name in self.own else self.kernel[f"{name}{self.number}"]

    def get(self, name: str):
        """An argument, or None."""
        return self.own[name] if name in self.own else self.kernel.get(f"{name}{self.number}")

    def tile(self, rows: int, width: int, dtype: str) -> nest.Tile:
        """A tile of the kernel."""
        return self.kernel.tile(rows, width, dtype)

    def variables(self, count: int, lanes: int, dtype: str) -> nest.Variables:
        """Variables of the kernel."""
        return self.kernel.variables(count, lanes, dtype)
