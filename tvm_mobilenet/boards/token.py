"""The token of this user's boards, and the exchange before TVM's handshake in which both sides prove that they have it.

    client  CHALLENGE, 32 random bytes
    agent   CHALLENGE, 32 random bytes, HMAC-SHA256(token, "agent" + both)
    client  HMAC-SHA256(token, "client" + both)

The exchange authenticates only: it neither encrypts nor protects the traffic after it. An agent that demands the token
answers TVM's own greeting with CHALLENGE, and the client may start over on the same connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.whole_file import beside

VARIABLE = "TVM_MOBILENET_TOKEN"  # a file to use instead of the one in the user's home
GIVEN = "TVM_MOBILENET_GIVEN_TOKEN"  # the token itself, for the agent that a client starts through ssh
CHALLENGE = struct.pack("<i", 0x7A271)  # differs from TVM's magic numbers
NONCE = PROOF = 32  # bytes
_TEXT = re.compile(rb"[0-9a-f]{64}\n?")


def path() -> Path:
    """The file of the token.

    Raises
    ------
    TvmMobilenetError
        The user has no home and the variable is not set.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tvm_mobilenet" / "token"
    except RuntimeError:
        raise TvmMobilenetError("this user has no home for the token", f"set HOME, or {VARIABLE} to a file") from None


def read() -> bytes:
    """The token; empty if there is no file.

    Raises
    ------
    TvmMobilenetError
        The file holds no token, or other users can read it.
    """
    file = path()
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    except OSError as e:
        raise TvmMobilenetError(f"the token {file} cannot be read: {e.strerror}", _REMEDY) from None
    with open(opened, "rb") as stream:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise TvmMobilenetError(f"the token {file} is not a file", _REMEDY)
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise TvmMobilenetError(f"the token {file} has mode {mode:04o}: others can read it", f"chmod 600 {file}")
        text = stream.read(100)
    if not _TEXT.fullmatch(text):
        raise TvmMobilenetError(f"{file} holds no token: 64 hexadecimal digits", _REMEDY)
    return bytes.fromhex(text.decode())


_REMEDY = "remove it; the agent makes a new one when it starts; copy that to every machine that may use the board"


def read_or_make() -> bytes:
    """The token, which is made if there is none.

    Raises
    ------
    TvmMobilenetError
        It cannot be read or made.
    """
    if found := read():
        return found
    file, text = path(), secrets.token_hex(PROOF) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with beside(file) as place:
            new = place / file.name
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as stream:
                stream.write(text)
            with contextlib.suppress(FileExistsError):  # another agent made the token first: that one counts
                os.link(new, file)
    except OSError as e:
        raise TvmMobilenetError(
            f"no token can be made at {file}: {e.strerror}", f"set {VARIABLE} to a file that can be written"
        ) from None
    return read()


def proof(token: bytes, side: str, nonces: bytes) -> bytes:
    """The proof that a side, ``agent`` or ``client``, has the token; ``nonces``: the client's, then the agent's."""
    return hmac.new(token, side.encode() + nonces, hashlib.sha256).digest()


class Unproven(Exception):
    """The other side does not have the token; the text says how the exchange failed."""


def challenge(token: bytes, send: Callable[[bytes], object], receive: Callable[[int], bytes]) -> None:
    """Run the client's side of the exchange.

    Parameters
    ----------
    send, receive : callable
        ``send`` sends bytes; ``receive`` returns exactly that number of bytes.

    Raises
    ------
    Unproven
        The other side does not have this token.
    """
    ours = secrets.token_bytes(NONCE)
    send(CHALLENGE + ours)
    if (first := receive(4)) != CHALLENGE:
        raise Unproven(f"it answers the challenge by {first.hex()}, as this project's agent does not")
    theirs, proven = receive(NONCE), receive(PROOF)
    nonces = ours + theirs
    if not same(proven, proof(token, "agent", nonces)):
        raise Unproven("it has another token")
    send(proof(token, "client", nonces))


def same(one: bytes, other: bytes) -> bool:
    """Whether two proofs are equal, in a time that does not depend on their contents."""
    return hmac.compare_digest(one, other)
