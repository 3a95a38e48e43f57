"""Reads random plain networks, and searches for points that leave their bounds."""

import dataclasses

import jax
import numpy as np
import random_plain_networks

from diffai_jax.domains import box, correlated_box, lower, upper
from diffai_jax.graph import from_jax

_BATCH = 2  # Regions of a network.


@dataclasses.dataclass
class Found:
  """What a search has seen of one network.

  Attributes:
    seed: of the network.
    difference: the largest between graph and network, relative to the outputs
      where these are above 1.
    points: how many were run.
    finite: the share of bounds that are neither NaN nor infinite, by domain.
    width: the median width of the finite ones, by domain.
    escapes: how many outputs of points left their bounds, by domain.
  """

  seed: int
  difference: float
  points: int
  finite: dict[str, float]
  width: dict[str, float]
  escapes: dict[str, int]

  @property
  def sound(self) -> bool:
    return self.difference < 1e-5 and not any(self.escapes.values())


def elements(center, radius) -> dict:
  """A box in three domains."""
  hybrid = dataclasses.replace(correlated_box(center, radius), relu="deepz")
  return {
      "Box": box(center, radius),
      "HBox": hybrid,
      "Zonotope": dataclasses.replace(hybrid, zonotope=True),
  }


def search(seed: int, count: int, dtype=np.float32) -> Found:
  """Compares a random network's graph with the network, and bounds with points.

  Args:
    seed: of network, regions and points.
    count: how many points.
    dtype: float32, or float64 with x64 on.
  """
  network, variables, shape = random_plain_networks.draw(seed, dtype)
  run = lambda x: network.apply(variables, x)
  graph = from_jax(run, shape, dtype)
  rng = np.random.default_rng((seed, 1))
  center = rng.normal(size=(_BATCH, *shape)).astype(dtype)
  radius = rng.uniform(0, 10.0 ** rng.uniform(-3, -0.5), center.shape)
  radius = radius.astype(dtype)

  @jax.jit
  def bounds(graph, center, radius):
    found = {}
    for name, element in elements(center, radius).items():
      output = graph(element)
      found[name] = lower(output), upper(output)
    return found

  ends = jax.tree.map(np.asarray, bounds(graph, center, radius))
  points = _points(rng, center, radius, -(-count // _BATCH))
  flat = points.reshape(-1, *shape)
  both = jax.jit(lambda graph, x: (run(x), graph(x)))
  values, again = map(np.asarray, both(graph, flat))
  difference = np.max(np.abs(values - again) / np.maximum(1, np.abs(values)))
  found = Found(seed, float(difference), len(flat), {}, {}, {})
  values = values.reshape(*points.shape[:2], *values.shape[1:])
  for name, (low, high) in ends.items():
    finite = np.isfinite(low) & np.isfinite(high)
    outside = finite & ~((low <= values) & (values <= high))
    found.finite[name] = float(finite.mean())
    width = (high - low)[finite]
    found.width[name] = float(np.median(width)) if width.size else np.nan
    found.escapes[name] = int(outside.sum())
  return found


def _points(rng, center, radius, count: int) -> np.ndarray:
  """Points of boxes [count, B, ...]: random, corners, edges, the centers."""
  noise = rng.uniform(-1, 1, (count, *center.shape))
  noise[::2] = np.sign(noise[::2])
  noise[1::4] = np.where(rng.random(noise[1::4].shape) < 0.5, noise[1::4],
                         np.sign(noise[1::4]))
  noise[0] = 0
  points = (center + noise * radius).astype(center.dtype)
  # As rounded, some are outside.
  least, most = (_inwards(center, radius, sign) for sign in (-1, 1))
  return np.clip(points, least, most)


def _inwards(center, radius, sign: int) -> np.ndarray:
  """The last number of center's type within the box."""
  exact = center.astype(np.longdouble) + sign * radius.astype(np.longdouble)
  rounded = exact.astype(center.dtype)
  beyond = sign * (rounded.astype(np.longdouble) - exact) > 0
  inner = np.nextafter(rounded, np.asarray(-sign * np.inf, center.dtype))
  return np.where(beyond, inner, rounded)
