"""Boards and trackers that do not answer as they should: a listener, and what it does with each connection."""

import contextlib
import json
import socket
import struct
import threading

MAGIC, TRACKER_MAGIC = 0xFF271, 0x2F271
RETURN, EXCEPTION, COPY_ACK = 4, 5, 8
NONE, INT, HANDLE, STR, BYTES = 0, 1, 4, 8, 9


class Listener:
    """Accepts connections on loopback; each is handed to ``serve`` in a thread. Use it as a context."""

    def __init__(self, serve, port=0):
        self._serve, self._listener = serve, socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with connection, contextlib.suppress(OSError, struct.error):
            connection.settimeout(60)
            self._serve(connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()


def read(connection, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def greet(connection) -> str:
    """TVM's handshake; what the client named."""
    magic, length = struct.unpack("<ii", read(connection, 8))
    if magic != MAGIC:
        raise ConnectionError
    name = read(connection, length).decode()
    connection.sendall(struct.pack("<ii", MAGIC, 7) + b"server:")
    return name


def request(connection) -> tuple[int, bytes]:
    """The client's next request: its code, and the rest."""
    length, code = struct.unpack("<Qi", read(connection, 12))
    return code, read(connection, length - 4)


def frame(code: int, body: bytes = b"") -> bytes:
    return struct.pack("<Qi", 4 + len(body), code) + body


def value(kind: int, content=None) -> bytes:
    head = struct.pack("<i", kind)
    if kind in (STR, BYTES):
        return head + struct.pack("<Q", len(content)) + content
    return head + (b"" if content is None else struct.pack("<q", content))


def reply(*values: bytes) -> bytes:
    return frame(RETURN, struct.pack("<i", len(values)) + b"".join(values))


def result(told: int, *values: bytes) -> bytes:
    """What a called function returned."""
    return reply(value(INT, told), *values)


VOID, NOTHING = reply(value(NONE)), result(NONE, value(NONE))


def answering(*answers):
    """A board that gives these answers to its requests one after the other, whatever they are, and then is silent."""

    def serve(connection):
        greet(connection)
        for answer in answers:
            request(connection)
            connection.sendall(answer)
        while connection.recv(1 << 16):
            pass

    return serve


def agent_like(services: dict[str, str]):
    """A board that has the agent's function: each service answers this text."""

    def serve(connection):
        greet(connection)
        while True:
            code, body = request(connection)
            if code == 3:  # a call: the texts among its arguments; the first names the service
                count = struct.unpack_from("<i", body, 8)[0]
                length = struct.unpack_from("<Q", body, 16)[0] if count else 0
                text = services.get(body[24 : 24 + length].decode(errors="replace"), "{}").encode()
                connection.sendall(result(65, value(STR, text)))
            else:
                connection.sendall(reply(value(HANDLE, 4096)) if code == 9 else VOID)

    return serve


def tracker(answer, magic=TRACKER_MAGIC):
    """A tracker: ``answer(message, connection)`` gives the bytes of an answer, or None when it has sent them itself."""

    def serve(connection):
        read(connection, 4)
        connection.sendall(struct.pack("<i", magic))
        while True:
            (length,) = struct.unpack("<i", read(connection, 4))
            found = answer(json.loads(read(connection, length)), connection)
            if found is not None:
                connection.sendall(struct.pack("<i", len(found)) + found)

    return serve
