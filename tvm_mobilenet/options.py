"""The options that verbs share, so that a flag means the same everywhere: model, input, target and output."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import TvmMobilenetError
from .whole_file import folder_to_write, journal_file

OUTPUT = Path("out")  # where verbs write unless told otherwise
BOARDS = (
    "virtual, local, rpc://host:port, tracker://host:port/key, ssh://user@host "
    "(default: local for this machine, else virtual)"
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, and how its input is made.

    Parameters
    ----------
    model : str
        A name of the registry (``v1``, ``mobilenet_v2``, …), or the path of an ``.onnx`` or ``.pt2`` file.
    alpha : float
        Width multiplier.
    resolution : int
        Height and width of the input.
    classes : int
        Of the classifier.
    weights : path, optional
        A checkpoint; without one, seeded weights with calibrated statistics.
    seed : int
        Of those.
    batch : int
        Inputs at once; a dynamic batch of a file is fixed to it.
    features : bool
        The backbone without pool and classifier.
    input : path, optional
        An image to run; the shipped photograph by default.
    mean, std, resize, crop, interpolation, layout, channel_order : optional
        How an image becomes the input, as fields of ``models.preprocess.Preprocess``. None: the registry's, what the
        graph says, or a default that is announced as assumed.
    labels : path, optional
        Class names, one a line.
    """

    model: str = "v1"
    alpha: float = 1.0
    resolution: int = 224
    classes: int = 1000
    weights: Path | None = None
    seed: int = 0
    batch: int = 1
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

    @classmethod
    def from_data(cls, data: dict, **changes) -> ModelOptions:
        """The options of plain data, as a built module keeps them."""
        values = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        for name in ("weights", "input", "labels"):
            values[name] = Path(values[name]) if values.get(name) else None
        for name in ("mean", "std"):
            values[name] = tuple(values[name]) if values.get(name) else None
        return cls(**{**values, **{name: value for name, value in changes.items() if value is not None}})

    @property
    def is_file(self) -> bool:
        return Path(self.model).suffix.lower() in (".onnx", ".pt2")

    @property
    def is_onnx(self) -> bool:
        return Path(self.model).suffix.lower() == ".onnx"

    @property
    def title(self) -> str:
        """For people: ``v1 1.0-224``, or the file's name."""
        return Path(self.model).name if self.is_file else f"{self.model} {self.alpha:g}-{self.resolution}"

    @property
    def slug(self) -> str:
        """For file names: ``v1-1.0-224``."""
        parts = (
            [Path(self.model).stem]
            if self.is_file
            else [self.model, f"{self.alpha:.2f}".rstrip("0").ljust(3, "0"), str(self.resolution)]
        )
        if not self.is_file and self.classes != 1000:
            parts.append(f"c{self.classes}")
        if self.features:
            parts.append("features")
        if self.batch != 1:
            parts.append(f"b{self.batch}")
        return re.sub(r"[^\w.]+", "-", "-".join(parts))


def add_model_options(parser: argparse.ArgumentParser, inputs: bool = True) -> None:
    """The flags of `ModelOptions`; ``inputs``: also those that say how an image becomes its input."""
    default = ModelOptions()
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=default.model,
        metavar="NAME|FILE",
        help="v1, v1-plain, v2, v3-large, v3-small, or an .onnx or .pt2 file (default: %(default)s)",
    )
    group.add_argument(
        "--alpha", type=positive(float), default=default.alpha, help="width multiplier (default: %(default)s)"
    )
    group.add_argument(
        "--resolution",
        type=resolution,
        default=default.resolution,
        metavar="PIXELS",
        help="height and width of the input, a multiple of 32 (default: %(default)s)",
    )
    group.add_argument("--classes", type=positive(int), default=default.classes, help="default: %(default)s")
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help=".pth or .safetensors with torchvision's (v2, v3) or timm's (v1) keys; seeded weights without",
    )
    group.add_argument("--seed", type=int, default=default.seed, help="of the weights made without --weights")
    group.add_argument(
        "--batch", type=positive(int), default=default.batch, help="images at once (default: %(default)s)"
    )
    group.add_argument("--features", action="store_true", help="the backbone without pool and classifier")
    if inputs:
        add_image_options(parser.add_argument_group("input"))


def add_image_options(group) -> None:
    """How an image becomes the input, and what its classes are called."""
    from .models import preprocess

    group.add_argument("--input", type=Path, metavar="IMAGE", help="an image (default: the photograph that ships)")
    group.add_argument(
        "--mean",
        type=channel_values,
        metavar="R,G,B",
        help="of pixels scaled to 0..1, one number or one a channel (default: the model's; of a file, 0.5)",
    )
    group.add_argument("--std", type=channel_values, metavar="R,G,B")
    group.add_argument(
        "--resize",
        choices=preprocess.RESIZES,
        help="shortest (default): images keep their proportions, as Resize(256); squash: as Resize((224, 224))",
    )
    group.add_argument(
        "--crop",
        type=fraction,
        metavar="FRACTION",
        help="share of the resized image that is kept, its centre (default: 0.875; with --resize squash, 1)",
    )
    group.add_argument(
        "--interpolation", choices=preprocess.INTERPOLATIONS, help="default: the model's; of a file, bilinear"
    )
    group.add_argument(
        "--layout", choices=preprocess.LAYOUTS, help="of the input of a file (default: as its graph reads it)"
    )
    group.add_argument("--channel-order", choices=preprocess.CHANNEL_ORDERS, help="default: RGB")
    group.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")


def model_options(args: argparse.Namespace) -> ModelOptions:
    """The options a user gave; files must exist.

    Raises
    ------
    TvmMobilenetError
        A model that nobody knows, a file that does not exist or cannot be read.
    """
    values = {name: getattr(args, name) for name in ModelOptions.__dataclass_fields__ if hasattr(args, name)}
    options = ModelOptions(**values)
    check_model(options.model)
    for flag, path in {"--weights": options.weights, "--input": options.input, "--labels": options.labels}.items():
        check_file(flag, path)
    return options


def check_model(model: str, flag: str = "--model") -> str:
    """The model, unless it names neither a network of the registry nor a file that can be read.

    Raises
    ------
    TvmMobilenetError
        It says which there are, or what to do with the file.
    """
    from .frontend import files
    from .models import registry

    if not model.strip():
        raise TvmMobilenetError(f"{flag} is empty", "give a name such as v2, or the path of an .onnx or .pt2 file")
    if not registry.is_known(model):
        files.kind_of(model, flag) if files.looks_like_a_file(model) or Path(model).is_dir() else registry.find(model)
    return model


def check_file(flag: str, path: Path | None) -> None:
    """Refuse a path of a flag that is no file that can be read; None is well.

    Raises
    ------
    TvmMobilenetError
        It names flag, path and reason.
    """
    from .frontend import files

    if path is None:
        return
    if path.is_dir():
        raise TvmMobilenetError(f"{flag} {path} is a folder", "give the path of a file")
    if not path.is_file():
        raise TvmMobilenetError(f"{flag} {path}: no such file", "give the path of a file that exists")
    files.readable(path, flag)


def add_target_options(parser: argparse.ArgumentParser, board: bool = True) -> None:
    """``--target``, ``--linker`` and, for verbs that run code, ``--board``."""
    group = parser.add_argument_group("target")
    group.add_argument(
        "--target",
        default="arm",
        metavar="NAME|FILE",
        help="a board by name or TOML file; `list` shows them (default: %(default)s)",
    )
    group.add_argument(
        "--linker", metavar="COMMAND", help="such as aarch64-linux-gnu-gcc (default: zig's, installed with this)"
    )
    if board:
        group.add_argument(
            "--board",
            metavar="ADDRESS",
            help=f"what runs the code: {BOARDS}",
        )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """``--output``, ``--log``, ``--json``."""
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=folder_to_write, metavar="FOLDER", help=f"default: {OUTPUT}/MODEL-TARGET")
    group.add_argument(
        "--log",
        type=journal_file,
        metavar="FILE",
        default=str(OUTPUT / "tune_log.jsonl"),
        help="your tune log; consulted before the one that ships (default: %(default)s)",
    )
    group.add_argument("--json", action="store_true", help="one JSON document on stdout")


def output_folder(args: argparse.Namespace, model: ModelOptions, target) -> Path:
    """Where a module is built."""
    return args.output or OUTPUT / f"{model.slug}-{target.name}"


def load_target(args: argparse.Namespace):
    """The target asked for, or None after ``--target list`` has been answered."""
    from . import targets
    from .console import print_json, print_table
    from .table import Detail

    if args.target != "list":
        return targets.load(args.target)
    known = [targets.load(name) for name in targets.names()]
    if getattr(args, "json", False):
        print_json(known)
    else:
        print_table(
            ("target", "board", "core", "cores", "MHz", Detail("triple")),
            [(t.name, t.title, t.core.name, t.cores, round(t.clock_hz / 1e6), t.llvm_triple) for t in known],
        )
    return None


def board_for(args: argparse.Namespace, target) -> str:
    """The board asked for; by default the virtual one, but this machine itself for what is built for it.

    Raises
    ------
    TvmMobilenetError
        It is no address of a board (``boards.address``).
    """
    from .boards import address

    default = "local" if target.is_host else "virtual"
    return address.parse(default if args.board is None else args.board).text


def positive(kind: type):
    """An argparse type: a finite number above zero."""

    def parse(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__doc__ = f"An argparse type: a {'whole number' if kind is int else 'number'} above zero"
    return parse


def numbers(text: str) -> tuple[int, ...]:
    """An argparse type: whole numbers from zero with commas, none twice."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 0 or len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different numbers; try 0,1")
    return found


def counts(text: str) -> tuple[int, ...]:
    """An argparse type: as ``numbers``, from one."""
    found = numbers(text)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: one at least")
    return found


def percentage(text: str) -> float:
    """An argparse type: a percentage such as 5%

    Returned as a fraction, 0.05; the sign may be left out.
    """
    value = float(text.removesuffix("%"))
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage; try 5%")
    return value / 100


def resolution(text: str) -> int:
    """An argparse type: a positive multiple of 32."""
    value = int(text)
    if value <= 0 or value % 32:
        raise argparse.ArgumentTypeError(
            f"{text} is not a positive multiple of 32; try {max(32, round(value / 32) * 32)}"
        )
    return value


def channel_values(text: str) -> tuple[float, ...]:
    """An argparse type: one number for all channels, or three with commas."""
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one number nor three")
    return values


def fraction(text: str) -> float:
    """An argparse type: above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1; the usual is 0.875")
    return value


def time_span(text: str) -> float:
    """An argparse type: seconds, or ``90s``, ``7m``, ``2h``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; try 90s, 7m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
