"""Files of the same network for other engines: an ONNX file, ncnn's two files, a TFLite file, with a build's weights.

They are written from the network's layers (`peers.contents`), so that all engines run the same network; MobileNets of
every version are supported. A network with other layers is given to the engine of its own file as that file, and to
ONNX Runtime as PyTorch's export. For other engines the error names the first such layer, and the user may give a file:
``ncnn=FILE.param``.

Files are float32; ncnn converts them to float16 when it loads them. For a build in int8 the files of the other engines
are int8 too, with its weights and scales.
"""

from __future__ import annotations

import contextlib
import platform
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvm_mobilenet import packages
from tvm_mobilenet.errors import MissingDependencyError, TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.quantize import DTYPE
from tvm_mobilenet.peers import ncnn_file, onnx_file, tflite
from tvm_mobilenet.peers.contents import Contents, Unknown, contents
from tvm_mobilenet.terminal import console

ENGINES = ("litert", "ncnn", "onnxruntime")
SUFFIXES = {"litert": ".tflite", "ncnn": ".param", "onnxruntime": ".onnx"}  # suffixes of their files
COMPUTE = {"ncnn": ("float16",), "litert": (DTYPE,), "onnxruntime": (DTYPE,)}  # supported dtypes besides float32


def dtype_of(plan) -> str:
    """The dtype of most multiply-adds of a plan, which other engines are asked to use."""
    total = Counter({"float32": 0})
    for step in plan.steps:
        with contextlib.suppress(ValueError):  # a layer whose name cannot be parsed
            layer = Layer.parse(step.layer)
            for part in layer.parts or (layer,):
                total[part.dtype] += part.mult_adds
    return max(total, key=total.__getitem__)


def contenders(
    network, engines: Sequence[str], folder: Path, dtype: str = "float32", architecture: str = ""
) -> dict[str, dict]:
    """Files of a network for engines, as ``boards.agent.engines`` takes them.

    Parameters
    ----------
    network : Network
    engines : sequence of str
        As `parse` gives them.
    folder : path
        Where the files go.
    dtype : str
        The dtype of engines that name none.
    architecture : str
        The architecture of the CPU that runs them, by Python's ``platform.machine``; this machine's by default.

    Returns
    -------
    dict of str to dict
        By the label of each, ``ncnn`` or ``ncnn float16``. ``{"missing": why}`` for an engine that cannot run this
        network, or not in that dtype.
    """
    found = {}
    for asked in engines:
        engine, given, path = asked.partition("=")
        if given:
            found[f"{engine} {Path(path).name}"] = _given(engine, Path(path))
            continue
        engine, _, own = asked.partition(":")
        wanted = own or dtype
        label = engine if dtype == wanted == "float32" else f"{engine} {wanted}"
        if why := _cannot(network, engine, wanted):
            found[label] = {"missing": why}
            continue
        try:
            files = _files(network, engine, wanted, folder, architecture or platform.machine())
            found[label] = {"engine": engine, **files, **({"dtype": wanted} if wanted != "float32" else {})}
        except Unknown as e:
            own_file = f"--against {engine}=FILE{SUFFIXES[engine]} compares with a file of yours"
            found[label] = {"missing": f"{network.options.title} cannot be written for {engine}: {e}; {own_file}"}
        except ModuleNotFoundError as e:
            name = (e.name or "").split(".")[0]
            if name not in packages.MODULES:
                raise
            found[label] = {"missing": f"to write its file: {packages.remedy(name)}"}
    return found


def _files(network, engine: str, dtype: str, folder: Path, architecture: str) -> dict:
    """An engine's files of a network: from its layers, else the model's own.

    Raises
    ------
    Unknown
        The files cannot be written.
    """
    try:
        return _WRITERS[engine](contents(network, dtype), folder, architecture)
    except Unknown:
        path = _own_file(network, engine, dtype, folder)
        if path is None:
            raise
        return {"model": str(path)}


def _own_file(network, engine: str, dtype: str, folder: Path) -> Path | None:
    """The model itself as an engine's file, if it is one or PyTorch can export it."""
    options, path = network.options, folder / f"model{SUFFIXES[engine]}"
    if dtype != "float32" and not network.quantized:
        return None
    if engine == "litert" and options.file_kind == "tflite":
        return Path(options.model)
    if engine == "onnxruntime" and options.file_kind == "onnx":
        import onnx

        from tvm_mobilenet.frontend import onnx_widened

        onnx.save(onnx_widened.loaded(Path(options.model))[0], path)  # one file, with the weights beside the model
        return path
    if engine == "onnxruntime" and network.model is not None:
        import torch

        shape = (network.signature.inputs[0].shape[0], *network.model.input_shape[1:])
        with warnings.catch_warnings():
            # Warnings of PyTorch's older exporter, kept for networks that the newer one cannot export.
            warnings.simplefilter("ignore")
            torch.onnx.export(network.model.module, (torch.zeros(shape),), path, dynamo=False, opset_version=17)
        return path
    return None


def _given(engine: str, path: Path) -> dict:
    """A user's own file as a contender, in its own dtype."""
    found = {"engine": engine, "dtype": ""}
    if engine != "ncnn":
        return found | {"model": str(path)}
    inputs, outputs = ncnn_file.ends(path)
    return found | {"param": str(path), "bin": str(path.with_suffix(".bin")), "inputs": inputs, "outputs": outputs}


def _cannot(network, engine: str, dtype: str) -> str:
    """Why an engine cannot run a network in a dtype, empty if it can."""
    if dtype != "float32" and dtype not in COMPUTE.get(engine, ()):
        return f"{engine} has no {dtype} of this network: --against {engine}:float32 compares with float32"
    if dtype == DTYPE and network.options.dtype != DTYPE:
        return f"{network.options.title} has no scales: {engine} in int8 is compared with a build of --dtype int8"
    ports = (*network.signature.inputs, *network.signature.outputs)
    if other := [port for port in ports if np.dtype(port.dtype).kind != "f"]:
        return f"{other[0].name} is {other[0].dtype}, and {engine}'s file takes and returns float32: build without --io"
    return ""


def require(engines: Sequence[str], board: str) -> None:
    """Report engines that cannot run before any measurement.

    Parameters
    ----------
    engines : sequence of str
        As `parse` gives them.
    board : str
        The address of ``--board``; only for this machine the installed engines are known.

    Raises
    ------
    MissingDependencyError
        None of the engines can run.
    """
    written = {asked.partition(":")[0] for asked in engines if "=" not in asked}
    names = list(dict.fromkeys(re.split("[:=]", asked)[0] for asked in engines))
    needs = {engine: [*_WRITES_WITH[engine]] if engine in written else [] for engine in names}
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
    """An argparse value: names of engines with commas, each with its dtype if it is to be another than the build's, or
    with a file of the user's own: ``ncnn,onnxruntime:float32,litert=net.tflite``.

    Raises
    ------
    TvmMobilenetError
        There is no such engine, it does not compute in that dtype, or there is no such file of its kind.
    """
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        engine, given, path = name.partition("=")
        if given and engine in ENGINES:
            _check_file(name, engine, Path(path))
            continue
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


def _check_file(asked: str, engine: str, path: Path) -> None:
    if path.suffix.lower() != SUFFIXES[engine]:
        raise TvmMobilenetError(
            f"--against {asked}: {engine} reads files *{SUFFIXES[engine]}", "give a file of its kind"
        )
    for one in (path, path.with_suffix(".bin")) if engine == "ncnn" else (path,):
        if not one.is_file():
            raise TvmMobilenetError(
                f"--against {asked}: there is no file {one}", "check the path; commas separate names"
            )


def _onnx(network: Contents, folder: Path, architecture: str) -> dict:
    path = folder / f"network-{_suffix(network)}.onnx"
    path.write_bytes(onnx_file.write(network, architecture))
    return {"model": str(path)}


def _ncnn(network: Contents, folder: Path, architecture: str) -> dict:
    param, binary = folder / "network.param", folder / "network.bin"
    text, data, outputs = ncnn_file.write(network)
    param.write_text(text)
    binary.write_bytes(data)
    return {"param": str(param), "bin": str(binary), "inputs": ["image"], "outputs": outputs}


def _litert(network: Contents, folder: Path, architecture: str) -> dict:
    path = folder / f"network-{_suffix(network)}.tflite"
    path.write_bytes(tflite.write(network))
    images = [output.channels_last for output in network.outputs]
    return {"model": str(path), "nhwc_inputs": [network.channels_last], "nhwc_outputs": images}


def _suffix(network: Contents) -> str:
    return "float32" if network.scale is None else DTYPE


_WRITERS = {"onnxruntime": _onnx, "ncnn": _ncnn, "litert": _litert}
_WRITES_WITH = {"onnxruntime": ("onnx",), "ncnn": (), "litert": ("ai_edge_litert", "flatbuffers")}
