"""Concatenations and slices between layers of a narrow dtype move that dtype, in place; a conversion costs a kernel."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tvm_mobilenet import build, frontend, passes, targets, verify
from tvm_mobilenet.checking import integers, network_steps
from tvm_mobilenet.checking.built_calls import calls_of
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import pipeline, quantization, views
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.passes import moved, quantize
from tvm_mobilenet.passes.quantization import Scale

NET = """
import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.stem, self.cheap = nn.Conv2d(3, 18, 3, 2, 1), nn.Conv2d(18, 18, 3, 1, 1, groups=18)
        self.after, self.right = nn.Conv2d(36, 24, 1), nn.Conv2d(12, 14, 1)
        self.left, self.last = nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.Conv2d(26, 8, 1)
        self.slopes, self.factor = nn.Parameter(torch.linspace(-0.5, 1.5, 24)), factor

    def forward(self, x):
        a = self.stem(x).relu()
        x = self.after(torch.cat([a, self.cheap(a).relu() * self.factor], 1))
        x = functional.prelu(x + x.relu(), self.slopes)
        left, right = x.chunk(2, 1)
        return self.last(torch.cat([self.left(left), self.right(right)], 1)).mean((2, 3))


def make():
    torch.manual_seed(0)
    return Net()
"""


@pytest.mark.parametrize("dtype", ["float16", pytest.param("int8", marks=pytest.mark.full)])
def test_between_layers_of_a_dtype_nothing_is_converted_or_copied(dtype, tmp_path):
    """Of odd numbers of channels, and with a PReLU after an addition: every kernel is of the dtype, and right."""
    (tmp_path / "net.py").write_text(NET)
    network = load_network(ModelOptions(model=f"{tmp_path / 'net.py'}:make", resolution=16, dtype=dtype))
    build.build(network.options, targets.load("rpi5"), output=tmp_path / "out", network=network)
    layers = [Layer.parse(step.layer) for step in built.read(tmp_path / "out").plan.steps]
    assert not any(layer.body for layer in layers) and sum(bool(layer.output_part) for layer in layers) == 4
    between = [layer for layer in layers if layer.kind != "pool"][1:-1]
    assert {layer.output_dtype for layer in between[:-1]} == {dtype} == {layer.input_dtype for layer in between}
    assert any(layer.activation == "prelu" for layer in between)
    found = verify.verify(tmp_path / "out", network=network, count=1)
    assert found.ok and all(check.units in (0, None) for check in found.layers)


TWICE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.last(torch.cat([x, x], 1)).mean((2, 3))


make = Net
"""


def test_a_copy_of_int8_is_held_against_its_network(tmp_path):
    """`verify` makes the copies of a plan again; without their constants it took the plan for another network's."""
    (tmp_path / "net.py").write_text(TWICE)
    network = load_network(ModelOptions(model=f"{tmp_path / 'net.py'}:make", resolution=16, dtype="int8"))
    plan = pipeline.compile(network, targets.load("host")).plan
    copies = [
        call for call in calls_of(network, SimpleNamespace(plan=plan)) if call.parts and views.moves(call.parts[0])
    ]
    assert copies and all(call.constants.keys() == call.layer.constants.keys() for call in copies)


def quantized(model, x):
    """The network in int8, calibrated on one input, and that in float32."""
    graph = passes.run(frontend.from_torch(model.eval().requires_grad_(False), x), integer=True)
    q = quantization.scales_of(graph, [(x.numpy(),)], method="minmax")
    return graph, q, quantize.run(graph, q)


@pytest.mark.parametrize("factor, copies", [(1.0, 0), (8.0, 1)])
def test_an_operand_of_a_much_finer_scale_is_converted_for_the_concatenation_alone(factor, copies):
    space: dict = {}
    exec(NET, space)
    torch.manual_seed(0)
    x, model = torch.randn(1, 3, 16, 16), space["Net"](factor)
    graph, q, made = quantized(model, x)
    rescaled = [call for call in made.calls if call.layer.op == "rescale"]
    assert len(rescaled) == copies and not any(call.layer.op == "none" for call in made.calls[1:-1] if call.layer.reads)
    joined = next(call for call in graph.calls if moved.joins(call.layer))
    steps = [q.scales[value].step for value in (*joined.inputs, joined.output)]
    assert steps[1] == steps[2] and (steps[0] == steps[2]) == (not copies)
    network = SimpleNamespace(graph=made, layers=made.calls, signature=made.signature)
    ((found,),) = network_steps.outputs(network, [(x.numpy(),)])
    exact = model(x).numpy()
    assert 20 * np.log10(np.linalg.norm(exact) / np.linalg.norm(found - exact)) > 28


class Scores(nn.Module):
    """Two heads whose scores are joined, as a detector's."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return torch.cat([self.a(x), functional.relu(self.b(x))], 1)


def test_scores_that_are_joined_keep_float32():
    _, _, made = quantized(Scores(), torch.randn(1, 3, 9, 9))
    (joined,) = [call.layer for call in made.calls if call.layer.op == "concat"]
    assert joined.output_dtype == "float32" and any(call.layer.writes == "float32" for call in made.calls)


@pytest.mark.parametrize("name", ["elementwise 4x3x6 rescale i8", "elementwise 4x3x6 none i8 prelu"])
def test_a_conversion_and_a_prelu_round_once(name):
    """Value by value, by Python's integers and floats."""
    layer = Layer.parse(name)
    given = integers.random_operands(layer, np.random.default_rng(0))
    data, constants = given["data"], given["constants"]
    zero, own, low, high = map(int, constants["ends"])
    due = np.empty(layer.output_shape, np.int8)
    for at in np.ndindex(due.shape):
        x = int(data[at]) - zero
        factors = constants["below"] if x < 0 and layer.activation == "prelu" else constants["scale"]
        exact = x * float(factors[at[-1] % len(factors)])
        due[at] = min(max(round(exact) + own, low), high)
    found = integers.run(layer, **given)
    assert np.array_equal(found, due) and len(np.unique(due)) > 20
    constants["ends"][1] += 1
    assert not np.array_equal(integers.run(layer, **given), found), "a zero point that is off is seen"


def test_a_range_that_lacks_much_of_an_operands_is_not_its_own():
    wide, own = Scale(0.02, 0), Scale(0.01, -128)
    assert moved._near(wide, own) and moved._near(own, own)
    assert not moved._near(Scale(0.02, -128), Scale(0.011, 0)), "half of it is below zero"
    assert not moved._near(Scale(0.0205, 0), Scale(0.01, 0)), "more than a bit"
