"""The cycles of a part of a kernel on one or several cores, from its compute cycles and its traffic.

A level takes its traffic over its bandwidth. A private level counts the core's own traffic. A shared level takes the
larger of two times: each core's traffic over the bandwidth of one core, and all traffic over the bandwidth of all. A
share of a region takes the larger of its compute cycles and its slowest level, plus the part of the smaller that this
core cannot overlap (``exposed`` of its ``[model.memory]``; that is all of it on an in-order core that stops at the
first use of missing data). Starting a region on several cores costs ``wake_cycles``. Bandwidths are those of
`targets.memory.rates`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.targets.memory import rates


@dataclass(frozen=True)
class PartTime:
    """Cycles of a part, and for its longest share compute cycles and memory cycles alone."""

    whole: float
    compute: float
    memory: float


def part_time(part, costs: list[float], pair: float | None, cores: int, core, target, memory: bool) -> PartTime:
    """The time of one ``kernel_run.Part`` on ``cores`` cores.

    Parameters
    ----------
    costs : list of float
        Compute cycles of each task that ran.
    pair : float, optional
        Compute cycles of ``part.pair``.
    memory : bool
        Whether traffic was followed and counts.
    """
    parallel = part.kind == "parallel" and cores > 1
    compute = part.shares(costs, cores if parallel else 1, pair)
    if not memory:
        return PartTime(max(compute), max(compute), 0.0)
    r = rates(core, target)
    traffic = _bytes(part, parallel)  # (levels, tasks that ran)
    shares = np.array([part.shares(list(level), cores if parallel else 1) for level in traffic])  # (levels, shares)
    own = shares / np.array(r.one)[:, None]
    if parallel:
        total = shares.sum(axis=1)
        for k in range(len(total)):
            if part.shared is not None and part.shared.bytes[k]:
                # Tasks side by side need other fills than tasks in turn. The number is known for as many cores as tasks
                # and for one core; between these it is interpolated. Each share takes its part.
                beside = min(1.0, (cores - 1) / max(len(part.ran) - 1, 1))
                every = total[k] + beside * (part.shared.bytes[k] - total[k])
                own[k] *= every / total[k] if total[k] else 0.0
                total[k] = every
            own[k] = np.maximum(own[k], total[k] / r.every[k])
    slowest = own.max(axis=0)
    times = [max(a, m) + r.exposed * min(a, m) for a, m in zip(compute, slowest, strict=True)]
    k = int(np.argmax(times))
    return PartTime(times[k] + (r.wake_cycles if parallel else 0.0), compute[k], float(slowest[k]))


def _bytes(part, parallel: bool) -> np.ndarray:
    rows = []
    for c in part.ran:
        row = list(c.traffic.bytes)
        if parallel and part.shared is not None:
            row = [
                b if k == len(row) - 1 or s else p
                for k, (b, p, s) in enumerate(zip(row, c.private.bytes, part.shared.bytes, strict=True))
            ]
        rows.append(row)
    return np.array(rows, float).T
