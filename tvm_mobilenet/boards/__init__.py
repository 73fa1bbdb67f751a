"""Boards: a board runs a built module and measures it or predicts its cost.

``VirtualBoard`` executes the machine code under an emulator and estimates it, ``LocalBoard`` runs it on this machine,
``RemoteBoard`` over RPC. They run the same kernels and return the same kind of ``Measurement``.
"""

from __future__ import annotations

from tvm_mobilenet.boards.interface import Measurement, PredictedCycles, Seconds

__all__ = ["Measurement", "PredictedCycles", "Seconds", "open_board", "own", "reach"]


def own(target) -> str:
    """The default board of a target: this machine if the target is ``host``, else the virtual board."""
    return "local" if target.is_host else "virtual"


def open_board(kind: str, target):
    """The board of a target, at an address: ``virtual``, ``local``, ``rpc://``, ``tracker://`` or ``ssh://``.

    Call its ``close``, or use it in a ``with``. All boards have ``load(path)``, which gives a module with ``alloc``,
    ``write``, ``read``, ``call_at``, ``call`` and ``close``; those that measure also have ``upload(path)`` (the path of
    a file on the board) and ``service(name, request)`` (see ``services``).

    Raises
    ------
    TvmMobilenetError
        The address is incomplete or wrong (``address.parse``).
    BoardError
        The kind of board is unknown, the board cannot run the target's code, or it cannot be reached.
    """
    from tvm_mobilenet.boards import address

    where = address.parse(kind)
    if where.kind == "virtual":
        from tvm_mobilenet.boards.virtual.board import VirtualBoard

        return VirtualBoard(target)
    if where.kind == "local":
        from tvm_mobilenet.boards.local import LocalBoard

        return LocalBoard(target)
    from tvm_mobilenet.boards.remote.board import RemoteBoard

    return RemoteBoard(where, target)


def reach(kind: str) -> int:
    """The number of boards at an address, without opening one.

    Raises
    ------
    TvmMobilenetError, BoardError
        The address is wrong, or no board answers there.
    """
    from tvm_mobilenet.boards import address, wire

    where = address.parse(kind)
    if where.kind == "rpc":
        wire.dial(where.host, where.port).close()
    where.check_tracker()
    if where.kind == "tracker":
        with wire.Tracker(where.host, where.port, where.trusted) as tracker:
            return len(tracker.known(where.key)[where.key]["addresses"])
    return 1
