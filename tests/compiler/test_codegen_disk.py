"""Objects on a disk that is full."""

import errno
from pathlib import Path

import pytest

from tvm_mobilenet.compiler import codegen


class Object:
    """What LLVM writes, which ends the process where it cannot."""

    def write_to_file(self, path, fmt=""):
        assert fmt == "o" and path.startswith("/proc/self/fd/")
        Path(path).write_bytes(b"x" * 100_000)


def test_an_object_that_has_no_room_is_an_error_and_no_end(tmp_path):
    codegen._write(Object(), tmp_path / "a.o")
    assert (tmp_path / "a.o").stat().st_size == 100_000
    with pytest.raises(OSError) as e:
        codegen._write(Object(), Path("/dev/full"))
    assert e.value.errno == errno.ENOSPC
