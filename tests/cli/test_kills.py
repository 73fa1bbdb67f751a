"""Verbs that are killed: what was there stays or is new, and beside it lies one folder at most, which the next run
removes. Else a device that loses power now and then fills its disk, or has half of a build."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from tvm_mobilenet.tune_logs.log import trials_of

from tests.support import bundles, modules
from tests.support.fake_board import Costs
from tests.tuning.test_search import NAMES, space
from tvm_mobilenet import build, packages, schedules, ship, targets, tune
from tvm_mobilenet.bundle import received
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import pipeline
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning import session as tuning

KILLS = int(os.environ.get("TVM_MOBILENET_KILLS", 5))  # of each verb; 30 take minutes
CHANGES = ("os.mkdir", "os.rmdir", "os.rename", "os.remove", "subprocess.Popen", "shutil.rmtree")
RESULTS = {"out", "bundle", "board", "log.jsonl", "log.trials.jsonl"}


def left_in(*places: Path) -> list[str]:
    """What lies there besides results; a lock's file is named by it."""
    return [name for place in places for name in os.listdir(place) if name not in RESULTS]


def built_at(place: Path) -> set[str]:
    network = load_network(modules.tiny_options())
    where = {"output": place / "out", "bundle": place / "bundle", "network": network}
    build.build(modules.tiny_options(), targets.load("host"), **where)
    return {"out", "bundle"}


def tuned_at(place: Path) -> set[str]:
    counts = {Layer.parse(name): 1.0 for name in NAMES}
    work = tuning.prepare(counts, targets.load("rpi4"), "virtual", place / "log.jsonl", 2)
    assert tuning.search(work, Costs(), 3600.0, workers=1)[0] == "done"
    return {"log.jsonl", "log.trials.jsonl"}


@pytest.mark.parametrize(("verb", "least"), [(built_at, 20), (tuned_at, 4)])
def test_a_verb_has_one_folder_at_a_time(tmp_path, monkeypatch, verb, least):
    """Whatever the moment at which it might be killed: at each call that makes, moves or removes something."""
    place, temporary, found, watching = tmp_path / "place", tmp_path / "tmp", [], True
    place.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv(packages.TORCH_CACHE, str(tmp_path))  # as in a process that begins with the verb
    if verb is tuned_at:
        monkeypatch.setattr(schedules, "space", lambda layer, core: space())

    def hook(event: str, arguments: tuple) -> None:
        if watching and event in CHANGES:
            found.append([name for name in left_in(place, temporary) if not name.endswith(".lock")])

    (temporary / f"tvm_mobilenet-run-{'0' * 16}").mkdir()  # of a run that was killed before
    sys.addaudithook(hook)
    try:
        results = verb(place)
    finally:
        watching = False  # a hook cannot be taken away
    assert max(map(len, found)) <= 1, max(found, key=len)
    assert len(found) >= least and any(found), found
    assert set(os.listdir(place)) == results and not os.listdir(temporary)


class Begun(Exception):
    """A verb's work began."""


@pytest.mark.parametrize("verb", ["build", "tune"])
def test_what_killed_runs_left_goes_before_the_work_begins(tmp_path, monkeypatch, verb):
    """Else the next run leaves a folder too if it is killed before it replaces the same thing."""
    place, temporary = tmp_path / "place", tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    token = "0" * 16
    left = [place / f".out.{token}.tmp", place / f"out/.new-{token}", temporary / f"tvm_mobilenet-run-{token}"]
    left += [place / f".bundle.{token}.tmp"] if verb == "build" else []
    for folder in (*left, other := place / f".another.{token}.tmp"):
        folder.mkdir(parents=True)

    def begins(*args, **kwargs):
        assert not [folder for folder in left if folder.exists()] and other.exists()
        raise Begun

    monkeypatch.setattr(pipeline, "compile", begins)
    monkeypatch.setattr(pipeline, "for_core", begins)
    network = load_network(modules.tiny_options())
    given = (modules.tiny_options(), targets.load("rpi4"))
    with pytest.raises(Begun):
        if verb == "build":
            build.build(*given, network=network, output=place / "out", bundle=place / "bundle")
        else:
            tune.tune(*given, network=network, output=place / "out", log=place / "log.jsonl")


# ---- at random moments, in the full run


def as_a_verb(argv: list[str], verb: str, place: str) -> None:
    """In a child of a process that has imported what takes seconds, and did nothing else."""
    os.setsid()
    os.chdir(place)
    tempfile.tempdir = os.environ["TMPDIR"] = str(Path(place).with_name("tmp"))
    os.environ[packages.TORCH_CACHE] = tempfile.tempdir
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit({"build": build, "tune": tune, "ship": ship}[verb].main(argv))


@pytest.fixture(scope="module")
def start():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tvm", "tests.cli.test_kills"])

    def started(verb: str, argv: list, place: Path):
        process = context.Process(target=as_a_verb, args=([str(a) for a in argv], verb, str(place)))
        process.start()
        return process

    return started


def whole(place: Path) -> None:
    """All that is there can be used."""
    if (place / "out").exists():
        built.read(place / "out")
    if (place / "bundle").exists():
        received.manifest_of(received.files_of(place / "bundle"))
    if (place / "board/current").exists():
        received.manifest_of(received.files_of((place / "board/current").resolve()))


def acknowledged(place: Path) -> int:
    """Trials in the log of a search; a torn last line is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return len(list(trials_of(place / "log.jsonl").records())) if (place / "log.trials.jsonl").exists() else 0


@pytest.mark.full
@pytest.mark.parametrize("verb", ["build", "bundle", "tune", "ship"])
def test_kills_lose_nothing_and_leave_one_folder(start, tmp_path, capsys, verb):
    place, temporary, draw = tmp_path / "place", tmp_path / "tmp", random.Random(verb)
    place.mkdir()
    temporary.mkdir()
    model = ["--model", modules.tiny_options().model, "--target", "host" if verb == "bundle" else "rpi4"]
    argv = {
        "build": ["build", [*model, "--output", place / "out"]],
        "bundle": ["build", [*model, "--output", place / "out", "--bundle", place / "bundle"]],
        "tune": [
            "tune",
            [*model, "--log", place / "log.jsonl", "--output", place / "out", *["--trials", "2", "--workers", "1"]],
        ],
        "ship": ["ship", ["--bundle", bundles.made().folder, "--to", place / "board", "--threads", 1]],
    }[verb]
    most, trials, kills, kept, takes = 0, 0, 0, 0, {}
    while kills < KILLS:
        known = (place / "log.jsonl").exists() and draw.random() < 0.5  # else all trials would be known before long
        if verb == "tune" and not known:
            for path in place.glob("log*"):
                path.unlink()
            trials = 0
        began = time.monotonic()
        process = start(*argv, place)
        process.join(draw.uniform(0, takes[known]) if known in takes else None)
        if process.exitcode is None:
            kills += 1
        else:
            assert process.exitcode == 0
            takes[known] = time.monotonic() - began  # a run that had to search takes longer
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        process.join()
        folders = [name for name in left_in(place, temporary) if not name.endswith((".lock", ".torn"))]
        if verb == "ship" and (place / "board/versions").exists():
            names = {
                p.name for p in (place / "board/versions").iterdir() if p.name[0] == "." or (p / ".not-yet").exists()
            }
            folders += names
        most = max(most, len(folders))
        assert len(folders) <= 1, folders
        whole(place)
        assert acknowledged(place) >= trials, "trials were lost"
        trials = acknowledged(place)
        kept += trials
    process = start(*argv, place)
    process.join()
    assert process.exitcode == 0 and not [name for name in left_in(place, temporary) if not name.endswith(".torn")]
    whole(place)
    with capsys.disabled():
        print(f"\n{verb}: {json.dumps({'kills': kills, 'left at most': most, 'trials kept': kept})}")
    shutil.rmtree(place)
