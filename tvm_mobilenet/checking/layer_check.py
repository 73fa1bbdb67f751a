"""One layer of a built module, after its step ran, against its definition and the model's constants.

What it got is read from the memory that the module left, so a layer is judged for its own mistakes alone. Of a wrong
one `Evidence` holds the tensors, and writes them to a folder for whoever looks for the mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tvm_mobilenet.boards.comparison import compare, last_place, relative
from tvm_mobilenet.checking import reference, stepped, tolerance
from tvm_mobilenet.errors import TvmMobilenetError, reason
from tvm_mobilenet.files.whole_file import replacing_folder
from tvm_mobilenet.kinds.places import Place
from tvm_mobilenet.layer import Layer

# Of the scale of a layer's sums. A layer is one sum in float32: over 1,024 products its rounding is some 1e-6. One
# weight off by a hundredth of its layer's standard deviation shows as 3e-4 (k = 1,024) or more.
LAYER_TOLERANCE = 5e-5
CONSTANTS_TOLERANCE = 1e-6  # of a weight's standard deviation: they are copies


@dataclass(frozen=True)
class LayerCheck:
    """One layer against its definition.

    Attributes
    ----------
    relative : float
        Largest difference of the output, of the scale of the layer's sums.
    constants : float
        The same of weights and bias against the model's, over their standard deviation.
    wrong_part : str
        The layer of a fused block whose constants differ.
    units : int or None
        Of a layer that rounds once at each step, in an order of its own (`checking.stepped`): by how many units in the
        last place its values may differ, of which ``relative`` is the largest; 0: they are equal.
    beyond : bool
        Of such a layer: a sum, a product or an output of finite operands left the range of its dtype on the way, by the
        definition of its steps, whatever an activation made of it.
    """

    name: str
    layer: str
    source: str
    relative: float
    constants: float = 0.0
    wrong_part: str = ""
    units: int | None = None
    beyond: bool = False

    @property
    def ok(self) -> bool:
        return self.relative <= self.allowed and self.constants <= CONSTANTS_TOLERANCE

    @property
    def allowed(self) -> float:
        """What ``relative`` may be."""
        return LAYER_TOLERANCE if self.units is None else float(self.units)

    @property
    def difference(self) -> str:
        """``relative`` and its unit, for people."""
        return f"{self.relative:.1e}" if self.units is None else f"{self.relative:.3g} ulp"


def check_layer(call, step, runner, decisions: dict) -> tuple[LayerCheck, bool]:
    """A layer after its step ran, and whether a mistake would have shown."""
    from tvm_mobilenet import schedules

    *operands, output = step.operands
    data, *others = (runner.read(t) for t in operands if t.space != "parameters")
    given = {"data": data, **reference.operands_of(call, others)}
    whole = reference.integral(call.layer)
    due = None if whole else tolerance.expected(call.layer, LAYER_TOLERANCE, **given)
    constants = [runner.read(t) for t in operands if t.space == "parameters"]
    try:
        packed = schedules.pack(call.layer, decisions, call.constants)
    except (ValueError, LookupError, TypeError, ArithmeticError, AssertionError) as e:
        raise TvmMobilenetError(
            f"{step.name}, {step.layer}: no build has its decisions "
            f"{' '.join(f'{name}={value}' for name, value in decisions.items())[:200]}: {reason(e)}",
            "the plan was changed: build it again",
        ) from None
    differences = [relative(c, p) for c, p in zip(constants, packed, strict=True)]
    wrong, part = max(differences, default=0.0), ""
    if wrong > CONSTANTS_TOLERANCE and call.parts:
        part = schedules.of(call.layer).part_of(call.layer, decisions, differences.index(wrong)).name
    made = call.layer.output_place.view(runner.read(output))
    found, beyond = _difference(call.layer, made, due, given)
    sees = len(np.unique(made)) > 1 if whole else due.answers >= tolerance.BLIND
    units = stepped.allowed(call.layer).get("units")
    return LayerCheck(call.name, step.layer, call.source, found, wrong, part, units, beyond), sees


def _difference(layer: Layer, found: np.ndarray, due: tolerance.Expected | None, operands: dict) -> tuple[float, bool]:
    """Of the scale of the layer's sums; of one that rounds once at each step, in units in the last place. And whether
    finite operands left the range of its dtype."""
    rule = stepped.allowed(layer)
    if not rule:
        return LAYER_TOLERANCE * relative(found, due.output, due.allowed), False
    if reference.integral(layer):
        right, beyond = stepped.expected(layer, **operands), False
    else:
        right, largest = stepped.run(layer, **operands)
        given = (operands["data"], operands.get("second"))
        beyond = not largest < np.inf and all(np.isfinite(one).all() for one in given if one is not None)
    return relative(found, right, last_place(found, right, rule["dtype"])), beyond


class Parts:
    """Parts of larger tensors, as they were written: a layer that writes another part changes none of them."""

    def __init__(self):
        self._written: dict[str, list[tuple[Place, np.ndarray]]] = {}

    def forget(self) -> None:
        """Another run begins."""
        self._written.clear()

    def watch(self, call, step, runner, checked: LayerCheck) -> LayerCheck:
        """What was found of a layer after its step ran, and whether the other parts are what they were."""
        if not step.into:
            return checked
        memory, place = runner.read(step.operands[-1]), call.layer.output_place
        written = self._written.setdefault(step.into, [])
        intact = all(np.array_equal(other.view(memory), values, equal_nan=True) for other, values in written)
        written.append((place, place.view(memory).copy()))
        return checked if intact else replace(checked, relative=float("inf"))


def check_alone(call, step, runner, checked: LayerCheck) -> LayerCheck:
    """A layer whose outputs showed nothing, run by itself on operands to which they answer."""
    whole = reference.integral(call.layer)
    if whole:
        operands = reference.random_arguments(call.layer)
        del operands["constants"]
    else:
        operands = None if call.layer.body else tolerance.revealing(call.layer, call.weight, call.bias)
    if operands is None:
        return checked
    *given, output = step.operands
    runner.write(given[0], reference.in_buffer(operands["data"], call.layer.input_place))
    if "second" in operands:
        runner.write(given[-1], reference.in_buffer(operands["second"], call.layer.second_place))
    runner.call(step)
    given = {**reference.operands_of(call, ()), **operands}
    due = None if whole else tolerance.expected(call.layer, LAYER_TOLERANCE, **given)
    made = call.layer.output_place.view(runner.read(output))
    found, beyond = _difference(call.layer, made, due, given)
    return replace(checked, relative=max(checked.relative, found), beyond=checked.beyond or beyond)


TEXT = "what.txt"
MARK = "Written by tvm_mobilenet verify --dump: "  # the text of such a folder begins so


@dataclass(frozen=True)
class Evidence:
    """The tensors of a layer that computes something else than it should.

    Attributes
    ----------
    name, layer, source : str
        As its `LayerCheck` has them.
    about : str
        What is wrong, for people.
    tensors : dict of str to (ndarray, str)
        By the name of their file, each with what it is: what the layer got, ``expected``, ``got``.
    """

    name: str
    layer: str
    source: str
    about: str
    tensors: dict[str, tuple[np.ndarray, str]]

    def write(self, folder: Path) -> None:
        """Write each tensor as ``NAME.npy``, and ``what.txt``, which says what they are; all of it or nothing.

        Raises
        ------
        TvmMobilenetError
            The folder holds anything but an earlier dump of this kind, or nothing can be written there.
        """
        require_free(folder)
        rows = [
            f"{name}.npy  {array.dtype} {'x'.join(map(str, array.shape)) or 'scalar'}: {what}"
            for name, (array, what) in self.tensors.items()
        ]
        where = f"{self.name}, {self.layer} (from {self.source})"
        try:
            with replacing_folder(folder) as new:
                for name, (array, _) in self.tensors.items():
                    np.save(new / f"{name}.npy", array, allow_pickle=False)
                text = f"{MARK}{where}\n\n{self.about}\n\n" + "\n".join(rows) + "\n"
                (new / TEXT).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as e:
            raise TvmMobilenetError(f"cannot write the dump {folder}: {reason(e)}", "choose another --dump") from None


def require_free(folder: Path) -> None:
    """Refuse a folder for tensors that holds what another wrote.

    Raises
    ------
    TvmMobilenetError
        It is no folder, or neither empty nor an earlier dump with nothing else in it.
    """
    other = "give --dump a folder that does not exist yet, or an earlier dump of verify, which is replaced"
    try:
        if not folder.exists() and not folder.is_symlink():
            return
        if not folder.is_dir():
            raise TvmMobilenetError(f"cannot write the dump {folder}: it is no folder", other)
        names = sorted(path.name for path in folder.iterdir())
        text, own = folder / TEXT, False
        if text.is_file() and not text.is_symlink():
            with text.open(encoding="utf-8", errors="replace") as file:
                own = file.read(len(MARK)) == MARK
    except OSError as e:
        raise TvmMobilenetError(f"cannot write the dump {folder}: {reason(e)}", "choose another --dump") from None
    foreign = [name for name in names if not own or (name != TEXT and not name.endswith(".npy"))]
    if foreign:
        raise TvmMobilenetError(f"cannot write the dump {folder}: it holds {', '.join(foreign[:3])}", other)


def evidence_of(call, step, runner, decisions: dict, check: LayerCheck) -> Evidence:
    """The tensors of a layer that was found wrong, from the memory in which it was."""
    from tvm_mobilenet import schedules

    *operands, output = step.operands
    data, *others = (runner.read(t) for t in operands if t.space != "parameters")
    given = {"data": data, **reference.operands_of(call, others)}
    right = stepped.expected(call.layer, **given)
    made = call.layer.output_place.view(runner.read(output))
    tensors = {"data": (data, "the layer's data, as it lies in memory")}
    for i, other in enumerate(others):
        tensors["second" + str(i + 1) * bool(i)] = other, "its residual or second operand, as it lies in memory"
    for name, array in call.constants.items():
        tensors[name] = np.asarray(array), "a constant of the model"
    packed = schedules.pack(call.layer, decisions, call.constants)
    built = [runner.read(t) for t in operands if t.space == "parameters"]
    names = [*step.constants, *(f"packed_{i}" for i in range(len(step.constants), len(built)))]
    for name, own, due in zip(names, built, packed, strict=True):
        if relative(own, due) > CONSTANTS_TOLERANCE:
            tensors[f"{name}.got"] = own, f"{name} as the build has it, packed"
            tensors[f"{name}.expected"] = due, f"{name} of the model, packed"
    tensors["expected"] = right, "the output that the definition of the layer gives"
    tensors["got"] = made, "the output that the machine code gave"
    most = compare(made, right)
    about = (
        f"{int((made != right).sum())} of {right.size} values differ from the definition; the largest difference is at "
        f"{most.where}: {made[most.where]} in place of {right[most.where]}. The layer differs by {check.difference}, "
        f"its constants by {check.constants:.2e} of their standard deviation. Decisions: "
        + " ".join(f"{name}={value}" for name, value in decisions.items())
    )
    return Evidence(check.name, check.layer, check.source, about, tensors)
