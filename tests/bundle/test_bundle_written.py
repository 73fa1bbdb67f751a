"""Where a bundle is written again: who runs the old one, and who is killed while writing, breaks nothing."""

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import bundles
from tvm_mobilenet.bundle import received

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


@pytest.mark.parametrize("name", ["bundle", "b.tar.gz"])
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
