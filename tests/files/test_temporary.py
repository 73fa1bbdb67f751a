"""Folders that a killed process leaves: the next run removes them, and only them; what was replaced is old or new."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.support.agents import needs_root
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import temporary, whole_file
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import replacing, replacing_folder, write_whole

FILES = 3


def write(folder: Path, number: int) -> None:
    with replacing_folder(folder) as new:
        for name in range(FILES):
            (new / f"{name}").write_text(f"{number}\n" * 1000)


def read(folder: Path) -> int:
    """Of which writing a folder is; it must be whole."""
    texts = {(folder / f"{name}").read_text() for name in range(FILES)}
    assert len(texts) == 1 and len(os.listdir(folder)) == FILES
    number = int(next(iter(texts)).split("\n")[0])
    assert texts == {f"{number}\n" * 1000}
    return number


def in_child(work) -> int:
    """A process that runs this and nothing after it; its exit code is 0 where that returns."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_a_folder_is_old_or_new_whenever_its_writer_is_killed(tmp_path):
    """And what one killed writer leaves is removed by the next."""
    folder, rng, seen = tmp_path / "bundle", random.Random(1), set()
    write(folder, 0)

    def again(told: int):
        for number in range(1, 1_000_000):
            write(folder, number)
            os.write(told, b".")

    for _ in range(20):
        hears, told = os.pipe()
        child = in_child(lambda told=told: again(told))
        for _ in range(rng.randrange(1, 4)):
            os.read(hears, 1)
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(hears)
        os.close(told)
        seen.add(read(folder))
        assert len(os.listdir(tmp_path)) <= 2
    assert len(seen) > 1
    write(folder, 0)
    assert os.listdir(tmp_path) == ["bundle"]


def test_two_writers_at_once_leave_one_of_both(tmp_path):
    folder = tmp_path / "bundle"
    children = [in_child(lambda n=n: [write(folder, n) for _ in range(50)]) for n in (1, 2)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert read(folder) in (1, 2) and os.listdir(tmp_path) == ["bundle"]


def killed_between_the_steps(folder: Path) -> None:
    """A process that was killed while a folder had its old name no more, and the new one not yet."""

    class Nothing:
        def __init__(self, *args, **kwargs): ...

    def work():
        whole_file.ctypes.CDLL = Nothing
        steps, real = iter(range(2)), Path.rename
        Path.rename = lambda old, new: real(old, new) if next(steps) < 1 else os.kill(os.getpid(), signal.SIGKILL)
        write(folder, 2)

    assert os.waitpid(in_child(work), 0)[1] == signal.SIGKILL
    assert not folder.exists()


def test_where_folders_cannot_be_swapped_the_next_run_puts_the_old_one_back(tmp_path):
    folder = tmp_path / "bundle"
    write(folder, 1)
    killed_between_the_steps(folder)
    with pytest.raises(ZeroDivisionError), replacing_folder(folder):
        assert read(folder) == 1
        raise ZeroDivisionError
    assert read(folder) == 1 and os.listdir(tmp_path) == ["bundle"]
    killed_between_the_steps(folder)
    write(folder, 3)
    assert read(folder) == 3 and os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "a.b", ".hidden"])
def test_names_of_any_length(tmp_path, name):
    write_whole(tmp_path / name, "first", "--html")
    write_whole(tmp_path / name, "second", "--html")
    assert (tmp_path / name).read_text() == "second" and os.listdir(tmp_path) == [name]


def test_what_a_killed_writer_of_a_file_leaves_is_removed_by_the_next(tmp_path):
    path, other = tmp_path / "report.html", tmp_path / "other"
    path.write_text("old")
    other.mkdir()

    def work():
        with replacing(path) as new:
            new.unlink()  # as linkers do
            new.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(work), 0)
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 3
    with replacing(path) as alive:  # of this process, which lives
        alive.write_text("new")
        (tmp_path / ".report.html.0123456789abcdef.tmp").symlink_to(other)
        write_whole(path, "between", "--html")
        assert alive.exists() and path.read_text() == "between"
    assert path.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == [".report.html.0123456789abcdef.tmp", "other", "report.html"]


@needs_root
def test_a_folder_that_may_not_be_written_is_replaced_by_its_owner(tmp_path):
    place = Path(tempfile.mkdtemp(prefix="tvm_mobilenet_test_", dir="/tmp"))  # others can reach it
    try:
        os.chown(place, 65534, 65534)

        def work():
            os.setgid(65534)
            os.setuid(65534)
            write(place / "bundle", 1)
            (place / "bundle").chmod(0o555)
            write(place / "bundle", 2)
            assert read(place / "bundle") == 2 and os.listdir(place) == ["bundle"]
            assert (place / "bundle").stat().st_mode & 0o777 == 0o555

        assert os.waitpid(in_child(work), 0)[1] == 0
    finally:
        temporary.remove(place)


KILLED = "import os; from tvm_mobilenet.files.temporary import TemporaryFolder as T; a = T(); b = T(); "
KILLED += "(b.path / 'x').write_text('x'); print(a.path, b.path, flush=True); input()"


@pytest.fixture
def without_a_folder(monkeypatch):
    """As a process that has no temporary folder yet, whatever the tests before have left alive in this one."""
    place = temporary._Place()
    monkeypatch.setattr(temporary, "_PLACE", place)
    monkeypatch.setattr(temporary, "inside", place.inside)


@pytest.mark.usefixtures("without_a_folder")
def test_temporary_folders_of_killed_runs_are_removed_by_the_next(tmp_path, monkeypatch):
    """A process has one, in which all others lie."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for name in ("tvm_mobilenet-run-mine", "tvm_mobilenet-agent-0123456789abcdef"):
        (tmp_path / name).mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "text": True}
    killed, alive = (subprocess.Popen([sys.executable, "-c", KILLED], **pipes) for _ in range(2))
    left, kept = (set(process.stdout.readline().split()) for process in (killed, alive))
    killed.kill()
    killed.wait()
    assert len(left) == len(kept) == 2 and left | kept == set(map(str, tmp_path.glob("tvm_mobilenet-run-*/*")))
    left, kept = ({str(Path(one).parent) for one in ones} for ones in (left, kept))
    assert len(left) == len(kept) == 1
    with TemporaryFolder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        there = set(map(str, tmp_path.iterdir()))
        assert not left & there and kept <= there and len(there) == 2 + 1 + 1
        os.waitpid(in_child(lambda: sys.exit()), 0)  # ends what it inherits, and removes nothing of it
        assert folder.is_dir()
    assert not folder.exists()
    alive.communicate("")
    assert sorted(os.listdir(tmp_path)) == ["tvm_mobilenet-agent-0123456789abcdef", "tvm_mobilenet-run-mine"]


def test_a_folder_is_removed_after_the_processes_that_write_to_it(tmp_path):
    """Else they make it again, and it stays."""
    folder = tmp_path / f"tvm_mobilenet-run-{'0' * 16}" / "one"
    folder.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "600"], process_group=0)
    temporary.remove_after_group(process.pid, folder)
    time.sleep(0.3)
    assert folder.exists()
    process.kill()
    process.wait()
    end = time.monotonic() + 120
    while list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_a_folder")
def test_a_temporary_folder_lies_in_what_is_being_made(tmp_path, monkeypatch):
    """So a process that is killed leaves one folder; and what is made never holds it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with replacing_folder(tmp_path / "made") as new:
        kept, folder = TemporaryFolder(), TemporaryFolder()
        assert kept.path.parent == folder.path.parent == new and not os.listdir(tmp_path / "tmp")
        folder.close()
        assert os.listdir(new) == [kept.path.name]
        (new / "file").touch()
        seen = []
        other = threading.Thread(target=lambda: seen.append(TemporaryFolder()))  # nobody else's
        other.start()
        other.join()
        assert seen[0].path.is_relative_to(tmp_path / "tmp")
    assert os.listdir(tmp_path / "made") == ["file"] and sorted(os.listdir(tmp_path)) == ["made", "tmp"]
    kept.close()
    seen.pop().close()
    assert not os.listdir(tmp_path / "tmp")


def test_without_a_place_for_temporary_files(tmp_path, monkeypatch):
    """A TMPDIR that is missing is passed over by Python; where nothing else can be written either, that is told."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(TvmMobilenetError, match=r"no temporary folder can be made[\s\S]*set TMPDIR"):
        TemporaryFolder()
