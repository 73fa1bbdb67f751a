"""Atomic writes of files, and untrusted JSON."""
