"""Other users of this machine: an agent on loopback does not run their code, and who listens first is no board."""

import os
import socket
import struct
import subprocess
import sys

import pytest

from tests.support.agents import Agent, needs_root
from tests.support.hostile import Listener, answering, tracker
from tvm_mobilenet.boards import address, owner, token, wire
from tvm_mobilenet.boards.remote.session import Session
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

NOBODY = 65534
GREETING = struct.pack("<ii", wire.MAGIC, 7) + b"client:"
AS_NOBODY = (  # who may not read the libraries of this Python
    f"import encodings.idna, os, socket, struct, sys; os.setgid({NOBODY}); os.setuid({NOBODY}); "
)
CALL = (
    "import socket, struct, sys\n"
    "c = socket.create_connection((sys.argv[1], int(sys.argv[2]))); c.settimeout(60)\n"
    "c.sendall(bytes.fromhex(sys.argv[3]))\n"
    "if sys.argv[4:]: c.shutdown(socket.SHUT_WR)\n"
    "try: print(c.recv(4).hex())\n"
    "except OSError: print('-')"
)


@pytest.fixture(autouse=True)
def without_token(monkeypatch, tmp_path):
    monkeypatch.setenv(token.VARIABLE, str(tmp_path / "token"))


def pair(family=socket.AF_INET, host="127.0.0.1", listen="127.0.0.1"):
    """A listener, a connection to it, and the other end."""
    with socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::") as listener:
        there = socket.create_connection((host, listener.getsockname()[1]))
        here, _ = listener.accept()
        yield listener, there, here
        there.close()
        here.close()


@pytest.mark.parametrize(
    "listen,host", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.2"), ("::", "127.0.0.1"), ("::1", "::1")]
)
def test_both_ends_are_known(listen, host, monkeypatch):
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        socket.create_server((listen, 0), family=family).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    for _, there, here in pair(family, host, listen):
        assert owner.is_own_caller(here) and not owner.stranger(there)
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
        assert not owner.is_own_caller(here)
        assert bool(owner.stranger(there)) == (os.getuid() != 0)  # root is trusted to serve, and not to call
        monkeypatch.undo()


def test_what_has_no_process_any_more_is_nobodys():
    """The system says that a closed socket is root's: a greeting and a good-bye would be root's request."""
    for _, there, here in pair():
        there.shutdown(socket.SHUT_WR)
        assert not owner.is_own_caller(here)
        there.close()
        assert not owner.is_own_caller(here)


def test_a_system_that_does_not_tell_is_not_believed(monkeypatch):
    for tables in (("/no/such/table", "/no/such"), ("/dev/null", "/no/such")):
        for _, there, here in pair():
            monkeypatch.setattr(owner, "_TABLES", tables)
            assert not owner.is_own_caller(here) and "does not tell" in owner.stranger(there)
            monkeypatch.undo()


@needs_root
def test_an_agent_on_loopback_serves_its_own_user_alone():
    def said_to(port: int, user: str, *more: str, greeting: bytes = GREETING) -> str:
        words = [sys.executable, "-S", "-c", user + "\n" + CALL, "127.0.0.1", str(port), greeting.hex(), *more]
        return subprocess.run(words, capture_output=True, text=True, timeout=120).stdout.strip()

    served = struct.pack("<i", wire.MAGIC).hex()
    with Agent() as running:
        assert said_to(running.port, "") == served
        for more in ([], ["and leave"]):
            assert said_to(running.port, AS_NOBODY, *more) in (token.CHALLENGE.hex(), "-", "")
        assert said_to(running.port, AS_NOBODY, greeting=token.CHALLENGE + bytes(64) + GREETING) != served
    with Agent("--trust-network") as running:
        assert "WARNING" in running.read_log() and said_to(running.port, AS_NOBODY) == served


@needs_root
@pytest.mark.parametrize("accepts", [True, False], ids=["accepts", "lets wait"])
def test_who_listens_first_on_a_port_is_no_board(accepts):
    code = AS_NOBODY + (
        "l = socket.create_server(('127.0.0.1', 0)); print(l.getsockname()[1], flush=True)\n"
        f"heard = [l.accept()[0] for _ in range({int(accepts)})]\n"
        "for c in heard: c.settimeout(60); print(c.recv(100).hex() or 'nothing', flush=True)\n"
        "input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(other.stdout.readline())
        with pytest.raises(BoardError, match=rf"another user .*uid {NOBODY}.*no token"):
            Session("127.0.0.1", port)
        if accepts:
            assert other.stdout.readline() == "nothing\n"
        with pytest.raises(TvmMobilenetError, match="another user") as e:
            wire.Tracker("127.0.0.1", port)
        assert "--trust-network" in e.value.hint
    finally:
        other.kill()
        other.communicate()


def test_a_name_that_leads_elsewhere_the_second_time(monkeypatch):
    """A tracker's host is on this machine when it is looked at, and somewhere else when it is called."""
    monkeypatch.setattr(owner, "stranger", lambda connection: "it is not on loopback")
    with Listener(answering()) as board:
        assert not address.parse(f"rpc://127.0.0.1:{board.port}").demands_token
        with pytest.raises(BoardError, match=r"not on loopback.*no token"):
            Session("127.0.0.1", board.port)
        token.read_or_make()
        with pytest.raises(BoardError, match="not on loopback"):
            Session("127.0.0.1", board.port, wait=20.0)
    with Listener(tracker(lambda message, connection: b"0")) as there:
        with pytest.raises(TvmMobilenetError, match="not on loopback"):
            wire.Tracker("127.0.0.1", there.port)
        wire.Tracker("127.0.0.1", there.port, trusted=True).close()
