"""The builder of candidates: from a layer and decisions to a linked library with the very machine code that would ship.

The library is the same for every board. The candidate determines the expected result, so library and candidate travel
together from the process that builds to the one that runs (`runner`).

Compilation takes 0.1 to 1 s, half of the total for a small candidate. Objects that any verb compiled before come from
the user's cache (`compiler.codegen`).
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.errors import reason
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tuning.candidate import Candidate


@dataclass(frozen=True)
class Built:
    """A candidate's library, which exports its kernel as ``nest.SYMBOL``. The caller removes it after the run.

    Attributes
    ----------
    code : str
        The key of its code.
    takes : tuple
        Shape and dtype of each of the kernel's operands.
    """

    candidate: Candidate
    library: str
    code: str = ""
    takes: tuple[tuple[tuple[int, ...], str], ...] = ()

    @property
    def layer(self) -> Layer:
        return Layer.parse(self.candidate.layer)

    def remove(self) -> None:
        os.unlink(self.library)


def operands_of(kernel) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Shape and dtype of each operand of a PrimFunc."""
    return tuple((tuple(int(n) for n in p.shape), str(p.dtype)) for p in kernel.params)


class Builder:
    """Builds candidates for a target.

    Parameters
    ----------
    target : targets.Target
    linker : str, optional
        As ``compiler.codegen.compile_kernels`` takes it.
    fresh : bool
        Compile without the cache.
    """

    def __init__(self, target, linker: str | None = None, fresh: bool = False):
        self.target, self.linker, self._fresh = target, linker, fresh

    def prepare(self) -> None:
        """Import modules that take seconds to load."""
        packages.import_tvm()

    def build(self, candidate: Candidate, path: str | Path | None = None) -> Built:
        """The library of a candidate at a path, by default a new one in the temporary folder.

        Raises
        ------
        ValueError
            The layer's schedule does not take these decisions.
        TvmMobilenetError
            It cannot be linked.
        """
        from tvm_mobilenet import schedules
        from tvm_mobilenet.compiler import codegen
        from tvm_mobilenet.schedules import nest

        path = path or os.path.join(tempfile.gettempdir(), f"candidate-{secrets.token_hex(8)}.so")
        layer = Layer.parse(candidate.layer)
        kernel = schedules.kernel(layer, candidate.decisions)
        code = keys.code_key(layer, candidate.decisions, self.target)
        kept = None if self._fresh else codegen.KEPT
        codegen.compile_kernels({nest.SYMBOL: kernel}, self.target, path, self.linker, kept)
        return Built(candidate, str(path), code, operands_of(kernel))

    def __call__(self, candidate: Candidate) -> Built:
        return self.build(candidate)

    def pack(self, built: Built) -> dict:
        """A library and its description as plain data; this removes the file."""
        library = Path(built.library).read_bytes()
        built.remove()
        takes = [[list(shape), dtype] for shape, dtype in built.takes]
        return {"library": base64.b64encode(library).decode(), "code": built.code, "takes": takes}

    def unpack(self, candidate: Candidate, data: object, folder: Path) -> Built:
        """The result of `pack` for a candidate, whose library is then in a folder; a ValueError describes malformed
        data.
        """
        try:
            library, code = base64.b64decode(data["library"], validate=True), str(data["code"])
            takes = tuple((tuple(map(int, shape)), str(dtype)) for shape, dtype in data["takes"])
        except (TypeError, KeyError, binascii.Error) as e:
            raise ValueError(f"no library: {reason(e)}") from None
        if not library.startswith(b"\x7fELF"):
            raise ValueError("no library: it is not an ELF file")
        path = Path(folder) / f"candidate-{secrets.token_hex(8)}.so"
        path.write_bytes(library)
        return Built(candidate, str(path), code, takes)
