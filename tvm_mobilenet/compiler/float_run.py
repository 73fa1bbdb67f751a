"""A network's layers in float32 on several inputs, run one after the other and observed by calibration.

The module also runs the same layers with rounded weights and values, which gives the int8 results but for the last
digits.

Sums are computed in float64 and rounded to float32 once. Libraries add in another order on each CPU. In float64 this
order changes only digits that the rounding drops, so all CPUs find the same values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np

from tvm_mobilenet import kinds
from tvm_mobilenet.compiler.calibration import activated, array_of, by_its_nest, tensors_of
from tvm_mobilenet.kinds.activation import of_sums
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.passes.whole_weights import HIGH, LOW

AT_ONCE = 8  # inputs whose values are all held at once


def walk(graph: LayerGraph, inputs: Sequence[tuple[np.ndarray, ...]], visit: Callable, run: Callable | None = None):
    """Run the graph, some inputs at a time.

    Parameters
    ----------
    visit : callable
        Called with each call and three lists over the inputs: the operands, the values before a table or an addition,
        and the outputs.
    run : callable
        A replacement for `outputs`.
    """
    with one_thread():
        _walk(graph, inputs, visit, run or outputs)


@contextlib.contextmanager
def one_thread():
    """PyTorch in one thread: a layer takes less time than the synchronisation of threads, above all on a busy
    machine.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _walk(graph: LayerGraph, inputs: Sequence[tuple[np.ndarray, ...]], visit: Callable, run: Callable) -> None:
    for first in range(0, len(inputs), AT_ONCE):
        some = inputs[first : first + AT_ONCE]
        ports = graph.signature.inputs
        held = {port.value: [np.asarray(one[i]) for one in some] for i, port in enumerate(ports)}
        for call, spent in graph.in_order():
            operands = [list(one) for one in zip(*(held[value] for value in call.inputs), strict=True)]
            made = [run(call, one) for one in operands]
            visit(call, operands, [own for own, _ in made], [output for _, output in made])
            held[call.output] = [output for _, output in made]
            for value in spent:
                del held[value]


def outputs(
    call: LayerCall, operands: list[np.ndarray], weight: np.ndarray | None = None, inner: Scale | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's results in float32: the value before table or residual, and the output.

    Parameters
    ----------
    weight : ndarray, optional
        A replacement for its own weight.
    inner : Scale, optional
        The scale to which the first of the two is rounded before the second is computed.
    """
    import torch

    layer = call.layer
    if layer.body is not None:
        output = by_its_nest(call, operands)
        return output, output
    x, own_weight, bias, other, residual = tensors_of(call, operands)
    with torch.no_grad():
        kernel = own_weight if weight is None else torch.from_numpy(weight.astype(np.float32))
        own = y = rounded(_sums(layer, x, kernel, bias, other), inner, layer.residual != "after")
        if layer.residual == "before":
            y = y + residual
        y = activated(call, y.double()).float()
        if layer.residual == "after":
            own = y = rounded(y, inner, True)
            y = y + residual
    return array_of(layer, own), array_of(layer, y)


def rounded(values, scale: Scale | None, when: bool = True):
    """A tensor or array rounded to the int8 grid of a scale; unchanged without a scale."""
    if scale is None or not when:
        return values
    whole = (values * np.float32(1 / scale.step)).round() + scale.zero
    return (whole.clip(LOW, HIGH) - scale.zero) * np.float32(scale.step)


def products(call: LayerCall, operands: list[np.ndarray], weight: np.ndarray, given: Scale | None, factors=None):
    """A layer's sums without bias, from rounded weights and data and with factors of channels, as a tensor."""
    import torch

    x = tensors_of(call, operands)[0]
    if factors is not None:
        x = x * torch.from_numpy(factors.astype(np.float32)).reshape(1, -1, 1, 1)
    kernel = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
    with torch.no_grad():
        return _sums(call.layer, rounded(x, given), kernel, None, None)


def _sums(layer, *operands):
    """The sums of a layer, computed in float64 from float32 tensors, as one tensor."""
    return kinds.of(layer.kind).reference(layer, *(x if x is None else x.double() for x in operands)).float()


def has_inner(call: LayerCall) -> bool:
    """Whether a layer's sums become int8 before a table or an addition makes its output."""
    layer = call.layer
    return bool(layer.weight_shape) and (layer.residual != "none" or not of_sums(layer.activation))
