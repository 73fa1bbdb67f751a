"""Class names, a user's or ImageNet's own, and the meaning of the scores of classes.

A network gives one number for each class. Its last layer shows whether these are logits or already probabilities. A
softmax of a softmax would be wrong, and so would a softmax of independent probabilities.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.limits import MOST_NAME
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.terminal.printable import printable

# The kinds of a network's numbers, which decide how a class's probability follows.
SCORES = {
    "logits": "a softmax of them gives probabilities",
    "softmax": "probabilities that add up to 1: the network ends in a softmax",
    "sigmoid": "an independent probability each: the network ends in a sigmoid",
    "value": "one number without a known probability",
}
_WANTED = "a text file with one class a line, a JSON list, or a JSON object from index to name"
_MOST_BYTES = 64 << 20
BACKGROUND = "background"  # TensorFlow's MobileNets have it before ImageNet's thousand
SOURCE = "ImageNet's, from torchvision 0.29.1 (BSD 3-Clause)"
LICENCE = "imagenet_labels.LICENSE.txt"


@dataclass(frozen=True)
class BestClass:
    """A class with its score, and its probability if that is known; ``alone``: the network has one output."""

    index: int
    label: str
    score: float
    probability: float | None
    alone: bool = False

    def __str__(self) -> str:
        kind, name = "output" if self.alone else "class", self.label and f" ({self.label})"
        probability = "" if self.probability is None else f", {self.probability:.1%}"
        return f"{kind} {self.index}{name} {self.score:.2f}{probability}"


def best_classes(scores: np.ndarray, kind: str, labels: tuple[str, ...] = (), count: int = 5) -> list[BestClass]:
    """The classes with the highest scores, best first.

    Parameters
    ----------
    scores : (classes,) float
        Of one input.
    kind : str
        One of ``SCORES``.
    """
    scores = np.asarray(scores, np.float64)
    probabilities = scores
    if kind == "logits":
        powers = np.exp(scores - scores.max())
        probabilities = powers / powers.sum()
    return [
        BestClass(
            int(i),
            labels[i] if labels else "",
            float(scores[i]),
            None if kind == "value" else float(probabilities[i]),
            len(scores) == 1,
        )
        for i in np.argsort(-scores, kind="stable")[:count]
    ]


def read_labels(path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Class names: one a line, a JSON list, or a JSON object from index to name.

    Raises
    ------
    TvmMobilenetError
        If the file cannot be read or has another number of names.
    """
    try:
        text = _text(Path(path))
        labels = json.loads(text) if str(path).lower().endswith(".json") else text.splitlines()
        if isinstance(labels, dict):
            labels = [labels[str(i)] for i in range(len(labels))]
        labels = tuple(_name(label) for label in labels)
    except OSError as e:
        raise TvmMobilenetError(f"labels {path}: {e.strerror}", _WANTED) from None
    except KeyError as e:
        raise TvmMobilenetError(f"labels {path}: there is no class {e}", _WANTED) from None
    except (ValueError, TypeError, IndexError, RecursionError):
        kind = "a JSON list or object of names" if str(path).lower().endswith(".json") else "text in UTF-8"
        raise TvmMobilenetError(f"labels {path}: it is not {kind}", _WANTED) from None
    count = len(labels)
    while count and not labels[count - 1]:
        count -= 1
    labels = labels[:count]
    long = next((i for i, name in enumerate(labels) if len(name) > MOST_NAME), None)
    if long is not None:
        raise TvmMobilenetError(
            f"labels {path}: the name of class {long} has {len(labels[long]):,} characters", _WANTED
        )
    if len(labels) != num_classes:
        one = "one output: a name for it" if num_classes == 1 else f"{num_classes} classes: a name for each"
        raise TvmMobilenetError(f"labels {path} has {len(labels)} names, the model {num_classes} classes", one)
    return labels


def _name(label) -> str:
    """A name, or the last of Keras's pairs of identifier and name."""
    name = label[-1] if isinstance(label, list) else label
    if not isinstance(name, str):
        raise TypeError
    return printable(" ".join(name.split()))


def _text(path: Path) -> str:
    """The text of a file that is no larger than names of a million classes."""
    if why := refusal(path):
        raise TvmMobilenetError(f"labels {path}: {why}", _WANTED)
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise TvmMobilenetError(f"labels {path}: more than {_MOST_BYTES >> 20} MiB", _WANTED)
    return data.decode("utf-8-sig")


def imagenet_labels(num_classes: int) -> tuple[str, ...]:
    """ImageNet's names for 1,000 classes, with ``background`` first for 1,001; none for other numbers."""
    if num_classes not in (1000, 1001):
        return ()
    names = tuple(_data("imagenet_labels.txt").splitlines())
    return names if num_classes == 1000 else (BACKGROUND, *names)


def licence() -> str:
    """The licence of ImageNet's names, and their origin."""
    return _data(LICENCE)


def _data(name: str) -> str:
    return (resources.files(__package__) / "data" / name).read_text(encoding="utf-8")
