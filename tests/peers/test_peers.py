"""Other engines beside ours: they get the very same network, so that a ratio compares engines and nothing else."""

import importlib.util
import json
import os
import subprocess
import types
from dataclasses import replace

import numpy as np
import pytest

from tests.support import modules, task_networks
from tests.support.agents import ARM64
from tvm_mobilenet import bench
from tvm_mobilenet.boards.agent import engines, measure
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.measuring import benchmark_text, measured_rows
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.peers import files as peers

FAMILIES = {
    "v1": modules.MODEL,
    "v2": ModelOptions(model="v2", alpha=0.35, resolution=64, classes=10),
    "v3": ModelOptions(model="v3-small", alpha=0.5, resolution=32, classes=10),
}
MODULES = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "ncnn": "ncnn"}


class Networks(dict):
    """Each network by its name, loaded when it is first asked for."""

    def __missing__(self, name: str):
        self[name] = load_network(FAMILIES[name])
        return self[name]


@pytest.fixture(scope="module")
def networks():
    return Networks()


def require_same(network, contender: dict) -> str:
    """What an engine gives for a network's file is what the model gives; what it says of its kernels."""
    assert "missing" not in contender, contender
    image = network.inputs(1)[0]
    running = engines.ENGINES[contender["engine"]](contender, list(image), 1)
    running.run()
    expected, found = network.reference([image])[0][0], running.outputs()
    assert len(found) == len(expected)
    for y, due in zip(found, expected, strict=True):
        assert relative(y.reshape(due.shape), due) < 1e-3, "another network, or another order of its weights"
    return running.kernels()


def require_installed(engine: str) -> None:
    if importlib.util.find_spec(MODULES[engine]) is None:
        pytest.skip(f"{engine} is not installed")


@pytest.mark.parametrize("family", ["v3", *(pytest.param(f, marks=pytest.mark.full) for f in ("v1", "v2"))])
@pytest.mark.parametrize("engine", peers.ENGINES)
def test_an_engine_computes_the_model(networks, family, engine, tmp_path):
    require_installed(engine)
    require_same(networks[family], peers.contenders(networks[family], [engine], tmp_path)[engine])


LAYERS = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.near = nn.Conv2d(8, 8, 3, 1, 2, dilation=2, groups=GROUPS)
        self.wide = nn.Conv2d(8, 16, 3, 1, 1, groups=8)
        self.narrow = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(4))
        self.last = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(4))
        self.gate = nn.Conv2d(8, 8, 1)
        self.classes = nn.Linear(8, 5)

    def forward(self, x):
        x = F.silu(self.stem(x))
        x = F.hardswish(self.near(x))
        x = F.max_pool2d(x, 3, 2, 1) - F.avg_pool2d(x, 2) + F.avg_pool2d(x, 3, 2, ceil_mode=True)
        y = F.relu(self.narrow[0](torch.sigmoid(self.wide(x))) + x)
        y = F.relu6(self.narrow[1](self.wide(y))) + y
        y = F.hardswish(self.narrow[2](self.wide(y)) + x)
        y = F.hardsigmoid(self.narrow[3](self.wide(y))) * x
        slopes = torch.linspace(-0.5, 1.5, 8)
        y = F.prelu(F.leaky_relu(self.last[0](F.prelu(self.last[1](y), slopes)), 0.1) + x, slopes)
        y = self.last[2](F.hardtanh(y, -0.5, 0.7)).clamp(max=0.9)
        y = F.leaky_relu(F.prelu(y * x, slopes), -0.3) * (0.3 * y + 0.4).clamp(0, 1)
        line = self.last[3](y)
        y = line * (0.2 * line + 0.4).clamp(0, 1) + y
        y = y * F.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.classes(y.mean((2, 3))).softmax(-1), y

def make():
    return Net()
"""


@pytest.mark.parametrize("engine", peers.ENGINES)
def test_an_engine_computes_every_kind_of_layer(engine, tmp_path):
    """Each activation alone, before and after a sum; windows that are dilated, grouped and wide; two outputs, of which
    one is an image."""
    require_installed(engine)
    groups = "1" if engine == "litert" else "2"  # its reference kernels alone have groups, and not dilated
    (tmp_path / "net.py").write_text(LAYERS.replace("GROUPS", groups))
    network = load_network(ModelOptions(model=f"{tmp_path / 'net.py'}:make", resolution=32))
    assert not [call for call in network.layers if call.layer.body], "this test is of layers that can be written"
    found = peers.contenders(network, [engine], tmp_path)[engine]
    require_same(network, found)
    assert found.get("model", "").startswith(str(tmp_path / "network")) or engine == "ncnn", "not the model's own file"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    path = tmp_path_factory.mktemp("faces") / "mobilefacenet.onnx"
    return load_network(ModelOptions(model=str(task_networks.write("mobilefacenet", path))))


def test_a_network_with_other_layers_goes_as_its_own_file_or_says_which_layer(faces, tmp_path):
    """No writer knows its last norm: ONNX Runtime gets the model's file."""
    require_installed("onnxruntime")
    found = peers.contenders(faces, peers.ENGINES, tmp_path)
    require_same(faces, found["onnxruntime"])
    for engine, suffix in (("ncnn", "param"), ("litert", "tflite")):
        said = found[engine]["missing"]
        assert f"mobilefacenet.onnx cannot be written for {engine}: layer_" in said and "generic" in said
        assert said.endswith(f"--against {engine}=FILE.{suffix} compares with a file of yours")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_pytorch_network_with_other_layers_goes_as_pytorch_exports_it(tmp_path):
    require_installed("onnxruntime")
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3, 2))"
    )
    network = load_network(ModelOptions(model=f"{tmp_path / 'net.py'}:make", resolution=16, batch=2))
    require_same(network, peers.contenders(network, ["onnxruntime"], tmp_path)["onnxruntime"])


@pytest.mark.parametrize("engine", peers.ENGINES)
def test_a_file_of_the_users_own_is_compared(networks, engine, tmp_path):
    """In whichever dtype it computes, laid out as it is; inputs and outputs of ncnn's are found in its text."""
    require_installed(engine)
    written = peers.contenders(networks["v3"], [engine], tmp_path)[engine]
    path = written.get("model") or written["param"]
    asked = f"{engine}={path}"
    if engine == "ncnn":
        os.rename(written["bin"], path.replace(".param", ".bin"))
    assert peers.parse(f"{asked},{engine}") == (asked, engine)
    label = f"{engine} {os.path.basename(path)}"
    contender = peers.contenders(networks["v3"], [asked], tmp_path)[label]
    assert contender["dtype"] == "" and "nhwc_inputs" not in contender
    assert "float32: " in require_same(networks["v3"], contender)


def test_a_file_that_is_none_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "net.param").write_text("no network")
    for text, says in (
        (f"ncnn={tmp_path / 'net.onnx'}", r"ncnn reads files \*.param"),
        (f"litert={tmp_path / 'net.tflite'}", "there is no file .*net.tflite"),
        (f"ncnn={tmp_path / 'net.param'}", "there is no file .*net.bin"),
        (f"tvm={tmp_path / 'net.param'}", "no such engine"),
    ):
        with pytest.raises(TvmMobilenetError, match=says):
            peers.parse(text)
    (tmp_path / "net.bin").touch()
    with pytest.raises(TvmMobilenetError, match=r"is not an ncnn \.param file in text form"):
        peers.contenders(None, peers.parse(f"ncnn={tmp_path / 'net.param'}"), tmp_path)


def test_engines_take_turns_and_their_ratio_is_of_each_round(monkeypatch, capsys):
    """onnxruntime runs; one that is not installed on the board is told with the command that installs it."""
    order = []
    ask = measure.Process.ask

    def watched(self, command, **arguments):
        if command == "load" and arguments["contender"]["engine"] == "ncnn":
            return {"missing": "pip install ncnn"}
        if command == "sample":
            order.append(self._name)
        return ask(self, command, **arguments)

    monkeypatch.setattr(measure.Process, "ask", watched)
    found = bench.bench(
        modules.small("host"), board="local", seconds=0.3, against=["onnxruntime", "ncnn"], layers=False
    )
    assert len(order) == 2 * measure.ROUNDS and order[::2] != order[1::2]
    assert {frozenset(order[i : i + 2]) for i in range(0, len(order), 2)} == {
        frozenset({"tvm_mobilenet", "onnxruntime"})
    }
    assert order[0] != order[2], "each goes first in its turn"
    ort, ncnn = found.peers
    assert ort.ratio_low <= ort.ratio <= ort.ratio_high and ort.version and ort.rss_peak > 0
    assert ort.difference < 1e-3, "the same weights and the same input give the same output"
    assert ncnn.missing == "pip install ncnn" and ncnn.time is None
    for form in ("table", "markdown", "csv"):
        benchmark_text.show(found, form)
        out = capsys.readouterr().out
        assert "onnxruntime" in out and "pip install ncnn" in out


# ---- float16


def test_ncnn_says_what_its_layers_ran_in(networks, tmp_path):
    if importlib.util.find_spec("ncnn") is None:
        pytest.skip("ncnn is not installed")
    contender = peers.contenders(networks["v1"], ["ncnn"], tmp_path)["ncnn"]
    running = engines.Ncnn(contender, list(networks["v1"].inputs(1)[0]), 1)
    running.run()
    assert running.kernels().startswith(f"float32: {len(networks['v1'].layers)} layers, ")


def test_a_fallback_to_float32_does_not_pass_as_float16(networks, tmp_path, monkeypatch):
    """ncnn keeps its options for float16 where the CPU has none of it, and runs in float32."""
    ncnn = pytest.importorskip("ncnn")
    if ncnn.cpu_support_arm_asimdhp():
        pytest.skip("this machine has half-precision arithmetic")
    network, found = networks["v1"], {}
    found = peers.contenders(network, ["ncnn"], tmp_path, "float16")
    assert list(found) == ["ncnn float16"] and found["ncnn float16"]["dtype"] == "float16"
    inputs = list(network.inputs(1)[0])
    with pytest.raises(ValueError, match=r"asimdhp.*--against ncnn:float32"):
        engines.Ncnn(found["ncnn float16"], inputs, 1)
    monkeypatch.setattr(ncnn, "cpu_support_arm_asimdhp", lambda: 1)
    running = engines.Ncnn(found["ncnn float16"], inputs, 1)
    running.run()
    with pytest.raises(ValueError, match=r"ncnn ran \d+ layers in float32 though told float16, the first is layer_0"):
        running.kernels()


class Value:
    """What a layer of a net left: ``bits`` a value, all of them ``value``."""

    def __init__(self, value: float, bits: int):
        self._value, self._bits, self.elempack = value, bits, 8

    def elembits(self) -> int:
        return self._bits

    def __array__(self, dtype=None, copy=None):
        return np.full(4, self._value, dtype)


class Net:
    """A net of one convolution, which leaves one value in so many bits."""

    def __init__(self, value: float, bits: int = 16):
        self._value = value, bits

    def blobs(self):
        return [types.SimpleNamespace(name="y")]

    def layers(self):
        return [types.SimpleNamespace(name="first", type="Convolution", tops=[0])]

    def create_extractor(self):
        return types.SimpleNamespace(
            input=lambda *_: 0, set_light_mode=lambda _: None, extract=lambda *_: (0, Value(*self._value))
        )


@pytest.mark.parametrize(
    "bits, in_storage, says",
    [
        (16, 2.0, "float16: 1 layers, 1 packed by 8"),
        (16, 1.0, "stored float16 and computed in float32"),
        (32, 2.0, "ran 1 layers in float32 though told float16, the first is first"),
    ],
)
def test_float16_is_seen_in_values_and_in_sums(bits, in_storage, says):
    running = engines.Ncnn.__new__(engines.Ncnn)
    running._half, running._feed, running._names = True, [], ["y"]
    running._net, running._load = Net(1.0, bits), lambda arithmetic: Net(in_storage)
    if says.startswith("float16"):
        assert running.kernels() == says
        return
    with pytest.raises(ValueError, match=says):
        running.kernels()


@pytest.mark.full
def test_ncnn_in_float16_on_a_core_that_has_it(networks, tmp_path):
    """Executed as a Neoverse N1, whose half precision is that of a Cortex-A76; refused on a Cortex-A72."""
    if not list(ARM64.glob("site/ncnn")):
        pytest.skip("needs the ncnn wheel in the folder of .ci/arm64-python")
    found = peers.contenders(networks["v1"], ["ncnn"], tmp_path, "float16")["ncnn float16"]
    np.save(tmp_path / "x.npy", networks["v1"].inputs(1)[0][0])
    code = (
        "import sys, json, numpy; from tvm_mobilenet.boards.agent.engines import Ncnn\n"
        f"n = Ncnn(json.loads(sys.argv[1]), [numpy.load({str(tmp_path / 'x.npy')!r})], 1); n.run(); print(n.kernels())"
    )
    for cpu, ends in (("neoverse-n1", 0), ("cortex-a72", 1)):
        done = subprocess.run(
            [str(ARM64 / "bin" / "python"), "-c", code, json.dumps(found)],
            env={**os.environ, "QEMU_CPU": cpu, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
        )
        assert done.returncode == ends, done.stderr
        assert (done.stdout.startswith("float16: ") and "float32" not in done.stdout) or "asimdhp alone" in done.stderr


# ---- int8


@pytest.fixture(scope="module")
def integers():
    options = replace(FAMILIES["v2"], alpha=0.1, resolution=32, dtype="int8")
    return load_network(options)


@pytest.mark.full
@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_an_engine_computes_the_builds_int8_network_by_integer_kernels(integers, engine, tmp_path):
    pytest.importorskip(MODULES[engine])
    contender = peers.contenders(integers, [engine], tmp_path, "int8")[f"{engine} int8"]
    assert contender["dtype"] == "int8"
    image = integers.inputs(1)[0]
    running = engines.ENGINES[engine](contender, list(image), 1)
    running.run()
    due = network_steps.outputs(integers, [image])[0][0]
    off = np.abs(running.outputs()[0].reshape(due.shape) - due).max() / due.std()
    rounding = np.abs(integers.reference([image])[0][0][0] - due).max() / due.std()
    assert off < 0.5 * rounding and off < 0.3, "other weights or scales than the build's"
    said = dict(part.split(": ") for part in running.kernels().split("; ") if ": " in part)
    adds = sum(len(call.inputs) > 1 for call in integers.original.calls)
    expected = {"onnxruntime": f"52 QLinearConv, {adds} QLinearAdd", "litert": f"17 DEPTHWISE_CONV_2D, {adds} ADD"}
    assert expected[engine] in said["int8"]
    assert said["float32"].lower() in ("1 quantizelinear", "1 quantize"), "only the image is float32"


@pytest.mark.full
@pytest.mark.parametrize(
    "engine, says", [("onnxruntime", r"ONNX Runtime ran 53 of 53 layers in float32"), ("litert", "LiteRT ran 53 of 53")]
)
def test_a_fallback_to_float32_does_not_pass_as_int8(integers, engine, says, tmp_path):
    """A file of float32 under the name of one in int8, as an engine that has no integer kernels would run it."""
    pytest.importorskip(MODULES[engine])
    contender = peers.contenders(integers, [f"{engine}:float32"], tmp_path)[engine]
    running = engines.ENGINES[engine]({**contender, "dtype": "int8"}, list(integers.inputs(1)[0]), 1)
    assert "missing" not in contender and "dtype" not in contender
    with pytest.raises(ValueError, match=says):
        running.kernels()


def test_one_layer_that_falls_back_is_named():
    """What ONNX Runtime did to v2 on x86-64 when values were signed: 15 of its 53 layers ran in float32."""
    ran = [("a", "QLinearConv", "int8"), ("b", "Conv", "float32"), ("c", "QGemm", "int8"), ("d", "Add", "float32")]
    with pytest.raises(ValueError, match=r"E ran 1 of 3 layers in float32 though told int8, the first is b \(Conv\)"):
        engines.told("E", "int8", ran, ("Conv", "Gemm"))
    assert engines.told("E", "int8", ran[::2], ("Conv", "Gemm")) == "int8: 1 QLinearConv, 1 QGemm"
    with pytest.raises(ValueError, match="does not say which kernels"):
        engines.told("E", "int8", ran[3:], ("Conv", "Gemm"))


@pytest.mark.full
def test_what_cannot_be_compared_says_with_what_to_compare(networks, integers, tmp_path):
    """ncnn in int8 is not written, a build in float32 has no scales, and integers come and go as no engine has them."""
    found = peers.contenders(networks["v1"], ["onnxruntime", "litert:int8"], tmp_path, "float16")
    assert "--against onnxruntime:float32 compares with float32" in found["onnxruntime float16"]["missing"]
    assert "v1 0.25-32 has no scales" in found["litert int8"]["missing"]
    assert "ncnn:float32" in peers.contenders(integers, ["ncnn"], tmp_path, "int8")["ncnn int8"]["missing"]
    port = replace(integers.signature.inputs[0], dtype="uint8")
    pixels = replace(integers, graph=replace(integers.graph, signature=replace(integers.signature, inputs=(port,))))
    assert (
        "is uint8, and litert's file takes"
        in peers.contenders(pixels, ["litert"], tmp_path, "int8")["litert int8"]["missing"]
    )
    assert not list(tmp_path.iterdir())


def test_an_agent_that_does_not_say_what_ran_is_told_about():
    """One of an earlier version does not know the dtype, runs in float32 and gives no error."""
    rounds = {"rounds": [[1.0]] * 3, "version": "1", "difference": 0.0, "rss_peak": 1}
    asked = {"engine": "ncnn", "dtype": "float16"}
    found = measured_rows._peer("ncnn float16", 1, rounds, rounds, asked)
    assert found.time is None and "does not say which kernels ran" in found.missing
    found = measured_rows._peer("ncnn float16", 1, {**rounds, "kernels": "float16: 28 layers"}, rounds, asked)
    assert found.kernels == "float16: 28 layers" and found.ratio == 1.0
    assert measured_rows._peer("ncnn", 1, rounds, rounds, {"engine": "ncnn"}).ratio == 1.0


@pytest.mark.parametrize(
    "layers, dtype",
    [
        (["pointwise m49 n48 k32 f32"], "float32"),
        (["pointwise m49 n48 k32 f16", "dense m1 n10 k48 f16 writes_f32 sums_f32"], "float16"),
        (["pointwise m49 n48 k32 f32", "dense m1 n10 k48 f16 writes_f32 sums_f32"], "float32"),
        (["fused depthwise 7x7x32 3x3 p1,1,1,1 f16 > pointwise m49 n48 k32 f16", "pool 7x7x48 avg 7x7 f32"], "float16"),
        (["no name of a layer"], "float32"),
    ],
)
def test_peers_are_asked_for_the_dtype_of_most_multiply_adds(layers, dtype):
    plan = types.SimpleNamespace(steps=[types.SimpleNamespace(layer=layer) for layer in layers])
    assert peers.dtype_of(plan) == dtype


def test_mistakes(tmp_path):
    with pytest.raises(TvmMobilenetError, match="--against torch: no such engine"):
        peers.parse("ncnn,torch")
    assert peers.parse("ncnn,litert,ncnn") == ("ncnn", "litert")
    assert peers.parse("ncnn:float16,litert:float32") == ("ncnn:float16", "litert:float32")
    assert peers.parse("litert:int8,onnxruntime:int8") == ("litert:int8", "onnxruntime:int8")
    for text in ("litert:float16", "ncnn:int8", "ncnn:"):
        with pytest.raises(TvmMobilenetError, match=f"--against {text}: .* does not compute in"):
            peers.parse(text)
