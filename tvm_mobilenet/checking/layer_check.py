"""One layer of a built module, checked after its step ran, against its definition and the model's constants.

The check reads the layer's operands from the module's memory, so it finds only the layer's own mistakes. For a wrong
layer, `Evidence` holds the tensors and writes them to a folder for debugging.
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

# A share of the scale of a layer's sums. A layer is one sum in float32: over 1,024 products its rounding is some 1e-6.
# One weight off by a hundredth of its layer's standard deviation shows as 3e-4 (k = 1,024) or more.
LAYER_TOLERANCE = 5e-5
CONSTANTS_TOLERANCE = 1e-6  # a share of a weight's standard deviation: constants are copies


@dataclass(frozen=True)
class LayerCheck:
    """One layer against its definition.

    Attributes
    ----------
    relative : float
        Largest difference of the output, over the scale of the layer's sums.
    constants : float
        The same of weights and bias against the model's, over their standard deviation.
    wrong_part : str
        The layer of a fused block whose constants differ.
    units : int or None
        For a layer with a fixed order of steps that each round once (`checking.stepped`): the permitted difference in
        units in the last place, 0 for equality. ``relative`` then is the largest difference in these units.
    beyond : bool
        For such a layer: whether, by the definition of its steps, a sum, a product or an output of finite operands left
        the range of its dtype, even if an activation hid it.
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
        """The tolerance of ``relative``."""
        return LAYER_TOLERANCE if self.units is None else float(self.units)

    @property
    def difference(self) -> str:
        """``relative`` with its unit, as text."""
        return f"{self.relative:.1e}" if self.units is None else f"{self.relative:.3g} ulp"


def check_layer(call, step, runner, decisions: dict) -> tuple[LayerCheck, bool]:
    """The check of a layer after its step ran, and whether a mistake would have shown."""
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
    differences = [_changed(c, p) for c, p in zip(constants, packed, strict=True)]
    wrong, part = max(differences, default=0.0), ""
    if wrong > CONSTANTS_TOLERANCE and call.parts:
        part = schedules.of(call.layer).part_of(call.layer, decisions, differences.index(wrong)).name
    made = call.layer.output_place.view(runner.read(output))
    found, beyond = _difference(call.layer, made, due, given)
    sees = len(np.unique(made)) > 1 if whole else due.answers >= tolerance.BLIND
    units = stepped.allowed(call.layer).get("units")
    return LayerCheck(call.name, step.layer, call.source, found, wrong, part, units, beyond), sees


def _changed(own: np.ndarray, due: np.ndarray) -> float:
    """The difference of a constant from what the build should have, which may contain NaN."""
    same = own.shape == due.shape and np.array_equal(own, due, equal_nan=own.dtype.kind == "f")
    return 0.0 if same else relative(own, due)


def _difference(layer: Layer, found: np.ndarray, due: tolerance.Expected | None, operands: dict) -> tuple[float, bool]:
    """The difference over the scale of the layer's sums, or in units in the last place for a layer that rounds once at
    each step; and whether finite operands left the range of its dtype.
    """
    rule = stepped.allowed(layer)
    if not rule:
        _require_shape(layer, found, due.output)
        return LAYER_TOLERANCE * relative(found, due.output, due.allowed), False
    if reference.integral(layer):
        right, beyond = stepped.expected(layer, **operands), False
    else:
        right, largest = stepped.run(layer, **operands)
        given = (operands["data"], operands.get("second"))
        beyond = not largest < np.inf and all(np.isfinite(one).all() for one in given if one is not None)
    _require_shape(layer, found, right)
    return relative(found, right, last_place(found, right, rule["dtype"])), beyond


def _require_shape(layer: Layer, found: np.ndarray, right: np.ndarray) -> None:
    if found.shape[:-1] != right.shape[:-1]:
        raise TvmMobilenetError(
            f"{layer.name}: the plan's output has the shape {found.shape}, the layer's {right.shape}",
            "the plan was changed: build it again",
        )


class Parts:
    """The contents of parts of larger tensors after they were written: a layer that writes another part must not change
    them.
    """

    def __init__(self):
        self._written: dict[str, list[tuple[Place, np.ndarray]]] = {}

    def forget(self) -> None:
        """Begin another run."""
        self._written.clear()

    def watch(self, call, step, runner, checked: LayerCheck) -> LayerCheck:
        """The check of a layer after its step ran, extended by whether the other parts are unchanged."""
        if not step.into:
            return checked
        memory, place = runner.read(step.operands[-1]), call.layer.output_place
        written = self._written.setdefault(step.into, [])
        intact = all(np.array_equal(other.view(memory), values, equal_nan=True) for other, values in written)
        written.append((place, place.view(memory).copy()))
        return checked if intact else replace(checked, relative=float("inf"))


def check_alone(call, step, runner, checked: LayerCheck) -> LayerCheck:
    """Check a layer whose outputs did not depend on its sums, alone, on operands that make them depend."""
    whole = reference.integral(call.layer)
    if whole:
        operands = reference.random_arguments(call.layer)
        del operands["constants"]
    else:
        given = reference.operands_of(call, ())
        del given["second"]
        operands = None if call.layer.body else tolerance.revealing(call.layer, **given)
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
MARK = "Written by tvm_mobilenet verify --dump: "  # first words of such a folder's text


@dataclass(frozen=True)
class Evidence:
    """The tensors of a layer with a wrong result.

    Attributes
    ----------
    name, layer, source : str
        As in its `LayerCheck`.
    about : str
        A description of the mistake.
    tensors : dict of str to (ndarray, str)
        The tensor and its description by file name: the layer's operands, ``expected``, ``got``.
    """

    name: str
    layer: str
    source: str
    about: str
    tensors: dict[str, tuple[np.ndarray, str]]

    def write(self, folder: Path) -> None:
        """Write each tensor as ``NAME.npy``, and ``what.txt`` with their descriptions; all files or none.

        Raises
        ------
        TvmMobilenetError
            The folder has other files than an earlier dump of this kind, or cannot be written.
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
    """Refuse a folder for tensors that has other files.

    Raises
    ------
    TvmMobilenetError
        The path is not a folder, or the folder is neither empty nor only an earlier dump.
    """
    other = "give --dump a folder that does not exist yet, or an earlier dump of verify, which is replaced"
    try:
        if not folder.exists() and not folder.is_symlink():
            return
        if not folder.is_dir():
            raise TvmMobilenetError(f"cannot write the dump {folder}: it is not a folder", other)
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
    """The tensors of a wrong layer, from the memory in which it was found."""
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
        if _changed(own, due) > CONSTANTS_TOLERANCE:
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
