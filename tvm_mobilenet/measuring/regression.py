"""Two benchmarks of one network compared: the slower rows, and the layers that caused them.

The comparison uses medians of the network, and of each kernel call that both timed. A layer is listed if it became
slower by more than the limit, and has a sufficient share of the network's loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet import old_words
from tvm_mobilenet.errors import RegressionError, TvmMobilenetError
from tvm_mobilenet.measuring.benchmark import Benchmark, Row
from tvm_mobilenet.terminal.titles import title

WORTH_A_LOOK = 0.05  # least share of the network's loss for a layer to be listed


@dataclass(frozen=True)
class LayerChange:
    """One kernel call before and after, in seconds; None where only one of the two builds has it."""

    name: str
    layer: str
    before: float | None
    after: float | None

    @property
    def delta(self) -> float:
        return (self.after or 0.0) - (self.before or 0.0)

    def __str__(self) -> str:
        what = f"{self.name} ({title(self.layer)})"
        if self.before is None:
            return f"{what}: new, {self.after * 1e3:.3g} ms"
        return f"{what}: {self.before * 1e3:.3g} to {self.after * 1e3:.3g} ms, {self.after / self.before - 1:+.0%}"


@dataclass(frozen=True)
class RowChange:
    """The network on one number of threads, before and after."""

    threads: int
    before: float
    after: float
    culprits: list[LayerChange]

    @property
    def ratio(self) -> float:
        return self.after / self.before


@dataclass(frozen=True)
class Comparison:
    """All rows that both have, and other differences between the two."""

    rows: list[RowChange]
    notes: list[str]
    max_regress: float

    @property
    def slower(self) -> list[RowChange]:
        return [r for r in self.rows if r.ratio > 1 + self.max_regress]

    def require(self) -> None:
        """Raise a RegressionError that names the layers, unless nothing became too slow."""
        if not self.slower:
            return
        lines = []
        for row in self.slower:
            lines.append(
                f"{row.threads} thread{'s' * (row.threads > 1)}: {row.before * 1e3:.4g} to "
                f"{row.after * 1e3:.4g} ms, {row.ratio - 1:+.1%}; {self.max_regress:.1%} is allowed"
            )
            lines += [f"  {culprit}" for culprit in row.culprits]
            if not row.culprits:
                lines.append("  no layer stands out: all of it, or what lies between the layers")
        raise RegressionError(
            "slower than before\n  " + "\n  ".join(lines), "; ".join(self.notes) or "the layers above are where to look"
        )


def compare(old: Benchmark, new: Benchmark, max_regress: float) -> Comparison:
    """The changes from one benchmark to another.

    Raises
    ------
    TvmMobilenetError
        They cannot be compared: another network or target, predicted and measured, no number of threads in common.
    """
    for what in ("predicted", "target"):
        if getattr(old, what) != getattr(new, what):
            words = (f"{old.how} on target {old.target}", f"{new.how} on target {new.target}")
            raise TvmMobilenetError(
                f"--compare: the old benchmark was {words[0]}, this is {words[1]}",
                "compare benchmarks of one target and one kind of board",
            )
    same = [
        k
        for k in ("model", "alpha", "resolution", "batch", "classes", "features")
        if old.model.get(k) != new.model.get(k)
    ]
    if same:
        raise TvmMobilenetError(
            f"--compare: the old benchmark is of {same[0]} {old.model.get(same[0])}, this of {new.model.get(same[0])}",
            "compare benchmarks of one network",
        )
    before = {row.threads: row for row in old.rows}
    rows = [_change(before[row.threads], row, max_regress) for row in new.rows if row.threads in before]
    if not rows:
        raise TvmMobilenetError(
            f"--compare: the old benchmark has {sorted(before)} threads, this has {[r.threads for r in new.rows]}",
            "measure the same --threads",
        )
    return Comparison(rows, _notes(old, new), max_regress)


def _change(old: Row, new: Row, max_regress: float) -> RowChange:
    lost = new.time.p50 - old.time.p50
    before = {(t.name, old_words.layer_name(t.layer)): t.p50 for t in old.layers}
    changes = [LayerChange(t.name, t.layer, before.get((t.name, t.layer)), t.p50) for t in new.layers] if before else []
    culprits = [
        c
        for c in changes
        if c.delta > WORTH_A_LOOK * max(lost, 0.0) and (c.before is None or c.after > (1 + max_regress) * c.before)
    ]
    return RowChange(new.threads, old.time.p50, new.time.p50, sorted(culprits, key=lambda c: -c.delta))


def _notes(old: Benchmark, new: Benchmark) -> list[str]:
    """The other differences between two benchmarks."""
    notes = []
    for key in ("model", "hostname", "kernel", "governor"):
        a, b = (x.environment.get("board", {}).get(key) for x in (old, new))
        if a != b:
            notes.append(f"the board's {key} was {a or 'unknown'}, is {b or 'unknown'}")
    a, b = (x.environment.get("board", {}).get("versions", {}) for x in (old, new))
    notes += [
        f"{name} was {a.get(name)}, is {b.get(name)}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]
    doubtful = [str(r.threads) for r in (*old.rows, *new.rows) if any(m.kind == "throttled" for m in r.marks)]
    if doubtful:
        notes.append(f"throttled while measuring {', '.join(dict.fromkeys(doubtful))} threads")
    return notes
