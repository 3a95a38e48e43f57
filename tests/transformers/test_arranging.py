"""Moves are exact: variables keep their center, their error and their symbols."""

import dataclasses
import functools

import elements
import jax
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Diagonal, HybridZonotope, Product
from diffai_jax.domains.generators import Local

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 3)


def transposed(axes):
  return (lambda x: transformers.transpose(x, axes),
          lambda x, fill: np.transpose(x, (0, *(a % 3 + 1 for a in axes))))


def padded(widths, fill=0.0):
  def concrete(x, fill):
    for axis, (low, high, interior) in enumerate(widths, 1):
      size = x.shape[axis]
      shape = list(x.shape)
      shape[axis] = size + (size - 1) * interior
      spread = np.full(shape, fill)
      where = [slice(None)] * 4
      where[axis] = slice(None, None, interior + 1)
      spread[tuple(where)] = x
      ends = [(0, 0)] * 4
      ends[axis] = (max(low, 0), max(high, 0))
      x = np.pad(spread, ends, constant_values=fill)
      cut = [slice(None)] * 4
      cut[axis] = slice(max(-low, 0), x.shape[axis] - max(-high, 0))
      x = x[tuple(cut)]
    return x

  return lambda x: transformers.pad(x, widths, fill), concrete


def sliced(*cuts):
  numbers = tuple(zip(*cuts))
  where = (slice(None), *(slice(*cut) for cut in cuts))
  return (lambda x: transformers.slice_axes(x, *numbers),
          lambda x, fill: x[where])


def repeated(first, shape):
  """Of a part of the image with axes of size 1."""
  ends = tuple(slice(0, n) for n in first)
  return (
      lambda x: transformers.broadcast(
          transformers.slice_axes(x, (0, 0, 0), first, (1, 1, 1)), shape
      ),
      lambda x, fill: np.broadcast_to(
          x[(slice(None), *ends)].reshape(
              (-1,) + (1,) * (len(shape) - 3) + first
          ), (len(x), *shape)
      ),
  )


CASES = {
    "transpose_same": transposed((0, 1, -1)),
    "transpose_to_channels_last": transposed((1, 2, 0)),
    "transpose_columns": transposed((0, 2, 1)),
    "transpose_to_channels_first": transposed((2, 0, 1)),
    "transpose_rows": transposed((1, 0, 2)),
    "pad": padded(((1, 2, 0), (0, 1, 0), (0, 0, 0)), 0.5),
    "crop": padded(((-1, 1, 0), (2, -3, 0), (-1, 0, 0))),
    "pad_channels": padded(((0, 0, 0), (0, 0, 0), (1, 2, 1))),
    "spread": padded(((0, 1, 1), (-1, -2, 2), (0, 0, 0)), -1.0),
    "pad_nothing": padded(((0, 0, 0),) * 3),
    "slice": sliced((1, 4, 1), (0, 4, 1), (1, 3, 1)),
    "slice_strided": sliced((1, 4, 2), (0, 5, 3), (0, 3, 2)),
    "slice_nothing": sliced((0, 4, 1), (0, 5, 1), (0, 3, 1)),
    "slice_empty": sliced((1, 1, 1), (0, 5, 1), (0, 3, 1)),
    "broadcast_pixels": repeated((1, 1, 3), (4, 5, 3)),
    "broadcast_channels": repeated((4, 5, 1), (4, 5, 2)),
    "broadcast_new": repeated((4, 5, 3), (2, 4, 5, 3)),
    "broadcast_new_of_one": repeated((4, 5, 3), (1, 4, 5, 3)),
}
# Compiled once for each kind of element.
CASES = {name: (jax.jit(f), g) for name, (f, g) in CASES.items()}


@functools.cache
def moved_elements(case):
  """An element of each kind, and what a case makes of it, in one program."""
  transform, _ = CASES[case]
  given = {
      kind: elements.random_element(np.random.default_rng(0), SHAPE, kind)
      for kind in elements.KINDS
  }
  return given, jax.jit(
      lambda given: {kind: transform(x) for kind, x in given.items()}
  )(given)


@pytest.mark.parametrize("kind", elements.KINDS)
@pytest.mark.parametrize("case", CASES)
def test_every_field_is_moved_alike(case, kind):
  _, concrete = CASES[case]
  element, result = (values[kind] for values in moved_elements(case))
  fill = {"pad": 0.5, "spread": -1.0}.get(case, 0.0)
  np.testing.assert_array_equal(result.center, concrete(element.center, fill))
  np.testing.assert_array_equal(
      result.uncorrelated, concrete(element.uncorrelated, 0.0)
  )
  assert set(result.correlated) == set(element.correlated)
  for name, block in element.correlated.items():
    before = elements.dense_numbers(block)
    moved = concrete(before.reshape((-1, *SHAPE)), 0.0)
    np.testing.assert_array_equal(
        elements.dense_numbers(result.correlated[name]),
        moved.reshape(before.shape[:2] + moved.shape[1:]),
    )
  if not result.center.size:
    return
  elements.assert_images_covered(
      np.random.default_rng(0), element, result,
      lambda x: concrete(x, fill), 2,
  )


@pytest.mark.parametrize("case", CASES)
def test_arrays_and_products(case):
  transform, concrete = CASES[case]
  fill = {"pad": 0.5, "spread": -1.0}.get(case, 0.0)
  x = np.random.default_rng(1).normal(size=(2, *SHAPE))
  result = transform(Product((x, domains.box(x, 0.5))))
  np.testing.assert_array_equal(result[0], concrete(x, fill))
  np.testing.assert_array_equal(result[1].center, result[0])


@pytest.mark.parametrize("case", [
    "pad", "crop", "spread", "pad_channels", "slice", "slice_strided",
    "transpose_to_channels_last", "transpose_columns",
])
def test_pixels_become_windows(case):
  """Not n×n numbers; windows are moved as windows."""
  element = domains.correlated_box(np.zeros((1, *SHAPE)), 1.0, "input")
  transform, _ = CASES[case]
  block = jax.eval_shape(transform, element).correlated["input"]
  assert isinstance(block, Local) and block.extent in ((1, 1), (2, 3))
  if case.startswith("transpose"):
    return
  wide = jax.eval_shape(
      lambda x: transform(transformers.conv(
          x, np.ones((3, 3, 3, 3)), np.zeros(3), padding=1
      )), element
  )
  assert isinstance(wide.correlated["input"], Local)


def test_what_moves_nothing_returns_the_same():
  for x in (
      domains.correlated_box(np.zeros((1, *SHAPE)), 1.0, "input"),
      domains.box(np.zeros((1, *SHAPE)), 1.0),
  ):
    assert transformers.pad(x, ((0, 0, 0),) * 3) is x
    assert transformers.slice_axes(x, (0, 0, 0), SHAPE, (1, 1, 1)) is x
    assert transformers.broadcast(x, SHAPE) is x
  image = domains.correlated_box(np.zeros((1, 1, 4, 5)), 1.0, "input")
  moved = transformers.transpose(image, (1, 2, 0))
  assert isinstance(moved.correlated["input"], Diagonal)
  assert moved.center.shape == (1, 4, 5, 1)


def test_transposed_pixels_are_convolved_and_multiplied():
  """Places of windows need not rise: images of channels before rows."""
  rng = np.random.default_rng(2)
  radius = rng.uniform(size=(2, 3, 20, 20))
  element = HybridZonotope(np.zeros_like(radius), None, {"s": Diagonal(radius)})
  dense = dataclasses.replace(element, correlated={
      "s": domains.Dense(elements.dense_numbers(Diagonal(radius)))
  })
  kernel, last = rng.normal(size=(3, 3, 3, 2)), rng.normal(size=(200, 2))

  @jax.jit
  def network(x):
    x = transformers.transpose(x, (1, 2, 0))
    x = transformers.conv(
        x, kernel, np.zeros(2), stride=2, padding=((0, 1), (0, 1))
    )
    return transformers.dense(transformers.flatten(x), last, np.zeros(2))

  np.testing.assert_allclose(
      network(element).correlated["s"].coefficients,
      network(dense).correlated["s"].coefficients, atol=1e-10,
  )


def test_a_fill_that_the_type_does_not_hold_is_allowed_for():

  @jax.jit
  def pad(center):
    element = domains.box(center, np.float32(0.5))
    result = transformers.pad(element, ((1, 0, 0),), 0.1)
    held = transformers.pad(element, ((1, 0, 0),), 0.5)
    return domains.lower(result), domains.upper(result), held.uncorrelated

  low, high, held = map(np.float64, pad(np.zeros((1, 2), np.float32)))
  assert low[0, 0] < 0.1 < high[0, 0] < 0.1 + 1e-7
  assert not held[0, 0]


@pytest.mark.parametrize("message, act", [
    ("each of the 2 axes of an example once",
     lambda x: transformers.transpose(x, (0, 0))),
    ("is none of the 2 axes", lambda x: transformers.transpose(x, (0, 2))),
    ("for each axis of", lambda x: transformers.pad(x, ((0, 0, 0),))),
    ("cannot be padded", lambda x: transformers.pad(x, ((-2, -2, 0), (0,) * 3))),
    ("cannot be padded", lambda x: transformers.pad(x, ((0, 0, -1), (0,) * 3))),
    ("slice_axes cannot take",
     lambda x: transformers.slice_axes(x, (0, 0), (4, 2), (1, 1))),
    ("slice_axes cannot take",
     lambda x: transformers.slice_axes(x, (0, 0), (3, 2), (1, -1))),
    ("does not broadcast", lambda x: transformers.broadcast(x, (3, 3))),
    ("does not broadcast", lambda x: transformers.broadcast(x, (2,))),
])
def test_what_does_not_fit_is_refused(message, act):
  for x in (np.zeros((2, 3, 2)), domains.box(np.zeros((2, 3, 2)), 0.1)):
    with pytest.raises(ValueError, match=message):
      act(x)
  with pytest.raises(TypeError, match="has no rule for list"):
    transformers.transpose([1.0], (0,))
