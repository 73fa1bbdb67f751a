"""The options of a model: the network and its preprocessing. All verbs take them, and a build keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError

FLOAT32 = "float32"
DTYPES = (FLOAT32, "float16", "int8")  # dtypes in which layers of a network can compute
IO = {  # dtypes of inputs and outputs, and the dtypes of layers that allow them
    FLOAT32: DTYPES,
    "float16": ("float16",),
    "uint8": DTYPES,
    "int8": ("int8",),
}

# Options of a network in int8, with their values for any other network.
_QUANTIZED = {
    "calibrate": (),
    "calibration_method": None,
    "quantization": None,
    "keep_float": None,
}
METHODS = ("minmax", "percentile", "mse")  # ways to find ranges

FILES = {".onnx": "onnx", ".tflite": "tflite", ".pt2": "pt2"}  # kinds of model files, by suffix
# Values of --weights other than files: published weights; a package's untrained ones.
IMAGENET, RANDOM = "imagenet", "random"
PACKAGES = ("timm", "torchvision")  # packages whose networks are named as timm:NAME
PYTHON = ".py:"  # between the path of a program and the name of its function that makes a model

REGISTRY = {"alpha": 1.0, "resolution": 224, "classes": 1000, "seed": 0, "batch": 1}  # defaults of a network by name

MOST = {"alpha": 16, "resolution": 8192, "classes": 1_000_000, "batch": 4096}  # larger values fit no memory
MOST_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, and how its input is made.

    Parameters
    ----------
    model : str
        A name of the registry (``v1``, ``mobilenet_v2``, …); the path of an ``.onnx``, ``.tflite`` or ``.pt2`` file; a
        package's network, ``timm:NAME`` or ``torchvision:NAME``; or ``FILE.py:FACTORY``, a function of the user's
        program that makes a model.
    alpha : float, optional
        Width multiplier; default 1. A file has none.
    resolution : int or (int, int), optional
        Height and width of the input, or one number for both; default 224. For a file it fixes sizes that are open;
        None leaves them.
    classes : int, optional
        Number of classes; default 1000. A file has its own.
    weights : path, optional
        A checkpoint; ``imagenet``: published ones; ``random``: a package's network before training. Without it a
        network of the registry has seeded weights with calibrated statistics, a package's its own trained ones.
    seed : int, optional
        Seed of the random weights; default 0.
    batch : int, optional
        Inputs at once; default 1. For a file it fixes an open batch; None means 1.
    signature : str, optional
        The name of one of the networks of a ``.tflite`` file; by default the one that an interpreter runs.
    features : bool
        The backbone without pool and classifier.
    input : path, optional
        An image to run; the shipped photograph by default.
    mean, std, resize, crop, interpolation, layout, channel_order : optional
        How an image becomes the input, as fields of ``models.preprocess.Preprocess``. None: the registry's, what the
        graph says, or a default that is announced as assumed.
    labels : path, optional
        Class names, one a line.
    dtype : str
        The dtype in which its layers compute, one of ``DTYPES``. Weights and references are float32 for every dtype.
    io : str
        The dtype of its inputs and outputs, one of ``IO``. ``uint8``: the bytes of images.
    accumulate : str, optional
        ``float32``, or ``float32:LAYER,LAYER``: layers that sum in float32 though they compute in ``dtype``.
    calibrate : tuple of str
        Images, or folders of them, for calibration and for the choice of layers that can compute in ``dtype``.
    keep_float : str, optional
        Layers that stay in float in a network of int8, names with commas.
    keep_dtype : str
        The dtype of these layers: ``float16`` if the target has it.
    calibration_method : str, optional
        How ranges of int8 are found, one of ``METHODS``; by default it is chosen for each value.
    quantization : path, optional
        The ``quantization.json`` of an int8 build, whose scales are used without calibration.
    decided : object, optional
        A ``passes.precision.Precision`` from a build, which is used as it is.
    module : str, optional
        The class of a program's object, if ``model`` is a file that it was exported to.
    temporary : path, optional
        The folder of that file, and of others that a program's objects were written to. A build has copies of them.
    trust_file : bool
        Whether a ``.pt2`` file may run code. No build keeps this, so each verb needs the flag.
    """

    model: str = "v1"
    alpha: float | None = None
    resolution: int | tuple[int, int] | None = None
    classes: int | None = None
    weights: Path | None = None
    seed: int | None = None
    batch: int | None = None
    signature: str | None = None
    features: bool = False
    input: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str | None = None
    crop: float | None = None
    interpolation: str | None = None
    layout: str | None = None
    channel_order: str | None = None
    labels: Path | None = None
    dtype: str = FLOAT32
    io: str = FLOAT32
    accumulate: str | None = None
    calibrate: tuple[str, ...] = ()
    keep_float: str | None = None
    keep_dtype: str = FLOAT32
    calibration_method: str | None = None
    quantization: Path | None = None
    decided: object | None = field(default=None, compare=False, repr=False)
    module: str | None = None
    temporary: Path | None = field(default=None, compare=False, repr=False)
    trust_file: bool = False

    def __post_init__(self):
        if isinstance(self.resolution, list | tuple):
            height, width = self.resolution
            object.__setattr__(self, "resolution", height if height == width else (height, width))
        for name, most in MOST.items():
            value = getattr(self, name) or 0
            for one in value if isinstance(value, tuple) else (value,):
                if one > most:
                    raise TvmMobilenetError(f"--{name} {one:g} is above {most:,}", "no MobileNet is as large")
        for name, default in REGISTRY.items() if self.in_registry else ():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    @classmethod
    def from_data(cls, data: dict, **changes) -> ModelOptions:
        """The options of plain data, as a built module keeps them."""
        values = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        for name in ("trust_file", "temporary"):  # a build's folder may come from anybody
            values.pop(name, None)
        for name in ("weights", "input", "labels", "quantization"):
            values[name] = Path(values[name]) if values.get(name) else None
        for name in ("mean", "std"):
            values[name] = tuple(values[name]) if values.get(name) else None
        values["calibrate"] = tuple(values.get("calibrate") or ())
        if not cls(model=values["model"]).in_registry:  # older builds hold the registry's values for a file too
            values = {name: value for name, value in values.items() if name not in REGISTRY or values["alpha"] is None}
        return cls(**{**values, **{name: value for name, value in changes.items() if value is not None}})

    @property
    def in_float32(self) -> ModelOptions:
        """The same network with all of its layers in float32."""
        return replace(self, dtype=FLOAT32, io=FLOAT32, accumulate=None, decided=None, **_QUANTIZED)

    @property
    def is_file(self) -> bool:
        return bool(self.file_kind)

    @property
    def file_kind(self) -> str:
        """One of ``FILES``; empty for a network by name."""
        return "" if self.package else FILES.get(Path(self.model).suffix.lower(), "")

    @property
    def package(self) -> str:
        """The package whose network it is; empty for any other."""
        package, colon, _ = self.model.partition(":")
        return package if colon and package in PACKAGES else ""

    @property
    def program(self) -> tuple[Path, str] | None:
        """The user's program that makes it, and the name of what makes it there."""
        path, found, factory = self.model.rpartition(PYTHON)
        return (Path(f"{path}.py"), factory) if found and not self.package else None

    @property
    def in_registry(self) -> bool:
        return not (self.is_file or self.package or self.program)

    @property
    def checkpoint(self) -> Path | None:
        """The file of ``--weights``; None without one, or for a word."""
        return None if self.weights is None or str(self.weights) in (IMAGENET, RANDOM) else self.weights

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input; None: as a file has them."""
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution

    @property
    def size_text(self) -> str:
        """``224``, ``192x256``, or empty."""
        return "x".join(map(str, dict.fromkeys(self.size or ())))

    @property
    def title(self) -> str:
        """The name for display: ``v1 1.0-224``, or the name of the file or module with the chosen size; ``v1 1-224
        float16``."""
        own = "" if self.dtype == FLOAT32 else f" {self.dtype}"
        if self.program:
            return f"{self.program[0].name}:{self.program[1]} {self.size_text}".rstrip() + own
        if self.is_file or self.package:
            name = self.module or (self.model if self.package else Path(self.model).name)
            return f"{name} {self.size_text}".rstrip() + own
        return f"{self.model} {self.alpha:g}-{self.size_text}{own}"

    @property
    def slug(self) -> str:
        """For file names: ``v1-1.0-224``; of a file its name, with the kind unless that is ONNX, as several exports of
        one network often lie side by side."""
        if self.in_registry:
            parts = [self.model, f"{self.alpha:.2f}".rstrip("0").ljust(3, "0"), self.size_text]
        else:
            kind = f"-{self.file_kind}" if self.file_kind not in ("", "onnx") else ""
            name = f"{self.program[0].stem}-{self.program[1]}" if self.program else Path(self.model).stem + kind
            name = self.module or name
            parts = [self.model if self.package else name, *([self.size_text] if self.size else [])]
        if self.classes not in (None, 1000):
            parts.append(f"c{self.classes}")
        if self.features:
            parts.append("features")
        if self.batch not in (None, 1):
            parts.append(f"b{self.batch}")
        if self.dtype != FLOAT32:
            parts.append(self.dtype)
        return re.sub(r"[^\w.]+", "-", "-".join(parts))
