"""The plan: the order of kernel calls, and the place of every tensor. Every board and bundle runs it.

It is derived from the lowered graph. Intermediates share one arena: two that are never alive at the same time may have
the same place. Inputs and outputs are the caller's own buffers, and not part of the arena. The plan is readable JSON.
The constants are in a separate file, at the offsets in the plan, ready to be memory-mapped.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from tvm_mobilenet import old_words
from tvm_mobilenet.errors import TvmMobilenetError, reason

VERSION = 1
ALIGNMENT = 64  # bytes: a cache line, and more than any vector needs
PAGE = 4096  # bytes: the offset within a page determines the set in any L1, by virtual or physical address
STAGGER = 11 * ALIGNMENT  # see place_in_page
SPACES = ("input", "output", "arena", "parameters")


@dataclass(frozen=True)
class Tensor:
    """One operand of a kernel call: ``offset`` bytes into a space, or the index-th input or output (offset 0)."""

    space: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    index: int = 0

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Part:
    """A layer of the network that a step computes: its name, and its origin in the user's model."""

    name: str
    source: str


@dataclass(frozen=True)
class Step:
    """One kernel call. Builds of earlier versions lack ``reads`` and the fields after it.

    Attributes
    ----------
    symbol, layer : str
        The kernel, and the layer that it computes, with its pitches.
    operands : tuple of Tensor
        In the kernel's order, the output last.
    reads : tuple of str
        The values of the operands that are not constants: the data, and the residual or second operand.
    writes : str
        The value of the output.
    parts : tuple of Part
        The layers of the network that it computes; a fused block has several.
    constants : tuple of str
        The names of the operands in ``parameters``, in their order, as in ``Layer.constants``.
    into : str
        The value that the output is a part of, if it is a part. Steps with the same ``into`` write one tensor.
    """

    name: str
    symbol: str
    layer: str
    operands: tuple[Tensor, ...]
    reads: tuple[str, ...] = ()
    writes: str = ""
    parts: tuple[Part, ...] = ()
    constants: tuple[str, ...] = ()
    into: str = ""


@dataclass(frozen=True)
class Plan:
    """All steps, the inputs and outputs, and the sizes of the memory.

    Attributes
    ----------
    arena_bytes : int
        Size of the memory of all intermediates.
    scratch_bytes : int
        The most memory that one task of a parallel region takes for itself.
    parameters_bytes : int
        Size of the file of constants.
    """

    steps: tuple[Step, ...]
    inputs: tuple[tuple[str, Tensor], ...]
    outputs: tuple[tuple[str, Tensor], ...]
    arena_bytes: int
    scratch_bytes: int
    parameters_bytes: int

    def to_data(self) -> dict:
        """Plain data for JSON."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_data(cls, data: dict) -> Plan:
        """The plan from plain data.

        Raises
        ------
        TvmMobilenetError
            Another version wrote the data, or it is not a plan.
        """
        if data.get("version") != VERSION:
            raise TvmMobilenetError(f"plan of version {data.get('version')!r}, this is {VERSION}", "build it again")
        try:

            def tensor(t: dict) -> Tensor:
                return Tensor(t["space"], t["offset"], tuple(t["shape"]), t["dtype"], t["index"])

            def step(s: dict) -> Step:
                parts = tuple(Part(old_words.layer_name(p["name"]), p["source"]) for p in s.get("parts", ()))
                values = tuple(s.get("reads", ())), s.get("writes", ""), parts, tuple(s.get("constants", ()))
                values = *values, s.get("into", "")
                return Step(
                    s["name"], s["symbol"], old_words.layer_name(s["layer"]), tuple(map(tensor, s["operands"])), *values
                )

            steps = tuple(map(step, data["steps"]))
            ports = [tuple((n, tensor(t)) for n, t in data[side]) for side in ("inputs", "outputs")]
            return cls(steps, *ports, data["arena_bytes"], data["scratch_bytes"], data["parameters_bytes"])
        except (KeyError, TypeError, ValueError) as e:
            raise TvmMobilenetError(f"not a plan: {reason(e)}", "build it again") from None


def read_plan(path: str | Path) -> Plan:
    """The plan in a JSON file, alone or under ``plan``."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise TvmMobilenetError(f"{path}: {reason(e)}", "build the module first") from None
    return Plan.from_data(data.get("plan", data))


def plan_of(lowered, graph) -> tuple[Plan, np.ndarray]:
    """The plan of a lowered module, and the bytes of its constants.

    In one piece, since one walk over the calls finds the lifetimes on which all places depend.

    Parameters
    ----------
    lowered : tvm.IRModule
        From ``compiler.lower``.
    graph : passes.LayerGraph
        The graph that it was lowered from.
    """
    from tvm import ir, relax

    main = lowered["main"]
    bindings = [b for block in main.body.blocks for b in block.bindings]
    value_of: dict = {p: ("input", i) for i, p in enumerate(main.params)}  # variable to its value
    sizes: dict[int, int] = {}  # bytes of each intermediate, by the step that writes it
    alive: dict[int, list[int]] = {}  # its first and last step
    raw: list[tuple] = []
    constants: dict[object, Tensor] = {}
    parameters: list[np.ndarray] = []
    end = 0
    fields: tuple = ()

    def constant(c) -> Tensor:
        nonlocal end
        array = c.value.numpy()
        place = Tensor("parameters", end, tuple(array.shape), str(array.dtype))
        padded = np.zeros(align(array.nbytes), np.uint8)
        padded[: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        parameters.append(padded)
        end += padded.nbytes
        return place

    for binding in bindings:
        value = binding.value
        if isinstance(value, relax.Var):
            value_of[binding.var] = value_of[value]
        elif isinstance(value, relax.Tuple):
            fields = tuple(value.fields)
        elif value.op.name == "relax.reshape":
            value_of[binding.var] = value_of[value.args[0]]
        else:
            step = len(raw)
            function, arguments = value.args[0], value.args[1].fields
            operands = []
            for a in arguments:
                if isinstance(a, ir.Constant):
                    operands.append(constants.setdefault(a, None) or constant(a))
                    constants[a] = operands[-1]
                else:
                    if isinstance(value_of[a], int):
                        alive[value_of[a]][1] = step
                    operands.append((value_of[a], _shape(a.ty), str(a.ty.dtype)))
            if value.op.name == "relax.call_tir_inplace":  # its last argument is the tensor that it writes a part of
                value_of[binding.var] = operands[-1][0]
            else:
                written = (_shape(value.ty), str(value.ty.dtype))
                operands.append((step, *written))
                value_of[binding.var] = step
                sizes[step], alive[step] = prod(written[0]) * np.dtype(written[1]).itemsize, [step, step]
            prim = lowered[function]
            raw.append((function.name_hint, str(prim.attrs["layer"]), operands))
    if not fields:
        result = main.body.body
        fields = tuple(result.fields) if isinstance(result, relax.Tuple) else (result,)
    place_of: dict = {("input", i): ("input", 0, i) for i in range(len(main.params))}
    outputs = []
    for i, (field, port) in enumerate(zip(fields, graph.signature.outputs, strict=True)):
        value = value_of[field]
        place_of.setdefault(value, ("output", 0, i))
        outputs.append((port.name, value, port.shape, port.dtype))
    offsets, arena = allocate({s: (sizes[s], *alive[s]) for s in sizes if s not in place_of})
    place_of.update({s: ("arena", o, 0) for s, o in offsets.items()})

    def tensor(value, shape, dtype) -> Tensor:
        space, offset, index = place_of[value]
        return Tensor(space, offset, tuple(shape), dtype, index)

    steps = tuple(
        Step(
            call.name,
            symbol,
            layer,
            tuple(o if isinstance(o, Tensor) else tensor(*o) for o in operands),
            call.inputs,
            call.output,
            tuple(Part(c.name, c.source) for c in call.originals),
            tuple(call.layer.constants),
            call.into,
        )
        for call, (symbol, layer, operands) in zip(graph.calls, raw, strict=True)
    )
    inputs = tuple((p.name, Tensor("input", 0, p.shape, p.dtype, i)) for i, p in enumerate(graph.signature.inputs))
    ports = tuple((name, tensor(value, shape, dtype)) for name, value, shape, dtype in outputs)
    scratch = max(scratch_of(lowered).values(), default=0)
    data = np.concatenate(parameters) if parameters else np.zeros(0, np.uint8)
    return Plan(steps, inputs, ports, arena, scratch, end), data


def kernels_of(lowered) -> dict:
    """The PrimFuncs of a lowered module, by symbol."""
    return {g.name_hint: f for g, f in lowered.functions.items() if g.name_hint != "main"}


def scratch_of(lowered) -> dict[str, int]:
    """The bytes of scratch memory that one thread uses in each kernel of a lowered module."""
    return {symbol: int(f.attrs["scratch_bytes"]) for symbol, f in kernels_of(lowered).items()}


def inputs_of(plan: Plan) -> list:
    """Descriptions ``[shape, dtype]`` of random values for every input, as ``input_values`` and the services take
    them.
    """
    return [[list(t.shape), t.dtype] for _, t in plan.inputs]


def input_values(inputs, seed: int = 0) -> list[np.ndarray]:
    """The values of inputs: from an ``.npy`` file if one is a path, else drawn for its ``[shape, dtype]``."""
    draw = np.random.default_rng(seed)

    def drawn(shape, dtype) -> np.ndarray:
        if np.dtype(dtype).kind == "f":
            return draw.standard_normal(shape).astype(dtype)
        ends = np.iinfo(dtype)
        return draw.integers(ends.min, ends.max, shape, dtype, endpoint=True)

    return [np.load(x) if isinstance(x, str) else drawn(*x) for x in inputs]


def allocate(tensors: dict[int, tuple[int, int, int]]) -> tuple[dict[int, int], int]:
    """Places in one arena for tensors of ``(bytes, first step, last step)``: their offsets, and the size of the arena.

    Tensors are placed from the largest to the smallest, each at the lowest offset where it overlaps no tensor that is
    alive at the same time: the greedy-by-size order of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural
    Net Inference", 2020. For a tensor of a page or more, its step decides the offset within a page (``place_in_page``).
    """
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[int, int] = {}
    for key, (size, first, last) in sorted(tensors.items(), key=lambda t: (-t[1][0], t[0])):
        size = align(size)
        place = place_in_page(key) if size >= PAGE else None
        offset = _next(0, place)
        for start, stop, f, t in sorted(placed):
            if f <= last and first <= t:
                if offset + size <= start:
                    break
                offset = _next(max(offset, stop), place)
        placed.append((offset, offset + size, first, last))
        offsets[key] = offset
    return offsets, max((stop for _, stop, _, _ in placed), default=0)


def place_in_page(step: int) -> int:
    """The offset within a page at which the output of a step begins, in bytes.

    Most activations are whole pages long, and their rows of channels a power of two. If the data of a layer begins at
    the same offset as its output or a fused block's scratch memory, the same channels of both compete for the same sets
    of the L1. So scratch memory begins at 0, and the outputs of steps begin at 11 or 33 lines in turn. For rows of 512
    to 4,096 bytes, these are three different offsets within a row. More offsets would cost memory, since fewer tensors
    could share one.
    """
    return (1 + step % 2 * 2) * STAGGER


def _next(offset: int, place: int | None) -> int:
    """The first offset from this one on that has the given place in a page; the offset itself for None."""
    return offset if place is None else offset + (place - offset) % PAGE


def _shape(ty) -> tuple[int, ...]:
    return tuple(int(d) for d in ty.shape)


def align(nbytes: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
