"""A board behind ssh. The system's ``ssh`` opens a tunnel to the agent there; if none runs, one is started and ended
with the tunnel.

The tunnel leads only to an agent of this user: one that this module started with a new token, or one that runs already
and proves that it has the token in this user's home, on either machine (``boards.token``).

The board needs Python 3.11 or newer with ``venv``, and must be able to install TVM and numpy with pip; all else is
copied. Its ``~/.cache/tvm_mobilenet`` keeps one virtual environment for each version of this package.

One ``ssh`` carries all: the tunnel, and the standard streams of a small shell script on the board. When these close for
any reason, the script ends the agent that it started.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import socket
import subprocess
import threading
import time
from dataclasses import replace

from tvm_mobilenet.boards import token, wire
from tvm_mobilenet.boards.address import AGENT_PORT, Address
from tvm_mobilenet.boards.remote.wheel import build_wheel
from tvm_mobilenet.errors import BoardError, MissingDependencyError, TvmMobilenetError
from tvm_mobilenet.files import programs

START_SECONDS = 90.0
INSTALL_SECONDS = 1200.0
_LONGEST_LINE = 1000  # bytes of the agent's first line
_LOG_SECONDS = 2.0  # for the rest of ssh's messages at its end
PROOF_SECONDS = 20.0  # for a running agent to prove that it has the token
OPTIONS = (
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
    "-o", "ExitOnForwardFailure=yes",
)  # fmt: skip
_FOLDER = "${XDG_CACHE_HOME:-$HOME/.cache}/tvm_mobilenet"
# Prints LOOK, whether the environment of version $2 is there (READY, MISSING), whether a program listens on $1 (yes,
# no), and the token of this user there, or a dash.
_LOOK = f"""set -eu; venv="{_FOLDER}/$2"; state=MISSING; listens=no; token=-
file="${{TVM_MOBILENET_TOKEN:-${{XDG_CONFIG_HOME:-$HOME/.config}}/tvm_mobilenet/token}}"
if [ -e "$venv/complete" ]; then state=READY; fi
if python3 -c "import socket; socket.create_connection(('127.0.0.1', $1), 2)" 2>/dev/null; then listens=yes
  if [ -r "$file" ]; then token=$(head -c 64 "$file"); fi; fi
echo "LOOK $state $listens $token" """
# Takes the wheel, named $2 and $3 bytes long, from its input, and installs it in the environment $1.
_INSTALL = f"""set -eu; umask 077; folder="{_FOLDER}"; mkdir -p "$folder"
new=$(mktemp -d "$folder/.new-XXXXXX"); trap 'rm -rf "$new"' EXIT HUP INT TERM
cat > "$new/$2"; [ "$(wc -c < "$new/$2")" -eq "$3" ] || {{ echo "the connection broke while copying" >&2; exit 71; }}
rm -rf "$folder/$1"; python3 -m venv "$folder/$1"
"$folder/$1/bin/python" -m pip install -q --disable-pip-version-check "$new/$2" >&2; touch "$folder/$1/complete" """
# Starts an agent of the environment $1, with the token that is the first line of the input, and ends it with the input.
_START = f"""venv="{_FOLDER}/$1"; IFS= read -r token <&3
TVM_MOBILENET_GIVEN_TOKEN="$token" "$venv/bin/python" -m tvm_mobilenet.agent --port 0 </dev/null & agent=$!
trap 'kill $agent 2>/dev/null' EXIT HUP INT TERM
(while read -r line; do :; done; kill $agent 2>/dev/null) <&3 &
wait $agent"""
_HINTS = (
    (r"Permission denied|Host key verification", "ssh must log in without questions: try `ssh HOST true` first"),
    (r"Could not resolve|No route|refused|timed out", "is the board on, and the name and port right?"),
    (r"python3: (command )?not found", "install python3 and python3-venv on the board"),
    (r"ensurepip|python3-venv", "on the board: sudo apt install python3-venv"),
    (r"No space left", "free some space on the board: the environment takes 600 MB"),
    (r"No matching distribution|Could not find a version", "TVM has wheels for 64-bit Linux only, Python 3.11 to 3.13"),
)


class Tunnel:
    """A tunnel to the agent on a machine that ssh reaches; call its ``close``.

    Parameters
    ----------
    address : Address
        An address of kind ``ssh``.
    ssh : str, optional
        The command with options; by default the environment variable ``TVM_MOBILENET_SSH``, or ``ssh``.

    Attributes
    ----------
    address : Address
        The address of this end: ``rpc://127.0.0.1:port``.
    secret : bytes
        The token that the agent must prove to have.

    Raises
    ------
    BoardError
        ssh cannot connect, or no agent can be started.
    """

    def __init__(self, address: Address, ssh: str = ""):
        from tvm_mobilenet import __version__
        from tvm_mobilenet.terminal.console import say

        self._there, self._ssh = address, shlex.split(ssh or os.environ.get("TVM_MOBILENET_SSH", "ssh"))
        self._processes: list[subprocess.Popen] = []
        self.secret = b""
        try:
            wheel = build_wheel()
            version = f"{__version__}-{wheel[1]}"
            looked = self._run(_LOOK, str(AGENT_PORT), version, seconds=30)
            found = re.search(r"LOOK (READY|MISSING) (yes|no) ([0-9a-f]{64}|-)", looked)
            if not found:
                raise self._failed(f"it answers {looked[-200:]!r}", 0)
            state, listens, there = found.groups()
            local = self._running([there]) if listens == "yes" else 0
            if not local:
                if state != "READY":
                    say(f"{address.endpoint}: installing TVM and this package there, once; this takes some minutes")
                    name, _, data = wheel
                    self._run(_INSTALL, version, name, str(len(data)), data=data, seconds=INSTALL_SECONDS)
                self.secret = secrets.token_bytes(token.PROOF)
                local = self._forward(self._start(version))
        except BaseException:
            self.close()
            raise
        self.address = replace(address, kind="rpc", host="127.0.0.1", port=local, user="")

    # ---- steps

    def _running(self, there: list[str]) -> int:
        """The local port of a tunnel to the running agent, if it is this user's; else 0."""
        from tvm_mobilenet.terminal.console import say

        with contextlib.suppress(TvmMobilenetError):
            there.append(token.read().hex())
        local = self._forward(AGENT_PORT)
        for secret in (bytes.fromhex(text) for text in there if text.strip("-")):
            with contextlib.suppress(OSError, token.Unproven), socket.create_connection(("127.0.0.1", local), 5) as way:
                end = time.monotonic() + PROOF_SECONDS
                token.challenge(secret, way.sendall, lambda n, way=way, end=end: wire.receive(way, n, end))
                self.secret = secret
                return local
        say(
            f"{self._there.text}: the program on port {AGENT_PORT} does not have your token; "
            "an agent is started beside it"
        )
        return 0

    def _command(self, *options: str) -> list[str]:
        port = ("-p", str(self._there.port)) if self._there.port else ()
        host = f"{self._there.user}@{self._there.host}" if self._there.user else self._there.host
        return [*self._ssh, *OPTIONS, *port, *options, host]

    def _run(self, script: str, *arguments: str, data: bytes = b"", seconds: float) -> str:
        words = shlex.join(["sh", "-c", script, "tvm_mobilenet", *arguments])
        try:
            done = programs.run([*self._command(), words], data, seconds)
        except subprocess.TimeoutExpired:
            raise BoardError(f"{self._there.text}: no answer within {seconds:.0f} s", "is the board busy?") from None
        except FileNotFoundError:
            raise MissingDependencyError("ssh is not installed", "install openssh-client") from None
        except programs.TooMuch:
            raise BoardError(
                f"{self._there.text}: its output does not end", "does `ssh HOST true` print much?"
            ) from None
        if done.code:
            raise self._failed(done.words, done.code)
        return done.out

    def _start(self, version: str) -> int:
        """Start the agent; return its port on the board."""
        words = shlex.join(["sh", "-c", f"exec 3<&0; {_START}", "tvm_mobilenet", version])
        process = subprocess.Popen(
            [*self._command(), words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0,
        )  # fmt: skip
        log = programs.Drain(process.stderr)
        self._processes.append(process)
        with contextlib.suppress(OSError):
            process.stdin.write(self.secret.hex().encode() + b"\n")
            process.stdin.flush()
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        try:
            line = process.stdout.readline(_LONGEST_LINE).decode(errors="replace")
        finally:
            timer.cancel()
        programs.Drain(process.stdout, most=0)
        match = re.search(r"rpc://[^:]+:(\d+)", line)
        if not match:
            process.kill()
            code = process.wait()
            raise self._failed("the agent does not start: " + log.text(_LOG_SECONDS), code)
        return int(match[1])

    def _forward(self, port: int) -> int:
        """Open the tunnel; return the port on this machine."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            local = free.getsockname()[1]
        process = subprocess.Popen(
            self._command("-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0,
        )  # fmt: skip
        self._processes.append(process)
        log = programs.Drain(process.stderr)
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", local), 1):
                return local
            time.sleep(0.05)
        process.kill()
        code = process.wait()
        raise self._failed(log.text(_LOG_SECONDS), code)

    def _failed(self, text: str, code: int) -> BoardError:
        lines = [line for line in text.strip().splitlines() if line.strip()] or [f"exit code {code}"]
        hint = next((h for pattern, h in _HINTS if re.search(pattern, text)), "try `ssh HOST true` first")
        return BoardError(f"{self._there.text}: {' '.join(' '.join(lines[-4:]).split())[:600]}", hint)

    def close(self) -> None:
        """End the tunnel, and the agent if this tunnel started it."""
        for process in reversed(self._processes):
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # the script on the board notices and ends the agent
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait()
        self._processes = []
