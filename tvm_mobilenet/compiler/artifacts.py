"""The files of a build that are machine code: kernels are compiled once, and all libraries linked from that object."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tvm_mobilenet.compiler import codegen, library, module, tables
from tvm_mobilenet.compiler.plan import scratch_of
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import replacing


def make(model, folder: Path, linker: str | None = None, executable: bool = False) -> tuple[str, ...]:
    """Compile a model's kernels, link them, and put the files into a folder when all of them are made.

    Parameters
    ----------
    model : pipeline.BuiltModel
    executable : bool
        Also link TVM's executable.

    Returns
    -------
    tuple of str
        Names of the files.
    """
    lowered, target = model.lowered, model.target
    names = [module.OBJECT, module.KERNELS, module.LIBRARY]
    with TemporaryFolder() as work:
        made = codegen.compile_object(model.kernels, target, work / module.OBJECT, linker)
        codegen.link([str(made)], target, work / module.KERNELS, linker, model.kernels)
        about = tables.about_of(model.network, target, model.plan, hashlib.sha256(model.parameters).hexdigest())
        image = model.network.image and model.network.image.preprocess
        library.link_library(work, target, linker, model.plan, about, scratch_of(lowered), image)
        if executable:
            codegen.build_executable(lowered, made, target, work / module.EXECUTABLE, linker)
            names.append(module.EXECUTABLE)
        for name in names:
            with replacing(folder / name) as new:
                shutil.copyfile(work / name, new)
    return tuple(names)
