"""The options that verbs share, so that a flag has one meaning in all of them: model, input, target and output."""

from __future__ import annotations

import argparse
import math
import re
import warnings
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.cli.precision_options import add_precision_options
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.reading import NO_FILE
from tvm_mobilenet.files.whole_file import folder_to_write, journal_file
from tvm_mobilenet.models.options import DTYPES, MOST_SEED, ModelOptions
from tvm_mobilenet.models.registry import short_names

OUTPUT = Path("out")  # default folder of the verbs' files
LOG = OUTPUT / "tune_log.jsonl"
BOARDS = (
    "virtual, local, rpc://host:port, tracker://host:port/key, ssh://user@host "
    "(default: local for this machine, else virtual)"
)


def add_model_options(
    parser: argparse.ArgumentParser, inputs: bool = True, seed: bool = True, precision: bool = True
) -> None:
    """Add the flags of `ModelOptions`. ``inputs`` adds those that say how an image becomes its input; ``precision``
    adds those of the dtypes in which layers compute.

    A default is None if a file may have its own value: `ModelOptions` fills in the defaults of a network by name.
    """
    default = ModelOptions()
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=default.model,
        metavar="NAME|FILE",
        help=f"{', '.join(short_names())}, an .onnx, .tflite or .pt2 file, timm:NAME, torchvision:NAME, or "
        "FILE.py:FUNCTION, which runs that program (default: %(default)s)",
    )
    group.add_argument("--alpha", type=positive(float), help=f"width multiplier (default: {default.alpha})")
    group.add_argument(
        "--resolution",
        type=image_size,
        metavar="PIXELS|HxW",
        help="height and width of the input in pixels: a multiple of 32, or of a file that leaves its sizes "
        f"open, any (default: {default.resolution}, or as the file has it)",
    )
    group.add_argument("--classes", type=positive(int), help=f"number of classes (default: {default.classes})")
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE|WORD",
        help="a .pth or .safetensors file with the keys of torchvision (v2, v3) or timm (all others); imagenet: "
        "published weights, downloaded once; random: an untrained timm: or torchvision: network (default: "
        "seeded random weights, or a package's own)",
    )
    if seed:
        group.add_argument(
            "--seed",
            type=seed_number,
            help=f"seed of the random weights that stand in for --weights (default: {default.seed})",
        )
    group.add_argument(
        "--batch",
        type=positive(int),
        help=f"images at once; fixes a batch that a file leaves open (default: {default.batch}, or as the file has it)",
    )
    group.add_argument(
        "--signature", metavar="NAME", help="which network of a .tflite file that has several (default: its first one)"
    )
    add_trust(group)
    group.add_argument("--features", action="store_true", help="build the backbone without pool and classifier")
    if precision:
        add_precision_options(parser.add_argument_group("precision"), inputs)
    if inputs:
        add_image_options(parser.add_argument_group("input"))


def add_trust(group) -> None:
    """``--trust-file``, of verbs that read a model's file."""
    group.add_argument(
        "--trust-file",
        action="store_true",
        help="of a .pt2 file: read it in this process even if it was refused, which can run any "
        "program; of a build: run the FILE.py that made its model",
    )


def add_image_options(group) -> None:
    """Add the flags that say how an image becomes the input, and the names of classes."""
    from tvm_mobilenet.models import preprocess

    group.add_argument(
        "--input",
        type=Path,
        metavar="IMAGE",
        help="an image for calibration and comparison (default: the photograph that ships)",
    )
    group.add_argument(
        "--mean",
        type=channel_values,
        metavar="R,G,B",
        help="subtracted from pixels that are scaled to 0..1: one number, or one for each channel (default: the "
        "model's; for a file, 0.5)",
    )
    group.add_argument(
        "--std", type=deviations, metavar="R,G,B", help="divisor of that difference, above 0 (default: likewise)"
    )
    group.add_argument(
        "--resize",
        choices=preprocess.RESIZES,
        help="shortest: images keep their proportions, as torchvision's Resize(256); squash: both sides become "
        "the network's, as Resize((224, 224)) (default: shortest)",
    )
    group.add_argument(
        "--crop",
        type=fraction,
        metavar="FRACTION",
        help="share of the resized image that the network sees, its centre (default: 0.875; with --resize squash, 1)",
    )
    group.add_argument(
        "--interpolation",
        choices=preprocess.INTERPOLATIONS,
        help="how pixels are resized (default: the model's; for a file, bilinear)",
    )
    group.add_argument(
        "--layout", choices=preprocess.LAYOUTS, help="layout of a file's input (default: as its graph reads it)"
    )
    group.add_argument(
        "--channel-order",
        choices=preprocess.CHANNEL_ORDERS,
        help="order of colours that the network takes (default: RGB)",
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="file of class names, one in each line")


def model_options(args: argparse.Namespace, target=None) -> ModelOptions:
    """The options that a user gave on the command line, checked by `requests.checked`."""
    from tvm_mobilenet.cli.requests import checked

    values = {name: getattr(args, name) for name in ModelOptions.__dataclass_fields__ if hasattr(args, name)}
    values["calibrate"] = tuple(values.get("calibrate") or ())
    return checked(ModelOptions(**values), target, args.given)


def add_target_options(parser: argparse.ArgumentParser, board: bool = True) -> None:
    """``--target``, ``--linker`` and, for verbs that run code, ``--board``."""
    group = parser.add_argument_group("target")
    group.add_argument(
        "--target",
        default="arm",
        metavar="NAME|FILE",
        help="the board to build for, by name or TOML file; `list` shows the names (default: %(default)s)",
    )
    group.add_argument(
        "--linker",
        type=packages.linker,
        metavar="COMMAND",
        help="command that links, such as aarch64-linux-gnu-gcc (default: zig's, which is installed with this package)",
    )
    if board:
        add_board(group)


def add_board(parser) -> None:
    """``--board`` and ``--trust-network``."""
    parser.add_argument("--board", metavar="ADDRESS", help=f"where the code runs: {BOARDS}")
    parser.add_argument(
        "--trust-network",
        action="store_true",
        help="without a token, trust an rpc:// or tracker:// address beyond this machine to be your board",
    )


def add_runtime(parser) -> None:
    """``--runtime``, of verbs that measure."""
    parser.add_argument(
        "--runtime",
        choices=("own", "tvm"),
        default="own",
        help="runtime that calls the kernels: own ships in bundles; tvm is TVM's, after `build --tvm` (default: own)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """``--output``, ``--log``, ``--json``."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=folder_to_write, metavar="FOLDER", help=f"folder of the build (default: {OUTPUT}/MODEL-TARGET)"
    )
    group.add_argument(
        "--log",
        type=journal_file,
        metavar="FILE",
        default=str(LOG),
        help="your tune log, which takes precedence over the one that ships (default: %(default)s)",
    )
    group.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def log_to_read(args: argparse.Namespace) -> Path:
    """The user's tune log, for verbs that only read it; a warning if it is named and does not exist."""
    if args.log != LOG and not args.log.exists():
        warnings.warn(f"--log {args.log}: {NO_FILE}; the tune log that ships decides", stacklevel=2)
    return args.log


def output_folder(args: argparse.Namespace, model: ModelOptions, target) -> Path:
    """The folder of a built module.

    Raises
    ------
    TvmMobilenetError
        A build would replace a file there that is not of a build.
    """
    from tvm_mobilenet.compiler.build_identity import refuse_others_files

    folder = args.output or OUTPUT / f"{model.slug}-{target.name}"
    refuse_others_files(folder)
    return folder


def load_target(args: argparse.Namespace):
    """The requested target, or None after the answer to ``--target list``."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.targets import stored
    from tvm_mobilenet.terminal.console import print_json, print_table
    from tvm_mobilenet.terminal.table import Detail

    if args.target != "list":
        target = targets.load(args.target)
        if target.file and target.core.model:  # a user's own board needs its core's cost model too
            from tvm_mobilenet.boards.cost.core_model import CoreModel

            CoreModel.of(target.core)
        return target
    known = [targets.load(name) for name in targets.names()]

    def computed(target) -> str:
        return ", ".join(dtype for dtype in DTYPES if target.computes(dtype))

    if getattr(args, "json", False):
        print_json([stored.to_data(target) for target in known])
    else:
        print_table(
            ("target", "board", Detail("core"), "cores", "MHz", "computes", Detail("triple")),
            [
                (t.name, t.title, t.core.name, t.cores, round(t.clock_hz / 1e6), computed(t), t.llvm_triple)
                for t in known
            ],
        )
    return None


def board_for(args: argparse.Namespace, target) -> str:
    """The requested board; by default the virtual one, or this machine for a build of ``host``.

    Raises
    ------
    TvmMobilenetError
        The address has no valid form (``boards.address``), or it is a tracker's and the user did not say to trust it.
    """
    from tvm_mobilenet.boards import address, own

    where = address.parse(own(target) if args.board is None else args.board)
    if args.trust_network:
        where = where.trusting()
    where.check_tracker()
    return where.text


def positive(kind: type):
    """An argparse type: a finite number above zero."""

    def parse(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__doc__ = f"An argparse type: a {'whole number' if kind is int else 'number'} above zero"
    return parse


def workers(text: str):
    """An argparse type: a number of processes, or the address of a Dask scheduler."""
    from tvm_mobilenet.cluster import place

    try:
        return place.parse(text)
    except TvmMobilenetError as e:
        raise argparse.ArgumentTypeError(f"{e.message.removeprefix('--workers ')}; {e.hint}") from None


def add_workers(parser, default: str = "2") -> None:
    """Add the flag that says which processes run jobs."""
    parser.add_argument(
        "--workers",
        type=workers,
        default=default,
        metavar="N|dask://HOST:PORT",
        help="number of processes on this machine, or a Dask cluster: docs/guides/cluster.md (default: %(default)s)",
    )


def numbers(text: str) -> tuple[int, ...]:
    """An argparse type: whole numbers from zero with commas, none twice."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 0 or len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different numbers; try 0,1")
    return found


def dtypes(text: str) -> tuple[str, ...]:
    """An argparse type: dtypes in which layers compute, with commas, none twice."""
    found = tuple(text.split(","))
    if wrong := [name for name in found if name not in DTYPES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(DTYPES)}")
    if len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text!r} names one twice")
    return found


def counts(text: str) -> tuple[int, ...]:
    """An argparse type: whole numbers above zero with commas, none twice."""
    found = numbers(text)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: at least one is needed")
    return found


def percentage(text: str) -> float:
    """An argparse type: a percentage such as 5%

    Returned as a fraction, 0.05; the sign may be left out.
    """
    value = float(text.removesuffix("%"))
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage; try 5%")
    return value / 100


def image_size(text: str) -> int | tuple[int, int]:
    """An argparse type: pixels, or ``192x256`` for height and width."""
    sides = tuple(int(part) for part in text.lower().split("x"))
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; try 224, or 192x256 for height and width")
    return sides[0] if len(set(sides)) == 1 else sides


def channel_values(text: str) -> tuple[float, ...]:
    """An argparse type: one number for all channels, or three with commas."""
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one number nor three")
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers must be finite")
    return values


def deviations(text: str) -> tuple[float, ...]:
    """An argparse type: one number above 0 for all channels, or three with commas."""
    values = channel_values(text)
    if min(values) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: pixels are divided by it, it must be above 0")
    return values


def seed_number(text: str) -> int:
    """An argparse type: a whole number from 0, below 2 to the 63rd"""
    value = int(text)
    if not 0 <= value <= MOST_SEED:
        raise ValueError
    return value


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; try 90s, 7m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
