"""Weights for a network without a checkpoint: drawn from a seed, with statistics calibrated layer by layer.

PyTorch's own initial weights make a bad reference: activations die out within a few layers and the logits are the last
bias, whatever the image, so that any broken compiler agrees with them. Here every layer's batch-norm statistics are
those of its own input on a few images, so that each keeps unit variance, and the layers without batch norm (classifier,
squeeze-and-excite) are centred and scaled so that their outputs depend on the image.

The same seed gives the same bits anywhere: draws come from PCG64, calibration runs in float64, and its results are
rounded far more coarsely than the effects of a sum's order or a machine's instruction set.
"""

from __future__ import annotations

import functools
import math
import zlib

import numpy as np
import torch
from torch import nn

from tvm_mobilenet.models.preprocess import Preprocess

IMAGES = 10
LEAVES = 150  # discs and boxes of each calibration image
RESOLUTION = 224  # calibration images are at most this large
BRANCH_GAMMA = 0.5  # gamma of a batch norm whose output is added to its block's input: the sum stays near unit variance
RIDGE = 0.1  # share of a layer's squared mean that counts as spread
LOGIT_STD = 2.0  # standard deviation of logits over images and classes
GATE_STD, GATE_MEAN = 0.3, 0.5  # inputs of a hard-sigmoid gate, which is linear within -3..3


def seed_weights(module: nn.Module, preprocess: Preprocess, seed: int = 0) -> None:
    """Set all weights and statistics of a network in place.

    Parameters
    ----------
    module : torch.nn.Module
        Any of the registry's networks.
    preprocess : Preprocess
        The input's size and scale, for the calibration images.
    seed : int
        Another seed gives other weights.
    """
    draw_weights(module, seed)
    size = min(preprocess.size[0], RESOLUTION)
    count = min(64, max(IMAGES, IMAGES * 160**2 // size**2))  # small images give each statistic few samples
    images = (natural_images(count, size, seed) - preprocess.mean) / preprocess.std
    calibrate(module, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), seed)


def draw_weights(module: nn.Module, seed: int) -> None:
    """Draw every weight with variance 2 / fan-in, batch norm's gamma in 0.7..1.3 and beta around 0.2."""
    branches = {
        id(bn)
        for block in module.modules()
        if getattr(block, "residual", False)
        for bn in [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1:]
    }
    for name, layer in module.named_modules():
        draw = _generator(seed, name)
        if isinstance(layer, nn.BatchNorm2d):
            scale = BRANCH_GAMMA if id(layer) in branches else 1.0
            _set(layer.weight, draw.uniform(0.7, 1.3, layer.num_features) * scale)
            _set(layer.bias, (0.2 + 0.3 * draw.standard_normal(layer.num_features)) * scale)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            shape = tuple(layer.weight.shape)
            _set(layer.weight, draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:])))


@torch.no_grad()
def calibrate(module: nn.Module, images: torch.Tensor, seed: int) -> None:
    """Set batch-norm statistics, and centre and scale the layers without batch norm, in one pass over ``images``.

    Parameters
    ----------
    images : (N, 3, H, W) float64
    """
    state = {id(layer): name for name, layer in module.named_modules()}
    gates = {id(block.fc2) for block in module.modules() if hasattr(block, "fc2")}
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]

    def on_norm(layer: nn.BatchNorm2d, inputs) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        _set(layer.running_var, _coarse(variance.clamp_min(1e-6)))
        _set(layer.running_mean, _coarse(mean, variance.clamp_min(1e-6).sqrt()))

    def on_affine(layer: nn.Module, inputs) -> None:
        if layer.bias is None:
            return
        units = layer.weight.shape[0]
        x = inputs[0].flatten(1)  # (N, C): behind a pool
        out = x @ layer.weight.flatten(1).T
        centre = out.mean(0)
        std, mean = (GATE_STD, GATE_MEAN) if id(layer) in gates else (1.0, 0.2)
        if linear and layer is linear[-1]:
            std, mean = LOGIT_STD, 0.0
        # The variation over a few images is smaller than over many; the ridge bounds the gain.
        spread = ((out - centre).square().mean() + RIDGE * centre.square().mean()).sqrt().clamp_min(1e-6)
        gain = float(_coarse(std / spread))
        _set(layer.weight, (layer.weight * gain).numpy())
        beta = mean + 0.3 * _generator(seed, state[id(layer)] + ".bias").standard_normal(units)
        _set(layer.bias, np.round((beta - gain * centre.numpy()) * 4096) / 4096)

    hooks = []
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            hooks.append(layer.register_forward_pre_hook(on_norm))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            hooks.append(layer.register_forward_pre_hook(on_affine))
    training = module.training
    threads = torch.get_num_threads()
    try:
        # OpenMP's threads spin at every operator's end: with another process on the second core, two threads took
        # twelve times as long as one.
        torch.set_num_threads(1)
        module.eval().double()
        module(images)
    finally:
        for hook in hooks:
            hook.remove()
        module.float().train(training)
        torch.set_num_threads(threads)


@torch.no_grad()
def settle_norms(module: nn.Module, preprocess: Preprocess, seed: int = 0) -> None:
    """Set the batch-norm statistics of any network to those of its own inputs, one layer after the other.

    Weights do not change. With these statistics the weights of an untrained PyTorch network keep unit variance.
    """

    def on_norm(layer: nn.BatchNorm2d, inputs) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        layer.running_var.copy_(variance.clamp_min(1e-6))
        layer.running_mean.copy_(mean)

    height, width = preprocess.size
    images = natural_images(IMAGES, max(height, width), seed)[:, :height, :width]
    hooks = [m.register_forward_pre_hook(on_norm) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    images = images if preprocess.channels == 3 else images.mean(-1, keepdims=True)
    try:
        module.eval()(torch.from_numpy(preprocess.normalise(images)))
    finally:
        for hook in hooks:
            hook.remove()


@functools.lru_cache(maxsize=4)
def natural_images(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Images with the statistics that convolutions see in photographs, without shipping any; pixels in 0..1.

    Dead leaves: discs and boxes that hide one another, many small and few large, each with a colour and a gradient of
    its own. That gives the properties of photographs: power that falls with frequency, edges, flat regions. Some fine
    texture is added; images differ in exposure, contrast and tint.

    Returns
    -------
    numpy.ndarray
        (n, size, size, 3) float64, not to be written to.
    """
    draw = _generator(seed, "images")
    images = np.empty((n, size, size, 3))
    for image in images:
        warm = np.array([1.0, -0.1, -0.9])  # photographs vary from red to blue more than in green
        tint, saturation = 0.4 * draw.standard_normal() * warm + 0.15 * draw.standard_normal(3), draw.random()
        image[:] = sum(0.5**o * _smooth(draw, 2 * 2**o, size) for o in range(3))[..., None]
        for _ in range(LEAVES):
            radius = size * 0.6 / (1 + 25 * draw.random())  # density of radii falls as radius^-2
            y, x = draw.random(2) * size
            top, left = max(0, int(y - radius)), max(0, int(x - radius))
            part = image[top : int(y + radius) + 2, left : int(x + radius) + 2]
            dy = np.arange(top, top + part.shape[0])[:, None] - y
            dx = np.arange(left, left + part.shape[1])[None, :] - x
            inside = dy * dy + dx * dx < radius * radius if draw.random() < 0.7 else (dy < radius) & (dx < radius)
            tilt = 0.4 * draw.standard_normal(2) / radius
            light, warmth, hue = draw.standard_normal(), draw.standard_normal(), draw.standard_normal(3)
            colour = light + saturation * (warmth * warm + 0.3 * hue)
            part[inside] = ((tilt[0] * dy + tilt[1] * dx)[..., None] + colour)[inside]
        texture = 0.1 * draw.random()
        image += texture * (draw.standard_normal((size, size)) + _smooth(draw, size // 2, size))[..., None]
        contrast, exposure = 0.2 + 0.15 * draw.random(), 0.35 + 0.3 * draw.random()
        image[:] = exposure + contrast * ((image - image.mean()) / image.std() + 0.4 * tint)
    images = images.clip(0, 1)
    images.flags.writeable = False  # the next caller gets the same ones
    return images


def _smooth(draw: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """A (size, size) bilinear blow-up of a grid of normal draws."""
    grid = draw.standard_normal((cells + 1, cells + 1))
    at = np.linspace(0, cells, size, endpoint=False)
    low, part = at.astype(int), at % 1
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _generator(seed: int, name: str) -> np.random.Generator:
    """A generator for one tensor, so that its draws do not depend on other parts of the network."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def _coarse(value: torch.Tensor, unit: torch.Tensor | None = None) -> torch.Tensor:
    """Rounded to 1/4096 of ``unit``, or of its own power of two, which is far above the rounding errors of a float64
    sum."""
    if unit is None:
        unit = value
    # frexp and ldexp are exact; log2 and exp2 have another last digit on another CPU.
    step = torch.ldexp(torch.ones_like(unit), torch.frexp(unit).exponent - 1) / 4096
    return torch.round(value / step) * step


def _set(parameter: torch.Tensor, value) -> None:
    """Store a float64 value, rounded to float32 whatever the parameter's dtype is at the moment."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.asarray(value)).to(torch.float32))
