"""Other engines beside ours: they get the very same network, so that a ratio compares engines and nothing else."""

import importlib.util

import pytest

from tests.support import modules
from tvm_mobilenet import bench
from tvm_mobilenet.boards.agent import engines, measure
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.measuring import benchmark_text
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.peers import files as peers

FAMILIES = {
    "v1": modules.MODEL,
    "v2": ModelOptions(model="v2", alpha=0.35, resolution=64, classes=10),
    "v3": ModelOptions(model="v3-small", alpha=0.5, resolution=32, classes=10),
}
MODULES = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "ncnn": "ncnn"}


@pytest.fixture(scope="module")
def networks():
    return {name: load_network(options) for name, options in FAMILIES.items()}


@pytest.mark.parametrize("family", ["v1", "v2"])
@pytest.mark.parametrize("engine", peers.ENGINES)
def test_an_engine_computes_the_model(networks, family, engine, tmp_path):
    if importlib.util.find_spec(MODULES[engine]) is None:
        pytest.skip(f"{engine} is not installed")
    network = networks[family]
    contender = peers.contenders(network, [engine], tmp_path)[engine]
    assert "missing" not in contender, contender
    image = network.inputs(1)[0]
    running = engines.ENGINES[engine](contender, list(image), 1)
    running.run()
    expected = network.reference([image])[0][0][0]
    off = relative(running.outputs()[0].reshape(expected.shape), expected)
    assert off < 1e-3, "another network, or another order of its weights"


@pytest.mark.parametrize("engine", peers.ENGINES)
def test_a_network_that_cannot_be_written_says_which_layer(networks, engine, tmp_path):
    found = peers.contenders(networks["v3"], [engine], tmp_path)[engine]
    assert f"v3-small 0.5-32 cannot be written for {engine}: layer_0" in found["missing"]
    assert "hardswish" in found["missing"] and not list(tmp_path.iterdir())


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


def test_mistakes(tmp_path):
    with pytest.raises(TvmMobilenetError, match="--against torch: no such engine"):
        peers.parse("ncnn,torch")
    assert peers.parse("ncnn,litert,ncnn") == ("ncnn", "litert")
