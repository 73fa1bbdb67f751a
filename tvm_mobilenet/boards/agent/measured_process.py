"""The process that loads and times one contender. Its memory is the contender's alone, and its threads are set before
any library starts them.

`measure` starts it. It reads one JSON command a line from stdin and writes one JSON answer a line to stdout:

    load      load the contender, its inputs, its threads: time taken, resident memory before and after
    warm_up   run until times are steady: number of runs, time taken, and runs for each sample
    sample    a number of samples, each of a number of runs: seconds a run
    check     our samples and those of TVM's time_evaluator, in turns
    layers    run passes over the network's kernel calls in order, and time each call
    steps     run one such pass, and return the output of each call
    outputs   write the outputs to a file
    memory    the peak of resident memory
    kernels   list the kernels that ran, for an engine that chooses them by itself

Whole runs are timed one by one if they are long beside the clock's own cost, so that percentiles are those of
inferences. Layers are timed in their place in the network: each finds the caches as the one before it left them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from statistics import median

SAMPLE_SECONDS = 200e-6  # a sample is at least that long: reading the clock twice costs less than a thousandth of it
OURS = ("tvm_mobilenet", "tvm")  # engines that run a build
STEADY = 0.02  # the medians of two windows differ by less
WINDOW_SECONDS, WINDOW_RUNS = 0.05, 3
FEWEST_SAMPLES, MOST_SAMPLES = 10, 5000
MODULES = {
    "tvm_mobilenet": "tvm_mobilenet.runtime.instance",
    "tvm": "tvm.runtime.vm",
    "litert": "ai_edge_litert.interpreter",
}
TRACED_PASSES = 10
STEP_SECONDS, STEP_PASSES = 0.3, 50  # for the time of each step that a check reports


def sample(run, number: int) -> float:
    """Seconds of one run, as the mean of ``number`` runs in a row."""
    start = time.perf_counter()
    for _ in range(number):
        run()
    return (time.perf_counter() - start) / number


def warm_up(times, limit: float) -> dict:
    """Run until the medians of two windows in a row agree, or ``limit`` seconds are over.

    Parameters
    ----------
    times : callable
        ``times(n)`` runs n times and gives the seconds of each.
    limit : float

    Returns
    -------
    dict
        ``runs``, ``seconds``, ``first_seconds`` (the very first run), ``steady``, ``run_seconds`` (a median run at the
        end).
    """
    start = time.perf_counter()
    (first,) = times(1)
    window = max(WINDOW_RUNS, min(1000, math.ceil(WINDOW_SECONDS / first)))
    before, runs = None, 1
    while True:
        now = median(times(window))
        runs += window
        steady = before is not None and abs(now - before) <= STEADY * before
        seconds = time.perf_counter() - start
        if steady or seconds >= limit:
            return {"runs": runs, "seconds": seconds, "first_seconds": first, "steady": steady, "run_seconds": now}
        before = now


def choose(run_seconds: float, seconds: float) -> tuple[int, int]:
    """The number of runs in a sample, and of samples in ``seconds``: (number, repeat)."""
    number = max(1, math.ceil(SAMPLE_SECONDS / run_seconds))
    return number, max(FEWEST_SAMPLES, min(MOST_SAMPLES, math.ceil(seconds / (number * run_seconds))))


def resident(kind: str) -> int | None:
    """Bytes of memory of this process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    try:
        found = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class Measured:
    """One contender; each public method is a command."""

    def load(self, contender: dict, inputs: list, threads: int, seed: int = 0) -> dict:
        """``inputs``: paths of ``.npy`` files, or shapes and dtypes to draw normal values for."""
        from tvm_mobilenet import packages
        from tvm_mobilenet.boards.agent.engines import ENGINES, version
        from tvm_mobilenet.compiler.plan import input_values

        engine = contender["engine"]
        if not version(engine):
            return {"missing": packages.remedy(packages.ENGINES[engine])}
        self._inputs = input_values(inputs, seed)
        _import(engine)
        initial, start = resident("VmRSS"), time.perf_counter()
        self._name = engine
        self._engine = ENGINES[engine](contender, self._inputs, threads)
        return {
            "version": version(engine),
            "load_seconds": time.perf_counter() - start,
            "rss_initial": initial,
            "rss_loaded": resident("VmRSS"),
        }

    def warm_up(self, seconds: float, limit: float) -> dict:
        """As the function, with the ``number`` and ``repeat`` that follow from it."""
        found = warm_up(lambda n: self.sample(1, n)["seconds"], limit)
        number, repeat = choose(found["run_seconds"], seconds)
        return {**found, "number": number, "repeat": repeat}

    def sample(self, number: int, repeat: int) -> dict:
        """``seconds``: of a run, ``repeat`` times."""
        run = self._engine.run
        return {"seconds": [sample(run, number) for _ in range(repeat)]}

    def check(self, number: int, repeat: int, rounds: int) -> dict:
        """``ours``, ``time_evaluator``: seconds a run, the median of ``repeat`` samples, for each round."""
        evaluate = self._engine.time_evaluator(number, repeat)
        found: dict[str, list[float]] = {"ours": [], "time_evaluator": []}
        for i in range(rounds):
            for name in sorted(found, reverse=bool(i % 2)):  # the two take the first turn equally often
                samples = evaluate() if name == "time_evaluator" else self.sample(number, repeat)["seconds"]
                found[name].append(median(samples))
        return found

    def outputs(self, path: str) -> dict:
        """Write the outputs of the last run as ``.npz``, in order.

        Raises
        ------
        BoardError
            An output holds infinities or NaN, so its time is of no use.
        """
        import numpy as np

        from tvm_mobilenet.errors import BoardError

        found = self._engine.outputs()
        if self._name in OURS and not all(np.isfinite(array).all() for array in found):
            raise BoardError("the outputs hold infinities or NaN", "`verify` says which layer is wrong, if one is")
        np.savez(path, *found)
        return {}

    def memory(self) -> dict:
        """``rss_peak``: bytes."""
        return {"rss_peak": resident("VmHWM")}

    def kernels(self) -> dict:
        """``kernels``: the engine's report of the kernels that ran; empty for an engine without a choice.

        Raises
        ------
        ValueError
            Other kernels ran than the requested ones.
        """
        return {"kernels": self._engine.kernels() if hasattr(self._engine, "kernels") else ""}

    def layers(self, parameters: str, inputs: list, seconds: float, seed: int = 0, **files) -> dict:
        """Time every kernel call of a network: in its own ``library``, or by the plan in TVM's runtime.

        Returns
        -------
        dict
            ``seconds``: for each step, its time in each pass. ``starts``: for each of the first passes, when each step
            began, seconds since the first. ``overhead_seconds``: the time of an empty call.
        """
        from tvm_mobilenet.compiler.plan import input_values

        values = input_values(inputs, seed)
        if "library" in files:
            from tvm_mobilenet.boards.agent.engines import Own

            calls = Own({**files, "parameters": parameters}, values, self._threads())
        else:
            from tvm_mobilenet.boards.agent.plan_calls import PlanCalls

            calls = PlanCalls(files["module"], files["plan"], parameters, values)
        found = warm_up(lambda n: [sample(calls.run, 1) for _ in range(n)], max(1.0, seconds / 2))
        passes = max(5, min(1000, math.ceil(seconds / found["run_seconds"])))
        began, durations = calls.timed(passes)
        origin = began[0][0]
        return {
            "seconds": [[row[i] / 1e9 for row in durations] for i in range(len(durations[0]))],
            "starts": [[(t - origin) / 1e9 for t in row] for row in began[:TRACED_PASSES]],
            "overhead_seconds": calls.overhead(),
            "steady": found["steady"],
        }

    def steps(
        self, library: str, plan: str, parameters: str, given: str, threads: int, path: str, watched=False, step=None
    ) -> dict:
        """Run a network's steps, and write their outputs to a file: see ``measure.run_steps``."""
        import numpy as np

        from tvm_mobilenet.compiler.plan import read_plan
        from tvm_mobilenet.errors import BoardError
        from tvm_mobilenet.runtime.instance import Instance

        steps = read_plan(plan).steps
        outputs, last = [s.operands[-1] for s in steps], [len(s.operands) - 1 for s in steps]
        symbols, found = [s.symbol for s in steps], {}
        with Instance(library, parameters, threads) as net, np.load(given) as arrays:
            if net.steps != len(outputs):
                raise BoardError(f"{library} has {net.steps} steps, the plan {len(outputs)}", "build the module again")

            def written(i: int) -> np.ndarray:
                return net.operand(i, last[i], outputs[i].shape, outputs[i].dtype).copy()

            if step is None:
                net.set_inputs([arrays[str(i)] for i in range(len(net.inputs))])
                for i in range(net.steps) if watched else ():
                    _tell(f"while running kernel {symbols[i]}")
                    net.run(i, i + 1)
                    found[str(i)] = written(i)
                _tell("while running the network")
                start = time.perf_counter()
                seconds = np.diff(net.timed(1), axis=1)
                passes = max(1, min(STEP_PASSES, int(STEP_SECONDS / max(1e-9, time.perf_counter() - start))))
                seconds = np.concatenate([seconds, np.diff(net.timed(passes), axis=1)]) / 1e9
                found |= {f"output{i}": array for i, array in enumerate(net.outputs)}
            else:
                _tell(f"while running kernel {symbols[step]}")
                net.run(0, 0)  # this gives inputs and outputs their places
                for i in arrays.files:
                    net.operand(step, int(i), arrays[i].shape, arrays[i].dtype)[...] = arrays[i]
                seconds = np.array([[sample(lambda: net.run(step, step + 1), 1)]])
                found["0"] = written(step)
        np.savez(path, seconds=seconds, **found)
        return {}

    def by_tvm(self, contenders: list, given: str, inputs: list, path: str) -> dict:
        """Run builds on several inputs in TVM's runtime, and write their outputs: see ``measure.run_by_tvm``."""
        import numpy as np

        from tvm_mobilenet.boards.agent.engines import by_tvm

        _tell("while TVM is imported")
        _import("tvm")
        found = {}
        with np.load(given) as arrays:
            for c, contender in enumerate(contenders):
                _tell(f"while running {contender['name']}")
                for i, count in enumerate(inputs):
                    net = by_tvm(contender, [arrays[f"{i}.{j}"] for j in range(count)], self._threads())
                    net.run()
                    found |= {f"{c}.{i}.{j}": array for j, array in enumerate(net.outputs())}
        np.savez(path, **found)
        return {}

    @staticmethod
    def _threads() -> int:
        return int(os.environ["TVM_NUM_THREADS"])  # `measure.Process` sets it


def _tell(text: str) -> None:
    """Write the present activity as the only line of the log, for the message if this process ends or hangs
    (`measure.Process`)."""
    with contextlib.suppress(OSError):
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        os.write(2, text.encode())


def _import(engine: str) -> None:
    """The engine's package and its libraries, so that initial memory counts them."""
    import importlib

    from tvm_mobilenet import packages

    if engine == "tvm":
        packages.import_tvm()
    importlib.import_module(MODULES.get(engine, engine))


def main() -> int:
    """Answer commands until stdin ends or the asking process does; the first argument is its id."""
    from tvm_mobilenet.boards.agent import lifeline

    lifeline.end_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    measured = Measured()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(measured, request.pop("command"))(**request)
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {' '.join(str(e).split())[:500]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
