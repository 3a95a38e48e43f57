"""The largest ε: against the exact one, and when proofs are not monotonic."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import nn
from diffai_jax.regions import Linf
from diffai_jax.verification.bisection import largest_proved
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.methods import Box, Method

_NETWORK = nn.Linear(2)  # Which of two numbers is larger.
_PARAMS = {
    "kernel": jnp.eye(2, dtype=jnp.float32),
    "bias": jnp.zeros(2, jnp.float32),
}
_IMAGES = np.array(
    [[0.9, 0.1], [0.5, 0.6], [0.5, 0.5], [0.2, 0.3], [1, 0.25]], np.float32
)
_LABELS = np.array([0, 1, 0, 0, 0])
_GAPS = np.array([0.4, 0.05, -np.inf, -np.inf, 0.375])


def _largest(method=Box(), steps=20, most=1.0, data_range=(0, 1), **options):
  inputs = checked(_IMAGES, _LABELS, Linf(most, data_range))
  return largest_proved(_NETWORK, _PARAMS, inputs, method, steps, **options)


@pytest.mark.parametrize("steps", [0, 1, 5, 20, 60])
def test_it_is_half_of_the_gap(steps):
  found = _largest(steps=steps)
  assert found.dtype == np.float32
  proved = np.isfinite(_GAPS)
  np.testing.assert_array_equal(found[~proved], _GAPS[~proved])
  gaps = _GAPS[proved]
  assert np.all(found[proved] < gaps) and np.all(found[proved] >= 0)
  assert np.all(gaps - found[proved] <= 2.0**-steps + 1e-5)


def test_no_more_than_the_most_is_tried():
  np.testing.assert_array_equal(
      _largest(most=0.3, data_range=None),
      np.float32([0.3, _largest(most=0.3)[1], -np.inf, -np.inf, 0.3]),
  )
  found = _largest(most=0)
  np.testing.assert_array_equal(found, [0, 0, -np.inf, -np.inf, 0])


@dataclasses.dataclass(frozen=True)
class Patchy(Method):
  """Proves, wrongly so, at ε = 0 and where ε has an odd number of eighths."""

  def bound(self, graph, images, region, spec):
    epsilon = region.epsilon.reshape(-1, 1)
    holds = (epsilon == 0) | (jnp.floor(8 * epsilon) % 2 == 1)
    return jnp.where(holds, -1.0, 1.0)


def test_only_what_was_proved_is_returned():
  """Whatever the method does between; and never what it did not prove."""
  for most in (1.0, 0.9, 0.33):
    found = _largest(Patchy(), most=most)
    assert np.all((found == 0) | (np.floor(8 * found) % 2 == 1))


def test_progress_is_told():
  told = []
  _largest(steps=3, progress=lambda phase, done: told.append((phase, done)))
  assert told == [("Box", n) for n in range(1, 6)]
