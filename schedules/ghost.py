"""Ghost modules: a depthwise convolution whose output has the data's channels before the filtered ones.

The nest is that of `schedules/depthwise.py`. Each tile also copies its data, the positions under the middle of its
windows, to the output; this takes a load and a store for each vector, and the epilogue.

Register budget: that of `schedules/depthwise.py`, and one for the copied data.

% of peak of one core, default / tuned, predicted (python -m benchmarks.peak)::

                                                Cortex-A53  Cortex-A72  Cortex-A76
    ghost 28x28x120 n240 3x3 p1,1,1,1 f32 relu  23 / -      47 / -      68 / -
    ghost 28x28x120 n240 3x3 p1,1,1,1 f16 relu  -           -           68 / -
"""

from __future__ import annotations

from tvm_mobilenet.schedules import depthwise

DTYPES = ("float32", "float16")
constants, pack = depthwise.constants, depthwise.pack
decisions, kernel = depthwise.decisions, depthwise.kernel
