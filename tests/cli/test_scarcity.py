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
from tvm_mobilenet.errors import BoardError
from tvm_mobilenet.files import user_cache


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
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


@pytest.mark.full
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("ulimit -v 500000", 2, "not enough memory: 488 MiB"),
        ("ulimit -n 10", 2, "ulimit -n 1024"),
        ("unset HOME", 0, ""),
        ("export TMPDIR=/proc/missing", 0, ""),
    ],
)
def test_build_where_something_is_lacking(tmp_path, command, code, words):
    build = [sys.executable, "-m", "tvm_mobilenet.build", "--model", modules.tiny_options().model, "--target", "host"]
    build += ["--output", str(tmp_path / "out"), "--bundle", str(tmp_path / "b.tar.gz")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG")}
    done = subprocess.run(
        ["sh", "-c", f"{command}; exec {shlex.join(build)}"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(os.listdir(tmp_path)) == ([] if code else ["b.tar.gz", "out"])
