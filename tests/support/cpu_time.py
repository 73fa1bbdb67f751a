"""CPU-seconds of every test file beside a budget: user and system time of the workers and of the processes that tests
start, printed when a run is over.

It is a report: no test fails by time. CI prints it, and `--cpu-times` does with the dearest tests by name. A process
that nobody waits for, such as an agent that `sshd` started, is not counted.
"""

import os
import resource
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

BUDGET = Path(__file__).parents[1] / "budget.toml"
SENT = "tvm_mobilenet_cpu_times"  # a worker's figures on their way to the process that prints
DEAREST = 100


def spent(*who: int) -> float:
    """CPU-seconds of this process and of those it started and waited for, or of one of both."""
    used = [resource.getrusage(w) for w in who or (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


class CpuTimes:
    """Measures the tests of this process; in the process that the user started, adds up those of its workers."""

    def __init__(self):
        self.tests: dict[str, float] = defaultdict(float)  # CPU-seconds by node id
        self.workers = 0.0  # all that workers spent, importing the tests included

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        before = spent()
        try:
            return (yield)
        finally:
            self.tests[item.nodeid] += spent() - before

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[SENT] = {"tests": dict(self.tests), "all": spent()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        sent = getattr(node, "workeroutput", {}).get(SENT)  # a worker that crashed sends nothing
        if sent:
            self.tests.update(sent["tests"])
            self.workers += sent["all"]

    def pytest_terminal_summary(self, terminalreporter, config):
        wanted = config.getoption("cpu_times")
        if not self.tests or not (wanted or os.environ.get("TVM_MOBILENET_CI")):
            return
        everything = self.workers + spent(resource.RUSAGE_SELF) if self.workers else spent()
        terminalreporter.section("CPU-seconds")
        for line in table(self.tests, everything, tomllib.loads(BUDGET.read_text())):
            terminalreporter.write_line(line)
        if wanted:
            for test, seconds in sorted(self.tests.items(), key=lambda x: -x[1])[:DEAREST]:
                terminalreporter.write_line(f"{seconds:8.1f}  {test}")


def table(tests: dict[str, float], everything: float, budget: dict[str, float]) -> list[str]:
    """Lines of a table: each file's CPU-seconds, its budget, and a mark where it takes more."""
    files: dict[str, float] = defaultdict(float)
    for test, seconds in tests.items():
        files[Path(test.partition("::")[0]).stem] += seconds
    files["(importing, starting)"] = everything - sum(files.values())
    rows = [(name, seconds, budget.get(name, budget["others"])) for name, seconds in files.items()]
    rows.sort(key=lambda row: -row[1])
    rows.append(("all", everything, budget["all"]))
    return [f"{'':24}{'seconds':>8}  {'budget':>6}"] + [
        f"{name:24}{seconds:8.1f}  {allowed:6.0f}{'  over its budget' if seconds > allowed else ''}"
        for name, seconds, allowed in rows
    ]
