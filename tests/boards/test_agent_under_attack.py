"""What anybody who reaches an agent's port, its temporary folder or its process can do to it: it serves the next."""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.boards.test_remote import HOST, fault, works
from tests.support.agents import Agent, compile_kernels, free_port, runs, wait_for, without_torch
from tests.support.hostile import Listener, greet, read
from tvm_mobilenet.boards import open_board, token, wire
from tvm_mobilenet.boards.agent import door, folder
from tvm_mobilenet.errors import TvmMobilenetError


@pytest.fixture(scope="module")
def agent():
    with Agent() as running:
        yield running


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_kernels(tmp_path_factory.mktemp("kernels"))


def call(port: int, *said: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(120)
    with contextlib.suppress(OSError):
        for data in said:
            connection.sendall(data)
    return connection


def hello(name=b"client:", length=None) -> bytes:
    return struct.pack("<ii", wire.MAGIC, len(name) if length is None else length) + name


def is_closed(connection) -> bool:
    """Whether the agent closes it, within the two minutes that no load makes too short."""
    with connection, contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 12):
            pass
    return True


# ---- callers

GREETINGS = {
    "http": b"GET / HTTP/1.0\r\n\r\n", "nothing": b"", "a huge name": hello(length=(1 << 31) - 1),
    "a negative name": hello(length=-1), "no name": hello(b""), "no utf-8": hello(b"\xff\xfe" * 10),
    "no client": hello(b"server:"), "half": hello()[:5],
    **{f"timeout={odd}": hello(f"client: -timeout={odd}".encode())
       for odd in ("nan", "-nan", "inf", "-inf", "-1", "abc", "1e999", "")},
    "a challenge, half": token.CHALLENGE + bytes(31), "a wrong proof": token.CHALLENGE + bytes(64),
    "a challenge within a challenge": token.CHALLENGE * 9,
}  # fmt: skip


def test_odd_greetings_are_closed(agent):
    """All at the same time; those that are unfinished after ten seconds."""
    callers = {name: call(agent.port, said) for name, said in GREETINGS.items()}
    assert all(is_closed(connection) for connection in callers.values())
    assert agent.process.poll() is None and agent.is_clean()


def test_nobody_holds_up_others(agent, library):
    """Eight that are silent, one that drips, eight that stop in the middle; then one that wants something."""
    silent = [call(agent.port) for _ in range(8)] + [call(agent.port, hello()[:6]) for _ in range(8)]
    dripping, stop = call(agent.port, struct.pack("<ii", wire.MAGIC, 4000)), threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            while not stop.wait(0.2):
                dripping.sendall(b"x")

    dripper = threading.Thread(target=drip, daemon=True)
    dripper.start()
    works(agent.url, library)
    assert all(is_closed(connection) for connection in silent)
    dripper.join(120)
    assert not dripper.is_alive(), "one byte now and then holds a connection for ever"
    stop.set()


def test_no_wish_voids_the_agents_limit():
    with Agent("--session-limit", "1s") as running:
        for wish in ("", " -timeout=1e9", " -timeout=0", " -timeout=1e9 -timeout=0"):
            with call(running.port, hello(f"client:{wish}".encode())) as connection:
                assert struct.unpack("<i", read(connection, 4))[0] == wire.MAGIC
                read(connection, 4 + len("server:"))
                length, code = struct.unpack("<Qi", read(connection, 12))
                assert code == 5 and b"its 1 s are over" in read(connection, length - 4)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("<Q", 1 << 63),
        struct.pack("<Q", 1 << 40),
        struct.pack("<Qi", 100, 77) + bytes(96),
        struct.pack("<Qiq", 20, 3, 0x4141414141) + bytes(20),
        bytes(1 << 16),
    ],
    ids=["2**63 bytes", "2**40 bytes", "a code there is not", "a call of nothing", "zeros"],
)
def test_odd_requests_end_a_session_at_most(agent, library, sent):
    with call(agent.port, hello(), sent) as connection, contextlib.suppress(ConnectionResetError):
        read(connection, 8)
    works(agent.url, library)


@pytest.mark.full
def test_a_thousand_connections_opened_and_dropped(agent, library):
    before = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    for i in range(1000):
        call(agent.port, *((b"",), (hello()[:3],), (hello(b"client:other"),))[i % 3]).close()
    works(agent.url, library)
    wait_for(lambda: len(os.listdir(f"/proc/{agent.process.pid}/fd")) <= before, "descriptors are left")
    assert agent.is_clean()


def test_a_crowd_that_stays_is_shed(agent, library):
    """More than the agent holds, all at once and silent: the oldest go first, and a client still comes in."""
    crowd = [call(agent.port) for _ in range(3 * door.MOST_CALLERS)]
    works(agent.url, library)
    assert len(os.listdir(f"/proc/{agent.process.pid}/fd")) < 2 * door.MOST_CALLERS + 50
    for connection in crowd:
        connection.close()


def test_callers_are_heard_while_a_session_runs(agent):
    with open_board(agent.url, HOST):
        assert is_closed(call(agent.port, b"GET / HTTP/1.0\r\n\r\n"))
        waiting = [call(agent.port, hello()) for _ in range(3)]
        for connection in waiting:
            connection.close()
    assert agent.is_clean()


# ---- the token


@pytest.fixture
def demanding(monkeypatch, tmp_path):
    """An agent that demands the token; as on an address that others reach."""
    secret = secrets.token_bytes(token.PROOF)
    monkeypatch.setenv(token.GIVEN, secret.hex())
    with Agent() as running:
        monkeypatch.delenv(token.GIVEN)
        file = tmp_path / "token"
        file.write_text(secret.hex() + "\n")
        file.chmod(0o600)
        yield running, file


def test_nobody_is_served_without_the_token(demanding, monkeypatch, library, tmp_path):
    running, file = demanding
    other = tmp_path / "other"
    monkeypatch.setenv(token.VARIABLE, str(other))
    with fault("demands the token, and this machine has none"):
        open_board(running.url, HOST)
    token.read_or_make()
    assert other.stat().st_mode & 0o777 == 0o600
    with fault("it has another token"):
        open_board(running.url, HOST)
    for said in (hello(), hello() + hello(), hello() + bytes(200), token.CHALLENGE + bytes(64) + hello()):
        connection = call(running.port, said)
        assert struct.pack("<i", wire.MAGIC) not in connection.recv(4)
        connection.close()
    code = f"import tvm.rpc; tvm.rpc.connect('127.0.0.1', {running.port})"
    client = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without_torch())
    assert client.returncode and "is not TVM RPC server" in client.stderr, "TVM's client came in, or did not knock"
    monkeypatch.setenv(token.VARIABLE, str(file))
    works(running.url, library)
    assert running.is_clean()


def test_who_has_not_the_token_is_not_talked_to(monkeypatch, tmp_path):
    """A stand-in beyond this machine: TVM's own server, one that sends the challenge back, one that is silent."""
    from tvm_mobilenet.boards.remote.session import Session

    monkeypatch.setenv(token.VARIABLE, str(tmp_path / "token"))
    with fault("has no token"):
        Session("127.0.0.1", 1, demanded=True)
    token.read_or_make()
    heard = []

    def reflect(connection):
        data = read(connection, 36)
        heard.append(data)
        connection.sendall(token.CHALLENGE + data[4:] + data[4:])
        heard.append(connection.recv(1 << 12))

    def plain_server(connection):
        heard.append(greet(connection))

    for serve, words in (
        (reflect, "another token"),
        (plain_server, "no TVM RPC server|does not know the token|refused"),
    ):
        with Listener(serve) as stand_in, fault(words):
            Session("127.0.0.1", stand_in.port, demanded=True, wait=20.0)
    assert all(wire.struct.pack("<i", wire.MAGIC) not in bytes(data) for data in heard if isinstance(data, bytes))


def test_tokens_that_others_can_read_are_refused(monkeypatch, tmp_path):
    file = tmp_path / "token"
    monkeypatch.setenv(token.VARIABLE, str(file))
    made = token.read_or_make()
    assert len(made) == token.PROOF and token.read_or_make() == made and len(os.listdir(tmp_path)) == 1
    for change in (
        lambda: file.chmod(0o644),
        lambda: file.write_text("short"),
        lambda: (file.unlink(), os.mkfifo(file)),
    ):
        change()
        with pytest.raises(TvmMobilenetError) as e:
            token.read()
        assert e.value.hint
        if file.is_file():
            file.chmod(0o600)


def test_an_agent_that_others_reach_demands_the_token():
    """Told by its own words; that it does is the test above."""
    with Agent("--host", "0.0.0.0") as running:
        assert "every client needs it" in running.read_log()
        connection = call(running.port, hello())
        assert connection.recv(4) == token.CHALLENGE
        connection.close()
    with Agent("--host", "0.0.0.0", "--trust-network") as running:
        assert "WARNING" in running.read_log()
        connection = call(running.port, hello())
        assert struct.unpack("<i", connection.recv(4))[0] == wire.MAGIC
        connection.close()


# ---- its folder


@pytest.mark.full
@pytest.mark.parametrize(
    "how", ["another's", *(pytest.param(h, marks=pytest.mark.full) for h in ("cleaned", "a link"))]
)
def test_a_temporary_folder_that_was_cleaned_away_is_made_again(how, library, tmp_path):
    with Agent() as running:
        (own,) = Path(running.temporary).iterdir()
        shutil.rmtree(own)
        victim = tmp_path / "victim"
        victim.mkdir()
        if how == "a link":
            own.symlink_to(victim)
        elif how == "another's":
            own.mkdir()
        works(running.url, library)
        assert not list(victim.iterdir()) and running.process.poll() is None
        assert "had gone" in running.read_log()
        running.stop()
        assert running.process.returncode == 0
        left = [own.name] if how == "a link" else []  # a folder of that name that nobody has locked is a dead agent's
        assert os.listdir(running.temporary) == left, "its new folder is left, or what is not its own was removed"


def test_a_temporary_folder_that_cannot_be_made_ends_no_agent(library):
    with Agent() as running:
        os.rename(running.temporary, f"{running.temporary}-away")
        with fault("the board cannot begin a session: No such file"):
            open_board(running.url, HOST)
        os.mkdir(running.temporary)
        shutil.rmtree(f"{running.temporary}-away")
        works(running.url, library)


def test_agents_that_start_at_the_same_time_keep_their_folders(tmp_path, monkeypatch):
    """Eight processes make and remove folders as fast as they can; each looks whether its own is there."""
    code = (
        "import sys, tempfile, time; tempfile.tempdir = sys.argv[1]\n"
        "from tvm_mobilenet.boards.agent.folder import Folder\nbad = 0\n"
        "for _ in range(150):\n"
        "    own = Folder(); bad += not own.path.exists(); time.sleep(0.001)\n"
        "    bad += not own.path.exists() or own.renew(); own.remove()\n"
        "print(bad)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    assert [process.communicate()[0].strip() for process in started] == ["0"] * 8
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("clock", [-1e9, 0, 1e9])
def test_only_dead_agents_folders_are_removed(tmp_path, monkeypatch, clock):
    """Whatever the clock says, which a board without one of its own gets from the network, hours after it began."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    dead, alive, link, file = (tmp_path / f"{folder.PREFIX}{digit * 16}" for digit in "0123")
    link.symlink_to(precious)
    file.touch()
    for path in (dead, alive, other := tmp_path / f"{folder.PREFIX}of another"):
        path.mkdir()
        (path / "file").touch()
        os.utime(path, (time.time() + clock,) * 2)
    held = os.open(alive, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    own = folder.Folder()
    assert set(tmp_path.iterdir()) == {precious, alive, link, file, other, own.path}
    assert own.path.stat().st_mode & 0o777 == 0o700 and all((p / "file").exists() for p in (precious, alive, other))
    own.remove()
    os.close(held)


_LEAVES = """
import os, sys, time, tvm_mobilenet.boards.agent.services as services

def leave(request):  # as a daemon does: a session of its own, no parent, no descriptors
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        open(request["file"], "w").write(f"{os.getpid()}\\n")
        os.closerange(3, 100)
        time.sleep(600)
        os._exit(0)
    os.wait()
    return {}

services.SERVICES["leave"] = leave
from tvm_mobilenet.agent import main
main()
"""


@pytest.mark.parametrize("ends", ["session", "agent"])
def test_what_a_client_started_does_not_outlive_its_session(ends, tmp_path):
    file = tmp_path / "pid"
    with Agent(module=("-c", _LEAVES)) as running:
        with open_board(running.url, HOST) as board:
            board.service("leave", {"file": str(file)})
            wait_for(lambda: file.exists() and file.read_text().endswith("\n"), "nothing was left behind")
            left = int(file.read_text())
            assert runs(left)
            if ends == "agent":
                running.process.terminate()
                assert running.process.wait(120) == 0
        wait_for(lambda: not runs(left), "a client's daemon stays", 60)
        if ends == "session":
            wait_for(lambda: "left 1 process behind" in running.read_log(), "it is not told", 60)


# ---- signals


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_whatever_goes_on(number, library):
    """During a kernel that never returns, whose client takes no last words; its process and folder go too."""
    import numpy as np

    with Agent() as running:
        with open_board(running.url, HOST) as board:
            board.seconds = 600.0
            module = board.load(library)
            thread = threading.Thread(
                target=lambda: _ignored(module.call, "endless", [np.zeros(1, np.float32)]), daemon=True
            )
            thread.start()
            silent = [call(running.port) for _ in range(5)]
            wait_for(running.children, "no session")
            sessions = running.children()
            running.process.send_signal(number)
            assert running.process.wait(120) == 0
            wait_for(lambda: not any(map(runs, sessions)), "a session outlived its agent")
            assert not os.listdir(running.temporary)
        for connection in silent:
            connection.close()
        thread.join(120)


def _ignored(call, *args) -> None:
    with contextlib.suppress(Exception):
        call(*args)


@pytest.mark.full
def test_the_guard_ends_what_waits_in_the_system():
    """An agent that is stuck where no handler of Python's runs: looking up the name of a tracker, say."""
    code = (
        "import ctypes, tvm_mobilenet.boards.agent.registration as r\n"
        "class Stuck(r.Registration):\n"
        "    def step(self, ready, now): \n"
        "        print('stuck', flush=True)\n"
        "        while True: ctypes.CDLL(None).sleep(600) or ctypes.PyDLL(None).sleep(600)\n"
        "import tvm_mobilenet.boards.agent.server as s; s.Registration = Stuck\n"
        "from tvm_mobilenet.agent import main; main()"
    )
    with Agent("--tracker", f"127.0.0.1:{free_port()}", "--key", "k", module=("-c", code)) as running:
        assert running.process.stdout.readline() == "stuck\n"
        running.process.terminate()
        assert running.process.wait(120) == 0 and not os.listdir(running.temporary)
