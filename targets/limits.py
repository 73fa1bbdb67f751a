"""Limits of a core that were measured, not derived. Only the defaults of schedules and fused blocks read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The table ``[limits]`` of a core's file. A missing key has the value of the shipped cores.

    Predictions and measurements do not depend on them: they rank choices of untuned builds.

    Parameters
    ----------
    again_line_cycles : float, optional
        Cycles for 64 bytes that a nest reads again from DRAM; four times ``l2_line_cycles`` unless given. It is below
        the cycles of one streaming core, since part of it overlaps with compute.
    strip_line_cycles : float
        Cycles for 64 bytes from the L2 under a strip of the dual-issue loop, whose loads run ahead of their use.
    partial_sum_cycles : float
        Cycles to load and store one vector of partial sums.
    partial_sum_vectors, partial_sum_depth : int
        Tiles of so many vectors a row move more partial sums than blocks of k below that depth save in the L1.
    task_cycles : int
        Least cycles of a task that is worth another CPU.
    share_cycles : int
        Least share of a CPU for which smaller and slower tiles pay if they leave no CPU idle.
    depthwise_registers : int
        The most registers of a depthwise tile.
    depthwise_positions, depthwise_pairs : int
        A depthwise tile of fewer positions, of vectors or of pairs of vectors, loads so often that whole lines of
        channels are better.
    row_positions : int
        The most positions of a depthwise tile of one row, if rows are dealt to CPUs one by one.
    strip_columns : int
        In strips of fewer columns, filling and draining the dual-issue loop has a visible cost.
    panel_bytes : int
        Bytes of a row of output that a pointwise layer computes from one pass over its data.
    """

    again_line_cycles: float | None = None
    strip_line_cycles: float = 2.0
    partial_sum_cycles: float = 3.0
    partial_sum_vectors: int = 4
    partial_sum_depth: int = 128
    task_cycles: int = 30_000
    share_cycles: int = 70_000
    depthwise_registers: int = 20
    depthwise_positions: int = 6
    depthwise_pairs: int = 4
    row_positions: int = 7
    strip_columns: int = 7
    panel_bytes: int = 128

    def problem(self) -> str:
        """``key = value: why`` of an impossible value, or the empty string."""
        return ""
