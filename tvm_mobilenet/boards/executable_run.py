"""Runs TVM's executable of a build, ``model.so``, in TVM's virtual machine: on a board with the agent, else here with
its kernels on the virtual board. Always in a process of its own, which is ended when it hangs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from tvm_mobilenet.boards import answers
from tvm_mobilenet.boards.plan_runner import signatures
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files.programs import Drain
from tvm_mobilenet.files.temporary import TemporaryFolder

_MOST_WORDS = 1 << 16
_REMEDY = "build it again with --tvm; if it stays, report the model and the target"

Inputs = list[tuple[np.ndarray, ...]]
Outputs = list[list[np.ndarray]]


def runs_there(board) -> bool:
    """Whether the executable runs on the board itself; else on the virtual board of its target."""
    return board.measures and board.has_agent


def can_run(board) -> bool:
    """Whether it can run at all: on the board, or because its core can be executed here."""
    return runs_there(board) or bool(board.target.core.model)


def outputs(board, module, inputs: Inputs, seconds: float) -> Outputs:
    """What a build's executable computes of several inputs.

    Parameters
    ----------
    board : VirtualBoard, LocalBoard or RemoteBoard
        Opened, of which `can_run` is true.
    module : built.BuiltModule
    inputs : list of tuples of ndarray
    seconds : float
        After which it hangs.

    Raises
    ------
    BoardError
        It crashes, hangs, or is none.
    """
    wanted = {f"{i}.{j}": (tuple(t.shape), t.dtype) for i in range(len(inputs))
              for j, (_, t) in enumerate(module.plan.outputs)}  # fmt: skip
    with TemporaryFolder() as folder:
        given = folder / "given.npz"
        np.savez(given, **{f"{i}.{j}": array for i, x in enumerate(inputs) for j, array in enumerate(x)})
        if runs_there(board):
            asked = {"executable": board.upload(module.executable), "given": board.upload(given)}
            asked |= {"inputs": [len(x) for x in inputs], "threads": board.target.cores, "limit_seconds": seconds}
            found = board.download(board.service("run_executable", asked)["path"], folder / "found.npz")
        else:
            found = folder / "found.npz"
            found.write_bytes(_emulated(module, board.target, given, [len(x) for x in inputs], wanted, seconds))
        read = answers.arrays(found, wanted, board.name)
    return [[read[f"{i}.{j}"] for j in range(len(module.plan.outputs))] for i in range(len(inputs))]


def _emulated(module, target, given: Path, counts: list[int], wanted: dict, seconds: float) -> bytes:
    from tvm_mobilenet.targets import stored

    takes = {symbol: [[list(s), d] for s, d in operands] for symbol, operands in signatures(module.plan).items()}
    request = {
        "executable": str(module.executable.resolve()), "target": stored.to_data(target), "inputs": counts,
        "takes": takes, "cpu_seconds": max(1, int(seconds)),
    }  # fmt: skip
    package = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {package!r}); from tvm_mobilenet.boards.virtual import executable as e"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.exit(e.main())"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    room = sum(int(np.prod(s)) * np.dtype(d).itemsize + 1024 for s, d in wanted.values())
    out, words = Drain(process.stdout, room + 4096, process.kill), Drain(process.stderr, _MOST_WORDS, process.kill)
    try:
        with process.stdin as pipe:
            pipe.write(json.dumps(request).encode() + b"\n" + given.read_bytes())
        code = process.wait(2 * seconds + 60)
    except BrokenPipeError:
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        process.kill()
        process.wait()
    if code:
        said = (words.text(5.0).strip().splitlines() or [""])[-1]
        why = said if code > 0 else _ended(-code, seconds)
        raise BoardError(f"{module.executable} cannot be run by TVM's virtual machine: {why}", _REMEDY)
    if code is None or out.over:
        raise BoardError(f"{module.executable}: TVM's virtual machine does not come to an end with it", _REMEDY)
    out.text(5.0)
    return bytes(out.data)


def _ended(number: int, seconds: float) -> str:
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return f"it used more than {seconds:.0f} s of CPU time, or all memory, and was ended"
    return f"its process ended by signal {signal.Signals(number).name}"
