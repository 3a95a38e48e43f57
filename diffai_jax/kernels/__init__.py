"""Linear maps of arrays as fast programs: no element, no bound.

One form of a product or convolution for each platform that is slow without it.
All are equal but for the order of their sums, which the allowance for rounding
covers (`domains.rounding`).
"""
