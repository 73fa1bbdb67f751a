"""A MobileNet's program needs no second tracing: its operators in core form are those that PyTorch makes of it."""

import warnings

import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional as F

from tvm_mobilenet import frontend
from tvm_mobilenet.frontend import core_operators, torch_export
from tvm_mobilenet.models import registry

X = torch.zeros(1, 3, 32, 32)


class Every(nn.Module):
    """Each operator that is written down, in place where it may be."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.depthwise = nn.Conv2d(8, 8, (3, 5), dilation=2, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=0.125)
        self.dense = nn.Sequential(
            nn.Dropout(), nn.Linear(8, 6), nn.Hardswish(inplace=True), nn.Linear(6, 4, bias=False)
        )

    def forward(self, x):
        x = self.stem(F.pad(x, (0, 1, 0, 1)))
        x = F.hardswish(F.relu6(self.norm(self.depthwise(F.pad(x, (1, 2), value=0.5)))))
        x = x * F.hardsigmoid(F.adaptive_avg_pool2d(x, 1))
        x = F.silu(F.leaky_relu(F.avg_pool2d(F.max_pool2d(x, 2, 1, 1), 2), 0.1))
        x = torch.cat([x, torch.sigmoid(x)], 1)
        return x, self.dense(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)).reshape(2, 8, 1, 1), 1))


def imported(program, by_torch: bool, monkeypatch) -> tvm.relax.Function:
    """The program in Relax, by one of two ways; the other is closed."""
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if by_torch:
            patch.setattr(core_operators, "decomposed", lambda *_: None)
        else:
            patch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
        return frontend.from_torch(program)["main"].without_attr("sources")


@pytest.mark.parametrize(
    "name",
    ["v1", *(pytest.param(n, marks=pytest.mark.full) for n in ("v2", "v3-small", "v3-small-minimal", "v4-small"))],
)
def test_the_registrys_networks_are_not_traced_twice(name, monkeypatch):
    program = torch.export.export(registry.architecture(name, 0.5).eval(), (X,))
    ours, torchs = (imported(program, way, monkeypatch) for way in (False, True))
    tvm.ir.assert_structural_equal(ours, torchs)


def test_each_operator_becomes_what_pytorch_makes_of_it(monkeypatch):
    program = torch.export.export(Every().eval(), (X,))
    ours, torchs = (imported(program, way, monkeypatch) for way in (False, True))
    tvm.ir.assert_structural_equal(ours, torchs)
    named = {core_operators._name(node) for node in torch_export._nodes(program)}
    assert named >= set(core_operators.FORMS) and named & core_operators.IN_PLACE, "each of them is in the network"


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: (x.detach(), F.relu(x, inplace=True)),
        lambda x: F.relu(x, inplace=True) + F.relu(x[:, :4], inplace=True),
        lambda x: (F.dropout(x, training=False), F.hardswish(x, inplace=True)),
        lambda x: F.relu(torch.flatten(x, 1), inplace=True) + x.reshape(1, -1),
        lambda x: F.dropout(x, training=True),
        lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.linear(x, torch.ones(5, 32)),
        lambda x: F.conv2d(x, torch.ones(3, 4, 3, 3), padding="same"),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: torch.erf(x),
    ],
)
def test_other_forms_are_left_to_pytorch(forward):
    """What is changed in place and read elsewhere above all: in core form it would be read as it was."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return forward(self.conv(x))

    program = torch.export.export(Network().eval(), (X,))
    found = torch_export._nodes(program)
    assert core_operators.decomposed(torch_export._placeholders(program), found, torch_export._outputs(program)) is None
