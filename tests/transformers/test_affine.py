"""Affine transformers: sound at every value of the symbols, and exact."""

import dataclasses
import functools

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Product
from diffai_jax.domains.generators import Local

RNG = np.random.default_rng(7)
IMAGE = (7, 6, 2)


def conv_case(size, stride, padding):
  kernel, bias = RNG.normal(size=(size, size, 2, 3)), RNG.normal(size=3)
  return lambda x: transformers.conv(
      x, kernel, bias, stride=stride, padding=padding
  ), (lambda x: numpy_conv(x, kernel, bias, stride, padding)), IMAGE


def dense_case():
  kernel, bias = RNG.normal(size=(9, 4)), RNG.normal(size=4)
  return (
      lambda x: transformers.dense(x, kernel, bias),
      lambda x: np.einsum("bi,io->bo", x, kernel) + bias,
      (9,),
  )


def flat_dense_case():
  """A dense layer on an image's variables: windows stay windows on the way."""
  kernel, bias = RNG.normal(size=(84, 4)), RNG.normal(size=4)
  return (
      lambda x: transformers.dense(transformers.flatten(x), kernel, bias),
      lambda x: np.einsum("bi,io->bo", x.reshape(len(x), 84), kernel) + bias,
      IMAGE,
  )


def scale_case(shape):
  factor, shift = RNG.normal(size=shape), RNG.normal(size=shape)
  return (
      lambda x: transformers.scale_shift(x, factor, shift),
      lambda x: x * factor + shift,
      IMAGE,
  )


def numpy_conv(x, kernel, bias, stride, padding):
  """Cross-correlation by its definition, one output at a time."""
  pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  x = np.pad(x, pads)
  size = kernel.shape[0]
  height = (x.shape[1] - size) // stride + 1
  width = (x.shape[2] - size) // stride + 1
  out = np.empty((len(x), height, width, kernel.shape[3]))
  for p in range(height):
    for q in range(width):
      y, z = p * stride, q * stride
      patch = x[:, y : y + size, z : z + size]
      out[:, p, q] = np.einsum("bhwc,hwco->bo", patch, kernel) + bias
  return out


CASES = {
    "dense": dense_case(),
    "flat_dense": flat_dense_case(),
    "conv3": conv_case(3, 1, 1),
    "conv4_stride2": conv_case(4, 2, 0),
    "conv4_stride2_padded": conv_case(4, 2, 1),
    "conv3_stride3": conv_case(3, 3, 2),
    "conv1_stride2": conv_case(1, 2, 0),
    "scale_channel": scale_case((2,)),
    "scale_all": scale_case(IMAGE),
}


@functools.cache
def mapped(case, kind):
  """A random element, and what a case makes of it: in one program.

  Returns:
    By whether they have uncorrelated error: the element, and its image.
  """
  transform, _, shape = CASES[case]
  given = elements.random_element(np.random.default_rng(0), shape, kind)
  given = {True: given, False: dataclasses.replace(given, uncorrelated=None)}
  with_error, without = jax.jit(
      lambda x, y: (transform(x), transform(y))
  )(given[True], given[False])
  return {True: (given[True], with_error), False: (given[False], without)}


KINDS_OF = [
    (case, kind)
    for case in CASES
    for kind in elements.KINDS
    if not (case == "dense" and kind == "local")
]
pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("case, kind", KINDS_OF)
@pytest.mark.parametrize("uncorrelated", [True, False])
def test_covers_the_image_of_every_point(case, kind, uncorrelated):
  _, concrete, _ = CASES[case]
  element, result = mapped(case, kind)[uncorrelated]
  assert set(result.correlated) == set(element.correlated)
  elements.assert_images_covered(
      np.random.default_rng(0), element, result, concrete, 20
  )


@pytest.mark.parametrize("case, kind", KINDS_OF)
def test_is_exact(case, kind):
  """c' = A(c) + b, g' = A(g) and r' = |A|(r), but for rounding."""
  _, concrete, shape = CASES[case]
  element, result = mapped(case, kind)[True]
  shift = concrete(np.zeros((1, *shape)))
  np.testing.assert_allclose(result.center, concrete(element.center),
                             rtol=0, atol=1e-12)
  size = int(np.prod(shape))
  basis = np.eye(size).reshape(size, *shape)
  matrix = np.abs(concrete(basis) - shift).reshape(size, -1)
  radius = np.asarray(element.uncorrelated).reshape(3, size) @ matrix
  np.testing.assert_allclose(
      result.uncorrelated, radius.reshape(result.center.shape),
      rtol=1e-12, atol=1e-11,
  )
  for name, block in element.correlated.items():
    before = elements.dense_numbers(block)
    images = concrete(before.reshape(-1, *shape)) - shift
    np.testing.assert_allclose(
        elements.dense_numbers(result.correlated[name]),
        images.reshape(before.shape[:2] + images.shape[1:]),
        rtol=0, atol=1e-12,
    )


@pytest.mark.parametrize("case", CASES)
def test_arrays_products_and_points_agree(case):
  transform, concrete, shape = CASES[case]
  x = np.random.default_rng(2).normal(size=(3, *shape))
  element, alone = mapped(case, "several")[True]

  @jax.jit
  def program(x, element):
    product = transform(Product((x, element, domains.point(x))))
    return transform(x), product, domains.radius(product[2])

  run, product, radius = program(x, element)
  np.testing.assert_allclose(run, concrete(x), rtol=0, atol=1e-12)
  np.testing.assert_allclose(product[0], run, rtol=0, atol=1e-12)
  for one, other in zip(jax.tree.leaves(product[1]), jax.tree.leaves(alone)):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
  degenerate = product[2]
  np.testing.assert_allclose(degenerate.center, run, atol=1e-12)
  assert np.all(radius < 2e-12)


@pytest.mark.parametrize("case", CASES)
def test_jit_equals_eager(case):
  transform, _, shape = CASES[case]
  element, jitted = mapped(case, "several")[True]
  eager = transform(element)
  assert jax.tree.structure(eager) == jax.tree.structure(jitted)
  for one, other in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted)):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_float32_covers_exact_and_float32_runs():
  """Rounding is allowed for: both runs stay inside, however long the sums."""

  @jax.jit
  def bounds(center, radius, kernel, bias):
    result = transformers.dense(domains.box(center, radius), kernel, bias)
    return domains.lower(result), domains.upper(result)

  rng = np.random.default_rng(4)
  for size, spread in ((3000, 1e-9), (3000, 1e-3), (50, 1e-9)):
    kernel = rng.normal(size=(size, 20)).astype(np.float32)
    bias = rng.normal(size=20).astype(np.float32)
    center = rng.normal(size=(8, size)).astype(np.float32)
    low, high = np.float64(bounds(center, np.float32(spread), kernel, bias))
    for _ in range(10):
      noise = rng.uniform(-1, 1, center.shape)
      x = center.astype(np.float64) + np.float32(spread) * noise
      exact = x @ kernel.astype(np.float64) + bias
      assert np.all(low <= exact) and np.all(exact <= high)
    order = rng.permutation(size)
    run = center[:, order] @ kernel[order] + bias  # Another order of sums.
    assert np.all(low <= run) and np.all(run <= high)


def test_windows_stay_windows_only_while_they_are_small():
  """A first layer's generators are small; large windows become images."""
  conv = jax.jit(lambda x, *weights: transformers.conv(x, *weights, padding=1))
  kernel, bias = RNG.normal(size=(3, 3, 1, 2)), np.zeros(2)
  deeper = RNG.normal(size=(3, 3, 2, 2))
  image = domains.correlated_box(np.zeros((1, 12, 12, 1)), 1.0, "input")
  element = conv(image, kernel, bias)
  (block,) = element.correlated.values()
  assert isinstance(block, Local) and block.extent == (3, 3)
  assert block.coefficients.size == 144 * 9 * 2
  dense = elements.dense(dataclasses.replace(element, uncorrelated=None))
  kinds = []
  for _ in range(5):
    element, dense = conv(element, deeper, bias), conv(dense, deeper, bias)
    kinds.append(type(element.correlated["input"]).__name__)
    np.testing.assert_allclose(
        elements.dense_numbers(element.correlated["input"]),
        elements.dense_numbers(dense.correlated["input"]), atol=1e-9,
    )
  assert kinds[0] == "Local" and kinds[-1] == "Dense"


def test_unknown_kinds_are_refused_by_name():
  kernel, bias = jnp.zeros((2, 2)), jnp.zeros(2)
  with pytest.raises(TypeError, match="dense has no rule for list"):
    transformers.dense([1.0, 2.0], kernel, bias)
  with pytest.raises(TypeError, match="conv has no rule for str"):
    transformers.conv("x", kernel, bias)
  with pytest.raises(TypeError, match="scale_shift has no rule for NoneType"):
    transformers.scale_shift(None, 1.0, 0.0)
