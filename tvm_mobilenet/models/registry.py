"""The models by name: ``create("v1", alpha=0.5, resolution=160)`` gives a network with weights and preprocessing.

Names, aliases and preprocessing are data (``data/registry.toml``); reading them imports no torch.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.labels import read_labels
from tvm_mobilenet.models.options import IMAGENET
from tvm_mobilenet.models.preprocess import FIELDS, Preprocess, load_image, sample_images

if TYPE_CHECKING:
    import numpy
    import torch


@dataclass(frozen=True)
class Entry:
    """The entry of one model in ``data/registry.toml``."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    module: str
    checkpoint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float
    interpolation: str

    @property
    def short(self) -> str:
        """The name for command lines: ``v3-large``."""
        return self.aliases[0]

    def preprocess(self, resolution: int | tuple[int, int]) -> Preprocess:
        size = (resolution, resolution) if isinstance(resolution, int) else resolution
        return Preprocess(size, self.mean, self.std, self.crop, self.interpolation)


@dataclass(frozen=True)
class ModelSpec:
    """A network ready for import, with its preprocessing and labels.

    Attributes
    ----------
    module : torch.nn.Module
        In eval mode, weights set, no gradients.
    name, alpha, resolution, num_classes
        The arguments of its creation; ``name`` is the registry's full name.
    preprocess : Preprocess
        From an image file to the network's input.
    labels : tuple of str
        One name a class; empty when unknown, classes are then shown by index.
    features : None, bool or tuple of int
        Feature maps instead of logits.
    weights : str
        The file they came from, or ``seed 0``.
    seeded : bool
        Whether the weights are random numbers, so that classes mean nothing.
    assumed : tuple of str
        Fields of ``preprocess`` that are not known for these weights.
    channels : int
        Channels of the input if ``preprocess`` is None, because the conversion of images is unknown.
    """

    module: torch.nn.Module
    name: str
    alpha: float
    resolution: int | tuple[int, int]
    num_classes: int
    preprocess: Preprocess | None
    labels: tuple[str, ...] = ()
    features: bool | tuple[int, ...] | None = None
    weights: str = ""
    seeded: bool = False
    assumed: tuple[str, ...] = ()
    channels: int = 3

    @property
    def title(self) -> str:
        """The name for display: ``mobilenet_v1 1.0-224``."""
        return f"{self.name} {self.alpha}-{'x'.join(map(str, dict.fromkeys(self.preprocess.size)))}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The input, (1, C, H, W) float32."""
        height, width = (self.resolution,) * 2 if isinstance(self.resolution, int) else self.resolution
        return (1, self.channels, height, width)

    def example_input(self) -> numpy.ndarray:
        """The shipped photograph of a flower, preprocessed; (1, 3, H, W) float32."""
        return load_image(sample_images()[0], self.preprocess)


@functools.cache
def entries() -> dict[str, Entry]:
    """Every model of the registry by its full name."""
    text = (resources.files(__package__) / "data" / "registry.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return {
        name: Entry(name=name, **{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
        for name, table in tables.items()
    }


def names() -> list[str]:
    """The models' full names."""
    return list(entries())


def short_names() -> list[str]:
    """The models' names for command lines."""
    return [entry.short for entry in entries().values()]


def find(name: str) -> Entry:
    """The model of a name or alias: in any case, with or without ``-``, ``_``, blanks, or ``MobileNet`` before it.

    Raises
    ------
    TvmMobilenetError
        There is none; the hint lists the models and names the nearest.
    """
    known = _by_plain_name()
    plain = _plain(name)
    if plain in known:
        return known[plain]
    if family := list(dict.fromkeys(e.short for key, e in known.items() if plain and key in _several(plain))):
        one = f"--model {' or --model '.join(family)}"
        raise TvmMobilenetError(f"{name!r} may be {' or '.join(family)}", f"say which: {one}")
    if sized := _with_size(name):
        raise TvmMobilenetError(f"there is no model {name!r}", f"did you mean {sized}?")
    names_ = ", ".join(short_names())
    near = [n for n in difflib.get_close_matches(plain, known, 3, 0.6) if _digits(n) == _digits(plain)]
    if near or plain.startswith(("mobilenet", "v")):
        guess = f"did you mean {known[near[0]].short}? " if near else ""
        raise TvmMobilenetError(
            f"there is no model {name!r}",
            f"{guess}Known: {names_}; any other builds from an .onnx, .tflite or .pt2 file",
        )
    raise TvmMobilenetError(
        f"there is no model {name!r}: the MobileNets {names_} are known by name",
        "any other network builds from a file: --model FILE.onnx, FILE.tflite or FILE.pt2",
    )


def is_known(name: str) -> bool:
    """Whether `find` finds a model of this name."""
    return _plain(name) in _by_plain_name()


def _plain(name: str) -> str:
    """A name reduced to letters and digits: ``MobileNet V2`` and ``mobilenet-v2`` are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def _by_plain_name() -> dict[str, Entry]:
    found = {}
    for entry in entries().values():
        for name in (entry.name, *entry.aliases):
            found[_plain(name)] = found[_plain("mobilenet" + _plain(name).removeprefix("mobilenet"))] = entry
    return found


def _digits(plain: str) -> str:
    return re.sub(r"\D", "", plain)


def _several(plain: str) -> set[str]:
    """The plain names that a family's name may mean: of mobilenetv3 the large and the small one."""
    return {plain + size for size in ("large", "medium", "small")}


def _with_size(name: str) -> str:
    """Flags for a name that carries width and size, as timm and TensorFlow write them; empty for any other."""
    found = re.fullmatch(r"(.+?)[-_ ]?(\d\.\d+|\d{2,3})(?:[-_ ](\d{2,3}))?", name.strip())
    if not found or not is_known(found[1]):
        return ""
    alpha, size = float(found[2]), found[3]
    if "." not in found[2] and size is None and alpha > 140:
        alpha, size = 1.0, found[2]
    alpha = alpha if "." in found[2] else alpha / 100 if alpha > 1 else alpha
    return f"--model {find(found[1]).short} --alpha {alpha:g}" + f" --resolution {size}" * bool(size)


def check_shape(alpha: float, resolution: int | tuple[int, int], num_classes: int) -> None:
    """Refuse a shape that makes no network.

    Raises
    ------
    TvmMobilenetError
        For alpha <= 0, a height or width that is no multiple of 32, fewer than one class.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise TvmMobilenetError(f"alpha {alpha} must be above 0", "the papers use 0.25, 0.5, 0.75, 1.0 and 1.4")
    for side in (resolution,) if isinstance(resolution, int | float) else resolution:
        if side != int(side) or side < 32 or side % 32:
            down = max(32, int(side) // 32 * 32)
            near = " or ".join(str(r) for r in dict.fromkeys((down, down + 32)))
            raise TvmMobilenetError(f"resolution {side} is not a multiple of 32", f"the nearest are {near}")
    if num_classes < 1:
        raise TvmMobilenetError(f"{num_classes} classes", "ask for at least one, or for feature maps with --features")


def architecture(
    name: str,
    alpha: float = 1.0,
    num_classes: int = 1000,
    features: bool | tuple[int, ...] | None = None,
) -> torch.nn.Module:
    """A network with PyTorch's own initial weights, for loading weights into it or counting.

    Raises
    ------
    TvmMobilenetError
        If there is no such model or feature map.
    """
    entry = find(name)
    check_shape(alpha, 224, num_classes)
    variant = entry.name.removeprefix(f"mobilenet_{entry.module[:2]}").strip("_")
    if entry.module == "v1":
        from tvm_mobilenet.models.v1 import MobileNetV1

        return MobileNetV1(alpha, num_classes, features, variant or "separable")
    if entry.module == "v2":
        from tvm_mobilenet.models.v2 import MobileNetV2

        return MobileNetV2(alpha, num_classes, features)
    if entry.module == "v3_minimal":
        from tvm_mobilenet.models.v3_minimal import MobileNetV3Minimal

        return MobileNetV3Minimal(variant.removesuffix("_minimal"), alpha, num_classes, features)
    if entry.module == "v4":
        from tvm_mobilenet.models.v4 import MobileNetV4

        return MobileNetV4(variant, alpha, num_classes, features)
    from tvm_mobilenet.models.v3 import MobileNetV3

    return MobileNetV3(variant, alpha, num_classes, features)


def create(
    name: str,
    alpha: float = 1.0,
    resolution: int | tuple[int, int] = 224,
    num_classes: int = 1000,
    weights: str | Path | None = None,
    features: bool | tuple[int, ...] | None = None,
    *,
    preprocess: dict | None = None,
    labels: str | Path | None = None,
    seed: int = 0,
) -> ModelSpec:
    """A network with its weights, in eval mode.

    Parameters
    ----------
    name : str
        A name or alias of the registry.
    alpha : float
        Width multiplier.
    resolution : int or (int, int)
        Height and width of the input in pixels, each a multiple of 32.
    num_classes : int
        Size of the classifier's output.
    weights : path, optional
        A ``.pth``, ``.pt`` or ``.safetensors`` checkpoint; ``imagenet``: those that are published, downloaded once.
        Without it, seeded weights with calibrated statistics.
    features : bool or tuple of int, optional
        Headless: ``True`` for the last feature map, strides such as ``(8, 16, 32)`` for several.
    preprocess : dict, optional
        Fields of ``Preprocess`` that differ from the model's own.
    labels : path, optional
        Class names; see ``read_labels``.
    seed : int
        Of the seeded weights.

    Raises
    ------
    TvmMobilenetError
        For a name, shape, checkpoint or label file that does not fit.
    """
    entry = find(name)
    check_shape(alpha, resolution, num_classes)
    chosen = entry.preprocess(resolution)
    module = architecture(name, alpha, num_classes, features)
    if weights is None:
        from tvm_mobilenet.models.seeded import seed_weights

        seed_weights(module, chosen, seed)
    else:
        load_checkpoint(module, entry.name, alpha, num_classes, weights)
    return ModelSpec(
        module=module.eval().requires_grad_(False),
        name=entry.name,
        alpha=alpha,
        resolution=resolution if isinstance(resolution, tuple) else int(resolution),
        num_classes=num_classes,
        preprocess=chosen.replace(**(preprocess or {})),
        labels=read_labels(labels, num_classes) if labels else (),
        features=features if features is None or isinstance(features, bool) else tuple(features),
        weights=str(weights) if weights else f"seed {seed}",
        seeded=weights is None,
        assumed=() if weights is None or str(weights) == IMAGENET else FIELDS,
    )


def load_checkpoint(module: torch.nn.Module, name: str, alpha: float, num_classes: int, weights: str | Path) -> None:
    """Load a checkpoint, or the published one, into a network.

    Parameters
    ----------
    weights : path
        A file, or ``imagenet``.

    Raises
    ------
    TvmMobilenetError
        The network has no published checkpoint, or the checkpoint does not fit.
    """
    from tvm_mobilenet.models import published
    from tvm_mobilenet.models.weights import load_weights

    if str(weights) == IMAGENET:
        weights = published.checkpoint(published.of(find(name).name, alpha, num_classes))
    load_weights(module, weights)
