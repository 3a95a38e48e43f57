"""Soundness of whole networks: no point of the input leaves the bounds.

  python -m pytest tests/test_random_networks.py --networks=200 --points=5000

and `python -m benchmarks.soundness` are the long runs; their figures are in
docs/soundness.md.
"""

import dataclasses
import functools

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import soundness_search

from diffai_jax import domains
from diffai_jax.types import Mode

BATCH = 2


def pytest_generate_tests(metafunc):
  if "seed" in metafunc.fixturenames:
    count = metafunc.config.getoption("networks")
    metafunc.parametrize("seed", range(count))


@pytest.mark.usefixtures("float64")
def test_no_point_leaves_the_bounds(seed, request):
  rng = np.random.default_rng(seed)
  count = request.config.getoption("points")
  network = random_networks.draw(rng)
  center = rng.uniform(-1, 1, (BATCH, 6, 6, 2))
  radius = float(rng.choice([0.0, 1e-9, 0.01, 0.1, 1.0]))
  params = drawn_weights.variables(
      network, center.shape[1:], seed, np.float64
  )
  params = jax.tree.map(lambda w: 2.5 * w, params)
  run = jax.jit(network.apply)
  push = jax.jit(jax.grad(
      lambda x, d, params: jnp.sum(network.apply(params, x) * d)
  ))

  rule = str(rng.choice(random_networks.RULES))
  make = domains.box if rng.random() < 0.3 else domains.correlated_box
  zonotope = bool(rng.random() < 0.3)

  @functools.partial(jax.jit, static_argnums=3)
  def bound(params, center, radius, mode):
    element = dataclasses.replace(
        make(center, radius), relu=rule, zonotope=zonotope
    )
    output = network.apply(params, element, mode)
    return domains.lower(output), domains.upper(output)

  points = random_networks.draw_points(rng, center, radius, count // BATCH)
  attacks = max(20, count // 20)
  attacked = np.broadcast_to(center, (attacks,) + center.shape)
  attacked = attacked.reshape((-1,) + center.shape[1:])
  direction = rng.normal(size=(len(attacked), 4))
  start = attacked
  for _ in range(4):  # Towards extremes of random combinations of outputs.
    gradient = np.asarray(push(attacked, direction, params))
    attacked = start + radius * np.sign(gradient)
  values = np.asarray(run(params, np.concatenate([points, attacked])))
  for mode in (Mode.TRAIN, Mode.CERTIFY):
    low, high = map(np.asarray, bound(params, center, radius, mode))
    assert np.all(np.isfinite(low)) and np.all(np.isfinite(high))
    value = values.reshape((-1,) + low.shape)
    assert np.all(low <= value) and np.all(value <= high), (seed, mode)


# What is proved must hold for what XLA makes of a network, too; of large ones
# that takes minutes, and benchmarks/soundness.py does it.
# Small networks whose weights are ordinary, of any magnitude, and such that the
# values stay in range.
@pytest.mark.optimized
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_point_of_networks_of_all_magnitudes_leaves_the_bounds(dtype):
  found = sum(
      (soundness_search.search(number, dtype, 200, small=True)
       for number in (0, 2, 4)),
      start=soundness_search.Found(),
  )
  assert not found.escapes, found.seeds
  # It is no use to prove nothing.
  assert found.finite > 0.5 * found.bounds


# Seeds of networks that a fault shows in.
@pytest.mark.optimized
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fault, number", [
    ("widening", 0), ("relu_offset", 3), ("shared_names", 76),
])
def test_planted_faults_are_found(fault, number):
  with soundness_search.planted(fault):
    assert soundness_search.search(number, np.float32, 200, small=True).escapes
  assert not soundness_search.search(
      number, np.float32, 200, small=True
  ).escapes
