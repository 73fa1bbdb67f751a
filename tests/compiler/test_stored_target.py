"""The target that a build stores can be anybody's, with all hashes made again: no changed fact makes wrong code pass.

Of all its facts, the verdict of `verify` depends on three, which a test finds by watching one run. The others only
reach estimates, texts and defaults. These three are changed here; and what the code may use is read in the code.
"""

import functools
import importlib
import json
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from tvm_mobilenet.targets import Cache, Core, Limits, Target, stored

from tests.compiler.test_chain import opening
from tests.support import modules
from tests.support.memory import peak_below
from tests.support.sealing import seal
from tvm_mobilenet import targets
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.checking import machine_check
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import symbols
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError

HALF = 0x0E421420  # fadd v0.4h, v1.4h, v2.4h: only with fullfp16
PADDING = (0, 0xD503201F)  # udf and nop, which linkers put between functions


@pytest.fixture(scope="module")
def network():
    return load_network(modules.tiny_options())


@pytest.fixture
def copy(tmp_path):
    """``copy(target, change)``: a copy of the tiny network's build, with a change of its plan and all hashes anew."""

    def made(target: str, change=None) -> Path:
        folder = Path(shutil.copytree(modules.tiny(target), tmp_path / "copy", dirs_exist_ok=True))
        seal(folder, change)
        return folder

    return made


class Watched(dict):
    """A table that tells which of its keys were read."""

    def __init__(self, data: dict, place: str, read: set):
        super().__init__(data)
        self.place, self.read = place, read

    def get(self, key, default=None):
        self.read.add(f"{self.place}.{key}")
        return super().get(key, default)

    def __getitem__(self, key):
        self.read.add(f"{self.place}.{key}")
        return super().__getitem__(key)

    def __iter__(self):
        self.read.add(self.place)
        return super().__iter__()

    keys = values = items = __iter__


def test_the_verdict_depends_on_three_facts(tmp_path, monkeypatch, network):
    """Whatever an estimate reads: it gives cycles, and nothing that is compared.

    TVM's executable, if a build has one, runs on such a board too; its process gets all facts at once.
    """
    module, read = built.read(modules.without_executable(modules.tiny("rpi4"), tmp_path / "plain")), set()
    target = module.target
    for name in ("model", "rates"):
        object.__setattr__(target.core, name, Watched(getattr(target.core, name), f"core.{name}", read))
    for cls in (Target, Core, Cache, Limits):

        def watched(self, key, cls=cls, get=cls.__getattribute__):
            if key in cls.__dataclass_fields__:
                read.add(f"{cls.__name__.lower()}.{key}")
            return get(self, key)

        monkeypatch.setattr(cls, "__getattribute__", watched)
    with open_board("virtual", target) as board:
        found = machine_check.check(module, network, board, network.inputs(2))
    assert all(one.ok for one in (*found.outputs, *found.layers))
    assert read - {"target.core", "core.model"} == {"core.architecture", "target.cores", "core.model.emulated_cpu"}
    with open_board("virtual", target) as board:
        machine_check.check(module, network, board, network.inputs(2), cores=4)
    assert {"target.clock_hz", "core.model.window", "cache.ways"} <= read, "nothing is watched"


def another(value: object) -> object:
    """Another value for a fact, of its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 2 * value
    return f"{value}x" if isinstance(value, str) else value[1:]


def facts(data: dict, path: tuple = ()):
    for key, value in data.items():
        yield from facts(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]


def test_each_other_fact_is_refused_or_named(monkeypatch):
    """All of them, names apart: a target or core of another name may be anybody's own."""
    data = stored.to_data(targets.load("rpi4"))
    now, count = targets.load("rpi4"), 0
    monkeypatch.setattr(targets, "load", lambda name: now)
    for path in facts(data):
        odd = json.loads(json.dumps(data))
        *above, key = path
        part = functools.reduce(dict.__getitem__, above, odd)
        part[key] = another(part[key])
        try:
            named = stored.changes(stored.from_data(odd, "plan.json"))
            assert ".".join(path) in named or key == "name" or not part[key], path
        except TvmMobilenetError as e:
            assert "plan.json" in str(e), path
        count += 1
    assert count > 250


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda target: target["core"]["model"].update(emulated_cpu="MAX"), ""),
        pytest.param(lambda target: target["core"]["model"].pop("emulated_cpu"), "", marks=pytest.mark.full),
        (lambda target: target["core"]["model"].update(emulated_cpu="A15"), "emulated_cpu"),
        (lambda target: target.update(cores=64), ""),
        pytest.param(lambda target: target.update(cores=1), "", marks=pytest.mark.full),
        (lambda target: target["core"].update(architecture="armv7"), "llvm_triple"),
        (lambda target: (target["core"].update(architecture="armv7"),
                         target.update(llvm_triple="arm-linux-gnueabihf", link_triple="")), "is code for"),
    ],
    ids=["any CPU", "no CPU", "one of 32 bits", "64 cores", "1 core", "architecture", "architecture and triples"],
)  # fmt: skip
def test_other_values_of_these_three_give_the_same_outputs_or_are_refused(copy, network, right, change, words):
    folder = copy("rpi4", lambda data: change(data["target"]))
    if words:
        with pytest.raises(TvmMobilenetError, match=words):
            outputs(folder, network)
    else:
        assert all((a == b).all() for a, b in zip(outputs(folder, network), right, strict=True))


@pytest.fixture(scope="module")
def right(network):
    return outputs(modules.tiny("rpi4"), network)


def outputs(folder: Path, network) -> list:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = built.read(folder).target
    with open_board("virtual", target) as board:
        return machine_check.check(
            built.read(folder), network, board, network.inputs(1), layers=False, whole=False
        ).values[0]


# ---- what code may use


def with_half(path: Path) -> None:
    """One instruction of ARMv8.2-A more, at a place that is never reached."""
    elf, data = symbols.read(path), bytearray(path.read_bytes())
    number = elf.names.index(".text")
    words = np.frombuffer(elf.contents[number], "<u4")
    free = np.flatnonzero(np.isin(words, PADDING))
    struct.pack_into("<I", data, elf.sections[number][4] + 4 * int(free[0]), HALF)
    path.write_bytes(data)


@pytest.mark.parametrize("name", [built.KERNELS, built.LIBRARY, built.EXECUTABLE])
def test_code_that_the_targets_cpu_may_lack_is_refused(copy, name):
    """An emulator of another CPU executes it, and the outputs are right; a board ends the process."""
    folder = copy("rpi5")
    with_half(folder / name)
    seal(folder)
    assert built.read(folder).target.name == "rpi5"
    for change in ({"llvm_cpu": "cortex-a72"}, {"llvm_attributes": ["-fullfp16"]}):
        seal(folder, lambda data, change=change: data["target"].update(change))
        with pytest.raises(TvmMobilenetError) as told:
            _ = built.read(folder).target
        said = str(told.value)
        assert f"{folder / name} for rpi5: 1 instructions that its code may not use: " in said, said
        assert "which needs fullfp16" in said and str(folder / built.PLAN) in said and "build it again" in said


def test_every_verb_looks_at_the_code(copy, tmp_path, capsys):
    folder = copy("rpi4")
    with_half(folder / built.KERNELS)
    seal(folder)
    for verb in opening():
        needed = ["--data", str(tmp_path)] if verb == "accuracy" else []
        assert importlib.import_module(f"tvm_mobilenet.{verb}").main([str(folder), *needed]) == 2, verb
        assert "which needs fullfp16" in capsys.readouterr().err, verb


def hostile(data: bytes):
    yield "cut", data[: len(data) // 2]
    yield "no ELF", b"x" * 64 + data[64:]
    yield "its sections overlap", data[:60] + struct.pack("<H", 0xFFFF) + data[62:]
    yield "names elsewhere", data[:62] + struct.pack("<H", 0xFFFF)
    yield "empty", b""


def test_a_library_that_is_none_is_refused_in_words(copy):
    folder = copy("rpi4")
    whole = (folder / built.OBJECT).read_bytes()
    for how, data in hostile(whole):
        (folder / built.OBJECT).write_bytes(data)
        seal(folder)
        with (
            peak_below(100 << 20),
            pytest.raises(TvmMobilenetError, match=r"kernels\.o is not a whole ELF file of aarch64"),
        ):
            assert not built.read(folder).target, how
