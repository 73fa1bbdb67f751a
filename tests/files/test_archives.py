"""Archives of anybody: the list of members is bounded before each of them becomes an object."""

import io
import struct
import zipfile

import pytest

from tests.support.memory import peak_below
from tvm_mobilenet.boards import answers
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import archives
from tvm_mobilenet.frontend import files
from tvm_mobilenet.models.weights import read_state_dict


def listing(count: int) -> bytes:
    """A zip that is a list of so many members, and nothing else."""
    one = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    few = min(count, 0xFFFF)
    return one * count + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, count * len(one), 0, 0)


def test_an_archive_is_opened_as_zipfile_does():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for i in range(300):
            new.writestr(f"folder/{i}", bytes([i % 256]) * 1000)
        new.comment = b"c" * 60_000
    with archives.opened(out) as archive:
        assert len(archive.infolist()) == 300 and archive.read("folder/299") == bytes([43]) * 1000
    for data in (b"", b"PK", out.getvalue()[:-61_000], bytes(1 << 20)):
        with pytest.raises(zipfile.BadZipFile):
            archives.opened(io.BytesIO(data))


@pytest.mark.parametrize("count", [20_001, 200_000])
def test_members_without_end_are_refused_wherever_archives_are_read(tmp_path, count):
    with peak_below(60 << 20):
        with pytest.raises(archives.TooMany):
            archives.opened(io.BytesIO(listing(count)))
        for name in ("w.pth", "m.pt"):
            path = tmp_path / name
            path.write_bytes(listing(count))
            with pytest.raises(TvmMobilenetError, match="members"):
                read_state_dict(path)
            with pytest.raises(TvmMobilenetError, match="holds weights"):
                files.kind_of(path)
        with pytest.raises(TvmMobilenetError, match="cannot be read"):
            answers.arrays(path, {"x": ((1,), "float32")}, "board")
