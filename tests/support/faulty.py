"""Verbs on a disk that fails: a process under ``c/faults.c``, which forks a child for each call that is to fail.

    FAULTS_STATE=FILE FAULTS_ROOT=FOLDER LD_PRELOAD=faults.so python -m tests.support.faulty SCENARIO,... STEP MODE ...

It prints a JSON document for each scenario and mode: how many calls failed, and what was wrong. What is slow, such as
importing and compiling, is done once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import mmap
import os
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.tune_logs.journal import Journal
from tvm_mobilenet.tune_logs.log import Record

from tests.support import bundles, modules
from tvm_mobilenet import build, ship, targets
from tvm_mobilenet.boards import token
from tvm_mobilenet.bundle import pack, received
from tvm_mobilenet.cli import entry
from tvm_mobilenet.compiler import artifacts, pipeline
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.files.own_files import replacing_own
from tvm_mobilenet.files.user_cache import Collection
from tvm_mobilenet.files.whole_file import write_whole

MODES = ("once", "full", "killed")  # of a failing call: it alone, all from it on, the process dies in its place
CODES = (0, 2, 4)


@dataclass
class Scenario:
    """What is done to a folder.

    Attributes
    ----------
    prepare : callable
        Makes what is there before, given the folder.
    act : callable
        What may fail; its exit code is that of the verb.
    state : callable
        ``old`` or ``new``, whichever is there; anything else is said to be broken.
    names : set of str
        What lies in the folder when nothing is left behind.
    beside : tuple of str
        Folders in it in which nothing is left behind either.
    optional : bool
        It need not be done: a success may leave the old state.
    between : str
        The state that a process may leave which is killed, and none that fails.
    """

    prepare: Callable[[Path], object]
    act: Callable[[Path], int | None]
    state: Callable[[Path], str]
    names: set[str]
    beside: tuple[str, ...] = ()
    optional: bool = False
    between: str = ""


def file_scenario() -> Scenario:
    def state(folder: Path) -> str:
        return {"a" * 9: "old", "b" * 99: "new"}.get((folder / "report.html").read_text(), "torn")

    return Scenario(
        lambda folder: (folder / "report.html").write_text("a" * 9),
        lambda folder: write_whole(folder / "report.html", "b" * 99, "--html"),
        state,
        {"report.html"},
    )


def small(bundle: pack.Bundle) -> pack.Bundle:
    kept = (received.MANIFEST, received.SUM, "mobilenet.h", "mobilenet.py")
    return pack.Bundle(bundle.manifest, {name: bundle.files[name] for name in kept})


def bundle_scenario(name: str) -> Scenario:
    old = small(bundles.made().bundle)
    new = pack.Bundle(old.manifest, {**old.files, "labels.txt": b"new\n" * 99})

    def state(folder: Path) -> str:
        files = received.files_of(folder / name)
        return "old" if files == old.files else "new" if files == new.files else "broken"

    return Scenario(lambda folder: old.write(folder / name), lambda folder: new.write(folder / name), state, {name})


def build_scenario() -> Scenario:
    """A build where another lies, and its bundle. Compiling and linking are done once, here: the new build is whole and
    of this process, whatever became of the sources since the shared one, the old, was built."""
    options, target = modules.tiny_options(17), targets.load("host")
    network, old, packed = load_network(options), built.read(modules.tiny()), small(bundles.made().bundle)
    compiled = pipeline.compile(network, target, None, pipeline.nobody)
    new = compiled.write(Path(os.environ["FAULTS_ROOT"]).with_name("new"))
    assert {old.build, new.build}.isdisjoint({None}) and old.build != new.build, "a mix could not be told"
    first = [name for name in new.files if name not in built.LIBRARIES]

    def copy(chosen: list[str], place: Path) -> tuple[str, ...]:
        for name in chosen:
            shutil.copyfile(new.folder / name, place / name)
        return tuple(chosen)

    artifacts.parts = lambda model, place, linker=None: copy(first, place)
    artifacts.libraries = lambda model, place, *rest: copy([n for n in new.files if n not in first], place)
    pipeline.compile = lambda *args: compiled
    pack.make = lambda *args, **kwargs: packed
    build.build.__globals__["console"].say = lambda text: print(text, file=sys.stderr)
    replaced = pack.Bundle(packed.manifest, {**packed.files, "labels.txt": b"old\n"})

    def state(folder: Path) -> str:
        found = built.read(folder / "out").build  # which refuses files of two builds
        files = received.files_of(folder / "bundle")
        if (folder / "out/notes.txt").read_text() != "not ours" or files not in (replaced.files, packed.files):
            return "broken"
        if found == old.build:
            return "old" if files == replaced.files else "a new bundle of an old build"
        return "new" if files == packed.files else "old"  # the build comes first

    def prepare(folder: Path) -> None:
        shutil.copytree(old.folder, folder / "out")
        (folder / "out/notes.txt").write_text("not ours")
        replaced.write(folder / "bundle")

    def act(folder: Path) -> None:
        where = {"output": folder / "out", "bundle": folder / "bundle"}
        build.build(options, target, network=network, **where)

    return Scenario(prepare, act, state, {"out", "bundle"})


def within_scenario() -> Scenario:
    """Files of ours in a folder that has to stay, for it holds another folder; three of four names are there before."""
    own = ("a", "b", "c", "last")

    def write(folder: Path, version: str, names: tuple[str, ...]) -> None:
        for name in names:
            (folder / name).write_text(f"{name} of the {version}")

    def prepare(folder: Path) -> None:
        (folder / "out/somebody's").mkdir(parents=True)
        write(folder / "out", "old", ("a", "b", "last"))

    def act(folder: Path) -> None:
        with replacing_own(folder / "out", own, "last") as new:
            write(new, "new", ("b", "c", "last"))

    def state(folder: Path) -> str:
        there = {path.name: path.read_text().split()[-1] for path in (folder / "out").iterdir() if path.is_file()}
        return {
            (("a", "old"), ("b", "old"), ("last", "old")): "old",
            (("b", "new"), ("c", "new"), ("last", "new")): "new",
        }.get(tuple(sorted(there.items())), "none" if "last" not in there else "broken")

    return Scenario(prepare, act, state, {"out", "somebody's", *own}, ("out",), between="none")


def journal_scenario(rewriting: bool) -> Scenario:
    def record(number: int) -> Record:
        return Record(layer=f"layer {number}", core="c", decisions={}, cost=1.0 + number)

    redone = {"layer 0", "layer 8", "layer 9"}

    def act(folder: Path) -> None:
        journal = Journal(folder / "log.jsonl")
        if rewriting:
            journal.rewrite(lambda found: [*(r for r in found if r.layer not in redone), record(9), record(8)])
        else:
            journal.append(record(9))

    def state(folder: Path) -> str:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a torn last line: what was not acknowledged
            found = {r.layer for r in Journal(folder / "log.jsonl").records()}
        kept = {f"layer {n}" for n in ((1, 2) if rewriting else (0, 1, 2))}
        return "lost" if not kept <= found else "new" if "layer 9" in found else "old"

    return Scenario(
        lambda folder: [Journal(folder / "log.jsonl").append(record(n)) for n in range(3)],
        act,
        state,
        {"log.jsonl", "log.torn"},
    )


def token_scenario() -> Scenario:
    def act(folder: Path) -> None:
        os.environ[token.VARIABLE] = str(folder / "token")
        token.read_or_make()

    def state(folder: Path) -> str:
        os.environ[token.VARIABLE] = str(folder / "token")
        return "new" if token.read() else "old"

    return Scenario(lambda folder: None, act, state, {"token"})


def cache_scenario() -> Scenario:
    """Where an object cannot be kept it is not; the work goes on, and what is taken is what was kept."""

    def act(folder: Path) -> int:
        os.environ["XDG_CACHE_HOME"] = str(folder)
        kept = Collection("objects", 1 << 20)
        kept.keep("key", __file__)
        taken = folder / "taken"
        if kept.take("key", taken):
            return 0 if taken.read_bytes() == Path(__file__).read_bytes() else 1
        return 0

    def state(folder: Path) -> str:
        return "new" if (folder / "tvm_mobilenet/objects/key").exists() else "old"

    beside = ("tvm_mobilenet", "tvm_mobilenet/objects")
    return Scenario(lambda folder: None, act, state, {"tvm_mobilenet", "taken", "objects", "key"}, beside, True)


def ship_scenario() -> Scenario:
    bundle = bundles.made().bundle

    def to(folder: Path) -> ship.Destination:
        return ship.Destination.parse(str(folder / "board"))

    def state(folder: Path) -> str:
        now = os.readlink(folder / "board/current")
        there = {p.name: p.read_bytes() for p in (folder / "board" / now).iterdir() if p.name != ".not-yet"}
        return "broken" if there != bundle.files else "old" if "/0001-" in now else "new"

    def act(folder: Path) -> int:
        result = ship.ship(bundle, to(folder), keep=1, threads=1)
        if not result.ok:
            print(f"error: {result.error}", file=sys.stderr)
        return 0 if result.ok else 4

    names = {"board", "current", "versions", *(f"{n:04}-{bundle.manifest['id']}" for n in (1, 2, 3))}
    prepare = lambda folder: ship.ship(bundle, to(folder))  # noqa: E731
    return Scenario(prepare, act, state, names, ("board", "board/versions"))


SCENARIOS = {
    "file": file_scenario,
    "bundle": lambda: bundle_scenario("bundle"),
    "archive": lambda: bundle_scenario("b.tar.gz"),
    "build": build_scenario,
    "within": within_scenario,
    "append": lambda: journal_scenario(False),
    "rewrite": lambda: journal_scenario(True),
    "token": token_scenario,
    "cache": cache_scenario,
    "ship": ship_scenario,
}


class Faults:
    """The state that all processes share."""

    def __init__(self):
        self._map = mmap.mmap(os.open(os.environ["FAULTS_STATE"], os.O_RDWR), 4096)

    def arm(self, number: int, mode: int = 0) -> None:
        self._map[:40] = struct.pack("<5q", number, mode, errno.ENOSPC, 0, 0)

    @property
    def failed(self) -> int:
        return struct.unpack("<5q", self._map[:40])[4]


def in_child(act: Callable[[], int | None], words: Path) -> int:
    """How a process ended that did this as a verb does: its exit code, or minus a signal. Its stderr is kept."""
    if (child := os.fork()) == 0:
        code = 99
        try:
            os.setsid()
            fd = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            parser = argparse.ArgumentParser(prog="tvm_mobilenet.faulty")
            code = entry.run_verb(parser, lambda args: act(), [])
        finally:
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what a killed shell left
    return code


def run(scenario: Scenario, root: Path, faults: Faults, mode: str, step: int) -> dict:
    """Fail every ``step``-th call of a scenario, one in each run, until none is left."""
    wrong, number, injected, ends = [], 1, 0, {}
    words = root.with_name("words")

    def left() -> list[str]:
        places = (root, *(root / name for name in scenario.beside))
        found = {path for place in places if place.exists() for path in place.iterdir()}
        unfinished = [str(path.parent.name) for path in root.glob("*/versions/[0-9]*/.not-yet")]
        return sorted({path.name for path in found} - scenario.names) + unfinished

    def found() -> str:
        try:
            return scenario.state(root)
        except Exception as e:
            return f"{type(e).__name__}: {e}"

    while True:
        faults.arm(0)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        scenario.prepare(root)
        faults.arm(number, MODES.index(mode))
        code = in_child(lambda: scenario.act(root), words)
        failed = faults.failed
        faults.arm(0)
        if not failed:
            break
        injected += 1
        text = words.read_text(errors="replace")
        state = found()
        ends[state] = ends.get(state, 0) + 1
        beside, faulty = left(), ""
        may = {"old", "new", scenario.between if mode == "killed" else "new"}
        if state not in may or (code == 0 and state == "old" and not scenario.optional):
            faulty = f"it is {state}"
        elif mode == "killed":
            if len([name for name in beside if not name.endswith(".lock")]) > 1:
                faulty = f"left: {beside}"
            elif (again := in_child(lambda: scenario.act(root), words)) or (state := found()) != "new" or left():
                faulty = f"the next run ends with {again}, it is {state}, {left()} is left: {words.read_text()[-300:]}"
        elif code not in CODES or "most likely" in text or "Traceback" in text:
            faulty = f"code {code}: {text[-300:]}"
        elif code and ("error: " not in text or "No space left" not in text.replace("no space", "No space")):
            faulty = f"it does not say why: {text[-300:]}"
        elif beside:
            faulty = f"left: {beside}"
        if faulty:
            wrong.append(f"call {number}: {faulty}")
        number += step
    return {"mode": mode, "faults": injected, "ends": ends, "wrong": wrong}


def main() -> None:
    names, step, *modes = sys.argv[1:]
    root, faults = Path(os.environ["FAULTS_ROOT"]), Faults()
    for name in names.split(","):
        scenario = SCENARIOS[name]()
        for mode in modes:
            print(json.dumps({"scenario": name, **run(scenario, root, faults, mode, int(step))}), flush=True)


if __name__ == "__main__":
    main()
