"""The one comparison: every board accepts what is right, whatever its rows' pitch, and rejects one wrong value."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import planted
from tests.support.agents import ARM64, Agent, server_of_tvm
from tvm_mobilenet import schedules, targets
from tvm_mobilenet.boards import address
from tvm_mobilenet.boards import comparison as output_check
from tvm_mobilenet.boards.agent import measure
from tvm_mobilenet.boards.agent.measured_process import Measured
from tvm_mobilenet.boards.comparison import WrongResult
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning import fleet
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.runner import Evaluate, Runner
from tvm_mobilenet.tuning.workers import keep_busy

LAYERS = [Layer.parse(name) for name in planted.LAYERS]


# ---- the function


def test_what_stands_between_rows_is_no_part_of_an_output_and_nothing_is_broadcast():
    expected = np.arange(12.0).reshape(1, 3, 1, 4)
    found = np.full((1, 3, 1, 6), np.nan, np.float32)
    found[..., :4] = expected
    assert output_check.require_right(found, expected) == 0
    found[0, 1, 0, 3] += 1
    difference = output_check.compare(found, expected)
    assert difference.where == (0, 1, 0, 3) and difference.relative == pytest.approx(1 / expected.std())
    for shape in ((3, 6), (1, 1, 3, 6), (1, 3, 1, 3), (1, 1, 1, 6)):
        with pytest.raises(ValueError, match="shape"):
            output_check.compare(np.zeros(shape), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_not_right(value):
    expected = np.arange(12.0).reshape(3, 4)
    found = expected.copy()
    found[2, 1] = value
    assert output_check.compare(found, expected) == output_check.Difference(
        np.inf, (2, 1), 12 - int(np.isnan(value)), 12
    )
    with pytest.raises(WrongResult, match="11 of 12" if np.isnan(value) else "inf"):
        output_check.require_right(found, expected)


def test_of_a_sample_what_was_written_must_be_right():
    expected = np.arange(12.0).reshape(3, 4)
    found = np.full((3, 5), np.nan)
    with pytest.raises(WrongResult, match="0 of 12"):
        output_check.require_right(found, expected, sample=True)
    found[1, :4] = expected[1]
    assert output_check.require_right(found, expected, sample=True) == 0
    with pytest.raises(WrongResult, match="4 of 12"):
        output_check.require_right(found, expected)
    found[1, 2] += 1e-3
    with pytest.raises(WrongResult, match=r"off at \(1, 2\)"):
        output_check.require_right(found, expected, sample=True)


def test_an_engine_whose_output_is_no_number_is_not_taken_for_equal(tmp_path):
    for name, value in (("a", 1.0), ("b", np.nan)):
        np.savez(tmp_path / f"{name}.npz", y=np.array([0.0, value], np.float32))
    assert measure._difference(tmp_path / "b.npz", tmp_path / "a.npz") == np.inf
    assert measure._difference(tmp_path / "a.npz", tmp_path / "a.npz") == 0


# ---- boards


def outcomes(board: str, target, at: int | None, layers=LAYERS) -> list:
    """What comes of each layer's default decisions on a board: an outcome, or why there is none."""
    jobs = [Candidate(layer.name, schedules.space(layer, target.core).default, whole=True) for layer in layers]
    builder = planted.Builder(target)
    builder.at = at
    if address.parse(board).is_remote:
        left, found = list(jobs), {}
        with fleet.Fleet(address.parse(board), target, builder, Runner(), builders=1) as boards:
            keep_busy(
                boards,
                lambda: left.pop() if left else None,
                lambda done: found.update({done.job.layer: done.value or done.failure}),
            )
        return [found[job.layer] for job in jobs]
    evaluate = Evaluate(target, board)
    evaluate.prepare()
    evaluate.builder = builder
    found = []
    for job in jobs:
        try:
            found.append(evaluate(job))
        except WrongResult as e:
            found.append(str(e))
    return found


def rejects_what_is_planted(board: str, target, layers=LAYERS) -> None:
    right = outcomes(board, target, None, layers)
    assert all(getattr(one, "cost", 0) > 0 for one in right), right
    for found, layer in zip(outcomes(board, target, 5, layers), layers, strict=True):
        assert isinstance(found, str) and "wrong result" in found and "off at (0, 0, 0, 5)" in found, (layer, found)


def test_the_virtual_board_rejects_one_wrong_value():
    rejects_what_is_planted("virtual", targets.load("rpi4"))


@pytest.mark.full
def test_of_float16_layers_the_virtual_board_rejects_the_last_digit(monkeypatch):
    """The candidates of a search are compared for equality."""
    layers = [Layer.parse(name.replace(" f32", " f16")) for name in planted.LAYERS]
    monkeypatch.setattr(planted, "PLANTED", 2.0**-8)  # a unit in the last place of values below 8, or a few
    right = outcomes("virtual", targets.load("rpi5"), None, layers)
    assert [one.difference for one in right] == [0.0] * len(layers)
    rejects_what_is_planted("virtual", targets.load("rpi5"), layers)


def test_this_machine_rejects_one_wrong_value():
    rejects_what_is_planted("local", targets.load("host"))


@pytest.mark.full  # a fleet of one; what follows is a fleet of two
def test_a_board_over_rpc_rejects_one_wrong_value():
    with Agent() as agent:
        rejects_what_is_planted(agent.url, targets.load("host"))


@pytest.mark.full
def test_a_fleet_rejects_one_wrong_value():
    with (
        server_of_tvm("rpc_tracker") as port,
        Agent("--tracker", f"127.0.0.1:{port}", "--key", "shelf"),
        Agent("--tracker", f"127.0.0.1:{port}", "--key", "shelf"),
    ):
        rejects_what_is_planted(f"tracker://127.0.0.1:{port}/shelf", targets.load("host"))


@pytest.mark.full
@pytest.mark.skipif(not (ARM64 / "stamp").exists(), reason=".ci/arm64-python FOLDER, and TVM_MOBILENET_ARM64")
def test_an_arm64_board_rejects_one_wrong_value():
    with Agent(python=(ARM64 / "bin" / "python",)) as agent:
        rejects_what_is_planted(agent.url, targets.load("rpi4"))


@pytest.mark.parametrize("name", ["virtual", pytest.param("local", marks=pytest.mark.full)])
def test_a_wrong_value_between_the_rows_is_nobodys_business(name):
    """What lies there is no number and nobody reads it: a kernel that writes there has changed no result."""
    target = targets.load("rpi4" if name == "virtual" else "host")
    assert all(getattr(one, "cost", 0) > 0 for one in outcomes(name, target, 16)[:2])


@pytest.mark.parametrize("odd", [np.inf, np.nan])
@pytest.mark.parametrize("engine, refused", [("tvm_mobilenet", True), ("tvm", True), ("ncnn", False)])
def test_a_benchmark_of_a_build_whose_outputs_are_no_numbers_is_an_error(tmp_path, engine, refused, odd):
    """What took that time is no result; of another engine the difference says so."""
    measured = Measured.__new__(Measured)
    measured._name, measured._engine = engine, SimpleNamespace(outputs=lambda: [np.ones(3), np.array([1.0, odd])])
    if refused:
        with pytest.raises(BoardError, match="the outputs hold infinities or NaN"):
            measured.outputs(str(tmp_path / "x.npz"))
    else:
        measured.outputs(str(tmp_path / "x.npz"))
