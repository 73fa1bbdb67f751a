"""The target-dependent part of the compiler: fused blocks, row pitches, decisions, kernels, plan, and a built module on
disk.
"""
