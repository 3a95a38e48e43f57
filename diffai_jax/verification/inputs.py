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
from diffai_jax.regions import L2, Bounds, Linf
from diffai_jax.regions.linf import aligned
from diffai_jax.types import Array, UsageError, shown

Region = Linf | L2 | Bounds


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
  """N images with a label and a region each; every leaf is [N, ...].

  Attributes:
    images: floats, or uint8 that stand for q/255.
    labels: int32, [N].
    region: around each image; its ε or bounds have as many axes as the images.
    index: the image's place among all of them, int32 [N]; what is drawn at random
      for it depends on that.
  """

  images: Array
  labels: Array
  region: Region
  index: Array

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, rows) -> "Inputs":
    return jax.tree.map(lambda leaf: leaf[rows], self)

  def points(self) -> np.ndarray:
    """The images as floats, as the network takes them."""
    return _floats(self.images)


def _floats(images: np.ndarray) -> np.ndarray:
  if images.dtype != np.uint8:
    return images
  return images / np.asarray(255, float_type(images.dtype))


def float_type(dtype) -> np.dtype:
  """What images of a type are computed in: their own of 32 bits at least."""
  if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize > 8:
    return np.dtype(jnp.result_type(float))
  dtype = jax.dtypes.canonicalize_dtype(dtype)
  return np.dtype(dtype if dtype.itemsize >= 4 else np.float32)


def checked(images: Array, labels: Array | None, region: Region) -> Inputs:
  """Images, labels and region as certification takes them, in NumPy.

  Floats are taken as they are, in float32, or in float64 under x64, which are
  the numbers that a network computes on. Bytes are q/255 in the range [0, 1].

  Args:
    images: [N, ...], uint8 or floats within the region's range.
    labels: integers of at least 0, [N]; None stands for zeros.
    region: around each image, or that has each image in it. Its numbers are rounded
      outwards.

  Raises:
    UsageError: if one of them cannot be used.
  """
  check_region(region)
  data_range = checked_range(getattr(region, "data_range", None))
  images = checked_images(images, data_range)
  if labels is None:
    labels = np.zeros(len(images), np.int32)
  labels = checked_labels(labels, len(images))
  dtype = float_type(images.dtype)
  if images.dtype != np.uint8:
    with np.errstate(over="ignore"):
      images = images.astype(dtype)
    if not np.isfinite(images).all():
      raise UsageError(
          f"images have numbers that {dtype.name} cannot hold; scale them"
      )
  index = np.arange(len(images), dtype=np.int32)
  if isinstance(region, Bounds):
    return Inputs(images, labels, _around(region, images), index)
  epsilon = _by_example(region.epsilon, images.shape, dtype)
  if isinstance(region, L2) and any(n != 1 for n in epsilon.shape[1:]):
    raise UsageError(
        f"epsilon is {list(np.shape(region.epsilon))}; an L2 ball has one radius:"
        f" give a number, or one for each example"
    )
  region = dataclasses.replace(region, epsilon=epsilon, data_range=data_range)
  return Inputs(images, labels, region, index)


def _around(region: Bounds, images: Array) -> Bounds:
  """Explicit bounds, [N, ...] each, which have the images in them."""
  points = _floats(images)
  try:
    lower, upper = map(np.asarray, region.bounds(points))
  except ValueError as error:
    raise UsageError(str(error)) from None
  outside = ~((points >= lower) & (points <= upper))
  if outside.any():
    place = tuple(int(i) for i in np.argwhere(outside)[0])
    raise UsageError(
        f"images{list(place)} is {points[place]:g}, outside of its bounds,"
        f" {lower[place]:g} to {upper[place]:g}; give images that are in the region"
    )
  return Bounds(lower, upper)


def check_region(region: Region) -> None:
  """Checks that it is one, and its ε or bounds.

  Raises:
    UsageError: if it cannot be used.
  """
  if not isinstance(region, Region):
    raise UsageError(
        f"the region is {shown(region)}; expected a region such as Linf(0.1)"
    )
  numbers = {
      name: getattr(region, name) for name in ("epsilon", "lower", "upper")
      if hasattr(region, name)
  }
  for name, given in numbers.items():
    wanted = "expected a finite number"
    least = -np.inf
    if name == "epsilon":
      wanted, least = f"{wanted} of at least 0", 0
    try:
      values = np.asarray(given)
    except (TypeError, ValueError):  # Rows of different lengths.
      values = np.asarray(None)
    if not any(
        jnp.issubdtype(values.dtype, kind)
        for kind in (jnp.floating, jnp.integer)
    ):
      raise UsageError(f"{name} is {shown(given)}; {wanted}")
    wrong = ~(np.isfinite(values) & (values >= least))
    if np.any(wrong):
      raise UsageError(f"{name} is {values[wrong].flat[0]:g}; {wanted}")


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
