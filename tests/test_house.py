"""The house: layout, packaging, pins and style; what breaks here breaks for everyone who installs or joins."""

import ast
import functools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tvm_mobilenet import __main__

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CODE = sorted(
    p for folder in ("tvm_mobilenet", "schedules", "targets", "tune_logs") for p in (ROOT / folder).rglob("*.py")
)
README = (ROOT / "README.md").read_text()
PUBLISHED = ROOT / "tvm_mobilenet" / "models" / "data" / "published.toml"  # where weights lie, PyTorch's own too


parsed = functools.cache(ast.parse)  # of the sources of our modules, for several tests


def run(*command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, **kwargs)


def tracked() -> list[Path]:
    listed = run("git", "-c", "safe.directory=*", "ls-files", "-z", cwd=ROOT)
    if listed.returncode:
        pytest.skip("no git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# ---- layout


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is_and_stays_readable(path):
    source = path.read_text()
    assert ast.get_docstring(parsed(source)), "no docstring"
    assert source.count("\n") <= 400, "past 400 lines: a second idea needs a name of its own"
    assert path.stem not in ("utils", "helpers", "common", "manager", "misc")


def test_public_names_of_the_package_are_documented():
    """Functions of an interface that its package's docstring lays down need no docstring of their own."""
    signature = {"main", "run", "kernel", "pack", "decisions"}
    missing = []
    for path in CODE:
        for node in parsed(path.read_text()).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if public and node.name not in signature and not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing


def twice(source: str) -> list[str]:
    """Functions of a module or a class that a later one of the same name replaces: what nobody runs any more."""
    tree, found = ast.parse(source), []
    for scope in (tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))):
        plain = [n.name for n in scope.body if isinstance(n, ast.FunctionDef) and not n.decorator_list]
        found += [name for name in dict.fromkeys(plain) if plain.count(name) > 1]
    return found


def test_no_function_is_replaced_by_another_of_its_name():
    assert twice("class A:\n    def f(self): ...\n    def g(self): ...\n    def f(self): ...\n") == ["f"]
    found = {str(path.relative_to(ROOT)): twice(path.read_text()) for path in tracked() if path.suffix == ".py"}
    assert not {path: names for path, names in found.items() if names}


# Verbs: what a user may ask for, each a keyword with its flag's name.
MANY_PARAMETERS = {
    "tvm_mobilenet/build.py build",
    "tvm_mobilenet/api.py tune",
    "tvm_mobilenet/bench.py bench",
    "tvm_mobilenet/tune.py tune",
}
LONG = 60  # lines of a function, without its docstring


def functions(source: str) -> list[tuple[str, int, int, str]]:
    """Name, parameters but ``self``, lines of code and docstring of each function."""
    found = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given += filter(None, (node.args.vararg, node.args.kwarg))
            count = sum(argument.arg not in ("self", "cls") for argument in given)
            told = ast.get_docstring(node) or ""
            lines = node.end_lineno - node.lineno + 1
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1 if told else 0
            found.append((node.name, count, lines, told))
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_function_takes_few_values_and_is_short_or_says_why_it_is_long(path):
    """Ten loop variables in a row are a record without a name; the docstring of a long function says ``In one piece``
    and why."""
    for name, count, lines, told in functions(path.read_text()):
        known = f"{path.relative_to(ROOT)} {name}"
        assert count < 10 or known in MANY_PARAMETERS, f"{known} takes {count} values: make a record of them"
        assert lines <= LONG or "In one piece" in told, f"{known} has {lines} lines: divide it, or say why not"


def test_what_is_excepted_is_still_there():
    for known in MANY_PARAMETERS:
        path, name = known.split()
        assert any(n == name and count >= 10 for n, count, _, _ in functions((ROOT / path).read_text())), known


def test_no_machine_is_named():
    """Neither this machine's folders nor a package registry may stand in the repository. PyTorch's own also has the
    weights that it publishes: the file that lists these names it."""
    told = re.compile(r"/(?:work|opt|root|home)/[a-z]\w+/|(?:pypi|pythonhosted|download\.pytorch)\.org|files/simple")
    found = []
    for path in tracked():
        if path.suffix in (".jpg", ".png", ".npz", ".onnx", ".so") or path in (Path(__file__), PUBLISHED):
            continue
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for m in told.finditer(path.read_text(errors="replace"))]
    assert not found


def test_ruff_is_clean():
    done = run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", ".", cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_code_is_formatted():
    done = run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=ROOT)
    assert done.returncode == 0, "ruff format . would change:\n" + done.stdout


# ---- packaging


def test_every_package_and_data_file_is_installed():
    tool = PROJECT["tool"]["setuptools"]
    folders = {name: ROOT / tool["package-dir"].get(name, name.replace(".", "/")) for name in tool["packages"]}
    here = {p.parent for p in CODE if p.name == "__init__.py"}
    listed = {f.resolve() for f in folders.values()}
    assert here <= listed, "a package is not in pyproject.toml"
    assert all(f.is_dir() for f in listed), "a package of pyproject.toml is none"
    here |= listed  # folders that hold data alone
    data = {folders[name].resolve(): globs for name, globs in tool["package-data"].items()}
    for path in tracked():
        owner = next((f for f in [path.parent, *path.parents] if f in here), None)
        if owner and path.suffix not in (".py", ".md") and not path.is_relative_to(ROOT / "tests"):
            inside = path.relative_to(owner)
            assert any(inside.match(glob) for glob in data.get(owner, [])), f"{path.relative_to(ROOT)} is not installed"


IMPORTED = """
import sys
import tvm_mobilenet
from tvm_mobilenet import layer, errors, schedules, targets, tune, tune_logs, __main__
from tvm_mobilenet.tune_logs import keys, log
assert not {"torch", "tvm", "optuna"} & set(sys.modules), "slow imports"
assert not {"schedules", "targets", "tune_logs"} & set(sys.modules), "imported under two names"
assert targets.load("rpi4").core.name == "cortex-a72"
assert set(__main__.verbs()) >= {"tune"}
keys_ = keys.sources_key() + keys.estimate_key(targets.load('rpi4'))
print(keys_, *sorted({m.__file__ for m in (tvm_mobilenet, schedules, targets)}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The tracked files alone, elsewhere: building there leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("copy")
    for path in tracked():
        to = folder / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return folder


def imported(python, cwd, **environment) -> list[str]:
    import os

    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = run(str(python), "-c", IMPORTED, cwd=cwd, env={**clean, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def environment(tmp_path) -> Path:
    """A virtual environment with this one's packages but not this project."""
    done = run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv" / "bin" / "python"
    site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    import numpy

    for package in ("numpy", "rich", "markdown_it", "mdurl", "pygments", "numpy.libs"):
        found = Path(numpy.__file__).parent.parent / package
        if found.exists():
            (Path(site) / package).symlink_to(found)
    return python


@pytest.mark.full
@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_installed_it_works_from_anywhere(how, copy, environment, tmp_path):
    what = ["-e", str(copy)] if how == "editable" else [str(copy)]
    done = run(sys.executable, "-m", "pip", "--python", str(environment), "install", "-q", "--no-deps", *what)
    if done.returncode and "setuptools" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("setuptools cannot be installed here")
    assert done.returncode == 0, done.stderr
    fingerprint, *files = imported(environment, tmp_path)
    assert fingerprint == imported(environment, copy)[0], "another code when started in the checkout"
    inside = copy if how == "editable" else environment.parent.parent
    assert len(files) == 3 and all(Path(f).is_relative_to(inside) for f in files), files


def test_a_plain_checkout_works_too(copy, environment, tmp_path):
    _, *files = imported(environment, tmp_path, PYTHONPATH=str(copy))
    assert all(Path(f).is_relative_to(copy) for f in files)


def test_without_its_extras_a_verb_says_what_to_install(environment, copy, tmp_path):
    import os

    clean = {**os.environ, "PYTHONPATH": str(copy)}
    done = run(str(environment), "-m", "tvm_mobilenet.tune", "--target", "rpi4", "--dry-run", cwd=tmp_path, env=clean)
    remedy = f"-m pip install -e '{copy}[compile]' -c {copy}/constraints.txt"
    python = environment.relative_to(tmp_path)
    assert done.returncode == 3 and remedy in done.stderr and f"  {python} -m " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize("verb", ["tune", "verify"])
def test_a_python_without_anything_is_told_what_to_install(verb):
    """README's commands call `.venv/bin/python`; who types `python` meets the system's, which has not even numpy."""
    done = run(sys.executable, "-S", "-m", f"tvm_mobilenet.{verb}", "--help", cwd=ROOT)
    assert done.returncode == 3 and f"{verb} needs numpy, rich, which are not installed here" in done.stderr
    assert "-m pip install -e ." in done.stderr and "Traceback" not in done.stderr


# ---- pins


def test_pinned_packages_are_the_installed_ones():
    """Another tvm-ffi crashes in save_json, another TVM has its modules elsewhere."""
    pins = [d for d in PROJECT["project"]["dependencies"] if "==" in d]
    assert {p.split("==")[0] for p in pins} == {"apache-tvm", "apache-tvm-ffi"}
    for pin in pins:
        name, version = pin.split("==")
        assert metadata.version(name) == version


@pytest.mark.full
def test_the_ffi_can_save_a_module():
    code = "import tvm; from tvm import relax; m = relax.BlockBuilder().get(); tvm.ir.load_json(tvm.ir.save_json(m))"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_workers_never_load_the_intrinsics_that_take_half_a_minute():
    code = (
        "import sys; from tvm_mobilenet import targets, schedules; from tvm_mobilenet.layer import Layer\n"
        "from tvm_mobilenet.tuning.candidate import Candidate; from tvm_mobilenet.tuning.runner import Evaluate\n"
        "target = targets.load('rpi4'); layer = Layer.parse('pointwise m49 n16 k16 f32')\n"
        "e = Evaluate(target); e.prepare(); o = e(Candidate(layer.name, schedules.space(layer, target.core).default))\n"
        "assert o.cost > 0 and o.predicted, o\n"
        "assert 'tvm.s_tir.tensor_intrin' not in sys.modules"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


# ---- README


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_installs_what_it_runs():
    first, second = commands()[:2]
    assert "'.[compile]' -c constraints.txt" in first and first.endswith("python -m tvm_mobilenet.tune --target arm")
    assert "'.[compile,test]' -c constraints.txt" in second and second.endswith("python -m pytest")


def test_every_command_of_the_readme_is_one():
    helps = {}
    seen = 0
    for line in commands():
        words = shlex.split(line, comments=True)
        for at, word in enumerate(words):
            if not word.startswith("tvm_mobilenet."):
                continue
            verb = word.removeprefix("tvm_mobilenet.")
            assert verb in __main__.verbs(), line
            if verb not in helps:
                helps[verb] = run(sys.executable, "-m", word, "--help", cwd=ROOT).stdout
            flags = [w for w in words[at:] if w.startswith("--")]
            assert all(re.search(rf"{re.escape(flag)}\b", helps[verb]) for flag in flags), line
            seen += 1
    assert seen >= 5
    assert "@" not in re.sub(r"\S+@\S+\.\S+", "", README), "a placeholder is left"


def test_ci_runs_both_of_the_readmes_first_commands():
    script = (ROOT / ".ci" / "run").read_text()
    before = re.search(r'grep -x "(.*)\$1" README', script)[1]
    found = [
        line
        for end in re.findall(r"readme '(.*?)'", script)
        for line in run("grep", "-x", before + end, "README.md", cwd=ROOT).stdout.splitlines()
    ]
    assert found == commands()[1::-1], "the tests first, then the first command, each once"
    assert run("sh", "-n", str(ROOT / ".ci" / "run")).returncode == 0
