"""Limits of a core that were measured, not derived: what only the defaults of schedules and fused blocks read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The table ``[limits]`` of a core's file; whatever it leaves out has the value of the cores that ship.

    Nothing that is predicted or measured depends on them: they rank choices for builds that nobody tuned.

    Parameters
    ----------
    again_line_cycles : float, optional
        For 64 bytes that a nest reads from DRAM again; four times ``l2_line_cycles`` unless given. Below what one core
        streams at: part of it overlaps with arithmetic.
    strip_line_cycles : float
        For 64 bytes from the L2 under a strip of the dual-issue loop, whose loads run ahead of their use.
    partial_sum_cycles : float
        To load and to store one vector of partial sums.
    partial_sum_vectors, partial_sum_depth : int
        Tiles of so many vectors a row move more partial sums than blocks of k below that depth spare in the L1.
    task_cycles : int
        What a task should take to be worth another CPU.
    share_cycles : int
        A CPU's share from which on smaller and slower tiles pay if they leave no CPU idle.
    depthwise_registers : int
        Registers of a depthwise tile at most, of those that the core has.
    depthwise_positions, depthwise_pairs : int
        A depthwise tile of fewer positions, of vectors or of pairs of vectors, loads so often that whole lines of
        channels are better.
    row_positions : int
        Positions of a depthwise tile of one row at most, where rows are dealt to CPUs one by one.
    strip_columns : int
        In strips of fewer columns, filling and draining the dual-issue loop shows.
    panel_bytes : int
        Bytes of a row of output that a pointwise layer makes of one reading of its data.
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
