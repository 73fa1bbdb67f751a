"""Too little of something: memory, open files, a home, a place for temporary files. It is named, with what to do."""

import argparse
import errno
import os
import shlex
import subprocess
import sys

import pytest

from tests.support import modules
from tvm_mobilenet.cli import entry
from tvm_mobilenet.cli.verbs import verbs
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import user_cache


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (OSError(errno.ENFILE, "Too many open files in system"), "close other programs"),
        (OSError(errno.EMFILE, "Too many open files", "weights.bin"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "weights.bin"), "make room"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ulimit -v"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("std::bad_alloc"), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "not enough memory",
        ),
    ],
)
def test_what_the_system_lacks_is_no_bug(error, words, capsys):
    def run(args):
        raise error

    assert entry.run_verb(argparse.ArgumentParser(prog="tvm_mobilenet.x"), run, []) == 2
    told = capsys.readouterr().err
    assert words in told and "most likely" not in told and len(told.splitlines()) == 2


def test_another_error_is_a_bug_still(capsys):
    def run(args):
        raise AttributeError("nonsense")

    assert entry.run_verb(argparse.ArgumentParser(prog="tvm_mobilenet.x"), run, []) == 1
    assert "a bug, most likely" in capsys.readouterr().err


def test_zig_has_a_cache_where_the_user_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(user_cache, "folder", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert "ZIG_GLOBAL_CACHE_DIR" not in user_cache.zig_environment()
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert user_cache.zig_environment()["ZIG_GLOBAL_CACHE_DIR"] == str(tmp_path / "zig")
    monkeypatch.delenv("HOME")
    assert user_cache.zig_environment()["ZIG_GLOBAL_CACHE_DIR"] == str(tmp_path / "zig")
    monkeypatch.setenv("HOME", "/proc/nothing")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    assert user_cache.zig_environment()["ZIG_GLOBAL_CACHE_DIR"] == str(tmp_path / "zig")
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", "/mine")
    assert user_cache.zig_environment()["ZIG_GLOBAL_CACHE_DIR"] == "/mine"


def test_a_user_without_any_home(tmp_path, monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(user_cache.Path, "home", none)
    monkeypatch.setattr(user_cache.tempfile, "tempdir", str(tmp_path))
    assert user_cache.folder() == tmp_path / f"tvm_mobilenet-{os.getuid()}"
    monkeypatch.setattr(user_cache.tempfile, "tempdir", str(tmp_path / "missing/none"))
    monkeypatch.setattr(user_cache.Path, "mkdir", lambda *args, **kwargs: none_can_be_made())
    with pytest.raises(BoardError, match="no folder to keep compiled code in"):
        user_cache.folder()


def none_can_be_made():
    raise PermissionError(errno.EACCES, "Permission denied")


LACKING = {
    "ulimit -n 18": "18 open files are all that this process may have\n  raise the limit of open files: ulimit -n",
    "ulimit -f 100": "51,200 bytes are all that this process may write to a file\n  raise the limit of a file's size",
    "mkdir gone; cd gone; rmdir ../gone": "there is no working directory: no such file or directory\n  cd to a folder",
    "ulimit -v 100000": "not enough memory: 97 MiB are all that this process may have\n  close other programs, or",
}


def told(command: str, *words: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    script = f"{command}; exec {shlex.join([sys.executable, *words])}"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("number", range(len(verbs())), ids=list(verbs()))
def test_every_verb_says_what_it_cannot_begin_without(tmp_path, monkeypatch, number):
    """Each with one of them in turn: libraries that it imports end the process without a word, or in the middle."""
    monkeypatch.chdir(tmp_path)
    command, words = list(LACKING.items())[number % len(LACKING)]
    done = told(command, "-m", f"tvm_mobilenet.{list(verbs())[number]}", "--help")
    assert done.returncode == 2 and not done.stdout and done.stderr.startswith("error: ") and words in done.stderr, done
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", LACKING)
def test_so_does_the_command_of_an_installation(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code = "import sys; from tvm_mobilenet.__main__ import main; sys.exit(main(['complexity', '--help']))"
    done = told(command, "-c", code)
    assert done.returncode == 2 and not done.stdout and LACKING[command] in done.stderr, done


def test_soft_limits_are_raised(tmp_path):
    code = "import resource as r, tvm_mobilenet.packages as p; p.started_as_a_verb(); "
    code += "print(*r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_FSIZE)[0])"
    soft, hard, size = map(int, told("ulimit -Sn 20; ulimit -Sf 1", "-c", code).stdout.split())
    assert soft == 64 and hard >= soft and size == 4 << 20


@pytest.mark.full
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("ulimit -v 500000", 2, "not enough memory: 488 MiB"),
        ("ulimit -n 10", 2, "ulimit -n 1024"),
        ("touch $TMPDIR/home; export HOME=$TMPDIR/home", 0, ""),  # as without one: zig makes its files anew
        ("ulimit -n 64; export TMPDIR=/proc/missing", 0, ""),
    ],
)
def test_build_where_something_is_lacking(tmp_path, command, code, words):
    build = [sys.executable, "-m", "tvm_mobilenet.build", "--model", modules.tiny_options().model, "--target", "host"]
    build += ["--output", str(tmp_path / "out"), "--bundle", str(tmp_path / "b.tar.gz")]
    temporary = tmp_path.with_name(f"{tmp_path.name}-tmp")
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG")} | {"TMPDIR": str(temporary)}
    done = subprocess.run(
        ["sh", "-c", f"{command}; exec {shlex.join(build)}"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(os.listdir(tmp_path)) == ([] if code else ["b.tar.gz", "out"])
    assert set(os.listdir(temporary)) <= {"home", f"tvm_mobilenet-{os.getuid()}"}  # a cache where there is no home
