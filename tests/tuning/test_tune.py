"""Tuning on the virtual board, with real machine code: what it finds must be better, right, and in the built module."""

import dataclasses
import types

import pytest
from tvm_mobilenet.schedules.choices import Space
from tvm_mobilenet.tune_logs.log import Journal, Record, trials_of

from tvm_mobilenet import build, schedules, targets, tune
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions

LAYER = Layer.parse("pointwise m49 n64 k64 f32 relu6")


@pytest.fixture(scope="module")
def target():
    return targets.load("rpi4")


def worse(space: Space) -> Space:
    """The same space with the smallest tile as its default."""
    small = ("tile_m", "tile_n", "m_block")
    choices = {
        name: dataclasses.replace(choice, default=min(choice.candidates) if name in small else choice.default)
        for name, choice in space.choices.items()
    }
    return dataclasses.replace(space, choices=choices)


@pytest.mark.full
def test_a_deliberately_worse_default_is_beaten(monkeypatch, tmp_path, target):
    bad = worse(schedules.space(LAYER, target.core))
    assert not bad.valid(bad.default) and bad.default != schedules.space(LAYER, target.core).default
    monkeypatch.setattr(schedules, "space", lambda layer, core: bad)
    network = types.SimpleNamespace(graph=types.SimpleNamespace(counts={LAYER: 1}), options=ModelOptions())
    monkeypatch.setattr(pipeline, "CORE_PASSES", ())
    result = tune.tune(
        ModelOptions(), target, log=tmp_path / "log.jsonl", trials=14, network=network, finish=lambda *a: (None, None)
    )
    (layer,) = result.layers
    assert layer.trials == 14 and layer.untuned > 1.3 * layer.tuned
    assert layer.floor <= layer.tuned <= 4 * layer.floor
    trials = list(trials_of(tmp_path / "log.jsonl").records())
    assert len({str(r.decisions) for r in trials}) == 14 and all(r.predicted and r.board == "virtual" for r in trials)
    assert len({r.cost for r in trials}) > 5, "candidates are distinct machine code"


@pytest.fixture(scope="module")
def network():
    from tvm_mobilenet.compiler.network import load_network

    return load_network(ModelOptions(alpha=0.25, resolution=32))


def test_the_log_changes_the_built_bytes(network, tmp_path, target):
    def module(log, folder) -> bytes:
        result = build.build(network.options, target, log=log, output=tmp_path / folder, network=network)
        sources = {one.layer: one.source for one in result.layers}
        assert (sources[layer.name] == log.name) is log.exists()
        return (tmp_path / folder / built.KERNELS).read_bytes()

    layer = next(one for one in pipeline.for_core(network.graph, target.core).counts if one.kind == "pointwise")
    space = schedules.space(layer, target.core)
    other = next(d for d in space.points() if d["tile_m"] != space.default["tile_m"])
    log = tmp_path / "log.jsonl"
    untuned = module(tmp_path / "none.jsonl", "a")
    Journal(log).append(Record(layer=layer.name, core=target.core.name, decisions=other, cost=1.0))
    tuned = module(log, "b")
    assert tuned != untuned
    assert module(log, "c") == tuned, "the same decisions give the same bytes"
