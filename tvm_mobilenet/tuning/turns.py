"""Ask the search of a layer for candidates a few ahead of results, and tell it the results in the order of asking.

A layer's search knows the same results whenever it is asked, whatever the number and speed of workers. The first
``AHEAD`` candidates are asked for before any result, and each result that is told allows one more. A result that comes
early waits for those before it. So the trials of a layer are the same with two processes as with a hundred machines;
only the order of layers depends on time.

The same holds for near layers: a layer with ``n`` results uses the state of near layers after ``n // 8 * 4`` of their
results. If a near layer has fewer, the layer waits, and the candidates of that near layer run in its turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tvm_mobilenet.tune_logs.log import Record, identity
from tvm_mobilenet.tuning.layer_search import LayerSearch

AHEAD = 4  # candidates of a layer that may be asked for before their results are told
STALE_BEFORE_NEAR = 6  # after so many trials without gain, a layer tries the best of its near layers again


@dataclass
class _Turn:
    """A layer's candidates in progress."""

    layer: LayerSearch
    order: deque[str] = field(default_factory=deque)  # identities of candidates whose results are not told yet
    ended: dict[str, Record] = field(default_factory=dict)  # results that came and are not told yet
    bests: list[Record | None] = field(default_factory=list)  # the best after each number of results
    waits_for: _Turn | None = None

    @property
    def told(self) -> int:
        return len(self.bests) - 1

    @property
    def over(self) -> bool:
        return self.layer.searched or (self.layer.done and not self.order)

    def best_after(self, results: int) -> Record | None:
        return self.bests[min(results, self.told)]


class Turns:
    """The turns of all layers of a search.

    Parameters
    ----------
    layers : dict of str to LayerSearch
        The searches, including results of earlier runs.
    near : dict of str to list of str
        From ``search.near``.
    """

    def __init__(self, layers: dict[str, LayerSearch], near: dict[str, list[str]]):
        self._near = near
        self._turns = {name: _Turn(layer, bests=[layer.best]) for name, layer in layers.items()}
        self._advance_all()

    def next(self) -> tuple[LayerSearch, dict] | None:
        """The layer and decisions to try next, which then count as begun; None if none can be chosen yet."""
        waiting = (turn for turn in self._turns.values() if turn.layer.queued or turn.waits_for)
        for turn in sorted(waiting, key=lambda turn: -turn.layer.gain):
            while not turn.layer.queued and turn.waits_for:
                turn = turn.waits_for
            if turn.layer.queued:
                return turn.layer, turn.layer.queued.popleft()
        return None

    def end(self, record: Record) -> None:
        """Take the result of a candidate."""
        turn = self._turns[record.layer]
        turn.ended[identity(record.decisions)] = record
        self._advance_all()

    def close(self) -> None:
        """Tell the results that wait for earlier ones, and ask for no more candidates."""
        for turn in self._turns.values():
            for key in [key for key in turn.order if key in turn.ended]:
                turn.layer.tell(turn.ended.pop(key))
            turn.layer.forget()
            turn.order.clear()

    def _advance_all(self) -> None:
        while any([self._advance(turn) for turn in self._turns.values()]):
            pass

    def _advance(self, turn: _Turn) -> bool:
        """Ask and tell as far as results and near layers allow. Returns whether anything was told."""
        before = turn.told
        while self._asked(turn) and turn.order and turn.order[0] in turn.ended:
            turn.layer.tell(turn.ended.pop(turn.order.popleft()))
            turn.bests.append(turn.layer.best)
        return turn.told > before

    def _asked(self, turn: _Turn) -> bool:
        """Ask for as many candidates as may be ahead of results. Returns False if a near layer must have more results
        first.
        """
        layer = turn.layer
        while len(turn.order) < AHEAD and not layer.done:
            if (not layer.tried or layer.stale >= STALE_BEFORE_NEAR) and not self._started_from_near(turn):
                return False
            decisions = layer.ask()
            if decisions is None:  # nothing left to propose
                layer.trials = len(layer.tried) + len(layer.running) + len(layer.passed)
                break
            layer.queued.append(decisions)
            turn.order.append(identity(decisions))
        return True

    def _started_from_near(self, turn: _Turn) -> bool:
        """Start a layer from the results of its near layers; False if one of them does not have enough yet."""
        results = turn.told // 8 * 4
        others = [self._turns[name] for name in self._near.get(turn.layer.name, ())]
        turn.waits_for = next((other for other in others if other.told < results and not other.over), None)
        if turn.waits_for:
            return False
        for other in others:
            if best := other.best_after(results):
                turn.layer.start_from(best.decisions)
        return True
