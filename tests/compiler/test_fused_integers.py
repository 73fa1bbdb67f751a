"""Which layers of int8 become fused blocks: those that a core computes faster so, and on no core others."""

import dataclasses

import numpy as np
import pytest

from tvm_mobilenet import boards, schedules, targets
from tvm_mobilenet.checking import integers as definition
from tvm_mobilenet.compiler import codegen, fuse_blocks
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.survey.estimates import weightless


def blocks_of(graph, core) -> list[Layer]:
    return [call.layer for call in fuse_blocks.run(graph, core).calls if call.layer.parts]


@pytest.fixture(scope="module")
def large():
    return weightless(ModelOptions(model="v2", dtype="int8")).graph


def test_blocks_are_made_where_moving_lines_takes_time(large):
    """A Cortex-A53 and A72 wait for lines. A Cortex-A76 computes meanwhile, and a block would compute more."""
    found = {board: blocks_of(large, targets.load(board).core) for board in ("rpi3", "rpi4", "rpi5")}
    assert found["rpi5"] == [] and found["rpi3"] != found["rpi4"]
    for board in ("rpi3", "rpi4"):
        widest = [part for block in found[board] for part in block.parts if part.channels == 96 and part.width == 112]
        assert [part.kind for part in widest] == ["depthwise"], "the largest tensor stays in line buffers"


def test_a_core_that_overlaps_nothing_fuses_and_one_that_overlaps_all_does_not(large):
    core = targets.load("rpi5").core
    model = {**core.model, "memory": {**core.model["memory"], "exposed": 1.0}}
    assert blocks_of(large, dataclasses.replace(core, model=model))


def test_a_layer_that_stays_in_float_cuts_a_block(large):
    core = targets.load("rpi3").core
    inside = next(part for block in blocks_of(large, core) for part in block.parts[1:-1])
    real = inside.replace(dtype="float32", group=0, small=False, reads="int8", writes="int8")
    calls = tuple(call.replace(layer=real) if call.layer == inside else call for call in large.calls)
    kept = [part for block in blocks_of(dataclasses.replace(large, calls=calls), core) for part in block.parts]
    assert kept and real not in kept and inside not in kept and {part.dtype for part in kept} == {"int8"}


@pytest.mark.full
@pytest.mark.parametrize("board", ["rpi3", "rpi4"])
def test_a_block_takes_fewer_cycles_than_its_layers(board, large, tmp_path):
    """Of one core and four, with the caches followed; the block around the largest tensor of v2."""
    target = targets.load(board)
    block = next(b for b in blocks_of(large, target.core) if any(p.channels == 96 and p.width == 112 for p in b.parts))

    def cost(layer: Layer, cores: int) -> float:
        decisions = schedules.space(layer, target.core).default
        drawn = definition.random_operands(layer, np.random.default_rng(0))
        packed = schedules.pack(layer, decisions, drawn["constants"])
        arguments = [drawn["data"], *packed, np.zeros(layer.output_buffer, layer.output_dtype)]
        path = tmp_path / f"{layer.kind}{layer.channels}.so"
        library = codegen.compile_kernels({"kernel": schedules.kernel(layer, decisions)}, target, path)
        with boards.open_board("virtual", target) as opened, opened.load(library) as module:
            return float(module.call("kernel", arguments, cores=cores, memory=True).cycles_on(cores).value)

    for cores in (1, 4):
        assert cost(block, cores) < 0.95 * sum(cost(part, cores) for part in block.parts)
