"""The loop nest of one tiny layer a kind, as text: a change of a schedule shows as the loops that it changes.

``UPDATE_GOLDEN=1`` writes them anew: look at the difference before you keep it.
"""

import os
from pathlib import Path

import pytest

from tvm_mobilenet import kinds, schedules, targets
from tvm_mobilenet.layer import Layer

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tir"
CASES = {  # file: layer, and whose default
    "pointwise": ("pointwise m5 n12 k6 f32 relu6", "rpi4"),
    "pointwise-float16": ("pointwise m2 n16 k3 f16 relu6", "rpi5"),
    "dense-float16-wide-sums": ("dense m1 n10 k66 f16 writes_f32 sums_f32", "rpi5"),
    "depthwise-float16": ("depthwise 3x3x8 3x3 p1,1,1,1 f16 hardswish add_after", "rpi5"),
    "conv-float16": ("conv 4x4x1 n8 2x2 s2 nchw f16 reads_f32 relu", "rpi5"),
    "pool-float16": ("pool 4x4x8 avg 2x2 s2 f16", "rpi5"),
    "elementwise-float16": ("elementwise 2x2x8 mul f16 sigmoid", "rpi5"),
    "softmax-float16": ("softmax 1x1x9 f16 writes_f32", "rpi5"),
    "fused-float16": ("fused depthwise 4x2x8 3x3 p1,1,1,1 f16 relu > pointwise m8 n8 k8 f16 relu", "rpi5"),
    "pointwise-dual-issue": ("pointwise m6 n12 k4 f32 relu", "rpi3"),
    "pointwise-32-byte-vectors": ("pointwise m2 n12 k2 f32", "x86-64-v3"),
    "dense": ("dense m1 n10 k3 f32", "rpi4"),
    "depthwise": ("depthwise 3x3x4 3x3 p1,1,1,1 f32 relu6", "rpi4"),
    "depthwise-dual-issue": ("depthwise 3x3x4 3x3 p1,1,1,1 f32 relu6", "rpi3"),
    "ghost": ("ghost 3x2x4 n8 3x3 p1,1,1,1 f32 add relu", "rpi4"),
    "conv": ("conv 4x4x1 n4 2x2 s2 nchw f32 relu", "rpi4"),
    "pool": ("pool 4x4x6 max 3x3 s2 p1,1,1,1 f32", "rpi4"),
    "elementwise": ("elementwise 2x2x6 add f32 hardswish", "rpi4"),
    "bilinear2d": ("bilinear2d 2x2x6 half_pixel to4x6 f32 relu", "rpi4"),
    "bilinear2d-planes": ("bilinear2d 1x2x3 asymmetric to2x8 to_nchw f32", "rpi4"),
    "nearest2d": ("nearest2d 2x2x6 asymmetric_floor to4x4 f32", "rpi4"),
    "softmax": ("softmax 1x1x3 f32", "rpi4"),
    "generic": ("concat", "rpi4"),
    "fused": ("fused depthwise 4x2x4 3x3 p1,1,1,1 f32 relu > pointwise m8 n4 k4 f32 relu", "rpi4"),
    "fused-dual-issue": ("fused depthwise 4x2x4 3x3 p1,1,1,1 f32 relu > pointwise m8 n4 k4 f32 relu", "rpi3"),
    "fused-ghost": ("fused pointwise m8 n4 k4 f32 relu > ghost 4x2x4 n8 3x3 p1,1,1,1 f32 relu", "rpi4"),
}


def core_of(name: str):
    """The core of a target, or that of this machine's architecture with 32-byte vectors, wherever it runs."""
    if name != "x86-64-v3":
        return targets.load(name).core
    from dataclasses import replace

    core = targets.load("rpi4").core
    return replace(core, name=name, architecture="x86_64", vector_bytes=32, vector_load_bytes=32, vector_registers=16)


def layer_of(name: str) -> Layer:
    """The layer of a name; ``concat``: two tensors side by side, as a generic one."""
    if name != "concat":
        return Layer.parse(name)
    import tvm
    from tvm import relax

    from tvm_mobilenet.passes import generic

    tensors = [relax.Var(f"x{i}", relax.TensorType((2, channels, 4), "float32")) for i, channels in enumerate((1, 3))]
    return generic.pieces_of(relax.op.concat(tensors, 1), tensors, tvm.IRModule())[0].layer


def nest_of(layer: Layer, core) -> str:
    """The lowered loop nest of a layer's default: a head that says of what, then TIR, inline assembly by lines."""
    import tvm

    decisions = schedules.space(layer, core).default
    module = tvm.IRModule({"kernel": schedules.kernel(layer, decisions)})
    lowered = tvm.tirx.transform.StmtSimplify()(module)["kernel"]
    head = [f"# {layer.name}", *(f"# {name} = {value!r}" for name, value in decisions.items()), ""]
    text = lowered.script(show_meta=False)
    return "\n".join([*head, text[text.index("@T.prim_func") :].rstrip(), *loops_of(lowered), ""])


def loops_of(function) -> list[str]:
    """The functions in LLVM's language that a kernel brings along, their inline assembly by lines."""
    from tvm import tirx

    found: dict[str, None] = {}

    def visit(node):
        if isinstance(node, tirx.AttrStmt) and node.attr_key == "pragma_import_llvm":
            found.setdefault(str(node.value.value))
        parts = (getattr(node, name, None) for name in ("body", "then_case", "else_case"))
        for part in (*parts, *getattr(node, "seq", ())):
            if part is not None:
                visit(part)

    visit(function.body)
    return ["\n" + text.replace("\\0A\\09", "\n    ").rstrip() for text in found]


@pytest.mark.parametrize("case", CASES)
def test_a_loop_nest_is_the_golden_one(case):
    name, core = CASES[case]
    path = GOLDEN / f"{case}.txt"
    found = nest_of(layer_of(name), core_of(core))
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_every_kind_and_every_golden_file_has_its_case():
    assert {layer_of(name).kind for name, _ in CASES.values()} == {kind.name for kind in kinds.every()}
    assert {path.stem for path in GOLDEN.glob("*")} == set(CASES)


def test_a_changed_tile_changes_the_nest():
    """The golden files could not show it otherwise."""
    layer, core = Layer.parse("pointwise m5 n12 k6 f32 relu6"), targets.load("rpi4").core
    default = schedules.space(layer, core).default
    other = next(iter(schedules.space(layer, core).neighbours(default)))
    assert schedules.kernel(layer, other).script() != schedules.kernel(layer, default).script()
