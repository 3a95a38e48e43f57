"""Affine maps: dense layers, convolutions, pools of means, sums, scaling.

Each gives `affine_rule` its matrix A as functions on arrays and on blocks; the
rule does the rest, and says why it is sound.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np

from diffai_jax.domains.generators import (
    Block,
    Dense,
    Diagonal,
    Local,
    scale,
    to_dense,
    variable_shape,
)
from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.domains.product import Product, example_shape
from diffai_jax.kernels import precision
from diffai_jax.kernels.geometry import Number, Sides, pair
from diffai_jax.kernels.images import (
    convolve,
    convolve_transposed,
    pool,
    stride_or,
)
from diffai_jax.kernels.matrices import add_bias, multiply
from diffai_jax.transformers.affine_rule import (
    AffineMap,
    apply_affine,
    of_one_type,
)
from diffai_jax.transformers.dispatch import (
    check_axis,
    require_array,
    transformer,
)
from diffai_jax.transformers.structure.block_convolution import (
    convolve_block,
    convolve_transposed_block,
    multiply_pixels,
    multiply_windows,
    pool_block,
)
from diffai_jax.types import Array


@transformer
@functools.singledispatch
def dense(x, kernel: Array, bias: Array):
  """x @ kernel + bias; sound on elements by the rule of `affine_rule`.

  A Diagonal block becomes `coefficients[:, :, None] * kernel`: row i of the
  kernel is what symbol i does to the outputs. No n×n array is built. Windows of a
  flat Local block meet only their own rows of the kernel.

  Args:
    x: array [B, ..., n], HybridZonotope or Product over [..., n]: with leading
      axes, as of pixels or words, each of their entries is multiplied alike.
    kernel: [n, k].
    bias: [k].

  Returns:
    The same kind, over [..., k].

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "dense")
  return add_bias(multiply(x, kernel), bias)


@dense.register(HybridZonotope)
@dense.register(Product)
def _(x, kernel: Array, bias: Array):
  x, kernel, bias, narrowest = of_one_type(x, kernel, bias)
  magnitude = jnp.abs(kernel)

  def block(generators: Block) -> Block:
    rank = len(variable_shape(generators)) - 1
    if rank > 1 and not isinstance(generators, Dense):
      return multiply_pixels(generators, kernel)
    if isinstance(generators, Local):
      return multiply_windows(generators, kernel)
    coefficients = generators.coefficients
    if isinstance(generators, Diagonal):
      return Dense(coefficients[:, :, None] * kernel)
    return Dense(multiply(coefficients, kernel))

  return apply_affine(x, AffineMap(
      linear=lambda v: multiply(v, kernel),
      absolute=lambda v: multiply(v, magnitude),
      block=block,
      bias=bias,
      terms=kernel.shape[0],
      narrowest=narrowest,
  ))


@transformer
@functools.singledispatch
def conv(
    x, kernel: Array, bias: Array, *, stride: Number = 1, padding: Sides = 0,
    dilation: Number = 1, groups: int = 1,
):
  """2-D cross-correlation plus bias; sound on elements by `affine_rule`.

  Zero padding adds variables that are exactly 0. A Diagonal block becomes
  Local, and stays so while its windows are small: see `convolution`.

  Args:
    x: array [B, H, W, C], HybridZonotope or Product over [H, W, C].
    kernel: [kh, kw, C/groups, F].
    bias: [F].
    stride: of both directions, or (rows, columns).
    padding: rows and columns of zeros on each side, or ((top, bottom), (left,
      right)), as SAME paddings with a stride are.
    dilation: from one tap of the kernel to the next, as `stride`.
    groups: of consecutive channels, each of which makes as many of the filters.

  Returns:
    The same kind, over [H', W', F].

  Raises:
    ValueError: if the window does not fit the padded image, or the kernel the
      channels.
    TypeError: for any other kind.
  """
  require_array(x, "conv")
  return add_bias(
      convolve(x, kernel, stride, padding, dilation, groups), bias
  )


@conv.register(HybridZonotope)
@conv.register(Product)
def _(
    x, kernel: Array, bias: Array, *, stride: Number = 1, padding: Sides = 0,
    dilation: Number = 1, groups: int = 1,
):
  x, kernel, bias, narrowest = of_one_type(x, kernel, bias)
  magnitude = jnp.abs(kernel)
  geometry = stride, padding, dilation, groups

  return apply_affine(x, AffineMap(
      linear=lambda v: convolve(v, kernel, *geometry),
      absolute=lambda v: convolve(v, magnitude, *geometry),
      block=lambda g: convolve_block(g, kernel, *geometry),
      bias=bias,
      terms=kernel[..., 0].size,
      narrowest=narrowest,
  ))


@transformer
@functools.singledispatch
def scale_shift(x, factor: Array, shift: Array, *, terms: int = 1):
  """factor · x + shift, elementwise; sound on elements by `affine_rule`.

  Blocks keep their structure: a Diagonal stays Diagonal.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    factor: broadcasts against one example [...].
    shift: likewise.
    terms: how many roundings of `factor · x` the result allows for: more than
      one where `factor` itself is computed.

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "scale_shift")
  dtype = jnp.result_type(x.dtype, factor, shift)
  factor = precision.not_merged(jnp.asarray(factor, dtype))
  return x.astype(dtype) * factor + shift


@scale_shift.register(HybridZonotope)
@scale_shift.register(Product)
def _(x, factor: Array, shift: Array, *, terms: int = 1):
  x, factor, shift, narrowest = of_one_type(x, factor, shift)
  factor = precision.not_merged(factor)
  return apply_affine(x, AffineMap(
      linear=lambda v: v * factor,
      absolute=lambda v: v * jnp.abs(factor),
      block=lambda generators: scale(generators, factor),
      bias=shift,
      terms=terms,
      narrowest=narrowest,
  ))


@transformer
@functools.singledispatch
def conv_transpose(
    x, kernel: Array, bias: Array, *, stride: Number = 1, padding: Sides = 0,
    dilation: Number = 1, groups: int = 1,
):
  """Transposed convolution plus bias; sound on elements by `affine_rule`.

  Input pixel i adds x[i]·kernel[a] to output i·stride + a·dilation - padding:
  the transpose of `conv` as a linear map. A Diagonal block becomes Local.

  Args:
    x: array [B, H, W, C], HybridZonotope or Product over [H, W, C].
    kernel: [kh, kw, C/groups, F].
    bias: [F].
    stride: of both directions, or (rows, columns).
    padding: rows and columns that are cut off on each side, or ((top, bottom),
      (left, right)); of these, negative ones add rows and columns, which are
      the bias where no pixel reaches.
    dilation, groups: as of `conv`.

  Returns:
    The same kind, over [(H-1)·stride + (kh-1)·dilation + 1 - 2·padding, ..., F].

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "conv_transpose")
  return add_bias(
      convolve_transposed(x, kernel, stride, padding, dilation, groups), bias
  )


@conv_transpose.register(HybridZonotope)
@conv_transpose.register(Product)
def _(
    x, kernel: Array, bias: Array, *, stride: Number = 1, padding: Sides = 0,
    dilation: Number = 1, groups: int = 1,
):
  x, kernel, bias, narrowest = of_one_type(x, kernel, bias)
  magnitude = jnp.abs(kernel)
  geometry = stride, padding, dilation, groups

  return apply_affine(x, AffineMap(
      linear=lambda v: convolve_transposed(v, kernel, *geometry),
      absolute=lambda v: convolve_transposed(v, magnitude, *geometry),
      block=lambda g: convolve_transposed_block(g, kernel, *geometry),
      bias=bias,
      terms=kernel[..., 0].size,
      narrowest=narrowest,
  ))


@transformer
@functools.singledispatch
def average_pool(
    x, window: Number, *, stride: Number | None = None, padding: Sides = 0
):
  """Means over windows, channel by channel; padded zeros are counted.

  Args:
    x: array [B, H, W, C], HybridZonotope or Product over [H, W, C].
    window: height and width, or (height, width).
    stride: likewise; None is `window`.
    padding: rows and columns of zeros on each side, or ((top, bottom), (left,
      right)).

  Returns:
    The same kind, over [H', W', C].

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "average_pool")
  return pool(x, _mean(window), stride_or(stride, window), padding)


@average_pool.register(HybridZonotope)
@average_pool.register(Product)
def _(x, window: Number, *, stride: Number | None = None, padding: Sides = 0):
  x, narrowest = of_one_type(x)
  weights, stride = _mean(window), stride_or(stride, window)
  linear = lambda v: pool(v, weights, stride, padding)
  return apply_affine(x, AffineMap(
      linear=linear,
      absolute=linear,
      block=lambda g: pool_block(g, weights, stride, padding),
      bias=0.0,
      terms=weights.size,
      narrowest=narrowest,
  ))


def _mean(window: Number) -> np.ndarray:
  sizes = pair(window)
  if min(sizes) < 1:
    raise ValueError(f"average_pool's window is {window}; it must be 1 or more")
  return np.full(sizes, 1 / math.prod(sizes))


def global_average_pool(x):
  """The mean of each channel, [B, H, W, C] -> [B, C]; exact as `sum_axes`.

  Args:
    x: array, HybridZonotope or Product over [H, W, C].
  """
  height, width, _ = example_shape(x)
  return scale_shift(sum_axes(x, (0, 1)), 1 / (height * width), 0.0)


@transformer
@functools.singledispatch
def sum_axes(x, axes: tuple[int, ...]):
  """Sums over axes of one example; sound on elements by `affine_rule`.

  A Diagonal block of n variables becomes Dense, n·k numbers for k sums.

  Args:
    x: array [B, ...], HybridZonotope or Product over [...].
    axes: of one example, 0 is the first after the batch; or negative.

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "sum_axes")
  return x.sum(axis=behind_batch(axes, x.ndim - 1))


@sum_axes.register(HybridZonotope)
@sum_axes.register(Product)
def _(x, axes: tuple[int, ...]):
  x, narrowest = of_one_type(x)
  shape = example_shape(x)
  behind = behind_batch(axes, len(shape))
  linear = lambda v: v.sum(axis=behind)
  return apply_affine(x, AffineMap(
      linear=linear,
      absolute=linear,
      block=lambda block: sum_block(block, behind),
      bias=0.0,
      terms=math.prod(shape[axis - 1] for axis in behind),
      narrowest=narrowest,
  ))


def behind_batch(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
  """Axes of one example as non-negative axes of the whole array."""
  return tuple(check_axis(axis, rank) + 1 for axis in axes)


def sum_block(block: Block, axes: tuple[int, ...]) -> Dense:
  """Every symbol's coefficients, summed over axes of [B, ...].

  A Diagonal block of n variables becomes n·k numbers for k sums.
  """
  if isinstance(block, Local) and axes == (1, 2):
    sums = block.coefficients.sum(axis=(4, 5))
    return Dense(sums.reshape((sums.shape[0], -1) + sums.shape[4:]))
  if isinstance(block, Diagonal):
    coefficients = block.coefficients
    shape = coefficients.shape[1:]
    kept = [a for a in range(len(shape)) if a + 1 not in axes]
    # hit[i, k]: variable i is part of sum k.
    grid = np.indices(shape).reshape(len(shape), -1)
    sizes = tuple(shape[a] for a in kept)
    target = np.zeros(grid.shape[1], int)
    for axis in kept:
      target = target * shape[axis] + grid[axis]
    hit = jnp.asarray(target)[:, None] == jnp.arange(math.prod(sizes))
    flat = coefficients.reshape(coefficients.shape[0], -1, 1)
    dense = jnp.where(hit, flat, 0)
    return Dense(dense.reshape(dense.shape[:2] + sizes))
  axes = tuple(axis + 1 for axis in axes)
  return Dense(to_dense(block).coefficients.sum(axis=axes))
