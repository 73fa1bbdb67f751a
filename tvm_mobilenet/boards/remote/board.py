"""A board behind TVM's RPC: an agent or TVM's own server, reached directly or by a tracker's key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.boards import answers, needs, wire
from tvm_mobilenet.boards.address import Address
from tvm_mobilenet.boards.agent import facts, services
from tvm_mobilenet.boards.remote.module import RUN_SECONDS, RemoteModule
from tvm_mobilenet.boards.remote.session import Session
from tvm_mobilenet.errors import BoardError

UPLOAD_SECONDS = 600.0
SERVICE_SECONDS = 660.0  # beyond the requested time of measurement; the board ends its own processes earlier
_ARCHITECTURES = {"armv7l": "armv7", "arm64": "aarch64", "AMD64": "x86_64"}


class RemoteBoard:
    """An open session with a board; call its ``close``, or use it in a ``with``.

    Parameters
    ----------
    address : Address
    target : targets.Target
        The target of the code that it runs.
    limit : float
        Seconds after which the server ends the session; 0: never.
    wait : float, optional
        Seconds to wait while the board is busy; ``wire.WAIT_SECONDS`` by default.
    quiet : bool
        Print no message about that wait.
    secret : bytes, optional
        The token that the server must prove to have; by default the user's own, and only beyond this machine.

    Attributes
    ----------
    facts : dict
        The answer of the agent's ``ping``; empty without an agent.
    seconds : float
        Time limit of a kernel in modules loaded from now on; may be set.
    """

    measures = True
    seconds = RUN_SECONDS

    def __init__(
        self,
        address: Address,
        target,
        limit: float = 0.0,
        wait: float | None = None,
        quiet: bool = False,
        secret: bytes | None = None,
    ):
        self.address, self.target, self.name = address, target, address.text
        self._uploaded: dict[str, str] = {}
        self._tunnel = None
        self._secret = secret
        if address.kind == "ssh":
            from tvm_mobilenet.boards.remote.ssh import Tunnel

            self._tunnel = Tunnel(address)
            address, self._secret = self._tunnel.address, self._tunnel.secret
        try:
            self._open(address, limit, wire.WAIT_SECONDS if wait is None else wait, quiet)
        except BaseException:
            if self._tunnel is not None:
                self._tunnel.close()
            raise

    def _open(self, address: Address, limit: float, wait: float, quiet: bool) -> None:
        from tvm_mobilenet.terminal.console import say

        def busy() -> None:
            if not quiet:
                say(f"{address.text} is busy; waiting up to {wait:.0f} s")

        where, key = (address.host, address.port), address.key
        address.check_tracker()
        if address.kind == "tracker":
            packages.import_tvm()  # the import takes a second, and a match key must be used at once
            with wire.Tracker(*where, address.trusted) as tracker:
                host, port, key = tracker.request(key, wait, busy)
                where, address = (host, port), replace(address, host=host)
        demanded = self._secret is not None or address.demands_token
        self.session = Session(
            *where, key, limit=limit, wait=wait, waiting=busy, secret=self._secret, demanded=demanded,
            trusted=address.trusted,
        )  # fmt: skip
        self._serve = None
        self.session.drop_at_end(self)
        try:
            self._serve = self.session.do("looking for the agent", self._find_agent)
            self.facts = self.service("ping", {}) if self._serve else {}
            self._check_architecture()
            self._check_versions()
        except BaseException:
            self.session.close()
            raise

    def _check_architecture(self) -> None:
        there = _ARCHITECTURES.get(self.facts.get("architecture"), self.facts.get("architecture"))
        if there and there != self.target.architecture:
            raise BoardError(
                f"{self.session.where} is {there}, target {self.target.name} is {self.target.architecture}",
                "build with the --target of this board",
            )
        needs.check(self.target, self.facts.get("features", ()), self.session.where)

    def _check_versions(self) -> None:
        ours, theirs = facts.versions(), self.facts.get("versions", {})
        for package in ("apache-tvm", "apache-tvm-ffi"):
            if theirs and theirs.get(package) != ours[package]:
                raise BoardError(
                    f"{self.session.where} has {package} {theirs.get(package) or 'none'}, this machine {ours[package]}",
                    f"on the board: pip install {package}=={ours[package]}, and start the agent again",
                )

    def _find_agent(self):
        try:
            return self.session.rpc.get_function(services.GLOBAL)
        except AttributeError:
            return None

    def forget(self) -> None:
        """Drop the objects of the session."""
        self._serve = None

    @property
    def where(self) -> str:
        """``host:port`` of the session."""
        return self.session.where

    def state(self) -> dict:
        """Temperature and throttling now, as ``facts.state`` gives them; empty without an agent."""
        return self.service("state", {}) if "state" in self.facts.get("services", ()) else {}

    @property
    def has_agent(self) -> bool:
        """Whether the board has services."""
        return self._serve is not None

    def service(self, name: str, request: dict) -> dict:
        """The answer of a service of the agent (``services``).

        Raises
        ------
        BoardError
            The board has no agent, the service fails, or the session ends.
        """
        if not self._serve and not self.session.over:
            from tvm_mobilenet.boards.remote import plain

            raise BoardError(
                f"{self.session.where}: no {name!r} there: it is TVM's own RPC server, without this project's agent",
                f"{plain.REMEDY}; --board ssh://user@host installs and starts it by itself",
            )
        asked = float(request.get("seconds", 0.0)) * max(1, len(request.get("contenders", ())))
        text = self.session.do(
            f"asking for {name}", self._serve, name, json.dumps(request), seconds=SERVICE_SECONDS + 2 * asked
        )
        return answers.check(name, services.answer(str(text), self.session.where), self.session.where)

    def upload(self, path) -> str:
        """Copy a file to the session's folder on the board, once for each session; return its path there."""
        data, name = Path(path).read_bytes(), Path(path).name
        there = hashlib.sha256(data).hexdigest()[:16] + Path(name).suffix
        if there not in self._uploaded:

            def send() -> str:
                self.session.rpc.upload(bytearray(data), there)
                return answers.plain(str(self.session.rpc.get_function("tvm.rpc.server.workpath")(there)))

            what = f"uploading {name} ({len(data):,} bytes)"
            self._uploaded[there] = self.session.do(what, send, seconds=UPLOAD_SECONDS)
        return self._uploaded[there]

    def download(self, there: str, here) -> Path:
        """Copy a file of the board to a path on this machine."""

        def fetch() -> None:
            data = self.session.rpc.download(there)
            if not isinstance(data, (bytes, bytearray)) and type(data).__name__ != "Bytes":
                raise BoardError(f"{self.where}: {Path(there).name} is not a file", "try again")
            Path(here).write_bytes(data)

        self.session.do(f"downloading {Path(there).name}", fetch, seconds=UPLOAD_SECONDS)
        return Path(here)

    def load(self, path) -> RemoteModule:
        """Upload a linked shared object and return its module.

        Raises
        ------
        BoardError
            It cannot be loaded there.
        """
        return RemoteModule(self, path, self.seconds)

    def close(self) -> None:
        """End the session, and the processes that were started for it."""
        self.session.close()
        if self._tunnel is not None:
            self._tunnel.close()

    def __enter__(self) -> RemoteBoard:
        return self

    def __exit__(self, *_) -> None:
        self.close()
