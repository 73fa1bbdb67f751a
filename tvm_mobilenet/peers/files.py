"""The same network for other engines: an ONNX file, ncnn's two files, a TFLite file, with the very weights of a build.

They are written from the network's layers after batch normalisation is folded, as each engine's own converter leaves
such a network, so that all run the same arithmetic. Convolutions, dense layers, global average pools, residual adds,
ReLU and ReLU6 are known: MobileNet v1 and v2. What else a network has is named.

Files are float32. ncnn makes float16 of them as it loads them; the others compute as their files are.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.terminal import console

ENGINES = ("litert", "ncnn", "onnxruntime")
COMPUTE = {"ncnn": ("float16",)}  # dtypes beside float32


class Unknown(Exception):
    """A layer that the writers do not know."""


def dtype_of(plan) -> str:
    """The dtype in which most multiply-adds of a plan are computed; what other engines are asked for beside it."""
    total = Counter({"float32": 0})
    for step in plan.steps:
        with contextlib.suppress(ValueError):  # of a layer that no name says
            layer = Layer.parse(step.layer)
            for part in layer.parts or (layer,):
                total[part.dtype] += part.mult_adds
    return max(total, key=total.__getitem__)


def contenders(network, engines: Sequence[str], folder: Path, dtype: str = "float32") -> dict[str, dict]:
    """Files of a network for engines, as ``boards.agent.engines`` takes them.

    Parameters
    ----------
    network : Network
    engines : sequence of str
        As `parse` gives them.
    folder : path
        Where the files go.
    dtype : str
        In which those compute that name none.

    Returns
    -------
    dict of str to dict
        By what is shown of each, ``ncnn`` or ``ncnn float16``. ``{"missing": why}`` for one that cannot run this
        network, or not in that dtype.
    """
    found = {}
    for asked in engines:
        engine, _, own = asked.partition(":")
        wanted = own or dtype
        label = engine if dtype == wanted == "float32" else f"{engine} {wanted}"
        if wanted != "float32" and wanted not in COMPUTE.get(engine, ()):
            why = f"{engine} computes this network's file in float32: --against {engine}:float32 compares with that"
            found[label] = {"missing": why}
            continue
        try:
            files = _WRITERS[engine](_checked(network), folder)
            found[label] = {"engine": engine, **files, **({"dtype": wanted} if wanted != "float32" else {})}
        except Unknown as e:
            found[label] = {"missing": f"{network.options.title} cannot be written for {engine}: {e}"}
        except ModuleNotFoundError as e:
            name = (e.name or "").split(".")[0]
            if name not in packages.MODULES:
                raise
            found[label] = {"missing": f"to write its file: {packages.remedy(name)}"}
    return found


def require(engines: Sequence[str], board: str) -> None:
    """Say which engines cannot run before anything is measured.

    Parameters
    ----------
    engines : sequence of str
        As `parse` gives them.
    board : str
        As ``--board`` says it: of this machine it is known what is installed.

    Raises
    ------
    MissingDependencyError
        None of them can.
    """
    names = list(dict.fromkeys(asked.partition(":")[0] for asked in engines))
    needs = {engine: [*_WRITES_WITH[engine]] for engine in names}
    for engine in names if board == "local" else ():
        needs[engine].append(packages.ENGINES[engine])
    errors = []
    for engine, modules in needs.items():
        try:
            packages.require(f"bench --against {engine}", *modules)
        except MissingDependencyError as e:
            errors.append(e)
    if len(errors) == len(names):
        raise errors[0]
    for error in errors:
        console.say(f"warning: {error}")


def parse(text: str) -> tuple[str, ...]:
    """An argparse value: names of engines with commas, each with its dtype if it is to be another than the build's:
    ``ncnn,onnxruntime:float32``.

    Raises
    ------
    TvmMobilenetError
        There is no such engine, or it does not compute in that dtype.
    """
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        engine, colon, dtype = name.partition(":")
        if engine not in ENGINES:
            raise TvmMobilenetError(f"--against {name}: no such engine", f"engines: {', '.join(ENGINES)}")
        known = ("float32", *COMPUTE.get(engine, ()))
        if colon and dtype not in known:
            raise TvmMobilenetError(
                f"--against {name}: {engine} does not compute in {dtype!r}",
                " or ".join(f"{engine}:{one}" for one in known),
            )
    return names


def _checked(network) -> list:
    """The layers, when the writers know them all."""
    for call in network.layers:
        layer = call.layer
        written = layer.dtype == "float32"  # as all of these files are
        if written and layer.declared.identity and layer.op == "add" and layer.activation == "none":
            continue
        whole = layer.op == "avg" and layer.kernel == (layer.height, layer.width)
        plain = layer.dilation == (1, 1) and (layer.declared.groups == "channels" or layer.groups == 1)
        known = written and layer.activation in ("none", "relu", "relu6") and plain and (layer.weight_shape or whole)
        if not known or (layer.residual != "none" and layer.activation != "none") or layer.batch != 1:
            raise Unknown(f"{call.name} is {layer.name}")
    return network.layers


def _first(calls) -> tuple[str, tuple[int, int, int], bool]:
    """Of the input: its value's name, (channels, height, width), and whether it comes channels-last."""
    layer = calls[0].layer
    return calls[0].inputs[0], (layer.channels, layer.height, layer.width), layer.input_layout == "NHWC"


def _square(call) -> np.ndarray:
    """A convolution's weight as ``(out, in / groups, height, width)``."""
    w = call.weight
    return w.reshape(*w.shape, 1, 1) if w.ndim == 2 else w


def _onnx(calls, folder: Path) -> dict:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    name, (c, h, w), last = _first(calls)
    nodes, weights = [], [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    shape = [1, h, w, c] if last else [1, c, h, w]
    port = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    values = {name: "image"}
    if last:
        nodes.append(helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]))
        values[name] = "first"

    def node(op: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    for call in calls:
        layer, x = call.layer, values[call.inputs[0]]
        if layer.weight_shape:
            dense = layer.declared.images and call is calls[-1]  # one in the middle is a convolution of one pixel
            array = call.weight if dense else _square(call)
            weights += [
                numpy_helper.from_array(np.ascontiguousarray(a, np.float32), f"{call.name}.{part}")
                for part, a in (("weight", array), ("bias", call.bias))
            ]
            operands = [x, f"{call.name}.weight", f"{call.name}.bias"]
            if dense:
                operands[0] = node("Flatten", [x], f"{call.name}.flat")
                x = node("Gemm", operands, f"{call.name}.out", transB=1)
            else:
                x = node(
                    "Conv",
                    operands,
                    f"{call.name}.out",
                    kernel_shape=list(layer.kernel),
                    group=layer.groups,
                    strides=list(layer.stride),
                    pads=list(layer.padding),
                )
        elif layer.declared.windowed and not layer.weight_shape:
            x = node("GlobalAveragePool", [x], f"{call.name}.out")
        if len(call.inputs) > 1:
            x = node("Add", [x, values[call.inputs[1]]], f"{call.name}.sum")
        if layer.activation != "none":
            x = node(
                "Relu" if layer.activation == "relu" else "Clip",
                [x] if layer.activation == "relu" else [x, "zero", "six"],
                f"{call.name}.act",
            )
        values[call.output] = x
    out = helper.make_tensor_value_info(values[calls[-1].output], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "network", [port], [out], weights)
    path = folder / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return {"model": str(path)}


def _ncnn(calls, folder: Path) -> dict:
    """ncnn's text of layers, blobs by name; a blob that two layers read goes through a Split."""
    name, (c, h, w), last = _first(calls)
    if last:
        raise Unknown("its input is channels-last")
    readers = Counter(value for call in calls for value in call.inputs)
    lines, blobs, free = [f"Input image 0 1 image 0={w} 1={h} 2={c}"], 1, {}
    data = bytearray()

    def write(value: str, blob: str) -> None:
        nonlocal blobs
        copies = readers[value]
        free[value] = [blob]
        if copies > 1:
            free[value] = [f"{blob}.{i}" for i in range(copies)]
            lines.append(f"Split {blob}.split 1 {copies} {blob} {' '.join(free[value])}")
            blobs += copies

    def layer_line(kind: str, title: str, inputs: list[str], parameters: str) -> str:
        nonlocal blobs
        lines.append(f"{kind} {title} {len(inputs)} 1 {' '.join(inputs)} {title} {parameters}")
        blobs += 1
        return title

    write(name, "image")
    for call in calls:
        layer = call.layer
        x = free[call.inputs[0]].pop()
        if layer.weight_shape:
            act = {"none": "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.0,6.0"}[layer.activation]
            size = call.weight.size
            if layer.declared.images and call is calls[-1]:
                x = layer_line("InnerProduct", call.name, [x], f"0={layer.out_channels} 1=1 2={size}{act}")
            else:
                (kh, kw), (sh, sw), (top, left, bottom, right) = layer.kernel, layer.stride, layer.padding
                kind, group = (
                    ("ConvolutionDepthWise", f" 7={layer.groups}") if layer.groups > 1 else ("Convolution", "")
                )
                x = layer_line(
                    kind,
                    call.name,
                    [x],
                    f"0={layer.out_channels} 1={kw} 11={kh} 3={sw} 13={sh} 4={left} "
                    f"14={top} 15={right} 16={bottom} 5=1 6={size}{group}{act}",
                )
            data += bytes(4) + np.ascontiguousarray(call.weight, "<f4").tobytes()  # a tag of zero: float32 follows
            data += np.ascontiguousarray(call.bias, "<f4").tobytes()
        elif layer.declared.windowed and not layer.weight_shape:
            x = layer_line("Pooling", call.name, [x], "0=1 4=1")
        if len(call.inputs) > 1:
            x = layer_line("BinaryOp", f"{call.name}.sum", [x, free[call.inputs[1]].pop()], "0=0")
        write(call.output, x)
    param, binary = folder / "network.param", folder / "network.bin"
    param.write_text(f"7767517\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n")
    binary.write_bytes(data)
    return {"param": str(param), "bin": str(binary), "inputs": ["image"], "outputs": [x]}


def _litert(calls, folder: Path) -> dict:
    from tvm_mobilenet.peers.tflite import write

    name, shape, last = _first(calls)
    path = folder / "network.tflite"
    path.write_bytes(write(calls, name, shape))
    return {"model": str(path), "nhwc_inputs": [last]}


_WRITERS = {"onnxruntime": _onnx, "ncnn": _ncnn, "litert": _litert}
_WRITES_WITH = {"onnxruntime": ("onnx",), "ncnn": (), "litert": ("ai_edge_litert", "flatbuffers")}
