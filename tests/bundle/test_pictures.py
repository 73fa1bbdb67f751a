"""Files on a device: the program and ``mobilenet.py`` make the pixels that verification made of them, or say why not.

A photograph that is read otherwise there gets another class, and nobody sees why.
"""

import ast
import contextlib
import functools
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.support import bundles, modules, pictures, schemas
from tvm_mobilenet.compiler import calibration_inputs, library
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import preprocess
from tvm_mobilenet.models.preprocess import Preprocess, load_image, read_image, sample_images
from tvm_mobilenet.runtime import mobilenet_pictures

CLANG = pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed: apt-get install clang")
FAR = 2  # levels of 255: libjpeg-turbo of another version may round otherwise; of the same, pixels are equal


@functools.cache
def has(library: str) -> bool:
    """Whether the system has a shared library; Python's own packages have theirs elsewhere."""
    import ctypes

    try:
        return bool(ctypes.CDLL(library))
    except OSError:
        return False


JPEG = pytest.mark.skipif(not has("libturbojpeg.so.0"), reason="apt-get install libturbojpeg0")
PNG = pytest.mark.skipif(not has("libpng16.so.16"), reason="apt-get install libpng16-16")


READING = [source for source in library.PROGRAM if source not in ("main.c", "report.c")]


def compiled(sources, out):
    """The program's reading of files under sanitizers, from sources in a folder."""
    watched = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["clang", "-g", "-O1", *watched, "-Wall", "-Wextra", "-Werror", "-I", sources, "-o", out]
    command += [*(sources / s for s in READING), bundles.C_TESTS / "pictures.c", "-ldl"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if "cannot find" in done.stderr and "clang_rt" in done.stderr:
        pytest.skip("clang's sanitizers are not installed: apt-get install libclang-rt-dev")
    assert done.returncode == 0, done.stderr
    return out


def reader():
    """That program, made once in a run."""

    def make(folder):
        folder.mkdir()
        compiled(bundles.RUNTIME, folder / "pictures")

    return modules.once(modules.root() / "pictures-sanitized", make) / "pictures"


def read(paths, most: int = 1 << 30, dtype: str = "float32", shape=(1, 3, 8, 8), program=None, env=None):
    """What becomes of each file: pixels, an input, or why there is neither."""
    words = [most, 1, dtype, ",".join(map(str, shape)), *paths]
    done = subprocess.run([program or reader(), "read", *map(str, words)], capture_output=True, timeout=600, env=env)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()[:3000]
    found, rest = [], done.stdout
    for _ in paths:
        line, rest = rest.split(b"\n", 1)
        kind, *about = line.decode().split(" ", 3)
        if kind == "failed":
            found.append(line.decode().removeprefix("failed "))
            continue
        wide = (int(about[1]), int(about[0]), 3) if kind == "picture" else shape
        numbers = np.dtype(np.uint8 if kind == "picture" else dtype)
        size = int(np.prod(wide)) * numbers.itemsize
        found.append(np.frombuffer(rest[:size], numbers).reshape(wide))
        rest = rest[size:]
    assert not rest
    return found


def in_python(path):
    """What ``mobilenet.py`` makes of a file."""
    return bundles.python_interface()._pixels(path)


def require_same(paths, far: int = 0, program=None):
    for path, found in zip(paths, read(paths, program=program), strict=True):
        expected = read_image(path)
        assert not isinstance(found, str), (path.name, found)
        assert found.shape == expected.shape, path.name
        assert np.abs(found.astype(int) - expected).max() <= far, path.name
        np.testing.assert_array_equal(in_python(path), expected, err_msg=path.name)


# ---- the same pixels


@CLANG
@JPEG
def test_jpegs_are_read_as_verification_reads_them(tmp_path):
    """Colours, subsampling, scans, and which way is up."""
    require_same([*pictures.jpegs(tmp_path), *sample_images()], FAR)


LIBJPEG = pytest.mark.skipif(not has("libjpeg.so.62"), reason="apt-get install libjpeg62-turbo")


def without_turbojpeg(folder) -> dict:
    """An environment whose libturbojpeg is none."""
    (folder / "libturbojpeg.so.0").write_bytes(b"")
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


@CLANG
@LIBJPEG
def test_libjpeg_of_version_8_makes_the_same_pixels(tmp_path):
    """Ubuntu's; its struct is longer. A library of another version than its name says is refused by itself."""
    import ctypes

    ctypes.CDLL("libjpeg.so.62")
    loaded = [line.split()[-1] for line in Path("/proc/self/maps").read_text(errors="replace").splitlines()]
    real = next(path for path in loaded if Path(path).name.startswith("libjpeg.so.62"))
    paths, env = [*pictures.jpegs(tmp_path), sample_images()[0]], without_turbojpeg(tmp_path)
    expected = read(paths, env=env)
    (tmp_path / "libjpeg.so.62").write_bytes(b"")
    shutil.copy(real, tmp_path / "libjpeg.so.8")
    assert read(paths[:1], env=env)[0].startswith("3 a JPEG picture needs")
    source, out = bundles.C_TESTS / "libjpeg8.c", tmp_path / "libjpeg.so.8"
    command = ["clang", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f'-DREAL="{real}"', source, "-o", out, "-ldl"]
    subprocess.run(command, check=True)
    for path, one, other in zip(paths, read(paths, env=env), expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=path.name)


@CLANG
@LIBJPEG
@JPEG
def test_without_libturbojpeg_libjpeg_makes_the_same_pixels(tmp_path):
    """Both are faces of one library; what is damaged is refused or told by both."""
    paths, bare = [*pictures.jpegs(tmp_path), sample_images()[0]], without_turbojpeg(tmp_path)
    for path, found, other in zip(paths, read(paths, env=bare), read(paths), strict=True):
        np.testing.assert_array_equal(found, other, err_msg=path.name)
    data = paths[-1].read_bytes()
    at = data.index(b"\xff\xda")
    cut, noise = data[: at + 3000] + b"\xff\xd9", data[: at + 400] + bytes(99) + data[at + 500 :]
    tables = data[:at].replace(b"\xff\xdb", b"\xff\xfe") + data[at:]
    damaged = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path, content in zip(damaged, (cut, noise, tables), strict=True):
        path.write_bytes(content)
    kinds = [[type(one) for one in read(damaged, env=env)] for env in (bare, None)]
    assert kinds[0] == kinds[1] and str in kinds[0] and np.ndarray in kinds[0], kinds


@CLANG
@LIBJPEG
def test_no_damage_of_a_jpeg_is_more_than_an_error_by_libjpeg(tmp_path):
    paths = pictures.jpegs(tmp_path)
    command = [reader(), "fuzz", 1500, 1500, *paths]
    how = {"capture_output": True, "text": True, "timeout": 600, "env": without_turbojpeg(tmp_path)}
    done = subprocess.run([*map(str, command)], **how)
    bundles.require_clean(done)
    assert 50 < int(done.stdout.split()[0]) < 1500, done.stdout


@CLANG
@PNG
def test_pngs_are_read_as_verification_reads_them(tmp_path):
    """To the bit: no gamma, no profile, no transparency, of 16 bits the high byte."""
    require_same(pictures.pngs(tmp_path))


@CLANG
def test_pnms_are_what_was_written(tmp_path):
    """Whatever ends a line, and whatever the largest value; by C, by Python, and where bundles are made."""
    written = pictures.pnms(tmp_path)
    require_same(list(written))
    for path, pixels in written.items():
        np.testing.assert_array_equal(read_image(path), pixels, err_msg=path.name)
    bare = {**os.environ, "PYTHONPATH": str(bundles.RUNTIME)}
    code = "import sys; sys.modules['PIL'] = None; import mobilenet_pictures as m; m.pixels(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, next(iter(written))], capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stderr


def test_rules_of_files_stand_once_and_travel_alone():
    """The verbs read files by the functions of `mobilenet_pictures.py`, which imports nothing of this package."""
    tree = ast.parse((bundles.RUNTIME / "mobilenet_pictures.py").read_text())
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    names += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    assert not [name for name in names if name is None or name.startswith("tvm_mobilenet")]
    assert preprocess.pictures is mobilenet_pictures
    for reader in (preprocess, calibration_inputs):
        assert reader.stored_array is mobilenet_pictures.stored_array


def exif(rng) -> bytes:
    """An EXIF part that says an orientation somehow, seldom rightly."""
    order = ["<", ">"][rng.integers(2)]
    mark = [b"II*\0", b"MM\0*"][order == ">"] if rng.random() < 0.8 else [b"II\0*", b"MM*\0", b"II+\0"][rng.integers(3)]
    entries, count = b"", rng.integers(0, 3)
    for _ in range(count):
        tag, kind = (0x0112, 3) if rng.random() < 0.6 else (rng.choice([0x0112, 0x010F]), rng.integers(0, 7))
        value = (
            struct.pack(order + "I", rng.integers(0, 300))
            if rng.random() < 0.2
            else struct.pack(order + "HH", rng.integers(0, 11), 0)
        )
        entries += struct.pack(order + "HHI", tag, kind, rng.choice([1, 1, 1, 0, 2])) + value
    body = (
        mark + struct.pack(order + "I", 8) + struct.pack(order + "H", count) + entries + bytes(4 * rng.integers(0, 2))
    )
    return b"Exif\0\0" * rng.integers(0, 3) + body


def xmp(rng) -> bytes:
    digit = str(rng.integers(0, 12)).encode()
    return [b'<a tiff:Orientation="%s"/>', b"<tiff:Orientation>%s</tiff:Orientation>", b"tiff:Orientation=%s"][
        rng.integers(3)
    ] % digit


def odd_files(folder, count: int, seed: int):
    """PNG and JPEG files that tell which way is up in every place and form that one reader alone may know."""
    rng, pixels = np.random.default_rng(seed), pictures.picture(3, 5)
    photo = pictures.jpegs(folder)[0].read_bytes()
    found = []
    for i in range(count):
        parts = []
        for _ in range(rng.integers(1, 4)):
            kind = rng.integers(6)
            said, words = exif(rng), xmp(rng)
            raw = b"\nexif\n%8d\n" % (len(said) + 6) + (b"Exif\0\0" + said).hex().encode() + b"\n"
            parts += [
                [(b"eXIf", said)],
                [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + words)],
                [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(words))],
                [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))],
                [(b"tEXt", b"Raw profile type exif\0" + raw)],
                [(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20)))],
            ][kind]
        path = folder / f"odd{i}.{'png' if i % 2 else 'jpg'}"
        data = pictures.png(pixels, 2, chunks=parts)
        if i % 2 and i % 3 == 0:  # behind the end
            data = pictures.png(pixels, 2) + pictures.png(pixels, 2, chunks=parts)[33:]
        if not i % 2:
            two = [b"Exif\0\0" + exif(rng), b"http://ns.adobe.com/xap/1.0/\0" + xmp(rng), exif(rng)]
            segments = [two[rng.integers(3)] for _ in range(rng.integers(1, 4))]
            data = photo[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + photo[2:]
        path.write_bytes(data)
        found.append(path)
    return found


@CLANG
@JPEG
@PNG
@pytest.mark.parametrize("count", [120, pytest.param(400, marks=pytest.mark.full)])
def test_all_readers_agree_which_way_is_up(tmp_path, count):
    """Of EXIF in odd places and of odd types, several parts, compressed and raw profiles; of texts that grow."""
    paths = odd_files(tmp_path, count, 7)
    require_same(paths, FAR)
    turned = {mobilenet_pictures.orientation(path.read_bytes()) for path in paths}
    assert turned == set(range(9)), "not all ways were drawn"


def test_a_comment_may_follow_a_number(tmp_path):
    """Of a .ppm: `7#c` is 7, as Netpbm has it."""
    pixels = bytes(range(105))
    (tmp_path / "a.ppm").write_bytes(b"P6\n7#c\n5 # 6\n255\n" + pixels)
    (tmp_path / "b.ppm").write_bytes(b"P6\n7 5\n255#c\n" + pixels)
    expected = np.frombuffer(pixels, np.uint8).reshape(5, 7, 3)
    for read_one in (read_image, in_python, *([lambda path: read([path])[0]] if shutil.which("clang") else [])):
        np.testing.assert_array_equal(read_one(tmp_path / "a.ppm"), expected)
        with contextlib.suppress(TvmMobilenetError, bundles.python_interface().MobilenetError):
            assert isinstance(read_one(tmp_path / "b.ppm"), str)


# ---- arrays


DTYPES = ("|u1", "|i1", "<f4", ">f4", "<f2", ">f2", "<f8", "<i4", ">u2", "|b1", "<c8", "<U3")
INPUT = (1, 3, 8, 6)


def arrays(dtype: str):
    """Arrays of one dtype, of shapes that are pictures, inputs, and nearly either, in both orders."""
    shapes = [
        (9, 7),
        (9, 7, 1),
        (9, 7, 3),
        (9, 7, 4),
        (9, 7, 2),
        (3, 9, 7),
        (4, 9, 7, 3),
        (1, 9, 7, 3),
        INPUT,
        INPUT[1:],
    ]
    shapes += [(1, 8, 6, 3), (8, 6, 3), (2, 3, 8, 6), (3, 8, 6, 1), (288,), (), (0, 7, 3), (1, 1, 3, 8, 6)]
    draw = np.random.default_rng(3)
    for shape in shapes:
        values = draw.integers(0, 255, shape).astype(dtype)
        yield values
        yield np.asfortranarray(values)


@CLANG
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_arrays_are_read_rightly_or_refused(tmp_path, dtype):
    """What is read is what numpy reads, in shape, order of axes, order of bytes and value; the rest is told why."""
    given, paths = [a for d in DTYPES for a in arrays(d)], []
    for i, array in enumerate(given):
        paths.append(tmp_path / f"{i}.npy")
        paths[-1].write_bytes(pictures.npy(array, 1 + i % 3))
    read_as = {"picture": 0, "input": 0}
    for array, path, found in zip(given, paths, read(paths, dtype=dtype, shape=INPUT), strict=True):
        known = np.load(path)
        what = (known.dtype.str, known.shape, found if isinstance(found, str) else found.shape)
        image = (
            known.dtype == np.uint8
            and known.size
            and (known.ndim == 2 or (known.ndim == 3 and known.shape[2] in (1, 3)))
        )
        if image:
            wide = known if known.ndim == 3 else known[..., None]
            np.testing.assert_array_equal(found, np.broadcast_to(wide, (*wide.shape[:2], 3)), err_msg=str(what))
            np.testing.assert_array_equal(in_python(path), found)
            read_as["picture"] += 1
        elif known.dtype.newbyteorder("=") == dtype and known.shape in (INPUT, INPUT[1:]):
            np.testing.assert_array_equal(found, known.reshape(INPUT), err_msg=str(what))
            read_as["input"] += 1
        else:
            assert isinstance(found, str) and found.startswith("1 "), what
            if array.dtype.kind in "fiu" and known.size:
                assert f"shape {' x '.join(map(str, known.shape)) or '()'}, the input is {dtype} of" in found, what
    assert read_as == {"picture": 8, "input": 8 if dtype == "float32" else 4}


def headers():
    """Headers of .npy files, and whether a file with 54 bytes behind it is read: a picture, 3 x 6 x 3."""
    good = {"descr": "'|u1'", "fortran_order": "False", "shape": "(3, 6, 3)"}

    def text(pairs, end=", }") -> str:
        return "{" + ", ".join(f"'{key}': {value}" for key, value in pairs) + end

    yield text(good.items()), True
    yield text(reversed(good.items()), "}"), True
    yield text(good.items()).replace("'", '"') + "   ", True
    for change in ({"descr": "'u1'"}, {"descr": "'<u1'"}, {"fortran_order": "True"}, {"shape": "(3,6,3,)"}):
        yield text({**good, **change}.items()), True
    for change in ({"descr": "'uint8'"}, {"descr": "'B'"}, {"descr": "'u3'"}, {"descr": "'u'"}, {"descr": "''"},
                   {"shape": "(3L, 6L, 3L)"}, {"shape": "(,)"}, {"shape": "[3, 6, 3]"}, {"shape": "(3, 6, 4)"},
                   {"fortran_order": "1"}, {"descr": "[('a', '|u1')]"}, {"other": "1"}):  # fmt: skip
        yield text({**good, **change}.items()), False
    yield text(good.items()) + " x", False
    yield text(good.items()) + " " * 10_000, False
    yield text(list(good.items())[:2]), False


@CLANG
def test_every_reader_has_one_rule_for_arrays(tmp_path):
    """Formats, headers, names, what stands behind: a file is read by all of them or by none."""
    cases = [(pictures.npy(np.zeros(54, "u1"), v, header), good) for header, good in headers() for v in (1, 2, 3)]
    whole = pictures.npy(np.zeros((3, 6, 3), "u1"))
    cases += [(whole + b"x", False), (whole[:-1], False), (whole[:6] + b"\4" + whole[7:], False)]
    paths = [tmp_path / f"{i}.{('npy', 'NPY', 'bin')[i % 3]}" for i in range(len(cases))]
    for path, (data, _) in zip(paths, cases, strict=True):
        path.write_bytes(data)
    for path, found, (data, good) in zip(paths, read(paths), cases, strict=True):
        told = [not isinstance(found, str)]
        for reader_of in (mobilenet_pictures.stored_array, in_python, lambda p: load_image(p, Preprocess((8, 6)))):
            try:
                told.append(bool(reader_of(path).size))
            except (ValueError, TvmMobilenetError, bundles.python_interface().MobilenetError):
                told.append(False)
        assert told == [good] * 4, (data[:120], told, found)


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_numbers_of_an_input_have_its_very_dtype_in_files(tmp_path, dtype):
    """As `mobilenet` demands it: what is cast here would be refused on the device."""
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 8, 6), dtype))
    with pytest.raises(TvmMobilenetError, match=f"{dtype} .*wants float32"):
        load_image(tmp_path / "a.npy", Preprocess((8, 6)))


HINTS = [
    (np.zeros((9, 7, 4), "u1"), "drop the last channel"),
    (np.zeros((3, 9, 7), "u1"), "transpose(1, 2, 0)"),
    (np.zeros((2, 9, 7, 3), "u1"), "one picture alone"),
    (np.zeros(INPUT, "f8"), "astype"),
    (np.zeros(INPUT, "u1"), "given as a picture"),
    (np.zeros((4, *INPUT[1:]), "f4"), "one input alone"),
    (np.zeros((1, 8, 6, 3), "f4"), "transpose its axes"),
]


@CLANG
def test_what_is_refused_is_told_how_it_would_be_read(tmp_path):
    paths = []
    for i, (array, _) in enumerate(HINTS):
        paths.append(tmp_path / f"{i}.npy")
        np.save(paths[-1], array)
    for found, (_, words) in zip(read(paths, shape=INPUT), HINTS, strict=True):
        assert words in found


def test_verification_refuses_the_bytes_of_pixels_in_another_order(tmp_path):
    """As numbers of an input they would not be normalised, and whatever was computed of them would be right."""
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 6), np.uint8))
    with pytest.raises(TvmMobilenetError, match=r"uint8 \(3, 8, 6\), a picture has \(height, width, 3\)"):
        load_image(tmp_path / "a.npy", Preprocess((8, 6)))


# ---- limits, damage, and what is not there


def bomb(width: int, height: int) -> bytes:
    """A PNG that declares a size, with no pixels."""
    data = pictures.png(np.zeros((1, 1, 1)), 0)
    head = data[12:16] + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


@CLANG
@PNG
def test_what_takes_too_much_memory_is_refused_before_it_is_decoded(tmp_path):
    jpeg = pictures.jpegs(tmp_path)[0].read_bytes()
    at = jpeg.index(b"\xff\xc0")
    files = {
        "a.png": bomb(1 << 20, 1 << 20),
        "b.png": bomb(0xFFFFFFFF, 0xFFFFFFFF),
        "c.png": bomb(0, 5),
        "d.png": bomb(8000, 8000),
        "e.jpg": jpeg[: at + 5] + b"\xff\xff\xff\xff" + jpeg[at + 9 :],
        "f.jpg": jpeg[: at + 5] + struct.pack(">HH", 8000, 8000) + jpeg[at + 9 :],
        "g.ppm": b"P6 99999999 99999999 255 ",
        "h.ppm": b"P6 8000 8000 255 ",
        "i.npy": pictures.npy(
            np.zeros(0, "u1"), header=repr({"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 1 << 40)})
        ),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told = dict(zip(files, read([tmp_path / name for name in files], 100 << 20), strict=True))
    assert all(isinstance(why, str) and why.startswith("1 ") for why in told.values()), told
    for name in ("a.png", "b.png", "c.png", "e.jpg", "g.ppm"):
        assert "67108864 in all" in told[name], told
    for name in ("d.png", "h.ppm"):
        assert "8000 x 8000 pixels take 244 MB" in told[name] and "100 MB may be used" in told[name], told
    assert "8000 x 8000 pixels take 244 MB" in told["f.jpg"] and "shape is too large" in told["i.npy"], told


@CLANG
@JPEG
@PNG
def test_a_picture_that_is_cut_off_is_no_picture(tmp_path):
    """Half of it would be grey, and classified. At whatever byte it ends."""
    whole = {}
    pictures.jpegs(tmp_path), pictures.pngs(tmp_path)
    for name in ("sub2.jpg", "progressive.jpg", "exif6.jpg", "rgb.png", "interlaced.png", "palette.png"):
        whole[name] = (tmp_path / name).read_bytes()
    whole["a.ppm"], whole["a.npy"] = b"P6\n5 7\n255\n" + bytes(105), pictures.npy(np.zeros((9, 7, 3), "u1"))
    for name, data in whole.items():
        cuts = sorted({*range(0, len(data) - 14, max(1, len(data) // 60)), *range(40)})
        paths = [tmp_path / f"{cut}-{name}" for cut in cuts if cut < len(data) - 14]
        for cut, path in zip(cuts, paths, strict=False):
            path.write_bytes(data[:cut])
        for path, found in zip(paths, read(paths), strict=True):
            assert isinstance(found, str), path.name


@CLANG
@JPEG
@PNG
@pytest.mark.parametrize("rounds", [4_000, pytest.param(200_000, marks=pytest.mark.full)])
def test_no_damage_is_more_than_an_error(tmp_path, rounds):
    """Under sanitizers; some of the damaged files are read, others refused."""
    paths = [*pictures.jpegs(tmp_path), *pictures.pngs(tmp_path), *pictures.pnms(tmp_path)]
    for i, array in enumerate([*arrays("|u1"), *arrays("<f4")]):
        if array.shape in (INPUT, (9, 7, 3), (9, 7)):
            paths.append(tmp_path / f"{i}.npy")
            paths[-1].write_bytes(pictures.npy(array, 1 + i % 3))
    command = [reader(), "fuzz", rounds, rounds, *paths]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=3600)
    bundles.require_clean(done)
    assert rounds / 10 < int(done.stdout.split()[0]) < rounds, done.stdout


PLANTED = [  # a mistake in a source, and files that tell
    ("codecs.c", "ACCURATE_DCT | LIMIT_SCANS", "2048 | 256", pictures.jpegs, FAR),
    ("codecs.c", "(255 - in[k]) * light", "in[k] * light", pictures.jpegs, FAR),
    ("codecs.c", "return exif > 0 ? exif : xmp > 0 ? xmp : 0;", "return 0;", pictures.pngs, 0),
    ("codecs.c", "lib.high_byte(r->png);", "", pictures.pngs, 0),
    ("codecs.c", "lib.no_alpha(r->png);", "", pictures.pngs, 0),
    ("picture.c", "int swapped = orientation >= 5", "int swapped = orientation >= 6", pictures.jpegs, FAR),
    ("picture.c", "if (upended) y = h - 1 - y;", "if (upended > 1) y = h - 1 - y;", pictures.jpegs, FAR),
    ("picture.c", "rest == 0.5 && whole % 2", "rest == 0.5", pictures.pnms, 0),
    ("picture.c", "&& d[at] == '\\n') at++, left--;", "&& 0) at++;", pictures.pnms, 0),
    ("picture.c", "if (left < values * wide)", "if (left + 9 < values * wide)", pictures.pnms, 0),
]


@CLANG
@JPEG
@PNG
@pytest.mark.full
@pytest.mark.parametrize("number", range(len(PLANTED)))
def test_a_planted_mistake_is_found(tmp_path, number):
    """By the tests above: other pixels, none, or a sanitizer's report where bytes behind a file are read."""
    file, right, wrong, make, far = PLANTED[number]
    for source in bundles.RUNTIME.glob("*.[ch]"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert text.count(right) == 1, right
    (tmp_path / file).write_text(text.replace(right, wrong))
    program = compiled(tmp_path, tmp_path / "pictures")
    files = tmp_path / "files"
    files.mkdir()
    paths = list(make(files))
    if "left + 9" in wrong:
        for path in paths:
            path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(AssertionError, match="heap-buffer-overflow"):
            read(paths, program=program)
        return
    with pytest.raises(AssertionError):
        require_same(paths, far, program)


@pytest.mark.full
@pytest.mark.parametrize("name", ["rpi4", "armv7"])
def test_files_are_read_on_arm_as_here(tmp_path, name):
    """Where its C library has no libturbojpeg, that is said; with it, the pixels are the same."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.compiler import codegen

    target = targets.load(name)
    emulator = bundles.emulator(target.architecture)
    if emulator is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross libc6-armhf-cross")
    sources = [bundles.RUNTIME / s for s in READING]
    command = [
        *codegen.linker_command(target, None),
        *library.FLAGS,
        "-I",
        bundles.RUNTIME,
        "-o",
        tmp_path / "pictures",
    ]
    done = subprocess.run(
        [*map(str, [*command, *sources, bundles.C_TESTS / "pictures.c", "-ldl"])], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "run").write_text(f'#!/bin/sh\nexec {" ".join(emulator)} {tmp_path / "pictures"} "$@"\n')
    (tmp_path / "run").chmod(0o755)
    require_same(list(pictures.pnms(tmp_path)), program=tmp_path / "run")
    for path, found in zip(photos := pictures.jpegs(tmp_path), read(photos, program=tmp_path / "run"), strict=True):
        if isinstance(found, str):
            assert found.startswith("3 ") and "apt-get install libturbojpeg0" in found
        else:
            assert np.abs(found.astype(int) - read_image(path)).max() <= FAR


@pytest.mark.parametrize(("kind", "package"), [("jpg", "libturbojpeg0"), ("png", "libpng16-16")])
def test_a_board_without_the_library_is_told_the_package(host, tmp_path, kind, package):
    """Libraries that are none stand for a system without."""
    name = {"jpg": "libturbojpeg.so.0", "png": "libpng16.so.16"}[kind]
    for lacking in (name, "libjpeg.so.62", "libjpeg.so.8"):
        (tmp_path / lacking).write_bytes(b"")
    photo = pictures.jpegs(tmp_path)[0] if kind == "jpg" else pictures.pngs(tmp_path)[0]
    command = [host.folder / "mobilenet", "classify", photo]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (3, ""), done
    assert f"{photo}: a " in done.stderr and f"apt-get install {package}" in done.stderr, done
    assert done.stderr.endswith("; or save it as .ppm, or use mobilenet.py\n")


# ---- what is printed


@JPEG
@PNG
def test_one_photograph_gets_one_answer(host, tmp_path):
    """By either program, of each kind of file; as JSON the same numbers."""
    from PIL import Image

    folder, photo = host.folder, sample_images()[0]
    with Image.open(photo) as image:
        for kind in ("ppm", "png"):
            image.convert("RGB").save(tmp_path / f"a.{kind}")
    shutil.copy(photo, tmp_path / "a.jpg")
    python, program = [sys.executable, folder / "mobilenet.py"], [folder / "mobilenet", "classify"]
    said = set()
    for command in (python, program):
        for kind in ("ppm", "png", "jpg"):
            done = subprocess.run(
                [*command, tmp_path / f"a.{kind}", "--top", "3", "--json", "--threads", "1"],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            assert schemas.refused("device", told) == ""
            assert told["seeded"] and told["scores"] == "logits" and told["file"] == str(tmp_path / f"a.{kind}")
            best = [(c["class"], c["label"], round(c["score"], 3), round(c["probability"], 5)) for c in told["classes"]]
            assert len(best) == 3 and told["threads"] == 1 and set(told) >= {"model", "target", "build"}
            said.add(tuple(best))
    assert len(said) == 1, said


def test_json_is_json_whatever_a_label_holds(copy, tmp_path):
    """Quotes, backslashes, bytes that are no UTF-8; of all verbs."""
    size = (copy / "labels.txt").stat().st_size
    odd = [b'a"\\\xe2\x82\xac', b"\xff\xed\xa0\x80", b"\x1b[2J\x7f"]
    lines = [odd[i % 3] for i in range(999)]
    lines.append(b"." * (size - sum(len(line) + 1 for line in lines) - 1))  # the size that the manifest says
    (copy / "labels.txt").write_bytes(b"".join(line + b"\n" for line in lines))
    photo = tmp_path / 'a"\\.ppm'
    photo.write_bytes(b"P6\n1 1\n255\n" + bytes(3))
    told = {}
    for verb, *arguments in (["classify", photo, "--top", "1000"], ["info"], ["bench", "--runs", "2"]):
        done = subprocess.run([copy / "mobilenet", verb, *arguments, "--json"], capture_output=True)
        assert done.returncode == 0 and done.stdout.count(b"\n") == 1, done.stderr
        told[verb] = json.loads(done.stdout.decode())
        assert told[verb]["model"] == "v1 0.25-128"
        assert schemas.refused("device", told[verb]) == ""
    assert told["classify"]["file"] == str(photo)
    assert {c["class"]: c["label"] for c in told["classify"]["classes"]} == {
        i: line.decode(errors="replace") for i, line in enumerate(lines)
    }
    schemas.require("device", {**told["classify"], "classes": told["classify"]["classes"][:2]}, "", "classes.0")
    schemas.require("device", told["info"], "", "inputs.0", "bytes")
    schemas.require("device", told["bench"], "", "milliseconds")
    assert told["info"]["inputs"][0]["shape"] == [1, 3, 128, 128] and told["info"]["classes"] == 1000
    assert 0 < told["bench"]["milliseconds"]["fastest"] <= told["bench"]["milliseconds"]["slowest"]
