"""Images, arrays, labels and checkpoints come from anybody: their sizes are known before there is memory for them."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from tests.support.memory import at_most, peak_below
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.labels import read_labels
from tvm_mobilenet.models.preprocess import Preprocess, load_image
from tvm_mobilenet.models.weights import load_weights, read_state_dict
from tvm_mobilenet.terminal import console
from tvm_mobilenet.terminal.printable import printable, printable_lines

NETWORK = Preprocess((224, 224))


def png(width: int, height: int, lines: bytes = b"") -> bytes:
    """A PNG of grey pixels that declares a size; ``lines``: its compressed content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines or zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def refused(read, words: str) -> str:
    with at_most(1 << 30), pytest.raises(TvmMobilenetError, match=words) as e:
        read()
    assert e.value.exit_code == 2
    return str(e.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png(100_000, 100_000)),
        ("a.png", png((1 << 31) - 1, (1 << 31) - 1)),
        ("a.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0)),
        ("a.ppm", b"P6 60000 60000 255\n"),
        ("a.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;"),
    ],
)
def test_images_with_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    refused(lambda: load_image(tmp_path / name, NETWORK), "cannot be read as an image: .*pixels")


@pytest.mark.parametrize(("width", "height"), [(1, 60_000), (60_000, 1), (3, 20_000)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_a_line_of_pixels_takes_no_gigabytes(tmp_path, width, height, resize):
    """A picture of 1 x 60,000 pixels becomes 224 x 13,440,000 where its proportions are kept."""
    path = tmp_path / "line.png"
    path.write_bytes(png(width, height, zlib.compress((b"\0" + b"\x80" * width) * height)))
    with at_most(1 << 30):
        assert load_image(path, NETWORK.replace(resize=resize)).shape == (1, 3, 224, 224)


def test_kinds_of_images_that_start_other_programs_are_refused(tmp_path):
    path = tmp_path / "a.eps"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(ran) print\n")
    refused(lambda: load_image(path, NETWORK), "no image of a kind that is read")


@pytest.mark.parametrize("cut", [9, 30, 40, 200])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_images_end_in_a_message(tmp_path, kind, cut):
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(out, kind)
    path = tmp_path / f"a.{kind.lower()}"
    data = out.getvalue()
    for broken in (data[:cut], data[:cut] + b"\xff" * 50 + data[cut + 50 :]):
        path.write_bytes(broken)
        try:
            load_image(path, NETWORK)
        except TvmMobilenetError as e:
            assert "cannot be read as an image" in str(e)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def about(descr="'<f4'", shape="(1, 3, 224, 224)", order="False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


class Evil:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(about(shape="(1000000, 1000000)")), "wants 4,000,000,000,000"),
        (npy(about(shape="(-1, 4)")), "cannot be read"),
        (npy(about(shape="(1 << 40,)")), "cannot be read"),
        (npy(about(shape="(10**18, 10**18)")), "cannot be read"),
        (npy(about("'|O'", "(1,)"), b"c__main__\nEvil\n."), "not numbers"),
        (npy(about("[('a', '|O')]", "(1,)")), "holds records"),
        (npy(about("[('a', '<f4')]", "(1,)"), bytes(4)), "holds records"),
        (npy(about("'<c8'", "(1,)"), bytes(8)), "not numbers"),
        (npy(about("'<U9'", "(1,)"), bytes(36)), "not numbers"),
        (npy(about("'|V1000000000'", "(1,)")), "cannot be read"),
        (npy("__import__('os').mkdir('ran')"), "cannot be read"),
        (npy("{" * 5000), "cannot be read"),
        (npy("(" * 5000 + ")" * 5000), "cannot be read"),
        (b"\x93NUMPY\x03\0\xff\xff\xff\xff", "header is too long"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff{", "cannot be read"),
        (b"PK\x03\x04" + bytes(100), "cannot be read"),
        (b"\x80\x04.", "cannot be read"),
        (b"", "cannot be read"),
        (npy(about(), bytes(100)), "has 100 bytes"),
    ],
)
def test_arrays_are_numbers_of_the_size_that_they_declare(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(data)
    refused(lambda: load_image(tmp_path / "a.npy", NETWORK), words)
    assert not (tmp_path / "ran").exists()


def test_pickled_arrays_are_never_unpickled(tmp_path):
    mark = tmp_path / "ran"
    np.save(tmp_path / "a.npy", np.array([Evil(mark)], object), allow_pickle=True)
    refused(lambda: load_image(tmp_path / "a.npy", NETWORK), "not numbers")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Evil(mark)))
    refused(lambda: load_image(tmp_path / "b.npy", NETWORK), "cannot be read")
    assert not mark.exists()


def test_arrays_in_other_orders_are_read(tmp_path):
    given = np.random.default_rng(0).standard_normal(NETWORK.input_shape).astype(np.float32)
    np.save(tmp_path / "a.npy", np.asfortranarray(given))
    np.testing.assert_array_equal(load_image(tmp_path / "a.npy", NETWORK), given)


# ---- labels


@pytest.mark.parametrize("name", ["\x1b[2Jcat", "cat\x07", "\x9b31mcat", "‮tac", "cat\x7f", "cat\x00"])
def test_labels_lose_their_control_characters(tmp_path, name):
    for file, text in (("l.txt", f"dog\n{name}\n"), ("l.json", json.dumps(["dog", name]))):
        (tmp_path / file).write_text(text, encoding="utf-8")
        labels = read_labels(tmp_path / file, 2)
        assert labels[0] == "dog" and labels[1].isprintable() and labels[1].isascii() and "\\" in labels[1]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("l.txt", b"n" * 100_000, "100,000 characters"),
        ("l.txt", b"x\n" * (40 << 20), "more than 64 MiB"),
        ("l.json", b"[" * 200_000, "not a JSON list or object of names"),
        ("l.json", b"[" + b"9" * 10_000 + b"]", "not a JSON list or object of names"),
        ("l.json", b'{"0": {"0": "a"}}', "not a JSON list or object of names"),
        ("l.json", b"5", "not a JSON list or object of names"),
        ("l.txt", b"\x80\x04\x95cos\nsystem\n.", "not text"),
        ("l.txt", b"\n" * 1_000_000, "has 0 names"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    refused(lambda: read_labels(tmp_path / name, 1), words)


def test_a_pipe_is_no_file_of_labels(tmp_path):
    os.mkfifo(tmp_path / "l.txt")
    refused(lambda: read_labels(tmp_path / "l.txt", 1), "named pipe")


# ---- checkpoints


def circle() -> dict:
    state = {}
    state["state_dict"] = state
    return state


def wide_circle() -> dict:
    a, b = {}, {}
    a["model"], b["state_dict"] = b, a
    return a


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (circle(), "contains itself"),
        (wide_circle(), "contains itself"),
        ({0: torch.ones(1)}, "the key 0"),
        ({"state_dict": {("a", 1): torch.ones(1)}}, "the key"),
        ({"w": torch.ones(2, 2).to_sparse()}, "w is sparse"),
        ({"w": torch.ones(2, 2).to_sparse_csr()}, "w is sparse"),
        ({"w": torch.ones(2).to(torch.float8_e4m3fn)}, "w is float8_e4m3fn"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "w is complex64"),
        ({"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, "w is qint8"),
        ({"w": torch.empty(2, device="meta")}, "w is without values"),
        ({"n" * 5000: torch.ones(1)}, "5,000 characters"),
        ([torch.ones(1)], "holds no weights"),
        ({"epoch": 3}, "holds no weights"),
    ],
)
def test_checkpoints_that_are_no_state_dict_say_why(tmp_path, state, words):
    torch.save(state, tmp_path / "c.pth")
    refused(lambda: read_state_dict(tmp_path / "c.pth"), words)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_never_more_than_weights(tmp_path, zipped):
    mark = tmp_path / "ran"
    for state in (Evil(mark), {"w": torch.ones(1), "more": [Evil(mark)]}, {"state_dict": {"w": Evil(mark)}}):
        torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
        refused(lambda: read_state_dict(tmp_path / "c.pth"), "more than weights|torch did not write it")
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Evil(mark)))
    refused(lambda: read_state_dict(tmp_path / "c.pth"), "cannot be read as weights")
    assert not mark.exists()


def test_a_checkpoint_that_unpacks_to_gigabytes_is_refused(tmp_path):
    torch.save({"w": torch.zeros(64 << 20)}, tmp_path / "c.pth")
    with (
        zipfile.ZipFile(tmp_path / "c.pth") as old,
        zipfile.ZipFile(tmp_path / "d.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    refused(lambda: read_state_dict(tmp_path / "d.pth"), "would unpack to")


def test_a_number_spread_over_gigabytes_is_never_written_out(tmp_path):
    """One stored number, a shape of terabytes: torch saves it in a kilobyte."""
    module = torch.nn.BatchNorm2d(4)
    huge = torch.ones(1).expand(1 << 40)
    for name in ("num_batches_tracked", "weight"):
        torch.save({**module.state_dict(), name: huge}, tmp_path / "c.pth")
        assert (tmp_path / "c.pth").stat().st_size < 10_000
        with at_most(1 << 30):
            if name == "weight":
                refused(lambda: load_weights(module, tmp_path / "c.pth"), "weight is 1099511627776, must be 4")
            else:
                load_weights(module, tmp_path / "c.pth")


def test_names_of_parameters_are_printable(tmp_path):
    torch.save({"a\x1b[2J.weight": torch.ones(1)}, tmp_path / "c.pth")
    assert list(read_state_dict(tmp_path / "c.pth")) == ["a\\x1b[2J.weight"]


# ---- the terminal


def test_whatever_is_printed_moves_no_cursor(capsys):
    evil = "a\x1b[2J\x9b31m\r\b\x07‮b\udc80\x7f"
    console.say(f"error: {evil}\n  hint")
    console.print_text(evil)
    console.print_table(("name", "ms"), [[evil, 1.0], ["two\nlines", 2.0]])
    console.print_json({"name": evil})
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert json.loads(out[out.index("{\n") :]) == {"name": evil}


def test_printable_text_stays_as_it_is():
    text = "Zwergspitz, 小さい犬, chien à poil ras, \u0633\u06af\u200c\u0647 👩\u200d🍳"
    assert printable(text) == printable_lines(text) == text
    assert printable("a\nb\tc") == "a\\x0ab\\x09c" and printable_lines("a\nb\tc") == "a\nb\tc"


# ---- pickles of weights


def checkpoint(path, pickled: bytes, **how):
    """A file as torch.save writes it, with a pickle of one's own."""
    with zipfile.ZipFile(path, "w", how.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, data in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"a/{name}", data)
    return path


def _long(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)


HEAD = b"\x80\x02"
PICKLES = {
    "bytes that are counted": HEAD + b"}(X\1\0\0\0acbuiltins\nbytearray\n(" + _long(10**10) + b"tRu.",
    "the same by its old name": HEAD + b"c__builtin__\nbytearray\n(" + _long(10**10) + b"tR.",
    "a text that doubles itself": HEAD + b"c_codecs\nencode\n" * 33 + b"X\1\0\0\0a"
    + b"X\3\0\0\0hex\x86R" * 33 + b".",
    "a list of lists": HEAD + b"(" + b"]" * 3_000_000 + b"l.",
    "keys of one hash": HEAD + b"}(" + b"".join(_long(i * ((1 << 61) - 1)) + b"K\1" for i in range(1, 30_000)) + b"u.",
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "legacy"])
def test_pickles_that_make_more_than_they_hold_are_refused(tmp_path, kind, legacy):
    path = tmp_path / "w.pth"
    if legacy:
        path.write_bytes(PICKLES[kind])
    else:
        checkpoint(path, PICKLES[kind])
    with peak_below(150 << 20):
        refused(lambda: read_state_dict(path), "more than (weights|any checkpoint)")


def test_archives_that_two_readers_read_differently_are_read_once(tmp_path):
    """Torch gets what was looked at: of two members of one name neither is read."""
    path = checkpoint(tmp_path / "w.pth", HEAD + b"}.")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("a/data.pkl", PICKLES["bytes that are counted"])
    refused(lambda: read_state_dict(path), "two members")


def test_checkpoints_of_training_are_read_in_both_formats(tmp_path):
    state = {f"layer.{i}.weight": torch.full((2, 3), float(i)) for i in range(50)}
    whole = {"state_dict": state, "epoch": 3, "optimizer": {"state": {i: {"step": 1 << 40} for i in range(50)}}}
    for new in (True, False):
        torch.save(whole, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
        found = read_state_dict(tmp_path / "w.pth")
        assert list(found) == list(state) and all(torch.equal(found[k], state[k]) for k in state)


def test_a_tile_is_part_of_an_image(tmp_path):
    """A TIFF's tile is decoded whole, however small the image is."""
    packed = zlib.compress(bytes(1 << 20))
    tags = [
        (256, 8),
        (257, 8),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 30_000),
        (323, 30_000),
        (324, 134),
        (325, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + packed)
    refused(lambda: load_image(tmp_path / "a.tif", NETWORK), "30,000 x 30,000 pixels in a tile")
