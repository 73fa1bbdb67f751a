"""The cost of a network by the papers' formulas: mult-adds and parameters of each convolution.

With D_K the kernel's size, M and N the input and output channels and D_F the size of the *output* map (section 3.1 of
arXiv 1704.04861), a layer costs

    standard     D_K^2 * M * N * D_F^2
    depthwise    D_K^2 * M     * D_F^2
    pointwise            M * N * D_F^2

and a depthwise separable block, with the width multiplier alpha and the resolution multiplier rho,

    D_K^2 * alpha M * (rho D_F)^2 + alpha M * alpha N * (rho D_F)^2

which is 1/N + 1/D_K^2 of the standard convolution. Parameters are counted as the papers do: the weights of convolutions
and of the classifier, neither biases nor batch norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def standard(kernel: float, inputs: float, outputs: float, size: float) -> float:
    """Mult-adds of a standard convolution, D_K^2 * M * N * D_F^2."""
    return kernel**2 * inputs * outputs * size**2


def depthwise(kernel: float, inputs: float, size: float) -> float:
    """Mult-adds of a depthwise convolution, D_K^2 * M * D_F^2."""
    return kernel**2 * inputs * size**2


def pointwise(inputs: float, outputs: float, size: float) -> float:
    """Mult-adds of a 1x1 convolution, M * N * D_F^2."""
    return inputs * outputs * size**2


def separable(kernel: float, inputs: float, outputs: float, size: float, alpha: float = 1.0, rho: float = 1.0) -> float:
    """Mult-adds of a depthwise separable block under the two multipliers (equation 7)."""
    return depthwise(kernel, alpha * inputs, rho * size) + pointwise(alpha * inputs, alpha * outputs, rho * size)


def separable_ratio(kernel: float, outputs: float) -> float:
    """The cost of a separable block over the standard convolution's, 1/N + 1/D_K^2 (section 3.1)."""
    return 1 / outputs + 1 / kernel**2


@dataclass(frozen=True)
class LayerCost:
    """One convolution or matrix product of a PyTorch network.

    Parameters
    ----------
    name : str
        Its module path.
    kind : str
        ``conv``, ``depthwise``, ``pointwise`` or ``dense`` (the classifier, and squeeze-and-excite's two products).
    kernel : (int, int)
        D_K, height first.
    stride : int
    inputs, outputs : int
        M and N.
    size : (int, int)
        D_F: the output's height and width.
    groups : int
    """

    name: str
    kind: str
    kernel: tuple[int, int]
    stride: int
    inputs: int
    outputs: int
    size: tuple[int, int]
    groups: int = 1

    @property
    def parameters(self) -> int:
        """Weights, without a bias."""
        return math.prod(self.kernel) * (self.inputs // self.groups) * self.outputs

    @property
    def mult_adds(self) -> int:
        return self.parameters * math.prod(self.size)


def layer_costs(module: torch.nn.Module, input_shape: tuple[int, ...]) -> list[LayerCost]:
    """The costs of a network's layers, in the order they run.

    The network is run on PyTorch's meta device: shapes only, no arithmetic. It must be on that device already (built
    under ``with torch.device("meta")``), or on one where a run is affordable.

    Parameters
    ----------
    input_shape : tuple of int
        (N, C, H, W).
    """
    import torch

    found: list[LayerCost] = []

    def record(name: str):
        def hook(layer, inputs, output):
            if isinstance(layer, torch.nn.Linear):
                found.append(LayerCost(name, "dense", (1, 1), 1, layer.in_features, layer.out_features, (1, 1)))
                return
            kind = "conv"
            if name.rpartition(".")[2] in ("fc1", "fc2"):
                kind = "dense"
            elif layer.groups == layer.in_channels == layer.out_channels > 1:
                kind = "depthwise"
            elif layer.kernel_size == (1, 1) and layer.groups == 1 and layer.stride == (1, 1):
                kind = "pointwise"
            size, shape = tuple(output.shape[2:]), (layer.kernel_size, layer.stride[0])
            found.append(LayerCost(name, kind, *shape, layer.in_channels, layer.out_channels, size, layer.groups))

        return hook

    hooks = [
        layer.register_forward_hook(record(name))
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(input_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def model_costs(name: str, alpha: float = 1.0, resolution: int = 224, num_classes: int = 1000) -> list[LayerCost]:
    """The costs of a registry model's layers; takes milliseconds, no weights are made."""
    import torch

    from tvm_mobilenet.models import registry

    registry.check_shape(alpha, resolution, num_classes)
    with torch.device("meta"):
        module = registry.architecture(name, alpha, num_classes)
    return layer_costs(module, (1, 3, resolution, resolution))
