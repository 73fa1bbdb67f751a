"""Download a file whose address and digest are known. It appears in its place complete and verified, or not at all.

A partial download waits beside it, and the next try continues it. The server is not trusted: size, slowness and
redirections are bounded, and the file is used only if its SHA-256 is the known one. Processes that want the same file
take turns; the later ones find it complete.
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

TRIES = 3  # tries of an interrupted transfer, each from where the last one ended
SILENCE = 30.0  # seconds without a byte
WINDOW, LEAST = 60.0, 64 << 10  # seconds, and the least bytes that must arrive in them
MOST_REDIRECTIONS = 5
_LOCAL = ("localhost", "127.0.0.1", "::1")
_CHUNK = 1 << 16
_AGAIN = "run it again: it continues where it stopped"


class _Broken(Exception):
    """The transfer ended early; the received part is kept."""


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
        Its place, in an existing folder of the user's own; ``.part`` and ``.lock`` files are made beside it.
    sha256 : str
        Its digest in hexadecimal, or as many of its first digits as are published.
    most : int
        The largest size in bytes.
    watch : callable
        Called with the bytes received, and the bytes in all or None.
    way_out : str
        The hint for a user without a network.

    Raises
    ------
    TvmMobilenetError
        It cannot be downloaded, is too large, is another file, or there is no room for it.
    """
    if has_digest(path, sha256):
        return
    with _alone(path):
        if has_digest(path, sha256):
            return  # another process has downloaded it
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
            if not began:  # else the parts may come from two files: start again
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
    """Append the missing rest of a file to ``part``."""
    headers = {"User-Agent": "tvm-mobilenet", "Accept-Encoding": "identity"}
    if began:
        headers["Range"] = f"bytes={began}-"
    try:
        answer = _opener(address).open(urllib.request.Request(address, headers=headers), timeout=SILENCE)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416 and began:  # ``part`` is complete, or longer than the file: the digest decides
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
    """The growing file; without room for it, nothing of it is left."""
    try:
        with part.open(mode) as file:
            yield file
    except OSError as e:
        part.unlink(missing_ok=True)
        raise TvmMobilenetError(
            f"{part.parent} has no place for {part.stem}: {reason(e)}", "make room, or set XDG_CACHE_HOME"
        ) from None


def _opener(address: str) -> urllib.request.OpenerDirector:
    """An opener that follows only allowed redirections of an address."""
    _check(address, address)

    class Redirections(urllib.request.HTTPRedirectHandler):
        max_redirections = MOST_REDIRECTIONS

        def redirect_request(self, request, file, code, message, headers, new):
            _check(new, address)
            return super().redirect_request(request, file, code, message, headers, new)

    return urllib.request.build_opener(Redirections)


def _check(address: str, first: str) -> None:
    """Refuse an address that is neither encrypted nor, like the first address, on this machine."""
    there, where = urllib.parse.urlsplit(address), urllib.parse.urlsplit(first)
    local = all(url.scheme == "http" and url.hostname in _LOCAL for url in (there, where))
    if there.scheme != "https" and not local:
        raise TvmMobilenetError(f"{first} leads to {printable(address)[:200]}", "only https is followed")
