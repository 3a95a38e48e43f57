"""What is certified: images, labels and a region around each, checked once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.data.arrays import (
    checked_images,
    checked_labels,
    checked_range,
)
from diffai_jax.domains.hybrid_zonotope import upwards
from diffai_jax.regions import Linf
from diffai_jax.regions.linf import aligned
from diffai_jax.types import Array, UsageError, shown


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
  """N images with a label and a region each; every leaf is [N, ...].

  Attributes:
    images: floats, or uint8 that stand for q/255.
    labels: int32, [N].
    region: around each image; its ε has as many axes as the images.
  """

  images: Array
  labels: Array
  region: Linf

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, rows) -> "Inputs":
    return jax.tree.map(lambda leaf: leaf[rows], self)

  def points(self) -> np.ndarray:
    """The images as floats, as the network takes them."""
    if self.images.dtype != np.uint8:
      return self.images
    return self.images / np.asarray(255, float_type(self.images.dtype))


def float_type(dtype) -> np.dtype:
  """What images of a type are computed in: their own of 32 bits at least."""
  if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize > 8:
    return np.dtype(jnp.result_type(float))
  dtype = jax.dtypes.canonicalize_dtype(dtype)
  return np.dtype(dtype if dtype.itemsize >= 4 else np.float32)


def checked(images: Array, labels: Array | None, region: Linf) -> Inputs:
  """Images, labels and region as certification takes them, in NumPy.

  Floats are taken as they are, in float32, or in float64 under x64, which are
  the numbers that a network computes on. Bytes are q/255 in the range [0, 1].

  Args:
    images: [N, ...], uint8 or floats within the region's range.
    labels: integers of at least 0, [N]; None stands for zeros.
    region: around each image. Its ε is rounded up.

  Raises:
    UsageError: if one of them cannot be used.
  """
  check_region(region)
  data_range = checked_range(region.data_range)
  images = checked_images(images, data_range)
  if labels is None:
    labels = np.zeros(len(images), np.int32)
  labels = checked_labels(labels, len(images))
  dtype = float_type(images.dtype)
  epsilon = _by_example(region.epsilon, images.shape, dtype)
  if images.dtype != np.uint8:
    with np.errstate(over="ignore"):
      images = images.astype(dtype)
    if not np.isfinite(images).all():
      raise UsageError(
          f"images have numbers that {dtype.name} cannot hold; scale them"
      )
  return Inputs(images, labels, Linf(epsilon, data_range))


def check_region(region: Linf) -> None:
  """Checks that it is one, and its ε.

  Raises:
    UsageError: if it cannot be used.
  """
  if not isinstance(region, Linf):
    raise UsageError(
        f"the region is {shown(region)}; expected a region such as Linf(0.1)"
    )
  wanted = "expected a finite number of at least 0"
  try:
    epsilon = np.asarray(region.epsilon)
  except (TypeError, ValueError):  # Rows of different lengths.
    epsilon = np.asarray(None)
  if not any(
      jnp.issubdtype(epsilon.dtype, kind) for kind in (jnp.floating, jnp.integer)
  ):
    raise UsageError(f"epsilon is {shown(region.epsilon)}; {wanted}")
  wrong = ~(np.isfinite(epsilon) & (epsilon >= 0))
  if np.any(wrong):
    raise UsageError(f"epsilon is {epsilon[wrong].flat[0]:g}; {wanted}")


def _by_example(epsilon, shape: tuple[int, ...], dtype) -> np.ndarray:
  """ε as [N, 1, ...] or [N, ...], in a type and not below the given one."""
  epsilon = np.asarray(epsilon)
  if not jnp.issubdtype(epsilon.dtype, jnp.floating):
    epsilon = epsilon.astype(float)
  try:
    epsilon = aligned(epsilon, shape)
  except ValueError as error:
    raise UsageError(str(error)) from None
  with np.errstate(over="ignore"):
    epsilon = np.asarray(upwards(epsilon, dtype))
  epsilon = epsilon.reshape((1,) * (len(shape) - epsilon.ndim) + epsilon.shape)
  ones = (1,) * (len(shape) - 1)
  each = ones if epsilon.shape[1:] == ones else shape[1:]
  return np.broadcast_to(epsilon, shape[:1] + each)
