"""The models by name: ``create("v1", alpha=0.5, resolution=160)`` gives a network with weights and preprocessing.

Names, aliases and preprocessing are data (``data/registry.toml``); reading them imports no torch.
"""

from __future__ import annotations

import difflib
import functools
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet.errors import TvmMobilenetError

from .labels import read_labels
from .preprocess import Preprocess, load_image, sample_images

if TYPE_CHECKING:
    import numpy
    import torch


@dataclass(frozen=True)
class Entry:
    """What ``data/registry.toml`` says of one model."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    module: str
    checkpoint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float
    interpolation: str

    def preprocess(self, resolution: int) -> Preprocess:
        return Preprocess((resolution, resolution), self.mean, self.std, self.crop, self.interpolation)


@dataclass(frozen=True)
class ModelSpec:
    """A network ready for import, with all that is needed to feed it.

    Attributes
    ----------
    module : torch.nn.Module
        In eval mode, weights set, no gradients.
    name, alpha, resolution, num_classes
        What it was created with; ``name`` is the registry's full name.
    preprocess : Preprocess
        From an image file to the network's input.
    labels : tuple of str
        One name a class; empty when unknown, classes are then shown by index.
    features : None, bool or tuple of int
        Feature maps instead of logits.
    weights : str
        The file they came from, or ``seed 0``.
    """

    module: torch.nn.Module
    name: str
    alpha: float
    resolution: int
    num_classes: int
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    features: bool | tuple[int, ...] | None = None
    weights: str = ""

    @property
    def title(self) -> str:
        """As people write it: ``mobilenet_v1 1.0-224``."""
        return f"{self.name} {self.alpha}-{self.resolution}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The input, (1, 3, H, W) float32."""
        return (1, 3, *self.preprocess.size)

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


def find(name: str) -> Entry:
    """The model of a name or alias, in any case and with ``-`` or ``_``.

    Raises
    ------
    TvmMobilenetError
        If there is none; the hint names the nearest.
    """

    def plain(s: str) -> str:
        return s.strip().lower().replace("-", "_").replace(" ", "_")

    known = {plain(n): e for e in entries().values() for n in (e.name, *e.aliases)}
    if plain(name) in known:
        return known[plain(name)]
    near = difflib.get_close_matches(plain(name), known, n=1, cutoff=0.4)
    guess = f"did you mean {known[near[0]].name}? " if near else ""
    raise TvmMobilenetError(f"there is no model {name!r}", f"{guess}Known: {', '.join(names())}")


def check_shape(alpha: float, resolution: int, num_classes: int) -> None:
    """Refuse what makes no network.

    Raises
    ------
    TvmMobilenetError
        For alpha <= 0, a resolution that is no multiple of 32, fewer than one class.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise TvmMobilenetError(f"alpha {alpha} must be above 0", "the papers use 0.25, 0.5, 0.75, 1.0 and 1.4")
    if resolution != int(resolution) or resolution < 32 or resolution % 32:
        down = max(32, int(resolution) // 32 * 32)
        near = " or ".join(str(r) for r in dict.fromkeys((down, down + 32)))
        raise TvmMobilenetError(f"resolution {resolution} is not a multiple of 32", f"the nearest are {near}")
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
    if entry.module == "v1":
        from .v1 import MobileNetV1

        variant = entry.name.removeprefix("mobilenet_v1").strip("_") or "separable"
        return MobileNetV1(alpha, num_classes, features, variant)
    if entry.module == "v2":
        from .v2 import MobileNetV2

        return MobileNetV2(alpha, num_classes, features)
    from .v3 import MobileNetV3

    return MobileNetV3(entry.name.removeprefix("mobilenet_v3_"), alpha, num_classes, features)


def create(
    name: str,
    alpha: float = 1.0,
    resolution: int = 224,
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
    resolution : int
        Height and width of the input in pixels, a multiple of 32.
    num_classes : int
        Size of the classifier's output.
    weights : path, optional
        A ``.pth``, ``.pt`` or ``.safetensors`` checkpoint; without it, seeded weights with calibrated statistics.
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
        from .seeded import seed_weights

        seed_weights(module, chosen, seed)
    else:
        from .weights import load_weights

        load_weights(module, weights)
    return ModelSpec(
        module=module.eval().requires_grad_(False),
        name=entry.name,
        alpha=alpha,
        resolution=int(resolution),
        num_classes=num_classes,
        preprocess=chosen.replace(**(preprocess or {})),
        labels=read_labels(labels, num_classes) if labels else (),
        features=features if features is None or isinstance(features, bool) else tuple(features),
        weights=str(weights) if weights else f"seed {seed}",
    )
