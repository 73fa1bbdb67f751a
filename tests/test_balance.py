"""Four cores share every layer evenly: without it the slowest share, not the arithmetic, is what a user waits for."""

import pytest
from tvm_mobilenet.schedules import pointwise
from tvm_mobilenet.schedules.choices import imbalance

from tests.evidence import mca
from tvm_mobilenet import codegen, reference, schedules, targets
from tvm_mobilenet.boards.virtual import VirtualBoard
from tvm_mobilenet.layer import Layer


def test_shares_are_runs_of_neighbours_and_the_longest_counts():
    assert imbalance([1] * 8) == 1 and imbalance([1] * 5) == pytest.approx(8 / 5)
    assert imbalance([3, 1, 1, 1], cores=2) == pytest.approx(4 / 3)


@pytest.mark.parametrize("board", ["rpi3", "rpi4", "rpi5"])
def test_defaults_of_v1_share_evenly(board):
    """By counted outputs, over the layers of v1 1.0-224."""
    core = targets.load(board).core
    uneven = {}
    for layer in (Layer.parse(name) for name in mca.layers()[:21]):
        d = schedules.space(layer, core).default
        if layer.kind == "pointwise":
            work = pointwise._work(layer.height, layer.out_channels, *(d[k] for k in ("tile_m", "tile_n", "m_block")),
                                   d["n_block"], d["outer"])
        elif layer.kind == "depthwise":
            tiles = range(0, layer.out_height, d["tile_h"])
            work = [min(d["tile_h"], layer.out_height - t) for t in tiles] * (layer.channels // d["c_block"])
        else:
            continue
        if imbalance(work) > 1.05:
            uneven[layer.name] = imbalance(work)
    assert not uneven


@pytest.mark.parametrize("name", ["depthwise 14x14x512 3x3 p1,1,1,1 f32 relu6", "pointwise m49 n1024 k512 f32 relu6"])
def test_executed_shares_are_even(name, tmp_path):
    """What the tasks really cost, borders and tails included; 2 s each."""
    target, layer = targets.load("rpi4"), Layer.parse(name)
    decisions = schedules.space(layer, target.core).default
    library = codegen.compile_kernels({"kernel": schedules.kernel(layer, decisions)}, target, tmp_path / "kernel.so")
    arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
    with VirtualBoard(target).load(library) as module:
        run = module.call("kernel", arguments, cores=4)
    assert run.cycles_on(4).value * 4 <= 1.05 * run.cycles_on(1).value
