"""Same input, same bytes: two builds that differ in folder, CPU capabilities, threads and hash seed are one file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mobilenet.bundle import pack as bundle

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("tvm_mobilenet", "schedules", "targets", "tune_logs")
PLAIN = {  # what PyTorch, oneDNN, MKL, OpenBLAS and NumPy take for the CPU
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Prescott",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "1",
    "LC_ALL": "C",
    "TZ": "Asia/Tokyo",
}
OWN = {"MKL_CBWR": "AUTO", "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "77"}


def numpy_without_its_fast_paths() -> dict[str, str]:
    """What NumPy would find of this CPU beyond its baseline."""
    from numpy._core import _multiarray_umath as m

    return {"NPY_DISABLE_CPU_FEATURES": " ".join(f for f in m.__cpu_dispatch__ if m.__cpu_features__.get(f))}


def started(folder: Path, out: Path, settings: dict[str, str], arguments: tuple[str, ...]):
    """A build of a copy of the sources, in its folder."""
    for source in SOURCES:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    unset = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONPATH", *PLAIN}
    environment = {k: v for k, v in os.environ.items() if k not in unset} | settings
    command = (sys.executable, "-m", "tvm_mobilenet.build", *arguments, "--output", folder / "out", "--bundle", out)
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.full
@pytest.mark.parametrize(
    "arguments",
    [
        ("--target", "armv7", "--alpha", "0.25", "--resolution", "32", "--dtype", "int8", "--io", "uint8"),
        ("--target", "rpi5", "--model", "v3-small", "--alpha", "0.35", "--resolution", "32", "--dtype", "int8"),
        ("--target", "host", "--model", "v2", "--alpha", "0.35", "--resolution", "32"),
    ],
    ids=" ".join,
)
def test_same_input_same_bytes(tmp_path, arguments):
    builds = [
        started(tmp_path / "a", tmp_path / "a.tar.gz", PLAIN | numpy_without_its_fast_paths(), arguments),
        started(tmp_path / "another place", tmp_path / "b.tar.gz", OWN, arguments),
    ]
    for build in builds:
        said, _ = build.communicate()
        assert build.returncode == 0, said.decode()
    assert all((tmp_path / n / "tvm_mobilenet/__pycache__").is_dir() for n in ("a", "another place"))
    one, other = (bundle.read(tmp_path / n).files for n in ("a.tar.gz", "b.tar.gz"))
    assert {n for n in one.keys() | other.keys() if one.get(n) != other.get(n)} == set()
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


@pytest.mark.full
def test_v1_in_int8_is_small(tmp_path):
    """Library and weights of v1 1.0-224, which has 4.2 million parameters; sizes do not depend on scales."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.compiler import pipeline
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.models.options import ModelOptions
    from tvm_mobilenet.passes.quantize import ASSUMED

    network = load_network(ModelOptions(model="v1", dtype="int8", io="uint8", decided=ASSUMED))
    for target in ("rpi4", "rpi5"):
        module = pipeline.compile(network, targets.load(target)).write(tmp_path / target)
        library = (tmp_path / target / "libmobilenet.so").stat().st_size
        assert 4.2e6 < module.plan.parameters_bytes + library < 4.6e6, target
