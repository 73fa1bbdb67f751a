"""The services of a board besides running kernels. Each is a function from plain data to plain data.

A service takes a dict and returns one; both can be written as JSON. On this machine it is called directly
(``LocalBoard.service``); on a board with the agent, `serve` is one global function of its RPC server
(``RemoteBoard.service``). Services need only the base installation: TVM, numpy, rich. Paths in a request are
paths on the board, as ``Board.upload`` returned them.

A service fails by raising: a ``TvmMobilenetError`` arrives at the caller as the same message, hint and exit code.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable

from tvm_mobilenet.boards import answers
from tvm_mobilenet.boards.agent import facts, measure
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

GLOBAL = "tvm_mobilenet.serve"  # the name under which an agent's RPC server has `serve`


def ping(request: dict) -> dict:
    """The facts of the agent that answers: ``versions``, from package name to version; ``architecture``, ``features``,
    ``python``, ``pid``, ``services``."""
    return {
        "versions": facts.versions(),
        "architecture": platform.machine(),
        "features": facts.features(),
        "python": platform.python_version(),
        "pid": os.getpid(),
        "services": sorted(SERVICES),
    }


def threads(request: dict) -> dict:
    """Set and report the CPUs and the number of threads of kernels in this session.

    Parameters
    ----------
    request : dict
        ``threads`` of TVM's pool, by default one for each allowed CPU. ``cpus``: list of CPU numbers that the session
        may use. Without both nothing changes.

    Returns
    -------
    dict
        ``cpus`` allowed now; ``threads`` of the pool.
    """
    import tvm

    if cpus := request.get("cpus"):
        try:
            os.sched_setaffinity(0, cpus)
        except (OSError, ValueError) as e:
            there = sorted(os.sched_getaffinity(0))
            raise BoardError(f"CPUs {cpus} cannot be used: {e}", f"those of the session are {there}") from None
    count = request.get("threads") or (len(cpus) if cpus else None)
    if count:
        tvm.get_global_func("runtime.config_threadpool")(1, int(count))
    return {"cpus": sorted(os.sched_getaffinity(0)), "threads": int(tvm.get_global_func("runtime.NumThreads")())}


SERVICES: dict[str, Callable[[dict], dict]] = {
    "ping": ping,
    "threads": threads,
    "facts": facts.facts,
    "state": facts.state,
    "measure": measure.measure,
    "measure_layers": measure.measure_layers,
    "run_steps": measure.run_steps,
    "run_by_tvm": measure.run_by_tvm,
    "check_timing": measure.check_timing,
}


def call(name: str, request: dict) -> dict:
    """Run one service in this process.

    Raises
    ------
    BoardError
        There is no such service.
    """
    if name not in SERVICES:
        raise BoardError(
            f"there is no service {name!r}: {', '.join(sorted(SERVICES))}", "the agent is of another version: update it"
        )
    return SERVICES[name](request)


def serve(name: str, request_json: str) -> str:
    """As ``call``, for JSON texts. It never raises: a failure is returned as ``{"error", "hint", "code"}``."""
    try:
        return json.dumps(call(name, json.loads(request_json)))
    except TvmMobilenetError as e:
        return json.dumps({"error": e.message, "hint": e.hint, "code": e.exit_code})
    except MemoryError:
        out = {"error": f"service {name}: the board ran out of memory", "hint": "a smaller network or batch"}
        return json.dumps({**out, "code": BoardError.exit_code})
    except Exception as e:
        import traceback

        print(traceback.format_exc(), file=sys.stderr, flush=True)  # into the agent's log
        text = " ".join(str(e).split())[:500]
        return json.dumps(
            {
                "error": f"service {name}: {type(e).__name__}: {text}",
                "hint": "see the agent's log",
                "code": BoardError.exit_code,
            }
        )


def answer(text: str, where: str) -> dict:
    """The result in ``serve``'s text, or its error raised.

    Raises
    ------
    TvmMobilenetError
        The service failed: an error of the class that it raised, with ``where`` before its message. `BoardError` if the
        text is no answer.
    """
    found = answers.parsed(text, where)
    if "error" not in found or "code" not in found:
        return found
    kinds = (TvmMobilenetError, *TvmMobilenetError.__subclasses__())
    kind = next((k for k in kinds if k.exit_code == found["code"]), BoardError)
    raise kind(f"{where}: {found['error']}", str(found.get("hint", "")))
