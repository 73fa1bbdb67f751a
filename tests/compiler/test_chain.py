"""What was not built together is refused by every verb, whatever hashes were made again, and the file is named."""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import modules
from tests.support.sealing import mark, seal
from tvm_mobilenet import build, verify
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.checking import machine_check
from tvm_mobilenet.cli.verbs import verbs
from tvm_mobilenet.compiler import build_identity, saved
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler.kept import kept
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import lock
from tvm_mobilenet.measuring import layer_profile, measured_rows

FILES = (built.OBJECT, built.KERNELS, built.LIBRARY, built.EXECUTABLE, built.PARAMETERS)


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(modules.tiny("rpi4"), tmp_path / "copy"))


def refused(folder: Path) -> str:
    with pytest.raises(TvmMobilenetError) as told:
        built.read(folder)
    assert told.value.exit_code == 2 and told.value.hint == "build it again" and str(folder) in told.value.message
    return told.value.message


def shown(folder: Path) -> str:
    return f"build {json.loads((folder / built.PLAN).read_text())['build'][:12]}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_build_is_refused_whatever_hashes_were_made_again(copy, name):
    other = modules.tiny("rpi4", 17)
    shutil.copyfile(other / name, copy / name)
    said = refused(copy)
    assert f"{copy / name} is not the file that was built with" in said
    assert name not in built.LIBRARIES or f"it is of {shown(other)}, the plan of {shown(copy)}" in said
    seal(copy, identity=False)
    said = refused(copy)
    if name in built.LIBRARIES:
        assert f"{copy / name} is of {shown(other)}, {copy / built.PLAN} of {shown(copy)}: two builds are mixed" in said
    else:
        assert f"{shown(copy)}, but it and {built.OBJECT}, {built.PARAMETERS} are not what that was made of" in said


def test_a_plan_of_another_build_is_refused_though_its_libraries_are_named_like_it(copy):
    """Both halves mixed, and every identity that can be written made the other build's."""
    other = modules.tiny("rpi4", 17)
    shutil.copyfile(other / built.PLAN, copy / built.PLAN)
    refused(copy)
    seal(copy, identity=False)
    refused(copy)
    build_ = json.loads((other / built.PLAN).read_text())["build"]
    for name in built.LIBRARIES:
        if (copy / name).exists():
            mark(copy / name, build_)
    seal(copy, identity=False)
    assert "are not what that was made of" in refused(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["target"].update(clock_hz=1e9),
        lambda data: data["info"]["model"].update(io="uint8"),
        lambda data: data["info"].update(seeded=True),
        lambda data: data["layers"][0].update(source="mine"),
        lambda data: data["plan"].update(arena_bytes=data["plan"]["arena_bytes"] + 64),
        lambda data: data["plan"]["steps"][0].update(name="another"),
    ],
    ids=["target", "options", "info", "decisions", "arena", "step"],
)
def test_target_options_decisions_and_plan_belong_to_it(copy, change):
    seal(copy, change, identity=False)
    assert "files of several builds are mixed here, or one was changed" in refused(copy)
    seal(copy)
    built.read(copy)


def test_offsets_beyond_the_arena_are_refused_whatever_is_signed(copy):
    def beyond(data: dict) -> None:
        operands = [t for step in data["plan"]["steps"] for t in step["operands"] if t["space"] == "arena"]
        operands[-1]["offset"] = data["plan"]["arena_bytes"]

    seal(copy, beyond)
    with pytest.raises(TvmMobilenetError, match=r"has a tensor beyond the .* bytes of arena"):
        built.read(copy)


def test_builds_that_differ_in_anything_are_told_apart_and_equal_ones_are_one(tmp_path):
    """Also those of equal code: other weights, another target of the same core."""
    data = json.loads((modules.tiny("rpi4") / built.PLAN).read_text())
    parts = {name: text for name, text in data["files"].items() if name not in built.LIBRARIES}
    found = {build_identity.identity(data, parts), build_identity.identity(data, {**parts, built.PARAMETERS: "0" * 64})}
    assert len(found) == 2 and data["build"] in found
    moved = json.loads(json.dumps(data))
    moved["info"]["model"]["files"]["model"] |= {"given": "elsewhere.pt2", "from_build": "../elsewhere.pt2"}
    moved["info"]["model"]["model"] = "/elsewhere.pt2"
    assert build_identity.identity(moved, parts) == data["build"], "where a file lies is no part of it"
    moved["info"]["model"]["files"]["model"]["sha256"] = "0" * 64
    assert build_identity.identity(moved, parts) != data["build"]
    for name in built.LIBRARIES:
        if name in data["files"]:
            assert build_identity.of_library((modules.tiny("rpi4") / name).read_bytes()) == data["build"]


def opening() -> list[str]:
    """The verbs that take the folder of a build."""
    found = []
    for verb in verbs():
        parser = importlib.import_module(f"tvm_mobilenet.{verb}").parser()
        positionals = [a for a in parser._actions if not a.option_strings and "`build`" in (a.help or "")]
        found += [verb] * bool(positionals)
    return found


def test_every_verb_that_takes_a_build_checks_the_chain(copy, tmp_path, capsys):
    """And any verb that comes: those are found by what they take."""
    shutil.copyfile(modules.tiny("rpi4", 17) / built.LIBRARY, copy / built.LIBRARY)
    seal(copy, identity=False)
    found = opening()
    assert {"verify", "bench", "profile", "accuracy"} <= set(found)
    for verb in found:
        needed = ["--data", str(tmp_path)] if verb == "accuracy" else []
        assert importlib.import_module(f"tvm_mobilenet.{verb}").main([str(copy), *needed]) == 2, verb
        assert f"{copy / built.LIBRARY} is of build" in capsys.readouterr().err, verb
    with pytest.raises(TvmMobilenetError, match="two builds are mixed here"):
        pack.make(copy, lowered=None, network=None, target=None)


# ---- built anew while it is used


def users():
    """What takes a built module and opens its files."""
    return (
        machine_check.check,
        measured_rows.measured,
        measured_rows.predicted,
        measured_rows.check_timing,
        layer_profile.profile_of,
        saved.copy_to,
        pack._of,
    )


@pytest.mark.parametrize("use", users(), ids=lambda function: function.__name__)
def test_whoever_uses_a_build_says_that_it_is_another_meanwhile(copy, use):
    """Whatever came of plan and files of two builds: here that nothing else is given."""
    module = built.read(copy)
    given = [p.name for p in inspect.signature(use).parameters.values() if p.default is p.empty and p.name != "module"]
    with pytest.raises(Exception) as told:
        use(module=module, **dict.fromkeys(given))
    assert not isinstance(told.value, TvmMobilenetError)
    shutil.rmtree(copy)
    shutil.copytree(modules.tiny("rpi4", 17), copy)
    with pytest.raises(TvmMobilenetError, match=r"was built anew, or removed, while this ran\n  run it again") as told:
        use(module=module, **dict.fromkeys(given))
    assert told.value.exit_code == 2


def test_a_build_that_came_and_went_meanwhile_is_told(copy, tmp_path):
    """The libraries that were opened may be those of the other, though the folder is again as it was."""
    module, aside = built.read(copy), tmp_path / "aside"
    with pytest.raises(TvmMobilenetError, match="was built anew"), kept(module):
        copy.rename(aside)
        shutil.copytree(modules.tiny("rpi4", 17), copy)
        shutil.rmtree(copy)
        shutil.copytree(aside, copy)
        assert built.read(copy).build == module.build
    with kept(module):
        assert built.read(copy).build == module.build


def test_a_verb_whose_build_is_built_anew_while_it_imports_the_model(copy, monkeypatch, capsys):
    from tvm_mobilenet.compiler import network

    def slow(*args, real=network.load_network):
        found = real(*args)
        shutil.rmtree(copy)
        shutil.copytree(modules.tiny("rpi4", 17), copy)
        return found

    monkeypatch.setattr(network, "load_network", slow)
    assert verify.main([str(copy)]) == 2
    assert f"{copy} was built anew, or removed, while this ran" in capsys.readouterr().err


# ---- two builds at once


def test_a_second_build_into_a_folder_is_refused_by_name(tmp_path, capsys):
    """Before it imports the model; what the first one does is left alone."""
    output = tmp_path / "out"
    with lock.held(output, "built (v1 for rpi4)", "--output"):
        arguments = ["--model", modules.tiny_options().model, "--target", "rpi4", "--output", str(output)]
        assert build.main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{output} is being built (v1 for rpi4) by process {os.getpid()}" in said and "give another --output" in said
    assert not output.exists()


@pytest.mark.full
def test_two_builds_at_once_give_one_or_the_other(tmp_path):
    """Whole, whatever the moment; who comes second is refused."""
    output, command = tmp_path / "out", [sys.executable, "-m", "tvm_mobilenet.build", "--target", "rpi4", "--output"]
    running = []
    for width in (16, 17):
        arguments = [*command, output, "--model", modules.tiny_options(width).model]
        running.append(subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    said = [process.communicate()[1] for process in running]
    codes = [process.returncode for process in running]
    assert 0 in codes and set(codes) <= {0, 2}, said
    for code, text in zip(codes, said, strict=True):
        assert not code or re.search(r"out is being built \(tiny-\d+.* for rpi4\) by process \d+", text), text
    model = built.read(output).info["model"]["model"]
    assert model in [modules.tiny_options(w).model for w, code in zip((16, 17), codes, strict=True) if not code]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
