"""Branch and bound of examples: verdicts, bounds, points, seconds of each.

What other measures are to batches, this is to all examples at once, in blocks that
fit into memory; what is decided is handed on as it comes.
"""

from collections.abc import Callable
import dataclasses
import math
import os

from flax import linen as nn
import numpy as np

from diffai_jax import processes
from diffai_jax.branching import Found, Proofs, Settings, search
from diffai_jax.graph import Graph
from diffai_jax.networks import graph_of
from diffai_jax.regions import labels as labels_spec
from diffai_jax.storage import store
from diffai_jax.types import UsageError
from diffai_jax.verification.branching_method import BranchAndBound
from diffai_jax.verification.inputs import Inputs, float_type

# What is known of the regions of a block's images may take so much, in MiB.
_BLOCK_MIB = 512.0
_MOST_IMAGES = 2000

# (numbers of examples, arrays [n, ...] by name).
Decided = Callable[[np.ndarray, dict[str, np.ndarray]], None]


@dataclasses.dataclass(frozen=True)
class Search:
  """What branch and bound finds of examples.

  Attributes:
    network: called as network(value, mode) -> logits.
    method: with its seconds.
    memory_mb: what open subdomains may take on the host, in MiB; None is 1 GiB.
    proofs: the folder that has each verified example's proof, as NUMBER.npz; None
      is none.
  """

  network: nn.Module
  method: BranchAndBound
  memory_mb: float | None = None
  proofs: str | None = None

  def __call__(
      self, params: dict, inputs: Inputs,
      decided: Decided = lambda numbers, found: None,
      status: Callable[[str], None] = lambda text: None,
      names: np.ndarray | None = None,
  ) -> dict[str, np.ndarray]:
    """Decides N examples.

    Args:
      params: the network's weights.
      inputs: the examples.
      decided: called with examples as they are decided, each once.
      status: called with a line that says how far the search is.
      names: numbers that the examples' proofs have; None is 0, 1, ...

    Returns:
      By name, [N, ...] each: whether it is `proved`, its `margin`, whether it is
      `falsified`, the `counterexample`, the `seconds` and the number of
      `subdomains`. After Ctrl-C some are neither, and were not handed on.

    Raises:
      UsageError: if the network is no graph, or there are no proofs of such a
        network or region, or of several processes.
      OSError: if a proof cannot be written.
    """
    graph = self._graph(params, inputs)
    if names is None:
      names = np.arange(len(inputs))
    size = _block_size(graph)
    pieces, left = [], self.method.in_all or math.inf
    interrupted = False
    for begin in range(0, len(inputs), size):
      block = inputs[begin : begin + size]
      images = np.asarray(block.points(), graph.dtype)
      settings = Settings(
          seconds=0.0 if interrupted else self.method.seconds,
          total=left, **(
              {} if self.memory_mb is None else {"pool_mib": self.memory_mb}
          ),
      )
      proofs = self._proofs(graph, block.region)

      def tell(numbers, found, begin=begin, proofs=proofs):
        if proofs is not None:
          for number in numbers:
            if found.verified[number]:
              name = f"{names[begin + number]}.npz"
              proofs.write(number, os.path.join(self.proofs, name))
            proofs.forget(number)
        some = {k: v[numbers] for k, v in _arrays(found).items()}
        decided(begin + numbers, some)

      spec = labels_spec(block.labels, graph.output_shape[0], images.dtype)
      found = search(
          graph, images, block.region, spec, settings,
          progress=lambda state: status(str(state)),
          decided=tell, leaves=proofs,
      )
      pieces.append(_arrays(found))
      left -= found.seconds.sum()
      if found.interrupted:
        interrupted, decided = True, lambda numbers, found: None
    return {
        name: np.concatenate([piece[name] for piece in pieces])
        for name in pieces[0]
    }

  def _proofs(self, graph: Graph, region) -> Proofs | None:
    if self.proofs is None:
      return None
    if processes.count() > 1:
      raise UsageError(
          "proofs are written by one process, and there are"
          f" {processes.count()}: leave them out (certify.proofs=false)"
      )
    store.make_folders(self.proofs)
    return Proofs(graph, region)

  def _graph(self, params: dict, inputs: Inputs) -> Graph:
    """The concrete network: no abstract layer changes what is decided."""
    try:
      return graph_of(
          self.network, {"params": params}, inputs.images.shape[1:],
          dtype=float_type(inputs.images.dtype),
      )
    except TypeError:
      raise UsageError(
          f"{self.method} walks a graph backwards, but the network is transformed"
          f" by JAX inside (nn.jit, nn.scan, ...) and has none; take another"
          f" method"
      ) from None


def _arrays(found: Found) -> dict[str, np.ndarray]:
  return {
      "proved": found.verified,
      "margin": -found.bound,
      "falsified": found.falsified,
      "counterexample": found.points,
      "seconds": found.seconds.astype(np.float32),
      "subdomains": found.subdomains.astype(np.int32),
  }


def _block_size(graph: Graph) -> int:
  """How many images' bounds fit: two of each result, here and on a device."""
  numbers = sum(math.prod(call.shape) for call in graph.calls)
  each = 4 * (numbers + math.prod(graph.input_shape))
  fits = _BLOCK_MIB * 2**20 / (each * np.dtype(graph.dtype).itemsize)
  return int(np.clip(fits, 1, _MOST_IMAGES))
