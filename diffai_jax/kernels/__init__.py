"""Linear maps of arrays, and loops, as fast programs: no element, no bound.

Beside its plain form, what CPUs are slow at has another for them (`platforms`
decides which one a program has). All are equal but for the order of their sums,
which the allowance for rounding covers (`domains.rounding`).
"""
