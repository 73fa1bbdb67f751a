"""Single bits flipped in a build, every hash made again: what changes an output is found, what hangs is ended.

Which of them change an output is computed here, by running what was flipped; `verify` must refuse each of these.
"""

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from tests.support import modules
from tests.support.sealing import seal
from tvm_mobilenet import verify
from tvm_mobilenet.boards import open_board, tvm_run
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.boards.virtual.library import EmulatedLibrary
from tvm_mobilenet.checking import same_outputs
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.errors import TvmMobilenetError

PLACES = {  # file to the sections that are flipped in; of others the whole file
    built.KERNELS: (".text", ".rodata"),
    built.LIBRARY: (".text", ".rodata", ".data.rel.ro"),
    built.EXECUTABLE: (".text", ".rodata"),
    built.PARAMETERS: (),
    built.PLAN: (),
}
SECONDS = 30.0  # of CPU time, the import of TVM included, after which TVM's run counts as one that hangs
BUDGET = 20_000_000  # instructions: a hundred times what a run of the network takes


@pytest.fixture(scope="module")
def network():
    return modules.network(modules.tiny_options())


@pytest.fixture
def short(monkeypatch):
    """What hangs is ended soon."""
    for function in (VirtualBoard.load, EmulatedLibrary.__init__):
        monkeypatch.setattr(function, "__defaults__", (BUDGET,))
    monkeypatch.setattr(same_outputs, "_FEWEST_SECONDS", SECONDS)
    monkeypatch.setattr(same_outputs, "_TIMES", 0)


def flip(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    places = [(0, len(data))]
    if sections := PLACES[path.name]:
        with path.open("rb") as file:
            found = {s.name: (s["sh_offset"], s["sh_size"]) for s in ELFFile(file).iter_sections()}
        places = [found[name] for name in sections if name in found]
    start, size = draw.choice(places)
    at, bit = start + draw.randrange(size), draw.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {path.name}"


def outputs_of(folder: Path, inputs: list, name: str) -> list | None:
    """What a build computes by way of one of its files; None: it is refused, crashes or hangs."""
    try:
        module = built.read(folder)
        with open_board("virtual", module.target) as board:
            if name == built.EXECUTABLE:
                return tvm_run.outputs(board, module, inputs, SECONDS)[name][1]
            if name == built.LIBRARY:
                with EmulatedLibrary(module, module.target) as library:
                    return [library.run(*x) for x in inputs]
            with board.load(module.library) as loaded:
                runner = PlanRunner(loaded, module.plan, module.parameters())
                return [runner.run(*x).outputs for x in inputs]
    except (TvmMobilenetError, ValueError, MemoryError):
        return None


def flips(folder: Path, whole: Path, network, counts: dict[str, int], seed: int) -> Counter:
    """Flip so many bits in each file, one at a time. In what remains: how many changed an output, and were found."""
    inputs, draw, told = network.inputs(2), random.Random(seed), Counter()
    shutil.copytree(whole, folder)
    clean = verify.verify(folder, network=network, inputs=inputs)
    clean.require()
    limit = clean.outputs[0].tolerance * clean.outputs[0].unit
    right = outputs_of(folder, inputs, built.KERNELS)
    for name, count in counts.items():
        for _ in range(count):
            where = flip(folder / name, draw)
            try:
                seal(folder)
                sealed = True
            except (ValueError, KeyError, TypeError, AttributeError):
                sealed = False  # the plan is no JSON any more
            try:
                found = not verify.verify(folder, network=network, inputs=inputs).ok
            except TvmMobilenetError as e:
                found = True
                told["ended" if "budget of instructions" in str(e) or "ended" in str(e) else "refused"] += 1
            paths = (built.KERNELS, built.LIBRARY) if name in (built.PARAMETERS, built.PLAN) else (name,)
            gave = [outputs_of(folder, inputs, path) for path in paths] if sealed and not found else []
            differ = [
                one is None or not all(np.abs(a - b).max() <= limit for x, y in zip(one, right, strict=True)
                                       for a, b in zip(x, y, strict=True))
                for one in gave
            ]  # fmt: skip
            assert not any(differ), f"{where} changes an output, and verify passes"
            told[name] += found
            told["found"] += found
            told["harmless"] += not found
            for file in {name, built.PLAN, *built.LIBRARIES} & {p.name for p in whole.iterdir()}:
                shutil.copyfile(whole / file, folder / file)
    return told


def test_a_handful_of_bits(tmp_path, network, short):
    whole = modules.without_executable(modules.tiny("rpi4"), tmp_path / "whole")
    counts = {built.KERNELS: 3, built.LIBRARY: 3, built.PARAMETERS: 2, built.PLAN: 2}
    told = flips(tmp_path / "flipped", whole, network, counts, 7)
    assert told["found"] + told["harmless"] == 10 and told["found"] >= 3 and told["harmless"] >= 1, told


@pytest.mark.full
def test_two_hundred_bits(tmp_path, network, short, capsys):
    """In code, tables, parameters, plan, and TVM's executable with its constants."""
    plain = modules.without_executable(modules.tiny("rpi4"), tmp_path / "plain")
    counts = {built.KERNELS: 50, built.LIBRARY: 50, built.PARAMETERS: 40, built.PLAN: 30}
    told = flips(tmp_path / "one", plain, network, counts, 1)
    told += flips(tmp_path / "two", modules.tiny("rpi4"), network, {built.EXECUTABLE: 30}, 2)
    assert told["found"] + told["harmless"] == 200 and told["found"] >= 80 and told["harmless"] >= 20, told
    assert all(told[name] for name in PLACES), told
    with capsys.disabled():
        print(f"\n200 bits: {dict(told)}")
