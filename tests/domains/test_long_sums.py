"""Long sums are off by what few terms round, also once they are compiled."""

import math

import jax
import numpy as np
import pytest

from diffai_jax.domains import rounding
from diffai_jax.domains.long_sums import long_sum, terms_of

_COUNTS = (0, 1, 7, 64, 257, 784, 997, 4096, 10**5)


@pytest.mark.optimized
@pytest.mark.parametrize("count", _COUNTS)
def test_the_sum_is_within_its_bound(count):
  """Of numbers of one sign, which round the same way again and again."""
  rng = np.random.default_rng(count)
  values = np.stack([
      np.full(count, 1 + 2.0**-12), rng.normal(size=count),
      10.0 ** rng.uniform(-8, 8, count),
  ]).astype(np.float32)
  found = np.asarray(jax.jit(long_sum)(values), float)
  for row, total in zip(values.astype(float), found):
    allowed = rounding.relative(np.float32, terms_of(count)) * np.abs(row).sum()
    assert abs(total - math.fsum(row)) <= allowed


def test_a_running_sum_would_not_be():
  values = np.full(10**5, 1 + 2.0**-12, np.float32)
  total = float(np.cumsum(values)[-1])
  exact = math.fsum(values.astype(float))
  assert abs(total - exact) > rounding.relative(np.float32, terms_of(10**5)) * exact


@pytest.mark.parametrize("count", _COUNTS)
def test_terms_are_few(count):
  assert terms_of(count) <= 16 * (1 + math.log(max(1, count), 8))


@pytest.mark.parametrize("count", (3, 5000))
def test_what_overflows_is_no_number(count):
  values = np.full(count, 3e38, np.float32)
  values[::2] *= -1
  values[-1] = values[-3] = 3e38
  total = jax.jit(long_sum)
  assert np.isnan(total(values)) and np.isnan(total(-values))


def test_gradients_are_ones():
  gradient = jax.jit(jax.grad(lambda values: long_sum(values)[0]))(
      np.ones((1, 5000), np.float32)
  )
  assert np.all(np.asarray(gradient) == 1)
