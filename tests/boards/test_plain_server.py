"""Boards with nothing but TVM: its own RPC server, tracker and proxy, unchanged. What needs no agent works there, and
what does says so."""

import json
import time

import pytest

from tests.support import modules
from tests.support.agents import free_port, server_of_tvm
from tvm_mobilenet import bench, doctor, profile, verify
from tvm_mobilenet.boards import wire
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.measuring import benchmark


@pytest.fixture(scope="module")
def server():
    """``python -m tvm.exec.rpc_server``."""
    with server_of_tvm("rpc_server") as port:
        yield f"rpc://127.0.0.1:{port}"


@pytest.mark.full
def test_bench_times_the_network_and_its_kernels_and_says_what_is_missing(server, capsys):
    assert bench.main([str(modules.small()), "--board", server, "--seconds", "0.2", "--threads", "1,2", "--json"]) == 0
    found = benchmark.from_data(json.loads(capsys.readouterr().out))
    assert not found.predicted and found.upload["bytes"] > 0
    steps = built.read(modules.small()).plan.steps
    for row in found.rows:
        assert row.repeat == len(row.samples) >= 10 and row.warm_up["runs"] >= 1 and 0 < row.time.min <= row.time.p50
        assert [(t.name, t.layer) for t in row.layers] == [(s.name, s.layer) for s in steps]
        assert all(0 < t.min <= t.p50 for t in row.layers)
        assert row.rss_peak is None and row.load_seconds is None, "nobody tells"
    (mark,) = [m for m in found.rows[0].marks if m.kind == "agent"]
    assert "temperature" in mark.text and "tvm_mobilenet.agent" in mark.remedy


@pytest.mark.full
def test_without_tvms_executable_the_network_is_its_kernels(server, tmp_path, capsys):
    folder = modules.without_executable(modules.tiny(), tmp_path / "kernels alone")
    assert bench.main([str(folder), "--board", server, "--seconds", "0.1", "--json"]) == 0
    found = benchmark.from_data(json.loads(capsys.readouterr().out))
    (row,) = found.rows
    assert len(row.samples) >= 10 and 0 < row.time.p50 < 10 * sum(t.p50 for t in row.layers)
    assert bench.main([str(folder), "--board", "local", "--check-timing"]) == 2
    assert "build it again with --tvm" in capsys.readouterr().err


@pytest.mark.full
def test_a_table_without_facts(server, capsys):
    assert bench.main([str(modules.small()), "--board", server, "--seconds", "0.1", "--no-layers"]) == 0
    out = capsys.readouterr().out
    assert "! 1 thread: TVM's own RPC server" in out and "board     unknown" in out and "None" not in out


@pytest.mark.full
def test_profile_times_each_kernel(server, capsys, tmp_path):
    trace = tmp_path / "trace.json"
    assert profile.main([str(modules.small()), "--board", server, "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert "each kernel is timed alone" in out and "agent in its place" in out
    calls = [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X" and e["cat"] != "run"]
    assert [e["name"] for e in calls] == [s.name for s in built.read(modules.small()).plan.steps]


@pytest.mark.full
def test_verify_and_doctor_need_no_agent(server, capsys, tmp_path):
    assert verify.main([str(modules.tiny()), "--board", server, "--inputs", "1"]) == 0
    kernels = len(built.read(modules.tiny()).plan.steps)  # this machine's caches decide which layers are fused blocks
    assert f"layers    {kernels} of {kernels} right" in capsys.readouterr().out
    log = str(tmp_path / "log.jsonl")
    assert doctor.main(["--target", "host", "--board", server, "--log", log, "--json"]) == 0
    found = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert found["agent"]["status"] == "doubtful" and "agent in its place" in found["agent"]["remedy"]
    assert all(found[n]["text"] == "needs: the agent" for n in ("versions", "features", "throttling", "disk", "memory"))
    assert found["result"]["status"] == "ok" and "right" in found["result"]["text"]


@pytest.mark.parametrize(
    "more", [pytest.param(["--against", "onnxruntime"], marks=pytest.mark.full), ["--cpus", "0"], ["--check-timing"]]
)
def test_what_needs_the_agent_says_so(server, more, capsys):
    assert bench.main([str(modules.small()), "--board", server, *more]) == 4
    said = capsys.readouterr().err
    assert "agent" in said and "python -m tvm_mobilenet.agent in its place" in said


@pytest.mark.full
def test_a_module_for_another_board(server, capsys):
    assert bench.main([str(modules.small("rpi4")), "--board", server]) == 4
    assert "it is built for aarch64" in capsys.readouterr().err


@pytest.mark.full
def test_tvms_proxy(capsys, monkeypatch):
    """The server dials the proxy; clients come to the proxy and name the server's key."""
    with server_of_tvm("rpc_proxy", "--web-port", str(free_port())) as port:
        url = f"rpc://127.0.0.1:{port}/behind"
        with server_of_tvm("rpc_server", "--through-proxy", "--key", "behind", port=port):
            assert bench.main([str(modules.small()), "--board", url, "--seconds", "0.1", "--no-layers"]) == 0
            assert "p50" in capsys.readouterr().out
            monkeypatch.setattr(wire, "WAIT_SECONDS", 3.0)  # the proxy waits for such a server to come
            assert bench.main([str(modules.small()), "--board", url + "-not", "--seconds", "0.1"]) == 4
            assert "no session within 3 s" in capsys.readouterr().err


@pytest.mark.full
def test_tvms_server_of_tvms_tracker(capsys):
    with (
        server_of_tvm("rpc_tracker") as port,
        server_of_tvm("rpc_server", "--tracker", f"127.0.0.1:{port}", "--key", "pi"),
    ):
        end = time.monotonic() + 60
        while True:
            with wire.Tracker("127.0.0.1", port) as tracker:
                if tracker.boards().get("pi", {}).get("free"):
                    break
            assert time.monotonic() < end
            time.sleep(0.1)
        url = f"tracker://127.0.0.1:{port}/pi"
        assert bench.main([str(modules.small()), "--board", url, "--seconds", "0.1", "--no-layers"]) == 0
        assert "p50" in capsys.readouterr().out
