"""Keys of records: what changes the machine code or its estimate expires them, and nothing else does."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("pointwise m49 n32 k16 f32 relu6", "depthwise 14x14x16 3x3 p1,1,1,1 f32 relu6", "pool 7x7x16 avg 7x7 f32")
CODE = f"""
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tune_logs import keys
target = targets.load("rpi4")
for name in {LAYERS!r}:
    layer = Layer.parse(name)
    print(keys.code_key(layer, schedules.space(layer, target.core).default, target))
print(keys.estimate_key(target))
print(keys.sources_key())
"""
POINTWISE, DEPTHWISE, POOL, ESTIMATE, SOURCES = range(5)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("tvm_mobilenet", "schedules", "targets", "tune_logs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"))
    return folder


def keys_of(copy, *edits) -> list[str]:
    """The keys of a copy of the code with some of its text changed."""
    before = {}
    try:
        for path, old, new in edits:
            text = before.setdefault(copy / path, (copy / path).read_text())
            assert old in text, f"{path} has no {old!r} any more"
            (copy / path).write_text((copy / path).read_text().replace(old, new))
        run = [sys.executable, "-B", "-c", CODE]
        done = subprocess.run(run, cwd=copy, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.fixture(scope="module")
def today(copy):
    return keys_of(copy)


def changed(found: list[str], today: list[str]) -> set[int]:
    return {i for i, (a, b) in enumerate(zip(found, today, strict=True)) if a != b}


@pytest.mark.full
def test_comments_names_and_the_code_of_real_boards_expire_nothing(copy, today):
    found = keys_of(
        copy,
        ("schedules/window.py", "UNROLLED_TAPS = 160", "UNROLLED_TAPS = (160)  # another comment"),
        ("schedules/pool.py", "maximum", "is_maximum"),
        ("tvm_mobilenet/boards/cost/pipeline.py", '"""Simulate how fast', '"""Simulate in how many cycles'),
        ("tvm_mobilenet/boards/agent/facts.py", "SINCE_BOOT = 16", "SINCE_BOOT = 17"),
        ("tvm_mobilenet/boards/wire.py", "import socket", "import socket\nimport struct as _struct"),
    )
    assert changed(found, today) <= {SOURCES}, "a record expires that need not"


@pytest.mark.full
def test_another_loop_nest_expires_the_code_of_its_kind_and_a_figure_of_a_core_the_estimates(copy, today):
    nest = ("schedules/pool.py", "_tile(layer, d, f, b, h, w, first + i * lanes, lanes)", "pass")
    core = ("targets/cores/cortex-a72.toml", "exposed = 1.0", "exposed = 0.9")
    assert changed(keys_of(copy, nest, core), today) == {POOL, SOURCES, ESTIMATE}


@pytest.mark.full
def test_another_pass_expires_all_code_and_the_cost_model_the_estimates(copy, today):
    lowering = ("tvm_mobilenet/compiler/lowering.py", "tirx.transform.UnrollLoop(),", "")
    model = ("tvm_mobilenet/boards/cost/memory_time.py", "from __future__ import annotations\n", "")
    assert changed(keys_of(copy, lowering, model), today) == {POINTWISE, DEPTHWISE, POOL, SOURCES, ESTIMATE}
