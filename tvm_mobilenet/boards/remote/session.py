"""One RPC session with a board: each call has a time limit, and errors are readable.

Calls run one after the other in a thread of the session that no signal reaches. If a signal interrupts TVM's client
while it waits (Ctrl-C, the resizing of a terminal), it runs Python's signal handlers without Python's lock and may
crash. It also waits without end, and obeys every frame. So a process between it and the board (``reply_filter``) lets
only answers pass; it is ended when a call's time is over.

TVM gives each session one of 32 places of the process, and takes it back when the last reference to the session or to
any object of it goes. So an error holds none of them, and the end of a session drops those that still exist.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import re
import signal
import socket
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late

from tvm_mobilenet import packages
from tvm_mobilenet.boards import owner, token, wire
from tvm_mobilenet.boards.answers import plain
from tvm_mobilenet.boards.remote.link import Link
from tvm_mobilenet.errors import BoardError, TvmMobilenetError

CALL_SECONDS = 60.0
GRACE_SECONDS = 2.0  # for the session's thread to end
_MANY = 8  # places in use, from which on garbage is collected to free some
_REPORT_SECONDS = 10.0  # for the filter process to report why the channel closed
_CHANNEL = re.compile(r"kShutdown|[Cc]hannel closes|[Pp]ipe (read|write) error|previously closed|code=1\b")
_NO_PLACE = "maximum number of RPC session"
_NO_MEMORY = re.compile(r"bad_alloc|out of memory|[Cc]annot allocate memory|posix_memalign")
ENDED = "session ended: "  # start of the agent's last message (``agent``)
_UNASKED = "the session was ended, because the server sent data that no board sends"
_FOREIGN = "is this your board? Another program may listen there; none of its data were obeyed"
_NO_TOKEN = (
    f"copy {token.path()} of the board to this machine (mode 0600); or come by --board ssh://…; "
    "or add --trust-network, if you trust all in this network"
)
_OTHER_TOKEN = f"copy {token.path()} of the board to this machine again; or come by --board ssh://…"
_connecting = threading.Lock()


class Lost(BoardError):
    """The session is over: the board left, its process died, or a call took too long.

    Attributes
    ----------
    where : str
        ``host:port`` of the board.
    crashed : bool
        The agent reports that the code crashed.
    refused : bool
        The server sent data that no board sends.
    """

    def __init__(self, where: str, over: str, hint: str, refused: bool = False):
        super().__init__(f"{where}: {over}", hint)
        self.where, self.crashed, self.refused = where, "crashed its process" in over, refused


class Session:
    """A session with an RPC server; call its ``close``.

    Parameters
    ----------
    host, port, key
        The server's address, and its key or the match key from a tracker.
    limit : float
        Seconds after which the server ends the session; 0: never.
    wait : float
        Seconds to wait while the server is busy with another session.
    waiting : callable
        Called once if the server is busy.
    secret : bytes, optional
        The token of this board; the user's own by default.
    demanded : bool
        The server must first prove that it has the token.
    trusted : bool
        The server needs no token. Otherwise a server beyond this machine, or of another user, must prove it too. The
        connection decides which server that is (``boards.owner``), since a name may resolve to another address each
        time.

    Attributes
    ----------
    where : str
        The board's name in messages.
    over : str
        Why the session is over; empty while it runs.
    rpc : tvm.rpc.RPCSession

    Raises
    ------
    BoardError
        There is no server, or it is of another kind, has another key, or is busy for too long.
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
        secret: bytes | None = None,
        demanded: bool = False,
        trusted: bool = False,
    ):
        self.where, self.over, self.rpc = f"{host}:{port}", "", None
        self._refused = False
        self._link: Link | None = None
        self._secret, self._demanded = token.read() if secret is None else secret, demanded
        self._trusted, self._stranger = trusted, ""
        if demanded and not self._secret:
            raise BoardError(f"{self.where}: this machine has no token for boards beyond it", _NO_TOKEN)
        self._holders: weakref.WeakSet = weakref.WeakSet()
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
        packages.import_tvm()
        options = f"{key} -timeout={limit}" if limit else key
        self._link = Link()
        future = self._submit(_connect, self._link.command)
        try:
            self._link.started()
            self._link.give(self._dialed(host, port), options, self._secret, self._demanded)
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
            return
        except TvmMobilenetError:
            raise
        except Exception as e:
            text = str(e)
        finally:
            del future
        raise self._unopened(host, port, key, text)

    def _dialed(self, host: str, port: int) -> socket.socket:
        """Open a connection. A server that is not this user's must prove that it has the token."""
        connection = wire.dial(host, port)
        if not self._demanded and not self._trusted and (stranger := owner.stranger(connection)):
            self._demanded, self._stranger = True, f"{stranger}; "
            if not self._secret:
                connection.close()
                raise BoardError(f"{self.where}: {stranger}, and this machine has no token", _NO_TOKEN)
        return connection

    def _unopened(self, host: str, port: int, key: str, text: str) -> BoardError:
        if ENDED in text:  # the agent's own words
            words = plain(" ".join(text.split()).split(ENDED)[-1])[:300]
            return BoardError(f"{self.where}: {words}", "the agent's log says more")
        if _NO_PLACE in text:
            return BoardError(
                f"{self.where}: this process has as many sessions with boards open as TVM allows",
                "close some of them, or open this one in another process",
            )
        kind, why = self._link.over(_REPORT_SECONDS if _CHANNEL.search(text) else 0.0)
        if kind == "refused":
            return Lost(self.where, f"{_UNASKED}: {why}", _FOREIGN, refused=True)
        if kind == "token":
            return BoardError(f"{self.where}: {self._stranger}{why}", _OTHER_TOKEN if self._secret else _NO_TOKEN)
        if not kind:  # the board sent an exception
            return BoardError(f"{self.where}: no session: {_last_line(text)}", "the board's log says more")
        if kind == "key":
            return BoardError(
                f"{self.where}: the server there has another key than {key!r}"
                if key
                else f"{self.where}: the server there has a key",
                f"rpc://{self.where}/KEY for a server that was started with --key KEY; boards of a tracker are reached "
                "as tracker://HOST:PORT/KEY",
            )
        found = wire.diagnose(host, port)
        if self._demanded and found == "server":
            return BoardError(
                f"{self.where}: {self._stranger}the server there does not know the token: TVM's own RPC server, or "
                "an older agent",
                "python -m tvm_mobilenet.agent in its place; or --trust-network, if you trust all in this network",
            )
        return BoardError(
            f"{self.where}: the server there is no TVM RPC server",
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
            del job, future, call, args  # the session's objects are freed here, where no signal interrupts

    def _submit(self, call: Callable, *args) -> Future:
        future: Future = Future()
        self._jobs.put((future, call, args))
        return future

    def do(self, what: str, call: Callable, *args, seconds: float = CALL_SECONDS):
        """The result of ``call(*args)``, which may use ``rpc``.

        Parameters
        ----------
        what : str
            The activity, as after "while …" in messages.
        seconds : float
            The time limit of the call; beyond it the session ends.

        Raises
        ------
        Lost
            The session is over, now or already.
        BoardError
            The code on the board reports an error; the session continues.
        """
        future = None
        try:
            if self.over:
                raise Lost(self.where, self.over, "open the board again", self._refused)
            future = self._submit(call, *args)
            return future.result(seconds)
        except Late:
            self._end(f"no answer within {seconds:g} s while {what}")
            error = Lost(self.where, self.over, "the kernel never returns, or the board hangs or left")
        except TvmMobilenetError as e:
            error = e.with_traceback(None)
            error.__context__ = None
        except (KeyboardInterrupt, SystemExit):
            self._end("interrupted")
            raise
        except Exception as e:
            error = self._error(e, what)
        finally:
            del future, call, args  # so that the error's traceback holds no object of the session
        raise error

    def drop(self, call: Callable[[], None]) -> None:
        """Run ``call``, which drops objects of the session, in the session's thread; also if the session is over."""
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._submit(call).result(GRACE_SECONDS)
        else:
            call()

    def drop_at_end(self, holder) -> None:
        """Let ``close`` call ``holder.forget()``, which drops objects of the session, if the holder still exists."""
        self._holders.add(holder)

    def _error(self, error: Exception, what: str) -> BoardError:
        text = " ".join(str(error).split())
        if ENDED in text:  # the agent's own words
            words = text.split(ENDED)[-1].split(" Stack trace")[0]
            self._end(f"{plain(words)[:300]} while {what}")
        elif "RPCSessionTimeoutError" in text:
            self._end(f"the server ended the session, whose time limit was reached, while {what}")
        elif (how := self._link.over(_REPORT_SECONDS if _CHANNEL.search(text) else 0.0))[0]:
            self._refused = how[0] == "refused"
            self._end(f"{f'{_UNASKED}: {how[1]},' if self._refused else 'the connection was lost'} while {what}")
            if self._refused:
                return Lost(self.where, self.over, _FOREIGN, refused=True)
        elif _NO_MEMORY.search(text) or not _words(str(error)):
            # Among the errors of a board only a MemoryError has no text: Python raises it before a function can add
            # one.
            return BoardError(
                f"{self.where}: the board ran out of memory while {what}",
                "a smaller network or batch, or a larger --memory-limit of the agent",
            )
        else:
            return BoardError(f"{self.where}: {what}: {_last_line(str(error))}", "the session continues")
        if _NO_MEMORY.search(self.over):
            return Lost(self.where, self.over, "a smaller network or batch, or a larger --memory-limit of the agent")
        return Lost(self.where, self.over, "does the server there still run? its log says more")

    def _end(self, why: str) -> None:
        self.over = self.over or why
        if self._link is not None:
            self._link.end()

    def close(self) -> None:
        """End the session, and the board's processes of it."""
        if self.rpc is not None and not self.over:
            with contextlib.suppress(BoardError):  # TVM's client says good-bye when its last reference goes
                self.do("closing", self._leave, seconds=5)
        self._end("closed")
        self.drop(self._forget)
        self._jobs.put(None)
        self._thread.join(GRACE_SECONDS)
        if self._link is not None:
            self._link.close()
            self._link = None

    def _leave(self) -> None:
        self.rpc = None

    def _forget(self) -> None:
        self.rpc = None
        for holder in tuple(self._holders):
            holder.forget()


def _connect(command: list[str]):
    """Connect TVM's client to the filter process in place of the board."""
    from tvm.rpc import _ffi_api, client

    session = client.RPCSession(_ffi_api.CreatePipeClient(*command))
    if session._tbl_index >= _MANY:
        gc.collect()  # sessions that were never closed, in cycles of references
    return session


def _words(text: str) -> str:
    """A board's text of an error, without the prefix of TVM's client."""
    return re.sub(r"(?:RPCError: )?Error caught from RPC call:\s*", "", text).strip()


def _last_line(text: str) -> str:
    """The message of an error of TVM, without the stack that it prints before or after."""
    lines = [line.strip() for line in _words(text).splitlines() if line.strip()]
    worded = [line for line in lines if re.match(r"\w*Error\b|.*\bcheck failed", line, re.IGNORECASE)]
    return plain((worded or lines or ["no message"])[-1])[:400]
