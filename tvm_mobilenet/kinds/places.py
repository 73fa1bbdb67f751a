"""The place of a layer's tensors in memory: dense, at a row pitch, or as a part of a larger tensor."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Place:
    """The place of a tensor in memory.

    Attributes
    ----------
    shape : tuple of int
    pitch : int
        Elements from one index of the last axis but one to the next; 0 if dense.
    part : (int, int)
        For a part of a larger tensor: its first element there, and the number of elements of the larger tensor.
    """

    shape: tuple[int, ...]
    pitch: int = 0
    part: tuple[int, ...] = ()

    @property
    def row(self) -> int:
        """The pitch, also of a dense tensor."""
        return self.pitch or self.shape[-1]

    @property
    def buffer(self) -> tuple[int, ...]:
        """The shape of the memory: that of the whole larger tensor, or its own with the pitch as last axis."""
        return self.part[1:] or ((*self.shape[:-1], self.pitch) if self.pitch else self.shape)

    @property
    def start(self) -> int:
        """The first element in ``buffer``."""
        return self.part[0] if self.part else 0

    @property
    def end(self) -> int:
        """The end of the last element in ``buffer``."""
        return self.start + (prod(self.shape[:-1]) - 1) * self.row + self.shape[-1]

    def view(self, memory):
        """The tensor as a view of an array of shape ``buffer``; an array of ``shape`` is returned unchanged."""
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
    """The memory of a layer's tensors: a base class of `layer.Layer`, which has their shapes."""

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
        """The place of the data in memory."""
        return Place(self.input_shape, self.input_pitch, self.input_part)

    @property
    def output_place(self) -> Place:
        """The place of the output in memory."""
        return Place(self.output_shape, self.output_pitch, self.output_part)

    @property
    def second_place(self) -> Place | None:
        """The place of a residual or second operand in memory. It has the pitch of the output or the data, but is dense
        if that is a part of a larger tensor. The gate of ``scale`` is dense.
        """
        if self.second_shape is None:
            return None
        beside = self.output_place if self.residual != "none" else self.input_place
        return Place(self.second_shape) if beside.part or self.op == "scale" else beside

    @property
    def input_buffer(self) -> tuple[int, ...]:
        """The shape of the data's memory."""
        return self.input_place.buffer

    @property
    def output_buffer(self) -> tuple[int, ...]:
        """The shape of the output's memory."""
        return self.output_place.buffer

    @property
    def second_buffer(self) -> tuple[int, ...] | None:
        """The shape of the memory of a residual or second operand."""
        return self.second_place and self.second_place.buffer

    @property
    def operand_buffers(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the memory of its data and other operands, without constants."""
        if self.body is not None:
            return self.body.operands
        return (self.input_buffer, self.second_buffer) if self.second_buffer else (self.input_buffer,)
