"""Files and arrays as pixels, for ``mobilenet.py`` beside this file: numpy, and Pillow for all but .ppm, .pgm and .npy.

The same pixels as on the machine where the bundle was built: upright as EXIF says, grey in three equal channels, no
transparency, of 16 bits the high byte.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MOST_PIXELS = 1 << 26
_BLANK = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEAD = re.compile(rb"P([56])" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})\s")


def pixels(image, bgr: bool = False) -> np.ndarray:
    """An image as (height, width, 3) uint8 RGB, contiguous.

    Parameters
    ----------
    image : path, Pillow image, or (height, width, 3), (height, width, 1) or (height, width) uint8
    bgr : bool
        Blue comes first in an array, as in OpenCV's.

    Raises
    ------
    ValueError, OSError, and what else Pillow raises
        It is none.
    """
    if isinstance(image, (str, Path)):
        image, bgr = read(Path(image)), False
    elif hasattr(image, "convert"):
        image, bgr = _upright(image), False
    found = np.asarray(image)
    if found.dtype == np.uint8 and (found.ndim == 2 or found.shape[2:] == (1,)):  # grey
        found = np.repeat(found.reshape(*found.shape[:2], 1), 3, 2)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise ValueError(
            f"{found.dtype} {found.shape} is no image: (height, width, 3) or (height, width) uint8 is" + _hint(found)
        )
    return np.ascontiguousarray(found[..., ::-1] if bgr else found)


def _hint(found: np.ndarray) -> str:
    if found.dtype == np.uint8 and found.ndim == 3:
        if found.shape[2] in (2, 4):
            return "; drop the last channel, which is alpha"
        if found.shape[0] in (1, 3):
            return "; transpose(1, 2, 0) makes it one"
    return ""


def read(path: Path):
    """A file: an array, or a Pillow image as RGB."""
    if path.suffix == ".npy":
        with np.errstate(over="ignore"):
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # no memory for more than the file has
    with path.open("rb") as file:
        if re.match(rb"P[56]\s", file.read(3)):  # faster than Pillow, and right where lines end in CR LF
            return _pnm((file.seek(0), file.read())[1])
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("without Pillow only .npy, .ppm and .pgm can be read: pip install pillow") from None
    Image.init()
    with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as opened:
        _check_size(opened.width, opened.height)  # nothing is decoded yet
        return _upright(opened)


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, from 1 to {MOST_PIXELS} in all are read")


def _pnm(data: bytes) -> np.ndarray:
    """The pixels of a .ppm (P6) or .pgm (P5) of 8 or 16 bits; other largest values are scaled, as Pillow does."""
    head = _HEAD.match(data)
    if not head:
        raise ValueError("its header is damaged")
    width, height, most = map(int, head.groups()[1:])
    _check_size(width, height)
    if not 0 < most < 65536:
        raise ValueError(f"its largest value is {most}, at most 65535 may be")
    grey, dtype = head[1] == b"5", np.dtype(np.uint8 if most < 256 else ">u2")
    count, begin = width * height * (1 if grey else 3), head.end()
    if data[begin - 1 : begin + 1] == b"\r\n" and len(data) - begin > count * dtype.itemsize:
        begin += 1
    values = np.frombuffer(data, dtype, count, begin)
    full = 65535 if grey and most > 255 else 255
    if most != full:
        values = np.minimum(np.rint(np.arange(65536) / most * full), full).astype(np.uint16)[values]
    return (values >> 8 if full > 255 else values).astype(np.uint8).reshape(height, width, 1 if grey else 3)


def _upright(opened):
    """A Pillow image as RGB, turned as EXIF says; of grey with 16 bits the high byte, as Pillow takes it of colours."""
    from PIL import Image, ImageOps

    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
    image = ImageOps.exif_transpose(opened)
    if deep:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; save it with 8")
    return image.convert("RGB")
