"""Makes the .tflite files beside it, by Keras and TensorFlow's converter: `python make.py`, with tensorflow 2.21.

A small network of what Keras's MobileNets have: Rescaling, SAME padding with stride 2, ZeroPadding2D before a VALID
convolution, batch norms, hard-swish, a gate, a residual, a reshape whose target follows from the batch, softmax. In
float32, with weights of float16, and in int8 with inputs and outputs of uint8. `test_tflite_keras.py` reads them.
"""

from pathlib import Path

import numpy as np

SIZE, CLASSES = 32, 5
HERE = Path(__file__).parent


def network():
    """With batch norms that saw data."""
    import keras
    from keras import layers as L

    keras.utils.set_random_seed(3)

    def hard_swish(x):
        gate = L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)
        return L.Multiply()([x, gate])

    x = image = L.Input((SIZE, SIZE, 3))
    x = L.Rescaling(1 / 127.5, -1.0)(x)
    x = hard_swish(L.BatchNormalization()(L.Conv2D(8, 3, 2, "same", use_bias=False)(x)))
    skip = x
    x = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, 1, "same", use_bias=False)(x)))
    x = L.Add()([L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(x)), skip])
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, 2, "valid", use_bias=False)(x)))
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(gate))
    x = hard_swish(L.BatchNormalization()(L.Conv2D(16, 1, use_bias=False)(L.Multiply()([x, gate]))))
    x = L.Reshape((16,))(L.GlobalAveragePooling2D(keepdims=True)(x))
    model = keras.Model(image, L.Dense(CLASSES, activation="softmax")(L.Dropout(0.1)(x)))
    norms = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images(), training=True)
    return model


def images() -> np.ndarray:
    """(8, SIZE, SIZE, 3) float32, from 0 to 255: noise that is smooth."""
    draw = np.random.default_rng(0)
    rough = draw.uniform(0, 255, (8, SIZE // 4, SIZE // 4, 3))
    return np.clip(rough.repeat(4, 1).repeat(4, 2) + draw.normal(0, 20, (8, SIZE, SIZE, 3)), 0, 255).astype(np.float32)


def main() -> None:
    import tensorflow as tf

    model = network()
    for name in ("float32", "float16", "int8"):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if name == "int8":
            converter.representative_dataset = lambda: ([x[None]] for x in images())
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        (HERE / f"{name}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
