"""The rows of a fused block, streamed from part to part: the buffer of each part, and the time at which a row is
computed.

Subclasses compute the rows, with one method for each kind of part: `fused_block`, and `integer_fused_block` for
integers. This module has the loops that both write around their tiles.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T
from tvm_mobilenet.schedules import nest, values
from tvm_mobilenet.schedules.choices import Decisions
from tvm_mobilenet.schedules.row_tiles import between, columns_of, images, stages, window
from tvm_mobilenet.schedules.window import runs, source

from tvm_mobilenet.layer import Layer


class StreamedRows:
    """The code of a fused block's kernel."""

    def __init__(self, layer: Layer, d: Decisions, f: nest.Kernel):
        self.d, self.f, self.stages = d, f, stages(layer)
        last = self.stages[-1]
        # The destination of each part: line buffers and blocks, and at the end the output, by rows.
        self.out = [
            f.scratch(s, p.output_dtype) for s, p in zip(between(layer, d["column_tiles"]), layer.parts, strict=False)
        ]
        count = images(layer)
        self.out.append(f["output"].reshaped((count, last.out_height, last.out_width, last.part.output_row)))
        first = self.stages[0]
        shape = nest.at(first.part.input_layout, count, first.height, first.width, first.part.input_row)
        self.input = f["data"].reshaped(shape)
        self.column_tiles = columns_of(layer, d["column_tiles"])
        self.columns = self.column_tiles[0]  # columns of each part, in the column tile whose code is being generated
        self.images, self.image = count, 0

    def run(self, task) -> None:
        """Compute all rows of one task."""
        rows, row_tiles = self.stages[-1].out_height, self.d["row_tiles"]
        if self.images > 1:
            pieces = row_tiles * len(self.column_tiles)
            self.image, task = nest.named(task // pieces, "image"), nest.named(task % pieces, "piece")
        row_tile = nest.named(task % row_tiles, "row_tile")
        start, stop = row_tile * rows // row_tiles, (row_tile + 1) * rows // row_tiles
        # The first row of each part that this row tile needs.
        self.first: dict[int, object] = {len(self.stages) - 1: start}
        for i in range(len(self.stages) - 1, 0, -1):
            part = self.stages[i].part
            self.first[i - 1] = T.max(0, source(part, 0, self.first[i], 0)) if part.declared.windowed else self.first[i]

        def column_tile(n: int, _) -> None:
            self.columns = self.column_tiles[n]
            for i in range(len(self.stages) - 1):
                self._clear(i)
            with nest.span(start, stop) as row:
                self.produce(len(self.stages) - 1, row)

        nest.switch(task, [row_tiles] * len(self.column_tiles), column_tile)

    def produce(self, i: int, row) -> None:
        """Compute one row of part i, after those rows of earlier parts that it needs and that are still missing."""
        getattr(self, self.stages[i].part.kind)(i, nest.named(row, f"row{i}"))

    def image_of(self, i: int):
        """The image of part i in its destination: a line buffer holds rows of one image."""
        return self.image if i == len(self.stages) - 1 else 0

    def slot(self, i: int, row):
        """The place of a row of part i in its destination."""
        if i == len(self.stages) - 1:
            return row
        line_buffer = self.out[i].shape[1]
        return 0 if line_buffer == 1 else tirx.truncmod(row + line_buffer, line_buffer)

    def slots_under(self, i: int, row) -> dict[int, object]:
        """The places in a line buffer of the rows under the window of a row of part i, by their distance from the
        first.
        """
        part, top = self.stages[i].part, source(self.stages[i].part, 0, row, 0)
        reach, step = part.kernel[0], part.dilation[0]
        return {y: nest.named(self.slot(i - 1, top + y), f"slot{i}") for y in range(0, (reach - 1) * step + 1, step)}

    def read(self, i: int) -> range:
        """The columns of part i that the next part reads, padding included. The destination of part i begins with the
        first of them.
        """
        last = i == len(self.stages) - 1
        return range(self.stages[i].out_width) if last else window(self.stages[i + 1].part, self.columns[i + 1])

    def padding(self, i: int):
        """The value that represents padding in the line buffer of part i."""
        return values.const(0.0, self.out[i].dtype)

    def _clear(self, i: int) -> None:
        """Write padding to the columns on both sides of the image in a line buffer, where it stays."""
        _, line_buffer, _, channels = self.out[i].shape
        for at, column in enumerate(self.read(i)):
            if not 0 <= column < self.stages[i].out_width:
                with nest.serial(line_buffer) as slot:
                    self._pad(i, slot, at, channels)

    def _pad(self, i: int, slot, column, channels: int) -> None:
        out = self.out[i]
        zero, lanes = self.padding(i), self.f.lanes(out.dtype)
        whole, rest = divmod(channels, lanes)
        if whole:
            with nest.serial(whole) as c:
                out[0, slot, column, nest.Lanes(c * lanes, lanes)] = values.broadcast(zero, lanes)
        for c in range(rest):
            out[0, slot, column, whole * lanes + c] = zero

    def fill(self, i: int, reader_row) -> None:
        """Produce the rows of part i that a row of its reader needs and that no row before it needed.

        Rows outside of the image are padding.
        """
        stage, part = self.stages[i], self.stages[i + 1].part
        window = (part.kernel[0] - 1) * part.dilation[0] + 1
        top = source(part, 0, reader_row, 0)
        begin = T.Select(reader_row == self.first[i + 1], top, top - part.stride[0] + window)
        with nest.span(begin, top + window) as row:

            def outside():
                with nest.serial(len(self.read(i))) as at:
                    self._pad(i, self.slot(i, row), at, stage.part.out_channels)

            nest.either(tirx.all(row >= 0, row < stage.out_height), lambda: self.produce(i, row), outside)

    # ---- the loops around the tiles of each kind of part

    def product_tiles(self, i: int, tile) -> None:
        """Call ``tile(column, height, first, channels)`` for each block of a row's positions, each panel and each
        tile.
        """
        columns, step = self.columns[i], self.d[f"{i}.m_block"]
        tile_m = self.d[f"{i}.tile_m"]

        def block(start, positions: int) -> None:
            tiles, rest = divmod(positions, tile_m)

            def panel(first, channels: int) -> None:
                if tiles:
                    with nest.serial(tiles) as t:
                        tile(start + t * tile_m, tile_m, first, channels)
                if rest:
                    tile(start + tiles * tile_m, rest, first, channels)

            self.panels(i, panel)

        blocks, rest = divmod(len(columns), step)
        if blocks:
            with nest.serial(blocks) as piece:
                block(columns.start + piece * step, step)
        if rest:
            block(columns.start + blocks * step, rest)

    def panels(self, i: int, panel) -> None:
        """Call ``panel(first, channels)`` for each panel of a part's outputs."""
        tile_n = self.d[f"{i}.tile_n"]
        panels, rest = divmod(self.stages[i].part.out_channels, tile_n)
        with nest.serial(panels) as p:
            panel(p * tile_n, tile_n)
        if rest:
            panel(panels * tile_n, rest)

    def filter_tiles(self, i: int, row, positions) -> None:
        """Call ``positions(taps_h, taps_w, w, c, lanes)`` for each tile of a row of a depthwise part, and each
        vector.
        """
        part, columns, tile = self.stages[i].part, self.columns[i], self.d[f"{i}.tile_w"]
        lanes = self.d[f"{i}.lanes"]

        def vectors(taps_h, taps_w, w) -> None:
            whole, rest = divmod(part.channels, lanes)
            if whole:
                with nest.serial(whole) as v:
                    positions(taps_h, taps_w, w, v * lanes, lanes)
            if rest:
                positions(taps_h, taps_w, w, whole * lanes, rest)

        if i:
            every_h, every_w = tuple(range(part.kernel[0])), tuple(range(part.kernel[1]))
            tiles, rest = divmod(len(columns), tile)
            if tiles:
                with nest.serial(tiles) as t:
                    vectors(every_h, [every_w] * tile, columns.start + t * tile)
            if rest:
                vectors(every_h, [every_w] * rest, columns.start + tiles * tile)
            return
        rows = runs(part, 0, 1)

        def line(r: int, _) -> None:
            for run in runs(part, 1, tile, columns):
                with nest.serial(run.count) as t:
                    vectors(rows[r].taps[0], run.taps, run.start + t * run.tile)

        nest.switch(row, [r.count for r in rows], line)
