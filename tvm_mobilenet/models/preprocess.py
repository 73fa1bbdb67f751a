"""Convert an image file to a network's input, and make the inputs for verification.

``resize`` is the definition of a resized pixel; this module reads files, converts colours and normalises. Pillow is
imported only when an image is read; ``.npy`` needs only numpy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.models.resize import INTERPOLATIONS, RESIZES, resize_and_crop
from tvm_mobilenet.runtime import mobilenet_pictures as pictures
from tvm_mobilenet.runtime.mobilenet_pictures import is_array, stored_array

LAYOUTS = ("NCHW", "NHWC")
CHANNEL_ORDERS = ("RGB", "BGR")
# A user's options for a network's images; the flag of each is its name with dashes.
FIELDS = ("mean", "std", "resize", "crop", "interpolation", "layout", "channel_order")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif", ".npy")  # in folders
_TILE = (322, 323)  # tags of a TIFF: width and height of a tile, which is decoded whole
MOST_PIXELS = 65_535  # longest side after resizing
_LUMA = (19595, 38470, 7471)  # of R, G and B, over 65536: ITU-R 601, as Pillow's convert("L")


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of a network's images.

    Parameters
    ----------
    size : (int, int)
        Height and width of the input in pixels.
    mean, std : one number, or one a channel
        For pixels scaled to 0..1, in the order of the network's channels: the input is ``(pixel / 255 - mean) / std``.
    crop : float
        Share of the resized image that the network sees: it is resized to ``size / crop``, then the centre is cut out.
    interpolation : str
        ``nearest``, ``bilinear`` or ``bicubic``; see ``resize``.
    layout : str
        ``NCHW`` or ``NHWC``.
    resize : str
        ``shortest``: the image keeps its proportions, its shorter side fits; ``squash``: both sides are made to fit.
    channels : int
        3 for colours, 1 for grey (ITU-R 601, converted before resizing).
    channel_order : str
        ``RGB`` or ``BGR``.

    Raises
    ------
    TvmMobilenetError
        A value is impossible.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    crop: float = 0.875
    interpolation: str = "bilinear"
    layout: str = "NCHW"
    resize: str = "shortest"
    channels: int = 3
    channel_order: str = "RGB"

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise TvmMobilenetError(f"channels {self.channels!r}: an image has 3, or 1 of grey")
        for field in ("mean", "std"):
            value = tuple(float(v) for v in np.atleast_1d(getattr(self, field)))
            value = value * self.channels if len(value) == 1 else value
            if (
                len(value) != self.channels
                or not all(map(math.isfinite, value))
                or (field == "std" and min(value) <= 0)
            ):
                wants = "one number" if self.channels == 1 else "one or three numbers"
                wants += ", finite" + " and above 0" * (field == "std")
                raise TvmMobilenetError(
                    f"{field} {','.join(f'{v:g}' for v in value)} must be {wants}: the network has {self.channels} "
                    f"channel{'s' * (self.channels > 1)}",
                    "for example " + ",".join(["0.5"] * self.channels),
                )
            object.__setattr__(self, field, value)
        object.__setattr__(self, "size", tuple(int(v) for v in self.size))
        if len(self.size) != 2 or min(self.size) < 1:
            raise TvmMobilenetError(f"size {self.size!r} must be a height and a width in pixels")
        if not 0 < self.crop <= 1:
            raise TvmMobilenetError(f"crop {self.crop!r} must be above 0 and at most 1", "the usual is 0.875")
        if max(self.size) / self.crop > MOST_PIXELS:
            raise TvmMobilenetError(
                f"crop {self.crop!r} of {max(self.size)} pixels: images would be resized to more than {MOST_PIXELS:,}",
                "the usual is 0.875",
            )
        for field, allowed in (
            ("interpolation", INTERPOLATIONS),
            ("layout", LAYOUTS),
            ("resize", RESIZES),
            ("channel_order", CHANNEL_ORDERS),
        ):
            if getattr(self, field) not in allowed:
                raise TvmMobilenetError(f"{field} {getattr(self, field)!r}", f"one of {', '.join(allowed)}")

    def replace(self, **changes) -> Preprocess:
        return dataclasses.replace(self, **changes)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        h, w = self.size
        return (1, self.channels, h, w) if self.layout == "NCHW" else (1, h, w, self.channels)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number to which bytes are converted."""
        ends = [(byte - mean) / std for byte in (0.0, 1.0) for mean, std in zip(self.mean, self.std, strict=True)]
        return min(ends), max(ends)

    @property
    def colours(self) -> str:
        """``RGB``, ``BGR`` or ``grey``."""
        return self.channel_order if self.channels == 3 else "grey"

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The pixels of an image that the network sees.

        Parameters
        ----------
        image : (H, W, 3) uint8
            RGB.

        Returns
        -------
        numpy.ndarray
            (height, width, channels) uint8, in the network's order of channels.
        """
        image = grey(image) if self.channels == 1 else image
        image = resize_and_crop(image, self.size, self.crop, self.resize, self.interpolation)
        return image[..., ::-1] if self.channel_order == "BGR" else image

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """From (..., H, W, C) pixels in 0..1 to (N, C, H, W) or (N, H, W, C) float32; three axes are one image."""
        x = (np.asarray(pixels, np.float64) - self.mean) / self.std
        x = x if x.ndim == 4 else x[None]
        return np.ascontiguousarray(x if self.layout == "NHWC" else x.transpose(0, 3, 1, 2), np.float32)

    def told(self, fields: Collection[str] = FIELDS) -> str:
        """A text of some of the fields: ``mean 0.5, std 0.5, resize shortest``."""
        values = {"mean": _numbers(self.mean), "std": _numbers(self.std), "crop": f"{self.crop:g}"}
        names = [f for f in FIELDS if f in fields and (f != "channel_order" or self.channels == 3)]
        return ", ".join(f"{f.replace('_', ' ')} {values.get(f, getattr(self, f))}" for f in names)


def grey(image: np.ndarray) -> np.ndarray:
    """From (H, W, 3) RGB to (H, W, 1), both uint8, as Pillow's ``convert("L")``."""
    r, g, b = (image[..., i].astype(np.uint32) * weight for i, weight in enumerate(_LUMA))
    return ((r + g + b + 0x8000) >> 16).astype(np.uint8)[..., None]


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in (values[:1] if len(set(values)) == 1 else values))


def sample_images() -> list[Path]:
    """The shipped photographs, a flower first; ``data/ATTRIBUTION.txt`` names the photographers."""
    folder = Path(str(resources.files(__package__))) / "data"
    return [folder / "flower.jpg", folder / "china.jpg"]


def load_image(path: str | Path, preprocess: Preprocess) -> np.ndarray:
    """An image file as a network's input.

    Parameters
    ----------
    path : path
        One of ``pictures.FORMATS``, or ``.npy``: a (H, W, 3), (H, W, 1) or (H, W) uint8 image, or an input that is
        preprocessed already.

    Returns
    -------
    numpy.ndarray
        ``preprocess.input_shape`` float32; a preprocessed ``.npy`` may have several images.

    Raises
    ------
    TvmMobilenetError
        If it cannot be read or does not fit.
    """
    path = Path(path)
    if why := refusal(path):
        raise TvmMobilenetError(f"input {path}: {why}", "give a .jpg, .png or .npy file")
    if is_array(path):
        return _load_array(path, preprocess)
    return preprocess.normalise(preprocess.pixels(read_image(path)) / 255.0)


def evaluation_batch(model, n: int = 8) -> np.ndarray:
    """Inputs to verify a build on: both photographs whole, then crops and mirrored crops of them.

    Parameters
    ----------
    model : ModelSpec or Preprocess
    n : int
        Number of inputs; the first is always the whole flower.

    Returns
    -------
    numpy.ndarray
        (n, C, H, W) float32 (or (n, H, W, C)); the same for the same arguments.
    """
    preprocess = getattr(model, "preprocess", model)
    if n < 1:
        raise TvmMobilenetError(f"an evaluation batch of {n} inputs", "ask for at least one")
    photos = [read_image(path) for path in sample_images()]
    draw = np.random.Generator(np.random.PCG64(20170417))
    batch = []
    for i in range(n):
        photo = photos[i % len(photos)]
        if i >= len(photos):
            height, width = photo.shape[:2]
            side = int(min(height, width) * (0.4 + 0.6 * draw.random()))
            left, top = (int(draw.random() * (full - side + 1)) for full in (width, height))
            photo = photo[top : top + side, left : left + side]
        pixels = (preprocess if i < len(photos) else preprocess.replace(crop=1.0)).pixels(photo)
        batch.append(pixels[:, ::-1] if i // len(photos) % 2 else pixels)
    return preprocess.normalise(np.stack(batch) / 255.0)


def _pillow():
    try:
        from PIL import Image
    except ImportError:
        raise packages.missing("reading images", ["PIL"]) from None
    return Image


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB: upright as EXIF says, grey in three equal channels, no transparency.

    Raises
    ------
    TvmMobilenetError
        It cannot be read, or its pixels have more than 16 bits.
    """
    with _opened(path) as image:
        if isinstance(image, np.ndarray):
            return np.repeat(image, 3 // image.shape[2], 2)
        return np.asarray(pictures.upright(image, path), np.uint8)


def check_image(path: Path) -> None:
    """Read only an image file's header, to refuse files that are no image before thousands are run.

    Raises
    ------
    TvmMobilenetError
        It cannot be read.
    """
    if not is_array(path):
        with _opened(path):
            pass


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    """An image file whose header has been read. Errors, also those of decoding, become readable messages.

    Raises
    ------
    TvmMobilenetError
        It cannot be read, or has too many pixels.
    """
    image_module = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
            image_module.init()
            source = pictures.source_of(path)
            formats = [f for f in pictures.FORMATS if f in image_module.OPEN]
            read = isinstance(source, np.ndarray)
            opened = contextlib.nullcontext(source) if read else image_module.open(source, formats=formats)
        with opened as image:
            if not read:
                _check_header(image)
            yield image
    except MemoryError:
        raise TvmMobilenetError(f"{path} takes more memory than there is", "make it smaller") from None
    except Exception as e:  # Pillow's decoders raise a dozen kinds for damaged files
        kinds = f"no image of a kind that is read: {', '.join(pictures.FORMATS)}"
        why = kinds if "cannot identify" in str(e) else reason(e)
        raise TvmMobilenetError(f"{path} cannot be read as an image: {why}", "give a .jpg, .png or .npy file") from None


def _check_header(image) -> None:
    """Refuse an image that is too large by its header, before decoding."""
    tile = [image.tag_v2.get(tag) or 0 for tag in _TILE] if image.format == "TIFF" else [0, 0]
    for what, (width, height) in (("", image.size), (" in a tile", tile)):
        if width * height > pictures.MOST_PIXELS or (what and width * height > 4 * max(math.prod(image.size), 1 << 20)):
            raise ValueError(f"it has {width:,} x {height:,} pixels{what}; the limit is {pictures.MOST_PIXELS:,}")


def _load_array(path: Path, preprocess: Preprocess) -> np.ndarray:
    try:
        array = stored_array(path)
    except Exception as e:  # numpy evaluates the header's literal: a dozen kinds
        raise TvmMobilenetError(
            f"{path} cannot be read as an array: {reason(e)}", "write an array of numbers with numpy.save"
        ) from None
    image = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (1, 3) and image.size:
        image = np.broadcast_to(image, (*image.shape[:2], 3))
        return preprocess.normalise(preprocess.pixels(image) / 255.0)
    given, dtype = array.shape, array.dtype
    if dtype == np.uint8:  # pixels: as numbers of an input they would not be normalised
        raise TvmMobilenetError(
            f"{path} holds {dtype} {given}, a picture has (height, width, 3) or (height, width)",
            "put the channels last, drop an alpha channel, and save one picture a file",
        )
    array = array if array.ndim == 4 else array[None]
    if (
        array.dtype.newbyteorder("=") not in (np.float32, np.float16)
        or array.shape[1:] != preprocess.input_shape[1:]
        or not len(array)
    ):
        raise TvmMobilenetError(
            f"{path} holds {array.dtype} {given}, the model wants float32 {preprocess.input_shape}",
            "save the preprocessed input, or a (height, width, 3) or (height, width) uint8 image",
        )
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise TvmMobilenetError(f"{path} holds infinities or NaN", "save finite numbers: find them with numpy.isfinite")
    return array
