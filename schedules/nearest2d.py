"""Resizes by nearest neighbour.

The nest is that of `schedules/bilinear2d.py`, and all its outputs are copies. Each tile loads a value of the data once.

Register budget: a vector for each value that a tile reads.

Cycles a value on one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                     Cortex-A53  Cortex-A72  Cortex-A76
    nearest2d 28x28x64 asymmetric_floor to56x56 f32  2.56 / -    1.59 / -    0.80 / -
    nearest2d 28x28x64 asymmetric_floor to56x56 f16  -           -           0.40 / -
"""

from __future__ import annotations

from tvm_mobilenet.schedules import bilinear2d

DTYPES = ("float32", "float16", "int8")
decisions, kernel = bilinear2d.decisions, bilinear2d.kernel
