"""Replace all of this project's files in a folder in one step; other files in it stay.

A new folder is made beside the old one and takes its place (`whole_file.replacing_folder`); the other files of the old
one are linked into it first. Processes that use the old files keep them. Some folders cannot be replaced: a mount
point, the current directory, a folder in another user's folder, one that holds folders. There the file that names the
others is removed first and written last, so that a reader finds the old files, none, or the new ones. If a step fails,
the old files are put back; a process killed between the steps leaves none.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from tvm_mobilenet.files import temporary
from tvm_mobilenet.files.whole_file import flush_all, flushed, remove_abandoned, replacing_folder

_PREFIX = ".new-"


class _Stays(Exception):
    """The folder could not be replaced; its files were."""


@contextlib.contextmanager
def replacing_own(folder: Path, own: Collection[str], last: str, stays: float = 0.0) -> Iterator[Path]:
    """The path of a new, empty folder, whose files replace ours in another when the block ends without an error.

    Parameters
    ----------
    folder : path
        It need not exist. One process at a time: see `lock`.
    own : collection of str
        Names of this project's files; those that are not made again are removed.
    last : str
        The file among them that names the others.
    stays : float
        As `whole_file.replacing_folder` takes it.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    real = Path(os.path.realpath(folder))
    if _stays(real, own):
        temporary.remove_abandoned(real, _PREFIX)
        temporary.tidy()
        new, lock = temporary.new_folder(real, _PREFIX)
        try:
            with temporary.inside(new):
                yield new
            _move(new, real, own, last)
        finally:
            temporary.remove(new)
            os.close(lock)
        return
    with contextlib.suppress(_Stays), replacing_folder(real, stays) as new:
        yield new
        if not _stays(real, own) and _linked(real, new, own):
            return
        _move(new, real, own, last)
        raise _Stays


def tidy(*folders: Path | None) -> None:
    """Remove what killed processes left of folders or files that they were replacing, and their temporary folders.

    A verb calls this before its work begins. Else one that is killed before it replaces anything leaves a folder of its
    own beside the earlier ones.
    """
    for folder in filter(None, folders):
        real = Path(os.path.realpath(folder))
        remove_abandoned(real)
        temporary.remove_abandoned(real, _PREFIX)
    temporary.tidy()


def _stays(folder: Path, own: Collection[str]) -> bool:
    """Whether a folder cannot be replaced."""
    if not folder.exists():
        return False
    if not os.access(folder.parent, os.W_OK) or _is_mounted(folder) or folder.samefile(os.curdir):
        return True
    return any(e.is_dir(follow_symlinks=False) for e in os.scandir(folder) if e.name not in own)


def _is_mounted(folder: Path) -> bool:
    """Whether a file system is mounted at a folder; `os.path.ismount` sees no bind mount of the same file system."""
    if os.path.ismount(folder):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    places = (line.split(" ")[4] for line in lines if line.count(" ") > 4)  # blanks and the like are written in octal
    return str(folder) in (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), place) for place in places)


def _linked(old: Path, new: Path, own: Collection[str]) -> bool:
    """Link the other files into the new folder; return whether that succeeded."""
    try:
        for entry in os.scandir(old) if old.exists() else ():
            if entry.name not in own:
                os.link(entry.path, new / entry.name, follow_symlinks=False)
    except OSError:
        return False
    return True


def _move(new: Path, folder: Path, own: Collection[str], last: str) -> None:
    flush_all(new)
    made = {entry.name for entry in os.scandir(new) if entry.name in own}
    kept = _second_names(folder, own, new / ".old")
    try:
        (folder / last).unlink(missing_ok=True)
        for name in sorted(made, key=lambda name: (name == last, name)):
            (new / name).replace(folder / name)
    except OSError:
        for name in made - kept.keys() if kept is not None else ():
            (folder / name).unlink(missing_ok=True)
        for name in sorted(kept or (), key=lambda name: (name == last, name)):
            kept[name].replace(folder / name)
        raise
    for name in set(own) - made:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            (folder / name).unlink()
    flushed(folder)


def _second_names(folder: Path, own: Collection[str], place: Path) -> dict[str, Path] | None:
    """Second names of this project's files, by their name; None on a file system without links."""
    try:
        place.mkdir()
        there = [e.name for e in os.scandir(folder) if e.name in own and not e.is_dir(follow_symlinks=False)]
        for name in there:
            os.link(folder / name, place / name, follow_symlinks=False)
    except OSError:
        return None
    return {name: place / name for name in there}
