"""Builds that travel: a copy that needs no file of the original, and a build's kernels, lowered again."""

from __future__ import annotations

import shutil
from pathlib import Path

from tvm_mobilenet.compiler import model_files, pipeline
from tvm_mobilenet.compiler.kept import using_its_files
from tvm_mobilenet.compiler.lower import lower_layers
from tvm_mobilenet.compiler.module import OWN, PLAN, BuiltModule
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import lock
from tvm_mobilenet.files.own_files import replacing_own
from tvm_mobilenet.layer import Layer


@using_its_files
def copy_to(module: BuiltModule, folder: Path) -> None:
    """Copy a build with the files of its model, whole or not at all.

    Raises
    ------
    TvmMobilenetError
        A file of the model is gone, or ``folder`` has files that are not a build.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / PLAN).is_file():
        raise TvmMobilenetError(f"{folder} holds something that is not a build", "choose a new or an empty folder")
    models = model_files.places(module)
    own = {*OWN, *(path.name for path in models)}
    with lock.held(folder, f"saved to ({module.folder})", "folder"), replacing_own(folder, own, PLAN) as new:
        for path in (*(module.folder / name for name in (PLAN, *module.files)), *models):
            shutil.copyfile(path, new / path.name)


def lowered_again(module: BuiltModule, network):
    """The kernels of a build, lowered from its network and its decisions: a ``tvm.IRModule``.

    Raises
    ------
    TvmMobilenetError
        This version would divide the network into other layers.
    """
    graph = pipeline.for_core(network.graph, module.target.core)
    names = [call.layer.name for call in graph.calls]
    if names != [step.layer for step in module.plan.steps]:
        raise TvmMobilenetError(
            f"{module.folder} was built by another version, whose kernels are of other layers", "build it again"
        )
    decisions = {Layer.parse(one.layer): one.decisions for one in module.layers}
    return lower_layers(graph, decisions, module.target.core.name)
