"""Checks of this machine: packages and their pins, TVM itself, linker, emulator, folders of logs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tvm_mobilenet import __version__, packages
from tvm_mobilenet.diagnosis.checks import Checks, Doubt
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError

ROUND_TRIP = (  # without torch, which tvm-ffi would import for seconds
    "import sys; sys.modules['torch'] = None; import tvm; m = tvm.IRModule(); "
    "assert tvm.ir.load_json(tvm.ir.save_json(m)) is not None"
)
PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}  # pyproject.toml's; a test compares
PROBE = "pointwise m32 n32 k32 f32 relu6"  # a kernel for every target, built and run in moments
HOST_SECONDS = 180.0  # for a process to start, and to build and run the probe
LEAST_FREE = 512 << 20  # bytes of disk for logs, modules and temporary files


def check_local(checks: Checks, target, log: Path, linker: str | None, folder: Path) -> None:
    """Run all checks of this machine.

    Parameters
    ----------
    target : targets.Target
        To build for.
    log : path
        The user's tune log.
    linker : str, optional
        In place of zig's.
    folder : path
        The folder that keeps the linked kernel, ``kernel.so``, for a board to run.
    """
    checks.run("python", _python)
    checks.run("packages", lambda: _pinned(PINS))
    checks.run("packages to compile", lambda: _installed("compiling", "compile"))
    checks.run("packages for charts", lambda: _optional("pages with charts", "report"))
    checks.run("packages for trackers", lambda: _optional("TVM's tracker", "rpc"))
    checks.run("other engines", lambda: _engines())
    checks.run("tvm", _tvm, ("packages",))
    checks.run("ffi", _ffi, ("tvm",))
    checks.run("linker", lambda: _link(target, linker, folder), ("tvm", "packages to compile"))
    if target.core.model:
        checks.run("emulator", lambda: _emulate(target, folder), ("linker",))
    checks.run("host", lambda: _host(folder), ("tvm", "packages to compile"))
    checks.run("your tune log", lambda: _writable(log))
    checks.run("shipped tune log", lambda: _shipped(target))
    checks.run("temporary folder", _temporary)
    checks.run("confinement", _confinement)


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        raise MissingDependencyError(f"Python {sys.version.split()[0]}", "use Python 3.11, 3.12 or 3.13")
    return f"{sys.version.split()[0]}, tvm_mobilenet {__version__}"


def _confinement() -> str:
    from tvm_mobilenet.files import landlock

    if not (version := landlock.version()):
        raise Doubt(
            "this kernel has no Landlock: the process that speaks to a board keeps this user's rights",
            "Linux 5.13 or newer, with landlock among its modules; docs/concepts/security.md says why",
        )
    return f"Landlock {version}: the process that speaks to a board opens no file and starts no program"


def installed_version(package: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pinned(pins: dict[str, str]) -> str:
    for package, pin in pins.items():
        if (found := installed_version(package)) != pin:
            why = f"{package} {found} is installed, {pin} is needed" if found else f"{package} is not installed"
            raise MissingDependencyError(why, packages.pip_install(f"{package}=={pin}"))
    return ", ".join(f"{p} {v}" for p, v in pins.items())


def _installed(what: str, extra: str) -> str:
    """The packages of an extra, all installed."""
    modules = {name: one.distribution for name, one in packages.MODULES.items() if one.extra == extra}
    if absent := [name for name, distribution in modules.items() if installed_version(distribution) is None]:
        raise packages.missing(what, absent)
    return ", ".join(f"{p} {installed_version(p)}" for p in dict.fromkeys(modules.values()))


def _optional(what: str, extra: str) -> str:
    try:
        return _installed(what, extra)
    except MissingDependencyError as e:
        raise Doubt(e.message, e.hint) from None


def _engines() -> str:
    known = [packages.MODULES[name].distribution for name in packages.ENGINES.values() if name != "tvm"]
    found = [f"{p} {installed_version(p)}" for p in known if installed_version(p)]
    return ", ".join(found) or "none installed here: bench --against has nothing to run on this machine"


def _tvm() -> str:
    try:
        import tvm
    except ModuleNotFoundError:
        raise
    except Exception as e:  # a library of TVM does not load
        raise MissingDependencyError(
            f"TVM does not load: {' '.join(str(e).split())[:200]}",
            packages.pip_install(f"apache-tvm=={PINS['apache-tvm']}"),
        ) from None
    if not tvm.runtime.enabled("llvm"):
        raise MissingDependencyError("TVM here has no LLVM", packages.pip_install(f"apache-tvm=={PINS['apache-tvm']}"))
    return f"{tvm.__version__}, with LLVM {tvm.get_global_func('target.llvm_version_major')()}"


def _ffi() -> str:
    """Check tvm-ffi in a separate process, which an unsuitable version crashes."""
    try:
        code = subprocess.run([sys.executable, "-c", ROUND_TRIP], capture_output=True, timeout=120).returncode
        how = f"ends with code {code}"
    except subprocess.TimeoutExpired:
        code, how = 1, "does not end"
    if code:
        raise MissingDependencyError(
            f"saving a module {how}: tvm-ffi does not fit TVM",
            packages.pip_install(f"apache-tvm-ffi=={PINS['apache-tvm-ffi']}"),
        )
    return "a module is saved and read again"


def _link(target, linker: str | None, folder: Path) -> str:
    from tvm_mobilenet.compiler import codegen
    from tvm_mobilenet.tuning.builder import Builder

    path = folder / "kernel.so"
    try:
        Builder(target, linker, fresh=True).build(_probe(target), path)
    except TvmMobilenetError as e:  # installed, but it does not work
        raise MissingDependencyError(e.message, e.hint) from None
    name = Path(codegen.linker_command(target, linker)[0]).name
    return f"{name} links for {target.architecture}: a library of {path.stat().st_size:,} bytes"


def _probe(target):
    from tvm_mobilenet import schedules
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.tuning.candidate import Candidate

    return Candidate(PROBE, schedules.space(Layer.parse(PROBE), target.core).default, whole=True)


def run_probe(board, target, folder: Path):
    """The probe's `Outcome` on a board, on one thread where it is measured; a BoardError when it is wrong."""
    from tvm_mobilenet import schedules
    from tvm_mobilenet.boards.comparison import WrongResult
    from tvm_mobilenet.errors import BoardError
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.tuning.builder import Built, operands_of
    from tvm_mobilenet.tuning.runner import Runner

    probe = _probe(target)
    takes = operands_of(schedules.kernel(Layer.parse(probe.layer), probe.decisions))
    try:
        return Runner(one_thread=True).run(Built(probe, str(folder / "kernel.so"), takes=takes), board)
    except WrongResult as e:
        raise BoardError(f"{board.name}: {e}", "is it the target's core? if so, report it with this table") from None


def _emulate(target, folder: Path) -> str:
    from tvm_mobilenet.boards import open_board

    with open_board("virtual", target) as board:
        outcome = run_probe(board, target, folder)
    return (
        f"runs it right ({outcome.difference:.0e} of the standard deviation off): {outcome.cost:,.0f} cycles predicted"
    )


class RunProbe:
    """Runs the probe on this machine; made in doctor's process, called in a worker, which may end with a signal."""

    def __init__(self, target):
        self.target = target

    def __call__(self, folder: Path):
        from tvm_mobilenet.boards import open_board

        with open_board("local", self.target) as board:
            return run_probe(board, self.target, folder)


def _host(folder: Path) -> str:
    """Build a layer for this machine at its level, and run it."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.errors import BoardError
    from tvm_mobilenet.targets import host
    from tvm_mobilenet.tuning.workers import Workers

    target, place = targets.load("host"), folder / "host"
    place.mkdir(exist_ok=True)
    _link(target, None, place)
    with Workers(RunProbe(target), 1) as workers:
        workers.submit(place)
        done = workers.wait(HOST_SECONDS)
    failure = done[0].failure if done else f"nothing after {HOST_SECONDS:g} s"
    if failure:
        raise BoardError(
            f"a layer built for {target.core.name}: {failure}",
            f"{host.VARIABLE} set to a lower level builds for that; build for a board with --target",
        )
    return (
        f"{target.core.name}, vectors of {target.core.vector_bytes} bytes: builds and runs a layer right "
        f"({done[0].value.difference:.0e} of the standard deviation off) in {done[0].value.cost * 1e6:.3g} us"
    )


def _writable(log: Path) -> str:
    folder = next(p for p in (log.parent, *log.absolute().parents) if p.is_dir())
    try:
        with log.open("ab") if log.exists() else tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise TvmMobilenetError(
            f"{log} cannot be written: {e.strerror}", "choose another --log, or change who may write there"
        ) from None
    _room(folder)
    if not log.exists():
        return f"{log} can be written; there is none yet"
    from tvm_mobilenet.tune_logs.log import Journal

    return f"{log}: {sum(1 for _ in Journal(log).records())} records"


def _shipped(target) -> str:
    from tvm_mobilenet.tune_logs.log import Journal, shipped

    path = shipped(target.core.name)
    if not path.is_file():
        return f"none for {target.core.name}: schedules take their defaults"
    return f"{path.name}: {sum(1 for _ in Journal(path).records())} records"


def _temporary() -> str:
    folder = tempfile.gettempdir()
    _room(Path(folder))
    return folder


def _room(folder: Path) -> None:
    import shutil

    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise Doubt(f"{folder}: {free >> 20:,} MiB are free", "make room, or set TMPDIR to a folder that has some")


def same_release(version: str) -> str:
    """A version without its build's suffix: ``0.27.0.post1`` to ``0.27.0``."""
    return re.split(r"\.post|\+|\.dev", version)[0]
