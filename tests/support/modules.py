"""Built modules and a benchmark that several test files share: modules are made once in a run, by whichever of its
processes needs one first, the benchmark once in a process. No test may change them; no test's patches reach them."""

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support import patches
from tests.support.sealing import seal
from tvm_mobilenet import bench, build, targets
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.models.options import ModelOptions

MODEL = ModelOptions(model="v1", alpha=0.25, resolution=32, classes=10)


def root() -> Path:
    """The folder of a run of the tests, which conftest.py makes; of this process where no tests run."""
    if "TVM_MOBILENET_TEST_MODULES" not in os.environ:
        folder = os.environ["TVM_MOBILENET_TEST_MODULES"] = tempfile.mkdtemp(prefix="tvm_mobilenet_test_")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ["TVM_MOBILENET_TEST_MODULES"])


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` fills; if it fails, the next who asks tries again."""
    done = folder.with_name(f"{folder.name}.done")
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            with patches.without():
                make(folder)
            done.touch()
    return folder


@functools.cache
@patches.without()
def network(options: ModelOptions):
    """A network, loaded once in a process."""
    return load_network(options)


@functools.cache
def small(target: str = "host") -> Path:
    """MobileNet v1 0.25 at 32 pixels: 28 layers, 0.9 MB of parameters; on this machine with TVM's executable."""
    return once(
        root() / target,
        lambda folder: build.build(
            MODEL, targets.load(target), output=folder, network=network(MODEL), tvm_executable=target == "host"
        ),
    )


def small_of(*names: str) -> Path:
    """The folder that has the small network for each of several targets, by its name."""
    for name in names:
        small(name)
    return root()


@functools.cache
def tiny(target: str = "host", width: int = 16, executable: bool = True) -> Path:
    """A network of five layers from a file of the user's own, with TVM's executable unless told otherwise: its
    compiler takes a second for each megabyte of parameters. The dense layer has 64 times ``width`` weights.
    """
    options = tiny_options(width)
    return once(
        root() / f"tiny-{target}-{width}{'' if executable else '-plain'}",
        lambda folder: build.build(
            options, targets.load(target), output=folder, network=network(options), tvm_executable=executable
        ),
    )


def without_executable(folder: Path, copy: Path) -> Path:
    """A copy of a built module as ``build`` without ``--tvm`` writes it."""
    shutil.copytree(folder, copy)
    (copy / built.EXECUTABLE).unlink()
    seal(copy, lambda data: data["files"].pop(built.EXECUTABLE))
    return copy


@functools.cache
def tiny_options(width: int = 16) -> ModelOptions:
    """The file of that network."""
    return ModelOptions(model=str(once(root() / f"tiny-{width}.pt2", lambda path: _write_tiny(path, width))))


def _write_tiny(path: Path, width: int) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.ReLU6(),
        nn.Conv2d(8, 64, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, width),
    )
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 32, 32),)), path)


@functools.cache
@patches.without()
def measured():
    """A benchmark of the small network on this machine."""
    return bench.bench(small("host"), board="local", threads=(1, 2), seconds=0.3, cool_down=0)
