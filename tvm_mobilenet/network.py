"""From the options of a verb to a network: the model, imported, through the passes, as a list of layers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np

from .errors import TvmMobilenetError
from .options import ModelOptions


@dataclass(frozen=True)
class Network:
    """A model as layers.

    Parameters
    ----------
    options : ModelOptions
        What it was made from.
    model : models.registry.ModelSpec or None
        The PyTorch network; None for one from a file.
    module : tvm.IRModule
        After ``passes.run``.
    layers : list of passes.LayerCall
        In execution order.
    """

    options: ModelOptions
    model: object
    module: object
    layers: list

    @property
    def counts(self) -> dict:
        """How often each distinct layer occurs, in execution order: ``{Layer: int}``."""
        return dict(Counter(call.layer for call in self.layers))

    def for_target(self, target) -> Network:
        """The same network with the layers that this target's core runs as chains, and tensors at their pitches."""
        from .passes.fuse_chains import fuse_chains
        from .passes.pitch import set_pitches

        calls = fuse_chains(self.layers, self.interface, target.core)
        return dataclasses.replace(self, layers=set_pitches(calls, self.interface, target.core))

    @property
    def interface(self):
        """What ``main`` takes and returns: a ``passes.Interface``."""
        from . import passes

        return passes.interface_of(self.module)

    @property
    def labels(self) -> tuple[str, ...]:
        """One name a class, or none when they are unknown."""
        if self.model is not None:
            return self.model.labels
        if self.options.labels is None:
            return ()
        from .models.preprocess import read_labels

        return read_labels(self.options.labels, self.interface.outputs[0].shape[-1])

    def inputs(self, count: int = 2) -> list[tuple[np.ndarray, ...]]:
        """What to run the network on: ``--input``, else photographs and crops of them; noise where it takes no image.

        Returns
        -------
        list of tuples of ndarray
            As many as asked for (fewer when ``--input`` has fewer), each the network's inputs.
        """
        from .models.preprocess import evaluation_batch, load_image

        ports = self.interface.inputs
        preprocess = self._preprocess()
        if preprocess is None:
            if self.options.input is not None:
                raise TvmMobilenetError(
                    f"{self.options.title} takes {[p.shape for p in ports]}, no single image", "leave out --input"
                )
            draw = np.random.default_rng(0)
            return [tuple(draw.standard_normal(p.shape).astype(p.dtype) for p in ports) for _ in range(count)]
        batch = ports[0].shape[0]
        if self.options.input is not None:
            images = load_image(self.options.input, preprocess)
            images = np.concatenate([images] * -(-batch // len(images)))
        else:
            images = evaluation_batch(preprocess, count * batch)
        return [(np.ascontiguousarray(images[i : i + batch]),) for i in range(0, len(images) - batch + 1, batch)]

    def _preprocess(self):
        from .models.preprocess import Preprocess

        if self.model is not None:
            return self.model.preprocess
        ports, nhwc = self.interface.inputs, self.options.layout == "NHWC"
        if len(ports) != 1 or len(ports[0].shape) != 4 or ports[0].shape[3 if nhwc else 1] != 3:
            return None
        changes = {k: getattr(self.options, k) for k in ("mean", "std") if getattr(self.options, k) is not None}
        return Preprocess(ports[0].shape[1:3] if nhwc else ports[0].shape[2:], layout=self.options.layout, **changes)

    def reference(self, inputs: list[tuple[np.ndarray, ...]]) -> tuple[list[list[np.ndarray]], str]:
        """What the model's own framework computes in float32, and its name: PyTorch, or ONNX Runtime for ONNX.

        Returns
        -------
        list of lists of ndarray
            The outputs for each of the inputs.
        """
        found = self.framework(inputs)
        return found.values, found.name

    def framework(self, inputs: list[tuple[np.ndarray, ...]]):
        """As `reference`, also before a last softmax or activation: a ``framework.Outputs``."""
        from . import framework

        return framework.run(self.options, self.model, inputs)


def load_network(options: ModelOptions) -> Network:
    """Make or read a model, import it and run the passes.

    Raises
    ------
    TvmMobilenetError
        A model, file or operator that is not supported.
    """
    from . import frontend, passes

    model = None
    if options.is_file:
        module = frontend.load(options.model, batch=options.batch)
    else:
        import torch

        from .models import registry

        changes = {name: getattr(options, name) for name in ("mean", "std") if getattr(options, name) is not None}
        model = registry.create(
            options.model,
            options.alpha,
            options.resolution,
            options.classes,
            options.weights,
            True if options.features else None,
            preprocess=changes,
            labels=options.labels,
            seed=options.seed,
        )
        module = frontend.from_torch(model.module, torch.zeros(options.batch, *model.input_shape[1:]))
    module = passes.run(module)
    return Network(options, model, module, passes.layers_of(module))
