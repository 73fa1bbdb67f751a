"""PT2E, PyTorch's quantization of exported programs, in Relax: ``quantize`` and ``dequantize`` with scales.

A statically quantized program has ``quantized_decomposed.quantize_per_tensor`` and similar operators around integer
computations, and `passes.given_scales` reads them. A program that finds its scales at run time is refused.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend.scales import checked

_FLOAT = "give the float32 model with --dtype int8 and --calibrate FOLDER, or quantize it statically"
_OVERLOADS = ("default", "tensor", "tensor2")
PAIR = ("quantize", "dequantize")
DYNAMIC = re.compile(r"choose_qparams|quantize_(affine|per_token|per_channel_group)|_weight_int\d|quantized?_dynamic")


def register() -> None:
    """Register the operators with torch."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401


def converters(importer, program) -> dict:
    """Converters of TVM's importer, by the names of operators.

    Parameters
    ----------
    importer : ExportedProgramImporter
    program : graph_data.Program
    """
    stored = {
        spec.arg.name: tensor
        for spec in program.graph_signature.input_specs
        for tensor in [{**program.state_dict, **program.constants}.get(spec.target)]
        if tensor is not None
    }
    found = {}
    for way in PAIR:
        for each in ("per_tensor", "per_channel"):
            for overload in _OVERLOADS:
                found[f"{way}_{each}.{overload}"] = _converter(importer, stored, program.sources, way, each)
    return found


def check(program) -> None:
    """Refuse dynamic quantization.

    Raises
    ------
    TvmMobilenetError
        The message names the operator and gives the remedy.
    """
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and DYNAMIC.search(name):
            raise TvmMobilenetError(f"{name} at {program.sources.get(node, node.name)}: quantized at run time", _FLOAT)


def _converter(importer, stored: dict, sources: dict, way: str, each: str):
    def convert(node: torch.fx.Node):
        data, scale, zero, *rest = node.args
        axis = int(rest.pop(0)) if each == "per_channel" else 0
        low, high, dtype = (int(rest[0]), int(rest[1]), str(rest[2]).removeprefix("torch."))
        where = f"{node.target.__name__} at {sources[node] or node.name}"
        shape = tuple(int(d) for d in node.meta["val"].shape)
        scale, zero = (_array(x, stored, where) for x in (scale, zero))
        scale, zero, axis = checked(where, shape, scale, zero, axis, dtype)
        given = relax.const(scale.astype(np.float32)), relax.const(zero.astype(dtype))
        x = importer.env[data]
        if way == "dequantize":
            return importer.block_builder.emit(relax.op.dequantize(x, *given, axis=axis))
        ends = np.iinfo(dtype)
        if (low, high) != (ends.min, ends.max) and data.name not in stored:
            if not ends.min <= low < high <= ends.max or scale.ndim:
                raise TvmMobilenetError(f"{where}: integers from {low} to {high} in {dtype}", _FLOAT)
            limits = [float((n - int(zero)) * float(scale)) for n in (low, high)]
            x = importer.block_builder.emit(relax.op.clip(x, *limits))
        return importer.block_builder.emit(relax.op.quantize(x, *given, axis=axis, out_dtype=dtype))

    return convert


def _array(value, stored: dict, where: str) -> np.ndarray:
    """A number, or a tensor of the program's state."""
    if isinstance(value, torch.fx.Node):
        if value.name not in stored:
            raise TvmMobilenetError(f"{where}: its scale is computed at run time", _FLOAT)
        return stored[value.name].detach().cpu().numpy()
    return np.asarray(value)
