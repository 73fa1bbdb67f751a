"""Resizes by nearest neighbour: each output is a value of the data."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register, resizes

register(
    Kind(
        name="nearest2d",
        short="nn",
        schedule="nearest2d",
        ops=tuple(resizes.NEAREST),
        selects=tuple(resizes.NEAREST),
        resizes=True,
        writes_nchw=True,
        pitched=True,
        reference=resizes.reference,
        stepped=resizes.stepped,
        patterns={"image.resize2d": resizes.pattern("{}_{}".format, "nearest2d", "nearest_neighbor")},
    )
)
