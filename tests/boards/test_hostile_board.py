"""A board that is not to be trusted: whatever it sends, no program runs here, memory stays bounded, and the user reads
what it sent, with exit code 4."""

import contextlib
import json
import math
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from tests.support import hostile
from tests.support.agents import wait_for, without_torch
from tests.support.hostile import (
    BYTES,
    COPY_ACK,
    EXCEPTION,
    HANDLE,
    INT,
    NONE,
    NOTHING,
    RETURN,
    STR,
    VOID,
    Listener,
    answering,
    frame,
    reply,
    result,
    value,
)
from tests.support.memory import peak_below
from tvm_mobilenet import targets
from tvm_mobilenet.boards import answers, open_board, wire
from tvm_mobilenet.boards.remote import frames
from tvm_mobilenet.boards.remote.reply_filter import Filter, Over
from tvm_mobilenet.boards.remote.session import Lost, Session
from tvm_mobilenet.errors import BoardError

HOST = targets.load("host")
VERSION = b"0.8.0"


def run_this(path) -> bytes:
    """A request in place of an answer: be a server whose session is a program of mine. TVM's client starts it."""
    words = [b"rpc.CreatePipeClient", b"/bin/sh", b"-c", f"echo ran > {path}".encode()]
    body = struct.pack("<Q", len(VERSION)) + VERSION + struct.pack("<i", len(words))
    return frame(2, body + b"".join(value(STR, word) for word in words))


@pytest.fixture
def session():
    """Opens sessions with boards that give these answers; the first is to the client's greeting."""
    with contextlib.ExitStack() as opened:

        def start(*given) -> Session:
            board = opened.enter_context(Listener(answering(*given)))
            return opened.enter_context(contextlib.closing(Session("127.0.0.1", board.port)))

        yield start


# ---- the attack


def test_tvms_own_client_still_obeys(tmp_path):
    """The canary: when this fails TVM has closed the hole, and docs/journal/tvm-rpc-report.md can say so."""
    with Listener(answering(run_this(tmp_path / "ran"))) as board:
        code = f"import tvm.rpc; tvm.rpc.connect('127.0.0.1', {board.port})"
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        client = subprocess.Popen([sys.executable, "-c", code], env=without_torch(), **streams)
        wait_for(lambda: (tmp_path / "ran").exists() or client.poll() is not None, "it does nothing")
        client.kill()
        client.wait()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_request_in_place_of_an_answer_runs_nothing(answered, tmp_path):
    before = [VOID, reply(value(HANDLE, 64))][:answered]
    with (
        Listener(answering(*before, run_this(tmp_path / "ran"))) as board,
        pytest.raises(Lost, match=r"data that no board sends: code 2 \(initialise a server\), \d+ bytes") as e,
    ):
        open_board(f"rpc://127.0.0.1:{board.port}", HOST)
    assert e.value.exit_code == 4 and e.value.hint and e.value.refused
    assert not (tmp_path / "ran").exists()


@pytest.mark.full
def test_a_user_reads_what_came(tmp_path):
    with Listener(answering(run_this(tmp_path / "ran"))) as board:
        code = "import sys; from tvm_mobilenet import doctor; sys.exit(doctor.main())"
        arguments = ["--target", "host", "--board", f"rpc://127.0.0.1:{board.port}", "--log", tmp_path / "log"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 4 and "code 2 (initialise a server)" in done.stdout, done.stdout + done.stderr
    assert "is this your board?" in done.stdout and "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


# ---- frames, one by one

GREETING = {
    "a call": frame(3, struct.pack("<Qi", 64, 0)),
    "a copy to here": frame(7, bytes(64)),
    "a copy from here": frame(6, bytes(64)),
    "a system call": frame(9, struct.pack("<i", 1) + value(STR, b"rpc.Connect")),
    "a code there is not": frame(1 << 30),
    "a negative code": frame(-4),
    "no length": struct.pack("<Qi", 0, RETURN),
    "too short for a code": struct.pack("<Qi", 3, RETURN),
    "a length of 2**63": struct.pack("<Qi", 1 << 63, RETURN),
    "all ones": b"\xff" * 12,
    "a gigabyte": struct.pack("<Qi", 1 << 30, RETURN),
    "a long exception": struct.pack("<Qi", 1 << 24, EXCEPTION),
    "an acknowledgement": frame(COPY_ACK, b"data"),
    "no values": frame(RETURN, struct.pack("<i", 0)),
    "a million values": frame(RETURN, struct.pack("<i", 1 << 20) + bytes(64)),
    "minus one value": frame(RETURN, struct.pack("<i", -1) + bytes(64)),
    "a tensor": reply(value(7, 0) + bytes(40)),
    "an object": reply(value(64, 9)),
    "a function": reply(value(HANDLE, 4096)),
    "a text longer than its frame": frame(RETURN, struct.pack("<iiQ", 1, STR, 1 << 40)),
    "a text of negative length": frame(RETURN, struct.pack("<iiq", 1, STR, -1)),
    "bytes after the last value": frame(RETURN, struct.pack("<ii", 1, NONE) + b"more"),
    "an exception without a text": frame(EXCEPTION, struct.pack("<ii", 1, NONE)),
    "an empty reply": frame(RETURN),
}


@pytest.mark.parametrize("answer", GREETING.values(), ids=GREETING)
def test_odd_answers_to_the_greeting(answer):
    kind, passed = filtered([(frames.INIT, b"")], answer)
    assert kind == "refused" and not passed


RESULTS = {
    "a type alone": reply(value(INT, 65)),
    "two types": reply(value(STR, b"a"), value(STR, b"b")),
    "a tensor": result(70, value(HANDLE, 4096)),
    "a text said to be a module": result(73, value(STR, b"here")),
    "a handle said to be a text": result(65, value(HANDLE, 4096)),
    "a module at nothing": result(73, value(HANDLE, 0)),
    "a type there is not": result(1 << 40, value(INT, 1)),
    "an object": result(9, value(64, 9)),
    "three values": result(1, value(INT, 1), value(INT, 1)),
    "an acknowledgement": frame(COPY_ACK, bytes(8)),
}


@pytest.mark.parametrize("answer", RESULTS.values(), ids=RESULTS)
def test_odd_results_of_a_function(answer):
    kind, passed = filtered([(frames.CALL, struct.pack("<Qi", 64, 0))], answer)
    assert kind == "refused" and not passed


@pytest.mark.parametrize("sent", [0, 999, 1001, 1 << 20])
def test_a_copy_has_as_many_bytes_as_were_asked_for(sent):
    asked = (frames.COPY_FROM, bytes(40) + struct.pack("<Q", 1000))
    assert filtered([asked], frame(COPY_ACK, bytes(sent)))[0] == "refused"
    assert filtered([asked], frame(COPY_ACK, bytes(1000))) == ("lost", frame(COPY_ACK, bytes(1000)))
    assert filtered([asked], NOTHING)[0] == "refused", "a reply in place of a copy"


def test_what_nobody_asked_for_ends_the_session():
    kind, passed = filtered([(frames.FREE, bytes(8)), (frames.FREE, bytes(8))], VOID + NOTHING)
    assert kind == "refused" and passed == VOID


def test_a_good_bye_that_nobody_asked_for_is_the_answer_to_the_next_request():
    bye = frame(EXCEPTION, struct.pack("<i", 1) + value(STR, b"session ended: its 8 s are over"))
    for before in (b"", frame(1)):  # a server whose memory ran out says good-bye twice
        kind, passed = filtered([(frames.FREE, bytes(8)), (frames.FREE, bytes(8))], VOID + before + bye)
        assert kind == "lost" and passed == VOID + bye


def test_answers_may_come_in_any_pieces():
    text = result(65, value(STR, b"x" * 100_000))
    asked = [(frames.CALL, struct.pack("<Qi", 64, 0))]
    for size in (1, 5, 4096):
        sent = result(65, value(STR, b"abc")) if size == 1 else text
        assert filtered(asked, *(sent[i : i + size] for i in range(0, len(sent), size))) == ("lost", sent)


def filtered(requests: list, *pieces: bytes, patience: float = 120.0) -> tuple[str, bytes]:
    """Ask a filter these things; a board sends the pieces and leaves. How it ended, and what it let pass.

    After ``patience`` seconds the client leaves too.
    """
    ours, board = socket.socketpair()
    from_client, to_filter = os.pipe()
    to_client, from_filter = os.pipe()
    passed, ended = bytearray(), []

    def run():
        try:
            Filter(ours, from_client, from_filter).run()
        except Over as e:
            ended.append(e.kind)
        finally:
            os.close(from_filter)
            ours.close()

    def take():
        while part := os.read(to_client, 1 << 16):
            passed.extend(part)

    threads = [threading.Thread(target=target, daemon=True) for target in (run, take)]
    for thread in threads:
        thread.start()
    with board:
        (code, body), *others = requests
        os.write(to_filter, frame(code, body))
        hostile.read(board, 12 + len(body))
        with contextlib.suppress(OSError):  # it has ended the session already
            for piece in pieces:
                board.sendall(piece)
            board.shutdown(socket.SHUT_WR)
        for code, body in others:
            wait_for(lambda: len(passed) >= len(VOID), "the first answer does not come")
            os.write(to_filter, frame(code, body))
        threads[0].join(patience)
        os.close(to_filter)
        for thread in threads:
            thread.join(120)
    assert ended, "the filter goes on"
    for descriptor in (from_client, to_client):
        os.close(descriptor)
    return ended[0], bytes(passed)


# ---- frames by the thousand


def passes(request: int, copied: int, data: bytes) -> bool:
    """An oracle of its own: whether these bytes are one whole answer to such a request, read from the end backwards
    nowhere and without a table of the code's."""
    if len(data) < 12:
        return False
    length, code = struct.unpack_from("<Qi", data)
    if length != len(data) - 8:
        return False
    body = data[12:]
    if code == COPY_ACK:
        return request == 6 and len(body) == copied
    if code not in (RETURN, EXCEPTION) or len(body) < 8:
        return False
    count, kinds, at = struct.unpack_from("<i", body)[0], [], 4
    for _ in range(max(0, min(count, 3))):
        if at + 4 > len(body):
            return False
        kind = struct.unpack_from("<i", body, at)[0]
        kinds.append(kind)
        at += 4
        if kind in (1, 2, 3, 4):
            at += 8
        elif kind in (8, 9):
            if at + 8 > len(body):
                return False
            at += 8 + struct.unpack_from("<Q", body, at)[0]
        elif kind != 0:
            return False
    if at != len(body) or count != len(kinds):
        return False
    if code == EXCEPTION:
        return kinds == [8]
    if request == 3:
        return len(kinds) == 2 and kinds[0] == 1
    return request != 6 and len(kinds) == 1 and kinds[0] in (0, 1, 2, 4, 8)


def mutated(random_: random.Random, data: bytes) -> bytes:
    data = bytearray(data)
    for _ in range(random_.randint(0, 3)):
        at = random_.randrange(len(data) + 1)
        what = random_.randrange(4)
        if what == 0 and at < len(data):
            data[at] = random_.choice((0, 1, 2, 4, 8, 9, 127, 128, 255, random_.randrange(256)))
        elif what == 1:
            data[at:at] = random_.randbytes(random_.randint(1, 12))
        elif what == 2:
            del data[at : at + random_.randint(1, 12)]
        elif at + 8 <= len(data):
            data[at : at + 8] = struct.pack("<q", random_.choice((-1, 0, 1, 1 << 31, 1 << 62, -(1 << 63), 12)))
    return bytes(data)


SEEDS = [VOID, NOTHING, result(65, value(STR, b"abc")), result(66, value(BYTES, b"abcd")), reply(value(HANDLE, 4096)),
         result(73, value(HANDLE, 4096)), frame(COPY_ACK, bytes(16)), result(1, value(INT, 7)), frame(3, bytes(12)),
         frame(EXCEPTION, struct.pack("<i", 1) + value(STR, b"why"))]  # fmt: skip
FUZZED = 20_000


def test_frames_by_the_thousand_never_pass_unless_they_are_answers():
    """What `frames` lets pass, the oracle does too; and neither fails in another way."""
    source, passed = random.Random(19), 0
    for _ in range(FUZZED):
        request, copied = source.choice((2, 3, 6, 7, 9, 10, 13)), 16
        data = (
            mutated(source, source.choice(SEEDS)) if source.random() < 0.9 else source.randbytes(source.randrange(40))
        )
        if len(data) < 12:
            continue
        length, code = frames.HEADER.unpack_from(data)
        body = data[12:]
        expected = frames.Expected(request, bytes(8) + struct.pack("<Q", copied))
        try:
            expected.check_header(length, code)
            if code != COPY_ACK:
                expected.check_body(code, body[: frames.HEAD], length - 4)
        except frames.Refused as e:
            assert str(e)
            continue
        if length == len(data) - 8:  # else the rest is still to come, or the next frame
            passed += 1
            assert passes(request, copied, data), (request, data)
    assert passed > FUZZED // 100, "hardly anything passes: the fuzzing says nothing"


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.full)])
def test_sessions_by_the_dozen(count):
    """Through the filter as it runs, whole conversations: what reaches the client is a sequence of right answers."""
    source = random.Random(count)
    for _ in range(count):
        request = source.choice((2, 3, 9))
        stream = b"".join(mutated(source, source.choice(SEEDS)) for _ in range(source.randint(1, 3)))
        cut = source.randrange(len(stream) + 1)
        # Last words would wait for the next request: then the client leaves.
        kind, passed = filtered([(request, bytes(16))], *(p for p in (stream[:cut], stream[cut:]) if p), patience=0.5)
        assert kind in ("refused", "lost", "closed")
        assert not passed or (stream.startswith(passed) and passes(request, 0, passed)), (request, stream, passed)


# ---- through TVM's client


@pytest.mark.parametrize("first", [VOID + run_this("/nowhere"), frame(1), b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_what_comes_with_the_first_answer(first):
    with Listener(answering(first)) as board, pytest.raises(BoardError) as e:
        open_board(f"rpc://127.0.0.1:{board.port}", HOST) if first else _opened(board.port, 3.0)
    assert e.value.exit_code == 4 and e.value.hint


def _opened(port: int, wait: float):
    from tvm_mobilenet.boards import address
    from tvm_mobilenet.boards.remote.board import RemoteBoard

    return RemoteBoard(address.parse(f"rpc://127.0.0.1:{port}"), HOST, wait=wait)


def test_a_board_that_drips_is_not_waited_for_longer_than_one_that_is_silent(monkeypatch):
    def drip(connection):
        hostile.greet(connection)
        with contextlib.suppress(OSError):
            for byte in VOID[:-1]:
                connection.sendall(bytes([byte]))
                time.sleep(0.5)
            while connection.recv(1 << 16):
                pass

    monkeypatch.setattr(wire, "SILENCE_SECONDS", 0.5)
    with Listener(drip) as board, pytest.raises(BoardError, match="no session within 2 s"):
        _opened(board.port, 2.0)


def test_a_call_is_bounded_as_a_whole(session):
    """The limit is the caller's, and the process between is ended with it."""
    opened = session(VOID, reply(value(HANDLE, 4096)), result(65, value(STR, b"abc"))[:-1])
    function = opened.do("looking", opened.rpc.get_function, "f")
    with pytest.raises(Lost, match="no answer within 1 s while calling"):
        opened.do("calling", function, seconds=1.0)


def test_the_process_that_speaks_to_a_board_is_confined(tmp_path):
    """It opens no file and no connection, starts no program, and still reads what it was given."""
    from tvm_mobilenet.files import landlock

    if not landlock.version():
        pytest.skip("this kernel has no Landlock")
    code = (
        "import os, socket, sys\nfile = sys.argv[1]\nfrom tvm_mobilenet.files import landlock\n"
        "r, w = os.pipe(); l = socket.create_server(('127.0.0.1', 0)); version = landlock.confine()\n"
        "def falls(call, *args):\n"
        "    try: call(*args)\n"
        "    except PermissionError: return True\n"
        "    return False\n"
        "os.write(w, b'x'); assert os.read(r, 1) == b'x'\n"
        "print(version, falls(open, file), falls(open, file + '2', 'w'), falls(os.listdir, '/'),\n"
        "      falls(os.execv, '/bin/sh', ['sh']), falls(os.mkdir, file + '2'), falls(os.unlink, file),\n"
        "      version < 4 or falls(socket.create_connection, l.getsockname()))"
    )
    (tmp_path / "file").touch()
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], capture_output=True, text=True)
    assert done.stdout.split() == [str(landlock.version()), *["True"] * 7], done.stdout + done.stderr


def test_a_session_says_that_it_is_confined(session):
    from tvm_mobilenet.files import landlock

    assert session(VOID)._link.confined == landlock.version()


# ---- what a board says


GOOD_PING = {"versions": {}, "architecture": "", "features": [], "python": "", "pid": 1, "services": ["state"]}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "1e999", '{"a": NaN}', "[" * 100_000, '{"pid": 1e999}', '"\\ud800"', json.dumps({"error": 1}),
     *(json.dumps(GOOD_PING | {key: odd}) for key in GOOD_PING for odd in (None, 1.5, {"a": []}))],
)  # fmt: skip
def test_a_service_that_answers_nonsense(text):
    with Listener(hostile.agent_like({"ping": text})) as board, pytest.raises(BoardError) as e:
        open_board(f"rpc://127.0.0.1:{board.port}", HOST)
    assert e.value.exit_code == 4 and e.value.hint


def test_an_answer_of_megabytes_makes_no_gigabytes():
    """Three bytes of JSON are a list of 64."""
    with peak_below(200 << 20), pytest.raises(BoardError, match="characters") as e:
        answers.parsed('{"a":[' + "[]," * 8_000_000 + "0]}", "board")
    assert len(str(e.value)) < 500


def test_text_of_a_board_reaches_no_terminal_raw():
    evil = {"error": "\x1b]0;owned\x07\x1b[2J\u202ered", "hint": "\x1b[31m", "code": 4}
    with Listener(hostile.agent_like({"ping": json.dumps(evil)})) as board, pytest.raises(BoardError) as e:
        open_board(f"rpc://127.0.0.1:{board.port}", HOST)
    assert not set(e.value.message + e.value.hint) & {"\x1b", "\x07", "\u202e"}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -1.0, "fast", None, True, 1 << 2000])
def test_times_are_finite_numbers(odd):
    with pytest.raises(BoardError, match="not a time"):
        answers.seconds([1.0, odd], "board", "running kernel")
    measured = {"ours": [1.0, odd], "time_evaluator": [1.0], "number": 1, "repeat": 1}
    with pytest.raises(BoardError, match=r"check_timing\.ours"):
        answers.check("check_timing", measured, "board")
    assert answers.seconds([0, 1e-9], "board", "running") == [0.0, 1e-9]


def test_arrays_are_of_the_shape_that_was_asked_for(tmp_path):
    wanted = {"0": ((2, 3), "float32"), "seconds": ((range(1, 9), 1), "float64")}
    path, good = tmp_path / "a.npz", {"0": np.ones((2, 3), np.float32), "seconds": np.ones((4, 1))}

    def refused(**changed) -> bool:
        np.savez(path, **(good | changed))
        try:
            found = answers.arrays(path, wanted, "board")
        except BoardError:
            return True
        return not (found["0"] == 1).all()

    assert not refused()
    assert all(refused(**{"0": odd}) for odd in (np.ones((3, 2), np.float32), np.ones((2, 3)), np.array([{}], object)))
    assert refused(seconds=np.ones((9, 1))) and refused(seconds=np.ones((0, 1)))
    np.savez_compressed(path, **good)
    with pytest.raises(BoardError, match="compressed"):
        answers.arrays(path, wanted, "board")
    with zipfile.ZipFile(path, "w") as archive:  # a header that promises more than there is
        archive.writestr(
            "0.npy",
            b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}".ljust(118),
        )
        archive.writestr("seconds.npy", b"")
    with pytest.raises(BoardError):
        answers.arrays(path, wanted, "board")
    path.write_bytes(b"PK no archive")
    with pytest.raises(BoardError):
        answers.arrays(path, wanted, "board")
