"""The runtime as C: warnings are errors; sanitizers, threads, many runs, and two models at once."""

import shutil
import subprocess
from math import prod

import pytest
from tvm_mobilenet.targets import features

from benchmarks import bundle as evidence
from tests.support import bundles
from tvm_mobilenet import targets
from tvm_mobilenet.compiler import codegen, library, tables
from tvm_mobilenet.compiler import module as built

CLANG = pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed: apt-get install clang")


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=1200, **kwargs)


@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=[CLANG, pytest.mark.full])])
def test_no_warnings(host, tmp_path, compiler):
    for source in (*library.SOURCES, *library.PROGRAM, "model.c"):
        done = run(
            compiler,
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Wshadow",
            "-Werror",
            "-I",
            host.work,
            "-c",
            host.work / source,
            "-o",
            tmp_path / "x.o",
        )
        assert done.returncode == 0, done.stderr


@CLANG
@pytest.mark.parametrize("sanitizer", ["thread", pytest.param("address,undefined", marks=pytest.mark.full)])
def test_eight_threads_share_three_instances(host, tmp_path, sanitizer):
    """While others change their number of threads."""
    done = run(bundles.sanitized(host, "threads", sanitizer, tmp_path), host.folder, 12)
    bundles.require_clean(done)
    assert done.stdout == "0 wrong\n"


@CLANG
def test_open_survives_any_manifest(host, copy, tmp_path):
    bundles.require_clean(run(bundles.sanitized(host, "fuzz", "address,undefined", tmp_path), copy, 500, 7))


@pytest.mark.parametrize("limit", [0, 1e18, 65504])
@pytest.mark.parametrize("target", ["host", *(pytest.param(t, marks=pytest.mark.full) for t in ("rpi4", "armv7"))])
def test_no_place_of_an_input_hides_what_is_refused(tmp_path, target, limit):
    """NaN in any lane, block or rest, whatever lies around it; and the largest number that may be is taken."""
    target = targets.load(target)
    emulator = [] if target.name == "host" else bundles.emulator(target.architecture)
    if emulator is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross libc6-armhf-cross")
    known = features.features(target)
    kinds = {"", " ".join(known), " ".join(f for f in known if not f.startswith("avx512"))}
    sources = [bundles.C_TESTS / "looked.c", *(bundles.RUNTIME / s for s in ("numbers.c", "pool.c", "error.c"))]
    command = [*codegen.linker_command(target, None), *library.FLAGS, "-I", bundles.RUNTIME, "-o", tmp_path / "looked"]
    done = run(*command, *sources, "-lm", "-lpthread")
    assert done.returncode == 0, done.stderr
    for names in kinds if target.name == "host" else [" ".join(known)]:
        done = run(*emulator, tmp_path / "looked", names, limit, 127 if emulator else 61)  # both odd: every lane
        assert done.returncode == 0 and int(done.stdout) > 1_000, (names, done)


@pytest.mark.parametrize("runs", [300, pytest.param(10_000, marks=pytest.mark.full)])
def test_runs_allocate_nothing(host, tmp_path, runs):
    """The heap is the same to the byte after every run, and again after every close."""
    done = run(
        "gcc",
        "-O1",
        "-I",
        host.work,
        "-o",
        tmp_path / "leak",
        bundles.C_TESTS / "leak.c",
        host.folder / "libmobilenet.so",
        f"-Wl,-rpath,{host.folder}",
    )
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "leak", host.folder, runs)
    assert done.returncode == 0, done.stdout


@pytest.mark.full
def test_two_models_in_one_program(host, tmp_path):
    """Statically, all of the symbols of both; the second has its weights in the library, and needs no file of them."""
    second = bundles.made(resolution=32, embed=True)
    assert "weights.bin" not in second.bundle.files and second.bundle.manifest["bytes"]["weights"] > 1_000_000
    assert len(second.bundle.files["libmobilenet.so"]) > second.bundle.manifest["bytes"]["weights"]
    done = run(second.folder / "mobilenet", "selftest")
    assert done.returncode == 0 and done.stdout.startswith("passed"), done
    for name, made in (("one", host), ("two", second)):
        (tmp_path / f"{name}.c").write_text(
            f'#define MOBILENET_PREFIX {made.bundle.manifest["symbol_prefix"]}\n#include "mobilenet.h"\n'
            f"int {name}(const char *folder) {{\n    mobilenet *m;\n    mobilenet_selftest_result r;\n"
            "    if (mobilenet_open(folder, 0, &m)) return 1;\n    int code = mobilenet_selftest(m, &r);\n"
            "    mobilenet_close(m);\n    return code;\n}\n"
        )
    (tmp_path / "main.c").write_text(
        "int one(const char *), two(const char *);\nint main(int n, char **v) {\n"
        "    return n < 3 || one(v[1]) || two(v[2]) || one(v[1]) || !one(v[2]);\n}\n"
    )
    done = run(
        "gcc",
        "-I",
        host.folder,
        "-o",
        tmp_path / "both",
        *(tmp_path / f"{n}.c" for n in ("main", "one", "two")),
        host.folder / "libmobilenet.a",
        second.folder / "libmobilenet.a",
        "-lm",
        "-lpthread",
    )
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "both", host.folder, second.folder)
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    "model", [{}, pytest.param({"alpha": 1.0, "resolution": 224}, marks=pytest.mark.full)], ids=["small", "large"]
)
def test_a_process_holds_little_but_the_model(tmp_path, model):
    """Resident after the first run, libc included: weights, arena, the caller's own buffers and 2 MB."""
    made = bundles.made(**model)
    program = evidence.compiled(made.folder, "resident", tmp_path / "resident")
    manifest = made.bundle.manifest
    sizes = manifest["bytes"]
    ports = sum(4 * prod(shape) for _, shape, _ in (*manifest["inputs"], *manifest["outputs"]))
    for threads, mapped in ((1, False), (1, True), (2, False), (4, False)):
        resident, needed, _ = evidence.memory_and_open(made.folder, program, threads, mapped)
        arena = needed - ports - sizes["weights"]
        assert sizes["arena"] <= arena <= sizes["arena"] + threads * (sizes["scratch"] + 4096)
        assert sizes["weights"] < resident <= needed + evidence.RESIDENT_BYTES, (threads, mapped)


def test_scratch_memory_lies_where_nothing_is_alive(host):
    """It shares the arena with tensors that are no longer, or not yet, there."""
    plan = built.read(host.built).plan
    begins = tables.free_from(plan)
    assert len(begins) == len(plan.steps) and min(begins) < plan.arena_bytes
    for written, step in enumerate(plan.steps):
        tensor = step.operands[-1]
        alive = [written]
        for later in range(written + 1, len(plan.steps)):
            *read, out = plan.steps[later].operands
            alive += [later for t in read if (t.space, t.offset) == ("arena", tensor.offset)]
            if (out.space, out.offset) == ("arena", tensor.offset):
                break
        if tensor.space == "arena":
            assert min(begins[written : alive[-1] + 1]) >= tensor.offset + tensor.nbytes


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed: apt-get install valgrind")
def test_instructions_go_to_kernels(tmp_path):
    """Counted, not timed: of one run on one thread, what is not in kernels."""
    target = evidence.without_avx512()
    if target is None:
        pytest.skip("this machine has no AVX2")
    made = bundles.made(target)
    total, kernels = evidence.instructions(made.folder, made.work, tmp_path)
    mult_adds = 13.6e6  # of v1 0.25-128, eight an instruction at best
    assert mult_adds / 8 < total / evidence.RUNS < mult_adds
    assert kernels >= (1 - evidence.OVERHEAD) * total


def test_callgrind_is_read_as_it_counts():
    """Calls are counted where they end, names are given once, and code without a name is a kernel's in the program."""
    text = (
        "ob=(1) /x/program\nfn=(1) mobilenet_run\n3 10\ncfn=(2) kernel\ncalls=1 0\n4 500\ncob=(2) /lib/libc.so\n"
        "cfn=(3) memcpy\ncalls=1 0\n* 5\n+1 7\nfn=(2)\n1 300\ncfn=(4) 0x0000000000001234\ncalls=1 0\n+1 200\n"
        "fn=(4)\n0 200\nob=(2)\nfn=(3)\n9 5\nfn=(5) 0x0000000000009999\n9 1\n"
    )
    assert evidence.shares(text, {"kernel"}, "program") == (523, 500)
