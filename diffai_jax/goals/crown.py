"""CROWN-IBP: linear bounds of the outputs, intervals for all inner neurons.

Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural
networks" (arXiv 1906.06316, section 3). A box runs through the network, which gives
the bounds of all inner neurons; the margins z_k - z_y are walked back to the input
once, each ReLU between two lines. What is walked is the run itself: the output has
its graph, with the network's own weights and statistics of that step.
"""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import from_bounds
from diffai_jax.goals.base import Context, Goal, Weighed
from diffai_jax.goals.regions import Box
from diffai_jax.goals.walked import linear_bounds
from diffai_jax.graph import Followed, follow
from diffai_jax.schedules import NumberOrSchedule, require_share, value_at
from diffai_jax.text.terms import Number
from diffai_jax.transformers.joining import negate
from diffai_jax.types import Array, PRNGKey


@dataclasses.dataclass(frozen=True)
class CROWN_IBP(Weighed):  # pylint: disable=invalid-name
  """Margins β·CROWN-IBP + (1 - β)·IBP, and their cross entropy.

  With fusion (Xu et al. 2020, arXiv 2002.12920, section 3.3) the loss itself is
  bounded, one row instead of one for each other class. For a point of the box the
  loss is log S, S = Σ_k exp(m_k), with its margins m_k = z_k - z_y, m_y = 0. Each
  m_k is within its interval bounds [l_k, u_k], and exp is convex, so below its
  chord there:

    S ≤ 1 + Σ_{k≠y} exp(l_k) + s_k·(m_k - l_k),
    s_k = (exp(u_k) - exp(l_k))/(u_k - l_k).

  That is one linear function of the outputs, with coefficients s_k of z_k and
  -Σ s_k of z_y. Its upper bound S̄ by one walk back holds for every point, and log
  grows, so log S̄ is at least the largest loss in the box. The interval bound of S
  is Σ_k exp(u_k), and the loss log(β·S̄ + (1 - β)·Σ_k exp(u_k)). The largest u_k is
  taken out of all exponents, so that none overflows.

  Attributes:
    beta: β, within 0 and 1. While it is 0 the goal is `Box`, and nothing is walked.
    fusion: 1 bounds the loss, 0 each margin.
  """

  beta: NumberOrSchedule = 1
  fusion: Number = 0

  def check(self) -> None:
    require_share(self.beta, "CROWN_IBP's beta")
    if self.fusion not in (0, 1):
      raise ValueError(f"CROWN_IBP's fusion must be 0 or 1, not {self.fusion}")

  def weights(self, epoch: Array, batch_key: PRNGKey | None) -> Array:
    """Of intervals, and of what is walked."""
    beta = value_at(self.beta, epoch)
    return jnp.stack([1 - beta, beta])

  def only(self, kept: tuple[bool, ...]) -> Goal:
    return self if kept[1] else Box()

  def abstract(
      self, lower: Array, upper: Array, context: Context
  ) -> Followed:
    return follow(from_bounds(lower, upper))

  def margins(
      self, output: Followed, labels: Array, context: Context
  ) -> Array:
    classes = output.shape[-1]
    others = other_classes(labels, classes)
    one_hot = lambda k: jax.nn.one_hot(k, classes, dtype=output.dtype)
    rows = one_hot(others) - one_hot(labels)[:, None]
    walked = linear_bounds(output, rows, jnp.zeros_like(rows[..., 0]))
    # Class k is number k - y - 1 of the others, and y itself the last.
    places = (jnp.arange(classes) - labels[:, None] - 1) % classes
    walked = jnp.take_along_axis(
        jnp.pad(walked, ((0, 0), (0, 1))), places, axis=1
    )
    return self._mixed(
        losses.margins(output.value, labels), walked, context
    )

  def loss(self, output: Followed, labels: Array, context: Context) -> Array:
    if not self.fusion:
      return super().loss(output, labels, context)
    return self._bound_of_loss(output, labels, context)

  def accuracies(
      self, output: Followed, labels: Array, context: Context
  ) -> dict[str, Array]:
    """With fusion, a loss below log 2 proves all margins: none adds 1 to S."""
    if not self.fusion:
      return super().accuracies(output, labels, context)
    proved = losses.proved(losses.margins(output.value, labels), labels)
    small = self._bound_of_loss(output, labels, context) < jnp.log(2.0)
    return {self.measures: proved | small}

  def _mixed(self, intervals: Array, walked: Array, context: Context) -> Array:
    """β·walked + (1 - β)·intervals."""
    if self.beta == 1:
      return walked
    beta = value_at(self.beta, context.epoch)
    return beta * walked + (1 - beta) * intervals

  def _bound_of_loss(
      self, output: Followed, labels: Array, context: Context
  ) -> Array:
    """Upper bounds of log Σ_k exp(z_k - z_y), [B]."""
    high = losses.margins(output.value, labels)
    low = -losses.margins(negate(output.value), labels)
    most = lax.stop_gradient(jnp.max(high, axis=1, keepdims=True))
    at_low, at_high = jnp.exp(low - most), jnp.exp(high - most)
    width = high - low  # 0 at the label.
    narrow = width < 1e-6
    slope = jnp.where(
        narrow, at_high, (at_high - at_low) / jnp.where(narrow, 1, width)
    )
    own = jax.nn.one_hot(labels, high.shape[1], dtype=high.dtype)
    slope = slope * (1 - own)
    row = slope - own * slope.sum(axis=1, keepdims=True)
    # Where an interval is narrow its chord is the level of its upper end.
    offset = jnp.where(narrow, at_high, at_low) - slope * low
    walked = linear_bounds(
        output, row[:, None], offset.sum(axis=1, keepdims=True)
    )
    total = self._mixed(
        at_high.sum(axis=1, keepdims=True), walked, context
    )
    least = rounding.tiny(total.dtype)  # Of a sum that is positive but rounds.
    return (most + jnp.log(jnp.maximum(total, least)))[:, 0]


def other_classes(labels: Array, classes: int) -> Array:
  """All classes but the label, from the one after it on, [B] -> [B, K-1]."""
  return (labels[:, None] + 1 + jnp.arange(classes - 1)) % classes
