"""Shipping to boards: a new version is current only when it was tested there; whatever breaks leaves the old one."""

import contextlib
import dataclasses
import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import bundles, schemas
from tvm_mobilenet import ship
from tvm_mobilenet.errors import TvmMobilenetError


@pytest.fixture(scope="module")
def bundle():
    return bundles.made().bundle


def changed(bundle, name: str, data: bytes, **manifest):
    """A whole bundle with another file in it."""
    new = json.loads(json.dumps({**bundle.manifest, **manifest}))
    new["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(new).encode()
    sums = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()
    return dataclasses.replace(
        bundle, manifest=new, files={**bundle.files, name: data, "manifest.json": text, "manifest.sha256": sums}
    )


def current(folder) -> str:
    """The current version; it must work."""
    done = subprocess.run([folder / "current/mobilenet", "selftest", "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and schemas.refused("device", json.loads(done.stdout)) == "", done.stderr
    return os.path.basename(os.readlink(folder / "current"))


def local(folder) -> ship.Destination:
    return ship.Destination.parse(str(folder))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A server on loopback with keys of its own: its port, and the ssh command that gets in."""
    server = shutil.which("sshd", path="/usr/sbin:" + os.environ["PATH"])
    if not server or not shutil.which("ssh-keygen"):
        pytest.skip("sshd is not installed: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    process = subprocess.Popen([server, "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL)
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.05)
    yield port, f"ssh -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    process.terminate()
    process.wait()


def remote(sshd, folder, command="") -> ship.Destination:
    port, ssh = sshd
    return ship.Destination.parse(f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}", command or ssh)


def test_versions_rollback_and_how_many_stay(bundle, tmp_path):
    to = local(tmp_path / "board with blanks")
    for _ in range(4):
        assert ship.ship(bundle, to, keep=3).ok
    folder = tmp_path / "board with blanks"
    assert sorted(p.name[:4] for p in (folder / "versions").iterdir()) == ["0002", "0003", "0004"]
    assert current(folder).startswith("0004-") and not [p for p in (folder / "current/").iterdir() if p.is_dir()]
    assert ship.rollback(to).version.startswith("0003-") and current(folder).startswith("0003-")
    assert ship.rollback(to).ok and not ship.rollback(to).ok
    assert current(folder).startswith("0002-")
    assert ship.ship(bundle, to).version.startswith("0005-")


def test_a_failed_test_leaves_the_old_one(bundle, tmp_path):
    to = local(tmp_path)
    assert ship.ship(bundle, to).ok
    data = bytearray(bundle.files["selftest.bin"])
    data[-2] ^= 0x40
    result = ship.ship(changed(bundle, "selftest.bin", bytes(data)), to)
    assert not result.ok and "differ from the expected" in result.error
    broken = dataclasses.replace(bundle, files={**bundle.files, "weights.bin": bytes(len(bundle.files["weights.bin"]))})
    assert "weights.bin: FAILED" in ship.ship(broken, to).error
    assert current(tmp_path).startswith("0001-") and len(list((tmp_path / "versions").iterdir())) == 1


def test_a_board_of_another_kind_gets_no_folder(bundle, tmp_path):
    broken = dataclasses.replace(bundle, files={**bundle.files, "mobilenet": b"\x7fELF of another machine"})
    broken = changed(broken, "mobilenet", broken.files["mobilenet"])
    assert not ship.ship(broken, local(tmp_path / "new")).ok and not list(tmp_path.iterdir())


def test_over_ssh_to_several_boards_with_a_table(bundle, sshd, tmp_path, capsys):
    port, ssh = sshd
    bundle.write(tmp_path / "b.tar.gz")
    places = [f"--to=ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/{n}" for n in "ab"]
    assert ship.main(["--bundle", str(tmp_path / "b.tar.gz"), *places, "--ssh", ssh]) == 0
    assert capsys.readouterr().out.count("passed") == 2
    lost = "--to=ssh://127.0.0.1:1/x"
    assert ship.main(["--bundle", str(tmp_path / "b.tar.gz"), *places, lost, "--ssh", ssh, "--json"]) == 4
    boards = json.loads(capsys.readouterr().out)
    assert ["passed" in board["selftest"] for board in boards] == [not board["error"] for board in boards]
    assert [bool(board["version"]) for board in boards] == [True, True, False]
    assert "no connection: " in boards[2]["error"]
    schemas.require("ship", boards, "0", "2")
    assert current(tmp_path / "a").startswith("0002-")


def test_a_board_of_another_architecture(bundle, sshd, tmp_path):
    program = bytearray(bundle.files["mobilenet"])
    program[18] = 0xB7 if program[18] != 0xB7 else 0x3E  # the ELF header's machine
    assert ship.ship(bundle, remote(sshd, tmp_path)).ok
    result = ship.ship(changed(bundle, "mobilenet", bytes(program)), remote(sshd, tmp_path))
    assert "another architecture" in result.error and current(tmp_path).startswith("0001-")


@pytest.fixture
def small_disk(tmp_path):
    """A file system that holds one version, and not two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_board_that_is_full_or_read_only(bundle, sshd, small_disk):
    assert ship.ship(bundle, remote(sshd, small_disk)).ok
    (small_disk / "filler").write_bytes(bytes(4_500_000))
    result = ship.ship(bundle, remote(sshd, small_disk))
    assert not result.ok and ("No space left" in result.error or "connection broke" in result.error)
    assert current(small_disk).startswith("0001-")
    (small_disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = ship.ship(bundle, remote(sshd, small_disk))
    assert "Read-only file system" in result.error and current(small_disk).startswith("0001-")


def test_a_connection_that_drops(bundle, sshd, tmp_path):
    """After so many bytes of the archive: the client is gone, what arrived is removed."""
    assert ship.ship(bundle, remote(sshd, tmp_path)).ok
    for kept in (0, 1000, 1_000_000, 2_500_000):
        cut = tmp_path / "cut.sh"
        cut.write_text(f'#!/bin/sh\nhead -c {kept} | {sshd[1]} "$@"\n')
        cut.chmod(0o755)
        result = ship.ship(bundle, remote(sshd, tmp_path, str(cut)))
        assert not result.ok and "connection broke" in result.error
    assert current(tmp_path).startswith("0001-") and len(list((tmp_path / "versions").iterdir())) == 1


def events(board) -> set[tuple[str, str]]:
    """What shipments have done on a board so far: a shipment adds these one by one."""
    versions, found = board / "versions", set()
    with contextlib.suppress(OSError):  # what is listed may be gone before it is looked at
        found |= {("begun", p.name) for p in versions.glob(".new-*")}
        found |= {("arrives", p.parent.name) for p in versions.glob(".new-*/bundle.tar")}
        found |= {("unpacked", p.parent.name) for p in versions.glob(".new-*/mobilenet")}
        found |= {("hashed", p.parent.name) for p in versions.glob(".new-*/.not-yet")}
        found |= {("numbered", p.parent.name) for p in versions.glob("[0-9]*-*/mobilenet")}
    return found


def shipping(bundle, to: ship.Destination) -> int:
    """A process, with a group of its own, that ships and ends."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.setsid()
            code = 0 if ship.ship(bundle, to).ok else 1
        finally:
            os._exit(code)
    return child


@pytest.mark.full  # of other writers in every run: test_bundle_written.py, test_temporary.py
@pytest.mark.parametrize("over", ["local", "ssh"])
def test_killed_at_any_moment(bundle, sshd, tmp_path, over):
    """With all its children, as a lost power supply here would: as soon as the board shows something new, and then in
    the middle of the self-test and of the switch. `current` works every time, before and after. What a killed shipment
    leaves is one folder of files at most, and an empty one of its number, which the next removes."""
    board = tmp_path / "board"
    assert ship.ship(bundle, local(board)).ok
    to = local(board) if over == "local" else remote(sshd, board)
    seen, killed, left = set(), 0, 0
    moments = [(1, 0), (2, 0), (2, 0.01), (3, 0), (4, 0), (4, 0.02), (4, 0.05), (4, 0.1), (5, 0), (5, 0.005)]
    for number, (kill_at, wait) in enumerate(6 * moments):
        if killed >= 30 and number >= 3 * len(moments):
            break  # a busy machine sees some moments too late, and tries them again
        before, fresh, ended = events(board), set(), 0
        process = shipping(bundle, to)
        while len(fresh) < kill_at and not (ended := os.waitpid(process, os.WNOHANG)[0]):
            time.sleep(0.001)
            fresh |= events(board) - before
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        killed += not ended and os.waitpid(process, 0)[1] == signal.SIGKILL
        seen.add(current(board))
        if over == "local":
            versions = sorted(os.listdir(board / "versions"))
            unfinished = [v for v in versions if v.startswith(".") or not os.listdir(board / "versions" / v)]
            unfinished += [v for v in versions if (board / "versions" / v / ".not-yet").exists()]
            found = set(unfinished) - {current(board)}  # with the empty folder of its number, if it had one
            assert len([v for v in found if os.listdir(board / "versions" / v)]) <= 1 and len(found) <= 2, versions
            left += len(unfinished)
    assert killed >= 8, "most were killed while something happened on the board"
    assert left > 0 or over == "ssh", "no kill left anything, so none tells that the next shipment removes it"
    assert ship.ship(bundle, local(board)).ok and current(board) not in seen
    versions = os.listdir(board / "versions")
    assert not [v for v in versions if v.startswith(".")] and len(versions) <= ship.KEEP
    assert all(os.listdir(board / "versions" / v) for v in versions)
    assert not list((board / "versions").glob("*/.not-yet")) and sorted(os.listdir(board)) == ["current", "versions"]


def test_a_sender_that_is_lost_switches_nothing_and_leaves_nothing(bundle, sshd, tmp_path):
    """The board's shell is alive: it says so when it finds out, and tidies up itself."""
    assert ship.ship(bundle, local(tmp_path)).ok
    process = shipping(bundle, remote(sshd, tmp_path))
    limit = time.monotonic() + 300
    while not list((tmp_path / "versions").glob(".new-*/mobilenet")):
        assert time.monotonic() < limit and not os.waitpid(process, os.WNOHANG)[0], "it ended before anything was seen"
        time.sleep(0.002)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    limit = time.monotonic() + 300
    while len(os.listdir(tmp_path / "versions")) > 1 and time.monotonic() < limit:
        time.sleep(0.01)
    assert [v[:4] for v in os.listdir(tmp_path / "versions")] == ["0001"] and current(tmp_path).startswith("0001-")


def test_two_shipments_at_once_do_not_remove_each_other(bundle, tmp_path):
    processes = [shipping(bundle, local(tmp_path)) for _ in range(3)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0, 0]
    assert sorted(v[:4] for v in os.listdir(tmp_path / "versions")) == ["0001", "0002", "0003"]
    assert current(tmp_path).startswith("0003-")


@pytest.mark.full
@pytest.mark.parametrize("moment", [".new-*", ".new-*/mobilenet", ".new-*/.not-yet"])
def test_a_shipment_that_is_stopped_for_a_while_goes_on(bundle, tmp_path, moment):
    """As on a machine that sleeps: another one is neither held up nor removes its folder, and the last one to end is
    current."""
    versions = tmp_path / "versions"
    process, limit = shipping(bundle, local(tmp_path)), time.monotonic() + 300
    while not list(versions.glob(moment)):
        assert time.monotonic() < limit and not os.waitpid(process, os.WNOHANG)[0], "it ended before it was stopped"
    os.killpg(process, signal.SIGSTOP)
    assert ship.ship(bundle, local(tmp_path)).ok and current(tmp_path).startswith("0001-")
    os.killpg(process, signal.SIGCONT)
    assert os.waitpid(process, 0)[1] == 0 and current(tmp_path).startswith("0002-")
    assert sorted(v[:4] for v in os.listdir(versions)) == ["0001", "0002"]


def test_a_version_that_never_became_current_is_none(bundle, tmp_path):
    """Numbered, and killed before the switch: no way back leads there, and the next shipment removes it."""
    assert ship.ship(bundle, local(tmp_path)).ok and ship.ship(bundle, local(tmp_path)).ok
    dead, versions = tmp_path / "versions/0001-dead", tmp_path / "versions"
    shutil.copytree(versions / current(tmp_path), dead)
    (dead / ".not-yet").touch()
    (versions / current(tmp_path) / ".not-yet").touch()  # killed right after the switch
    assert ship.rollback(local(tmp_path)).version.startswith("0001-") and current(tmp_path) != dead.name
    assert ship.ship(bundle, local(tmp_path)).ok
    assert not dead.exists() and sorted(v[:4] for v in os.listdir(versions)) == ["0001", "0002", "0003"]


@pytest.mark.parametrize("locks", [True, False])
def test_folders_of_living_shipments_stay_whatever_the_clock_says(bundle, tmp_path, monkeypatch, locks):
    """A board's clock jumps, often soon after its start. Without locks, a folder names its process."""
    if not locks:
        programs = tmp_path / "programs"
        programs.mkdir()
        for path in (p for place in ("/usr/bin", "/bin") for p in Path(place).iterdir()):
            if path.name != "flock" and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
        monkeypatch.setenv("PATH", str(programs))
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rsplit(")", 1)[1].split()[19]
    start = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    living, earlier, reused = (
        f"{os.getpid()}.{started}.{start}",
        f"{os.getpid()}.{started}.0",
        f"{os.getpid()}.1.{start}",
    )
    board, versions = tmp_path / "board", tmp_path / "board/versions"
    folders = {f".new-{name}-x": name for name in (living, earlier, reused, "of-before")}
    folders |= {f"000{k}-x": name for k, name in enumerate((living, earlier, ""))}
    held = []
    for name, process in folders.items():
        (versions / name).mkdir(parents=True)
        (versions / name / ".not-yet").write_text(process)
        clock = -1e9 if process == living else 1e9
        os.utime(versions / name, (time.time() + clock,) * 2)
        if locks and process == living:
            held.append(os.open(versions / name, os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX)
    assert ship.ship(bundle, local(board), keep=9).ok
    now = current(board)
    assert {p.name for p in versions.iterdir()} == {f".new-{living}-x", "0000-x", now}
    for lock in held:
        os.close(lock)


@pytest.mark.parametrize("program", ["mktemp", "readlink", "ln", "sync", "sha256sum", "wc", "sed"])
def test_a_program_of_the_board_that_fails_costs_no_version(bundle, tmp_path, monkeypatch, program):
    """On a full disk or without memory: a name that is missing then must not turn into the name of all versions."""
    board = tmp_path / "board"
    assert ship.ship(bundle, local(board)).ok and ship.ship(bundle, local(board)).ok
    before = sorted(os.listdir(board / "versions"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / program).chmod(0o755)
    with monkeypatch.context() as failing:
        failing.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        result = ship.ship(bundle, local(board), keep=2)
    assert result.ok or set(before) <= set(os.listdir(board / "versions")), "a shipment that failed removed a version"
    assert set(before[-1:]) <= set(os.listdir(board / "versions")) and current(board) >= before[-1]
    assert ship.ship(bundle, local(board), keep=2).ok


FLUSHED = re.compile(r"^\d+ +f(?:data)?sync\(\d+<([^>]*)>\) += 0", re.MULTILINE)


@pytest.mark.parametrize("old", [False, True])
def test_a_version_is_on_the_disk_before_it_is_current_and_before_old_ones_go(bundle, tmp_path, monkeypatch, old):
    """As the system sees it: a card whose power is cut keeps what was flushed. ``old``: `sync` takes no names."""
    if not shutil.which("strace") and not os.environ.get("TVM_MOBILENET_CI"):
        pytest.skip("strace is not installed: apt-get install strace")
    board = tmp_path / "board"
    assert ship.ship(bundle, local(board)).ok
    if old:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/sync").write_text('#!/bin/sh\n[ $# = 0 ] && exec /bin/sync; echo "Usage: sync [OPTION]"\n')
        (tmp_path / "bin/sync").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    log, calls = tmp_path / "calls", "fsync,fdatasync,sync,rename,renameat,renameat2,unlinkat,unlink"
    traced = ["strace", "-f", "-y", "-qq", "-s", "4096", "-o", str(log), "-e", f"trace={calls}"]
    to = dataclasses.replace(local(board), command=(*traced, "sh", "-c"))
    result = ship.ship(bundle, to, keep=1)
    if "ptrace" in result.error.lower() and not os.environ.get("TVM_MOBILENET_CI"):
        pytest.skip(f"strace may trace nothing here: {result.error[:100]}")
    assert result.ok, result.error
    text, version = log.read_text(), board / "versions" / result.version
    switch = re.search(r'^.*rename.*"\.current-.*"current".* = 0', text, re.MULTILINE)
    numbered = re.search(r'^.*rename.*"(\.new-[\w.-]+)", .*-\w+".* = 0', text, re.MULTILINE)
    gone = re.search(r"^.*unlink.*weights\.bin.* = 0", text, re.MULTILINE)
    assert numbered.start() < switch.start() < gone.start() and list(version.parent.iterdir()) == [version]
    if old:
        calls = [m.start() for m in re.finditer(r"^\d+ +sync\(\) += 0", text, re.MULTILINE)]
        assert any(c < numbered.start() for c in calls) and any(switch.start() < c < gone.start() for c in calls)
        assert any(numbered.start() < c < switch.start() for c in calls)
        return
    before = set(FLUSHED.findall(text[: numbered.start()]))
    new = version.parent / numbered[1]
    assert before >= {str(new), *(str(new / name) for name in bundle.files)}
    assert str(version.parent) in FLUSHED.findall(text[numbered.start() : switch.start()])
    assert str(board) in FLUSHED.findall(text[switch.start() : gone.start()])


@pytest.mark.parametrize(
    "text", ["http://x/y", "ssh://host", "ssh:///folder", "ssh://-oProxyCommand=x/y", "ssh://h:x/y"]
)
def test_addresses_that_are_none(text):
    with pytest.raises(TvmMobilenetError):
        ship.Destination.parse(text)


def test_usage(capsys):
    assert ship.main(["--to", "x"]) == 2
    assert ship.main(["--to", "x", "--bundle", "missing.tar.gz"]) == 2
    assert "not a whole bundle" in capsys.readouterr().err
