"""Networks of timm and torchvision by name, with their trained weights, preprocessing and labels.

Nothing else needs these packages. Their own code makes the network and downloads its weights. The name must be one of
the package's own names, so that a foreign build cannot give another address.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError, nearest, reason
from tvm_mobilenet.models.options import RANDOM, ModelOptions
from tvm_mobilenet.models.preprocess import FIELDS, Preprocess
from tvm_mobilenet.models.registry import ModelSpec
from tvm_mobilenet.models.resize import INTERPOLATIONS
from tvm_mobilenet.terminal.console import say
from tvm_mobilenet.terminal.printable import printable

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")  # timm's tags follow a point


@dataclass(frozen=True)
class _Made:
    """A package's network, its preprocessing, the fields of that which are guessed, and its labels."""

    module: torch.nn.Module
    preprocess: Preprocess
    guessed: tuple[str, ...]
    labels: tuple[str, ...]


def check_name(options: ModelOptions) -> None:
    """Refuse a text that cannot be the name of a package's network, without importing the package.

    Raises
    ------
    TvmMobilenetError
    """
    name = options.model.partition(":")[2]
    if not _NAME.fullmatch(name):
        example = {"timm": "timm:mobilenetv4_conv_small", "torchvision": "torchvision:mobilenet_v3_large"}
        raise TvmMobilenetError(
            f"--model {printable(options.model)}: {printable(name)!r} is not the name of a network",
            f"for example --model {example[options.package]}",
        )


def create(options: ModelOptions) -> ModelSpec:
    """A package's network, in eval mode.

    Raises
    ------
    MissingDependencyError
        The package is not installed, or does not fit the installed torch.
    TvmMobilenetError
        The package has no such network or cannot load its weights, or a checkpoint does not fit.
    """
    check_name(options)
    name = options.model.partition(":")[2]
    trained = options.weights is None
    make = {"timm": _of_timm, "torchvision": _of_torchvision}[options.package]
    if str(options.weights) == RANDOM:
        import torch

        torch.manual_seed(options.seed or 0)
    made = make(name, trained, options)
    if options.size:
        made = _Made(made.module, made.preprocess.replace(size=options.size), made.guessed, made.labels)
    if options.checkpoint is not None:
        from tvm_mobilenet.models.weights import load_weights

        load_weights(made.module, options.checkpoint)
    elif not trained:
        from tvm_mobilenet.models.seeded import settle_norms

        settle_norms(made.module, made.preprocess, options.seed or 0)
    return ModelSpec(
        module=made.module.eval().requires_grad_(False),
        name=options.model,
        alpha=1.0,
        resolution=made.preprocess.size,
        num_classes=options.classes or len(made.labels),
        preprocess=made.preprocess,
        labels=() if options.classes else made.labels,
        weights=str(options.weights or f"{options.package}'s own"),
        seeded=str(options.weights) == RANDOM,
        assumed=FIELDS if options.checkpoint is not None else made.guessed,
        channels=made.preprocess.channels,
    )


def _imported(name: str):
    """A package, or a module of one."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        why = "" if e.name == package else f"it needs {e.name}, which is not installed"
        raise packages.outside(package, why) from None
    except Exception as e:  # torchvision's operators, or another part, do not fit
        raise packages.outside(package, " ".join(f"{type(e).__name__}: {e}".split())[:200]) from e


def _made_by(make, options: ModelOptions):
    """The network that a package's function makes; its output is discarded."""
    if options.weights is None:
        say(f"making {options.model} with its trained weights; {options.package} downloads them unless cached")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return make()
    except Exception as e:  # errors of the package, the hub or the network
        if options.weights is not None:
            raise TvmMobilenetError(
                f"{options.package} cannot make {options.model}: {printable(reason(e))[:300]}",
                "is it another --classes, or a network that needs more than its name?",
            ) from e
        raise TvmMobilenetError(
            f"{options.package} cannot load the trained weights of {options.model}: {printable(reason(e))[:300]}",
            "without a network: give --weights FILE, or --weights random to measure only its speed",
        ) from e


def _of_timm(name: str, trained: bool, options: ModelOptions) -> _Made:
    timm = _imported("timm")
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        near = nearest(plain, timm.list_models())
        raise TvmMobilenetError(
            f"timm {timm.__version__} has no network {name}",
            f"did you mean timm:{near}?" if near else "see timm's list",
        )
    classes = {"num_classes": options.classes} if options.classes else {}
    module = _made_by(lambda: timm.create_model(name, pretrained=trained, **classes), options)
    data = _imported("timm.data")
    found = data.resolve_model_data_config(module)
    channels, *size = found["input_size"]
    interpolation = found["interpolation"]
    guessed = () if interpolation in INTERPOLATIONS else ("interpolation",)
    preprocess = Preprocess(
        size,
        found["mean"][:channels],
        found["std"][:channels],
        found["crop_pct"],
        interpolation if not guessed else "bicubic",
        resize="squash" if found.get("crop_mode") == "squash" else "shortest",
        channels=channels,
    )
    subset = data.infer_imagenet_subset(module)
    info = data.ImageNetInfo(subset) if subset else None
    labels = tuple(info.index_to_description(i) for i in range(info.num_classes())) if info else ()
    return _Made(module, preprocess, guessed, labels)


def _of_torchvision(name: str, trained: bool, options: ModelOptions) -> _Made:
    torchvision = _imported("torchvision")
    models = torchvision.models
    if name not in (known := models.list_models()):
        near = nearest(name, known)
        raise TvmMobilenetError(
            f"torchvision {torchvision.__version__} has no network {name}",
            f"did you mean torchvision:{near}?" if near else f"it has {', '.join(known[:5])}, …",
        )
    best = models.get_model_weights(name).DEFAULT
    classes = {"num_classes": options.classes} if options.classes else {}
    rest = {} if trained else {"weights_backbone": None} if "backbone" in _parameters(models, name) else {}
    module = _made_by(lambda: models.get_model(name, weights=best if trained else None, **classes, **rest), options)
    how = best.transforms()
    crop, whole = (getattr(how, field, None) for field in ("crop_size", "resize_size"))
    guessed = () if crop and whole else ("resize", "crop")
    size = crop[0] if crop else 224
    interpolation = getattr(getattr(how, "interpolation", None), "value", "bilinear")
    preprocess = Preprocess(
        (size, size),
        getattr(how, "mean", (0.5,)),
        getattr(how, "std", (0.5,)),
        size / whole[0] if not guessed else 1.0,
        interpolation if interpolation in INTERPOLATIONS else "bilinear",
    )
    return _Made(module, preprocess, guessed, tuple(best.meta.get("categories") or ()))


def _parameters(models, name: str) -> str:
    """The names of the parameters that a network's builder takes."""
    import inspect

    return " ".join(inspect.signature(models.get_model_builder(name)).parameters)
