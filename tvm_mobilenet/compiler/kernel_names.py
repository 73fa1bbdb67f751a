"""Names of kernels, as profilers and ``nm`` show them: the computation of a kernel, its tiling, and its core.

    name  = kind "_" dtype "_" shape {"_" word} ["_tile" tile] ["_lanes" n] ["_k" n] ["_dualissue"] "_" core
    block = "block" parts "_" dtype {"_" kind shape} ["_cut" rows "x" columns] "_" core "_" hash

``kind``, ``dtype``, ``shape`` and ``word`` are those of the layer's name (``Layer.name``), with only letters, digits
and underscores: ``m``, ``n`` and ``k`` of a product are joined, and a comma becomes an ``x``. ``tile`` is the tile of
accumulators, ``lanes`` the number of channels computed at once, ``k`` the number of rows of weights in a packed panel,
``dualissue`` the dual-issue kernel of an in-order core. A fused block names its parts by a short word for their kind,
with shape and stride. It also gives its cut for the cores, and a hash of the whole block.

    pointwise_f32_m196n512k512_relu6_tile7x8_k64_cortex_a72
    depthwise_f32_112x112x64_3x3_s2_p1x1x1x1_relu6_tile2x7_lanes8_cortex_a53
    block2_f32_dw28x28x128_pw784x128x128_cut4x1_cortex_a72_1f0c2a9b

A name is for people: nothing depends on it, and equal code keeps its key (`tune_logs.keys`) under any name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tvm_mobilenet import dtypes, kinds
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.layer import Layer

LONGEST = 190  # characters; TVM adds a prefix of 10
_TILES = ("tile_h", "tile_m", "tile_w", "tile_n")
_OWN_WORDS = {"tonchw": "to_nchw", "addafter": "add_after"} | {  # from words of a name to a layer's tokens
    f"{verb}{token}": f"{verb}_{token}" for verb in ("reads", "writes", "sums") for token in dtypes.BY_TOKEN
}
_OWN_WORDS |= {op.replace("_", ""): op for kind in kinds.every() for op in kind.ops or () if op}
_END = re.compile(
    r"(?:_tile(?P<tile>\d+(?:x\d+)*))?(?:_lanes(?P<lanes>\d+))?(?:_k(?P<k_block>\d+))?(?P<dual_issue>_dualissue)?_(?P<core>\w+)"
)
_COMMAS = re.compile(r"[sd]\d+x\d+|p\d+x\d+x\d+x\d+")
_NUMBERS = re.compile(r"(?<=[a-z])m?(?:\d+(?:p\d+)?|inf)(?:xm?(?:\d+(?:p\d+)?|inf))?$")
_SIGNS = str.maketrans({"m": "-", "p": ".", "x": ","})
_PART = re.compile(r"more\d+|[a-z]+\d+x\d+x\d+(?:n\d+)?(?:s\d+)?")
_CUT = re.compile(r"cut(\d+)x(\d+)")


@dataclass(frozen=True)
class KernelName:
    """The parsed name of a kernel.

    Attributes
    ----------
    layer : Layer or None
        The layer; None for a fused block, which has ``parts`` instead, and for a layer with a loop nest of its own.
    parts : tuple of str
        Kind and shape of each part of a fused block.
    tile : tuple of int
        Empty if the schedule has none.
    lanes, k_block : int
        0 where the schedule has none.
    cut : (int, int)
        Row and column tiles of a fused block; (1, 1) for others.
    core : str
        Its name, with underscores for all other characters than letters and digits.
    """

    layer: Layer | None
    core: str
    tile: tuple[int, ...] = ()
    lanes: int = 0
    k_block: int = 0
    is_dual_issue: bool = False
    parts: tuple[str, ...] = ()
    cut: tuple[int, int] = (1, 1)


def name_of(layer: Layer, decisions: Mapping, core: str) -> str:
    """The name of a layer's kernel under these decisions, at most ``LONGEST`` characters."""
    core = _core_word(core)
    if layer.parts:
        return _block_name(layer, decisions, core)
    kind, *words = layer.name.replace("#", "h").split()  # a layer with a loop nest of its own ends in its hash
    words.remove(dtypes.of(layer.dtype).token)
    if kinds.of(kind).has_body and sum(map(len, words)) + len(words) > LONGEST - 60:
        words = [words[0][:60], words[-1]]  # operator and hash
    if kinds.of(kind).pixels:
        words = ["".join(words[:3]), *words[3:]]
    tile = [str(decisions[t]) for t in _TILES if t in decisions]
    said = [
        kind,
        dtypes.of(layer.dtype).token,
        *(_word(word) for word in words),
        *(["tile" + "x".join(tile)] if tile else []),
        *([f"lanes{decisions['lanes']}"] if "lanes" in decisions else []),
        *([f"k{decisions['k_block']}"] if "k_block" in decisions else []),
        *(["dualissue"] if decisions.get("loop") == "dual_issue" else []),
        core,
    ]
    return "_".join(said)


def _word(word: str) -> str:
    """A word of a layer's name with only letters and digits; numbers of an activation have ``p`` for the point and
    ``m`` for minus.
    """
    if activation.parsed(word)[1]:
        word = word.replace(".", "p").replace("-", "m")
    return re.sub(r"\W|_", "", word.replace(",", "x"), flags=re.ASCII)


def _block_name(layer: Layer, decisions: Mapping, core: str) -> str:
    """The name of a fused block's kernel; parts that do not fit are left out in the middle, and their number is
    given.
    """
    parts = [_part(part) for part in layer.parts]
    cut = [str(decisions[d]) for d in ("row_tiles", "column_tiles") if d in decisions]
    begin = f"block{len(parts)}_{dtypes.of(layer.dtype).token}_"
    end = ("_cut" + "x".join(cut) if len(cut) == 2 else "") + f"_{core}_"
    end += hashlib.sha256(layer.name.encode()).hexdigest()[:8]
    left_out = 0
    while len(text := begin + "_".join(parts) + end) > LONGEST and len(parts) > 2:
        left_out += 1
        middle = len(parts) // 2
        parts = [*parts[: middle - (left_out > 1)], f"more{left_out}", *parts[middle + 1 :]]
    return text


def _numbers(word: str) -> str:
    """The activation with numbers that `_word` wrote; other words unchanged."""
    token = _NUMBERS.sub(lambda m: m[0].translate(_SIGNS), word)
    return token if activation.known(token) else word


def _part(layer: Layer) -> str:
    """Kind, shape and stride of a part."""
    kind = kinds.of(layer.kind)
    short = kind.short or kind.name
    if kind.pixels:
        return f"{short}{layer.height}x{layer.out_channels}x{layer.channels}"
    shape = f"{short}{layer.height}x{layer.width}x{layer.channels}"
    if layer.out_channels != layer.channels:
        shape += f"n{layer.out_channels}"
    return shape + (f"s{layer.stride[0]}" if layer.stride != (1, 1) else "")


def _core_word(core: str) -> str:
    """A core's name as the last word; a name that could be read as a word before it gets a prefix."""
    word = re.sub(r"\W+", "_", core, flags=re.ASCII).strip("_").lower() or "core"
    return f"core_{word}" if re.match(r"(?:tile|lanes|k|cut)\d|dualissue(?:_|$)|\d", word) else word


def parse(name: str) -> KernelName:
    """The fields in a kernel's name.

    Raises
    ------
    ValueError
        It is none of this grammar.
    """
    words = name.split("_")
    if re.fullmatch(r"block\d+", words[0]):
        count = next((i for i, word in enumerate(words[2:]) if not _PART.fullmatch(word)), 0)
        parts, [*end, digest] = words[2 : 2 + count], words[2 + count :] or [""]
        cut = (1, 1)
        if end and (m := _CUT.fullmatch(end[0])):
            cut, end = (int(m[1]), int(m[2])), end[1:]
        if count and end and re.fullmatch(r"[0-9a-f]{8}", digest):
            return KernelName(None, "_".join(end), parts=tuple(parts), cut=cut)
    if kinds.known(words[0]) and kinds.of(words[0]).has_body:
        count = next((i + 1 for i, word in enumerate(words) if re.fullmatch(r"h[0-9a-f]{8,}", word)), len(words))
        if end := _END.fullmatch("_" + "_".join(words[count:])):
            return KernelName(None, end["core"], lanes=int(end["lanes"] or 0), parts=tuple(words[2:count]))
    for count in range(len(words) - 1, 2, -1):  # as many words as make a layer
        layer, end = _layer(words[:count]), _END.fullmatch("_" + "_".join(words[count:]))
        if layer is not None and end:
            tile = tuple(map(int, end["tile"].split("x"))) if end["tile"] else ()
            lanes, k_block = int(end["lanes"] or 0), int(end["k_block"] or 0)
            return KernelName(layer, end["core"], tile, lanes, k_block, bool(end["dual_issue"]))
    raise ValueError(f"{name!r} is not a kernel's name: kind_dtype_shape, words, tile, packing and core are")


def _layer(words: list[str]) -> Layer | None:
    """The layer of the first words of a name."""
    kind, dtype, shape, *rest = words
    if not kinds.known(kind) or dtype not in dtypes.BY_TOKEN:
        return None
    declared = kinds.of(kind)
    tokens = re.findall(r"[a-z]+\d+", shape) if declared.pixels else [shape]
    for word in rest:
        tokens.append(_OWN_WORDS.get(word) or (word.replace("x", ",") if _COMMAS.fullmatch(word) else _numbers(word)))
    tokens.insert(2 if declared.ops != ("",) else 1, dtype)  # `Layer.parse` takes an operator for one before the dtype
    try:
        return Layer.parse(" ".join([kind, *tokens]))
    except ValueError:
        return None
