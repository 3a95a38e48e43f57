"""What a caller may give as images and labels, and what each mistake says."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.data.arrays import (
    checked_images,
    checked_labels,
    checked_range,
    float32_images,
)
from diffai_jax.types import ArgumentError, UsageError

_FLOATS = np.linspace(0, 1, 24, dtype=np.float32)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 4), (1, 2, 3, 4), (24, 1)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_of_any_shape_come_back_as_they_are(shape, dtype):
  images = _FLOATS.reshape(shape).astype(jnp.dtype(dtype))
  found = checked_images(images)
  assert found.dtype == images.dtype
  np.testing.assert_array_equal(found, images)


def test_jax_arrays_lists_and_bytes_are_images_too():
  np.testing.assert_array_equal(
      checked_images(jnp.asarray(_FLOATS)[None]), _FLOATS[None]
  )
  np.testing.assert_array_equal(
      checked_images([[0.0, 1.0]]), np.array([[0.0, 1.0]])
  )
  pixels = np.array([[0, 255]], np.uint8)
  assert checked_images(pixels).dtype == np.uint8
  assert checked_images(pixels, None).dtype == np.uint8
  assert float32_images(pixels) is pixels


@pytest.mark.parametrize("images, message", [
    (_FLOATS[None] * 255, r"images\[0, 1\] is 11.087, .*0 to 1; divide them"),
    (_FLOATS[None] - 1, r"images\[0, 0\] is -1, .*0 to 1; give their range"),
    ([[0.5, np.nan]], r"images\[0, 1\] is nan; expected finite numbers"),
    ([[np.inf, 0.5]], r"images\[0, 0\] is inf; expected finite numbers"),
    (_FLOATS, r"the shape \[24\]; expected \[N, \.\.\.\]"),
    (np.float32(1), r"the shape \[\]; expected"),
    (np.zeros((0, 3)), r"images are empty, of shape \[0, 3\]"),
    (np.zeros((3, 0)), r"images are empty, of shape \[3, 0\]"),
    ([[1, 2]], "images are of type int64; expected floats, or uint8"),
    ([[True]], "images are of type bool"),
    ([["a"]], "images are of type <U1"),
    ([[1.0], [1.0, 2.0]], "rows are all of one shape"),
    (None, "images is None; expected an array"),
])
def test_mistakes_with_images_are_one_line(images, message):
  with pytest.raises(ValueError, match=message) as caught:
    checked_images(images)
  assert isinstance(caught.value, UsageError)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_range_is_the_callers():
  wide = _FLOATS[None] * 255
  assert checked_images(wide, (0, 255)) is wide
  assert checked_images(-wide, None) is not None
  with pytest.raises(ArgumentError, match="data_range is .0.0, 255.0.; give"):
    checked_images(np.zeros((1, 2), np.uint8), (0, 255))
  # The ends belong to the range, in every type.
  assert checked_images(np.array([[0.1]], np.float32), (0, 0.1)).size == 1
  assert checked_images(np.array([[0.1]]), (0.1, 1)).size == 1


def test_the_shape_is_the_networks():
  with pytest.raises(ArgumentError, match=r"expected \[N, 8, 8, 1\]"):
    checked_images(np.zeros((2, 8, 8)), shape=(8, 8, 1))
  assert checked_images(np.zeros((2, 8)), shape=(8,)).shape == (2, 8)


@pytest.mark.parametrize("given", [
    (1, 0), (0, 0), (0, np.inf), (np.nan, 1), (0,), (0, 1, 2), 1, "01", "no",
])
def test_ranges_that_are_none(given):
  with pytest.raises(ArgumentError, match="data_range is .*; expected"):
    checked_range(given)


@pytest.mark.parametrize("labels, message", [
    ([0, 3], r"labels\[1\] is 3; expected from 0 to 2, as the network has 3"),
    ([-1, 0], r"labels\[0\] is -1"),
    ([0.0, 1.0], "labels are of type float64; expected whole numbers"),
    ([True, False], "labels are of type bool"),
    ([0, 1, 2], "there are 3 labels for 2 images"),
    ([[1, 0], [0, 1]], r"the shape \[2, 2\].*argmax"),
    (None, "labels is None"),
])
def test_mistakes_with_labels_are_one_line(labels, message):
  with pytest.raises(ArgumentError, match=message) as caught:
    checked_labels(labels, 2, 3)
  assert "\n" not in str(caught.value)


def test_labels_of_any_integer_type():
  for dtype in (np.uint8, np.int64, np.uint64, jnp.int32):
    found = checked_labels(np.array([0, 2], dtype), 2, 3)
    assert found.dtype == np.int32 and found.tolist() == [0, 2]
  assert checked_labels([7], 1).tolist() == [7]
  with pytest.raises(ArgumentError, match=r"labels\[0\] is -7; .*0 or more"):
    checked_labels([-7], 1)
  with pytest.raises(ArgumentError, match=r"labels\[0\] is 4294967296"):
    checked_labels([2**32], 1)


def test_what_float32_cannot_hold_is_told():
  with pytest.raises(ArgumentError, match=r"images\[0, 1\] is 1e\+39"):
    float32_images(checked_images([[0.0, 1e39]], None))
  assert float32_images(np.array([[0.1]])).dtype == np.float32
