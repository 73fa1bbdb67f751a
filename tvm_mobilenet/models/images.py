"""Decide whether a network's input is an image, and how an image is converted to it.

The graph shows the axis of channels: a convolution or pool reads them on a known axis, and the operators between the
input and that one keep the axes or permute them. In a graph without either, the shape decides: images have 3 or 1
channels. Scale and zero point of a quantized input give the mean and std that convert an image's bytes to its integers
(`bytes_of`). No file contains the rest: resize, crop, interpolation, the order of channels, mean and std of floats.
Flags give these, or they are known because the registry's own network has seeded weights; otherwise they are assumed,
and `Image.assumed` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.dtypes import READ
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import FIELDS, Preprocess

CHANNELS = (3, 1)
_WINDOWS = ("relax.nn.conv2d", "relax.nn.max_pool2d", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d")
_BYTES = {"uint8": 0, "int8": 128}  # dtypes of an input that has an image's bytes, and what an int8 is less than these
TAKES_BYTES = "takes_bytes"  # attribute of a module whose file itself takes int8 or uint8
_RESHAPES = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.broadcast_to")


@dataclass(frozen=True)
class Image:
    """An input that is an image.

    Attributes
    ----------
    preprocess : Preprocess
    assumed : tuple of str
        Fields of it that neither flags nor a file give.
    """

    preprocess: Preprocess
    assumed: tuple[str, ...]

    def to_data(self) -> dict:
        """Plain data for the manifest and the plan."""
        fields = ("size", "channels", *FIELDS)
        return {**{f: getattr(self.preprocess, f) for f in fields}, "assumed": list(self.assumed)}


@dataclass(frozen=True)
class InputBytes:
    """The mean and std that convert each byte of an image to an integer of an input.

    Attributes
    ----------
    mean, std : float
        Mean and std of pixels in 0..1, as in `Preprocess`.
    known : bool
        True if the file itself takes integers. A file that takes floats and rounds them has a range that was found on
        images, which may not have filled it.
    """

    mean: float
    std: float
    known: bool


def bytes_of(module) -> InputBytes | None:
    """How bytes become the first input of a network that rounds it to 8 bits at once, with one scale, or takes bytes;
    None for other networks.

    A byte ``b`` stands for ``(b - zero) * scale``, and an image's is ``(b / 255 - mean) / std``: so mean is
    ``zero / 255`` and std ``1 / (255 * scale)``. An int8 is the byte that is 128 more.

    Parameters
    ----------
    module : tvm.IRModule
        As a frontend made it.
    """
    from tvm import relax

    main = module["main"]
    if main.params and str(main.params[0].ty.dtype) in _BYTES:
        return InputBytes(_BYTES[str(main.params[0].ty.dtype)] / 255, 1 / 255, True)
    same = {*main.params[:1]}  # the input, and views of it in another shape
    for binding in (b for block in main.body.blocks for b in block.bindings):
        value = binding.value
        if isinstance(value, relax.Var) and value in same:
            same.add(binding.var)
        if not isinstance(value, relax.Call) or not any(isinstance(a, relax.Var) and a in same for a in value.args):
            continue
        name = getattr(value.op, "name", "")
        if name in ("relax.permute_dims", *_RESHAPES):
            same.add(binding.var)
            continue
        if name != "relax.quantize" or str(value.attrs.out_dtype) not in ("int8", "uint8"):
            return None
        scale, zero = (a.value.numpy() for a in value.args[1:3])
        if scale.ndim:
            return None
        byte = int(zero) + 128 * (str(value.attrs.out_dtype) == "int8")
        known = bool((main.attrs or {}).get(TAKES_BYTES, ""))
        return InputBytes(byte / 255, 1 / (255 * float(scale)), known)
    return None


def channel_axis(module) -> int | None:
    """The axis of the first input that a graph's convolutions and pools read as channels; None if there are none.

    Parameters
    ----------
    module : tvm.IRModule
        As a frontend made it.
    """
    from tvm import relax

    main = module["main"]
    if not main.params or len(main.params[0].ty.shape) != 4:
        return None
    axes = {main.params[0]: (0, 1, 2, 3)}  # for each value, the input's axes from which its axes come
    for binding in (b for block in main.body.blocks for b in block.bindings):
        value = binding.value
        if isinstance(value, relax.Var) and value in axes:
            axes[binding.var] = axes[value]
        if not isinstance(value, relax.Call):
            continue
        data = next((a for a in value.args if isinstance(a, relax.Var) and a in axes), None)
        if data is None:
            continue
        name = getattr(value.op, "name", "")
        if name in _WINDOWS:
            layout = value.attrs.data_layout if name == _WINDOWS[0] else value.attrs.layout
            return axes[data][str(layout).index("C")]
        if name == "relax.permute_dims":
            order = value.attrs.axes
            order = (3, 2, 1, 0) if order is None else [int(a) for a in order]
            axes[binding.var] = tuple(axes[data][a] for a in order)
        elif name not in _RESHAPES and _rank(binding.var) == 4:
            axes[binding.var] = axes[data]
    return None


def check_by_name(options: ModelOptions) -> None:
    """Refuse flags that no network by name can have, before the network is made.

    Raises
    ------
    TvmMobilenetError
        ``--layout NHWC``.
    """
    if options.layout not in (None, "NCHW"):
        raise TvmMobilenetError(
            f"--layout {options.layout}: {options.title} takes (N, 3, H, W), which is NCHW", "leave out --layout"
        )


def image_of(options: ModelOptions, model, ports, axis: int | None, in_bytes: InputBytes | None = None) -> Image | None:
    """The conversion of an image to a network's input, or None if its inputs are no image.

    Parameters
    ----------
    options : ModelOptions
        The user's options.
    model : models.registry.ModelSpec or None
        The PyTorch network; None for one from a file.
    ports : sequence of passes.Port
        The inputs.
    axis : int or None
        Of `channel_axis`.
    in_bytes : InputBytes, optional
        Of `bytes_of`.

    Raises
    ------
    TvmMobilenetError
        A flag contradicts the graph, or describes images although the input is none.
    """
    given = {name: getattr(options, name) for name in FIELDS if getattr(options, name) is not None}
    own = model.preprocess if model is not None else None
    layout, known = ("NCHW", True) if own is not None else _layout(ports, axis, given.get("layout"))
    shape = ports[0].shape
    if layout is None:
        said = {**given, **({"input": options.input} if options.input is not None else {})}
        if said:
            flags = ", ".join("--" + name.replace("_", "-") for name in said)
            raise TvmMobilenetError(
                f"{flags}: {options.title} takes {_shapes(ports)}, which is not an image of 3 or 1 channels",
                "leave out what says how an image becomes its input: it takes arrays",
            )
        return None
    if given.get("layout", layout) != layout:
        raise TvmMobilenetError(
            f"--layout {given['layout']}: {options.title} takes {shape}, which its graph reads as {layout}",
            f"leave out --layout, or give --layout {layout}",
        )
    given["layout"] = layout
    if given.get("resize") == "squash":
        given.setdefault("crop", 1.0)
    channels, size = (shape[1], shape[2:]) if layout == "NCHW" else (shape[3], shape[1:3])
    if channels == 1 and options.channel_order is not None:
        raise TvmMobilenetError(
            f"--channel-order {options.channel_order}: {options.title} has one channel", "leave out --channel-order"
        )
    if own is None and in_bytes is not None:
        given = {"mean": in_bytes.mean, "std": in_bytes.std, **given}
    preprocess = Preprocess(size, channels=channels, **given) if own is None else own.replace(**given)
    open_to_doubt = FIELDS if own is None else model.assumed
    sure = {*["layout"] * known, *["mean", "std"] * (in_bytes is not None and in_bytes.known)}
    assumed = [f for f in open_to_doubt if getattr(options, f) is None and f not in sure]
    if channels == 1 and "channel_order" in assumed:
        assumed.remove("channel_order")
    return Image(preprocess, tuple(assumed))


def _layout(ports, axis: int | None, given: str | None) -> tuple[str | None, bool]:
    """The layout of the input image, None if the inputs are no image; and whether graph or shape determine it."""
    shape = ports[0].shape
    if len(ports) != 1 or len(shape) != 4 or ports[0].dtype not in READ:
        return None, True
    by_axis = {1: "NCHW", 3: "NHWC"}
    if axis is not None:
        return (by_axis[axis] if axis in by_axis and shape[axis] in CHANNELS else None), True
    fits = [layout for at, layout in by_axis.items() if shape[at] in CHANNELS]
    if len(fits) == 2:
        return given or "NCHW", False
    return (fits[0] if fits else None), True


def _rank(value) -> int:
    from tvm import relax

    return len(value.ty.shape) if isinstance(value.ty, relax.TensorType) and value.ty.shape is not None else -1


def _shapes(ports) -> str:
    return ", ".join(f"{p.name} {p.shape}" for p in ports)
