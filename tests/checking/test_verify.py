"""Verification: errors planted in machine code and weights are found, and the layer that has them is named."""

import dataclasses
import json
import struct

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from tests.support.planting import CHECKER, Copy, instructions, minus, some, with_executed
from tests.support.sealing import seal
from tvm_mobilenet import build, targets, verify
from tvm_mobilenet.boards import comparison as output_check
from tvm_mobilenet.checking import layer_check
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions

FAMILIES = {
    "v1": ModelOptions(model="v1", alpha=0.25, resolution=32),
    "v3-small": ModelOptions(model="v3-small", alpha=0.5, resolution=64),
}
TARGET = targets.load("rpi4")


@pytest.fixture(scope="module", params=["v1", pytest.param("v3-small", marks=pytest.mark.full)])
def family(request, tmp_path_factory):
    """A network built for the Raspberry Pi 4, and which instructions each of its steps executes."""
    network = load_network(FAMILIES[request.param])
    folder = tmp_path_factory.mktemp("verify") / request.param
    build.build(network.options, TARGET, output=folder, network=network)
    return with_executed(network, folder, TARGET)


def positions(family) -> dict[str, int]:
    """The first, a middle and the last layer, by their number."""
    return {"first": 0, "middle": len(family.steps) // 2, "last": len(family.steps) - 1}


@pytest.fixture
def copy(family, tmp_path):
    return Copy(family, tmp_path / "copy")


def own(family, where: str, find) -> tuple[int, list[int]]:
    """The step at a position, or the next before it, that executes such instructions as the first of all."""
    step = positions(family)[where]
    while not (found := find(step)):
        step -= 1
    return step, found


# ---- nothing planted


def test_what_was_built_is_right(copy):
    result = copy.verify()
    result.require()
    assert result.ok and result.first_wrong is None and len(result.layers) == len(copy.family.steps)
    (output,) = result.outputs
    assert output.top1 == output.top5 == 1 and output.cosine > 0.999999 and 0 < output.relative < output.tolerance
    assert 0 < max(c.relative for c in result.layers) < layer_check.LAYER_TOLERANCE / 3, "the gate has room, not much"
    assert result.cycles > result.cycles_all_cores > 0 and "predicted" in result.summary()
    assert result.milliseconds == pytest.approx(1e3 * result.cycles / TARGET.clock_hz)


# ---- one instruction


@pytest.mark.parametrize("where", ["middle", *(pytest.param(w, marks=pytest.mark.full) for w in ("first", "last"))])
def test_one_instruction_that_subtracts_is_found_in_its_layer(copy, where):
    step, found = own(copy.family, where, lambda step: instructions(copy.family, step, "fmla"))
    address = some(found)
    copy.word(address, minus)
    copy.named(step)
    copy.word(address, minus)
    copy.verify().require()


def test_one_load_from_the_wrong_place_is_found(copy):
    """Four lanes further: still inside the arena, so nothing but the numbers shows it."""
    step, loads = own(copy.family, "middle", lambda step: vector_loads(copy.family, step))
    copy.word(some(loads), lambda word: word ^ (1 << 15 if (word >> 27) & 7 == 5 else 1 << 10))
    copy.named(step)


def vector_loads(family, step: int) -> list[int]:
    """Executed loads of whole vector registers from a base and a constant, not from the stack."""
    data = (family.folder / built.KERNELS).read_bytes()
    found = []
    with (family.folder / built.KERNELS).open("rb") as file:
        elf = ELFFile(file)
        for address in (a for name in ("ldp", "ldr") for a in instructions(family, step, name)):
            offset = next(elf.address_offsets(address))
            (word,) = struct.unpack_from("<I", data, offset)
            text = next(CHECKER.disasm(data[offset : offset + 4], address)).op_str
            constant = (word >> 23) & 7 == 2 if (word >> 27) & 7 == 5 else (word >> 24) & 3 == 1
            if text.startswith("q") and "sp" not in text and constant:
                found.append(address)
    return found


@pytest.mark.parametrize("family", ["v1"], indirect=True)
@pytest.mark.parametrize("word, reason", [(0x00000000, "illegal instruction"), (0xD61F03E0, "jumps to address 0x0")])
def test_a_wild_kernel_is_an_error_of_the_board_and_names_it(copy, word, reason):
    """udf, and br xzr."""
    step, found = own(copy.family, "middle", lambda step: instructions(copy.family, step, "fmla"))
    copy.word(some(found), lambda _: word)
    with pytest.raises(BoardError, match=reason) as error:
        copy.verify()
    assert error.value.exit_code == 4 and copy.family.steps[step].symbol in str(error.value)


# ---- one weight


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_weight_a_hundredth_of_its_deviation_off_is_found_in_its_layer(copy, where, seed):
    step = positions(copy.family)[where]
    while not any(t.space == "parameters" for t in copy.family.steps[step].operands):
        step -= 1
    copy.weight(step, 0.01, seed)
    copy.named(step)


def test_a_weight_off_shows_in_what_the_code_computes(copy):
    """Not only in the file: the layer's output differs too, wherever an input reaches the weight."""
    copy.weight(0, 0.01)
    assert copy.verify().first_wrong.relative > layer_check.LAYER_TOLERANCE


def test_a_weight_off_within_a_fused_block_names_the_layer_of_the_fused_block(copy):
    step, tensors = next(
        (i, [t for t in s.operands if t.space == "parameters"])
        for i, s in enumerate(copy.family.steps)
        if Layer.parse(s.layer).parts
    )
    parts = Layer.parse(copy.family.steps[step].layer).parts
    assert len(tensors) == 2 * len(parts)
    for number in (0, len(parts) - 1):
        mended = (copy.folder / built.PARAMETERS).read_bytes()
        copy.weight(step, 0.01, tensor=tensors[2 * number])
        check = copy.verify().first_wrong
        assert check.name == copy.family.steps[step].name and check.wrong_part == parts[number].name
        (copy.folder / built.PARAMETERS).write_bytes(mended)
    copy.sign()
    copy.verify().require()


# ---- what is no comparison


@pytest.mark.full
@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_a_dump_never_replaces_what_is_not_one_and_right_layers_leave_none(copy, tmp_path, capsys):
    """Before anything runs; the tensors of wrong layers of each dtype are looked at by `Copy.named`."""
    from tvm_mobilenet.checking.layer_check import Evidence

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.npy").write_bytes(b"work of a year")
    with pytest.raises(TvmMobilenetError, match=r"cannot write the dump .*mine: it holds thesis\.npy"):
        copy.verify(dump=mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.npy"]
    assert verify.main([str(copy.folder), "--inputs", "1", "--dump", str(tmp_path / "none")]) == 0
    assert "no layer is wrong: nothing is dumped" in capsys.readouterr().err and not (tmp_path / "none").exists()
    old = Evidence("layer_000", "conv", "a", "wrong", {"data": (np.zeros(3), "x"), "old": (np.zeros(3), "x")})
    old.write(tmp_path / "again")
    refused = dataclasses.replace(old, tensors={"data": (np.array([object()]), "cannot be saved")})
    with pytest.raises(ValueError, match="allow_pickle"):
        refused.write(tmp_path / "again")
    kept = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert kept == ["data.npy", "old.npy", "what.txt"], "the old one whole, nothing of the new one"
    assert not list(tmp_path.glob(".*")), "and nothing beside it"
    dataclasses.replace(old, tensors={"data": (np.ones(3), "x")}).write(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["data.npy", "what.txt"]


@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_another_network_is_refused(copy):
    other = load_network(ModelOptions(model="v1", alpha=0.25, resolution=64))
    with pytest.raises(TvmMobilenetError, match="another network"):
        verify.verify(copy.folder, network=other)


@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_nothing_that_a_build_decided_is_decided_again(copy, monkeypatch):
    """Blocks and pitches come from the plan, whatever the core's file would say today."""
    for module in (pipeline.fuse_blocks, pipeline.row_pitch):
        monkeypatch.setattr(module, "run", lambda *_: pytest.fail("decided again"))
    result = copy.verify()
    assert result.ok and any(c.layer.startswith("fused ") for c in result.layers)


@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_a_build_whose_plan_does_not_say_what_its_steps_compute_is_to_be_built_again(copy):

    def forget(data: dict) -> None:
        for step in data["plan"]["steps"]:
            for field in ("reads", "writes", "parts", "constants"):
                del step[field]

    seal(copy.folder, forget)
    assert built.read(copy.folder).plan.steps[0].operands == copy.family.steps[0].operands
    with pytest.raises(TvmMobilenetError, match="built by an earlier version") as error:
        copy.verify()
    assert error.value.hint == "build it again" and error.value.exit_code == 2


@pytest.mark.parametrize("family", ["v1"], indirect=True)
@pytest.mark.parametrize("change", ["swapped", "split", "values"])
def test_a_plan_of_other_layers_is_refused(copy, change):
    """Its layers by number are these, but not what the steps compute."""
    path = copy.folder / built.PLAN
    data = json.loads(path.read_text())
    steps = data["plan"]["steps"]
    block = next(i for i, step in enumerate(steps) if len(step["parts"]) > 1)
    if change == "swapped":
        steps[block]["parts"].reverse()
    elif change == "split":
        steps[block - 1]["parts"].append(steps[block]["parts"].pop(0))
    else:
        steps[block]["reads"] = ["input_0"]
    path.write_text(json.dumps(data))
    seal(copy.folder)
    with pytest.raises(TvmMobilenetError, match="another network"):
        copy.verify()


@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_other_weights_than_were_built_are_found_in_the_first_layer(copy):
    other = load_network(dataclasses.replace(copy.family.network.options, seed=1))
    result = verify.verify(copy.folder, network=other, count=2)
    assert result.first_wrong.name == copy.family.steps[0].name and not result.outputs[0].ok


@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_inputs_that_are_all_the_same_get_company_that_moves_the_outputs(copy):
    """Equal outputs of equal inputs would show nothing (networks that say nothing at all: test_sure_networks)."""
    (x,) = copy.family.network.inputs(1)
    result = verify.verify(copy.folder, network=copy.family.network, inputs=[x, x])
    result.require()
    assert result.inputs == 4 and not result.outputs[0].constant


def test_nan_is_not_equal_to_anything():
    assert output_check.relative(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == float("inf")
    assert output_check.relative(np.array([1.0, np.inf]), np.array([1.0, 2.0])) == float("inf")


# ---- the command


@pytest.mark.parametrize("family", ["v1"], indirect=True)
def test_the_command_ends_with_0_5_or_4_and_says_why(copy, capsys):
    assert verify.main([str(copy.folder), "--inputs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "verified" in shown and "cosine" in shown and "top-1 100%" in shown
    assert all(step.layer in shown for step in copy.family.steps)

    step = positions(copy.family)["middle"]
    copy.weight(step, 0.01)
    assert verify.main([str(copy.folder), "--inputs", "2", "--json"]) == 5
    shown = capsys.readouterr()
    data = json.loads(shown.out)
    assert data["ok"] is False and copy.family.steps[step].name in shown.err

    step, found = own(copy.family, "middle", lambda step: instructions(copy.family, step, "fmla"))
    copy.word(some(found), lambda _: 0)
    assert verify.main([str(copy.folder), "--inputs", "2"]) == 4
    assert copy.family.steps[step].symbol in capsys.readouterr().err
    (copy.folder / built.PARAMETERS).unlink()
    assert verify.main([str(copy.folder)]) == 2
