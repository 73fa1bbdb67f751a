"""bench --compare: what became slower is named, and nothing else is."""

import dataclasses

import pytest

from tvm_mobilenet import bench
from tvm_mobilenet.errors import RegressionError, TvmMobilenetError
from tvm_mobilenet.measuring import benchmark, regression


def changed(result, factors: dict, whole: float):
    """The benchmark with layers slower by factors and the whole network by another."""

    def layer(t):
        f = factors.get(t.name, 1.0)
        return dataclasses.replace(t, p50=t.p50 * f, min=t.min * f)

    rows = [
        dataclasses.replace(
            r, time=dataclasses.replace(r.time, p50=r.time.p50 * whole), layers=[layer(t) for t in r.layers]
        )
        for r in result.rows
    ]
    return dataclasses.replace(result, rows=rows)


def test_a_planted_regression_names_the_planted_layer(folders, tmp_path, capsys):
    """One layer takes twice its time: it is named, and no other."""
    old = bench.bench(folders / "rpi4", board="virtual", threads=(1,))
    planted = max(old.rows[0].layers[2:-2], key=lambda t: t.p50)
    new = changed(old, {planted.name: 2.0}, 1 + planted.p50 / old.rows[0].time.p50)
    found = regression.compare(old, new, 0.05)
    assert [c.name for c in found.slower[0].culprits] == [planted.name]
    with pytest.raises(RegressionError, match=rf"slower than before[\s\S]*{planted.name} .*\+100%") as e:
        found.require()
    assert e.value.exit_code == 6
    # on the command line: the older one was faster
    faster = changed(old, {planted.name: 0.5}, 1 - 0.5 * planted.p50 / old.rows[0].time.p50)
    benchmark.write(faster, tmp_path / "old.json")
    argv = [str(folders / "rpi4"), "--compare", str(tmp_path / "old.json"), "--max-regress"]
    assert bench.main([*argv, "1%"]) == 6
    out, err = capsys.readouterr()
    others = [t.name for t in old.rows[0].layers if t.name != planted.name]
    assert planted.name in err and not any(name in err for name in others) and "before ms" in out
    assert bench.main([*argv, "100%"]) == 0


def test_what_is_no_slower_than_allowed_passes(measured):
    assert not regression.compare(measured, changed(measured, {}, 1.04), 0.05).slower
    assert regression.compare(measured, changed(measured, {}, 1.06), 0.05).slower
    with pytest.raises(RegressionError, match="no layer stands out"):
        regression.compare(measured, changed(measured, {}, 1.06), 0.05).require()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"predicted": True}, "was predicted on target host, this is measured"),
        ({"target": "rpi5"}, "target rpi5"),
        ({"model": {"model": "v2"}}, "is of model v2, this of v1"),
        ({"rows": []}, "the old benchmark has"),
    ],
)
def test_what_cannot_be_compared_is_refused(measured, changes, text):
    with pytest.raises(TvmMobilenetError, match=text):
        regression.compare(dataclasses.replace(measured, **changes), measured, 0.05)


def test_a_comparison_says_what_else_changed(measured):
    board = {**measured.environment["board"], "kernel": "5.10", "versions": {"numpy": "1.26.0"}}
    old = dataclasses.replace(measured, environment={"board": board})
    notes = regression.compare(old, measured, 0.05).notes
    assert any(n.startswith("the board's kernel was 5.10") for n in notes)
    assert any(n.startswith("numpy was 1.26.0") for n in notes)
