"""A disk that is full, or a process that is killed, at any call that changes something: old or new, and nothing left.

`tests/support/faulty.py` says which verbs and files. Each call that changes something in their folders fails in a run
of its own: it alone, all that need room from it on, or its process dies in its place.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import bundles, modules
from tests.support.agents import without_torch

SOURCE = Path(__file__).parents[1] / "support" / "c" / "faults.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not shutil.which("gcc") and not os.environ.get("TVM_MOBILENET_CI"):
        pytest.skip("gcc is not installed: apt-get install gcc")
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, SOURCE], check=True)
    return path


def faults(library, folder: Path, scenarios: str, step: int, *modes: str) -> list[dict]:
    (folder / "state").write_bytes(bytes(4096))
    environment = {
        **(os.environ if "build" in scenarios else without_torch()),
        "FAULTS_STATE": str(folder / "state"),
        "FAULTS_ROOT": str(folder / "root"),
        "LD_PRELOAD": str(library),
    }
    command = [sys.executable, "-m", "tests.support.faulty", scenarios, str(step), *modes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(one["scenario"], one["mode"]) for one in found] == [(s, m) for s in scenarios.split(",") for m in modes]
    for one in found:
        assert not one["wrong"], f"{one['scenario']}, {one['mode']}: " + "\n".join(one["wrong"])
        assert set(one["ends"]) - {"old", "new"} <= ({"none"} if one["scenario"] == "within" else set())
    return found


def test_calls_that_write_files_folders_and_logs(library, tmp_path):
    bundles.made()
    found = faults(library, tmp_path, "file,rewrite,bundle", 4, "once", "killed")
    assert sum(one["faults"] for one in found) >= 14, "the disk failed less often than these write"


def told(capsys, found: list[dict]) -> None:
    """The figures of a full run: how many calls failed or killed their process, and what was there afterwards."""
    with capsys.disabled():
        for one in found:
            print(f"\n{one['scenario']}, {one['mode']}: {one['faults']} faults, then {one['ends']}", end="")


@pytest.mark.full
def test_each_call_that_writes_files_folders_and_logs(library, tmp_path, capsys):
    bundles.made()
    scenarios = {"file": 5, "append": 2, "rewrite": 5, "token": 4, "cache": 6, "bundle": 12, "archive": 5, "within": 12}
    found = faults(library, tmp_path, ",".join(scenarios), 1, "once", "full", "killed")
    assert all(one["faults"] >= scenarios[one["scenario"]] for one in found)
    told(capsys, found)


@pytest.mark.full
@pytest.mark.parametrize(("scenario", "step", "least"), [("build", 3, 13), ("ship", 17, 16)])
def test_calls_of_a_whole_build_and_of_a_board(library, tmp_path, capsys, scenario, step, least):
    """A build into a folder with a file of somebody else, and its bundle; all programs of a board's shell."""
    bundles.made()
    modules.tiny()
    found = faults(library, tmp_path, scenario, step, "once", "full", "killed")
    assert all(one["faults"] >= least and "old" in one["ends"] for one in found)
    told(capsys, found)
