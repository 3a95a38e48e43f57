"""Images, labels and ε, as certification takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.regions import Linf
from diffai_jax.types import UsageError
from diffai_jax.verification.inputs import as_floats, checked

_IMAGES = np.random.default_rng(0).uniform(size=(3, 2, 2, 1))
_LABELS = np.array([0, 1, 2])


@pytest.mark.parametrize("dtype, held", [
    ("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"),
    ("float64", "float32"),
])
def test_floats_are_taken_as_they_are(dtype, held):
  images = _IMAGES.astype(jnp.dtype(dtype))
  for given in (images, jnp.asarray(images)):
    found = checked(given, _LABELS, Linf(0.1))
    assert isinstance(found.images, np.ndarray) and found.images.dtype == held
    np.testing.assert_array_equal(found.images, images.astype(held))
    np.testing.assert_array_equal(found.points(), found.images)


def test_float64_stays_so_where_jax_has_it(float64):
  found = checked(_IMAGES, _LABELS, Linf(0.1))
  assert found.images.dtype == found.region.epsilon.dtype == "float64"
  found = checked(_IMAGES.astype(np.float32), _LABELS, Linf(0.1))
  assert found.images.dtype == found.region.epsilon.dtype == "float32"


def test_bytes_are_the_floats_of_training():
  images = np.arange(256, dtype=np.uint8).reshape(4, 64)
  found = checked(images, [0] * 4, Linf(0.1))
  np.testing.assert_array_equal(found.images, images)
  np.testing.assert_array_equal(
      found.points(), jax.jit(as_floats)(found.images)
  )
  np.testing.assert_array_equal(
      found.points(), (images.astype(float) / 255).astype(np.float32)
  )


@pytest.mark.parametrize("epsilon, shape", [
    (0.7, (3, 1, 1, 1)),
    (1, (3, 1, 1, 1)),
    (np.array([0.1, 0.2, 0.3]), (3, 1, 1, 1)),
    ([0.1, 0.2, 0.3], (3, 1, 1, 1)),
    (jnp.array([0.1, 0.2, 0.3]), (3, 1, 1, 1)),
    (np.full((2, 2, 1), 0.1), (3, 2, 2, 1)),
    (np.full((2, 1), 0.1), (3, 2, 2, 1)),
    (np.full((1, 2, 2, 1), 0.1), (3, 2, 2, 1)),
    (np.full((3, 2, 2, 1), 0.1), (3, 2, 2, 1)),
    (np.full((3, 1, 1, 1), 0.1), (3, 1, 1, 1)),
])
def test_epsilon_is_one_for_each_example(epsilon, shape):
  """Never below what was given, and next to it."""
  found = checked(_IMAGES, _LABELS, Linf(epsilon)).region.epsilon
  assert found.shape == shape and found.dtype == np.float32
  given = np.asarray(epsilon, float)
  given = given.reshape(-1, 1, 1, 1) if given.shape == (3,) else given
  below = np.nextafter(found, np.float32(-1)).astype(float)
  assert np.all(found.astype(float) >= given) and np.all(below < given)


def test_an_epsilon_that_underflows_is_not_lost():
  found = checked(_IMAGES, _LABELS, Linf(1e-60)).region.epsilon
  assert np.all(found > 0)


@pytest.mark.parametrize("region, message", [
    (0.1, "the region is 0.1; expected a region such as Linf"),
    (Linf(-0.5), "epsilon is -0.5; expected a finite number of at least 0"),
    (Linf(np.array([0.1, np.nan, 0.1])), "epsilon is nan"),
    (Linf(np.inf), "epsilon is inf"),
    (Linf("0.1"), "epsilon is '0.1'"),
    (Linf(None), "epsilon is None"),
    (Linf(True), "epsilon is True"),
    (Linf([[0.1], [0.1, 0.2]]), "epsilon is"),
    (Linf(np.zeros(4)), r"epsilon is \[4\], but images are \[3, 2, 2, 1\]"),
    (Linf(0.1, (1, 0)), "data_range is .1, 0."),
    (Linf(0.1, "no"), "data_range is 'no'"),
])
def test_what_is_no_region(region, message):
  with pytest.raises(UsageError, match=message) as caught:
    checked(_IMAGES, _LABELS, region)
  assert "\n" not in str(caught.value)


def test_numbers_that_the_type_cannot_hold_are_refused():
  with pytest.raises(UsageError, match="float32 cannot hold"):
    checked(_IMAGES * 1e300, _LABELS, Linf(0.1, None))


def test_ranges_may_be_lists():
  found = checked(_IMAGES, _LABELS, Linf(0.1, [0, 1]))
  assert found.region.data_range == (0.0, 1.0)
  hash(jax.tree.structure(found))
