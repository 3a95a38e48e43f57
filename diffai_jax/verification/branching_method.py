"""Branch and bound as a method of the cascade."""

import dataclasses
import math

from diffai_jax.graph import Graph
from diffai_jax.regions import Linf, Spec
from diffai_jax.types import Array, UsageError, shown
from diffai_jax.verification.domain_methods import Method

_MOST_SECONDS = 1e9


@dataclasses.dataclass(frozen=True)
class BranchAndBound(Method):
  """Complete verification: ReLUs' signs are split until everything is decided.

  It decides all images that are open at once, by a search of its own
  (`branching`), and is asked about no others: those that nothing before it proved,
  and that no attack broke. What it proves is proved by linear bounds with α and β
  that allow for rounding; what it breaks, it gives a point for.

  Attributes:
    seconds: of an image; compiling is left out.
    in_all: seconds of all images together; 0 is no limit.
  """

  seconds: float
  in_all: float = 0.0

  def bound(
      self, graph: Graph, images: Array, region: Linf, spec: Spec
  ) -> Array:
    raise UsageError(
        f"{self} decides images by a search, and bounds none of them in one"
        f" program; take another method here, such as AlphaCROWN(20)"
    )

  def check(self) -> None:
    for name in ("seconds", "in_all"):
      value = getattr(self, name)
      known = type(value) in (int, float) and math.isfinite(value)
      if not (known and 0 <= value <= _MOST_SECONDS):
        raise ValueError(
            f"{name} is {shown(value)}; expected a number of seconds from 0 to"
            f" {_MOST_SECONDS:g}"
        )
