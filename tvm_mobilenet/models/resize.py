"""Convert a picture of any size to the pixels that a network takes. Python here and C on the device compute the same.

The results equal Pillow 13's to the bit. Pixel ``i`` of ``n`` lies at ``(i + 1/2) * m / n`` among ``m`` source pixels
(half-pixel centres). ``bilinear`` (a triangle 2 wide) and ``bicubic`` (Keys' cubic, a = -1/2, 4 wide) are antialiased:
if a side shrinks, their filter widens by the same factor. The width is resized first, then the height; the order is
reversed if the height loses more than twice as many pixels as the width. Each pass is a weighted sum in fixed point (22
bits), rounded to 8 bits and clipped. ``nearest`` takes the source pixel that the centre lies in.

Only the pixels that the crop keeps are computed, so that a picture of 1 x 5000 does not become one of 256 x 1280000.
``runtime/image.c`` is the same in C; ``tests/models/test_preprocess_pixels.py`` compares the two with Pillow.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError

RESIZES = ("shortest", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
LARGEST = 1 << 24  # pixels of a side after resizing, beyond any sensible picture
_BITS = 22  # bits of the fraction; the other 10 of 32 are 8 of the pixel and 2 of headroom
_REACH = {"nearest": 0.0, "bilinear": 1.0, "bicubic": 2.0}


def resize_and_crop(
    pixels: np.ndarray, size: tuple[int, int], crop: float, resize: str, interpolation: str
) -> np.ndarray:
    """The centre of a resized picture.

    Parameters
    ----------
    pixels : (H, W, C) uint8
    size : (int, int)
        Height and width of the result.
    crop : float
        Share of the resized picture's height (or width) that the result shows.
    resize : str
        ``shortest``: by one factor, the least that makes both sides at least ``size / crop``. ``squash``: both sides
        become ``size / crop``, whatever the picture's proportions.
    interpolation : str
        ``nearest``, ``bilinear`` or ``bicubic``.

    Returns
    -------
    numpy.ndarray
        (height, width, C) uint8.

    Raises
    ------
    TvmMobilenetError
        The picture is so narrow that a side would have more than ``LARGEST`` pixels.
    """
    height, width = pixels.shape[:2]
    scaled = scaled_size((height, width), size, crop, resize)
    top, left = ((whole - part) // 2 for whole, part in zip(scaled, size, strict=True))
    columns = _taps(width, scaled[1], left, size[1], interpolation)
    rows = _taps(height, scaled[0], top, size[0], interpolation)
    if height > scaled[0] and height - scaled[0] > 2 * (width - scaled[1]):
        low, high = int(columns[0].min()), int(columns[0].max()) + columns[1].shape[1]  # of the source's columns
        columns = columns[0] - low, columns[1]
        down = _weighted(pixels[:, low:high], *rows)  # (height, source columns, C)
        done = _weighted(down.transpose(1, 0, 2), *columns).transpose(1, 0, 2)
    else:
        low, high = int(rows[0].min()), int(rows[0].max()) + rows[1].shape[1]  # of the source's rows
        across = _weighted(pixels[low:high].transpose(1, 0, 2), *columns)  # (width, source rows, C)
        done = _weighted(across.transpose(1, 0, 2), rows[0] - low, rows[1])
    return np.ascontiguousarray(done)


def scaled_size(picture: tuple[int, int], size: tuple[int, int], crop: float, resize: str) -> tuple[int, int]:
    """Height and width of the picture after resizing, before the crop; rounded half to even, at least ``size``."""
    sides = [wanted / crop for wanted in size]
    if resize == "shortest":
        factor = max(wanted / side for wanted, side in zip(sides, picture, strict=True))
        sides = [side * factor for side in picture]
    if max(sides) > LARGEST:
        raise TvmMobilenetError(
            f"a picture of {picture[1]} x {picture[0]} is too narrow: where its shorter side fits the network, its "
            f"longer one has {max(sides):,.0f} pixels",
            "--resize squash gives up its proportions; or cut it",
        )
    return tuple(max(wanted, round(side)) for wanted, side in zip(size, sides, strict=True))


def _taps(source: int, scaled: int, begin: int, count: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """For ``count`` pixels of ``scaled``, from ``begin``: first source pixel, (count,), and weights, (count, taps)."""
    scale = source / scaled
    if interpolation == "nearest":
        steps = np.full(begin + count, scale)
        steps[0] = 0.5 * scale
        centres = np.add.accumulate(steps)[begin:]  # Pillow adds where multiplication would round differently
        return np.minimum(centres.astype(np.int64), source - 1), np.full((count, 1), 1 << _BITS)
    centres = (np.arange(begin, begin + count) + 0.5) * scale
    wide = max(scale, 1.0)
    support = _REACH[interpolation] * wide
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)  # truncation: of -0.5 as of 0.5, to 0
    last = np.minimum((centres + support + 0.5).astype(np.int64), source)
    at = first[:, None] + np.arange(max(1, int((last - first).max())))
    x = np.abs((at - centres[:, None] + 0.5) * (1.0 / wide))
    weights = np.where(at < last[:, None], _filter(x, interpolation), 0.0)
    total = np.add.accumulate(weights, 1)[:, -1:]  # in the order in which C adds
    weights = np.divide(weights, total, out=weights, where=total != 0)
    return first, (weights * (1 << _BITS) + np.where(weights < 0, -0.5, 0.5)).astype(np.int64)


def _filter(x: np.ndarray, interpolation: str) -> np.ndarray:
    if interpolation == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _weighted(lines: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lines of pixels, (source, ...) uint8, as (len(first), ...) uint8, each a weighted sum of neighbours."""
    total = np.full((len(first), *lines.shape[1:]), 1 << (_BITS - 1), np.int32)
    shape = (-1, *[1] * (lines.ndim - 1))
    for tap in range(weights.shape[1]):
        at = np.minimum(first + tap, len(lines) - 1)  # beyond the last one the weight is 0
        total += lines[at] * weights[:, tap].astype(np.int32).reshape(shape)
    return np.clip(total >> _BITS, 0, 255).astype(np.uint8)
