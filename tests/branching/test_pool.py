"""The pool of subdomains against a list of them."""

import numpy as np

from diffai_jax.branching.pool import Pool
from diffai_jax.branching.subdomains import Subdomains


def some(numbers, depth):
  """Subdomains whose every array tells which they are."""
  numbers = np.asarray(numbers)
  wide = lambda *shape: np.broadcast_to(
      numbers.reshape((-1,) + (1,) * len(shape)), (len(numbers),) + shape
  )
  return Subdomains(
      numbers, numbers + 1, wide(depth), wide(2, 3).astype(np.float16),
      wide(2, 3).astype(np.float32), numbers.astype(np.float32),
      wide(3).astype(np.float32), wide(3).astype(np.float32) + 1,
  )


def test_is_a_set_of_subdomains():
  """Adding, taking and dropping at random, while lists of decisions grow."""
  rng = np.random.default_rng(0)
  pool, held, following, depth = Pool(2, 3, np.float32, 1.0), set(), 0, 16
  for turn in range(60):
    count = int(rng.integers(1, 40))
    numbers = list(range(following, following + count))
    following += count
    pool.add(some(numbers, depth), np.float32(numbers), False, numbers)
    held |= set(numbers)
    if turn % 20 == 19:
      pool.deepen()
      depth = pool.depth
    places = rng.choice(pool.size, int(rng.integers(0, pool.size)), False)
    expected = pool.image[places].tolist()
    if turn % 2:
      taken, bound, since = pool.take(places)
      assert taken.image.tolist() == expected == bound.tolist()
      assert since.tolist() == expected
      assert np.all(taken.high == taken.image[:, None] + 1)
      assert taken.decisions.shape == (len(places), depth)
      assert np.all(taken.alpha == taken.image[:, None, None])
      assert np.all(taken.beta == taken.image[:, None, None])
      assert np.all(taken.decisions[:, 0] == taken.image)
    else:
      pool.drop(places)
    held -= set(expected)
    assert set(pool.image.tolist()) == held == set(pool.bound.tolist())
    assert pool.size == len(held) and not pool.whole.any()


def test_capacity_is_what_fits():
  """A quarter of the memory holds a quarter of the subdomains."""
  large, small = (Pool(2, 1000, np.float32, mib) for mib in (4.0, 1.0))
  assert large.capacity // 4 == small.capacity
  # Slopes of two rows in 16 bits, multipliers, and two bounds.
  assert 45 < small.capacity < 2**20 / (1000 * (2 * 2 + 2 * 4 + 2 * 4))
