"""One layer of a graph: a convolution, dense, pool or element-wise operator with all that is fused into it.

A layer is pure data: its shape, its dtype, its epilogue. Its ``name`` is a readable line with all of its fields, and
parses back (``Layer.parse(layer.name) == layer``). The name is the key of schedules, tune logs and plans.

Tensors are channels-last. A layer's data is ``(batch, height, width, channels)``; a pointwise layer is a matrix product
and keeps only its number of pixels, ``height = m``, ``width = 1``.

    pointwise m196 n512 k512 f32 relu6
    depthwise 112x112x64 3x3 s2 p1,1,1,1 f32 relu6
    dense m1 n1000 k1024 f32
    depthwise 56x56x12 3x3 p1,1,1,1 in24 out24 from0of75264 into12of75264 f32
    ghost 28x28x40 n80 3x3 p1,1,1,1 f32 relu
    bilinear2d 28x28x21 half_pixel to224x224 to_nchw f32
    conv 224x224x3 n32 3x3 s2 p1,1,1,1 nchw f16 reads_f32 relu6

A fused block is several layers in one kernel. It streams rows from one layer to the next, so that intermediates stay in
the cache. Its name consists of the names of its parts::

    fused depthwise 56x56x128 3x3 p1,1,1,1 f32 relu6 > pointwise m3136 n128 k128 f32 relu6
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tvm_mobilenet import dtypes, kinds, old_words
from tvm_mobilenet.kinds import integers, names, windows
from tvm_mobilenet.kinds.activation import PER_CHANNEL, SLOPES
from tvm_mobilenet.kinds.activation import known as is_activation
from tvm_mobilenet.kinds.generic import Body
from tvm_mobilenet.kinds.places import Placed

RESIDUALS = ("none", "before", "after")  # place of the residual add relative to the activation
LAYOUTS = ("NHWC", "NCHW")


class ImpossibleLayerError(ValueError):
    """A combination of values that is no layer."""


@dataclass(frozen=True, kw_only=True)
class Layer(Placed):
    """Shape, dtype and epilogue of one fused operator.

    Parameters
    ----------
    kind : str
        A kind that a module of `kinds` declares.
    height, width, channels, batch : int
        The input, channels-last. For ``pointwise`` and ``dense``: ``height`` rows, ``width`` 1, ``channels`` = k.
    out_channels : int
        Equal to ``channels`` for depthwise, pool, elementwise and softmax.
    kernel, stride, dilation : (int, int)
        Height first.
    padding : (int, int, int, int)
        Top, left, bottom, right; it reads as zeros (minus infinity for a max pool).
    groups : int
        The groups of a ``conv``; a depthwise layer has one for each channel.
    size : (int, int)
        Height and width of a resize's output, whose ``op`` gives positions (`kinds.resizes`); () for other kinds.
    op : str
        ``avg`` or ``max`` for a pool (an average divides by the kernel's size), the operator of an elementwise layer.
    activation : str
        Applied after bias; a word of `kinds.activation`.
    residual : str
        Where a tensor of the output's shape is added: ``before`` or ``after`` the activation, or ``none``.
    back : int
        The residual is the output of the part of a fused block so many parts before, ``add2``; 0 if it is an operand.
    input_part, output_part : (int, int)
        The place of data or an output in a larger tensor (`Place`); () for a tensor of its own. If the output is such a
        part, a residual is dense; if the data is one, a second operand is dense. `compiler.views` sets these fields.
    input_layout, output_layout : str
        ``NCHW`` if the network's input or output has it: a stem reads the image in its given layout.
    input_pitch, output_pitch : int
        Elements from one position to the next in memory, ``in`` and ``out`` in the name; 0 for dense tensors.
        `compiler.row_pitch` sets them, only for NHWC. A residual has the pitch of the output.
    dtype : str
        The dtype of the computation and, by default, of all tensors; one of ``dtypes.OF_DATA``.
    reads, writes : str
        The dtypes of data and output if they differ from ``dtype``, as at the network's inputs and outputs, or next to
        layers of another precision.
    sums : str
        The dtype of the sums, if it is the ``wide`` one of ``dtype`` and not its own. Such sums add up chunks of
        ``DType.chunk`` products each.
    weights : str
        The dtype of the weights if it differs from the layer's: int16 for weights of a file that exceed an int8 after
        subtraction of their zero points.
    group : int
        The number of int8 products whose sum fits an int16; 0 if that is not known of the weights.
    small : bool
        Whether all int32 sums are small enough to be read as floats (``schedules/integers.py``).
    parts : tuple of Layer
        The parts of a ``fused_block`` (`Layer.fused_block`); its other fields are those of its first and last part.
    body : kinds.generic.Body
        The loop nest of a ``generic`` layer, and the shapes of its operands.
    """

    kind: str
    height: int
    width: int = 1
    channels: int
    out_channels: int
    batch: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    size: tuple[int, ...] = ()
    op: str = ""
    activation: str = "none"
    residual: str = "none"
    back: int = 0
    input_layout: str = "NHWC"
    output_layout: str = "NHWC"
    input_pitch: int = 0
    output_pitch: int = 0
    input_part: tuple[int, ...] = ()
    output_part: tuple[int, ...] = ()
    dtype: str = "float32"
    reads: str = ""
    writes: str = ""
    sums: str = ""
    weights: str = ""
    group: int = 0
    small: bool = False
    parts: tuple[Layer, ...] = ()
    body: Body | None = None

    def __post_init__(self):
        def refuse(field: str):
            changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name != "parts"]
            rest = ", ".join(f"{f.name} {getattr(self, f.name)}" for f in changed if f.name != field)
            raise ImpossibleLayerError(f"layer: {field} = {getattr(self, field)!r} does not fit {rest}")

        if not kinds.known(self.kind):
            refuse("kind")
        for field, allowed in (
            ("residual", RESIDUALS),
            ("back", (self.back,) if self.residual == "before" else (0,)),
            ("input_layout", LAYOUTS),
            ("output_layout", LAYOUTS),
            ("dtype", dtypes.OF_DATA),
            ("reads", ("", *dtypes.READ)),
            ("writes", ("", *dtypes.READ)),
            ("weights", ("", "int16") if self.dtype == "int8" else ("",)),
            ("sums", ("", dtypes.of(self.dtype).wide if self.dtype in dtypes.DTYPES else "")),
        ):
            if getattr(self, field) not in allowed:
                refuse(field)
        for field in ("reads", "writes", "sums"):
            if getattr(self, field) == self.dtype:  # redundant, and gives one layer two names
                refuse(field)
        kind = kinds.of(self.kind)
        integer = dtypes.of(self.dtype).integer
        with_slopes = kind.weight_shape is not None or (kind.identity and not (integer and self.op != kind.identity))
        with_slopes = with_slopes and not (integer and self.residual == "before")
        if not is_activation(self.activation) or (self.activation == PER_CHANNEL and not with_slopes):
            refuse("activation")
        if kind.ops is not None and self.op not in kind.ops:
            refuse("op")
        for field in ("height", "width", "channels", "out_channels", "batch", "groups"):
            if getattr(self, field) < 1:
                refuse(field)
        if min(self.kernel + self.stride + self.dilation) < 1 or min(self.padding) < 0:
            refuse("kernel")
        if kind.groups != "any" and self.groups != (self.channels if kind.groups == "channels" else 1):
            refuse("groups")
        if (kind.keeps_channels or kind.keeps_data) and windows.computed(self) != self.channels:
            refuse("out_channels")
        if kind.pixels and self.width != 1:
            refuse("width")
        if min(self.out_height, self.out_width) < 1 or (kind.keeps_data and not windows.centred(self)):
            refuse("kernel")
        for field, due in (("parts", kind.has_parts), ("body", kind.has_body), ("size", kind.resizes)):
            if bool(getattr(self, field)) != due:
                refuse(field)
        if self.input_pitch and (self.input_pitch <= self.channels or self.input_layout == "NCHW"):
            refuse("input_pitch")
        if self.output_pitch and (self.output_pitch <= self.out_channels or self.output_layout == "NCHW"):
            refuse("output_pitch")
        for field, place in (("input_part", self.input_place), ("output_part", self.output_place)):
            if place.part and (self.body is not None or place.start < 0 or place.end > place.part[1]):
                refuse(field)

    @classmethod
    def fused_block(cls, parts: tuple[Layer, ...]) -> Layer:
        """Several layers as one. Each reads the one before it; only the last may have a residual, also of a part."""
        first, last = parts[0], parts[-1]
        if any(part.back > i or (part.back and part is not last) for i, part in enumerate(parts)):
            raise ImpossibleLayerError(f"a residual of no part before it: {' > '.join(part.name for part in parts)}")
        return cls(
            kind="fused",
            height=first.height,
            width=first.width,
            channels=first.channels,
            batch=first.batch,
            out_channels=last.out_channels,
            input_layout=first.input_layout,
            output_layout=last.output_layout,
            input_pitch=first.input_pitch,
            output_pitch=last.output_pitch,
            input_part=first.input_part,
            output_part=last.output_part,
            dtype=first.dtype,
            residual="none" if last.back else last.residual,
            parts=tuple(parts),
        )

    @property
    def declared(self) -> kinds.Kind:
        """The declaration of its kind."""
        return kinds.of(self.kind)

    # ---- geometry

    @property
    def out_height(self) -> int:
        return windows.outputs(self, 0)

    @property
    def out_width(self) -> int:
        return windows.outputs(self, 1)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The data's shape in ``input_layout``."""
        if self.body is not None:
            return self.body.operands[0]
        return _in_layout((self.batch, self.height, self.width, self.channels), self.input_layout)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """The output's shape in ``output_layout``."""
        if self.body is not None:
            return self.body.output
        if self.parts:
            return self.parts[-1].output_shape
        return _in_layout((self.batch, self.out_height, self.out_width, self.out_channels), self.output_layout)

    @property
    def bytes(self) -> int:
        """Bytes of one element of the data."""
        return dtypes.of(self.input_dtype).bytes

    @property
    def input_dtype(self) -> str:
        """The dtype of the data, and of a second operand of the same shape."""
        if self.body is not None and self.body.dtypes:
            return self.body.dtypes[0]
        return self.parts[0].input_dtype if self.parts else self.reads or self.dtype

    @property
    def weight_dtype(self) -> str:
        """The dtype of the weight, if the layer has one."""
        return self.weights or self.dtype

    @property
    def accumulator_dtype(self) -> str:
        """The dtype of sums, and of the values in the epilogue."""
        own = dtypes.of(self.dtype)
        return self.sums or (own.wide if self.declared.wide else own.accumulator)

    @property
    def bias_dtype(self) -> str:
        """The dtype of the bias, if the layer has one."""
        return dtypes.of(self.dtype).bias

    @property
    def output_dtype(self) -> str:
        """The dtype of the output, and of a residual."""
        if self.body is not None and self.body.dtypes:
            return self.body.dtypes[-1]
        return self.parts[-1].output_dtype if self.parts else self.writes or self.dtype

    @property
    def second_dtype(self) -> str:
        """The dtype of the residual or second operand, if the layer has one."""
        return self.output_dtype if self.residual != "none" else self.input_dtype

    @property
    def operand_dtypes(self) -> tuple[str, ...]:
        """The dtypes of its data and other operands without constants, in the order of ``operand_buffers``."""
        if self.body is not None:
            return (self.body.dtypes or (self.dtype,) * len(self.body.operands))[: len(self.body.operands)]
        return (self.input_dtype, self.second_dtype)[: len(self.operand_buffers)]

    @property
    def second_shape(self) -> tuple[int, int, int, int] | None:
        """The shape of a residual or second operand, if the layer has one: the output's or the data's, or one value a
        channel."""
        if self.residual != "none":
            return self.output_shape
        if self.op == "scale":
            return (self.batch, 1, 1, self.channels)
        return self.input_shape if self.declared.identity and self.op not in self.declared.unary else None

    @property
    def copies(self) -> bool:
        """Whether it only moves its data, through its activation."""
        return bool(self.declared.identity) and self.op == self.declared.identity

    @property
    def reads_pixels(self) -> bool:
        """Whether it decodes its data from bytes to floats: for each channel, a byte times the first row of ``pixels``
        plus the second, by a fused multiply-add in float32. Padding is zero after decoding.
        """
        first = self.parts[0] if self.parts else self
        return first.reads == "uint8" and not dtypes.of(first.dtype).integer

    @property
    def weight_shape(self) -> tuple | None:
        """``(out, in / groups, kernel height, kernel width)`` as PyTorch has it; ``(n, k)`` for pointwise and dense; of
        a fused block, the shapes of its parts."""
        if self.parts:
            return tuple(part.weight_shape for part in self.parts)
        shape = kinds.of(self.kind).weight_shape
        return shape and shape(self)

    @property
    def constants(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each constant by its name. In a fused block, names begin with the part's number:
        ``0.bias``.
        """
        if self.parts:
            return {f"{i}.{name}": what for i, p in enumerate(self.parts) for name, what in p.constants.items()}
        if self.body is not None:
            held = self.body.dtypes[len(self.body.operands) : -1] or (self.dtype,) * len(self.body.constants)
            each = zip(self.body.constants, held, strict=True)
            return {f"constant{i}": what for i, what in enumerate(each)}
        found = {}
        if self.weight_shape is not None:
            biases = (windows.computed(self),), self.bias_dtype
            found = {"weight": (self.weight_shape, self.weight_dtype), "bias": biases}
        integer = dtypes.of(self.dtype).integer
        if self.activation == PER_CHANNEL and not integer:
            found[SLOPES] = (self.out_channels,), self.bias_dtype
        if self.weight_shape is not None and self.reads_pixels:
            found["pixels"] = ((2, self.channels), "float32")
        return found | (integers.constants_of(self) if integer else {})

    @property
    def mult_adds(self) -> int:
        """Multiply-adds of the convolution or product; zero for pools and element-wise layers, as the papers count."""
        if self.parts:
            return sum(part.mult_adds for part in self.parts)
        if self.weight_shape is None:
            return 0
        taps = self.kernel[0] * self.kernel[1] * (self.channels // self.groups)
        return self.batch * self.out_height * self.out_width * windows.computed(self) * taps

    # ---- the name

    @property
    def name(self) -> str:
        if self.parts:
            return "fused " + " > ".join(part.name for part in self.parts)
        return names.name_of(self)

    @classmethod
    def parse(cls, name: str) -> Layer:
        """The layer of a name; a ValueError names the token that is not understood."""
        name = old_words.layer_name(name)
        if name.startswith("fused "):
            return cls.fused_block(tuple(cls.parse(part) for part in name.removeprefix("fused ").split(" > ")))
        try:
            return cls(**names.fields_of(name))
        except TypeError as e:
            raise ValueError(f"layer name {name!r} is incomplete: {e}") from None

    def replace(self, **changes) -> Layer:
        return dataclasses.replace(self, **changes)

    def with_pitches(self, data: int, output: int) -> Layer:
        """The layer with these pitches, 0 for none; of a fused block, those of its ends."""
        return self.reading(data, self.input_part).writing(output, self.output_part)

    def reading(self, pitch: int, part: tuple[int, ...]) -> Layer:
        """The layer with its data at this pitch (0: dense), in this part of a larger tensor (empty: not in one)."""
        if self.parts:
            return Layer.fused_block((self.parts[0].reading(pitch, part), *self.parts[1:]))
        return self.replace(input_pitch=pitch, input_part=part)

    def writing(self, pitch: int, part: tuple[int, ...]) -> Layer:
        """The layer with its output at this pitch (0: dense), in this part of a larger tensor (empty: not in one)."""
        if self.parts:
            return Layer.fused_block((*self.parts[:-1], self.parts[-1].writing(pitch, part)))
        return self.replace(output_pitch=pitch, output_part=part)

    @property
    def dense(self) -> Layer:
        """The layer with data and output that are tensors of their own, without pitches."""
        return self.reading(0, ()).writing(0, ())


def _in_layout(nhwc: tuple[int, int, int, int], layout: str) -> tuple[int, int, int, int]:
    n, h, w, c = nhwc
    return (n, h, w, c) if layout == "NHWC" else (n, c, h, w)
