"""TFLite's operators that choose boxes: NON_MAX_SUPPRESSION and the last operator of TensorFlow's detectors.

Definitions: TFLite's ``non_max_suppression.h`` and ``detection_postprocess.cc``.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import flexbuffer, nests
from tvm_mobilenet.frontend.boxes import Overlap, chosen
from tvm_mobilenet.frontend.flatbuffer import Damaged
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op
_OPTIONS = ("num_classes", "max_detections", "nms_iou_threshold", "nms_score_threshold")
_SCALES = ("y_scale", "x_scale", "h_scale", "w_scale")
_OF_CLASS = 100  # boxes of a class, if the options do not say


def suppressed(call: Call) -> list[Value]:
    """NON_MAX_SUPPRESSION_V4 and V5. Operands: boxes, scores, count, largest overlap, least score, and V5's sigma."""
    (count,) = call.numbers(2)
    most, least, *sigma = (float(call.array(i).reshape(())) for i in range(3, len(call.values)))
    limits.check_tensor(count, 8, call.where)
    scores = call.emit(op.reshape(call.own(1), (1, *call.shape(1))))
    overlap = Overlap(most, excludes_most=True, sigma=sigma[0] if sigma else 0.0)
    places, values, found = chosen(call.bb, scores, call.own(0), count, least, overlap)
    places = Value(own=call.emit(op.astype(call.emit(op.reshape(places, (count,))), "int32")))
    number = Value(own=call.emit(op.reshape(found, ())))
    if len(call.values) == 5:
        return [places, number]
    return [places, Value(own=call.emit(op.reshape(values, (count,)))), number]


def detections(call: Call) -> list[Value]:
    """The last operator of a detector. Operands: places and sizes of boxes beside anchors, scores, anchors.

    It returns boxes, classes, scores and the number of these.
    """
    try:
        given = flexbuffer.numbers(call.options["custom"])
    except Damaged as e:
        raise ValueError(str(e)) from None
    if missing := [name for name in (*_OPTIONS, *_SCALES) if name not in given]:
        raise ValueError(f"its options lack {', '.join(missing)}")
    batch, size, columns = call.shape(1)
    classes, count = int(given["num_classes"]), int(given["max_detections"])
    if batch != 1 or columns - classes not in (0, 1) or classes < 1 or count < 1:
        raise ValueError(f"scores of the shape {list(call.shape(1))} for {classes} classes, {count} boxes")
    each = int(given.get("max_classes_per_detection", 1))
    regular = bool(given.get("use_regular_nms", False))
    if each != 1 and not regular:
        raise ValueError(f"{each} classes of each box")
    limits.check_tensor(max(count, size) * classes, 4, call.where)
    boxes = _decoded(call, [float(given[name]) for name in _SCALES])
    scores = call.emit(op.reshape(call.own(1), (size, columns)))
    scores = call.emit(op.strided_slice(scores, [1], [columns - classes], [columns]))
    # a score that is equal to the least one counts
    least = float(np.nextafter(np.float32(given["nms_score_threshold"]), np.float32(-np.inf)))
    overlap = Overlap(float(given["nms_iou_threshold"]))
    kept = min(count, size)
    if regular:
        of_class = min(int(given.get("detections_per_class", _OF_CLASS)), size)
        by_class = call.emit(op.permute_dims(scores, (1, 0)))
        places, values, found = chosen(call.bb, by_class, boxes, of_class, least, overlap)
        where, values, found = _best_of_classes(call, values, found, classes * of_class, min(count, classes * of_class))
        kept = min(count, classes * of_class)
        named = call.emit(op.floor_divide(where, relax.const(of_class, "int64")))
        flat = call.emit(op.reshape(places, (classes * of_class,)))
        places = nests.indexed(call.bb, flat, [where])
    else:
        best = call.emit(op.max(scores, [1]))
        one = call.emit(op.reshape(best, (1, size)))
        places, values, found = chosen(call.bb, one, boxes, kept, least, overlap)
        places, values = (call.emit(op.reshape(x, (kept,))) for x in (places, values))
        named = nests.indexed(call.bb, call.emit(op.argmax(scores, 1)), [places])
    rows = relax.const(np.arange(kept), "int64")
    is_one = call.emit(op.less(rows, call.emit(op.astype(call.emit(op.reshape(found, (1,))), "int64"))))
    named = call.emit(op.where(is_one, call.emit(op.astype(named, "float32")), relax.const(0.0, "float32")))
    square = call.emit(op.reshape(is_one, (kept, 1)))
    corners = call.emit(op.where(square, nests.indexed(call.bb, boxes, [places]), relax.const(0.0, "float32")))
    made = [_filled(call, x, kept, count) for x in (corners, named, values)]
    return [*made, Value(own=call.emit(op.astype(call.emit(op.reshape(found, (1,))), "float32")))]


def _best_of_classes(call: Call, values: relax.Expr, found: relax.Expr, size: int, count: int):
    """The best of what was chosen of all classes: its place among all, its score, and the number of them."""
    classes, of_class = (int(d) for d in values.ty.shape)
    rows = relax.const(np.arange(of_class).reshape(1, -1), "int32")
    is_one = call.emit(op.less(rows, call.emit(op.reshape(found, (classes, 1)))))
    lowest = relax.const(float(np.finfo(np.float32).min), "float32")
    values = call.emit(op.reshape(call.emit(op.where(is_one, values, lowest)), (1, size)))
    where, values, found = chosen(call.bb, values, None, count, float(np.finfo(np.float32).min))
    return call.emit(op.reshape(where, (count,))), call.emit(op.reshape(values, (count,))), found


def _decoded(call: Call, scales: list[float]) -> relax.Var:
    """The corners (n, 4) of boxes: top, left, bottom, right."""
    size = call.shape(0)[1]
    if call.shape(0)[-1] < 4 or call.shape(2) != (size, 4) or min(scales) <= 0:
        raise ValueError(f"boxes of the shape {list(call.shape(0))} beside anchors of {list(call.shape(2))}")
    given = call.emit(op.reshape(call.own(0), (size, call.shape(0)[-1])))
    given = call.emit(
        op.divide(
            call.emit(op.strided_slice(given, [1], [0], [4])), relax.const(np.array(scales, np.float32).reshape(1, 4))
        )
    )
    anchors = call.own(2)

    def half(x: relax.Expr, start: int) -> relax.Var:
        return call.emit(op.strided_slice(x, [1], [start], [start + 2]))

    extent = half(anchors, 2)
    centre = call.emit(op.add(call.emit(op.multiply(half(given, 0), extent)), half(anchors, 0)))
    reach = call.emit(op.multiply(call.emit(op.exp(half(given, 2))), extent))
    reach = call.emit(op.multiply(reach, relax.const(0.5, "float32")))
    ends = [call.emit(op.subtract(centre, reach)), call.emit(op.add(centre, reach))]
    return call.emit(op.concat(ends, 1))


def _filled(call: Call, x: relax.Expr, kept: int, count: int) -> Value:
    """Rows behind those of all boxes that there are, as one image of a batch."""
    rest = [int(d) for d in x.ty.shape][1:]
    if kept < count:
        x = call.emit(op.concat([x, relax.const(np.zeros((count - kept, *rest), np.float32))], 0))
    return Value(own=call.emit(op.reshape(x, (1, count, *rest))))


CONVERTERS = {
    "NON_MAX_SUPPRESSION_V4": suppressed,
    "NON_MAX_SUPPRESSION_V5": suppressed,
    "CUSTOM_TFLite_Detection_PostProcess": detections,
}
