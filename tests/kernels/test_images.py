"""Convolutions of images, in every form, against their definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.kernels import images as module
from diffai_jax.kernels import precision, winograd
from diffai_jax.kernels.images import convolve, convolve_transposed
from diffai_jax.kernels.matrices import add_bias

# (image, kernel, stride, padding); odd sizes leave pixels that no window meets.
CASES = [
    ((2, 9, 8, 1), (4, 3, 1, 5), 2, 1),
    ((2, 7, 7, 1), (3, 3, 1, 2), 1, 1),
    ((2, 9, 11, 3), (4, 4, 3, 5), 2, 0),
    ((2, 8, 7, 3), (3, 3, 3, 4), 2, 1),
    ((2, 8, 8, 2), (2, 4, 2, 3), 3, 2),
    ((2, 9, 11, 6), (4, 4, 6, 5), 2, 0),
    ((2, 8, 7, 6), (3, 3, 6, 4), 2, 1),
    ((2, 8, 8, 5), (2, 4, 5, 3), 3, 2),
    ((1, 5, 5, 5), (5, 5, 5, 3), 4, 0),
    ((2, 6, 6, 3), (1, 1, 3, 4), 2, 0),
    ((2, 6, 6, 3), (3, 3, 3, 4), 1, 0),
    ((2, 9, 7, 5), (2, 2, 5, 3), 3, 0),
    ((1, 9, 6, 4), (5, 3, 4, 3), 3, 2),
    # Kernels that exceed the image of slopes.
    ((2, 7, 6, 4), (5, 4, 4, 3), 1, 0),
    ((2, 5, 7, 4), (4, 4, 4, 3), 2, 0),
    # The gradient by the kernel of few images and of more, with stride 1.
    ((2, 5, 7, 5), (3, 2, 5, 4), 1, 1),
    ((1, 4, 4, 4), (2, 4, 4, 3), 1, 2),
    ((2, 4, 5, 4), (1, 3, 4, 5), 1, 1),
    ((11, 5, 4, 5), (3, 2, 5, 3), 1, 1),
    ((11, 5, 4, 5), (3, 2, 5, 3), 1, 2),
    # Winograd's gradients, and what they do not have.
    ((2, 4, 6, 128), (3, 3, 128, 130), 1, 1),
    ((1, 2, 2, 130), (3, 3, 130, 128), 1, 1),
    ((1, 5, 4, 128), (3, 3, 128, 128), 1, 1),
    ((1, 4, 4, 128), (3, 3, 128, 128), 1, 0),
]
pytestmark = pytest.mark.usefixtures("float64")


def padded(x, padding):
  return np.pad(x, [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)])


def places(shape, kernel, stride):
  """Each output's place, and where the padded image is that it sees."""
  taps, width = kernel.shape[:2]
  for p, i in enumerate(range(0, shape[1] - taps + 1, stride)):
    for q, j in enumerate(range(0, shape[2] - width + 1, stride)):
      yield (slice(None), p, q), np.s_[:, i : i + taps, j : j + width]


def definition(x, kernel, stride, padding):
  """Every output by its own sum."""
  x = padded(x, padding)
  sums = {
      place[1:]: np.tensordot(x[seen], kernel, 3)
      for place, seen in places(x.shape, kernel, stride)
  }
  height, width = np.max(list(sums), axis=0) + 1
  out = np.zeros((len(x), height, width, kernel.shape[3]))
  for (p, q), value in sums.items():
    out[:, p, q] = value
  return out


def gradients_by_definition(x, kernel, stride, padding, slopes):
  """By the image and by the kernel: a sum's products have two factors each."""
  x = padded(x, padding)
  by_image, by_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
  for place, seen in places(x.shape, kernel, stride):
    by_image[seen] += np.tensordot(slopes[place], kernel, (1, 3))
    by_kernel += np.tensordot(x[seen], slopes[place], (0, 0))
  rows, columns = (slice(padding, n - padding) for n in x.shape[1:3])
  return by_image[:, rows, columns], by_kernel


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def convolve_and_gradients(x, kernel, slopes, stride, padding):
  """The convolution, and what its slopes are by the image and by the kernel."""
  out, pull_back = jax.vjp(
      lambda x, k: convolve(x, k, stride, padding), x, kernel
  )
  return out, pull_back(slopes)


@pytest.fixture
def for_losses():
  """Winograd's gradients too."""
  with precision.for_losses(True):
    yield


@pytest.mark.parametrize("shape, kernel_shape, stride, padding", CASES)
@pytest.mark.usefixtures("for_losses")
def test_equals_the_definition(shape, kernel_shape, stride, padding):
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
  expected = definition(x, kernel, stride, padding)
  slopes = rng.normal(size=expected.shape)
  found, gradients = convolve_and_gradients(x, kernel, slopes, stride, padding)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
  expected = gradients_by_definition(x, kernel, stride, padding, slopes)
  for name, one, other in zip(("image", "kernel"), gradients, expected):
    np.testing.assert_allclose(
        one, other, rtol=1e-10, atol=1e-11, err_msg=f"gradient by the {name}"
    )


@pytest.mark.parametrize("channels", [3, 6])
def test_gradient_of_a_strided_convolution_dilates_nothing(channels):
  """What XLA computes with holes is computed without."""
  x, kernel = np.zeros((2, 8, 8, channels)), np.zeros((4, 4, channels, 5))

  def of_image(x):
    return jnp.sum(convolve(x, kernel, 2, 1) ** 2)

  program = jax.jit(jax.grad(of_image)).lower(x).as_text()
  convolutions = re.findall(r"stablehlo.convolution.*", program)
  assert len(convolutions) == 2
  assert all("lhs_dilate = [1, 1]" in line for line in convolutions)


@pytest.mark.usefixtures("for_losses")
def test_gradients_of_3x3_are_those_of_the_definition_in_float32():
  """Of many channels, by Winograd's products, as close as sums of float32 are."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 8, 8, 128))
  kernel = rng.normal(size=(3, 3, 128, 160))
  slopes = rng.normal(size=(3, 8, 8, 160))
  expected = gradients_by_definition(x, kernel, 1, 1, slopes)
  x, kernel, slopes = (a.astype(np.float32) for a in (x, kernel, slopes))
  _, found = convolve_and_gradients(x, kernel, slopes, 1, 1)
  for one, other in zip(found, expected):
    assert one.dtype == jnp.float32
    assert np.abs(one - other).max() <= 3e-6 * np.abs(other).max()


@pytest.mark.usefixtures("for_losses")
def test_gradients_of_3x3_multiply_as_often_as_winograd():
  """16 products of matrices for tiles of 4 pixels, for each gradient."""
  x, kernel, slopes = (
      jax.ShapeDtypeStruct(shape, np.float64)
      for shape in ((3, 8, 8, 128), (3, 3, 128, 160), (3, 8, 8, 160))
  )

  def gradients(x, kernel, slopes):
    return jax.vjp(lambda x, k: convolve(x, k, 1, 1), x, kernel)[1](slopes)

  program = jax.jit(gradients).lower(x, kernel, slopes).compile()
  products = 2 * 16 * (3 * 16 * 128 * 160)
  assert program.cost_analysis()["flops"] < 1.4 * 2 * products


def test_winograd_is_for_losses_alone():
  """Bounds that go back through a network do not allow for its errors."""
  x, kernel = np.zeros((3, 8, 8, 128)), np.zeros((3, 3, 128, 160))
  assert not winograd.applies(x, kernel, 1, 1)
  with precision.for_losses(True):
    assert winograd.applies(x, kernel, 1, 1)


@pytest.mark.parametrize("shape, bias", [
    ((5, 3), (3,)), ((2, 4, 4, 3), (3,)), ((2, 4, 1), (3,)), ((3,), (3,)),
    ((2, 3), ()),
])
def test_a_bias_has_the_gradient_of_a_sum(shape, bias):
  rng = np.random.default_rng(0)
  x, bias = rng.normal(size=shape), rng.normal(size=bias)
  slopes = rng.normal(size=np.broadcast_shapes(shape, bias.shape))

  @jax.jit
  def added(x, bias, slopes):
    values = []
    for add in (add_bias, jnp.add):
      total, pull_back = jax.vjp(add, x, bias)
      values.append((total, pull_back(slopes)))
    return values

  (found, gradients), (expected, expected_gradients) = added(x, bias, slopes)
  np.testing.assert_array_equal(found, expected)
  for one, other in zip(gradients, expected_gradients):
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.fixture
def off_cpu(monkeypatch):
  """What is traced has the forms of a GPU; it runs here."""
  monkeypatch.setattr(
      module, "on_cpu", lambda fast, plain, *operands: plain(*operands)
  )


def run_and_program(act, x, kernel, stride, padding):
  """What a convolution gives, and the operations that it consists of."""
  traced = jax.jit(lambda x, k: act(x, k, stride, padding)).trace(x, kernel)
  return traced.lower().compile()(x, kernel), str(traced.jaxpr)


@pytest.mark.parametrize("shape, kernel_shape, stride, padding", CASES)
def test_off_cpus_the_highest_precision_multiplies_matrices(
    shape, kernel_shape, stride, padding, off_cpu
):
  """No library's convolution, whose algorithm nobody knows; equal results."""
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
  found, program = run_and_program(convolve, x, kernel, stride, padding)
  expected = definition(x, kernel, stride, padding)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
  assert "conv_general" not in program and "HIGHEST" in program


@pytest.mark.parametrize("shape, kernel_shape, stride, padding", [
    ((2, 4, 5, 3), (3, 2, 3, 4), 1, 0),
    ((2, 4, 5, 6), (4, 4, 6, 3), 2, 1),
    ((2, 3, 4, 5), (3, 2, 5, 4), 3, 1),
    ((2, 5, 4, 5), (2, 2, 5, 4), 1, 1),
    ((1, 4, 4, 5), (1, 1, 5, 4), 2, 0),
])
def test_off_cpus_transposed_convolutions_multiply_too(
    shape, kernel_shape, stride, padding, off_cpu
):
  """Against their definition: each pixel adds its kernel, then edges go."""
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
  sizes = [
      (n - 1) * stride + k for n, k in zip(shape[1:3], kernel_shape[:2])
  ]
  whole = np.zeros((shape[0], *sizes, kernel_shape[3]))
  for i, j in np.ndindex(shape[1:3]):
    rows = slice(i * stride, i * stride + kernel_shape[0])
    columns = slice(j * stride, j * stride + kernel_shape[1])
    whole[:, rows, columns] += np.einsum("bc,hwcf->bhwf", x[:, i, j], kernel)
  expected = whole[
      :, padding : sizes[0] - padding, padding : sizes[1] - padding
  ]
  found, program = run_and_program(
      convolve_transposed, x, kernel, stride, padding
  )
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
  assert "conv_general" not in program


def test_off_cpus_other_precisions_take_the_library(off_cpu):
  """Training bounds are losses, not proofs: its speed is the library's."""
  x, kernel = np.zeros((2, 6, 6, 5)), np.zeros((3, 3, 5, 4))
  with precision.for_losses(True):
    program = str(jax.make_jaxpr(lambda x, k: convolve(x, k, 1, 1))(x, kernel))
  assert "conv_general" in program
