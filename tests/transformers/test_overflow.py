"""Where a partial sum may overflow nothing is proved, whatever its order."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import Dense, HybridZonotope, Product

# XLA's optimiser may sum in another order.
pytestmark = pytest.mark.optimized

HUGE = jnp.array([[3e38, -3e38] * 4])
KERNEL = jnp.stack([jnp.ones(8), jnp.zeros(8)], axis=1)
LABELS = jnp.array([1])

CASES = {
    "dense": lambda x: transformers.dense(x, KERNEL, jnp.zeros(2)),
    "bias": lambda x: transformers.dense(
        x, 0 * KERNEL, jnp.array([3.4e38, 0.0])
    ),
    "conv": lambda x: transformers.flatten(transformers.conv(
        transformers.reshape(x, (2, 2, 2)),
        KERNEL.reshape(2, 2, 2, 2), jnp.zeros(2),
    )),
    "sum": lambda x: transformers.sum_axes(
        transformers.reshape(x, (8, 1)), (0,)
    ),
    "mean": lambda x: transformers.flatten(transformers.average_pool(
        transformers.reshape(x, (2, 4, 1)), 2
    )),
    "add": lambda x: transformers.add(x, x),
    "subtract": lambda x: transformers.subtract(x, x),
    "squashed": lambda x: transformers.tanh(
        transformers.dense(x, KERNEL, jnp.zeros(2))
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["point", "symbols", "product"])
def test_sums_that_may_overflow_are_nan(case, kind):
  element = domains.point(HUGE)
  if kind == "symbols":
    element = HybridZonotope(0 * HUGE, None, {"a": Dense(HUGE[:, None])})
  if kind == "product":
    element = CASES[case](Product((HUGE, element)) if case not in (
        "add", "subtract"
    ) else element)
    element = element[1] if isinstance(element, Product) else element
  else:
    element = CASES[case](element)
  assert np.isnan(domains.upper(element)[0, 0])


def test_no_margin_is_proved():
  output = transformers.dense(domains.point(HUGE), KERNEL, jnp.array([-1.0, 0]))
  assert not losses.proved(losses.margins(output, LABELS), LABELS)[0]
  # The same of numbers that fit is proved.
  output = transformers.dense(
      domains.point(HUGE / 1e38), KERNEL, jnp.array([-1.0, 0])
  )
  assert losses.proved(losses.margins(output, LABELS), LABELS)[0]


def test_large_numbers_that_fit_are_bounded():
  output = transformers.dense(domains.point(HUGE / 1e8), KERNEL, jnp.zeros(2))
  assert np.all(np.isfinite(domains.upper(output)))
