"""Sizes that a file leaves open: batch, height and width. ``--batch`` and ``--resolution`` fix them.

A flag that does not apply to a file is an error, and so is a size that the file does not allow: no build has another
size than the requested one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.dtypes import DTYPES
from tvm_mobilenet.errors import TvmMobilenetError

FLOATS_ALONE = (
    "only models in float32, and ONNX and PyTorch's in float16 or bfloat16, are imported: convert it with "
    "model.float(), and export it; --dtype float16 builds such a one in float16"
)
PLACES = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}  # axes of channels, height and width in an image's shape


@dataclass(frozen=True)
class Free:
    """A dimension that a file leaves open: ``factor * n + offset`` for any integer n, within a range.

    Parameters
    ----------
    symbol : str
        Its name in the file, empty if none; dimensions of one symbol have the same n.
    low, high : int or None
        The smallest and the largest value that the file allows.
    """

    symbol: str = ""
    factor: int = 1
    offset: int = 0
    low: int | None = None
    high: int | None = None

    def __repr__(self) -> str:
        head = "" if self.factor == 1 else f"{self.factor}*"
        return repr(head + (self.symbol or "?") + (f"+{self.offset}" if self.offset else ""))

    @property
    def allowed(self) -> str:
        """In words: ``32 to 256, a multiple of 8``."""
        ends = f"{self.low or 1} or more" if self.high is None else f"{self.low or 1} to {self.high}"
        plus = f" plus {self.offset}" if self.offset else ""
        return ends + (f", a multiple of {self.factor}{plus}" if self.factor != 1 else "")

    def allows(self, value: int) -> bool:
        """Whether the dimension can have this value."""
        low, high = self.low or 1, self.high or value
        return low <= value <= high and (value - self.offset) % self.factor == 0


@dataclass(frozen=True)
class Input:
    """An input of a file: its dimensions, each an int or `Free`, and the layout of images."""

    name: str
    dims: tuple
    layout: str = "NCHW"

    @property
    def image(self) -> tuple[int, int]:
        """The axes of height and width; empty if the input is not an image."""
        return PLACES[self.layout][1:] if len(self.dims) == 4 else ()


def layout_of(dims: Sequence, default: str = "NCHW") -> str:
    """The layout of an image, as far as its dimensions tell: the channels are 1 or 3, or the only dimension that is not
    open.
    """
    for known in (lambda d: d in (1, 3), lambda d: isinstance(d, int)) if len(dims) == 4 else ():
        found = [layout for layout, (channels, _, _) in PLACES.items() if known(dims[channels])]
        if len(found) == 1:
            return found[0]
    return default


def fix(inputs: Sequence[Input], batch: int | None, size: tuple[int, int] | None, path: Path | str) -> list[list[int]]:
    """The dimensions of each input, all fixed.

    Parameters
    ----------
    batch : int, optional
        Batch size as the user gave it; 1 if the file leaves it open and the user gave none.
    size : (int, int), optional
        Height and width, as the user gave them.

    Raises
    ------
    TvmMobilenetError
        The file leaves a size open that the user did not give, or does not allow the given one, or it does not apply.
    """
    symbols: dict[str, tuple[int, int]] = {}
    found, takes_batch, takes_size = [], False, False
    for one in inputs:
        dims = list(one.dims)
        asked = {0: 1 if batch is None else batch} if dims else {}
        asked |= dict(zip(one.image, size or (), strict=False))
        for at, value in asked.items():
            if isinstance(dims[at], Free):
                flag = f"--resolution {size_text(size)}" if at else f"--batch {value}"
                what = "batch" if not at else "height" if at == one.image[0] else "width"
                dims[at] = _value(dims[at], value, f"{flag}: the {what} of {one.name!r} in {path}", symbols)
        takes_batch |= bool(dims) and dims[0] == batch
        takes_size |= bool(one.image) and size == tuple(dims[at] for at in one.image)
        left = [at for at, d in enumerate(dims) if isinstance(d, Free)]
        if left:
            say = "say which it should be: --resolution 224, or --resolution HEIGHTxWIDTH"
            raise TvmMobilenetError(
                f"input {one.name!r} of {path} has a size that is not fixed: {tuple(dims)}",
                say if set(left) <= set(one.image) else "export the model with that dimension fixed",
            )
        found.append(dims)
    shapes = " and ".join("x".join(map(str, one.dims)) for one in inputs)
    if batch is not None and not takes_batch:
        raise TvmMobilenetError(
            f"--batch {batch}: {path} is for {shapes}, with a batch that is fixed",
            "leave out --batch, or export the model with a dynamic batch",
        )
    if size is not None and not takes_size:
        raise TvmMobilenetError(
            f"--resolution {size_text(size)}: {path} is for {shapes}, with a height or width that is fixed",
            "leave out --resolution, or export the model with dynamic height and width, or at that size",
        )
    return found


def check_input(name: str, shape: list, dtype: str) -> None:
    """Refuse an input that no network can have."""
    if dtype not in DTYPES or dtype == "float16":
        raise TvmMobilenetError(f"input {name!r} is {dtype}", FLOATS_ALONE)
    if any(not isinstance(d, int) or d < 0 for d in shape):
        raise TvmMobilenetError(
            f"input {name!r} has a size that is not fixed: {tuple(shape)}", "export the model for one size of image"
        )


def size_text(size: int | tuple[int, int]) -> str:
    """``224``, or ``192x256`` for a height and a width that differ."""
    height, width = (size, size) if isinstance(size, int) else size
    return str(height) if height == width else f"{height}x{width}"


def _value(dim: Free, value: int, where: str, symbols: dict) -> int:
    """``value`` for an open dimension, if the file allows it there."""
    if not dim.allows(value):
        raise TvmMobilenetError(
            f"{where} can be {dim.allowed}, not {value}", "choose another, or export the model for a wider range"
        )
    n = (value - dim.offset) // dim.factor
    if dim.symbol and symbols.setdefault(dim.symbol, (n, value))[0] != n:
        raise TvmMobilenetError(
            f"{where} cannot be {value}: its name there, {dim.symbol!r}, also stands for a dimension that is "
            f"{symbols[dim.symbol][1]}",
            "give sizes that agree, or export the model with a name for each dimension",
        )
    return value
