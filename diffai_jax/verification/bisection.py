"""The largest ε that a method proves, for each image."""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import numpy as np

from diffai_jax.regions import Linf
from diffai_jax.verification.blocks import run_in_batches
from diffai_jax.verification.inputs import Inputs
from diffai_jax.verification.measures import MeasureMargin
from diffai_jax.verification.methods import Method
from diffai_jax.verification.programs import compile_measure


def largest_proved(
    network: nn.Module,
    params: dict,
    inputs: Inputs,
    method: Method,
    steps: int,
    memory_mb: float | None = None,
    progress: Callable[[str, int], None] = lambda phase, done: None,
) -> np.ndarray:
  """For each example the largest ε that was proved, by bisection.

  One program computes all: ε is its argument, one for each example. No ε is
  returned but those at which the method itself gave a proof; that it proves all
  smaller ones too is not assumed. Examples that nothing is left to ask about
  are left out of further batches.

  Args:
    network: called as network(value, mode).
    params: its weights, as `certified_params` gives them.
    inputs: N examples, whose ε is the most that is tried, [N, 1, ...].
    method: what proves.
    steps: halvings of the interval.
    memory_mb: as `certification.certify` takes it.
    progress: called with the method's text and how many steps are done, of
      steps + 2.

  Returns:
    [N], in the type of the images as they are computed; -inf where not even
    ε = 0 was proved: the image is misclassified, or the method proves nothing.
  """
  name = str(method)
  size, program = compile_measure(
      name, MeasureMargin(network, method), params, inputs, memory_mb
  )

  def proved(rows: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
    if not len(rows):
      return np.zeros(0, bool)
    some = inputs[rows]
    at = epsilon.reshape(some.region.epsilon.shape)
    region = Linf(at, some.region.data_range)
    found = run_in_batches(
        program, size, params, dataclasses.replace(some, region=region)
    )
    return found["proved"]

  most = inputs.region.epsilon.reshape(len(inputs))
  rows = np.arange(len(inputs))
  low = np.where(proved(rows, np.zeros_like(most)), 0, -np.inf)
  low = low.astype(most.dtype)
  progress(name, 1)
  rows = np.flatnonzero(low == 0)
  whole = rows[proved(rows, most[rows])]
  low[whole] = most[whole]
  progress(name, 2)
  rows, high = np.setdiff1d(rows, whole), most.copy()
  for step in range(steps):
    middle = low[rows] + (high[rows] - low[rows]) / 2
    between = (low[rows] < middle) & (middle < high[rows])
    rows, middle = rows[between], middle[between]
    holds = proved(rows, middle)
    low[rows[holds]], high[rows[~holds]] = middle[holds], middle[~holds]
    progress(name, step + 3)
  return low
