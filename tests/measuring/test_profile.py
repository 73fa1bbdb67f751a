"""profile: every layer's time, its distance from the roofline, and where the network's time goes."""

import itertools
import json

import pytest

from tests.support import schemas
from tvm_mobilenet import profile, targets
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.plan import Plan, Step, Tensor
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.measuring import conversions, layer_profile
from tvm_mobilenet.measuring.roofline import missing, rooflines

RPI4 = targets.load("rpi4")


@pytest.fixture(scope="module")
def measured(folders):
    return profile.profile(folders / "host", board="local", seconds=0.3)


@pytest.fixture(scope="module")
def predicted(folders):
    return profile.profile(folders / "rpi4", board="virtual")


# ---- the roofline


def plan_of(*names: str) -> Plan:
    """Layers in turn, each with parameters and an output of its own. One reads the latest output of the size that it
    takes, or the input.
    """
    steps, parameters, arena = [], 0, 0
    for name in names:
        layer = Layer.parse(name)
        given = Tensor("input", 0, layer.input_shape, layer.input_dtype)
        found = [step.operands[-1] for step in steps if step.operands[-1].nbytes == given.nbytes]
        operands = [found[-1] if found else given]
        if layer.weight_shape:
            operands.append(Tensor("parameters", parameters, layer.weight_shape, layer.weight_dtype))
            parameters += operands[-1].nbytes
        operands.append(Tensor("arena", arena, layer.output_shape, layer.output_dtype))
        arena += operands[-1].nbytes
        steps.append(Step("x", "x", name, tuple(operands)))
    return Plan(tuple(steps), (), (), arena, 0, parameters)


def one_step(name: str) -> Plan:
    return plan_of(name)


L1, LAST, LARGE = RPI4.core.l1d.bytes, RPI4.core.l2.bytes, "dense m1 n1024 k1024 f32"  # 4 MiB of parameters


def test_the_ceilings_are_those_of_the_targets_files():
    """A Cortex-A72 at 1.5 GHz does 4 multiply-adds a cycle; a Pi 4 streams 5.5 GB/s; 16 bytes a cycle come into L1."""
    plan, parameters, data = plan_of("pointwise m196 n512 k512 f32 relu6", LARGE), 512 * 512 * 4, 196 * 512 * 4
    left = 1024 * 4  # what LARGE wrote a pass before: its place is needed now
    one = rooflines(plan, RPI4, 1, fills=False)[0]
    assert one.compute == pytest.approx(196 * 512 * 512 / (4 * 1.5e9))
    assert one.dram == pytest.approx((parameters + left) / 5.5e9), "a caller just wrote the data"
    assert one.cache == pytest.approx((parameters + left + 2 * (data - L1)) / (16 * 1.5e9))
    assert one.ports == pytest.approx((parameters + data) / 16 / 1.5e9), "a load each cycle; stores have their own unit"
    assert (one.binds, one.seconds) == ("compute", one.compute)
    filling = rooflines(plan, RPI4, 1)[0]
    assert filling.dram == pytest.approx(one.dram + data / 5.5e9), "the virtual board fills what is written"
    assert filling.cache == pytest.approx(one.cache + data / (16 * 1.5e9))
    four = rooflines(plan, RPI4, 4, fills=False)[0]
    assert four.compute == pytest.approx(one.compute / 4) and four.dram == one.dram, "one core takes all of the DRAM"
    assert four.ports == pytest.approx(one.ports / 4)
    assert four.cache == pytest.approx((parameters + left + 2 * (data - 4 * L1)) / (32 * 1.5e9)), "four L1"
    plan = plan_of(LARGE)
    one, four = rooflines(plan, RPI4, 1)[0], rooflines(plan, RPI4, 4)[0]
    assert rooflines(plan, RPI4, 8)[0] == four
    assert rooflines(plan, RPI4, 1, 0.75e9)[0].compute == pytest.approx(2 * one.compute)


def test_which_ceiling_binds():
    assert rooflines(one_step(LARGE), RPI4, 1)[0].binds == "DRAM"
    small = rooflines(one_step("dense m1 n1000 k64 f32"), RPI4, 1)[0]
    assert small.dram == 0 and small.binds != "DRAM", "all parameters stay in the L2"
    large = rooflines(one_step("pool 112x112x64 avg 2x2 s2 f32"), RPI4, 1)[0]
    assert large.dram == pytest.approx((112 * 112 * 64 * 4 - LAST) / 5.5e9) and large.binds == "DRAM"
    copy = rooflines(one_step("elementwise 28x28x64 none f32 relu"), RPI4, 1, fills=False)[0]
    assert copy.binds == "L1"
    assert copy.ports == pytest.approx(28 * 28 * 64 * 4 / 8 / 1.5e9), "8 bytes are stored a cycle"


def test_a_cache_keeps_what_later_steps_leave_room_for():
    """The second layer reads what the first wrote; beyond the large one nothing of it is left."""
    add = "elementwise 28x28x64 none f32 relu"
    size = 28 * 28 * 64 * 4
    near = missing(plan_of(add, add), LAST, True)
    assert near == [0, 0], "all of both fits the L2, in every pass"
    first, large, last = missing(plan_of(add, LARGE, add), LAST, True)
    assert first == 0, "a caller just wrote its data, and the last step of the pass before read its output"
    assert last == 2 * size, "both were last touched before LARGE"
    kept = LAST - 3 * size  # of the parameters, beside the data and two outputs
    assert large == 2**22 - kept + 2 * size, "the rest of them, and what the two others wrote"
    kept = missing(plan_of(add, add), 2 * size + 1000, True)
    assert kept[1] == size - 1000, "its data was just written; 1000 bytes are left of its output, after the input"
    few = missing(plan_of(add, add), 1000, False)
    assert few == [2 * (size - 1000) + 1000, 2 * (size - 1000)], (
        "read, and written back; the first also evicts the rest"
    )


def test_whole_lines_of_a_part_move():
    """Two layers that write every other twelve floats of a tensor each move all of it: 64 bytes of 96 hold both."""
    halves = [f"pointwise m5000 n12 k4 out24 into{at}of120000 f32" for at in (0, 12)]
    whole = Tensor("arena", 0, (120000,), "float32")
    data = Tensor("input", 0, (1, 5000, 1, 4), "float32")
    plan = Plan(tuple(Step("x", "x", name, (data, whole)) for name in halves), (), (), whole.nbytes, 0, 0)
    assert missing(plan, 0, True, 64)[0] == data.nbytes + 2 * whole.nbytes, "read; filled, and written back"
    assert missing(plan, 0, True, 16)[0] == data.nbytes + whole.nbytes, "lines of four floats divide the parts"


def test_a_network_moves_no_less_than_its_bound(folders):
    """The caches of the virtual board count every access of every kernel; single steps differ from an ideal cache by
    the sets of the L1, and by weights that only meet padding.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.plan_runner import PlanRunner
    from tvm_mobilenet.compiler.plan import input_values, inputs_of

    module = built.read(folders / "rpi4")
    with open_board("virtual", RPI4).load(module.library) as loaded:
        runner = PlanRunner(loaded, module.plan, module.parameters())
        runs = runner.run(*input_values(inputs_of(module.plan)), cores=1, memory=True).kernels
    moved = sum(c.traffic.bytes[0] for run in runs for part in run.parts for c in part.ran)
    assert 0.25 * moved < sum(missing(module.plan, L1, True)) <= moved


# ---- the profile


def test_every_kernel_call_is_there_in_order_with_how_it_was_built(measured, folders):
    module = built.read(folders / "host")
    assert [x.name for x in measured.layers] == [s.name for s in module.plan.steps]
    assert [x.layer for x in measured.layers] == [s.layer for s in module.plan.steps]
    how = {b.layer: b for b in module.layers}
    assert all((x.decisions, x.source) == (how[x.layer].decisions, how[x.layer].source) for x in measured.layers)
    assert not measured.is_predicted and all(x.predicted is None for x in measured.layers)
    assert any("assumed" in note for note in measured.notes), "this machine's ceilings are no known ones"
    schemas.require("profile", schemas.printed(measured), "", "environment.board")


def test_shares_gflops_and_multiples_follow_from_the_times(predicted):
    assert predicted.is_predicted and sum(x.share for x in predicted.layers) == pytest.approx(1)
    schemas.require("profile", schemas.printed(predicted), "", "layers.0", "layers.0.roofline", "kinds.0")
    assert predicted.seconds == pytest.approx(sum(x.seconds for x in predicted.layers))
    for x in predicted.layers:
        assert x.share == pytest.approx(x.seconds / predicted.seconds)
        assert x.gflops is None or x.gflops == pytest.approx(2 * Layer.parse(x.layer).mult_adds / x.seconds / 1e9)
        assert x.multiple == pytest.approx(x.seconds / x.roofline.seconds) and x.predicted == x.seconds
    assert sum(k.calls for k in predicted.kinds) == len(predicted.layers)
    assert sum(k.seconds for k in predicted.kinds) == pytest.approx(predicted.seconds)
    assert [k.seconds for k in predicted.kinds] == sorted((k.seconds for k in predicted.kinds), reverse=True)


@pytest.mark.parametrize(
    "name, target, most",
    [
        ("pointwise m49 n256 k256 f32 relu6", "rpi4", 1.3),
        ("pointwise m784 n16 k8 i8 group4 small", "rpi5", 1.1),
    ],
)
def test_a_layer_is_near_its_roofline(name, target, most):
    """The model of the core and the ceiling must speak of the same machine: no layer far below, and near it one of
    large sums, and one of int8 with few channels.
    """
    from tvm_mobilenet import schedules
    from tvm_mobilenet.tuning.candidate import Candidate
    from tvm_mobilenet.tuning.runner import Evaluate

    layer, target = Layer.parse(name), targets.load(target)
    evaluate = Evaluate(target)
    evaluate.prepare()
    found = evaluate(Candidate(layer.name, schedules.space(layer, target.core).default))
    assert 0.98 < found.cost / target.clock_hz / rooflines(one_step(layer.name), target, 1)[0].compute < most


def test_int8_conversions_share_the_units_of_multiply_adds():
    """16 channels of 16: on a Cortex-A76 two pipes do all; a Cortex-A72 multiplies in one and converts in the other."""
    name, groups = "pointwise m196 n16 k16 i8 group4 small", 196  # of sixteen outputs
    products = 196 * 16 * 16
    rpi5 = targets.load("rpi5")

    def cycles(target, layer: str) -> float:
        return conversions.cycles(Layer.parse(layer), target.core)

    assert cycles(rpi5, name) == pytest.approx(products / 32 + 14 * groups / 2)
    assert rooflines(one_step(name), rpi5, 2)[0].compute == pytest.approx(cycles(rpi5, name) / rpi5.clock_hz / 2)
    # three slots a cycle: two for a multiply-add of eight or an instruction on 128 bits, one to narrow
    assert cycles(RPI4, name) == pytest.approx(max(products / 8, (products / 8 * 2 + 26 * groups) / 3))
    assert cycles(RPI4, "pointwise m196 n16 k256 i8 group4 small") == pytest.approx(products * 16 / 8), "hidden"
    more = {word: cycles(rpi5, f"{name} {word}") - cycles(rpi5, name) for word in ("add", "hardswish", "relu6")}
    assert more == pytest.approx({"add": 25 * groups / 2, "hardswish": (3 * 3 + 5) * groups / 2, "relu6": 0})
    fused = cycles(rpi5, f"fused depthwise 14x14x16 3x3 p1,1,1,1 i8 group3 small > {name}")
    assert fused == pytest.approx((products + 196 * 16 * 9) / 32 + 2 * 14 * groups / 2)
    assert cycles(targets.load("armv7"), name) == products / targets.load("armv7").core.macs_per_cycle("int8")


def test_prediction_stands_beside_measurement(folders, monkeypatch):
    """A board that measures, with a target that the virtual board knows: here one that answers for a Raspberry Pi."""
    steps = built.read(folders / "rpi4").plan.steps

    class Board:
        measures, has_agent, name = True, True, "a board"

        def upload(self, path):
            return str(path)

        def service(self, name, request):
            if name == "facts":
                return {"clock_hz": 0.75e9}
            assert (
                name == "measure_layers"
                and request["threads"] == 2
                and request["inputs"] == [[[1, 3, 32, 32], "float32"]]
            )
            seconds = [[2e-6 * (i + 1), 3e-6 * (i + 1), 9e-6 * (i + 1)] for i in range(len(steps))]
            return {
                "seconds": seconds,
                "starts": [[1e-5 * i for i in range(len(steps))]],
                "overhead_seconds": 1e-6,
                "steady": False,
                "state": {"throttled": ["under-voltage"]},
            }

    found = profile.profile(folders / "rpi4", board=Board(), threads=2)
    assert [x.seconds for x in found.layers] == pytest.approx([3e-6 * (i + 1) - 1e-6 for i in range(len(steps))])
    full = profile.profile(folders / "rpi4", board="virtual", threads=2)
    assert [x.predicted for x in found.layers] == pytest.approx([2 * x.predicted for x in full.layers]), "at its clock"
    assert any("under-voltage" in n for n in found.notes) and any("settled" in n for n in found.notes)


# ---- views


def table(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()[2:] if not line.startswith(("whole", "!"))]


def test_three_views(folders, predicted, capsys):
    for view in profile.VIEWS:
        profile.print_result(predicted, view)
        out = capsys.readouterr().out
        assert "predicted" in out and "measured" not in out and "x roofline" in out
        rows = table(out)
        if view == "kind":
            assert {r[0] for r in rows} == {x.kind for x in predicted.layers}
            continue
        names = [r[0] for r in rows]
        order = [x.name for x in predicted.layers]
        slowest = [x.name for x in sorted(predicted.layers, key=lambda x: -x.seconds)]
        assert names == (order if view == "order" else slowest)
        assert any(r[-1].startswith("apart=") for r in rows) and "100.0" in rows[-1]


def test_on_the_command_line_one_document_and_a_trace(folders, tmp_path, capsys):
    path = tmp_path / "new" / "trace.json"
    assert profile.main([str(folders / "rpi4"), "--json", "--trace", str(path), "--threads", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == layer_profile.SCHEMA and found["threads"] == 2 and found["is_predicted"] is True
    assert set(found["layers"][0]) >= {
        "name",
        "kind",
        "shape",
        "seconds",
        "share",
        "gflops",
        "roofline",
        "multiple",
        "decisions",
        "source",
        "predicted",
    }
    assert json.loads(path.read_text())["traceEvents"] and [p.name for p in path.parent.iterdir()] == ["trace.json"]


def test_the_trace_has_every_call_of_every_pass_one_after_the_other(measured):
    found = layer_profile.trace(measured)
    calls = [e for e in found["traceEvents"] if e["ph"] == "X" and e["cat"] != "run"]
    assert len(calls) == len(measured.starts) * len(measured.layers) and len(measured.starts) >= 5
    for a, b in itertools.pairwise(calls):
        assert a["ts"] + a["dur"] <= b["ts"] + 1e-3
    first = [e["dur"] for e in calls if e["name"] == measured.layers[0].name]
    assert first == pytest.approx([1e6 * took[0] for took in measured.passes])
    assert calls[0]["cat"] == measured.layers[0].kind and calls[0]["args"]["what"] == measured.layers[0].layer


# ---- mistakes


def test_mistakes_are_told(folders, tmp_path, capsys):
    assert profile.main([str(tmp_path)]) == 2 and "no built module" in capsys.readouterr().err
    assert profile.main([str(folders / "rpi4"), "--threads", "5"]) == 2 and "4 cores" in capsys.readouterr().err
    assert profile.main([str(folders / "rpi4"), "--board", "carrier-pigeon"]) == 2
    assert "unknown kind of board" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert profile.main([str(folders / "rpi4"), "--trace", str(tmp_path / "file" / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
