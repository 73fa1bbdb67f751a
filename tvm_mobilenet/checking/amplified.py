"""Networks that amplify the rounding of float32 beyond the usual tolerance of outputs.

Large biases that cancel do, and images of a range that normalisation in the graph makes nearly constant. The framework
is then about as far from float64 as the machine code. A wrong import or a wrong kernel moves only one of the two, so
neither may be more than ``ALIKE`` times as far as the other, in the root mean square of the inputs with a difference of
some size. The distances of one input are chance: if noise alone shows a difference, more of it is drawn. The tolerance
becomes twice the largest distance, but at most ``DETERMINED``. Distances that the rounding of the outputs themselves
makes show nothing, such as those of probabilities that a softmax saturates.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvm_mobilenet.checking import tolerance
from tvm_mobilenet.checking.network_ends import OutputCheck
from tvm_mobilenet.checking.reference import network_outputs

ALIKE = 4  # the largest ratio between the distances to float64 of two right computations in float32
DETERMINED = 1e-2  # of the last sum's scale: an output that rounding moves further shows nothing


def with_rounding(outputs: list[OutputCheck], network, batch: list, found: list, expected: list) -> list[OutputCheck]:
    """The checks of float32 outputs, with larger tolerances where the network amplifies rounding.

    Parameters
    ----------
    outputs : list of OutputCheck
    network : Network
    batch : list of tuples of ndarray
        The inputs.
    found, expected : list of lists of ndarray
        The outputs of the machine code and of the framework, for each of these inputs.
    """
    exact = network_outputs(network, batch)
    ports = network.signature.outputs
    return [
        output
        if output.ok
        else explained(
            output,
            [ports[j].real(v[j]) for v in found],
            [v[j] for v in expected[: len(batch)]],
            [ports[j].real(v[j]) for v in exact],
        )
        for j, output in enumerate(outputs)
    ]


def explained(
    output: OutputCheck, found: list[np.ndarray], expected: list[np.ndarray], exact: list[np.ndarray]
) -> OutputCheck:
    """The check of an output, with the tolerance that its distances to float64 explain, if they explain one. Its
    largest difference is one of these inputs'.
    """
    f, e, x = (np.stack(values).astype(np.float64).reshape(len(values), -1) for values in (found, expected, exact))
    ours, theirs, apart = (np.abs(one - other).max(1) for one, other in ((f, x), (e, x), (f, e)))
    if not output.max_difference or not np.isfinite(apart).all():
        return output
    scale = output.relative / output.max_difference
    telling = apart >= apart.max() / ALIKE**2
    stored = 4 * ALIKE * tolerance.ROUNDING * np.abs(x).max(1)
    less, more = sorted(_root_mean_square(far[telling]) for far in (ours, theirs))
    if less <= _root_mean_square(stored[telling]) or not more <= ALIKE * less:
        return output
    limit = max(output.tolerance, min(2 * scale * float(np.maximum(ours, theirs).max()), DETERMINED))
    return replace(output, tolerance=limit, amplified=scale * float(theirs.max()))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
