"""exp(x) in float32, in fixed steps. Kernels and `checking.stepped` use the same steps, so both round alike, and no
kernel calls a library's expf for each value.

``n = roundeven(x / ln 2)``, ``r = x - n ln 2`` in two parts, a polynomial in r, times 2 to the n. The coefficients are
those of expf in Moshier's Cephes library; the result is within two units in the last place.
"""

LOWEST, HIGHEST = -87.0, 88.0  # x is clamped to these, so that 2**n is a normal number
PER_LN2 = 1.44269504088896341
LN2 = 0.693359375, -2.12194440e-4  # the first has so few digits that its product with n is exact
COEFFICIENTS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
