"""Copies of built modules with an error planted: one instruction, one weight."""

import random
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import capstone
import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from tests.support.sealing import seal
from tvm_mobilenet import verify
from tvm_mobilenet.boards import open_board
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.checking import reference, stepped
from tvm_mobilenet.checking.built_calls import calls_of
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.errors import VerificationError

CHECKER = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)


def with_executed(network, folder: Path, target) -> SimpleNamespace:
    """A built network, and which instructions each of its steps executes."""
    module = built.read(folder)
    with open_board("virtual", target).load(module.library) as loaded:
        runs = PlanRunner(loaded, module.plan, module.parameters()).run(*network.inputs(1)[0]).kernels
        executed = [[address for address, _ in run.executions()] for run in runs]
    return SimpleNamespace(network=network, folder=folder, steps=module.plan.steps, executed=executed)


class Copy:
    """A copy of a built module to plant an error in."""

    def __init__(self, family, folder: Path):
        self.family = family
        self.folder = Path(shutil.copytree(family.folder, folder))

    def word(self, address: int, change) -> None:
        """Replace the instruction at an address of the module by ``change(word)``."""
        path = self.folder / built.KERNELS
        with path.open("rb") as file:
            offset = next(ELFFile(file).address_offsets(address))
        data = bytearray(path.read_bytes())
        (word,) = struct.unpack_from("<I", data, offset)
        struct.pack_into("<I", data, offset, change(word))
        path.write_bytes(data)
        self.sign()

    def weight(self, step: int, deviations: float, seed: int = 0, tensor=None) -> None:
        """Move one weight of a step's layer by so many of its layer's standard deviations."""
        tensor = tensor or next(t for t in self.family.steps[step].operands if t.space == "parameters")
        parameters = np.fromfile(self.folder / built.PARAMETERS, np.uint8)
        weights = parameters[tensor.offset : tensor.offset + tensor.nbytes].view(tensor.dtype)
        weights[random.Random(seed).randrange(weights.size)] += deviations * weights.astype(np.float64).std()
        parameters.tofile(self.folder / built.PARAMETERS)
        self.sign()

    def sign(self) -> None:
        """To `compiler.module.read` the folder is as it was built."""
        seal(self.folder)

    def verify(self, **options) -> verify.VerifyResult:
        return verify.verify(self.folder, network=self.family.network, count=2, **options)

    def named(self, step: int) -> None:
        """Verification fails, names the layer of a step, and dumps its tensors."""
        dump = self.folder.with_name("wrong")
        result = self.verify(dump=dump)
        assert not result.ok and result.first_wrong.name == self.family.steps[step].name
        with pytest.raises(VerificationError) as error:
            result.require()
        step = self.family.steps[step]
        assert error.value.exit_code == 5 and f" {step.name}, {step.layer} " in str(error.value)
        assert result.dump == str(dump)
        self._dumped(dump, step)

    def _dumped(self, folder: Path, step) -> None:
        """What lies there is the layer: its definition of the tensors that it got is what is expected of it."""
        tensors = {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npy")}
        text = (folder / "what.txt").read_text()
        assert f"{step.name}, {step.layer} (from " in text and all(f"\n{name}.npy  " in text for name in tensors)
        call = next(c for c in calls_of(self.family.network, built.read(self.folder)) if c.name == step.name)
        assert all(np.array_equal(tensors[name], array) for name, array in call.constants.items())
        others = [tensors["second"]] if "second" in tensors else []
        given = {"data": tensors["data"], **reference.operands_of(call, others)}
        assert np.array_equal(stepped.expected(call.layer, **given), tensors["expected"])
        wrong = [name for name in tensors if name.endswith(".got")]
        assert wrong or not np.array_equal(tensors["got"], tensors["expected"])
        assert tensors["got"].shape == tensors["expected"].shape


def instructions(family, step: int, mnemonic: str) -> list[int]:
    """Addresses of executed instructions of a step that begin with a mnemonic, and that no earlier step executes."""
    earlier = {a for addresses in family.executed[:step] for a in addresses}
    found = []
    with (family.folder / built.KERNELS).open("rb") as file:
        elf, data = ELFFile(file), (family.folder / built.KERNELS).read_bytes()
        for address in family.executed[step]:
            offset = next(elf.address_offsets(address))
            for one in CHECKER.disasm(data[offset : offset + 4], address):
                if one.mnemonic == mnemonic and address not in earlier:
                    found.append(address)
    return found


def minus(word: int) -> int:
    """fmla as fmls, fmadd as fmsub: bit 23 of the vector form, 14 of the form by element, 15 of the scalar one."""
    return word ^ (1 << {0x0F: 14, 0x1F: 15}.get((word >> 24) & 0x1F, 23))


def some(addresses: list[int]) -> int:
    assert addresses, "no such instruction was executed"
    return random.Random(0).choice(addresses)
