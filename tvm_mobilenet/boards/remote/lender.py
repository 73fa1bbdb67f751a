"""Open sessions for a search, on the one board of an address or on any free board of a tracker's key.

A board that loses several sessions in a row is left out for a while, and a hot board may cool down first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tvm_mobilenet import packages
from tvm_mobilenet.boards import wire
from tvm_mobilenet.boards.address import Address
from tvm_mobilenet.boards.remote.board import RemoteBoard
from tvm_mobilenet.boards.remote.session import Lost
from tvm_mobilenet.errors import BoardError

HOT_C, COOL_C = 80.0, 70.0  # degrees Celsius; a Raspberry Pi lowers its clock from 80 on
COOL_SECONDS = 180.0  # limit for a board to cool down; then it is left out
LOSSES = 3  # sessions in a row that a board may lose before it is left out
OUT_SECONDS = 120.0  # how long it is left out
_WAIT_SECONDS = 5.0  # limit of one try to get a board


def is_hot(state: dict) -> bool:
    """Whether a board is too hot to measure at full speed: it is throttled, or about to be."""
    return bool(state.get("throttled")) or (state.get("temperature_c") or 0.0) >= HOT_C


class Lender:
    """Opens and counts sessions; several threads may call it.

    Parameters
    ----------
    address : Address
    target : targets.Target
    say : callable
        Called with one line for each event of a board.

    Raises
    ------
    BoardError
        At the start there is no board or no tracker.
    """

    def __init__(self, address: Address, target, say: Callable[[str], None]):
        self._address, self._target, self._say = address, target, say
        self._lock = threading.Lock()
        self._losses: dict[str, int] = {}
        self._out: dict[str, float] = {}  # time until which a board is left out
        self._closed = False
        self._tunnel, self._secret = None, None
        address.check_tracker()
        if address.kind == "ssh":
            from tvm_mobilenet.boards.remote.ssh import Tunnel

            self._tunnel = Tunnel(address)
            self._address, self._secret = self._tunnel.address, self._tunnel.secret
        if address.kind == "tracker":
            with wire.Tracker(address.host, address.port, address.trusted) as tracker:
                tracker.known(address.key)
        else:
            wire.dial(self._address.host, self._address.port).close()
        packages.import_tvm()  # imported before threads start, and because a match key must be used at once

    def count(self) -> int:
        """The number of boards now."""
        if self._address.kind != "tracker":
            return 1
        with wire.Tracker(self._address.host, self._address.port, self._address.trusted) as tracker:
            return len(tracker.boards().get(self._address.key, {"addresses": ()})["addresses"])

    def open(self) -> RemoteBoard:
        """A session with a board that is not left out.

        Raises
        ------
        BoardError
            No board is free now; try again.
        """
        if self._address.kind != "tracker":
            where = self._address.endpoint
            if self._is_out(where):
                raise BoardError(f"{where} is left out for a while")
            return RemoteBoard(self._address, self._target, wait=_WAIT_SECONDS, quiet=True, secret=self._secret)
        with wire.Tracker(self._address.host, self._address.port, self._address.trusted) as tracker:
            host, port, key = tracker.request(self._address.key, _WAIT_SECONDS)
        where = f"{host}:{port}"
        if self._is_out(where):
            raise BoardError(f"{where} is left out for a while")
        one = Address(self._address.text, "rpc", host, port, key, trusted=self._address.trusted)
        try:
            return RemoteBoard(one, self._target, wait=_WAIT_SECONDS, quiet=True)
        except BoardError:
            if not self._closed:
                self._count_loss(where, "it cannot be reached")
            raise

    def _is_out(self, where: str) -> bool:
        with self._lock:
            until = self._out.get(where)
            if until is not None and time.monotonic() >= until:
                del self._out[where]
                self._say(f"{where} gets another chance")
                return False
            return until is not None

    def well(self, where: str) -> None:
        """Note that a session there succeeded."""
        with self._lock:
            self._losses.pop(where, None)

    def lost(self, error: Lost) -> bool:
        """Note a lost session; return whether the board still answers."""
        if self._closed:
            return False
        self._say(f"{error.message}; it is run again")
        if error.refused:
            with self._lock:
                self._leave_out(error.where, "it sent data that no board sends")
            return False
        host, _, port = error.where.rpartition(":")
        try:
            wire.dial(host, int(port), timeout=3.0).close()
        except BoardError:
            self._say(f"{error.where} has left")
            return False
        if not error.crashed:  # a crash is the candidate's fault
            self._count_loss(error.where, "its sessions are lost one after the other")
        return True

    def _count_loss(self, where: str, why: str) -> None:
        with self._lock:
            self._losses[where] = self._losses.get(where, 0) + 1
            if self._losses[where] < LOSSES or where in self._out:
                return
            self._leave_out(where, why)

    def _leave_out(self, where: str, why: str) -> None:
        self._losses.pop(where, None)
        self._out[where] = time.monotonic() + OUT_SECONDS
        self._say(f"{where} is left out for {OUT_SECONDS:.0f} s: {why}")

    def cool(self, board: RemoteBoard) -> bool:
        """Wait while a board is hot; return False if it stays hot and is left out.

        A board is hot from ``HOT_C`` on; the wait ends when it is below ``COOL_C``.
        """
        state = board.state()
        if not is_hot(state):
            return True
        end = time.monotonic() + COOL_SECONDS
        while time.monotonic() < end and not self._closed:
            if not state.get("throttled") and (state.get("temperature_c") or 0.0) < COOL_C:
                return True
            time.sleep(min(2.0, COOL_SECONDS / 10))
            state = board.state()
        with self._lock:
            self._leave_out(board.where, f"it stays hot ({state.get('temperature_c')} °C)")
        return False

    def close(self) -> None:
        """Print no more events, and end the tunnel."""
        self._closed = True
        if self._tunnel is not None:
            self._tunnel.close()
