"""Trained weights that others publish for the registry's networks: ``--weights imagenet``.

Addresses, digests and licences are data (``data/published.toml``). A file is downloaded once into the user's cache, its
digest is checked at every use, and it is read like any other checkpoint.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import user_cache
from tvm_mobilenet.models import download
from tvm_mobilenet.models.options import IMAGENET
from tvm_mobilenet.terminal.console import Progress, say

FOLDER = "weights"  # in the user's cache


@dataclass(frozen=True)
class Published:
    """An entry of ``data/published.toml``: one network's weights, for width 1 and ImageNet's 1,000 classes.

    Attributes
    ----------
    address : str
        https.
    sha256 : str
        Eight digits or all 64.
    mebibytes, top1 : float
        The file's size; percent, as its source says.
    licence, source : str
    """

    model: str
    address: str
    sha256: str
    mebibytes: float
    top1: float
    licence: str
    source: str

    def __post_init__(self):
        if not re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.model}: sha256 {self.sha256!r}")
        if f"-{self.sha256[:8]}." not in self.name:
            raise ValueError(f"{self.model}: {self.name} is not named after {self.sha256[:8]}")

    @property
    def name(self) -> str:
        """The file's name."""
        return self.address.rpartition("/")[2]


@cache
def entries() -> dict[str, Published]:
    """The downloads, by the network's full name."""
    return {name: Published(model=name, **table) for name, table in _tables().items() if name != "elsewhere"}


def of(model: str, alpha: float, classes: int) -> Published:
    """The weights of a network of the registry.

    Raises
    ------
    TvmMobilenetError
        No weights are published for it, or not with a digest.
    """
    entry = entries().get(model)
    if entry is None:
        there = _tables()["elsewhere"].get(model)
        raise TvmMobilenetError(
            f"--weights {IMAGENET}: none with a digest are published for {model}",
            f"with timm installed --model {there} takes its own; or download them and give --weights FILE"
            if there
            else f"published are those of {', '.join(entries())}",
        )
    if alpha != 1 or classes != 1000:
        what = f"--alpha {alpha:g}" if alpha != 1 else f"--classes {classes}"
        raise TvmMobilenetError(
            f"--weights {IMAGENET}: those of {model} are of width 1 and 1000 classes, not of {what}",
            f"leave out {what}",
        )
    return entry


def checkpoint(entry: Published) -> Path:
    """The file, downloaded if it is not in the cache.

    Raises
    ------
    TvmMobilenetError
        The download failed.
    """
    folder = user_cache.folder() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / entry.name
    if download.has_digest(path, entry.sha256):
        return path
    say(f"downloading {entry.address} ({entry.mebibytes:.1f} MiB, {entry.licence}; {entry.source})")
    with Progress() as progress:

        def watch(have: int, whole: int | None) -> None:
            share = f" of {whole / (1 << 20):.1f}" if whole else ""
            progress.update(lambda: f"{entry.name}: {have / (1 << 20):.1f}{share} MiB")

        most = math.ceil(entry.mebibytes * 1.1 * (1 << 20))
        download.fetch(
            entry.address, path, entry.sha256, most, watch, f"without a network: put {entry.name} into {folder}"
        )
    return path


@cache
def _tables() -> dict:
    text = (resources.files(__package__) / "data" / "published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
