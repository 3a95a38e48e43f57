"""The order of training examples is a function of seed and epoch alone."""

import itertools

import numpy as np
import pytest

from diffai_jax.data import Examples, batches, epoch_order

SIZE, BATCH = 23, 5
STEPS = 4  # 23 = 4·5 + 3: three examples of an epoch are left out.


@pytest.fixture
def examples():
  """Images whose entries, and labels which, tell their row."""
  rows = np.arange(SIZE)
  images = np.broadcast_to(rows[:, None, None, None], (SIZE, 2, 2, 1))
  return Examples(images.astype(np.uint8), (100 + rows).astype(np.int32))


def take(examples, count, seed=0, first_step=0, batch_size=BATCH):
  """The rows of `count` steps, [count, batch]; checks what they hold."""
  result = []
  steps = batches(examples, batch_size, seed, first_step)
  for images, labels in itertools.islice(steps, count):
    assert images.shape == (batch_size, *examples.images.shape[1:])
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    rows = labels - 100
    assert np.all(images == rows[:, None, None, None])
    result.append(rows)
  return np.array(result)


@pytest.mark.parametrize("size", [1, 2, 23, 1000])
@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_an_epochs_order_is_a_permutation(size, seed):
  for epoch in (0, 1, 999):
    order = epoch_order(size, seed, epoch)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_the_order_depends_on_seed_and_epoch_alone():
  """Equal for equal ones, whatever ran before; different for each pair."""
  first = {}
  for seed, epoch in itertools.product(range(8), range(8)):
    first[seed, epoch] = tuple(epoch_order(SIZE, seed, epoch))
  assert len(set(first.values())) == 64
  assert tuple(range(SIZE)) not in first.values()
  np.random.seed(5)
  for pair in reversed(first):
    assert tuple(epoch_order(SIZE, *pair)) == first[pair]


def test_an_epoch_visits_examples_at_most_once(examples):
  """In its order; the last, partial batch is dropped."""
  rows = take(examples, 3 * STEPS, seed=3).reshape(3, STEPS * BATCH)
  for epoch, visited in enumerate(rows):
    assert len(set(visited)) == STEPS * BATCH
    order = epoch_order(SIZE, 3, epoch)
    np.testing.assert_array_equal(visited, order[:STEPS * BATCH])
  assert not np.array_equal(rows[0], rows[1])


def test_what_is_left_out_changes_from_epoch_to_epoch(examples):
  """So every example is seen in the long run."""
  rows = take(examples, 10 * STEPS)
  assert set(rows.ravel()) == set(range(SIZE))


@pytest.mark.parametrize("first_step", [0, 1, 3, 4, 5, 8, 11, 12, 402])
def test_resuming_at_any_step_yields_the_same(first_step, examples):
  """Step k does not depend on where reading began."""
  whole = take(examples, first_step + 9, seed=2)
  resumed = take(examples, 9, seed=2, first_step=first_step)
  np.testing.assert_array_equal(resumed, whole[first_step:])


def test_seeds_give_different_orders(examples):
  assert not np.array_equal(
      take(examples, STEPS, seed=0), take(examples, STEPS, seed=1)
  )


@pytest.mark.parametrize("batch_size, steps", [
    (1, 23), (11, 2), (12, 1), (23, 1)
])
def test_steps_of_an_epoch(batch_size, steps, examples):
  """SIZE // batch_size of them, down to one that takes everything."""
  rows = take(examples, 2 * steps, batch_size=batch_size)
  for epoch in range(2):
    order = epoch_order(SIZE, 0, epoch)[:steps * batch_size]
    visited = rows[epoch * steps:(epoch + 1) * steps].ravel()
    np.testing.assert_array_equal(visited, order)


def test_the_examples_are_left_as_they_are(examples):
  """What is yielded may be changed without harm to what follows."""
  for images, labels in itertools.islice(batches(examples, BATCH, 0), STEPS):
    images[:], labels[:] = 0, 0
  np.testing.assert_array_equal(examples.labels, 100 + np.arange(SIZE))
  assert np.all(examples.images[:, 0, 0, 0] == np.arange(SIZE))
