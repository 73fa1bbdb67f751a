"""The checks of ``doctor``."""
