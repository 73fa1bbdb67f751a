"""Parts of larger tensors: concatenations that are written in place, slices that are read where they lie."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional

from tests.compiler.test_plan import check_no_value_is_lost
from tvm_mobilenet import frontend, passes, schedules, targets
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.checking.layer_check import LayerCheck, Parts
from tvm_mobilenet.checking.reference import kernel_arguments, random_arguments, reference
from tvm_mobilenet.compiler import decide
from tvm_mobilenet.compiler.lower import lower_layers
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.compiler.plan import Plan, plan_of
from tvm_mobilenet.compiler.tables import free_from
from tvm_mobilenet.layer import ImpossibleLayerError, Layer

RPI4 = targets.load("rpi4")


def conv(given, out, kernel=1, **more):
    return nn.Conv2d(given, out, kernel, padding=kernel // 2, **more)


class Ghost(nn.Module):
    """Half of the channels by a depthwise layer from the other half; both are read again."""

    def __init__(self):
        super().__init__()
        self.stem, self.cheap, self.after = conv(3, 12, 3), conv(12, 12, 3, groups=12), conv(24, 8)

    def forward(self, x):
        a = self.stem(x).relu()
        return self.after(torch.cat([a, self.cheap(a).relu()], 1)[:, :24])  # all of them: some networks take fewer


class Heads(nn.Module):
    """A detector's heads on two levels: boxes and classes, joined along the boxes."""

    def __init__(self):
        super().__init__()
        self.stem, self.further = conv(3, 8, 3), conv(8, 8, 3, stride=2)
        self.heads = nn.ModuleList(conv(8, 2 * out) for out in (4, 3, 4, 3))

    def forward(self, x):
        low = self.stem(x).relu()
        rows = []
        for level, heads in ((low, self.heads[:2]), (self.further(low).relu(), self.heads[2:])):
            found = [(head(level), out) for head, out in zip(heads, (4, 3), strict=True)]
            rows.append([y.permute(0, 2, 3, 1).reshape(len(x), -1, out) for y, out in found])
        return tuple(torch.cat(each, 1) for each in zip(*rows, strict=True))


class Split(nn.Module):
    """Two halves of the channels, one of them through a window, and a concatenation of a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem, self.window, self.after = conv(3, 16, 3), conv(8, 8, 3, groups=8), conv(8, 8)
        self.last = conv(24, 4)

    def forward(self, x):
        left, right = self.stem(x).relu().chunk(2, 1)
        both = torch.cat([self.window(right).relu(), self.after(left)], 1)
        return self.last(torch.cat([both, self.after(left).relu()], 1))


class Copies(nn.Module):
    """Operands that have to be copied: one that is an output, one that is read as a residual, one twice; a resize."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.last = conv(3, 8, 3), conv(8, 8), conv(8, 8), conv(32, 4)

    def forward(self, x):
        a = self.a(self.stem(x).relu())
        b = self.b(a) + a
        up = functional.interpolate(functional.max_pool2d(b, 2), scale_factor=2.0, mode="bilinear")
        return self.last(torch.cat([a, a, b, up], 1)), b


NETWORKS = {"ghost": Ghost, "heads": Heads, "split": Split, "copies": Copies}


def made(name: str, batch: int = 1):
    """A network of 8 x 8 images as its core runs it, and what it was made of."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().requires_grad_(False)
    whole = passes.run(frontend.from_torch(model, torch.zeros(batch, 3, 8, 8)))
    return model, whole, for_core(whole, RPI4.core)


def planned(graph):
    decisions = {layer: schedules.space(layer, RPI4.core).default for layer in graph.counts}
    lowered = lower_layers(graph, decisions)
    return lowered, *plan_of(lowered, graph)


def run(lowered, plan: Plan, parameters, *inputs) -> list[np.ndarray]:
    """The plan by the kernels of this machine; what nobody wrote is not a number."""
    kernels = {g: f for g, f in lowered.functions.items() if g.name_hint != "main"}
    built = tvm.compile(tvm.IRModule(kernels), target=tvm.target.Target("llvm"))
    ports = {("input", i): np.ascontiguousarray(x) for i, x in enumerate(inputs)}
    ports |= {("output", t.index): np.full(t.shape, np.nan, t.dtype) for _, t in plan.outputs}
    arrays = {"arena": np.full(plan.arena_bytes, 0xFF, np.uint8), "parameters": parameters}

    def view(t):
        if t.space in arrays:
            return arrays[t.space][t.offset : t.offset + t.nbytes].view(t.dtype).reshape(t.shape)
        return ports[t.space, t.index].reshape(t.shape)

    for step in plan.steps:
        tensors = [tvm.runtime.tensor(view(t)) for t in step.operands]
        built[step.symbol](*tensors)
        view(step.operands[-1])[...] = tensors[-1].numpy()
    return [ports["output", t.index].reshape(t.shape) for _, t in plan.outputs]


@pytest.mark.parametrize(
    "name, batch, generic, copies",
    [
        ("ghost", 1, 0, 0),
        pytest.param("ghost", 2, 0, 0, marks=pytest.mark.full),
        ("heads", 1, 0, 0),
        pytest.param("heads", 2, 0, 4, marks=pytest.mark.full),  # a stretch of each image: a layer writes all at once
        pytest.param("split", 1, 0, 0, marks=pytest.mark.full),
        pytest.param("copies", 1, 0, 3, marks=pytest.mark.full),
    ],
)
def test_what_is_joined_is_written_in_place_and_what_is_cut_is_read_where_it_lies(name, batch, generic, copies):
    model, whole, graph = made(name, batch)
    assert any(call.layer.op in ("concat", "strided_slice") for call in whole.calls)
    found = [call.layer for call in graph.calls]
    assert sum(layer.body is not None for layer in found) == generic, [layer.name for layer in found]
    assert sum(layer.copies for layer in found) == copies
    lowered, plan, parameters = planned(graph)
    x = np.random.default_rng(0).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    expected = model(torch.from_numpy(x))
    expected = expected if isinstance(expected, tuple) else (expected,)
    for one, due in zip(run(lowered, plan, parameters, x), expected, strict=True):
        assert relative(one, due.numpy()) < 1e-5
    check_parts_live_together(plan)


def check_parts_live_together(plan: Plan) -> None:
    """All parts of a tensor lie in one memory, side by side; nothing else is written there before its last reader, and
    no scratch memory lies there."""
    parts = {}
    for i, step in enumerate(plan.steps):
        if step.into:
            parts.setdefault(step.into, []).append((i, step))
    assert parts
    free = free_from(plan)
    for steps in parts.values():
        memory = {(s.operands[-1].space, s.operands[-1].offset, s.operands[-1].index) for _, s in steps}
        assert len(memory) == 1
        taken = np.zeros(steps[0][1].operands[-1].shape, int)
        for _, step in steps:
            Layer.parse(step.layer).output_place.view(taken)[...] += 1
        assert (taken == 1).all()
        (space, offset, _), nbytes = memory.pop(), steps[0][1].operands[-1].nbytes
        if space != "arena":
            continue
        names = {s.into for _, s in steps} | {s.writes for _, s in steps}
        where = (space, offset)
        last = max(i for i, s in enumerate(plan.steps) if where in [(t.space, t.offset) for t in s.operands])
        for i in range(steps[0][0], last + 1):
            assert free[i] >= offset + nbytes
            t, step = plan.steps[i].operands[-1], plan.steps[i]
            apart = t.space != space or t.offset + t.nbytes <= offset or offset + nbytes <= t.offset
            assert apart or step.into in names or not steps[0][0] <= i < last, step.name


def test_without_parts_the_check_of_a_plan_finds_nothing_to_say():
    """The simulation of `test_plan` on parts would fail where a value is overwritten; here it has none."""
    model = nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 4)).eval().requires_grad_(False)
    graph = for_core(passes.run(frontend.from_torch(model, torch.zeros(1, 3, 8, 8))), RPI4.core)
    _, plan, _ = planned(graph)
    check_no_value_is_lost(graph.calls, plan)
    assert not any(step.into for step in plan.steps)


LAYERS = [
    "pointwise m20 n8 k12 out20 into12of400 f32 relu",
    "pointwise m20 n8 k12 in24 from12of480 f32 add",
    "depthwise 6x6x12 3x3 p1,1,1,1 in24 out24 from0of864 into12of864 f32 relu6",
    "conv 6x6x5 n7 3x3 p1,1,1,1 in12 out9 from7of432 into2of324 f32",
    "pool 6x6x10 avg 2x2 s2 in20 out30 from10of720 into20of270 f32",
    "elementwise 6x6x10 add in20 from10of720 f32",
    "elementwise 1x1x50 none from7of64 into14of64 f32",
    "dense m1 n10 k16 from16of32 into10of20 f32",
    "depthwise 6x6x12 3x3 p1,1,1,1 in24 out24 from0of864 into12of864 f16 relu6",
]


@pytest.mark.parametrize("name", [*LAYERS[:2], *(pytest.param(name, marks=pytest.mark.full) for name in LAYERS[2:])])
def test_a_layer_reads_and_writes_its_part_and_leaves_the_others(name):
    layer = Layer.parse(name)
    assert layer.name == name and layer.dense.name != name
    decisions = schedules.space(layer, RPI4.core).default
    operands = random_arguments(layer)
    arguments = kernel_arguments(layer, decisions, operands)
    assert arguments[-1].shape == layer.output_buffer
    arguments[-1][...] = 7
    built = tvm.compile(tvm.IRModule({"kernel": schedules.kernel(layer, decisions)}), target=tvm.target.Target("llvm"))
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments]
    built["kernel"](*tensors)
    memory = tensors[-1].numpy().copy()
    found = layer.output_place.view(memory)
    assert relative(found, reference(layer, **operands)) < (1e-2 if layer.dtype == "float16" else 1e-5)
    found[...] = 7
    assert (memory == 7).all(), "something beside its part was written"


@pytest.mark.parametrize(
    "name, field",
    [
        ("pointwise m20 n8 k12 out20 into13of400 f32", "output_part"),
        ("pointwise m20 n8 k12 from1of240 f32", "input_part"),
    ],
)
def test_a_part_that_reaches_beyond_its_tensor_is_no_layer(name, field):
    with pytest.raises(ImpossibleLayerError, match=field):
        Layer.parse(name)


def test_a_layer_that_changes_another_part_is_wrong():
    first, second = (Layer.parse(f"pointwise m4 n2 k3 out4 into{at}of16 f32") for at in (0, 2))
    memory = np.arange(16, dtype=np.float32)

    @dataclasses.dataclass
    class Call:
        layer: Layer

    @dataclasses.dataclass
    class Step:
        into: str
        operands: tuple = (None,)

    class Runner:
        def read(self, _):
            return memory

    right = LayerCheck("layer", first.name, "", 0.0)
    parts = Parts()
    assert parts.watch(Call(first), Step("whole"), Runner(), right).ok
    assert parts.watch(Call(second), Step("whole"), Runner(), right).ok
    memory[4] += 1
    assert not parts.watch(Call(second), Step("whole"), Runner(), right).ok
    parts.forget()
    assert parts.watch(Call(second), Step("whole"), Runner(), right).ok


def test_a_part_that_is_written_at_a_wrong_place_is_found():
    """One head's boxes a position too early: the network's outputs and the map of the parts both tell."""
    model, _, graph = made("heads")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    place = next(call for call in graph.calls if call.layer.output_part[:1] > (0,))
    first, size = place.layer.output_part
    moved = dataclasses.replace(place, layer=place.layer.writing(0, (first - 8, size)))
    lowered, plan, parameters = planned(
        dataclasses.replace(graph, calls=tuple(moved if c is place else c for c in graph.calls))
    )
    found = zip(run(lowered, plan, parameters, x), model(torch.from_numpy(x)), strict=True)
    assert max(relative(one, due.numpy()) for one, due in found) > 1e-2
    with pytest.raises(AssertionError):
        check_parts_live_together(plan)


def test_a_layer_of_parts_has_the_decisions_that_logs_know_of_it_without_them(monkeypatch):
    """Else a network of tuned layers would fall back to defaults where they are concatenated."""
    layer = Layer.parse("pointwise m196 n64 k64 out128 into64of25088 f32 relu")
    space = schedules.space(layer, RPI4.core)
    tuned = next(point for point in space.points() if point != space.default)

    def find(decisions):
        record = SimpleNamespace(decisions=decisions)
        known = SimpleNamespace(record=record, source=SimpleNamespace(name="log.jsonl"))
        monkeypatch.setattr(decide.TuneLogs, "find", lambda _, one: known if one == layer.dense else None)
        return decide.decide([layer], RPI4)[0]

    assert (find(tuned).decisions, find(tuned).source) == (tuned, "log.jsonl")
    assert (find({**tuned, "tile_m": 10**6}).decisions, find({}).source) == (space.default, "default")
