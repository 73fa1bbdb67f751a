"""The address of a board, as ``--board`` gives it. It is parsed, and refused if wrong, before any slow work begins.

``virtual``                          the emulator
``local``                            this machine
``rpc://host[:port]``                an agent, or TVM's own RPC server (default port 9090)
``tracker://host[:port]/key``        any free board that a tracker has under a key (port 9190 unless given)
``ssh://[user@]host[:port]``         a machine that ``ssh`` reaches; the agent there is started and ended

The flag ``--trust-network`` adds ``?trust-network`` after ``rpc://`` or ``tracker://``: any answer from that address is
then trusted. Without it a board beyond this machine must prove that it has the token, and no tracker beyond this
machine is asked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from tvm_mobilenet.errors import TvmMobilenetError, nearest

AGENT_PORT = 9090  # the default of ``python -m tvm.exec.rpc_server``, and that of
TRACKER_PORT = 9190  # ``python -m tvm.exec.rpc_tracker``
KINDS = ("virtual", "local", "rpc", "tracker", "ssh")
SYNTAX = "virtual, local, rpc://host:port, tracker://host:port/key or ssh://user@host"


@dataclass(frozen=True)
class Address:
    """A board's address.

    Attributes
    ----------
    text : str
        As the user gave it.
    kind : str
        ``virtual``, ``local``, ``rpc``, ``tracker`` or ``ssh``.
    host, user : str
    port : int
        0 if the kind has no port, or for ssh's own default.
    key : str
        The key of a tracker's boards, or of one RPC server.
    trusted : bool
        The board or tracker need not prove that it has the token.
    """

    text: str
    kind: str
    host: str = ""
    port: int = 0
    key: str = ""
    user: str = ""
    trusted: bool = False

    @property
    def measured(self) -> bool:
        """Whether the board's costs are seconds of a real machine."""
        return self.kind != "virtual"

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over RPC."""
        return self.kind in ("rpc", "tracker", "ssh")

    @property
    def endpoint(self) -> str:
        """``host:port``, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host

    @property
    def demands_token(self) -> bool:
        """Whether a board there must show that it has the token."""
        with contextlib.suppress(OSError):  # an unknown host is reported later
            return not self.trusted and not is_loopback(self.host)
        return not self.trusted

    def check_tracker(self) -> None:
        """Refuse a tracker beyond this machine without ``--trust-network``.

        Raises
        ------
        TvmMobilenetError
        """
        if self.kind == "tracker" and not self.trusted:
            with contextlib.suppress(OSError):
                if not is_loopback(self.host):
                    raise TvmMobilenetError(
                        f"--board {self.text}: a tracker has no token: any program there could choose the boards",
                        "add --trust-network, if you trust all in this network; or --board rpc://…, ssh://…",
                    )

    def trusting(self) -> Address:
        """The same address, with ``--trust-network``.

        Raises
        ------
        TvmMobilenetError
            The flag has no effect for this kind of address.
        """
        if self.kind not in ("rpc", "tracker"):
            why = "ssh authenticates by itself" if self.kind == "ssh" else "it needs no network"
            raise TvmMobilenetError(f"--trust-network: {self.text}: {why}", "leave it out")
        return self if self.trusted else replace(self, text=f"{self.text}?{_TRUST}", trusted=True)


_TRUST = "trust-network"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host, by name or address.

    Raises
    ------
    OSError
        There is no such host.
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]").split("%")[0]).is_loopback
    found = socket.getaddrinfo(host, None)
    return all(ipaddress.ip_address(entry[4][0].split("%")[0]).is_loopback for entry in found)


def parse(text: str) -> Address:
    """The address in a text.

    Raises
    ------
    TvmMobilenetError
        There is no such kind of board, or something of the address is missing or wrong.
    """
    if text in ("virtual", "local"):
        return Address(text, text)
    kind, found, _ = text.partition("://")
    if not found or kind not in ("rpc", "tracker", "ssh"):
        near = nearest(kind.lower(), KINDS)
        guess = f"; did you mean {near}{'://' * (near in KINDS[2:])}?" if near else ""
        raise TvmMobilenetError(f"--board {text}: unknown kind of board {kind!r}{guess}", SYNTAX)
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        raise TvmMobilenetError(f"--board {text}: no host and port; a port is a number up to 65535", SYNTAX) from None
    key, user = unquote(url.path.strip("/")), unquote(url.username or "")
    trusted = url.query == _TRUST and kind != "ssh"
    odd = (url.query and not trusted) or url.fragment or url.password
    if not host or host.startswith("-") or user.startswith("-") or odd:
        what = "no host" if not host else "only user, host, port and key make an address"
        raise TvmMobilenetError(f"--board {text}: {what}", SYNTAX)
    if port == 0:
        raise TvmMobilenetError(f"--board {text}: port 0 is not valid", SYNTAX)
    if any(c.isspace() for c in key):
        raise TvmMobilenetError(f"--board {text}: a key has no spaces", SYNTAX)
    if kind == "tracker" and not key:
        raise TvmMobilenetError(f"--board {text}: the key is missing", "tracker://host:port/key, such as …/rpi4")
    if kind != "ssh" and user:
        raise TvmMobilenetError(f"--board {text}: {kind} takes no user", SYNTAX)
    if kind == "ssh" and key:
        raise TvmMobilenetError(f"--board {text}: {url.path} is one part too many", "ssh://user@host[:port]")
    default = {"rpc": AGENT_PORT, "tracker": TRACKER_PORT, "ssh": 0}[kind]
    return Address(text, kind, host, port or default, key, user, trusted)
