"""What is certified: images, labels and a region around each, checked once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.data import to_unit_range
from diffai_jax.domains.hybrid_zonotope import upwards
from diffai_jax.regions import Linf
from diffai_jax.regions.linf import Range, aligned, checked_range
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


def as_floats(images: Array) -> Array:
  """Images of a traced program as floats: bytes become q/255."""
  return to_unit_range(images) if images.dtype == jnp.uint8 else images


def float_type(dtype) -> np.dtype:
  """What images of a type are computed in: their own of 32 bits at least."""
  if not jnp.issubdtype(dtype, jnp.floating):
    return np.dtype(jnp.result_type(float))
  dtype = jax.dtypes.canonicalize_dtype(dtype)
  return np.dtype(dtype if dtype.itemsize >= 4 else np.float32)


def checked(images: Array, labels: Array, region: Linf) -> Inputs:
  """Images, labels and region as certification takes them, in NumPy.

  Floats are taken as they are, in float32, or in float64 under x64, which are
  the numbers that a network computes on. Bytes are q/255 in the range [0, 1].

  Args:
    images: [N, ...], uint8 or floats within the region's range.
    labels: integers of at least 0, [N]; an array or a list.
    region: around each image. Its ε is rounded up.

  Raises:
    UsageError: if one of them cannot be used.
  """
  check_region(region)
  images, labels = _array(images), labels
  labels = np.asarray(labels) if isinstance(labels, list) else _array(labels)
  _check_types(images, labels)
  if labels.ndim != 1 or images.ndim < 2 or len(images) != len(labels):
    raise UsageError(
        f"images are {list(images.shape)} and labels {list(labels.shape)};"
        f" expected [N, ...] and [N]"
    )
  if not len(labels):
    raise UsageError("there are no examples; expected one at least")
  if not images.size:
    raise UsageError(f"images are {list(images.shape)}; one has no pixels")
  data_range = checked_range(region.data_range)
  dtype = float_type(images.dtype)
  _check_values(images, data_range, dtype)
  if images.dtype != np.uint8:
    images = images.astype(dtype)
  bad = (labels < 0) | (labels > np.iinfo(np.int32).max)
  if np.any(bad):
    row = int(np.argmax(bad))
    raise UsageError(
        f"label {labels[row]} of example {row} is no class; expected integers"
        f" from 0"
    )
  epsilon = _by_example(region.epsilon, images.shape, dtype)
  return Inputs(images, labels.astype(np.int32), Linf(epsilon, data_range))


def check_region(region: Linf) -> None:
  """Checks that it is one, and the numbers in it.

  Raises:
    UsageError: if it cannot be used.
  """
  if not isinstance(region, Linf):
    raise UsageError(
        f"the region is {shown(region)}; expected a region such as Linf(0.1)"
    )
  wanted = "expected a finite number of at least 0"
  given = _array(region.epsilon)
  epsilon = np.asarray(given)
  if not _is_real(epsilon.dtype):
    raise UsageError(f"epsilon is {shown(given)}; {wanted}")
  wrong = ~(np.isfinite(epsilon) & (epsilon >= 0))
  if np.any(wrong):
    raise UsageError(f"epsilon is {epsilon[wrong].flat[0]:g}; {wanted}")
  try:
    checked_range(region.data_range)
  except ValueError as error:
    raise UsageError(str(error)) from None


def _by_example(epsilon, shape: tuple[int, ...], dtype) -> np.ndarray:
  """ε as [N, 1, ...] or [N, ...], in a type and not below the given one."""
  epsilon = np.asarray(_array(epsilon))
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


def _array(values):
  """JAX's arrays as NumPy's; anything else as it is."""
  return np.asarray(values) if isinstance(values, jax.Array) else values


def _is_real(dtype) -> bool:
  return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(
      dtype, jnp.integer
  )


def _check_types(images, labels) -> None:
  for name, array, right, wanted in (
      ("images", images, _is_image, "uint8 or floats [N, ...]"),
      ("labels", labels, lambda dtype: dtype.kind in "iu", "integers [N]"),
  ):
    dtype = getattr(array, "dtype", None)
    if dtype is None or not right(np.dtype(dtype)):
      found = type(array).__name__ if dtype is None else dtype
      raise UsageError(f"{name} are {found}; expected {wanted}")


def _is_image(dtype: np.dtype) -> bool:
  is_float = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 8
  return is_float or dtype == np.uint8


def _check_values(images: np.ndarray, data_range: Range, dtype) -> None:
  """Checks that images are finite, in `dtype` too, and within their range."""
  if images.dtype == np.uint8:
    if data_range not in (None, (0, 1)):
      raise UsageError(
          f"images are uint8, which stand for 0 to 1, but data_range is"
          f" {data_range}; give the images as floats of that range"
      )
    return
  largest = float(jnp.finfo(dtype).max)
  finite = (images >= -largest) & (images <= largest)  # NaN is not.
  if not np.all(finite):
    row = int(np.argmin(finite.reshape(len(images), -1).all(axis=1)))
    value = float(images[row][~finite[row]].flat[0])
    raise UsageError(
        f"image {row} has the value {value:g}; expected finite numbers of"
        f" {np.dtype(dtype).name}"
    )
  if data_range is None:
    return
  low, high = data_range
  lowest, highest = float(images.min()), float(images.max())
  if low <= lowest and highest <= high:
    return
  advice = (
      "state it with Linf(epsilon, data_range=(lowest, highest)), or None for"
      " none"
  )
  if (low, high) == (0, 1) and 0 <= lowest and highest <= 255:
    advice = f"divide bytes by 255, or give them as uint8; or {advice}"
  raise UsageError(
      f"images go from {lowest:g} to {highest:g}, outside of the data's range,"
      f" {low:g} to {high:g}; {advice}"
  )
