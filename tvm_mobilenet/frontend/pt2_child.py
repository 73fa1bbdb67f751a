"""The process that reads saved programs, to contain the effects of a hostile file.

`pt2_reader` starts it. It imports torch, reads no file itself, and forks a process for each file. The forked process
confines itself (`files.confinement`), gets the file as an open descriptor, and answers through a pipe: JSON, then
safetensors.
"""

from __future__ import annotations

import array
import io
import json
import os
import socket
import struct
import sys
import zipfile
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.confinement import confine, die_with_parent, own_packages

MOST_REQUEST = 1 << 16
_MEMORY = 4 << 30  # bytes beyond torch itself, for a small file
_MEMORY_FOR_EACH_BYTE = 8  # memory for each byte of a file
_CPU_SECONDS = 900


def main(control: int) -> None:
    """Fork a process for each request, until the other side closes.

    Parameters
    ----------
    control : int
        Descriptor of a socket. A request is JSON, with descriptors of the file, of the answer's pipe, and of a file
        with inputs.
    """
    packages.collect_rarely()
    import torch

    torch.set_num_threads(1)
    _warm_up()
    with socket.socket(fileno=control) as asked:
        asked.sendall(b"ready")
        while True:
            request, descriptors = _receive(asked)
            if not request:
                return
            child = os.fork()
            if not child:
                asked.close()
                os._exit(_serve(json.loads(request), descriptors))
            for descriptor in descriptors:
                os.close(descriptor)
            _, status = os.waitpid(child, 0)
            asked.sendall(struct.pack("<i", status))


def _receive(asked: socket.socket) -> tuple[bytes, list[int]]:
    wanted = array.array("i")
    room = socket.CMSG_SPACE(3 * wanted.itemsize)
    request, ancillary, _, _ = asked.recvmsg(MOST_REQUEST, room)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            wanted.frombytes(data[: len(data) - len(data) % wanted.itemsize])
    return request, list(wanted)


def _warm_up() -> None:
    """Have torch do its late imports, and build the tables of its decompositions."""
    import torch
    import torch._export.serde.serialize
    import torch._inductor.cpp_builder
    import torch.ao.quantization.fx._decomposed
    import torch.export.pt2_archive._package

    from tvm_mobilenet.frontend import pt2_archive, torch_export  # noqa: F401

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1), torch.nn.Hardswish()).eval()
    with torch_export.quiet():
        program = torch.export.export(net, (torch.zeros(1, 1, 2, 2),), dynamic_shapes=({2: torch.export.Dim("h")},))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        torch.export.load(file).run_decompositions()


def _serve(request: dict, descriptors: list[int]) -> int:
    """Serve one request, in its own process; returns 0, or 1 if there was no answer to give."""
    file, answer, *inputs = descriptors
    die_with_parent()
    try:
        size = os.fstat(file).st_size
        in_force = confine(own_packages(), _MEMORY + _MEMORY_FOR_EACH_BYTE * size, _CPU_SECONDS)
        forbid_pickle()
        data, tensors = _answered(request, os.fdopen(file, "rb"), [os.fdopen(i, "rb") for i in inputs])
        data["confined"] = in_force
    except TvmMobilenetError as e:
        data, tensors = {"message": e.message, "hint": e.hint}, {}
    except MemoryError:
        data, tensors = {"message": f"{request['path']}: reading it takes more memory than any model's file does"}, {}
    except BaseException as e:  # a damaged file can raise a hundred kinds of errors
        words = " ".join(str(e).split())[:300] or "it is damaged"
        data, tensors = (
            {"message": f"{request['path']}: not a saved ExportedProgram: torch cannot read it: {words}"},
            {},
        )
    try:
        from safetensors.torch import save

        text, packed = json.dumps(data).encode(), save({k: t.clone().contiguous() for k, t in tensors.items()})
        with os.fdopen(answer, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.write(packed)
        return 0
    except BaseException:
        return 1


def forbid_pickle() -> None:
    """Have torch's loader unpickle only weights, without its fallback."""
    import pickle

    import torch
    import torch._export.serde.serialize as serde

    load, refuse = torch.load, _refuse_pickle

    def weights_only(file, *args, **kwargs):
        return load(file, map_location="cpu", weights_only=True)

    def artifact(serialized):
        return (
            serialized
            if isinstance(serialized, dict | tuple)
            else weights_only(io.BytesIO(serialized))
            if serialized
            else {}
        )

    torch.load = weights_only
    serde.deserialize_torch_artifact = artifact
    pickle.load = pickle.loads = refuse
    torch._C._pickle_load_obj = refuse


def _refuse_pickle(*args, **kwargs):
    from tvm_mobilenet.frontend.pt2_archive import TRUST, Refused

    raise Refused("the file asks for a pickle, which can run any program", TRUST)


def _answered(request: dict, file, inputs: list) -> tuple[dict, dict]:
    """The answer to a request: data, and tensors by name."""
    from tvm_mobilenet.frontend import torch_export, torch_run, torch_widened

    path = Path(request["path"])
    program = load(file, path)
    if request["ask"] == "graph":
        size = tuple(request["size"]) if request["size"] else None
        doubles = torch_widened.in_doubles(program)
        program = torch_export.at_one_size(program, request["batch"], size, request["layout"], path)
        data, tensors = torch_export.described(program)
        return {**data, "doubles": doubles}, tensors
    from safetensors.torch import load as unpack

    if request["ask"] == "whole":
        import torch

        given = torch_run.from_named(unpack(inputs[0].read()), "inputs")
        found = torch_run.whole_numbers(program.module(), given)
        return {}, {f"{i}.{k}": torch.from_numpy(a) for i, one in enumerate(found) for k, a in one.items()}
    data, tensors = torch_run.answered(torch_widened.module(program), unpack(inputs[0].read()))
    return {**data, "widened": torch_widened.is_converted(program)}, tensors


def load(file, path: Path):
    """The program of an archive that was checked and rewritten.

    Raises
    ------
    TvmMobilenetError
        The archive is not a program, or requires more than a program may.
    """
    from tvm_mobilenet.frontend import pt2_archive, torch_export
    from tvm_mobilenet.frontend.pytree_types import register_unknown

    try:
        archive, program = pt2_archive.cleaned(file, path)
        register_unknown(program)
    except zipfile.BadZipFile:
        raise torch_export.unreadable(path, "it is not a zip archive; the file may be truncated") from None
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError, EOFError, zipfile.zlib.error) as e:
        words = str(e) if isinstance(e, ValueError) else "a part of it is missing or of another kind"
        raise torch_export.unreadable(path, words[:300]) from None
    return torch_export.load(archive, path)


if __name__ == "__main__":
    main(int(sys.argv[1]))
