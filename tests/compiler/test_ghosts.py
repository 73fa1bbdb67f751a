"""Ghost modules: where a fused block takes one as a part, and that it computes what its calls compute one by one."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.compiler.test_views import conv, run
from tvm_mobilenet import frontend, passes, schedules, targets
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.checking import built_calls
from tvm_mobilenet.compiler import dump, fuse_blocks
from tvm_mobilenet.compiler.lower import lower_layers
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.compiler.plan import plan_of
from tvm_mobilenet.errors import TvmMobilenetError

RPI4 = targets.load("rpi4").core
SMALL = dataclasses.replace(RPI4, cpus=1, l2=dataclasses.replace(RPI4.l2, bytes=12 * 1024))  # tensors here leave it


class Net(nn.Module):
    """Two ghost modules, the second with an addition: a block of GhostNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.cheap = conv(3, 8), conv(8, 4), conv(4, 4, 3, groups=4)
        self.second, self.again, self.last = conv(8, 4), conv(4, 4, 3, groups=4), conv(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        a = self.first(x).relu()
        c = self.second(torch.cat([a, self.cheap(a).relu()], 1))
        return self.last(torch.cat([c, self.again(c)], 1) + x)


BLOCK = ["conv", "pointwise", "ghost", "pointwise", "ghost"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    model = Net().eval().requires_grad_(False)
    return model, passes.run(frontend.from_torch(model, torch.zeros(1, 3, 16, 16)))


def blocks(graph) -> list[list[str]]:
    return [[part.kind for part in call.layer.parts] for call in for_core(graph, SMALL).calls if call.layer.parts]


def test_ghost_modules_stream_and_compute_what_their_calls_do(net):
    model, whole = net
    graph = for_core(whole, SMALL)
    assert blocks(whole) == [BLOCK]
    block = next(call for call in graph.calls if call.layer.parts)
    assert [part.residual for part in block.layer.parts] == ["none"] * 4 + ["before"]
    assert block.layer.parts[-1].back == 4 and block.inputs == ("input_0",), "the sum is of the block's own stem"
    names = [call.name for call in whole.calls]
    assert [part.name for call in graph.calls for part in call.originals] == names, "each call once, in order"
    decisions = {layer: schedules.space(layer, SMALL).default for layer in graph.counts}
    lowered = lower_layers(graph, decisions)
    plan, parameters = plan_of(lowered, graph)
    x = torch.randn(1, 3, 16, 16)
    (output,) = run(lowered, plan, parameters, x.numpy())
    assert relative(output, model(x).numpy()) < 1e-5

    again = fuse_blocks.parts_of(block.parts)
    assert tuple(part.layer for part in again) == block.layer.dense.parts
    assert np.array_equal(block.constants["2.weight"], again[2].weight)
    network = SimpleNamespace(layers=whole.calls, options=SimpleNamespace(title="Net"))
    module = SimpleNamespace(plan=plan, folder="here")
    assert [c.layer for c in built_calls.calls_of(network, module)] == [c.layer for c in graph.calls]
    dilated = _changed(whole, "cheap", lambda c: c.layer.replace(dilation=(2, 2), padding=(2, 2, 2, 2)))
    network.layers = dilated.calls
    with pytest.raises(TvmMobilenetError, match="built from another network"):
        built_calls.calls_of(network, module)
    assert all(part.name in dump.layers_text(graph) for part in block.layer.parts)


def _changed(graph, source: str, layer):
    """The graph with another layer in place of one of the model's."""
    calls = (c.replace(layer=layer(c)) if c.source.startswith(source) else c for c in graph.calls)
    return dataclasses.replace(graph, calls=tuple(calls))


def _activated(graph, **words: str):
    for source, word in words.items():
        graph = _changed(graph, source, lambda c, word=word: c.layer.replace(activation=word))
    return graph


def _turned(graph):
    calls = tuple(c.replace(inputs=c.inputs[::-1]) if c.layer.op == "concat" else c for c in graph.calls)
    return dataclasses.replace(graph, calls=calls)


def _returned(graph, source: str):
    """The graph with one more output."""
    call = next(c for c in graph.calls if c.source.startswith(source))
    port = dataclasses.replace(graph.signature.outputs[0], name=source, value=call.output)
    outputs = (*graph.signature.outputs, port)
    return dataclasses.replace(graph, signature=dataclasses.replace(graph.signature, outputs=outputs))


@pytest.mark.parametrize(
    "why, case",
    {
        "hard-swish changes what it has made": (lambda g: _activated(g, first="hardswish", cheap="hardswish"), 1),
        "a clamp changes data that is not clamped": (lambda g: _activated(g, first="none"), 1),
        "a filter without a clamp needs none": (lambda g: _activated(g, cheap="none"), 2),
        "the addition is no residual of clamped filters": (lambda g: _activated(g, second="relu", again="relu"), 2),
        "filters before the data": (_turned, 0),
        "filters that are an output": (lambda g: _returned(g, "cheap"), 1),
        "data that is an output": (lambda g: _returned(g, "first"), 1),
        "a residual that is an output": (lambda g: _returned(g, "stem"), 2),
        "even windows have no middle": (
            lambda g: _changed(g, "cheap", lambda c: c.layer.replace(kernel=(3, 2), padding=(1, 1, 1, 0))),
            1,
        ),
    }.items(),
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_only_ghost_modules_are_parts_of_kind_ghost(net, why, case):
    change, due = case
    assert [kind for block in blocks(change(net[1])) for kind in block].count("ghost") == due
