"""Names of layers for display: `title` if there is room, `short_titles` for the rows of a narrow table.

A layer's name (`layer.Layer.name`) describes it completely. Words are omitted, the least important first, from all
names of the table in the same way (``STEPS``), until they fit. A step after which two different layers would read the
same is skipped, so a table's layers stay distinguishable.

    pointwise m196 n512 k512 in544 out544 f32 relu6     the name, and its title
    pointwise m196 n512 k512 relu6                      without dtype and row pitches
    pw m196 n512 k512                                   at its shortest
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tvm_mobilenet import kinds
from tvm_mobilenet.dtypes import BY_TOKEN
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.layer import Layer

SHORT = {kind.name: kind.short for kind in kinds.every() if kind.short}
MARK = "…"


def title(name: str) -> str:
    """A layer's name without words of a fused block's parts that repeat the part before: two layers with one title are
    the same layer.

    Each part of a fused block reads the output of the part before, so its input, batch and dtype are omitted if they
    are the same; all other words stay.
    """
    if not name.startswith("fused "):
        return name
    first, *rest = Layer.parse(name).parts
    texts, before = [first.name], first
    for part in rest:
        texts.append(" ".join(_own_words(part, before)))
        before = part
    return "fused " + " > ".join(texts)


def _own_words(part: Layer, before: Layer) -> list[str]:
    """A part's words without those that follow from the part before it; all words if they do not follow."""
    words = part.name.split()
    pixels = kinds.of(part.kind).pixels
    size = (before.out_height, before.out_width, before.out_channels, before.batch)
    if pixels:
        fits = (part.height, part.channels, part.batch) == (size[0] * size[1], size[2], size[3])
    else:
        fits = (part.height, part.width, part.channels, part.batch) == size
    if not fits or part.dtype != before.dtype:
        return words
    follows = r"m\d+|k\d+|b\d+" if pixels else r"\d+x\d+x\d+|b\d+"
    return [word for word in words if not re.fullmatch(follows, word) and word not in BY_TOKEN]


def _kinds_of_a_fused_block(name: str, text: str) -> str:
    """A fused block's input, the kinds of its parts, and its output channels."""
    if not name.startswith("fused "):
        return text
    layer = Layer.parse(name)
    kinds = ">".join(part.kind for part in layer.parts)
    return " ".join(["fused", _sizes(layer)[0], kinds, f"n{layer.out_channels}", *_residual(layer)])


def _ends_of_a_fused_block(name: str, text: str) -> str:
    """A fused block's input and output."""
    if not name.startswith("fused "):
        return text
    layer = Layer.parse(name)
    return " ".join(["fused", " > ".join(_sizes(layer)), *_residual(layer)])


def _sizes(fused_block: Layer) -> tuple[str, str]:
    """Height, width and channels of a fused block's input and output; a pointwise part does not know the first two."""
    maps = [part for part in fused_block.parts if not kinds.of(part.kind).pixels]
    first, last = (maps[0], maps[-1]) if maps else (fused_block, fused_block)
    return (
        f"{first.height}x{first.width}x{fused_block.channels}",
        f"{last.out_height}x{last.out_width}x{fused_block.out_channels}",
    )


def _residual(layer: Layer) -> list[str]:
    back = layer.parts[-1].back
    if layer.residual == "none":
        return [f"add{back}"] if back else []
    return ["add" if layer.residual == "before" else "add_after"]


def _without(pattern: str) -> Callable[[str, str], str]:
    def step(name: str, text: str) -> str:
        return " ".join(word for word in text.split(" ") if not re.fullmatch(pattern, word))

    return step


def _abbreviated(name: str, text: str) -> str:
    return re.sub("|".join(SHORT), lambda kind: SHORT[kind[0]], text)


STEPS: tuple[Callable[[str, str], str], ...] = (  # the steps of shortening, in order
    lambda name, text: title(name),
    _kinds_of_a_fused_block,
    _without("|".join(BY_TOKEN)),
    _without(r"in\d+|out\d+|from\d+of\d+|into\d+of\d+"),  # row pitches, parts of larger tensors
    _without(r"p\d+,\d+,\d+,\d+"),  # padding
    _without("nchw|to_nchw"),
    lambda name, text: " ".join(word for word in text.split(" ") if not activation.known(word)),
    _abbreviated,
    _ends_of_a_fused_block,
    _without(r"\d+x\d+"),  # kernel size
)


def short_titles(names: Sequence[str], width: int) -> list[str]:
    """Names of layers, short enough for a column of a table if possible.

    Parameters
    ----------
    names : sequence of str
        Names of all rows of one table; a layer may have several rows.
    width : int
        Width in characters. A name that does not fit after all steps stays longer and is not cut.

    Returns
    -------
    list of str
        In the order of ``names``. Different names stay different.
    """
    texts = {name: name for name in names}
    for step in STEPS:
        if max(map(len, texts.values()), default=0) <= width:
            break
        shorter = {name: step(name, text) for name, text in texts.items()}
        if len(set(shorter.values())) == len(shorter):
            texts = shorter
    return [texts[name] for name in names]


def cut(texts: Sequence[str], width: int) -> list[str]:
    """Shorten names for a screen narrower than a name: ``…`` replaces words at the end, and names that then read the
    same are numbered. No word is split, so a single wide word stays.

    Parameters
    ----------
    texts : sequence of str
        The names; equal ones stay equal, different ones different.
    """
    found: dict[str, str] = {}
    for text in texts:
        number = 1
        while text not in found:
            mark = MARK if number == 1 else f"{MARK}{number}"
            short = text if number == 1 and len(text) <= width else _cut_words(text, width, mark)
            if short not in found.values():
                found[text] = short
            number += 1
    return [found[text] for text in texts]


def _cut_words(text: str, width: int, mark: str) -> str:
    words = text.split(" ")
    while len(words) > 1 and len(" ".join(words)) + len(mark) > width:
        words.pop()
    return " ".join(words) + mark
