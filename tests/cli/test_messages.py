"""What a user is told who makes a mistake: a sentence with the value, what to do, the documented exit code.

No name of a Python class, no traceback, nothing on stdout, nothing left behind.
"""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checking import test_sure_networks as sure
from tests.support import modules
from tvm_mobilenet import __main__ as command
from tvm_mobilenet import errors, frontend, targets, verify
from tvm_mobilenet.boards.comparison import relative
from tvm_mobilenet.build import build
from tvm_mobilenet.cli import entry
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.compiler import network
from tvm_mobilenet.models.options import ModelOptions

CLASSES = re.compile(r"\b[A-Z]\w*(Error|Exception)\b|Traceback|Errno|<class|a bug, most likely|object at 0x")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of files that are no models, or models of other kinds."""
    folder = tmp_path_factory.mktemp("files")
    whole = folder / "Whole Nét.ONNX"
    sure.save(whole, *sure.SURE["two classes, 0.99999"])
    for name in (
        "m.tflite",
        "m.lite",
        "m.h5",
        "m.keras",
        "m.pt",
        "m.pth",
        "m.pb",
        "m.xyz",
        "noext",
        "text.onnx",
        "text.pt2",
    ):
        (folder / name).write_text("hello, I am a text\n")
    for name in ("empty.onnx", "empty.pt2"):
        (folder / name).touch()
    (folder / "cut.onnx").write_bytes(whole.read_bytes()[:700])
    program = Path(modules.tiny_options().model).read_bytes()
    (folder / "program.pt2").write_bytes(program)
    (folder / "PROGRAM2.PT2").write_bytes(program)
    (folder / "cut.pt2").write_bytes(program[: len(program) // 2])
    with zipfile.ZipFile(folder / "zip.pt2", "w") as archive:
        archive.writestr("data.pkl", b"x")
    for name in ("folder", "folder.onnx", "saved"):
        (folder / name).mkdir()
    (folder / "saved" / "saved_model.pb").write_text("x")
    os.mkfifo(folder / "pipe.onnx")
    (folder / "loop.onnx").symlink_to("loop.onnx")
    (folder / "stale.onnx").symlink_to("gone.onnx")
    odd = onnx.load(whole)
    weights = onnx.numpy_helper.to_array(odd.graph.initializer[0]).copy()
    weights.flat[7] = np.nan
    odd.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, odd.graph.initializer[0].name))
    onnx.save(odd, folder / "nan.onnx")
    for name, element in (("string", onnx.TensorProto.STRING), ("float8", onnx.TensorProto.FLOAT8E4M3FN)):
        odd = onnx.load(whole)
        odd.graph.input[0].type.tensor_type.elem_type = element
        onnx.save(odd, folder / f"{name}.onnx")
    odd = onnx.load(whole)
    odd.graph.input[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(odd.graph.input[0].type))
    onnx.save(odd, folder / "sequence.onnx")
    (folder / "page.onnx").write_text("\n<!DOCTYPE html><title>404</title>")
    (folder / "tflite.onnx").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    (folder / "program.onnx").write_bytes(program)
    constant = onnx.helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph([constant], "g", [], [y])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "constant.onnx")
    np.save(folder / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(folder / "nan.npy", np.full((1, 3, 224, 224), np.nan, np.float32))
    np.save(folder / "small.npy", np.zeros((3, 8, 8), np.float32))
    return folder


@pytest.fixture
def told(files, monkeypatch, capsys):
    """Runs a verb in the folder of files: exit code and what was said on stderr. Nothing may be left behind."""
    monkeypatch.chdir(files)

    def run(*argv: str) -> tuple[int, str]:
        before = sorted(map(str, files.rglob("*")))
        try:
            code = command.main(list(argv))
        except SystemExit as e:
            code = e.code
        shown = capsys.readouterr()
        assert not CLASSES.search(shown.err), shown.err
        if code:
            assert not shown.out and sorted(map(str, files.rglob("*"))) == before, "left something behind"
            assert shown.err.count("error: ") == 1 and len(shown.err.splitlines()) <= 6, shown.err
        return code, shown.err

    return run


MODELS = {
    "m.tflite": "not a whole TFLite file.*convert or copy it again",
    "m.lite": "TensorFlow Lite file.*rename it to .tflite",
    "m.h5": "Keras.*format='onnx'.*--keras m.h5",
    "m.keras": "Keras.*format='onnx'",
    "m.pb": "TensorFlow graph.*--graphdef.*--saved-model",
    "m.pt": "holds weights.*--weights.*torch.export.save",
    "m.pth": "holds weights.*--weights",
    "m.xyz": "cannot tell.*xyz.*.onnx, .tflite or .pt2",
    "noext": "cannot tell.*without a suffix",
    "folder": "is a folder",
    "folder.onnx": "is a folder",
    "saved": "is a folder.*--saved-model saved",
    "empty.onnx": "is empty",
    "empty.pt2": "is empty",
    "text.onnx": "not a whole ONNX file",
    "text.pt2": "not a saved ExportedProgram.*not a zip",
    "page.onnx": "is a page of HTML or XML, not what its name says.*download",
    "tflite.onnx": "is a TFLite file, not what its name says.*rename it to .tflite",
    "program.onnx": "is a zip archive.*rename it to .pt2",
    "constant.onnx": "the network has no input",
    "cut.onnx": "not a whole ONNX file.*truncated",
    "cut.pt2": "not a saved ExportedProgram.*truncated",
    "zip.pt2": "not a saved ExportedProgram.*archive",
    "programm.pt2": "no such file.*did you mean program.pt2",
    "whole nét.onnx": "no such file.*did you mean Whole Nét.ONNX",
    "nowhere/m.onnx": "no such file.*no folder nowhere",
    "pipe.onnx": "--model pipe.onnx: it is a named pipe, not a file",
    "loop.onnx": "--model loop.onnx: it is a link that leads back to itself",
    "stale.onnx": "--model stale.onnx: it is a link to gone.onnx, which does not exist",
    "nan.onnx": "infinities or NaN in the folded weights of c.*export it again",
    "string.onnx": "is string.*only models in float32",
    "float8.onnx": "is float8.*only models in float32",
    "sequence.onnx": "is a sequence.*takes tensors",
    "resnet18": "v1, v1-plain, v1-shallow, v2, v3-large, v3-small.*FILE.onnx, FILE.tflite or FILE.pt2",
    "mobilenetv3": "v3-large or --model v3-small",
    "mobilenetv2_140": "--model v2 --alpha 1.4",
    "": "--model is empty",
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_is_none_is_refused(told, model):
    code, said = told("build", "--model", model, "--output", "out")
    assert code == 2 and re.search(MODELS[model], said, re.DOTALL), said


def test_a_file_that_may_not_be_read_is_refused(files, told, monkeypatch):
    opens = Path.open

    def refuse(path, *args, **options):
        if path.name == "cut.onnx":  # whoever runs the tests may be root, who may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    code, said = told("complexity", "--model", "cut.onnx")
    assert code == 2 and "--model cut.onnx cannot be read: permission denied" in said


WRONG = [
    (["biuld"], 2, "did you mean 'build'"),
    (["build", "--taget", "rpi4"], 2, "--taget.*did you mean --target"),
    (["build", "--taget=rpi4"], 2, "--taget.*did you mean --target"),
    (["verify", "x", "--bord", "virtual"], 2, "did you mean --board"),
    (["verify", "x", "--target", "rpi4"], 2, "verify has no flag --target.*build"),
    (["build", "--threads", "2"], 2, "build has no flag --threads.*bench.*have it"),
    (["build", "--nothing-like-it"], 2, "--nothing-like-it.*--help"),
    (["build", "v1"], 2, "did you mean --model v1"),
    (["tune", "list"], 2, "'list'.*did you mean --list"),
    (["tune", "--target"], 2, "--target needs a value, NAME"),
    (["tune", "--alpha", "x"], 2, "--alpha: 'x' is not a number above zero"),
    (["tune", "--alpha", "-1"], 2, "--alpha: '-1' is not a number above zero"),
    (["tune", "--seed", "1.5"], 2, "--seed: '1.5' is not a whole number"),
    (["tune", "--model", "v1", "--resolution", "225"], 2, "225.*224"),
    (["tune", "--time-limit", "soon"], 2, "'soon'.*7m"),
    (["build", "--layout", "CHWN"], 2, "'CHWN' is none of NCHW, NHWC"),
    (["build", "--target", "rpi6"], 2, "rpi6.*did you mean 'rpi5'"),
    (["verify"], 2, "FOLDER is missing"),
    (["ship"], 2, "--to is missing"),
    (["verify", "out/none"], 2, "out/none holds no built module: there is no such folder.*tvm_mobilenet.build"),
    (["bench", "out/none"], 2, "out/none holds no built module: there is no such folder"),
    (["profile", "folder"], 2, "folder holds no built module: there is no plan.json in it"),
    (["profile", "program.pt2"], 2, "program.pt2 holds no built module: it is a file.*build --model program.pt2"),
    (["bench", "text.onnx"], 2, "it is a file"),
    (["build", "--weights", "text.onnx"], 2, "text.onnx cannot be read as weights"),
    (["build", "--weights", "folder"], 2, "--weights folder is a folder"),
    (["build", "--input", "none.jpg"], 2, "--input none.jpg: no such file"),
    (["build", "--input", "pipe.onnx"], 2, "--input pipe.onnx: it is a named pipe"),
    (["build", "--weights", "loop.onnx"], 2, "--weights loop.onnx: it is a link that leads back"),
    (["build", "--target", "stale.toml"], 2, "target file 'stale.toml': no such file"),
    (["complexity", "--alpha", "1e9"], 2, "--alpha 1e.?09 is above 16"),
    (["complexity", "--resolution", "1000000000"], 2, "--resolution 1e.?09 is above 8,192"),
    (["complexity", "--classes", "99999999999"], 2, "--classes 1e.?11 is above 1,000,000"),
    (["build", "--model", "Whole Nét.ONNX", "--mean", "nan"], 2, "--mean: 'nan'.*finite"),
    (
        ["build", "--model", "Whole Nét.ONNX", "--std", "0,0,0"],
        2,
        "--std: '0,0,0'.* above 0",
    ),
    (["build", "--model", "Whole Nét.ONNX", "--mean", "inf"], 2, "--mean: 'inf'.*finite"),
    (["doctor", "--board", "foo://x"], 2, "foo"),
    (["build", "--bundle", "b.zip"], 2, "--bundle b.zip: a bundle is a .tar.gz archive or a folder"),
    (["ship", "--bundle", "none.tar.gz", "--to", "b"], 2, "none.tar.gz is not a whole bundle: no such file"),
    (["ship", "--bundle", "text.onnx", "--to", "b"], 2, "text.onnx is not a whole bundle"),
]


@pytest.mark.parametrize("argv, code, words", WRONG, ids=[" ".join(argv) for argv, _, _ in WRONG])
def test_a_mistake_is_told_in_a_sentence(told, argv, code, words):
    found, said = told(*argv)
    assert found == code and re.search(words, said, re.DOTALL), said


ARRAYS = {
    "objects.npy": "objects.npy cannot be read as an array: it holds Python objects.*numpy.save",
    "nan.npy": "nan.npy holds infinities or NaN.*numpy.isfinite",
    "small.npy": r"small.npy holds float32 \(3, 8, 8\), the model wants float32 \(1, 3, 224, 224\)",
}


@pytest.mark.parametrize("array", ARRAYS)
def test_an_array_that_is_no_input_is_refused(files, array):
    from tvm_mobilenet.models.preprocess import Preprocess, load_image

    with pytest.raises(errors.TvmMobilenetError) as refused:
        load_image(files / array, Preprocess((224, 224)))
    said = str(refused.value) + refused.value.hint
    assert re.search(ARRAYS[array], said, re.DOTALL) and not CLASSES.search(said), said


BOARDS = {
    "foo://x": "unknown kind of board 'foo'",
    "virtuel": "did you mean virtual",
    "rcp://h:1": "did you mean rpc://",
    "rpc://": "no host",
    "rpc://host:notaport": "a port is a number",
    "rpc://host:99999": "a port is a number",
    "tracker://h:1": "the key is missing",
    "": "unknown kind",
}


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("verb", ["verify", "bench", "profile"])
def test_an_address_that_is_none_is_refused(told, verb, board):
    code, said = told(verb, str(modules.tiny("rpi4")), "--board", board)
    assert code == 2 and BOARDS[board] in said and "tracker://host:port/key" in said


def test_every_verb_knows_its_parser_and_suggests_the_nearest_flag(told):
    for verb in command.verbs():
        code, said = told(verb, "--jsn" if verb not in ("ship", "agent") else "--debgu")
        assert (code == 2 and "did you mean --" in said) or "--help" in said, (verb, said)


@settings(max_examples=60, deadline=None)
@given(
    verb=st.sampled_from(["build", "verify", "bench", "profile", "complexity"]),
    words=st.lists(
        st.sampled_from(["--model", "--alpha", "--board", "--json", "--inputs", "--threads", "--target", "--labels"])
        | st.text(max_size=6).filter(lambda t: not t.startswith(("-h", "--h"))),
        max_size=4,
    ),
)
def test_no_arguments_make_a_traceback(verb, words):
    """Parsed only: what comes behind has tests of its own."""
    import contextlib
    import importlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        importlib.import_module(f"tvm_mobilenet.{verb}").parser().parse_args(words)
    assert not CLASSES.search(said.getvalue())


def test_an_error_of_the_system_is_a_sentence(capsys):
    def fails(_):
        raise PermissionError(13, "Permission denied", "/root/secret")

    assert entry.run_verb(entry.parser_for("verify", ""), fails, []) == 2
    assert capsys.readouterr().err.startswith("error: /root/secret: permission denied\n  check")
    assert errors.reason(KeyError("plan")) == "it lacks 'plan'"
    assert errors.reason(ValueError()) == "it is damaged"


@pytest.mark.parametrize("verb", [["tune", "--target", "list", "--json"], ["tune", "--target", "list"]])
@pytest.mark.parametrize("where", ["full", "closed"])
def test_a_result_that_cannot_be_written_is_told(verb, where):
    """A script that reads an empty file must not take it for success."""
    import subprocess
    import sys

    to = ">/dev/full" if where == "full" else ">&-"
    command = f'exec "$0" -m tvm_mobilenet.{verb[0]} "$@" {to}'
    done = subprocess.run(["sh", "-c", command, sys.executable, *verb[1:]], capture_output=True, text=True)
    assert done.returncode == 2 and not CLASSES.search(done.stderr) and "Exception ignored" not in done.stderr
    assert re.search("result cannot be written.*(no space left|stdout is closed)", done.stderr), done.stderr


def test_a_full_disk_is_told_when_there_is_no_stdout(capsys, monkeypatch):
    def fails(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stdout", None)
    assert entry.run_verb(entry.parser_for("verify", ""), fails, []) == 2
    assert capsys.readouterr().err.startswith("error: a result cannot be written: no space left on device")


# ---- programs of other versions and with other outputs


def test_a_program_of_another_schema_names_both_versions(files, told):
    with zipfile.ZipFile(files / "program.pt2") as old, zipfile.ZipFile(files / "other.pt2", "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("models/model.json"):
                program = json.loads(data)
                program["schema_version"]["major"] += 1
                program["torch_version"] = "3.1.4"
                data = json.dumps(program)
            new.writestr(entry, data)
    from torch._export.serde.schema import SCHEMA_VERSION

    code, said = told("complexity", "--model", "other.pt2")
    major = SCHEMA_VERSION[0]
    assert code == 2 and f"torch 3.1.4 with schema version {major + 1}." in said and f"reads {major}.x" in said
    assert "save it again" in said and "torch==3.1.4" in said and len(said.splitlines()) == 3


def returning(form, path):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dense = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)

        def forward(self, x):
            y = torch.relu(self.conv(x))
            return form(self.dense(y.mean((2, 3))), y)

    torch.manual_seed(0)
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 3, 32, 32),)), path)


FORMS = {
    "a dictionary": (lambda a, b: {"logits": a, "features": b}, ["logits", "features"]),
    "a nested list": (lambda a, b: [a, [b, (a * 2,)]], ["output0", "output1.0", "output1.1.0"]),
    "both": (lambda a, b: {"head": {"logits": a, "x y/z": b}}, ["head.logits", "head.x.y.z"]),
    "with None and numbers": (lambda a, b: {"logits": a, "loss": None, "n": 3}, ["logits"]),
    "a tuple": (lambda a, b: (a, b), ["output0", "output1"]),
    "one in a list": (lambda a, b: [a], ["output0"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_program_names_its_outputs(tmp_path, form):
    returning(FORMS[form][0], tmp_path / "m.pt2")
    loaded = network.load_network(ModelOptions(model=str(tmp_path / "m.pt2")))
    assert [port.name for port in loaded.signature.outputs] == FORMS[form][1]
    build(loaded.options, targets.load("rpi4"), output=tmp_path / "built", network=loaded)
    result = verify.verify(tmp_path / "built", network=loaded, count=1)
    result.require()
    assert [o.name for o in result.outputs] == FORMS[form][1]


@pytest.mark.full
def test_a_dataclass_of_another_program_is_read_by_its_fields(tmp_path):
    """Saved where the class is known, read where it is not."""
    import subprocess
    import sys

    script = f"""
import dataclasses, torch
from torch import nn
@dataclasses.dataclass
class Found:
    logits: torch.Tensor
    boxes: torch.Tensor
torch.export.register_dataclass(Found, serialized_type_name="theirs.Found")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
    def forward(self, x):
        y = self.conv(x)
        return Found(y.mean((2, 3)), y)
torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 3, 8, 8),)), {str(tmp_path / "m.pt2")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    loaded = network.load_network(ModelOptions(model=str(tmp_path / "m.pt2")))
    assert [port.name for port in loaded.signature.outputs] == ["logits", "boxes"]
    assert [y.shape for y in loaded.reference(loaded.inputs(1))[0][0]] == [(1, 4), (1, 4, 8, 8)]


def conv(path, size=16, kernel=3, **attributes):
    weight = np.random.default_rng(0).standard_normal((4, 3, kernel, kernel)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], "the node", **attributes)],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, size, size))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "attributes, words",
    [
        ({"pads": [-1, -1, 0, 0]}, "negative pads"),
        ({"pads": [1, 0, 0, -2], "kernel": 1}, "negative pads"),
        ({"size": 4, "kernel": 7}, "reaches over 7x7, the data with its pads is 4x4"),
        ({"size": 8, "dilations": [4, 4]}, "reaches over 9x9"),
        ({"group": 2}, "the node"),
    ],
)
def test_a_convolution_that_is_none_is_refused_by_its_name(tmp_path, attributes, words):
    with pytest.raises(errors.TvmMobilenetError) as e:
        network.load_network(ModelOptions(model=str(conv(tmp_path / "m.onnx", **attributes))))
    assert "the node" in str(e.value) and words in str(e.value) and not CLASSES.search(str(e.value))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_that_onnx_finds_by_itself_are_its_own(tmp_path, auto_pad):
    from tvm_mobilenet.checking.reference import network_outputs

    for size, kernel, stride in [(15, 2, 2), (15, 3, 2), (16, 5, 3), (4, 7, 1), (16, 1, 2)]:
        if auto_pad == "VALID" and kernel > size:
            continue
        path = conv(tmp_path / "m.onnx", size, kernel, auto_pad=auto_pad, strides=[stride, stride])
        loaded = network.load_network(ModelOptions(model=str(path)))
        inputs = loaded.inputs(1)
        ((ours,),), (((theirs,),), _) = network_outputs(loaded, inputs), loaded.reference(inputs)
        assert relative(ours, theirs) < 1e-5


def test_a_model_that_its_reference_does_not_run_is_told(tmp_path):
    path = conv(tmp_path / "m.onnx", auto_pad="SAME_UPPER", dilations=[2, 2])
    loaded = network.load_network(ModelOptions(model=str(path)))
    with pytest.raises(errors.TvmMobilenetError, match=r"ONNX Runtime, the reference, does not run it: .*Dilation"):
        loaded.reference(loaded.inputs(1))


# ---- a build's own files, from elsewhere


def test_a_build_finds_its_files_from_another_folder(files, told, tmp_path, monkeypatch, capsys):
    tree = tmp_path / "tree"
    (tree / "work").mkdir(parents=True)
    shutil.copy(files / "Whole Nét.ONNX", tree / "m.onnx")
    (tree / "labels.txt").write_text("no\nyes\n")
    monkeypatch.chdir(tree / "work")
    argv = ["--model", "../m.onnx", "--labels", "../labels.txt", "--target", "rpi4", "--output", "built"]
    assert command.main(["build", *argv]) == 0
    monkeypatch.chdir("/")
    assert command.main(["verify", str(tree / "work" / "built"), "--inputs", "1"]) == 0
    assert "(no)" in capsys.readouterr().out

    moved = tree.rename(tmp_path / "moved")  # the tree as a whole
    assert command.main(["verify", str(moved / "work" / "built"), "--inputs", "1"]) == 0
    model = (moved / "m.onnx").rename(tmp_path / "elsewhere.onnx")
    capsys.readouterr()
    assert command.main(["verify", str(moved / "work" / "built")]) == 2
    said = capsys.readouterr().err
    for place in (tree / "m.onnx", moved / "m.onnx", moved / "work" / "built", "../m.onnx"):
        assert str(place) in said, said
    shutil.copy(model, moved / "work" / "built" / "m.onnx")  # as the error says
    assert command.main(["verify", str(moved / "work" / "built"), "--inputs", "1"]) == 0
    assert "has changed" not in capsys.readouterr().err
    other = onnx.load(model)
    other.doc_string = "another export of it"
    onnx.save(other, moved / "work" / "built" / "m.onnx")
    assert command.main(["verify", str(moved / "work" / "built"), "--inputs", "1"]) == 0
    assert "m.onnx has changed since" in capsys.readouterr().err


def test_a_network_by_name_needs_no_file(tmp_path):
    copied = Path(shutil.copytree(modules.small("rpi4"), tmp_path / "another machine"))
    os.rename(copied, tmp_path / "again")
    verify.verify(tmp_path / "again", count=1).require()
    assert built.read(tmp_path / "again").info["model"]["files"] == {}


def test_suffixes_are_read_in_any_case(files):
    assert frontend.kind_of(files / "Whole Nét.ONNX") == "onnx" and frontend.kind_of(files / "PROGRAM2.PT2") == "pt2"
    for name in ("Whole Nét.ONNX", "PROGRAM2.PT2"):
        loaded = network.load_network(ModelOptions(model=str(files / name)))
        assert loaded.reference(loaded.inputs(1))[0]
