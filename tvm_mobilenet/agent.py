"""Serve this board to others: run kernels, measure them and tell the board's facts over TVM's RPC.

    python -m tvm_mobilenet.agent                                        # for this machine and ssh tunnels
    python -m tvm_mobilenet.agent --tracker shelf:9190 --key rpi4 --host 0.0.0.0

It needs the base installation only. Whoever is served can run any code as this user. It listens on 127.0.0.1 unless
told otherwise, serves this user's programs there, and others come through ssh (``--board ssh://user@host``). Other
users of the machine, and callers on any other address, are served if they show that they have the token in this user's
home (``boards.token``).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import struct
import sys
import time

from tvm_mobilenet import __version__, system
from tvm_mobilenet.boards.address import AGENT_PORT, TRACKER_PORT, is_loopback
from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError
from tvm_mobilenet.terminal import console

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parser() -> argparse.ArgumentParser:
    """The arguments of ``agent``."""
    new = entry.parser_for("agent", __doc__.split("\n")[0])
    new.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: %(default)s)")
    new.add_argument("--port", type=int, default=AGENT_PORT, help="0: any free one (default: %(default)s)")
    new.add_argument("--key", default="", metavar="NAME", help="such as rpi4; clients must name it")
    new.add_argument("--tracker", metavar="HOST:PORT", help="a TVM tracker that lends this board out under its key")
    new.add_argument(
        "--trust-network",
        action="store_true",
        help="serve whoever reaches --host, other users of this machine too, without the token: they can run ANY code "
        "here as this user",
    )
    new.add_argument(
        "--session-limit", type=options.time_span, default=0.0, metavar="TIME", help="that one session may take"
    )
    new.add_argument(
        "--memory-limit", type=_size, default=0, metavar="SIZE", help="of one session's address space, such as 700M"
    )
    return new


def _size(text: str) -> int:
    """An argparse type: bytes, or ``700M``, ``2G``."""
    match = re.fullmatch(r"(\d+)([kmg]?)", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; try 700M")
    return int(match[1]) * _UNITS[match[2]]


def check(args: argparse.Namespace) -> tuple[str, int] | None:
    """Refuse what cannot work or is not safe; the tracker's address.

    Raises
    ------
    TvmMobilenetError
        What is wrong with the arguments.
    """
    if struct.calcsize("P") != 8:
        raise MissingDependencyError("TVM needs a 64-bit system", "install the 64-bit Raspberry Pi OS on this board")
    if not 0 <= args.port < 1 << 16:
        raise TvmMobilenetError(f"--port {args.port} is no port")
    if re.search(r"\s|:", args.key):
        raise TvmMobilenetError(f"--key {args.key!r}: a key has no spaces and colons")
    if not args.tracker:
        return None
    if not args.key:
        raise TvmMobilenetError("--tracker needs a --key, under which the board is lent out", "--key rpi4")
    host, _, port = args.tracker.rpartition(":") if ":" in args.tracker else (args.tracker, "", str(TRACKER_PORT))
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise TvmMobilenetError(f"--tracker {args.tracker}: not HOST:PORT", f"such as shelf.local:{TRACKER_PORT}")
    if is_private(args.host) and not is_private(host):
        raise TvmMobilenetError(
            f"--tracker {args.tracker}: its clients cannot reach {args.host}",
            "add --host 0.0.0.0: it serves those "
            "who have the token; any code can be run by whoever is served, which with --trust-network is everybody",
        )
    return host.strip("[]"), int(port)


def is_private(host: str) -> bool:
    """Whether only this machine reaches an address.

    Raises
    ------
    TvmMobilenetError
        There is no such host.
    """
    try:
        return is_loopback(host)
    except OSError as e:
        raise TvmMobilenetError(f"{host}: no such host: {e.strerror}", "give an address of this machine") from None


def _run(args: argparse.Namespace) -> int:
    system.require_linux("agent")
    tracker = check(args)
    from tvm_mobilenet.boards import token
    from tvm_mobilenet.boards.agent import services, tvm_alone
    from tvm_mobilenet.boards.agent.door import EVERYBODY, NOBODY, OWN
    from tvm_mobilenet.boards.agent.server import AgentServer

    tvm_alone.import_tvm()
    import tvm

    def log(line: str) -> None:
        console.say(f"{time.strftime('%H:%M:%S')} {line}")

    secret, free = _token(EVERYBODY if args.trust_network else OWN if is_private(args.host) else NOBODY)
    limits = args.session_limit, args.memory_limit
    with AgentServer(args.host, args.port, args.key, tracker, *limits, secret, free, say=log) as server:
        signal.signal(signal.SIGTERM, server.stop)
        signal.signal(signal.SIGINT, server.stop)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, server.stop)
        server.guard()
        console.say(f"agent {__version__} with TVM {tvm.__version__} on {socket.gethostname()}")
        console.say(f"  services  {', '.join(sorted(services.SERVICES))}; kernels, files")
        console.say(f"  folder    {server.folder}")
        if free == NOBODY and not is_private(args.host):
            console.say(f"  token     {token.path()}: demanded of every client; it authenticates, nothing is encrypted")
        elif free == EVERYBODY:
            console.say("  WARNING   whoever reaches this port can run any code here as this user")
        host = f"[{server.host}]" if ":" in server.host else server.host
        print(f"rpc://{host}:{server.port}" + (f"/{args.key}" if args.key and not tracker else ""), flush=True)
        server.run()
        log("ended")
    return 0


def _token(free: str) -> tuple[bytes, str]:
    """The token, and who need not have it; where some need not, it is made only if that can be done.

    Raises
    ------
    TvmMobilenetError
        It is demanded, and cannot be read or made.
    """
    from tvm_mobilenet.boards import token
    from tvm_mobilenet.boards.agent.door import NOBODY

    if given := os.environ.pop(token.GIVEN, ""):  # for this agent alone, by who started it through ssh
        return bytes.fromhex(given), NOBODY
    try:
        return token.read_or_make(), free
    except TvmMobilenetError:
        if free == NOBODY:
            raise
        return b"", free


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
