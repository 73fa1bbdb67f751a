"""The tune log: decisions by layer and core, with their cost and its origin.

There are two files, because they have different readers:

``NAME.jsonl``         the best decisions, one line for each layer and core. People read, diff and ship it; builds read
                       it.
``NAME.trials.jsonl``  every candidate that ran, one line each, failures too. Only a search reads it, to continue after
                       an interruption and to avoid measuring a candidate twice. It may be deleted when tuning is over.

Both are journals (``journal``): concurrent writers lose nothing, and a line that is not a record is skipped and kept. A
later line does not replace an earlier one. ``best`` prefers measured to predicted costs, then current code and
estimates to older ones, then the lower score. ``tidy`` keeps the best lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tune_logs.journal import Journal, cut, typed
from tvm_mobilenet.tune_logs.journal import TornLineWarning as TornLineWarning

from tvm_mobilenet import old_words
from tvm_mobilenet.errors import reason as why
from tvm_mobilenet.files import json_text
from tvm_mobilenet.layer import Layer

CORES = 4  # number of cores for records that do not give it
HIDDEN = 0.125  # share of memory time that counts although the model hides it behind compute: no core hides all
UNITS = {"cycles": True, "s": False}  # unit to whether it is a prediction


@cache
def _issues_in_order(core: str) -> bool:
    """Whether the core of this name, of any board that ships, issues in order."""
    from tvm_mobilenet import targets

    boards = [targets.load(name) for name in targets.names() if name != "host"]
    return any(t.core.in_order for t in boards if t.core.name == core)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Decisions of one layer on one core, and what they cost.

    Parameters
    ----------
    layer, core : str
        The names of the layer (``Layer.name``, with shape, dtype and epilogue) and of the core.
    decisions : dict
        As ``schedules.kernel`` takes them.
    cost : float or None
        In ``unit``: predicted cycles of one core, or measured seconds. None: the candidate failed, see ``failure``.
    unit : str
        ``cycles`` (predicted) or ``s`` (measured).
    default_cost : float or None
        The cost of the layer's default decisions on the same board.
    board : str
        The board that ran it: ``virtual``, or a remote board's name.
    code, estimate, sources : str
        The keys (``keys``) of the machine code, of the estimate, and of the schedules' sources at that time. Costs are
        comparable only within one code key and, for predictions, one estimate key.
    target : str
        The target of the code: the board's name and a hash of its facts (``target_key``).
    cost_all_cores : float or None
        As ``cost``, with all cores of that target.
    cores : int
        The number of those cores.
    compute : float or None
        For a predicted cost on one core: the cost if every load hits the first-level cache.
    balance : float or None
        For a predicted cost: the compute cycles on all cores over an even share of ``compute``; 1 is even.
    memory : float or None
        For a predicted cost on one core: the cycles of its traffic at all levels, added up, hidden behind compute or
        not.
    versions : dict of str to str
        Versions of the tools that built and ran it.
    failure : str
        For a trial: the reason why it has no cost.
    whole : bool
        Whether all of the kernel's tasks were run and all of its output is right, not only a sample.
    in_order : bool
        Whether the core issues in order; for a shipped core, its name tells it too, as in earlier records.
    seconds : float
        For a trial: the time of building, running and checking.
    """

    layer: str
    core: str
    decisions: dict[str, int | str | bool]
    cost: float | None
    unit: str = "cycles"
    predicted: bool = True
    default_cost: float | None = None
    board: str = "virtual"
    code: str = ""
    estimate: str = ""
    sources: str = ""
    target: str = ""
    cost_all_cores: float | None = None
    cores: int = CORES
    compute: float | None = None
    balance: float | None = None
    memory: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    whole: bool = False
    in_order: bool = False
    seconds: float = 0.0

    def __post_init__(self):
        if UNITS.get(self.unit) is not self.predicted:
            raise ValueError(f"unit {self.unit!r} with predicted = {self.predicted!r}")
        if not isinstance(self.decisions, dict) or not isinstance(self.layer, str) or not isinstance(self.core, str):
            raise ValueError(f"layer {self.layer!r}, core {self.core!r}, decisions {self.decisions!r}")
        if (self.cost is None) != bool(self.failure):
            raise ValueError(f"cost {self.cost!r} with failure {self.failure!r}")

    @property
    def key(self) -> tuple[str, str]:
        return self.layer, self.core

    @property
    def score(self) -> float:
        """The rank of a record: the cost on one core and on all, and a share of the memory time; infinite for a
        failure.

        Of two candidates that the model finds equally fast, the one with less memory traffic is better. A core that
        issues in order waits at every level. So all of its memory time counts, and not only that of the slowest level,
        which is already in the cost.
        """
        if self.cost is None:
            return float("inf")
        every = self.cost if self.cost_all_cores is None else self.cores * self.cost_all_cores
        mean, memory = (self.cost + every) / 2, self.memory or 0.0
        if self.compute is None or not (self.in_order or _issues_in_order(self.core)):
            return mean + HIDDEN * memory
        return mean + max(0.0, memory - (self.cost - self.compute))

    def to_json(self) -> str:
        """One line of JSON, without empty fields."""
        data = {
            name: value for name, value in dataclasses.asdict(self).items() if value not in (None, "", {}, 0.0, False)
        }
        for name in ("cost", "default_cost", "cost_all_cores", "compute", "balance", "memory"):
            if name in data:
                data[name] = float(f"{data[name]:.7g}")
        if self.cores == CORES:  # as in the logs that were written before records said it
            del data["cores"]
        data |= {"decisions": self.decisions, "predicted": self.predicted}
        if self.failure:
            data["failure"] = cut(self.failure, 4096)
        if self.seconds:
            data["seconds"] = round(self.seconds, 3)
        return json.dumps(data)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The record of a line; a ValueError describes a bad line."""
        data = json_text.parse(line)
        if isinstance(data, dict):
            data.pop("schedule", None)  # of lines that were written before there were keys
            data = old_words.keys(data)
            _in_words_of_today(data)
        record = cls(**typed(cls, data, {"cost": None}))
        if record.cost is not None and record.cost <= 0:
            raise ValueError(f"cost = {record.cost:g} is not above zero")
        if record.cores < 1:
            raise ValueError(f"cores = {record.cores} is below one")
        for name in ("default_cost", "cost_all_cores", "compute", "balance", "memory", "seconds"):
            if (getattr(record, name) or 0) < 0:
                raise ValueError(f"{name} = {getattr(record, name):g} is below zero")
        return record


def _in_words_of_today(data: dict) -> None:
    """Rename, in place, the fields of a line of an earlier version."""
    layer, decisions = data.get("layer"), data.get("decisions")
    if isinstance(layer, str) and (name := old_words.layer_name(layer)) != layer:
        data["layer"] = name
        warnings.warn(old_words.NOTICE, stacklevel=2)
    if isinstance(decisions, dict):
        data["decisions"] = old_words.decisions(decisions)


def trials_of(path: str | os.PathLike) -> Journal:
    """The journal of trials beside a tune log."""
    return Journal(Path(path).with_suffix(".trials.jsonl"))


def target_key(target) -> str:
    """A target's name and a short hash of the facts that costs depend on; costs are comparable only within one key."""
    import hashlib

    return f"{target.name} {hashlib.sha256(repr(target.facts()).encode()).hexdigest()[:8]}"


def target_name(key: str) -> str:
    """The name in a ``target_key``."""
    return key.rpartition(" ")[0] or key


def shipped(core: str) -> Path:
    """The path of the log that ships for a core; it need not exist."""
    return Path(str(resources.files("tvm_mobilenet.tune_logs") / f"{core}.jsonl"))


def identity(decisions: dict) -> str:
    """A canonical text of decisions."""
    return json.dumps(decisions, sort_keys=True)


class Today:
    """A test of whether records have today's code and estimates.

    Parameters
    ----------
    target : targets.Target, optional
        The current target; others are looked up among the shipped ones. For a target that is neither, a record's code
        is current if the schedules' sources are.
    """

    def __init__(self, target=None):
        self._targets = {target.name: target} if target is not None else {}
        self._codes: dict[tuple[str, str, str], str] = {}

    def builds(self, record: Record) -> bool:
        """Whether its decisions give the same machine code today."""
        if record.sources and record.sources == keys.sources_key():
            return True
        return bool(record.code) and record.code == self._code(record)

    def counts(self, record: Record) -> bool:
        """Whether its cost is comparable with today's: it has the same code and, for a prediction, the same estimate
        key.
        """
        if record.predicted:
            target = self._target(record)
            if target is None or record.estimate != keys.estimate_key(target):
                return False
        return self.builds(record)

    def rank(self, record: Record) -> tuple:
        """A sort key: measured before predicted, comparable records before others, then the lower score."""
        return record.predicted, not self.counts(record), record.score

    def _target(self, record: Record):
        from tvm_mobilenet import targets

        name = target_name(record.target)
        if name not in self._targets:
            shipped = name in targets.names() and name != "host"
            self._targets[name] = targets.load(name) if shipped else None
        return self._targets[name]

    def _code(self, record: Record) -> str:
        key = record.layer, identity(record.decisions), target_name(record.target)
        if key not in self._codes:
            self._codes[key] = ""
            with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):  # the schedule no longer exists
                if target := self._target(record):
                    self._codes[key] = keys.code_key(Layer.parse(record.layer), record.decisions, target)
        return self._codes[key]


def best(records: Iterable[Record], today: Today | None = None) -> dict[tuple[str, str], Record]:
    """The record that wins for each layer and core."""
    today, groups = today or Today(), {}
    for record in records:
        if record.cost is not None:
            groups.setdefault(record.key, []).append(record)
    return {key: min(group, key=today.rank) if len(group) > 1 else group[0] for key, group in groups.items()}


def tidy(
    path: str | os.PathLike, refuses: Callable[[Record], bool] = lambda record: False, today: Today | None = None
) -> None:
    """Keep one line for each layer, core, target and kind of cost, sorted, so that a diff of the log shows the changes.

    Lines that are not records stay. Records that no schedule accepts (``refuses``) compete only with each other, so
    they never replace a record that a build can use.
    """

    def choose(records: list[Record]) -> list[Record]:
        groups: dict[tuple, list[Record]] = {}
        for record in records:
            key = record.core, record.layer, target_name(record.target), record.predicted, refuses(record)
            groups.setdefault(key, []).append(record)
        return [winner for key in sorted(groups) for winner in best(groups[key], today).values()]

    Journal(path).rewrite(choose)


@dataclass(frozen=True)
class Known:
    """The known decisions of a layer and the log that they come from."""

    record: Record
    source: Path


def consulted(log: str | os.PathLike | None, core: str) -> list[Path]:
    """The tune logs in the order in which they are consulted: the user's own, if any, then the one that ships."""
    return [*([Path(log)] if log else []), shipped(core)]


class TuneLogs:
    """Several logs, consulted in order: the first that knows a layer decides, but a measured record beats a predicted
    one.

    Parameters
    ----------
    paths : sequence of path
        Usually those of ``consulted``. Files need not exist.
    target : targets.Target
        Its core determines the records that count and, with today's schedules, those that are valid. Within a log,
        records of this target come first, then those of other targets with the same core.
    """

    def __init__(self, paths: Iterable[str | os.PathLike], target):
        self._core = core = target.core
        self._paths = [Path(path) for path in paths]
        self._by_layer: dict[str, list[Known]] = {}
        for path in self._paths:
            for record in Journal(path).records():
                if record.core == core.name and record.cost is not None:
                    self._by_layer.setdefault(record.layer, []).append(Known(record, path))
        self._target, self._today = target, Today(target)
        self._checked: dict[str, Known | None] = {}

    def find(self, layer) -> Known | None:
        """The known decisions of a layer that are valid for today's schedule, or None; a warning names invalid ones."""
        if layer.name not in self._checked:
            known = self._by_layer.get(layer.name, [])
            ordered = sorted(known, key=self._order) if len(known) > 1 else known
            self._checked[layer.name] = next(filter(self._valid, ordered), None)
        return self._checked[layer.name]

    def _order(self, known: Known) -> tuple:
        record, other = known.record, target_name(known.record.target) != self._target.name
        return record.predicted, self._paths.index(known.source), other, *self._today.rank(record)

    def layers(self) -> list[str]:
        """The names of all layers in the logs, valid or not."""
        return sorted(self._by_layer)

    def _valid(self, known: Known) -> bool:
        from tvm_mobilenet import schedules

        record = known.record
        try:
            reason = schedules.space(Layer.parse(record.layer), self._core).valid(record.decisions)
        except ValueError as e:
            reason = why(e)
        if reason:
            warnings.warn(f"{known.source}: {record.layer} on {record.core}: {reason}; skipped", stacklevel=3)
        return not reason
