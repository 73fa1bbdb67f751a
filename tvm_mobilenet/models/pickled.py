"""Check pickles of weights before torch reads them: the objects that they request, and their number.

PyTorch's weights-only unpickler runs no code of a file, but it runs the calls on its list. ``bytearray(10**10)`` is
one, in a hundred bytes. A byte of a pickle can stand for a list, and chosen integers can make a dictionary search for
hours. So the instructions are read first, without executing them. Torch then reads a new archive of the checked
members, so the way in which a zip lists its members cannot deceive it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import archives
from tvm_mobilenet.files.limits import check_unpacked

_MOST_INSTRUCTIONS = 1_000_000  # a training run's checkpoint of a MobileNet has 100,000
_MOST_LONG = 10_000  # whole numbers beyond 32 bits
_LEGACY_PICKLES = 5  # torch's own before 1.6: a magic number, a version, facts of the system, the object, keys
# These allocate as much as their argument says.
_REFUSED = ("builtins bytearray", "__builtin__ bytearray", "_codecs encode")
_ONLY = "save weights only: torch.save(model.state_dict(), path), or as .safetensors"


def checked(path: Path) -> BinaryIO:
    """A checkpoint's file for torch, after a check of its pickles.

    Raises
    ------
    TvmMobilenetError
        It holds objects other than weights, or more than any checkpoint.
    OSError, ValueError, zipfile.BadZipFile
        It is damaged.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(_LEGACY_PICKLES):
                _check(file, path)
        return path.open("rb")
    with path.open("rb") as file:
        return checked_archive(file, path)


def checked_archive(file: BinaryIO, path: Path) -> io.BytesIO:
    """The same for an archive; ``path`` is for messages."""
    size = file.seek(0, io.SEEK_END)
    out = io.BytesIO()
    with archives.opened(file) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        members = archive.infolist()
        check_unpacked(sum(m.file_size for m in members), size, path)
        if len({m.filename for m in members}) < len(members):
            raise TvmMobilenetError(f"{path}: the archive has two members of one name", _ONLY)
        for member in members:
            data = archive.read(member)
            if member.filename.endswith(".pkl"):
                _check(io.BytesIO(data), path)
            new.writestr(zipfile.ZipInfo(member.filename), data)
    out.seek(0)
    return out


def _check(stream: BinaryIO, path: Path) -> None:
    """Refuse a pickle by its instructions, up to its end."""
    long = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        if instruction.name == "GLOBAL" and argument in _REFUSED:
            raise TvmMobilenetError(f"{path} holds more than weights: {argument.replace(' ', '.')}", _ONLY)
        long += isinstance(argument, int) and abs(argument) >> 31 > 0
        if count > _MOST_INSTRUCTIONS or long > _MOST_LONG:
            raise TvmMobilenetError(f"{path} holds more than any checkpoint: a pickle of too many parts", _ONLY)
