"""Every file of a build that computes the network is run: it gives what the plan gives, or the build is refused."""

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
from tvm_mobilenet.boards import open_board, tvm_run
from tvm_mobilenet.checking import machine_check, same_outputs
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


def change(folder: Path, do, name: str = built.EXECUTABLE) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    do(data)
    path.write_bytes(data)
    seal(folder)


def kernel(folder: Path, name: str, step: int = 0) -> int:
    """Where a file has the code of a step's kernel."""
    symbol = built.read(folder).plan.steps[step].symbol
    with (folder / name).open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        found = {s.name: s for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"}
        return next(elf.address_offsets(found[symbol]["st_value"] & ~1))


ALL = ["rpi4", *(pytest.param(t, marks=pytest.mark.full) for t in ("host", "armv7"))]
OTHERS = {"local": [built.KERNELS, built.EXECUTABLE], "virtual": [built.LIBRARY, built.EXECUTABLE]}


@pytest.mark.parametrize("copy", ALL, indirect=True)
def test_all_files_give_the_plans_outputs_and_one_wrong_constant_of_the_executable_is_found(copy, network):
    """The plan's own constants are right: nothing else looks at the executable's copy."""
    found = verify(copy, network)
    assert found.ok and [one.file for one in found.files] == OTHERS[BOARDS[copy.name]]
    assert all(one.ok and one.inputs == found.inputs for one in found.files)
    assert found.summary().count("the same outputs in every bit") == len(found.files)
    weights = np.frombuffer((copy / built.PARAMETERS).read_bytes(), np.float32)[:200]
    largest = int(np.abs(weights).argmax())

    def sign(data: bytearray) -> None:
        first = (copy / built.PARAMETERS).read_bytes()[:64]
        assert data.count(first) == 1
        data[data.find(first) + 4 * largest + 3] ^= 0x80

    change(copy, sign)
    found = verify(copy, network)
    assert all(c.ok for c in (*found.outputs, *found.layers)) and not found.ok
    assert [one.file for one in found.files if not one.ok] == [built.EXECUTABLE]
    with pytest.raises(
        VerificationError, match=r"model\.so, in TVM's virtual machine.*: another output0 than the plan"
    ):
        found.require()
    assert "WRONG     model.so" in found.summary()


@pytest.mark.parametrize("copy", ["rpi4", pytest.param("armv7", marks=pytest.mark.full)], indirect=True)
def test_the_library_that_ships_is_executed_on_the_virtual_board(copy, network):
    """Its kernels, its tables and its own code: each is its own copy, which `kernels.so` does not have."""
    whole = (copy / built.LIBRARY).read_bytes()
    step = built.read(copy).plan.steps[2]
    with (copy / built.LIBRARY).open("rb") as file:
        elf = ELFFile(file)
        tables = elf.get_section_by_name(".data.rel.ro")
        start, size = tables["sh_offset"], tables["sh_size"]
        runs = next(
            elf.address_offsets(
                elf.get_section_by_name(".dynsym").get_symbol_by_name("mobilenet_run")[0]["st_value"] & ~1
            )
        )
    offset = next(t.offset for t in step.operands if t.space == "parameters")
    at = whole.index(struct.pack("<Q", offset), start, start + size)
    code = kernel(copy, built.LIBRARY)

    def nothing(data: bytearray) -> None:  # the kernel returns at once
        data[code : code + 8] = (
            bytes.fromhex("00008052c0035fd6") if copy.name == "rpi4" else bytes.fromhex("0000a0e31eff2fe1")
        )

    def moved(data: bytearray) -> None:  # a constant of the third step lies 64 bytes further
        struct.pack_into("<Q", data, at, offset + 64)

    def wild(data: bytearray) -> None:
        data[runs : runs + 4] = bytes(4) if copy.name == "rpi4" else bytes.fromhex("f000f0e7")

    for plant, error in ((nothing, VerificationError), (moved, VerificationError), (wild, BoardError)):
        change(copy, plant, built.LIBRARY)
        with pytest.raises(error, match=r"libmobilenet\.so"):
            verify(copy, network, 1).require()
        (copy / built.LIBRARY).write_bytes(whole)
    seal(copy)
    verify(copy, network, 1).require()


@pytest.mark.parametrize("copy", ["host"], indirect=True)
def test_kernels_that_tvms_servers_run_are_run_here_too(copy, network):
    """On this machine `libmobilenet.so` is the plan's run."""

    def nothing(data: bytearray) -> None:
        at = kernel(copy, built.KERNELS)
        code = {"x86_64": "31c0c3", "aarch64": "00008052c0035fd6"}[platform.machine()]
        data[at : at + len(code) // 2] = bytes.fromhex(code)

    change(copy, nothing, built.KERNELS)
    found = verify(copy, network, 1)
    assert [one.file for one in found.files if not one.ok] == [built.KERNELS] and not found.ok


def test_a_library_of_other_weights_refuses_them(tmp_path):
    """As on a device: the library itself finds out, not the check of hashes before."""
    from tvm_mobilenet.boards.virtual.library import EmulatedLibrary

    folder = Path(shutil.copytree(modules.tiny("rpi4"), tmp_path / "copy"))
    module = built.read(folder)
    with (folder / built.PARAMETERS).open("ab") as file:
        file.write(bytes(32))
    with pytest.raises(
        BoardError, match=r"libmobilenet\.so: mobilenet_open_weights returns 3: .* bytes, the model needs"
    ):
        EmulatedLibrary(module, module.target)


@pytest.mark.parametrize("copy", ["rpi4"], indirect=True)
def test_its_bytecode_is_run_and_another_one_is_refused(copy, network):
    """A function that TVM has not, a length beyond its end: in words, exit code 4."""
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


@pytest.mark.full
@pytest.mark.parametrize("copy", ["host"], indirect=True)
def test_one_that_hangs_is_ended(copy, network, monkeypatch):
    """A kernel of it jumps to itself; those that the plan calls do not."""
    jump = {"x86_64": b"\xeb\xfe", "aarch64": b"\x00\x00\x00\x14"}[platform.machine()]
    at = kernel(copy, built.EXECUTABLE)

    def jumping(data: bytearray) -> None:
        data[at : at + len(jump)] = jump

    change(copy, jumping)
    monkeypatch.setattr(same_outputs, "_FEWEST_SECONDS", 4.0)
    monkeypatch.setattr(same_outputs, "_TIMES", 0)
    with pytest.raises(BoardError, match="TVM's runtime: by_tvm: no answer for 4 s; it was ended"):
        verify(copy, network, 1)


def test_a_build_whose_executable_is_wrong_is_not_put_in_its_place(tmp_path, monkeypatch, network):
    """What was there stays."""
    output = tmp_path / "out"
    target = targets.load("host")
    real = tvm_run.outputs

    def off(*arguments):
        return {
            name: (how, [[o + 1e-6 for o in one] for one in given]) for name, (how, given) in real(*arguments).items()
        }

    monkeypatch.setattr(tvm_run, "outputs", off)
    arguments = {"output": output, "network": network, "tvm_executable": True}
    with pytest.raises(VerificationError, match=r"kernels\.so, .* another output0 than the plan"):
        build.build(network.options, target, **arguments)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tvm_run, "outputs", real)
    found = build.build(network.options, target, **arguments)
    assert [(one.file, one.ok, one.inputs) for one in found.files] == [(name, True, 1) for name in OTHERS["local"]]
    assert "\nran       model.so, in TVM's virtual machine" in found.summary()


def test_wrong_layers_are_told_before_the_other_files(monkeypatch, network):
    monkeypatch.setattr(same_outputs, "check", lambda *_: pytest.fail("it need not run"))
    module = built.read(modules.tiny("rpi4"))
    other = load_network(modules.tiny_options())
    other.layers[0].constants["weight"][...] += 1
    with open_board("virtual", module.target) as board:
        assert not all(c.ok for c in machine_check.check(module, other, board, other.inputs(1)).layers)
