"""What an input may be, and what is asked of the output."""

from diffai_jax.regions.box_bounds import Bounds
from diffai_jax.regions.cut import Cut, largest_cut
from diffai_jax.regions.examples import of_examples
from diffai_jax.regions.l2 import L2
from diffai_jax.regions.linf import Linf
from diffai_jax.regions.membership import contains, moved_inside
from diffai_jax.regions.specified import upper_bounds
from diffai_jax.regions.specs import Spec, labels, linear, targets
from diffai_jax.regions.vnnlib import read_vnnlib, write_vnnlib

__all__ = [
    "Bounds",
    "Cut",
    "L2",
    "Linf",
    "Spec",
    "contains",
    "labels",
    "largest_cut",
    "linear",
    "moved_inside",
    "of_examples",
    "read_vnnlib",
    "targets",
    "upper_bounds",
    "write_vnnlib",
]
