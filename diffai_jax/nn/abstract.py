"""Abstract layers (paper, section 3): they change elements, never the network.

An abstract layer is the identity on arrays, in every mode. On elements it acts
in TRAIN, and in CERTIFY unless `only_train` is set.
"""

from flax import linen as nn

from diffai_jax import transformers
from diffai_jax.domains.product import Value
from diffai_jax.types import Mode


class AbstractLayer(nn.Module):
  """Base class; a subclass supplies `transform` and its listing's text.

  Attributes:
    only_train: whether certification leaves this layer out.
  """

  only_train: bool = False

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    if mode is Mode.CONCRETE or (mode is Mode.CERTIFY and self.only_train):
      return x
    return self.transform(x)

  def transform(self, x: Value) -> Value:
    """The layer's effect; must be the identity on arrays and keep γ sound."""
    raise NotImplementedError

  @property
  def symbol(self) -> str:
    """Name of the noise symbols that this layer creates: its module path."""
    return "/".join(self.path) or type(self).__name__

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"{type(self).__name__} only_train={self.only_train}"


class CorrelateAll(AbstractLayer):
  """Correlates all variables: P = {i | 0 ≤ i < p} (paper, section 3.1)."""

  def transform(self, x: Value) -> Value:
    return transformers.correlate_all(x, self.symbol)
