"""Measure on a board with TVM's own RPC server and no agent: the same requests, as far as that server can answer them.

TVM's ``time_evaluator`` times each kernel alone on the board, so times exclude the link. The operands are in place, and
the kernel finds them in the caches. The time of the network is the sum of its kernels; if TVM's executable was built,
it is timed in the server's process instead. Facts of the agent (memory, clock, temperature, throttling, CPUs) stay
unknown, and other engines cannot run.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from itertools import accumulate
from pathlib import Path

import numpy as np

from tvm_mobilenet.boards import answers
from tvm_mobilenet.boards.agent.measure import ROUNDS
from tvm_mobilenet.boards.agent.measured_process import choose, warm_up
from tvm_mobilenet.boards.plan_runner import PlanRunner
from tvm_mobilenet.boards.remote.module import load_library
from tvm_mobilenet.compiler.plan import input_values, read_plan
from tvm_mobilenet.errors import BoardError

MISSING = ("TVM's own RPC server runs there: memory, clock, temperature and throttling are unknown, and each kernel is "
           "timed alone")  # fmt: skip
REMEDY = "on the board: python -m tvm_mobilenet.agent in its place"


def serving(board):
    """The object that answers requests to measure: the board, or a `PlainServer` for a board without an agent."""
    return board if board.has_agent else PlainServer(board)


class PlainServer:
    """A board without the agent that answers ``facts``, ``state``, ``measure`` and ``measure_layers``.

    Requests and answers are those of ``boards.agent.measure``; unknown values are None.
    """

    has_agent = False

    def __init__(self, board):
        self._board, self.name = board, board.name
        self._files: dict[str, Path] = {}  # paths on the board to paths on this machine

    def upload(self, path) -> str:
        """As ``RemoteBoard.upload``."""
        there = self._board.upload(path)
        self._files[there] = Path(path)
        return there

    def service(self, name: str, request: dict) -> dict:
        """The answer to a request.

        Raises
        ------
        BoardError
            The request needs the agent, or the module does not run there.
        """
        if name in ("facts", "state"):
            return {"state": {}} if name == "facts" else {}
        if name not in ("measure", "measure_layers"):
            return self._board.service(name, request)  # raises that there is no agent
        if request.get("cpus") or len(request.get("contenders", ())) > 1:
            raise BoardError(f"{self._board.where}: --cpus and --against need the agent there", REMEDY)
        return self._measure(request) if name == "measure" else self._measure_layers(request)

    def _measure(self, request: dict) -> dict:
        session, seconds = self._board.session, float(request["seconds"])
        if "executable" not in request["contenders"][0]:
            return self._measure_kernels(request)
        vm = self._load(request)

        def times(repeat: int, number: int = 1) -> list[float]:
            def evaluate():
                timed = vm[0].time_evaluator("invoke_stateful", session.rpc.cpu(), number=number, repeat=repeat)
                return answers.seconds(timed("main").results, self._board.where, "running the network")

            return session.do("measuring the network", evaluate, seconds=60 + 10 * seconds)

        try:
            warm = warm_up(times, float(request.get("warm_up_seconds", 5.0)))
            number, repeat = choose(warm["run_seconds"], seconds)
            rounds = [times(len(part), number) for part in np.array_split(np.arange(repeat), ROUNDS)]
        finally:
            session.drop(vm.clear)
        return _answer(request, warm, number, repeat, rounds)

    def _measure_kernels(self, request: dict) -> dict:
        """Measure without TVM's executable: a run is the sum of the kernels of the plan."""
        seconds, start = float(request["seconds"]), time.perf_counter()
        with self._runner(request["contenders"][0]) as runner:
            inputs = input_values(request["inputs"])

            def once() -> float:
                return sum(run.seconds.value for run in runner.run(*inputs, cores=request["threads"]).kernels)

            first = once()
            warm = {"runs": 1, "seconds": time.perf_counter() - start, "first_seconds": first, "steady": True}
            rounds, end = [], time.perf_counter() + seconds
            while len(rounds) < ROUNDS or time.perf_counter() < end:
                rounds.append([once()])
        return _answer(request, {**warm, "run_seconds": first}, 1, len(rounds), rounds)

    @contextlib.contextmanager
    def _runner(self, files: dict):
        plan = read_plan(self._files[files["plan"]])
        parameters = np.fromfile(self._files[files["parameters"]], np.uint8)
        with self._board.load(self._files[files["module"]]) as module:
            yield PlanRunner(module, plan, parameters)

    def _load(self, request: dict) -> list:
        """A virtual machine on the board with its inputs, as the only element of a list, so that the session's thread
        can free it."""
        session, there = self._board.session, request["contenders"][0]["executable"]
        library = [load_library(self._board, there, self._files[there])]
        inputs = input_values(request["inputs"])

        def load():
            import tvm
            from tvm.runtime.vm import VirtualMachine

            device = session.rpc.cpu()
            session.rpc.get_function("runtime.config_threadpool")(1, request["threads"])
            vm = VirtualMachine(library.pop(), device)
            vm.set_input("main", *(tvm.runtime.tensor(x, device) for x in inputs))
            return [vm]

        return session.do("starting the network", load)

    def _measure_layers(self, request: dict) -> dict:
        with self._runner(request) as runner:
            kernels = runner.run(*input_values(request["inputs"]), cores=request["threads"]).kernels
        times = [run.samples for run in kernels]
        middle = [statistics.median(each) for each in times]
        return {"threads": request["threads"], "seconds": times, "starts": [[0.0, *accumulate(middle[:-1])]],
                "overhead_seconds": 0.0, "steady": True, "state": {}}  # fmt: skip


def _answer(request: dict, warm: dict, number: int, repeat: int, rounds: list[list[float]]) -> dict:
    """An answer in the form of `boards.agent.measure.measure`, without the facts of the agent."""
    ours = {"warm_up": warm, "number": number, "repeat": repeat, "rounds": rounds, "version": "", "difference": 0.0,
            **dict.fromkeys(("load_seconds", "rss_initial", "rss_loaded", "rss_peak"))}  # fmt: skip
    return {"threads": request["threads"], "contenders": [ours], "states": [{}, {}]}
