"""What a program prints is bounded: a board behind ssh may print without end."""

import shlex
import subprocess
import sys
import threading

import pytest

from tests.support.memory import peak_below
from tvm_mobilenet.boards import address
from tvm_mobilenet.boards.remote.ssh import Tunnel
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import programs
from tvm_mobilenet.ship import Destination


def test_a_program_is_run_to_its_end_with_its_input_and_both_outputs():
    data = bytes(range(256)) * 3000  # more than pipes hold, in both directions at once
    code = "import sys; d = sys.stdin.buffer.read(); sys.stderr.write('w' * 200_000); print(len(d)); sys.exit(3)"
    done = programs.run([sys.executable, "-S", "-c", code], data)
    assert (done.code, done.out, len(done.words)) == (3, f"{len(data)}\n", 200_000)
    assert programs.run(["sh", "-c", "exit 0"], data).code == 0, "a program that reads nothing is not an error"
    with pytest.raises(subprocess.TimeoutExpired):
        programs.run(["sleep", "60"], seconds=0.1)
    with pytest.raises(FileNotFoundError):
        programs.run(["/no/such/program"])


@pytest.mark.parametrize("stream", ["1", "2"])
def test_what_prints_without_end_is_ended(stream):
    before = set(threading.enumerate())
    with peak_below(100 << 20), pytest.raises(programs.TooMuch):
        programs.run(["sh", "-c", f"exec cat /dev/zero >&{stream}"], seconds=60)
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(0.5)
    assert sum(thread.is_alive() for thread in started) <= 1


@pytest.mark.parametrize("printed", ["cat /dev/zero >&2", "yes LOOK READY no -"])
def test_a_board_behind_ssh_that_prints_without_end(tmp_path, printed):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec {printed}\n")
    ssh.chmod(0o755)
    with peak_below(150 << 20):
        with pytest.raises(BoardError, match="does not end"):
            Tunnel(address.parse("ssh://pi@board"), shlex.quote(str(ssh)))
        with pytest.raises(BoardError, match="does not end"):
            Destination.parse("ssh://pi@board/srv", str(ssh)).run("true")
