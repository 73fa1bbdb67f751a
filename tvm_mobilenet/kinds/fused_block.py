"""Fused blocks: several layers in one kernel, which streams rows from one to the next."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register

register(Kind(name="fused", schedule="fused_block", keeps_channels=False, has_parts=True, pitched=True))
