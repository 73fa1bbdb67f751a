"""TVM's executable of a build is run: what it computes is what the plan computes, or the build is refused."""

import platform
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from tests.support import modules
from tests.support.sealing import seal
from tvm_mobilenet import build, targets
from tvm_mobilenet import verify as verb
from tvm_mobilenet.boards import executable_run
from tvm_mobilenet.checking import executable, machine_check
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import BoardError, VerificationError

BOARDS = {"host": "local", "rpi4": "virtual", "armv7": "virtual"}


@pytest.fixture(scope="module")
def network():
    return load_network(modules.tiny_options())


@pytest.fixture
def copy(request, tmp_path) -> Path:
    return Path(shutil.copytree(modules.tiny(request.param), tmp_path / request.param))


def verify(folder: Path, network, count: int = 2) -> verb.VerifyResult:
    return verb.verify(folder, board=BOARDS[folder.name], network=network, count=count)


def change(folder: Path, do) -> None:
    path = folder / built.EXECUTABLE
    data = bytearray(path.read_bytes())
    do(data)
    path.write_bytes(data)
    seal(folder)


def constants(folder: Path, data: bytes) -> int:
    """Where the executable has its copy of the first constant."""
    first = (folder / built.PARAMETERS).read_bytes()[:64]
    assert data.count(first) == 1
    return data.find(first)


@pytest.mark.parametrize("copy", ["host", "rpi4", pytest.param("armv7", marks=pytest.mark.full)], indirect=True)
def test_it_gives_the_plans_outputs_and_one_wrong_constant_in_it_is_found(copy, network):
    """The plan's own constants are right: nothing else looks at the executable's copy."""
    found = verify(copy, network)
    assert found.ok and found.executable.ok and found.executable.inputs == found.inputs
    assert "model.so, run by TVM's virtual machine" in found.summary() and "in every bit" in found.summary()
    weights = np.frombuffer((copy / built.PARAMETERS).read_bytes(), np.float32)[:200]
    largest = int(np.abs(weights).argmax())

    def sign(data: bytearray) -> None:
        data[constants(copy, data) + 4 * largest + 3] ^= 0x80

    change(copy, sign)
    found = verify(copy, network)
    assert all(c.ok for c in (*found.outputs, *found.layers)) and not found.executable.ok and not found.ok
    with pytest.raises(VerificationError, match=r"TVM executable model\.so, .* gives another output0 than the plan"):
        found.require()
    assert "WRONG     model.so" in found.summary()


@pytest.mark.parametrize("copy", ["rpi4"], indirect=True)
def test_its_bytecode_is_run_and_another_one_is_refused(copy, network):
    """Kernels in another order, a function of TVM's that no build calls, a length beyond its end: in words, exit 4."""
    steps = [step.symbol.encode() for step in built.read(copy).plan.steps]
    whole = (copy / built.EXECUTABLE).read_bytes()

    def restored() -> None:
        (copy / built.EXECUTABLE).write_bytes(whole)

    def renamed(data: bytearray) -> None:
        at = data.index(b"vm.builtin.alloc_tensor")
        data[at : at + 23] = b"vm.builtin.alloc_tensoR"

    change(copy, renamed)
    with pytest.raises(BoardError, match=r"model\.so cannot be run by TVM's virtual machine: .*alloc_tensoR"):
        verify(copy, network, 1)
    restored()

    def longer(data: bytearray) -> None:
        at = data.index(b"relax.VMExecutable") + 18
        struct.pack_into("<Q", data, at, struct.unpack_from("<Q", data, at)[0] << 20)

    change(copy, longer)
    with pytest.raises(BoardError, match="the executable in it is damaged"):
        verify(copy, network, 1)
    restored()

    def unknown(data: bytearray) -> None:
        name = struct.pack("<Q", len(steps[0])) + steps[0]
        at = data.index(name)
        data[at + len(name) - 1] ^= 1

    change(copy, unknown)
    with pytest.raises(BoardError, match="cannot be run by TVM's virtual machine"):
        verify(copy, network, 1)


@pytest.mark.parametrize("copy", ["host"], indirect=True)
def test_one_that_hangs_is_ended(copy, network, monkeypatch):
    """A kernel of it jumps to itself; those that the plan calls do not."""
    module = built.read(copy)
    jump = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14"}[platform.machine()]
    with (copy / built.EXECUTABLE).open("rb") as file:
        elf = ELFFile(file)
        (symbol,) = elf.get_section_by_name(".dynsym").get_symbol_by_name(f"__tvm_ffi_{module.plan.steps[0].symbol}")
        at = next(elf.address_offsets(symbol["st_value"]))

    def jumping(data: bytearray) -> None:
        data[at : at + len(jump)] = jump

    change(copy, jumping)
    monkeypatch.setattr(executable, "_FEWEST_SECONDS", 4.0)
    monkeypatch.setattr(executable, "_TIMES", 0)
    with pytest.raises(BoardError, match="TVM's executable: executable: no answer for 4 s; it was ended"):
        verify(copy, network, 1)


def test_a_build_whose_executable_is_wrong_is_not_put_in_its_place(tmp_path, monkeypatch, network):
    """What was there stays."""
    output = tmp_path / "out"
    target = targets.load("host")
    real = executable_run.outputs
    monkeypatch.setattr(executable_run, "outputs", lambda *a: [[o + 1e-6 for o in one] for one in real(*a)])
    arguments = {"output": output, "network": network, "tvm_executable": True}
    with pytest.raises(VerificationError, match=r"model\.so, .* gives another output0 than the plan"):
        build.build(network.options, target, **arguments)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(executable_run, "outputs", real)
    found = build.build(network.options, target, **arguments)
    assert found.executable.ok and found.executable.inputs == 1 and "\ntvm       model.so, run by" in found.summary()


def test_wrong_layers_are_told_before_the_executable(monkeypatch, network):
    monkeypatch.setattr(executable, "check", lambda *_: pytest.fail("it need not run"))
    module = built.read(modules.tiny("rpi4"))
    other = load_network(modules.tiny_options())
    other.layers[0].constants["weight"][...] += 1
    from tvm_mobilenet.boards import open_board

    with open_board("virtual", module.target) as board:
        assert not all(c.ok for c in machine_check.check(module, other, board, other.inputs(1)).layers)
