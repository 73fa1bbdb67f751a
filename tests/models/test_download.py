"""A download is whole and right, or not there: what a bad server, a bad line or a full disk does to it."""

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import download

ROOT = Path(__file__).parents[2]
DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(DATA).hexdigest()
MOST = len(DATA) + 100


class Server(ThreadingHTTPServer):
    """Answers as ``answer`` does, and remembers what was asked."""

    def __init__(self, answer):
        self.answer, self.asked, self.over = answer, [], threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, client):  # a client that left
        pass


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.server.answer(self)

    def log_message(self, *args):
        pass

    def give(self, data=DATA, start=0, told=None, status=200):
        """A body, which may end before what its length tells."""
        self.send_response(206 if start else status)
        self.send_header("Content-Length", str(len(data) - start if told is None else told))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start:])

    @property
    def start(self) -> int:
        given = self.headers.get("Range")
        return int(given.removeprefix("bytes=").removesuffix("-")) if given else 0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def serving(answer):
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/net-{DIGEST[:8]}.pth"
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def fetched(address, folder, sha256=DIGEST, most=MOST):
    path, told = folder / "net.pth", []
    download.fetch(address, path, sha256, most, lambda have, whole: told.append((have, whole)), "the way out")
    return path, told


def nothing_counts(folder):
    assert not (folder / "net.pth").exists()


@pytest.mark.parametrize("sha256", [DIGEST, DIGEST[:8]])
def test_a_file_is_downloaded_once_and_its_progress_told(tmp_path, sha256):
    with serving(lambda h: h.give()) as (server, address):
        path, told = fetched(address, tmp_path, sha256)
        assert path.read_bytes() == DATA and told[-1] == (len(DATA), len(DATA))
        fetched(address, tmp_path, sha256)
        assert len(server.asked) == 1
        path.write_bytes(DATA[:-1] + b"x")  # damaged in the cache: it does not count
        fetched(address, tmp_path, sha256)
        assert path.read_bytes() == DATA and len(server.asked) == 2
    assert not (tmp_path / "net.pth.part").exists()


def test_a_body_of_no_told_length_is_taken_to_its_end(tmp_path):
    def answer(h):
        h.send_response(200)
        h.end_headers()
        h.wfile.write(DATA)

    with serving(answer) as (_, address):
        path, told = fetched(address, tmp_path)
    assert path.read_bytes() == DATA and told[-1] == (len(DATA), None)


def test_what_breaks_off_goes_on_where_it_ended(tmp_path):
    def answer(h):  # half of what is left, each time
        upto = len(DATA) if len(h.server.asked) > 2 else (h.start + len(DATA)) // 2
        h.give(DATA[:upto], h.start, len(DATA) - h.start)

    with serving(answer) as (server, address):
        assert fetched(address, tmp_path)[0].read_bytes() == DATA
    assert [r for _, r in server.asked] == [None, f"bytes={len(DATA) // 2}-", f"bytes={len(DATA) * 3 // 4}-"]


def test_what_breaks_off_each_time_is_told_and_the_next_run_goes_on(tmp_path):
    with serving(lambda h: h.give(DATA[:1000], told=len(DATA))) as (server, address):
        with pytest.raises(TvmMobilenetError, match=r"ended after 1,000 of 1,048,576 bytes\n.*continues where"):
            fetched(address, tmp_path)
        assert len(server.asked) == download.TRIES
    nothing_counts(tmp_path)
    assert (tmp_path / "net.pth.part").read_bytes() == DATA[:1000]
    with serving(lambda h: h.give(start=h.start)) as (server, address):
        assert fetched(address, tmp_path)[0].read_bytes() == DATA
        assert [r for _, r in server.asked] == ["bytes=1000-"]


def test_a_server_that_cannot_go_on_begins_again(tmp_path):
    (tmp_path / "net.pth.part").write_bytes(DATA[:1000])
    with serving(lambda h: h.give()) as (_, address):
        assert fetched(address, tmp_path)[0].read_bytes() == DATA


@pytest.mark.parametrize("kept", [b"of another file", DATA, DATA + b"more"])
def test_what_was_kept_of_another_file_is_not_mixed_in(tmp_path, kept):
    def answer(h):
        if h.start >= len(DATA):
            h.send_response(416)
            h.send_header("Content-Range", f"bytes */{len(DATA)}")
            h.send_header("Content-Length", "0")
            h.end_headers()
        else:
            h.give(start=h.start)

    (tmp_path / "net.pth.part").write_bytes(kept)
    with serving(answer) as (_, address):
        assert fetched(address, tmp_path)[0].read_bytes() == DATA


def test_a_changed_file_is_refused_and_nothing_of_it_kept(tmp_path):
    with (
        serving(lambda h: h.give(DATA[:-1] + b"x")) as (_, address),
        pytest.raises(TvmMobilenetError, match="gave another file: its SHA-256 does not begin"),
    ):
        fetched(address, tmp_path)
    nothing_counts(tmp_path)
    assert not (tmp_path / "net.pth.part").exists()


def test_a_missing_file_and_a_machine_that_is_not_there(tmp_path):
    with (
        serving(lambda h: h.send_error(404)) as (_, address),
        pytest.raises(TvmMobilenetError, match=r"the server says 404 Not Found\n  the way out"),
    ):
        fetched(address, tmp_path)
    with pytest.raises(TvmMobilenetError, match=r"cannot be reached: .*\n  the way out"):
        fetched(address, tmp_path)  # nobody listens any more
    nothing_counts(tmp_path)


@pytest.mark.parametrize("length", [MOST + 1, 10**14])
def test_a_file_that_says_it_is_too_large_is_not_begun(tmp_path, length):
    with (
        serving(lambda h: h.give(b"", told=length)) as (_, address),
        pytest.raises(TvmMobilenetError, match=r"bytes, at most .* are expected"),
    ):
        fetched(address, tmp_path)
    nothing_counts(tmp_path)


def test_a_body_that_does_not_end_is_left(tmp_path):
    def answer(h):
        h.send_response(200)
        h.end_headers()
        with contextlib.suppress(OSError):
            while not h.server.over.is_set():
                h.wfile.write(DATA)

    with serving(answer) as (_, address), pytest.raises(TvmMobilenetError, match="does not end: more than"):
        fetched(address, tmp_path)
    nothing_counts(tmp_path)
    assert (tmp_path / "net.pth.part").stat().st_size == 0


def test_a_server_that_says_nothing_more_is_left_and_what_came_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SILENCE", 0.2)

    def answer(h):
        h.give(DATA[:5000], h.start, len(DATA) - h.start)
        h.wfile.flush()
        h.server.over.wait(60)

    with (
        serving(answer) as (_, address),
        pytest.raises(TvmMobilenetError, match="broke off after 5,000 bytes: timed out"),
    ):
        fetched(address, tmp_path)
    assert (tmp_path / "net.pth.part").read_bytes() == DATA[:5000]


def test_a_server_that_drips_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WINDOW", 0.3)

    def answer(h):
        h.give(b"", told=len(DATA))
        with contextlib.suppress(OSError):
            while not h.server.over.wait(0.02):
                h.wfile.write(b"x")
                h.wfile.flush()

    with serving(answer) as (_, address), pytest.raises(TvmMobilenetError, match=r"bytes in 0\.3 seconds"):
        fetched(address, tmp_path)
    nothing_counts(tmp_path)


@pytest.mark.parametrize(
    "where, words",
    [
        ("file:///etc/passwd", "file:"),
        ("ftp://127.0.0.1/x", "leads to ftp:"),
        ("http://example.invalid/x", "leads to http://example.invalid"),
        ("", "the server says 30"),  # to itself, for ever
    ],
)
def test_redirections_lead_nowhere_else(tmp_path, where, words):
    def answer(h):
        h.send_response(302)
        h.send_header("Location", where or h.path + "x")
        h.send_header("Content-Length", "0")
        h.end_headers()

    with serving(answer) as (server, address):
        with pytest.raises(TvmMobilenetError, match=words):
            fetched(address, tmp_path)
        assert len(server.asked) <= download.MOST_REDIRECTIONS + 1
    nothing_counts(tmp_path)


def test_a_redirection_is_followed(tmp_path):
    def answer(h):
        if h.path == "/there":
            return h.give(start=h.start)
        h.send_response(302)
        h.send_header("Location", "/there")
        h.send_header("Content-Length", "0")
        h.end_headers()

    with serving(answer) as (_, address):
        assert fetched(address, tmp_path)[0].read_bytes() == DATA


@pytest.mark.parametrize("address", ["http://example.com/net.pth", "file:///etc/passwd", "/etc/passwd"])
def test_only_https_is_asked_beyond_this_machine(tmp_path, address):
    with pytest.raises(TvmMobilenetError, match="only https"):
        fetched(address, tmp_path)
    # and what is encrypted leads to nothing that is not, be it this machine
    with pytest.raises(TvmMobilenetError, match="only https"):
        download._check("http://127.0.0.1/x", "https://example.com/x")


def test_a_full_disk_is_told_and_gets_its_room_back(tmp_path):
    """As on a full disk: the process may write no larger file."""
    with serving(lambda h: h.give(start=h.start)) as (_, address):
        code = (
            "import resource, signal, sys; from pathlib import Path\n"
            "from tests.models.test_download import *\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(DATA) // 2},) * 2)\n"
            f"try: fetched({address!r}, Path({str(tmp_path)!r}))\n"
            "except TvmMobilenetError as e: print(e)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], text=True, capture_output=True, cwd=Path(__file__).parents[2]
        )
    assert "has no place for" in done.stdout and "make room" in done.stdout, done.stdout + done.stderr
    nothing_counts(tmp_path)
    assert not (tmp_path / "net.pth.part").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "not there"
    with pytest.raises(TvmMobilenetError, match="cannot be written"):
        fetched("http://127.0.0.1:1/x", folder)


def test_two_at_once_download_once(tmp_path):
    first = threading.Event()

    def answer(h):
        h.give(DATA[: len(DATA) // 2], told=len(DATA))
        h.wfile.flush()
        first.set()
        time.sleep(0.2)
        h.wfile.write(DATA[len(DATA) // 2 :])

    with serving(answer) as (server, address):
        others = [threading.Thread(target=fetched, args=(address, tmp_path)) for _ in range(3)]
        for one in others:
            one.start()
        first.wait(60)
        for one in others:
            one.join()
        assert len(server.asked) == 1 and (tmp_path / "net.pth").read_bytes() == DATA


def test_one_that_is_killed_leaves_what_the_next_goes_on_from(tmp_path):
    half = len(DATA) // 2

    def answer(h):
        if h.start:
            return h.give(start=h.start)
        h.give(DATA[:half], told=len(DATA))
        h.wfile.flush()
        h.server.over.wait(60)

    with serving(answer) as (server, address):
        code = f"from tests.models.test_download import *; fetched({address!r}, Path({str(tmp_path)!r}))"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        part = tmp_path / "net.pth.part"
        while not part.exists() or part.stat().st_size < half // 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert fetched(address, tmp_path)[0].read_bytes() == DATA
        assert len(server.asked) == 2 and server.asked[1][1].startswith("bytes=")
