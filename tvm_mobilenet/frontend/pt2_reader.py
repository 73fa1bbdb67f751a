"""Saved programs, read in a confined process (`pt2_child`), whose answers are checked too.

The process lives as long as this one. It imports torch once, and forks for each file.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import json_text

_SECONDS = 1200  # wall time for one file
_STARTING = 300
_MOST_ANSWER = 16 << 20  # bytes of JSON of the answer: 800 for each operator
_BYTES_BESIDE = 256 << 20  # for tensors, in addition to four times the file's size
_PASSED_ON = (
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "TZ",
)  # environment variables to keep: no secrets, no paths to code
_WHOLE_ROOM = 16  # bytes of the integers in a network over those of its float32 inputs
_BROKEN = "the file may be damaged or hostile; export it again, or export the model to ONNX"


class _Process:
    """The forking process, and the socket to it."""

    def __init__(self):
        self.owner = os.getpid()
        self.socket, other = socket.socketpair()
        path = [str(Path(p).resolve()) for p in sys.path if p and Path(p).is_dir()]
        path = list(dict.fromkeys([*path, str(Path(__file__).parents[2])]))
        code = f"import sys; sys.path[:] = {path!r}; from tvm_mobilenet.frontend import pt2_child; pt2_child.main({{}})"
        environment = {k: v for k, v in os.environ.items() if k in _PASSED_ON}
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", code.format(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={
                    **environment,
                    **threads,
                    "HOME": "/nonexistent",
                    "PATH": os.defpath,
                    **packages.without_torch_folder(),
                },
                start_new_session=True,
            )
        self.ready = False

    def wait_until_ready(self) -> bool:
        if not self.ready:
            self.socket.settimeout(_STARTING)
            try:
                self.ready = self.socket.recv(5) == b"ready"
            except OSError:
                self.ready = False
        return self.ready

    def usable(self) -> bool:
        return self.owner == os.getpid() and self.process.poll() is None

    def stop(self) -> None:
        self.socket.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_lock, _running = threading.Lock(), []


def start() -> None:
    """Start the process, so that it imports torch in parallel with this one."""
    with _lock:
        _process()


def _process() -> _Process:
    if _running and not _running[0].usable():
        _running.pop().stop()
    if not _running:
        _running.append(_Process())
    return _running[0]


@atexit.register
def stop() -> None:
    """End the process."""
    while _running:
        _running.pop().stop()


def graph(path: Path, batch: int | None, size: tuple[int, int] | None, layout: str) -> tuple[dict, dict]:
    """A saved program as `torch_export.described` gives it: data, and tensors by name.

    Raises
    ------
    TvmMobilenetError
        The file is not a program, or requires more than a program may; or the reader was killed.
    """
    return _ask(path, {"ask": "graph", "batch": batch, "size": size, "layout": layout})


def run(path: Path, inputs: list[tuple[np.ndarray, ...]]) -> tuple[dict, dict]:
    """The outputs of a saved program, as `torch_run.answered` gives them."""
    return _asked(path, "run", inputs, 1)


def whole_numbers(path: Path, inputs: list[tuple[np.ndarray, ...]]) -> list[dict[str, np.ndarray]]:
    """For each of the inputs, the data of each dequantize of an activation in a saved program, by its name."""
    _, tensors = _asked(path, "whole", inputs, _WHOLE_ROOM)
    found: list[dict[str, np.ndarray]] = [{} for _ in inputs]
    for key, tensor in tensors.items():
        place, _, name = key.partition(".")
        if not place.isdigit() or int(place) >= len(found) or str(tensor.dtype) not in ("torch.int8", "torch.uint8"):
            raise TvmMobilenetError(f"{path} cannot be verified: the process that ran it gave no integers", _BROKEN)
        found[int(place)][name] = tensor.numpy()
    return found


def _asked(path: Path, what: str, inputs: list, times: int) -> tuple[dict, dict]:
    """The answer to a request with inputs; it may be so many times their size."""
    from safetensors.numpy import save

    from tvm_mobilenet.frontend.torch_run import named

    with tempfile.TemporaryFile() as file:
        file.write(save(named("inputs", inputs)))
        file.seek(0)
        room = times * sum(a.nbytes for x in inputs for a in x)
        return _ask(path, {"ask": what}, file.fileno(), room=room)


def _ask(path: Path, request: dict, *descriptors: int, room: int = 0) -> tuple[dict, dict]:
    """The answer to a request. Its form is checked here, its content by the caller."""
    text = json.dumps({**request, "path": str(path)}).encode()
    with _lock, path.open("rb") as file:
        process = _process()
        if not process.wait_until_ready():
            stop()
            raise TvmMobilenetError(
                f"{path} cannot be read: the process that reads .pt2 files did not start",
                "is there memory for a second Python with torch? --trust-file reads files of your own without it",
            )
        reading, writing = os.pipe()
        most = 4 * os.fstat(file.fileno()).st_size + 16 * room + _BYTES_BESIDE
        try:
            try:
                socket.send_fds(process.socket, [text], [file.fileno(), writing, *descriptors])
            finally:
                os.close(writing)
            answer = _read(reading, most)
            status = _status(process) if answer is not None else None
        except OSError:
            answer = status = None
        finally:
            os.close(reading)
        if status is None:
            stop()  # this also ends the process that reads the file
    if answer is None or status is None:
        raise TvmMobilenetError(f"{path} cannot be read: its reader took too long or answered too much", _BROKEN)
    if status:
        raise TvmMobilenetError(f"{path} cannot be read: its reader was ended, {_reason(status)}", _BROKEN)
    return _parsed(path, answer)


def _read(descriptor: int, most: int) -> bytes | None:
    """All bytes until the other side closes; None if they are too many or too late."""
    parts, size, last = [], 0, time.monotonic() + _SECONDS
    while True:
        left = last - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        part = os.read(descriptor, 1 << 20)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > most:
            return None
        parts.append(part)


def _status(process: _Process) -> int | None:
    process.socket.settimeout(60)
    data = process.socket.recv(4)
    return struct.unpack("<i", data)[0] if len(data) == 4 else None


def _reason(status: int) -> str:
    if os.WIFSIGNALED(status):
        return {9: "for want of memory or time", 24: "it used too much CPU time"}.get(
            os.WTERMSIG(status), f"by signal {os.WTERMSIG(status)}"
        )
    return "it had no answer"


def _parsed(path: Path, answer: bytes) -> tuple[dict, dict]:
    from safetensors.torch import load

    try:
        length = struct.unpack("<Q", answer[:8])[0]
        if length > min(_MOST_ANSWER, len(answer)):
            raise ValueError
        data = json_text.parse(answer[8 : 8 + length].decode())
        if not isinstance(data, dict):
            raise ValueError
    except (ValueError, struct.error):
        raise TvmMobilenetError(f"{path} cannot be read: its reader's answer is damaged", _BROKEN) from None
    if isinstance(data.get("message"), str):
        hint = data.get("hint")
        raise TvmMobilenetError(data["message"][:2000], hint[:1000] if isinstance(hint, str) else _BROKEN)
    try:
        return data, load(answer[8 + length :])
    except Exception:  # SafetensorError and others
        raise TvmMobilenetError(f"{path} cannot be read: its reader's answer is damaged", _BROKEN) from None
