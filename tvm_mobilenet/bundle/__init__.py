"""Bundles for devices: compile, link, pack, sign, read."""
