"""The loop for cores that issue in order: right for every tile, at the rate that it claims, and nothing beside it."""

import re
from itertools import groupby, product

import numpy as np
import pytest
from tvm_mobilenet.schedules.in_order import pointwise as inorder
from tvm_mobilenet.schedules.registers import registers

from tests.support.processes import printed_everywhere
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.boards.cost.core_model import CoreModel
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.layer import Layer

A53 = targets.load("rpi3")
TILES = [t for t in product(range(1, 13), (4, 8, 12, 16, 24)) if inorder.fits(*t, 8, 64)]


def record(layer: Layer, rows: int, width: int) -> dict:
    return {
        **schedules.space(layer, A53.core).default,
        "tile_m": rows,
        "tile_n": width,
        "m_block": 1,
        "n_block": 1,
        "k_block": layer.channels,
        "loop": "dual_issue",
    }


def run(layer: Layer, decisions: dict, tmp_path, tasks="all"):
    """Its largest difference to the definition, and the traces of what ran with their estimates."""
    library = codegen.compile_kernels({"kernel": schedules.kernel(layer, decisions)}, A53, tmp_path / "kernel.so")
    operands = reference.random_arguments(layer)
    arguments = reference.kernel_arguments(layer, decisions, operands)
    arguments[-1].fill(np.nan)
    with VirtualBoard(A53).load(library) as module:
        ran = module.call("kernel", arguments, tasks=tasks)
        model = CoreModel.of(A53.core)
        traces = [t for part in ran.parts for c in part.ran for t in model.estimate(module.image, c).traces]
    difference = float(np.abs(arguments[-1] - reference.reference(layer, **operands)).max())
    return difference, traces


def test_tiles_that_mobilenets_need_have_such_a_loop():
    """A plan that finds no place for its loads would leave the layer to LLVM, silently, at 1.7 times the cycles."""
    assert {(7, 12), (8, 8), (6, 8), (11, 8), (10, 8), (6, 12)} <= set(TILES)


@pytest.mark.parametrize("rows, width", TILES)
def test_every_tile_computes_the_product_at_its_rate(rows, width, tmp_path):
    """Loads that come too early, too late or into a register in use, and loads that fmla wait for."""
    layer = Layer.parse(f"pointwise m{rows * 2 + 1} n{width} k64 f32")
    difference, traces = run(layer, record(layer, rows, width), tmp_path)
    assert difference < 1e-4
    products = inorder.STEP * rows * width // 4
    inner = [t for t in traces if t.trace.loop and sum(i.kind == "fma_q" for i in t.trace.instructions) == products]
    assert max(t.cycles for t in inner) <= 1.1 * inorder.STEP * inorder.cycles(rows, width)


def test_vector_loads_keep_four_cycles_from_fmla():
    """The board would stall there: an fmla enters the adder in its fourth cycle, and no vector load issues then."""
    for rows, width in TILES:
        loop = inorder._Loop(rows, width // 4, 256)
        loop._turn(last=False)
        kinds = ""  # of each cycle: v a vector load, f an fmla, - neither
        for name, lines in groupby(loop.lines, lambda line: line.split()[0] + (" d" if " d" in line else "")):
            count = len(list(lines))
            if name == "nop":
                kinds += "-" * (count // 2)  # an odd one stands beside what is before it
            elif name in ("ldr d", "fmla"):
                kinds += "vf"[name == "fmla"] * count
            elif name == "ins" and kinds[-1] != "v":
                kinds += "-"
        twice = kinds * 2
        clashes = [i for i, kind in enumerate(twice[4:], 4) if kind == "v" and twice[i - 4] == "f"]
        assert not clashes, (rows, width, kinds)


def test_default_of_a_core_that_issues_in_order_is_this_loop():
    layer = Layer.parse("pointwise m196 n512 k512 f32 relu6")
    assert schedules.space(layer, A53.core).default["loop"] == "dual_issue"
    for board in ("rpi4", "rpi5", "armv7"):
        assert "loop" not in schedules.space(layer, targets.load(board).core).choices


@pytest.mark.parametrize(
    "rows, width, depth, row", [(7, 12, 63, 63), (7, 10, 64, 64), (12, 24, 64, 64), (9, 8, 64, 2048)]
)
def test_what_the_loop_cannot_do_is_left_to_tir(rows, width, depth, row):
    """Odd k, ragged vectors, too many registers, rows out of reach."""
    assert not inorder.fits(rows, width, depth, row)


def test_pointwise_layers_come_near_three_fmla_in_four_cycles(tmp_path):
    """What the loop is for: each layer of MobileNet v1 within 1.40 of the floor, epilogue and tails included."""
    for name in (
        "pointwise m784 n256 k256 f32 relu6",
        "pointwise m196 n512 k512 f32 relu6",
        "pointwise m49 n1024 k1024 f32 relu6",
    ):
        layer = Layer.parse(name)
        decisions = schedules.space(layer, A53.core).default
        library = codegen.compile_kernels({"kernel": schedules.kernel(layer, decisions)}, A53, tmp_path / "kernel.so")
        arguments = reference.kernel_arguments(layer, decisions, reference.random_arguments(layer))
        with VirtualBoard(A53).load(library) as module:
            cycles = module.call("kernel", arguments, tasks="sample").cost(1).value
        assert cycles <= 1.40 * layer.mult_adds / 4, name


@pytest.mark.full
def test_the_same_code_in_every_process():
    """Decisions ship, code does not: it must not hang on the order of a set."""
    code = (
        "from tvm_mobilenet.schedules.in_order import pointwise as inorder; import hashlib; "
        "print(hashlib.sha256(inorder._function(7, 3, 2048)[1].encode()).hexdigest())"
    )
    assert len(printed_everywhere(code)) == 1


def test_registers_count_what_the_assembly_names():
    for rows, width in TILES:
        text = inorder._Loop(rows, width // 4, 256).text()
        used = {int(n) for n in re.findall(r"\b[vdq](\d+)", text)}
        assert used == set(range(inorder.registers(rows, width)))
    assert registers(7, 12, A53.core.lanes("float32")) <= A53.core.vector_registers
