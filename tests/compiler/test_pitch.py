"""Pitches: which tensors of a network have their positions further apart than they have channels."""

import numpy as np
import pytest
import torch
import tvm
from torch import nn

from tvm_mobilenet import frontend, passes, schedules, targets
from tvm_mobilenet.build import build
from tvm_mobilenet.checking.reference import kernel_arguments, random_arguments, reference
from tvm_mobilenet.compiler import row_pitch
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.compiler.pipeline import for_core
from tvm_mobilenet.compiler.row_pitch import pitch_of
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.verify import verify

RPI4 = targets.load("rpi4")


class Blocks(nn.Module):
    """Feature maps of 256 channels, one of them an output, one added to another, one flattened into a product."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 256, 3, 2, 1)
        self.first, self.second, self.third = (nn.Conv2d(256, 256, 1) for _ in range(3))
        self.window = nn.Conv2d(256, 256, 3, 1, 1, groups=256)
        self.head = nn.Linear(256 * 16, 10)

    def forward(self, x):
        a = self.stem(x)
        b = self.first(a)
        c = self.window(b) + b
        return self.second(c), self.head(self.third(c).flatten(1))


def pitched(model):
    """The calls of a network of 8 x 8 images, and the values that it returns."""
    graph = row_pitch.run(passes.run(frontend.from_torch(model.eval(), torch.zeros(1, 3, 8, 8))), RPI4.core)
    return graph.calls, {port.value for port in graph.signature.outputs}


def test_a_multiple_of_256_channels_gets_a_sixteenth_more_and_other_numbers_nothing():
    assert [pitch_of(c, 64, "float32") for c in (256, 512, 768, 1024)] == [272, 544, 816, 1088]
    assert not any(pitch_of(c, 64, "float32") for c in (32, 128, 255, 320, 960))


@pytest.mark.parametrize("core", ["rpi3", "rpi4", "rpi5"])
@pytest.mark.parametrize("channels", [256, 512, 768, 1024])
def test_blocks_of_128_channels_of_a_tiles_rows_fit_their_sets(core, channels):
    """As many rows as a tile has. At a power of two of channels they crowd into fewer sets."""
    core = targets.load(core).core
    l1, rows = core.l1d, 11 if core.in_order else 8
    sets = l1.bytes // l1.ways // l1.line

    def most(row: int) -> int:
        lines = [(position * row * 4 // l1.line + line) % sets for position in range(rows) for line in range(8)]
        return max(np.bincount(lines))

    assert most(pitch_of(channels, l1.line, "float32")) <= min(3, l1.ways)
    assert channels != 1024 or most(pitch_of(channels, l1.line, "float32")) < most(channels)


def test_every_writer_and_reader_agrees_on_how_a_tensor_lies():
    """What the caller gets and what is flattened lies dense, all others do not."""
    calls, outputs = pitched(Blocks())
    writers = {call.output: call.layer for call in calls}
    flattened = [call.inputs[0] for call in calls if call.layer.kind == "dense"]
    for call in calls:
        dense = call.output in outputs or call.output in flattened or call.layer.kind == "dense"
        assert call.layer.output_pitch == (0 if dense else 272), call.layer.name
        if call.inputs[0] in writers:
            assert call.layer.input_buffer[-1] == (writers[call.inputs[0]].output_pitch or call.layer.channels)
        if len(call.inputs) > 1:
            assert call.layer.second_buffer[-1] == (writers[call.inputs[1]].output_pitch or call.layer.channels)
    assert len(flattened) == 1 and len(outputs) == 2


def test_a_residual_that_must_lie_dense_keeps_what_it_is_added_to_dense():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 256, 1), nn.Conv2d(256, 256, 1), nn.Linear(256 * 64, 4)

        def forward(self, x):
            a = self.a(x)
            return self.head(a.flatten(1)), (self.b(a) + a).mean((2, 3))

    layers = [call.layer for call in pitched(Both())[0]]
    assert any(layer.residual != "none" for layer in layers)
    assert not any(layer.input_pitch or layer.output_pitch for layer in layers)


@pytest.mark.full  # a small network with pitches is above
def test_v1_has_pitches_and_computes_what_it_did(tmp_path):
    network = load_network(ModelOptions(model="v1", alpha=0.5, resolution=64))
    build(network.options, RPI4, output=tmp_path, network=network)
    names = [call.layer.name for call in for_core(network.graph, RPI4.core).calls]
    assert any("in544 out544" in name for name in names) and any("in272" in name for name in names)
    result = verify(tmp_path, target=RPI4, network=network, count=1)
    assert result.ok and [c.layer for c in result.layers] == names


def test_what_lies_between_rows_is_not_a_number_so_that_a_kernel_which_reads_it_is_found():
    layer = Layer.parse("pointwise m6 n8 k16 in20 f32 relu6")
    operands = random_arguments(layer)
    decisions = schedules.space(layer, RPI4.core).default
    data, *constants, output = kernel_arguments(layer, decisions, operands)
    assert data.shape == (1, 6, 1, 20) and np.isnan(data[..., 16:]).all()
    expected = reference(layer, **operands)
    np.testing.assert_array_equal(reference(layer, data, operands["weight"], operands["bias"]), expected)

    def run(kernel, data):
        built = tvm.compile(tvm.IRModule({"kernel": kernel}), target=tvm.target.Target({"kind": "llvm"}))
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in (data, *constants, output)]
        built["kernel"](*tensors)
        return tensors[-1].numpy()

    np.testing.assert_allclose(run(schedules.kernel(layer, decisions), data), expected, atol=1e-5)
    planted = schedules.kernel(layer.with_pitches(0, 0), decisions)
    assert not np.allclose(run(planted, data.reshape(-1)[:96].reshape(1, 6, 1, 16)), expected, atol=1e-2)
