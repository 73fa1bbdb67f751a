"""The client of a Dask scheduler: it sends calls to workers and returns their results as events.

It keeps one connection and renews a broken one. A thread asks at intervals for the list of workers; all available
results are fetched together.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from tvm_mobilenet.errors import ClusterError
from tvm_mobilenet.files import json_text

LOOK_SECONDS = 1.0  # between questions for the list of workers
CONNECT_SECONDS = 10.0
INLINE_BYTES = 1 << 20  # largest argument that goes through the scheduler


class Gone(Exception):
    """A call ended without a result: its worker or the scheduler went away."""


class Scheduler:
    """A connection.

    Parameters
    ----------
    address : str
        The address in Dask's form: ``tcp://host:8786``.

    Raises
    ------
    ClusterError
        No scheduler answers there.
    """

    def __init__(self, address: str):
        self.address = address
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._futures: dict[str, object] = {}
        self._shared = None  # Dask's reference to the data that went to workers once
        self._stopping = threading.Event()
        self._tried = time.monotonic()
        try:
            self._client = self._open()
        except (OSError, ValueError, TypeError, ImportError, TimeoutError) as e:  # TypeError: TLS without certificates
            keys = "; TLS needs the cluster's certificate and key in DASK_DISTRIBUTED__COMM__TLS__…"
            raise ClusterError(
                f"no Dask scheduler answers at {address}: {' '.join(str(e).split())[:200] or type(e).__name__}",
                "start one with `dask scheduler`, and workers with `dask worker ADDRESS`"
                + keys * address.startswith("tls:")
                + ": docs/guides/cluster.md",
            ) from None
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    def _open(self):
        from distributed import Client

        for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # the caller reports events, once

        class Opened(Client):
            """A connection that was not opened needs no close: Dask would wait for it and print a traceback."""

            def __init__(self, *arguments, **how):
                try:
                    super().__init__(*arguments, **how)
                except BaseException:
                    self.status = "closed"
                    raise

        return Opened(self.address, timeout=CONNECT_SECONDS, set_as_default=False)

    @property
    def connected(self) -> bool:
        """Whether the scheduler is connected, as far as known."""
        return self._client.status == "running"

    def send(self, key: str, worker: str, function: Callable, *arguments, large: int | None = None) -> None:
        """Let a worker call a function that returns a JSON object as text; the event has the same key.

        ``large``: the index of a bytes argument that is the same for many calls. It goes to one worker, and from there
        to others.
        """
        try:
            if large is not None and len(arguments[large]) > INLINE_BYTES:
                if self._shared is None:
                    self._shared = self._client.scatter(arguments[large], hash=False)
                arguments = (*arguments[:large], self._shared, *arguments[large + 1 :])
            future = self._client.submit(
                function, *arguments, key=key, workers=[worker], allow_other_workers=False, pure=False
            )
        except Exception:  # the connection has just broken
            self._events.put((key, None))
            return
        self._futures[key] = future
        future.add_done_callback(lambda future: self._events.put((key, future)))

    def forget_shared(self) -> None:
        """Send shared data again, since the workers that had them may be gone."""
        self._shared = None

    def forget(self, key: str) -> None:
        """Ignore the result of a call."""
        self._futures.pop(key, None)  # Dask frees results without references

    def events(self, seconds: float) -> list[tuple[str, object]]:
        """Events within a number of seconds: ``members`` with the threads of each worker by address, or the key of a
        call with its result or an exception. That is `Gone`, or a ValueError that describes an invalid result.
        """
        happened = []
        with contextlib.suppress(queue.Empty):
            happened.append(self._events.get(timeout=seconds))
            while True:
                happened.append(self._events.get_nowait())
        if self._client.status == "closed":
            self._connect_again()
        wanted = {k: f for k, f in happened if k == "members" or f is None or self._futures.pop(k, None) is f}
        ended = {k: f for k, f in wanted.items() if k != "members" and f is not None and f.status == "finished"}
        texts: dict[str, object] = {}
        if ended and self.connected:
            with contextlib.suppress(Exception):
                texts = self._client.gather(ended, errors="skip")
        if not self.connected:  # a request for results would wait for the reconnection
            return [(k, Gone()) for k in wanted if k != "members"]
        return [(k, f if k == "members" else _object(f, texts.get(k))) for k, f in wanted.items()]

    def close(self, last: Callable[[Callable], None]) -> None:
        """End the connection. If the scheduler is there, ``last`` first receives a function that calls functions on
        workers."""
        self._stopping.set()

        def run(function: Callable, argument: object, workers: list[str]) -> None:
            self._client.run(function, argument, workers=workers, on_error="ignore")

        with contextlib.suppress(Exception):
            if self.connected:
                self._futures.clear()
                last(run)
        with contextlib.suppress(Exception):
            self._client.close(timeout=2)
        self._futures.clear()

    def _connect_again(self) -> None:
        if time.monotonic() - self._tried < LOOK_SECONDS:
            return
        with contextlib.suppress(Exception):
            self._client = self._open()
        self._tried = time.monotonic()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(Exception):
                if self.connected:
                    found = self._client.sync(self._client.scheduler.ncores, callback_timeout=CONNECT_SECONDS)
                    self._events.put(("members", dict(found)))
            self._stopping.wait(LOOK_SECONDS)


def _object(future, text: object) -> object:
    """The JSON object that a call returned, or an exception that describes another result."""
    if future is None or future.status == "cancelled":
        return Gone()
    if text is None:
        text = _raised(future)
    if isinstance(text, Exception):
        return text
    try:
        found = json_text.parse(text) if isinstance(text, str) else None
    except ValueError as e:
        return e
    return found if isinstance(found, dict) else ValueError("it sends no JSON object")


def _raised(future) -> object:
    """The result or exception of a call that could not be fetched together with others."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        return future.result(timeout=CONNECT_SECONDS)
    except (FutureCancelledError, KilledWorker, TimeoutError, OSError):
        return Gone()
    except Exception as e:
        if "deserialization of the task graph" in str(e):
            return ValueError("the scheduler cannot read it; it needs this package and its environment too")
        return ValueError(f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
