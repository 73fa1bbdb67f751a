"""doctor: what is broken is the first thing that fails, with what to do; what is whole passes."""

import http.server
import json
import os
import re
import threading
import tomllib
from pathlib import Path

import pytest

from tests.support.agents import Agent, free_port, server_of_tvm
from tvm_mobilenet import doctor, targets
from tvm_mobilenet.boards import address, wire
from tvm_mobilenet.diagnosis import board as doctor_board
from tvm_mobilenet.diagnosis import checks
from tvm_mobilenet.diagnosis import local as doctor_local
from tvm_mobilenet.errors import BoardError, MissingDependencyError, TvmMobilenetError

ROOT = Path(__file__).resolve().parents[2]
HOST, RPI4 = targets.load("host"), targets.load("rpi4")


def by_name(found) -> dict:
    return {c.name: c for c in found}


# ---- running checks


def raising(error):
    def check():
        raise error

    return check


def test_a_failed_check_names_its_remedy_and_what_rests_on_it_is_not_reached():
    run = checks.Checks()
    assert run.run("a", lambda: "fine")
    assert run.run("b", raising(checks.Doubt("slow", "a cable")), ("a",))
    assert not run.run("c", raising(BoardError("off", "switch it on")), ("b",))
    assert not run.run("d", lambda: "never", ("c",))
    assert not run.run("e", lambda: "never", ("d",))
    assert [(c.status, c.text, c.remedy) for c in run.found] == [
        ("ok", "fine", ""),
        ("doubtful", "slow", "a cable"),
        ("FAILED", "off", "switch it on"),
        ("not reached", "needs: c", ""),
        ("not reached", "needs: d", ""),
    ]
    assert run.code == 4


@pytest.mark.parametrize(
    "error, text, remedy, code",
    [
        (TvmMobilenetError("what", "do"), "what", "do", 2),
        (
            ModuleNotFoundError("No module named 'unicorn'", name="unicorn"),
            "needs unicorn, which is not",
            r"\[compile\]",
            3,
        ),
        (ValueError("odd\nthing"), "odd thing", "--debug", 1),
    ],
)
def test_every_failure_becomes_a_line_with_a_remedy(error, text, remedy, code):
    run = checks.Checks()
    run.run("x", raising(error))
    assert text in run.found[0].text and re.search(remedy, run.found[0].remedy) and run.code == code


# ---- this side


def test_this_side_is_whole_and_says_so(tmp_path, capsys):
    log = tmp_path / "new" / "log.jsonl"
    assert doctor.main(["--target", "rpi4", "--log", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [c["name"] for c in found["checks"]]
    assert {"python", "packages", "tvm", "ffi", "linker", "emulator", "your tune log", "shipped tune log"} <= set(names)
    assert all(c["status"] != "FAILED" for c in found["checks"]) and found["code"] == 0
    assert "predicted" in next(c["text"] for c in found["checks"] if c["name"] == "emulator")
    assert not log.parent.exists(), "looking leaves nothing behind"


def test_the_pins_are_the_projects():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {f"{p}=={v}" for p, v in doctor_local.PINS.items()} == {d for d in pins["dependencies"] if "==" in d}


def test_another_ffi_or_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    real = doctor_local.installed_version
    monkeypatch.setattr(doctor_local, "installed_version", lambda p: "0.1.15" if p == "apache-tvm-ffi" else real(p))
    with pytest.raises(MissingDependencyError, match=r"apache-tvm-ffi 0\.1\.15 is installed") as e:
        doctor_local._pinned(doctor_local.PINS)
    assert e.value.hint.endswith(" -m pip install apache-tvm-ffi==0.1.14.post1") and e.value.exit_code == 3
    monkeypatch.setattr(doctor_local, "installed_version", lambda p: None if p == "unicorn" else "1")
    with pytest.raises(MissingDependencyError, match="compiling needs unicorn, which is not installed") as e:
        doctor_local._installed("compiling", "compile")
    assert "[compile]" in e.value.hint


@pytest.mark.parametrize("extra", ["compile", "rpc", "peers"])
def test_a_package_that_brings_several_modules_is_listed_once(extra, monkeypatch):
    monkeypatch.setattr(doctor_local, "installed_version", lambda p: "1")
    told = doctor_local._installed("this", extra).split(", ")
    assert len(told) == len(set(told)) > 1, told


def test_an_ffi_that_crashes_does_not_take_doctor_with_it(monkeypatch):
    monkeypatch.setattr(doctor_local, "ROUND_TRIP", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(MissingDependencyError, match="code -11"):
        doctor_local._ffi()


def test_a_linker_that_is_missing_or_broken_is_what_fails(tmp_path, monkeypatch):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'no such sysroot' >&2; exit 1\n")
    broken.chmod(0o755)
    for linker, text in (("no-such-cc", "no-such-cc"), (str(broken), "no such sysroot")):
        run = checks.Checks()
        run.run("linker", lambda linker=linker: doctor_local._link(RPI4, linker, tmp_path))
        assert run.found[0].status == "FAILED" and text in run.found[0].text and run.found[0].remedy


def test_a_log_that_cannot_be_written_or_read(tmp_path):
    with pytest.raises(TvmMobilenetError, match="cannot be written"):
        if os.geteuid() == 0:  # root may write anywhere but where the system forbids it
            doctor_local._writable(Path("/proc/log.jsonl"))
        else:
            tmp_path.chmod(0o500)
            doctor_local._writable(tmp_path / "log.jsonl")


def test_a_full_disk_is_a_doubt(monkeypatch, tmp_path):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 3 << 20))
    with pytest.raises(checks.Doubt, match="3 MiB are free"):
        doctor_local._room(tmp_path)


# ---- the way to a board


def hops(where: str, target=HOST, folder: Path = Path("nowhere"), ready=()) -> dict:
    """The checks of a board alone."""
    run = checks.Checks(found=[checks.Check(name, "ok", "") for name in ready])
    doctor_board.check_board(run, address.parse(where), target, folder)
    return by_name(run.found)


def test_nothing_listens_or_no_such_host():
    found = hops(f"rpc://127.0.0.1:{free_port()}")
    assert found["name"].status == "ok" and "nothing listens" in found["port"].text and "agent" in found["port"].remedy
    assert {c.status for n, c in found.items() if n not in ("name", "port")} == {"not reached"}
    found = hops("rpc://no-such-host.invalid:9090")
    assert "no such host" in found["name"].text and found["port"].status == "not reached"


def test_another_server_at_the_port(monkeypatch):
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 1.0)

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = hops(f"tracker://127.0.0.1:{server.server_port}/rpi4")
        assert found["port"].status == "ok" and "an HTTP server answers" in found["tracker"].text
        assert found["key"].status == found["session"].status == "not reached"
        server.shutdown()


@pytest.fixture
def shelf(served):
    """Where the tracker is, once the board is free: after a session it takes a moment to come back."""
    where = address.parse(f"{served}/here")
    for _ in range(6000):
        with wire.Tracker(where.host, where.port) as tracker:
            if tracker.boards().get("here", {}).get("free"):
                return served
        threading.Event().wait(0.1)
    raise AssertionError("the board did not come back to its tracker")


@pytest.fixture(scope="module")
def served():
    """A real tracker, and a real agent for this machine under the key ``here``; the tracker's address."""
    with server_of_tvm("rpc_tracker") as port, Agent("--tracker", f"127.0.0.1:{port}", "--key", "here"):
        yield f"tracker://127.0.0.1:{port}"


@pytest.mark.full
def test_every_hop_to_a_board_of_a_tracker(shelf, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    code = doctor.main(["--target", "host", "--board", f"{shelf}/here", "--log", str(log), "--json"])
    found = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    names = [
        "name",
        "port",
        "tracker",
        "key",
        "free boards",
        "session",
        "agent",
        "versions",
        "features",
        "upload",
        "kernel",
        "result",
        "timing noise",
        "throttling",
        "disk",
        "memory",
    ]
    assert list(found)[-len(names) :] == names
    assert not {n: c for n, c in found.items() if c["status"] in ("FAILED", "not reached")} and code == 0
    assert "here: 1" in found["tracker"]["text"] and "1 of 1" in found["free boards"]["text"]
    assert "MB/s" in found["upload"]["text"] and "right" in found["result"]["text"]


def test_a_key_that_the_tracker_does_not_have(shelf):
    found = hops(f"{shelf}/rpi9")
    assert "no board with key 'rpi9'; it has: here (1)" in found["key"].text and "--key rpi9" in found["key"].remedy
    assert found["session"].status == "not reached"


def test_a_board_of_another_architecture(shelf):
    found = hops(f"{shelf}/here", target=RPI4)
    assert "target rpi4 is aarch64" in found["session"].text and "--target" in found["session"].remedy
    assert found["kernel"].status == "not reached"


def test_versions_and_features_that_differ(monkeypatch):
    from tvm_mobilenet.boards.agent import facts

    here = facts.versions()
    with pytest.raises(BoardError, match=r"apache-tvm-ffi 0\.1\.9 there") as e:
        doctor_board._versions({"versions": {**here, "apache-tvm-ffi": "0.1.9"}})
    assert "apache-tvm-ffi==" in e.value.hint
    rpi5 = targets.load("rpi5")
    with pytest.raises(BoardError, match=r"rpi5's code needs .*asimddp") as e:
        doctor_board._features({"features": ["fp", "asimd", "crc32"], "cpu": "arm,cortex-a72"}, rpi5)
    assert "--target" in e.value.hint
    assert "are there" in doctor_board._features({"features": ["asimd"], "cpu": ""}, RPI4)


def test_a_wrong_result_noise_heat_and_little_room_are_told(tmp_path):
    import types

    import numpy as np

    class Module:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def expect(self, takes):
            pass

        def call_on(self, symbol, arguments, cores):
            return [types.SimpleNamespace(outputs=[np.ones_like(arguments[-1])], sampled=False)]

    board = types.SimpleNamespace(name="odd", target=RPI4, measures=True, load=lambda path: Module())
    with pytest.raises(BoardError, match="odd: wrong result"):
        doctor_local.run_probe(board, RPI4, tmp_path)
    with pytest.raises(checks.Doubt, match="50%"):
        doctor_board._noise([1.0, 1.5, 1.5, 1.5, 1.6])
    assert "1.0%" in doctor_board._noise([1.0, 1.01, 1.02])
    for state, text in (
        ({"throttled": ["under-voltage"]}, "under-voltage now"),
        ({"throttled_since_boot": ["throttled"]}, "since boot: throttled"),
        ({"temperature_c": 79.0}, "79 °C"),
    ):
        with pytest.raises(checks.Doubt, match=re.escape(text)):
            doctor_board._throttling(state)
    with pytest.raises(checks.Doubt, match="memory: 5 MiB"):
        doctor_board._enough("memory", 5 << 20, 128 << 20)


def test_an_address_that_is_none_is_a_usage_error(capsys):
    assert doctor.main(["--board", "tracker://shelf:9190"]) == 2 and "key is missing" in capsys.readouterr().err
