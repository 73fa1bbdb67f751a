"""Boards over RPC: what runs on this machine runs there too, and whatever goes wrong there ends in a clear message."""

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from agents import Agent, compile_kernels, free_port, runs, server_of_tvm

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


def works(url: str, library) -> None:
    """A session with a board from beginning to end."""
    with open_board(url, HOST) as board, board.load(library) as module:
        out = np.zeros(1, np.float32)
        run = module.call("fine", [out])
        assert out[0] == 42 and 0 < run.seconds.value < 1


def registered(agent, times: int) -> None:
    """Waits until an agent has told its trackers of itself so many times."""
    end = time.monotonic() + 30
    while agent.read_log().count("has this board") < times:
        assert time.monotonic() < end, agent.read_log()
        time.sleep(0.1)


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
                                  "rpc://pi@pi4", "ssh://-oProxyCommand=x", "rpc://a?b"])  # fmt: skip
def test_wrong_addresses_are_usage_errors(text):
    with pytest.raises(TvmMobilenetError) as e:
        address.parse(text)
    assert e.value.exit_code == 2 and e.value.hint


# ---- the agent


def test_a_public_address_needs_a_flag(capsys):
    for arguments in (["--host", "0.0.0.0"], ["--tracker", "shelf:90"], ["--tracker", "192.0.2.1:90", "--key", "a"]):
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


def test_a_plain_server_of_tvm_gets_what_needs_no_agent(library):
    with server_of_tvm("rpc_server") as port:
        works(f"rpc://127.0.0.1:{port}", library)
        with open_board(f"rpc://127.0.0.1:{port}", HOST) as board:
            assert not board.has_agent and board.state() == {}
            with fault("without this project's agent") as e:
                board.service("facts", {})
            assert "tvm_mobilenet.agent" in e.info.value.hint


# ---- faults: who is not there


def test_nothing_listens(capsys, tmp_path):
    with fault("nothing listens"):
        open_board(f"rpc://127.0.0.1:{free_port()}", HOST)
    with fault("no such host"):
        open_board("rpc://no-such-board.invalid", HOST)


@pytest.mark.parametrize("kind", ["rpc", "tracker"])
def test_an_http_server_answers(kind):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with fault("an HTTP server answers" if kind == "rpc" else "no TVM tracker"):
            open_board(f"{kind}://127.0.0.1:{server.server_port}" + ("/a" if kind == "tracker" else ""), HOST)
    finally:
        server.shutdown()
        server.server_close()


def test_wrong_key(library):
    with Agent("--key", "rpi4") as running:
        for url in (running.url.replace("rpi4", "rpi5"), running.url.removesuffix("/rpi4")):
            with fault("another key than|has a key"):
                open_board(url, HOST)
        works(running.url, library)
        assert running.is_clean()


def test_a_board_that_is_busy_is_waited_for(agent, library, monkeypatch, capsys):
    from tvm_mobilenet.boards.remote import wire

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
        module = board.load(library, seconds=1.0)
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


@pytest.mark.parametrize("when", ["uploading", "running", "between"])
def test_the_agent_is_killed(when, library, tmp_path):
    with Agent() as running:
        with open_board(running.url, HOST) as board:
            module = board.load(library)
            children = running.children()
            if when == "between":
                running.kill()
            else:
                threading.Timer(0.5, running.kill).start()
            with fault("connection was lost|no answer"):
                if when == "uploading":
                    big = tmp_path / "big"
                    big.write_bytes(os.urandom(1 << 20))
                    for n in range(10_000):
                        board.upload_bytes(big.read_bytes() + bytes([n % 256, n // 256]), "big")
                module.call("endless" if when == "running" else "fine", [np.zeros(1, np.float32)])
        time.sleep(0.3)
        assert not any(map(runs, children)), "a session's process outlived its agent"
        assert running.leftovers()
        running.start()  # and the next agent removes what the killed one left
        works(running.url, library)
        assert running.is_clean()


def test_the_client_is_killed(agent, library):
    code = (f"import numpy as np; from tvm_mobilenet import targets; from tvm_mobilenet.boards import open_board\n"
            f"m = open_board({agent.url!r}, targets.load('host')).load({str(library)!r}); print('ready', flush=True)\n"
            f"m.call('endless', [np.zeros(1, np.float32)])")
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert client.stdout.readline() == b"ready\n"
    client.kill()
    client.wait()
    assert agent.is_clean(), "a kernel of a client that left runs on"
    works(agent.url, library)


def test_out_of_memory(library):
    import tvm

    with Agent("--memory-limit", "6G") as running, open_board(running.url, HOST) as board:
        with fault("too little memory"):
            board.session.do("allocating", lambda: tvm.runtime.empty((8 << 30,), "uint8", board.session.rpc.cpu()))
        board.close()
        works(running.url, library)
        assert running.is_clean()


def test_disk_full(library, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems can be mounted by root only")
    try:
        with Agent(tmp=disk) as running, open_board(running.url, HOST) as board:
            with fault("No space left"):
                board.upload_bytes(bytes(3 << 20), "big.bin")
            assert not list(disk.rglob("*.bin")), "half a file is left"
            board.close()
            works(running.url, library)
            assert running.is_clean()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("package", ["apache-tvm", "apache-tvm-ffi"])
def test_other_versions(package, agent):
    code = ("from tvm_mobilenet import agent; from tvm_mobilenet.boards import services; real = services.versions\n"
            f"services.versions = lambda: {{**real(), {package!r}: '0.26.0'}}; agent.main()")
    with Agent(module=("-c", code)) as running:
        with fault(rf"has {package} 0\.26\.0, this machine 0\.") as e:
            open_board(running.url, HOST)
        assert f"pip install {package}==" in e.info.value.hint and running.is_clean()


def test_other_architecture(agent, library, tmp_path):
    with fault("is x86_64, target rpi4 is aarch64"):
        open_board(agent.url, targets.load("rpi4"))
    broken = tmp_path / "broken.so"
    broken.write_bytes(library.read_bytes()[:200])
    with open_board(agent.url, HOST) as board, fault("loading the module|cannot be loaded"):
        board.load(broken)
    assert agent.is_clean()


def test_fifty_sessions_leave_nothing(agent, library):
    works(agent.url, library)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    theirs = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    for _ in range(50):
        with open_board(agent.url, HOST):
            pass
    assert agent.is_clean()
    assert len(os.listdir("/proc/self/fd")) <= before[0] and threading.active_count() <= before[1]
    assert len(os.listdir(f"/proc/{agent.process.pid}/fd")) <= theirs


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


RESIZED = """
import os, signal, sys, threading, time
import numpy as np
from tvm_mobilenet import targets
from tvm_mobilenet.boards import open_board
seen = []
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGWINCH, lambda *_: seen.append(1))
def resize():
    while True:
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGWINCH)
with open_board(sys.argv[1], targets.load("host")) as board, board.load(sys.argv[2]) as module:
    threading.Thread(target=resize, daemon=True).start()
    out = np.zeros(1, np.float32)
    module.call("nap", [out])
    assert out[0] == 42 and len(seen) > 20, seen
print("done")
"""


def test_resizing_the_terminal_during_a_run(agent, library):
    command = [sys.executable, "-c", RESIZED, agent.url, library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
    assert agent.is_clean()


def test_interrupted_during_a_run(agent, library):
    code = RESIZED.replace("SIGWINCH, lambda", "SIGUSR1, lambda").replace("signal.SIGWINCH)", "signal.SIGINT)").replace(
        '"nap"', '"endless"')
    done = subprocess.run([sys.executable, "-c", code, agent.url, library], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr, done.stderr
    assert agent.is_clean()


# ---- trackers


def test_a_tracker_that_restarts(library):
    port = free_port()
    url = f"tracker://127.0.0.1:{port}/rpi4"
    with contextlib.ExitStack() as stack:
        with server_of_tvm("rpc_tracker", port=port):
            running = stack.enter_context(Agent("--tracker", f"127.0.0.1:{port}", "--key", "rpi4"))
            registered(running, 1)
            works(url, library)
            with fault(r"no board with key 'rpi5'; it has: rpi4 \(1\)"):
                open_board(url.replace("rpi4", "rpi5"), HOST)
        with fault("nothing listens"):
            open_board(url, HOST)
        with server_of_tvm("rpc_tracker", port=port):
            registered(running, 2)
            works(url, library)
        assert "trying again" in running.read_log()


# ---- verbs


def test_verbs_end_with_code_4_before_anything_slow(tmp_path, capsys):
    from tvm_mobilenet import tune

    url = f"rpc://127.0.0.1:{free_port()}"
    started = time.monotonic()
    assert tune.main(["--board", url, "--log", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "o")]) == 4
    assert "nothing listens" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert tune.main(["--board", "tracker://shelf", "--dry-run"]) == 2
    assert time.monotonic() - started < 60
    assert verify.main([str(tmp_path), "--board", url]) == 2, "no module there"


def test_the_agent_ends_in_order(library):
    with Agent() as running, open_board(running.url, HOST) as board:
        running.process.send_signal(signal.SIGTERM)
        with fault("the agent was ended|connection was lost"):
            for _ in range(100):
                board.service("ping", {})
                time.sleep(0.05)
        assert running.process.wait(10) == 0
        assert not os.listdir(running.temporary), "its folder is left"
