"""Tuning over RPC: of a whole network each layer is measured and none is rejected, whatever its rows' pitch."""

import pytest
from tvm_mobilenet.tune_logs.log import Journal, trials_of

from tests.support.agents import ARM64, Agent, server_of_tvm
from tvm_mobilenet import targets, tune
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.survey import estimates as estimating


def measures_every_layer(model: ModelOptions, target, board: str, log) -> None:
    """One candidate a layer is built here, run on the board, compared and measured."""
    network = estimating.weightless(model)
    counts = pipeline.for_core(network.graph, target.core).counts
    result = tune.tune(
        model,
        target,
        board=board,
        log=log,
        trials=1,
        workers=1,
        time_limit=3600.0,
        network=network,
        finish=lambda *_: (None, None),
    )
    trials = {record.layer: record for record in trials_of(log).records()}
    assert not {name: r.failure for name, r in trials.items() if r.failure}, "rejected"
    assert set(trials) == {layer.name for layer in counts} and result.ended == "done"
    assert all(r.unit == "s" and r.cost > 0 and r.whole for r in trials.values())
    assert {r.layer for r in Journal(log).records()} == set(trials), "what was measured is built with"
    assert all(layer.tuned for layer in result.layers) and result.tuned > 0
    if model.model != "v3-large":  # which has no 256 channels, nor a multiple
        assert any(layer.output_pitch for layer in counts) and any(layer.input_pitch for layer in counts)


@pytest.mark.full  # a fleet of two is in tests/boards/test_output_check.py
def test_v1_over_loopback(tmp_path):
    with Agent() as agent:
        measures_every_layer(ModelOptions(), targets.load("host"), agent.url, tmp_path / "log.jsonl")


@pytest.mark.full
def test_a_network_on_a_fleet(tmp_path):
    """v3-large, which has every kind of layer."""
    with server_of_tvm("rpc_tracker") as port:
        shelf = ("--tracker", f"127.0.0.1:{port}", "--key", "shelf")
        with Agent(*shelf), Agent(*shelf):
            board = f"tracker://127.0.0.1:{port}/shelf"
            options = ModelOptions(model="v3-large", resolution=64)
            measures_every_layer(options, targets.load("host"), board, tmp_path / "log.jsonl")


@pytest.mark.full
@pytest.mark.skipif(not (ARM64 / "stamp").exists(), reason=".ci/arm64-python FOLDER, and TVM_MOBILENET_ARM64")
def test_v1_on_an_arm64_board(tmp_path):
    with Agent(python=(ARM64 / "bin" / "python",)) as agent:
        measures_every_layer(ModelOptions(resolution=64), targets.load("rpi4"), agent.url, tmp_path / "log.jsonl")
