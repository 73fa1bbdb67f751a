"""Files that flags name: what is there already must not turn into something else, nor be half written."""

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
from tvm_mobilenet.tune_logs.journal import Journal

from tests.support import modules
from tvm_mobilenet import bench, build, factorize, profile, sweep, tune
from tvm_mobilenet.errors import BoardError, TvmMobilenetError
from tvm_mobilenet.files import temporary, user_cache
from tvm_mobilenet.files.whole_file import journal_file, refusal, replacing, write_whole


def facts(path) -> tuple:
    found = os.stat(path)
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid, found.st_nlink


def test_a_new_file_has_the_mode_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "new" / "report.html", "é", "--html")
    assert (tmp_path / "new" / "report.html").read_bytes() == "é".encode()
    assert facts(tmp_path / "new" / "report.html") == facts(tmp_path / "plain")
    assert os.listdir(tmp_path / "new") == ["report.html"]


def test_mode_owner_links_and_names_of_an_old_file_stay(tmp_path):
    old, link, lost = tmp_path / "report.html", tmp_path / "link.html", tmp_path / "lost.html"
    old.write_text("old and longer than what comes")
    old.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(old, 12345, 23456)
    link.symlink_to("report.html")
    lost.symlink_to("elsewhere/made.html")
    before = facts(old)
    write_whole(link, "new", "--html")
    write_whole(lost, "new", "--html")
    assert link.is_symlink() and old.read_text() == "new" and facts(old) == before
    assert lost.is_symlink() and (tmp_path / "elsewhere" / "made.html").read_text() == "new"
    os.link(old, tmp_path / "name.html")
    write_whole(old, "a", "--html")
    assert (tmp_path / "name.html").read_text() == "a" and facts(old)[:3] == before[:3]


def test_a_planted_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "report.html").write_text("precious")
    (tmp_path / ".report.html.0000000000000000.tmp").symlink_to("victim")
    monkeypatch.setattr(temporary.secrets, "token_hex", lambda n: "00" * n)  # even if it were guessed
    with pytest.raises(TvmMobilenetError, match="cannot write"):
        write_whole(tmp_path / "report.html", "<html>", "--html")
    assert (victim / "report.html").read_text() == "precious"


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "module.so"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["module.so"]


def test_devices_and_pipes_are_written_to_not_replaced(tmp_path):
    before = os.stat("/dev/null")
    write_whole("/dev/null", "gone", "--html")
    (tmp_path / "null").symlink_to("/dev/null")
    write_whole(tmp_path / "null", "gone", "--html")
    assert os.path.samestat(before, os.stat("/dev/null")) and stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    write_whole(tmp_path / "fifo", b"x" * 200_000, "--csv")
    reader.join(10)
    assert got == [b"x" * 200_000] and stat.S_ISFIFO(os.stat(tmp_path / "fifo").st_mode)
    with pytest.raises(TvmMobilenetError, match="No space left"):
        write_whole("/dev/full", "x", "--html")


STDOUT = "import sys; from tvm_mobilenet.files.whole_file import write_whole; print('before'); "
STDOUT += "write_whole(sys.argv[1], 'report\\n', '--html'); print('after')"


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "itself"])
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_stdout_is_written_to_wherever_it_goes(tmp_path, place, to):
    out = tmp_path / "out.txt"
    (tmp_path / "link").symlink_to("/dev/stdout")
    name = {"link": tmp_path / "link", "itself": out}.get(place, place)
    if to == "pipe" and place in ("link", "itself"):
        return
    with open(out, "wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", STDOUT, name], stdout=subprocess.PIPE if to == "pipe" else file, check=True
        )
    text = done.stdout if to == "pipe" else out.read_bytes()
    assert text == b"before\nreport\nafter\n"


def test_what_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("socket")
    unix.close()
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/old.jsonl").write_text("")
    real = os.access  # as of a file system that is mounted to be read; root may write to anything else
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and real(path, mode))
    places = [(".", "a folder"), ("socket", "a socket"), ("file/x", ""), ("file/x/y.tar.gz", "")]
    places += [(f"closed/{name}", "may not be written to") for name in ("new/x.html", "old.jsonl")]
    for place, word in places:
        assert place.startswith("closed") or (word in refusal(place) and refusal(place))
        for verb, arguments in (
            (sweep, ["--html"]),
            (sweep, ["--csv"]),
            (bench, ["out", "--record"]),
            (profile, ["out", "--trace"]),
            (factorize, ["--output"]),
            (tune, ["--target", "rpi4", "--model", modules.tiny_options().model, "--log"]),
            *([(build, ["--bundle"]), (build, ["--output"])] if place != "." else []),
        ):
            assert verb.main([*arguments, place]) == 2
            said = capsys.readouterr().err
            assert place in said and (place != "closed/new/x.html" or word in said)
    assert journal_file("closed/old.jsonl")
    assert not list(Journal("closed/old.jsonl").records()), "it is still read"
    for place in ("new/er/report.html", "/dev/null", "/dev/stdout", "file"):
        assert refusal(place) == ""


def test_a_file_that_is_mounted_alone_is_overwritten(tmp_path, monkeypatch):
    import errno

    path = tmp_path / "report.html"
    path.write_text("old and longer")

    def busy(old, new):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    write_whole(path, "new", "--html")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["report.html"]


def test_the_cache_in_the_temporary_folder_is_no_link_and_no_folder_that_others_write_to(tmp_path, monkeypatch):
    """Its name can be guessed, so another user may have put something there first."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(user_cache.tempfile, "tempdir", str(tmp_path))
    place = tmp_path / f"tvm_mobilenet-{os.getuid()}"
    victim = tmp_path / "victim"
    victim.mkdir()
    place.symlink_to(victim)
    with pytest.raises(BoardError, match="no folder to keep compiled code in"):
        user_cache.folder()
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(BoardError, match="no folder to keep compiled code in"):
        user_cache.folder()
    place.chmod(0o700)
    assert user_cache.folder() == place
