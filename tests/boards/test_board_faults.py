"""What a user sees when something goes wrong with a board: each fault through a verb, in a process of its own.

Each ends with a message, a remedy and exit code 4; the client leaves no file, the agent no process and no file, and it
serves the next client.
"""

import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import test_remote

from tests.support import modules
from tests.support.agents import KERNELS, Agent, compile_kernels, free_port, needs_root, runs, server_of_tvm, wait_for
from tests.support.sealing import seal
from tvm_mobilenet.compiler import codegen, library, tables
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network


@pytest.fixture(scope="module")
def agent():
    with Agent() as running:
        yield running


def patched(code: str) -> tuple[str, str]:
    """How to start an agent after some code has run."""
    return "-c", f"from tvm_mobilenet import agent\n{code}\nagent.main()"


class Client:
    """A verb in a process of its own, which has a temporary folder of its own; ``before`` is code that runs first."""

    def __init__(self, folder: Path, verb: str, *arguments, before: str = "", stderr=subprocess.PIPE):
        self._temporary = folder / "temporary"
        self._temporary.mkdir(exist_ok=True)
        code = f"{before}\nimport sys\nfrom tvm_mobilenet import {verb}\nstatus = {verb}.main()\n"
        if verb in ("bench", "profile"):
            code += "assert 'torch' not in sys.modules, 'whose import takes longest'\n"
        code += "sys.exit(status)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "TMPDIR": str(self._temporary)},
        )

    def until(self, words: str) -> None:
        """Wait for a line on stderr."""
        lines = []
        while words not in "".join(lines[-1:]):
            lines.append(self.process.stderr.readline())
            assert lines[-1], lines

    def ends(self, words: str, remedy: str) -> None:
        """It says these words, and what to do; its exit code is 4."""
        out, err = self.process.communicate(timeout=1200)
        assert self.process.returncode == 4, err
        found = re.search(rf"error: .*(?:{words}).*\n  (.*)", err)
        assert found and re.search(remedy, found[1]), err
        assert not out and "Traceback" not in err
        ours = [p for p in self._temporary.iterdir() if not p.name.startswith("torchinductor_")]  # that is PyTorch's
        assert not ours, "the client left files behind"


def bench(tmp_path, url: str, *arguments, **options) -> Client:
    return Client(tmp_path, "bench", modules.tiny(), "--board", url, "--seconds", "0.1", *arguments, **options)


def works(tmp_path, agent) -> None:
    """The agent has nothing left of the session before, and serves the next."""
    assert agent.is_clean()
    test_remote.works(agent.url, compile_kernels(tmp_path))
    assert agent.is_clean()


# ---- who is not there


@pytest.mark.parametrize(
    "verb", [*(pytest.param(v, marks=pytest.mark.full) for v in ("bench", "profile", "verify")), "tune"]
)
def test_nothing_listens(verb, tmp_path):
    what = ["--output", tmp_path / "o", "--log", tmp_path / "log"] if verb == "tune" else [modules.tiny()]
    client = Client(tmp_path, verb, *what, "--board", f"rpc://127.0.0.1:{free_port()}")
    client.ends("nothing listens there", "start one there: python -m tvm_mobilenet.agent")
    assert not (tmp_path / "o").exists() and not (tmp_path / "log").exists()


@pytest.mark.full
@pytest.mark.parametrize("kind", ["rpc", "tracker"])
def test_an_http_server_answers(kind, tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"{kind}://127.0.0.1:{server.server_port}" + ("/rpi4" if kind == "tracker" else "")
        bench(tmp_path, url).ends("an HTTP server answers there", "is this the right port")
        server.shutdown()


@pytest.mark.full
def test_wrong_key(tmp_path):
    with Agent("--key", "rpi4") as running:
        bench(tmp_path, running.url.replace("rpi4", "rpi5")).ends("another key than 'rpi5'", "rpc://.*/KEY")
        bench(tmp_path, running.url.removesuffix("/rpi4")).ends("the server there has a key", "rpc://.*/KEY")
        works(tmp_path, running)


@pytest.mark.full
def test_a_tracker_that_restarts(tmp_path):
    port = free_port()
    url = f"tracker://127.0.0.1:{port}/rpi4"
    with contextlib.ExitStack() as stack:
        with server_of_tvm("rpc_tracker", port=port):
            running = stack.enter_context(Agent("--tracker", f"127.0.0.1:{port}", "--key", "rpi4"))
            wait_for(lambda: running.read_log().count("has this board") == 1, running.read_log())
            bench(tmp_path, url.replace("rpi4", "rpi5")).ends("no board with key 'rpi5'; it has: rpi4", "--key rpi5")
        bench(tmp_path, url).ends("nothing listens there", "start one")
        with server_of_tvm("rpc_tracker", port=port):
            wait_for(lambda: running.read_log().count("has this board") == 2, running.read_log())
            assert bench(tmp_path, url).process.wait(1200) == 0
        assert running.is_clean()


# ---- the agent is killed


AT_UPLOAD = """
import os, signal, time
from tvm_mobilenet.boards.agent import session as agent_session
real = agent_session.register
def register(folder):
    import tvm_ffi
    real(folder)
    def upload(name, data):
        os.kill({whom}, signal.{what})
        time.sleep(60)
    tvm_ffi.register_global_func("tvm.rpc.server.upload", upload, override=True)
agent_session.register = register
"""


def killed(running, tmp_path, client, words: str) -> None:
    """The message; nothing of the agent runs on, and the next one clears its folder."""
    client.ends(f"the connection was lost while {words}", "does the server there still run")
    wait_for(lambda: running.process.poll() is not None, "the agent lives")
    assert running.leftovers(), "what a killed agent cannot remove itself"
    running._command[running._command.index("-c") + 1] = "from tvm_mobilenet import agent; agent.main()"
    running.start()
    works(tmp_path, running)


@pytest.mark.full
def test_the_agent_is_killed_during_an_upload(tmp_path):
    with Agent(module=patched(AT_UPLOAD.format(whom="os.getppid()", what="SIGKILL"))) as running:
        killed(running, tmp_path, bench(tmp_path, running.url), r"uploading libmobilenet\.so \([\d,]+ bytes\)")


@pytest.mark.full
def test_the_agent_is_killed_during_a_run(tmp_path):
    with Agent(module=patched("")) as running:
        client = bench(tmp_path, running.url, "--seconds", "600")
        wait_for(running.measuring, "nothing measures")
        processes = [*running.children(), *running.measuring()]
        running.kill()
        wait_for(lambda: not any(map(runs, processes)), "what the agent started outlived it")
        killed(running, tmp_path, client, "asking for measure")


@pytest.mark.full
def test_the_agent_is_killed_between_two_runs(tmp_path):
    with Agent(module=patched("")) as running:
        client = bench(tmp_path, running.url, "--no-layers", "--threads", "1,2", "--cool-down", "8")
        wait_for(running.measuring, "nothing measures")
        wait_for(lambda: not running.measuring(), "the first row goes on")
        running.kill()
        killed(running, tmp_path, client, "asking for (?:state|measure)")  # the last answer may be on its way


# ---- kernels that go wild


def wild(folder: Path, body: str) -> Path:
    """The tiny module with another body for its kernels; its hashes are right, as if it had been built so."""
    shutil.copytree(modules.tiny(), folder)
    module = built.read(folder)
    symbols = {step.symbol for step in module.plan.steps}
    (folder / "wild.c").write_text(KERNELS + "".join(f"KERNEL({symbol}) {{ {body} }}\n" for symbol in sorted(symbols)))
    subprocess.run(["gcc", "-c", "-fPIC", "-O1", "-o", folder / built.OBJECT, folder / "wild.c"], check=True)
    codegen.link(
        [str(folder / built.OBJECT)], module.target, folder / built.KERNELS, kernels=symbols, build=module.build
    )
    about = tables.about_of(load_network(modules.tiny_options()), module.target, module.plan, "")
    library.link_library(folder, module.target, None, module.plan, about, dict.fromkeys(symbols, 0), module.build)
    seal(folder)
    return folder


@pytest.mark.full
def test_a_kernel_that_never_returns(agent, tmp_path):
    short = "from tvm_mobilenet.boards.remote import board; board.RemoteBoard.seconds = 2.0"
    folder = wild(tmp_path / "wild", "for (volatile int i = 0;; i++) {}")
    client = Client(tmp_path, "verify", folder, "--board", agent.url, "--inputs", "1", before=short)
    client.ends(r"no answer for 20 s; it was ended: while running kernel \w+", ".")
    works(tmp_path, agent)


@pytest.mark.full
def test_a_kernel_that_crashes(agent, tmp_path):
    folder = wild(tmp_path / "wild", "*(volatile int*)0 = 1; return 0;")
    client = Client(tmp_path, "verify", folder, "--board", agent.url, "--inputs", "1")
    client.ends(r"its process ended by signal SIGSEGV: while running kernel \w+", "verify checks the module")
    works(tmp_path, agent)


# ---- a board without room


@pytest.mark.full
def test_the_system_kills_a_session_that_takes_too_much_memory(agent, tmp_path):
    """As Linux does it: with SIGKILL, and the session first (a higher oom_score_adj than the agent's)."""
    client = bench(tmp_path, agent.url, "--seconds", "600")
    wait_for(agent.measuring, "nothing measures")
    (session,), measuring = agent.children(), agent.measuring()
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (session, agent.process.pid)]
    assert scores[0] > scores[1]
    os.kill(session, signal.SIGKILL)
    client.ends("most likely the board ran out of memory while asking for measure", "a smaller network")
    wait_for(lambda: not any(map(runs, measuring)), "what the session started outlived it")
    works(tmp_path, agent)


@pytest.mark.full
def test_out_of_memory(tmp_path):
    with Agent() as measured:
        size = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{measured.process.pid}/status").read_text())
    with Agent("--memory-limit", f"{int(size[1]) + 64 * 1024}K") as running:  # the session needs threads, too
        client = Client(
            tmp_path, "verify", modules.tiny(width=1 << 17, executable=False), "--board", running.url, "--inputs", "1"
        )
        client.ends(r"the board ran out of memory while uploading parameters\.bin", "a smaller network")
        assert running.is_clean()


@pytest.mark.full
@needs_root
def test_disk_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], check=True)
    try:
        with Agent(tmp=disk) as running:
            bench(tmp_path, running.url).ends(r"the board cannot store [\d,]+ bytes in .*No space left", ".")
            assert running.is_clean() and not list(disk.rglob("*.so")), "half a file is left"
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            works(tmp_path, running)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# ---- another board than it should be


@pytest.mark.full
@pytest.mark.parametrize("package", [pytest.param("apache-tvm", marks=pytest.mark.full), "apache-tvm-ffi"])
def test_other_versions(package, tmp_path):
    code = (
        "from tvm_mobilenet.boards.agent import facts; real = facts.versions\n"
        f"facts.versions = lambda: {{**real(), {package!r}: '0.26.0'}}"
    )
    with Agent(module=patched(code)) as running:
        client = bench(tmp_path, running.url)
        client.ends(rf"has {package} 0\.26\.0, this machine 0\.", f"pip install {package}==")
        assert running.is_clean()


@pytest.mark.full
def test_other_architecture(agent, tmp_path):
    client = Client(tmp_path, "bench", modules.tiny("rpi4"), "--board", agent.url)
    client.ends("is x86_64, target rpi4 is aarch64", "build with the --target of this board")
    works(tmp_path, agent)


# ---- the terminal


@pytest.mark.full  # while `tune` runs: tests/cli/test_terminal.py
def test_a_terminal_that_is_resized_during_a_run(agent, tmp_path):
    """On a real pseudo terminal, whose size changes thirty times a second."""
    ours, theirs = pty.openpty()
    drain = threading.Thread(target=lambda: [None for _ in iter(lambda: _read(ours), b"")], daemon=True)
    drain.start()
    client = Client(
        tmp_path,
        "bench",
        modules.tiny(),
        "--board",
        agent.url,
        "--seconds",
        "0.3",
        "--json",
        stderr=theirs,
        before="import os; os.setsid(); import fcntl, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0)",
    )
    sizes = 0
    while client.process.poll() is None:
        sizes += 1
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 20 + sizes % 50, 80, 0, 0))
        time.sleep(0.03)
    os.close(theirs)
    assert client.process.returncode == 0 and json.loads(client.process.stdout.read())["rows"] and sizes > 20
    os.close(ours)
    assert agent.is_clean()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
