"""MobileNet v1, v2 and v3 in PyTorch, their registry, weights, preprocessing and cost.

``registry`` and ``preprocess`` import no torch until a network is made.
"""
