"""Cases of ONNX operators that TVM's importer knows and few networks have, in addition to those of `operator_cases`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, numpy_helper

from benchmarks.operator_cases import Case, _integers, _number, _numbers, _one, _several

OPSET = 21
_FLOAT, _INTEGER, _BYTE = ({"to": kind} for kind in (TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8))
_ROWS = np.array([1, 32, 8], np.int64)
_OWN = {"domain": "com.microsoft"}  # operators of ONNX Runtime's own


def _elements() -> list[Case]:
    found = [_one(operator) for operator in ("Atan", "Asinh", "Sinh", "Cosh", "Hardmax", "MeanVarianceNormalization")]
    for operator in ("Acos", "Asin", "Atanh"):
        nodes = ("Sin", "c", "a"), ("Mul", "a k", "b"), (operator, "b", "y")
        found.append(_several(operator, "of sines", *nodes, k=_number(0.5)))
    found.append(
        _several("Acosh", "of sums", ("Abs", "c", "a"), ("Add", "a k", "b"), ("Acosh", "b", "y"), k=_number(1.5))
    )
    for operator in ("Less", "LessOrEqual", "GreaterOrEqual"):
        found.append(_several(operator, "two tensors", (operator, "c s", "b"), ("Cast", "b", "y", _FLOAT)))
    for operator in ("And", "Or", "Xor"):
        signs = ("Greater", "c k", "a"), ("Greater", "s k", "b")
        found.append(
            _several(operator, "of signs", *signs, (operator, "a b", "t"), ("Cast", "t", "y", _FLOAT), k=_number(0))
        )
    found.append(_several("Not", "of signs", ("Greater", "c s", "a"), ("Not", "a", "t"), ("Cast", "t", "y", _FLOAT)))
    whole = ("Mul", "c k", "m"), ("Cast", "m", "a", _INTEGER), ("Mul", "s k", "n"), ("Cast", "n", "b", _INTEGER)
    for operator in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        found.append(
            _several(operator, "of integers", *whole, (operator, "a b", "t"), ("Cast", "t", "y", _FLOAT), k=_number(9))
        )
    bits = ("Abs", "c", "p"), ("Mul", "p k", "m"), ("Cast", "m", "a", _BYTE)
    return [
        *found,
        _several(
            "BitwiseNot", "of integers", *whole, ("BitwiseNot", "a", "t"), ("Cast", "t", "y", _FLOAT), k=_number(9)
        ),
        *(
            _several(
                "BitShift",
                way.lower(),
                *bits,
                ("BitShift", "a n", "t", {"direction": way}),
                ("Cast", "t", "y", _FLOAT),
                k=_number(40),
                n=np.array(2, np.uint8),
            )
            for way in ("LEFT", "RIGHT")
        ),
        _several("IsNaN", "", ("IsNaN", "c", "b"), ("Not", "b", "t"), ("Where", "t c s", "y")),
        _several(
            "CastLike", "", ("Mul", "c k", "m"), ("Cast", "m", "a", _INTEGER), ("CastLike", "a c", "y"), k=_number(9)
        ),
        _one("Shrink", "", lambd=0.3, bias=0.1),
        _one("GlobalLpPool", "p 3", p=3),
        _one("GroupNormalization", "2 groups", _numbers(4), _numbers(4), num_groups=2),
    ]


def _moves() -> list[Case]:
    rows = np.array([[0, 1], [3, 2], [1, 5]], np.int64)
    wanted = _integers(*range(8)).reshape(1, 1, 1, 8).repeat(4, 1) % 3
    return [
        _one("Trilu", "lower", _integers(1).reshape(()), upper=0),
        _several(
            "EyeLike", "", ("Flatten", "c", "f", {"axis": 3}), ("EyeLike", "f", "e", {"k": 1}), ("Mul", "f e", "y")
        ),
        _one("Compress", "axis 2", np.arange(8) % 3 == 0, axis=2),
        _one("GatherND", "", np.array([[[0, 1, 2], [0, 3, 4]]], np.int64)),
        _one("ScatterElements", "axis 2", wanted, _numbers(1, 4, 1, 8), axis=2, reduction="add"),
        replace(_one("Scatter", "axis 2", wanted, _numbers(1, 4, 1, 8), axis=2), opset=9),
        _several(
            "ScatterND", "", ("Reshape", "c to", "f"), ("ScatterND", "f i v", "y"), to=_ROWS[1:], i=rows, v=_numbers(3)
        ),
        _several(
            "OneHot",
            "",
            ("ArgMin", "c", "a", {"axis": 1, "keepdims": 0}),
            ("OneHot", "a d v", "y", {"axis": 1}),
            d=np.array(4),
            v=_numbers(2),
        ),
        _one("ArgMin", "axis 2", axis=2),
        _several("TopK", "3 of axis 3", ("TopK", "c n", "y i", {"axis": 3}), n=_integers(3)),
        _several(
            "MaxUnpool",
            "",
            ("MaxPool", "c", "p i", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("MaxUnpool", "p i", "y", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ),
        _one("MaxRoiPool", "", np.array([[0, 1, 1, 6, 7], [0, 0, 2, 5, 6]], np.float32), pooled_shape=[2, 3]),
        _several(
            "AffineGrid",
            "",
            ("Reshape", "g four", "f"),
            ("Concat", "f k", "m", {"axis": 2}),
            ("AffineGrid", "m n", "y"),
            four=_integers(1, 2, 2),
            k=_numbers(1, 2, 1),
            n=_integers(1, 4, 5, 6),
        ),
        _several("Range", "", ("Range", "a b d", "r"), ("Add", "c r", "y"), a=_number(1), b=_number(5), d=_number(0.5)),
        _several(
            "ConstantOfShape",
            "",
            ("Shape", "c", "d"),
            ("ConstantOfShape", "d", "z", {"value": numpy_helper.from_array(np.array([2], np.float32))}),
            ("Add", "c z", "y"),
        ),
        _several(
            "Constant",
            "",
            ("Constant", "", "k", {"value": numpy_helper.from_array(_numbers(4, 1, 1))}),
            ("Add", "c k", "y"),
        ),
        replace(_one("Upsample", "linear", np.array([1, 1, 2, 2], np.float32), mode="linear"), opset=9),
    ]


def _sequences() -> list[Case]:
    first = np.array(0)
    return [
        _several("SequenceAt", "", ("SequenceConstruct", "c s", "q"), ("SequenceAt", "q i", "y"), i=np.array(-1)),
        _several(
            "SequenceConstruct", "", ("SequenceConstruct", "c s", "q"), ("ConcatFromSequence", "q", "y", {"axis": 1})
        ),
        _several(
            "SplitToSequence",
            "",
            ("SplitToSequence", "c", "q", {"axis": 1}),
            ("ConcatFromSequence", "q", "y", {"axis": 2}),
        ),
        _several(
            "ConcatFromSequence",
            "a new axis",
            ("SplitToSequence", "c", "q", {"axis": 1, "keepdims": 0}),
            ("ConcatFromSequence", "q", "y", {"axis": 3, "new_axis": 1}),
        ),
        _several(
            "SequenceInsert",
            "",
            *(("SequenceEmpty", "", "e"), ("SequenceInsert", "e c", "a"), ("SequenceInsert", "a s l", "b")),
            *(("SequenceErase", "b i", "d"), ("SequenceAt", "d i", "y")),
            i=first,
            l=np.array(-1),
        ),
        _several(
            "SequenceLength",
            "",
            ("SequenceConstruct", "c s", "q"),
            ("SequenceLength", "q", "n"),
            ("Cast", "n", "f", _FLOAT),
            ("Mul", "c f", "y"),
        ),
        _several("OptionalGetElement", "", ("Optional", "c", "o"), ("OptionalGetElement", "o", "y")),
        _several(
            "OptionalHasElement",
            "",
            ("Optional", "c", "o"),
            ("OptionalHasElement", "o", "h"),
            ("Cast", "h", "f", _FLOAT),
            ("Mul", "c f", "y"),
        ),
    ]


def _integers_and_own() -> list[Case]:
    scale, zero, weights = _number(0.03), np.array(120, np.uint8), np.arange(24, dtype=np.uint8).reshape(8, 3)
    rows = ("Reshape", "c to", "f"), ("Reshape", "s to", "t")
    places = ("ArgMax", "c", "a", {"axis": 1, "keepdims": 0}), ("Reshape", "a two", "b"), ("Cast", "b", "i", _INTEGER)
    embedded = {"w": _numbers(4, 8), "p": _numbers(9, 8), "l": _numbers(8), "m": _numbers(8)}
    return [
        _several(
            "QuantizeLinear", "alone", ("QuantizeLinear", "c k z", "q"), ("Cast", "q", "y", _FLOAT), k=scale, z=zero
        ),
        _several(
            "DequantizeLinear",
            "alone",
            ("Mul", "c n", "m"),
            ("Cast", "m", "q", _INTEGER),
            ("DequantizeLinear", "q k", "y"),
            k=scale,
            n=_number(90),
        ),
        _several(
            "DynamicQuantizeLinear",
            "and MatMulInteger",
            ("DynamicQuantizeLinear", "c", "q k z"),
            ("MatMulInteger", "q w z", "p"),
            ("Cast", "p", "f", _FLOAT),
            ("Mul", "f k", "y"),
            w=weights,
        ),
        _several("BiasGelu", "", ("BiasGelu", "c b", "y", _OWN), b=_numbers(8)),
        _several("FastGelu", "", ("FastGelu", "c b", "y", _OWN), b=_numbers(8)),
        _several(
            "SkipLayerNormalization",
            "",
            *rows,
            ("SkipLayerNormalization", "f t l m b", "y", _OWN),
            to=_ROWS,
            l=_numbers(8),
            m=_numbers(8),
            b=_numbers(8),
        ),
        _several(
            "EmbedLayerNormalization",
            "",
            *places,
            ("EmbedLayerNormalization", "i  w p  l m", "y n", _OWN),
            two=_integers(8, 8),
            **embedded,
        ),
        _several(
            "Attention",
            "2 heads",
            *rows[:1],
            ("Attention", "f w b", "y", {"num_heads": 2, **_OWN}),
            to=_ROWS,
            w=_numbers(8, 24),
            b=_numbers(24),
        ),
    ]


RARE = [
    one if one.opset == 9 else replace(one, opset=OPSET)
    for one in (*_elements(), *_moves(), *_sequences(), *_integers_and_own())
]
