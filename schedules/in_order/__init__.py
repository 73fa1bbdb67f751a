"""Dual-issue loops, for cores that issue in order: loads beside multiply-adds, two instructions a cycle."""
