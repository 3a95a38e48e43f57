"""Searches random networks for points that leave their bounds.

Each network is drawn with weights of its own magnitudes, 1e-38 to 1e37, and its
bounds are compared with concrete runs in the same floating-point type and in
NumPy's long double. Faults can be planted, to see that the search finds them.
"""

import contextlib
import dataclasses
import importlib
from unittest import mock

import exact_networks
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import random_networks

from diffai_jax import domains
from diffai_jax.domains import rounding
from diffai_jax.nn import abstract, activations
from diffai_jax.nn.naming import layer_path
from diffai_jax.types import Mode

LONG = np.longdouble
# The package has a function of that name.
_RELU = importlib.import_module("diffai_jax.transformers.relu")
_BATCH = 2
_SHAPE = (6, 6, 2)
# log10 of what a value may be on its way through a network.
_LEAST, _MOST = -36.0, 29.0


@dataclasses.dataclass
class Found:
  """What a search has seen.

  Attributes:
    points: how many points were run through a network.
    bounds, finite: how many pairs of bounds there were, and how many of them
      said something.
    escapes: how many values of points, at some step, left their bounds.
    seeds: of the networks that had any.
  """

  points: int = 0
  bounds: int = 0
  finite: int = 0
  escapes: int = 0
  seeds: list[int] = dataclasses.field(default_factory=list)

  def __add__(self, other: "Found") -> "Found":
    sums = [getattr(self, f.name) + getattr(other, f.name)
            for f in dataclasses.fields(self)]
    return Found(*sums)


@dataclasses.dataclass
class Case:
  """What is drawn for a search: a network, and an element that it is given.

  Attributes:
    network, params: as Flax has them, weights of NumPy.
    center, radius: of the input box, [B, H, W, C].
    correlated: whether it has noise symbols.
    rules: of the element, `relu` and `zonotope`.
    mode: which abstract layers act.
  """

  network: random_networks.Network
  params: dict
  center: np.ndarray
  radius: np.ndarray
  correlated: bool
  rules: dict
  mode: Mode


def draw(seed: int, dtype, small: bool) -> Case:
  """A case of that type; a small one has few layers."""
  rng = np.random.default_rng(seed)
  dtype = np.dtype(dtype)
  network = random_networks.draw(rng, small).clone(whole=True)
  magnitudes = _magnitudes(rng)
  center = rng.uniform(-1, 1, (_BATCH, *_SHAPE)) * 10.0 ** next(magnitudes)
  center, radius = _region(rng, center)
  center, radius = center.astype(dtype), radius.astype(dtype)
  shapes = jax.eval_shape(network.init, jax.random.key(0), center)
  return Case(
      network, _weights(rng, shapes["params"], magnitudes, dtype), center,
      radius,
      correlated=bool(rng.random() < 0.7),
      rules={
          "relu": str(rng.choice(random_networks.RULES)),
          "zonotope": bool(rng.random() < 0.5),
      },
      mode=(Mode.TRAIN, Mode.CERTIFY)[rng.integers(2)],
  )


def search(seed: int, dtype, count: int, small: bool = False) -> Found:
  """Bounds of all steps of a random network, and the points that leave them.

  Args:
    seed: of all that is drawn.
    dtype: float32 or float64, both with x64 on.
    count: how many points, at least.
    small: whether the network has few layers.
  """
  case = draw(seed, dtype, small)
  make = domains.correlated_box if case.correlated else domains.box

  @jax.jit
  def bound(params, center, radius):
    element = dataclasses.replace(make(center, radius), **case.rules)
    outputs = case.network.apply({"params": params}, element, case.mode)
    return tuple(
        jnp.concatenate([end(output) for output in outputs], axis=1)
        for end in (domains.lower, domains.upper)
    )

  @jax.jit
  def run(params, x):
    return jnp.concatenate(
        case.network.apply({"params": params}, x), axis=1
    )

  low, high = (
      np.asarray(end).astype(LONG)
      for end in bound(case.params, case.center, case.radius)
  )
  finite = np.isfinite(low) & np.isfinite(high)
  rng = np.random.default_rng((seed, 1))
  points = _points(rng, case.center, case.radius, -(-count // _BATCH))
  escapes = 0
  for values in (
      np.asarray(run(case.params, points)),
      exact_networks.evaluate(case.network, case.params, points),
  ):
    values = values.reshape((-1,) + low.shape)
    with np.errstate(invalid="ignore"):
      inside = (low <= values) & (values <= high)  # NaN is not.
    escapes += int(np.count_nonzero(finite & ~inside))
  return Found(
      len(points), finite.size, int(np.count_nonzero(finite)), escapes,
      [seed] if escapes else [],
  )


def _magnitudes(rng):
  """log10 of how large weights are, layer by layer, the input's first."""
  kind = rng.integers(3)
  if kind == 0:  # All ordinary.
    while True:
      yield 0.3
  if kind == 1:  # Whatever they are, most of it overflows or is lost.
    yield rng.uniform(-37, 30)
    while True:
      yield rng.uniform(-38, 37)
  value = rng.uniform(_LEAST, _MOST)  # Values stay in range.
  yield value
  while True:
    target = rng.uniform(_LEAST, _MOST)
    yield np.clip(target - value, -38, 37)
    value = target


def _region(rng, center):
  """Center and radius, from none to as large as the center.

  Often of some variables alone, whose corners are all visited; the others may be
  0, so that what comes of the first crosses 0 too.
  """
  share = rng.choice([0.0, 1e-9, 0.01, 0.1, 1.0])
  if rng.random() < 0.6:
    free = np.zeros(center[0].size)
    free[rng.permutation(free.size)[: rng.integers(1, 5)]] = 1
    free = free.reshape(center.shape[1:])
    if rng.random() < 0.5:
      center, share = center * free * 0.1, 10.0
  else:
    free = np.ones(center.shape[1:])
  radius = share * np.max(np.abs(center)) * free * np.ones_like(center)
  tiny = rounding.tiny(np.float32)
  return (np.where(np.abs(center) < tiny, 0, center),
          np.where(radius < tiny, 0, radius))


def _weights(rng, shapes, magnitudes, dtype):
  """Normal weights, a magnitude a layer; no subnormal numbers."""
  weights = {}
  of_layer = {}
  for path, shape in traverse_util.flatten_dict(shapes).items():
    layer = path[:-1]
    if layer not in of_layer:
      of_layer[layer] = next(magnitudes)
    drawn = rng.normal(size=shape.shape)
    if path[-1] == "kernel" and rng.random() < 0.2:
      drawn = np.where(rng.random(drawn.shape) < 0.5, 0, drawn)
    drawn = np.clip(drawn * 10.0 ** of_layer[layer], -3e38, 3e38).astype(dtype)
    tiny = np.abs(drawn) < rounding.tiny(dtype)
    weights[path] = np.where(tiny, 0, drawn).astype(dtype)
  return traverse_util.unflatten_dict(weights)


def _points(rng, center, radius, count):
  """Points of boxes in their own type, uniform and corners, [count·B, ...]."""
  dtype = center.dtype
  low = center.astype(LONG) - radius.astype(LONG)
  high = center.astype(LONG) + radius.astype(LONG)
  noise = rng.uniform(-1, 1, (count,) + center.shape)
  corners = rng.random((count,) + (1,) * center.ndim) < 0.5
  noise = np.where(corners, np.sign(noise), noise)
  points = np.clip(center + radius.astype(LONG) * noise, low, high)
  points = points.astype(dtype)
  # What the type has no number for is rounded to the inside.
  points = np.where(points < low, np.nextafter(points, dtype.type(np.inf)), points)
  points = np.where(
      points > high, np.nextafter(points, dtype.type(-np.inf)), points
  )
  wrong = (points < low) | (points > high)
  wrong |= (points != 0) & (np.abs(points) < rounding.tiny(dtype))
  points = np.where(wrong, center, points)
  return points.reshape((-1,) + center.shape[1:])


def _half_seen(x):
  slope, offset = _BOUNDED_SLOPE(x)
  return slope, 0.9 * offset


_BOUNDED_SLOPE = _RELU.bounded_slope
# By name: what is replaced, by what.
FAULTS = {
    "widening": [
        (rounding, name, lambda *_: 0.0)
        for name in ("relative", "elementary", "absolute", "tiny")
    ],
    "relu_offset": [(_RELU, "bounded_slope", _half_seen)],
    "shared_names": [
        (module, "layer_symbol", layer_path)
        for module in (abstract, activations)
    ],
}


@contextlib.contextmanager
def planted(fault: str | None):
  """With one of FAULTS in the package, or none."""
  with contextlib.ExitStack() as stack:
    for module, name, faulty in FAULTS.get(fault, []):
      stack.enter_context(mock.patch.object(module, name, faulty))
    yield
