"""Bundles that several test files share, each made once in a run. No test may change them."""

import functools
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import modules, patches
from tvm_mobilenet import build, targets
from tvm_mobilenet.bundle import pack as bundle
from tvm_mobilenet.compiler import library
from tvm_mobilenet.models.options import ModelOptions

RUNTIME = Path(bundle.__file__).parents[1] / "runtime"
C_TESTS = Path(__file__).parent / "c"
SYSROOTS = {"aarch64": Path("/usr/aarch64-linux-gnu"), "armv7": Path("/usr/arm-linux-gnueabihf")}
EMULATORS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}


@dataclass(frozen=True)
class Made:
    """A bundle with what it was made of: sources and objects in ``work``, the build in ``built``."""

    bundle: bundle.Bundle
    folder: Path
    work: Path
    built: Path
    options: ModelOptions

    @property
    def network(self):
        """Loaded where a test asks for it: few do, and it takes seconds."""
        return modules.network(self.options)


@functools.cache
@patches.without()
def made(
    target="host",
    alpha: float = 0.25,
    resolution: int = 128,
    classes: int = 1000,
    embed: bool = False,
    executable: bool = False,
    model: str = "v1",
    dtype: str = "float32",
) -> Made:
    """A bundle.

    ``target`` is a name, or a target of one's own; ``executable``: ``.built`` has TVM's, too.
    """
    target = targets.load(target) if isinstance(target, str) else target
    about = (target.name, target.llvm_cpu, alpha, resolution, classes, embed, executable, model, dtype)
    root = modules.root() / ("bundle-" + "-".join(map(str, about)))
    labels = _labels(classes)
    options = ModelOptions(model=model, alpha=alpha, resolution=resolution, classes=classes, labels=labels, dtype=dtype)

    def make(root: Path) -> None:
        (root / "work").mkdir(parents=True, exist_ok=True)
        real = bundle.make
        bundle.make = functools.partial(real, work=root / "work")
        try:
            build.build(
                options,
                target,
                output=root / "built",
                network=modules.network(options),
                bundle=root / "bundle",
                embed_weights=embed,
                tvm_executable=executable,
            )
        finally:
            bundle.make = real

    modules.once(root, make)
    return Made(bundle.read(root / "bundle"), root / "bundle", root / "work", root / "built", options)


def sanitized(made, program: str, sanitizer: str, folder: Path) -> Path:
    """A program of ``tests/support/c`` with runtime, tables and kernels, all but the kernels under a sanitizer.

    ``sanitizer`` may be "none".
    """
    objects = modules.root() / f"{made.folder.parent.name}-{sanitizer.replace(',', '-')}"
    watched = [] if sanitizer == "none" else [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command = ["clang", "-g", "-O1", *watched, "-Wall", "-Wextra", "-Werror", "-I", str(made.work)]

    def make(folder: Path) -> None:
        folder.mkdir()
        units = (*library.SOURCES, "model.c", *(p.name for p in made.work.glob("weights.S")))
        sources = [str(made.work / unit) for unit in units]
        subprocess.run([*command, "-c", *sources], cwd=folder, check=True)

    modules.once(objects, make)
    parts = [C_TESTS / f"{program}.c", *objects.glob("*.o"), made.work / "kernels.o"]
    link = [*command, "-o", folder / program, *parts, "-lm", "-lpthread", "-ldl"]
    done = subprocess.run([*map(str, link)], capture_output=True, text=True)
    if "cannot find" in done.stderr and "clang_rt" in done.stderr:
        pytest.skip("clang's sanitizers are not installed: apt-get install libclang-rt-dev")
    assert done.returncode == 0, done.stderr
    return folder / program


def require_clean(done) -> None:
    """A program that ran under a sanitizer found nothing."""
    found = done.returncode or "Sanitizer" in done.stderr or "runtime error" in done.stderr
    assert not found, (done.returncode, done.stderr[-3000:])


def _labels(classes: int) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "labels.txt").write_text("".join(f"thing {i}\n" for i in range(classes)))

    return modules.once(modules.root() / f"labels-{classes}", make) / "labels.txt"


@functools.cache
def python_interface():
    """The module `mobilenet.py` that travels, loaded from the runtime's sources."""
    spec = importlib.util.spec_from_file_location("mobilenet_on_board", RUNTIME / "mobilenet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emulator(architecture: str) -> list[str] | None:
    """The command that runs a program of this architecture, or None when qemu-user or its libc is not installed."""
    command, root = EMULATORS[architecture], SYSROOTS[architecture]
    return [command, "-L", str(root)] if shutil.which(command) and root.is_dir() else None
