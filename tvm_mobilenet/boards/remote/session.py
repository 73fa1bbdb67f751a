"""One RPC session with a board: each call has a time limit, and what goes wrong is said in plain words.

Calls run one after the other in a thread of the session that no signal reaches. TVM's client, when a signal interrupts
its waiting (Ctrl-C, the resizing of a terminal), runs Python's signal handlers without Python's lock and may crash. It
also waits without end on a socket that it opened itself: the session finds that socket, gives it a time limit, and
shuts it down when the caller cannot wait any longer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable, Container
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late

from tvm_mobilenet.boards import wire
from tvm_mobilenet.boards.agent import tvm_alone
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

CALL_SECONDS = 60.0
GRACE_SECONDS = 2.0  # between the caller's patience and the socket's own limit, which also ends what nobody waits for
ENDED = "session ended: "  # how the agent begins its last words (``agent``)
_connecting = threading.Lock()


class Lost(BoardError):
    """The session is over: the board left, its process there died, or it took too long.

    Attributes
    ----------
    where : str
        ``host:port`` of the board.
    crashed : bool
        What ran there crashed, as the agent says.
    """

    def __init__(self, where: str, over: str, hint: str):
        super().__init__(f"{where}: {over}", hint)
        self.where, self.crashed = where, "crashed its process" in over


class Session:
    """A session with an RPC server; ``close`` it.

    Parameters
    ----------
    host, port, key
        Of the server; the match key that a tracker gave.
    limit : float
        Seconds after which the server ends the session; 0: never.
    wait : float
        Seconds to wait while the server is busy with another session.
    waiting : callable
        Called once when it turns out to be busy.

    Attributes
    ----------
    where : str
        What messages call the board.
    over : str
        Why the session is over; empty while it is not.
    rpc : tvm.rpc.RPCSession

    Raises
    ------
    BoardError
        No server, another kind of server, another key, or busy for too long.
    """

    def __init__(
        self,
        host: str,
        port: int,
        key: str = "",
        *,
        limit: float = 0.0,
        wait: float = wire.WAIT_SECONDS,
        waiting: Callable[[], None] = lambda: None,
    ):
        self.where, self.over, self.rpc = f"{host}:{port}", "", None
        self._socket: socket.socket | None = None
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="rpc session", daemon=True)
        self._thread.start()
        try:
            with _connecting:
                self._open(host, port, key, limit, wait, waiting)
        except BaseException:
            self.close()
            raise

    def _open(self, host, port, key, limit, wait, waiting) -> None:
        tvm_alone.import_tvm()
        import tvm.rpc

        before, peer = _sockets(), wire.resolve(host, port)
        future = self._submit(tvm.rpc.connect, peer[0], port, key, limit)
        try:
            try:
                self.rpc = future.result(min(wait, wire.SILENCE_SECONDS))
            except Late:
                wire.diagnose(host, port, patience=1.0)
                waiting()
                try:
                    self.rpc = future.result(wait)
                except Late:
                    raise wire.Silent(
                        f"{self.where}: no session within {wait:.0f} s: the board is busy with another one, or this is "
                        "no RPC server",
                        "wait for the other session to end, or restart the server there",
                    ) from None
        except TvmMobilenetError:
            raise
        except Exception as e:
            raise self._unopened(host, port, key, str(e)) from None
        finally:
            self._socket = _socket_to(peer, before)
        if self._socket is not None:
            wire.watch(self._socket)

    def _unopened(self, host: str, port: int, key: str, text: str) -> BoardError:
        found = wire.diagnose(host, port)
        if found == "server" or "mismatch" in text or "cannot find server that matches" in text:
            return BoardError(
                f"{self.where}: the server there has another key than {key!r}"
                if key
                else f"{self.where}: the server there has a key",
                f"rpc://{self.where}/KEY for a server that was started with --key KEY; boards of a tracker are reached "
                "as tracker://HOST:PORT/KEY",
            )
        return BoardError(
            f"{self.where}: what answers there is no TVM RPC server",
            "is this the right port? A tracker is reached as tracker://HOST:PORT/KEY",
        )

    # ---- calls

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (job := self._jobs.get()) is not None:
            future, call, args = job
            try:
                future.set_result(call(*args))
            except BaseException as e:
                future.set_exception(e)
            del job, future, call, args  # what belongs to the session is freed here, where no signal interrupts it

    def _submit(self, call: Callable, *args) -> Future:
        future: Future = Future()
        self._jobs.put((future, call, args))
        return future

    def do(self, what: str, call: Callable, *args, seconds: float = CALL_SECONDS):
        """The result of ``call(*args)``, which may use ``rpc``.

        Parameters
        ----------
        what : str
            What it does, as in "while …", for messages.
        seconds : float
            It may take; then the session is over.

        Raises
        ------
        Lost
            The session is over, now or already.
        BoardError
            What ran on the board reports an error; the session goes on.
        """
        if self.over:
            raise Lost(self.where, self.over, "open the board again")
        self._limit(seconds + GRACE_SECONDS)
        future = self._submit(call, *args)
        try:
            return future.result(seconds)
        except Late:
            self._end(f"no answer within {seconds:g} s while {what}")
            raise Lost(self.where, self.over, "the kernel never returns, or the board hangs or left") from None
        except TvmMobilenetError:
            raise
        except (KeyboardInterrupt, SystemExit):
            self._end("interrupted")
            raise
        except Exception as e:
            raise self._error(e, what) from None

    def _error(self, error: Exception, what: str) -> BoardError:
        text = " ".join(str(error).split())
        if ENDED in text:  # the agent's own words
            words = text.split(ENDED)[-1].split(" Stack trace")[0]
            self._end(f"{words[:300]} while {what}")
        elif "RPCSessionTimeoutError" in text:
            self._end(f"the server ended the session, whose time was up, while {what}")
        elif self._is_gone() or "kShutdown" in text or re.search(r"Socket.*Error|SockChannel", text):
            self._end(f"{self._last_words() or 'the connection was lost'} while {what}")
        elif re.search(r"bad_alloc|out of memory|[Cc]annot allocate memory|posix_memalign", text):
            return BoardError(f"{self.where}: the board has too little memory, {what}", "a smaller network or batch")
        else:
            return BoardError(f"{self.where}: {what}: {_last_line(str(error))}", "the session goes on")
        if "out of memory" in self.over:
            return Lost(self.where, self.over, "a smaller network or batch, or a larger --memory-limit of the agent")
        return Lost(self.where, self.over, "does the server there still run? its log says more")

    def _last_words(self) -> str:
        """What the agent said last: a server whose memory ran out says good-bye first, and TVM reads no further."""
        data = bytearray()
        self._limit(2.0)
        with contextlib.suppress(OSError, AttributeError):
            while len(data) < 1 << 16 and (part := self._socket.recv(4096)):
                data += part
        found = re.search(rf"{ENDED}([ -~]*)".encode(), bytes(data))
        return found[1].decode()[:300] if found else ""

    def _is_gone(self) -> bool:
        try:
            return self._socket is not None and not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _limit(self, seconds: float) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def _end(self, why: str) -> None:
        self.over = self.over or why
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the session; what the board does for it ends too."""
        if self.rpc is not None and not self.over:
            with contextlib.suppress(BoardError):  # TVM's client says good-bye when its last reference goes
                self.do("closing", self._forget, seconds=5)
        self._end("closed")
        self.rpc = None
        self._jobs.put(None)
        self._thread.join(GRACE_SECONDS)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _forget(self) -> None:
        self.rpc = None


def _sockets() -> dict[int, int]:
    """The descriptors of this process's sockets, by inode: other threads close and open files all the time, and a
    number that was one socket's is soon another's."""
    found = {}
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(name)
    return found


def _socket_to(peer: tuple, before: Container[int]) -> socket.socket | None:
    """One more handle on the connection to a peer, of those that have come since."""
    for inode, descriptor in _sockets().items():
        if inode in before:
            continue
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=descriptor)
            try:
                if found.getpeername()[:2] == peer:
                    return found.dup()
            finally:
                found.detach()  # it is TVM's, or another thread's
    return None


def _last_line(text: str) -> str:
    """The message of an error of TVM, without the stack that it prints before or after."""
    text = re.sub(r"(?:RPCError: )?Error caught from RPC call:\s*", "", text)  # stands before the board's own words
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    worded = [line for line in lines if re.match(r"\w*Error\b|.*\bcheck failed", line, re.IGNORECASE)]
    return (worded or lines or ["no message"])[-1][:400]
