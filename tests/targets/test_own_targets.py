"""Targets of one's own: what was built for them must open without their files, and never as another board's."""

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
from tvm_mobilenet.targets import stored
from tvm_mobilenet.tune_logs import log
from tvm_mobilenet.tune_logs.log import Journal, Record

from tests.support import modules
from tests.support.sealing import seal
from tvm_mobilenet import bench, build, profile, targets, verify
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.errors import TvmMobilenetError

FOLDER = Path(targets.__file__).parent
L2 = 3 << 20  # of no core that ships


def own_files(folder: Path, name: str = "my-board", core: str = "my-core") -> Path:
    """A Pi 4 with more cache, as a user's own two files."""
    text = (FOLDER / "cores" / "cortex-a72.toml").read_text()
    (folder / f"{core}.toml").write_text(
        text.replace("bytes = 1048576", f"bytes = {L2}").replace("ways = 16", "ways = 12")
    )
    path = folder / f"{name}.toml"
    path.write_text(re.sub('core = "cortex-a72"', f'core = "{core}.toml"', (FOLDER / "rpi4.toml").read_text()))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of own files, and what was built with them."""
    folder = tmp_path_factory.mktemp("own")
    path = own_files(folder)
    build.build(modules.tiny_options(), targets.load(str(path)), output=folder / "built")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """The same, to be changed; its files lie where they were found when it was built."""
    folder = tmp_path / "own"
    shutil.copytree(made, folder)
    change(folder, lambda target: target.update(file=str(folder / "my-board.toml")))
    return folder


def change(folder: Path, do) -> None:
    """Edit the target in a build's plan.json."""
    seal(folder / "built", lambda data: do(data["target"]))


def test_every_verb_opens_the_build_when_its_files_are_gone(copy, capsys):
    for path in copy.glob("*.toml"):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = built.read(copy / "built").target
    assert (target.name, target.core.name, target.core.l2.bytes) == ("my-board", "my-core", L2)
    for verb, flags in ((verify, ["--inputs", "1"]), (bench, []), (profile, [])):
        assert verb.main([str(copy / "built"), *flags]) == 0
        assert "my-board" in capsys.readouterr().out


def test_changed_files_are_told_and_not_used(copy, capsys):
    path = copy / "my-board.toml"
    assert not stored.changes(built.read(copy / "built").target)
    path.write_text(path.read_text().replace("cores = 4", "cores = 2"))
    core = copy / "my-core.toml"
    core.write_text(core.read_text().replace(f"bytes = {L2}", f"bytes = {L2 // 3}").replace("ways = 12", "ways = 16"))
    assert profile.main([str(copy / "built"), "--threads", "4"]) == 0
    told = capsys.readouterr().err
    assert f"warning: {path} has changed since" in told and "cores was 4, is 2" in told
    assert f"core.l2.bytes was {L2}, is {L2 // 3}" in told and "used as it was built" in told
    path.write_text("nonsense")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert built.read(copy / "built").target.cores == 4


def test_a_shipped_board_that_changed_is_told_as_well(copy):
    rpi4 = targets.load("rpi4")
    change(copy, lambda target: (target.clear(), target.update(stored.to_data(rpi4))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert built.read(copy / "built").target == rpi4
    change(copy, lambda target: target.update(clock_hz=1.8e9))
    with pytest.warns(UserWarning, match="target rpi4 has changed since .*clock_hz was 1800000000.0, is 1500000000.0"):
        assert built.read(copy / "built").target.clock_hz == 1.8e9


@pytest.mark.parametrize("name", targets.names())
def test_what_is_stored_comes_back(name):
    target = targets.load(name)
    data = json.loads(json.dumps(stored.to_data(target), allow_nan=False))
    found = stored.from_data(data, "plan.json")
    assert found == target and found.core.model == target.core.model and found.core.rates == target.core.rates
    assert log.target_key(found) == log.target_key(target) and not stored.changes(found)


def test_a_build_of_before_rates_is_read_and_nothing_said():
    """Of a Pi 5 as builds had it: without rates, so it does not compute float16."""
    data = stored.to_data(targets.load("rpi5"))
    del data["core"]["rates"]
    found = stored.from_data(data, "plan.json")
    assert not found.computes("float16") and not stored.changes(found)
    data["core"]["rates"] = {"float16": 8.0}
    assert "core.rates.float16 was 8.0, is 16.0" in stored.changes(stored.from_data(data, "plan.json"))


@pytest.mark.parametrize(
    "do, says",
    [
        (lambda t: t["core"].update(rates={"float61": 16.0}), "[core]: [rates]: unknown dtype 'float61'"),
        (lambda t: t["core"].update(rates={"float16": None}), "[rates]: float16 = None is not a number"),
        (lambda t: t["core"].update(rates=[16.0]), "rates = [16.0] is not a table"),
        (lambda t: t.update(colour="red"), "unknown key 'colour'"),
        (lambda t: t["core"].update(lanes=4), "unknown key 'lanes'"),
        (lambda t: t["core"]["l1d"].update(banks=4), "unknown key 'banks'"),
        (lambda t: t.pop("clock_hz"), "missing clock_hz"),
        (lambda t: t.pop("core"), "missing core"),
        (lambda t: t["core"].pop("l2"), "missing l2"),
        (lambda t: t.update(cores="4"), "cores = '4' is not a whole number"),
        (lambda t: t.update(cores=True), "cores = True is not"),
        (lambda t: t.update(cores=4.0), "cores = 4.0 is not a whole number"),
        (lambda t: t.update(cores=-1), "cores = -1 must be above zero"),
        (lambda t: t.update(clock_hz=1e400), "clock_hz = inf"),
        (lambda t: t.update(title=None), "title = None is not a string"),
        (lambda t: t.update(core="cortex-a72"), "core = 'cortex-a72' is not a table"),
        (lambda t: t["core"].update(vector_bytes=24), "vector_bytes = 24"),
        (lambda t: t["core"].update(vector_registers=1), "vector_registers = 1: not between 16 and 64"),
        (lambda t: t["core"].update(vector_registers=1000), "vector_registers = 1000: not between"),
        (lambda t: t["core"].update(issue_width=10**6), "issue_width = 1000000: not between"),
        (lambda t: t["core"].update(fma_per_cycle=1e-9), "fma_per_cycle = 1e-09: below"),
        (lambda t: t["core"].update(llvm_cpu=""), "llvm_cpu = ''"),
        (lambda t: t["core"].update(l1d=[1]), "l1d = [1] is not a table"),
        (lambda t: t.update(llvm_attributes="+neon"), "is not a list"),
        (lambda t: t.update(llvm_attributes=[1]), "begins with neither"),
        (lambda t: t.update(name="../../etc/cron.d/x"), "name = "),
        (lambda t: t.update(name=""), "name = ''"),
        (lambda t: t.update(llvm_triple="x86_64-linux-gnu"), "llvm_triple"),
        (lambda t: t["core"].update(model=[]), "model = [] is not a table"),
    ],
)
def test_what_is_stored_is_read_as_strictly_as_a_file(made, do, says):
    data = json.loads((made / "built" / built.PLAN).read_text())["target"]
    do(data)
    with pytest.raises(TvmMobilenetError) as e:
        stored.from_data(data, "out/plan.json")
    assert says in str(e.value) and "out/plan.json: target" in str(e.value) and "build it again" in str(e.value)


@pytest.mark.parametrize("text", ["[]", '"rpi4"', "[" * 100_000, "NaN", "{}"])
def test_a_verb_refuses_a_target_that_is_none(copy, text, capsys):
    path = copy / "built" / built.PLAN
    data = path.read_text()
    start = data.index('"target": {"name"')
    path.write_text(data[:start] + f'"target": {text}, "was": ' + data[start + len('"target": ') :])
    assert verify.main([str(copy / "built")]) == 2
    assert str(path.parent) in capsys.readouterr().err


def test_builds_of_before_are_opened_by_name(copy, capsys):
    seal(copy / "built", lambda data: data.pop("target"))
    assert verify.main([str(copy / "built")]) == 2
    told = capsys.readouterr().err
    assert (
        "kept only the name of its target" in told and "unknown target 'my-board'" in told and "build it again" in told
    )
    seal(copy / "built", lambda data: data["info"].update(target="rpi4"))
    assert built.read(copy / "built").target == targets.load("rpi4")


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("units", "[]", "[model].units = [] is not a list of 1 to 32 names"),
        ("decode", "0", "[model].decode = 0 is not a whole number from 1 to 64"),
        ("decode", "2.5", "[model].decode = 2.5 is not"),
        ("window", "-1", "[model].window = -1 is not"),
        ("llvm_cpu", '"cortex-a7x"', "llvm_cpu = 'cortex-a7x': LLVM knows no such CPU; did you mean 'cortex-a7"),
    ],
)
def test_a_board_of_ones_own_is_refused_before_anything_is_built(tmp_path, capsys, key, value, words):
    path = own_files(tmp_path, "my-board", "my-core")
    core = next(p for p in tmp_path.rglob("my-core.toml"))
    core.write_text(re.sub(rf"^{key} = .*$", f"{key} = {value}", core.read_text(), count=1, flags=re.M))
    argv = ["--model", modules.tiny_options().model, "--target", str(path), "--output", str(tmp_path / "out")]
    assert build.main(argv) == 2
    assert words in capsys.readouterr().err and not list((tmp_path / "out").glob("*.so"))


# ---- names


def test_a_target_named_like_one_that_ships_is_not_taken_for_it(tmp_path):
    own = targets.load(str(own_files(tmp_path, "rpi4", "cortex-a72")))
    assert re.fullmatch(r"rpi4-[0-9a-f]{8}", own.name) and re.fullmatch(r"cortex-a72-[0-9a-f]{8}", own.core.name)
    assert not log.shipped(own.core.name).exists(), "decisions of another core would be used"
    same = tmp_path / "same"
    shutil.copytree(FOLDER / "cores", same)
    shutil.copy(FOLDER / "rpi4.toml", same)
    copied = targets.load(str(same / "rpi4.toml"))
    assert dataclasses.replace(copied, file="") == targets.load("rpi4"), "the same facts are the same board"
    path = tmp_path / "log.jsonl"
    for target, cost in ((own, 1.0), (targets.load("rpi4"), 2.0)):
        key = log.target_key(target)
        Journal(path).append(Record(layer="x", core="cortex-a72", decisions={}, cost=cost, target=key))
    log.tidy(path)
    assert len(list(Journal(path).records())) == 2


@pytest.mark.parametrize("name", ["x86-64-v3", "host", "armv8-a"])
def test_a_core_named_like_a_level_is_not_taken_for_one(tmp_path, name):
    assert targets.load(str(own_files(tmp_path, "my", name))).core.name.startswith(f"{name}-")


def test_a_host_of_ones_own_has_a_level(tmp_path, monkeypatch):
    """LLVM's CPU `host` is that of the level, and records of levels stay apart."""
    from tvm_mobilenet.targets import host

    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "host.toml").read_text().replace("clock_hz = 2.5e9", "clock_hz = 3.5e9"))
    lowest = host.LEVELS[host.architecture()][0]
    monkeypatch.setenv(host.VARIABLE, lowest.name)
    mine = targets.load(str(path))
    assert (mine.name, mine.core.name, mine.core.llvm_cpu) == ("mine", lowest.name, lowest.llvm_cpu)
    own_files(tmp_path)
    text = (tmp_path / "my-core.toml").read_text()
    (tmp_path / "my-core.toml").write_text(re.sub(r"(?m)^llvm_cpu = .*$", 'llvm_cpu = "host"', text))
    core = targets.load(str(tmp_path / "my-board.toml")).core
    assert (core.name, core.llvm_cpu) == (f"my-core-{lowest.name}", lowest.llvm_cpu)
    assert stored.from_data(stored.to_data(mine), "plan.json") == dataclasses.replace(mine)


def test_a_name_with_blanks_is_one_name(tmp_path):
    target = targets.load(str(own_files(tmp_path, "my board 2")))
    assert log.target_name(log.target_key(target)) == target.name == "my board 2"


@pytest.mark.parametrize("key", ["name", "file"])
def test_a_file_does_not_name_itself(tmp_path, key):
    path = own_files(tmp_path)
    path.write_text(f'{key} = "rpi4"\n' + path.read_text())
    with pytest.raises(TvmMobilenetError, match=f"unknown key '{key}'"):
        targets.load(str(path))


@pytest.mark.parametrize(
    "core, line, key", [("cortex-a53", "float16 = 8.0", "[rates] float16"), ("cortex-a72", "", "dot_products")]
)
def test_a_core_that_the_emulated_cpu_cannot_be_is_refused_by_its_file(tmp_path, core, line, key):
    """Copied from a core of before ARMv8.2-A: a build of it used to end in an illegal instruction of `verify`."""
    text = (FOLDER / "cores" / f"{core}.toml").read_text().replace("[rates]\n", f"[rates]\n{line}\n")
    own = tmp_path / "mine.toml"
    own.write_text(text if line else f"dot_products = true\n{text}")
    board = tmp_path / "board.toml"
    board.write_text(re.sub('core = "cortex-a72"', 'core = "mine.toml"', (FOLDER / "rpi4.toml").read_text()))
    with pytest.raises(TvmMobilenetError) as e:
        targets.load(str(board))
    assert f"{own}: [model] emulated_cpu = " in str(e.value) and f"as {key} says" in str(e.value)
    own.write_text(own.read_text().replace(f'emulated_cpu = "{core[-3:].upper()}"', 'emulated_cpu = "MAX"'))
    assert targets.load(str(board)).core.name
