"""Operators that no kind computes: they become generic layers, whose kernels compute what PyTorch does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn

from tvm_mobilenet import build, frontend, passes, schedules, targets, verify
from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions


class Normalised(nn.Module):
    """Layer norm over the channels, with a scale and a shift."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.norm.weight.data = torch.linspace(0.5, 2.0, 6)
        self.norm.bias.data = torch.linspace(-1.0, 1.0, 6)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1))


class Beside(nn.Module):
    """A constant before the data."""

    def __init__(self):
        super().__init__()
        self.constant = nn.Parameter(torch.linspace(-1.0, 1.0, 70).reshape(1, 2, 5, 7))

    def forward(self, x):
        return torch.cat([self.constant, x], 1)


def attention(x):
    """Of the positions; PyTorch exports a fill for rows without any key, which is a constant."""
    rows = x.flatten(2).transpose(1, 2)[:, None]  # (N, 1, positions, channels)
    return F.scaled_dot_product_attention(rows, rows * 0.5, rows + 1).flatten(1)


OPERATORS = {  # what is computed of a feature map of 6 channels, 5 x 7 positions
    "exp": lambda x: torch.exp(torch.sigmoid(x)),
    "three side by side": lambda x: torch.cat([x, x * x, torch.tanh(x)], 1),
    "beside in a row": lambda x: torch.cat([x, x.abs()], 3),
    "uneven split": lambda x: (lambda a, b: torch.cat([b, a * a], 1))(*torch.split(x, [1, 5], 1)),
    "reflected": lambda x: F.pad(x, (1, 2, 0, 1), "reflect"),
    "channel shuffle": lambda x: x.reshape(1, 2, 3, 5, 7).transpose(1, 2).reshape(1, 6, 5, 7).abs(),
    "sum of rows": lambda x: x.sum(2),
    "layer norm": Normalised(),
    "attention": attention,
    "product of two": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "gelu": F.gelu,
    "border": lambda x: F.pad(x, (1, 0, 2, 1), value=0.7),
    "beside a constant": Beside(),
    "quotient": lambda x: x / (1 + x.abs()),
    "comparison": lambda x: torch.where(x > 0, x, -x),
    "running sum": lambda x: torch.cumsum(x, 1),
    "index": lambda x: x[:, torch.tensor([2, 0, 5])],
    "whole numbers": lambda x: (x * 10).to(torch.int64).to(torch.float32),
    "largest index": lambda x: x.argmax(1).to(torch.float32),
}


class Net(nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.first, self.operator = nn.Conv2d(3, 6, 1), operator

    def forward(self, x):
        return self.operator(self.first(x))


def graph_of(operator):
    torch.manual_seed(0)
    model = Net(operator).eval().requires_grad_(False)
    return model, passes.run(frontend.from_torch(model, torch.zeros(1, 3, 5, 7)))


FEW = (
    "comparison",
    "running sum",
    "three side by side",
    "uneven split",
    "reflected",
    "layer norm",
    "product of two",
    "attention",
    "beside a constant",
)


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.full) for n in OPERATORS])
def test_an_operator_is_computed_by_generic_layers(name):
    model, graph = graph_of(OPERATORS[name])
    generic = [call for call in graph.calls if call.layer.declared.has_body]
    assert generic and all(Layer.parse(call.layer.name) == call.layer for call in generic)
    core, values = targets.load("rpi4").core, {}
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 7)).astype("float32")
    values[graph.signature.inputs[0].value] = x
    for call in graph.calls:
        space = schedules.space(call.layer, core)
        assert (not space.valid(space.default) and len(list(space.points())) == 1) or not call.layer.declared.has_body
        kernel = tvm.IRModule({"kernel": schedules.kernel(call.layer, space.default)})
        run = tvm.compile(kernel, target="llvm", tir_pipeline=codegen.lowering())["kernel"]
        data, *others = (values[v].reshape(s) for v, s in zip(call.inputs, call.layer.operand_buffers, strict=True))
        packed = schedules.pack(call.layer, space.default, call.constants)
        arguments = [data, *packed, *others, np.zeros(call.layer.output_buffer, call.layer.output_dtype)]
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments]
        run(*tensors)
        values[call.output] = tensors[-1].numpy()
        due = reference.reference(call.layer, data, **reference.operands_of(call, others))
        np.testing.assert_allclose(values[call.output], due, rtol=1e-4, atol=1e-5)
    port = graph.signature.outputs[0]
    expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(values[port.value].reshape(port.shape), expected, rtol=1e-4, atol=1e-5)


def test_equal_operators_are_one_layer_and_others_are_not():
    _, graph = graph_of(
        lambda x: torch.cat([torch.exp(x).tanh(), torch.exp(x * x).tanh(), F.pad(x, (1, 0), value=2)[..., 1:]], 1)
    )
    names = [call.layer.name for call in graph.calls if call.layer.op in ("exp", "tanh")]
    assert len(names) == 4 and len(set(names)) == 2
    _, other = graph_of(lambda x: F.pad(x, (1, 0), value=3))
    borders = {call.layer.name for g in (graph, other) for call in g.calls if call.layer.op == "nn_pad"}
    assert len(borders) == 2, "another border is another layer"


def test_a_layer_that_was_read_from_its_name_has_no_kernel():
    _, graph = graph_of(torch.tanh)
    name = next(call.layer.name for call in graph.calls if call.layer.body)
    read = Layer.parse(name.replace("#", "#0"))
    decisions = schedules.space(read, targets.load("rpi4").core).default
    with pytest.raises(TvmMobilenetError, match="its loop nest is in its model, not in its name"):
        schedules.kernel(read, decisions)
    with pytest.raises(ValueError, match="no operator, shapes, dtype and hash"):
        Layer.parse("generic tanh 3x4 f32")


@pytest.mark.parametrize("operator", [torch.nanmedian, lambda x: torch.special.i0(x)], ids=["nanmedian", "i0"])
def test_what_tvm_cannot_make_loops_of_is_refused(operator, request):
    message = rf"{request.node.callspec.id}\S* at .*: no layer computes it"
    with pytest.raises(TvmMobilenetError, match=message):
        graph_of(operator)


def test_a_network_with_generic_layers_is_built_verified_and_says_so(tmp_path):
    torch.manual_seed(0)
    operator = lambda x: torch.cat([x, torch.tanh(x), torch.erf(x)], 1).mean((2, 3))  # noqa: E731
    model = Net(operator).eval()
    exported = torch.export.export(model, (torch.zeros(1, 3, 5, 7),))
    torch.export.save(exported, str(tmp_path / "net.pt2"))
    build.build(ModelOptions(model=str(tmp_path / "net.pt2")), targets.load("rpi4"), output=tmp_path / "out")
    found = verify.verify(tmp_path / "out")
    told = [check.layer for check in found.layers if check.layer.startswith("generic ")]
    assert len(told) == 2 and all(check.ok for check in found.layers)  # what is joined is written in place
