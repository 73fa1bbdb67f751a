"""Tune logs that ship: decisions, one JSON line a layer and core."""
