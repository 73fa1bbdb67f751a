"""MobileNet v1 to v4 in PyTorch, their registry, weights, preprocessing and cost.

``registry`` and ``preprocess`` import no torch until a network is made.
"""
