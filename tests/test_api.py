"""What Python programs call: the API that `import tvm_mobilenet` gives."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tvm_mobilenet as tm
from tests.support import modules, schemas
from tvm_mobilenet import api, bench
from tvm_mobilenet.cli.verbs import verbs
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import console

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = {"agent", "rebuild_logs"}  # a server, and a maintainers' tool: no function of the same name
SIZE = 16


class Separable(nn.Module):
    """A module that is in no registry and no file."""

    def __init__(self, classes=7):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.filters, self.point = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 24, 1)
        self.dense = nn.Linear(24, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.point(torch.relu(self.filters(x))))
        return self.dense(x.mean((2, 3)))


def image(seed=0):
    return np.random.default_rng(seed).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def module():
    return Separable().eval()


PHASES: list[str] = []  # what `-v` says while it is compiled


@pytest.fixture(scope="module")
def net(module):
    with console.told_to(PHASES.append), console.saying(details=True):
        return tm.compile(module, "rpi4", torch.zeros(1, 3, SIZE, SIZE))


# ---- a module, from compilation to a device


def test_a_module_is_compiled_verified_and_run(net, module):
    result = net.verify(count=2)
    result.require()
    assert result.ok and "PyTorch" in result.reference
    for seed in (0, 1):
        said = module(torch.from_numpy(image(seed))).detach().numpy()
        assert np.abs(net.run(image(seed)) - said).max() < 1e-4 * said.std()
    assert np.abs(net.run(image(0)) - net.run(image(1))).max() > 0


def test_verbose_tells_each_phase_to_the_last_library(net):
    """Minutes pass in compiling and linking large networks: they are phases as those before them are."""
    told = [line.partition(" s  phase ")[2].split(":")[0] for line in PHASES if " s  phase " in line]
    assert told[-5:] == ["decisions", "plan", "compile", "link", "link"], PHASES
    assert sum(f"{len(net._module.plan.steps)} kernels" in line for line in PHASES) == 1


def test_latency_is_predicted_and_says_so(net):
    latency = net.latency()
    assert list(net.latency(1).milliseconds) == [1]
    assert set(latency.milliseconds) == {1, net.target.cores} and latency.predicted
    assert min(latency.milliseconds.values()) > 0
    assert str(latency).endswith("(predicted)")


def test_a_saved_build_needs_nothing_of_what_it_was_compiled_from(module, tmp_path):
    made = tm.compile(module, "rpi4", (torch.zeros(1, 3, SIZE, SIZE),), output=tmp_path / "build", progress=False)
    made.save(tmp_path / "copy")
    first = made.run(image())
    for path in sorted(made.folder.iterdir()):
        path.unlink()
    again = tm.load(tmp_path / "copy")
    again.verify(count=1).require()
    assert np.array_equal(again.run(image()), first)
    assert again.bundle(tmp_path / "net.tar.gz").stat().st_size > 0


@pytest.fixture(scope="module")
def named(module, tmp_path_factory):
    """A build in int8 of a module, an array for calibration and names of classes that are in no file."""
    made = tm.compile(
        module,
        "rpi5",
        torch.zeros(1, 3, SIZE, SIZE),
        dtype="int8",
        calibrate=np.concatenate([image(seed) for seed in range(4)]),
        labels=list("abcdefg"),
        output=tmp_path_factory.mktemp("named") / "build",
        progress=False,
    )
    return made.save(made.folder.parent / "copy")


def test_a_build_says_what_was_compiled_and_keeps_no_temporary_path(named, tmp_path, capsys):
    """The folder that the module was written to is gone: its name would tell nobody anything."""
    assert named.options.title == "Separable int8" and named.options.slug.startswith("Separable-")
    assert repr(named).startswith("<Separable int8 for rpi5")
    manifest = json.loads((named.bundle(tmp_path / "bundle") / "manifest.json").read_text())
    plan = json.loads((named.folder / "plan.json").read_text())
    for model in (plan["info"]["model"], manifest["model"]):
        assert (model["model"], model["module"]) == ("Separable.pt2", "Separable")
    assert schemas.refused("plan", plan) == schemas.refused("manifest", manifest) == ""
    assert os.sep not in json.dumps([plan["info"]["model"], manifest["model"]])
    assert bench.main([str(named.folder)]) == 0 and capsys.readouterr().out.startswith("Separable int8 on rpi5")


def test_saving_over_an_earlier_copy_keeps_what_somebody_else_put_there(net, tmp_path):
    net.save(tmp_path / "copy")
    (tmp_path / "copy" / "thesis.txt").write_text("work of a year")
    assert net.save(tmp_path / "copy").folder == tmp_path / "copy"
    assert (tmp_path / "copy" / "thesis.txt").read_text() == "work of a year"


def test_what_is_not_asked_for_is_removed_with_the_object(module):
    made = tm.compile(module, "rpi4", torch.zeros(1, 3, SIZE, SIZE), progress=False)
    folder = made.folder
    assert folder.is_dir()
    del made
    assert not folder.exists()


def test_saving_spares_what_is_no_build(net, tmp_path):
    (tmp_path / "thesis.txt").write_text("work of a year")
    with pytest.raises(tm.TvmMobilenetError, match="not a build"):
        net.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_program_and_its_file_give_the_same(module, net, tmp_path):
    program = torch.export.export(module, (torch.zeros(1, 3, SIZE, SIZE),))
    torch.export.save(program, tmp_path / "net.pt2")
    said = net.run(image())
    for model in (program, tmp_path / "net.pt2"):
        assert np.array_equal(tm.compile(model, "rpi4", progress=False).run(image()), said)


def test_int8_takes_arrays_for_calibration(module, named):
    named.verify(count=1).require()
    said = module(torch.from_numpy(image(1))).detach().numpy()
    assert np.corrcoef(named.run(image(1)).ravel(), said.ravel())[0, 1] > 0.95


def test_compiling_leaves_the_module_as_it_was():
    module = Separable().train()
    module.norm.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tm.compile(module, "rpi4", torch.zeros(1, 3, SIZE, SIZE), progress=False)
    assert module.training and not module.norm.training and module.stem.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ---- mistakes


@pytest.mark.parametrize(
    "given, said",
    [
        (lambda: tm.compile(Separable(), "rpi4"), "example_inputs are missing"),
        (lambda: tm.compile(Separable(), "rpi4", [image()]), r"example_inputs\[0\] is of type ndarray"),
        (lambda: tm.compile(Separable(), "rpi4", torch.zeros(1, 5, 8, 8)), "cannot export Separable"),
        (lambda: tm.compile(3, "rpi4"), "type int cannot be compiled"),
        (lambda: tm.compile("v2", "rpi4", torch.zeros(1)), "has its inputs already"),
        (lambda: tm.compile("v9", "rpi4"), "no model 'v9'"),
        (lambda: tm.compile("v1", "rpi9"), "rpi9"),
        (lambda: tm.compile("v1", "rpi4", alfa=0.5), "no keyword 'alfa'"),
        (lambda: tm.compile("v1", "rpi4", seed=1, weights="x.pth"), "x.pth"),
        (lambda: tm.compile("v1", "rpi4", dtype="float16"), "float16"),
        (lambda: tm.compile("v1", "rpi4", keep_float="conv"), "int8"),
        (lambda: tm.compile("v1", "rpi4", dtype="int4"), "dtype='int4' is none of float32"),
        (lambda: tm.compile("v1", "rpi4", dtype=torch.float16), "is none of float32"),
        (lambda: tm.compile("v1", "rpi5", dtype="int8", calibration_method="kl"), "calibration_method='kl' is none of"),
        (lambda: tm.compile("v1", "rpi4", io="int4"), "io='int4' is none of"),
        (lambda: tm.compile("v1", "rpi4", alpha="0.25"), "alpha='0.25' is not of type int or float"),
        (lambda: tm.compile("v1", "rpi4", resolution="64"), "resolution='64' is not of type int"),
        (lambda: tm.compile("v1", "rpi4", resolution=True), "resolution=True is not of type int"),
        (lambda: tm.compile("v1", "rpi5", dtype="int8", keep_float=["4"]), "keep_float"),
        (lambda: tm.compile("v1", "rpi5", dtype="int8", calibrate={1: 2}), "calibrate holds a dict"),
        (lambda: tm.compile("v1", "rpi4", mean=np.zeros((500, 500))), r"mean=<ndarray of float64 \(500, 500\)> is"),
        (lambda: tm.compile("v1", "rpi4", dtype=np.zeros(9)), r"dtype=<ndarray of float64 \(9,\)> is none of"),
        (lambda: tm.compile("v1", "rpi4", mean="a,b"), "mean='a,b' is not of type"),
        (lambda: tm.compile("v1", None), "target=None is not a target"),
        (lambda: tm.load("nowhere"), "no built module"),
    ],
)
def test_mistakes_are_exceptions_with_a_hint(given, said, capfd):
    with pytest.raises(tm.TvmMobilenetError, match=said) as e:
        given()
    assert e.value.hint
    assert not capfd.readouterr().out


@pytest.fixture
def idle(monkeypatch):
    """Nothing that takes seconds may begin."""

    def begun(*args, **kwargs):
        raise AssertionError("work began")

    for name in ("torch.export.export", "tvm_mobilenet.compiler.network.load_network"):
        monkeypatch.setattr(name, begun)
    monkeypatch.setattr("tvm_mobilenet.bundle.pack.make", begun)


EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    "given, said",
    [
        (lambda: tm.compile(Separable(), "rpi9", EXAMPLE), "rpi9"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, output=__file__), "is not a folder"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, output=5), "output=5 is not a path"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, log=b"log"), "log=b'log' is not a path"),
        (lambda: tm.load(None), "folder=None is not a path"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, log=ROOT), "cannot be appended to: it is a folder"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, linker="no-such-cc"), "not on the PATH"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, labels="nowhere.txt"), "nowhere.txt"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, input="nowhere.jpg"), "nowhere.jpg"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, weights="w.pth"), "w.pth"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, classes=3), "Separable is a whole network"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, dtype="float16"), "float16"),
        (lambda: tm.compile(Separable(), "rpi5", EXAMPLE, dtype="int8", calibrate="nowhere"), "nowhere"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, keep_float="conv"), "int8"),
        (lambda: tm.tune("v1", "rpi4", output="x", board="vritual"), "vritual"),
        (lambda: tm.tune("v1", "rpi4", output="x", board="tracker://192.0.2.1:9190/rpi4"), "trust"),
        (lambda: tm.tune("v1", "rpi4", output="x", trials=0), "trials=0"),
        (lambda: tm.tune("v1", "rpi4", output="x", time_limit=-1.0), "time_limit=-1.0"),
        (lambda: tm.tune("v1", "rpi4", output="x", workers=0), "workers '0' is neither a number"),
        (lambda: tm.tune("v1", "rpi4", output=__file__), "is not a folder"),
        (lambda: tm.tune("v1", "rpi4", output=None), "output=None is not a path"),
        (lambda: tm.tune("v1", "rpi4", output="x", trials=1.5), "trials=1.5 is not of type int"),
        (lambda: tm.tune("v1", "rpi4", output="x", board=5), "board=5 is not of type str"),
        (lambda: tm.sweep("rpi4", families=["v9"]), "v9"),
        (lambda: tm.sweep("rpi4", families=5), "families=5 is not of type str"),
        (lambda: tm.sweep("rpi4", families=()), r"families=\(\) is empty"),
        (lambda: tm.sweep("rpi4", alphas="x"), "alphas='x' is not of type"),
        (lambda: tm.sweep("rpi4", resolutions=3), "resolution 3 is not a multiple of 32"),
        (lambda: tm.sweep("rpi4", dtypes=["int9"]), "dtypes='int9' is none of"),
        (lambda: tm.sweep("rpi4", estimates=5), "estimates=5 is not a path"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, linker=5), "linker=5 is not of type str"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, progress="x"), "progress='x' is not a function"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, resolution=3), "resolution=3: a module has the shape of"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, std=0), "std=0 is not a finite number above 0"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, mean=[1, 2]), r"mean=\[1, 2\] has 2 numbers"),
        (lambda: tm.compile(Separable(), "rpi4", EXAMPLE, mean=float("nan")), "mean=nan is not a finite number"),
        (
            lambda: tm.compile(Separable(), "rpi4", EXAMPLE, crop=2),
            "crop=2 is not a finite number above 0 and at most 1",
        ),
        (lambda: tm.compile("v1", "rpi4", seed=10**30), "seed=1000.* is not a whole number from 0"),
        (lambda: tm.compile("v1", "rpi4", seed=-1), "seed=-1 is not a whole number"),
        (lambda: tm.compile("v1", "rpi4", batch=0), "batch=0 is not a whole number from 1"),
        (lambda: tm.compile("v1", "rpi4", resolution=(1, 2, 3)), r"resolution=\(1, 2, 3\) has 3 numbers"),
        (lambda: tm.compile("v1", "rpi4", output="a\0b"), "is not a path"),
        (lambda: tm.compile("v1", "rpi4", labels=["a", "b"]), "labels.json has 2 names"),
        (lambda: tm.sweep("rpi4", board="vritual"), "vritual"),
    ],
)
def test_mistakes_are_found_before_anything_slow_begins(given, said, idle):
    with pytest.raises(tm.TvmMobilenetError, match=said) as e:
        given()
    assert e.value.hint


@pytest.mark.parametrize(
    "given, said",
    [
        (lambda net: net.verify("vritual"), "vritual"),
        (lambda net: net.bench("ssh:/pi"), "ssh:/pi"),
        (lambda net: net.verify(count=0), "count=0 is not a whole number from 1"),
        (lambda net: net.verify(dump=5), "dump=5 is not a path"),
        (lambda net: net.bench("local", against=["nncn"]), "against nncn: no such engine"),
        (lambda net: tm.Compiled(5), "folder=5 is not a path"),
        (lambda net: net.run(np.zeros((1, 3, SIZE, SIZE)), board=""), "board"),
        (lambda net: net.accuracy(ROOT, truth=""), "truth='' is not a path"),
        (lambda net: net.bench(threads=[]), r"threads=\[\] is empty"),
        (lambda net: net.bench(seconds="3"), "seconds='3' is not of type"),
        (lambda net: net.profile(threads=True), "threads=True is not of type int"),
        (lambda net: net.latency(0), "cores=0 is not a whole number"),
        (lambda net: net.accuracy("nowhere"), "^data nowhere"),
        (lambda net: net.accuracy(ROOT, truth="nowhere.csv"), "^truth nowhere.csv"),
        (lambda net: net.accuracy(ROOT, limit=-1), "limit=-1 is not a whole number"),
        (lambda net: net.bundle("net.zip"), "net.zip"),
        (lambda net: net.bundle("net.tar.gz", sign="nowhere"), "nowhere"),
        (lambda net: net.bundle("net.tar.gz", linker="no-such-cc"), "not on the PATH"),
        (lambda net: net.ship(), "no board"),
        (lambda net: net.ship("https://pi/srv"), "is not a folder on a board"),
        (lambda net: net.ship("pi@pi4:/srv/net"), "^to pi@pi4:/srv/net is an address of scp"),
        (lambda net: net.ship(5), "to=5 is not a path"),
        (lambda net: net.ship("device", keep=0), "keep=0 is not a whole number"),
        (lambda net: net.save(__file__), "is not a folder"),
        (lambda net: net.save(None), "folder=None is not a path"),
        (lambda net: net.bundle(None), "path=None is not a path"),
    ],
)
def test_mistakes_about_a_build_are_found_before_anything_slow_begins(net, given, said, idle):
    fresh = tm.load(net.folder)  # it has not imported its network
    with pytest.raises(tm.TvmMobilenetError, match=said) as e:
        given(fresh)
    assert e.value.hint


GIVEN = {"compile": ("v1", "rpi4"), "tune": ("v1", "rpi4"), "sweep": ("rpi4",), "accuracy": (ROOT,), "save": ("copy",),
         "bundle": ("net.tar.gz",), "ship": ("device",)}  # fmt: skip
METHODS = ("verify", "latency", "profile", "bench", "accuracy", "run", "bundle", "ship")
LATE = {"inputs"}  # they are held against the network's, which is imported first


def keywords_of(function) -> list[str]:
    found = [n for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY or n == "board"]
    return [*found, *tm.ModelKeywords.__annotations__] if function in (api.compile, api.tune) else found


@pytest.mark.parametrize("name", ["compile", "tune", "sweep", *METHODS])
def test_no_call_takes_an_odd_value_for_a_keyword(net, name, idle, tmp_path, monkeypatch):
    """Not even where truth of it would do: ``embed_weights="no"`` is not True."""
    monkeypatch.chdir(tmp_path)
    on = api if hasattr(api, name) else tm.load(net.folder)
    function = getattr(on, name)
    asked = keywords_of(function)
    assert "progress" in asked or name == "save"
    for keyword in set(asked) - LATE:
        how = {"output": "out"} if name == "tune" else {}
        with pytest.raises(tm.TvmMobilenetError, match=keyword) as e:
            function(*GIVEN.get(name, ()), **{**how, keyword: object()})
        assert e.value.hint and not list(tmp_path.iterdir()), keyword


def test_one_number_is_mean_and_std_of_all_channels_and_labels_are_names(module, tmp_path):
    """Names stay with the build: `load` wants them when the program has ended."""
    names = ["Ärmel", *map(str, range(5)), "a\nb"]
    how = dict(mean=np.float32(0.25), std=[0.5, 0.5, 1], labels=names, output=tmp_path / "net", progress=False)
    net = tm.compile(module, "rpi4", EXAMPLE, **how)
    assert net.options.std == (0.5, 0.5, 1.0)
    del net
    again = tm.load(tmp_path / "net")
    assert again.options.mean == (0.25,) and list(again._network.labels) == [*names[:-1], "a b"]


def test_inputs_of_another_shape_are_refused(net):
    with pytest.raises(tm.TvmMobilenetError, match=r"the model takes \(1, 3, 16, 16\)"):
        net.run(image()[:, :, 1:])
    with pytest.raises(tm.TvmMobilenetError, match="2 inputs for 1"):
        net.run(image(), image())
    with pytest.raises(tm.TvmMobilenetError, match="complex"):
        net.run(image().astype(np.complex64))
    with pytest.raises(tm.TvmMobilenetError, match=r"nan|NaN"):
        net.run(image() * np.nan)


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e30])
def test_this_machine_refuses_the_inputs_that_boards_refuse(odd):
    """A ReLU hides a NaN: the scores would look like those of an image."""
    host = tm.load(modules.tiny("host"))
    given = np.zeros((1, 3, 32, 32), np.float32)
    assert np.isfinite(host.run(given)).all()
    given[0, 1, 2, 3] = odd
    with pytest.raises(tm.TvmMobilenetError, match=r"input .* holds"):
        host.run(given)


def test_a_board_that_does_not_take_it_is_an_exception(net, tmp_path):
    with pytest.raises(tm.BoardError) as e:
        net.ship(str(tmp_path / "device"), runner="false")
    assert not (tmp_path / "device" / "current").exists() and str(tmp_path) in str(e.value)


# ---- what programs see


def test_importing_is_quick_and_imports_neither_torch_nor_tvm():
    code = "import sys, tvm_mobilenet; print(sorted({'torch', 'tvm', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_every_name_is_there_and_has_a_docstring():
    for name in tm.__all__:
        assert name in dir(tm)
        found = getattr(tm, name)
        assert name.startswith("__") or inspect.getdoc(found), name


def test_help_shows_what_programs_call():
    """``help(tm.tune)`` is about the function that a program calls, not about the verb's module."""
    import pydoc

    for name in ("compile", "load", "sweep", "tune"):
        importlib.import_module("tvm_mobilenet.tune")
        text = pydoc.render_doc(getattr(tm, name), renderer=pydoc.plaintext)
        assert f"{name}(" in text and text.index(f"{name}(") < 300, text[:600]
        assert inspect.signature(getattr(tm, name)) == inspect.signature(getattr(api, name))
        for section in ("Parameters", "Returns", "Raises") if name != "load" else ("Raises",):
            assert f"{section}\n" in text, (name, section)
    text = inspect.getdoc(tm.tune)
    assert text.startswith("tune(\n") and "    target: str | Target = 'arm',\n" in text, text
    assert text.index("    *,\n") < text.index("    output: str") < text.index(") -> TuneResult\n")
    code = "import tvm_mobilenet as tm\ntry: tm.build\nexcept AttributeError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "programs call tvm_mobilenet.compile(model, target)" in done.stdout, done.stderr


def test_verbs_that_are_functions_stay_modules():
    code = (
        "import tvm_mobilenet.tune, tvm_mobilenet as tm, types; "
        "assert isinstance(tm.tune, types.ModuleType) and callable(tm.tune) and tm.tune.main; "
        "from tvm_mobilenet import tune; assert tune.parser()\n"
        "try: tm.tune('v9', output='x', progress=False)\n"
        "except tm.TvmMobilenetError as e: print(e.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "Known: v1" in done.stdout, done.stderr


def test_keywords_are_the_options_of_a_model():
    fields = set(ModelOptions.__dataclass_fields__) - {"model", "dtype", "decided", "keep_dtype", "module", "temporary"}
    assert set(tm.ModelKeywords.__annotations__) == fields


@pytest.mark.parametrize("verb", sorted(set(verbs()) - WITHOUT))
def test_each_verb_calls_the_public_function_of_its_name(verb):
    tree = ast.parse((ROOT / "tvm_mobilenet" / f"{verb}.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert ast.get_docstring(functions[verb])
    called = [
        node.func.id
        for node in ast.walk(functions["_run"])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert verb in called


def test_progress_goes_where_it_is_asked_to(module, capfd):
    lines, example = [], torch.zeros(1, 3, SIZE, SIZE)
    tm.compile(module, "rpi4", example, progress=lines.append)
    assert any("preprocessing is assumed" in line for line in lines)
    assert not [line for line in lines if "--" in line], lines  # a program has keywords, no flags
    assert capfd.readouterr() == ("", "")
    tm.compile(module, "rpi4", example)
    assert "preprocessing is assumed" in capfd.readouterr().err


def test_notebooks_show_tables_with_all_layers(net):
    layers = len(net.verify(count=1).layers)
    for result in (net.verify(count=1), net.profile()):
        assert result._repr_html_().count("<tr>") >= layers + 1
    assert "predicted" in net.bench()._repr_html_() and "<table>" in net._repr_html_()


def test_names_in_notebooks_are_text():
    from tvm_mobilenet.terminal import notebook

    assert "<script>" not in notebook.table(("a",), [("<script>alert(1)</script>",)], "<script>")


@pytest.mark.full
def test_the_search_goes_on_from_its_log(tmp_path):
    how = dict(alpha=0.25, resolution=32, output=tmp_path / "net", trials=1, time_limit=60, progress=False)
    found = tm.tune("v1", "rpi4", **how)
    assert found.verification.ok and tm.load(tmp_path / "net").target.name == "rpi4"
    assert (tmp_path / "tune_log.jsonl").exists() and found._repr_html_().startswith("<svg")


@pytest.mark.full
def test_a_sweep_is_a_table_and_a_chart(tmp_path):
    found = tm.sweep("rpi4", families=["v1"], alphas=[0.25], resolutions=[128], progress=False)
    assert found.networks[0].milliseconds > 0 and "<svg" in found._repr_html_()


@pytest.mark.full
def test_programs_over_the_api_are_typed(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "user.py").write_text(
        "import numpy as np\nimport tvm_mobilenet as tm\n"
        'net = tm.compile("v2", "rpi4", alpha=0.5, dtype="int8")\n'
        "ok: bool = net.verify().ok\n"
        "ms: float = net.latency().milliseconds[1]\n"
        'seconds: float = net.bench("ssh://pi@pi").rows[0].time.p50\n'
        "out = net.run(np.zeros((1, 3, 224, 224), np.float32))\n"
        'best = tm.tune("v1", output="x").tuned\n'
        'tm.compile("v2", alfa=1)\n'
        'tm.compil("v2")\n'
        "net.bundle(3)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"]
    env = {"MYPYPATH": str(ROOT), "PATH": "", "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("user.py") and "error" in line]
    named = [word in line for word, line in zip(("alfa", "compil", "bundle"), wrong, strict=False)]
    assert len(wrong) == 3 and all(named), done.stdout + done.stderr


def test_messages_name_keywords_and_not_flags():
    """They are those of the command line, where flags have other names; what is typed there stays."""
    with pytest.raises(
        tm.TvmMobilenetError, match=r"^seed: it seeds random weights, so it has no effect beside weights"
    ) as e:
        api.compile("v1", "rpi4", seed=1, weights=__file__)
    assert "--" not in str(e.value)
    with pytest.raises(tm.TvmMobilenetError, match="add dtype int8"):
        api.compile("v1", "rpi4", keep_float="conv")
    from tvm_mobilenet.cli import keywords

    typed = "python -m tvm_mobilenet.build --output out\n  `ship --keep` and --channel-order, --debug"
    assert keywords.named(typed) == typed.replace("--channel-order", "channel_order")


def test_results_are_text_and_one_line(net):
    """``print(result)`` shows what the verb prints, not thousands of numbers; in a list each is a line."""
    result = net.verify(count=1)
    assert result.summary() in str(result) and all(layer.name in str(result) for layer in result.layers)
    assert repr(result).startswith("<VerifyResult: right, ") and "\n" not in repr(result)
    for other, said in (
        (net.bench(), " ms on 1 thread, predicted on virtual"),
        (net.profile(), " kernel calls on rpi4"),
    ):
        assert said in repr(other) and len(repr(other)) < 200 and str(other).count("\n") > 3
    from tvm_mobilenet.ship import Shipped

    assert str(Shipped("ssh://pi@pi4/srv", "", "", "no room")) == "ssh://pi@pi4/srv: no room"


def test_several_inputs_are_run_one_after_the_other(net):
    both = np.concatenate([image(0), image(1)])
    rows = net.run(both)
    assert rows.shape == (2, 7) and np.array_equal(rows, np.concatenate([net.run(image(0)), net.run(image(1))]))
    with pytest.raises(tm.TvmMobilenetError, match="or N at once"):
        net.run(both[:0])
    assert net.verify(inputs=[both], count=1, progress=False).inputs == 2


def test_every_long_call_takes_progress(net, tmp_path):
    calls = [getattr(tm.Compiled, name) for name in dir(tm.Compiled) if not name.startswith("_")]
    without = [c.__name__ for c in calls if callable(c) and "progress" not in inspect.signature(c).parameters]
    assert without == ["save"]
    lines = []
    with pytest.raises(tm.BoardError):
        net.ship(str(tmp_path / "device"), runner="false", progress=lines.append)
    assert any(f"is a folder of this machine: {tmp_path / 'device'}" in line for line in lines), lines
