"""Packages that the base installation lacks: the package of each module, and the command that installs it here.

Verbs first check all modules that they will need (``require``), so that none runs for minutes and then stops. A remedy
works as printed: it names the running Python, and the checkout if there is one, because this project is on no package
index.
"""

from __future__ import annotations

import atexit
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError, require_memory, require_to_start


@dataclass(frozen=True)
class Package:
    """The package of a module: its distribution on pip, and the extra of pyproject.toml; empty for the base."""

    distribution: str
    extra: str


MODULES = {  # by import name; a test compares them with pyproject.toml
    "tvm": Package("apache-tvm", ""),
    "tvm_ffi": Package("apache-tvm-ffi", ""),
    "numpy": Package("numpy", ""),
    "rich": Package("rich", ""),
    "torch": Package("torch", "compile"),
    "onnx": Package("onnx", "compile"),
    "google": Package("onnx", "compile"),  # protobuf, a dependency of onnx
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
    "flatbuffers": Package("ai-edge-litert", "peers"),  # a dependency of it
    "argcomplete": Package("argcomplete", "completion"),
    "onnxscript": Package("onnxscript", "test"),
    "hypothesis": Package("hypothesis", "test"),
    "pytest": Package("pytest", "test"),
    "xdist": Package("pytest-xdist", "test"),
}
TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"  # torch creates this folder at import; nothing here uses it
STARTING = ("numpy", "rich")  # modules that verbs import before they parse arguments
VIRTUAL = ("ziglang", "unicorn", "capstone", "elftools")  # the virtual board
SEARCH = ("optuna",)
ENGINES = {"tvm": "tvm", "onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "ncnn": "ncnn"}  # that bench runs
_SLOW = ("torch", "tvm")  # their import takes seconds, and code that needs them imports them first


def for_model(model) -> tuple[str, ...]:
    """The modules that read a model: a ``ModelOptions``."""
    plain = {"onnx": ("tvm", "onnx"), "tflite": ("tvm",)}.get(model.file_kind)
    if plain and model.dtype == "float32":
        return plain
    if plain:  # its layers run on photographs
        return (*plain, "torch", "PIL")
    weights = model.is_file or model.package or str(model.weights or "").lower().endswith(".safetensors")
    return ("tvm", "torch", "safetensors") if weights else ("tvm", "torch")


def for_comparing(model) -> tuple[str, ...]:
    """The modules for a model's expected outputs: PyTorch for layers, the framework of a file, and photographs."""
    whole = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert",)}.get(model.file_kind, ())
    return (*for_model(model), "torch", *whole, "PIL")


def for_board(address: str) -> tuple[str, ...]:
    """The modules that run kernels on the board of ``--board``."""
    return ("tvm", *VIRTUAL) if address == "virtual" else ("tvm",)


def for_workers(address: str) -> tuple[str, ...]:
    """The modules that reach a cluster; none for an empty address."""
    return ("distributed",) if address else ()


def for_pages(wanted: bool) -> tuple[str, ...]:
    """The modules that draw the charts of a page, if one is wanted."""
    return ("vl_convert",) if wanted else ()


def for_linking(linker: str | None) -> tuple[str, ...]:
    """The modules that link kernels: none if the user gives a linker."""
    return ("tvm",) if linker else ("tvm", "ziglang")


def zig(what: str, *arguments: str) -> list[str]:
    """A command of zig: of the program in its package, without the Python interpreter of ``python -m ziglang``.

    Parameters
    ----------
    what : str
        The user of zig, for the message: ``linking``.

    Raises
    ------
    MissingDependencyError
        Its package is not installed.
    """
    try:
        import ziglang
    except ImportError:
        raise missing(what, ["ziglang"]) from None
    program = Path(ziglang.__file__).with_name("zig")
    return [*([str(program)] if program.is_file() else [sys.executable, "-m", "ziglang"]), *arguments]


def linker(command: str) -> str:
    """A linker that the user gives; also an argparse type.

    Raises
    ------
    MissingDependencyError
        There is no such program.
    """
    if not shutil.which(command):
        raise MissingDependencyError(f"linker {command!r} is not on the PATH", "leave out --linker to use zig's")
    return command


def outside(name: str, why: str = "") -> MissingDependencyError:
    """The error of a package that belongs to no extra, but whose networks the user names: timm, torchvision.

    Parameters
    ----------
    why : str
        The reason why it cannot be imported; empty if it is not installed.
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
        The user of the modules, for the message: ``tune``.

    Raises
    ------
    MissingDependencyError
        Some cannot be imported; the message names all, with one command that installs them.
    TvmMobilenetError
        There is too little memory for TVM.
    """
    wanted = dict.fromkeys(modules)
    if absent := {name: why for name in wanted if (why := _absence(name))}:
        raise missing(what, absent)
    if "tvm" in wanted and "tvm" not in sys.modules:
        require_memory()
        import_tvm()  # PyTorch, if it is needed, takes its time later


def import_tvm() -> None:
    """Import TVM and its RPC without PyTorch, which can still be imported later.

    TVM's FFI imports PyTorch if it is installed, to pass its tensors a little faster. That takes three quarters of the
    time of importing TVM, and 200 MB. Code that runs, measures or serves kernels does not need it. Code that needs it
    imports it after TVM, which is faster: TVM's import raises and catches an error, and for its traceback the FFI lists
    the symbols of all libraries that are loaded.

    Call it before there are threads that import.
    """
    hidden = not {"torch", "tvm_ffi"} & set(sys.modules)
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it fails as if it were not installed
    try:
        with _listed_once():
            import tvm.rpc  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


@contextlib.contextmanager
def _listed_once() -> Iterator[None]:
    """TVM's import takes a fifth less CPU time inside.

    For each of 50 modules TVM lists its 2,000 global functions; here only if their number has changed.
    """
    from tvm_ffi import registry

    list_names = registry.list_global_func_names
    listed: list[str] = []

    def names() -> list[str]:
        if len(listed) != registry.get_global_func("ffi.FunctionListGlobalNamesFunctor")()(-1):
            listed[:] = list_names()
        return listed

    registry.list_global_func_names = names
    try:
        yield
    finally:
        registry.list_global_func_names = list_names


def missing(what: str, modules: Iterable[str] | dict[str, str]) -> MissingDependencyError:
    """The error of missing modules; every error that names an extra is made here.

    Parameters
    ----------
    what : str
        The user of the modules.
    modules : iterable of str, or dict of str to str
        Import names; with the reason of each that failed for another reason than being absent.
    """
    reasons = modules if isinstance(modules, dict) else dict.fromkeys(modules, "not installed")
    distributions = dict.fromkeys(MODULES[name].distribution for name in reasons)
    broken = [f"; {name} cannot be imported: {why}" for name, why in reasons.items() if why != "not installed"]
    state = "" if broken else f", which {'are' if len(distributions) > 1 else 'is'} not installed here"
    return MissingDependencyError(f"{what} needs {', '.join(distributions)}{state}{''.join(broken)}", remedy(*reasons))


def remedy(*modules: str) -> str:
    """The command that installs the packages of modules into the running Python; it names the checkout's own Python, if
    any.
    """
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
    """Exit with a message before a verb is imported, if the base installation lacks packages, or the process lacks
    resources.

    `doctor` imports without packages, to report more.
    """
    try:
        require_to_start()
    except TvmMobilenetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    verb = next((word for word in sys.orig_argv if word.startswith("tvm_mobilenet.")), "")
    os.environ.update(without_torch_folder())
    collect_rarely()
    absent = [name for name in STARTING if importlib.util.find_spec(name) is None]
    if absent and verb not in ("", "tvm_mobilenet.doctor"):
        error = missing(verb.removeprefix("tvm_mobilenet."), absent)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code)


def collect_rarely() -> None:
    """Look for cycles in memory rarely, and not at the end, when all memory goes with the process: for a process of
    this project's own that imports TVM or torch.
    """
    gc.set_threshold(*COLLECTED)
    atexit.register(gc.freeze)


def without_torch_folder() -> dict[str, str]:
    """An environment variable for a process that imports torch: an existing folder for its compiled code."""
    with contextlib.suppress(OSError):  # no temporary folder exists
        return {TORCH_CACHE: os.environ.get(TORCH_CACHE) or tempfile.gettempdir()}
    return {}


def missing_dependency(error: BaseException) -> MissingDependencyError | None:
    """The error of a missing package that an extra would install, or None if ``error`` is another error."""
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return missing("this", [name]) if name in MODULES else None


def pip_install(*words: str) -> str:
    """The shell command of a ``pip install`` into the running Python."""
    python = shlex.quote(_short(Path(sys.executable)))
    ensure = "" if importlib.util.find_spec("pip") else f"{python} -m ensurepip && "
    return f"{ensure}{python} -m pip install {shlex.join(words)}"


def checkout() -> Path | None:
    """The folder of this project's checkout, if the code runs from it; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    return root if re.search(r'^name = "tvm-mobilenet"$', text, re.MULTILINE) else None


def _absence(name: str) -> str:
    """The reason why a module cannot be imported; empty if it can."""
    try:
        if importlib.util.find_spec(name) is None:
            return "not installed"
        if name not in _SLOW:
            importlib.import_module(name)
    except ModuleNotFoundError as e:
        return "not installed" if e.name in (None, name) else f"it needs {e.name}, which is not installed"
    except Exception as e:  # a library that it needs is missing or of another version
        return " ".join(f"{type(e).__name__}: {e}".split())[:200]
    return ""


def _requirement(name: str) -> str:
    """A module's distribution with the versions that this project requires, from its metadata."""
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
    """A path as a user would type it: relative if it is inside the current folder."""
    path = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
