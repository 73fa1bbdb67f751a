"""TFLite's operators in Relax: the function that makes each.

`CONVERTERS` has a function for each operator, by name: ``make(call)`` returns the value or values that it writes. A
ValueError gives the reason why an operator cannot be converted. Definitions: TFLite's reference kernels
(``tensorflow/lite/kernels/internal/ reference``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from tvm_mobilenet.frontend import tflite_bodies as bodies
from tvm_mobilenet.frontend import tflite_complex as complex_numbers
from tvm_mobilenet.frontend import tflite_detection as detection
from tvm_mobilenet.frontend import tflite_elementwise as elementwise
from tvm_mobilenet.frontend import tflite_positions as positions
from tvm_mobilenet.frontend import tflite_recurrent as recurrent
from tvm_mobilenet.frontend import tflite_stablehlo as stablehlo
from tvm_mobilenet.frontend import tflite_views as views
from tvm_mobilenet.frontend import tflite_windows as windows

op = relax.op

CONVERTERS: dict[str, Callable] = {
    **dict.fromkeys(elementwise.ACTIVATIONS, elementwise.unary),
    "ADD": elementwise.arithmetic(op.add),
    "SUB": elementwise.arithmetic(op.subtract),
    "MUL": elementwise.arithmetic(op.multiply),
    "DIV": elementwise.binary(op.divide),
    "MAXIMUM": elementwise.binary(op.maximum),
    "MINIMUM": elementwise.binary(op.minimum),
    "ATAN2": elementwise.binary(op.atan2),
    "POW": elementwise.binary(op.power),
    "FLOOR_DIV": elementwise.binary(op.floor_divide),
    "FLOOR_MOD": elementwise.binary(op.floor_mod),
    "SQUARED_DIFFERENCE": elementwise.squared_difference,
    "LESS": elementwise.binary(op.less),
    "LESS_EQUAL": elementwise.binary(op.less_equal),
    "GREATER": elementwise.binary(op.greater),
    "GREATER_EQUAL": elementwise.binary(op.greater_equal),
    "EQUAL": elementwise.equality(same=True),
    "NOT_EQUAL": elementwise.equality(same=False),
    "LOGICAL_AND": elementwise.binary(op.logical_and),
    "LOGICAL_OR": elementwise.binary(op.logical_or),
    "BITWISE_XOR": elementwise.binary(op.bitwise_xor),
    "RIGHT_SHIFT": elementwise.right_shift,
    "BITCAST": elementwise.bitcast,
    "FAKE_QUANT": elementwise.rounded_to_steps,
    "BUCKETIZE": elementwise.bucketize,
    "ADD_N": elementwise.sum_of,
    "SELECT": elementwise.select,
    "SELECT_V2": elementwise.select,
    "CONV_2D": windows.conv,
    "CONV_3D": windows.conv_3d,
    "CONV_3D_TRANSPOSE": windows.transposed_3d,
    "DEPTHWISE_CONV_2D": windows.depthwise,
    "TRANSPOSE_CONV": windows.transposed,
    "FULLY_CONNECTED": windows.fully_connected,
    "BATCH_MATMUL": windows.batch_matmul,
    "AVERAGE_POOL_2D": windows.average_pool,
    "MAX_POOL_2D": windows.max_pool,
    "L2_POOL_2D": windows.norm_pool,
    "LOCAL_RESPONSE_NORMALIZATION": windows.local_response_normalization,
    "MEAN": windows.mean,
    "SUM": windows.reduction(op.sum),
    "REDUCE_MAX": windows.reduction(op.max),
    "REDUCE_MIN": windows.reduction(op.min),
    "REDUCE_ALL": windows.reduction(op.min),
    "REDUCE_ANY": windows.reduction(op.max),
    "REDUCE_PROD": windows.reduction(op.prod),
    "ARG_MAX": windows.extreme_index(op.argmax),
    "ARG_MIN": windows.extreme_index(op.argmin),
    "PAD": windows.pad,
    "PADV2": windows.pad,
    "MIRROR_PAD": windows.mirror_pad,
    "RESIZE_BILINEAR": windows.resized("linear"),
    "RESIZE_NEAREST_NEIGHBOR": windows.resized("nearest_neighbor"),
    "RESHAPE": views.reshape,
    "SQUEEZE": views.squeeze,
    "EXPAND_DIMS": views.expand_dims,
    "TRANSPOSE": views.transpose,
    "CONCATENATION": views.concatenation,
    "PACK": views.pack,
    "UNPACK": views.unpack,
    "SPLIT": views.split,
    "SPLIT_V": views.split_v,
    "SLICE": views.sliced,
    "STRIDED_SLICE": views.strided_slice,
    "GATHER": positions.gather,
    "GATHER_ND": positions.gather_nd,
    "SCATTER_ND": positions.scatter_nd,
    "DYNAMIC_UPDATE_SLICE": positions.updated_slice,
    "SPARSE_TO_DENSE": positions.dense,
    "SEGMENT_SUM": positions.segment_sum,
    "UNSORTED_SEGMENT_SUM": positions.segments("add", 0),
    "UNSORTED_SEGMENT_PROD": positions.segments("mul", 1),
    "UNSORTED_SEGMENT_MAX": positions.segments("max", -np.inf),
    "UNSORTED_SEGMENT_MIN": positions.segments("min", np.inf),
    "EMBEDDING_LOOKUP": positions.rows_of_table,
    "EMBEDDING_LOOKUP_SPARSE": positions.sums_of_rows,
    "HASHTABLE_LOOKUP": positions.rows_of_keys,
    "BROADCAST_ARGS": views.common_shape,
    "ONE_HOT": positions.one_hot,
    "CUMSUM": views.sums_so_far,
    "FILL": views.fill,
    "REVERSE_V2": views.reverse,
    "REVERSE_SEQUENCE": positions.reverse_sequences,
    "MATRIX_DIAG": views.diagonal_matrix,
    "MATRIX_SET_DIAG": views.with_diagonal,
    "TOPK_V2": views.top,
    "SPACE_TO_BATCH_ND": views.space_to_batch,
    "BATCH_TO_SPACE_ND": views.batch_to_space,
    "SPACE_TO_DEPTH": views.to_depth,
    "DEPTH_TO_SPACE": views.to_space,
    "BROADCAST_TO": views.broadcast_to,
    "DILATE": views.apart,
    "TILE": views.tile,
    "SOFTMAX": elementwise.softmax,
    "LOG_SOFTMAX": lambda call: elementwise.own(call, op.nn.log_softmax(call.own(0), -1)),
    "L2_NORMALIZATION": elementwise.l2_normalization,
    "PRELU": elementwise.prelu,
    "CAST": elementwise.cast,
    "QUANTIZE": elementwise.as_it_is,
    "DEQUANTIZE": elementwise.as_it_is,
    **stablehlo.CONVERTERS,
    **bodies.CONVERTERS,
    **detection.CONVERTERS,
    **recurrent.CONVERTERS,
    **complex_numbers.CONVERTERS,
}
_MOVES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "STABLEHLO_RESHAPE", "STABLEHLO_TRANSPOSE")
CONVERTERS |= {name: complex_numbers.of_parts(CONVERTERS[name]) for name in _MOVES}

STATE = "it keeps a state from one run to the next; convert a model without one"
STATEFUL = frozenset(recurrent.CONVERTERS)  # their states begin anew in each run
COMPLEX = frozenset((*complex_numbers.CONVERTERS, *_MOVES))  # of complex numbers
_FLOW = "what it runs depends on data; convert the model without control flow, recurrent layers with unroll=True"
_SHAPE = "the shape of its output depends on data"
_RANDOM = "it draws random numbers; convert the model in inference mode"
_UNKNOWN = {
    **dict.fromkeys(("IF", "WHILE", "STABLEHLO_WHILE", "STABLEHLO_CASE"), _FLOW),
    **dict.fromkeys(("HASHTABLE",), STATE),
    **dict.fromkeys(("WHERE", "UNIQUE"), _SHAPE),
    **dict.fromkeys(("RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "MULTINOMIAL"), _RANDOM),
    **dict.fromkeys(("LSTM", "RNN", "SVDF"), STATE),
}


def unknown(name: str) -> str:
    """The reason why an operator has no converter; empty if it has none but that."""
    if name.startswith("CUSTOM_Flex"):
        return "it is TensorFlow's (Flex), not TFLite's; convert the model with TFLITE_BUILTINS alone"
    if name.startswith("CUSTOM_"):
        return "it is not TFLite's: the file does not say what it computes"
    return _UNKNOWN.get(name, "")
