"""What `certify` is given besides images, checked before anything is computed."""

import math
import numbers

from flax import errors
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax import processes
from diffai_jax.networks import graph_of
from diffai_jax.storage import sealed
from diffai_jax.types import UsageError, shown
from diffai_jax.verification import affine_check
from diffai_jax.verification.attack_texts import Attack
from diffai_jax.verification.inputs import Inputs, float_type
from diffai_jax.verification.program_cache import (
    LastUsed,
    shapes,
    structure,
    surroundings,
)

# What networks give, which takes longer to trace than many a method to run.
_LOGITS = LastUsed()
# Networks and weights whose arithmetic was found to be right.
_RIGHT = LastUsed()


def check_numbers(attack: Attack | None, memory_mb: float | None) -> None:
  """Checks what is a number.

  Raises:
    UsageError: if one is not in its range.
  """
  check_memory_mb(memory_mb)
  if attack is None:
    return
  if not isinstance(attack, Attack):
    raise UsageError(
        f"the attack is {shown(attack)}; expected one such as Attack(steps=20);"
        f" others are given by text, attacks=['APGD(100)']"
    )
  needs = (
      ("attack.momentum", attack.momentum), ("attack.radius", attack.radius)
  )
  for name, value in needs:
    if not _is_number(value, 0):
      raise UsageError(
          f"{name} is {shown(value)}; expected a finite number of at least 0"
      )
  steps = attack.steps
  whole = isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
  if not whole or not 0 <= steps < 2**31:
    raise UsageError(
        f"attack.steps is {steps!r}; expected a whole number from 0 to"
        f" {2**31 - 1}"
    )


def check_memory_mb(memory_mb: float | None) -> None:
  """Checks how much memory a batch may take.

  Raises:
    UsageError: if it is neither None nor a number of MiB.
  """
  if memory_mb is not None and not _is_number(memory_mb, 1):
    raise UsageError(
        f"memory_mb is {shown(memory_mb)}; expected a finite number of at least"
        f" 1, or None"
    )


def _is_number(value, least: float) -> bool:
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return number and math.isfinite(value) and value >= least


def check_network(
    network: nn.Module,
    variables: dict,
    inputs: Inputs,
    needs_logits: bool = True,
) -> int:
  """Checks that the network takes the images and has classes for the labels.

  Args:
    network: called as network(value, mode).
    variables: what it is applied with.
    inputs: with labels of at least 0.
    needs_logits: whether it must give logits, and one for each label.

  Returns:
    How many logits it gives; 0 if it need not give any.

  Raises:
    UsageError: if it does not.
  """
  shape = inputs.images.shape[1:]
  image = jax.ShapeDtypeStruct((1, *shape), float_type(inputs.images.dtype))
  key = structure(network), shapes(variables), shapes(image), surroundings()
  trace = lambda: jax.eval_shape(lambda x: network.apply(variables, x), image)
  try:
    logits = _LOGITS.get(key, trace)
  except (errors.FlaxError, TypeError, ValueError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UsageError(
        f"the network with these weights does not take images"
        f" {list(shape)} ({reason[:200]})"
    ) from error
  if not needs_logits:
    return 0
  found = getattr(logits, "shape", None)
  if found is None or len(found) != 2 or found[0] != 1 or found[1] < 2:
    raise UsageError(
        f"the network gives {found} for one image; expected logits [1, K] of"
        f" two classes at least"
    )
  outside = inputs.labels >= found[1]
  if np.any(outside):
    row = int(np.argmax(outside))
    raise UsageError(
        f"label {inputs.labels[row]} of example {row} is no class of the"
        f" network; expected 0 to {found[1] - 1}"
    )
  return found[1]


def check_arithmetic(
    network: nn.Module, variables: dict, inputs: Inputs
) -> None:
  """Checks that this machine computes as proofs allow for, and each process's.

  What was found right is not computed again for the same weights.

  Args:
    network: called as network(value, mode).
    variables: what it is applied with.
    inputs: whose shape and type count.

  Raises:
    UsageError: if a layer is off by more.
  """
  dtype = float_type(inputs.images.dtype)
  shape = inputs.images.shape[1:]
  weights = sealed.digest_of_arrays(jax.tree.leaves(jax.device_get(variables)))
  key = (
      structure(network), shapes(variables), weights, shape, np.dtype(dtype),
      surroundings(),
  )

  def check() -> bool:
    graph = graph_of(network, variables, shape, dtype=dtype)
    affine_check.check(graph, dtype)
    return True

  processes.together(lambda: _RIGHT.get(key, check))


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
