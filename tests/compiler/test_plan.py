"""The plan: no tensor is overwritten while it is still read, and little memory is taken."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_mobilenet import frontend, passes, schedules, targets
from tvm_mobilenet.compiler import fuse_blocks
from tvm_mobilenet.compiler.lower import lower_layers
from tvm_mobilenet.compiler.plan import ALIGNMENT, PAGE, Plan, allocate, plan_of, read_plan
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry

TARGET = targets.load("rpi4")


def planned(model, *inputs, fused_blocks=False):
    """Layer calls, plan and constants of a PyTorch model, under default decisions; in fused blocks as `build` takes
    them."""
    graph = passes.run(frontend.from_torch(model.eval().requires_grad_(False), *inputs))
    graph = fuse_blocks.run(graph, TARGET.core) if fused_blocks else graph
    decisions = {layer: schedules.space(layer, TARGET.core).default for layer in graph.counts}
    return graph.calls, *plan_of(lower_layers(graph, decisions), graph)


@pytest.fixture(scope="module")
def networks():
    """Plans by name, each made once; what the weights are does not matter here."""
    made = {}

    def get(name, alpha=1.0, resolution=224, fused_blocks=False):
        key = name, alpha, resolution, fused_blocks
        if key not in made:
            made[key] = planned(
                registry.architecture(name, alpha), torch.zeros(1, 3, resolution, resolution), fused_blocks=fused_blocks
            )
        return made[key]

    return get


def check_no_value_is_lost(calls, plan: Plan) -> None:
    """Plays the plan on a map of the arena that knows, for every 64 bytes, whose value lies there."""
    owner = np.full(-(-plan.arena_bytes // ALIGNMENT), "", object)
    place = {}

    def cells(t):
        return slice(t.offset // ALIGNMENT, -(-(t.offset + t.nbytes) // ALIGNMENT))

    for call, step in zip(calls, plan.steps, strict=True):
        assert step.layer == call.layer.name
        *operands, output = step.operands
        data = [t for t in operands if t.space != "parameters"]
        assert len(data) == len(call.inputs)
        for value, t in zip(call.inputs, data, strict=True):
            if t.space == "input":
                continue
            assert (t.space, t.offset, t.index) == place[value], (step.name, value)
            if t.space == "arena":
                assert set(owner[cells(t)]) == {value}, f"{step.name} reads {value}, which is gone"
        place[call.output] = output.space, output.offset, output.index
        if output.space == "arena":
            assert output.offset % ALIGNMENT == 0 and output.offset + output.nbytes <= plan.arena_bytes
            for t in data:
                if t.space == "arena":
                    assert t.offset + t.nbytes <= output.offset or output.offset + output.nbytes <= t.offset, step.name
            owner[cells(output)] = call.output


@pytest.mark.parametrize(
    "name, alpha, resolution, fused_blocks",
    [
        pytest.param("v1", 1.0, 224, False, marks=pytest.mark.full),
        pytest.param("v1", 1.0, 224, True, marks=pytest.mark.full),
        ("v2", 0.5, 96, True),
        pytest.param("v2", 0.5, 96, False, marks=pytest.mark.full),
        pytest.param("v3-large", 0.5, 96, False, marks=pytest.mark.full),
    ],
)
def test_no_value_is_overwritten_before_its_last_reader(networks, name, alpha, resolution, fused_blocks):
    calls, plan, _ = networks(name, alpha, resolution, fused_blocks)
    assert any(c.layer.parts for c in calls) is fused_blocks
    check_no_value_is_lost(calls, plan)


def test_several_outputs_and_one_that_is_read_on():
    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(3))

        def forward(self, x):
            a = self.a(x).relu()
            b = self.b(a).relu()
            return a, b, self.c(b) + a

    calls, plan, _ = planned(Heads(), torch.zeros(1, 3, 12, 12))
    check_no_value_is_lost(calls, plan)
    assert [t.space for _, t in plan.outputs] == ["output"] * 3 and [t.index for _, t in plan.outputs] == [0, 1, 2]


@pytest.mark.full
def test_v1_takes_hardly_more_than_its_largest_input_and_output(networks):
    """A Pi Zero has 512 MB for everything: two live activations are all that v1 needs."""
    calls, plan, _ = networks("v1")
    pairs = [sum(t.nbytes for t in (step.operands[0], step.operands[-1]) if t.space == "arena") for step in plan.steps]
    taken = plan.arena_bytes + plan.scratch_bytes * TARGET.cores
    assert max(pairs) <= taken <= 1.1 * max(pairs)
    fused = networks("v1", fused_blocks=True)[
        1
    ]  # what a fused block keeps between its layers is scratch, one for each core
    assert fused.arena_bytes + fused.scratch_bytes * TARGET.cores <= 1.1 * max(pairs)
    assert fused.arena_bytes < plan.arena_bytes and len(fused.steps) < len(plan.steps)
    assert len(plan.steps) == len(calls) <= 29


def test_inputs_and_outputs_are_the_callers(networks):
    _, plan, _ = networks("v2", 0.5, 96)
    ((_, data),), ((_, logits),) = plan.inputs, plan.outputs
    assert (data.space, data.shape, data.dtype) == ("input", (1, 3, 96, 96), "float32")
    assert (logits.space, logits.shape, logits.dtype) == ("output", (1, 1000), "float32")
    assert plan.steps[0].operands[0].space == "input" and plan.steps[-1].operands[-1].space == "output"


def test_constants_lie_apart_and_are_the_packed_weights(networks):
    calls, plan, parameters = networks("v2", 0.5, 96)
    assert parameters.dtype == np.uint8 and parameters.size == plan.parameters_bytes
    end = 0
    for call, step in zip(calls, plan.steps, strict=True):
        decisions = schedules.space(call.layer, TARGET.core).default
        expected = schedules.pack(call.layer, decisions, call.constants)
        found = [t for t in step.operands if t.space == "parameters"]
        assert len(found) == len(expected)
        for t, array in zip(found, expected, strict=True):
            assert t.offset >= end and t.offset % ALIGNMENT == 0, "no two constants share a byte"
            end = t.offset + t.nbytes
            stored = parameters[t.offset : end].view(t.dtype).reshape(t.shape)
            assert np.array_equal(stored, array)
    assert end <= plan.parameters_bytes < end + ALIGNMENT


def test_steps_say_which_layers_they_compute_and_where_those_come_from(networks):
    """Whoever opens a build reads it here: nothing is fused again."""
    calls, plan, _ = networks("v2", 0.5, 96, fused_blocks=True)
    whole = networks("v2", 0.5, 96)[0]
    assert [(p.name, p.source) for step in plan.steps for p in step.parts] == [(c.name, c.source) for c in whole]
    assert any(len(step.parts) > 1 for step in plan.steps)
    for call, step in zip(calls, plan.steps, strict=True):
        assert (step.name, step.reads, step.writes) == (call.name, call.inputs, call.output)
        assert step.constants == tuple(call.layer.constants)
        spaces = [t.space == "parameters" for t in step.operands]
        assert spaces.count(True) == len(step.constants) and spaces.count(False) == len(step.reads) + 1


# ---- the arena


def lives(most: int = 30):
    life = st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 8))
    return st.lists(life, max_size=most).map(lambda all: {i: (n, a, a + d) for i, (n, a, d) in enumerate(all)})


@settings(max_examples=200)
@given(lives())
def test_tensors_alive_together_never_overlap(tensors):
    offsets, arena = allocate(tensors)
    assert set(offsets) == set(tensors)
    items = list(tensors.items())
    for i, (a, (size, first, last)) in enumerate(items):
        assert offsets[a] >= 0 and offsets[a] % ALIGNMENT == 0 and offsets[a] + size <= arena
        for b, (other, start, stop) in items[:i]:
            if first <= stop and start <= last:
                assert offsets[a] + size <= offsets[b] or offsets[b] + other <= offsets[a]


@settings(max_examples=100)
@given(lives())
def test_the_arena_is_between_the_busiest_moment_and_everything_at_once(tensors):
    _, arena = allocate(tensors)
    aligned = {k: -(-n // ALIGNMENT) * ALIGNMENT for k, (n, _, _) in tensors.items()}
    busiest = max((sum(aligned[k] for k, (_, a, b) in tensors.items() if a <= t <= b) for t in range(30)), default=0)
    assert busiest <= arena <= sum(n + (PAGE if n >= PAGE else 0) for n in aligned.values())


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=20))
def test_a_fused_block_needs_no_more_than_its_largest_pair_rounded_up(sizes):
    """A network without branches: each tensor lives from its layer to the next."""
    _, arena = allocate({i: (n, i, i + 1) for i, n in enumerate(sizes)})
    aligned = [-(-n // ALIGNMENT) * ALIGNMENT for n in sizes]
    assert arena >= max(a + b for a, b in itertools.pairwise(aligned))
    assert arena <= sum(sorted(aligned)[-3:]) + 3 * PAGE


def test_neighbours_begin_at_different_places_of_a_page():
    """Activations are whole pages: without it the input and the output of a depthwise layer share their L1 sets."""
    offsets, arena = allocate({i: (100 * PAGE, i, i + 1) for i in range(12)})
    lines = [offsets[i] % PAGE // ALIGNMENT for i in range(12)]
    for row in (8, 16, 32, 64):  # lines of a row of 128 to 1,024 channels
        assert all(a % row and a % row != b % row for a, b in itertools.pairwise(lines))
    assert arena <= 202 * PAGE


# ---- as a file


def test_json_brings_back_the_same_plan(networks, tmp_path):
    _, plan, _ = networks("v3-large", 0.5, 96)
    text = json.dumps(plan.to_data())
    assert Plan.from_data(json.loads(text)) == plan
    (tmp_path / "plan.json").write_text(text)
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "inside.json").write_text(json.dumps({"plan": plan.to_data(), "info": {}}))
    assert read_plan(tmp_path / "inside.json") == plan


def test_a_plan_of_a_build_made_before_steps_knew_their_layers_is_read(networks):
    plan = networks("v3-large", 0.5, 96)[1]
    data = json.loads(json.dumps(plan.to_data()))
    for step in data["steps"]:
        for field in ("reads", "writes", "parts", "constants"):
            del step[field]
    old = Plan.from_data(data)
    assert [s.operands for s in old.steps] == [s.operands for s in plan.steps] and not any(s.parts for s in old.steps)


def test_a_plan_of_another_version_is_refused(networks):
    data = networks("v3-large", 0.5, 96)[1].to_data()
    for version in (data["version"] + 1, None):
        with pytest.raises(TvmMobilenetError, match=f"version {version}"):
            Plan.from_data({**data, "version": version})


@pytest.mark.parametrize("change", [{"steps": [{}]}, {"steps": 3}, {"inputs": [["x"]]}, {"outputs": [["y", {}]]}])
def test_what_is_no_plan_is_refused(networks, change):
    data = json.loads(json.dumps(networks("v3-large", 0.5, 96)[1].to_data()))
    with pytest.raises(TvmMobilenetError, match="not a plan"):
        Plan.from_data({**data, **change})
    del data["arena_bytes"]
    with pytest.raises(TvmMobilenetError, match="arena_bytes"):
        Plan.from_data(data)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(TvmMobilenetError, match=r"none\.json"):
        read_plan(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TvmMobilenetError, match=r"bad\.json"):
        read_plan(tmp_path / "bad.json")


def test_the_simulation_finds_a_plan_that_overwrites(networks):
    """The check above can fail: one offset moved onto a live tensor."""
    calls, plan, _ = networks("v2", 0.5, 96)
    step = next(i for i, c in enumerate(calls) if len(c.inputs) > 1) - 1  # a residual lives across this one
    residual = plan.steps[step + 1].operands[-2]
    *rest, output = plan.steps[step].operands
    moved = dataclasses.replace(output, offset=residual.offset)
    steps = [*plan.steps]
    steps[step] = dataclasses.replace(steps[step], operands=(*rest, moved))
    with pytest.raises(AssertionError):
        check_no_value_is_lost(calls, dataclasses.replace(plan, steps=tuple(steps)))
