"""Installation says the truth: every error that names an extra names one that brings the package, and comes first."""

import ast
import functools
import importlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support import modules
from tests.support.sealing import seal
from tvm_mobilenet import packages
from tvm_mobilenet.compiler import codegen, network
from tvm_mobilenet.errors import MissingDependencyError
from tvm_mobilenet.peers import files as peers

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = ("tvm_mobilenet", "schedules", "targets", "tune_logs")


@functools.cache
def code() -> dict[Path, ast.Module]:
    """Every module of ours, parsed once in a worker that needs it."""
    return {path: ast.parse(path.read_text()) for folder in OWN for path in sorted((ROOT / folder).rglob("*.py"))}


@functools.cache
def distributions() -> dict[str, list[str]]:
    """The distributions of each module that is installed; all files of all of them are read."""
    return importlib.metadata.packages_distributions()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought(extra: str) -> set[str]:
    """The distributions of an extra, those of the extras in it included; of the base for none."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        name, more = re.match(r"([\w.-]+)(?:\[(.*?)\])?", line).groups()
        if plain(name) == "tvm-mobilenet":
            found |= {one for part in more.split(",") for one in brought(part.strip())}
        else:
            found.add(plain(name))
    return found


# ---- the table


@pytest.mark.parametrize("name", packages.MODULES)
def test_the_extra_of_a_module_brings_it(name):
    package = packages.MODULES[name]
    assert plain(package.distribution) in brought(package.extra)
    known = {plain(one) for one in distributions().get(name, [])}
    if not known:
        pytest.skip(f"{name} is not installed here")
    if plain(package.distribution) not in known:  # it comes with another distribution, as a dependency of that
        needs = importlib.metadata.requires(package.distribution) or []
        assert known & {plain(re.match(r"[\w.-]+", line)[0]) for line in needs}, f"{name} is of {known}"


def test_every_import_of_the_code_is_in_the_table():
    """Whatever is imported anywhere is brought by the base, by [compile], or is an engine to compare with."""
    found = {}
    for path, tree in code().items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.split(".")[0]: path for name in names}
    foreign = {name: path for name, path in found.items() if name not in (*sys.stdlib_module_names, "tvm_mobilenet")}
    assert {"torch", "onnx", "PIL", "tvm"} <= set(foreign)
    assert not {name: str(path) for name, path in foreign.items() if name not in packages.MODULES}
    assert {packages.MODULES[name].extra for name in foreign} <= {
        "",
        "compile",
        "report",
        "peers",
        "cluster",
        "completion",
    }


def test_compile_brings_what_the_readmes_verbs_need_and_test_brings_all():
    assert brought("compile") >= {"onnxruntime", "torch", "pillow", "optuna"} | brought("rpc") | brought("report")
    assert brought("rpc") >= {"tornado", "psutil", "cloudpickle"}
    assert brought("peers") == {"onnxruntime", "ncnn", "ai-edge-litert"}
    assert brought("test") >= brought("compile") | brought("rpc") | brought("peers")
    verbs = {*packages.VIRTUAL, *packages.SEARCH, "torch", "onnx", "onnxruntime", "PIL", "safetensors"}
    assert {plain(packages.MODULES[name].distribution) for name in verbs} <= brought("compile")


def test_the_constraints_choose_from_the_range():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    (torch,) = [line for line in PROJECT["optional-dependencies"]["compile"] if line.startswith("torch")]
    least, below = re.fullmatch(r"torch>=([\d.]+),<([\d.]+)", torch).groups()

    def version(text):
        return tuple(map(int, text.split(".")))

    assert version(least) <= version(pins["torch"]) < version(below)


# ---- every error


def test_no_error_names_an_extra_but_by_the_table():
    """Commands to install with are made in packages.py alone, and its callers name modules of the table."""
    elsewhere = {
        "tvm_mobilenet/packages.py",
        "tvm_mobilenet/runtime/mobilenet.py",  # these travel to devices, alone
        "tvm_mobilenet/runtime/mobilenet_pictures.py",
        "tvm_mobilenet/boards/remote/board.py",  # TVM on the board, by its Python
        "tvm_mobilenet/diagnosis/board.py",
        "tvm_mobilenet/boards/remote/ssh.py",  # a script for the board
    }
    checked = 0
    for path, tree in code().items():
        name = path.relative_to(ROOT).as_posix()
        documented = {ast.get_docstring(n, clean=False) for n in ast.walk(tree) if hasattr(n, "body") and _has_doc(n)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in documented:
                found = re.search(r"pip install|tvm-mobilenet\[", node.value)
                assert not found or name in elsewhere, f"{name}:{node.lineno} {node.value}"
            if isinstance(node, ast.Call) and _callee(node) in ("packages.missing", "packages.require"):
                for one in [c for a in node.args[1:] for c in ast.walk(a) if isinstance(c, ast.Constant)]:
                    if isinstance(one.value, str) and one.value.isidentifier():
                        assert one.value in packages.MODULES or one.value in ("virtual", "local"), (
                            f"{name}:{node.lineno}"
                        )
                        checked += 1
    assert checked >= 6


def _has_doc(node) -> bool:
    return isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))


def _callee(call: ast.Call) -> str:
    return ast.unparse(call.func)


# ---- remedies


@pytest.fixture
def executable(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_in_a_checkout_the_remedy_installs_from_it(executable, monkeypatch):
    monkeypatch.setattr(packages, "checkout", lambda: executable)
    python = ".venv/bin/python -m pip install"
    assert packages.remedy("onnxruntime") == f"{python} -e '.[compile]' -c constraints.txt"
    assert packages.remedy("torch", "ncnn", "PIL") == f"{python} -e '.[compile,peers]' -c constraints.txt"
    assert packages.remedy("tvm") == f"{python} -e . -c constraints.txt"
    away = executable / "a b"
    away.mkdir()
    monkeypatch.chdir(away)
    python = f"{executable}/.venv/bin/python -m pip install"
    assert packages.remedy("torch") == f"{python} -e '{executable}[compile]' -c {executable}/constraints.txt"
    monkeypatch.setattr(packages, "checkout", lambda: away)
    monkeypatch.chdir(executable)
    assert shlex.split(packages.remedy("torch"))[4:] == ["-e", "a b[compile]", "-c", "a b/constraints.txt"]


def test_for_a_wheel_the_remedy_names_the_requirement(executable, monkeypatch):
    """This project is on no index: what is missing is named itself, in the versions that the metadata asks for."""
    monkeypatch.setattr(packages, "checkout", lambda: None)
    lines = ['torch<2.15,>=2.13; extra == "compile"', 'pillow>=10; extra == "compile"', "rich>=13"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert packages.remedy("torch", "PIL") == ".venv/bin/python -m pip install 'torch<2.15,>=2.13' 'pillow>=10'"
    assert packages.remedy("ncnn") == ".venv/bin/python -m pip install ncnn"
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert packages.remedy("rich").startswith(".venv/bin/python -m ensurepip && .venv/bin/python -m pip install ")


def test_onnxruntime_writes_nothing_to_the_users_folders(tmp_path):
    """It keeps a device id and what it collects below HOME, and a session in TMPDIR, unless it is told not to."""
    script = """
import onnx
from onnx import TensorProto, helper
import tvm_mobilenet, onnxruntime
ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", *ports)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": __import__("numpy").ones(1, "float32")})
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_checkout_is_found_and_a_wheel_is_none(tmp_path, monkeypatch):
    assert packages.checkout() == ROOT
    (tmp_path / "tvm_mobilenet").mkdir()
    monkeypatch.setattr(packages, "__file__", str(tmp_path / "tvm_mobilenet" / "packages.py"))
    assert packages.checkout() is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    assert packages.checkout() is None


def test_the_remedy_works_as_typed(tmp_path):
    """pip understands it and gets as far as this project's own files; nothing is installed, no index is asked."""
    copy = tmp_path / "a checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "out", "*.egg-info", "__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(copy)!r})\n"
    code += "from tvm_mobilenet import packages\nprint(packages.remedy('onnxruntime'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "a checkout[compile]" in done.stdout, done.stderr
    offline = " --dry-run --no-index --no-build-isolation --no-deps --disable-pip-version-check"
    command = done.stdout.strip() + offline
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "setuptools" in done.stderr and "No module named" in done.stderr:
        pytest.skip("setuptools is not installed here")
    assert done.returncode == 0 and "Would install tvm-mobilenet" in done.stdout, done.stderr


# ---- before anything slow begins


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """Hides modules as if they were not installed; models, boards and linkers must not be reached."""

    def hide(*names):
        for name in names:
            for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
                monkeypatch.delitem(sys.modules, loaded)
            monkeypatch.setitem(sys.modules, name, None)

    def reached(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.setattr(network, "load_network", reached)
    monkeypatch.setattr(codegen, "link", reached)
    monkeypatch.setattr("tvm_mobilenet.boards.open_board", reached)
    monkeypatch.setattr("tvm_mobilenet.tuning.session.search", reached)
    monkeypatch.setattr("tvm_mobilenet.survey.estimates.estimate_networks", reached)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"not looked into")
    (tmp_path / "net.pt2").write_bytes(b"not looked into")
    (tmp_path / "net.tflite").write_bytes(b"not looked into")
    (tmp_path / "w.safetensors").write_bytes(b"not looked into")
    return hide


@pytest.fixture(scope="module")
def onnx_build(tmp_path_factory):
    """A module for rpi4 that says it was built from an ONNX file."""
    folder = tmp_path_factory.mktemp("built") / "onnx"
    shutil.copytree(modules.tiny("rpi4"), folder)

    def says_so(data):
        model = data["info"]["model"]
        model["model"] = "net.onnx"
        model["files"]["model"] = {"given": "net.onnx", "from_build": "net.onnx", "sha256": None}

    (folder / "net.onnx").touch()
    seal(folder, says_so)
    return folder


@pytest.mark.parametrize(
    ("verb", "argv", "gone", "said"),
    [
        ("tune", ["--model", "net.onnx"], ["onnxruntime"], "tune needs onnxruntime"),
        ("tune", ["--model", "net.onnx"], ["onnx", "torch"], "tune needs onnx, torch, which are not"),
        ("tune", [], ["optuna"], "tune needs optuna"),
        ("tune", [], ["capstone", "elftools"], "tune needs capstone, pyelftools, which are not"),
        ("tune", ["--board", "rpc://127.0.0.1:1"], ["unicorn"], "tune needs unicorn"),
        ("tune", [], ["PIL"], "tune needs pillow"),
        ("tune", ["--list"], ["torch"], "tune needs torch"),
        ("tune", ["--weights", "w.safetensors"], ["safetensors"], "tune needs safetensors"),
        ("build", ["--model", "net.pt2"], ["torch"], "build needs torch"),
        ("build", [], ["ziglang"], "build needs ziglang"),
        ("build", ["--model", "net.onnx", "--bundle", "b"], ["onnxruntime"], "build --bundle needs onnxruntime"),
        ("build", ["--bundle", "b"], ["unicorn"], "build --bundle needs unicorn"),
        ("build", ["--bundle", "b", "--linker", "cc"], ["elftools"], "build --bundle needs pyelftools"),
        ("build", ["--dump", "d"], ["unicorn"], "build --dump needs unicorn"),
        (
            "build",
            ["--model", "net.tflite", "--bundle", "b"],
            ["ai_edge_litert"],
            "build --bundle needs ai-edge-litert",
        ),
        ("tune", ["--model", "net.tflite"], ["ai_edge_litert"], "tune needs ai-edge-litert"),
        ("verify", ["ONNX"], ["onnxruntime"], "verify needs onnxruntime"),
        ("verify", ["ONNX", "--board", "local"], ["torch"], "verify needs torch"),
        ("verify", ["PT2"], ["unicorn", "PIL"], "verify needs pillow, unicorn, which are not"),
        ("bench", ["PT2"], ["capstone"], "bench needs capstone"),
        ("bench", ["PT2", "--board", "local", "--against", "ncnn"], ["ncnn"], "bench --against ncnn needs ncnn"),
        ("bench", ["PT2", "--board", "rpc://127.0.0.1:1", "--against", "litert"], ["ai_edge_litert"], "ai-edge-litert"),
        ("bench", ["ONNX", "--board", "local", "--against", "ncnn"], ["onnx"], "bench --against needs onnx"),
        ("profile", ["PT2"], ["ziglang"], "profile needs ziglang"),
        ("sweep", [], ["elftools"], "sweep needs pyelftools"),
        ("sweep", ["--budget", "60ms"], ["PIL"], "sweep needs pillow"),
        ("sweep", ["--theory"], ["torch"], "sweep --theory needs torch"),
        ("complexity", [], ["torch"], "complexity needs torch"),
        ("complexity", ["--compare", "net.onnx"], ["onnx"], "complexity needs onnx"),
        ("factorize", ["--model", "net.onnx"], ["onnx"], "factorize needs onnx"),
        ("rebuild_logs", [], ["optuna"], "rebuild_logs needs optuna"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_is_missing_is_said_before_work_begins(verb, argv, gone, said, hidden, onnx_build, capsys):
    words = {"ONNX": str(onnx_build), "PT2": str(modules.tiny("rpi4"))}
    main = importlib.import_module(f"tvm_mobilenet.{verb}").main
    argv = [words.get(word, word) for word in argv]
    argv += ["--target", "rpi4"] if verb in ("tune", "build") else []
    hidden(*gone)
    assert main(argv) == 3
    err = capsys.readouterr().err
    assert said in err and packages.remedy(*gone[:1]) in err.splitlines()[-1], err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "raise ImportError('libstdc++.so.6: version not found')",
            "onnxruntime cannot be imported: ImportError: libst",
        ),
        ("raise OSError('libcudart.so.13: cannot open')", "cannot be imported: OSError: libcudart.so.13: cannot open"),
        (
            "import a_module_that_it_needs",
            "cannot be imported: it needs a_module_that_it_needs, which is not installed",
        ),
        ("raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')", "is not installed here"),
    ],
)
def test_a_package_that_is_there_but_broken_is_named_with_its_reason(content, said, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(MissingDependencyError, match="verify needs onnxruntime") as e:
        packages.require("verify", "numpy", "onnxruntime")
    assert said in str(e.value) and e.value.exit_code == 3


def test_engines_that_cannot_run_are_told_before_measuring(monkeypatch, capsys):
    for name in ("ncnn", "flatbuffers"):
        monkeypatch.setitem(sys.modules, name, None)
    peers.require(["ncnn", "onnxruntime", "litert"], "local")
    err = capsys.readouterr().err
    assert "warning: bench --against ncnn needs ncnn" in err and "onnxruntime" not in err.replace("[peers]", "")
    assert "litert needs ai-edge-litert" in err and err.count("pip install") == 2
    peers.require(["ncnn"], "ssh://pi@board")  # what is installed there is not known yet
    with pytest.raises(MissingDependencyError, match="ncnn needs ncnn"):
        peers.require(["ncnn"], "local")


def test_ship_needs_ssh_only_where_it_goes_by_ssh(tmp_path, capsys):
    from tvm_mobilenet import ship

    argv = ["--bundle", "b.tar.gz", "--to", "ssh://pi@board/srv", "--ssh", "no-such-ssh -p 1"]
    assert ship.main(argv) == 3
    assert "no-such-ssh is not installed here\n  install openssh-client" in capsys.readouterr().err


# ---- the index


def resolved(*words: str) -> dict[str, str]:
    """What pip would install: version by name. Skipped where no index is reached."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=900)
    offline = ("NewConnectionError", "Temporary failure in name resolution", "Network is unreachable", "ProxyError")
    if done.returncode and any(why in done.stderr for why in offline):
        pytest.skip("no package index is reached from here")
    assert done.returncode == 0, done.stderr[-2000:]
    found = [one["metadata"] for one in json.loads(done.stdout[done.stdout.index("{") :])["install"]]
    return {plain(one["name"]): one["version"] for one in found}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build from: pip leaves files in the folder."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "out", "*.egg-info", "__pycache__"))
    return copy


@pytest.mark.full
@pytest.mark.parametrize("beside", ["torchvision timm", "torchvision==0.28.0"])
def test_a_torchvision_of_ones_choice_lives_beside_it(source, beside):
    found = resolved(f"{source}[compile]", *beside.split())
    assert found["torch"].startswith(("2.13.", "2.14.")) and "torchvision" in found
    if "0.28" in beside:
        assert found["torch"].split("+")[0] == "2.13.0", "the only one that it works with"


@pytest.mark.full
def test_the_readmes_commands_resolve_to_the_torch_of_the_constraints(source):
    found = resolved("-c", str(source / "constraints.txt"), f"{source}[compile,test]")
    assert found["torch"].split("+")[0] == "2.13.0" and brought("test") <= set(found)


def test_the_list_of_the_wheels_files_is_that_of_the_tree():
    """``.ci/package`` holds the built wheel against the list; ``UPDATE_GOLDEN=1`` writes it anew."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = data["package-dir"]
    found = set()
    for package in data["packages"]:
        near = max((name for name in folders if f"{package}.".startswith(f"{name}.")), key=len)
        folder = ROOT / folders[near] / package.removeprefix(near).lstrip(".").replace(".", "/")
        names = {
            path.name for pattern in ("*.py", *data["package-data"].get(package, ())) for path in folder.glob(pattern)
        }
        found |= {f"{package.replace('.', '/')}/{name}" for name in names if (folder / name).is_file()}
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt")
    found |= {f"DIST-INFO/{name}" for name in (*about, "licenses/LICENSE", "licenses/THIRD_PARTY.md")}
    golden = ROOT / "tests" / "golden" / "wheel.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text("\n".join(sorted(found)) + "\n")
    assert golden.read_text().split() == sorted(found)


@pytest.mark.parametrize("module", ["ir", "relax.op", "relax.transform", "runtime", "s_tir.schedule", "target"])
def test_tvms_modules_have_all_their_functions(module):
    """For each of them TVM lists all global functions, and `import_tvm` makes few lists."""
    import tvm_ffi

    api = importlib.import_module(f"tvm.{module}._ffi_api")
    names = [
        name.removeprefix(f"{module}.")
        for name in tvm_ffi.registry.list_global_func_names()
        if name.startswith(f"{module}.")
    ]
    missing = [name for name in names if "." not in name and not hasattr(api, name)]
    assert len(names) > 10 and not missing
