"""Files and arrays as pixels, for ``mobilenet.py`` beside this file: numpy, and Pillow for all but .ppm, .pgm and .npy.

The pixels equal those on the machine that built the bundle, which uses these functions too (`models/preprocess.py`):
upright by EXIF, grey in three equal channels, no transparency, the high byte of 16 bits. The module imports nothing of
the package, because bundles contain it alone. `codecs.c`, `picture.c` and `array.c` follow its rules.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np

# Formats that Pillow reads itself; for an EPS file it would start Ghostscript.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MOST_PIXELS = 1 << 26  # of an image, before it is decoded: 67 megapixels; as an input it takes 12 bytes each
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"  # first bytes of their files
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's Transpose that makes each orientation upright
_BLANK = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEAD = re.compile(rb"P([56])" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})\s")
_PAIR = r"""[ \t\n]*(?:'|")(descr|fortran_order|shape)(?:'|")[ \t\n]*:[ \t\n]*"""
_PAIR += r"""('[^']*'|"[^"]*"|True|False|\((?:[ \t\n]*\d{1,18}[ \t\n]*,)*(?:[ \t\n]*\d{1,18}[ \t\n]*)?\))[ \t\n]*"""
_ENTRY = re.compile(_PAIR)
_WORDS = re.compile(rf"[ \t\n]*\{{(?:{_PAIR},)*(?:{_PAIR})?[ \t\n]*\}}[ \t\n]*")
_MARKER = re.compile(rb"\xff[^\xff]")
_NUMBER = re.compile(r"([<>|=]?)([fiu][1248])")


def pixels(image, bgr: bool = False) -> np.ndarray:
    """An image as (height, width, 3) uint8 RGB, contiguous.

    Parameters
    ----------
    image : path, Pillow image, or (height, width, 3), (height, width, 1) or (height, width) uint8
    bgr : bool
        Blue comes first in an array, as in OpenCV's.

    Raises
    ------
    ValueError, OSError, and other errors of Pillow
        It is no image.
    """
    if isinstance(image, (str, Path)):
        image, bgr = read(Path(image)), False
    elif hasattr(image, "convert"):
        image, bgr = upright(image), False
    found = np.asarray(image)
    if found.dtype == np.uint8 and (found.ndim == 2 or found.shape[2:] == (1,)):  # grey
        found = np.repeat(found.reshape(*found.shape[:2], 1), 3, 2)
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        raise ValueError(
            f"{found.dtype} {found.shape} is not an image: (height, width, 3) or (height, width) uint8 is"
            + _hint(found)
        )
    return np.ascontiguousarray(found[..., ::-1] if bgr else found)


def _hint(found: np.ndarray) -> str:
    if found.dtype == np.uint8 and found.ndim == 3:
        if found.shape[2] in (2, 4):
            return "; drop the last channel, which is alpha"
        if found.shape[0] in (1, 3):
            return "; transpose(1, 2, 0) makes it one"
    return ""


def is_array(path: Path) -> bool:
    """Whether a file is a ``.npy`` by its first bytes, whatever its name. A pipe, which may have none, is refused."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def read(path: Path):
    """A file: an array, or a Pillow image as RGB."""
    if is_array(path):
        return stored_array(path)
    source = source_of(path)
    if isinstance(source, np.ndarray):
        return source
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ValueError("without Pillow only .npy, .ppm and .pgm can be read: pip install pillow") from None
    Image.init()
    try:
        with Image.open(source, formats=[f for f in FORMATS if f in Image.OPEN]) as opened:
            _check_size(opened.width, opened.height)  # before decoding
            return upright(opened, path)
    except UnidentifiedImageError:
        raise ValueError(f"no picture of a kind that is read: {', '.join(FORMATS)}, or .npy") from None


def source_of(path: Path):
    """The object that Pillow opens for a file: the parts of a PNG that make pixels, or the pixels of a .ppm or .pgm."""
    head = _head(path)
    if re.match(rb"P[56]\s", head):
        return pnm(path.read_bytes())
    return io.BytesIO(png_alone(path.read_bytes())) if head == _PNG else path


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_PNG))


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, from 1 to {MOST_PIXELS} in all are read")


def orientation(data: bytes) -> int:
    """The orientation, EXIF's 1 to 8; 0 if the file has none.

    In JPEG the first EXIF and the first XMP segment before the first scan count; in PNG the first eXIf and the first
    uncompressed XMP text before IEND. EXIF takes precedence over XMP. EXIF's orientation is the first entry 0x0112 of
    its first directory, one integer of 1, 2 or 4 bytes. Other sources do not count.
    """
    found = {"exif": -1, "xmp": -1}
    for kind, part in _jpeg_parts(data) if data.startswith(_JPEG) else _png_parts(data):
        if found[kind] < 0:
            found[kind] = _exif_orientation(part) if kind == "exif" else _xmp_orientation(part)
    return max(found["exif"], 0) or max(found["xmp"], 0)


def _jpeg_parts(data: bytes):
    at, xmp = 2, b"http://ns.adobe.com/xap/1.0/\0"
    while found := _MARKER.search(data, at):
        at = found.end() - 2
        if at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker < 2 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        part = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and part[:6] == b"Exif\0\0":
            yield "exif", part
        elif marker == 0xE1 and part[: len(xmp)] == xmp:
            yield "xmp", part[len(xmp) :]
        at += 2 + max(length, 2)


def _png_parts(data: bytes):
    xmp = b"XML:com.adobe.xmp\0\0"  # the zeros mean: not compressed
    for name, begin, end in _png_chunks(data):
        part = data[begin + 8 : end - 4] if name in (b"eXIf", b"iTXt") else b""
        if name == b"eXIf":
            yield "exif", part
        elif name == b"iTXt" and part[: len(xmp)] == xmp:
            yield "xmp", part[len(xmp) :]


def _png_chunks(data: bytes):
    """Name, begin and end of each whole chunk, IEND the last."""
    at, name = 8, b""
    while at + 12 <= len(data) and name != b"IEND":
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        yield name, at, end
        at = end


def _exif_orientation(part: bytes) -> int:
    while part[:6] == b"Exif\0\0":
        part = part[6:]
    if len(part) < 8 or part[:4] not in (b"II*\0", b"MM\0*"):
        return 0

    def number(at: int, size: int) -> int:
        return int.from_bytes(part[at : at + size], "little" if part[:1] == b"I" else "big")

    at = number(4, 4)
    for entry in range(at + 2, at + 2 + 12 * (number(at, 2) if at + 2 <= len(part) else 0), 12):
        if entry + 12 > len(part):
            return 0
        if number(entry, 2) == 0x0112:
            size = {1: 1, 3: 2, 4: 4}.get(number(entry + 2, 2), 0)
            value = number(entry + 8, size) if size and number(entry + 4, 4) == 1 else 0
            return value if value <= 8 else 0
    return 0


def _xmp_orientation(part: bytes) -> int:
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])(?![0-9])', part)
    return int(found[1]) if found else 0


def png_alone(data: bytes) -> bytes:
    """A PNG with only its pixels, palette and transparency, without texts that could expand and without a profile."""
    chunks, end = [data[:8]], 8
    for name, begin, end in _png_chunks(data):
        if not name[0] & 32 or name == b"tRNS":
            chunks.append(data[begin:end])
    return b"".join(chunks) + (b"" if chunks[-1][4:8] == b"IEND" else data[end:])


def pnm(data: bytes) -> np.ndarray:
    """The pixels of a .ppm (P6) or .pgm (P5), (height, width, 1 or 3) uint8; other largest values are scaled, as
    Pillow does, and of 16 bits the high byte counts.
    """
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


def stored_array(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file of numbers, whose header is compared with the file's size before memory is
    allocated.

    Formats 1 to 3 and either order of bytes and of axes are read, no other data of numpy.
    """
    with path.open("rb") as file:
        start = file.read(12)
        if start[:6] != b"\x93NUMPY" or not 1 <= start[6] <= 3:
            raise ValueError("it is not a .npy file of format 1.0, 2.0 or 3.0")
        begin = 10 if start[6] == 1 else 12
        length = int.from_bytes(start[8:begin], "little")
        if length > 10_000:
            raise ValueError("its header is too long")
        file.seek(begin)
        words = _WORDS.fullmatch(head := file.read(length).decode("latin-1"))
        told = {key: value for key, value in _ENTRY.findall(head)} if words and len(head) == length else {}
        if len(told) != 3:
            raise ValueError("its header is damaged, or it holds records")
        kind = _NUMBER.fullmatch(told["descr"][1:-1]) if told["descr"][0] in "'\"" else None
        if not kind or kind[2] == "f1":
            held = "Python objects" if "O" in told["descr"] else told["descr"][:40]
            raise ValueError(f"it holds {held}, not numbers of 1, 2, 4 or 8 bytes")
        if told["fortran_order"] not in ("True", "False") or told["shape"][0] != "(":
            raise ValueError("its header is damaged")
        shape = tuple(int(one) for one in re.findall(r"\d+", told["shape"]))
        if len(shape) > 32:
            raise ValueError("it has more than 32 dimensions")
        dtype = np.dtype(told["descr"][1:-1])
        size, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - begin - length
        if size != there:
            raise ValueError(f"it has {there:,} bytes of numbers, its shape wants {size:,}"[:200])
        array = np.fromfile(file, dtype, math.prod(shape))
    return array.reshape(shape[::-1]).T if told["fortran_order"] == "True" else array.reshape(shape)


def upright(opened, path: Path | None = None):
    """A Pillow image as RGB, with the high byte of 16-bit grey, turned upright by its file's orientation."""
    from PIL import Image, ImageOps

    deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
    # For other kinds, and without a file, Pillow's orientation counts.
    ours = path is not None and _head(path).startswith((_JPEG, _PNG))
    image = opened if ours else ImageOps.exif_transpose(opened)
    if deep:  # as Pillow itself does for 16-bit colours
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; save it with 8")
    image, way = image.convert("RGB"), orientation(path.read_bytes()) if ours else 0
    return image.transpose(TURNS[way]) if way > 1 else image
