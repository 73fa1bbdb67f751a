"""Pictures of every kind that a board's program reads, made by Pillow or byte by byte, and arrays as ``.npy``."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

ORIENTATION = 0x0112  # EXIF's tag
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: slopes with noise, so that neighbours and channels differ."""
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([5 * x + 2 * y, 3 * y - x, 7 * (x + y)], 2)
    return ((slopes + np.random.default_rng(seed).integers(0, 40, slopes.shape)) % 256).astype(np.uint8)


def png(pixels: np.ndarray, colour: int, depth: int = 8, interlaced: bool = False, chunks=()) -> bytes:
    """A PNG of pixels (height, width, channels), 8 or 16 bits; ``colour``: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [pixels]
    values = [p.astype(">u2" if depth == 16 else "u1") for p in passes if p.size]
    lines = b"".join(b"\0" + row.tobytes() for p in values for row in p)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    middle = b"".join(chunk(kind, data) for kind, data in chunks)
    body = chunk(b"IHDR", head) + middle + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def npy(array: np.ndarray, version: int = 1, header: str | None = None) -> bytes:
    """As numpy stores an array in a version of its format, whose header may be another."""
    words = {"descr": array.dtype.str, "fortran_order": array.flags.fnc, "shape": array.shape}
    text = (repr(words) if header is None else header).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + array.tobytes("A")


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[ORIENTATION] = "maker", orientation
    return exif


def jpegs(folder: Path) -> list[Path]:
    """JPEG files of every kind: colours, subsampling, scans, orientation by EXIF of either byte order and by XMP."""
    colours = Image.fromarray(picture(37, 61))
    kinds = {f"sub{i}": {"subsampling": i} for i in range(3)}
    kinds |= {"progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 2}, "rgb": {"keep_rgb": True}}
    kinds |= {f"exif{i}": {"exif": _exif(i)} for i in (*range(1, 9), 19, 22, 259)}  # beyond 8: none
    big = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHHI", ORIENTATION, 3, 1, 6, 0, 0)
    kinds |= {"bigendian": {"exif": big}}
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    kinds |= {"xmp": {"xmp": xmp}, "both": {"xmp": xmp, "exif": _exif(3)}}
    found = []
    for name, options in kinds.items():
        found.append(folder / f"{name}.jpg")
        colours.save(found[-1], quality=85, **options)
    for mode, name in (("L", "grey"), ("CMYK", "cmyk")):
        found.append(folder / f"{name}.jpg")
        colours.convert(mode).save(found[-1])
    return found


def pngs(folder: Path) -> list[Path]:
    """PNG files of every colour type, depth, way of interlacing, kind of transparency and orientation."""
    rgb = picture(23, 19)
    draw = np.random.default_rng(1)
    deep = draw.integers(0, 65536, (23, 19, 4))
    colours = Image.fromarray(rgb)
    alpha = colours.copy()
    alpha.putalpha(Image.fromarray(rgb[..., 1]))
    palette = colours.quantize(200)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<a><tiff:Orientation>6</tiff:Orientation></a>")
    kinds = {
        "rgb": (colours, {}),
        "grey": (colours.convert("L"), {}),
        "bits": (colours.convert("1"), {}),
        "alpha": (alpha, {}),
        "greyalpha": (alpha.convert("LA"), {}),
        "palette": (palette, {}),
        "palette4": (colours.quantize(12), {"bits": 4}),
        "clear": (palette, {"transparency": 7}),
        "clearrgb": (colours, {"transparency": tuple(map(int, rgb[0, 0]))}),
        "profile": (colours, {"icc_profile": b"no profile" * 30}),
        "xmp": (colours, {"pnginfo": text}),
        **{f"exif{i}": (colours, {"exif": _exif(i)}) for i in range(2, 9)},
    }
    files = {name: (image.save(folder / f"{name}.png", **options), None)[1] for name, (image, options) in kinds.items()}
    gamma = ((b"gAMA", struct.pack(">I", 100_000)),)
    files |= {
        "gamma": png(rgb, 2, chunks=gamma),
        "interlaced": png(rgb, 2, interlaced=True),
        "interlacedgrey": png(rgb[..., :1], 0, interlaced=True),
        "tiny": png(rgb[:1, :2], 2, interlaced=True),
        "deep": png(deep[..., :3], 2, 16),
        "deepalpha": png(deep, 6, 16, chunks=gamma),
        "deepgrey": png(deep[..., :1], 0, 16),
        "deepgreyalpha": png(deep[..., :2], 4, 16, interlaced=True),
    }
    for name, data in files.items():
        if data:
            (folder / f"{name}.png").write_bytes(data)
    return [folder / f"{name}.png" for name in files]


def pnms(folder: Path) -> dict[Path, np.ndarray]:
    """.ppm and .pgm files of many largest values and ends of lines, and what was written: (height, width, 3) uint8."""
    draw, found = np.random.default_rng(2), {}
    for kind, channels in ((5, 1), (6, 3)):
        for most in (1, 100, 255, 256, 1000, 65535):
            for number, line in enumerate((b"\n", b"\r\n", b" \n# a comment\n")):
                values = draw.integers(0, most + 1, (5, 7, channels))
                values[0, 0] = min(10, most)  # a line feed, if it is taken for one
                raw = values.astype(">u2" if most > 255 else "u1").tobytes()
                path = folder / f"{kind}-{most}-{number}.pnm"
                last = line[:2].strip(b" ") or b"\n"
                head = b"P%d" % kind + line + b"# c" + last + b"7" + line + b"5" + line + b"%d" % most + last
                path.write_bytes(head + raw)
                full = 65535 if channels == 1 and most > 255 else 255
                scaled = np.rint(values / most * full).astype(np.uint16) >> (8 if full > 255 else 0)
                found[path] = np.broadcast_to(scaled.astype(np.uint8), (5, 7, 3))
    return found
