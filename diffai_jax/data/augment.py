"""From stored bytes to network inputs, on the device, inside the step."""

import dataclasses
import fractions

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.types import Array, PRNGKey


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """How training images vary, those of [H, W, C] alone.

  Attributes:
    crop_padding: images are cropped at random after padding with this many
      pixels on each side.
    flip: whether images are mirrored left to right at random.
  """

  crop_padding: int = 0
  flip: bool = False


def to_floats(images: Array) -> Array:
  """uint8 images as floats in [0, 1]; floats stay as they are, [B, ...]."""
  return to_unit_range(images) if images.dtype == jnp.uint8 else images


def to_unit_range(images: Array) -> Array:
  """uint8 images [B, ...] as floats in [0, 1].

  Exactly the floats nearest to q/255, which NumPy has too. XLA makes of a division
  by 255 a product with the rounded 1/255, which is another float for 126 of the
  256 values. Here 1/255 is a sum of two numbers; the products with the larger,
  of few bits, are exact.
  """
  dtype = jnp.result_type(float)
  kept = -8 - jnp.finfo(dtype).nmant // 2  # The lowest bit of the larger one.
  large = np.floor(np.ldexp(1 / 255, -kept)) * np.ldexp(1.0, kept)
  small = float(fractions.Fraction(1, 255) - fractions.Fraction(large))
  values = images.astype(dtype)
  return values * jnp.asarray(large, dtype) + values * jnp.asarray(small, dtype)


def augment(
    images: Array, keys: PRNGKey, padding: int, flip: bool, fill: float = 0
) -> Array:
  """Shifts and mirrors each image by its own key (paper, section 5).

  Args:
    images: [B, H, W, C], of any type.
    keys: a random key an image, [B].
    padding: images are padded with this many pixels on each side and cropped
      back to their size at a uniformly random place.
    flip: whether to mirror each image left to right with probability 1/2.
    fill: the value of the pixels that are padded with.

  Returns:
    [B, H, W, C] of the same type.
  """
  size = images.shape[1:]

  def one(image: Array, key: PRNGKey) -> Array:
    crop_key, flip_key = jax.random.split(key)
    if padding:
      edges = ((padding, padding), (padding, padding), (0, 0))
      row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
      padded = jnp.pad(image, edges, constant_values=fill)
      image = jax.lax.dynamic_slice(padded, (row, column, 0), size)
    if flip:
      mirrored = jax.random.bernoulli(flip_key)
      image = jnp.where(mirrored, image[:, ::-1], image)
    return image

  return jax.vmap(one)(images, keys) if padding or flip else images
