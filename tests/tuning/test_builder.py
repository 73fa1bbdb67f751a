"""What was compiled before is not compiled again, and never taken for what it is not."""

import dataclasses
import os
from pathlib import Path

import pytest
from tvm_mobilenet.tune_logs import keys

from benchmarks import machine_code
from tests.support import planted
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.files import user_cache
from tvm_mobilenet.files.user_cache import Collection
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning.builder import Builder
from tvm_mobilenet.tuning.candidate import Candidate

RPI4 = targets.load("rpi4")
LAYER = Layer.parse("pointwise m16 n16 k32 f32 relu6")
SPACE = schedules.space(LAYER, RPI4.core)
DEFAULT = Candidate(LAYER.name, SPACE.default)
OTHER = next(iter(SPACE.neighbours(SPACE.default)))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The targets for which something was really compiled, with a cache of the test's own."""
    found, real = [], codegen._compile
    monkeypatch.setattr(user_cache, "folder", lambda: tmp_path)

    def compile_one(kernel, target, path):
        found.append(target.name)
        return real(kernel, target, path)

    monkeypatch.setattr(codegen, "_compile", compile_one)
    return found


def files(tmp_path) -> list[Path]:
    return sorted((tmp_path / "objects").iterdir())


def test_the_same_schedule_hits_and_every_other_misses(compiled, tmp_path, monkeypatch):
    first = Builder(RPI4).build(DEFAULT, tmp_path / "first.so")
    again = Builder(RPI4).build(dataclasses.replace(DEFAULT, whole=True))  # in another run, as the winner
    assert compiled == ["rpi4"]
    assert first.code == again.code == keys.code_key(LAYER, SPACE.default, RPI4)
    assert Path(again.library).read_bytes() == Path(first.library).read_bytes()
    again.remove()
    Builder(RPI4).build(DEFAULT, tmp_path / "new.so")
    assert len(compiled) == 1, "who removes a library removes a copy"

    changed = planted.Builder(RPI4)  # the schedule makes another kernel of the same decisions
    changed.at = 5
    assert Path(changed.build(DEFAULT, tmp_path / "planted.so").library).read_bytes() != (
        Path(first.library).read_bytes()
    )
    Builder(RPI4).build(Candidate(LAYER.name, OTHER), tmp_path / "other.so")
    Builder(targets.load("rpi3")).build(DEFAULT, tmp_path / "rpi3.so")
    Builder(RPI4, fresh=True).build(DEFAULT, tmp_path / "fresh.so")
    assert len(compiled) == 5
    monkeypatch.setattr(codegen, "_compiling", lambda: "other code that compiles")
    Builder(RPI4).build(DEFAULT, tmp_path / "linked.so")
    assert len(compiled) == 6
    assert len(files(tmp_path)) == 5, "all but what was not to be kept"


def test_a_build_compiles_nothing_that_a_search_compiled(compiled, tmp_path):
    """And the other way round; kernels that are the same code under two names are compiled once."""
    Builder(RPI4).build(DEFAULT, tmp_path / "candidate.so")
    kernel = schedules.kernel(LAYER, SPACE.default)
    other = schedules.kernel(LAYER, OTHER)
    kernels = {name: f.with_attrs({"layer": name}) for name, f in (("one", kernel), ("two", other), ("three", kernel))}
    made = codegen.compile_object(kernels, RPI4, tmp_path / "kernels.o")
    assert len(compiled) == 2
    functions = machine_code.sections_of(made)
    bodies = {name: s.masked[at : at + size] for s in functions for name, (at, size) in s.bodies.items()}
    assert bodies["one"] == bodies["three"] != bodies["two"]
    codegen.compile_kernels(kernels, RPI4, tmp_path / "kernels.so")
    Builder(RPI4).build(Candidate(LAYER.name, OTHER), tmp_path / "candidate.so")
    assert len(compiled) == 2


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-1] + b"?"])
def test_a_damaged_file_is_compiled_again(compiled, tmp_path, damage):
    built = Builder(RPI4).build(DEFAULT, tmp_path / "k.so")
    right = Path(built.library).read_bytes()
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    for count in (2, 2):
        assert Path(Builder(RPI4).build(DEFAULT, tmp_path / "k.so").library).read_bytes() == right
        assert len(compiled) == count


def test_where_nothing_can_be_kept_everything_is_built(compiled, tmp_path, monkeypatch):
    (tmp_path / "objects").write_text("a file")
    for _ in range(2):
        assert Path(Builder(RPI4).build(DEFAULT, tmp_path / "k.so").library).stat().st_size
    assert len(compiled) == 2


def test_a_collection_is_bounded_and_loses_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(user_cache, "_TIDY_EVERY", 1)
    monkeypatch.setattr(user_cache, "folder", lambda: tmp_path)
    source, folder = tmp_path / "content", tmp_path / "few"
    source.write_bytes(bytes(1000))
    for i in range(8):
        if i == 4:
            (folder / ".3.dead.tmp").write_bytes(bytes(500))  # of a process that was killed
            os.utime(folder / ".3.dead.tmp", ns=(0, 0))
        one = Collection("few", 3500)
        one.keep(str(i), source)
        os.utime(folder / str(i), ns=(i + 1, i + 1))  # the clock of a file system may be coarse
        assert one.take("0", tmp_path / "taken"), "it was just used"
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 3500
    assert sorted(file.name for file in folder.iterdir()) == ["0", "6", "7"]
