"""Serve this board to other machines over TVM's RPC: run kernels, measure them and report the board's facts.

    python -m tvm_mobilenet.agent                                        # for this machine and ssh tunnels
    python -m tvm_mobilenet.agent --tracker shelf:9190 --key rpi4 --host 0.0.0.0

The agent needs the base installation only. Every client that it serves can run any code as this user. By default it
listens on 127.0.0.1 and serves this user's own programs there; other machines reach it through ssh (``--board
ssh://user@host``). Other users of this machine, and callers on any other address, must prove that they have the token
in this user's home (``boards.token``).
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
    new.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)"
    )
    new.add_argument(
        "--port", type=int, default=AGENT_PORT, help="port to listen on; 0: any free one (default: %(default)s)"
    )
    new.add_argument("--key", default="", metavar="NAME", help="the board's name, such as rpi4; clients must give it")
    new.add_argument("--tracker", metavar="HOST:PORT", help="a TVM tracker that lends this board out under its key")
    new.add_argument(
        "--trust-network",
        action="store_true",
        help="serve everyone who reaches --host, and other users of this machine, without the token: they can run "
        "ANY code here as this user",
    )
    new.add_argument(
        "--session-limit", type=options.time_span, default=0.0, metavar="TIME", help="longest time of one session"
    )
    new.add_argument(
        "--memory-limit",
        type=_size,
        default=0,
        metavar="SIZE",
        help="largest address space of one session, such as 700M",
    )
    return new


def _size(text: str) -> int:
    """An argparse type: bytes, or ``700M``, ``2G``."""
    match = re.fullmatch(r"(\d+)([kmg]?)", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; try 700M")
    return int(match[1]) * _UNITS[match[2]]


def check(args: argparse.Namespace) -> tuple[str, int] | None:
    """Refuse arguments that cannot work or are not safe; return the tracker's address.

    Raises
    ------
    TvmMobilenetError
        An argument cannot work or is not safe.
    """
    if struct.calcsize("P") != 8:
        raise MissingDependencyError("TVM needs a 64-bit system", "install the 64-bit Raspberry Pi OS on this board")
    if not 0 <= args.port < 1 << 16:
        raise TvmMobilenetError(
            f"--port {args.port} is not a port", "give a number from 0 to 65535; 0 takes a free one"
        )
    if re.search(r"\s|:", args.key):
        raise TvmMobilenetError(f"--key {args.key!r}: a key contains no spaces or colons", "for example --key rpi4")
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
            "add --host 0.0.0.0, which serves clients "
            "that have the token; every client served can run any code, and --trust-network serves all",
        )
    return host.strip("[]"), int(port)


def is_private(host: str) -> bool:
    """Whether an address can be reached from this machine only.

    Raises
    ------
    TvmMobilenetError
        The host does not exist.
    """
    try:
        return is_loopback(host)
    except OSError as e:
        raise TvmMobilenetError(f"{host}: no such host: {e.strerror}", "give an address of this machine") from None


def _run(args: argparse.Namespace) -> int:
    system.require_linux("agent")
    tracker = check(args)
    from tvm_mobilenet import packages
    from tvm_mobilenet.boards import token
    from tvm_mobilenet.boards.agent import services
    from tvm_mobilenet.boards.agent.door import EVERYBODY, NOBODY, OWN
    from tvm_mobilenet.boards.agent.server import AgentServer

    packages.import_tvm()
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
            console.say(f"  token     {token.path()}: every client needs it; it authenticates, nothing is encrypted")
        elif free == EVERYBODY:
            console.say("  WARNING   everyone who reaches this port can run any code here as this user")
        host = f"[{server.host}]" if ":" in server.host else server.host
        print(f"rpc://{host}:{server.port}" + (f"/{args.key}" if args.key and not tracker else ""), flush=True)
        server.run()
        log("ended")
    return 0


def _token(free: str) -> tuple[bytes, str]:
    """The token, and the callers that need none. If some need none, a token that cannot be made is no error.

    Raises
    ------
    TvmMobilenetError
        Every caller needs the token, and it cannot be read or made.
    """
    from tvm_mobilenet.boards import token
    from tvm_mobilenet.boards.agent.door import NOBODY

    if given := os.environ.pop(token.GIVEN, ""):  # for this agent alone, from the client that started it
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
