"""Run TVM's executable of another architecture: TVM's own virtual machine runs its bytecode, the virtual board its
kernels.

`model.so` holds bytecode and constants beside the kernels. The bytecode runs on any machine. Each kernel that it calls
is executed as AArch64 or 32-bit ARM code from the same file, so all that runs is the code that a board would run.

Since bytecode may call any function of TVM's, a separate process runs it that can change no file, reach no network and
start no program (`files.confinement`). It reads a request from stdin, a JSON line and an ``.npz``, and writes an
``.npz`` to stdout. Its last line on stderr tells an error.
"""

from __future__ import annotations

import io
import json
import struct
import sys

import numpy as np

_SYMBOL, _KIND = "__tvm_ffi__library_bin", b"relax.VMExecutable"
_MOST_BEFORE = 256  # bytes of the module's import table
_MEMORY = 4 << 30  # bytes that the process may take beyond its memory before it reads the bytecode


def bytecode_of(image) -> bytes:
    """The serialized executable in a loaded module.

    Parameters
    ----------
    image : elf.Image

    Raises
    ------
    ValueError
        The module has none, or it is truncated.
    """
    at = image.symbols.get(_SYMBOL, image.base) - image.base
    (size,) = struct.unpack_from("<Q", image.memory, at)
    data = bytes(image.memory[at + 8 : at + 8 + size])
    before, found, rest = data.partition(_KIND)
    if not at or len(data) != size or not found or len(rest) < 8:
        raise ValueError("it holds no executable of TVM's virtual machine")
    (length,) = struct.unpack_from("<Q", rest)
    if length > len(rest) - 8 or len(before) > _MOST_BEFORE:
        raise ValueError("the executable in it is damaged")
    return rest[8 : 8 + length]  # the name of the library follows


def _run(module, request: dict, inputs: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs for each of the inputs, ``0.input.output``."""
    import tvm
    import tvm_ffi
    from tvm.runtime.vm import VirtualMachine

    def calling(symbol: str):
        def call(*tensors) -> None:
            arrays = [t.numpy() for t in tensors]
            module.call(symbol, arrays)
            tensors[-1].copyfrom(arrays[-1])

        return call

    module.expect({symbol: [(tuple(s), d) for s, d in takes] for symbol, takes in request["takes"].items()})
    for symbol in request["takes"]:
        tvm_ffi.register_global_func(symbol, calling(symbol), override=True)
    loaded = tvm_ffi.get_global_func(f"ffi.Module.load_from_bytes.{_KIND.decode()}")(bytecode_of(module.image))
    vm, found = VirtualMachine(loaded, tvm.cpu()), {}
    for i, arrays in enumerate(inputs):
        result = vm["main"](*(tvm.runtime.tensor(a) for a in arrays))
        result = [result] if hasattr(result, "numpy") else list(result)
        found |= {f"0.{i}.{j}": tensor.numpy() for j, tensor in enumerate(result)}
    return found


def main() -> int:
    """Answer one request; the last line on stderr tells an error."""
    request = json.loads(sys.stdin.buffer.readline())
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as arrays:
        inputs = [[arrays[f"{i}.{j}"] for j in range(n)] for i, n in enumerate(request["inputs"])]
    from tvm_mobilenet import packages

    packages.collect_rarely()
    packages.import_tvm()
    import tvm.runtime.vm  # noqa: F401 - before there is no more reading of files

    from tvm_mobilenet.boards.virtual.board import VirtualBoard
    from tvm_mobilenet.files import confinement
    from tvm_mobilenet.targets import stored

    confinement.die_with_parent()
    target = stored.from_data(request["target"], "plan.json")
    try:
        with VirtualBoard(target) as board, board.load(request["executable"]) as module:
            confinement.confine(confinement.own_packages(), _MEMORY, request["cpu_seconds"])
            out = io.BytesIO()
            np.savez(out, **_run(module, request, inputs))
    except Exception as e:
        print(" ".join(f"{type(e).__name__}: {e}".split())[:500], file=sys.stderr)
        return 1
    sys.stdout.buffer.write(out.getbuffer())
    return 0


if __name__ == "__main__":
    sys.exit(main())
