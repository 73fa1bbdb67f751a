"""Keras's networks as ONNX and TFLite files for `benchmarks.networks`, written by TensorFlow's own converters.

    PYTHON benchmarks/keras_networks.py FOLDER [NAME ...]

PYTHON must have ``tensorflow-cpu`` and ``tf2onnx``, and needs nothing of this project. Weights are random; batch-norm
statistics are computed on smooth noise.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

ONNX_OPSET = 15
MINUS_ONE_TO_ONE = ("v1", "v2", "wake-words")  # the others normalise in the graph
NETWORKS = {  # visual wake words: a quarter of the channels, 96 x 96 pixels, one colour
    "wake-words": lambda a: a.MobileNet(input_shape=(96, 96, 1), alpha=0.25, weights=None, classes=2),
    "v1": lambda a: a.MobileNet(input_shape=(128, 128, 3), alpha=0.5, weights=None),
    "v2": lambda a: a.MobileNetV2(input_shape=(128, 128, 3), alpha=0.35, weights=None),
    "v3-small": lambda a: a.MobileNetV3Small(input_shape=(128, 128, 3), weights=None),
    "v3-large": lambda a: a.MobileNetV3Large(input_shape=(128, 128, 3), alpha=0.75, weights=None),
    "efficientnet-b0": lambda a: a.EfficientNetB0(input_shape=(96, 96, 3), weights=None),
}


def images(height: int, width: int, channels: int) -> np.ndarray:
    """(8, height, width, channels) float32, 0 to 255."""
    draw = np.random.default_rng(0)
    coarse = tf.image.resize(draw.random((8, height // 8 + 2, width // 8 + 2, channels)), (height, width)).numpy()
    return (200 * coarse + 55 * draw.random(coarse.shape)).astype("float32")


def write(name: str, folder: Path) -> None:
    keras.utils.set_random_seed(1)
    net = NETWORKS[name](keras.applications)
    x = images(*net.input_shape[1:])
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    net(x / 127.5 - 1 if name in MINUS_ONE_TO_ONE else x, training=True)
    spec = tf.TensorSpec((1, *net.input_shape[1:]), tf.float32, name="x")
    graph = convert_variables_to_constants_v2(tf.function(lambda x: net(x, training=False)).get_concrete_function(spec))
    tf2onnx.convert.from_graph_def(
        graph.graph.as_graph_def(),
        input_names=[i.name for i in graph.inputs],
        output_names=[o.name for o in graph.outputs],
        opset=ONNX_OPSET,
        output_path=str(folder / f"keras-{name}-opset{ONNX_OPSET}.onnx"),
    )
    (folder / f"keras-{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(net).convert())


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for one in sys.argv[2:] or NETWORKS:
        write(one, out)
