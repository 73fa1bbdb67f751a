"""Bilinear resizes: each output is the weighted mean of two columns of the weighted means of two rows."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register, resizes

register(
    Kind(
        name="bilinear2d",
        short="bl",
        schedule="bilinear2d",
        ops=resizes.MODES,
        resizes=True,
        writes_nchw=True,
        pitched=True,
        reference=resizes.reference,
        stepped=resizes.stepped,
        patterns={"image.resize2d": resizes.pattern(lambda mode, rounding: mode, "bilinear2d", "linear")},
    )
)
