"""A build replaces its own files in one step and keeps everybody else's; one process at a time does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agents import needs_root
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import lock
from tvm_mobilenet.files.own_files import replacing_own

OWN = ("a", "b", "gone", "plan")


def made(folder: Path, text: str) -> None:
    with replacing_own(folder, OWN, "plan") as new:
        for name in ("a", "b", "plan"):
            (new / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "deep" / "out"
    made(folder, "old")
    (folder / "gone").write_text("of an option that is not given again")
    return folder


NEW, OLD = dict.fromkeys(("a", "b", "plan"), "new"), dict.fromkeys(("a", "b", "plan"), "old")


def test_files_are_replaced_together_and_whoever_has_the_old_ones_keeps_them(folder):
    with open(folder / "a") as running:
        os.utime(folder / "a", (0, 0))
        made(folder, "new")
        assert running.read() == "old" and contents(folder) == NEW
    assert [p.name for p in folder.parent.iterdir()] == ["out"], "nothing is left beside it"


@pytest.mark.parametrize("stays", ["", "the current folder", "it holds folders"])
def test_what_somebody_else_put_there_stays(folder, stays, monkeypatch):
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to("notes.txt")
    before, notes = folder.stat().st_ino, (folder / "notes.txt").stat().st_ino
    if stays == "the current folder":
        monkeypatch.chdir(folder)
    elif stays:
        (folder / "bundle").mkdir()
        (folder / "bundle" / "weights.bin").write_text("mine")
        (folder / f".new-{'0' * 16}").mkdir()
    made(folder, "new")
    assert contents(folder) == NEW | {"notes.txt": "mine", "link": "mine"} and (folder / "link").is_symlink()
    assert (folder / "notes.txt").stat().st_ino == notes, "the very file, not a copy"
    assert (folder.stat().st_ino == before) == bool(stays)
    assert stays != "it holds folders" or (folder / "bundle" / "weights.bin").read_text() == "mine"
    assert not list(folder.glob(".new-*")) and [p.name for p in folder.parent.iterdir()] == ["out"]


@needs_root
def test_a_folder_at_which_another_is_mounted_is_written_file_by_file(tmp_path):
    """A volume of a container is one: it cannot be exchanged, and lies on the same file system."""
    source, place = tmp_path / "with a blank", tmp_path / "place of it"
    source.mkdir()
    place.mkdir()
    mounted = subprocess.run(["mount", "--bind", source, place], capture_output=True, text=True)
    if mounted.returncode and not os.environ.get("TVM_MOBILENET_CI"):
        pytest.skip(f"this system mounts no folder at another: {mounted.stderr}")
    assert not mounted.returncode, mounted.stderr
    try:
        for text in ("old", "new"):
            made(place, text)
        assert contents(place) == contents(source) == NEW
    finally:
        subprocess.run(["umount", place], check=True)


def test_where_files_have_one_name_only_they_stay_all_the_same(folder, monkeypatch):
    """On a memory stick, say."""
    (folder / "notes.txt").write_text("mine")

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    made(folder, "new")
    assert contents(folder) == NEW | {"notes.txt": "mine"}
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("stays", [False, True])
def test_a_failure_leaves_all_as_it_was(folder, stays):
    if stays:
        (folder / "bundle").mkdir()
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(OSError, match="No space"), replacing_own(folder, OWN, "plan") as new:
        (new / "a").write_text("half")
        raise OSError(28, "No space left on device")
    assert contents(folder) == before and not list(folder.glob(".*"))
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


# ---- the lock

HOLD = """
import sys, time
from tvm_mobilenet.files import lock
with lock.held(sys.argv[1], "built (of another)", "--output"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_is_being_built_is_refused_until_that_process_ends_or_is_killed(tmp_path):
    """Its message names the process; a lock that a killed process left is nobody's."""
    folder = tmp_path / "deep" / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        try:
            with pytest.raises(TvmMobilenetError) as told, lock.held(folder, "built", "--output"):
                pytest.fail("two at once")
            said = told.value
            assert said.message == f"{folder} is being built (of another) by process {other.pid}"
            assert said.hint == "wait until it has ended, or give another --output" and said.exit_code == 2
            with lock.held(tmp_path / "deep" / "another", "built", "--output"):
                pass
        finally:
            other.send_signal(signal.SIGKILL)
    assert (folder.parent / ".out.lock").exists(), "left by the killed process"
    with lock.held(folder, "built", "--output"):
        assert f"by process {os.getpid()}" in (folder.parent / ".out.lock").read_text()
    assert not list(folder.parent.iterdir())
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path / "new" / "er" / "out", "built", "--output"):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists(), "nothing was built: no folder is left of it"


def test_a_lock_never_follows_a_link_nor_hides_why_it_cannot_be_made(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".out.lock").symlink_to("victim")
    with (
        pytest.raises(TvmMobilenetError, match=r"cannot write to .*out: "),
        lock.held(tmp_path / "out", "", "--output"),
    ):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
    with (
        pytest.raises(TvmMobilenetError, match="cannot write to"),
        lock.held(tmp_path / "victim" / "x" / "y", "", "--output"),
    ):
        pass
