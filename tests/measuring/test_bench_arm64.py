"""bench, profile, doctor and tune against an agent that is aarch64 itself: another architecture at the other end, and
files that have to be sent."""

import json

import pytest
from tvm_mobilenet.tune_logs.log import Journal

from tests.support import modules
from tests.support.agents import ARM64, Agent
from tvm_mobilenet import bench, doctor, profile, tune
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.measuring import benchmark

pytestmark = pytest.mark.skipif(
    not (ARM64 / "stamp").exists(), reason=".ci/arm64-python FOLDER, and TVM_MOBILENET_ARM64"
)


@pytest.fixture(scope="module")
def folder():
    return modules.small("rpi4")


@pytest.fixture(scope="module")
def agent():
    with Agent(python=(ARM64 / "bin" / "python",)) as running:
        yield running


@pytest.mark.full
def test_a_full_bench(folder, agent, capsys):
    argv = [str(folder), "--board", agent.url, "--seconds", "0.2", "--cool-down", "0", "--json"]
    assert bench.main(argv) == 0
    found = benchmark.from_data(json.loads(capsys.readouterr().out))
    assert not found.predicted and found.environment["board"]["architecture"] == "aarch64"
    assert "asimd" in found.environment["board"]["features"], "of the emulated CPU, not of this machine's /proc/cpuinfo"
    sizes = sum((folder / name).stat().st_size for name in (built.LIBRARY, built.PARAMETERS))
    assert found.upload["bytes"] == sizes and found.upload["seconds"] > 0
    for row in found.rows:
        assert len(row.layers) == len(built.read(folder).plan.steps) and row.rss_peak > row.rss_initial > 0
    assert agent.is_clean(), "nothing of a session stays on the board"


@pytest.mark.full
def test_a_profile_with_predictions_beside(folder, agent, capsys):
    assert profile.main([str(folder), "--board", agent.url, "--seconds", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_predicted"] is False and found["seconds"] > 0
    assert all(x["predicted"] > 0 and x["multiple"] > 1 for x in found["layers"] if x["mult_adds"])


@pytest.mark.full
def test_doctor_reaches_every_hop(agent, tmp_path, capsys):
    code = doctor.main(["--target", "rpi4", "--board", agent.url, "--log", str(tmp_path / "log.jsonl"), "--json"])
    found = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert code == 0 and found["result"]["status"] == "ok" and "asimd" in found["features"]["text"], found


@pytest.mark.full  # the same over loopback is in tests/tuning/test_tune_rpc.py
def test_tune_measures_and_verifies(agent, tmp_path, capsys):
    arguments = [
        "--target",
        "arm",
        "--model",
        modules.tiny_options().model,
        "--trials",
        "2",
        "--board",
        agent.url,
        "--log",
        str(tmp_path / "log.jsonl"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert tune.main(arguments) == 0
    said = capsys.readouterr().out
    assert "ms measured on 1 core" in said and "predictor" in said and "against rpc://" in said and "verified" in said
    records = list(Journal(tmp_path / "log.jsonl").records())
    assert records and all(not r.predicted and r.unit == "s" and r.board == agent.url for r in records)
    assert agent.is_clean()
