"""The TVM passes from a loop nest to LLVM's input. A change here changes every kernel (``tune_logs.keys``)."""

from __future__ import annotations


def lowering() -> str:
    """The name of our TVM pipeline from a loop nest to LLVM's input.

    It is TVM's pipeline for schedulable TIR, without the passes that plain, unrolled nests do not need: lowering of
    blocks, threads and GPU memory, and passes that LLVM repeats. A fused block of five parts takes 3 s instead of 60.
    The simplification of indices is needed: without it LLVM keeps accumulators in memory, and pointwise layers take 2.4
    times the cycles.
    """
    import tvm
    from tvm import s_tir, tirx
    from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
    from tvm.tirx.compilation_pipeline import PIPELINE_MAP

    def pipeline():
        passes = [
            s_tir.transform.CanonicalizeLoop(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.VerifyMemory(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
        return tvm.transform.Sequential(passes), finalize_host_passes, finalize_device_passes

    PIPELINE_MAP["tvm_mobilenet"] = pipeline
    return "tvm_mobilenet"
