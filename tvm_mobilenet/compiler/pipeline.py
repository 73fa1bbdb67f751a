"""The whole way from a model to a built folder, on one page.

    model ─ load_network ─▶ graph of layers        frontend/, then passes/: independent of the target;
                                                   for a narrow dtype, calibration.py or quantization.py runs images
          ─ for_core ─────▶ fused blocks, pitches  fuse_blocks.py, views.py, row_pitch.py
          ─ decide ───────▶ decisions              decide.py: tune logs, else defaults
          ─ lower_layers ─▶ kernels                lower.py writes the Relax module; schedules/ makes the kernels
          ─ plan_of ──────▶ plan, parameters       plan.py: the place of every tensor
          ─ write ────────▶ folder                 artifacts.py: LLVM, the linker and the runtime; module.py

Fused blocks and pitches are decided here and stored in the plan. Every verb that opens a build reads them there.

    model = compile(load_network(options), targets.load("rpi4"))
    model.write(folder)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tvm_mobilenet.compiler import (
    artifacts,
    build_identity,
    fuse_blocks,
    library,
    model_files,
    module,
    row_pitch,
    views,
)
from tvm_mobilenet.compiler.decide import decide
from tvm_mobilenet.compiler.lower import lower_layers
from tvm_mobilenet.compiler.network import Network
from tvm_mobilenet.compiler.plan import Plan, kernels_of, plan_of
from tvm_mobilenet.errors import TvmMobilenetError, reason, remedy
from tvm_mobilenet.files.own_files import replacing_own
from tvm_mobilenet.passes.layer_graph import LayerGraph
from tvm_mobilenet.passes.quantize import Quantization
from tvm_mobilenet.targets import Target, require

CORE_PASSES = (fuse_blocks, views, row_pitch)
OF_SOME = (views,)  # passes that often change nothing; they return their input then, and are not reported

Watch = Callable[[str, object], None]  # takes the name of each phase and its result


def nobody(phase: str, what: object) -> None:
    """A `Watch` that does nothing."""


@dataclass(frozen=True)
class BuiltModel:
    """A network compiled for a target, in memory.

    Attributes
    ----------
    network : Network
    target : Target
    graph : LayerGraph
        The network's layers as the target's core runs them (`for_core`).
    decided : list of module.BuiltLayer
        Each distinct layer with its decisions and their source.
    lowered : tvm.IRModule
        The calls of the kernels, and the kernels as the schedules made them.
    plan : Plan
    parameters : (plan.parameters_bytes,) uint8
    """

    network: Network
    target: Target
    graph: LayerGraph
    decided: list[module.BuiltLayer]
    lowered: object
    plan: Plan
    parameters: np.ndarray

    @cached_property
    def kernels(self) -> dict:
        """The PrimFuncs of the kernels, by symbol."""
        return kernels_of(self.lowered)

    def write(
        self,
        folder: Path,
        linker: str | None = None,
        executable: bool = False,
        check: Callable[[module.BuiltModule], object] | None = None,
    ) -> module.BuiltModule:
        """Compile the kernels, link them, and write the folder completely or not at all.

        Parameters
        ----------
        linker : str, optional
            A replacement for zig's linker.
        executable : bool
            Whether to link TVM's executable too.
        check : callable, optional
            Called with the build before it replaces an earlier one; if it raises, the earlier one stays.

        Raises
        ------
        TvmMobilenetError
            There is no linker, or it failed; or the folder cannot be written. An earlier build stays.
        """
        network = self.network
        decided = network.precision and not isinstance(network.precision, Quantization)
        info = {
            "model": model_files.to_data(network.options, folder),
            "target": self.target.name,
            "core": self.target.core.name,
            "seeded": network.seeded,
            **({"precision": network.precision.to_data()} if decided else {}),
            "preprocess": network.image and network.image.to_data(),
            "versions": {name: version(name) for name in ("apache-tvm", "apache-tvm-ffi")},
            "runtime": library.runtime_hash(),
        }
        data = module.described(self.plan, self.decided, info, self.target)
        try:
            with replacing_own(folder, module.OWN, module.PLAN) as new:
                files = build_identity.hashes(new, artifacts.parts(self, new, linker))
                build = build_identity.identity(data, files)
                files |= build_identity.hashes(new, artifacts.libraries(self, new, build, linker, executable))
                module.write_plan(new, data, build, files)
                made = module.BuiltModule(
                    new, self.plan, tuple(self.decided), info, data["target"], tuple(files), build
                )
                if check:
                    check(made)
        except OSError as e:
            raise TvmMobilenetError(
                f"cannot write to {folder}: {reason(e)}", remedy(e, "choose another --output")
            ) from None
        return replace(made, folder=folder)


def for_core(graph: LayerGraph, core, watch: Watch = nobody) -> LayerGraph:
    """The layers as a core runs them, after three passes.

    ``fuse_blocks`` joins layers into fused blocks. ``views`` lets layers write the operands of a concatenation directly
    into its result, and read slices in place. ``row_pitch`` chooses the row pitch of each tensor.
    """
    for step in CORE_PASSES:
        before, graph = graph, step.run(graph, core)
        if graph is not before or step not in OF_SOME:
            watch(step.__name__.rpartition(".")[2], graph)
    return graph


def compile(network: Network, target: Target, log: Path | None = None, watch: Watch = nobody) -> BuiltModel:
    """A network's kernels and plan for a target.

    Parameters
    ----------
    network : Network
        From ``network.load_network``.
    target : Target
    log : path, optional
        The user's tune log, whose decisions take precedence over the shipped ones.
    watch : Watch
        Called after each phase: ``fuse_blocks``, ``views``, ``row_pitch``, ``decisions``, ``plan``.
    """
    require(target, network.options.dtype)
    graph = for_core(network.graph, target.core, watch)
    decided = decide(graph.counts, target, log)
    watch("decisions", decided)
    decisions = {layer: built.decisions for layer, built in zip(graph.counts, decided, strict=True)}
    lowered = lower_layers(graph, decisions, target.core.name)
    plan, parameters = plan_of(lowered, graph)
    watch("plan", plan)
    return BuiltModel(network, target, graph, decided, lowered, plan, parameters)
