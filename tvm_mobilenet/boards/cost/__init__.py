"""The cost model: the cycles of executed instructions on a core."""
