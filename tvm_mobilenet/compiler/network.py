"""From the options of a verb to a network: the model, imported, through the passes, as a list of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models import labels
from tvm_mobilenet.models.images import Image, InputBytes, bytes_of, channel_axis, check_by_name, image_of
from tvm_mobilenet.models.options import FLOAT32, ModelOptions

_PRODUCTS = ("mul", "scale", "multiply", "divide")  # of two values; a constant factor is in a layer's weights


@dataclass(frozen=True)
class Network:
    """A model as layers.

    Parameters
    ----------
    options : ModelOptions
        The options that it was made from.
    model : models.registry.ModelSpec or None
        The PyTorch network; None for one from a file.
    graph : passes.LayerGraph
        The result of ``passes.run``, which does not depend on a target.
    channels_at : int or None
        The axis of the input that the graph reads as channels, as ``models.images.channel_axis`` finds it.
    in_bytes : models.images.InputBytes or None
        The encoding of an input that the model itself rounds to 8 bits, as ``models.images.bytes_of`` finds it.
    precision : passes.precision.Precision or None
        The decisions about the dtypes of its layers; None if they compute in the model's own dtype.
    original : passes.LayerGraph or None
        The graph in the model's own dtype, if ``graph`` has another.
    """

    options: ModelOptions
    model: object
    graph: object
    channels_at: int | None = None
    in_bytes: InputBytes | None = None
    precision: object | None = None
    original: object | None = None

    @property
    def layers(self) -> tuple:
        """The calls of its layers in execution order: ``passes.LayerCall``."""
        return self.graph.calls

    @property
    def signature(self):
        """Its inputs and outputs: a ``passes.Signature``."""
        return self.graph.signature

    @property
    def seeded(self) -> bool:
        """Whether the weights are random: there is no checkpoint, and the model does not bring its own weights."""
        return self.model is not None and self.model.seeded

    @property
    def quantized(self) -> bool:
        """Whether it came quantized, from a file with scales of its own."""
        return bool(getattr(self.precision, "given", False))

    def whole_numbers(self, inputs: list[tuple[np.ndarray, ...]]) -> list[dict[str, np.ndarray]]:
        """The integers that the file's own runtime computes inside the network, as from
        ``frontend.onnx_values.whole_numbers``.
        """
        from pathlib import Path

        from tvm_mobilenet.frontend import onnx_values, pt2_reader, tflite_run

        path = Path(self.options.model)
        if self.options.file_kind == "tflite":
            return tflite_run.whole_numbers(path, inputs, signature=self.options.signature)
        if self.options.file_kind == "onnx":
            return onnx_values.whole_numbers(path, inputs)
        if not self.options.trust_file:
            return pt2_reader.whole_numbers(path, inputs)
        from tvm_mobilenet.frontend import torch_run
        from tvm_mobilenet.frontend.torch_program import load_trusted

        return torch_run.whole_numbers(load_trusted(path).module(), inputs)

    def largest(self, graph) -> dict[str, float]:
        """The largest partial sum of each distinct layer, by name, in a graph made from this network's; empty if it was
        not measured.
        """
        known = {one.layer: one.value for one in self.precision.largest} if self.precision else {}
        found: dict[str, float] = {}
        for call in graph.calls:
            sums = [known[part.name] for part in call.originals if part.name in known]
            if sums:
                found[call.layer.name] = max(found.get(call.layer.name, 0.0), *sums)
        return found

    @cached_property
    def image(self) -> Image | None:
        """The preprocessing from an image to the input; None if the inputs are not images."""
        return image_of(self.options, self.model, self.signature.inputs, self.channels_at, self.in_bytes)

    @property
    def classes(self) -> int:
        """The number of classes with a score in the output; 0 if the network does not classify."""
        outputs = self.signature.outputs
        scores = len(outputs) == 1 and len(outputs[0].shape) == 2 and not self._features and not self._product
        return outputs[0].shape[1] if scores else 0

    @property
    def _product(self) -> bool:
        """Whether the output is a product or a quotient of two values, such as an embedding over its norm."""
        layer = self._last
        return layer is not None and layer.op in _PRODUCTS

    @property
    def _last(self):
        """The layer that computes the first output: the last one before copies."""
        made = {call.output: call for call in self.layers}
        call = made.get(self.signature.outputs[0].value)
        while call is not None and call.layer.copies and call.layer.activation == "none":
            call = made.get(call.inputs[0])
        return call and call.layer

    @property
    def _features(self) -> bool:
        return self.options.features and self.model is not None

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One name for each class: those of ``--labels``, else the model's own, else ImageNet's for 1,000 and 1,001
        classes with trained weights; empty if they are unknown.

        Raises
        ------
        TvmMobilenetError
            ``--labels`` is given for a network that does not classify, or has another number of names.
        """
        if self.options.labels is None:
            own = self.model.labels if self.model is not None and len(self.model.labels) == self.classes else ()
            return () if self.seeded else own or labels.imagenet_labels(self.classes)
        return _labels(self.options, self.classes)

    @property
    def scores(self) -> str:
        """The kind of the class scores, derived from the last layer: one of ``labels.SCORES``."""
        layer = self._last
        if layer is not None and layer.declared.function == "softmax":
            return "softmax" if self.classes > 1 else "value"
        if layer is not None and layer.activation == "sigmoid":
            return "sigmoid"
        return "logits" if self.classes > 1 else "value"

    def inputs(self, count: int = 2) -> list[tuple[np.ndarray, ...]]:
        """Inputs to run the network on: ``--input``, else photographs and crops of them, or noise if the network takes
        no image.

        Returns
        -------
        list of tuples of ndarray
            ``count`` of them (fewer if ``--input`` has fewer), each with all of the network's inputs.
        """
        from tvm_mobilenet.models.preprocess import evaluation_batch, load_image

        ports = self.signature.inputs
        if self.image is None:
            draw = np.random.default_rng(0)
            return [tuple(p.noise(draw) for p in ports) for _ in range(count)]
        preprocess, batch = self.image.preprocess, ports[0].shape[0]
        if self.options.input is not None:
            images = load_image(self.options.input, preprocess)
            images = np.concatenate([images] * -(-batch // len(images)))
        else:
            images = evaluation_batch(preprocess, count * batch)
        starts = range(0, len(images) - batch + 1, batch)
        return [(np.ascontiguousarray(ports[0].stored(images[i : i + batch])),) for i in starts]

    def reference(self, inputs: list[tuple[np.ndarray, ...]]) -> tuple[list[list[np.ndarray]], str]:
        """The outputs of the model's own framework in float32, and its name: PyTorch, ONNX Runtime or LiteRT.

        Returns
        -------
        list of lists of ndarray
            The outputs for each of the inputs.
        """
        found = self.framework(inputs, before=False)
        return found.values, found.name

    def framework(self, inputs: list[tuple[np.ndarray, ...]], before: bool = True):
        """As `reference`, a ``frontend.framework.Outputs``; ``before``: also before a last softmax or activation."""
        from tvm_mobilenet.frontend import framework

        return framework.run(self.options, self.model, self.real(inputs), before).shown()

    def real(self, inputs: list[tuple[np.ndarray, ...]]) -> list[tuple[np.ndarray, ...]]:
        """Inputs as the model itself takes them: in its dtypes, with integers decoded to real values."""
        own, ports = self.signature.inputs, (self.original or self.graph).signature.inputs
        return [
            tuple(mine.real(x).astype(port.dtype, copy=False) for x, mine, port in zip(xs, own, ports, strict=True))
            for xs in inputs
        ]


def _labels(options: ModelOptions, classes: int) -> tuple[str, ...]:
    if not classes:
        raise TvmMobilenetError(
            f"--labels {options.labels}: {options.title} does not classify: its output is not one row of scores",
            "leave out --labels",
        )
    return labels.read_labels(options.labels, classes)


def _check_finite(layers: list, options: ModelOptions) -> None:
    """Refuse weights, or results of folding batch norms into them, that are not finite: every output would be NaN.
    Generic layers may have infinities, as a mask of scores before a softmax; those that choose may choose NaN.
    """

    def is_odd(call) -> bool:
        if call.layer.op == "where":
            return False
        wrong = (lambda a: ~np.isfinite(a)) if call.layer.body is None else np.isnan
        return any(wrong(a).any() for a in call.constants.values())

    odd = [c.source or c.name for c in layers if is_odd(c)]
    if odd:
        raise TvmMobilenetError(
            f"{options.title}: infinities or NaN in the folded weights of {', '.join(odd[:3])}"
            + f" and {len(odd) - 3} more layers" * (len(odd) > 3),
            "export it again from a checkpoint whose weights and batch-norm statistics are finite",
        )


def with_decided(network: Network, decided) -> Network:
    """A network in another dtype than its model's, as if it had been loaded with these decisions about its layers.

    Parameters
    ----------
    decided : passes.precision.Precision or passes.quantize.Quantization
    """
    options = replace(network.options, decided=decided)
    start = replace(network, options=options, graph=network.original, precision=None, original=None)
    return _narrowed(start, lambda phase, what: None)


def load_network(options: ModelOptions, watch: Callable[[str, object], None] = lambda phase, what: None) -> Network:
    """Make or read a model, import it and run the passes.

    Parameters
    ----------
    watch : callable
        Called with ``imported`` and the imported module, and as ``passes.run`` does.

    Raises
    ------
    TvmMobilenetError
        A model, file or operator is not supported; weights are not finite; or labels or image flags do not fit the
        network.
    """
    from tvm_mobilenet import dtypes, frontend, passes

    model = None
    if options.is_file:
        layout = options.layout or "NCHW"
        trusted = options.trust_file
        module = frontend.load(
            options.model,
            batch=options.batch,
            size=options.size,
            layout=layout,
            trusted=trusted,
            signature=options.signature,
        )
    else:
        import torch

        model = _made(options)
        module = frontend.from_torch(model.module, torch.zeros(options.batch or 1, *model.input_shape[1:]))
    watch("imported", module)
    graph = passes.run(module, watch, dtypes.of(options.dtype).integer)
    options = of_quantized(options, graph)
    network = Network(options, model, graph, channel_axis(module), bytes_of(module))
    _check_finite(network.layers, options)
    network.image, network.labels  # noqa: B018  refuse options that do not fit before the slow part
    return network if (options.dtype, options.io) == (FLOAT32, FLOAT32) else _narrowed(network, watch)


def _made(options: ModelOptions):
    """The PyTorch network of a name or a program, a ``models.registry.ModelSpec``."""
    from tvm_mobilenet.models import from_package, from_program, registry

    check_by_name(options)  # check this and labels before weights are made
    if options.program:
        return from_program.create(options)
    if options.package:
        return from_package.create(options)
    if options.labels is not None:
        _labels(options, 0 if options.features else options.classes)
    return registry.create(
        options.model,
        options.alpha,
        options.resolution,
        options.classes,
        options.weights,
        True if options.features else None,
        seed=options.seed,
    )


def of_quantized(options: ModelOptions, graph) -> ModelOptions:
    """The options that a graph's scales require: a network that comes quantized computes in int8.

    Raises
    ------
    TvmMobilenetError
        The options request something that such a network cannot do.
    """
    from tvm_mobilenet.passes import marks

    if not marks.known(graph):
        return options
    if options.dtype not in (FLOAT32, marks.DTYPE):
        raise TvmMobilenetError(
            f"--dtype {options.dtype}: {options.model} comes quantized to int8",
            "leave it out, or give its float32 model",
        )
    flags = ("--calibrate", "--calibration-method", "--quantization")
    given = options.calibrate, options.calibration_method, options.quantization
    if refused := ", ".join(flag for flag, value in zip(flags, given, strict=True) if value):
        raise TvmMobilenetError(
            f"{refused}: {options.model} comes quantized, with scales of its own",
            "leave it out; to find scales anew give its float32 model with --dtype int8",
        )
    return replace(options, dtype=marks.DTYPE)


def _narrowed(network: Network, watch: Callable[[str, object], None]) -> Network:
    """The network in the dtypes that its options request."""
    from tvm_mobilenet import dtypes
    from tvm_mobilenet.compiler import calibration, kept_float, quantization
    from tvm_mobilenet.passes import ends, quantize_given

    options, known, graph, scales = network.options, None, network.graph, None
    if options.dtype != FLOAT32:
        how = quantization if dtypes.of(options.dtype).integer else calibration
        given = quantize_given.found(graph, options.io)
        known = options.decided
        if known is None or (given is not None and not getattr(known, "given", False)):
            if given is None:
                kept_float.check(network)
            known = kept_float.decide(network, given or how.decide(network))
        graph = known.applied(ends.wanted(graph, options.dtype, options.io))
        scales = getattr(known, "scales", None)
    graph = ends.run(graph, options.io, scales, network.image and network.image.preprocess)
    watch("precision", graph)
    return replace(network, graph=graph, precision=known, original=network.graph)
