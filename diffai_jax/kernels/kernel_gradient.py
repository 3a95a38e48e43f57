"""A convolution's gradient by its kernel, for few images."""

from jax import lax
import jax.numpy as jnp

from diffai_jax.types import Array


def gradient_by_kernel(
    x: Array, slopes: Array, padding: int, window: tuple[int, int]
) -> Array:
  """Of a convolution of stride 1: what each tap met, over all windows.

  The convolution that XLA makes of it has the images as its channels, which has
  both arrays transposed, and is slow where the images are few. This one has the
  pixels of a row as channels; it goes over images and rows, and gives the rows of
  the kernel. The slopes moved by each column are its filters, next to each other.

  Args:
    x: [N, H, W, C].
    slopes: the gradient by the result, [N, H', W', F].
    padding: of the convolution.
    window: kh, kw.

  Returns:
    [kh, kw, C, F].
  """
  height, width = window
  channels, filters = x.shape[3], slopes.shape[3]
  zero = jnp.zeros((), x.dtype)
  none = (0, 0, 0)

  def moved(column):
    before = column - padding
    after = x.shape[2] - slopes.shape[2] - before
    return lax.pad(slopes, zero, [none, none, (before, after, 0), none])

  columns = jnp.concatenate([moved(j) for j in range(width)], axis=3)
  # Here x moves over the slopes, not they over x: XLA is very slow where filters are
  # larger than images, as x is larger than the slopes without padding.
  rows = lax.conv_general_dilated(
      x.transpose(3, 0, 1, 2),
      columns,
      window_strides=(1, 1),
      padding=[(0, 0), (padding, padding)],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  rows = rows.reshape(channels, height, width, filters)
  return rows.transpose(1, 2, 0, 3)
