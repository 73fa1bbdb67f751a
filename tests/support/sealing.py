"""Builds that were changed and hang together all the same: every hash and the identity made again, as whoever changed
them could. What is found of such a change is found in what the code computes."""

import json
from collections.abc import Callable
from pathlib import Path

from tvm_mobilenet.compiler import build_identity
from tvm_mobilenet.compiler import module as built


def seal(folder: Path, change: Callable[[dict], object] | None = None, identity: bool = True) -> None:
    """Make the hashes of a build's folder again, after a change of ``plan.json``'s data.

    ``identity``: that of the libraries too; else they keep the one that they were linked with.
    """
    data = json.loads((folder / built.PLAN).read_text())
    if change:
        change(data)
    if "build" in data and identity:
        parts = {name: build_identity.file_hash(folder / name) for name in data["files"] if name not in built.LIBRARIES}
        data["build"] = build_identity.identity(data, parts)
        for name in set(data["files"]) & set(built.LIBRARIES):
            mark(folder / name, data["build"])
    data["files"] = {name: build_identity.file_hash(folder / name) for name in data["files"]}
    if "hash" in data:
        data["hash"] = build_identity.plan_hash(data)
    (folder / built.PLAN).write_text(json.dumps(data))


def mark(library: Path, build: str | None) -> None:
    """Give a library another identity, or none."""
    text = bytearray(library.read_bytes())
    at = text.index(build_identity._NOTE) + len(build_identity._NOTE)
    if build is None:
        text[at - 4 : at] = b"OLD\0"
    else:
        text[at : at + 32] = bytes.fromhex(build)
    library.write_bytes(text)


def as_earlier(folder: Path, files: tuple[str, ...]) -> None:
    """Make of a build one of a version before there was an identity, which has these files."""
    data = json.loads((folder / built.PLAN).read_text())
    del data["build"], data["hash"]
    for name in set(files) & set(built.LIBRARIES):
        mark(folder / name, None)
    data["files"] = {name: build_identity.file_hash(folder / name) for name in files}
    (folder / built.PLAN).write_text(json.dumps(data))
