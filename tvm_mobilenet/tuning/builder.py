"""Builds candidates: of a layer and decisions comes a linked library, the very machine code that would ship.

It is the same for every board. What a library should compute follows from its candidate, so that the two travel
together from the process that builds to the one that runs (`runner`).
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet.boards.agent import tvm_alone
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tuning.candidate import Candidate


@dataclass(frozen=True)
class Built:
    """A candidate's library, which exports its kernel as ``nest.SYMBOL``; who has run it removes it."""

    candidate: Candidate
    library: str

    @property
    def layer(self) -> Layer:
        return Layer.parse(self.candidate.layer)

    def remove(self) -> None:
        os.unlink(self.library)


class Builder:
    """Builds candidates for a target; ``linker``: as ``compiler.codegen.compile_kernels`` takes it."""

    def __init__(self, target, linker: str | None = None):
        self.target, self.linker = target, linker

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
        built = Built(candidate, str(path))
        kernel = schedules.kernel(built.layer, candidate.decisions)
        codegen.compile_kernels({nest.SYMBOL: kernel}, self.target, path, self.linker)
        return built

    def __call__(self, candidate: Candidate) -> Built:
        return self.build(candidate)
