"""Pools, sums and transposed convolutions against their definitions."""

import dataclasses
import functools

import elements
import jax
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains.generators import Local

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (7, 6, 2)
RULES = "box", "switch", "deepz"
KERNEL = np.random.default_rng(9).normal(size=(3, 2, 2, 3))


def numpy_pool(x, reduce, window, stride, padding, fill):
  pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  x = np.pad(x, pads, constant_values=fill)
  sizes = [(n - window) // stride + 1 for n in x.shape[1:3]]
  out = np.empty((len(x), *sizes, x.shape[3]))
  for p in range(sizes[0]):
    for q in range(sizes[1]):
      y, z = p * stride, q * stride
      out[:, p, q] = reduce(x[:, y : y + window, z : z + window], axis=(1, 2))
  return out


def numpy_conv_transpose(x, stride, padding):
  """Each pixel adds its multiple of the kernel; the rim is cut off."""
  height, width = ((n - 1) * stride + k for n, k in zip(x.shape[1:3], (3, 2)))
  out = np.zeros((len(x), height, width, 3))
  for i in range(x.shape[1]):
    for j in range(x.shape[2]):
      y, z = i * stride, j * stride
      out[:, y : y + 3, z : z + 2] += np.einsum(
          "bc,hwcf->bhwf", x[:, i, j], KERNEL
      )
  return out[:, padding : height - padding, padding : width - padding]


def average(window, stride, padding):
  return (
      lambda x: transformers.average_pool(
          x, window, stride=stride, padding=padding),
      lambda x: numpy_pool(x, np.mean, window, stride, padding, 0),
  )


def transposed(stride, padding):
  return (
      lambda x: transformers.conv_transpose(
          x, KERNEL, np.zeros(3), stride=stride, padding=padding),
      lambda x: numpy_conv_transpose(x, stride, padding),
  )


AFFINE = {
    "average2": average(2, 2, 0),
    "average3": average(3, 2, 1),
    "average_overlap": average(3, 1, 1),
    "transposed": transposed(1, 0),
    "transposed_stride2": transposed(2, 1),
    "global": (transformers.global_average_pool,
               lambda x: x.mean(axis=(1, 2))),
    "sum_channels": (lambda x: transformers.sum_axes(x, (-1,)),
                     lambda x: x.sum(axis=-1)),
    "sum_all": (lambda x: transformers.sum_axes(x, (0, 1, 2)),
                lambda x: x.sum(axis=(1, 2, 3))),
}


# Compiled once for each kind of element.
AFFINE = {name: (jax.jit(f), g) for name, (f, g) in AFFINE.items()}


@pytest.mark.parametrize("kind", elements.KINDS)
@pytest.mark.parametrize("case", AFFINE)
def test_affine_pools_are_exact_and_sound(case, kind):
  transform, concrete = AFFINE[case]
  rng = np.random.default_rng(0)
  element = elements.random_element(rng, SHAPE, kind)
  result = transform(element)
  np.testing.assert_allclose(
      result.center, concrete(np.asarray(element.center)), atol=1e-12
  )
  for name, block in element.correlated.items():
    before = elements.dense_numbers(block)
    images = concrete(before.reshape((-1, *SHAPE)))
    np.testing.assert_allclose(
        elements.dense_numbers(result.correlated[name]),
        images.reshape(before.shape[:2] + images.shape[1:]), atol=1e-12,
    )
  elements.assert_images_covered(rng, element, result, concrete, 10)


@pytest.mark.parametrize("case", ["average2", "average3", "transposed"])
def test_windows_stay_windows(case):
  element = domains.correlated_box(np.zeros((1, *SHAPE)), 1.0, "input")
  assert isinstance(AFFINE[case][0](element).correlated["input"], Local)


@functools.cache
def max_pooled(kind, window, stride, padding):
  """A random element, and its maxima by each rule: in one program."""
  element = elements.random_element(
      np.random.default_rng(1), SHAPE, kind, batch=6
  )
  # The symbols of one half of the batch move little, those of the other much.
  spread = np.repeat([0.01, 1.0], 3)
  spreads = lambda v: v * spread.reshape(6, *[1] * (v.ndim - 1))
  element = dataclasses.replace(
      element, uncorrelated=spreads(element.uncorrelated),
      correlated=jax.tree.map(spreads, element.correlated),
  )

  @jax.jit
  def pooled(element):
    return {
        rule: transformers.max_pool(
            dataclasses.replace(element, relu=rule), window, stride=stride,
            padding=padding,
        )
        for rule in RULES
    }

  return element, pooled(element)


# The rules last, so that those of one program follow each other.
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", elements.KINDS)
@pytest.mark.parametrize("window, stride, padding", [
    (2, 2, 0), (3, 2, 1), (3, 1, 1), (1, 1, 0),
])
def test_max_pool_covers_every_point(kind, rule, window, stride, padding):
  element, results = max_pooled(kind, window, stride, padding)
  elements.assert_images_covered(
      np.random.default_rng(2), element, results[rule],
      lambda x: numpy_pool(x, np.max, window, stride, padding, -np.inf), 12,
  )


def test_max_pool_is_exact_where_one_input_dominates():
  rng = np.random.default_rng(2)
  element = elements.random_element(rng, (4, 4, 2), "dense", spread=0.01)
  center = np.zeros((3, 4, 4, 2))
  center[:, ::2, 1::2] = 5.0
  element = dataclasses.replace(element, center=center)
  result = jax.jit(lambda x: transformers.max_pool(x, 2))(element)
  np.testing.assert_allclose(
      elements.dense_numbers(result.correlated["a"]),
      elements.dense_numbers(element.correlated["a"])[:, :, ::2, 1::2],
  )
  np.testing.assert_allclose(
      result.uncorrelated, np.asarray(element.uncorrelated)[:, ::2, 1::2],
      atol=1e-12,
  )


def test_max_pool_of_arrays_and_without_generators():
  rng = np.random.default_rng(3)
  x = rng.normal(size=(2, *SHAPE))
  np.testing.assert_array_equal(
      jax.jit(lambda x: transformers.max_pool(x, 3, stride=2, padding=1))(x),
      numpy_pool(x, np.max, 3, 2, 1, -np.inf),
  )
  upper = jax.jit(
      lambda x: domains.upper(transformers.max_pool(domains.box(x, 0.5), 2))
  )(x)
  np.testing.assert_allclose(
      upper, numpy_pool(x, np.max, 2, 2, 0, 0) + 0.5, atol=1e-12
  )
  with pytest.raises(ValueError, match="must be below the window"):
    transformers.max_pool(x, 2, padding=2)


def test_pools_keep_the_type_of_numbers(float64):
  """Also float32 arrays where float64 is enabled."""
  image = np.zeros((1, 4, 4, 1), np.float32)

  @jax.jit
  def pooled(x):
    return (
        transformers.average_pool(x, 2), transformers.global_average_pool(x),
        transformers.max_pool(x, 2), transformers.scale_shift(x, 0.5, 0.1),
    )

  for x in (image, domains.box(image, np.float32(0.1))):
    for y in pooled(x):
      dtype = y.dtype if hasattr(y, "dtype") else y.center.dtype
      assert dtype == np.float32


@pytest.mark.parametrize("pool", [
    transformers.average_pool, transformers.max_pool
])
def test_windows_that_do_not_fit_are_refused(pool):
  for keywords in ({"window": 5}, {"window": 2, "stride": 0}):
    for x in (np.zeros((1, 4, 4, 1)), domains.box(np.zeros((1, 4, 4, 1)), .1)):
      with pytest.raises(ValueError, match="does not fit an image 4x4"):
        pool(x, **keywords)


def test_a_convolution_that_only_sees_padding_keeps_its_block():
  """No window meets an output: coefficients 0, not a block without entries."""

  @jax.jit
  def radius(center):
    element = transformers.correlate_all(domains.box(center, 0.1), "s")
    image = transformers.conv(
        element, np.ones((2, 2, 1, 1)), np.zeros(1), stride=4, padding=2
    )
    return domains.radius(transformers.flatten(image))

  found = radius(np.ones((1, 1, 1, 1)))
  np.testing.assert_array_equal(found < 1e-6, [[True] * found.size])
