"""The first bytes of TVM's RPC: find out which server listens at a port, and ask a tracker for a free board.

TVM's own client answers anything unexpected with an internal error, and its tracker client waits for ever. The
protocol is that of ``tvm/rpc/base.py`` and ``server.py`` (TVM 0.27): each side sends a magic number, the length of its
key and the key, little endian; a tracker speaks JSON with a length before it.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable

from tvm_mobilenet.boards import owner, token
from tvm_mobilenet.boards.answers import plain
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.files import json_text

MAGIC, TRACKER_MAGIC = 0xFF271, 0x2F271
SUCCESS, DUPLICATE, MISMATCH = MAGIC, MAGIC + 1, MAGIC + 2
REQUEST, SUMMARY, PENDING = 4, 6, 7  # codes of tvm.rpc.base.TrackerCode
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 60.0  # wait for a board that another session holds
KNOWN_SECONDS = 3.0  # how long a key may be missing at a tracker
SILENCE_SECONDS = 3.0  # after this silence, find out why the port does not answer
_LONGEST_NAME = 1024
LONGEST = 1 << 22  # bytes of a tracker's answer, enough for 20,000 boards
DEAD_SECONDS = 45  # a connection is given up after so long without traffic
_NO_HOST = "is the name spelled right, and the board on?"
_START = "start one there: python -m tvm_mobilenet.agent, or python -m tvm.exec.rpc_server"


class Silent(BoardError):
    """A port accepts connections and sends nothing; in most cases the board is busy."""


class Refused(BoardError):
    """No server at the address can open a session."""


def dial(host: str, port: int, timeout: float = CONNECT_SECONDS) -> socket.socket:
    """A TCP connection.

    Raises
    ------
    Refused
        The host does not exist, no program listens there, or no answer comes.
    """
    where = f"{host}:{port}"
    try:
        found = socket.create_connection((host, port), timeout)
    except socket.gaierror as e:
        raise Refused(f"{where}: no such host: {e.strerror}", _NO_HOST) from None
    except ConnectionRefusedError:
        raise Refused(f"{where}: nothing listens there", _START) from None
    except TimeoutError:
        raise Refused(
            f"{where}: no answer within {timeout:.0f} s", "is the board on, and does a firewall let this port through?"
        ) from None
    except OSError as e:
        raise Refused(f"{where}: {e.strerror or e}", "is the board on and in this network?") from None
    watch(found)
    return found


def resolve(host: str, port: int) -> tuple[str, int]:
    """A host's address as digits, and the port.

    Raises
    ------
    Refused
        There is no such host.
    """
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0][4][:2]
    except OSError as e:
        raise Refused(f"{host}:{port}: no such host: {e.strerror}", _NO_HOST) from None


def watch(connection: socket.socket) -> None:
    """Make a connection fail ``DEAD_SECONDS`` after the other side is gone, and send small messages without delay."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    step = max(1, DEAD_SECONDS // 9)
    for option, value in (
        ("TCP_KEEPIDLE", 2 * step),
        ("TCP_KEEPINTVL", step),
        ("TCP_KEEPCNT", 7),
        ("TCP_USER_TIMEOUT", 1000 * DEAD_SECONDS),
    ):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def diagnose(host: str, port: int, patience: float = SILENCE_SECONDS) -> str:
    """The reason why a port opened no session; a reason that is certain is raised.

    Returns
    -------
    str
        ``busy``: it accepts connections and sends nothing; ``closes``: it closes them at once; ``server``: an RPC
        server with another key answers.

    Raises
    ------
    BoardError
        No program listens, or another kind of server does.
    """
    where = f"{host}:{port}"
    with dial(host, port) as connection:
        name = b"client:-"  # no board has this key: a server answers, and continues to wait for clients
        try:
            connection.settimeout(patience)
            connection.sendall(struct.pack("<ii", MAGIC, len(name)) + name)
            began = receive(connection, 4, time.monotonic() + patience)
        except OSError as e:
            _refuse_http(host, port)
            return "busy" if isinstance(e, TimeoutError) else "closes"
    if began in (b"HTTP", b"<htm", b"<!DO"):
        _refuse_http(host, port)
    if began == b"SSH-":
        raise BoardError(f"{where}: an SSH server answers there", "ssh://user@host reaches boards by ssh")
    if began == token.CHALLENGE or struct.unpack("<i", began)[0] in (SUCCESS, MISMATCH, DUPLICATE):
        return "server"
    raise BoardError(f"{where}: the server there is no TVM RPC server", "is this the right port?")


def _refuse_http(host: str, port: int) -> None:
    try:
        with socket.create_connection((host, port), 2) as other:
            other.settimeout(2)
            other.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if not other.recv(5).startswith(b"HTTP"):
                return
    except OSError:
        return
    raise BoardError(f"{host}:{port}: an HTTP server answers there", "is this the right port?")


def receive(connection: socket.socket, count: int, end: float) -> bytes:
    """Receive exactly ``count`` bytes, in any number of pieces, before a time of ``time.monotonic``.

    Raises
    ------
    ConnectionError
        The other side closed the connection first.
    TimeoutError
        They did not come in time.
    """
    if not 0 <= count <= LONGEST:
        raise ConnectionError(f"a message of {count} bytes")
    parts = bytearray()
    while len(parts) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionResetError("closed by the other side")
        parts += part
    return bytes(parts)


class Tracker:
    """A connection to a tracker; call its ``close``, or use it in a ``with``.

    Parameters
    ----------
    trusted : bool
        The tracker may be beyond this machine, or belong to another user.

    Raises
    ------
    BoardError
        There is no tracker at this address.
    TvmMobilenetError
        The tracker belongs to another user.
    """

    def __init__(self, host: str, port: int, trusted: bool = False):
        self.where = f"{host}:{port}"
        self._connection = dial(host, port)
        if not trusted and (stranger := owner.stranger(self._connection)):
            self.close()
            raise TvmMobilenetError(f"tracker {self.where}: {stranger}", "add --trust-network, if you trust it")
        try:
            self._connection.settimeout(CONNECT_SECONDS)
            self._connection.sendall(struct.pack("<i", TRACKER_MAGIC))
            if receive(self._connection, 4, time.monotonic() + CONNECT_SECONDS) != struct.pack("<i", TRACKER_MAGIC):
                raise ConnectionError("another magic number")
        except OSError:
            self.close()
            _refuse_http(host, port)
            raise BoardError(
                f"{self.where}: the server there is no TVM tracker",
                "start one: python -m tvm.exec.rpc_tracker; a board without a tracker is reached as rpc://HOST:PORT",
            ) from None

    def ask(self, message: list, timeout: float = CONNECT_SECONDS) -> list:
        """The tracker's answer to one message.

        Raises
        ------
        TimeoutError
            No answer came.
        BoardError
            The tracker went away, or reports a failure.
        """
        text, end = json.dumps(message).encode(), time.monotonic() + timeout
        try:
            self._connection.settimeout(timeout)
            self._connection.sendall(struct.pack("<i", len(text)) + text)
            (length,) = struct.unpack("<i", receive(self._connection, 4, end))
            answer = json_text.parse(receive(self._connection, length, end).decode())
        except TimeoutError:
            raise
        except (OSError, ValueError) as e:
            raise BoardError(
                f"tracker {self.where} went away: {plain(str(e))}", "was it restarted? try again"
            ) from None
        if not isinstance(answer, list) or not answer or answer[0] != 0 or isinstance(answer[0], bool):
            raise BoardError(f"tracker {self.where} refuses: {plain(str(answer))[:200]}", "try again")
        return answer[1:]

    def boards(self) -> dict[str, dict]:
        """For every key: the ``addresses`` of its boards, the number of ``free`` ones, and of ``pending`` clients.

        Raises
        ------
        BoardError
            The tracker's answer has another form.
        """
        answer = self._asked([SUMMARY], CONNECT_SECONDS)
        found: dict[str, dict] = {}
        try:
            (summary,) = answer
            for server in summary["server_info"]:
                host, port = server["addr"]
                key = _name(_name(server["key"]).removeprefix("server:"))
                board = (None if host is None else _name(host), None if port is None else _port(port))
                found.setdefault(key, {"addresses": [], "free": 0, "pending": 0})["addresses"].append(board)
            for key, queue in summary["queue_info"].items():
                if key in found:
                    found[key] |= {"free": _count(queue["free"]), "pending": _count(queue["pending"])}
        except (TypeError, KeyError, ValueError, AttributeError):
            raise self._nonsense(answer) from None
        return found

    def _asked(self, message: list, timeout: float) -> list:
        try:
            return self.ask(message, timeout)
        except TimeoutError:
            raise BoardError(f"tracker {self.where}: no whole answer within {timeout:.0f} s", "try again") from None

    def _nonsense(self, answer: object) -> BoardError:
        return BoardError(
            f"tracker {self.where} answers what no tracker does: {plain(str(answer))[:200]}", "is it a TVM tracker?"
        )

    def known(self, key: str) -> dict[str, dict]:
        """As ``boards``, after making sure that one has this key.

        TVM's own server leaves its tracker for a moment after a mere connection to it, so the key is looked for again.

        Raises
        ------
        BoardError
            No board has the key for some seconds.
        """
        end = time.monotonic() + KNOWN_SECONDS
        while key not in (known := self.boards()) and time.monotonic() < end:
            time.sleep(0.2)
        if key not in known:
            there = ", ".join(f"{k} ({len(v['addresses'])})" for k, v in sorted(known.items()))[:300] or "none"
            raise BoardError(
                f"tracker {self.where} has no board with key {key!r}; it has: {there}",
                f"on the board: python -m tvm_mobilenet.agent --tracker {self.where} --key {key}",
            )
        return known

    def request(self, key: str, wait: float = WAIT_SECONDS, waiting: Callable[[], None] = lambda: None) -> tuple:
        """Reserve a free board of a key; return its host, port and match key.

        Raises
        ------
        BoardError
            The tracker knows no such key, or all its boards stay busy.
        """
        end = time.monotonic() + wait
        known = self.known(key)
        if not known[key]["free"]:
            waiting()
        try:
            answer = self.ask([REQUEST, key, "", 1], max(0.1, end - time.monotonic()))
        except TimeoutError:
            raise Silent(
                f"tracker {self.where}: no board with key {key!r} became free within {wait:.0f} s "
                f"({len(known[key]['addresses'])} known)",
                "wait for other sessions to end, or look with python -m tvm.exec.query_rpc_tracker",
            ) from None
        try:
            ((host, port, match_key),) = answer
            return _name(host), _port(port), _name(match_key)
        except (TypeError, ValueError):
            raise self._nonsense(answer) from None

    def close(self) -> None:
        """End the connection; a waiting request is withdrawn."""
        self._connection.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > _LONGEST_NAME or plain(value) != value or " " in value:
        raise ValueError
    return value


def _port(value: object) -> int:
    if not 0 < _count(value) < 1 << 16:
        raise ValueError
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value
