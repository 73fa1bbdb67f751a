"""The cost model: what executed instructions take on a core."""
