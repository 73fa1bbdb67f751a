"""Import of models to Relax: PyTorch modules, saved ExportedPrograms, ONNX and TFLite files.

The resulting module has one function ``main`` with the model's own signature: inputs in NCHW (NHWC for a TFLite file),
the model's outputs, and parameters bound as constants. The attribute ``sources`` of ``main`` gives the place of each
operator in the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mobilenet.frontend.files import kind_of

if TYPE_CHECKING:
    import tvm

__all__ = ["from_onnx", "from_pt2", "from_tflite", "from_torch", "kind_of", "load"]


def from_torch(
    model,
    example_input=None,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NCHW",
) -> tvm.IRModule:
    """See `torch_program.from_torch`."""
    from tvm_mobilenet.frontend import torch_program

    return torch_program.from_torch(model, example_input, batch, size, layout)


def from_pt2(
    path: str | Path,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NCHW",
    trusted: bool = False,
    signature: str | None = None,
) -> tvm.IRModule:
    """See `torch_program.from_pt2`."""
    if not trusted:
        from tvm_mobilenet.frontend import pt2_reader

        pt2_reader.start()  # it imports torch in parallel with this process
    from tvm_mobilenet.frontend import torch_program

    return torch_program.from_pt2(path, batch, size, layout, trusted)


def from_onnx(
    path: str | Path, batch: int | None = None, size: tuple[int, int] | None = None, layout: str = "NCHW"
) -> tvm.IRModule:
    """See `onnx_file.from_onnx`."""
    from tvm_mobilenet.frontend import onnx_file

    return onnx_file.from_onnx(path, batch, size, layout)


def from_tflite(
    path: str | Path,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NHWC",
    signature: str | None = None,
) -> tvm.IRModule:
    """See `tflite_file.from_tflite`."""
    from tvm_mobilenet.frontend import tflite_file

    return tflite_file.from_tflite(path, batch, size, layout, signature)


def load(
    model,
    example_input=None,
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    layout: str = "NCHW",
    trusted: bool = False,
    signature: str | None = None,
) -> tvm.IRModule:
    """The Relax module of a file or a PyTorch model.

    Parameters
    ----------
    model : str, Path, torch.nn.Module or ExportedProgram
        A ``.onnx``, ``.tflite`` or ``.pt2`` file, or a model.
    example_input : torch.Tensor, optional
        For an ``nn.Module``: ``(N, C, H, W)`` float32.
    batch, size : int, (int, int), optional
        For a file or an ExportedProgram: batch size, height and width, if it leaves them open.
    layout : str
        ``NCHW`` or ``NHWC``, for a file whose graph does not determine the axis of an image's channels.
    trusted : bool
        Whether torch may read a ``.pt2`` file in this process, which can run code from the file.
    signature : str, optional
        The name of one of the networks of a ``.tflite`` file.

    Raises
    ------
    TvmMobilenetError
        The file is of another kind, or its importer refuses it.
    """
    if not isinstance(model, str | Path):
        return from_torch(model, example_input, batch, size, layout)
    kind = kind_of(model)
    if kind == "onnx":
        return from_onnx(model, batch, size, layout)
    if kind == "tflite":
        return from_tflite(model, batch, size, signature=signature)
    return from_pt2(model, batch, size, layout, trusted)
