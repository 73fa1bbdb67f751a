"""Kernels with an error planted in them: what every board's comparison must reject. Made where candidates are built,
in this process or in a worker."""

from tvm_mobilenet import schedules
from tvm_mobilenet.tuning import builder

LAYERS = (  # of each kind that may have a row pitch
    "pointwise m16 n16 k32 in34 out17 f32 relu6",
    "depthwise 8x8x16 3x3 p1,1,1,1 in17 out17 f32",
    "conv 8x8x3 n16 3x3 s2 p1,1,1,1 out17 f32",
    "elementwise 4x4x16 add in17 out17 f32",
    "pool 8x8x16 max 2x2 s2 in17 out17 f32",
    "fused depthwise 8x8x16 3x3 p1,1,1,1 in17 f32 relu6 > pointwise m64 n32 k16 out34 f32",
)


PLANTED = 1.0  # of a value about 1


def off_by_one(kernel, at: int):
    """The kernel with ``PLANTED`` added to one value at the end: channel ``at`` of the output's first position."""
    import tvm

    views = [s.buffer for s in kernel.body if isinstance(s, tvm.tirx.DeclBuffer)]  # flat, one an argument
    output = views[len(kernel.params) - 1]
    value = tvm.tirx.BufferLoad(output, [at]) + tvm.tirx.const(PLANTED, output.dtype)
    return kernel.with_body(tvm.tirx.SeqStmt([*kernel.body, tvm.tirx.BufferStore(output, value, [at])]))


class Builder(builder.Builder):
    """``at``: the channel whose value is off; None: nothing is planted."""

    at: int | None = None

    def build(self, candidate, path=None):
        real = schedules.kernel
        if self.at is not None:
            schedules.kernel = lambda layer, decisions: off_by_one(real(layer, decisions), self.at)
        try:
            return super().build(candidate, path)
        finally:
            schedules.kernel = real
