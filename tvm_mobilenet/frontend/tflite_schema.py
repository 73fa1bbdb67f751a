"""The parts of TFLite's schema that the reader uses: numbers of fields, operators and types, as data.

Source: ``schema.fbs`` of TensorFlow Lite (version 3). A field's number is its place in its table; new fields are only
added at the end. `tests/frontend/test_tflite_schema.py` compares all of it with LiteRT's own schema.
"""

from __future__ import annotations

from dataclasses import dataclass

IDENTIFIER = b"TFL3"
TYPES = {  # types of tensors, by number, with numpy's names if it has them
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool", 7: "int16", 8: "complex64",
    9: "int8", 10: "float64", 11: "complex128", 12: "uint64", 13: "resource", 14: "variant", 15: "uint32",
    16: "uint16", 17: "int4", 18: "bfloat16", 19: "int2", 20: "uint4",
}  # fmt: skip
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
SAME, VALID = 0, 1  # paddings

DENSE, COMPRESSED = 0, 1  # dimensions of a sparse tensor
INDEX_DTYPES = {1: "int32", 2: "uint16", 3: "uint8"}  # of the positions of its values

MODEL = {"version": 0, "operator_codes": 1, "subgraphs": 2, "buffers": 4, "signature_defs": 7}
SIGNATURE_DEF = {"inputs": 0, "signature_key": 2, "subgraph_index": 4}
TENSOR_MAP = {"name": 0, "tensor_index": 1}
SUBGRAPH = {"tensors": 0, "inputs": 1, "outputs": 2, "operators": 3}
TENSOR = {
    "shape": 0, "type": 1, "buffer": 2, "name": 3, "quantization": 4, "is_variable": 5, "sparsity": 6,
    "shape_signature": 7,
}  # fmt: skip
QUANTIZATION = {"scale": 2, "zero_point": 3, "details_type": 4, "quantized_dimension": 6}
SPARSITY = {"traversal_order": 0, "block_map": 1, "dim_metadata": 2}
DIMENSION = {
    "format": 0, "dense_size": 1, "array_segments_type": 2, "array_segments": 3, "array_indices_type": 4,
    "array_indices": 5,
}  # fmt: skip
OPERATOR = {
    "opcode_index": 0, "inputs": 1, "outputs": 2, "builtin_options_type": 3, "builtin_options": 4, "custom_options": 5,
    "builtin_options2_type": 11, "builtin_options2": 12,
}  # fmt: skip
OPERATOR_CODE = {"deprecated_builtin_code": 0, "custom_code": 1, "version": 2, "builtin_code": 3}
BUFFER = {"data": 0, "offset": 1, "size": 2}
CUSTOM = 32


@dataclass(frozen=True)
class Options:
    """The options of operators: their number in the schema's union, and fields by name.

    Attributes
    ----------
    fields : dict of str to (int, str, number)
        Number, form (as `struct` has it; ``[i`` a vector of int32, ``[q`` of int64, ``[f`` of float32, ``[?`` of
        truths; ``s`` a text) and default.
    second : bool
        Whether it is of the second union, ``BuiltinOptions2``.
    """

    number: int
    fields: dict[str, tuple]
    second: bool = False


_WINDOW = {"padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0)}
_DILATED = {"dilation_w": (4, "i", 1), "dilation_h": (5, "i", 1)}
OPTIONS = {
    "Conv2DOptions": Options(1, {**_WINDOW, "activation": (3, "b", 0), **_DILATED}),
    "DepthwiseConv2DOptions": Options(
        2,
        {**_WINDOW, "multiplier": (3, "i", 0), "activation": (4, "b", 0)}
        | {"dilation_w": (5, "i", 1), "dilation_h": (6, "i", 1)},
    ),
    "Pool2DOptions": Options(
        5, {**_WINDOW, "filter_w": (3, "i", 0), "filter_h": (4, "i", 0), "activation": (5, "b", 0)}
    ),
    "FullyConnectedOptions": Options(
        8, {"activation": (0, "b", 0), "weights_format": (1, "b", 0), "keep_num_dims": (2, "?", False)}
    ),
    "SoftmaxOptions": Options(9, {"beta": (0, "f", 0.0)}),
    "ConcatenationOptions": Options(10, {"axis": (0, "i", 0), "activation": (1, "b", 0)}),
    "AddOptions": Options(11, {"activation": (0, "b", 0)}),
    "L2NormOptions": Options(12, {"activation": (0, "b", 0)}),
    "LocalResponseNormalizationOptions": Options(
        13, {"radius": (0, "i", 0), "bias": (1, "f", 0.0), "alpha": (2, "f", 0.0), "beta": (3, "f", 0.0)}
    ),
    "ResizeBilinearOptions": Options(15, {"align_corners": (2, "?", False), "half_pixel": (3, "?", False)}),
    "ReshapeOptions": Options(17, {"new_shape": (0, "[i", ())}),
    "SpaceToDepthOptions": Options(19, {"block_size": (0, "i", 0)}),
    "MulOptions": Options(21, {"activation": (0, "b", 0)}),
    "GatherOptions": Options(23, {"axis": (0, "i", 0), "batch_dims": (1, "i", 0)}),
    "ReducerOptions": Options(27, {"keep_dims": (0, "?", False)}),
    "SubOptions": Options(28, {"activation": (0, "b", 0)}),
    "DivOptions": Options(29, {"activation": (0, "b", 0)}),
    "SqueezeOptions": Options(30, {"squeeze_dims": (0, "[i", ())}),
    "StridedSliceOptions": Options(
        32,
        {"begin_mask": (0, "i", 0), "end_mask": (1, "i", 0), "ellipsis_mask": (2, "i", 0)}
        | {"new_axis_mask": (3, "i", 0), "shrink_axis_mask": (4, "i", 0), "offset": (5, "?", False)},
    ),
    "SplitOptions": Options(35, {"num_splits": (0, "i", 0)}),
    "CastOptions": Options(37, {"in_type": (0, "b", 0), "out_type": (1, "b", 0)}),
    "TransposeConvOptions": Options(49, {**_WINDOW, "activation": (3, "b", 0)}),
    "PackOptions": Options(59, {"values_count": (0, "i", 0), "axis": (1, "i", 0)}),
    "OneHotOptions": Options(61, {"axis": (0, "i", 0)}),
    "FakeQuantOptions": Options(
        58, {"min": (0, "f", 0.0), "max": (1, "f", 0.0), "num_bits": (2, "i", 0), "narrow_range": (3, "?", False)}
    ),
    "UnpackOptions": Options(64, {"num": (0, "i", 0), "axis": (1, "i", 0)}),
    "ResizeNearestNeighborOptions": Options(74, {"align_corners": (0, "?", False), "half_pixel": (1, "?", False)}),
    "LeakyReluOptions": Options(75, {"alpha": (0, "f", 0.0)}),
    "MirrorPadOptions": Options(77, {"mode": (0, "b", 0)}),
    "ReverseSequenceOptions": Options(87, {"seq_dim": (0, "i", 0), "batch_dim": (1, "i", 0)}),
    "DepthToSpaceOptions": Options(94, {"block_size": (0, "i", 0)}),
    "BatchMatMulOptions": Options(101, {"adj_x": (0, "?", False), "adj_y": (1, "?", False)}),
    "CumsumOptions": Options(102, {"exclusive": (0, "?", False), "reverse": (1, "?", False)}),
    "Conv3DOptions": Options(
        106,
        {"padding": (0, "b", 0), "stride_d": (1, "i", 0), "stride_w": (2, "i", 0), "stride_h": (3, "i", 0)}
        | {"activation": (4, "b", 0), "dilation_d": (5, "i", 1), "dilation_w": (6, "i", 1), "dilation_h": (7, "i", 1)},
    ),
    "BucketizeOptions": Options(115, {"boundaries": (0, "[f", ())}),
    "GeluOptions": Options(116, {"approximate": (0, "?", False)}),
    "CallOptions": Options(16, {"body": (0, "I", 0)}),
    "EmbeddingLookupSparseOptions": Options(20, {"combiner": (0, "b", 0)}),
    "SequenceRNNOptions": Options(31, {"time_major": (0, "?", False), "activation": (1, "b", 0)}),
    "BidirectionalSequenceLSTMOptions": Options(
        69,
        {"activation": (0, "b", 0), "cell_clip": (1, "f", 0.0), "proj_clip": (2, "f", 0.0)}
        | {"merge_outputs": (3, "?", False), "time_major": (4, "?", True)},
    ),
    "BidirectionalSequenceRNNOptions": Options(
        70, {"time_major": (0, "?", False), "activation": (1, "b", 0), "merge_outputs": (2, "?", False)}
    ),
    "UnidirectionalSequenceLSTMOptions": Options(
        71,
        {"activation": (0, "b", 0), "cell_clip": (1, "f", 0.0), "proj_clip": (2, "f", 0.0)}
        | {"time_major": (3, "?", False), "diagonal": (5, "?", False)},
    ),
    "CallOnceOptions": Options(103, {"body": (0, "i", 0)}),
    "VarHandleOptions": Options(111, {"container": (0, "s", ""), "shared_name": (1, "s", "")}),
    # ---- of the second union
    "StablehloConcatenateOptions": Options(1, {"dimension": (0, "q", 0)}, True),
    "StablehloBroadcastInDimOptions": Options(2, {"broadcast_dimensions": (0, "[q", ())}, True),
    "StablehloSliceOptions": Options(
        3, {"start_indices": (0, "[q", ()), "limit_indices": (1, "[q", ()), "strides": (2, "[q", ())}, True
    ),
    "StablehloConvolutionOptions": Options(
        4,
        {"window_strides": (0, "[q", ()), "padding": (1, "[q", ()), "lhs_dilation": (2, "[q", ())}
        | {"rhs_dilation": (3, "[q", ()), "window_reversal": (4, "[?", ()), "input_batch_dimension": (5, "q", 0)}
        | {"input_feature_dimension": (6, "q", 0), "input_spatial_dimensions": (7, "[q", ())}
        | {"kernel_input_feature_dimension": (8, "q", 0), "kernel_output_feature_dimension": (9, "q", 0)}
        | {"kernel_spatial_dimensions": (10, "[q", ()), "output_batch_dimension": (11, "q", 0)}
        | {"output_feature_dimension": (12, "q", 0), "output_spatial_dimensions": (13, "[q", ())}
        | {"feature_group_count": (14, "q", 0), "batch_group_count": (15, "q", 0)},
        True,
    ),
    "StablehloCustomCallOptions": Options(5, {"call_target_name": (0, "s", "")}, True),
    "StablehloReduceOptions": Options(6, {"dimensions": (0, "[q", ()), "body": (1, "i", 0)}, True),
    "StablehloScatterOptions": Options(
        7,
        {"update_window_dims": (1, "[q", ()), "inserted_window_dims": (2, "[q", ())}
        | {"scatter_dims_to_operand_dims": (3, "[q", ()), "index_vector_dim": (4, "q", 0), "body": (6, "i", 0)},
        True,
    ),
    "StablehloCompareOptions": Options(8, {"comparison_direction": (0, "I", 0), "compare_type": (1, "I", 0)}, True),
    "StablehloDynamicSliceOptions": Options(9, {"slice_sizes": (0, "[q", ())}, True),
    "StablehloPadOptions": Options(
        10,
        {"edge_padding_low": (0, "[q", ()), "edge_padding_high": (1, "[q", ()), "interior_padding": (2, "[q", ())},
        True,
    ),
    "StablehloIotaOptions": Options(11, {"iota_dimension": (0, "q", 0)}, True),
    "StablehloDotGeneralOptions": Options(
        12,
        {"lhs_batching_dimensions": (0, "[q", ()), "rhs_batching_dimensions": (1, "[q", ())}
        | {"lhs_contracting_dimensions": (2, "[q", ()), "rhs_contracting_dimensions": (3, "[q", ())},
        True,
    ),
    "StablehloReduceWindowOptions": Options(
        13,
        {"window_dimensions": (0, "[q", ()), "window_strides": (1, "[q", ()), "base_dilations": (2, "[q", ())}
        | {"window_dilations": (3, "[q", ()), "padding": (4, "[q", ()), "body": (5, "i", 0)},
        True,
    ),
    "StablehloSortOptions": Options(14, {"dimension": (0, "q", 0), "body": (2, "i", 0)}, True),
    "StablehloGatherOptions": Options(
        16,
        {"offset_dims": (0, "[q", ()), "collapsed_slice_dims": (1, "[q", ()), "start_index_map": (2, "[q", ())}
        | {"index_vector_dim": (3, "q", 0), "slice_sizes": (4, "[q", ())},
        True,
    ),
    "StablehloTransposeOptions": Options(17, {"permutation": (0, "[q", ())}, True),
    "ReduceWindowOptions": Options(20, {"reduce_function": (0, "i", 0)}, True),
    "StableHLOCompositeOptions": Options(21, {"name": (0, "s", ""), "body": (1, "i", 0)}, True),
}

OPERATORS = {  # by number; others are refused by number
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 5: "DEPTH_TO_SPACE",
    6: "DEQUANTIZE", 7: "EMBEDDING_LOOKUP", 8: "FLOOR", 9: "FULLY_CONNECTED", 11: "L2_NORMALIZATION", 14: "LOGISTIC",
    12: "L2_POOL_2D", 13: "LOCAL_RESPONSE_NORMALIZATION", 16: "LSTM", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU",
    20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE", 23: "RESIZE_BILINEAR", 24: "RNN", 25: "SOFTMAX",
    26: "SPACE_TO_DEPTH", 27: "SVDF", 28: "TANH", 31: "CALL", 32: "CUSTOM", 34: "PAD",
    35: "UNIDIRECTIONAL_SEQUENCE_RNN", 36: "GATHER", 37: "BATCH_TO_SPACE_ND", 38: "SPACE_TO_BATCH_ND",
    39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE", 44: "UNIDIRECTIONAL_SEQUENCE_LSTM",
    45: "STRIDED_SLICE", 47: "EXP", 48: "TOPK_V2", 49: "SPLIT", 50: "LOG_SOFTMAX", 53: "CAST", 54: "PRELU",
    55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 58: "LESS", 59: "NEG", 60: "PADV2", 61: "GREATER",
    62: "GREATER_EQUAL", 63: "LESS_EQUAL", 64: "SELECT", 65: "SLICE", 66: "SIN", 67: "TRANSPOSE_CONV", 69: "TILE",
    70: "EXPAND_DIMS", 71: "EQUAL", 72: "NOT_EQUAL", 73: "LOG", 74: "SUM", 75: "SQRT", 76: "RSQRT", 77: "SHAPE",
    78: "POW", 79: "ARG_MIN", 80: "FAKE_QUANT", 81: "REDUCE_PROD", 82: "REDUCE_MAX", 83: "PACK", 84: "LOGICAL_OR",
    85: "ONE_HOT", 86: "LOGICAL_AND", 87: "LOGICAL_NOT", 88: "UNPACK", 89: "REDUCE_MIN", 90: "FLOOR_DIV",
    92: "SQUARE", 93: "ZEROS_LIKE", 94: "FILL", 95: "FLOOR_MOD", 96: "RANGE", 97: "RESIZE_NEAREST_NEIGHBOR",
    98: "LEAKY_RELU", 99: "SQUARED_DIFFERENCE", 100: "MIRROR_PAD", 101: "ABS", 102: "SPLIT_V", 103: "UNIQUE",
    104: "CEIL", 105: "REVERSE_V2", 106: "ADD_N", 107: "GATHER_ND", 108: "COS", 109: "WHERE", 110: "RANK",
    111: "ELU", 114: "QUANTIZE", 116: "ROUND", 117: "HARD_SWISH", 118: "IF", 119: "WHILE",
    120: "NON_MAX_SUPPRESSION_V4", 121: "NON_MAX_SUPPRESSION_V5", 122: "SCATTER_ND", 123: "SELECT_V2",
    124: "DENSIFY", 126: "BATCH_MATMUL", 128: "CUMSUM", 129: "CALL_ONCE", 130: "BROADCAST_TO", 132: "CONV_3D",
    140: "REDUCE_ALL", 141: "CONV_3D_TRANSPOSE", 146: "RANDOM_STANDARD_NORMAL", 147: "BUCKETIZE", 148: "RANDOM_UNIFORM",
    149: "MULTINOMIAL", 151: "DYNAMIC_UPDATE_SLICE", 156: "ATAN2", 142: "VAR_HANDLE",
    143: "READ_VARIABLE", 144: "ASSIGN_VARIABLE", 145: "BROADCAST_ARGS", 150: "GELU", 152: "RELU_0_TO_1",
    158: "SIGN",
    10: "HASHTABLE_LOOKUP", 46: "BIDIRECTIONAL_SEQUENCE_RNN", 52: "BIDIRECTIONAL_SEQUENCE_LSTM", 51: "DELEGATE",
    68: "SPARSE_TO_DENSE", 91: "REDUCE_ANY", 112: "REVERSE_SEQUENCE", 113: "MATRIX_DIAG", 115: "MATRIX_SET_DIAG",
    125: "SEGMENT_SUM", 131: "RFFT2D", 133: "IMAG", 134: "REAL", 135: "COMPLEX_ABS", 136: "HASHTABLE",
    137: "HASHTABLE_FIND", 138: "HASHTABLE_IMPORT", 139: "HASHTABLE_SIZE", 153: "UNSORTED_SEGMENT_PROD",
    154: "UNSORTED_SEGMENT_MAX", 155: "UNSORTED_SEGMENT_SUM", 157: "UNSORTED_SEGMENT_MIN", 159: "BITCAST",
    160: "BITWISE_XOR", 161: "RIGHT_SHIFT", 203: "DILATE", 205: "REDUCE_WINDOW",
    33: "EMBEDDING_LOOKUP_SPARSE",
    162: "STABLEHLO_LOGISTIC", 163: "STABLEHLO_ADD", 164: "STABLEHLO_DIVIDE", 165: "STABLEHLO_MULTIPLY",
    166: "STABLEHLO_MAXIMUM", 167: "STABLEHLO_RESHAPE", 168: "STABLEHLO_CLAMP", 169: "STABLEHLO_CONCATENATE",
    170: "STABLEHLO_BROADCAST_IN_DIM", 171: "STABLEHLO_CONVOLUTION", 172: "STABLEHLO_SLICE",
    173: "STABLEHLO_CUSTOM_CALL", 174: "STABLEHLO_REDUCE", 175: "STABLEHLO_ABS", 176: "STABLEHLO_AND",
    177: "STABLEHLO_COSINE", 178: "STABLEHLO_EXPONENTIAL", 179: "STABLEHLO_FLOOR", 180: "STABLEHLO_LOG",
    181: "STABLEHLO_MINIMUM", 182: "STABLEHLO_NEGATE", 183: "STABLEHLO_OR", 184: "STABLEHLO_POWER",
    185: "STABLEHLO_REMAINDER", 186: "STABLEHLO_RSQRT", 187: "STABLEHLO_SELECT", 188: "STABLEHLO_SUBTRACT",
    189: "STABLEHLO_TANH", 190: "STABLEHLO_SCATTER", 191: "STABLEHLO_COMPARE", 192: "STABLEHLO_CONVERT",
    193: "STABLEHLO_DYNAMIC_SLICE", 194: "STABLEHLO_DYNAMIC_UPDATE_SLICE", 195: "STABLEHLO_PAD", 196: "STABLEHLO_IOTA",
    197: "STABLEHLO_DOT_GENERAL", 198: "STABLEHLO_REDUCE_WINDOW", 199: "STABLEHLO_SORT", 200: "STABLEHLO_WHILE",
    201: "STABLEHLO_GATHER", 202: "STABLEHLO_TRANSPOSE", 204: "STABLEHLO_RNG_BIT_GENERATOR",
    206: "STABLEHLO_COMPOSITE", 207: "STABLEHLO_SHIFT_LEFT", 208: "STABLEHLO_CBRT", 209: "STABLEHLO_CASE",
}  # fmt: skip
OPTIONS_OF = {  # options of operators, for those with options that the reader uses
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions",
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions", "FULLY_CONNECTED": "FullyConnectedOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions", "SOFTMAX": "SoftmaxOptions",
    "CONCATENATION": "ConcatenationOptions", "L2_NORMALIZATION": "L2NormOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "RESHAPE": "ReshapeOptions", "SQUEEZE": "SqueezeOptions", "GATHER": "GatherOptions",
    "MEAN": "ReducerOptions", "SUM": "ReducerOptions", "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions", "STRIDED_SLICE": "StridedSliceOptions", "SPLIT": "SplitOptions",
    "CAST": "CastOptions", "PACK": "PackOptions", "UNPACK": "UnpackOptions", "LEAKY_RELU": "LeakyReluOptions",
    "MIRROR_PAD": "MirrorPadOptions", "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "ONE_HOT": "OneHotOptions", "CUMSUM": "CumsumOptions", "CONV_3D": "Conv3DOptions", "L2_POOL_2D": "Pool2DOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions", "REDUCE_ALL": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions", "BATCH_MATMUL": "BatchMatMulOptions", "GELU": "GeluOptions",
    "FAKE_QUANT": "FakeQuantOptions", "REVERSE_SEQUENCE": "ReverseSequenceOptions", "BUCKETIZE": "BucketizeOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "CALL": "CallOptions", "CALL_ONCE": "CallOnceOptions", "VAR_HANDLE": "VarHandleOptions",
    "EMBEDDING_LOOKUP_SPARSE": "EmbeddingLookupSparseOptions", "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
    "BIDIRECTIONAL_SEQUENCE_RNN": "BidirectionalSequenceRNNOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "BidirectionalSequenceLSTMOptions", "REDUCE_WINDOW": "ReduceWindowOptions",
    "STABLEHLO_CONCATENATE": "StablehloConcatenateOptions",
    "STABLEHLO_BROADCAST_IN_DIM": "StablehloBroadcastInDimOptions", "STABLEHLO_SLICE": "StablehloSliceOptions",
    "STABLEHLO_CONVOLUTION": "StablehloConvolutionOptions", "STABLEHLO_CUSTOM_CALL": "StablehloCustomCallOptions",
    "STABLEHLO_REDUCE": "StablehloReduceOptions", "STABLEHLO_SCATTER": "StablehloScatterOptions",
    "STABLEHLO_COMPARE": "StablehloCompareOptions", "STABLEHLO_DYNAMIC_SLICE": "StablehloDynamicSliceOptions",
    "STABLEHLO_PAD": "StablehloPadOptions", "STABLEHLO_IOTA": "StablehloIotaOptions",
    "STABLEHLO_DOT_GENERAL": "StablehloDotGeneralOptions",
    "STABLEHLO_REDUCE_WINDOW": "StablehloReduceWindowOptions", "STABLEHLO_SORT": "StablehloSortOptions",
    "STABLEHLO_GATHER": "StablehloGatherOptions", "STABLEHLO_TRANSPOSE": "StablehloTransposeOptions",
    "STABLEHLO_COMPOSITE": "StableHLOCompositeOptions",
}  # fmt: skip
