"""Strides, paddings, dilations and groups by axis: against XLA in float64."""

import dataclasses
import functools
import math

import elements
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Product
from diffai_jax.domains.generators import Local
from diffai_jax.kernels import precision, taps

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (7, 6, 4)
RNG = np.random.default_rng(11)
BIAS = RNG.normal(size=4)
GEOMETRIES = {
    "same_stride2": dict(stride=2, padding=((0, 1), (0, 1))),
    "same_stride2_wide": dict(stride=(2, 2), padding=((1, 2), (2, 1))),
    "by_axis": dict(stride=(1, 3), padding=((2, 0), (1, 1))),
    "dilated": dict(dilation=(2, 1), padding=((2, 1), (0, 1))),
    "dilated_strided": dict(dilation=2, stride=2, padding=2),
    "groups": dict(groups=2, padding=1),
    "depthwise": dict(groups=4, stride=(2, 1), padding=((1, 0), (0, 1))),
    "groups_dilated": dict(groups=2, dilation=(1, 2), stride=2, padding=1),
}


def by_axis(value):
  return value if isinstance(value, tuple) else (value, value)


def by_side(value):
  return value if isinstance(value, tuple) else ((value, value),) * 2


@functools.partial(
    jax.jit, static_argnames=("stride", "padding", "dilation", "groups")
)
def compiled_lax_conv(x, kernel, stride, padding, dilation, groups):
  return lax.conv_general_dilated(
      x, kernel, by_axis(stride), by_side(padding),
      rhs_dilation=by_axis(dilation), feature_group_count=groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def lax_conv(kernel, bias, stride=1, padding=0, dilation=1, groups=1):
  """XLA's convolution of images [B, *SHAPE], by what it makes of each entry.

  It is linear, so one run on a basis gives the matrix that says all.
  """

  @functools.cache
  def matrix():
    basis = np.eye(math.prod(SHAPE)).reshape(-1, *SHAPE)
    return np.asarray(
        compiled_lax_conv(basis, kernel, stride, padding, dilation, groups)
    )

  def run(x):
    flat = np.reshape(x, (len(x), -1))
    return np.tensordot(flat, matrix(), 1) + bias

  return run


def scattered(x, kernel, bias, stride=1, padding=0, dilation=1, groups=1):
  """Each pixel adds its multiple of the kernel; then the rim is cut off."""
  stride, dilation = by_axis(stride), by_axis(dilation)
  size = [
      (n - 1) * s + (k - 1) * d + 1
      for n, s, k, d in zip(x.shape[1:3], stride, kernel.shape, dilation)
  ]
  out = np.zeros((len(x), *size, kernel.shape[3]))
  own, filters = kernel.shape[2], kernel.shape[3] // groups
  for (i, j, a, b, g) in np.ndindex(*x.shape[1:3], *kernel.shape[:2], groups):
    few = slice(g * filters, (g + 1) * filters)
    out[:, i * stride[0] + a * dilation[0], j * stride[1] + b * dilation[1],
        few] += x[:, i, j, g * own : (g + 1) * own] @ kernel[a, b, :, few]
  pads = [(0, 0), *((max(-lo, 0), max(-hi, 0)) for lo, hi in by_side(padding)),
          (0, 0)]
  out = np.pad(out, pads)
  cuts = (
      slice(max(lo, 0), n - max(hi, 0))
      for (lo, hi), n in zip(by_side(padding), out.shape[1:3])
  )
  return out[(slice(None), *cuts)] + bias


def windows_of(x, reduce, window, stride, padding, fill):
  window, stride = by_axis(window), by_axis(stride)
  x = np.pad(x, ((0, 0), *by_side(padding), (0, 0)), constant_values=fill)
  view = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))
  return reduce(view[:, :: stride[0], :: stride[1]], axis=(-2, -1))


def conv_case(name, act, concrete):
  geometry = GEOMETRIES[name]
  kernel = RNG.normal(size=(3, 2, 4 // geometry.get("groups", 1), 4))
  return (lambda x: act(x, kernel, BIAS, **geometry),
          concrete(kernel, BIAS, **geometry))


def scatter(kernel, bias, **geometry):
  return lambda x: scattered(x, kernel, bias, **geometry)


def average(window, stride, padding):
  return (
      lambda x: transformers.average_pool(
          x, window, stride=stride, padding=padding),
      lambda x: windows_of(x, np.mean, window, stride, padding, 0.0),
  )


KERNEL = RNG.normal(size=(4, 3))
CASES = {
    f"conv_{name}": conv_case(name, transformers.conv, lax_conv)
    for name in GEOMETRIES
} | {
    f"transposed_{name}": conv_case(
        name, transformers.conv_transpose, scatter)
    for name in ("same_stride2", "by_axis", "groups_dilated")
} | {
    "transposed_added": (
        lambda x: transformers.conv_transpose(
            x, np.ones((2, 2, 4, 4)), BIAS, stride=2, padding=((0, -1), (1, -2))
        ),
        lambda x: scattered(
            x, np.ones((2, 2, 4, 4)), BIAS, stride=2, padding=((0, -1), (1, -2))
        ),
    ),
    "average": average((3, 2), (2, 1), ((0, 1), (1, 0))),
    "pixels": (lambda x: transformers.dense(x, KERNEL, BIAS[:3]),
               lambda x: x @ KERNEL + BIAS[:3]),
    "words": (
        lambda x: transformers.dense(
            transformers.reshape(x, (2, 21, 2, 2)), KERNEL[:2], BIAS[:3]),
        lambda x: x.reshape(-1, 2, 21, 2, 2) @ KERNEL[:2] + BIAS[:3],
    ),
}
# Compiled once for each kind of element.
CASES = {name: (jax.jit(f), g) for name, (f, g) in CASES.items()}


@pytest.mark.parametrize("kind", ["none", "several"])
@pytest.mark.parametrize("case", CASES)
def test_affine_maps_are_exact_and_sound(case, kind):
  """An element of all kinds of blocks is mapped as each symbol would be."""
  transform, concrete = CASES[case]
  rng = np.random.default_rng(0)
  element = elements.random_element(rng, SHAPE, kind)
  result, array = (
      transform(Product((element, np.asarray(element.center)))).parts
  )
  np.testing.assert_allclose(array, concrete(element.center), atol=1e-12)
  np.testing.assert_allclose(result.center, array, atol=1e-12)
  shift = concrete(np.zeros((1, *SHAPE)))
  for name, block in element.correlated.items():
    before = elements.dense_numbers(block)
    images = concrete(before.reshape((-1, *SHAPE))) - shift
    np.testing.assert_allclose(
        elements.dense_numbers(result.correlated[name]),
        images.reshape(before.shape[:2] + images.shape[1:]), atol=1e-12,
    )
  basis = np.eye(168).reshape(168, *SHAPE)
  matrix = np.abs(concrete(basis) - shift).reshape(168, -1)
  radius = np.asarray(element.uncorrelated).reshape(3, 168) @ matrix
  np.testing.assert_allclose(
      np.reshape(result.uncorrelated, radius.shape), radius, atol=1e-11
  )
  elements.assert_images_covered(rng, element, result, concrete, 2)


@pytest.mark.parametrize("case", [
    "conv_same_stride2", "conv_by_axis", "conv_groups", "conv_dilated",
    "transposed_by_axis", "average", "pixels",
])
def test_pixels_become_windows(case):
  element = domains.correlated_box(np.zeros((1, *SHAPE)), 1.0, "input")
  result = jax.eval_shape(CASES[case][0], element)
  assert isinstance(result.correlated["input"], Local)


def test_small_windows_stay_windows_with_same_padding():
  """Photographs: three convolutions, one of stride 2, one in groups."""
  kernel = np.ones((3, 3, 2, 2))

  def network(x):
    x = domains.correlated_box(x, 1.0, "input")
    x = transformers.conv(
        x, kernel, np.zeros(2), stride=2, padding=((0, 1), (0, 1))
    )
    return transformers.conv(
        x, kernel[:, :, :1], np.zeros(2), padding=1, groups=2
    )

  result = jax.eval_shape(network, np.zeros((1, 16, 16, 2)))
  block = result.correlated["input"]
  assert isinstance(block, Local) and max(block.extent) < 5


@pytest.mark.parametrize("rule, spread", [("box", 1.0), ("deepz", 0.1)])
@pytest.mark.parametrize("act, concrete", [
    (lambda x: transformers.max_pool(
        x, (2, 3), stride=(1, 2), padding=((1, 0), (0, 2))),
     lambda x: windows_of(x, np.max, (2, 3), (1, 2), ((1, 0), (0, 2)), -np.inf)),
    (lambda x: transformers.max_axes(x, (0, 1)), lambda x: x.max(axis=(1, 2))),
    (lambda x: transformers.max_axes(x, (-1,)), lambda x: x.max(axis=-1)),
    (lambda x: transformers.max_axes(x, (2, 0)), lambda x: x.max(axis=(1, 3))),
], ids=["pool", "global", "channels", "two"])
def test_maxima_cover_every_point(act, concrete, rule, spread):
  rng = np.random.default_rng(1)
  element = elements.random_element(rng, SHAPE, "several", spread=spread)
  # Some inputs are the largest for sure.
  center = np.asarray(element.center) + 9 * (rng.uniform(size=SHAPE) < 0.1)
  element = dataclasses.replace(element, center=center, relu=rule)
  result, run, degenerate = jax.jit(
      lambda x: (act(x), act(x.center), act(domains.point(x.center)))
  )(element)
  elements.assert_images_covered(rng, element, result, concrete, 20)
  np.testing.assert_array_equal(run, concrete(center))
  np.testing.assert_array_equal(degenerate.center, concrete(center))


def test_maxima_are_exact_where_one_input_dominates():
  rng = np.random.default_rng(2)
  element = elements.random_element(rng, SHAPE, "several", spread=0.01)
  center = np.zeros((3, *SHAPE))
  center[:, 5, 2] = 99.0
  element = dataclasses.replace(element, center=center)
  result = jax.jit(lambda x: transformers.max_axes(x, (0, 1)))(element)
  for name, block in element.correlated.items():
    np.testing.assert_array_equal(
        elements.dense_numbers(result.correlated[name]),
        elements.dense_numbers(block)[:, :, 5, 2],
    )
  np.testing.assert_array_equal(
      result.uncorrelated, np.asarray(element.uncorrelated)[:, 5, 2]
  )


def test_products_of_matrices_equal_the_library():
  """The form of platforms whose convolutions are not sums of products."""
  x = RNG.normal(size=(2, *SHAPE))
  for geometry in GEOMETRIES.values():
    kernel = RNG.normal(size=(3, 2, 4 // geometry.get("groups", 1), 4))
    given = dict(stride=1, padding=0, dilation=1, groups=1) | geometry
    multiply = jax.jit(functools.partial(taps.multiply_groups, **given))
    np.testing.assert_allclose(
        multiply(x, kernel),
        lax_conv(kernel, 0.0, **geometry)(x), atol=1e-12,
    )


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    "act", [transformers.conv, transformers.conv_transpose]
)
def test_gradients_are_differences_of_losses(act, fast):
  geometry = dict(stride=(2, 1), padding=((0, 1), (1, 0)), groups=2)
  x, kernel = RNG.normal(size=(2, *SHAPE)), RNG.normal(size=(3, 2, 2, 4))

  @jax.jit
  def loss(x, kernel):
    with precision.for_losses(fast):
      return jnp.sum(jnp.sin(act(x, kernel, BIAS, **geometry)))

  by_x, by_kernel = jax.jit(jax.grad(loss, (0, 1)))(x, kernel)
  step = 1e-6
  for value, gradient in ((x, by_x), (kernel, by_kernel)):
    direction = RNG.normal(size=value.shape)
    ends = [
        loss(x + sign * step * direction, kernel) if value is x
        else loss(x, kernel + sign * step * direction) for sign in (1, -1)
    ]
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-5)


@pytest.mark.parametrize("message, act", [
    ("in 3 groups does not fit", lambda x: transformers.conv(
        x, np.ones((1, 1, 4, 3)), BIAS[:3], groups=3)),
    ("does not fit an image 7x6", lambda x: transformers.conv(
        x, np.ones((3, 3, 4, 4)), BIAS, dilation=4)),
    ("does not fit an image 7x6", lambda x: transformers.conv(
        x, np.ones((3, 3, 4, 4)), BIAS, padding=((0, -1), (0, 0)))),
    ("must be below the window", lambda x: transformers.max_pool(
        x, (1, 3), padding=((0, 1), (0, 0)))),
    ("wants entries along", lambda x: transformers.max_axes(
        transformers.slice_axes(x, (0, 0, 0), (0, 6, 4), (1, 1, 1)), (0,))),
])
def test_what_does_not_fit_is_refused(message, act):
  for x in (np.zeros((1, *SHAPE)), domains.box(np.zeros((1, *SHAPE)), 0.1)):
    with pytest.raises(ValueError, match=message):
      act(x)
