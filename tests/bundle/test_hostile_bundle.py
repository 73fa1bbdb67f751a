"""A bundle comes from anybody: whatever an archive or a manifest holds, `ship` takes it whole or says what is wrong."""

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile

import pytest

from tests.support.memory import peak_below
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.errors import TvmMobilenetError

FILES = {"mobilenet": b"program", "libmobilenet.so": b"library", "weights.bin": b"weights" * 100}
GOOD = {"format": 1, "id": "f1a81470e7c60ccc", "name": "mobilenet-v1-rpi4"}


def listed(files: dict) -> dict:
    return {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()}


def sealed(manifest, files=FILES, text: bytes | None = None) -> dict:
    """Files with a manifest and its hash, as somebody who knows the format makes them."""
    text = json.dumps(manifest).encode() if text is None else text
    return {**files, "manifest.json": text, "manifest.sha256": hashlib.sha256(text).hexdigest().encode() + b"  x\n"}


def whole(**changes) -> dict:
    files = changes.pop("files", FILES)
    return sealed({**GOOD, "files": listed(files), **changes}, files)


def entry(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


def archive(path, files: dict, extra=(), pack_it=gzip.compress):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for made, data in [*(entry(f"x/{n}", d) for n, d in files.items()), *extra]:
            tar.addfile(made, io.BytesIO(data))
    path.write_bytes(pack_it(out.getvalue()))
    return path


def test_a_bundle_is_read_from_a_folder_a_tar_and_a_tar_gz(tmp_path):
    files = whole()
    folder = tmp_path / "x"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    again = tmp_path / "again.tar"  # as `tar -cf again.tar x` packs a folder
    subprocess.run(["tar", "-C", tmp_path, "-cf", again, "./x"], check=True)
    packed = archive(tmp_path / "a.tar.gz", files)
    plain = archive(tmp_path / "a.tar", files, pack_it=bytes)
    assert all(pack.read(p).files == files for p in (folder, again, packed, plain))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (entry("../../../../tmp/pwn", b"pwn"), "outside of the bundle"),
        (entry("/tmp/pwn", b"pwn"), "outside of the bundle"),
        (entry("x/weights.txt", type=tarfile.SYMTYPE, linkname="/etc/shadow"), "not a plain file"),
        (entry("x/weights.txt", type=tarfile.LNKTYPE, linkname="x/weights.bin"), "not a plain file"),
        (entry("x/dev", type=tarfile.CHRTYPE), "not a plain file"),
        (entry("x/fifo", type=tarfile.FIFOTYPE), "not a plain file"),
        (entry("x/mobilenet", b"evil"), "in it twice"),
        (entry("x/y/mobilenet", b"evil"), "in it twice"),
    ],
)
def test_members_that_no_bundle_has_are_refused(tmp_path, extra, words):
    with pytest.raises(TvmMobilenetError, match=words) as e:
        pack.read(archive(tmp_path / "b.tar.gz", whole(), [extra]))
    assert e.value.exit_code == 2


def header(kind: bytes, data: bytes) -> bytes:
    """What stands before a member: a long name, attributes."""
    made = tarfile.TarInfo("x")
    made.type, made.size = kind, len(data)
    return made.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


FOLDER = tarfile.TarInfo("x")
FOLDER.type = tarfile.DIRTYPE
BEFORE = {  # made by the test that needs them: some are megabytes
    "attributes without end": lambda: header(tarfile.XHDTYPE, b"".join(b"11 %06x=\n" % i for i in range(1_000_000))),
    "attributes of all": lambda: header(tarfile.XGLTYPE, b"".join(b"11 %06x=\n" % i for i in range(1_000_000))),
    "a name of megabytes": lambda: header(tarfile.GNUTYPE_LONGNAME, b"a/" * 5_000_000),
    "a link of megabytes": lambda: header(tarfile.GNUTYPE_LONGLINK, b"a/" * 5_000_000),
    "names of names": lambda: header(tarfile.GNUTYPE_LONGNAME, b"a") * 20_000,
    "folders without end": lambda: FOLDER.tobuf() * 20_000,
    "a size below nothing": lambda: (
        tarfile.TarInfo("x").tobuf()[:124] + b"\xff" * 12 + tarfile.TarInfo("x").tobuf()[136:]
    ),
    "a map of a sparse file": lambda: header(tarfile.GNUTYPE_SPARSE, b""),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_what_stands_before_a_member_is_bounded(tmp_path, kind):
    path = tmp_path / "b.tar.gz"
    path.write_bytes(gzip.compress(BEFORE[kind]() + tarfile.TarInfo("x/y").tobuf() + bytes(1024), 1))
    with peak_below(30 << 20), pytest.raises(TvmMobilenetError, match="not a whole bundle") as e:
        pack.read(path)
    assert e.value.exit_code == 2 and len(str(e.value)) < 600


MANIFESTS = {
    "a list": sealed([]),
    "null": sealed(None),
    "files is a list": whole(files={}) | sealed({**GOOD, "files": []}),
    "files null": sealed({**GOOD, "files": None}),
    "files absent": sealed(GOOD),
    "an entry is a number": sealed({**GOOD, "files": {n: 5 for n in FILES}}),
    "a hash is a number": sealed({**GOOD, "files": {n: {"bytes": 7, "sha256": 5} for n in FILES}}),
    "wrong size": sealed({**GOOD, "files": {n: {**e, "bytes": 10**30} for n, e in listed(FILES).items()}}),
    "no program": whole(files={"weights.bin": b"w", "libmobilenet.so": b""}),
    "a file that is not there": sealed({**GOOD, "files": {**listed(FILES), "more": listed({"more": b""})["more"]}}),
    "format true": whole(format=True),
    "format 2": whole(format=2),
    "format 1.0": whole(format=1.0),
    **{f"name {name!r}": whole(name=name) for name in
       (7, None, "", "../../e", "/abs", "a\nb", "n" * 300, "-rf", ".", "$(touch x)", "a b", "\x1b[2J")},
    **{f"id {name!r}": whole(id=name) for name in (5, None, "", "../../../x", "a\nb", "$(touch x)`touch x`", "G" * 16)},
    **{f"file {name!r}": whole(files={**FILES, name: b"x"}) for name in
       (".hidden", "-rf", "x y", "q'uote", "\x1b]0;x", "a\nb", "$(id)")},
    "keys twice": sealed(None, text=(json.dumps({**GOOD, "files": listed(FILES)})[:-1] + ', "id": "0" }').encode()),
    "nested deeply": sealed(None, text=b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "no UTF-8": sealed(None, text=b"\xff\xfe{}"),
    "NaN": sealed(None, text=json.dumps({**GOOD, "files": listed(FILES), "x": float("nan")}).encode()),
    "a huge number": sealed(None, text=b'{"format":' + b"9" * 10_000 + b"}"),
    "no hash": {k: v for k, v in whole().items() if k != "manifest.sha256"},
    "another hash": {**whole(), "manifest.sha256": b"0" * 64},
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_describes_no_bundle_is_refused(tmp_path, kind):
    with pytest.raises(TvmMobilenetError, match="not a whole bundle"):
        pack.read(archive(tmp_path / "b.tar.gz", MANIFESTS[kind]))


def test_damaged_archives_are_refused(tmp_path):
    path = archive(tmp_path / "b.tar.gz", whole())
    data = path.read_bytes()
    for broken in (
        b"",
        b"hello",
        data[: len(data) // 2],
        data[:20],
        b"\x1f\x8b" + b"x" * 100,
        gzip.compress(b"x" * 2000),
    ):
        path.write_bytes(broken)
        with pytest.raises(TvmMobilenetError, match="not a whole bundle"):
            pack.read(path)


def test_a_link_in_a_folder_is_refused(tmp_path):
    for name, data in whole().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "weights.bin").rename(tmp_path / "elsewhere")
    (tmp_path / "weights.bin").symlink_to("elsewhere")
    with pytest.raises(TvmMobilenetError, match="is a link"):
        pack.read(tmp_path)


def zeros(path, size: int) -> None:
    """A whole bundle, then so many zeros in one file."""
    with gzip.open(path, "wb", compresslevel=1) as out, tarfile.open(fileobj=out, mode="w|") as tar:
        for name, data in whole().items():
            tar.addfile(*(lambda made, data: (made, io.BytesIO(data)))(*entry(f"x/{name}", data)))
        made = tarfile.TarInfo("x/zeros")
        made.size = size
        tar.addfile(made, Zeros(size))


class Zeros(io.RawIOBase):
    def __init__(self, size: int):
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left) if size >= 0 else self.left
        self.left -= size
        return bytes(size)


def sparse(path, size: int) -> None:
    """A file of so many bytes that has none of them, as GNU tar writes it."""
    hole = path.with_suffix(".hole")
    with hole.open("wb") as file:
        file.truncate(size)
    subprocess.run(["tar", "-C", path.parent, "--sparse", "-czf", path, hole.name], check=True)


def long_header(path, size: int) -> None:
    """A header that announces a name of so many bytes, all of them there, compressed."""
    made = tarfile.TarInfo("././@LongLink")
    made.type, made.size = tarfile.GNUTYPE_LONGNAME, size
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(made.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            out.write(bytes(1 << 20))


def pax_header(path, size: int) -> None:
    made = tarfile.TarInfo("x/pax")
    made.type, made.size = tarfile.XHDTYPE, size
    members = [gzip.compress(made.tobuf(tarfile.USTAR_FORMAT)), *[gzip.compress(bytes(1 << 20))] * (size >> 20)]
    path.write_bytes(b"".join(members))


_READ = """
import resource, sys
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.errors import TvmMobilenetError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pack.read(sys.argv[1])
except TvmMobilenetError as e:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, e.message)
"""


@pytest.mark.parametrize(
    "bomb", [pax_header, *(pytest.param(b, marks=pytest.mark.full) for b in (zeros, sparse, long_header))]
)
def test_a_bomb_ends_in_a_message_before_it_fills_memory(tmp_path, bomb):
    path = tmp_path / "bomb.tar.gz"
    bomb(path, 1 << 40 if bomb is sparse else 400 << 20)
    done = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, text=True, timeout=120)
    kilobytes, _, words = done.stdout.partition(" ")
    assert "not a whole bundle" in words, done.stderr
    assert int(kilobytes) < 250_000, "KiB that reading took"
