"""The order of training examples: a function of (seed, epoch), nothing else."""

from collections.abc import Iterator

import numpy as np

from diffai_jax import processes
from diffai_jax.data.sources import Examples


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
  """The permutation of range(size) in which that epoch visits examples."""
  return np.random.default_rng((seed, epoch)).permutation(size)


def batches(
    examples: Examples, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (images, labels) of every step from `first_step` on, for ever.

  Of several processes each gets its rows of the batch, which follow each other
  in the order of `lax.axis_index`, as their devices do. Each epoch has len(examples) // batch_size steps; the rest of its order is
  left out. What step k yields does not depend on where reading began.

  Args:
    examples: at least batch_size of them.
    batch_size: of the whole batch, over all devices of all processes.
    seed: any non-negative int.
    first_step: the step to begin at, counted from the start of training.
  """
  steps = len(examples) // batch_size
  own = processes.share(batch_size)
  epoch, start = divmod(first_step, steps)
  while True:
    order = epoch_order(len(examples), seed, epoch)
    for step in range(start, steps):
      rows = order[step * batch_size : (step + 1) * batch_size][own]
      yield examples.images[rows], examples.labels[rows]
    epoch, start = epoch + 1, 0
