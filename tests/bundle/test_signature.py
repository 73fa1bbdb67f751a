"""Signed bundles: what was not signed, in every byte, by whom it should have been does not reach a board."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import tvm_mobilenet
from tests.support import bundles, modules
from tvm_mobilenet import build, ship, targets
from tvm_mobilenet.bundle import pack, received, signature
from tvm_mobilenet.bundle.signature import Signers
from tvm_mobilenet.checking import machine_check
from tvm_mobilenet.compiler import saved
from tvm_mobilenet.errors import TvmMobilenetError, VerificationError

pytestmark = pytest.mark.skipif(
    not shutil.which("ssh-keygen") and not os.environ.get("TVM_MOBILENET_CI"),
    reason="ssh-keygen is not installed: apt-get install openssh-client",
)


def new_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        new_key(folder / name)
    return folder


@pytest.fixture(scope="module")
def signed(keys):
    return bundles.made().bundle.signed(keys / "ours")


@pytest.fixture
def folder(signed, tmp_path):
    signed.write(tmp_path / "bundle")
    return tmp_path / "bundle"


def public(keys: Path, name: str = "ours") -> Signers:
    return Signers.read(keys / f"{name}.pub")


def fingerprint(key: Path) -> str:
    """As OpenSSH itself shows it."""
    return subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True, text=True).stdout.split()[1]


def refused(path: Path, signers: Signers, word: str) -> None:
    with pytest.raises(TvmMobilenetError, match=word) as told:
        pack.read(path, signers)
    assert str(path) in str(told.value)


def changed_at(data: bytes, place: int, bits: int = 1) -> bytes:
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def test_a_signer_is_named_by_the_keys_comment_or_its_fingerprint(keys, signed, tmp_path):
    """So that the result of a shipment says whose key it was, and nothing in a comment is taken for an option."""
    key = (keys / "ours.pub").read_text().strip()
    for comment, name in (("me@laptop", "me@laptop"), ("two words", ""), ('x" cert-authority', ""), ("a,b*", "")):
        (tmp_path / "key.pub").write_text(f"{key} {comment}\n")
        signers = Signers.read(tmp_path / "key.pub")
        assert signers.text.startswith(f"{name or fingerprint(keys / 'ours.pub')} namespaces="), comment
        assert pack.read(bundle_of(signed, tmp_path), signers).signer == (name or fingerprint(keys / "ours.pub"))


def bundle_of(bundle, folder: Path) -> Path:
    """Where it is written, once."""
    if not (folder / "written").exists():
        bundle.write(folder / "written")
    return folder / "written"


def test_a_byte_in_each_file(signed, keys, folder, tmp_path):
    """At its beginning, in its middle and at its end; of the signature itself at every fifth place."""
    assert pack.read(folder, public(keys)).signer == fingerprint(keys / "ours.pub")
    signed.write(tmp_path / "b.tar.gz")
    assert pack.read(tmp_path / "b.tar.gz", public(keys)).signer
    assert len(signed.files) >= 10 and received.SIGNATURE in signed.files
    for name, data in signed.files.items():
        places = range(0, len(data), 5) if name == received.SIGNATURE else ()
        for place in {0, len(data) // 2, len(data) - 1, *places}:
            (folder / name).write_bytes(changed_at(data, place))
            refused(folder, public(keys), "not a whole bundle|signature|every file")
        (folder / name).write_bytes(data)
    for name in (received.SUM, received.SIGNATURE):
        for more in (b" ", b"\n", b"0" * 64 + b"  x\n"):
            (folder / name).write_bytes(signed.files[name] + more)
            refused(folder, public(keys), "signature|every file")
        (folder / name).write_bytes(signed.files[name])
    assert pack.read(folder, public(keys)).signer


def test_files_that_were_added_or_removed(signed, keys, folder):
    for name, data in signed.files.items():
        (folder / name).unlink()
        refused(folder, public(keys), "lacks|not signed")
        (folder / name).write_bytes(data)
    for added in ("mobilenet.pyc", ".hidden", "extra.bin"):
        (folder / added).write_text("")
        refused(folder, public(keys), "was not signed")
        (folder / added).unlink()
    (folder / "__pycache__").mkdir()  # Python would take code from there
    refused(folder, public(keys), "was not signed")


def resealed(bundle: pack.Bundle, name: str, data: bytes) -> pack.Bundle:
    """With another file, and all hashes made again: as whole as the first."""
    manifest = json.loads(bundle.files[received.MANIFEST])
    manifest["files"][name] = {"bytes": len(data), "sha256": pack.hashlib.sha256(data).hexdigest()}
    text = json.dumps(manifest).encode()
    files = {**bundle.files, name: data, received.MANIFEST: text, received.SUM: received.sums_of(manifest, text)}
    return pack.Bundle(manifest, files)


@pytest.mark.parametrize("name", ["selftest.bin", "mobilenet.h", "labels.txt", "one that is new"])
def test_hashes_that_were_made_again(signed, keys, tmp_path, name):
    name, data = (name, signed.files[name]) if name in signed.files else ("new.bin", b"0123")
    other = resealed(signed, name, changed_at(data, len(data) // 2))
    other.write(tmp_path / "b.tar.gz")
    assert pack.read(tmp_path / "b.tar.gz").files == other.files, "without a signature it is whole"
    refused(tmp_path / "b.tar.gz", public(keys), "signature is from no signer")
    other.signed(keys / "other").write(tmp_path / "b.tar.gz")
    refused(tmp_path / "b.tar.gz", public(keys), "signature is from no signer")
    assert pack.read(tmp_path / "b.tar.gz", public(keys, "other")).signer


def test_a_signature_that_is_no_ascii_is_damaged(signed, keys, folder):
    (folder / received.SIGNATURE).write_bytes(changed_at(signed.files[received.SIGNATURE], 60, 0x80))
    refused(folder, public(keys), "signature is damaged")


def test_signatures_of_other_things(signed, keys, folder, tmp_path):
    """By our key: of another bundle, or for another purpose, as a signature of a commit is."""
    data = signed.files["labels.txt"]
    another = resealed(signed, "labels.txt", changed_at(data, 3)).signed(keys / "ours").files[received.SIGNATURE]
    (tmp_path / "sums").write_bytes(signed.files[received.SUM])
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", keys / "ours", tmp_path / "sums"]
    subprocess.run(command, check=True)
    for other in (another, (tmp_path / "sums.sig").read_bytes()):
        (folder / received.SIGNATURE).write_bytes(other)
        refused(folder, public(keys), "signature is from no signer")


def test_signers_who_may_and_may_not_now(folder, keys, tmp_path):
    key = (keys / "ours.pub").read_text().strip()
    allowed = tmp_path / "allowed"
    cases = {
        f"ann@example.org {key}": "ann@example.org",
        f"# a comment\n\nann@example.org,bob@example.org {key}": "ann@example.org",
        f'ann@example.org namespaces="git,{signature.NAMESPACE}" {key}': "ann@example.org",
        f'ann@example.org valid-after="20200101",valid-before="20990101" {key}': "ann@example.org",
        f'ann@example.org valid-before="20200101" {key}': "",
        f'ann@example.org valid-after="20990101" {key}': "",
        f'ann@example.org namespaces="git" {key}': "",
        f"ann@example.org {(keys / 'other.pub').read_text()}": "",
        f'ann@example.org valid-before="20200101" {key}\nbob@example.org {key}': "bob@example.org",
    }
    for text, signer in cases.items():
        allowed.write_text(text + "\n")
        if signer:
            assert pack.read(folder, Signers.read(allowed)).signer == signer, text
        else:
            refused(folder, Signers.read(allowed), "signature is from no signer")


def test_what_names_no_signer(keys, tmp_path):
    (tmp_path / "empty").write_text("# nobody\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    places = (keys / "ours", tmp_path / "empty", tmp_path / "binary", tmp_path, tmp_path / "missing")
    for place, word in zip(places, ("private key", "no signer", "not text", "a folder", "no such file"), strict=True):
        with pytest.raises(TvmMobilenetError, match=word):
            Signers.read(place)


def test_keys_with_a_passphrase_and_in_an_agent(keys, tmp_path, monkeypatch):
    """As ssh-keygen takes them: it asks for the passphrase, or ssh-agent signs for the public key."""
    data, key = b"sums", new_key(tmp_path / "closed", "correct horse")
    signature.require_key(key)  # asks nobody
    ask = tmp_path / "ask"
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    for word in ("correct horse", "wrong"):
        ask.write_text(f"#!/bin/sh\necho {word}\n")
        ask.chmod(0o700)
        if word == "wrong":
            with pytest.raises(TvmMobilenetError, match=r"nothing was signed with .*closed"):
                signature.sign(data, key)
        else:
            assert signature.verify(data, signature.sign(data, key), public(tmp_path, "closed"))
    started = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    names = dict(part.split("=", 1) for part in started.replace("\n", "").split(";") if part.startswith("SSH_"))
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", names["SSH_AUTH_SOCK"])
        subprocess.run(["ssh-add", "-q", keys / "other"], check=True)
        shutil.copy(keys / "other.pub", tmp_path / "agent.pub")
        signature.require_key(tmp_path / "agent.pub")
        made = signature.sign(data, tmp_path / "agent.pub")
        assert signature.verify(data, made, public(keys, "other"))
    finally:
        os.kill(int(names["SSH_AGENT_PID"]), 15)


def test_flags_of_build(keys, tmp_path, monkeypatch, capsys):
    """Before any work: a key that is none, no ssh-keygen. What `build` packs is signed."""
    (tmp_path / "none").write_text("not a key")
    common = ["--model", "v1", "--target", "host", "--output", str(tmp_path / "out")]
    packed = [*common, "--bundle", str(tmp_path / "b.tar.gz"), "--sign"]
    for argv, word in (
        ([*packed, str(tmp_path / "none")], "is not a key"),
        ([*packed, str(tmp_path / "missing")], "no such file"),
        ([*common, "--sign", str(keys / "ours")], "--bundle"),
    ):
        assert build.main(argv) == 2
        assert word in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main([*packed, str(keys / "ours")]) == 3
    assert "apt-get install openssh-client" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_build_packs_is_signed(keys, tmp_path, monkeypatch):
    made = bundles.made().bundle
    monkeypatch.setattr(pack, "make", lambda *args, **kwargs: made)
    where = {"output": tmp_path / "out", "bundle": tmp_path / "bundle"}
    result = build.build(modules.tiny_options(), targets.load("host"), **where, sign=keys / "ours")
    assert "signed with" in result.summary()
    assert pack.read(tmp_path / "bundle", public(keys)).files.keys() == made.files.keys() | {received.SIGNATURE}


def shipped(path: Path, to: Path, signers: Path, capsys) -> tuple[int, str]:
    code = ship.main(["--bundle", str(path), "--to", str(to), "--require-signature", str(signers)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_only_what_was_signed_is_shipped(signed, keys, folder, tmp_path, capsys, monkeypatch):
    board, ours = tmp_path / "board", keys / "ours.pub"
    code, out = shipped(folder, board, ours, capsys)
    assert code == 0 and f"of {fingerprint(ours)}, checked here and there" in " ".join(out.split())
    assert (board / "current" / received.SIGNATURE).read_bytes() == signed.files[received.SIGNATURE]
    assert not (board / "current" / ".signers").exists() and not (board / "current" / ".not-yet").exists()
    told = subprocess.run([board / "current/mobilenet", "--help"], capture_output=True, text=True).stdout
    _, _, check = told.partition("before any of them runs,\n")
    check, _, _ = check.partition("  A line of allowed_signers")
    for name, key in (("ann", "ours"), ("ann", "other")):
        (tmp_path / "allowed").write_text(f"{name} {(keys / f'{key}.pub').read_text()}")
        words = check.replace("allowed_signers", str(tmp_path / "allowed")).replace("NAME", name)
        done = subprocess.run(["sh", "-c", words], cwd=board / "current", capture_output=True)
        assert (done.returncode == 0) == (key == "ours"), "the documented check of a board's files"
    for bad, signers, expected in ((folder, keys / "other.pub", 5), (bundles.made().folder, ours, 5)):
        code, out = shipped(bad, board, signers, capsys)
        assert code == expected and "sign" in out
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out = shipped(folder, board, ours, capsys)
    assert code == 3 and "apt-get install openssh-client" in out
    assert [p.name[:4] for p in (board / "versions").iterdir()] == ["0001"]


def test_programs_sign_and_demand_as_the_verbs_do(keys, tmp_path, monkeypatch):
    """`Compiled.ship`: what it packs is signed, and only then sent where a signature is demanded."""
    made = bundles.made()
    compiled = tvm_mobilenet.load(made.built)
    monkeypatch.setattr(pack, "make", lambda *args, **kwargs: made.bundle)
    monkeypatch.setattr(machine_check, "calls_of", lambda *args: [])
    monkeypatch.setattr(saved, "lowered_again", lambda *args: None)
    board, ours = tmp_path / "board", keys / "ours.pub"
    (found,) = compiled.ship(str(board), sign=keys / "ours", require_signature=str(ours))
    assert ", checked here and there" in found.signature
    assert (board / "current" / received.SIGNATURE).is_file()
    for how in ({}, {"sign": keys / "other"}):
        with pytest.raises(VerificationError, match="sign"):
            compiled.ship(str(board), require_signature=ours, **how)
    assert [p.name[:4] for p in (board / "versions").iterdir()] == ["0001"]


def path_without(tmp_path: Path, *names: str) -> str:
    """A PATH that has all programs but these."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if program.name not in names:
                (folder / program.name).unlink(missing_ok=True)
                (folder / program.name).symlink_to(program)
    return str(folder)


def test_the_board_checks_what_arrived(signed, keys, tmp_path, monkeypatch):
    """Where it has ssh-keygen; else, or where that is too old to know of signatures, this side's check stands."""
    signers = public(keys)
    whole = dataclasses.replace(signed, signer=fingerprint(keys / "ours.pub"))
    forged = dataclasses.replace(resealed(signed, "labels.txt", b"x\n" * 1000), signer=fingerprint(keys / "ours.pub"))
    to = ship.Destination.parse(str(tmp_path / "board"))
    assert ship.ship(whole, to, signers=signers).signature.endswith("there")
    result = ship.ship(forged, to, signers=signers)  # as if it had been changed on the way
    assert not result.ok and "signature: " in result.error and len(os.listdir(tmp_path / "board/versions")) == 1
    monkeypatch.setenv("PATH", path_without(tmp_path, "ssh-keygen"))
    result = ship.ship(whole, to, signers=signers)
    assert result.ok and result.signature.endswith("here")
    old = tmp_path / "bin" / "ssh-keygen"
    old.write_text("#!/bin/sh\necho 'unknown option -- Y' >&2; exit 1\n")
    old.chmod(0o755)
    assert ship.ship(whole, to, signers=signers).signature.endswith("here")


def test_a_bundle_of_before_can_be_signed(keys, tmp_path):
    """Its manifest.sha256 names the manifest alone; it is no signed one until it is signed."""
    bundle = bundles.made().bundle
    first = bundle.files[received.SUM].split(b"\n")[0] + b"\n"
    old = dataclasses.replace(bundle, files={**bundle.files, received.SUM: first})
    alone = dataclasses.replace(old, files={**old.files, received.SIGNATURE: signature.sign(first, keys / "ours")})
    alone.write(tmp_path / "alone")
    with pytest.raises(VerificationError, match="every file"):
        pack.read(tmp_path / "alone", public(keys))
    old.signed(keys / "ours").write(tmp_path / "signed")
    assert pack.read(tmp_path / "signed", public(keys)).signer
