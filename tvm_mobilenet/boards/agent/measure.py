"""Services that measure: whole networks, one or several in turn, and every kernel call of a plan.

Each contender has a separate process (`measured_process`). They take turns in rounds, so that other load on the machine
affects all alike. After each round the board reports its clock, temperature and throttling. Samples are returned raw;
the caller evaluates them.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tvm_mobilenet.boards.agent.facts import state
from tvm_mobilenet.errors import BoardError, reason, remedy
from tvm_mobilenet.files.temporary import TemporaryFolder

ROUNDS = 10
LIMIT_SECONDS = 600.0  # after this time for one command a contender counts as hanging
SETTLE_SECONDS = 0.02  # pause between two contenders, in which the threads of the first stop spinning


def measure(request: dict) -> dict:
    """Time whole runs of one network, or of several contenders in turn.

    Parameters
    ----------
    request : dict
        ``contenders``: a list of dicts with ``engine`` (tvm_mobilenet, tvm, onnxruntime, ...) and its files, as
        ``boards.agent.engines`` takes them. ``inputs``: paths of ``.npy`` files on the board, or ``[shape, dtype]`` for
        normal values. ``threads``; ``cpus`` that they may use, all by default. ``seconds`` of measurement for each;
        ``warm_up_seconds``, the longest warm-up, which ends earlier if times are steady; ``limit_seconds``, after which
        a contender without an answer counts as hanging.

    Returns
    -------
    dict
        ``contenders``: for each ``missing`` (the command that installs it), ``failed`` (what it reported), or
        ``version``, ``load_seconds``, ``warm_up`` (``runs``, ``seconds``, ``first_seconds``, ``steady``), ``number``
        (runs in a sample), ``rounds`` (for each a list of samples, in seconds a run), ``rss_initial``, ``rss_loaded``,
        ``rss_peak`` (bytes), ``difference`` (the largest between its outputs and the first contender's, over their
        standard deviation; None if sizes differ) and ``kernels`` (a text of the kernels that ran; a contender that ran
        others than requested has ``failed``). ``states``: the board's state after warm-up and after every round.

    Raises
    ------
    BoardError
        The first contender failed, or a contender hangs or its process ended.
    """
    limit = float(request.get("limit_seconds", LIMIT_SECONDS))
    seconds, threads = float(request.get("seconds", 3.0)), int(request.get("threads", 1))
    results: list[dict] = []
    running: list[tuple[dict, Process]] = []
    with TemporaryFolder() as folder, contextlib.ExitStack() as opened:
        for contender in request["contenders"]:
            process = opened.enter_context(
                contextlib.closing(Process(threads, request.get("cpus"), folder, contender["engine"], limit))
            )
            result = process.ask(
                "load", contender=contender, inputs=request["inputs"], threads=threads, fatal=not results
            )
            results.append(result)
            if "missing" in result or "failed" in result:
                continue
            running.append((result, process))
            warm = process.ask("warm_up", seconds=seconds, limit=float(request.get("warm_up_seconds", 5.0)))
            result.update(number=warm.pop("number"), repeat=warm.pop("repeat"), warm_up=warm, rounds=[])
        states = [state()]
        for i in range(ROUNDS):
            for result, process in running[i % len(running) :] + running[: i % len(running)]:
                if len(running) > 1:
                    time.sleep(SETTLE_SECONDS)
                each = max(1, round(result["repeat"] * (i + 1) / ROUNDS) - round(result["repeat"] * i / ROUNDS))
                result["rounds"].append(process.ask("sample", number=result["number"], repeat=each)["seconds"])
            states.append(state())
        for i, (result, process) in enumerate(running):
            path = os.path.join(folder, f"{i}.npz")
            process.ask("outputs", path=path)
            result["difference"] = _difference(path, os.path.join(folder, "0.npz"))
            result.update(process.ask("memory"))
            result.update(process.ask("kernels", fatal=not i))
    return {"threads": threads, "contenders": results, "states": states}


def measure_layers(request: dict) -> dict:
    """Time every kernel call of a built module, each in its place in the network.

    Parameters
    ----------
    request : dict
        ``library``, ``parameters``: paths on the board; or ``module``, ``plan``, ``parameters``: then TVM's runtime
        makes the calls. ``inputs``, ``threads``, ``cpus``, ``seconds``, ``limit_seconds`` as `measure` takes them.

    Returns
    -------
    dict
        As ``measured_process.Measured.layers`` gives it, with the board's ``state`` after it.
    """
    threads, limit = int(request.get("threads", 1)), float(request.get("limit_seconds", LIMIT_SECONDS))
    files = {name: request[name] for name in ("library", "module", "plan", "parameters", "inputs") if name in request}
    with (
        TemporaryFolder() as folder,
        contextlib.closing(Process(threads, request.get("cpus"), folder, _engine(request), limit)) as process,
    ):
        found = process.ask("layers", **files, seconds=float(request.get("seconds", 1.0)))
    return {"threads": threads, **found, "state": state()}


def _engine(files: dict) -> str:
    return "tvm_mobilenet" if "library" in files else "tvm"


def run_steps(request: dict) -> dict:
    """Run a built module by its own runtime in a separate process, and return its steps' outputs.

    Parameters
    ----------
    request : dict
        ``library``, ``plan``, ``parameters``, ``given``: paths on the board. ``threads``. ``given`` is an ``.npz`` of
        the model's inputs by number; with ``step``, of that step's operands, and only that step runs. ``watched``: also
        return the output of each step. ``limit_seconds`` as `measure` takes it.

    Returns
    -------
    dict
        ``path`` of an ``.npz`` on the board: each step's output by number if ``watched``, ``output0`` and so on of
        the model, and ``seconds``: (passes, steps).
    """
    threads, limit = int(request["threads"]), float(request.get("limit_seconds", LIMIT_SECONDS))
    files = {name: request[name] for name in ("library", "plan", "parameters", "given")}
    asked = {name: request[name] for name in ("watched", "step") if name in request}
    path = f"{request['given']}.found.npz"
    with (
        TemporaryFolder() as folder,
        contextlib.closing(Process(threads, None, folder, "tvm_mobilenet", limit)) as process,
    ):
        process.ask("steps", **files, **asked, threads=threads, path=path)
    return {"path": path}


def run_by_tvm(request: dict) -> dict:
    """Run files of a built module in TVM's runtime in a separate process, and return their outputs.

    Parameters
    ----------
    request : dict
        ``contenders``: a list of dicts, each with a ``name`` for messages and paths on the board as
        ``engines.by_tvm`` takes them. ``given``: path of an ``.npz`` of the inputs, ``input.number``. ``inputs``: how
        many numbers each has. ``threads``, ``limit_seconds`` as `measure` takes them.

    Returns
    -------
    dict
        ``path`` of an ``.npz`` on the board: the outputs, ``contender.input.number``.
    """
    threads, limit = int(request["threads"]), float(request.get("limit_seconds", LIMIT_SECONDS))
    asked = {name: request[name] for name in ("contenders", "given", "inputs")}
    path = f"{request['given']}.found.npz"
    with (
        TemporaryFolder() as folder,
        contextlib.closing(Process(threads, None, folder, "TVM's runtime", limit)) as process,
    ):
        process.ask("by_tvm", **asked, path=path)
    return {"path": path}


def check_timing(request: dict) -> dict:
    """Time the same calls by `measure` and by TVM's ``time_evaluator`` in one process, in turns.

    Parameters
    ----------
    request : dict
        ``executable``: its path on the board. ``inputs``, ``threads``, ``limit_seconds`` as `measure` takes them;
        ``seconds``: in all; ``rounds``.

    Returns
    -------
    dict
        ``ours``, ``time_evaluator``: a median for each round, seconds a run. ``number``, ``repeat``: of a round.
    """
    threads, limit = int(request.get("threads", 1)), float(request.get("limit_seconds", LIMIT_SECONDS))
    rounds, seconds = int(request.get("rounds", 20)), float(request.get("seconds", 10.0))
    contender = {"engine": "tvm", "executable": request["executable"]}
    with (
        TemporaryFolder() as folder,
        contextlib.closing(Process(threads, request.get("cpus"), folder, "tvm", limit)) as process,
    ):
        process.ask("load", contender=contender, inputs=request["inputs"], threads=threads)
        warm = process.ask("warm_up", seconds=seconds / (2 * rounds), limit=5.0)
        chosen = {"number": warm["number"], "repeat": warm["repeat"]}
        return {**chosen, **process.ask("check", rounds=rounds, **chosen)}


class Process:
    """A measured process. It starts with its threads set, takes one command at a time, and is killed if it does not
    answer."""

    def __init__(self, threads: int, cpus: list[int] | None, folder: str, name: str, limit: float):
        package = Path(__file__).resolve().parents[3]  # the folder that holds tvm_mobilenet
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
            "TVM_NUM_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",
        }
        if cpus:
            environment["TVM_BIND_THREADS"] = "0"  # else TVM's pool chooses its own CPUs
        self._name, self._limit = name, limit
        self._log = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tvm_mobilenet.boards.agent.measured_process", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,
            )
        except OSError as e:
            self._log.close()
            raise BoardError(
                f"a process to measure in cannot be started: {reason(e)}", remedy(e, "is the board out of memory?")
            ) from None
        if cpus:
            try:
                os.sched_setaffinity(self._process.pid, cpus)
            except OSError as e:
                self.close()
                raise BoardError(
                    f"CPUs {cpus} cannot be used: {e}", f"there are {sorted(os.sched_getaffinity(0))}"
                ) from None

    def ask(self, command: str, fatal: bool = True, **arguments) -> dict:
        """The answer to a command. Unless ``fatal``, a failure is returned too, as ``{"failed": why}``."""
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass  # the process ended, which the missing answer shows
        line = self._line()
        answer = json.loads(line) if line else {"error": self._end()}
        if "error" not in answer:
            return answer
        if not fatal:
            return {"failed": answer["error"]}
        raise BoardError(f"{self._name}: {command}: {answer['error']}", self._remedy)

    _remedy = "verify checks the module; the board's own messages, if it wrote any, stand above"

    def _line(self) -> bytes:
        """The next line that the process answers; empty if the process ended or took too long."""
        data, deadline, fd = b"", time.monotonic() + self._limit, self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self._kill()
                    self._process.wait()
                    self._hung = True
                    return b""
                piece = os.read(fd, 1 << 16)
                if not piece:
                    return b""
                data += piece
        return data

    _hung = False

    def _end(self) -> str:
        self._log.seek(0)
        last = " ".join(self._log.read().decode(errors="replace").split())[-300:]
        if self._hung:
            return f"no answer for {self._limit:g} s; it was ended" + (f": {last}" if last else "")
        code = self._process.wait()
        why = f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            why += " (out of memory?)"
        return f"its process {why}" + (f": {last}" if last else "")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process, wait for it, and remove its files."""
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                stream.close()


def _difference(path: str, first: str) -> float | None:
    """The largest difference between two files' outputs over the first's standard deviation; None if sizes differ."""
    import numpy as np

    from tvm_mobilenet.boards.comparison import relative

    worst = 0.0
    with np.load(path) as found, np.load(first) as expected:
        for name in expected.files:
            if found[name].size != expected[name].size:
                return None
            worst = max(worst, relative(found[name].reshape(expected[name].shape), expected[name]))
    return worst
