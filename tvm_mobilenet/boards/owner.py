"""The user whose process is at the other end of a connection within this machine, read from ``/proc/net/tcp``.

Every user of a machine can connect to a port on loopback, and can listen on a port first. So an agent serves callers of
its own user without a token, and a client needs no token for a server of its own user or of root; all others must prove
that they have it (``boards.token``). The system names the user who made a socket. It names user 0 for a socket that has
no process yet or no longer. So only established connections are looked up, and user 0 is not believed where it may mean
that.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_STANDS, _LISTENS = "01", "0A"  # states of a socket
_End = tuple[object, int]  # an address, and a port


def is_own_caller(connection: socket.socket) -> bool:
    """Whether a process of this user on this machine made an incoming connection."""
    try:
        here, there = _ends(connection)
        makers = {user for state, *ends, user in _sockets() if state == _STANDS and ends == [there, here]}
    except (OSError, ValueError):
        return False
    return makers == {os.geteuid()}


def stranger(connection: socket.socket) -> str:
    """A description of the process that answers an outgoing connection; empty if it belongs to this user or to root of
    this machine."""
    try:
        here, there = _ends(connection)
        if not there[0].is_loopback:
            return "it is not on loopback"
        accepted, listening = set(), set()
        for state, local, remote, user in _sockets():
            if state == _STANDS and (local, remote) == (there, here):
                accepted.add(user)
            elif state == _LISTENS and local[1] == there[1] and (local[0] == there[0] or local[0].is_unspecified):
                listening.add(user)
    except (OSError, ValueError):
        return "the system does not tell whose process listens there"
    # a connection that is not accepted yet is listed as root's: then the owner of the listening socket counts
    users = accepted if accepted - {0} else listening
    if not users:
        return "the system does not tell whose process listens there"
    others = users - {os.geteuid(), 0}
    return f"a process of another user of this machine listens there (uid {min(others)})" if others else ""


def _ends(connection: socket.socket) -> tuple[_End, _End]:
    """The addresses of this end and of the other."""
    return tuple(
        (_plain(name[0].split("%")[0]), name[1]) for name in (connection.getsockname(), connection.getpeername())
    )


def _plain(address) -> object:
    """An address; an IPv4 address in IPv6 form is returned as IPv4."""
    found = ipaddress.ip_address(address)
    return getattr(found, "ipv4_mapped", None) or found


def _sockets() -> Iterator[tuple[str, _End, _End, int]]:
    """State, local end, remote end and user of all TCP sockets of this machine.

    Raises
    ------
    OSError, ValueError
        The system's tables cannot be read.
    """
    for table in _TABLES:
        if table == _TABLES[1] and not Path(table).exists():
            continue  # a system without IPv6
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            _, local, remote, state, _, _, _, user, *_ = line.split()
            if state in (_STANDS, _LISTENS):
                yield state, _end(local), _end(remote), int(user)


def _end(text: str) -> _End:
    """``0100007F:2382``: words of 32 bits in this machine's order, and a port."""
    words, _, port = text.partition(":")
    data = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
    return _plain(data), int(port, 16)
