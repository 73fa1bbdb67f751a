"""The table of CPU-seconds: a file's tests count with the processes that they start, in whichever worker they run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cpu_time import table

ROOT = Path(__file__).resolve().parents[1]
BURN = "import time\nwhile time.process_time() < 0.5: pass"
CONFTEST = """
from tests.support.cpu_time import CpuTimes
def pytest_addoption(parser):
    parser.addoption("--cpu-times", action="store_true")
def pytest_configure(config):
    config.pluginmanager.register(CpuTimes(), "cpu_times")
"""


def test_files_are_added_up_and_marked_where_they_take_more():
    tests = {"tests/test_a.py::test_x[1]": 1.0, "tests/test_a.py::test_x[2]": 2.0, "tests/test_b.py::test_y": 7.0}
    lines = table(tests, 11.5, {"all": 11, "others": 5, "test_b": 8})
    found = {line.split()[0]: (line.split()[-1] == "budget", re.findall(r"[\d.]+", line)) for line in lines[1:]}
    assert found["test_a"] == (False, ["3.0", "5"]) and found["test_b"] == (False, ["7.0", "8"])
    assert found["all"] == (True, ["11.5", "11"]) and found["(importing,"] == (False, ["1.5", "5"])


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.full), "2"])
def test_processes_that_tests_start_count(tmp_path, workers):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in "ab":
        start = f"import subprocess, sys\ndef test():\n    subprocess.run([sys.executable, '-c', {BURN!r}])\n"
        (tmp_path / f"test_{name}.py").write_text(start)
    command = [sys.executable, "-m", "pytest", "-n", workers, "--cpu-times", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    seconds = {name: float(s) for name, s in re.findall(r"^(test_\w|all) +([\d.]+)", done.stdout, re.MULTILINE)}
    assert seconds.keys() == {"test_a", "test_b", "all"}, done.stdout + done.stderr
    assert min(seconds["test_a"], seconds["test_b"]) >= 0.5 and seconds["all"] > seconds["test_a"] + seconds["test_b"]
