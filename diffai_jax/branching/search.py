"""Branch and bound on all open images at once.

An image is verified when none of its subdomains is left. It is falsified by a point,
and given up when it has had its seconds: the time of a round is shared among the
images that had subdomains in it. Where inputs have few variables their box is split
(`input_splits`), else the signs of ReLUs (`relu_splits`). A network of few ReLUs, with
nothing else to relax, has none open after few decisions: there boxes are split only of
the fewest variables; and a network without ReLUs leaves nothing else to split.
"""

from collections.abc import Callable

import numpy as np

from diffai_jax.branching.decisions import is_small, neurons_of
from diffai_jax.branching.input_splits import InputSplits
from diffai_jax.branching.ledger import Ledger
from diffai_jax.branching.relu_splits import ReluSplits
from diffai_jax.branching.settings import Found, Settings, State
from diffai_jax.graph import Graph
from diffai_jax.regions import L2, Spec
from diffai_jax.types import Array


def search(
    graph: Graph, images: Array, region, spec: Spec, settings: Settings,
    progress: Callable[[State], None] = lambda state: None,
    leaves: Callable | None = None,
    decided: Callable[[np.ndarray, Found], None] | None = None,
) -> Found:
  """Decides images by branch and bound.

  Args:
    graph: the network, with one output.
    images: [I, ...], in the graph's type.
    region: around them: Linf, L2 or Bounds.
    spec: what is to be proved of each.
    settings: how.
    progress: called after each round.
    leaves: called with (`Root`, subdomains, their bounds) that are proved with the
      α and β that they have, as they come; images without a split too. ReLUs are
      split then, however few inputs there are.
    decided: called with (numbers of images, what is known of all) when no more is
      done about these images, each once.

  Returns:
    What is known when all are decided, or have had their time, or at Ctrl-C.
  """
  images = np.asarray(images)
  run = _search(graph, images, region, spec, settings, progress, leaves)
  told = np.zeros(len(images), bool)

  def tell(last: bool = False) -> None:
    now = np.flatnonzero((run.is_decided() | last) & ~told)
    if decided is not None and len(now):
      decided(now, run.found())
      told[now] = True

  try:
    run.begin()
    tell()
    while run.goes_on():
      run.round()
      tell()
  except KeyboardInterrupt:
    return run.found(interrupted=True)
  tell(last=True)
  return run.found()


def _search(
    graph, images, region, spec, settings, progress, leaves
) -> Ledger:
  if leaves is None and not isinstance(region, L2):
    low, high = map(np.asarray, region.bounds(images))
    width = (high > low).reshape(len(images), -1).sum(axis=1)
    most = settings.few_inputs
    if not neurons_of(graph).count:
      most = width.max(initial=0)
    elif is_small(graph, settings.few_relus):
      most = min(most, settings.fewest_inputs)
    if width.max(initial=0) <= most:
      return InputSplits(graph, images, region, spec, settings, progress)
  return ReluSplits(graph, images, region, spec, settings, progress, leaves)
