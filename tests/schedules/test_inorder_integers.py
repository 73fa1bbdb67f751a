"""The dual-issue kernel of int8: its loads stand where nothing waits for them, and what it sums is exact."""

import numpy as np
import pytest
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.schedules.in_order import integer_products as inorder

from tests.schedules.test_integers import operands_of, run
from tvm_mobilenet import boards, schedules, targets
from tvm_mobilenet.boards.cost.core_model import CoreModel
from tvm_mobilenet.checking import integers as definition
from tvm_mobilenet.compiler import codegen


def test_a_core_that_issues_out_of_order_leaves_it():
    layer = operands_of("pointwise m196 n96 k384 i8 group4 small")[0]
    taken = {
        name: inorder.pairs(targets.load(name).core, layer) for name in ("rpi3", "zero2w", "rpi4", "rpi5", "armv7")
    }
    assert taken == {"rpi3": True, "zero2w": True, "rpi4": False, "rpi5": False, "armv7": False}
    assert not inorder.pairs(targets.load("rpi3").core, layer.replace(group=0))


@pytest.mark.parametrize("group", [2, 4])
def test_loads_are_whole_before_their_use(group):
    fitting = [(r, w) for r in range(1, 5) for w in range(1, 5) if inorder.fits(r, w, 64, group, 64)]
    assert (4, 4) in fitting and (3, 4) in fitting
    assert not inorder.fits(1, 4, 64, group, 64), "of one row no time is left for loads"
    assert not inorder.fits(4, 4, 8, group, 64) and not inorder.fits(4, 4, 64, group, 20_000)
    for rows, width in fitting:
        tile = inorder._Tile(rows, width, group)
        registers = {tile.register(o) for o in tile.operands} | {tile.temporary(c) for c in range(tile.ahead + 2)}
        assert max(registers) < 32 and min(registers) == rows * width
        assert len(tile.loads) == len(tile.operands)


@pytest.mark.parametrize(
    "m, k, group, decisions",
    [
        (9, 96, 4, {}),
        (7, 64, 4, {"tile_m": 3}),
        *(
            pytest.param(m, k, group, {"tile_m": tile}, marks=pytest.mark.full)
            for m, k, group, tile in [
                (5, 32, 4, 4),
                (5, 40, 4, 4),
                (6, 104, 2, 3),
                (9, 16, 2, 4),
                (4, 200, 2, 4),
                (4, 64, 4, 2),
            ]
        ),
    ],
)
def test_sums_are_exact(m, k, group, decisions, tmp_path):
    """One turn, two and more; rows and k that are left over. Data and weights at their ends."""
    layer, data, constants, _ = operands_of(f"pointwise m{m} n12 k{k} i8 group{group}")
    most = {2: 127, 4: 63}[group]
    constants["weight"][:6] = np.where(constants["weight"][:6] > 0, most, -most)
    data[:, ::2] = np.where(data[:, ::2] > 0, 127, -128)
    target = targets.load("rpi3")
    chosen = {**schedules.space(layer, target.core).default, "m_block": 1, "n_block": 1, **decisions}
    assert chosen["loop"] == "dual_issue"
    found = run(target, layer, data, constants, None, tmp_path / "k.so", chosen)
    assert np.array_equal(found, definition.run(layer, data, constants))


def test_its_turn_takes_what_its_units_take(tmp_path):
    """A turn of 4 x 4 outputs: a cycle a multiply, two an addition to int32, one a load and what is left of it."""
    layer, data, constants, _ = operands_of("pointwise m8 n8 k128 i8 group4 small")
    target = targets.load("rpi3")
    d = schedules.space(layer, target.core).default
    arguments = [data, *schedules.pack(layer, d, constants), np.zeros(layer.output_buffer, np.int8)]
    library = codegen.compile_kernels({nest.SYMBOL: schedules.kernel(layer, d)}, target, tmp_path / "k.so")
    with boards.open_board("virtual", target) as board, board.load(library) as module:
        run = module.call(nest.SYMBOL, arguments, cores=1)
    model = CoreModel.of(target.core)
    traces = [t for part in run.parts for c in part.ran for t in model.estimate(run.image, c).traces]
    turn = max((t for t in traces if t.trace.loop), key=lambda t: t.trace.count)
    assert [i.text.split()[0] for i in turn.trace.instructions].count("sadalp") == 16
    assert turn.cycles <= 64 + 2 * 16 + 16 + 2
