"""Packages that the base installation lacks: which one brings each module, and the command that installs it here.

Verbs ask first for all that they will need (``require``), so that none works for minutes and then stops. A remedy works
as it is typed: it names the Python that runs, and the checkout where there is one, because this project is on no index.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError, require_memory, require_to_start


@dataclass(frozen=True)
class Package:
    """What brings a module: the distribution that pip knows, and the extra of pyproject.toml; empty: the base."""

    distribution: str
    extra: str


MODULES = {  # by the name that is imported; a test holds them against pyproject.toml
    "tvm": Package("apache-tvm", ""),
    "tvm_ffi": Package("apache-tvm-ffi", ""),
    "numpy": Package("numpy", ""),
    "rich": Package("rich", ""),
    "torch": Package("torch", "compile"),
    "onnx": Package("onnx", "compile"),
    "google": Package("onnx", "compile"),  # protobuf, which comes with that
    "onnxruntime": Package("onnxruntime", "compile"),
    "safetensors": Package("safetensors", "compile"),
    "PIL": Package("pillow", "compile"),
    "ziglang": Package("ziglang", "compile"),
    "unicorn": Package("unicorn", "compile"),
    "capstone": Package("capstone", "compile"),
    "elftools": Package("pyelftools", "compile"),
    "optuna": Package("optuna", "compile"),
    "tornado": Package("tornado", "rpc"),
    "psutil": Package("psutil", "rpc"),
    "cloudpickle": Package("cloudpickle", "rpc"),
    "vl_convert": Package("vl-convert-python", "report"),
    "distributed": Package("distributed", "cluster"),
    "ncnn": Package("ncnn", "peers"),
    "ai_edge_litert": Package("ai-edge-litert", "peers"),
    "flatbuffers": Package("ai-edge-litert", "peers"),  # it comes with that
    "argcomplete": Package("argcomplete", "completion"),
    "onnxscript": Package("onnxscript", "test"),
    "hypothesis": Package("hypothesis", "test"),
    "pytest": Package("pytest", "test"),
    "xdist": Package("pytest-xdist", "test"),
}
TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"  # a folder that torch makes when it is imported, and nothing here uses
STARTING = ("numpy", "rich")  # what verbs import before they know their arguments
VIRTUAL = ("ziglang", "unicorn", "capstone", "elftools")  # the virtual board
SEARCH = ("optuna",)
ENGINES = {"tvm": "tvm", "onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "ncnn": "ncnn"}  # that bench runs
_SLOW = ("torch", "tvm")  # importing them takes seconds, and whoever needs them imports them first of all


def for_model(model) -> tuple[str, ...]:
    """The modules that read a model: a ``ModelOptions``."""
    plain = {"onnx": ("tvm", "onnx"), "tflite": ("tvm",)}.get(model.file_kind)
    if plain and model.dtype == "float32":
        return plain
    if plain:  # its layers are run on photographs
        return (*plain, "torch", "PIL")
    weights = model.is_file or model.package or str(model.weights or "").lower().endswith(".safetensors")
    return ("tvm", "torch", "safetensors") if weights else ("tvm", "torch")


def for_comparing(model) -> tuple[str, ...]:
    """The modules that compute what a model should give: layers by PyTorch, a file by its framework, photographs."""
    whole = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert",)}.get(model.file_kind, ())
    return (*for_model(model), "torch", *whole, "PIL")


def for_board(address: str) -> tuple[str, ...]:
    """The modules that run kernels on a board, as ``--board`` says it."""
    return ("tvm", *VIRTUAL) if address == "virtual" else ("tvm",)


def for_workers(address: str) -> tuple[str, ...]:
    """The modules that reach a cluster; none of no address."""
    return ("distributed",) if address else ()


def for_pages(wanted: bool) -> tuple[str, ...]:
    """The modules that draw the charts of a page, if one is wanted."""
    return ("vl_convert",) if wanted else ()


def for_linking(linker: str | None) -> tuple[str, ...]:
    """The modules that link kernels: none with a linker of the user's own."""
    return ("tvm",) if linker else ("tvm", "ziglang")


def linker(command: str) -> str:
    """A linker of the user's own; also an argparse type.

    Raises
    ------
    MissingDependencyError
        There is no such program.
    """
    if not shutil.which(command):
        raise MissingDependencyError(f"linker {command!r} is not on the PATH", "leave out --linker to use zig's")
    return command


def outside(name: str, why: str = "") -> MissingDependencyError:
    """The error of a package that no extra brings, whose networks the user names: timm, torchvision.

    Parameters
    ----------
    why : str
        Why it cannot be imported; empty: it is not installed.
    """
    if not why:
        return MissingDependencyError(f"networks of {name} need {name}, which is not installed here", pip_install(name))
    if "torchvision::" in why:
        return MissingDependencyError(
            f"{name} cannot be imported: the torchvision that is installed is built for another torch than this one",
            "install torch and torchvision from one index (docs/guides/installing.md), or export the model where they "
            "fit: --model FILE.onnx, FILE.tflite or FILE.pt2",
        )
    return MissingDependencyError(f"{name} cannot be imported: {why}", pip_install("--upgrade", name))


def require(what: str, *modules: str) -> None:
    """Make sure that modules can be imported, before anything slow begins.

    Parameters
    ----------
    what : str
        That needs them, for the message: ``tune``.

    Raises
    ------
    MissingDependencyError
        Some cannot; all are named, with one command that installs them.
    TvmMobilenetError
        There is too little memory for TVM.
    """
    wanted = dict.fromkeys(modules)
    if absent := {name: why for name in wanted if (why := _absence(name))}:
        raise missing(what, absent)
    if "tvm" in wanted and "tvm" not in sys.modules:
        require_memory()


def missing(what: str, modules: Iterable[str] | dict[str, str]) -> MissingDependencyError:
    """The error of modules that are not there; every error that names an extra is made here.

    Parameters
    ----------
    what : str
        That needs them.
    modules : iterable of str, or dict of str to str
        Names that are imported; with the reason where importing one failed otherwise.
    """
    reasons = modules if isinstance(modules, dict) else dict.fromkeys(modules, "not installed")
    distributions = dict.fromkeys(MODULES[name].distribution for name in reasons)
    broken = [f"; {name} cannot be imported: {why}" for name, why in reasons.items() if why != "not installed"]
    state = "" if broken else f", which {'are' if len(distributions) > 1 else 'is'} not installed here"
    return MissingDependencyError(f"{what} needs {', '.join(distributions)}{state}{''.join(broken)}", remedy(*reasons))


def remedy(*modules: str) -> str:
    """The command that installs what brings modules into the Python that runs; names the checkout's own, if any."""
    root = checkout()
    if root is None:
        return pip_install(*dict.fromkeys(_requirement(name) for name in modules))
    extras = ",".join(dict.fromkeys(MODULES[name].extra for name in modules if MODULES[name].extra))
    where = _short(root) + (f"[{extras}]" if extras else "")
    command = pip_install("-e", where, "-c", _short(root / "constraints.txt"))
    own = root / ".venv" / "bin" / "python"
    if own.exists() and Path(sys.prefix).resolve() != (root / ".venv").resolve():
        return f"run {_short(own)}, which README's command set up, or install it here: {command}"
    return command


COLLECTED = (
    50_000,
    20,
    100,
)  # importing and tracing make a million objects that stay: counting them took 0.5 s a build


def started_as_a_verb() -> None:
    """End with a message where a verb is about to be imported that lacks packages of the base installation, or what
    every process needs.

    `doctor` imports without packages, to say more.
    """
    try:
        require_to_start()
    except TvmMobilenetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    verb = next((word for word in sys.orig_argv if word.startswith("tvm_mobilenet.")), "")
    os.environ.update(without_torch_folder())
    gc.set_threshold(*COLLECTED)
    absent = [name for name in STARTING if importlib.util.find_spec(name) is None]
    if absent and verb not in ("", "tvm_mobilenet.doctor"):
        error = missing(verb.removeprefix("tvm_mobilenet."), absent)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code)


def without_torch_folder() -> dict[str, str]:
    """Of the environment of a process that imports torch: the folder for what it would compile, which is there."""
    with contextlib.suppress(OSError):  # there is no temporary folder
        return {TORCH_CACHE: os.environ.get(TORCH_CACHE) or tempfile.gettempdir()}
    return {}


def missing_dependency(error: BaseException) -> MissingDependencyError | None:
    """The error of a package that an extra would have installed, or None when ``error`` is another."""
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return missing("this", [name]) if name in MODULES else None


def pip_install(*words: str) -> str:
    """The command of a ``pip install`` into the Python that runs, as a shell takes it."""
    python = shlex.quote(_short(Path(sys.executable)))
    ensure = "" if importlib.util.find_spec("pip") else f"{python} -m ensurepip && "
    return f"{ensure}{python} -m pip install {shlex.join(words)}"


def checkout() -> Path | None:
    """The folder of this project's checkout, when that is what runs; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    return root if re.search(r'^name = "tvm-mobilenet"$', text, re.MULTILINE) else None


def _absence(name: str) -> str:
    """Why a module cannot be imported; empty when it can."""
    try:
        if importlib.util.find_spec(name) is None:
            return "not installed"
        if name not in _SLOW:
            importlib.import_module(name)
    except ModuleNotFoundError as e:
        return "not installed" if e.name in (None, name) else f"it needs {e.name}, which is not installed"
    except Exception as e:  # a library that it needs is missing, or it is built for another version of one
        return " ".join(f"{type(e).__name__}: {e}".split())[:200]
    return ""


def _requirement(name: str) -> str:
    """A module's distribution with the versions that this project asks for, as its metadata has them."""
    distribution = MODULES[name].distribution
    try:
        lines = importlib.metadata.requires("tvm-mobilenet") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    plain = distribution.replace("_", "-").lower()
    for line in lines:
        if (match := re.match(r"([\w.-]+)\s*([^;\[]*)", line)) and match[1].replace("_", "-").lower() == plain:
            return distribution + match[2].strip().strip("()").replace(" ", "")
    return distribution


def _short(path: Path) -> str:
    """A path as one types it: from the current folder where it is inside that."""
    path = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
