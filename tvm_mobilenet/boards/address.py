"""Where a board is, as ``--board`` says it: parsed and refused before anything slow begins.

``virtual``                          the emulator
``local``                            this machine
``rpc://host[:port]``                an agent, or TVM's own RPC server (port 9090 unless given)
``tracker://host[:port]/key``        any free board that a tracker has under a key (port 9190 unless given)
``ssh://[user@]host[:port]``         a machine that ``ssh`` reaches; the agent there is started and ended
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tvm_mobilenet.errors import TvmMobilenetError, nearest

AGENT_PORT = 9090  # what ``python -m tvm.exec.rpc_server`` takes, and
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
        0 where the kind has none, or for ssh its own default.
    key : str
        Of a tracker's boards, or of one RPC server.
    """

    text: str
    kind: str
    host: str = ""
    port: int = 0
    key: str = ""
    user: str = ""

    @property
    def measured(self) -> bool:
        """Whether costs there are seconds of a real machine."""
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
    if not host or host.startswith("-") or user.startswith("-") or url.query or url.fragment or url.password:
        what = "no host" if not host else "only user, host, port and key make an address"
        raise TvmMobilenetError(f"--board {text}: {what}", SYNTAX)
    if port == 0:
        raise TvmMobilenetError(f"--board {text}: port 0 is none", SYNTAX)
    if any(c.isspace() for c in key):
        raise TvmMobilenetError(f"--board {text}: a key has no spaces", SYNTAX)
    if kind == "tracker" and not key:
        raise TvmMobilenetError(f"--board {text}: the key is missing", "tracker://host:port/key, such as …/rpi4")
    if kind != "ssh" and user:
        raise TvmMobilenetError(f"--board {text}: {kind} knows no users", SYNTAX)
    if kind == "ssh" and key:
        raise TvmMobilenetError(f"--board {text}: {url.path} is one part too many", "ssh://user@host[:port]")
    default = {"rpc": AGENT_PORT, "tracker": TRACKER_PORT, "ssh": 0}[kind]
    return Address(text, kind, host, port or default, key, user)
