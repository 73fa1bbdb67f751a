"""Run a build's files for TVM: the executable in TVM's virtual machine, and the kernels by the plan.

On a board with the agent both run there. For any other board the executable runs here and its kernels on the virtual
board. Each runs in a separate process, which is ended when it hangs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from tvm_mobilenet.boards import answers
from tvm_mobilenet.boards.local import LocalBoard
from tvm_mobilenet.boards.plan_runner import signatures
from tvm_mobilenet.compiler.module import PARAMETERS, PLAN
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import programs
from tvm_mobilenet.files.temporary import TemporaryFolder

_REMEDY = "build it again with --tvm; if it stays, report the model and the target"

Inputs = list[tuple[np.ndarray, ...]]
Outputs = list[list[np.ndarray]]


def outputs(board, module, inputs: Inputs, seconds: float) -> dict[str, tuple[str, Outputs]]:
    """The outputs of a build's files for TVM.

    Parameters
    ----------
    board : VirtualBoard, LocalBoard or RemoteBoard
        Opened.
    module : built.BuiltModule
    inputs : list of tuples of ndarray
    seconds : float
        The time after which a run counts as hanging.

    Returns
    -------
    dict
        For each file's name: a text that says how it ran, and the outputs for each of the inputs. The kernels are
        always there; the executable is there if the build has one and this machine can run its code.

    Raises
    ------
    BoardError
        A file crashes, hangs or cannot be loaded.
    """
    there = board.measures and board.has_agent
    files = {}
    if isinstance(board, LocalBoard) and module.build:
        files[module.library.name] = "called by the plan in TVM's runtime"
    if module.has_executable and (there or board.target.core.model):
        files[module.executable.name] = "in TVM's virtual machine" + ", its kernels on the virtual board" * (not there)
    if not files:
        return {}
    ports = list(enumerate(module.plan.outputs))
    wanted = {f"{f}.{i}.{j}": (tuple(t.shape), t.dtype) for f in range(len(files)) for i in range(len(inputs))
              for j, (_, t) in ports}  # fmt: skip
    with TemporaryFolder() as folder:
        given, found = folder / "given.npz", folder / "found.npz"
        np.savez(given, **{f"{i}.{j}": array for i, x in enumerate(inputs) for j, array in enumerate(x)})
        if there:
            contenders = [_contender(board, module, name) for name in files]
            asked = {"contenders": contenders, "given": board.upload(given), "inputs": [len(x) for x in inputs],
                     "threads": board.target.cores, "limit_seconds": seconds}  # fmt: skip
            found = board.download(board.service("run_by_tvm", asked)["path"], found)
        else:
            found.write_bytes(_emulated(module, board.target, given, [len(x) for x in inputs], wanted, seconds))
        read = answers.arrays(found, wanted, board.name)
    return {
        name: (how, [[read[f"{f}.{i}.{j}"] for j, _ in ports] for i in range(len(inputs))])
        for f, (name, how) in enumerate(files.items())
    }


def _contender(board, module, name: str) -> dict[str, str]:
    """The engine in the form that ``engines.by_tvm`` takes."""
    if name == module.library.name:
        paths = {"module": module.library, "plan": module.folder / PLAN, "parameters": module.folder / PARAMETERS}
    else:
        paths = {"executable": module.executable}
    return {"name": name, **{kind: board.upload(path) for kind, path in paths.items()}}


def _emulated(module, target, given: Path, counts: list[int], wanted: dict, seconds: float) -> bytes:
    from tvm_mobilenet.targets import stored

    takes = {symbol: [[list(s), d] for s, d in operands] for symbol, operands in signatures(module.plan).items()}
    request = {
        "executable": str(module.executable.resolve()), "target": stored.to_data(target), "inputs": counts,
        "takes": takes, "cpu_seconds": max(1, int(seconds)),
    }  # fmt: skip
    package = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {package!r}); from tvm_mobilenet.boards.virtual import executable as e"
    command = [sys.executable, "-c", f"{code}; sys.exit(e.main())"]
    data = json.dumps(request).encode() + b"\n" + given.read_bytes()
    room = sum(int(np.prod(s)) * np.dtype(d).itemsize + 1024 for s, d in wanted.values())
    try:
        done = programs.run(command, data, 2 * seconds + 60, most=room + 4096)
    except (subprocess.TimeoutExpired, programs.TooMuch):
        raise BoardError(f"{module.executable}: it does not end in TVM's virtual machine", _REMEDY) from None
    if done.code:
        said = (done.words.strip().splitlines() or [""])[-1]
        why = said if done.code > 0 else _ended(-done.code, seconds)
        raise BoardError(f"{module.executable} cannot be run by TVM's virtual machine: {why}", _REMEDY)
    return done.data


def _ended(number: int, seconds: float) -> str:
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return f"it used more than {seconds:.0f} s of CPU time, or all memory, and was ended"
    return f"its process ended by signal {signal.Signals(number).name}"
