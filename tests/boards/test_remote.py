"""Boards over RPC: what runs on this machine runs there too, and whatever goes wrong there ends in a clear message."""

import gc
import glob
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.agents import Agent, compile_kernels, free_port
from tvm_mobilenet import agent as agent_verb
from tvm_mobilenet import targets, verify
from tvm_mobilenet.boards import address, open_board
from tvm_mobilenet.boards.remote.session import Lost
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

HOST = targets.load("host")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def agent():
    with Agent() as running:
        yield running


def own_children() -> list[str]:
    """Processes that this one started and did not wait for."""
    return [pid for path in glob.glob("/proc/self/task/*/children") for pid in Path(path).read_text().split()]


def works(url: str, library) -> None:
    """A session with a board from beginning to end."""
    with open_board(url, HOST) as board, board.load(library) as module:
        out = np.zeros(1, np.float32)
        run = module.call("fine", [out])
        assert out[0] == 42 and run.seconds.value > 0


def fault(message: str):
    """An error of exit code 4 with these words and a hint."""

    class Fault:
        def __enter__(self):
            self._raises = pytest.raises(BoardError, match=message)
            self.info = self._raises.__enter__()
            return self

        def __exit__(self, *exception):
            result = self._raises.__exit__(*exception)
            assert self.info.value.exit_code == 4 and self.info.value.hint
            return result

    return Fault()


# ---- addresses


@pytest.mark.parametrize("text,kind,host,port,key,user", [
    ("rpc://pi4", "rpc", "pi4", 9090, "", ""), ("rpc://[::1]:91/rpi4", "rpc", "::1", 91, "rpi4", ""),
    ("tracker://shelf:9190/rpi4", "tracker", "shelf", 9190, "rpi4", ""), ("ssh://pi@pi4", "ssh", "pi4", 0, "", "pi"),
])  # fmt: skip
def test_addresses(text, kind, host, port, key, user):
    found = address.parse(text)
    assert (found.kind, found.host, found.port, found.key, found.user) == (kind, host, port, key, user)


@pytest.mark.parametrize("text", ["rpc://", "tracker://shelf:9190", "rpc://pi:0", "rpc://pi:99999", "ssh://pi/folder",
                                  "rpc://pi@pi4", "ssh://-oProxyCommand=x", "rpc://a?b", "ssh://a?trust-network",
                                  "rpc://a?trust-network&b"])  # fmt: skip
def test_wrong_addresses_are_usage_errors(text):
    with pytest.raises(TvmMobilenetError) as e:
        address.parse(text)
    assert e.value.exit_code == 2 and e.value.hint


@pytest.mark.parametrize("text,demands", [
    ("rpc://192.0.2.1", True), ("rpc://127.0.0.1", False), ("rpc://127.9.9.9:91", False), ("rpc://[::1]", False),
    ("rpc://localhost", False), ("rpc://192.0.2.1?trust-network", False), ("rpc://[2001:db8::1]", True),
    ("rpc://0.0.0.0", True), ("rpc://no-such-board.invalid", True),
])  # fmt: skip
def test_who_must_show_the_token(text, demands):
    assert address.parse(text).demands_token == demands
    if demands:
        trusting = address.parse(text).trusting()
        assert not trusting.demands_token and address.parse(trusting.text) == trusting


# ---- the agent


def test_a_tracker_needs_a_key_and_an_address_that_its_clients_reach(capsys):
    for arguments in (["--tracker", "shelf:90"], ["--tracker", "192.0.2.1:90", "--key", "a"]):
        assert agent_verb.main(arguments) == 2
    said = capsys.readouterr().err
    assert "--trust-network" in said and "any code" in said


def test_the_agent_needs_the_base_installation_only():
    absent = ["torch", "optuna", "unicorn", "capstone", "onnx", "ziglang", "tornado", "psutil", "cloudpickle", "PIL"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from tvm_mobilenet.agent import main; main()"
    with Agent(module=("-c", code)) as running, open_board(running.url, HOST) as board:
        assert board.facts["services"]


def test_services_answer_over_rpc_as_they_do_here(agent):
    with open_board(agent.url, HOST) as board, open_board("local", HOST) as here:
        assert board.service("ping", {})["versions"] == here.service("ping", {})["versions"]
        assert board.service("threads", {"threads": 1})["threads"] == 1
        with fault("no service 'nothing'"):
            board.service("nothing", {})
        with fault("CPUs .4000. cannot be used"):
            board.service("threads", {"cpus": [4000]})
        assert board.service("ping", {})["pid"] in agent.children(), "a session is a process of its own"
    assert agent.is_clean()


def test_memory_kernels_and_files(agent, library, tmp_path):
    with open_board(agent.url, HOST) as board:
        (tmp_path / "a.txt").write_bytes(b"hello")
        there = board.upload(tmp_path / "a.txt")
        assert Path(there).read_bytes() == b"hello" and there.startswith(str(agent.temporary))
        assert board.upload(tmp_path / "a.txt") == there
        with board.load(library) as module:
            at = module.alloc(256)
            module.write(at + 64, np.arange(8, dtype=np.float32))
            run = module.call_at("fine", [(at + 64, (8,), "float32")])
            assert module.read(at + 64, (8,), "float32").tolist() == [42, 1, 2, 3, 4, 5, 6, 7]
            module.write(at + 68, np.full(2, 9, np.float32))  # into the middle of what is on the board
            module.call_at("fine", [(at + 64, (8,), "float32")])
            assert module.read(at + 64, (4,), "float32").tolist() == [42, 9, 9, 3] and run.seconds.value > 0
            with fault("no kernel 'nothing'"):
                module.call("nothing", [np.zeros(1)])
            with fault("were not allocated"):
                module.read(at + 200, (32,), "float32")
    assert agent.is_clean()


# ---- faults: who is not there


def test_no_such_host():
    with fault("no such host"):
        open_board("rpc://no-such-board.invalid", HOST)


def test_a_board_that_is_busy_is_waited_for(agent, library, monkeypatch, capsys):
    from tvm_mobilenet.boards import wire

    monkeypatch.setattr(wire, "SILENCE_SECONDS", 0.5)
    with open_board(agent.url, HOST) as first:
        with fault("busy with another"):
            from tvm_mobilenet.boards.remote.board import RemoteBoard

            RemoteBoard(address.parse(agent.url), HOST, wait=1.0)
        threading.Timer(2.0, first.close).start()
        works(agent.url, library)
    assert "is busy" in capsys.readouterr().err and agent.is_clean()


# ---- faults: sessions that end


def test_a_kernel_that_never_returns(agent, library):
    with open_board(agent.url, HOST) as board:
        board.seconds = 1.0
        module = board.load(library)
        with fault("no answer within 1 s while running kernel endless"):
            module.call("endless", [np.zeros(1, np.float32)])
        with fault("no answer within"):
            module.call("fine", [np.zeros(1, np.float32)])
    assert agent.is_clean()
    works(agent.url, library)


def test_a_kernel_that_crashes(agent, library):
    with open_board(agent.url, HOST) as board:
        module = board.load(library)
        with fault(r"crashed its process \(SIGSEGV\) while running kernel crash") as e:
            module.call("crash", [np.zeros(1, np.float32)])
        assert isinstance(e.info.value, Lost) and e.info.value.crashed
    assert agent.is_clean()
    works(agent.url, library)


def test_a_session_gives_its_place_back(agent, library):
    """TVM has 32 places for a process. Neither errors nor closed boards and modules keep one, without the collector."""
    kept, places = [], []
    gc.collect()
    gc.disable()
    try:
        for symbol in ("fine", "missing", "crash", "fine"):
            board = open_board(agent.url, HOST)
            places.append(board.session.rpc._tbl_index)
            module = board.load(library)
            module.write(module.alloc(4), np.zeros(1, np.float32))
            for call in (lambda m=module, s=symbol: m.call(s, [np.zeros(1, np.float32)]),
                         lambda b=board: b.service("nothing", {})):  # fmt: skip
                try:
                    call()
                except BoardError as e:
                    kept.append(e)
            board.close()
            kept += [board, module]
    finally:
        gc.enable()
    assert len(set(places)) == 1 and len(kept) == 4 * 3 + 2, places
    with pytest.raises(Lost):
        kept[-1].call("fine", [np.zeros(1, np.float32)])


def test_all_places_of_a_process_are_taken(agent):
    from tvm import rpc

    taken = []
    with pytest.raises(Exception, match="maximum number of RPC session"):
        while True:
            taken.append(rpc.LocalSession())
    with fault("as many sessions with boards open as TVM allows"):
        open_board(agent.url, HOST)
    del taken
    gc.collect()
    with open_board(agent.url, HOST) as board:
        assert board.has_agent
    assert agent.is_clean()


def test_the_client_is_killed(agent, library):
    code = (
        f"import numpy as np; from tvm_mobilenet import targets; from tvm_mobilenet.boards import open_board\n"
        f"m = open_board({agent.url!r}, targets.load('host')).load({str(library)!r}); print('ready', flush=True)\n"
        f"m.call('endless', [np.zeros(1, np.float32)])"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"ready\n"
    client.kill()
    client.wait()
    assert agent.is_clean(), "a kernel of a client that left runs on"
    works(agent.url, library)


def test_out_of_memory(library):
    import tvm

    with Agent("--memory-limit", "6G") as running, open_board(running.url, HOST) as board:
        with fault("ran out of memory while allocating"):
            board.session.do("allocating", lambda: tvm.runtime.empty((8 << 30,), "uint8", board.session.rpc.cpu()))
        with fault("ran out of memory while copying"):  # a MemoryError of Python's has no words
            board.session.do("copying", _raise, tvm.error.RPCError("RPCError: Error caught from RPC call:\n"))
        board.close()
        works(running.url, library)
        assert running.is_clean()


def _raise(error):
    raise error


def test_half_a_library(agent, library, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(library.read_bytes()[:200])
    with open_board(agent.url, HOST) as board, fault("loading the module|cannot be loaded"):
        board.load(broken)
    assert agent.is_clean()


@pytest.mark.full
def test_fifty_sessions_leave_nothing(agent, library):
    works(agent.url, library)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    children = len(own_children())
    theirs = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    for _ in range(50):
        with open_board(agent.url, HOST):
            pass
    assert agent.is_clean()
    # What was still closing before may be gone: fewer is no leak, and one a session would be fifty more.
    assert len(os.listdir("/proc/self/fd")) <= before[0] and threading.active_count() <= before[1]
    assert len(os.listdir(f"/proc/{agent.process.pid}/fd")) <= theirs
    assert len(own_children()) <= children + 1, "processes between TVM's client and the board are left"


@pytest.mark.full
def test_a_thousand_measurements(agent, library):
    with open_board(agent.url, HOST) as board, board.load(library) as module:
        out = np.zeros(1, np.float32)
        evaluate = module._module.time_evaluator("fine", board.session.rpc.cpu(), number=3, repeat=2)
        for n in range(1000):
            out[0] = n
            tensor = module._sent(out)
            seconds = board.session.do("measuring", lambda t=tensor: evaluate(t).results)
            assert len(seconds) == 2 and min(seconds) > 0
            assert board.session.do("downloading", tensor.numpy)[0] == 42
    assert agent.is_clean()


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
from tvm_mobilenet import targets
from tvm_mobilenet.boards import open_board
signal.signal(signal.SIGINT, signal.default_int_handler)
with open_board(sys.argv[1], targets.load("host")) as board, board.load(sys.argv[2]) as module:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    module.call("endless", [np.zeros(1, np.float32)])
"""


def test_interrupted_during_a_run(agent, library):
    command = [sys.executable, "-c", INTERRUPTED, agent.url, library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr, done.stderr
    assert agent.is_clean()


# ---- verbs


def test_verbs_end_with_code_4_before_anything_slow(tmp_path, capsys, monkeypatch):
    from tvm_mobilenet import tune
    from tvm_mobilenet.compiler import network

    url = f"rpc://127.0.0.1:{free_port()}"
    monkeypatch.setattr(network, "load_network", lambda options: pytest.fail("a network is loaded first"))
    assert tune.main(["--board", url, "--log", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "o")]) == 4
    assert "nothing listens" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert tune.main(["--board", "tracker://shelf", "--dry-run"]) == 2
    assert verify.main([str(tmp_path), "--board", url]) == 2, "no module there"


def test_the_agent_ends_in_order(library):
    with Agent() as running, open_board(running.url, HOST) as board:
        running.process.send_signal(signal.SIGTERM)
        with fault("the agent was ended|connection was lost"):
            for _ in range(1200):
                board.service("ping", {})
                time.sleep(0.05)
        assert running.process.wait(120) == 0
        assert not os.listdir(running.temporary), "its folder is left"
