"""How the tensors of a layer lie in memory: at a row pitch, as a part of a larger tensor, or dense."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Place:
    """How a tensor lies in memory.

    Attributes
    ----------
    shape : tuple of int
    pitch : int
        Elements from one index of the axis before the last to the next; 0: as many as the last axis has.
    part : (int, int)
        Of a tensor that is a part of a larger one: where it begins there, in elements, and how many that one has.
    """

    shape: tuple[int, ...]
    pitch: int = 0
    part: tuple[int, ...] = ()

    @property
    def row(self) -> int:
        """``pitch``, whether it is given or not."""
        return self.pitch or self.shape[-1]

    @property
    def buffer(self) -> tuple[int, ...]:
        """The shape of the memory: all of a larger tensor, else with as many on the last axis as the pitch."""
        return self.part[1:] or ((*self.shape[:-1], self.pitch) if self.pitch else self.shape)

    @property
    def start(self) -> int:
        """The first element in ``buffer``."""
        return self.part[0] if self.part else 0

    @property
    def end(self) -> int:
        """Behind the last element in ``buffer``."""
        return self.start + (prod(self.shape[:-1]) - 1) * self.row + self.shape[-1]

    def view(self, memory):
        """The tensor in an array of shape ``buffer``, which changes with it; an array of ``shape`` as it is."""
        if tuple(memory.shape) == tuple(self.shape):
            return memory
        if not self.part:
            return memory[..., : self.shape[-1]]
        import numpy as np

        step = memory.itemsize
        rows = prod(self.shape[:-1]), self.shape[-1]
        flat = np.lib.stride_tricks.as_strided(memory[self.start :], rows, (self.row * step, step))
        if len(self.shape) == 2 or self.row == self.shape[-1]:
            return flat.reshape(self.shape)
        steps = [self.row * step * prod(self.shape[i + 1 : -1]) for i in range(len(self.shape) - 1)]
        return np.lib.stride_tricks.as_strided(memory[self.start :], self.shape, (*steps, step))


class Placed:
    """What the tensors of a layer take in memory: a base of `layer.Layer`, which has their shapes."""

    @property
    def input_row(self) -> int:
        """Elements from one position of the data to the next, in NHWC."""
        return self.input_pitch or self.channels

    @property
    def output_row(self) -> int:
        """Elements from one position of the output to the next, in NHWC."""
        return self.output_pitch or self.out_channels

    @property
    def input_place(self) -> Place:
        """How the data lies in memory."""
        return Place(self.input_shape, self.input_pitch, self.input_part)

    @property
    def output_place(self) -> Place:
        """How the output lies in memory."""
        return Place(self.output_shape, self.output_pitch, self.output_part)

    @property
    def second_place(self) -> Place | None:
        """How a residual or second operand lies in memory: as the output or the data does, dense where that is a part
        of a larger tensor; the gate of ``scale`` dense."""
        if self.second_shape is None:
            return None
        beside = self.output_place if self.residual != "none" else self.input_place
        return Place(self.second_shape) if beside.part or self.op == "scale" else beside

    @property
    def input_buffer(self) -> tuple[int, ...]:
        """The shape that the data takes in memory."""
        return self.input_place.buffer

    @property
    def output_buffer(self) -> tuple[int, ...]:
        """The shape that the output takes in memory."""
        return self.output_place.buffer

    @property
    def second_buffer(self) -> tuple[int, ...] | None:
        """The shape that a residual or second operand takes in memory."""
        return self.second_place and self.second_place.buffer

    @property
    def operand_buffers(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that its data and its other operands, constants left out, take in memory."""
        if self.body is not None:
            return self.body.operands
        return (self.input_buffer, self.second_buffer) if self.second_buffer else (self.input_buffer,)
