"""Models in, Relax out: PyTorch modules, saved ExportedPrograms and ONNX files.

The module that comes out has one function ``main`` with the model's own signature: NCHW in, its outputs as it returns
them, parameters bound as constants. ``main`` carries ``sources``, the place of each operator in the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet.frontend.files import kind_of

if TYPE_CHECKING:
    import tvm

__all__ = ["from_onnx", "from_pt2", "from_torch", "kind_of", "load"]


def from_torch(model, example_input=None) -> tvm.IRModule:
    """See `torch_program.from_torch`."""
    from tvm_mobilenet.frontend import torch_program

    return torch_program.from_torch(model, example_input)


def from_pt2(path: str | Path) -> tvm.IRModule:
    """See `torch_program.from_pt2`."""
    from tvm_mobilenet.frontend import torch_program

    return torch_program.from_pt2(path)


def from_onnx(path: str | Path, batch: int = 1) -> tvm.IRModule:
    """See `onnx_file.from_onnx`."""
    from tvm_mobilenet.frontend import onnx_file

    return onnx_file.from_onnx(path, batch)


def load(model, example_input=None, batch: int = 1) -> tvm.IRModule:
    """The Relax module of a file or a PyTorch model.

    Parameters
    ----------
    model : str, Path, torch.nn.Module or ExportedProgram
        A ``.onnx`` or ``.pt2`` file, or a model.
    example_input : torch.Tensor, optional
        For an ``nn.Module``: ``(N, C, H, W)`` float32.
    batch : int
        For an ONNX file with a dynamic batch.

    Raises
    ------
    TvmMobilenetError
        For a file of another kind, and for whatever its importer refuses.
    """
    if not isinstance(model, str | Path):
        return from_torch(model, example_input)
    return from_onnx(model, batch) if kind_of(model) == "onnx" else from_pt2(model)
