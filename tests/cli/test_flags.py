"""No flag without effect: each changes something, or is refused with what to do."""

import functools
import importlib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.support import modules
from tvm_mobilenet import __main__, agent, frontend, tune
from tvm_mobilenet.cli import flags, options
from tvm_mobilenet.cli.arguments import VerbParser
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import registry

VERBS = sorted(__main__.verbs())


def parser_of(verb, monkeypatch):
    """The parser of a verb, those that make theirs in ``main`` included."""
    module = importlib.import_module(f"tvm_mobilenet.{verb}")
    if hasattr(module, "parser"):
        return module.parser()
    found = []
    monkeypatch.setattr(module, "run_verb", lambda parser, run, argv: found.append(parser))
    module.main([])
    return found[0]


def test_a_flag_is_given_when_it_is_typed_also_with_its_default():
    parser = VerbParser("test", "A test.")
    parser.add_argument("--one", type=int, default=1)
    parser.add_argument("--two", action="store_true")
    parser.add_argument("--three", action="append")
    parser.add_argument("four", nargs="?", default=4)
    parser.set_defaults(one=5)
    args = parser.parse_args(["--one", "5", "--three=x"])
    assert args.given == {"--one", "--three"} and (args.one, args.two, args.three, args.four) == (5, False, ["x"], 4)
    assert parser.parse_args([]).given == frozenset() and parser.parse_args([]).one == 5
    with pytest.raises(TvmMobilenetError, match="--one, --three: why\n  hint"):
        flags.refuse(args, ("--one", "--two", "--three"), "why", "hint")
    flags.refuse(args, ("--two",), "why", "hint")


# ---- the model's flags on every kind of model


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.pool(torch.relu(self.conv(x))).flatten(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind, a checkpoint, an image and labels."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    net, x = Net().eval(), torch.zeros(2, 3, 32, 32)
    sides = {2: torch.export.Dim("h", min=32, max=96), 3: torch.export.Dim("w", min=32, max=96)}
    torch.export.save(torch.export.export(net, (x,)), folder / "fixed.pt2")
    dynamic = ({0: torch.export.Dim("n"), **sides},)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=dynamic), folder / "open.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), folder / "fixed.onnx", dynamo=False)
        axes = {"x": {0: "n", 2: "h", 3: "w"}}
        torch.onnx.export(net, (x,), folder / "open.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes)
    module = registry.create("v1", 0.25, 32, 10).module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    torch.save(module.state_dict(), folder / "v1.pth")
    with torch.no_grad():
        module.classifier.bias.add_(1)
    torch.save(module.state_dict(), folder / "other.pth")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)).save(folder / "image.png")
    (folder / "labels.txt").write_text("".join(f"name {i}\n" for i in range(10)))
    return folder


KINDS = {
    "registry": ["--model", "v1", "--alpha", "0.25", "--resolution", "32", "--classes", "10"],
    "checkpoint": ["--model", "v1", "--alpha", "0.25", "--resolution", "32", "--classes", "10", "--weights", "v1.pth"],
    "fixed.onnx": ["--model", "fixed.onnx"],
    "open.onnx": ["--model", "open.onnx", "--resolution", "32"],
    "fixed.pt2": ["--model", "fixed.pt2"],
    "open.pt2": ["--model", "open.pt2", "--resolution", "32"],
}
VALUES = {  # of every flag of the groups "model" and "input": another value than the default's
    "--model": "v2",
    "--alpha": "0.5",
    "--resolution": "64",
    "--classes": "7",
    "--weights": "other.pth",
    "--seed": "1",
    "--batch": "3",
    "--features": None,
    "--input": "image.png",
    "--mean": "0.1,0.2,0.3",
    "--std": "0.7",
    "--resize": "squash",
    "--crop": "0.5",
    "--interpolation": "nearest",
    "--layout": "NHWC",
    "--channel-order": "BGR",
    "--labels": "labels.txt",
    "--trust-file": None,
    "--signature": "serve",
}
FOR_FILES = {"--alpha", "--classes", "--weights", "--seed", "--features", "--signature", "--layout"}  # these read NCHW
REFUSED = {
    "registry": {"--layout", "--trust-file", "--signature"},
    "checkpoint": {"--layout", "--trust-file", "--signature", "--seed", "--alpha", "--classes"},
    "fixed.onnx": FOR_FILES | {"--batch", "--resolution", "--trust-file"},
    "open.onnx": FOR_FILES | {"--trust-file"},
    "fixed.pt2": FOR_FILES | {"--batch", "--resolution"},
    "open.pt2": FOR_FILES,
}


@pytest.fixture
def outcome(files, monkeypatch):
    """All that a flag of the model can change, of a command line: graph, weights, inputs, what they mean.

    Networks by name are not imported, only made: their weights and the example input stand for the graph.
    """
    monkeypatch.chdir(files)
    monkeypatch.setattr(frontend, "load", functools.cache(frontend.load))
    any_graph, made = frontend.from_onnx(files / "fixed.onnx"), []

    def from_torch(module, example):
        state = module.state_dict()
        made.append((list(state), float(sum(v.double().abs().sum() for v in state.values())), tuple(example.shape)))
        return any_graph

    monkeypatch.setattr(frontend, "from_torch", from_torch)

    def call(argv) -> tuple:
        made.clear()
        network = load_network(options.model_options(tune.parser().parse_args(argv)))
        graph = made or [c.layer.name for c in network.layers]
        inputs = [(a.shape, a.tobytes()) for x in network.inputs(1) for a in x]
        return [*graph], inputs, network.labels

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_every_flag_of_the_model_has_an_effect_or_is_refused(kind, outcome):
    base = KINDS[kind]
    plain = outcome(base)
    groups = [g for g in tune.parser()._action_groups if g.title in ("model", "input")]
    for flag in [flag for group in groups for action in group._group_actions for flag in action.option_strings]:
        if flag == "--model" and kind != "registry":
            continue  # checkpoints and files are of one network
        if flag == "--trust-file" and kind.endswith(".pt2"):
            continue  # what it does is tested with hostile files
        value = VALUES[flag]  # a new flag needs one
        instead = {flag, "--classes"} if flag == "--features" else {flag}
        rest = [word for i, word in enumerate(base) if not instead & {word, base[i - 1]}]
        argv = [*rest, flag, *([value] if value else [])]
        if flag in REFUSED[kind]:
            with pytest.raises(TvmMobilenetError) as e:
                outcome(argv)
            assert e.value.exit_code == 2 and e.value.hint
            assert flag in str(e.value) or kind == "checkpoint", str(e.value)
        else:
            assert outcome(argv) != plain, f"{flag} changes nothing of {kind}"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--features", "--classes", "7"], "--classes: --features leaves out the classifier"),
        (["--weights", "v1.pth", "--seed", "0"], "--seed: it seeds random weights"),
        (["--resolution", "100"], "100 is not a multiple of 32"),
        (["--resolution", "64x100"], "100 is not a multiple of 32"),
        (["--model", "fixed.onnx", "--alpha", "1.0"], "--alpha: fixed.onnx is a whole network"),
    ],
)
def test_flags_that_others_make_pointless_are_refused(argv, words, files, monkeypatch):
    monkeypatch.chdir(files)
    with pytest.raises(TvmMobilenetError, match=words):
        options.model_options(tune.parser().parse_args(argv))


# ---- the other flags of every verb

# Where a flag would have no effect, it is refused: verb, command line, what is said. FOLDER: a module built for rpi4.
POINTLESS = [
    ("build", ["--embed-weights"], "--embed-weights: it is how --bundle"),
    ("build", ["--sign", "x"], "--sign: it signs what --bundle packs"),
    ("build", ["--data", "x", "--limit", "3"], "--data, --limit: no accuracy is required"),
    ("build", ["--truth", "x", "--limit", "3"], "--truth, --limit: they belong to --data"),
    ("build", ["--max-drop", "1%"], "--max-drop: only networks in int8 have it"),
    ("build", ["--plot", "x.html"], "--plot: it shows the layers that --max-drop chooses"),
    (
        "build",
        ["--max-drop", "1%", "--dtype", "int8", "--target", "host", "--plot", "x.html"],
        "--plot: nothing predicts the cycles of host",
    ),
    ("build", ["--min-accuracy", "70%"], "--min-accuracy needs labelled images"),
    ("build", ["--calibration-method", "mse"], "--calibration-method: only networks in int8 have it"),
    (
        "build",
        ["--dtype", "int8", "--quantization", "x.json", "--calibrate", "x.npy"],
        "--calibrate: --quantization gives all scales",
    ),
    ("build", ["--keep-float", "layer_001"], "--keep-float: only networks in int8 have it"),
    ("build", ["--io", "float16"], "--io: float16 inputs and outputs need layers in float16, not in float32"),
    ("build", ["--io", "int8"], "--io: int8 inputs and outputs need layers in int8, not in float32"),
    ("build", ["--dtype", "int8", "--io", "float16"], "--io: float16 inputs and outputs need layers in float16"),
    ("build", ["--accumulate", "float32"], "--accumulate: layers in float32 have no use"),
    ("tune", ["--calibrate", "x.npy", "image.png"], "--calibrate: layers in float32 have no use"),
    ("build", ["--calibrate", "x.npy"], "add --dtype float16 or int8, or leave it out"),
    ("build", ["--model", "fixed.onnx", "--calibrate", "x.npy"], "int8; for a file that comes quantized leave it out"),
    ("tune", ["--target", "host", "--workers", "4"], "--workers: on this machine"),
    ("verify", ["FOLDER", "--input", "x.npy", "--inputs", "3"], "--inputs: it is the number of photographs"),
    ("accuracy", ["FOLDER", "--data", "x", "--board", "virtual", "--check", "2"], "--check: --board runs the build's"),
    ("accuracy", ["FOLDER", "--data", "labels.txt", "--truth", "x"], "--truth x: --data labels.txt is a file"),
    ("bench", ["FOLDER", "--max-regress", "5%"], "--max-regress: it says how much slower than --compare"),
    ("bench", ["FOLDER", "--seconds", "3"], "--seconds: the virtual board predicts"),
    (
        "bench",
        ["FOLDER", "--cool-down", "2s", "--cpus", "0", "--no-layers"],
        "--cool-down, --cpus, --no-layers: the vi",
    ),
    ("bench", ["FOLDER", "--against", "ncnn"], "--against: the virtual board"),
    ("bench", ["FOLDER", "--check-timing", "--runtime", "own"], "--runtime: --check-timing only compares"),
    ("bench", ["FOLDER", "--runtime", "tvm"], "--runtime: the virtual board predicts"),
    ("profile", ["FOLDER", "--runtime", "tvm"], "--runtime: the virtual board predicts"),
    ("bench", ["FOLDER", "--check-timing", "--record", "x"], "--record: --check-timing only compares"),
    ("bench", ["FOLDER", "--check-timing", "--threads", "1,2"], "--threads: --check-timing"),
    ("profile", ["FOLDER", "--seconds", "3"], "--seconds: the virtual board predicts"),
    ("profile", ["FOLDER", "--json", "--view", "order"], "--view: it orders the table"),
    ("complexity", ["--paper", "--alpha", "0.5", "--compare", "v2"], "--alpha, --compare: --paper shows"),
    ("factorize", ["--rank", "2"], "--rank: only the factors that --output"),
    ("sweep", ["--cores", "all"], "--cores: it needs --budget"),
    ("sweep", ["--output", "x"], "--output: it needs --budget"),
    ("sweep", ["--theory", "--families", "v2"], "--families: --theory compares"),
    ("sweep", ["--theory", "--html", "x.html", "--budget", "60ms"], "--budget: --theory compares"),
    ("ship", ["--to", "folder", "--rollback", "--keep", "2"], "--keep: --rollback"),
    ("ship", ["--to", "folder", "--rollback", "--require-signature", "x"], "--require-signature: --rollback"),
    ("ship", ["--to", "folder", "--rollback", "--ssh", "ssh -p 1"], "--ssh: no --to is behind ssh"),
    ("tune", ["--trust-file"], "--trust-file: only a .pt2 file can hold a program"),
    ("tune", ["--signature", "x"], "--signature: only a .tflite file can hold several networks"),
]
# Flags whose effect does not depend on others: what they do is tested with their verb.
ALWAYS = [
    "--help", "--version", "--quiet", "--verbose", "--report",
    "--debug", "--json", "--csv", "--html", "--markdown", "--record", "--trace", "--output", "--log",
    "--estimates", "--folder", "--ship-to", "--target", "--targets", "--linker", "--board", "--threads", "--trials",
    "--time-limit", "--dry-run", "--list", "--first", "--bundle", "--dump", "--compare", "--against", "--check-timing",
    "--trust-network",
    "--tvm", "--dtype",
    "--view", "--paper", "--layer", "--rank", "--families", "--alphas", "--resolutions", "--budget", "--memory",
    "--min-accuracy", "--theory", "--workers", "--to", "--rollback", "--runner", "--host", "--port", "--key",
    "--tracker", "--session-limit", "--memory-limit", "--inputs", "--input", "--cores", "--data", "--limit",
    "--no-float",
]  # fmt: skip


@pytest.mark.parametrize(("verb", "argv", "words"), POINTLESS, ids=[f"{v} {' '.join(a)}" for v, a, _ in POINTLESS])
def test_a_flag_that_would_have_no_effect_is_refused(verb, argv, words, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "x.npy").touch()
    (files / "x.json").write_text("{}")
    main = importlib.import_module(f"tvm_mobilenet.{verb}").main
    assert main([str(modules.tiny("rpi4")) if word == "FOLDER" else word for word in argv]) == 2
    out, err = capsys.readouterr()
    assert words in err and len(err.strip().splitlines()) >= 2 and not out, err


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_has_been_thought_of(verb, monkeypatch):
    """A new flag goes into ``VALUES`` or ``ALWAYS``, and where it can be pointless, into ``POINTLESS``."""
    known = {*ALWAYS, *VALUES, *(word for _, argv, _ in POINTLESS for word in argv)}
    found = {flag for a in parser_of(verb, monkeypatch)._actions for flag in a.option_strings if flag.startswith("--")}
    assert found and not found - known


def test_flags_that_do_have_an_effect_are_not_refused():
    args = agent.parser().parse_args(["--host", "0.0.0.0", "--trust-network"])
    assert agent.check(args) is None
    from tvm_mobilenet import sweep

    flags.refuse_for_sweep(sweep.parser().parse_args(["--budget", "60ms", "--cores", "all", "--output", "x"]))
    flags.refuse_for_sweep(sweep.parser().parse_args(["--theory", "--html", "x", "--families", "v2", "--csv", "y"]))


# ---- complexity


def test_complexity_refuses_weights_of_another_network(files, capsys, monkeypatch):
    from tvm_mobilenet import complexity

    monkeypatch.chdir(files)
    v1 = ["--model", "v1", "--alpha", "0.25", "--resolution", "32", "--classes", "10", "--weights", "v1.pth"]
    assert complexity.main(v1) == 0
    assert complexity.main(["--model", "v2", "--resolution", "32", "--weights", "v1.pth"]) == 2
    assert "v1.pth does not fit" in capsys.readouterr().err


def test_a_file_beside_another_model_takes_its_size(files, monkeypatch):
    from tvm_mobilenet import complexity

    monkeypatch.chdir(files)
    chosen = options.ModelOptions(alpha=0.25, resolution=64)
    beside = complexity.variant("open.onnx", chosen, frozenset({"--resolution"}))
    assert beside == options.ModelOptions(model="open.onnx", resolution=64)
    assert complexity.complexity(beside).mult_adds > 0
    assert complexity.variant("fixed.onnx", chosen) == options.ModelOptions(model="fixed.onnx")
    assert complexity.variant("v2:0.5-32x64", chosen).size == (32, 64)
