"""Networks that come quantized: ONNX Runtime's static quantization of small MobileNets, made where it is installed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest


def images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth noise at three scales, ``(count, 3, size, size)`` float32."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    sides = ((max(2, size // 32), 1.0), (max(4, size // 8), 0.5), (size // 2, 0.25))
    parts = (
        torch.nn.functional.interpolate(torch.randn(count, 3, s, s, generator=draw), (size, size), mode="bilinear") * w
        for s, w in sides
    )
    return sum(parts).clamp(-2.2, 2.6).numpy()


def floating(path: Path, name: str, alpha: float, size: int, classes: int = 10) -> Path:
    """A MobileNet with seeded weights as an ONNX file in float32."""
    import torch

    from tvm_mobilenet.models import registry

    model = registry.create(name, alpha, size, classes).module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 3, size, size),), str(path), input_names=["x"], output_names=["y"],
            opset_version=17, dynamo=False,
        )  # fmt: skip
    return path


def quantized(path: Path, source: Path, size: int, *, signed=True, weights=True, per_channel=True, **extra) -> Path:
    """A file in float32, quantized by ONNX Runtime to QDQ.

    Parameters
    ----------
    signed, weights : bool
        Activations, and weights, are int8, else uint8.
    extra : dict
        Of the quantizer's ``extra_options``.
    """
    tools = pytest.importorskip("onnxruntime.quantization")

    class Reader(tools.CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": x[None]} for x in images(4, size)])

        def get_next(self):
            return next(self.left, None)

    kinds = {True: tools.QuantType.QInt8, False: tools.QuantType.QUInt8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tools.quantize_static(
            str(source), str(path), Reader(), quant_format=tools.QuantFormat.QDQ, per_channel=per_channel,
            activation_type=kinds[signed], weight_type=kinds[weights], extra_options=extra,
        )  # fmt: skip
    return path
