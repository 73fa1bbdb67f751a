"""Evaluators for the tests of clusters, which their workers import."""

import os
import time

from tvm_mobilenet.tune_logs.journal import typed

from tests.support.fake_board import Told
from tvm_mobilenet.tuning.candidate import Outcome


class Claims(Told):
    """Says that its process compiles with something; needs no TVM for that."""

    compiles = True

    def __init__(self, said: dict):
        super().__init__()
        self.said = said

    def prepare(self):
        from tvm_mobilenet.cluster import facts

        facts.of_compiler = lambda: self.said


class Sized(Told):
    """Costs what its job says; whoever makes the file first sends something else once."""

    def __init__(self, file: str, sent: object):
        super().__init__()
        self.file, self.sent = file, sent

    def __call__(self, job):
        return Outcome(float(job), "cycles", True, 1e-7)

    def pack(self, outcome):
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return vars(outcome)
        return self.sent

    def unpack(self, job, data, folder):
        return Outcome(**typed(Outcome, data))


class Hungry(Told):
    """Takes as many MiB as its job says, and a while."""

    def __call__(self, job):
        block = bytearray(job << 20)
        block[::4096] = b"1" * len(block[::4096])
        time.sleep(3.0 if job > 100 else 0)
        return len(block) >> 20


class Slow(Told):
    """Takes a while; says which process took it, and adds a line to a file when it begins."""

    def __init__(self, file: str, seconds: float = 0.3):
        super().__init__()
        self.file, self.seconds = file, seconds

    def __call__(self, job):
        with open(self.file, "a") as file:
            file.write(f"{job}\n")
        time.sleep(self.seconds)
        return os.getpid()
