"""Journals: files with one JSON document in each line, which several processes append to and people edit.

A line is appended with one `write` to a file opened with O_APPEND, under `flock`: concurrent writers lose nothing, and
a kill at any moment leaves at most one torn line at the end. The next writer moves this line to ``NAME.torn``.

A line that cannot be read does not stop a reader, which names it in a warning and continues. A rewrite keeps such a
line byte for byte, since a newer version may have written it. This module checks all types, so that no other code sees,
for example, a cost that is a string.

A file is rewritten in place, so links, names, mode and owner stay. The new lines are first written after the old ones,
so a kill at any moment loses no line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import json_text
from tvm_mobilenet.files.whole_file import refusal
from tvm_mobilenet.system import fcntl

LONGEST_LINE = 1 << 16  # bytes; a longer one is no record
TOLD = 3  # unreadable lines that warnings name; the others are only counted


class TornLineWarning(UserWarning):
    """A journal has a line that is not a record: edited, of another version, or torn by a kill of its writer."""


class Journal:
    """A file of records that several processes append to at once.

    Parameters
    ----------
    path : path
        The file; it and its folders are created with the first record.
    kind : type
        The type of the records: a dataclass with ``to_json`` and ``from_json``, whose ValueError describes a bad line.
    flag : str
        The flag with which the user may choose another file.

    Raises
    ------
    TvmMobilenetError
        From every method: the path is not a regular file, or cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike, kind: type | None = None, flag: str = "--log"):
        if kind is None:
            from tvm_mobilenet.tune_logs.log import Record as kind
        self.path, self._kind, self._flag = Path(path), kind, flag
        self._what = "tune log" if flag == "--log" else flag

    def append(self, record) -> None:
        """Write one record, whole or, if killed, as a torn end that the next writer moves away."""
        line = record.to_json().encode() + b"\n"
        with self._locked(fcntl.LOCK_EX) as fd:
            self._end_last_line(fd)
            written = os.write(fd, line)
            if written != len(line):
                raise TvmMobilenetError(
                    f"{self.path}: only {written} of {len(line)} bytes written", "is the disk full?"
                )

    def records(self) -> Iterator:
        """The records in the order of writing; a line that is not a record is skipped with a `TornLineWarning`."""
        try:
            with self._locked(fcntl.LOCK_SH) as fd:
                content = _content(fd)
        except FileNotFoundError:
            return
        found, unread = self._take_apart(content)
        for number, _, why in unread[:TOLD]:
            warnings.warn(f"{self.path}:{number}: no record, skipped: {why}", TornLineWarning, stacklevel=2)
        if len(unread) > TOLD:
            more = len(unread) - TOLD
            warnings.warn(f"{self.path}: {more} more lines are not records", TornLineWarning, stacklevel=2)
        yield from found

    def rewrite(self, choose: Callable[[list], Iterable]) -> None:
        """Keep the records that ``choose`` returns, then all lines that are not records; writers wait meanwhile."""
        with self._locked(fcntl.LOCK_EX) as fd:
            self._end_last_line(fd)
            found, unread = self._take_apart(old := _content(fd))
            lines = [record.to_json().encode() for record in choose(found)] + [line for _, line, _ in unread]
            new = b"".join(line + b"\n" for line in lines)
            if new != old:
                _replace_content(fd, len(old), new)

    def _take_apart(self, content: bytes) -> tuple[list, list[tuple[int, bytes, str]]]:
        """The records; and for each line that is not a record its number, bytes and the reason."""
        found, unread = [], []
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                if len(line) > LONGEST_LINE:
                    raise ValueError(f"{len(line):,} bytes, a line has {LONGEST_LINE:,} at most")
                found.append(self._kind.from_json(line.decode("utf-8-sig")))
            except UnicodeDecodeError as e:
                unread.append((number, line, f"byte {e.start + 1} is not UTF-8"))
            except ValueError as e:
                unread.append((number, line, cut(str(e), 160)))
        return found, unread

    @contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        try:
            if why := refusal(self.path, regular=True):
                raise TvmMobilenetError(
                    f"{self._what} {self.path}: {why}", f"give {self._flag} a regular file, or a new name"
                )
            if how == fcntl.LOCK_EX:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = self._open_locked(how)
        except OSError as e:
            if how == fcntl.LOCK_SH and isinstance(e, FileNotFoundError):
                raise
            raise self._failed(e) from None
        try:
            yield fd
        except OSError as e:
            raise self._failed(e) from None
        finally:
            os.close(fd)  # this releases the lock

    def _failed(self, error: OSError) -> TvmMobilenetError:
        return TvmMobilenetError(f"{self._what} {self.path}: {error.strerror}", f"choose another with {self._flag}")

    def _open_locked(self, how: int) -> int:
        writing = how == fcntl.LOCK_EX
        while True:
            fd = os.open(
                self.path, (os.O_RDWR | os.O_APPEND | os.O_CREAT if writing else os.O_RDONLY) | os.O_NONBLOCK, 0o644
            )
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise OSError(0, "it is not a regular file any more")
                try:
                    fcntl.flock(fd, how)
                except OSError:
                    if writing:
                        raise
                    return fd  # a file system without locks can still be read
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    return fd
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was replaced while this process waited: take the new file

    def _end_last_line(self, fd: int) -> None:
        """Add a missing newline to the last line, or move the line away if it is torn."""
        size = os.fstat(fd).st_size
        tail, length = b"", LONGEST_LINE
        while size and b"\n" not in tail and len(tail) < size:
            tail = os.pread(fd, length, max(0, size - length))
            length *= 2
        tail = tail[tail.rfind(b"\n") + 1 :]
        if not tail:
            return
        with suppress(ValueError):
            json_text.parse(tail.decode("utf-8-sig"))
            os.write(fd, b"\n")  # an editor left out the newline
            return
        torn = self.path.with_suffix(".torn")
        if why := refusal(torn, regular=True):
            raise TvmMobilenetError(f"{torn}, where the torn end of {self.path} goes: {why}", "move it away")
        with open(torn, "ab") as file:
            file.write(tail + b"\n")
        os.ftruncate(fd, size - len(tail))
        warnings.warn(
            f"{self.path}: its last line was torn; {len(tail)} bytes moved to {torn}", TornLineWarning, stacklevel=5
        )


def _content(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return file.read()


def _replace_content(fd: int, size: int, new: bytes) -> None:
    """Replace the content of a file of ``size`` bytes that ends with a newline, so that no line is missing at any
    moment.
    """
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)  # it would override the offsets
    try:
        _write_at(fd, b"\n" * max(0, len(new) - size) + new, size)
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)
        raise
    _write_at(fd, new, 0)
    os.fsync(fd)
    os.ftruncate(fd, len(new))


def _write_at(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(fd, left, offset)
        left, offset = left[done:], offset + done


# ---- types


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


_LARGEST = 1e300  # largest number; this also refuses infinities and NaN
_SCALARS = {
    "str": (lambda v: isinstance(v, str), "a string"),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "int": (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "float": (_number, "a finite number"),
    "float | None": (lambda v: v is None or _number(v), "a finite number"),
    "int | str | bool": (lambda v: isinstance(v, (int, str)), "a whole number, a string, true or false"),
}


def typed(kind: type, data: object, defaults: dict | None = None) -> dict:
    """The fields of a dataclass from a JSON document, each with the type that the class declares.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are numbers, strings, truth values, or dicts of them by name.
    data : object
        The parsed JSON.
    defaults : dict, optional
        Values of fields that the class itself requires.

    Raises
    ------
    ValueError
        A field is unknown, missing, or of another type; the message names it.
    """
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    declared = {f.name: f for f in dataclasses.fields(kind)}
    data = {**(defaults or {}), **data}
    for name, value in data.items():
        if name not in declared:
            raise ValueError(f"unknown field {name!r}; a newer version's?")
        annotation = str(declared[name].type)
        if annotation.startswith("dict["):
            test, word = _SCALARS[annotation[len("dict[str, ") : -1]]
            if not isinstance(value, dict):
                raise ValueError(f"{name} is {json_word(value)}, not an object")
            for key, inner in value.items():
                if not test(inner):
                    raise ValueError(f"{name}: {key} is {json_word(inner)}, not {word}")
        else:
            test, word = _SCALARS[annotation]
            if not test(value):
                raise ValueError(f"{name} is {json_word(value)}, not {word}")
            if annotation.startswith("float") and value is not None:
                data[name] = float(value)
    _check_texts(data)
    if missing := [
        name
        for name, f in declared.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]:
        raise ValueError(f"no field {missing[0]!r}")
    return data


def json_word(value: object) -> str:
    """A value for a message: as JSON, shortened."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return cut(json.dumps(value), 40)


def cut(text: str, length: int) -> str:
    """A text shortened to so many characters, all printable."""
    text = text.encode(errors="backslashreplace").decode()
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: length + 1])
    return text if len(text) <= length else text[: length - 1] + "…"


def _check_texts(value: object) -> None:
    """Raise UnicodeEncodeError, a ValueError, for a text that cannot be encoded: half of a surrogate pair."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_texts(key)
            _check_texts(inner)
    elif isinstance(value, str):
        value.encode()
