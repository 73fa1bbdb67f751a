"""A bundle is of one build: its library, program and weights are those that its manifest names, whatever was signed."""

import hashlib
import json

import pytest

from tests.support import bundles
from tvm_mobilenet.bundle import pack, received
from tvm_mobilenet.compiler import build_identity
from tvm_mobilenet.compiler import module as built
from tvm_mobilenet.errors import TvmMobilenetError


@pytest.fixture(scope="module")
def bundle():
    return bundles.made().bundle


def mixed(bundle, other: dict[str, bytes], folder, **manifest) -> TvmMobilenetError:
    """What is said of a bundle with other files in it, all hashes made again."""
    files = {**bundle.files, **other}
    new = {**bundle.manifest, **manifest}
    new["files"] = {n: {"bytes": len(files[n]), "sha256": hashlib.sha256(files[n]).hexdigest()} for n in new["files"]}
    files[received.MANIFEST] = json.dumps(new).encode()
    files[received.SUM] = received.sums_of(new, files[received.MANIFEST])
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(TvmMobilenetError, match="is not a whole bundle") as told:
        pack.read(folder)
    assert told.value.exit_code == 2
    return told.value.message


def marked(data: bytes) -> bytes:
    """The same file as another build would have it."""
    at = data.index(build_identity._NOTE) + len(build_identity._NOTE)
    return data[:at] + bytes(32) + data[at + 32 :]


def test_what_was_verified_is_what_ships(bundle):
    """Byte for byte the library of the build, which `verify` runs."""
    made = bundles.made()
    assert bundle.files["libmobilenet.so"] == (made.built / built.LIBRARY).read_bytes()
    assert bundle.manifest["build"] == built.read(made.built).build


@pytest.mark.parametrize("name", ["libmobilenet.so", "mobilenet"])
def test_a_program_or_library_of_another_build_is_refused(bundle, name, tmp_path):
    said = mixed(bundle, {name: marked(bundle.files[name])}, tmp_path / "b")
    assert f"{name} is of build 000000000000, the manifest of build {bundle.manifest['build'][:12]}" in said


def test_another_manifest_or_other_weights_are_refused(bundle, tmp_path):
    assert "the manifest of build ffffffffffff" in mixed(bundle, {}, tmp_path / "a", build="f" * 64)
    assert "libmobilenet.so is not that of the manifest, fedcba9876543210" in mixed(
        bundle, {}, tmp_path / "b", id="fedcba9876543210"
    )
    weights = bytearray(bundle.files["weights.bin"])
    weights[-100] ^= 1
    assert "weights.bin holds other weights" in mixed(bundle, {"weights.bin": bytes(weights)}, tmp_path / "c")
