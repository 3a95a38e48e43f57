"""What an input may be, and what is asked of the output."""

from diffai_jax.regions.linf import Linf
from diffai_jax.regions.specified import upper_bounds
from diffai_jax.regions.specs import Spec, labels, linear, targets

__all__ = ["Linf", "Spec", "labels", "linear", "targets", "upper_bounds"]
