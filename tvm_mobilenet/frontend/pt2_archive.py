"""A saved program's archive, checked and rewritten before torch reads it.

Torch unpickles parts of an archive and evaluates others as Python (`torch.export.load` says so). So torch does not read
the file itself, but a new archive of the parts that a program needs: the parsed and checked JSON of the graph, and the
weights' bytes. Pickles, compiled code and unknown parts are left out, and so are tricks in the member list of a zip
file.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import archives, json_text
from tvm_mobilenet.files.limits import MOST_CONSTANT_BYTES, MOST_JSON_BYTES, check_unpacked
from tvm_mobilenet.frontend import pt2_graph
from tvm_mobilenet.models import pickled

SAVE = "torch.export.save(torch.export.export(model.eval(), (example,)), path)"
TRUST = "--trust-file reads it all the same, and runs what it asks for: only for files of your own"
_PROGRAM = "models/model.json"
_OLD_PROGRAM = "serialized_exported_program.json"
_OLD_PARTS = ("serialized_state_dict.pt", "serialized_constants.pt")
_RECORD = re.compile(r"(weight|tensor)_\d{1,9}")
_PICKLED = re.compile(r"(custom|opaque)_obj_\d+")


class Refused(TvmMobilenetError):
    """A file that asks for more than a program may; ``--trust-file`` reads it."""


def cleaned(file: BinaryIO, path: Path) -> tuple[io.BytesIO, dict]:
    """A new archive with the needed parts of another, and the program's JSON; ``path`` is for messages.

    Raises
    ------
    Refused
        The archive requires a pickle, code, operators that are not PyTorch's, or more memory than it has bytes.
    ValueError, OSError, zipfile.BadZipFile
        The archive is damaged, or not a program.
    """
    size = file.seek(0, io.SEEK_END)
    with _opened(file, path) as archive:
        members = archive.infolist()
        check_unpacked(sum(m.file_size for m in members), size, path)
        found: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            name = member.filename.partition("/")[2] if _in_folder(member.filename) else member.filename
            if found.setdefault(name, member) is not member:
                raise Refused(f"{path}: the archive has two members {name[:80]!a}", "save the program again")
        compiled = next((n for n in found if n.startswith("data/aotinductor/")), None)
        if compiled:
            raise Refused(f"{path} holds compiled code, {compiled[:80]!a}", "save the program itself: " + SAVE)

        def read(name: str) -> bytes:
            return archive.read(found[name])

        if _PROGRAM in found:
            return _new_format(path, found, read)
        if _OLD_PROGRAM in found and "version" in found:
            return _old_format(path, found, read)
    if "data.pkl" in found or "constants.pkl" in found:
        raise ValueError("it is an archive of another kind, as torch.save and torch.jit.save write them")
    raise ValueError("the archive holds no program named 'model'")


def _opened(file: BinaryIO, path: Path) -> zipfile.ZipFile:
    try:
        return archives.opened(file)
    except archives.TooMany as e:
        raise Refused(f"{path}: {e}", TRUST) from None


def _in_folder(name: str) -> bool:
    """Whether an archive's member is inside the top-level folder of newer archives."""
    return name.count("/") >= 1 and not name.startswith(("data/", "models/", "extra_files/"))


def _new_format(path: Path, found: dict, read) -> tuple[io.BytesIO, dict]:
    """The archive as torch 2.8 and newer write it."""
    program = _program(path, read(_PROGRAM), found[_PROGRAM])
    kept: dict[str, bytes] = {"archive_format": b"pt2", "archive_version": b"0", ".data/version": b"3\n"}
    for name in ("archive_format", "archive_version", "byteorder"):
        if name in found and found[name].file_size <= 16:
            kept[name] = read(name)
    if kept["archive_format"] != b"pt2":
        raise ValueError("it is an archive of another kind, as torch.save and torch.jit.save write them")
    for kind in ("weights", "constants"):
        config = f"data/{kind}/model_{kind}_config.json"
        if config not in found and f"data/{kind}/model.pt" in found:  # torch 2.8 wrote this: read as weights only
            name = f"data/{kind}/model.pt"
            kept[name] = checked_pickles(path, read(name))
            continue
        if config not in found:
            raise ValueError(f"it lacks its {kind}")
        payload = _json(read(config), found[config])
        for name, record in _records(path, kind, payload, found).items():
            if name not in kept:
                kept[name] = read(name)
            _check_extent(path, kind, record, len(kept[name]))
        kept[config] = json.dumps(payload).encode()
    kept[_PROGRAM] = json.dumps(program).encode()
    kept["data/sample_inputs/model.pt"] = b""  # a pickle that nothing here needs
    return _archive({f"model/{name}": data for name, data in kept.items()}), program


def _old_format(path: Path, found: dict, read) -> tuple[io.BytesIO, dict]:
    """The archive as torch 2.7 and older write it: tensors are pickles, which are read as weights only."""
    program = _program(path, read(_OLD_PROGRAM), found[_OLD_PROGRAM])
    kept = {_OLD_PROGRAM: json.dumps(program).encode(), "version": read("version")[:16]}
    for name in _OLD_PARTS:
        kept[name] = read(name) if name in found else b""
        if kept[name]:
            kept[name] = checked_pickles(path, kept[name])
    kept["serialized_example_inputs.pt"] = b""
    return _archive(kept), program


def checked_pickles(path: Path, data: bytes) -> bytes:
    """An archive of tensors as torch.save writes it, rewritten.

    Raises
    ------
    Refused
        The data is not such an archive, has more than tensors, or unpacks to far more than its bytes.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise Refused(f"{path}: its tensors are a pickle that torch.save did not write", TRUST)
    try:
        return pickled.checked_archive(io.BytesIO(data), path).getvalue()
    except (TvmMobilenetError, archives.TooMany) as e:
        raise Refused(getattr(e, "message", f"{path}: {e}"), TRUST) from None


def _archive(parts: dict[str, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    out.seek(0)
    return out


def _json(data: bytes, member: zipfile.ZipInfo) -> dict:
    if len(data) > MOST_JSON_BYTES:
        raise Refused(f"{member.filename[:80]!a} has {len(data):,} bytes of JSON, {MOST_JSON_BYTES:,} are read", TRUST)
    value = json_text.parse(data.decode())
    if not isinstance(value, dict):
        raise ValueError(f"{member.filename[:80]!a} is not a JSON object")
    return value


def _program(path: Path, data: bytes, member: zipfile.ZipInfo) -> dict:
    """The program's JSON, each part of it checked."""
    program = _json(data, member)
    pt2_graph.check_version(path, program)
    try:
        return pt2_graph.checked(program)
    except pt2_graph.Unsafe as e:
        raise Refused(f"{path}: {e}", TRUST) from None


def _records(path: Path, kind: str, payload: dict, found: dict) -> dict[str, dict]:
    """The members that weights or constants name, each with one description of it."""
    entries = payload.get("config")
    if not isinstance(entries, dict):
        raise ValueError(f"its list of {kind} is damaged")
    records = {}
    for name, entry in entries.items():
        file, where = str(entry.get("path_name")), f"{path}: {kind[:-1]} {name[:80]!a}"
        if entry.get("use_pickle") is not False or _PICKLED.fullmatch(file):
            raise Refused(f"{where} is a pickle, which can run any program", TRUST)
        if not _RECORD.fullmatch(file) or f"data/{kind}/{file}" not in found:
            raise Refused(f"{where} is not a file of the archive: {file[:80]!a}", "save the program again")
        if entry.get("tensor_meta", {}).get("device", {}).get("type") != "cpu":
            raise Refused(f"{where} is not on the CPU", "save the model after model.cpu()")
        pt2_graph.check_names(name)
        records.setdefault(f"data/{kind}/{file}", []).append({**entry, "name": name})
    return records


def _check_extent(path: Path, kind: str, records: list[dict], size: int) -> None:
    """Refuse tensors that extend beyond their bytes, or are many times larger."""
    import torch
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    for record in records:
        meta, where = record["tensor_meta"], f"{path}: {kind[:-1]} {record['name'][:80]!a}"
        dtype = _SERIALIZE_TO_TORCH_DTYPE.get(meta["dtype"])
        if dtype is None:
            raise ValueError(f"{where} has a type that torch {torch.__version__} does not know")
        sizes, strides = ([_count(d) for d in meta[name]] for name in ("sizes", "strides"))
        elements = 1
        for side in sizes:
            elements *= side
        last = _count(meta["storage_offset"]) + sum((s - 1) * t for s, t in zip(sizes, strides, strict=True))
        if elements and (last + 1) * dtype.itemsize > size:
            raise Refused(f"{where} is larger than its bytes in the archive", "save the program again")
        if elements * dtype.itemsize > max(4 * size, MOST_CONSTANT_BYTES):
            raise Refused(f"{where} would take {elements * dtype.itemsize / 2**20:,.0f} MiB", "save the program again")


def _count(value: object) -> int:
    number = value.get("as_int") if isinstance(value, dict) else None
    if type(number) is not int or number < 0:
        raise ValueError("a tensor with a size that is not a number")
    return number
