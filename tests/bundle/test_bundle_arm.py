"""The same bundle on ARM, executed by qemu: the program, the library and the self-test as they would run on a board."""

import re
import subprocess

import numpy as np
import pytest

from tests.support import bundles
from tvm_mobilenet import ship
from tvm_mobilenet.models.preprocess import sample_images


def emulated(target: str):
    made_for = "armv7" if target == "armv7" else "aarch64"
    command = bundles.emulator(made_for)
    if command is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross libc6-armhf-cross")
    return command, bundles.made(target, resolution=32)


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=1200)


@pytest.mark.parametrize(
    "target",
    [
        "rpi4",
        pytest.param("armv7", marks=pytest.mark.full),
        pytest.param("arm", marks=pytest.mark.full),
        pytest.param("rpi3", marks=pytest.mark.full),
        pytest.param("rpi5", marks=pytest.mark.full),
    ],
)
def test_on_arm(target, tmp_path):
    """5 runs and a photograph; the difference is the one that the virtual board found, so memory stays as it is."""
    command, made = emulated(target)
    program = made.folder / "mobilenet"
    done = run(*command, program, "selftest", "--threads", 2)
    assert done.returncode == 0 and done.stdout.startswith("passed"), done
    assert run(*command, program, "bench", "--runs", 5, "--threads", 3).returncode == 0
    from PIL import Image

    with Image.open(sample_images()[0]) as image:
        image.convert("RGB").save(tmp_path / "x.ppm")
    found = run(*command, program, "classify", tmp_path / "x.ppm")
    logits = made.network.reference(made.network.inputs(1))[0][0][0][0]
    score, share, _, name = found.stdout.split("\n")[0].split(maxsplit=3)
    softmax = 1 / np.exp(logits - logits.max()).sum()
    assert name == f"class {logits.argmax()}  thing {logits.argmax()}"
    assert abs(float(score) - logits.max()) < 1e-3 and abs(float(share) / 100 - softmax) < 1e-3
    assert "weights are seeded random numbers" in found.stderr
    shipped = ship.ship(made.bundle, ship.Destination.parse(str(tmp_path / "board")), runner=" ".join(command))
    assert shipped.ok, shipped.error


@pytest.mark.full
def test_no_wake_up_is_lost():
    """Threads that meet 30,000 times: a barrier missing between two atomics stopped one of 300 such runs for ever."""
    command, made = emulated("arm")
    assert run(*command, made.folder / "mobilenet", "bench", "--runs", 1000, "--threads", 3).returncode == 0


@pytest.mark.full
def test_the_largest_model_on_32_bits(tmp_path):
    """v1 1.0 for ARMv7: tested by its own program, and small enough."""
    command = bundles.emulator("armv7")
    if command is None:
        pytest.skip("needs apt-get install qemu-user libc6-armhf-cross")
    made = bundles.made("armv7", alpha=1.0, resolution=96)
    assert len(made.bundle.files["libmobilenet.so"]) <= 1_500_000
    done = run(*command, made.folder / "mobilenet", "selftest", "--threads", 2)
    assert done.returncode == 0 and done.stdout.startswith("passed"), done


@pytest.mark.full
def test_a_core_without_the_features_is_told_so():
    """A Pi 5's build on a Pi 4: an error, not an illegal instruction."""
    command, made = emulated("rpi5")
    done = run(*command, "-cpu", "cortex-a72", made.folder / "mobilenet", "info")
    assert done.returncode == 1 and re.search("this CPU has no .* which a build for rpi5 needs", done.stderr)


HALF = [  # a target each: the same code but for what LLVM is told of the core
    ("arm82", "v1", 0.5, 64),
    ("rpi5", "v2", 1.4, 32),
    ("arm82", "v3-small", 0.75, 64),
]


@pytest.mark.parametrize(
    "target, model, alpha, resolution",
    [
        *(pytest.param(*cell, marks=pytest.mark.full) for cell in [("rpi5", "v1", 0.25, 32), *HALF]),
    ],
)
def test_float16_on_cpus_that_have_it_and_not_on_others(target, model, alpha, resolution):
    """Every value as its layers give it step by step, on a Neoverse N1; a Cortex-A72 is told what it lacks."""
    command = bundles.emulator("aarch64")
    if command is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross")
    made = bundles.made(target, model=model, alpha=alpha, resolution=resolution, dtype="float16")
    program = made.folder / "mobilenet"
    done = run(command[0], "-cpu", "neoverse-n1", *command[1:], program, "selftest", "--threads", 2)
    assert done.returncode == 0 and "float16" in done.stdout and "difference 0.00e+00" in done.stdout, done
    done = run(command[0], "-cpu", "cortex-a72", *command[1:], program, "selftest")
    assert (done.returncode, done.stdout) == (1, "") and "this CPU has no fphp" in done.stderr, done
    assert done.stderr.endswith(f"a build for {target} needs: build with --target arm and without --dtype float16\n")
    manifest = made.bundle.manifest
    assert manifest["model"]["dtype"] == "float16" and manifest["error"]["found"] == 0
    weights = sum(c.weight.size for c in made.network.layers if c.weight is not None)
    assert 2 * weights < manifest["bytes"]["weights"] < 2.3 * weights + 100_000
    assert {t[2] for t in (*manifest["inputs"], *manifest["outputs"])} == {"float32"}
