"""On macOS and Windows the package imports, and what cannot work there says so before it begins."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import modules
from tests.support.other_system import MODULES
from tvm_mobilenet.cli.verbs import verbs

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "import numpy, rich.console, rich.live\nfrom tests.support.other_system import become\nbecome({name!r})\n"
ARGUMENTS = {  # that a verb is content with
    "accuracy": ["folder", "--data", "folder"],
    "bench": ["folder"],
    "factorize": ["--model", "v1"],
    "profile": ["folder"],
    "ship": ["--bundle", "x", "--to", "y"],
    "verify": ["folder"],
}


def run(name: str, code: str, before: str = "") -> str:
    """What a script prints on another system."""
    command = [sys.executable, "-c", before + BEGIN.format(name=name) + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


EACH_VERB = """
import contextlib, importlib, io, sys
import tvm_mobilenet as tm
for verb, argv in {verbs!r}.items():
    module = importlib.import_module("tvm_mobilenet." + verb)
    for words in (["--help"], argv):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = module.main(words)
            except SystemExit as end:
                code = end.code
        print(verb, len(words), code, len(out.getvalue()), " ".join(err.getvalue().split()), sep="|")
for call in (lambda: tm.compile("v1", "rpi4"), lambda: tm.sweep("rpi4"), lambda: tm.load("x")):
    try:
        call()
    except tm.MissingDependencyError as e:
        print("api", 0, e.exit_code, 0, str(e), sep="|")
print(sorted({{"torch", "tvm"}} & set(sys.modules)))
"""


def test_on_windows_every_verb_has_help_and_says_what_it_needs():
    argv = {verb: ARGUMENTS.get(verb, []) for verb in verbs()}
    *lines, slow = run("win32", EACH_VERB.format(verbs=argv)).replace("\n  on", " on").splitlines()
    assert slow == "[]"
    works, calls = [], []
    for line in lines:
        name, words, code, printed, said = line.split("|")
        if words == "1" and code == "0" and int(printed) and not said:
            works.append(name)
        else:
            assert code == "3" and "needs Linux or macOS, this is Windows" in said and "WSL" in said, line
            calls.append(name)
    assert sorted(works) == sorted(argv) and sorted(calls) == sorted([*argv, "api", "api", "api"])


def test_on_macos_the_agent_and_code_of_this_machine_are_refused():
    code = """
import sys
from tvm_mobilenet import agent, build, targets
from tvm_mobilenet.files import landlock
assert landlock.version() == 0
sys.stderr = sys.stdout
print(agent.main([]), build.main(["--target", "host"]), len(targets.names()))
"""
    said = run("darwin", code)
    assert "agent needs Linux, this is Darwin" in said
    assert "this machine is arm64 Darwin: no host target" in said and "3 2 " in said


BUILD = """
from tvm_mobilenet import build, verify
model, folder = {model!r}, {folder!r}
assert build.main(["--model", model, "--target", "rpi4", "--output", folder + "/net", "--bundle", folder + "/b"]) == 0
assert verify.main([folder + "/net"]) == 0
"""


@pytest.mark.full
def test_on_macos_a_network_is_built_verified_and_packed(tmp_path):
    model = modules.tiny_options().model
    loaded = "import torch, tvm, unicorn, capstone, ziglang, PIL.Image, torch.export\n"
    said = run("darwin", BUILD.format(model=model, folder=str(tmp_path)), loaded)
    assert "verified" in said and (tmp_path / "b" / "libmobilenet.so").exists()


def test_modules_that_windows_lacks_are_imported_in_one_place():
    """``system.py`` has them; what runs on Linux boards alone, or when it is called, may import them itself."""
    found = []
    for folder in ("tvm_mobilenet", "schedules", "targets", "tune_logs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                found += [f"{path.name} {name}" for name in names if name in MODULES]
    assert found == []
