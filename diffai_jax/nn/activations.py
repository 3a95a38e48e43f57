"""Nonlinear layers. Their fresh error gets symbols named by the layer's path."""

from flax import linen as nn

from diffai_jax import transformers
from diffai_jax.domains.product import Value
from diffai_jax.nn.naming import layer_symbol
from diffai_jax.nn.observation import observe
from diffai_jax.types import Mode


class Activation(nn.Module):
  """Base class; a subclass is named like its transformer, `transform`."""

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    return self.transform(x, layer_symbol(self))

  def transform(self, x: Value, symbol: str) -> Value:
    """The function; `symbol` names fresh error in a pure zonotope."""
    raise NotImplementedError

  def describe(self, shape: tuple[int, ...]) -> str:
    return type(self).__name__


class ReLU(Activation):
  """max(x, 0); on elements by the rule that they carry."""

  def transform(self, x: Value, symbol: str) -> Value:
    observe(self, "before ReLU", x)
    return transformers.relu(x, symbol=symbol)


class LeakyReLU(Activation):
  """x for x ≥ 0, negative_slope·x below.

  Attributes:
    negative_slope: within 0 and 1.
  """

  negative_slope: float = 0.01

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.leaky_relu(x, self.negative_slope, symbol=symbol)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"LeakyReLU negative_slope={self.negative_slope}"


class ELU(Activation):
  """x for x ≥ 0, exp(x) - 1 below."""

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.elu(x, symbol=symbol)


class SELU(Activation):
  """Scaled ELU (Klambauer et al. 2017)."""

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.selu(x, symbol=symbol)


class Softplus(Activation):
  """log(1 + exp(x))."""

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.softplus(x, symbol=symbol)


class Sigmoid(Activation):
  """1/(1 + exp(-x))."""

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.sigmoid(x, symbol=symbol)


class Tanh(Activation):
  """The hyperbolic tangent."""

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.tanh(x, symbol=symbol)


class GELU(Activation):
  """x·Φ(x), with Φ the normal distribution."""

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.gelu(x, symbol=symbol)


class MaxPool2D(Activation):
  """The largest value of each window of [H, W, C].

  Attributes:
    window: height and width.
    stride: of both directions; None is `window`.
    padding: rows and columns on each side that never are the largest.
  """

  window: int
  stride: int | None = None
  padding: int = 0

  def transform(self, x: Value, symbol: str) -> Value:
    return transformers.max_pool(
        x, self.window, stride=self.stride, padding=self.padding, symbol=symbol
    )
