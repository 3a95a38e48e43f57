"""Networks that say what goes through them."""

from collections.abc import Callable

from diffai_jax.nn import Normalize, Sequential


def watched(network: Sequential, note: Callable) -> Sequential:
  """The network, with note(x, mode) called for what its Normalize gets."""

  class Watched(Normalize):

    def __call__(self, x, mode=None):
      note(x, mode)
      return super().__call__(x, mode)

  (normalize,) = network.layers[0].layers
  rest = [Sequential(stage.layers) for stage in network.layers[1:]]
  first = Sequential((Watched(normalize.mean, normalize.std),))
  return Sequential((first, *rest))
