"""Ways to write a class: by number, by name, by ImageNet's synset or by ILSVRC's own number.

All words of a data set are read in the same way. The ways are tried in order: names, synsets, numbers; folders may also
be numbered in their order, as by PyTorch's ImageFolder. If no way fits, the error lists words that do not fit.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from functools import cache
from importlib import resources

from tvm_mobilenet.errors import TvmMobilenetError, nearest
from tvm_mobilenet.models.labels import imagenet_labels
from tvm_mobilenet.terminal.printable import printable

IMAGENET = 1000


class ClassWords:
    """Words for the classes of a network.

    Parameters
    ----------
    count : int
        Classes.
    names : tuple of str
        One name for each class. With () they are unknown: a network with as many classes as ImageNet gets its names.
    """

    def __init__(self, count: int, names: tuple[str, ...] = ()):
        self.count, self.names = count, names or imagenet_labels(count)
        self._offset = count - IMAGENET if count in (IMAGENET, IMAGENET + 1) else None  # background comes first
        known: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            known.setdefault(_plain(name), []).append(index)
        self._by_name = {name: found[0] for name, found in known.items() if len(found) == 1}

    def title(self, index: int) -> str:
        """A class for display: its name, or ``class 7``."""
        return self.names[index] if self.names and self.names[index] else f"class {index}"

    def read(self, words: Collection[str], where: str, folders: bool = False) -> tuple[dict[str, int], str]:
        """The class of each word, and a text of how the words were read.

        Parameters
        ----------
        where : str
            The place of the words, for the message.
        folders : bool
            The words are names of folders, one for each class: if no other way fits, their order counts.

        Raises
        ------
        TvmMobilenetError
            No way fits all of them.
        """
        words = list(dict.fromkeys(words))
        ways = {"class names": self._name, "synsets of ImageNet": self._synset, "class numbers": self._number}
        best: tuple[list[str], str] = (words, "class names")
        for how, way in ways.items():
            found = {word: way(word) for word in words}
            odd = [word for word, index in found.items() if index is None]
            if not odd:
                return found, how
            if len(odd) < len(best[0]):
                best = odd, how
        if folders and len(words) == self.count and len(best[0]) == len(words):
            return {word: i for i, word in enumerate(sorted(words))}, "folders in their order, as ImageFolder counts"
        self._refuse(words, *best, where)

    def of_ilsvrc(self, words: Collection[str], where: str) -> tuple[dict[str, int], str]:
        """The class of each number of ILSVRC 2012's own counting, 1 to 1,000, as its ground truth has them.

        Raises
        ------
        TvmMobilenetError
            A word is no such number, or the network has not ImageNet's classes.
        """
        if self._offset is None:
            raise TvmMobilenetError(
                f"{where} numbers ImageNet's classes, the network has {self.count}",
                "give a data set of the network's own classes",
            )
        known = {str(ilsvrc): index + self._offset for index, (_, ilsvrc) in enumerate(_synsets())}
        odd = [word for word in words if word not in known]
        if odd:
            raise TvmMobilenetError(
                f"{where}: {printable(odd[0])!r} is not a number from 1 to {IMAGENET:,}",
                "ILSVRC2012's ground truth has one number a line, one line an image",
            )
        return {word: known[word] for word in words}, "numbers of ILSVRC 2012"

    def _name(self, word: str) -> int | None:
        return self._by_name.get(_plain(word))

    def _synset(self, word: str) -> int | None:
        if self._offset is None:
            return None
        known = _places()
        return known[word] + self._offset if word in known else None

    def _number(self, word: str) -> int | None:
        fits = word.isascii() and word.isdecimal() and len(word) <= 9 and int(word) < self.count
        return int(word) if fits else None

    def _refuse(self, words: list[str], odd: list[str], how: str, where: str) -> None:
        shown = ", ".join(repr(printable(word)[:60]) for word in odd[:3]) + f" and {len(odd) - 3} more" * (len(odd) > 3)
        near = nearest(_plain(odd[0]), self._by_name) if how == "class names" else ""
        what = f"{self.count} classes, 0 to {self.count - 1}"
        if len(odd) == len(words):
            what += f" ({', '.join(self.names[:2])}, …)" if self.names else ""
            raise TvmMobilenetError(
                f"{where}: {shown}: no class of the network, which has {what}",
                (f"did you mean {near}? " if near else "")
                + "labels are class names (--labels FILE tells them), numbers, or synsets of ImageNet",
            )
        raise TvmMobilenetError(
            f"{where}: {len(words) - len(odd):,} labels are {how}, but not {shown}; the network has {what}",
            f"did you mean {near}?" if near else "correct them, or leave these images out",
        )


def _plain(name: str) -> str:
    """A name without the differences that file systems introduce."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


@cache
def _synsets() -> tuple[tuple[str, int], ...]:
    """ImageNet's synsets in the order of classes, and each one's number in ILSVRC 2012."""
    text = (resources.files(__package__) / "data" / "imagenet_synsets.csv").read_text(encoding="utf-8")
    return tuple((row["synset"], int(row["ilsvrc2012"])) for row in csv.DictReader(text.splitlines()))


@cache
def _places() -> dict[str, int]:
    return {synset: place for place, (synset, _) in enumerate(_synsets())}
