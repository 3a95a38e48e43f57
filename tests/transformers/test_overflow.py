"""Where a partial sum may overflow nothing is proved, whatever its order."""

import jax
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import Dense, HybridZonotope, Product

# XLA's optimiser may sum in another order.
pytestmark = pytest.mark.optimized

HUGE = np.float32([[3e38, -3e38] * 4])
KERNEL = np.stack([np.ones(8, np.float32), np.zeros(8, np.float32)], axis=1)
BIAS = np.zeros(2, np.float32)
LABELS = np.array([1])

CASES = {
    "dense": lambda x: transformers.dense(x, KERNEL, BIAS),
    "bias": lambda x: transformers.dense(
        x, 0 * KERNEL, np.float32([3.4e38, 0.0])
    ),
    "conv": lambda x: transformers.flatten(transformers.conv(
        transformers.reshape(x, (2, 2, 2)),
        KERNEL.reshape(2, 2, 2, 2), BIAS,
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
        transformers.dense(x, KERNEL, BIAS)
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["point", "symbols", "product"])
def test_sums_that_may_overflow_are_nan(case, kind):
  element = domains.point(HUGE)
  if kind == "symbols":
    element = HybridZonotope(0 * HUGE, None, {"a": Dense(HUGE[:, None])})
  if kind == "product" and case not in ("add", "subtract"):
    element = Product((HUGE, element))

  @jax.jit
  def upper(element):
    result = CASES[case](element)
    if isinstance(result, Product):
      result = result[1]
    return domains.upper(result)

  assert np.isnan(np.asarray(upper(element))[0, 0])


def test_no_margin_is_proved():

  @jax.jit
  def proved(x):
    output = transformers.dense(
        domains.point(x), KERNEL, np.float32([-1.0, 0])
    )
    return losses.proved(losses.margins(output, LABELS), LABELS)

  assert not np.asarray(proved(HUGE))[0]
  # The same of numbers that fit is proved.
  assert np.asarray(proved(HUGE / np.float32(1e38)))[0]


def test_large_numbers_that_fit_are_bounded():
  upper = jax.jit(lambda x: domains.upper(
      transformers.dense(domains.point(x), KERNEL, BIAS)
  ))
  assert np.all(np.isfinite(upper(HUGE / np.float32(1e8))))
