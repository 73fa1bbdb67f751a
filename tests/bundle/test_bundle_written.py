"""Where a bundle is written again: who runs the old one, and who is killed while writing, breaks nothing."""

import dataclasses
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import bundles
from tvm_mobilenet.bundle import received
from tvm_mobilenet.files import whole_file

PATIENCE = 300  # seconds, for a machine that does much else


def test_programs_that_run_a_bundle_outlive_that_it_is_written_again(host, copy):
    """They go on with the files that they opened, and who starts one afterwards has the new one."""
    bundle, folder = host.bundle, copy
    other = dataclasses.replace(bundle, files={**bundle.files, "weights.bin": b"other"})
    command = [folder / "mobilenet", "bench", "--runs", "400", "--threads", "1"]
    began = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    maps, limit = [Path(f"/proc/{process.pid}/maps") for process in began], time.monotonic() + PATIENCE
    while not all("libmobilenet.so" in text.read_text() for text in maps) and time.monotonic() < limit:
        time.sleep(0.01)
    running = [process.poll() is None for process in began]
    for new in (other, bundle, other, bundle):
        new.write(folder)
    assert all(running), "all had ended before anything was written"
    assert all("median" in process.communicate()[0] and process.returncode == 0 for process in began)
    done = subprocess.run([folder / "mobilenet", "selftest"], capture_output=True, text=True)
    assert "passed" in done.stdout, done.stderr


OPENS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("m", sys.argv[1])
m = importlib.util.module_from_spec(spec)
spec.loader.exec_module(m)
while not Path(sys.argv[3]).exists():
    with m.Mobilenet(sys.argv[2], threads=1, max_size=(64, 64)) as net:
        print(net.inputs[0][1][2], flush=True)
"""


@pytest.mark.full
def test_programs_that_start_while_a_bundle_is_exchanged_run_the_old_one_or_the_new(tmp_path, monkeypatch):
    """The C program and Python, which opens one after the other. Whoever is refused then answers nobody."""
    one, other, folder = bundles.made().bundle, bundles.made(resolution=32, embed=True).bundle, tmp_path / "bundle"
    ended, starting, seen = threading.Event(), threading.Lock(), []

    def start() -> None:
        command = [folder / "mobilenet", "info", "--threads", "1"]
        while not ended.is_set():
            with starting:
                seen.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            seen[-min(3, len(seen))].wait()

    def all_have_opened(seconds: float) -> None:
        with starting:
            began = list(seen)
        for process in began:
            process.wait()

    one.write(folder)
    # In place of seconds: until all that began before have opened their files, however long this machine takes.
    monkeypatch.setattr(whole_file.time, "sleep", all_have_opened)
    where = [bundles.RUNTIME / "mobilenet.py", folder, tmp_path / "end"]
    python = subprocess.Popen([sys.executable, "-c", OPENS, *map(str, where)], stdout=subprocess.PIPE, text=True)
    opened = [python.stdout.readline()]
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(start)
        for turn in range(12):
            (other, one)[turn % 2].write(folder)
        ended.set()
        started.result()
    (tmp_path / "end").touch()
    opened += python.communicate()[0].splitlines()
    said = [process.communicate()[0] for process in seen]
    assert python.returncode == 0 and {line.strip() for line in opened} == {"128", "32"}
    wrong = [text for process, text in zip(seen, said, strict=True) if process.returncode]
    assert not wrong, wrong[:3]
    assert {bundle.manifest["id"] in text for text in said for bundle in (one, other)} == {True, False}


def stopped(process: subprocess.Popen, log: Path) -> int | None:
    """The child of strace, once it is stopped; None: it ended."""
    limit = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < limit:
        if log.exists() and "stopped by SIGSTOP" in log.read_text():
            return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        time.sleep(0.005)
    assert process.poll() is not None, "it neither stops nor ends"
    return None


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed: apt-get install strace")
def test_a_program_that_stands_still_at_any_file_while_its_bundle_is_exchanged(tmp_path, monkeypatch):
    """As one that is stopped, swapped out or of a machine that slept: longer than the old folder stays."""
    one, other, folder = bundles.made().bundle, bundles.made(resolution=32, embed=True).bundle, tmp_path / "bundle"
    monkeypatch.setattr(whole_file.time, "sleep", lambda seconds: None)
    command = [folder / "mobilenet", "info", "--threads", "1"]
    found, number = [], 0
    while True:
        number += 1
        one.write(folder)
        log = tmp_path / f"log {number}"
        stop = ["strace", "-o", str(log), "-e", f"inject=open,openat:signal=SIGSTOP:when={number}"]
        process = subprocess.Popen([*stop, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        pid = stopped(process, log)
        if pid is not None:
            other.write(folder)
            os.kill(pid, signal.SIGCONT)
        said = process.communicate()[0]
        assert process.returncode == 0, (number, said)
        found.append([bundle.manifest["id"] in said for bundle in (one, other)])
        assert sum(found[-1]) == 1, (number, said)
        if pid is None:
            break
    assert len(found) > 5 and [True, False] in found[:-1] and [False, True] in found, found


def test_what_is_read_of_a_folder_is_of_one_bundle(tmp_path, monkeypatch):
    """Though it is exchanged between any two of its files."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in "ab":
        for name in "xyz":
            (tmp_path / folder / name).write_text(folder + name)
    real = os.stat

    def exchanging(path, *args, **how):
        if path == "y":
            (tmp_path / "a").rename(tmp_path / "c")
            (tmp_path / "b").rename(tmp_path / "a")
        return real(path, *args, **how)

    monkeypatch.setattr(received.os, "stat", exchanging)
    assert received.files_of(tmp_path / "a") == {"x": b"ax", "y": b"ay", "z": b"az"}
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["bundle", pytest.param("b.tar.gz", marks=pytest.mark.full)])
def test_whoever_is_killed_while_writing_a_bundle_leaves_one_that_is_whole(tmp_path, name):
    """Thirty times; beside it lies no more than one folder, which the next writer removes."""
    path, rng, seen = tmp_path / name, random.Random(1), []
    made = bundles.made().bundle
    kept = {n: made.files[n] for n in (received.MANIFEST, received.SUM, "mobilenet.h", "mobilenet.py", "mobilenet")}
    one = dataclasses.replace(made, files=kept)
    other = dataclasses.replace(made, files={**kept, "labels.txt": b"other\n" * 1000})
    one.write(path)
    for number in range(30):
        hears, tells = os.pipe()
        if (child := os.fork()) == 0:
            try:
                for turn in itertools.count(number):
                    (other, one)[turn % 2].write(path)
                    os.write(tells, b".")
            finally:
                os._exit(1)
        for _ in range(number % 3):  # are written to the end
            os.read(hears, 1)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        os.close(hears)
        os.close(tells)
        left = set(os.listdir(tmp_path)) - {name}
        files = received.files_of(path)
        assert files in (one.files, other.files) and len(left) <= 1, left
        seen.append(len(files))
    assert len(set(seen)) == 2, "no writer came to its end"
    one.write(path)
    assert os.listdir(tmp_path) == [name] and received.files_of(path) == one.files
