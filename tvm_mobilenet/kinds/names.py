"""The name of a layer, one line: written from its fields, and parsed back into them."""

from __future__ import annotations

import re

from tvm_mobilenet import dtypes, kinds
from tvm_mobilenet.kinds import activation, generic

_NUMBERS = {
    "m": "height",
    "n": "out_channels",
    "k": "channels",
    "b": "batch",
    "g": "groups",
    "in": "input_pitch",
    "out": "output_pitch",
}
_VERBS = ("reads", "writes", "sums", "weights")  # they give dtypes that differ from the layer's


def name_of(layer) -> str:
    """The name of a layer without parts."""
    kind = kinds.of(layer.kind)
    if kind.has_body:
        return generic.name_of(layer)
    if kind.pixels:
        tokens = [layer.kind, f"m{layer.height}", f"n{layer.out_channels}", f"k{layer.channels}"]
    else:
        tokens = [layer.kind, f"{layer.height}x{layer.width}x{layer.channels}"]
        if not kind.keeps_channels:
            tokens.append(f"n{layer.out_channels}")
        if layer.op:
            tokens.append(layer.op)
        if kind.windowed:
            tokens.append(f"{layer.kernel[0]}x{layer.kernel[1]}")
        if layer.size:
            tokens.append("to{}x{}".format(*layer.size))
        if layer.stride != (1, 1):
            tokens.append("s" + _pair(layer.stride))
        if any(layer.padding):
            tokens.append("p" + ",".join(map(str, layer.padding)))
        if layer.dilation != (1, 1):
            tokens.append("d" + _pair(layer.dilation))
        if kind.groups == "any" and layer.groups != 1:
            tokens.append(f"g{layer.groups}")
    if layer.batch != 1:
        tokens.append(f"b{layer.batch}")
    if layer.input_layout == "NCHW":
        tokens.append("nchw")
    if layer.output_layout == "NCHW":
        tokens.append("to_nchw")
    if layer.input_pitch:
        tokens.append(f"in{layer.input_pitch}")
    if layer.output_pitch:
        tokens.append(f"out{layer.output_pitch}")
    if layer.input_part:
        tokens.append("from{}of{}".format(*layer.input_part))
    if layer.output_part:
        tokens.append("into{}of{}".format(*layer.output_part))
    tokens.append(dtypes.of(layer.dtype).token)
    tokens += [f"{verb}_{dtypes.of(dtype).token}" for verb in _VERBS if (dtype := getattr(layer, verb))]
    tokens += [f"group{layer.group}"] * bool(layer.group) + ["small"] * layer.small
    if layer.residual == "before":
        tokens.append(f"add{layer.back or ''}")
    if layer.activation != "none":
        tokens.append(layer.activation)
    if layer.residual == "after":
        tokens.append("add_after")
    return " ".join(tokens)


def fields_of(name: str) -> dict:
    """The fields of a layer without parts, from its name; a ValueError names a token that is not understood."""
    kind, *tokens = name.split()
    f: dict = {"kind": kind}
    declared = kinds.of(kind) if kinds.known(kind) else None
    if declared and declared.has_body:
        return generic.fields_of(name)
    for i, token in enumerate(tokens):
        if m := re.fullmatch(r"(\d+)x(\d+)x(\d+)", token):
            f.update(height=int(m[1]), width=int(m[2]), channels=int(m[3]))
        elif m := re.fullmatch(r"(to)?(\d+)x(\d+)", token):
            f["size" if m[1] else "kernel"] = (int(m[2]), int(m[3]))
        elif m := re.fullmatch(r"([mnkbg]|in|out)(\d+)", token):
            f[_NUMBERS[m[1]]] = int(m[2])
        elif m := re.fullmatch(r"(from|into)(\d+)of(\d+)", token):
            f["input_part" if m[1] == "from" else "output_part"] = int(m[2]), int(m[3])
        elif m := re.fullmatch(r"p(\d+),(\d+),(\d+),(\d+)", token):
            f["padding"] = tuple(map(int, m.groups()))
        elif m := re.fullmatch(r"([sd])(\d+)(?:,(\d+))?", token):
            f[{"s": "stride", "d": "dilation"}[m[1]]] = (int(m[2]), int(m[3] or m[2]))
        elif token in dtypes.BY_TOKEN:
            f["dtype"] = dtypes.BY_TOKEN[token].name
        elif (verb := token.partition("_"))[0] in _VERBS and verb[2] in dtypes.BY_TOKEN:
            f[verb[0]] = dtypes.BY_TOKEN[verb[2]].name
        elif "dtype" not in f and declared and token in declared.ops:
            f["op"] = token
        elif m := re.fullmatch(r"group(\d+)", token):
            f["group"] = int(m[1])
        elif token == "small":
            f["small"] = True
        elif token in ("nchw", "to_nchw"):
            f["input_layout" if token == "nchw" else "output_layout"] = "NCHW"
        elif m := re.fullmatch(r"add(\d*)|add_after", token):
            f["residual"] = "after" if m[1] is None else "before"
            f["back"] = int(m[1] or 0)
        elif activation.known(token):
            f["activation"] = token
        else:
            raise ValueError(f"layer name {name!r}: token {i + 2}, {token!r}, is not understood")
    if declared and declared.groups == "channels":
        f["groups"] = f.get("channels")
    f.setdefault("out_channels", f.get("channels"))
    return f


def _pair(p: tuple[int, int]) -> str:
    return str(p[0]) if p[0] == p[1] else f"{p[0]},{p[1]}"
