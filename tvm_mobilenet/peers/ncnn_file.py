"""A network's layers as ncnn's two files: a text of layers, and their weights."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tvm_mobilenet.peers.contents import Content, Contents, Unknown

_ACTIVATIONS = {"none": "", "relu": " 9=1", "relu6": " 9=3 -23310=2,0.0,6.0"}


class _Text:
    """Lines of layers, and the blobs that are free to be read; a blob that two layers read goes through a Split."""

    def __init__(self, readers: Counter):
        self.lines, self.blobs, self._free, self._readers = [], 0, {}, readers

    def take(self, value: str) -> str:
        """A blob of a value, which nobody else reads."""
        return self._free[value].pop()

    def give(self, value: str, blob: str) -> None:
        """A value's blob, as often as it is read."""
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


def write(network: Contents) -> tuple[str, bytes, str]:
    """The two files of a network, and the blob of its output.

    Raises
    ------
    Unknown
        Its input is channels-last, which ncnn takes no images as.
    """
    if network.channels_last:
        raise Unknown("its input is channels-last")
    text = _Text(Counter(value for content in network.layers for value in content.inputs))
    c, h, w = network.shape
    text.lines.append(f"Input image 0 1 image 0={w} 1={h} 2={c}")
    text.blobs += 1
    text.give(network.image, "image")
    data, x = bytearray(), "image"
    for content in network.layers:
        x = text.take(content.inputs[0])
        if content.layer.weight_shape:
            x = _weighted(text, content, x)
            data += bytes(4) + np.ascontiguousarray(content.weight, "<f4").tobytes()  # a tag of zero: float32 follows
            data += np.ascontiguousarray(content.bias, "<f4").tobytes()
        elif content.pools:
            x = text.layer("Pooling", content.name, [x], "0=1 4=1")
        if len(content.inputs) > 1:
            x = text.layer("BinaryOp", f"{content.name}.sum", [x, text.take(content.inputs[1])], "0=0")
        text.give(content.output, x)
    return f"7767517\n{len(text.lines)} {text.blobs}\n" + "\n".join(text.lines) + "\n", bytes(data), x


def _weighted(text: _Text, content: Content, x: str) -> str:
    layer, act, size = content.layer, _ACTIVATIONS[content.activation], content.weight.size
    if content.dense:
        return text.layer("InnerProduct", content.name, [x], f"0={layer.out_channels} 1=1 2={size}{act}")
    (kh, kw), (sh, sw), (top, left, bottom, right) = layer.kernel, layer.stride, layer.padding
    kind, group = ("ConvolutionDepthWise", f" 7={layer.groups}") if layer.groups > 1 else ("Convolution", "")
    sizes = f"0={layer.out_channels} 1={kw} 11={kh} 3={sw} 13={sh} 4={left} 14={top} 15={right} 16={bottom}"
    return text.layer(kind, content.name, [x], f"{sizes} 5=1 6={size}{group}{act}")
