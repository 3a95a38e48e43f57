"""TAPS: interval bounds up to a layer, attacks in its box from there on.

Mao et al. 2023, "Connecting certified and adversarial training" (arXiv 2305.04574,
section 3). With the network f = f_C ∘ f_E cut at a layer z, label y:

- The box goes through f_E by interval bounds, [z̲, z̄].
- For each class i ≠ y a point ẑ_i of that box is searched, with its margin
  m_i = f_C(ẑ_i)_i - f_C(ẑ_i)_y as large as projected gradient ascent makes it.
- L_TAPS = log(1 + Σ_{i≠y} exp m_i(ẑ_i)): at most the loss of the box's bounds, since
  no point is beyond them, and rarely below that of the worst point.
- Gradient connector: points have no gradient of their own. With Δ = z̄ - z̲ each gives

    ∂L/∂z̄ = Σ_i ∂L/∂ẑ_i · max(0, ẑ_i - (z̄ - cΔ))/(cΔ), and alike for z̲:

  a point at an end moves with that end, and with none from cΔ away on.
- The loss is L_TAPS · L_IBP, L_IBP that of the bounds of the outputs. The gradient of
  the first factor is multiplied by `scale`.

STAPS is TAPS in a small box around a point found (SABR): SmallBox(λ, PGD, TAPS).
"""

from collections.abc import Callable
import dataclasses
import zlib

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.domains.hybrid_zonotope import from_bounds, nearest_bounds
from diffai_jax.goals.attacked import whole
from diffai_jax.goals.base import Context, Goal
from diffai_jax.goals.crown import other_classes
from diffai_jax.graph import Followed, Graph, cuts, follow
from diffai_jax.graph.following import for_each
from diffai_jax.graph.surgery import split_at
from diffai_jax.kernels.loops import repeat
from diffai_jax.schedules import NumberOrSchedule, extent, value_at
from diffai_jax.text.terms import Number, Place
from diffai_jax.types import Array, PRNGKey, UsageError

_ACTIVATIONS = frozenset((
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh",
    "softplus",
))


@dataclasses.dataclass(frozen=True)
class TAPS(Goal):
  """L_TAPS · L_IBP of the box: see this file.

  `margins` and what is `verified` are of the interval bounds alone.

  Attributes:
    split: where the network is cut. A number: so many ReLUs (or other activations)
      are behind the cut, which is right after the activation before them; where a
      residual network has several ways there, after the last that all have met
      behind. Or a layer's name, as `Graph.names` has it.
    scale: of the gradient of L_TAPS.
    steps, step, restarts: of the attack, `step` in radii of the box, from uniform
      points; of several the one with the largest margin.
    connector: c, above 0 and at most 1.
  """

  split: Place = 1
  scale: NumberOrSchedule = 4
  steps: NumberOrSchedule = 8
  step: NumberOrSchedule = 0.5
  restarts: Number = 1
  connector: Number = 0.5

  def check(self) -> None:
    if not isinstance(self.split, str) and not 0 <= self.split <= 10_000:
      raise ValueError(
          f"TAPS's split must be a number of ReLUs from 0 on, or a layer's"
          f" name, not {self.split}"
      )
    whole_steps = extent(self.steps)
    if whole_steps[0] < 0 or whole_steps[1] > 10_000:
      raise ValueError(f"TAPS's steps must be 0 to 10000, not {self.steps}")
    if not 1 <= self.restarts <= 1000 or self.restarts != int(self.restarts):
      raise ValueError(
          f"TAPS's restarts must be a whole number from 1 to 1000, not"
          f" {self.restarts}"
      )
    for name in ("scale", "step"):
      if extent(getattr(self, name))[0] < 0:
        raise ValueError(f"TAPS's {name} must not be below 0")
    if not 0 < self.connector <= 1:
      raise ValueError(
          f"TAPS's connector must be above 0 and at most 1, not"
          f" {self.connector}"
      )

  def abstract(
      self, lower: Array, upper: Array, context: Context
  ) -> Followed:
    return follow(from_bounds(lower, upper))

  def margins(
      self, output: Followed, labels: Array, context: Context
  ) -> Array:
    return losses.margins(output.value, labels)

  def loss(self, output: Followed, labels: Array, context: Context) -> Array:
    classifier, low, high = self.cut(output)
    points = self.points(output, labels, context)
    points = connected(low[:, None], high[:, None], points, self.connector)
    found = margins_of_others(classifier, points, labels)
    latent = losses.cross_entropy(jnp.pad(found, ((0, 0), (0, 1))))
    still = lax.stop_gradient(latent)
    latent = still + value_at(self.scale, context.epoch) * (latent - still)
    bounds = losses.cross_entropy(losses.margins(output.value, labels))
    return latent * bounds

  def cut(self, output: Followed) -> tuple[Graph, Array, Array]:
    """f_C, and the bounds of what flows into it, [B, ...] each."""
    graph, values = output.run()
    place = place_of(graph, self.split)
    if place == graph.outputs[0]:
      raise UsageError(
          f"TAPS is to cut the network at {self.split}, which is its output;"
          f" name a layer before it"
      )
    classifier = graph
    if place:
      _, classifier = split_at(graph, place, f"{self.split}")
    return classifier, *nearest_bounds(values[place])

  def points(
      self, output: Followed, labels: Array, context: Context
  ) -> Array:
    """ẑ_i of each class but the label, from the one after it on, [B, K-1, ...].

    They have no gradient.
    """
    classifier, low, high = lax.stop_gradient(self.cut(output))
    # Equal goals of one objective draw the same, others independently.
    own = zlib.crc32(str(self).encode()) % 2**31
    return largest_margins(
        lambda points: margins_of_others(classifier, points, labels),
        low, high, output.shape[-1] - 1, whole(self.steps, context),
        value_at(self.step, context.epoch), int(self.restarts),
        context.child(own).keys(self),
    )


def place_of(graph: Graph, split: Place) -> int:
  """The number of the result that a network is cut at.

  Args:
    graph: the network.
    split: as of `TAPS`.

  Raises:
    UsageError: if the network has no layer of that name, or fewer activations.
  """
  if isinstance(split, str):
    return graph.number(split)
  active = [call.transformer in _ACTIVATIONS for call in graph.calls]
  behind = {place: sum(active[place:]) for place in cuts(graph)}
  if split > behind[0]:
    raise UsageError(
        f"TAPS is to have {split} ReLUs behind the cut; the network has"
        f" {behind[0]}"
    )
  least = min(count for count in behind.values() if count >= split)
  # The first such place: affine maps between are part of what is attacked.
  return min(place for place, count in behind.items() if count == least)


def margins_of_others(
    classifier: Graph, points: Array, labels: Array
) -> Array:
  """z_i - z_y at a point for each class i but the label, [B, K-1].

  Args:
    classifier: f_C.
    points: [B, K-1, ...], for the classes from the one after the label on.
    labels: int, [B].
  """
  lead = points.shape[:2]
  flat = points.reshape((-1,) + points.shape[2:])
  logits = for_each(classifier, lead[1])(flat).reshape(lead + (-1,))
  at = lambda k: jnp.take_along_axis(logits, k[..., None], axis=2)[..., 0]
  others = other_classes(labels, lead[1] + 1)
  return at(others) - at(jnp.broadcast_to(labels[:, None], lead))


def largest_margins(
    margins: Callable[[Array], Array], low: Array, high: Array, count: int,
    steps: int | Array, step_size: Array, restarts: int, keys: PRNGKey,
) -> Array:
  """Points of a box, each with its own margin made large, [B, S, ...].

  `steps` times z ← clip(z + step_size·½(high - low)·sign ∇m(z), low, high).

  Args:
    margins: [B, S, ...] -> [B, S], each of its own point alone.
    low, high: [B, ...].
    count: S.
    steps, step_size, restarts: as of `TAPS`.
    keys: a random key for each example, [B].
  """
  low, high = low[:, None], high[:, None]
  reach = step_size * (high - low) / 2

  def step(_, points):
    gradient = jax.grad(lambda points: margins(points).sum())(points)
    return jnp.clip(points + reach * jnp.sign(gradient), low, high)

  def attempt(number):
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    shape = (count,) + low.shape[2:]
    noise = jax.vmap(lambda key: jax.random.uniform(key, shape, low.dtype))(own)
    start = jnp.clip(low + (high - low) * noise, low, high)
    return repeat(steps, step, start)

  def again(number, best):
    points, largest = best
    found = attempt(number)
    value = margins(found)
    better = (value > largest).reshape(value.shape + (1,) * (found.ndim - 2))
    return jnp.where(better, found, points), jnp.maximum(value, largest)

  points = attempt(0)
  if restarts > 1:
    points, _ = lax.fori_loop(1, restarts, again, (points, margins(points)))
  return lax.stop_gradient(points)


def connected(low: Array, high: Array, points: Array, share: float) -> Array:
  """The points, with gradients to the ends of the box: the connector of TAPS.

  Args:
    low, high: z̲ and z̄; they broadcast against the points.
    points: within them.
    share: c.

  Returns:
    The points' own numbers. Where the box is a point, both ends share its gradient.
  """
  begin, end = lax.stop_gradient((low, high))
  reach = share * (end - begin)
  width = jnp.where(reach > 0, reach, 1)
  half = jnp.asarray(0.5, points.dtype)
  to_end, to_begin = (
      jnp.where(reach > 0, jnp.maximum(0, reach - distance) / width, half)
      for distance in (end - points, points - begin)
  )
  moved = to_end * (high - end) + to_begin * (low - begin)  # Zeros.
  return points + moved
