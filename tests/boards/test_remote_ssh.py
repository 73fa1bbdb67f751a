"""A board behind ssh: a real sshd on loopback; the agent there is started, and gone afterwards."""

import os
import struct
import subprocess
import sys
import time
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.boards.test_remote import HOST, fault, works
from tests.bundle.test_ship import sshd  # noqa: F401 - a fixture
from tests.support.agents import Agent, compile_kernels
from tests.support.hostile import Listener
from tvm_mobilenet.boards import open_board, token, wire
from tvm_mobilenet.boards.remote import ssh, wheel

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def behind(sshd, monkeypatch, tmp_path):  # noqa: F811
    """The board's URL, and its cache folder."""
    port, command = sshd
    monkeypatch.setattr(ssh, "_FOLDER", str(tmp_path / "cache"))
    for name in ("_LOOK", "_INSTALL", "_START"):
        text = getattr(ssh, name).replace("${XDG_CACHE_HOME:-$HOME/.cache}/tvm_mobilenet", str(tmp_path / "cache"))
        monkeypatch.setattr(ssh, name, text)
    monkeypatch.setattr(ssh, "AGENT_PORT", 1)  # nobody's
    monkeypatch.setenv("TVM_MOBILENET_SSH", command)
    return f"ssh://127.0.0.1:{port}", tmp_path / "cache"


def ready(cache) -> None:
    """An environment as the installation leaves it, that borrows this one's packages."""
    _, version, data = wheel.build_wheel()
    import tvm_mobilenet

    venv = cache / f"{tvm_mobilenet.__version__}-{version}"
    (venv / "bin").mkdir(parents=True)
    zipfile.ZipFile(BytesIO(data)).extractall(venv / "site")
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={venv}/site exec {sys.executable} "$@" # {cache}\n')
    python.chmod(0o755)
    (venv / "complete").touch()


def test_an_agent_is_started_and_ended(behind, tmp_path):
    url, cache = behind
    ready(cache)
    library = compile_kernels(tmp_path)
    works(url, library)
    with open_board(url, HOST) as board:
        assert board.has_agent
        pid = board.service("ping", {})["pid"]
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    with open_board(url, HOST) as board:  # ssh itself is killed: the agent ends by itself
        pid = board.service("ping", {})["pid"]
        for process in board._tunnel._processes:
            process.kill()
        with fault("connection was lost"):
            board.service("ping", {})
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists(), "the agent outlived its tunnel"


def test_ssh_that_does_not_get_there(behind, monkeypatch):
    url, cache = behind
    with fault("Connection refused"):
        open_board("ssh://127.0.0.1:1", HOST)
    ready(cache)
    (next(cache.iterdir()) / "bin" / "python").write_text("#!/bin/sh\necho no such module >&2; exit 1\n")
    with fault("the agent does not start: no such module"):
        open_board(url, HOST)
    monkeypatch.setenv("TVM_MOBILENET_SSH", "ssh -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null")
    with fault("Host key verification failed") as e:
        open_board(url, HOST)
    assert "ssh must log in without questions" in e.info.value.hint


@pytest.mark.full
def test_who_listens_on_the_boards_port_without_the_token_is_not_talked_to(behind, tmp_path, monkeypatch, capsys):
    """It answers as TVM's server would, sends the challenge back, or nothing; an agent is started beside it."""
    url, cache = behind
    ready(cache)
    monkeypatch.setattr(ssh, "PROOF_SECONDS", 2.0)
    heard = []

    def squat(connection):
        connection.settimeout(120)
        heard.append(connection.recv(36))
        if len(heard) % 2:
            connection.sendall(struct.pack("<ii", wire.MAGIC, 7) + b"server:")
        else:
            connection.sendall(token.CHALLENGE + heard[-1][4:] + bytes(32))
        heard.append(connection.recv(1 << 12))

    with Listener(squat) as squatter:
        monkeypatch.setattr(ssh, "AGENT_PORT", squatter.port)
        token.read_or_make()
        with open_board(url, HOST) as board:
            assert board.has_agent and board._tunnel.secret != token.read()
    assert "does not have your token; an agent is started beside it" in capsys.readouterr().err
    assert heard and all(struct.pack("<i", wire.MAGIC) not in data for data in heard), "it was greeted"


@pytest.mark.full
def test_an_agent_that_runs_there_and_has_the_token_is_used(behind, monkeypatch):
    url, cache = behind
    ready(cache)
    with Agent() as running:
        monkeypatch.setattr(ssh, "AGENT_PORT", running.port)
        with open_board(url, HOST) as board:
            assert board._tunnel.secret == token.read()
            assert board.service("ping", {})["pid"] in running.children()


@pytest.mark.full  # it needs the package index
def test_installing_on_a_board(behind, tmp_path):
    """The real thing: a virtual environment, our wheel, TVM from the package index."""
    url, cache = behind
    works(url, compile_kernels(tmp_path))
    assert len(list(cache.glob("*/complete"))) == 1 and not list(cache.glob(".new-*"))
    works(url, tmp_path / "kernels.so")


@pytest.mark.full
def test_the_wheel_is_this_package(tmp_path):
    name, version, data = wheel.build_wheel()
    assert wheel.build_wheel()[1:] == (version, data), "the same files give the same wheel"
    assert list(wheel.REQUIRES) == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (tmp_path / name).write_bytes(data)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / name], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = "import tvm_mobilenet as t; from tvm_mobilenet import targets; print(t.__file__, targets.load('rpi4').name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.split() == [str(tmp_path / "site/tvm_mobilenet/__init__.py"), "rpi4"], done.stderr
