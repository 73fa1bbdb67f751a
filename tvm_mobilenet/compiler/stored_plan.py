"""The schema of ``plan.json``: every field has the right type, within the limits of a build.

The folder of a build may come from an untrusted source. Its plan gives the memory to allocate, the layer that each
kernel computes and the model to compare with. This module checks every field once, so that no verb fails later on a
field of the wrong type.
"""

from __future__ import annotations

from tvm_mobilenet.compiler.plan import SPACES, Plan
from tvm_mobilenet.dtypes import DTYPES
from tvm_mobilenet.files.limits import MOST_NAME, MOST_NODES, MOST_RANK, MOST_TENSOR_BYTES
from tvm_mobilenet.files.shapes import (
    ANYTHING,
    FLAG,
    NUMBER,
    TABLE,
    Either,
    Many,
    Maybe,
    OneOf,
    Text,
    Whole,
    wrong,
)  # fmt: skip
from tvm_mobilenet.layer import Layer

MOST_ARENA = 4 << 30  # bytes of all intermediates, and of all constants
MOST_OPERANDS = 64  # operands of one kernel
MOST_PORTS = 1024  # inputs, or outputs, of a network
_NAME, _LONG = Text(MOST_NAME), Text(64 * MOST_NAME)  # the name of a fused block has the names of all its layers
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_DTYPES = OneOf(*dict.fromkeys((*DTYPES, *_INTEGERS, "bool", "float64")))
_BYTES = Whole(0, MOST_ARENA)
_TENSOR = {
    "space": OneOf(*SPACES), "offset": _BYTES, "shape": Many(Whole(1, 1 << 31), MOST_RANK), "dtype": _DTYPES,
    "index": Whole(0, MOST_NODES),
}  # fmt: skip
_STEP = {
    "name": _NAME, "symbol": _LONG, "layer": _LONG, "operands": Many(_TENSOR, MOST_OPERANDS, 1),
    "reads?": Many(_NAME, MOST_OPERANDS), "writes?": _NAME,
    "parts?": Many({"name": _LONG, "source": _LONG}, MOST_NODES), "constants?": Many(_NAME, MOST_OPERANDS),
    "into?": _NAME,
}  # fmt: skip
_NUMBERS = Maybe(Many(NUMBER, 64))
_PATH = Maybe(Text(1 << 14))
_MODEL = {
    "model": Text(1 << 14), "alpha?": Maybe(NUMBER), "classes?": Maybe(Whole(1, 1 << 31)),
    "seed?": Maybe(Whole(0, 1 << 63)),
    "resolution?": Maybe(Either(Many(Whole(1, 1 << 31), 2, 2), Whole(1, 1 << 31))), "batch?": Maybe(Whole(1, 1 << 31)),
    "features?": FLAG, "weights?": _PATH, "input?": _PATH, "labels?": _PATH, "mean?": _NUMBERS, "std?": _NUMBERS,
    "crop?": Maybe(NUMBER), "resize?": Maybe(_NAME), "interpolation?": Maybe(_NAME), "layout?": Maybe(_NAME),
    "channel_order?": Maybe(_NAME), "dtype?": _NAME, "io?": _NAME, "accumulate?": Maybe(_LONG),
    "signature?": Maybe(_LONG), "module?": Maybe(_NAME), "calibrate?": Maybe(Many(Text(1 << 14), 1 << 16)),
    "files?": Maybe({str: {"given": Text(1 << 14), "from_build": Text(1 << 14), "sha256": Maybe(_NAME)}}),
}  # fmt: skip
_SHAPE = {
    "info": {
        "model": _MODEL, "target": _NAME, "core?": _NAME, "seeded?": FLAG, "precision?": TABLE,
        "preprocess?": Maybe(TABLE), "versions?": {str: _NAME}, "runtime?": _NAME,
    },
    "build?": Text(64),
    "files": {str: _NAME},
    "target?": ANYTHING,  # `targets.stored` checks it
    "layers": Many({"layer": _LONG, "decisions": {str: Either(FLAG, _NAME, NUMBER)}, "source": _LONG}, MOST_NODES),
    "plan": {
        "version": Whole(0, 1 << 31), "steps": Many(_STEP, MOST_NODES), "arena_bytes": _BYTES, "scratch_bytes": _BYTES,
        "parameters_bytes": _BYTES, **{f"{side}puts": Many(Either(ANYTHING), MOST_PORTS) for side in ("in", "out")},
    },
}  # fmt: skip


def check(data: object) -> None:
    """Refuse a document that no build wrote, by its types and sizes.

    Parameters
    ----------
    data : object
        Of the file, as JSON has it.

    Raises
    ------
    ValueError
        A field is wrong; the message gives its place.
    """
    if found := wrong(data, _SHAPE, "the plan"):
        raise ValueError(found[:300])
    for side in ("inputs", "outputs"):
        for i, port in enumerate(data["plan"][side]):
            where = f"the plan.plan.{side}[{i}]"
            if not isinstance(port, list) or len(port) != 2:
                raise ValueError(f"{where} is not a name with its tensor")
            if found := wrong(port[0], _NAME, where) or wrong(port[1], _TENSOR, where):
                raise ValueError(found[:300])
    for step in data["plan"]["steps"]:
        try:
            Layer.parse(step["layer"])
        except (ValueError, TypeError, LookupError, ArithmeticError) as e:
            raise ValueError(f"{step['name']} computes {step['layer'][:80]!r}, which is not a layer") from e


def check_places(plan: Plan) -> None:
    """Refuse a plan whose tensors lie outside of their memory.

    Raises
    ------
    ValueError
        A tensor lies outside; the message names the step.
    """
    sizes = {"arena": plan.arena_bytes, "parameters": plan.parameters_bytes}
    ports = {"input": plan.inputs, "output": plan.outputs}
    named = [(f"{side} {name}", t) for side, found in ports.items() for name, t in found]
    named += [(step.name, t) for step in plan.steps for t in step.operands]
    for name, tensor in named:
        if tensor.nbytes > MOST_TENSOR_BYTES:
            raise ValueError(f"{name} has a tensor of {tensor.nbytes:,} bytes")
        if tensor.space in sizes and tensor.offset + tensor.nbytes > sizes[tensor.space]:
            raise ValueError(f"{name} has a tensor beyond the {sizes[tensor.space]:,} bytes of {tensor.space}")
        if tensor.space in ports and tensor.index >= len(ports[tensor.space]):
            raise ValueError(f"{name} has {tensor.space} {tensor.index}, of {len(ports[tensor.space])}")
