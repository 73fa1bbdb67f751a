"""A plan as C tables, which the runtime runs without a parser on the device."""

from __future__ import annotations

import json
import re

import numpy as np

from tvm_mobilenet.compiler import port_tables
from tvm_mobilenet.compiler.plan import ALIGNMENT, Plan, Tensor, align
from tvm_mobilenet.dtypes import DLPACK_CODES
from tvm_mobilenet.models import labels as class_names
from tvm_mobilenet.models.preprocess import FIELDS
from tvm_mobilenet.targets import features

_SPACES = {"input": "MN_INPUT", "output": "MN_OUTPUT", "arena": "MN_ARENA", "parameters": "MN_PARAMETERS"}
_MOST_TAKEN = 16  # as in internal.h: pieces of scratch memory that a thread holds at once
_KERNELS = {"nearest": 0, "bilinear": 1, "bicubic": 2}
_ELEMENTS = {4: "float", 2: "uint16_t", 1: "uint8_t"}  # C types of a table of pixels, by size
_SCORES = {"logits": "MN_LOGITS", "softmax": "MN_SOFTMAX", "sigmoid": "MN_SIGMOID", "value": "MN_VALUE"}


def about_of(network, target, plan: Plan, weights_sha256: str, embedded: bool = False) -> dict:
    """A library's description of its model and target, see `source`; ``prefix`` is that of its symbols."""
    return {
        "model": network.options.title,
        "target": target.name,
        "architecture": target.architecture,
        "features": features.features(target),
        "classes": network.classes,
        "labels": bool(network.labels),
        "labels_source": labels_source(network),
        "scores": network.scores,
        "seeded": network.seeded,
        "preprocess": _in_words(network.image),
        "embedded": embedded,
        "weights_sha256": weights_sha256,
        "ends": port_tables.of(network, plan),
        "prefix": _prefix(f"{network.options.slug}_{target.name}"),
    }


def _prefix(name: str) -> str:
    """The prefix of a model's symbols, which lets two models link into one program."""
    prefix = re.sub(r"\W", "_", f"{name}_", flags=re.ASCII)
    return prefix if prefix[0] not in "_0123456789" else f"m{prefix}"


def labels_source(network) -> str:
    """The source of a network's labels; empty if it has none."""
    if not network.labels or network.options.labels is not None:
        return "given with --labels" if network.labels else ""
    if network.labels != class_names.imagenet_labels(network.classes):
        return f"{network.options.package}'s own"
    return f"{class_names.SOURCE}; assumed for {network.classes} classes"


def _in_words(image) -> str:
    """The preprocessing from an image to the input, as the program describes it."""
    if image is None:
        return "takes no images"
    p = image.preprocess
    assumed = f"; assumed: {', '.join(image.assumed).replace('_', ' ')}" if image.assumed else ""
    return f"{p.size[1]} x {p.size[0]} {p.colours}, {p.told(set(FIELDS) - {'channel_order'})}{assumed}"


def source(plan: Plan, about: dict, scratch: dict[str, int], preprocess=None) -> str:
    """The C source of a model's tables.

    In one piece: the source, from its first line to its last.

    Parameters
    ----------
    plan : Plan
    about : dict
        ``model``, ``target``, ``id``, ``weights_sha256``, ``architecture``, ``features``, ``classes``, ``labels``
        (bool), ``labels_source``, ``embedded`` (bool), ``scores`` (of ``models.labels.SCORES``), ``seeded`` (bool),
        ``preprocess`` (in words), ``ends`` (of `port_tables`).
    scratch : dict of str to int
        For each kernel, the bytes of scratch memory that one thread uses. It lies in the arena, after the last tensor
        that is alive in the step.
    preprocess : models.preprocess.Preprocess, optional
        The preprocessing from an image to the input; None if the model takes no image.
    """
    lines = ['#include "internal.h"', ""]
    shapes: dict[tuple, str] = {}

    def dims(tensor: Tensor) -> str:
        if tensor.shape not in shapes:
            shapes[tensor.shape] = f"shape{len(shapes)}"
            strides = [int(np.prod(tensor.shape[i + 1 :], dtype=np.int64)) for i in range(len(tensor.shape))]
            values = ", ".join(map(str, (*tensor.shape, *strides))) or "0"
            lines.append(f"static const int64_t {shapes[tensor.shape]}[] = {{{values}}};")
        return shapes[tensor.shape]

    operands, steps, ports = [], [], []
    free = free_from(plan)
    for number, step in enumerate(plan.steps):
        taken = scratch.get(step.symbol, 0)
        taken = align(taken + _MOST_TAKEN * ALIGNMENT) if taken else 0  # each piece begins at a cache line
        steps.append(
            f"    {{__tvm_ffi_{step.symbol}, {_quoted(step.name)}, {len(operands)}, {len(step.operands)}, "
            f"{free[number] if taken else 0}, {taken}}},"
        )
        for t in step.operands:
            dtype = np.dtype(t.dtype)
            operands.append(
                f"    {{{_SPACES[t.space]}, {t.index}, {len(t.shape)}, {DLPACK_CODES[dtype.kind]}, "
                f"{8 * dtype.itemsize}, {t.offset}, {dims(t)}}},"
            )
    for i, (name, t) in enumerate((*plan.inputs, *plan.outputs)):
        encoding = about["ends"]["encodings"][i]
        if encoding:
            lines += [
                f"static const double {n}{i}[] = {{{_list(v)}}};"
                for n, v in zip(("scale", "zero"), encoding[:2], strict=True)
            ]
        told = f"{len(encoding[0])}, {encoding[2]}, scale{i}, zero{i}" if encoding else "0, 0, NULL, NULL"
        ports.append(f"    {{{_quoted(name)}, {_quoted(t.dtype)}, {len(t.shape)}, {dims(t)}, {t.nbytes}, {told}}},")
    lines.append(f"static const float largest[] = {{{', '.join(f'{v!r}f' for v in about['ends']['largest'])}}};")
    for name in ("input", "first"):
        if table := about["ends"][name]:
            lines.append(f"static const {_ELEMENTS[table['bytes']]} pixels_{name}[] = {{{_list(table['values'])}}};")
    for symbol in dict.fromkeys(s.symbol for s in plan.steps):
        lines.append(f"int __tvm_ffi_{symbol}(void *, const mn_any *, int32_t, mn_any *);")
    embedded = "NULL"
    if about["embedded"]:
        lines.append("extern const unsigned char mn_weights[];")
        embedded = "mn_weights"
    lines += [
        "static const mn_operand operands[] = {",
        *operands,
        "};",
        "static const mn_step steps[] = {",
        *steps,
        "};",
        "static const mobilenet_tensor ports[] = {",
        *ports,
        "};",
    ]
    told = ("model", "target", "id", "weights_sha256", "preprocess", "labels_source")
    text = ", ".join(_quoted(about[k]) for k in told)
    lines += [
        "const mn_model_t mn_model = {",
        f"    {text},",
        f"    steps, operands, ports, {len(plan.steps)}, {len(operands)}, {len(plan.inputs)}, {len(plan.outputs)},",
        f"    {plan.arena_bytes}, {plan.scratch_bytes}, {plan.parameters_bytes},",
        f"    {about['classes']}, {int(about['labels'])}, {_SCORES[about['scores']]}, {int(about['seeded'])},",
        f"    {_quoted(about['architecture'])}, {_quoted(' '.join(about['features']))}, {embedded},",
        "    largest,",
        f"    {_image(plan, preprocess, about['ends'])},",
        "};",
        "",
    ]
    return "\n".join(lines)


def free_from(plan: Plan) -> list[int]:
    """For each step, the offset in the arena after which no tensor is alive."""
    live: dict[int, int] = {}  # offset to end, for the tensors that a later step reads
    free = [0] * len(plan.steps)
    begun = {step.into for step in plan.steps if step.into}
    first = {next(i for i, step in enumerate(plan.steps) if step.into == value) for value in begun}
    for number in reversed(range(len(plan.steps))):
        *read, written = plan.steps[number].operands
        live |= {t.offset: t.offset + t.nbytes for t in (*read, written) if t.space == "arena"}
        free[number] = align(max(live.values(), default=0))
        if written.space == "arena" and (not plan.steps[number].into or number in first):
            del live[written.offset]
    return free


def _image(plan: Plan, p, ends: dict) -> str:
    if p is None:
        return "{0}"
    tables = ["{NULL, 0, 0, 0, 0, 0}"] * 2
    for i, name in enumerate(("input", "first")):
        if table := ends[name]:
            tables[i] = f"{{pixels_{name}, {table['bytes']}, {_list(table['strides'])}}}"
    return (
        f"{{1, {p.size[0]}, {p.size[1]}, {plan.inputs[0][1].shape[0]}, "
        f"{_KERNELS[p.interpolation]}, {p.channels}, {int(p.resize == 'squash')}, {int(p.channel_order == 'BGR')}, "
        f"{p.crop!r}, {', '.join(tables)}, {(ends['first'] or {}).get('operand', 0)}}}"
    )


def _list(values) -> str:
    """Numbers separated by commas: integers, or floats in a form that is read back to the bit."""
    return ", ".join(v.hex() if isinstance(v, float) else str(v) for v in values)


def _quoted(text: str) -> str:
    """A C string in ASCII. JSON's escapes are valid in C, except for the unicode escapes of control characters."""
    return json.dumps("".join(c if " " <= c <= "~" else "?" for c in text)).replace("??", '?""?')
