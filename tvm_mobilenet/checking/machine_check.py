"""Run a built module on a board and compare it with its model: every output, every layer.

`verify`, `tune`, `sweep --budget` and the creation of a bundle all use this check; `checking.tolerance` defines the
permitted differences. A model whose output does not depend on its input is refused, because no mistake could show. If
the given inputs do not change the outputs (a face detector on photographs without faces), the check adds noise that
does. A layer whose output depends on none of its operands (a dead ReLU) is run again, alone, on operands that change
it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tvm_mobilenet.boards.comparison import deviation_of, relative
from tvm_mobilenet.checking import given_layers, network_steps, same_outputs, tolerance
from tvm_mobilenet.checking.amplified import with_rounding
from tvm_mobilenet.checking.built_calls import calls_of
from tvm_mobilenet.checking.layer_check import (
    CONSTANTS_TOLERANCE,
    LAYER_TOLERANCE,
    Evidence,
    LayerCheck,
    Parts,
    check_alone,
    check_layer,
    evidence_of,
)
from tvm_mobilenet.checking.network_ends import Ends, OutputCheck, check_output, movement, output_tolerance
from tvm_mobilenet.checking.same_outputs import SameOutputs
from tvm_mobilenet.compiler.kept import using_its_files
from tvm_mobilenet.errors import VerificationError

AGAIN = 4  # inputs of noise that are added if the distances to float64 on the first explain no difference
QUIET = 1e-2  # noise is added if inputs move the outputs by less than this share of what noise does

CALIBRATE = "build with --calibrate and images like these, or in float32"
BEYOND = f"values left float16's range: {CALIBRATE}"


@dataclass(frozen=True)
class Found:
    """The result of a check.

    Attributes
    ----------
    inputs : list of tuples of ndarray
        All inputs that were run: the given ones, and noise if these do not move the outputs.
    outputs : list of OutputCheck
    layers : list of LayerCheck
        The checks of the first input; empty if not requested.
    values : list of lists of ndarray
        The outputs, for each of the inputs.
    reference : str
        The framework that the outputs were compared with.
    run : boards.plan_runner.PlanRun
        Of the first input.
    costs : tuple
        The costs on one core and on all; empty if not requested.
    evidence : layer_check.Evidence or None
        The tensors of the first wrong layer.
    files : list of same_outputs.SameOutputs
        The results of the build's other files; empty if the plan's outputs are already wrong.
    """

    inputs: list
    outputs: list[OutputCheck]
    layers: list[LayerCheck]
    values: list
    reference: str
    run: object
    costs: tuple = field(default=())
    evidence: Evidence | None = None
    files: list[SameOutputs] = field(default_factory=list)

    def require(self) -> None:
        """Raise a VerificationError that names the first wrong layer, unless all is right."""
        require(self.outputs, self.layers, self.reference, self.files)


def first_wrong(layers: list[LayerCheck]) -> LayerCheck | None:
    """The first layer with a wrong result."""
    return next((c for c in layers if not c.ok), None)


def require(
    outputs: list[OutputCheck], layers: list[LayerCheck], reference: str, files: Iterable[SameOutputs] = ()
) -> None:
    """Raise a VerificationError that names the first wrong layer, unless all is right."""
    wrong = first_wrong(layers)
    if wrong:
        where = f"{wrong.name}, {wrong.layer} (from {wrong.source})"
        if wrong.wrong_part:
            where = f"{wrong.wrong_part}, in {where}"
    if wrong and wrong.constants > CONSTANTS_TOLERANCE:
        raise VerificationError(
            f"the constants of {where}, are not the model's: they differ by {wrong.constants:.2e} of their standard "
            "deviation",
            "its weights changed since the build: build again",
        )
    if wrong and wrong.beyond:
        raise VerificationError(
            f"sums of {where}, leave the range of float16 on these inputs: its results there are infinite or NaN, or "
            "an activation has clamped them",
            CALIBRATE,
        )
    if wrong:
        if wrong.units is None:
            by = f"{wrong.relative:.2e} of its scale, {LAYER_TOLERANCE:.0e} is allowed"
        else:
            by = f"{wrong.relative:.3g} units in the last place, {wrong.units or 'none'} is allowed"
        beyond = "" if wrong.units is None or np.isfinite(wrong.relative) else f"; or {BEYOND}"
        raise VerificationError(
            f"the machine code is wrong first in {where}: it differs by {by}",
            f"build again; if it stays, report the layer's line and its decisions{beyond}",
        )
    worst = max(outputs, key=lambda c: (not c.ok, c.relative / c.tolerance))
    if not worst.ok and worst.amplified:
        raise VerificationError(
            f"output {worst.name}: the network amplifies the rounding of float32 so much that a comparison shows "
            f"nothing: {reference} itself differs from float64 by {worst.amplified:.2e} of its scale, and from this "
            f"build by {worst.relative:.2e}; {worst.tolerance:.2e} is allowed",
            "check how images become its input (--mean, --std), or give inputs of its kind with --input FILE.npy",
        )
    if not worst.ok:
        raise VerificationError(
            f"output {worst.name} differs from {reference} by {worst.relative:.2e} of its scale, "
            f"{worst.tolerance:.2e} is allowed, though every layer computes what it should",
            "the model was imported wrongly, or its weights changed since the build"
            if all(layer.units is None for layer in layers)
            else f"float16 rounds too much for it: build with --accumulate float32, or in float32; or {BEYOND}",
        )
    for one in files:
        one.require()


@using_its_files
def check(
    module,
    network,
    board,
    inputs: list,
    *,
    layers: bool = True,
    cores: int | None = None,
    visible: bool = False,
    whole: bool = True,
) -> Found:
    """Run a built module on an opened board and compare it.

    In one piece: all its steps observe one run, while the module is loaded.

    Parameters
    ----------
    module : built.BuiltModule
    network : Network
        The model.
    board : board
        An open board.
    inputs : list of tuples of ndarray
        Each the model's inputs.
    layers : bool
        Whether to check each layer too, on the first input.
    cores : int, optional
        If given, also find the cost of a run on one core and on so many.
    whole : bool
        Whether to run the build's other files too.
    visible : bool
        Whether to add noise if the outputs themselves do not change, even if the logits before them do.

    Raises
    ------
    VerificationError
        No output of the model depends on its input, or the framework's outputs are not finite.
    TvmMobilenetError
        The module was built from another network.
    BoardError
        The board cannot be reached, or a kernel ran wild.
    """
    from tvm_mobilenet.boards.library_runner import open_runner
    from tvm_mobilenet.boards.plan_runner import run_and_estimate

    calls = calls_of(network, module)
    noise = _noise(network.signature.inputs, (1, 4))
    said = network.framework(inputs + noise)
    if not all(map(_finite, said.values[len(inputs) :])):
        noise = _finite_noise(network)
        said = network.framework(inputs + noise)
    _require_numbers(said, network)
    _require_import(network, inputs + noise, said)
    names = [name for name, _ in module.plan.outputs]
    batch = inputs + noise if _is_quiet(network, said, len(inputs), visible) else inputs
    decisions = {built_layer.layer: built_layer.decisions for built_layer in module.layers}
    ends = Ends(calls, network.signature)
    checks: list[LayerCheck] = []
    blind: list[int] = []
    wrong: list[Evidence] = []
    parts = Parts()
    number = 0

    def look(i: int, checked: LayerCheck, runner) -> LayerCheck:
        if not checked.ok and not wrong:
            step = module.plan.steps[i]
            wrong.append(evidence_of(calls[i], step, runner, decisions[step.layer], checked))
        return checked

    def watch(step, _run, runner, layer: bool = True) -> None:
        nonlocal number
        ends.watch(number, step, runner)
        if number == 0:
            parts.forget()
        if layer:
            checked, sees = check_layer(calls[number], step, runner, decisions[step.layer])
            checked = parts.watch(calls[number], step, runner, checked)
            checks.append(look(number, checked, runner))
            if not sees:
                blind.append(number)
        number = (number + 1) % len(calls)

    def watch_ends(step, run, runner) -> None:
        watch(step, run, runner, False)

    start = time.monotonic()
    with open_runner(board, module) as runner:
        first = watch if layers else watch_ends
        if cores is None:
            run, costs = runner.run(*batch[0], watch=first), ()
        else:
            run, *costs = run_and_estimate(runner, board, batch[0], cores, first)
        values, found_ends = [run.outputs], [ends.take()]
        for x in batch[1:]:
            values.append(runner.run(*x, watch=watch_ends).outputs)
            found_ends.append(ends.take())
        outputs = [
            check_output(
                name,
                [network.signature.outputs[j].real(v[j]) for v in values],
                [v[j] for v in said.values],
                sum(len(call.layer.parts) or 1 for call in calls),
                [e[j] for e in found_ends],
                [b[j] for b in said.before],
                network.options.dtype,
                said.steps[j] if said.steps else (0.0, 0.0),
            )
            for j, name in enumerate(names)
        ]
        _require_movement(outputs, network)
        if not layers or all(c.ok for c in checks):
            network_steps.require_equal(network, batch, values)
        if layers and not all(o.ok for o in outputs):  # another input shows what the first did not
            for x in batch[1:]:
                if not all(c.ok for c in checks):
                    break
                checks.clear()
                runner.run(*x, watch=watch)
        for i in dict.fromkeys(blind) if all(c.ok for c in checks) else ():
            checks[i] = look(i, check_alone(calls[i], module.plan.steps[i], runner, checks[i]), runner)
    if not all(o.ok for o in outputs) and all(c.ok and c.units is None for c in checks):
        outputs = with_rounding(outputs, network, batch, values, said.values)
        if len(batch) > len(inputs) and not all(o.ok for o in outputs):
            again = _noise(network.signature.inputs, (1, 4, *[4] * AGAIN))[2:]
            more = network.framework(again).values
            with open_runner(board, module) as runner:
                found = [runner.run(*x).outputs for x in again]
            outputs = with_rounding(outputs, network, batch + again, values + found, [*said.values, *more])
    others = []
    if whole and all(c.ok for c in (*outputs, *checks)):
        others = same_outputs.check(board, module, batch, values, time.monotonic() - start)
    return Found(batch, outputs, checks, values, said.name, run, tuple(costs), next(iter(wrong), None), others)


def _noise(ports, scales: tuple[float, ...], change=np.asarray) -> list[tuple[np.ndarray, ...]]:
    """Inputs that change a network's outputs, if any do: noise of several magnitudes."""
    draw = np.random.default_rng(1)
    return [tuple(p.noise(draw, scale, change) for p in ports) for scale in scales]


def _finite_noise(network) -> list[tuple[np.ndarray, ...]]:
    """Noise for which the framework's outputs are finite: a logarithm needs positive values, a long product small ones.

    At most two; fewer, or none, if the outputs on noise are not finite.
    """
    ports = network.signature.inputs
    tried = [
        *_noise(ports, (1, 4)),
        *_noise(ports, (1, 4), np.abs),
        *_noise(ports, (1 / 16,)),
        *_noise(ports, (1 / 16,), np.abs),
    ]
    return [x for x, found in zip(tried, network.framework(tried).values, strict=True) if _finite(found)][:2]


def _finite(outputs: list[np.ndarray]) -> bool:
    return all(np.isfinite(value).all() for value in outputs)


def _require_numbers(said, network) -> None:
    """Refuse a reference with values that are not finite, since these cannot show whether the machine code is right.

    Raises
    ------
    VerificationError
        The message names the output.
    """
    for i, values in enumerate(said.values):
        for port, value in zip(network.signature.outputs, values, strict=True):
            if not np.isfinite(value).all():
                raise VerificationError(
                    f"output {port.name} of {said.name} holds infinities or NaN on input {i + 1}: there is nothing to "
                    "compare with",
                    "give other inputs with --input FILE.npy, or look for weights that make its sums overflow",
                )


def _require_import(network, batch: list, said) -> None:
    """For a network in another dtype than its model's: check that its imported layers equal the framework.

    The comparison is in float32, since the rounding of another dtype would hide a layer that was imported wrongly. For
    a network that came quantized, the int8 layers are compared with the framework on the same integers.

    Raises
    ------
    VerificationError
        The results differ.
    """
    if network.original is None:
        return
    if network.quantized:
        given_layers.require(given_layers.differences(network, network.whole_numbers(batch)))
        return
    from tvm_mobilenet.compiler import calibration

    limit = output_tolerance(tolerance.FRAMEWORK, len(network.original.calls))
    ports = network.original.signature
    for given, expected in zip(network.real(batch), said.values, strict=True):
        found = calibration.outputs(network.original, given)
        for port, one, right in zip(ports.outputs, found, expected, strict=True):
            unit = deviation_of(right.astype(np.float64)) + np.abs(right.astype(np.float64))
            off = relative(one, right, unit)
            if not off <= limit:
                raise VerificationError(
                    f"output {port.name}: the imported layers, in float32, differ from {said.name} by {off:.2e} of "
                    f"its scale, {limit:.2e} is allowed",
                    "the model was imported wrongly, or its weights changed since the build",
                )


def _is_quiet(network, said, count: int, visible: bool) -> bool:
    """Whether the first ``count`` inputs, if several, leave every output nearly unchanged, and noise does not.

    Raises
    ------
    VerificationError
        No input changes any output.
    """
    quiet, moves = [], False
    for j in range(len(said.functions)):
        values = said.telling(j)
        whole = movement(values)
        moves = moves or whole > 16 * tolerance.ROUNDING * max(float(np.abs(v).max(initial=0.0)) for v in values)
        shown = [outputs[j] for outputs in said.values] if visible else values
        quiet.append(movement(shown[:count]) < QUIET * movement(shown))
    if not moves:
        _refuse([f"output{j}" for j in range(len(quiet))], network)
    return count > 1 and all(quiet)


def _require_movement(outputs: list[OutputCheck], network) -> None:
    if all(o.constant for o in outputs):
        _refuse([o.name for o in outputs], network)


def _refuse(names: list[str], network) -> None:
    outputs = f"output {names[0]} is" if len(names) == 1 else f"outputs {', '.join(names)} are"
    raise VerificationError(
        f"the reference's {outputs} the same for every input, noise included, so a comparison can show nothing",
        _what_may_move_it(network) + "look for a layer that gives only zeros",
    )


def _what_may_move_it(network) -> str:
    """A hint: to use other weights, if the model takes some; for a file that takes images, to check their
    preprocessing.
    """
    if not network.options.is_file:
        return "use weights that are trained, or leave out --weights for calibrated ones; "
    if network.image is None:
        return ""
    now = network.image.preprocess.told(("mean", "std"))
    return f"images become its input with {now}: --mean and --std say how it was trained; "
