"""Journals: a line that somebody else wrote, edited or broke must stop nothing and must not be lost."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings

import pytest
from tvm_mobilenet.tune_logs import keys, log
from tvm_mobilenet.tune_logs.journal import LONGEST_LINE, Journal, TornLineWarning, cut
from tvm_mobilenet.tune_logs.log import Record, TuneLogs, trials_of

from tvm_mobilenet import build, doctor, sweep, tune
from tvm_mobilenet.compiler.decide import decide
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.survey import estimates as estimating
from tvm_mobilenet.tuning import session as tuning

GOOD = {"layer": "pointwise m49 n16 k16 f32", "core": "cortex-a72", "decisions": {"tile_m": 1}, "cost": 100.0}
PREDICTED = {**GOOD, "predicted": True}


def changed(**fields) -> bytes:
    return json.dumps({**PREDICTED, **fields}).encode()


BAD = {
    "cost string": changed(cost="1"),
    "cost list": changed(cost=[1]),
    "cost nan": changed(cost=float("nan")),
    "cost infinite": changed(cost=float("-inf")),
    "cost too large for a double": b'{"cost": 1e999, ' + changed()[1:].replace(b'"cost": 100.0, ', b""),
    "cost of 400 digits": changed(cost=10**400),
    "cost true": changed(cost=True),
    "cost negative": changed(cost=-5.0),
    "cost zero": changed(cost=0),
    "all cores string": changed(cost_all_cores="x"),
    "memory negative": changed(memory=-1.0),
    "arithmetic object": changed(compute={}),
    "balance bool": changed(balance=False),
    "target number": changed(target=5),
    "target null": changed(target=None),
    "sources list": changed(sources=[1]),
    "board number": changed(board=1),
    "unit list": changed(unit=[]),
    "unit of another kind": changed(unit="s"),
    "predicted number": changed(predicted=1),
    "core null": changed(core=None),
    "layer number": changed(layer=7),
    "whole string": changed(whole="yes"),
    "seconds string": changed(seconds="2"),
    "versions string": changed(versions="x"),
    "versions of numbers": changed(versions={"tvm": 27}),
    "failure beside a cost": changed(failure="x"),
    "cores zero": changed(cores=0),
    "cores float": changed(cores=4.0),
    "no layer": json.dumps({k: v for k, v in PREDICTED.items() if k != "layer"}).encode(),
    "unknown field": changed(threads=4),
    "decisions list": changed(decisions=[]),
    "decision float": changed(decisions={"tile_m": 1.0}),
    "decision null": changed(decisions={"tile_m": None}),
    "decision list": changed(decisions={"tile_m": [1]}),
    "half a surrogate": changed(board="\ud800"),
    "huge line": changed(board="x" * LONGEST_LINE),
    "deep": b'{"layer":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deeper": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe{}",
    "zeros": b"\0\0\0",
    "array": b"[1, 2]",
    "number": b"7",
    "text": b"# a comment",
    "escape": b"\x1b[2J",
    "carriage return": b'{"layer": \r',
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_that_is_no_record_is_skipped_and_kept_whatever_it_is(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(line + b"\n" + changed() + b"\n" + changed(cost=90.0) + b"\n")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [r.cost for r in Journal(path).records()] == [100.0, 90.0]
    (text,) = [str(w.message) for w in seen if w.category is TornLineWarning]
    assert text.startswith(f"{path}:1: no record, skipped: ") and text.isprintable() and len(text) < 400
    log.tidy(path)
    Journal(path).append(Record(**{**GOOD, "cost": 80.0}))
    log.tidy(path)
    lines = path.read_bytes().split(b"\n")
    assert line in lines, "a line that could not be read was changed or dropped"
    assert [json.loads(kept)["cost"] for kept in lines if kept and kept != line] == [80.0]


def test_a_decision_has_the_very_type_of_its_candidates(tmp_path):
    """True is no 1 and 8.0 no 8, though Python says they are equal: schedules would unroll by True."""
    from tvm_mobilenet.schedules.choices import Choice, Space

    space = Space(
        {"tile": Choice((1, 8), 1), "order": Choice(("n", "m"), "n"), "flag": Choice((False, True), True)}, str
    )
    assert not space.valid({"tile": 8, "order": "m", "flag": False}).startswith("tile")
    for name, value in (("tile", True), ("tile", 8.0), ("flag", 1), ("order", None)):
        assert space.valid({**space.default, name: value}).startswith(f"{name} = {value!r} is not among")


def test_a_log_of_bad_lines_ends_neither_build_nor_search(tmp_path):
    from tvm_mobilenet import schedules, targets
    from tvm_mobilenet.layer import Layer

    target, layer = targets.load("rpi4"), Layer.parse(GOOD["layer"])
    space = schedules.space(layer, target.core)
    best = {**space.default}
    path = tmp_path / "log.jsonl"
    good = {**PREDICTED, "decisions": best, "target": log.target_key(target), "sources": keys.sources_key()}
    good["estimate"] = keys.estimate_key(target)
    name = next(k for k, v in best.items() if type(v) is int)
    wrong = [{**good, "cost": 1.0, "decisions": {**best, name: v}} for v in (10**9, -4, "4", True, float(best[name]))]
    path.write_bytes(b"\n".join([*BAD.values(), *(json.dumps(w).encode() for w in wrong), json.dumps(good).encode()]))
    trials_of(path).path.write_bytes(b"\n".join(BAD.values()) + b"\n" + json.dumps({**good, "whole": True}).encode())
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        (built,) = decide([layer], target, path)
        assert (built.decisions, built.source) == (best, "log.jsonl")
        work = tuning.prepare({layer: 1}, target, "virtual", path, 4)
        assert work.known[layer.name].record.decisions == best
        searching = tuning.Search(work.searches, work.near, lambda *_: None)
        assert tuning.resume(work, searching) == 1
        log.tidy(path, work.refuses)
        (built,) = decide([layer], target, path)
    assert built.source == "log.jsonl", "a line that no schedule takes won over one that can be built with"
    assert all(line in path.read_bytes().split(b"\n") for line in BAD.values())


def test_many_bad_lines_are_counted_not_listed(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"nonsense\n" * 5000 + changed() + b"\n")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert len(list(Journal(path).records())) == 1
    assert len(seen) == 4 and "4997 more" in str(seen[-1].message)


def test_the_sweeps_estimates_are_read_as_strictly(tmp_path):
    estimate = estimating.Estimate(
        **{"model": "v1", "alpha": 0.25, "resolution": 32, "classes": 10, "batch": 1, "cost": 5.0},
        **{"cost_all_cores": 2.0, "unit": "cycles", "compute": 1.0, "kinds": {"dense": 1.0}, "mult_adds": 1},
        **dict.fromkeys(("parameters", "parameters_bytes", "arena_bytes", "scratch_bytes", "code_bytes"), 1),
    )
    journal = Journal(tmp_path / "sweep.jsonl", estimating.Estimate, "--estimates")
    journal.append(estimate)
    data = json.loads(estimate.to_json())
    bad = [
        {**data, **change}
        for change in (
            {"cost": "5"},
            {"cost": float("nan")},
            {"cost": -1.0},
            {"resolution": 32.0},
            {"kinds": {"dense": "x"}},
            {"kinds": []},
            {"unit": "hours"},
            {"model": None},
            {"alpha": 0},
            {"new": 1},
        )
    ]
    with open(journal.path, "ab") as file:
        file.write("".join(json.dumps(b) + "\n" for b in [*bad, [1]]).encode() + BAD["deep"] + b"\n")
    before = journal.path.read_bytes()
    with pytest.warns(TornLineWarning):
        assert list(journal.records()) == [estimate]
    journal.append(estimate)
    with pytest.warns(TornLineWarning):
        assert list(journal.records()) == [estimate, estimate]
    assert journal.path.read_bytes().startswith(before)


# ---- which files


def test_links_names_mode_and_owner_of_a_log_stay(tmp_path):
    real, link, other = tmp_path / "shared.jsonl", tmp_path / "mine.jsonl", tmp_path / "name.jsonl"
    real.write_bytes(b"")
    link.symlink_to("shared.jsonl")
    os.link(real, other)
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 12345, 23456)
    before = real.stat()
    for cost in (3.0, 2.0, 1.0):
        Journal(link).append(Record(**{**GOOD, "cost": cost}))
    log.tidy(link)
    Journal(link).append(Record(**{**GOOD, "cost": 0.5}))
    assert link.is_symlink() and other.read_bytes() == real.read_bytes()
    assert [r.cost for r in Journal(other).records()] == [1.0, 0.5]
    after = real.stat()
    assert [getattr(after, f"st_{n}") for n in ("mode", "uid", "gid", "nlink", "ino")] == [
        getattr(before, f"st_{n}") for n in ("mode", "uid", "gid", "nlink", "ino")
    ]


def odd_files(folder):
    """What is no regular file, by kind."""
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(os.path.relpath(folder / "socket"))
    unix.close()
    (folder / "link").symlink_to("/dev/null")
    (folder / "file").write_text("")
    return {
        "/dev/null": "a device",
        "/dev/stdout": "file descriptor 1",
        str(folder / "fifo"): "a named pipe",
        str(folder / "folder"): "a folder",
        str(folder / "socket"): "a socket",
        str(folder / "link"): "a device",
        str(folder / "file" / "log.jsonl"): "",
    }


def test_what_is_no_regular_file_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = odd_files(tmp_path)
    null = os.stat("/dev/null")
    for place, word in places.items():
        flags = ["--log", place]
        for verb in (tune, build, sweep, doctor):
            assert verb.main([*flags, "--target", "rpi4"]) == 2
            told = capsys.readouterr().err
            assert word in told and place in told and "regular file" in told, told
        assert sweep.main(["--estimates", place]) == 2
        for act in (lambda p: list(Journal(p).records()), log.tidy, lambda p: Journal(p).append(Record(**GOOD))):
            with pytest.raises(TvmMobilenetError, match="tune log"):
                act(place)
    capsys.readouterr()
    (tmp_path / "beside.trials.jsonl").symlink_to("/dev/full")  # what lies beside it is written to as well
    assert tune.main(["--log", "beside.jsonl"]) == 2
    assert "beside.trials.jsonl" in capsys.readouterr().err
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.stat("/dev/null").st_ino == null.st_ino


def test_a_log_in_a_closed_folder_is_rewritten_all_the_same(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write in any folder")
    path = tmp_path / "log.jsonl"
    for cost in (3.0, 2.0):
        Journal(path).append(Record(**{**GOOD, "cost": cost}))
    tmp_path.chmod(0o500)
    log.tidy(path)
    tmp_path.chmod(0o700)
    assert [r.cost for r in Journal(path).records()] == [2.0]


def test_an_editors_last_line_without_its_end_is_no_torn_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + changed() + b"\r\n\r\n" + changed(cost=50.0))
    Journal(path).append(Record(**{**GOOD, "cost": 25.0}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r.cost for r in Journal(path).records()] == [100.0, 50.0, 25.0]
    path.write_bytes(changed() + b"\n" + b"x" * 3 * LONGEST_LINE)
    with pytest.warns(TornLineWarning, match=f"{3 * LONGEST_LINE} bytes moved"):
        Journal(path).append(Record(**GOOD))
    assert path.with_suffix(".torn").read_bytes() == b"x" * 3 * LONGEST_LINE + b"\n"
    assert len(list(Journal(path).records())) == 2


REWRITER = """
import sys
from tvm_mobilenet.tune_logs import journal, log
real = journal._write_at
def slowly(fd, data, offset):  # a page at a time, as a killed process may leave it
    for at in range(0, len(data), 512):
        real(fd, data[at : at + 512], offset + at)
journal._write_at = slowly
turn = 0
while True:
    turn += 1
    log.Journal(sys.argv[1]).rewrite(lambda found: sorted(found, key=lambda r: hash((turn, r.layer))))
"""


def test_killed_while_it_rewrites_no_record_is_lost(tmp_path):
    path, chance = tmp_path / "log.jsonl", random.Random(1)
    names = {f"layer {i}" for i in range(60)}
    for name in sorted(names):
        Journal(path).append(Record(**{**GOOD, "layer": name}))
    path.write_bytes(path.read_bytes() + b"nobody knows what this is\n")
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", REWRITER, path], stderr=subprocess.DEVNULL)
        started = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == started:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert {r.layer for r in Journal(path).records()} == names
        assert b"nobody knows what this is\n" in path.read_bytes()


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    """A limit on the file's size stands for a full disk."""
    path = tmp_path / "log.jsonl"
    for i in range(50):
        Journal(path).append(Record(**{**GOOD, "layer": f"layer {i}"}))
    before = path.read_bytes()
    code = (
        "import resource, signal, sys; from tvm_mobilenet.tune_logs import log\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 1000},) * 2)\n"
        "log.tidy(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode and "tune log" in done.stderr
    assert path.read_bytes() == before


def test_texts_for_people_can_be_printed():
    assert cut("a\x1b[2J\n\ud800é", 40).isprintable() and cut("x" * 100, 10) == "x" * 9 + "…"


def test_records_of_levels_do_not_mix(tmp_path, monkeypatch):
    from tvm_mobilenet.targets import cpu, host

    from tvm_mobilenet import targets

    monkeypatch.setattr(host.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "features", lambda *_: list(host._V4))
    machines = {}
    for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        monkeypatch.setenv(host.VARIABLE, name)
        machines[name] = targets.load("host")
    monkeypatch.delenv(host.VARIABLE)
    own = targets.load("host")
    monkeypatch.setattr(cpu, "features", lambda *_: list(host._V3))
    other = targets.load("host")
    path = tmp_path / "log.jsonl"
    for cost, target in enumerate((*machines.values(),), 1):
        fields = {"core": target.core.name, "target": log.target_key(target), "cost": float(cost)}
        Journal(path).append(Record(**{**GOOD, **fields}))
    log.tidy(path)
    assert len(list(Journal(path).records())) == 3
    expected = {**machines, "own": own, "another machine": other}
    costs = [[k.record.cost for k in TuneLogs([path], t)._by_layer[GOOD["layer"]]] for t in expected.values()]
    assert costs == [[1.0], [2.0], [3.0], [3.0], [2.0]]
    assert len({log.target_key(t) for t in expected.values()}) == 3
