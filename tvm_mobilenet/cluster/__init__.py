"""Jobs on many machines: workers of a Dask cluster with the same calls as processes of this machine."""
