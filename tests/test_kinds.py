"""Kinds of layers declare themselves: nobody else lists them, and a new one is two files and its tests."""

import ast
import importlib
import math
import re
import sys

import numpy as np
import pytest
import tvm

from tests.test_arrows import ROOT, modules
from tvm_mobilenet import dtypes, kinds, schedules, targets
from tvm_mobilenet.checking import reference
from tvm_mobilenet.compiler import codegen
from tvm_mobilenet.compiler.lower import lower_layers
from tvm_mobilenet.compiler.plan import plan_of
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.layer import ImpossibleLayerError, Layer
from tvm_mobilenet.passes import layer_graph
from tvm_mobilenet.terminal import titles

NAMES = {kind.name for kind in kinds.every()}


def lists_of(source: str) -> list[str]:
    """Literal lists, and dictionaries by their keys, that name several kinds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            elements = node.keys if isinstance(node, ast.Dict) else node.elts
            if len(named := {e.value for e in elements if isinstance(e, ast.Constant)} & NAMES) > 1:
                found.append(f"line {node.lineno}: {', '.join(sorted(named))}")
    return found


def test_nobody_else_lists_kinds():
    others = {name: path for name, path in modules().items() if not name.startswith("tvm_mobilenet.kinds")}
    found = {name: lines for name, path in others.items() if (lines := lists_of(path.read_text()))}
    assert not found, "ask tvm_mobilenet.kinds in place of a list"
    assert lists_of("if kind in ('pool', 'conv'): pass") and lists_of("{'dense': 1, 'softmax': 2}")


@pytest.mark.parametrize("kind", list(kinds.every()), ids=lambda kind: kind.name)
def test_a_kind_is_whole(kind):
    assert kinds.of(kind.name) is kind and kind.groups in ("one", "channels", "any")
    assert kind.streams in ("no", "first", "anywhere")
    assert kind.has_parts or kind.has_body or kind.reference
    module = importlib.import_module(f"tvm_mobilenet.schedules.{kind.schedule}")
    assert module.decisions and module.kernel and module.DTYPES
    assert kind.weight_shape is None or (module.pack and module.constants)
    fixed = any(dtypes.of(name).fused for name in module.DTYPES)
    assert kind.has_parts or not fixed or kind.stepped, "its order of steps, to which float16 is held"


def test_an_unknown_kind_is_no_layer():
    with pytest.raises(ImpossibleLayerError, match="kind = 'deepwise'"):
        Layer.parse("deepwise 7x7x8 3x3 f32")


def test_two_kinds_have_two_names():
    with pytest.raises(ValueError, match="two kinds of layers are called 'pool'"):
        kinds.register(kinds.Kind(name="pool", schedule="conv"))


@pytest.mark.parametrize(
    "kind, numbers, word",
    [
        ("leaky", (0.1,), "leaky0.1"),
        ("leaky", (0,), "relu"),
        ("leaky", (1,), "none"),
        ("clip", (0, 6), "relu6"),
        ("clip", (-0.0, math.inf), "relu"),
        ("clip", (-1, 1), "clip-1,1"),
        ("clip", (-math.inf, 0.25), "clip-inf,0.25"),
        ("clip", (1e-12, math.inf), "clip0.000000000001,inf"),
        ("clip", (-0.0, 1), "clip0,1"),
        ("hardswish", (0.2, 0.5), "hardswish0.2,0.5"),
        ("hardswish", (0.16666667, 0.5), "hardswish"),
    ],
)
def test_an_activation_has_one_word(kind, numbers, word):
    """Two would give one layer two records."""
    assert activation.named(kind, *numbers) == word and activation.known(word)
    if word.startswith(kind) and word != kind:
        assert activation.parsed(word) == (kind, tuple(float(np.float32(n)) for n in numbers))


@pytest.mark.parametrize(
    "word",
    ["clip0,6", "leaky0.10", "leaky.1", "leaky1", "leaky", "leaky1,2", "clip1", "clip1,-1", "clip-0,1", "leaky1.2.3"],
)
def test_other_words_are_no_activations(word):
    assert not activation.known(word)


@pytest.mark.parametrize("kind, numbers", [("leaky", (math.nan,)), ("clip", (2, 1)), ("leaky", (math.inf,))])
def test_impossible_numbers_of_an_activation_are_refused(kind, numbers):
    with pytest.raises(ValueError, match=kind if kind == "leaky" else "no values"):
        activation.named(kind, *numbers)


PAGE = (ROOT / "docs" / "guides" / "add-a-layer.md").read_text()
FILES = re.findall(r"^## \d\. [^`\n]*`([\w/]+)/slope\.py`\n```python\n(.*?)```", PAGE, re.M | re.S)


@pytest.fixture
def slope(tmp_path, monkeypatch):
    """The kind of layer that docs/guides/add-a-layer.md adds: one file that declares it, one that computes it."""
    assert [folder for folder, _ in FILES] == ["tvm_mobilenet/kinds", "schedules"]
    for package, (name, text) in zip((kinds, schedules), FILES, strict=True):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "slope.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.import_module("tvm_mobilenet.kinds.slope")
    yield Layer.parse("slope 5x6x37 f32 relu")
    kinds._KINDS.pop("slope")
    for package in (kinds, schedules):
        sys.modules.pop(f"{package.__name__}.slope", None)
        vars(package).pop("slope", None)


def test_a_new_kind_is_two_files(slope):
    assert slope.name == "slope 5x6x37 f32 relu" and slope.weight_shape is None and slope.out_width == 6
    core = targets.load("rpi4").core
    decisions = schedules.space(slope, core).default
    operands = reference.random_arguments(slope)
    expected = reference.reference(slope, **operands)
    module = tvm.compile(
        tvm.IRModule({"kernel": schedules.kernel(slope, decisions)}), target="llvm", tir_pipeline=codegen.lowering()
    )
    tensors = [tvm.runtime.tensor(a) for a in reference.kernel_arguments(slope, decisions, operands)]
    module["kernel"](*tensors)
    np.testing.assert_allclose(tensors[-1].numpy(), expected, atol=1e-6)
    call = layer_graph.LayerCall("layer_000", slope, "", ("x",), {}, "layer_000")
    ports = [layer_graph.Port(n, slope.input_shape, "float32", v) for n, v in (("x", "x"), ("y", "layer_000"))]
    graph = layer_graph.LayerGraph((call,), layer_graph.Signature((ports[0],), (ports[1],), False))
    plan, _ = plan_of(lower_layers(graph, {slope: decisions}), graph)
    assert [step.layer for step in plan.steps] == [slope.name]
    assert slope.replace(input_pitch=40).input_row == 40
    with pytest.raises(TvmMobilenetError, match="no schedule computes slope layers in float16"):
        schedules.space(slope.replace(dtype="float16"), core)
    assert titles.title(slope.name) == slope.name
