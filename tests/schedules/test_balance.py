"""Four cores share every layer evenly: without it the slowest share, not the arithmetic, is what a user waits for."""

import pytest
from tvm_mobilenet.schedules import row_tiles
from tvm_mobilenet.schedules.choices import EVEN, imbalance
from tvm_mobilenet.schedules.defaults import depthwise, pointwise

from tvm_mobilenet import schedules, targets
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference
from tvm_mobilenet.cli import options
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.survey.estimates import weightless


def load_balance(layer: Layer, core) -> float:
    """The longest share over the mean with default decisions, by what the schedule counts of each task."""
    d = schedules.space(layer, core).default
    if layer.kind == "pointwise":
        blocks = pointwise.Blocks(**{name: d[name] for name in pointwise.Blocks._fields})
        return imbalance(pointwise.work(layer, core, blocks), core.cpus)
    if layer.kind == "depthwise":
        return imbalance(depthwise.work(layer, d["tile_h"], d["c_block"]), core.cpus)
    return row_tiles.load_balance(layer, d["row_tiles"], d["column_tiles"], core.cpus)


def test_shares_are_runs_of_neighbours_and_the_longest_counts():
    assert imbalance([1] * 8, 4) == 1 and imbalance([1] * 5, 4) == pytest.approx(8 / 5)
    assert imbalance([3, 1, 1, 1], 2) == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    "model", ["v1", *(pytest.param(m, marks=pytest.mark.full) for m in ("v2", "v3-large", "v3-small"))]
)
def test_defaults_share_evenly(model):
    """Every layer of a network on all three cores, squeeze-excitation's and the classifiers' of one position aside."""
    network = load_network(options.ModelOptions(model=model))
    uneven = {}
    for target in map(targets.load, ("rpi3", "rpi4", "rpi5")):
        for layer in for_core(network.graph, target.core).counts:
            if layer.kind in ("pointwise", "depthwise", "fused"):
                uneven[target.name, layer.name] = load_balance(layer, target.core)
    assert {name: share for name, share in uneven.items() if share > EVEN} == {}


@pytest.mark.parametrize(
    "model", ["v1", *(pytest.param(m, marks=pytest.mark.full) for m in ("v2", "v3-large", "v3-small"))]
)
def test_defaults_of_int8_share_evenly(model):
    """Layers above a million multiply-adds; below, handing tasks over takes longer than what is uneven."""
    graph = weightless(options.ModelOptions(model=model, dtype="int8")).graph
    uneven = {}
    for target in map(targets.load, ("rpi3", "rpi4", "rpi5")):
        for layer in for_core(graph, target.core).counts:
            if layer.kind in ("pointwise", "depthwise") and layer.mult_adds > 1_000_000:
                uneven[target.name, layer.name] = load_balance(layer, target.core)
    assert uneven and {name: share for name, share in uneven.items() if share > EVEN} == {}


@pytest.mark.parametrize(
    "board, name",
    [
        ("rpi4", "depthwise 14x14x512 3x3 p1,1,1,1 f32 relu6"),
        ("rpi4", "depthwise 28x28x120 5x5 p2,2,2,2 f32 relu"),  # in single rows
        ("rpi5", "depthwise 14x14x672 5x5 s2 p2,2,2,2 f32 hardswish"),  # borders of four rows in seven
        ("rpi4", "pointwise m49 n1024 k512 f32 relu6"),
        ("rpi3", "pointwise m49 n160 k960 f32 add"),  # 13 panels of 12, or 20 of 8
    ],
)
def test_executed_shares_are_even(board, name, tmp_path):
    """What the tasks really cost, borders and tails included; 2 s each."""
    target, layer = targets.load(board), Layer.parse(name)
    decisions = schedules.space(layer, target.core).default
    library = codegen.compile_kernels({"kernel": schedules.kernel(layer, decisions)}, target, tmp_path / "kernel.so")
    arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
    with VirtualBoard(target).load(library) as module:
        run = module.call("kernel", arguments, cores=4)
    assert run.cycles_on(4).value * 4 <= EVEN * run.cycles_on(1).value
