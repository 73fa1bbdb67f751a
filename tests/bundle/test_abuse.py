"""What careless programs do: close while others run, fork, change files. They get a message, or the right scores.

A server that dies of it, or hangs, loses all its other requests.
"""

import functools
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.support import bundles
from tvm_mobilenet import targets
from tvm_mobilenet.compiler import codegen

CLANG = pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed: apt-get install clang")
ALONE = ("forked_while_it_runs", "forked_while_threads_change")  # sanitizers' own locks are lost in such a child
WAYS = (
    "closed_while_it_runs",
    "used_after_close",
    "opened_by_many",
    "threads_read_while_set",
    "run_in_children",
    "forked_after_unload",
    "weights_change_and_shrink",
    "folder_is_relative",
    "path_is_empty",
    "left_while_it_runs",
)
WITH_THREADS = ("closed_while_it_runs", "opened_by_many", "threads_read_while_set")


@pytest.fixture(scope="module")
def program(host, tmp_path_factory):
    """Builds abuse.c under a sanitizer once, with the runtime of a bundle."""

    @functools.cache
    def built(sanitizer, embed=False):
        made = bundles.made(resolution=32, embed=True) if embed else host
        return bundles.sanitized(made, "abuse", sanitizer, tmp_path_factory.mktemp("abuse"))

    return built


def abused(*command) -> None:
    """A program that finds nothing wrong, and in which a sanitizer finds nothing."""
    environment = {**os.environ, "TSAN_OPTIONS": "die_after_fork=0"}  # children of threads start threads: that is asked
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1200, env=environment)
    bundles.require_clean(done)
    assert not done.stdout + done.stderr


@CLANG
@pytest.mark.parametrize(
    "way, sanitizer",
    [
        *((way, "address,undefined") for way in WAYS),
        *((way, "thread") for way in WITH_THREADS),
        *(pytest.param(way, "thread", marks=pytest.mark.full) for way in WAYS if way not in WITH_THREADS),
        *((w, "none") for w in ALONE),
    ],
)
def test_of_a_c_program(program, copy, way, sanitizer):
    abused(program(sanitizer), copy, way)


@CLANG
@pytest.mark.full
@pytest.mark.parametrize(
    "way, sanitizer",
    [
        *((w, "address,undefined") for w in WAYS if w not in ("weights_change_and_shrink", "path_is_empty")),
        *((w, "thread") for w in WITH_THREADS),
    ],
)
def test_of_a_c_program_with_its_weights_embedded(program, tmp_path, way, sanitizer):
    """Which has no file of them to map or to lose, and asks for no path of one."""
    folder = shutil.copytree(bundles.made(resolution=32, embed=True).folder, tmp_path / "copy")
    abused(program(sanitizer, embed=True), folder, way)


@pytest.mark.full
@pytest.mark.parametrize("way", [way for way in WAYS if way != "run_in_children"])
def test_of_a_c_program_on_arm(copy, tmp_path, way):
    """The same there, whose memory orders less. Where a child starts threads, qemu-user itself ends."""
    command = bundles.emulator("aarch64")
    if command is None:
        pytest.skip("needs apt-get install qemu-user libc6-arm64-cross")
    made = bundles.made("rpi4")
    folder, out = shutil.copytree(made.folder, tmp_path / "folder"), tmp_path / "abuse"
    source, built = bundles.C_TESTS / "abuse.c", [made.folder / "libmobilenet.so", f"-Wl,-rpath,{made.folder}"]
    compiler = codegen.linker_command(targets.load("rpi4"), None)
    cross = [*compiler, "-O1", "-I", made.folder, "-o", out, source, *built, "-lpthread", "-ldl"]
    subprocess.run([*map(str, cross)], check=True)
    done = subprocess.run([*command, *map(str, (out, folder, way))], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done


# ---- Python


def python(code: str, *arguments) -> str:
    """What a program prints that ends well; it has the module and a bundle's folder."""
    begin = (
        "import importlib.util, os, sys, threading, time\nimport numpy as np\n"
        "spec = importlib.util.spec_from_file_location('m', sys.argv[1] + '/mobilenet.py')\n"
        "m = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(m)\nfolder = sys.argv[1]\n"
    )
    forks = "ignore:This process:DeprecationWarning"  # of Python 3.12 on: there are threads, which is what is tried
    command = [sys.executable, "-W", forks, "-c", begin + textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


CALLERS = """
    net = m.Mobilenet(folder, threads=2)
    x = np.zeros(net.inputs[0][1], np.float32)
    scores = net.run(x)[0]
    started, codes = threading.Semaphore(0), []

    def call(what):
        try:
            while True:
                what()
                started.release()
        except m.MobilenetError as e:
            codes.append(e.code)

    ways = [lambda: net.run(x), lambda: net.run_image(np.zeros((9, 9, 3), np.uint8)), lambda: net.top(scores)]
    threads = [threading.Thread(target=call, args=(way,), daemon=True) for way in ways]
    for t in threads:
        t.start()
    for _ in range(30):
        started.acquire()
"""


def test_an_instance_is_closed_while_other_threads_run(host):
    """They get an error of its own code; a second close is nothing."""
    code = (
        CALLERS
        + """
    net.close()
    net.close()
    for t in threads:
        t.join()
    print(codes)
    """
    )
    assert python(code, host.folder) == "[9, 9, 9]\n"


def test_the_interpreter_exits_while_threads_run(host):
    assert python(CALLERS, host.folder) == ""


def test_a_server_opens_and_its_forked_children_run(host):
    """While the parent's threads run on."""
    code = (
        CALLERS
        + """
    for _ in range(4):
        child = os.fork()
        if not child:
            same = (net.run(x)[0] == scores).all()
            net.set_threads(3)
            same &= (net.run(x)[0] == scores).all()
            net.close()
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not codes
    """
    )
    assert python(code, host.folder) == ""


def test_weights_are_mapped_for_whom_asks_for_it(host):
    """Then the process's own memory does not hold them."""
    code = """
    def held():
        lines = open("/proc/self/maps").read().splitlines()
        return any(line.endswith("weights.bin") for line in lines)

    x, found = None, []
    for mapped in (False, True):
        with m.Mobilenet(folder, map_weights=mapped) as net:
            x = np.ones(net.inputs[0][1], np.float32) if x is None else x
            found.append(net.run(x)[0])
            assert held() == mapped
    assert (found[0] == found[1]).all()
    """
    assert python(code, host.folder) == ""


def test_what_no_library_takes_is_refused_in_words(host, copy):
    """And never cut to another number, or taken for the folder of the module."""
    mobilenet = bundles.python_interface()
    for threads in (65, -1, 1 << 32, (1 << 32) + 2):
        with pytest.raises(mobilenet.MobilenetError, match="threads"):
            mobilenet.Mobilenet(host.folder, threads=threads)
    for size in ((-1, 5), (1 << 32, 5), (70_000, 5)):
        with pytest.raises(mobilenet.MobilenetError, match="image sizes"):
            mobilenet.Mobilenet(host.folder, max_size=size)
    with pytest.raises(mobilenet.MobilenetError, match="an empty path"):
        mobilenet.Mobilenet("")
    named = copy.rename(copy.parent / os.fsdecode(b"\xff\xfe"))
    with mobilenet.Mobilenet(named, threads=1) as net:
        assert net.selftest()["samples"] > 0
        for threads in (0, 65, (1 << 32) + 2):
            with pytest.raises(mobilenet.MobilenetError, match="1 to 64"):
                net.set_threads(threads)
        assert np.isfinite(net.run(np.zeros(net.inputs[0][1]))[0]).all()
    done = subprocess.run([host.folder / "mobilenet", "info", "--folder", ""], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: an empty path"), done


WAITS_FOR_NOBODY = """
    import shutil, signal

    signal.alarm(300)  # who waits for a pipe's data is ended

    def pipe(path):
        os.mkfifo(path)

    def loop(path):
        os.symlink(os.path.basename(path), path)

    def device(path):
        os.symlink("/dev/zero", path)

    place, opened = sys.argv[2], []
    for name in ("weights.bin", "libmobilenet.so", "manifest.json", "manifest.sha256", "selftest.bin"):
        for make in (os.mkdir, pipe, loop, device):
            shutil.copytree(folder, place, copy_function=os.link)
            os.unlink(f"{place}/{name}")
            make(f"{place}/{name}")
            try:
                with m.Mobilenet(place, threads=1) as net:
                    net.selftest()
                opened.append((name, make.__name__))
            except m.MobilenetError as e:
                assert name in str(e), (name, e)
            command = [f"{place}/mobilenet", "selftest", "--folder", place]
            if name != "libmobilenet.so":  # which the system's loader opens, and waits for
                done = subprocess.run(command, capture_output=True, text=True, timeout=200)
                assert done.returncode == 1 and f"{name}" in done.stderr, (name, done)
            shutil.rmtree(place)
    with m.Mobilenet(folder, threads=1) as net:
        for make in (os.mkdir, pipe, loop, device):
            make(place)
            for way in (net.run_image, net.read, lambda path: net.measure([path])):
                try:
                    way(place)
                    opened.append(make.__name__)
                except m.MobilenetError as e:
                    assert place in str(e)
            os.rmdir(place) if make is os.mkdir else os.unlink(place)
    print(opened)
"""


def test_what_is_no_file_is_refused_and_nobody_waits_for_its_data(host, tmp_path):
    """A folder, a pipe, a link to itself or a device, in place of each file of a bundle, or as a picture."""
    assert python(f"    import subprocess\n{WAITS_FOR_NOBODY}", host.folder, tmp_path / "place") == "[]\n"
