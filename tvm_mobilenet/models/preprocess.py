"""From an image file to a network's input, and the inputs that a build is verified on.

Pillow is imported only when an image is read; ``.npy`` needs only numpy.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError

LAYOUTS = ("NCHW", "NHWC")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its images.

    Parameters
    ----------
    size : (int, int)
        Height and width of the input in pixels.
    mean, std : three floats
        Of R, G and B, for pixels scaled to 0..1: the input is ``(pixel / 255 - mean) / std``.
    crop : float
        The image is scaled until its shorter side is ``size / crop``, then the centre is cut out.
    interpolation : str
        ``nearest``, ``bilinear`` or ``bicubic``.
    layout : str
        ``NCHW`` or ``NHWC``.

    Raises
    ------
    TvmMobilenetError
        For a value that makes no sense.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    crop: float = 0.875
    interpolation: str = "bilinear"
    layout: str = "NCHW"

    def __post_init__(self):
        for field in ("mean", "std"):
            value = tuple(float(v) for v in np.atleast_1d(getattr(self, field)))
            value = value * 3 if len(value) == 1 else value
            if len(value) != 3 or not all(map(math.isfinite, value)) or (field == "std" and min(value) <= 0):
                wants = "one or three numbers" + (" above 0" if field == "std" else "")
                raise TvmMobilenetError(f"{field} {getattr(self, field)!r} must be {wants}", "for example 0.5,0.5,0.5")
            object.__setattr__(self, field, value)
        object.__setattr__(self, "size", tuple(int(v) for v in self.size))
        if len(self.size) != 2 or min(self.size) < 1:
            raise TvmMobilenetError(f"size {self.size!r} must be a height and a width in pixels")
        if not 0 < self.crop <= 1:
            raise TvmMobilenetError(f"crop {self.crop!r} must be above 0 and at most 1", "the usual is 0.875")
        for field, allowed in (("interpolation", INTERPOLATIONS), ("layout", LAYOUTS)):
            if getattr(self, field) not in allowed:
                raise TvmMobilenetError(f"{field} {getattr(self, field)!r}", f"one of {', '.join(allowed)}")

    def replace(self, **changes) -> Preprocess:
        return dataclasses.replace(self, **changes)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        h, w = self.size
        return (1, 3, h, w) if self.layout == "NCHW" else (1, h, w, 3)

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """From (..., H, W, 3) pixels in 0..1 to (N, 3, H, W) or (N, H, W, 3) float32; three axes are one image."""
        x = (np.asarray(pixels, np.float64) - self.mean) / self.std
        x = x if x.ndim == 4 else x[None]
        return np.ascontiguousarray(x if self.layout == "NHWC" else x.transpose(0, 3, 1, 2), np.float32)


def sample_images() -> list[Path]:
    """The shipped photographs, a flower first; ``data/ATTRIBUTION.txt`` names who took them."""
    folder = Path(str(resources.files(__package__))) / "data"
    return [folder / "flower.jpg", folder / "china.jpg"]


def load_image(path: str | Path, preprocess: Preprocess) -> np.ndarray:
    """An image file as a network's input.

    Parameters
    ----------
    path : path
        Anything Pillow reads, or ``.npy``: a (H, W, 3) uint8 image, or an input that is preprocessed already.

    Returns
    -------
    numpy.ndarray
        ``preprocess.input_shape`` float32; from a preprocessed ``.npy`` as many images as it has.

    Raises
    ------
    TvmMobilenetError
        If it cannot be read or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise TvmMobilenetError(f"there is no input file {path}", "give a .jpg, .png or .npy file")
    if path.suffix.lower() == ".npy":
        return _load_array(path, preprocess)
    return preprocess.normalise(_pixels(_centre(_open(path), preprocess)))


def evaluation_batch(model, n: int = 8) -> np.ndarray:
    """Inputs to verify a build on: both photographs whole, then crops and mirrored crops of them.

    Parameters
    ----------
    model : ModelSpec or Preprocess
    n : int
        How many; the first is always the whole flower.

    Returns
    -------
    numpy.ndarray
        (n, 3, H, W) float32 (or (n, H, W, 3)); the same for the same arguments.
    """
    preprocess = getattr(model, "preprocess", model)
    if n < 1:
        raise TvmMobilenetError(f"an evaluation batch of {n} inputs", "ask for at least one")
    photos = [_open(path) for path in sample_images()]
    draw = np.random.Generator(np.random.PCG64(20170417))
    batch = []
    for i in range(n):
        photo = photos[i % len(photos)]
        if i >= len(photos):
            side = int(min(photo.size) * (0.4 + 0.6 * draw.random()))
            left, top = (int(draw.random() * (full - side + 1)) for full in photo.size)
            photo = photo.crop((left, top, left + side, top + side))
        pixels = _pixels(_centre(photo, preprocess if i < len(photos) else preprocess.replace(crop=1.0)))
        batch.append(pixels[:, ::-1] if i // len(photos) % 2 else pixels)
    return preprocess.normalise(np.stack(batch))


def read_labels(path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Class names: one a line, a JSON list, or a JSON object from index to name.

    Raises
    ------
    TvmMobilenetError
        If the file cannot be read or has another number of names.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        labels = json.loads(text) if str(path).lower().endswith(".json") else text.splitlines()
        if isinstance(labels, dict):
            labels = [labels[str(i)] for i in range(len(labels))]
        labels = tuple(str(name[-1] if isinstance(name, list) else name).strip() for name in labels)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise TvmMobilenetError(
            f"labels {path}: {type(e).__name__}: {e}",
            "a text file with one class a line, a JSON list, or a JSON object from index to name",
        ) from None
    while labels and not labels[-1]:
        labels = labels[:-1]
    if len(labels) != num_classes:
        raise TvmMobilenetError(f"labels {path} has {len(labels)} names, the model {num_classes} classes")
    return labels


def _pillow():
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise packages.missing("reading images", ["PIL"]) from None
    return Image, ImageOps


def _open(path: Path):
    image_module, ops = _pillow()
    try:
        with image_module.open(path) as image:
            return ops.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as e:
        raise TvmMobilenetError(f"{path} cannot be read as an image: {e}", "give a .jpg, .png or .npy file") from None


def _centre(image, preprocess: Preprocess):
    """Scale so that the centre of ``crop`` has the network's size, and cut it out."""
    image_module, _ = _pillow()
    height, width = preprocess.size
    scale = max(height / preprocess.crop / image.height, width / preprocess.crop / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(scaled, image_module.Resampling[preprocess.interpolation.upper()])
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _pixels(image) -> np.ndarray:
    return np.asarray(image, np.uint8) / 255.0  # (H, W, 3) in 0..1


def _load_array(path: Path, preprocess: Preprocess) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise TvmMobilenetError(f"{path} cannot be read as an array: {e}", "write it with numpy.save") from None
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
        image_module, _ = _pillow()
        return preprocess.normalise(_pixels(_centre(image_module.fromarray(array), preprocess)))
    array = array if array.ndim == 4 else array[None]
    if array.dtype.kind not in "fiu" or array.shape[1:] != preprocess.input_shape[1:] or not len(array):
        raise TvmMobilenetError(
            f"{path} holds {array.dtype} {array.shape}, the model wants float32 {preprocess.input_shape}",
            "save the preprocessed input, or a (height, width, 3) uint8 image",
        )
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise TvmMobilenetError(f"{path} holds infinities or NaN")
    return array
