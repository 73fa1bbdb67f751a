"""A bundle on this machine: it is whole or refused, needs only libc, and computes what the model computes."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from PIL import Image
from tvm_mobilenet.targets import features

from benchmarks import bundle as evidence
from tests.support import bundles
from tvm_mobilenet import targets
from tvm_mobilenet.bundle import pack as bundle
from tvm_mobilenet.checking.reference import network_outputs
from tvm_mobilenet.compiler import library, port_tables, symbols, tables
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.preprocess import load_image, sample_images


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=1200, **kwargs)


def net(folder, **kwargs):
    return bundles.python_interface().Mobilenet(folder, **kwargs)


# ---- the library


def test_programs_of_a_bundle_tell_their_version(host):
    from tvm_mobilenet import __version__

    for command in ([host.folder / "mobilenet"], [sys.executable, host.folder / "mobilenet.py"]):
        done = run(*command, "--version")
        assert (done.returncode, done.stdout) == (0, f"tvm_mobilenet {__version__}\n"), done.stderr


def test_the_library_shows_its_interface_and_nothing_else(host):
    """A kernel's name that is visible meets the same one of a second model in the same program."""
    prefix = host.bundle.manifest["symbol_prefix"]
    with (host.folder / "libmobilenet.so").open("rb") as f:
        elf = ELFFile(f)
        shown = {s.name for s in elf.get_section_by_name(".dynsym").iter_symbols() if s["st_shndx"] != "SHN_UNDEF"}
        needed = {t.needed for t in elf.get_section_by_name(".dynamic").iter_tags() if t.entry.d_tag == "DT_NEEDED"}
        assert not elf.has_dwarf_info(strict=True)
    plain = {s for s in shown if s.startswith("mobilenet_")}
    assert "mobilenet_open" in plain and shown == plain | {prefix + s for s in plain}
    assert {n for n in needed if not n.startswith("ld-linux-")} <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}


def test_sizes(host):
    """Numbers of the issue: the runtime's own code, and the library without weights; and the program's code."""
    assert len(host.bundle.files["libmobilenet.so"]) <= 1_500_000
    assert 10_000 < evidence.code_bytes(host.work / "runtime.o") <= evidence.RUNTIME_BYTES
    assert 10_000 < evidence.code_bytes(host.work / "program.o") <= evidence.PROGRAM_BYTES


def test_a_library_that_needs_more_than_libc_is_refused(tmp_path):
    (tmp_path / "x.c").write_text("int x;")
    (tmp_path / "y.c").write_text("int y(void) { return 0; }")
    assert (
        run(
            "gcc", "-shared", "-fPIC", "-o", tmp_path / "liby.so", "-Wl,-soname,libstrange.so", tmp_path / "y.c"
        ).returncode
        == 0
    )
    run("gcc", "-shared", "-o", tmp_path / "x.so", tmp_path / "x.c", "-Wl,--no-as-needed", tmp_path / "liby.so")
    with pytest.raises(TvmMobilenetError, match=r"libstrange\.so"):
        library.check_needs(tmp_path / "x.so")


def test_outputs_are_those_of_the_model(host):
    """Through C, over several inputs and numbers of threads; the self-test agrees with what is seen here."""
    inputs = host.network.inputs(3)
    expected = network_outputs(host.network, inputs)
    with net(host.folder, threads=1) as n:
        for threads in (1, 2, 3):
            n.set_threads(threads)
            for x, y in zip(inputs, expected, strict=True):
                found = n.run(*x)[0]
                assert np.abs(found - y[0]).max() < n.selftest()["allowed"] * y[0].std()
        assert n.selftest()["difference"] < host.bundle.manifest["error"]["allowed"]


def test_outputs_are_those_of_the_board(host):
    """The very same bits as the module that was verified: a bundle has no arithmetic of its own."""
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.plan_runner import PlanRunner
    from tvm_mobilenet.compiler import module as built

    module, x = built.read(host.built), host.network.inputs(1)[0]
    with open_board("local", targets.load("host")).load(module.library) as loaded:
        expected = PlanRunner(loaded, module.plan, module.parameters()).run(*x).outputs[0]
    with net(host.folder) as n:
        assert np.array_equal(n.run(*x)[0], expected)


def test_buffers_that_are_not_aligned(host):
    x = host.network.inputs(1)[0][0]
    raw = np.zeros(x.nbytes + 68, np.uint8)
    odd = raw[4 : 4 + x.nbytes].view(np.float32).reshape(x.shape)
    odd[...] = x
    with net(host.folder) as n:
        assert np.array_equal(n.run(odd)[0], n.run(x)[0])


# ---- images


SIZES = [
    (128, 128),
    (640, 427),
    (427, 640),
    (37, 61),
    (1, 1),
    (146, 147),
    (3000, 200),
    (1280, 960),
    (129, 2000),
    (147, 146),
]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_images_are_resized_as_pillow_does(host, size, tmp_path):
    """To the bit; more sizes and networks in test_preprocess_pixels.py."""
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    preprocess = host.network.model.preprocess
    with net(host.folder, max_size=size) as n:
        found = n.preprocess(pixels)
    expected = load_image(tmp_path / "x.npy", preprocess)
    np.testing.assert_array_equal(found, expected)


def test_an_image_larger_than_was_said_is_refused(host):
    with net(host.folder, max_size=(100, 100)) as n, pytest.raises(Exception, match="101 x 3"):
        n.run_image(np.zeros((3, 101, 3), np.uint8))


def told(lines: str) -> list[tuple]:
    """What is said of each class: its score and probability, rounded so that float32 does not matter, and its name."""
    parts = [line.split(maxsplit=3) for line in lines.splitlines()]
    return [(round(float(score), 2), round(float(share), 1), unit, name) for score, share, unit, name in parts]


def test_a_photograph_gets_the_same_label_by_every_way(host, tmp_path):
    """C program with .ppm, .npy and raw input; Python; the model itself."""
    photo = sample_images()[0]
    x = load_image(photo, host.network.model.preprocess)
    logits = network_outputs(host.network, [(x,)])[0][0][0]
    best = [f"thing {i}" for i in np.argsort(-logits)[:5]]
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    lines = [f"{logits[i]:9.4f}  {100 * softmax[i]:6.2f} %  class {i}  thing {i}" for i in np.argsort(-logits)[:5]]
    with Image.open(photo) as image:
        rgb = image.convert("RGB")
    rgb.save(tmp_path / "a.ppm")
    np.save(tmp_path / "b.npy", np.asarray(rgb))
    np.save(tmp_path / "c.npy", x)
    x.tofile(tmp_path / "d.raw")
    for name in ("a.ppm", "b.npy", "c.npy", "d.raw"):
        done = run(host.folder / "mobilenet", "classify", tmp_path / name)
        assert told(done.stdout) == told("\n".join(lines)), (name, done)
        assert done.stderr.count("weights are seeded random numbers") == 1
    with net(host.folder) as n:
        assert [label for label, _ in n.classify(photo)] == best
    done = run(sys.executable, host.folder / "mobilenet.py", photo)
    assert told(done.stdout) == told("\n".join(lines)) and done.stderr.count("weights are seeded") == 1
    done = run(sys.executable, host.folder / "mobilenet.py", "classify", photo, photo)
    assert done.stdout.count(f"{photo}:\n") == 2 and told("\n".join(lines)) == told(done.stdout.split(":\n")[2])


def test_seeded_weights_are_said_and_scores_are_probabilities(host):
    """Of any scores, in C as in float64."""
    said = run(host.folder / "mobilenet", "info").stdout
    assert re.search(r"^weights +seeded random numbers: classes mean nothing; build with --weights", said, re.M), said
    assert host.bundle.manifest["seeded"] is True and host.bundle.manifest["preprocess"]["assumed"] == []
    with net(host.folder) as n:
        assert n.seeded and n.preprocessing.startswith("128 x 128 RGB, mean 0.5")
        logits = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32) * 30
        best = n.top(logits, 1000)
        powers = np.exp(logits[0].astype(np.float64) - logits.max())
        shares = powers / powers.sum()
        np.testing.assert_allclose(
            [b.probability for b in best], shares[[b.index for b in best]], rtol=1e-6, atol=1e-35
        )
        assert abs(sum(b.probability for b in best) - 1) < 1e-5


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_an_infinity_is_an_error_and_never_a_class(copy, tmp_path, odd):
    """In a result, whatever calls the library: by C, by Python, and by both programs. The weights are damaged, and a
    bias of the classifier, the last of them, is no number."""
    data = bytearray((copy / "weights.bin").read_bytes())
    at = len(data) - 4032 + 4 * 3  # 1,000 biases, up to a whole line
    data[at : at + 4] = np.float32(odd).tobytes()
    (copy / "weights.bin").write_bytes(data)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.ppm")
    words = "output output0 is an infinity or NaN at 3: the input or the weights are damaged"
    for program in ([copy / "mobilenet", "classify"], [sys.executable, copy / "mobilenet.py"]):
        done = run(*program, tmp_path / "a.ppm")
        assert (done.returncode, done.stdout) == (1, "") and words in done.stderr, done
    done = run(copy / "mobilenet", "bench", "--runs", "2")
    assert (done.returncode, done.stdout) == (1, "") and words in done.stderr, done
    with net(copy) as n:
        for call in (lambda: n.run(np.zeros((1, 3, 128, 128), np.float32)), lambda: n.run_image(tmp_path / "a.ppm")):
            with pytest.raises(Exception, match=words) as found:
                call()
            assert found.value.code == 8
        scores = np.zeros((1, 1000), np.float32)
        scores[0, 700] = odd
        with pytest.raises(Exception, match="a score is an infinity or NaN"):
            n.top(scores, 1)
        best = (n.top.__globals__["_Class"] * 5)()
        assert n._lib.mobilenet_top(n._open(), scores.ctypes.data, 5, best) == 0
        assert b"score 700 is an infinity or NaN" in n._lib.mobilenet_last_error()


def test_an_input_that_holds_an_infinity_is_an_error(host):
    """Its ReLU6 would hide a NaN, and the outputs would be numbers."""
    x = np.zeros((1, 3, 128, 128))
    with net(host.folder) as n, warnings.catch_warnings():
        warnings.simplefilter("error")
        for odd in (np.nan, np.inf, -np.inf, 1e300):  # the last is no float32
            x[0, 1, 2, 3] = odd
            with pytest.raises(Exception, match=r"input x holds (NaN|an infinity) at 16643: give finite") as found:
                n.run(x)
            assert found.value.code == 8
        assert np.isfinite(n.run(np.full(x.shape, 1e18))[0]).all()
        for odd in (3e38, -1e19):  # finite, but an infinity less another in the sums would be NaN, and hidden as well
            x[0, 1, 2, 3] = odd
            with pytest.raises(Exception, match=r"input x holds .*e\+.* at 16643, beyond 1e\+18: sums") as found:
                n.run(x)
            assert found.value.code == 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P6",
        b"P6 3 3 255\n12",
        b"P5 3 3 255\n12345678",
        b"P5\n2 2 65535\n" + bytes(7),
        b"P5\n2 2 65536\n" + bytes(8),
        b"P6 99999999 99999999 255\n",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"P6\n# c\n2 2 65535\n" + bytes(23),
        b"P3\n1 1 255\n1 2 3\n",
        bytes(7),
    ],
)
def test_a_broken_picture_is_an_error(host, tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    done = run(host.folder / "mobilenet", "classify", tmp_path / "x")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and not done.stdout


# ---- whole or refused


def test_a_result_that_nobody_received_is_no_success(host, tmp_path):
    """On a full disk, or with stdout closed, by either program."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.ppm")
    program, python = [host.folder / "mobilenet"], [sys.executable, host.folder / "mobilenet.py"]
    commands = [[*program, *words] for words in (["info"], ["selftest"], ["--help"], ["classify", tmp_path / "a.ppm"])]
    for command in (*commands, *([*python, word] for word in (tmp_path / "a.ppm", "--help", "--version"))):
        for to in (">/dev/full", ">&-"):
            done = run("sh", "-c", f'exec "$@" {to}', "sh", *command)
            assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: the output cannot be"), done


def test_what_is_no_picture_is_said_with_its_path(host, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    size = int(np.prod(host.network.signature.inputs[0].shape))
    np.full(size, np.nan, np.float32).tofile(tmp_path / "nan.raw")
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(100))
    np.save(tmp_path / "double.npy", np.zeros(4))
    said = {
        ".": "it is a folder",
        "pipe": "it is not a regular file",
        "none.ppm": "No such file",
        "nan.raw": "input x holds NaN at 0: give finite numbers",
        "a.gif": "no JPEG, PNG, .ppm, .pgm or .npy; as an input's bytes it has 106 bytes of data, the input of float32",
        "double.npy": "it holds float64 of shape 4, the input is float32 of 1 x 3 x 128 x 128",
    }
    for name, words in said.items():
        done = run(host.folder / "mobilenet", "classify", tmp_path / name)
        assert (done.returncode, done.stdout) == (1, "") and f"{tmp_path / name}: {words}" in done.stderr, done
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "huge.ppm").write_bytes(b"P6\n100000 100000\n255\n")
    for name in ("empty.npy", "huge.ppm", "none.jpg", "a.gif"):
        done = run(sys.executable, host.folder / "mobilenet.py", tmp_path / name)
        assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path / name}"), done
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "argv, words",
    [
        (["bench", "--threads", "2x"], "--threads: wants a number"),
        (["classify", "a.ppm", "--top", "0"], "--top: wants a number"),
        (["bench", "--runs"], "--runs: wants a number"),
        (["bench", "--nope"], "--nope: no such option"),
        (["info", "a.ppm"], "info: it takes no file"),
        (["classify"], "classify: FILE is missing"),
        (["clasify", "a.ppm"], "clasify: "),
    ],
)
def test_a_mistake_names_the_argument(host, argv, words):
    done = run(host.folder / "mobilenet", *argv)
    assert done.returncode == 2 and f"error: {words}" in done.stderr and "usage: mobilenet" in done.stderr, done


@pytest.mark.parametrize(
    "name",
    sorted(
        [
            "manifest.json",
            "manifest.sha256",
            "weights.bin",
            "selftest.bin",
            "labels.txt",
            "mobilenet.h",
            "mobilenet.py",
            "libmobilenet.a",
        ]
    ),
)
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_a_file_that_is_not_the_one_that_was_built_is_refused(copy, name, how):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2 if name != "manifest.sha256" else 5] ^= 1
    if how == "missing":
        (copy / name).unlink()
    else:
        kept = len(data) if how == "changed" else 5 if name == "manifest.sha256" else len(data) - 7
        (copy / name).write_bytes(data[:kept])
    done = run(copy / "mobilenet", "selftest")
    assert done.returncode == 1 and "error: " in done.stderr and "passed" not in done.stdout
    with pytest.raises(TvmMobilenetError, match=r"not a whole bundle"):
        bundle.read(copy)
    if (how != "changed" and name != "manifest.sha256") or name == "manifest.json":
        with pytest.raises(Exception, match=r"manifest|bytes|No such file|whole"):
            net(copy)


def test_the_manifest_says_what_the_bundle_is(host):
    m, files = host.bundle.manifest, host.bundle.files
    assert (m["model"]["model"], m["model"]["alpha"], m["model"]["resolution"]) == ("v1", 0.25, 128)
    assert m["target"]["name"] == "host" and m["target"]["features"] == features.features(targets.load("host"))
    assert m["preprocess"]["size"] == [128, 128] and m["preprocess"]["interpolation"] == "bicubic"
    assert m["inputs"][0][1:] == [[1, 3, 128, 128], "float32"] and m["outputs"][0][1:] == [[1, 1000], "float32"]
    assert m["labels"] in files and m["classes"] == len(files[m["labels"]].splitlines())
    assert m["bytes"]["weights"] == len(files["weights.bin"]) - 64 and m["bytes"]["arena"] > 0
    assert 0 < m["error"]["found"] < m["error"]["allowed"] < 1e-3
    assert {"apache-tvm", "tvm-mobilenet", "ziglang"} <= m["versions"].keys()
    assert len(m["decisions"]) > 10 and all(d["layer"] and d["decisions"] and d["source"] for d in m["decisions"])
    assert m["files"].keys() == files.keys() - {"manifest.json", "manifest.sha256"}
    for name, entry in m["files"].items():
        assert entry == {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}


def test_weights_of_another_build_are_refused_at_open(copy):
    """Their size may well be right: the header says whose they are."""
    data = bytearray((copy / "weights.bin").read_bytes())
    data[20] ^= 1
    (copy / "weights.bin").write_bytes(data)
    with pytest.raises(Exception, match=r"weights\.bin is of another model"):
        net(copy)


def test_a_selftest_with_wrong_results_fails(copy):
    """The outputs that travel are changed, and every hash made right again."""
    data = np.fromfile(copy / "selftest.bin", np.float32)
    data[-5] += 1
    data.tofile(copy / "selftest.bin")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["selftest.bin"]["sha256"] = hashlib.sha256(data.tobytes()).hexdigest()
    text = json.dumps(manifest).encode()
    (copy / "manifest.json").write_bytes(text)
    (copy / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest() + "\n")
    done = run(copy / "mobilenet", "selftest")
    assert done.returncode == 1 and done.stdout.startswith("WRONG")


def test_a_manifest_of_another_build_is_refused(copy):
    text = (copy / "manifest.json").read_bytes().replace(b'"id": "', b'"id": "0', 1)
    (copy / "manifest.json").write_bytes(text)
    (copy / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest() + "\n")
    with pytest.raises(Exception, match="another build"):
        net(copy)


def test_a_cpu_that_lacks_a_feature_is_told_so(host, tmp_path):
    """Not an illegal instruction: here the tables ask for what no CPU has."""
    from tvm_mobilenet.compiler import module as built

    about = {
        **host.bundle.manifest,
        "model": "m",
        "target": "rpi5",
        "architecture": "x86_64",
        "features": ["avx", "xyzzy"],
        "weights_sha256": "0",
        "labels": True,
        "embedded": False,
        "labels_source": "",
        "preprocess": "",
        "ends": port_tables.of(host.network, built.read(host.built).plan),
    }
    model = tables.source(built.read(host.built).plan, about, {}, host.network.model.preprocess)
    (tmp_path / "model.c").write_text(model)
    command = [
        "gcc",
        "-I",
        host.work,
        "-shared",
        "-fPIC",
        "-o",
        tmp_path / "libmobilenet.so",
        tmp_path / "model.c",
        *(host.work / s for s in library.SOURCES),
        host.work / "kernels.o",
        "-lm",
        "-lpthread",
    ]
    assert run(*command).returncode == 0
    shutil.copy(host.folder / "manifest.json", tmp_path)
    with pytest.raises(Exception, match="no xyzzy, which a build for rpi5 needs"):
        net(tmp_path)


# ---- archives and names


def test_the_archive_holds_the_same(host, tmp_path):
    host.bundle.write(tmp_path / "a.tar.gz")
    host.bundle.write(tmp_path / "b.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert bundle.read(tmp_path / "a.tar.gz").files == host.bundle.files
    (tmp_path / "c.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:100_000])
    with pytest.raises(TvmMobilenetError, match="not a whole bundle"):
        bundle.read(tmp_path / "c.tar.gz")


def test_own_names_keeps_what_a_program_calls(tmp_path):
    """An object by another compiler, with debug information and both kinds of symbols."""
    (tmp_path / "x.c").write_text("int hidden_state = 3; int mobilenet_get(void) { return hidden_state; }")
    (tmp_path / "y.c").write_text(
        "int mobilenet_get(void), a_mobilenet_get(void), hidden_state = 9;\n"
        "int main(void) { return mobilenet_get() + a_mobilenet_get() != 6; }"
    )
    assert run("gcc", "-g", "-c", "-fPIC", "-o", tmp_path / "x.o", tmp_path / "x.c").returncode == 0
    symbols.own_names(tmp_path / "x.o", "a_")
    with (tmp_path / "x.o").open("rb") as f:
        assert not ELFFile(f).has_dwarf_info(strict=True)
    done = run("gcc", "-o", tmp_path / "y", tmp_path / "y.c", tmp_path / "x.o")
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "y").returncode == 0


# ---- Python on the board


def test_a_library_for_another_machine_is_told_so(copy):
    """The loader itself says that there is no such file."""
    data = bytearray((copy / "libmobilenet.so").read_bytes())
    data[18] = 0xB7 if data[18] != 0xB7 else 0x3E  # the ELF header's machine
    (copy / "libmobilenet.so").write_bytes(data)
    done = run(sys.executable, copy / "mobilenet.py", "x.ppm")
    assert done.returncode == 1 and not done.stdout
    assert "is built for" in done.stderr and "this Python is one of 64 bits" in done.stderr


def test_python_without_pillow(host, tmp_path):
    """Pictures of the formats that need none get the same scores; of others it is said what to do."""
    pixels = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    Image.fromarray(pixels).save(tmp_path / "b.ppm")
    Image.fromarray(pixels).save(tmp_path / "c.png")
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "b.ppm").read_bytes()[:-9])
    program = str(host.folder / "mobilenet.py")
    bare = f"import runpy, sys; sys.modules['PIL'] = None; runpy.run_path({program!r}, None, '__main__')"
    said = run(sys.executable, host.folder / "mobilenet.py", tmp_path / "c.png").stdout
    assert said.count("thing") == 5
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.pgm")
    grey = run(sys.executable, host.folder / "mobilenet.py", tmp_path / "grey.pgm").stdout
    assert run(sys.executable, "-c", bare, tmp_path / "grey.pgm").stdout == grey != said
    for name in ("a.npy", "b.ppm"):
        assert run(sys.executable, "-c", bare, tmp_path / name).stdout == said
    for name, words in (("c.png", "pip install pillow"), ("cut.ppm", "cut.ppm"), ("missing.ppm", "No such file")):
        done = run(sys.executable, "-c", bare, tmp_path / name)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr, done
    done = run(sys.executable, host.folder / "mobilenet.py", tmp_path / "missing.jpg")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "missing.jpg" in done.stderr


# ---- where it is written


@pytest.mark.parametrize(
    "there", [{"manifest.json": '{"my": "app"}', "weights.bin": "precious"}, {"notes.txt": "mine"}]
)
def test_a_folder_of_somebody_else_is_refused_before_anything_is_built(tmp_path, capsys, there):
    from tests.support import modules
    from tvm_mobilenet import build

    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in there.items():
        (folder / name).write_text(text)
    argv = ["--model", str(modules.tiny_options().model), "--target", "host", "--output", str(tmp_path / "out")]
    assert build.main([*argv, "--bundle", str(folder)]) == 2
    assert f"--bundle {folder}: the folder holds {min(there)}" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in folder.iterdir()} == there and not (tmp_path / "out").exists()
    assert build.main([*argv, "--bundle", str(tmp_path / "out")]) == 2
    assert "is the folder of --output" in capsys.readouterr().err


def test_a_bundle_replaces_another_whole_or_not_at_all(host, copy, monkeypatch):
    def files():
        return {p.name: p.read_bytes() for p in copy.iterdir() if p.is_file()}

    (copy / "__pycache__").mkdir(exist_ok=True)  # mobilenet.py was imported from here
    before, real = files(), type(copy).write_bytes
    other = dataclasses.replace(host.bundle, files={**host.bundle.files, "weights.bin": b"other"})

    def fails(path, data):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(type(copy), "write_bytes", fails)
    with pytest.raises(TvmMobilenetError, match="cannot write the bundle"):
        other.write(copy)
    assert files() == before and [p.name for p in copy.parent.iterdir()] == [copy.name]
    monkeypatch.undo()
    copy.chmod(0o750)
    with (copy / "weights.bin").open("rb") as mapped:  # a program that runs keeps what it opened
        other.write(copy)
        assert mapped.read() == before["weights.bin"]
    assert files() == other.files and copy.stat().st_mode & 0o777 == 0o750
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]
