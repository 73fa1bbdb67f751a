"""Labelled images, in the forms of data sets on disk.

    FOLDER/tench/a.jpg …                a folder for each class (ImageFolder): names, numbers or synsets
    FOLDER/a.jpg … + a text file        ImageNet's validation images with their ground truth: one label a line in the
                                        order of the images' names, or a name and a label a line (``val.txt``)
    FILE.csv                            one image a line: path, label; paths from the file's own folder

``truth`` is a ground truth in another place. Only the headers of images are read here.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.models.class_words import ClassWords
from tvm_mobilenet.models.preprocess import SUFFIXES, check_image
from tvm_mobilenet.terminal.printable import printable

WANTED = "a folder of class folders, a folder of images with a ground truth (--truth FILE), or a CSV of path,label"
TEXTS = (".txt", ".csv", ".tsv")
T = TypeVar("T")
MOST_BYTES, MOST_IMAGES = 256 << 20, 10_000_000
_NAMED = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SUFFIXES))}))\s+(.+)", re.IGNORECASE)  # a.jpg great white shark
HEADINGS = {
    "path": ("path", "file", "filename", "image", "imageid", "image_id", "filepath", "name"),
    "label": ("label", "class", "class_id", "classid", "target", "synset", "predictionstring", "category"),
}


@dataclass(frozen=True)
class LabelledImage:
    """An image file, its class, and its name for display, which is its path within the data set."""

    path: Path
    label: int
    name: str


@dataclass(frozen=True)
class LabelledImages:
    """A data set.

    Attributes
    ----------
    images : tuple of LabelledImage
    how : str
        A text of how it was read.
    whole : int
        Number of images before ``limited`` selected some of them.
    """

    images: tuple[LabelledImage, ...]
    how: str
    whole: int

    def limited(self, count: int | None) -> LabelledImages:
        """At most ``count`` of the images, evenly spread over the data set in its order."""
        if count is None or count >= len(self.images):
            return self
        return replace(self, images=tuple(evenly_spread(self.images, count)))

    def check(self) -> None:
        """Read the header of every image, to find files that are no image before the first one runs.

        Raises
        ------
        TvmMobilenetError
            Some cannot be read; the first is named.
        """
        odd: list[TvmMobilenetError] = []
        for image in self.images:
            try:
                check_image(image.path)
            except TvmMobilenetError as e:
                odd.append(e)
        if odd:
            more = f"; {len(odd) - 1:,} more cannot either" * (len(odd) > 1)
            raise TvmMobilenetError(odd[0].message + more, "correct them, or take them and their labels out")


def require(data: Path, truth: Path | None = None) -> None:
    """Make sure that the data set exists, before any slow work begins.

    Raises
    ------
    TvmMobilenetError
        The data set or the file of labels does not exist.
    """
    if not data.exists():
        raise TvmMobilenetError(f"--data {data}: {refusal(data) or 'no such folder'}", f"give {WANTED}")
    if truth is not None and not data.is_dir():
        raise TvmMobilenetError(f"--truth {truth}: --data {data} is a file, and has the labels", "leave out one")
    if truth is not None and (why := refusal(truth)):
        raise TvmMobilenetError(f"--truth {truth}: {why}", "give the text file that tells the classes")


def read(data: Path, words: ClassWords, truth: Path | None = None) -> LabelledImages:
    """The labelled images of a folder or file.

    Parameters
    ----------
    data : path
        A folder, or a text file of paths and labels.
    words : ClassWords
        Of the network.
    truth : path, optional
        A text file of labels for the images of a folder.

    Raises
    ------
    TvmMobilenetError
        The data set does not exist or has no image; an image has no label, or a label no image; or a label is no class
        of the network.
    """
    require(data, truth)
    if not data.is_dir():
        return _listed(data, data.parent, words)
    try:
        entries = sorted(data.iterdir())
    except OSError as e:
        raise TvmMobilenetError(f"--data {data}: {reason(e)}", f"give {WANTED}") from None
    flat = [entry for entry in entries if _is_of(entry, SUFFIXES)]
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    texts = [entry for entry in entries if entry.suffix.lower() in TEXTS and entry.is_file()]
    if truth is None and folders and not flat:
        return _class_folders(data, folders, words)
    if truth is None and len(texts) == 1:
        truth = texts[0]
    if truth is None:
        why = f"{len(flat):,} images, but no file that tells their classes" if flat else "no image is in it"
        if len(texts) > 1:
            why = f"several files could tell the classes: {', '.join(text.name for text in texts[:5])}"
        raise TvmMobilenetError(f"--data {data}: {why}", f"give {WANTED}")
    return _with_truth(data, truth, words)


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items at even distances, the first among them; all of them if there are no more."""
    n = len(items)
    return list(items) if count >= n else [items[i * n // count] for i in range(count)]


def files_below(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files of some kinds in a folder and the folders below it, in the order of their names; no hidden ones.

    Raises
    ------
    OSError
        A folder cannot be read.
    TvmMobilenetError
        There are too many.
    """
    found: list[Path] = []
    seen = {os.path.realpath(folder)}  # links to folders are followed, once

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        inside = [(name, os.path.realpath(os.path.join(place, name))) for name in sorted(folders)]
        folders[:] = [name for name, real in inside if not name.startswith(".") and real not in seen]
        seen.update(real for _, real in inside)
        found += [path for name in sorted(files) if _is_of(path := Path(place) / name, suffixes)]
        if len(found) > MOST_IMAGES:
            raise TvmMobilenetError(f"{folder} has more than {MOST_IMAGES:,} images", "give a part of them")
    return found


def _is_of(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _found(folder: Path) -> list[Path]:
    try:
        return files_below(folder)
    except OSError as e:
        raise TvmMobilenetError(f"--data {e.filename}: {reason(e)}", f"give {WANTED}") from None


def _class_folders(data: Path, folders: list[Path], words: ClassWords) -> LabelledImages:
    inside = {folder: _found(folder) for folder in folders}
    empty = [folder.name for folder, images in inside.items() if not images]
    if len(empty) == len(folders):
        raise TvmMobilenetError(f"--data {data}: no image is in it or in its {len(folders)} folders", f"give {WANTED}")
    split = {"train", "val", "valid", "validation", "test"}.intersection(folder.name for folder in folders)
    if split and len(split) == len(folders) and words.count > len(split):
        part = next((name for name in ("val", "valid", "validation", "test") if name in split), "train")
        raise TvmMobilenetError(
            f"--data {data} holds parts of a data set: {', '.join(sorted(split))}", f"{data / part}"
        )
    classes, how = words.read([folder.name for folder in folders], f"the folders of --data {data}", folders=True)
    images = [
        LabelledImage(path, classes[folder.name], str(path.relative_to(data)))
        for folder, paths in inside.items()
        for path in paths
    ]
    how = f"{len(images):,} images in {len(folders) - len(empty)} folders, their names read as {how}"
    return LabelledImages(tuple(images), how, len(images))


def _with_truth(data: Path, truth: Path, words: ClassWords) -> LabelledImages:
    """Images of a folder, by a text of labels in their order or of names and labels."""
    rows = list(_rows(truth))
    if any(len(row) > 1 for row in rows):
        return _listed(truth, data, words)
    images = _found(data)
    if len(images) != len(rows):
        raise TvmMobilenetError(
            f"{truth} has {len(rows):,} labels, {data} {len(images):,} images",
            "a ground truth that has only labels has one line for each image, in the order of their names",
        )
    labels = [row[0] for row in rows]
    ilsvrc = "ilsvrc2012" in truth.name.lower() and all(word.isdecimal() for word in labels)
    classes, how = (words.of_ilsvrc if ilsvrc else words.read)(labels, str(truth))
    found = tuple(
        LabelledImage(path, classes[label], str(path.relative_to(data)))
        for path, label in zip(images, labels, strict=True)
    )
    return LabelledImages(found, f"{len(found):,} images, the labels of {truth.name} read as {how}", len(found))


def _listed(listing: Path, root: Path, words: ClassWords) -> LabelledImages:
    """Images that a text names, each with its label."""
    rows = list(_rows(listing))
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None:
        raise TvmMobilenetError(
            f"{listing}: {printable(short[0])[:80]!r} has no label", "each line has a path and a label"
        )
    here, lost, found = {}, [], []
    for name, *_ in rows:
        if name not in here:
            here[name] = _inside(root, name, listing)
            if here[name] is None:
                lost.append(name)
    if lost:
        raise TvmMobilenetError(
            f"{listing} names {len(lost):,} images that are not in {root}: {printable(lost[0])[:80]}"
            + ", …" * (len(lost) > 1),
            "paths start at the folder of the images",
        )
    classes, how = words.read([row[1] for row in rows], str(listing))
    found = tuple(LabelledImage(here[name], classes[label], name) for name, label, *_ in rows)
    return LabelledImages(found, f"{len(found):,} images, the labels of {listing.name} read as {how}", len(found))


def _inside(root: Path, name: str, listing: Path) -> Path | None:
    """A file below a folder, or None. ImageNet's names may lack their suffix.

    Raises
    ------
    TvmMobilenetError
        The path leads out of the folder.
    """
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts:
        raise TvmMobilenetError(
            f"{listing}: {printable(name)[:80]} leads out of {root}",
            "put the list into a folder above its images, and write paths from there",
        )
    for path in (root / plain, root / f"{name}.JPEG"):
        if not refusal(path):
            return path
    return None


def _rows(path: Path) -> Iterator[list[str]]:
    """The lines of a text as words, (label,) or (path, label); words after a label are ignored.

    Raises
    ------
    TvmMobilenetError
        It cannot be read, or is empty.
    """
    if why := refusal(path):
        raise TvmMobilenetError(f"{path}: {why}", f"give {WANTED}")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        lines = [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
        if not lines:
            raise ValueError("it is empty")
        rows = list(_split(lines, path))
    except (OSError, ValueError, csv.Error) as e:
        raise TvmMobilenetError(f"{path} names no classes: {reason(e)}", f"give {WANTED}") from None
    yield from rows


def _split(lines: list[str], path: Path) -> Iterator[list[str]]:
    """Words of lines; of a table with a heading its columns of paths and labels."""
    separator = next((c for c in "\t,;" if c in lines[0]), None)
    if separator is None:
        for line in lines:
            match = _NAMED.fullmatch(line.strip())
            yield list(match.groups()) if match else [line.strip()]
        return
    rows = csv.reader(lines, delimiter=separator)
    head = next(rows)
    columns = {kind: _column(head, known) for kind, known in HEADINGS.items()}
    if None in columns.values():
        columns = {"path": 0, "label": 1}
        yield _words(head, columns, path)
    for row in rows:
        yield _words(row, columns, path)


def _words(row: list[str], columns: dict[str, int], path: Path) -> list[str]:
    if max(columns.values()) >= len(row):
        raise ValueError(f"{printable(','.join(row))[:60]!r} has no label")
    name, label = (row[columns[kind]].strip() for kind in ("path", "label"))
    if path.name == "LOC_val_solution.csv":  # a synset and the boxes of objects
        label = label.split(" ")[0]
    return [name, label]


def _column(head: list[str], known: tuple[str, ...]) -> int | None:
    return next((i for i, word in enumerate(head) if word.strip().lower() in known), None)
