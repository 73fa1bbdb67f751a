"""Ghost modules: a depthwise convolution whose output has the data's channels first, then the filtered ones.

After Han et al., "GhostNet: more features from cheap operations", 2020. In a fused block it stands for a depthwise
layer and the concatenation of its data with its output (`compiler.ghosts`). Activation and residual apply to all
channels.
"""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, of, register
from tvm_mobilenet.kinds.windows import convolved, convolved_in_steps, filters


def _reference(layer, x, weight, bias, second):
    import torch

    return torch.cat((x, convolved(layer, x, weight, bias, second)), 1)


def _stepped(layer, x, weight, bias, second, steps):
    import numpy as np

    return np.concatenate((x, convolved_in_steps(layer, x, weight, bias, second, steps)), -1)


register(
    Kind(
        name="ghost",
        short="gh",
        schedule="ghost",
        groups="channels",
        keeps_channels=False,
        keeps_data=True,
        windowed=True,
        pitched=True,
        streams="anywhere",
        weight_shape=filters,
        formula=lambda layer, cost: of("depthwise").formula(layer, cost),
        reference=_reference,
        stepped=_stepped,
    )
)
