"""The vector instructions that int8 layers need besides multiply-adds, and the time that they take together.

int8 values are defined exactly (`checking.integers`), so any kernel has to convert its sums to them, and values of
other scales or dtypes. `PASSES` has the fewest instructions that do this for sixteen values with NEON, by the classes
of a core's ``[model.classes]``, which give their units and rates. They count what the definition asks of every value.
Clamps of an activation are left out, since the bounds of int8 can be those; so are the joins of values that a layer
computes in several vectors, the rearrangement of a depthwise filter's data, and the sums of pools and resizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from math import prod

from tvm_mobilenet.kinds.activation import PER_CHANNEL
from tvm_mobilenet.layer import Layer

VALUES = 16  # that the passes below convert
NARROW = {"shuffle_q": 2, "vint_q": 2, "vqnarrow": 2}  # low halves of sums with 1.5 * 2**23, zero point, saturation
FLOAT = {"vint_q": 5, "fadd_q": 4}  # int8 to float32: the bytes placed in floats around 1.5 * 2**23, less their zero
PASSES = {
    "float": {"fadd_q": 4},  # of sums that begin with the bits of 1.5 * 2**23, and stay small
    "wide": {"fcvt_q": 4},  # of other sums
    "scaled": {"fma_q": 4},
    "narrow": NARROW,
    "below": {"fcmp": 4, "vint_q": 4},  # the other factor for negative sums
    "multiplied": {"fmul_q": 4},
    # The left operand is a float before it is narrowed; then the product of the right one, their sum, its rounding.
    "residual": Counter(FLOAT) + Counter({"fadd_q": 8, "fmul_q": 4, "fma_q": 4}),
    "added": Counter(FLOAT) + Counter(FLOAT) + Counter({"fmul_q": 4, "fma_q": 4, "fadd_q": 4}) + Counter(NARROW),
    "widened": {"vint_q": 5},  # bytes placed in the sums' form
    "products": {"vint_q": 4, "vmull": 4},  # of two int8, less their zero points
    # Three quarters of a table of 256 with their indices: kernels may skip a quarter that is constant.
    "table": {"table_4": 3, "vint_q": 5},
    # Bounds, a product with the reciprocal, a correction by the remainder, rounding, the low bytes, the zero point.
    "divided": {"fminmax_q": 8, "fmul_q": 4, "fma_q": 8, "fadd_q": 4, "shuffle_q": 3, "vint_q": 1},
    "real": Counter(FLOAT) + Counter({"fmul_q": 4}),  # float32 of int8
}


def passes(layer: Layer) -> Iterator[tuple[str, int]]:
    """The passes that a layer's definition asks for, each with the number of its values."""
    for part in layer.parts or (layer,):
        if part.dtype == "int8" and part.kind != "generic":
            for name in _passes(part):
                yield name, prod(part.output_shape)


def _passes(layer: Layer) -> list[str]:
    table = ["table"] if "table" in layer.constants and layer.op != "pixels" else []
    number = "float" if layer.small else "wide"
    sums = [number, "scaled", *(["below"] if "below" in layer.constants else [])]
    requantized = [*sums, "narrow"]
    if layer.weight_shape is not None:
        if layer.output_dtype == "float32":
            return [number, "multiplied"]
        return [*requantized, *table, *(["residual"] if layer.residual != "none" else [])]
    if layer.kind == "pool":
        return [] if layer.op in layer.declared.selects else requantized
    if layer.kind != "elementwise" or "uint8" in (layer.input_dtype, layer.output_dtype):
        return []
    if layer.input_dtype == "float32":
        return ["divided"]
    if layer.op == "rescale" or layer.activation == PER_CHANNEL:
        return ["widened", *requantized]
    if layer.op == "none":
        return ["real"] if layer.output_dtype == "float32" else table
    return ["added"] if layer.op in ("add", "sub") else ["products", *requantized]


def instructions(layer: Layer) -> Counter:
    """The instructions of a layer's passes, by class."""
    found: Counter = Counter()
    for name, count in passes(layer):
        for kind, each in PASSES[name].items():
            found[kind] += each * count / VALUES
    return found


def cycles(layer: Layer, core) -> float:
    """The least cycles of a layer's multiply-adds and conversions on one core: those of the busiest units, or of
    dispatch.

    An instruction that several units can execute takes the one that is free. So for every set of units, the work that
    only these can do takes at least its length divided by their number. Multiply-adds at the core's rate keep their
    units busy all the time.
    """
    products = layer.mult_adds / core.macs_per_cycle(layer.dtype)
    counts = instructions(layer)
    if not counts or not core.model or core.architecture != "aarch64":
        return products
    classes = core.model["classes"]
    multiply = classes["dot_q" if core.dot_products else "vmlal"]
    own = frozenset(unit for uop in multiply["uops"] for unit in uop.split("|"))
    work: Counter = Counter({own: products * len(own)})
    slots = layer.mult_adds / (VALUES if core.dot_products else VALUES // 2) * multiply.get("slots", 1)
    for kind, count in counts.items():
        row = classes[kind]
        slots += count * row.get("slots", 1)
        for uop in row["uops"]:
            work[frozenset(uop.split("|"))] += count * row.get("busy", 1)
    units = sorted(frozenset().union(*work))
    sets = [frozenset(some) for n in range(1, len(units) + 1) for some in combinations(units, n)]
    busy = max(sum(length for may, length in work.items() if may <= some) / len(some) for some in sets)
    return max(busy, slots / core.model.get("dispatch", core.model["decode"]))
