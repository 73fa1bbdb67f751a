"""Builds candidates: of a layer and decisions comes a linked library, the very machine code that would ship.

It is the same for every board. What a library should compute follows from its candidate, so that the two travel
together from the process that builds to the one that runs (`runner`).

Compiling takes 0.1 to 1 s, half of what a small candidate takes in all. So libraries are kept in the user's cache, by
the key of their code (`tune_logs.keys`) and of what links them, and taken from there by later runs as well.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.boards.agent import tvm_alone
from tvm_mobilenet.files.user_cache import Collection
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tuning.candidate import Candidate

KEPT = Collection("kernels", 128 << 20)  # some 10,000 libraries, which take 10 kB each


@dataclass(frozen=True)
class Built:
    """A candidate's library, which exports its kernel as ``nest.SYMBOL``; who has run it removes it.

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
    kept : Collection, optional
        Of libraries that were built before; None: compile each.
    """

    def __init__(self, target, linker: str | None = None, kept: Collection | None = KEPT):
        self.target, self.linker, self._kept = target, linker, kept

    def prepare(self) -> None:
        """Import what takes seconds."""
        tvm_alone.import_tvm()

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
        built = Built(candidate, str(path), code, operands_of(kernel))
        key = self._kept and built.code + self._linking
        if not key or not self._kept.take(key, path):
            codegen.compile_kernels({nest.SYMBOL: kernel}, self.target, path, self.linker)
            if key:
                self._kept.keep(key, path)
        return built

    @functools.cached_property
    def _linking(self) -> str:
        """What a library depends on besides its kernel: a short hash of the code that compiles and links, and of what
        links, by its version or its file."""
        from tvm_mobilenet.compiler import codegen

        depends = codegen.linker_key(self.target, self.linker)
        code = Path(codegen.__file__).read_bytes()
        return "-" + hashlib.sha256(repr(depends).encode() + code).hexdigest()[: keys.LENGTH]

    def __call__(self, candidate: Candidate) -> Built:
        return self.build(candidate)
