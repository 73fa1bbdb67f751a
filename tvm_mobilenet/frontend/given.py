"""Models in memory, written as a ``.pt2`` file, so that all later steps are the same as for a file.

A build records the files that it was made from, and `verify` reads them again; a module in memory has no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError, reason

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    Model = nn.Module | ExportedProgram | str | os.PathLike[str]
    Inputs = Tensor | Sequence[Tensor]


def is_named(model: object) -> bool:
    """Whether a model is given as a name of the registry or a path."""
    return isinstance(model, str | os.PathLike)


def save(model: nn.Module | ExportedProgram, example_inputs: Inputs | None, folder: Path) -> Path:
    """Export a module and write it as ``NAME.pt2``.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        A module is exported in ``eval`` mode, and keeps its own mode afterwards.
    example_inputs : Tensor or sequence of Tensor, optional
        For a module: the arguments for ``torch.export.export``.
    folder : path
        An existing folder.

    Returns
    -------
    path
        The file, named after the object's class.

    Raises
    ------
    TvmMobilenetError
        The model has another type, ``example_inputs`` are missing or of another type, or PyTorch cannot export the
        module.
    """
    packages.require("compile", "torch")
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        if example_inputs is not None:
            raise TvmMobilenetError(
                "example_inputs: an ExportedProgram has its inputs already", "leave them out, or give the nn.Module"
            )
        program = model
    elif isinstance(model, torch.nn.Module):
        program = _exported(model, _arguments(example_inputs))
    else:
        raise TvmMobilenetError(
            f"a model of type {type(model).__name__} cannot be compiled",
            "give an nn.Module with example_inputs, an ExportedProgram, the path of an .onnx, .pt2 or .tflite file, or "
            "a name of the registry such as v2",
        )
    path = folder / f"{re.sub(r'[^A-Za-z0-9_]+', '_', type(model).__name__)}.pt2"
    torch.export.save(program, path)
    return path


def _arguments(given: object) -> tuple:
    import torch

    arguments = (given,) if isinstance(given, torch.Tensor) else given
    if not isinstance(arguments, list | tuple) or not arguments:
        raise TvmMobilenetError(
            "example_inputs are missing" if given is None else f"example_inputs are of type {type(given).__name__}",
            "give a tensor, or a tuple of them, such as torch.zeros(1, 3, 224, 224)",
        )
    for i, one in enumerate(arguments):
        if not isinstance(one, torch.Tensor):
            raise TvmMobilenetError(f"example_inputs[{i}] is of type {type(one).__name__}", "give only tensors")
    return tuple(arguments)


def _exported(module: nn.Module, arguments: tuple) -> ExportedProgram:
    from tvm_mobilenet.frontend import torch_export

    modes = {name: one.training for name, one in module.named_modules()}
    try:
        return torch_export.export(module.eval(), arguments)
    except Exception as e:  # the module's own code may raise anything
        raise TvmMobilenetError(
            f"torch.export cannot export {type(module).__name__}: {reason(e)}",
            "torch.export.export(module.eval(), example_inputs) shows all of it; check the inputs' shapes",
        ) from e
    finally:
        for name, one in module.named_modules():
            one.training = modes.get(name, one.training)
