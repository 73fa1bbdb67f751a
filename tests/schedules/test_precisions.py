"""Precisions: what a layer's dtypes are reaches its kernel, and what no schedule computes is refused, whoever asks."""

import re
import warnings

import pytest
from tvm_mobilenet.schedules import fused_block as schedule_of_blocks
from tvm_mobilenet.schedules import nest
from tvm_mobilenet.tune_logs import keys, log

from tests.schedules.test_any_core import SAMPLE, of_dtype, target_of
from tvm_mobilenet import kinds, schedules
from tvm_mobilenet.compiler import decide, fuse_blocks
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, Signature
from tvm_mobilenet.tuning import session
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.runner import Evaluate

OTHERS = ["int8"]  # which not every kind computes
LAYERS = {layer.kind: layer for layer in map(Layer.parse, SAMPLE)}


CASES = [
    pytest.param(of_dtype(layer, d), id=f"{kind}-{d}")
    for kind, layer in LAYERS.items()
    for d in OTHERS
    if d not in schedules.implemented(kind)
]


def test_the_samples_are_of_every_kind():
    """But generic ones, which have no name to be made from: tests/passes/test_generic.py."""
    assert set(LAYERS) == {kind.name for kind in kinds.every() if not kind.has_body}


# ---- dtypes reach the kernel


@pytest.mark.parametrize("vector_bytes", [8, 16, 64])
@pytest.mark.parametrize("kind", LAYERS)
def test_no_kernel_names_another_dtype_than_its_layers(kind, vector_bytes):
    """Of a float16 layer, sums and scratch memory are float16 too: a float32 in it would be somebody's literal. Pools
    and softmax sum in float32, and say so."""
    core = target_of(vector_bytes=vector_bytes, vector_registers=32, l2=(4 << 20, 16), in_order=True).core
    layer, wide = of_dtype(LAYERS[kind], "float16"), LAYERS[kind]
    module = schedules.of(layer)
    decisions = module.decisions(layer, core).default
    kernel = module.kernel(layer, decisions)
    text = kernel.script()
    assert "float16" in text and ("float32" in text) == (layer.accumulator_dtype == "float32")
    assert layer.accumulator_dtype == ("float32" if kinds.of(kind).wide else "float16")
    if not kinds.of(kind).wide:
        assert not re.search(r"alloc_buffer\(\([\d, ]+\)\)", text), "which is of float32, TVM's default"
        lanes = decisions.get("vector", nest.VECTOR_BYTES // 2)
        assert lanes == core.lanes("float16") == 2 * core.lanes("float32")
        vectors = {int(n) for n in re.findall(r"T\.Ramp\(.*?, 1, (\d+)\)", text)}
        assert max(vectors) % lanes == 0 or max(vectors) < lanes, "vectors of this core, or all of few channels"
    if kind == "fused":
        same = {
            **schedules.space(wide, core).default,
            "row_tiles": decisions["row_tiles"],
            "column_tiles": decisions["column_tiles"],
        }
        assert kernel.attrs["scratch_bytes"] * 2 == schedules.kernel(wide, same).attrs["scratch_bytes"]


def test_a_kernels_arguments_have_dtypes_of_their_own():
    layer = Layer.parse("pointwise m49 n72 k40 i8 add")
    packed = schedules.of(layer).constants(layer, {"products": "wide"})
    assert [(name, dtype) for name, _, dtype in nest.arguments(layer, packed)] == [
        ("data", "int8"),
        ("weight", "int8"),
        ("bias", "int32"),
        ("scale", "float32"),
        ("ends", "int32"),
        ("added", "float32"),
        ("second", "int8"),
        ("output", "int8"),
    ]
    names = [argument[0] for argument in nest.arguments(layer, packed)]
    assert names == ["data", *layer.constants, "second", "output"]
    fused_block = of_dtype(LAYERS["fused"], "int8")
    tables = {f"{i}.table" for i in range(5)}  # of hard-swish
    assert {name: dtype for name, (_, dtype) in fused_block.constants.items() if name not in tables} == {
        f"{i}.{name}": dtype
        for i in range(5)
        for name, dtype in (("weight", "int8"), ("bias", "int32"), ("scale", "float32"), ("ends", "int32"))
    }


# ---- what no schedule computes is refused


def refuses(layer: Layer, ask) -> None:
    with pytest.raises(TvmMobilenetError) as caught:
        ask()
    said = caught.value
    assert said.message == f"{layer.name}: no schedule computes {layer.kind} layers in {layer.dtype}"
    assert f"implemented for {layer.kind}: float32" in said.hint and said.exit_code == 2


@pytest.mark.parametrize("layer", CASES)
def test_a_layer_that_no_schedule_computes_is_refused(layer, tmp_path):
    target = target_of()
    decisions = schedules.space(LAYERS[layer.kind], target.core).default
    for ask in (
        lambda: schedules.space(layer, target.core),
        lambda: schedules.kernel(layer, decisions),
        lambda: decide.decide([layer], target),
        lambda: session.prepare({layer: 1}, target, "virtual", tmp_path / "log.jsonl"),
        lambda: keys.code_key(layer, decisions, target),
    ):
        refuses(layer, ask)
    if layer.constants:
        refuses(layer, lambda: schedules.pack(layer, decisions, {}))


def test_a_candidate_of_such_a_layer_fails_with_the_same_words():
    layer = of_dtype(LAYERS["softmax"], "int8")
    target = target_of()
    evaluate = Evaluate(target)
    evaluate.prepare()
    decisions = schedules.space(LAYERS["softmax"], target.core).default
    refuses(layer, lambda: evaluate(Candidate(layer.name, decisions)))


@pytest.mark.parametrize("dtype", OTHERS)
def test_a_log_line_of_such_a_layer_is_skipped_with_its_reason(dtype, tmp_path):
    target, path = target_of(), tmp_path / "log.jsonl"
    layer = of_dtype(LAYERS["softmax"], dtype)
    decisions = schedules.space(LAYERS["softmax"], target.core).default
    record = log.Record(layer=layer.name, core=target.core.name, decisions=decisions, cost=1.0, code="0123456789ab")
    good = log.Record(layer=LAYERS["softmax"].name, core=target.core.name, decisions=decisions, cost=2.0)
    path.write_text(record.to_json() + "\n" + good.to_json() + "\n")
    assert not log.Today(target).counts(record)
    logs = log.TuneLogs([path], target)
    with pytest.warns(UserWarning, match=f"no schedule computes softmax layers in {dtype}; skipped"):
        assert logs.find(layer) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logs.find(LAYERS["softmax"]).record.cost == 2.0
    log.tidy(path, today=log.Today(target))
    assert len(path.read_text().splitlines()) == 2, "a line of a later version stays"


def test_a_fused_block_is_made_of_layers_that_its_kind_computes(monkeypatch):
    """Two layers that would be joined in float32 stay apart in a dtype that fused blocks do not compute."""
    monkeypatch.setattr(schedule_of_blocks, "DTYPES", ("float32",))
    core = target_of(l2=(512 << 10, 16)).core
    names = ("depthwise 112x112x32 3x3 p1,1,1,1 f32 relu6", "pointwise m12544 n64 k32 f32 relu6")
    fused = {}
    for dtype in ("float32", *OTHERS):
        layers = [of_dtype(Layer.parse(name), dtype) for name in names]
        ports = [Port("x", layers[0].input_shape, dtype, "x"), Port("y", layers[1].output_shape, dtype, "b")]
        calls = [LayerCall("a", layers[0], "", ("x",), {}, "a"), LayerCall("b", layers[1], "", ("a",), {}, "b")]
        graph = LayerGraph(tuple(calls), Signature((ports[0],), (ports[1],), False))
        fused[dtype] = [call.layer.kind for call in fuse_blocks.run(graph, core).calls]
    assert fused.pop("float32") == ["fused"]
    assert all(kinds == ["depthwise", "pointwise"] for kinds in fused.values())
