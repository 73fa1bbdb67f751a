"""A tracker that is not to be trusted: whatever it answers, a client says so with exit code 4 and an agent goes on."""

import contextlib
import json
import os
import socket
import struct
import time

import pytest

from tests.support.agents import Agent, runs, wait_for
from tests.support.hostile import Listener, tracker
from tvm_mobilenet import targets
from tvm_mobilenet.boards import open_board, wire
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

HOST = targets.load("host")
GOOD = {"server_info": [{"key": "server:k", "addr": ["127.0.0.1", 1]}], "queue_info": {"k": {"free": 1, "pending": 0}}}


def says(value):
    """The same answer to everything."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda message, connection: data


def lends(value):
    """A summary with one board, and this answer to a request for it."""
    return lambda message, connection: json.dumps([0, GOOD] if message[0] == wire.SUMMARY else value).encode()


def raw(length: int):
    return lambda message, connection: connection.sendall(struct.pack("<i", length))


ADDRESSES = (
    None, [], ["h"], "ab", [1, 2], ["h", "1"], ["h", 1 << 16], ["h", -1], ["h", 1.5], ["\x1b[2J", 1], ["h", 1, 1],
)  # fmt: skip
KEYS = (None, 5, [], "", "server:", "server:\x1b]0;x\x07")
QUEUES = (
    None, 5, [], {"k": 5}, {"k": None}, {"k": {"free": "1"}}, {"k": {"free": -1, "pending": 0}},
    {"k": {"free": True, "pending": 0}},
)  # fmt: skip
SUMMARIES = [
    b"\xff\xfe", b"", b"[" * 100_000 + b"]" * 100_000, b"9" * 10_000, b"[0, NaN]", b"[0, 1e999]", b'{"a": 1',
    None, True, 0, 1.5, "x", {}, [], [0], [0, None], [0, {}], [0, []], [0, "x"], [1, "no"], [False, GOOD], [None, GOOD],
    [0, GOOD, GOOD], [0, {"server_info": [1], "queue_info": {}}], [0, {"server_info": {}, "queue_info": []}],
    *([0, GOOD | {"server_info": [{"key": "server:k", "addr": odd}]}] for odd in ADDRESSES),
    *([0, GOOD | {"server_info": [{"key": odd, "addr": ["h", 1]}]}] for odd in KEYS),
    *([0, GOOD | {"queue_info": odd}] for odd in QUEUES),
]  # fmt: skip
LOANS = [
    None, [], 0, [0], [0, None], [0, []], [0, ["h", 1]], [0, [1, "x", "y"]], [0, ["h", "1", "k"]], [0, ["h", 0, "k"]],
    [0, ["h", 1 << 16, "k"]], [0, ["h", 1.0, "k"]], [0, ["h", True, "k"]], [0, ["", 1, "k"]], [0, ["h", 1, ""]],
    [0, ["h", 1, "k", 1]], [0, ["h\x00", 1, "k"]], [0, ["h", 1, "k -timeout=1"]], [0, ["h" * 5000, 1, "k"]],
    [1, "busy"], [0, {"a": 1}], [0, "abc"],
]  # fmt: skip


def asked(answer, magic=0x2F271) -> BoardError:
    with (
        Listener(tracker(answer, magic)) as listener,
        pytest.raises(BoardError) as e,
        wire.Tracker("127.0.0.1", listener.port) as found,
    ):
        found.request("k", 2.0)
    assert e.value.exit_code == 4 and e.value.hint
    assert not any(c in e.value.message for c in "\x1b\x07\x00") and len(e.value.message) < 1000
    return e.value


@pytest.mark.parametrize("answer", SUMMARIES, ids=lambda a: repr(a)[:40])
def test_odd_summaries(answer, monkeypatch):
    monkeypatch.setattr(wire, "KNOWN_SECONDS", 0.1)
    asked(says(answer))


@pytest.mark.parametrize("answer", LOANS, ids=lambda a: repr(a)[:40])
def test_odd_loans(answer):
    asked(lends(answer))


def test_lengths_and_magic():
    for length in (-5, 0, (1 << 31) - 1, -(1 << 31)):
        asked(raw(length))
    for magic in (0, wire.MAGIC, -1):
        assert "no TVM tracker" in asked(says([0, GOOD]), magic).message


def test_a_tracker_that_drips_has_ten_seconds_for_a_whole_answer(monkeypatch):
    monkeypatch.setattr(wire, "CONNECT_SECONDS", 2.0)

    def drip(message, connection):
        connection.sendall(struct.pack("<i", 1000))
        with contextlib.suppress(OSError):
            for _ in range(400):
                connection.sendall(b" ")
                time.sleep(0.25)

    assert "no whole answer within" in asked(drip).message


def test_a_tracker_beyond_this_machine_is_not_asked_unless_it_is_trusted(capsys):
    from tvm_mobilenet import doctor

    with pytest.raises(TvmMobilenetError, match="has no token") as e:
        open_board("tracker://192.0.2.1/rpi4", HOST)
    assert e.value.exit_code == 2 and "--trust-network" in e.value.hint
    assert doctor.main(["--target", "host", "--board", "tracker://192.0.2.1/rpi4"]) == 2
    assert "add --trust-network" in capsys.readouterr().err
    for board in ("virtual", "ssh://pi@pi4"):
        assert doctor.main(["--target", "host", "--board", board, "--trust-network"]) == 2
        assert "--trust-network" in capsys.readouterr().err


# ---- agents


NONSENSE = [b"null", b"5", b'"x"', b"{}", b"[", b"\xff", b"[" * 100_000, b"true", b"[[0]]", b"9" * 9_000, b""]


def test_no_tracker_ends_an_agent():
    """One agent after another's nonsense in turn: to each message, another answer each time; then it serves."""
    count = [0]

    def answer(message, connection):
        count[0] += 1
        if message[0] == wire.PENDING or count[0] % 3 == 0:
            return NONSENSE[count[0] % len(NONSENSE)]
        return b"0"

    with Listener(tracker(answer)) as listener, Agent(*lent_by(listener)) as running:
        wait_for(lambda: listener.connections > 2, "it does not try again")
        assert running.process.poll() is None
        assert hears(running.port)
        running.stop()
        assert running.process.returncode == 0 and not os.listdir(running.temporary)


def lent_by(listener) -> tuple[str, ...]:
    return "--tracker", f"127.0.0.1:{listener.port}", "--key", "k"


def hears(port: int) -> bool:
    """Whether an agent answers a caller: one with another key than it lends out."""
    with socket.create_connection(("127.0.0.1", port)) as caller:
        name = b"client:another"
        caller.settimeout(120)
        caller.sendall(struct.pack("<ii", wire.MAGIC, len(name)) + name)
        return struct.unpack("<i", caller.recv(4))[0] == wire.MISMATCH


@pytest.mark.parametrize(
    "how", ["silent", "huge", *(pytest.param(h, marks=pytest.mark.full) for h in ("drips", "closes", "speaks unasked"))]
)
def test_a_tracker_holds_up_no_agent(how):
    """While it does what it does, SIGTERM ends the agent, and callers are heard."""

    def serve(connection):
        connection.recv(4)
        if how == "closes":
            return
        connection.sendall({"huge": struct.pack("<ii", 0x2F271, (1 << 31) - 1)}.get(how, struct.pack("<i", 0x2F271)))
        while how == "drips":
            connection.sendall(b"\x01")
            time.sleep(0.3)
        if how == "speaks unasked":
            connection.sendall(b"0" * 1000)
        while connection.recv(1 << 12):
            pass

    with Listener(serve) as listener, Agent(*lent_by(listener)) as running:
        wait_for(lambda: listener.connections, "it does not call its tracker")
        assert hears(running.port)
        running.process.terminate()
        assert running.process.wait(120) == 0
        assert not runs(running.process.pid) and not os.listdir(running.temporary)


def test_a_board_that_a_tracker_names_runs_nothing_here(tmp_path):
    """Whoever registers with a tracker is lent out under its key."""
    from tests.boards.test_hostile_board import run_this
    from tests.support.hostile import answering

    with Listener(answering(run_this(tmp_path / "ran"))) as board:
        lent = lends([0, ["127.0.0.1", board.port, "k:0.5"]])
        with (
            Listener(tracker(lent)) as listener,
            pytest.raises(BoardError, match="data that no board sends: code 2") as e,
        ):
            open_board(f"tracker://127.0.0.1:{listener.port}/k", HOST)
    assert e.value.exit_code == 4 and not (tmp_path / "ran").exists()
