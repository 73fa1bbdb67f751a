"""The search space of a layer: its free choices, their defaults, and the combinations that are valid."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Decisions = dict[str, int | str | bool]
# These hold for every core: how tasks are dealt to CPUs, and how precise an estimate can be.
SHARES = 3  # default number of tasks per CPU: a late task then costs a third of a CPU's share
EVEN = 1.05  # a load balance (longest share over the mean) that counts as even
ALIKE = 1.02  # estimates are no more precise than this: a better balance than this is worth no other cost


@dataclass(frozen=True)
class Choice:
    """One free choice: its candidates in their natural order, and the default among them."""

    candidates: tuple
    default: int | str | bool

    def __post_init__(self):
        if self.default not in self.candidates:
            raise ValueError(f"default {self.default!r} is not among {self.candidates}")


@dataclass(frozen=True)
class Space:
    """All decision records of one layer on one core.

    Parameters
    ----------
    choices : dict of str to Choice
        The free choices by name.
    refuse : callable
        ``refuse(decisions)`` gives the reason why a combination is impossible or pointless, or the empty string.
    """

    choices: dict[str, Choice]
    refuse: Callable[[Decisions], str]

    @property
    def default(self) -> Decisions:
        """The decisions of an untuned build."""
        return {name: choice.default for name, choice in self.choices.items()}

    def valid(self, decisions: Decisions) -> str:
        """The reason why these decisions are not in this space, or the empty string."""
        if set(decisions) != set(self.choices):
            missing = sorted(set(self.choices) - set(decisions))
            unknown = sorted(set(decisions) - set(self.choices))
            return f"missing {missing}, unknown {unknown}"
        for name, value in decisions.items():
            if not any(value == c and type(value) is type(c) for c in self.choices[name].candidates):
                return f"{name} = {value!r} is not among {self.choices[name].candidates}"
        return self.refuse(decisions)

    def points(self) -> Iterator[Decisions]:
        """Every valid record, the default first."""
        default = self.default
        yield default
        for values in itertools.product(*(c.candidates for c in self.choices.values())):
            point = dict(zip(self.choices, values, strict=True))
            if point != default and not self.refuse(point):
                yield point

    def neighbours(self, decisions: Decisions) -> Iterator[Decisions]:
        """Valid records that differ in one choice: by one step among ordered candidates, by any value among names."""
        for name, choice in self.choices.items():
            at = choice.candidates.index(decisions[name])
            ordered = isinstance(choice.candidates[0], int) and not isinstance(choice.candidates[0], bool)
            for other in (at - 1, at + 1) if ordered else range(len(choice.candidates)):
                if 0 <= other < len(choice.candidates) and other != at:
                    point = {**decisions, name: choice.candidates[other]}
                    if not self.refuse(point):
                        yield point

    def nearest(self, decisions: Decisions) -> Decisions | None:
        """A valid record close to the decisions of another, similar layer; None if there is none."""
        point = self.default
        for name, choice in self.choices.items():
            want = decisions.get(name)
            if want in choice.candidates:
                point[name] = want
            elif isinstance(want, int) and isinstance(choice.default, int):
                point[name] = min(choice.candidates, key=lambda c: abs(c - want))
        return None if self.refuse(point) else point


def imbalance(work: Sequence[float], cpus: int) -> float:
    """The longest share over the mean, if each CPU takes an equal number of neighbouring tasks, as TVM's runtime deals
    them.

    ``work`` is the cost of each task of a parallel region, in any unit.
    """
    share = -(-len(work) // cpus)
    return max(sum(work[i : i + share]) for i in range(0, len(work), share)) * cpus / sum(work)


def line_channels(layer, core) -> int:
    """Channels of a cache line, or of a vector if that is longer: the fewest that one access should take."""
    return max(core.l1d.line // layer.bytes, core.lanes(layer.dtype))


def divisors(n: int, low: int = 1, high: int | None = None) -> tuple[int, ...]:
    """The divisors of n from low to high, ascending."""
    return tuple(d for d in range(low, (high or n) + 1) if n % d == 0)
