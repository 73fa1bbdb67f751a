"""Models in, Relax out: PyTorch modules, saved ExportedPrograms and ONNX files."""

from __future__ import annotations

from tvm_mobilenet.frontend.torch_program import from_pt2, from_torch

__all__ = ["from_pt2", "from_torch"]
