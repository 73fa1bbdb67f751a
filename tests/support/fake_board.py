"""Evaluators for the tests of workers and search that need no TVM: costs by formula, and every way to go wrong."""

import os
import signal
import subprocess
import sys
import time

from tvm_mobilenet.tuning.candidate import Outcome


class Jobs:
    """Does what a job says."""

    def __call__(self, job):
        what, *rest = job
        if what == "square":
            return rest[0] ** 2
        if what == "raise":
            raise ValueError("built\nnothing")
        if what == "sleep":
            time.sleep(rest[0])
        if what == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "file":
            import tempfile

            return tempfile.mkstemp()[1]
        if what == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(rest[0], "w") as file:
                file.write(f"{os.getpid()} {child.pid}")
            child.wait()
        if what == "modules":
            return sorted(sys.modules)
        return None


class Unable:
    def prepare(self):
        raise ImportError("no such thing as tvm")

    def __call__(self, job):
        return None


def cost_of(layer: str, decisions: dict) -> float:
    """A bowl with a ridge, with its lowest point at tile_m 7, tile_n 8, unroll 4; the default is far from it."""
    size = int(layer.split()[1][1:])
    cost = (
        1
        + 0.1 * abs(decisions["tile_m"] - 7)
        + 0.05 * abs(decisions["tile_n"] - 8)
        + 0.03 * abs(decisions["unroll"] - 4)
    )
    return size * 100 * (cost + (0.5 if decisions["order"] == "n" else 0.0))


class Fails:
    """A board on which nothing runs, or not the layers of one kind."""

    def __init__(self, kind=""):
        self.kind = kind

    def __call__(self, candidate):
        if candidate.layer.startswith(self.kind):
            raise ValueError("the board is broken")
        return Outcome(cost_of(candidate.layer, candidate.decisions), "cycles", True, 1e-7)


class Costs:
    """Estimates candidates by ``cost_of``; a file in ``folder`` counts each evaluation. Some points fail, in all ways.

    ``code``: the key that it tells of what it ran.
    """

    def __init__(self, folder="", delay=0.0, wrong_as_a_whole=(), code=""):
        self.folder, self.delay, self.wrong_as_a_whole = str(folder), delay, list(wrong_as_a_whole)
        self.code = code

    def __call__(self, candidate):
        d = candidate.decisions
        if self.folder:
            with open(os.path.join(self.folder, "evaluated"), "a") as file:
                file.write(f"{candidate.layer}|{d}|{candidate.whole}\n")
        time.sleep(self.delay)
        if d["tile_m"] == 1 and d["tile_n"] == 4:
            raise ValueError("no code for this")
        if d["tile_m"] == 1 and d["tile_n"] == 8 and self.folder:
            os.kill(os.getpid(), signal.SIGKILL)
        if candidate.whole and d in self.wrong_as_a_whole:
            raise ValueError("wrong result")
        return Outcome(cost_of(candidate.layer, d), "cycles", True, 1e-7, code=self.code)


class Told:
    """`Jobs` or `Costs` whose results travel as plain data, as a cluster wants them."""

    compiles = False

    def __init__(self, evaluate=None):
        self._evaluate = evaluate or Jobs()

    def __call__(self, job):
        return self._evaluate(job)

    def pack(self, value):
        return vars(value) if isinstance(value, Outcome) else value

    def unpack(self, job, data, folder):
        return Outcome(**data) if isinstance(data, dict) else data
