"""A network's layers as ncnn's two files: a text of layers, and their weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.kinds.activation import PER_CHANNEL, parsed
from tvm_mobilenet.peers.contents import Content, Contents, Unknown

_ACTIVATIONS = {  # inside of a layer with weights
    "none": "",
    "relu": " 9=1",
    "relu6": " 9=3 -23310=2,0.0,6.0",
    "sigmoid": " 9=4",
    "hardswish": " 9=6 -23310=2,0.16666667,0.5",
}
_LAYERS = {  # as layers of their own
    "relu": ("ReLU", ""),
    "relu6": ("Clip", "0=0.0 1=6.0"),
    "sigmoid": ("Sigmoid", ""),
    "hardswish": ("HardSwish", "0=0.16666667 1=0.5"),
    "hardsigmoid": ("HardSigmoid", "0=0.16666667 1=0.5"),
    "silu": ("Swish", ""),
}
_MOST = 3e38  # a bound that no value reaches
_MAGIC = "7767517"
_TWO = {"add": 0, "sub": 1, "mul": 2, "scale": 2}


class _Text:
    """Lines of layers, and the blobs that are not read yet; a blob with two readers goes through a Split."""

    def __init__(self, readers: Counter):
        self.lines, self.blobs, self._free, self._readers = [], 0, {}, readers

    def take(self, value: str) -> str:
        """A blob of a value for one reader."""
        return self._free[value].pop()

    def give(self, value: str, blob: str) -> None:
        """Add a value's blob, once for each reader."""
        copies = self._readers[value]
        self._free[value] = [blob]
        if copies > 1:
            self._free[value] = [f"{blob}.{i}" for i in range(copies)]
            self.lines.append(f"Split {blob}.split 1 {copies} {blob} {' '.join(self._free[value])}")
            self.blobs += copies

    def layer(self, kind: str, title: str, inputs: list[str], parameters: str) -> str:
        self.lines.append(f"{kind} {title} {len(inputs)} 1 {' '.join(inputs)} {title} {parameters}".replace("  ", " "))
        self.blobs += 1
        return title


def write(network: Contents) -> tuple[str, bytes, list[str]]:
    """The two files of a network, and the blobs of its outputs.

    Raises
    ------
    Unknown
        Its input is channels-last, which ncnn does not support for images, or ncnn computes a layer differently.
    """
    if network.channels_last:
        raise Unknown("its input is channels-last")
    returned = [output.value for output in network.outputs]
    if any(output.channels_last for output in network.outputs):
        raise Unknown("its output is channels-last")
    text = _Text(Counter([v for content in network.layers for v in content.inputs] + returned))
    c, h, w = network.shape
    text.lines.append(f"Input image 0 1 image 0={w} 1={h} 2={c}")
    text.blobs += 1
    text.give(network.image, "image")
    data, rows = bytearray(), set()  # values of one dimension: means of all positions, and dense layers after them
    for content in network.layers:
        x = text.take(content.inputs[0])
        row = content.inputs[0] in rows
        if row and (content.layer.declared.windowed or len(content.inputs) > 1):
            x, row = text.layer("Reshape", f"{content.name}.map", [x], "0=1 1=1 2=-1"), False
        product = content.layer.declared.images and (row or content.dense)
        if row or product or content.mean:
            rows.add(content.output)
        if content.layer.weight_shape:
            x = _weighted(text, content, x, product)
            data += bytes(4) + np.ascontiguousarray(content.weight, "<f4").tobytes()  # a tag of zero: float32 follows
            data += np.ascontiguousarray(content.bias, "<f4").tobytes()
        else:
            if content.pools:
                x = text.layer("Pooling", content.name, [x], _pool(content))
            elif content.softmax:
                x = text.layer("Softmax", content.name, [x], "0=0 1=1")
            x = _activated(text, content, content.before_two, x)
        if content.two:
            operands = [x, text.take(content.inputs[1])]
            x = text.layer("BinaryOp", f"{content.name}.{content.two}", operands, f"0={_TWO[content.two]}")
        x = _activated(text, content, content.after_two, x)
        if content.layer.activation == PER_CHANNEL:
            data += np.ascontiguousarray(content.slopes, "<f4").tobytes()
        text.give(content.output, x)
    outputs = [text.take(value) for value in returned]
    lines = f"{_MAGIC}\n{len(text.lines)} {text.blobs}\n" + "\n".join(text.lines) + "\n"
    return lines, bytes(data), outputs


def ends(path: Path) -> tuple[list[str], list[str]]:
    """The blobs of a text of layers that are its inputs, and those that no layer reads.

    Raises
    ------
    TvmMobilenetError
        The file is no such text.
    """
    try:
        magic, _, *lines = path.read_text(encoding="utf-8").splitlines()
        words = [line.split() for line in lines if line.strip()]
        reads = [line[4 : 4 + int(line[2])] for line in words]
        writes = [line[4 + int(line[2]) :][: int(line[3])] for line in words]
    except (ValueError, IndexError):
        magic = ""
    if magic.strip() != _MAGIC:
        raise TvmMobilenetError(f"{path} is not an ncnn .param file in text form", "give the .param that pnnx wrote")
    inputs = [blob for line, blobs in zip(words, writes, strict=True) if line[0] == "Input" for blob in blobs]
    read = {blob for blobs in reads for blob in blobs}
    return inputs, [blob for blobs in writes for blob in blobs if blob not in read]


def _activated(text: _Text, content: Content, activation: str, x: str) -> str:
    kind, numbers = parsed(activation)
    if kind == "none":
        return x
    title = f"{content.name}.{kind}"
    if kind == PER_CHANNEL:
        return text.layer("PReLU", title, [x], f"0={content.slopes.size}")
    if kind == "leaky":
        return text.layer("ReLU", title, [x], f"0={numbers[0]}")
    if numbers:
        low, high = _numbers(content, activation)
        return text.layer({"clip": "Clip", "hardswish": "HardSwish"}[kind], title, [x], f"0={low} 1={high}")
    layer, parameters = _LAYERS[activation]
    return text.layer(layer, title, [x], parameters)


def _inside(content: Content, activation: str) -> str | None:
    """The parameters of an activation inside of a layer with weights; None if it must be a layer of its own."""
    kind, numbers = parsed(activation)
    if kind == "leaky":
        return f" 9=2 -23310=1,{numbers[0]}"
    if numbers:
        low, high = _numbers(content, activation)
        return f" 9={3 if kind == 'clip' else 6} -23310=2,{low},{high}"
    return _ACTIVATIONS.get(activation)


def _numbers(content: Content, activation: str) -> tuple[float, float]:
    """The bounds of a clamp, or slope and offset of a hard-swish, as ncnn takes them."""
    kind, (first, second) = parsed(activation)
    if kind == "clip":
        return max(first, -_MOST), min(second, _MOST)
    if first <= 0:  # ncnn computes the ends of its line by a division
        raise Unknown(f"{content.name} is {content.layer.name}")
    return first, second


def _pool(content: Content) -> str:
    layer = content.layer
    if content.mean:
        return "0=1 4=1"
    if layer.dilation != (1, 1):
        raise Unknown(f"{content.name} is {layer.name}")
    (kh, kw), (sh, sw), (top, left, bottom, right) = layer.kernel, layer.stride, layer.padding
    window = f"1={kw} 11={kh} 2={sw} 12={sh} 3={left} 14={right} 13={top} 15={bottom} 5=1"
    return f"0={int(layer.op != 'max')} {window} 6={int(layer.op != 'mean')}"


def _weighted(text: _Text, content: Content, x: str, product: bool) -> str:
    layer, size, before = content.layer, content.weight.size, content.before_two
    inside = _inside(content, before)
    act = inside or ""
    if product:
        x = text.layer("InnerProduct", content.name, [x], f"0={layer.out_channels} 1=1 2={size}{act}")
    else:
        (kh, kw), (sh, sw), (top, left, bottom, right) = layer.kernel, layer.stride, layer.padding
        kind, group = ("ConvolutionDepthWise", f" 7={layer.groups}") if layer.groups > 1 else ("Convolution", "")
        sizes = f"0={layer.out_channels} 1={kw} 11={kh} 2={layer.dilation[1]} 12={layer.dilation[0]} 3={sw} 13={sh}"
        pads = f"4={left} 14={top} 15={right} 16={bottom}"
        x = text.layer(kind, content.name, [x], f"{sizes} {pads} 5=1 6={size}{group}{act}")
    return x if inside is not None else _activated(text, content, before, x)
