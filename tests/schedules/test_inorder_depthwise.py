"""The loop of depthwise layers for cores that issue in order: right for every strip, loads where the core has room."""

import functools
import re

import numpy as np
import pytest
from tvm_mobilenet.schedules.in_order import depthwise as inorder_depthwise
from tvm_mobilenet.schedules.in_order import issue as inorder_issue

from tests.support.processes import printed_everywhere
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.boards.virtual.board import VirtualBoard
from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.layer import Layer

A53 = targets.load("rpi3")
KINDS = {
    "ldr d": "load_d",
    "ldr x": "load_x",
    "ins": "ins_gpr",
    "fmla": "fma_q",
    "mov v": "vmove",
    "mov x": "alu",
    "fmaxnm": "fminmax_q",
    "fminnm": "fminmax_q",
    "str": "store_q",
    "add": "alu",
    "subs": "alu",
    "b.ne": "branch",
    "nop": "nop",
}


def run(name: str, tmp_path, tasks="all", **decisions):
    """What a layer's kernel computed and what is right, and the cycles of one core."""
    layer = Layer.parse(name)
    record = {**schedules.space(layer, A53.core).default, **decisions}
    assert not schedules.space(layer, A53.core).refuse(record)
    library = codegen.compile_kernels({"kernel": schedules.kernel(layer, record)}, A53, tmp_path / "kernel.so")
    operands = reference.random_arguments(layer)
    arguments = reference.kernel_arguments(layer, record, operands)
    arguments[-1].fill(np.nan)
    with VirtualBoard(A53).load(library) as module:
        cycles = module.call("kernel", arguments, tasks=tasks).cost(1).value
    return arguments[-1], lambda: reference.reference(layer, **operands), cycles


def strips():
    """Strips with and without borders, of every height, with a loop and too short for one."""
    every, left, right = (0, 1, 2), (1, 2), (0, 1)
    for stride in (1, 2):
        for height in (1, 2, 3, 4):
            for width in (1, 2, 7, 14, 50):
                columns = [every] * width
                columns[0], columns[-1] = left, right if stride == 1 and width > 1 else columns[-1]
                rows = [every] * height
                rows[0] = left if height % 2 else every
                yield inorder_depthwise.Strip(
                    tuple(rows), tuple(columns), (stride, stride), inorder_depthwise.CLAMPS["relu6"]
                )


STRIPS = list(strips())


@functools.cache
def unrolled(strip) -> list[str]:
    """A strip's instructions as they execute."""
    plan = inorder_depthwise._plan(strip)
    lines = inorder_depthwise._text(plan).split("\n")
    if "1:" not in lines:
        return lines
    start, stop = lines.index("1:"), lines.index("b.ne 1b") + 1
    return lines[:start] + lines[start + 1 : stop] * plan.turns + lines[stop:]


def issue_cycles(lines: list[str]) -> list[int]:
    """In which cycle each instruction issues, by the rates and latencies of the core's file."""
    classes, width = A53.core.model["classes"], A53.core.issue_width
    ready: dict[str, int] = {}
    cycle, issued, units, found = 0, 0, {}, []
    for line in lines:
        kind, (first, *others) = kind_of(line), re.findall(r"[vqdx]\d+|\$\d+", line) or [""]
        row = classes[kind]
        written = re.sub(r"[qd](?=\d)", "v", first)
        sources = [written, *others] if kind in ("fma_q", "ins_gpr", "store_q") else others
        wants = ["".join(u.rstrip("01") for u in uop.split("|")[:1]) for uop in row["uops"]]
        at = max(
            [
                cycle,
                *(ready.get(s if s[0] != "v" or s != written or kind != "fma_q" else "acc" + s, 0) for s in sources),
            ]
        )
        while True:
            taken = (issued, units) if at == cycle else (0, {})
            room = {"V": 2, "I": 2, "L": 1, "B": 1}
            if taken[0] < width and all(taken[1].get(u, 0) + wants.count(u) <= room[u] for u in wants):
                break
            at += 1
        if at > cycle:
            issued, units = 0, {}
        cycle, issued = at, issued + 1
        units = {u: units.get(u, 0) + wants.count(u) for u in {*units, *wants}}
        if kind not in ("store_q", "branch", "nop"):
            ready[written] = at + row["latency"]
            ready["acc" + written] = at + row.get("forward", row["latency"])
        found.append(at)
    return found


def kind_of(line: str) -> str:
    return next(kind for start, kind in KINDS.items() if line.startswith(start))


def clashes(lines: list[str]) -> list[str]:
    """Vector loads that issue four cycles after an fmla."""
    at = issue_cycles(lines)
    products = {c for c, line in zip(at, lines, strict=True) if line.startswith("fmla")}
    return [line for c, line in zip(at, lines, strict=True) if line.startswith("ldr d") and c - 4 in products]


@pytest.mark.parametrize("strip", STRIPS, ids=lambda s: s.name)
def test_vector_loads_keep_four_cycles_from_fmla(strip):
    """The board would stall there: an fmla enters the adder in its fourth cycle, and no vector load issues then."""
    assert not clashes(unrolled(strip))


def test_a_load_four_cycles_from_an_fmla_is_found():
    fmla, free = "fmla v20.4s, v30.4s, v0.4s", ["nop"] * 6
    assert clashes([fmla, "nop", *free, "ldr d31, [$12, x9]"]) and not clashes([fmla, *free, "ldr d31, [$12, x9]"])


@pytest.mark.parametrize("strip", STRIPS, ids=lambda s: s.name)
def test_a_strip_takes_the_cycles_that_its_plan_has(strip):
    """The plan plays the core: were it wrong about it, loads would not stand where they may."""
    plan = inorder_depthwise._plan(strip)
    planned = len(plan.cycles) + (plan.turns - 1) * (plan.stop - plan.start)
    took = issue_cycles(unrolled(strip))[-1]
    assert took <= planned + 4
    assert took <= 1.2 * inorder_depthwise.cycles(strip)


@pytest.mark.parametrize("strip", STRIPS, ids=lambda s: s.name)
def test_taps_stay_in_their_registers(strip):
    for line in unrolled(strip):
        if not line.startswith("str") and (written := re.match(r"\S+ [vqd](\d+)", line)):
            assert strip.resident <= int(written[1]) < 32, line


@pytest.mark.parametrize(
    "name",
    [
        "depthwise 9x11x8 3x3 p1,1,1,1 f32 relu6",
        "depthwise 10x13x12 3x3 s2 p1,1,1,1 f32 relu",
        "depthwise 9x16x4 3x3 s2 p0,0,1,1 f32",
        "depthwise 7x50x8 3x3 p1,1,1,1 f32 relu6",
        "depthwise 6x101x4 3x3 s2 p1,1,1,1 b2 f32 relu6",
        "depthwise 8x9x8 2x3 s1,2 f32 relu6",
        "depthwise 9x9x4 3x2 s3 p1,0,1,1 f32 relu6",
        "depthwise 5x1x4 3x1 p1,0,1,0 f32",
        "ghost 7x8x8 n16 3x3 p1,1,1,1 f32 relu",
    ],
)
@pytest.mark.parametrize("height", [3, *(pytest.param(h, marks=pytest.mark.full) for h in (1, 2, 4))])
def test_every_strip_computes_its_layer(name, height, tmp_path):
    """Taps, borders, heights that rows do not divide, strips of whole rows and of less, with a loop and without."""
    layer = Layer.parse(name)
    height = min(height, layer.out_height)
    for width in {layer.out_width, min(5, layer.out_width)}:
        found, expected, _ = run(name, tmp_path, tile_h=height, tile_w=width, loop="dual_issue")
        assert np.abs(found - expected()).max() < 1e-5


def test_a_wrong_register_is_found(tmp_path, monkeypatch):
    text = inorder_depthwise._text
    monkeypatch.setattr(inorder_depthwise, "_text", lambda plan: re.sub(r", v0\.4s", ", v1.4s", text(plan), count=1))
    inorder_depthwise._function.cache_clear()
    found, expected, _ = run("depthwise 9x12x8 3x3 p1,1,1,1 f32 relu6", tmp_path, loop="dual_issue")
    inorder_depthwise._function.cache_clear()
    assert np.abs(found - expected()).max() > 1e-3


@pytest.mark.parametrize(
    "shape",
    [
        "56x56x128 3x3 s2",
        "14x14x512 3x3",
        "7x7x1024 3x3",
        *(
            pytest.param(shape, marks=pytest.mark.full)
            for shape in (
                "112x112x32 3x3",
                "112x112x64 3x3 s2",
                "56x56x128 3x3",
                "28x28x256 3x3",
                "28x28x256 3x3 s2",
                "14x14x512 3x3 s2",
            )
        ),
    ],
)
def test_layers_of_mobilenet_v1_take_at_most_two_cycles_and_a_fifth(shape, tmp_path):
    """What the loop is for: LLVM's code takes up to 3.0 cycles a vector fmla."""
    name = f"depthwise {shape} p1,1,1,1 f32 relu6"
    layer = Layer.parse(name)
    assert schedules.space(layer, A53.core).default["loop"] == "dual_issue"
    *_, cycles = run(name, tmp_path, tasks="sample")
    assert cycles <= 2.2 * layer.mult_adds / 4


@pytest.mark.parametrize(
    "name",
    [
        "depthwise 14x14x16 5x5 p2,2,2,2 f32 relu",
        "depthwise 14x14x18 3x3 p1,1,1,1 f32",
        "depthwise 14x14x16 3x3 p1,1,1,1 f32 hardswish",
        "depthwise 14x14x16 3x3 p1,1,1,1 f32 add relu",
        "depthwise 14x14x16 3x3 p1,1,1,1 d2 f32",
        "depthwise 14x14x16 3x3 p1,1,1,1 nchw f32",
    ],
)
def test_what_the_loop_cannot_do_is_left_to_tir(name):
    """Taps that fill the registers, ragged vectors, other epilogues, windows with holes, channels apart."""
    assert "loop" not in schedules.space(Layer.parse(name), A53.core).choices


def test_other_cores_have_no_such_choice_and_wide_tiles_are_refused():
    layer = Layer.parse("depthwise 14x14x512 3x3 p1,1,1,1 f32 relu6")
    for board in ("rpi4", "rpi5", "armv7"):
        assert "loop" not in schedules.space(layer, targets.load(board).core).choices
    space = schedules.space(layer, A53.core)
    assert "one vector" in space.refuse({**space.default, "lanes": 8})
    tall = inorder_depthwise.Strip(((0, 1, 2),) * 8, ((0, 1, 2),) * 4, (1, 1), ())
    assert "registers" in inorder_depthwise.refuse(tall)


@pytest.mark.full
def test_the_same_code_in_every_process():
    """Decisions ship, code does not: it must not hang on the order of a set."""
    code = (
        "from tvm_mobilenet.schedules.in_order import depthwise as d; import hashlib; "
        "strip = d.Strip(((0, 1, 2),) * 2, ((1, 2),) + ((0, 1, 2),) * 8, (2, 2), d.CLAMPS['relu6']); "
        "print(hashlib.sha256(d._function(strip)[1].encode()).hexdigest())"
    )
    assert len(printed_everywhere(code)) == 1


def test_a_strip_without_an_order_is_an_error_and_no_endless_loop(monkeypatch):
    monkeypatch.setattr(inorder_issue.Issue, "_fmla", lambda self: None)
    with pytest.raises(RuntimeError):
        inorder_issue.Issue(STRIPS[0], 3, 3).run()


@pytest.mark.parametrize(
    "row_tiles, column_tiles", [(2, 2), *(pytest.param(*c, marks=pytest.mark.full) for c in ((1, 4), (4, 1)))]
)
def test_fused_blocks_compute_their_layers_with_strips(row_tiles, column_tiles, tmp_path):
    """Rows of a line buffer wherever they lie, borders of the image and of tiles, input and what lies between."""
    name = (
        "fused depthwise 17x17x8 3x3 p1,1,1,1 f32 relu6 > pointwise m289 n12 k8 f32 relu6 > "
        "depthwise 17x17x12 3x3 s2 p1,1,1,1 f32 relu > pointwise m81 n8 k12 f32 > "
        "ghost 9x9x8 n16 3x3 p1,1,1,1 f32 relu"
    )
    default = schedules.space(Layer.parse(name), A53.core).default
    assert default["0.loop"] == default["2.loop"] == default["4.loop"] == "dual_issue"
    found, expected, _ = run(name, tmp_path, row_tiles=row_tiles, column_tiles=column_tiles)
    assert np.abs(found - expected()).max() <= 1e-5 * max(1.0, float(expected().std()))
