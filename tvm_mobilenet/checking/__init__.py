"""Verification: the expected result of a layer or network, the tolerance, and the comparison with the computed
result.
"""
