"""Abstract layers (paper, section 3): they change elements, never the network.

An abstract layer is the identity on arrays, in every mode. On elements it acts
in TRAIN, and in CERTIFY unless `only_train` is set.
"""

import zlib

from flax import linen as nn
import jax

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape
from diffai_jax.nn.naming import layer_path, layer_symbol
from diffai_jax.types import Mode, PRNGKey, UsageError

RNG = "abstract"  # The stream of random keys that random layers draw from.


class AbstractLayer(nn.Module, kw_only=True):
  """Base class; a subclass supplies `transform` and its listing's text.

  Attributes:
    only_train: whether certification leaves this layer out; by keyword.
  """

  only_train: bool = False

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    self.check()
    if mode is Mode.CONCRETE or (mode is Mode.CERTIFY and self.only_train):
      return x
    return self.transform(x)

  def check(self) -> None:
    """Raises UsageError if an attribute is out of range."""

  def transform(self, x: Value) -> Value:
    """The layer's effect; must be the identity on arrays and keep γ sound."""
    raise NotImplementedError

  @property
  def symbol(self) -> str:
    """A new name for the noise symbols of this call."""
    return layer_symbol(self)

  def describe(self, shape: tuple[int, ...]) -> str:
    """The layer's line in the listings of the paper's appendix D."""
    return f"{type(self).__name__} only_train={self.only_train}"


class _Counted(AbstractLayer):
  """A layer of k symbols or variables.

  Attributes:
    k: how many; not negative.
    only_train: as of AbstractLayer.

  Raises:
    UsageError: when called, if k is negative.
  """

  k: int

  def check(self) -> None:
    if self.k < 0:
      raise UsageError(
          f"{type(self).__name__} has k={self.k}; it must not be negative"
      )


def _key(layer: nn.Module) -> PRNGKey:
  """A key from the stream "abstract", or the layer's own where there is none.

  Without the stream (at certification) a layer draws the same each time.
  """
  if layer.scope is not None and layer.has_rng(RNG):
    return layer.make_rng(RNG)
  return jax.random.key(zlib.crc32(layer_path(layer).encode()))


class CorrelateAll(AbstractLayer):
  """Correlates all variables: P = {i | 0 ≤ i < p} (paper, section 3.1)."""

  def transform(self, x: Value) -> Value:
    return transformers.correlate_all(x, self.symbol)


class CorrelateFixed(_Counted):
  """Correlates P = {⌊i·p/k⌋ | 0 ≤ i < k} (paper, section 3.1)."""

  def transform(self, x: Value) -> Value:
    return transformers.correlate_fixed(x, self.k, self.symbol)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"CorrFix only_train={self.only_train} k={self.k}"


class CorrelateMax(_Counted):
  """Correlates the k largest upper bounds, TOP_k(UB(ι_H(h))) (section 3.1)."""

  def transform(self, x: Value) -> Value:
    return transformers.correlate_max(x, self.k, self.symbol)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"CorrMaxK only_train={self.only_train} num_correlate={self.k}"


class CorrelateRandom(_Counted):
  """Correlates k variables, drawn anew in each training step."""

  def transform(self, x: Value) -> Value:
    return transformers.correlate_random(x, self.k, _key(self), self.symbol)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"CorrRand only_train={self.only_train} num_correlate={self.k}"


class CorrelateMaxPool(AbstractLayer):
  """Correlates P = {i | f(i) ∈ MAXPOOL(f)} (paper, section 3.1).

  Attributes:
    window: a number for each axis of one example, or one number for the height
      and width of images (the channels are apart) or the length of vectors.
    stride: likewise; None is `window`.
    before_first: whether this stands before the first layer, where f is h_C;
      elsewhere f is h_B.
    only_train: as of AbstractLayer.

  Raises:
    UsageError: when called on another number of axes.
  """

  window: int | tuple[int, ...]
  stride: int | tuple[int, ...] | None = None
  before_first: bool = False

  def transform(self, x: Value) -> Value:
    rank = len(example_shape(x))
    stride = self.window if self.stride is None else self.stride
    return transformers.correlate_max_pool(
        x, self._every_axis(self.window, rank), self._every_axis(stride, rank),
        self.symbol, by_center=self.before_first,
    )

  def _every_axis(self, size: int | tuple[int, ...], rank: int) -> tuple:
    if isinstance(size, int):
      return (size, size, 1) if rank == 3 else (size,) * rank
    if len(size) != rank:
      raise UsageError(
          f"CorrelateMaxPool has {tuple(size)} for the {rank} axes of its"
          f" input; give one number, or one for each axis"
      )
    return tuple(size)

  def describe(self, shape: tuple[int, ...]) -> str:
    stride = self.window if self.stride is None else self.stride
    return (
        f"CorrMaxPool only_train={self.only_train} kernel_size={self.window}"
        f" stride={stride}"
    )


class DecorrelateAll(AbstractLayer):
  """h'_B,i = h_B,i + Σ_j |h_E,i,j|; no symbols stay (paper, section 3.2)."""

  def transform(self, x: Value) -> Value:
    return transformers.decorrelate_all(x)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"Concretize only_train={self.only_train}"


class DecorrelateMin(_Counted):
  """Keeps the k symbols of largest Σ_i |h_E,i,j| (paper, section 3.2)."""

  def transform(self, x: Value) -> Value:
    return transformers.decorrelate_min(x, self.k, self.symbol)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"DecorrMin only_train={self.only_train} k={self.k} num_to_keep=True"


class DecorrelateRandom(_Counted):
  """Keeps k symbols, drawn anew in each training step."""

  def transform(self, x: Value) -> Value:
    return transformers.decorrelate_random(x, self.k, _key(self), self.symbol)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"DecorrRand only_train={self.only_train} k={self.k} num_to_keep=True"


class ToZonotope(AbstractLayer):
  """A pure zonotope from here on: uncorrelated and fresh error gets symbols.

  Attributes:
    relu: the ReLU rule from here on; None leaves it.
    only_train: as of AbstractLayer.
  """

  relu: str | None = None

  def transform(self, x: Value) -> Value:
    return transformers.to_zonotope(x, self.symbol, self.relu)


class ToHybrid(AbstractLayer):
  """A hybrid zonotope from here on: fresh error stays uncorrelated.

  Attributes:
    relu: the ReLU rule from here on; None leaves it.
    only_train: as of AbstractLayer.
  """

  relu: str | None = None

  def transform(self, x: Value) -> Value:
    return transformers.to_hybrid(x, self.relu)
