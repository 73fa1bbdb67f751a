"""From the options of a verb to a network: the model, imported, through the passes, as a list of layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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
        if options.model.endswith(".onnx"):
            module = frontend.from_onnx(options.model, batch=options.batch)
        else:
            module = frontend.from_pt2(options.model)
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
