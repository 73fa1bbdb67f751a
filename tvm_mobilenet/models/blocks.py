"""Parts that the networks share: channel rounding, convolution + batch norm + activation, and headless feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tvm_mobilenet.errors import TvmMobilenetError

Features = bool | Sequence[int] | None


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, never more than 10 % below it (v2 to v4)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def conv_bn(inp, out, kernel=3, stride=1, groups=1, activation: type[nn.Module] | None = None, **norm) -> nn.Sequential:
    """Convolution (0), batch norm (1) and, if given, activation (2); padded so that the output is input / stride.

    ``norm`` are the batch norm's ``eps`` and ``momentum``.
    """
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(out, **norm)]
    return nn.Sequential(*layers, activation()) if activation else nn.Sequential(*layers)


class MobileNet(nn.Module):
    """A sequence of layers, a global pool and ``self.head``; a headless network returns feature maps of some layers
    instead.

    A subclass makes its layers and the modules after the pool, and then calls ``set_features``.
    """

    tail: tuple[str, ...] = ("classifier",)  # the modules after the pool
    dropped: tuple[str, ...] = ()  # state-dict prefixes of a checkpoint that the headless network lacks
    taps: tuple[int, ...] = ()  # the layers that give the feature maps; empty: the whole network

    def layers(self) -> list[tuple[str, nn.Module]]:
        """The layers from stem to head convolution, with their names in the state dict."""
        raise NotImplementedError

    def staged_blocks(self) -> list[tuple[str, nn.Module]]:
        """The blocks of ``self.blocks``, a stage a sequence, as timm's networks have them."""
        return [
            (f"blocks.{s}.{b}", block)
            for s, stage in self.blocks.named_children()
            for b, block in stage.named_children()
        ]

    def head(self, x: torch.Tensor) -> torch.Tensor:  # (N, C, 1, 1) -> (N, classes)
        """The computation on the pooled map."""
        return self.classifier(torch.flatten(x, 1))

    def set_features(self, features: Features, strides: Sequence[int], head: int = 0) -> None:
        """Make the network headless if ``features`` asks for it.

        Parameters
        ----------
        features : None, bool or sequence of int
            ``True``: the one map that the global pool would read. Strides such as ``(8, 16, 32)``: the output of the
            last block at each. Layers that no map needs are removed.
        strides : sequence of int
            The stride of each layer's own convolution.
        head : int
            The number of layers at the end that form a head convolution, not a block.

        Raises
        ------
        TvmMobilenetError
            The network has no map of a requested stride.
        """
        if features is None or features is False:
            return
        total, last = 1, {}
        for i, stride in enumerate(strides[: len(strides) - head]):
            total *= stride
            last[total] = i
        wanted = [] if features is True else list(features)
        if features is True:
            self.taps = (len(strides) - 1,)
        elif not wanted or any(s not in last for s in wanted) or len(set(wanted)) != len(wanted):
            raise TvmMobilenetError(
                f"features {wanted!r}: the network has feature maps of stride {', '.join(map(str, last))}, each once",
                "for example: --features 8,16,32",
            )
        else:
            self.taps = tuple(last[s] for s in wanted)
        removed = [name for name, _ in self.layers()[max(self.taps) + 1 :]] + list(self.tail)
        for name in removed:
            parent, _, leaf = name.rpartition(".")
            del self.get_submodule(parent)._modules[leaf]
        self.dropped = tuple(name + "." for name in removed)

    def forward(self, x: torch.Tensor):  # (N, 3, H, W) -> (N, classes), or feature maps
        maps = {}
        for i, (_, layer) in enumerate(self.layers()):
            x = layer(x)
            if i in self.taps:
                maps[i] = x
        if self.taps:
            return x if len(self.taps) == 1 else tuple(maps[i] for i in self.taps)
        return self.head(F.adaptive_avg_pool2d(x, 1))
