"""A graph's dtype comes through all passes to the plan: no pass and no plan takes it for float32."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_mobilenet import passes, schedules, targets
from tvm_mobilenet.bundle import pack
from tvm_mobilenet.compiler import lower, plan, row_pitch
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall
from tvm_mobilenet.peers import contents

CORE = targets.load("rpi4").core


def graph(dtype: str) -> tvm.IRModule:
    """A block with all that passes rewrite: batch norm, a clip, a hard-swish, a division, a residual, a product."""
    draw, bb, op = np.random.default_rng(0), relax.BlockBuilder(), relax.op

    def const(*shape):
        return relax.const(draw.random(shape).astype(dtype) if shape else np.asarray(6, dtype))

    x = relax.Var("x", relax.TensorType((1, 3, 16, 16), dtype))
    with bb.function("main", [x]):
        with bb.dataflow():
            y = bb.emit(op.nn.conv2d(x, const(256, 3, 3, 3), strides=2, padding=1))
            y = bb.emit(op.nn.batch_norm(y, const(256), const(256), const(256), const(256), axis=1, training=False))
            y = bb.emit(relax.TupleGetItem(y, 0))
            first = y = bb.emit(op.clip(y, 0, 6))
            y = bb.emit(op.nn.conv2d(y, const(256, 1, 3, 3), padding=1, groups=256))
            y = bb.emit(op.nn.silu(y))
            y = bb.emit(op.nn.conv2d(y, const(256, 256, 1, 1)))
            y = bb.emit(op.add(y, first))
            y = bb.emit(op.nn.avg_pool2d(y, (8, 8)))
            y = bb.emit(op.divide(y, const()))
            y = bb.emit(op.reshape(y, (1, 256)))
            y = bb.emit(op.nn.softmax(op.matmul(y, const(256, 10))))
            out = bb.emit_output(y)
        bb.emit_func_output(out)
    return bb.get()


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("float16", 2)])
def test_a_graphs_dtype_reaches_the_plan(dtype, size, monkeypatch):
    layers = passes.run(graph(dtype))
    calls, signature = layers.calls, layers.signature
    assert len(calls) >= 6 and {call.layer.dtype for call in calls} == {dtype}
    assert {str(array.dtype) for call in calls for array in call.constants.values()} == {dtype}
    assert {port.dtype for port in (*signature.inputs, *signature.outputs)} == {dtype}
    monkeypatch.setattr(schedules, "require", lambda layer: None)  # as if all were implemented
    for cached in (schedules._space, schedules._kernel):
        cached.cache_clear()
    layers = row_pitch.run(layers, CORE)
    decisions = {layer: schedules.space(layer, CORE).default for layer in layers.counts}
    made, constants = plan.plan_of(lower.lower_layers(layers, decisions), layers)
    for cached in (schedules._space, schedules._kernel):
        cached.cache_clear()
    tensors = [t for step in made.steps for t in step.operands]
    assert {t.dtype for t in tensors} == {dtype} and all(t.nbytes == size * np.prod(t.shape) for t in tensors)
    assert made.parameters_bytes == len(constants)
    largest = 8 * 8 * 256 * size
    assert 2 * largest <= made.arena_bytes < 4 * largest
    pack.check_ports(made)
    (name, port), *_ = made.inputs
    with pytest.raises(TvmMobilenetError, match="input 'x' is int64, a bundle's are float32, float16"):
        pack.check_ports(replace(made, inputs=((name, replace(port, dtype="int64")),)))


def test_files_of_other_engines_are_of_float32_alone():
    layer, added = map(Layer.parse, ("pointwise m49 n64 k32 f32 relu6", "elementwise 7x7x64 add f32"))
    for dtype, known in (("float32", True), ("float16", False), ("int8", False)):
        for one in (layer, added):
            call = LayerCall("a", one.replace(dtype=dtype), "", ("x",), {}, "a")
            with nullcontext() if known else pytest.raises(contents.Unknown, match=f"is {one.kind}"):
                contents._check(call)


def test_a_dtype_that_no_layer_has_is_reported_with_its_operator():
    x, bb = relax.Var("x", relax.TensorType((1, 8, 4, 4), "float8_e4m3fn")), relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(relax.op.nn.max_pool2d(x, (2, 2))))
        bb.emit_func_output(out)
    with pytest.raises(TvmMobilenetError, match=r"max_pool2d at .*float8_e4m3fn"):
        passes.run(bb.get())
