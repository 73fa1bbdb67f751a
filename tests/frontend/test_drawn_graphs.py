"""Graphs that hypothesis draws, over operators, attributes, layouts and opsets, compute what ONNX Runtime does.

`pytest -m full` draws some of them, the same each time. The number of an environment variable draws as many:

    TVM_MOBILENET_GRAPHS=2000 python -m pytest -m full -n 0 -s tests/frontend/test_drawn_graphs.py
"""

import itertools
import os
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tvm import relax

from tests.support.drawn_graphs import Graph, batches, in_float64, model_of
from tvm_mobilenet import build, targets
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import onnx_operators
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.runtime.instance import Instance

NUMBER, AT_ONCE = int(os.environ.get("TVM_MOBILENET_GRAPHS", 75)), 25
_NUMBERS = itertools.count()
TOLERANCE = 1e-4  # of the spread of an output
AS_GOOD = 2  # times ONNX Runtime's own distance to float64, where rounding of float32 alone exceeds the tolerance
CONDITIONED = 1e-2  # of the spread: where ONNX Runtime is further from float64, one of the two is wrong
REFUSALS: tuple[str, ...] = ()  # what may be said of a graph that is not built


def trouble(graphs: list[Graph], folder) -> str:
    """Why graphs are refused, or what they compute wrongly; empty where all is right."""
    folder = folder / str(next(_NUMBERS))  # a path of its own: a library that was loaded from one stays loaded
    folder.mkdir()
    path, shape = folder / "net.onnx", graphs[0].given
    onnx.save(model_of(graphs, shape), path)
    try:
        build.build(ModelOptions(model=str(path)), targets.load("host"), output=folder / "out")
    except TvmMobilenetError as e:
        return f"refused: {e}"
    reference = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = []
    with Instance(folder / "out" / "libmobilenet.so", folder / "out" / "parameters.bin", threads=2) as net:
        for scale in (1.0, 4.0):
            x = (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)
            net.set_inputs([x])
            net.run()
            for i, (due, y) in enumerate(zip(reference.run(None, {"x": x}), net.outputs, strict=True)):
                # a spread of nothing but rounding is none
                spread = max(float(due.std()), 1e-3 * float(np.abs(due).max()), 1e-30)
                off = float(np.abs(due - y).max()) / spread if due.shape == y.shape else np.inf
                if not (off <= TOLERANCE or (off < CONDITIONED and is_as_good(path, x, i, due, y, spread))):
                    found.append(f"wrong: output {i}, {off:.1e} of its spread; shapes {y.shape}, {due.shape}")
    shutil.rmtree(folder)
    return "\n".join(found)


def is_as_good(path, x, output: int, due, y, spread: float) -> bool:
    """Whether float64 lies no further from our values than from ONNX Runtime's: a quotient of two small numbers, say,
    loses digits in any float32."""
    exact = in_float64(onnx.load(path), {"x": x})[output]
    theirs, ours = (float(np.abs(exact - value).max()) / spread for value in (due, y))
    return theirs <= CONDITIONED and ours <= max(TOLERANCE, AS_GOOD * theirs)


@pytest.mark.full
def test_drawn_graphs_compute_what_onnx_runtime_does(tmp_path):
    """A user's file may say these things in any order: what it builds must be right, what it cannot must be told."""
    count, failed, refused = 0, [], []

    @settings(
        max_examples=NUMBER // AT_ONCE,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(batches(AT_ONCE))
    def run(graphs):
        nonlocal count
        count += len(graphs)
        if not trouble(graphs, tmp_path):
            return
        for graph in graphs:
            why = trouble([graph], tmp_path)
            known = why.startswith("refused") and any(re.search(pattern, why) for pattern in REFUSALS)
            (refused if known else failed).extend([f"opset {graph.opset}\n{graph}\n{why}"] * bool(why))

    run()
    print(f"\n{count} graphs: {len(failed)} failed, {len(refused)} refused")
    assert count >= NUMBER // AT_ONCE * AT_ONCE and not failed, "\n\n".join(failed)


def test_an_operator_that_is_read_wrongly_is_found(tmp_path, monkeypatch):
    """Else no drawn graph would show anything."""
    graph = Graph(None, 13, 1, "x", (1, 3, 5, 6), np.random.default_rng(0), given=(1, 3, 5, 6))
    graph.becomes(graph.node("LeakyRelu", "x", alpha=0.1))
    assert trouble([graph], tmp_path) == ""

    def wrong(bb, inputs, attrs, otherwise):
        return relax.op.nn.leakyrelu(inputs[0], 0.3)

    monkeypatch.setitem(onnx_operators.CONVERTERS, "LeakyRelu", wrong)
    assert trouble([graph], tmp_path).startswith("wrong: ")


def test_what_float32_cannot_hold_is_no_fault_of_ours_and_more_is(tmp_path):
    """A difference of large squares: ONNX Runtime's own is 3e-4 of the spread off."""
    graph = Graph(None, 13, 1, "x", (1, 3, 5, 6), np.random.default_rng(0), given=(1, 3, 5, 6))
    far = graph.node("Add", "x", graph.constant(3e4))
    graph.becomes(graph.node("Sub", graph.node("Mul", far, far), graph.constant(9e8)))
    onnx.save(model_of([graph], graph.given), path := tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal(graph.given).astype(np.float32)
    (due,) = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (exact,) = in_float64(onnx.load(path), {"x": x})
    spread, theirs = due.std(), np.abs(due - exact).max()
    assert TOLERANCE * spread < theirs < CONDITIONED * spread
    assert is_as_good(path, x, 0, due, exact + 1.5 * theirs, spread)
    assert not is_as_good(path, x, 0, due, exact + 3 * theirs, spread)
    assert not is_as_good(path, x, 0, exact + 2 * CONDITIONED * spread, exact, spread)
