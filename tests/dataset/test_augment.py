"""Random crops and mirrors, found again by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.data import augment, to_floats, to_unit_range

BATCH = 64  # The same everywhere: each compilation takes longer than a test.
SHAPE = (5, 7, 2)  # Not square, so rows and columns cannot be confused.


def images_of(batch, dtype=np.uint8):
  """Images of distinct entries from 1 on, so that 0 is padding alone."""
  count = int(np.prod(SHAPE))
  rng = np.random.default_rng(0)
  entries = [rng.permutation(200)[:count] + 1 for _ in range(batch)]
  return np.reshape(entries, (batch, *SHAPE)).astype(dtype)


def keys_of(batch, seed=0):
  return jax.random.split(jax.random.key(seed), batch)


def run(images, keys, padding=2, flip=True):
  return np.asarray(compiled(images, keys, padding, flip))


compiled = jax.jit(augment, static_argnums=(2, 3))


def found(image, result, padding=2):
  """Every (row, column, mirrored) of which `result` is the crop."""
  height, width, _ = image.shape
  padded = np.zeros((height + 2 * padding, width + 2 * padding, 2), image.dtype)
  padded[padding:padding + height, padding:padding + width] = image
  matches = []
  for row in range(2 * padding + 1):
    for column in range(2 * padding + 1):
      crop = padded[row:row + height, column:column + width]
      for mirrored in (False, True):
        candidate = crop[:, ::-1] if mirrored else crop
        if np.array_equal(candidate, result):
          matches.append((row, column, mirrored))
  return matches


@pytest.fixture(scope="module")
def crops():
  """What was done to each of 1280 images, with padding 2 and mirrors."""
  images, keys = images_of(20 * BATCH), keys_of(20 * BATCH)
  parts = [slice(start, start + BATCH) for start in range(0, 1280, BATCH)]
  results = np.concatenate([run(images[part], keys[part]) for part in parts])
  matches = [found(i, r) for i, r in zip(images, results)]
  assert all(len(match) == 1 for match in matches)
  return [match[0] for match in matches]


def test_every_result_is_one_crop_of_its_image(crops):
  """All 25 places occur, mirrored and not."""
  everything = {
      (row, column, mirrored)
      for row in range(5) for column in range(5) for mirrored in (False, True)
  }
  assert set(crops) == everything


def test_crops_are_uniform_and_independent(crops):
  """No place or mirror is rarer than chance allows (5 standard deviations)."""
  total = len(crops)
  for choices in (
      [row for row, _, _ in crops],
      [column for _, column, _ in crops],
      [mirrored for _, _, mirrored in crops],
      crops,
  ):
    kinds, counts = np.unique(choices, axis=0, return_counts=True)
    share = 1 / len(kinds)
    spread = np.sqrt(total * share * (1 - share))
    assert np.all(np.abs(counts - total * share) < 5 * spread)


@pytest.mark.parametrize("padding, flip, dtype", [
    (1, True, np.float32), (4, False, np.uint8), (0, True, np.uint8)
])
def test_padding_and_mirrors_apart(padding, flip, dtype):
  """Either alone; the type and shape stay."""
  images = images_of(BATCH, dtype)
  results = run(images, keys_of(BATCH), padding, flip)
  assert results.dtype == dtype
  assert results.shape == images.shape
  matches = [found(i, r, padding) for i, r in zip(images, results)]
  assert all(len(match) == 1 for match in matches)
  mirrored = {match[0][2] for match in matches}
  assert mirrored == ({False, True} if flip else {False})


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_padding_and_mirrors_nothing_changes(dtype):
  images = images_of(8, dtype)
  result = augment(jnp.asarray(images), keys_of(8), 0, False)
  assert result.dtype == dtype
  np.testing.assert_array_equal(result, images)


def test_a_key_always_gives_the_same_crop():
  """And other keys give others."""
  images = images_of(BATCH)
  first = run(images, keys_of(BATCH))
  np.testing.assert_array_equal(run(images, keys_of(BATCH)), first)
  other = run(images, keys_of(BATCH, seed=1))
  same = [found(i, a) == found(i, b) for i, a, b in zip(images, first, other)]
  assert np.mean(same) < 0.2  # 1 of 50 by chance.


def test_an_image_depends_on_its_own_key_alone():
  """So results do not depend on how devices share a batch."""
  images, keys = images_of(BATCH), keys_of(BATCH)
  whole = run(images, keys)
  quarters = [
      run(images[start:start + 16], keys[start:start + 16])
      for start in range(0, BATCH, 16)
  ]
  np.testing.assert_array_equal(np.concatenate(quarters), whole)
  order = np.random.default_rng(1).permutation(BATCH)
  np.testing.assert_array_equal(run(images[order], keys[order]), whole[order])
  others = images.copy()
  others[1:] = 9
  np.testing.assert_array_equal(run(others, keys)[0], whole[0])


def test_the_image_does_not_choose_its_crop():
  """Equal keys move different images alike."""
  images = images_of(BATCH)
  results = run(images, keys_of(BATCH)[np.zeros(BATCH, int)])
  matches = [found(i, r) for i, r in zip(images, results)]
  assert all(match == matches[0] and len(match) == 1 for match in matches)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("how", ["eager", "jit", "normalised"])
def test_to_unit_range_gives_the_numbers_that_numpy_gives(how, x64, request):
  """XLA's q/255 is another float32 for 126 of 256 bytes."""
  if x64:
    request.getfixturevalue("float64")
  bytes_ = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
  run = {
      "eager": to_unit_range,
      "jit": jax.jit(to_unit_range),
      # XLA may put together what follows.
      "normalised": lambda x: jax.jit(
          lambda x: (to_unit_range(x), (to_unit_range(x) - 0.1) / 0.3)
      )(x)[0],
  }[how]
  result = np.asarray(run(jnp.asarray(bytes_)))
  assert result.dtype == (np.float64 if x64 else np.float32)
  np.testing.assert_array_equal(
      result, (bytes_ / 255).astype(result.dtype)
  )


def test_pixels_around_an_image_have_the_value_asked_for():
  """0 may be no value of the data."""
  images = jnp.ones((20, 2, 2, 1))
  keys = jax.random.split(jax.random.key(0), 20)
  moved = np.asarray(augment(images, keys, 2, False, fill=0.5))
  assert set(np.unique(moved)) == {0.5, 1.0}


def test_floats_stay_as_they_are():
  """Bytes alone are divided."""
  floats = jnp.array([[0.1, 200.0]])
  assert to_floats(floats) is floats
  np.testing.assert_array_equal(
      to_floats(jnp.array([[0, 51, 255]], jnp.uint8)), [[0, np.float32(0.2), 1]]
  )
