"""Compiled measures run on examples, in blocks that all processes share.

With several processes each calls the same functions with the same arguments. A
process runs the program of its own devices on its rows of each block, and gets
what all of them found: what is built on this needs to know of no process. Where
one process fails, all of them raise.
"""

from collections.abc import Callable

import jax
import numpy as np

from diffai_jax import processes
from diffai_jax.verification.inputs import Inputs


def own_rows(start: int, share: int, total: int, process: int) -> np.ndarray:
  """The examples of a block that a process measures, int [share].

  Those of process 0 first. Behind the last example the last one stands again, so
  that every batch has one shape.

  Args:
    start: the first example of the block.
    share: how many of them each process takes.
    total: how many there are at all.
    process: its index.
  """
  first = start + process * share
  return np.arange(first, first + share).clip(max=total - 1)


def run_in_batches(
    program: Callable,
    size: int,
    params: dict,
    inputs: Inputs,
    block: Callable[[slice, dict], None] = lambda rows, found: None,
) -> dict[str, np.ndarray]:
  """A compiled measure of all examples, [N, ...] by name.

  Every process gets the same, the results of each example once.

  Args:
    size, program: of `compile_measure`.
    params: the network's weights.
    inputs: N examples.
    block: called after each batch of all processes, with the examples that it
      had and what was found of them.

  Raises:
    Exception: what the program raises; in processes where it did not, a
      UsageError that says so.
  """
  devices = jax.local_device_count()
  share, total = devices * size, len(inputs)
  batch = processes.count() * share
  pieces = []

  def measured(start: int) -> dict[str, np.ndarray]:
    rows = own_rows(start, share, total, processes.index())
    out = program(params, jax.tree.map(
        lambda leaf: leaf.reshape((devices, size) + leaf.shape[1:]),
        inputs[rows],
    ))
    return {
        name: np.asarray(v).reshape((share,) + v.shape[2:])
        for name, v in out.items()
    }

  for start in range(0, total, batch):
    own = processes.together(lambda: measured(start))
    stop = min(start + batch, total)
    pieces.append({
        name: v.reshape((batch,) + v.shape[2:])[: stop - start]
        for name, v in processes.gathered(own).items()
    })
    block(slice(start, stop), pieces[-1])
  return processes.together(lambda: {
      name: np.concatenate([piece[name] for piece in pieces])
      for name in pieces[0]
  })
