"""What knows the target: blocks of layers, pitches, decisions, kernels, plan, and a built module on disk."""
