"""Jobs on many machines: workers of a Dask cluster in place of processes of this machine, with the same calls."""
