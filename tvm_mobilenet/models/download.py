"""A file from an address that is written down with its digest: whole and right in its place, or not there at all.

What has arrived waits beside it, so that the next try goes on from there. Whoever serves it is not trusted: how much
may come, how slowly, and where redirections may lead is bounded. Nothing counts before its SHA-256 is the one known.
Processes that want the same file take turns; those that come later find it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.system import fcntl
from tvm_mobilenet.terminal.console import say
from tvm_mobilenet.terminal.printable import printable

TRIES = 3  # of a transfer that breaks off, each from where the one before ended
SILENCE = 30.0  # seconds without a byte
WINDOW, LEAST = 60.0, 64 << 10  # seconds in which at least so many bytes must come
MOST_REDIRECTIONS = 5
_LOCAL = ("localhost", "127.0.0.1", "::1")
_CHUNK = 1 << 16
_AGAIN = "run it again: it goes on where it stopped"


class _Broken(Exception):
    """The transfer ended early; what came is kept."""


def has_digest(path: Path, sha256: str) -> bool:
    """Whether there is a file whose SHA-256 is, or begins with, these hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256)
    except OSError:
        return False


def fetch(
    address: str, path: Path, sha256: str, most: int, watch: Callable[[int, int | None], None], way_out: str
) -> None:
    """Download a file, unless it is there already.

    Parameters
    ----------
    address : str
        https; http of this machine alone.
    path : path
        Where it goes, in a folder of the user's own that exists. ``.part`` and ``.lock`` stand beside it.
    sha256 : str
        Its digest in hexadecimal, or as many of its first digits as are published.
    most : int
        Bytes that it may have.
    watch : callable
        Told the bytes that have come, and how many there will be or None.
    way_out : str
        What a user without a network can do, for the hint.

    Raises
    ------
    TvmMobilenetError
        It cannot be had, is too large, or is another file; there is no room for it.
    """
    if has_digest(path, sha256):
        return
    with _alone(path):
        if has_digest(path, sha256):
            return  # whoever was here before
        part = path.with_name(path.name + ".part")
        for left in reversed(range(TRIES)):
            began = part.stat().st_size if part.exists() else 0
            try:
                _transfer(address, part, began, most, watch, way_out)
            except _Broken as broken:
                if left:
                    continue
                raise TvmMobilenetError(f"{address}: {broken}", _AGAIN) from None
            if has_digest(part, sha256):
                part.replace(path)
                return
            part.unlink()
            if not began:  # else the two halves may be of two files: once more from the start
                raise TvmMobilenetError(
                    f"{address} gave another file: its SHA-256 does not begin with {sha256[:16]}",
                    "it may have been changed on its way; nothing of it is kept",
                )
        raise TvmMobilenetError(f"{address} gave another file each time", "nothing of it is kept")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and are told so."""
    try:
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as e:
        raise TvmMobilenetError(
            f"{path.parent} cannot be written: {reason(e)}", "set XDG_CACHE_HOME to a folder that can be"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"another process downloads {path.name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _transfer(address: str, part: Path, began: int, most: int, watch, way_out: str) -> None:
    """Append what is missing of a file to ``part``."""
    headers = {"User-Agent": "tvm-mobilenet", "Accept-Encoding": "identity"}
    if began:
        headers["Range"] = f"bytes={began}-"
    try:
        answer = _opener(address).open(urllib.request.Request(address, headers=headers), timeout=SILENCE)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416 and began:  # what is there is longer than the file, or all of it: the digest tells
            if str(e.headers.get("Content-Range", "")).endswith(f"*/{began}"):
                return
            part.unlink()
            raise _Broken("what was kept of it does not fit") from None
        raise TvmMobilenetError(
            f"{address}: the server says {e.code} {printable(str(e.reason))[:80]}", way_out
        ) from None
    except (OSError, http.client.HTTPException) as e:
        why = getattr(e, "reason", e)
        text = reason(why) if isinstance(why, BaseException) else str(why)
        raise TvmMobilenetError(f"{address} cannot be reached: {printable(text)[:200]}", way_out) from None
    with answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {began}-")
        started = began if resumed else 0
        length = answer.headers.get("Content-Length", "")
        whole = started + int(length) if length.isdecimal() and len(length) < 16 else None
        if (whole or 0) > most:
            raise TvmMobilenetError(f"{address} has {whole:,} bytes, at most {most:,} are expected", way_out)
        _receive(answer, part, started, whole, most, watch, address)


def _receive(answer, part: Path, started: int, whole: int | None, most: int, watch, address: str) -> None:
    have, window, marked = started, time.monotonic(), started
    with _writing(part, "r+b" if started else "wb") as file:
        file.seek(started)
        file.truncate()
        while True:
            try:
                data = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as e:
                raise _Broken(f"it broke off after {have:,} bytes: {printable(reason(e))[:200]}") from None
            if not data:
                break
            have += len(data)
            if have > most:
                file.truncate(0)
                raise TvmMobilenetError(f"{address} does not end: more than {most:,} bytes", "nothing of it is kept")
            file.write(data)
            watch(have, whole)
            if time.monotonic() - window > WINDOW:
                if have - marked < LEAST:
                    raise TvmMobilenetError(f"{address}: {have - marked:,} bytes in {WINDOW:g} seconds", _AGAIN)
                window, marked = time.monotonic(), have
    if whole is not None and have < whole:
        raise _Broken(f"it ended after {have:,} of {whole:,} bytes")


@contextlib.contextmanager
def _writing(part: Path, mode: str) -> Iterator:
    """The file that grows. Where there is no room for it nothing is left of it."""
    try:
        with part.open(mode) as file:
            yield file
    except OSError as e:
        part.unlink(missing_ok=True)
        raise TvmMobilenetError(
            f"{part.parent} has no place for {part.stem}: {reason(e)}", "make room, or set XDG_CACHE_HOME"
        ) from None


def _opener(address: str) -> urllib.request.OpenerDirector:
    """What opens an address and follows it no further than it may lead."""
    _check(address, address)

    class Redirections(urllib.request.HTTPRedirectHandler):
        max_redirections = MOST_REDIRECTIONS

        def redirect_request(self, request, file, code, message, headers, new):
            _check(new, address)
            return super().redirect_request(request, file, code, message, headers, new)

    return urllib.request.build_opener(Redirections)


def _check(address: str, first: str) -> None:
    """Refuse what is neither encrypted nor, as the first address was, of this machine."""
    there, where = urllib.parse.urlsplit(address), urllib.parse.urlsplit(first)
    local = all(url.scheme == "http" and url.hostname in _LOCAL for url in (there, where))
    if there.scheme != "https" and not local:
        raise TvmMobilenetError(f"{first} leads to {printable(address)[:200]}", "only https is followed")
