"""Quantized networks of PyTorch: programs of PT2E, and what its eager API exports to ONNX, by their own scales."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tvm_mobilenet import build, frontend, passes, targets, verify
from tvm_mobilenet.checking import given_layers, network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import torch_quantized
from tvm_mobilenet.models.options import ModelOptions

torch_quantized.register()
OPS = torch.ops.quantized_decomposed
SIZE = 12


def rounded(x, scale, zero, low=-128, high=127, dtype=torch.int8):
    whole = OPS.quantize_per_tensor.default(x, scale, zero, low, high, dtype)
    return OPS.dequantize_per_tensor.default(whole, scale, zero, low, high, dtype)


class Net(nn.Module):
    """What torchao's PT2E makes of a small network: whole weights by channel, activations by tensor."""

    def __init__(self, first=(0.02, 3), last=(0.05, 0), **activations):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.activations = first, last, activations
        for name, shape in (("stem", (8, 3, 3, 3)), ("filters", (8, 1, 3, 3)), ("dense", (10, 8))):
            self.register_buffer(name, torch.randint(-127, 128, shape, dtype=torch.int8))
            self.register_buffer(f"{name}_scale", torch.rand(shape[0]) * 0.01 + 0.002)
            self.register_buffer(f"{name}_zero", torch.zeros(shape[0], dtype=torch.int64))

    def weight(self, name):
        own = (getattr(self, n) for n in (name, f"{name}_scale", f"{name}_zero"))
        return OPS.dequantize_per_channel.default(*own, 0, -127, 127, torch.int8)

    def forward(self, x):
        x = rounded(x, *self.first, **self.activations)
        x = rounded(torch.relu(torch.conv2d(x, self.weight("stem"), None, 2, 1)), 0.06, -128)
        y = rounded(nn.functional.conv2d(x, self.weight("filters"), None, 1, 1, groups=8), 0.03, 4)
        x = rounded(x + y, 0.05, -20)
        x = rounded(nn.functional.hardswish(x).mean((2, 3)), 0.02, -128)
        return rounded(nn.functional.linear(x, self.weight("dense")), *self.last)


def exported(model: nn.Module):
    return torch.export.export(model.eval(), (torch.randn(1, 3, SIZE, SIZE),))


def saved(path, model: nn.Module):
    torch.export.save(exported(model), path)
    return str(path)


def batch(count=4):
    rng = np.random.default_rng(3)
    return [(rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32),) for _ in range(count)]


WAYS = {
    "int8": {},
    "uint8": {"first": (0.02, 131), "low": 0, "high": 255, "dtype": torch.uint8},
    "seven bits": {"first": (0.04, 60), "low": 0, "high": 127, "dtype": torch.uint8},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_program_of_pt2e_computes_its_own_whole_numbers(way, tmp_path):
    made = load_network(ModelOptions(model=saved(tmp_path / "q.pt2", Net(**way))))
    assert made.quantized and made.options.dtype == "int8"
    weighted = [call for call in made.layers if call.weight is not None]
    assert len(weighted) == 3 and {call.layer.dtype for call in weighted} == {"int8"}
    found = given_layers.differences(made, made.whole_numbers(batch()))
    given_layers.require(found)
    assert {call.name for call in weighted} <= {one.name for one in found}
    found = [one for one in found if not one.averages]
    assert sum(one.count for one in found) <= 1e-4 * sum(one.size for one in found) + 1
    expected = made.framework(batch()).values
    off = np.abs(np.array(network_steps.outputs(made, batch())) - np.array(expected)) / 0.05
    assert np.rint(off).max() <= 1 and (np.rint(off) > 0).mean() < 0.05


@pytest.mark.full
def test_such_a_program_is_built_and_verified(tmp_path):
    options, target = ModelOptions(model=saved(tmp_path / "q.pt2", Net())), targets.load("rpi4")
    build.build(options, target, output=tmp_path / "out")
    result = verify.verify(tmp_path / "out")
    result.require()
    assert {c.units for c in result.layers if c.units is not None} == {0}


ODD = {
    "the scale 0": Net(first=(0.0, 3)),
    "the scale -1": Net(last=(-1.0, 0)),
    "the zero point 300 is out of int8's range": Net(first=(0.02, 300)),
}


@pytest.mark.parametrize("said", ODD)
def test_what_is_odd_is_refused_in_plain_words(said):
    with pytest.raises(TvmMobilenetError, match=said) as e:
        passes.run(frontend.from_torch(exported(ODD[said])))
    assert e.value.hint


def test_programs_that_are_quantized_as_they_run_are_told_what_to_do():
    class Dynamic(nn.Module):
        def forward(self, x):
            scale, zero = OPS.choose_qparams.tensor(x, -128, 127, 1e-6, torch.int8)
            whole = OPS.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
            return OPS.dequantize_per_tensor.tensor(whole, scale, zero, -128, 127, torch.int8)

    class WeightsAlone(Net):
        def forward(self, x):
            return torch.conv2d(x, self.weight("stem"))

    with pytest.raises(TvmMobilenetError, match="quantized at run time") as e:
        frontend.from_torch(exported(Dynamic()))
    assert "--calibrate" in e.value.hint
    graph = passes.run(frontend.from_torch(exported(WeightsAlone())))
    assert [call.layer.dtype for call in graph.calls] == ["float32"], "their weights are numbers"


# ---- the eager API, exported to ONNX


class Eager(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU())
        self.filters, self.point = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 16, 1)
        self.add, self.act, self.dense = nn.quantized.FloatFunctional(), nn.Hardswish(), nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(self.quant(x))
        x = self.act(self.add.add(x, self.point(self.filters(x))))
        return self.dequant(self.dense(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)))


def test_what_pytorchs_eager_networks_export_is_read(tmp_path, monkeypatch):
    """PyTorch writes casts between the pair, float activations of their own, biases of int32."""
    pytest.importorskip("onnxruntime")
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no qnnpack")
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.backends.quantized.engine = "qnnpack"
            model = Eager().eval()
            torch.ao.quantization.fuse_modules(model.stem, ["0", "1"], inplace=True)
            model.qconfig = torch.ao.quantization.get_default_qconfig("qnnpack")
            torch.ao.quantization.prepare(model, inplace=True)
            for (x,) in batch():
                model(torch.from_numpy(x))
            torch.ao.quantization.convert(model, inplace=True)
            example = (torch.from_numpy(batch(1)[0][0]),)
            path = tmp_path / "q.onnx"
            torch.onnx.export(model, example, str(path), opset_version=17, dynamo=False, input_names=["x"])
        finally:
            torch.backends.quantized.engine = before
    made = load_network(ModelOptions(model=str(path)))
    assert network_steps.is_integral(made)
    found = given_layers.differences(made, made.whole_numbers(batch()))
    assert len(found) >= 5 and max(one.units for one in found) <= 1
    found = [one for one in found if not one.averages]
    assert sum(one.count for one in found) <= 1e-4 * sum(one.size for one in found) + 1
