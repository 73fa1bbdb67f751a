"""The files of a build: kernels are compiled once, and all libraries are linked from that object.

The parts come first, since they determine the identity of the build (`build_identity.identity`). The libraries carry
it.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tvm_mobilenet.compiler import codegen, library, module, quantization_file, tables
from tvm_mobilenet.compiler.plan import scratch_of
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.passes.quantize import Quantization
from tvm_mobilenet.terminal import console


def parts(model, new: Path, linker: str | None = None) -> tuple[str, ...]:
    """Write the parts of the libraries into a folder: the kernels' object, the constants, and the scales of an int8
    network.

    Parameters
    ----------
    model : pipeline.BuiltModel

    Returns
    -------
    tuple of str
        Names of the files.
    """
    console.detail(f"phase compile: {len(model.kernels)} kernels for {model.target.core.name}, by LLVM")
    codegen.compile_object(model.kernels, model.target, new / module.OBJECT, linker)
    (new / module.PARAMETERS).write_bytes(model.parameters.data)  # NumPy's own way has no system's reason
    network = model.network
    if not isinstance(network.precision, Quantization):
        return module.OBJECT, module.PARAMETERS
    text = quantization_file.text_of(network.precision, network.original)
    (new / quantization_file.FILE).write_text(text, encoding="utf-8")
    return module.OBJECT, module.PARAMETERS, quantization_file.FILE


def libraries(model, new: Path, build: str, linker: str | None = None, executable: bool = False) -> tuple[str, ...]:
    """Link the libraries of a build into the folder that has its `parts`.

    Parameters
    ----------
    model : pipeline.BuiltModel
    build : str
        Its identity, which each library carries.
    executable : bool
        Also link TVM's executable.

    Returns
    -------
    tuple of str
        Names of the files.
    """
    lowered, target, made = model.lowered, model.target, new / module.OBJECT
    console.detail(f"phase link: {module.KERNELS}")
    codegen.link([str(made)], target, new / module.KERNELS, linker, model.kernels, build)
    about = tables.about_of(model.network, target, model.plan, hashlib.sha256(model.parameters).hexdigest())
    image = model.network.image and model.network.image.preprocess
    console.detail(f"phase link: {module.LIBRARY}, with the runtime")
    with TemporaryFolder() as work:
        shutil.copyfile(made, work / module.OBJECT)
        linked = library.link_library(work, target, linker, model.plan, about, scratch_of(lowered), build, image)
        shutil.copyfile(linked, new / module.LIBRARY)
    if not executable:
        return module.KERNELS, module.LIBRARY
    console.detail(f"phase link: {module.EXECUTABLE}, TVM's executable")
    codegen.build_executable(lowered, made, target, new / module.EXECUTABLE, build, linker)
    return module.KERNELS, module.LIBRARY, module.EXECUTABLE
