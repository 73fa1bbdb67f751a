"""Constant folding for TFLite graphs: the part that depends only on constants and shapes.

TensorFlow's converter writes the target of a reshape as SHAPE, STRIDED_SLICE and PACK, and weights of float16 as a
DEQUANTIZE of them. The size of a result is compared with limits before it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend.tflite_positions import gathered
from tvm_mobilenet.frontend.tflite_values import Call
from tvm_mobilenet.frontend.tflite_views import filled, strided

_ITEM_BYTES = 8  # bytes of the largest element


def computed(call: Call) -> np.ndarray | None:
    """The output of an operator of constants; None if the operator stays in the network.

    Raises
    ------
    TvmMobilenetError
        The result is many times larger than its inputs.
    """
    if call.operator.name == "SHAPE":
        return np.array(call.shape(0), np.int32)
    if call.operator.name == "STABLEHLO_IOTA":
        axis = call.options["iota_dimension"]
        if not 0 <= axis < len(call.size):
            raise ValueError(f"the dimension {axis} of the shape {list(call.size)}")
        limits.check_constant(math.prod(call.size) * _ITEM_BYTES, 0, call.where)
        side = [-1 if i == axis else 1 for i in range(len(call.size))]
        return np.broadcast_to(np.arange(call.size[axis], dtype=call.known_dtype()).reshape(side), call.size)
    if call.operator.name == "RANK":
        return np.array(len(call.shape(0)), np.int32)
    if call.operator.name == "ZEROS_LIKE":
        limits.check_tensor(math.prod(call.shape(0)), _ITEM_BYTES, call.where)
        return np.zeros(call.shape(0), call.known_dtype())
    values = [v for v in call.values if v is not None]
    made = _MAKE.get(call.operator.name)
    if made is None or not values or any(v.known is None for v in values):
        return None
    sizes = [v.known.shape for v in values]
    elements = sum(math.prod(s) for s in sizes)
    if call.operator.name in _BROADCAST:
        elements = math.prod(np.broadcast_shapes(*sizes))
    elif call.operator.name in ("FILL", "BROADCAST_TO"):
        elements = math.prod(max(0, n) for n in call.numbers(call.operator.name == "BROADCAST_TO"))
    elif call.operator.name == "GATHER":
        elements = math.prod(sizes[0]) * math.prod(sizes[1])
    elif call.operator.name == "RANGE":
        start, limit, step = (float(v.known.reshape(())) for v in values)
        elements = max(0, math.ceil((limit - start) / step)) if step else 0
    stored = max(v.known.nbytes for v in values)
    limits.check_constant(elements * _ITEM_BYTES, 2 * stored, call.where)
    return np.asarray(made(call), order="C")


def _plain(call: Call) -> bool:
    return call.options.get("activation", "NONE") == "NONE"


def _of_two(operator: Callable) -> Callable:
    def make(call: Call) -> np.ndarray:
        if not _plain(call):
            raise ValueError("an activation of constants")
        with np.errstate(all="ignore"):
            found = operator(call.array(0), call.array(1))
        return found.astype(call.array(0).dtype)

    return make


def _cut(call: Call) -> np.ndarray:
    slices, kept = strided(call)
    ends = [slice(s.start, None if s.stop < 0 else s.stop, s.step) for s in slices]  # -1: before the first
    data = call.array(0)[tuple(ends)]
    return data.reshape([1 if axis is None else data.shape[axis] for axis in kept])


def _sliced(call: Call) -> np.ndarray:
    begin, size = call.numbers(1), call.numbers(2)
    return call.array(0)[tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


def _expanded(call: Call) -> np.ndarray:
    return np.expand_dims(call.array(0), call.numbers(1)[0])


def _cast(call: Call) -> np.ndarray:
    return call.array(0).astype(call.known_dtype())


def _product(call: Call) -> np.ndarray:
    return np.prod(call.array(0), tuple(call.numbers(1)), keepdims=bool(call.options["keep_dims"])).astype(
        call.array(0).dtype
    )


def _arrays(call: Call) -> list[np.ndarray]:
    return [call.array(i) for i in range(len(call.values))]


_BROADCAST = ("ADD", "SUB", "MUL", "DIV", "FLOOR_DIV", "MAXIMUM", "MINIMUM")
_MAKE: dict[str, Callable] = {
    "ADD": _of_two(np.add),
    "SUB": _of_two(np.subtract),
    "MUL": _of_two(np.multiply),
    "DIV": _of_two(np.divide),
    "FLOOR_DIV": _of_two(np.floor_divide),
    "MAXIMUM": _of_two(np.maximum),
    "MINIMUM": _of_two(np.minimum),
    "RSQRT": lambda call: (1 / np.sqrt(call.array(0))).astype(np.float32),
    "SQRT": lambda call: np.sqrt(call.array(0)),
    "NEG": lambda call: -call.array(0),
    "REDUCE_PROD": _product,
    "CAST": _cast,
    "DEQUANTIZE": lambda call: call.array(0).astype(np.float32),
    "RESHAPE": lambda call: call.array(0).reshape(
        filled(call.numbers(1) if call.has(1) else list(call.options["new_shape"]), call.array(0).size)
    ),
    "SQUEEZE": lambda call: np.squeeze(call.array(0), tuple(call.options["squeeze_dims"]) or None),
    "EXPAND_DIMS": _expanded,
    "TRANSPOSE": lambda call: np.transpose(call.array(0), call.numbers(1)),
    "STRIDED_SLICE": _cut,
    "SLICE": _sliced,
    "PACK": lambda call: np.stack(_arrays(call), call.options["axis"]),
    "CONCATENATION": lambda call: np.concatenate(_arrays(call), call.options["axis"]),
    "GATHER": lambda call: np.take(call.array(0), *gathered(call)),
    "RANGE": lambda call: np.arange(*(call.array(i).reshape(())[()] for i in range(3)), dtype=call.array(0).dtype),
    "BROADCAST_ARGS": lambda call: np.array(np.broadcast_shapes(*(tuple(call.numbers(i)) for i in (0, 1))), np.int32),
    "FILL": lambda call: np.full(call.numbers(0), call.array(1)),
    "BROADCAST_TO": lambda call: np.broadcast_to(call.array(0), call.numbers(1)),
}
