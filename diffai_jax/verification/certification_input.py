"""What `certify` is given, checked once, before anything is computed."""

from collections.abc import Sequence
import math
import numbers

from flax import errors
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.data import Examples
from diffai_jax.goals import REGIONS
from diffai_jax.text.suggest import unknown_name
from diffai_jax.types import UsageError
from diffai_jax.verification.measures import Attack


def check_numbers(
    epsilon: float, attack: Attack, memory_mb: float | None
) -> None:
  """Checks what is a number.

  Raises:
    UsageError: if one is not in its range.
  """
  needs = (
      ("epsilon", epsilon, 0, "a finite number of at least 0"),
      ("attack.momentum", attack.momentum, 0, "a finite number of at least 0"),
      ("attack.radius", attack.radius, 0, "a finite number of at least 0"),
      ("memory_mb", 1 if memory_mb is None else memory_mb, 1,
       "a finite number of at least 1, or None"),
  )
  for name, value, least, wanted in needs:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least:
      raise UsageError(f"{name} is {value!r}; expected {wanted}")
  steps = attack.steps
  whole = isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
  if not whole or not 0 <= steps < 2**31:
    raise UsageError(
        f"attack.steps is {steps!r}; expected a whole number from 0 to"
        f" {2**31 - 1}"
    )


def checked_domains(domains: Sequence[str]) -> tuple[str, ...]:
  """The names of regions, each once.

  Raises:
    UsageError: if they are one text, or one names no region.
  """
  if isinstance(domains, str):
    raise UsageError(
        f"domains is the text {domains!r}; expected a sequence of names, such"
        f" as ({domains!r},)"
    )
  for domain in domains:
    if domain not in REGIONS:
      raise unknown_name("certification domain", str(domain), REGIONS)
  return tuple(dict.fromkeys(domains))


def check_examples(
    network: nn.Module, params: dict, examples: Examples
) -> None:
  """Checks images and labels, also against the network.

  Raises:
    UsageError: if there are none, or they are not what the network is for.
  """
  images, labels = examples.images, examples.labels
  for name, array, kinds, wanted in (
      ("images", images, "u", "uint8 [N, ...]"),
      ("labels", labels, "iu", "integers [N]"),
  ):
    dtype = getattr(array, "dtype", None)
    right = dtype is not None and np.dtype(dtype).kind in kinds
    if not right or (name == "images" and dtype != np.uint8):
      found = type(array).__name__ if dtype is None else dtype
      raise UsageError(f"{name} are {found}; expected {wanted}")
  if labels.ndim != 1 or images.ndim < 2 or len(images) != len(labels):
    raise UsageError(
        f"images are {list(images.shape)} and labels {list(labels.shape)};"
        f" expected [N, ...] and [N]"
    )
  if not len(labels):
    raise UsageError("there are no examples; expected one at least")
  image = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.result_type(float))
  try:
    logits = jax.eval_shape(
        lambda x: network.apply({"params": params}, x), image
    )
  except (errors.FlaxError, TypeError, ValueError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UsageError(
        f"the network with these weights does not take images"
        f" {list(images.shape[1:])} ({reason[:200]})"
    ) from error
  shape = getattr(logits, "shape", None)
  if shape is None or len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
    raise UsageError(
        f"the network gives {shape} for one image; expected logits [1, K] of"
        f" two classes at least"
    )
  outside = (labels < 0) | (labels >= shape[1])
  if np.any(outside):
    row = int(np.argmax(outside))
    raise UsageError(
        f"label {labels[row]} of example {row} is no class of the network;"
        f" expected 0 to {shape[1] - 1}"
    )


def certified_params(params: dict) -> dict:
  """The weights that are certified: in float32, or float64 if they are.

  Bounds allow for the rounding of one type. Narrower weights are numbers of
  float32 as well, and it is the network with these that is certified. Wider
  ones than JAX computes in are rounded to its type.
  """

  def widened(weight):
    dtype = jnp.result_type(weight)
    if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 4:
      dtype = jnp.float32
    return jnp.asarray(weight, dtype)

  return jax.tree.map(widened, params)
