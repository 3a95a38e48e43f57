"""Affine calls walked backwards: coefficients times the transposed matrix.

For y = A·x + b and coefficients Λ on y, ⟨Λ, y⟩ = ⟨AᵀΛ, x⟩ + ⟨Λ, b⟩. The transpose
is JAX's of the call itself, so no map is written twice.

Rounding. Two things are off: AᵀΛ as it is computed, by at most κ'·|A|ᵀ|Λ|, and the
network's own y, by at most κ·(|A||x| + |b|), with κ of the sums of A's rows and κ'
of those of its columns (`domains.rounding`). Since |x| ≤ X = max(|l|, |u|) in the
region, both move the bound by at most

  (κ + κ')·⟨|Λ|, |A|·X + |b|⟩,

of which the second factor is one forward product a call, shared by all rows Λ: the
call itself with the magnitudes of its arrays, widened by its own rounding, and NaN
where a sum may overflow. Products that are 0 round nothing in any order, and no sum
with them does: κ of a dense call counts the inputs with X > 0 alone, which ReLUs
that are off leave few of.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.backward.pulled import Pulled, summed
from diffai_jax.backward.windows import Frame, Windows
from diffai_jax.domains import rounding
from diffai_jax.graph import Call
from diffai_jax.kernels import precision
from diffai_jax.kernels.adjoint import adjoint_in_loops
from diffai_jax.kernels.geometry import pair, reach, sides
from diffai_jax.kernels.images import stride_or
from diffai_jax.kernels.platforms import computed_once
from diffai_jax.types import Array

# Calls that move numbers, and the transposes of which round nothing.
MOVES = frozenset(("reshape", "transpose", "slice_axes", "pad", "concat"))
AFFINE = MOVES | frozenset((
    "dense", "conv", "conv_transpose", "scale_shift", "average_pool",
    "sum_axes", "gather", "broadcast", "add", "subtract", "constant",
))
# Above what the few operations round that compute an allowance.
_MORE = 1 + 2.0**-6
# Abstract layers, which change no concrete run.
IDENTITIES = frozenset((
    "correlate_all", "correlate_fixed", "correlate_max", "correlate_random",
    "correlate_max_pool", "decorrelate_all", "decorrelate_min",
    "decorrelate_random", "to_zonotope", "to_hybrid",
))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AffineStep:
  """An affine call made ready to be walked back.

  Attributes:
    call: which one.
    bias: b, [1, ...out].
    slack: (κ + κ')·(|A|·X + |b|), [B, ...out]; None if nothing rounds.
    size: the sum of X over all inputs, [B]; None as `slack`.
    shapes: of one example of each input (static).
    dtype: the type whose errors are allowed for (static).
    careful: whether rounding is allowed for (static).
  """

  call: Call
  bias: Array
  slack: Array | None
  size: Array | None
  shapes: tuple[tuple[int, ...], ...] = dataclasses.field(
      metadata={"static": True}
  )
  dtype: str = dataclasses.field(metadata={"static": True})
  careful: bool = dataclasses.field(metadata={"static": True})

  def at(self, examples: Array) -> "AffineStep":
    """The step of some examples: [R] numbers of them, each any number of times."""
    if self.slack is None:
      return self
    return dataclasses.replace(
        self, slack=self.slack[examples], size=self.size[examples]
    )

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    """What coefficients on the result are on the inputs.

    Args:
      coefficients: Λ, [B, S, ...out].
      chosen: nothing is to choose.
    """
    lead = coefficients.shape[:2]
    rows = coefficients.reshape((-1,) + coefficients.shape[2:])
    inputs = tuple(
        found.reshape(lead + shape)
        for found, shape in zip(self._transposed(rows), self.shapes)
    )
    products = coefficients * self.bias[:, None]
    if not self.careful:
      return Pulled(inputs, summed(products))
    if self.slack is None:  # Numbers are moved, and nothing else.
      return Pulled(inputs, summed(products, jnp.zeros_like(products)))
    terms_in, terms_out = _terms(self.call, self.shapes)
    tiny = 2 * rounding.absolute(self.dtype, terms_in)
    lost = jnp.abs(coefficients) * (_MORE * self.slack[:, None] + tiny)
    underflow = 2 * rounding.absolute(self.dtype, terms_out)
    return Pulled(
        inputs,
        summed(products, lost) + lax.stop_gradient(
            underflow * self.size[:, None]
        ),
    )

  def _transposed(self, rows: Array) -> tuple[Array, ...]:
    """Aᵀ times rows [N, ...out], for each input."""
    if self.call.transformer == "conv":
      kernel, options = self.call.arrays["kernel"], dict(self.call.options)
      geometry = tuple(
          options.get(name, default) for name, default in (
              ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)
          )
      )
      return adjoint_in_loops(rows, kernel, self.shapes[0], geometry),
    zeros = [jnp.zeros((len(rows),) + s, rows.dtype) for s in self.shapes]
    _, transposed = jax.vjp(self.call, *zeros)
    return transposed(rows)

  def frame(self, after: Frame) -> Frame | None:
    """Of the inputs' windows, for these of the result; None if they are none."""
    name, options = self.call.transformer, dict(self.call.options)
    image = self.shapes[0] if self.shapes else ()
    if name in ("add", "subtract"):
      alike = all(shape == self.call.shape for shape in self.shapes)
      return after if alike else None
    if name == "scale_shift":
      flat = all(
          jnp.ndim(a) < 2 or jnp.shape(a)[-3:-1] in ((1, 1), (1,))
          for a in self.call.arrays.values()
      )
      return after if flat else None
    if name == "conv":
      window = reach(
          self.call.arrays["kernel"].shape[:2], options.get("dilation", 1)
      )
      stride = pair(options.get("stride", 1))
    elif name == "average_pool":
      window = pair(options["window"])
      stride = pair(stride_or(options.get("stride"), options["window"]))
    else:
      return None
    before = tuple(low for low, _ in sides(options.get("padding", 0)))
    return after.before(image, window, stride, before)

  def under(self, windows: Windows, examples: Array) -> "AffineStep":
    """The step of windows of the result alone, whose `frame` is not None.

    Args:
      windows: of the result.
      examples: which example each of them is of, [R].
    """
    shapes = tuple(
        self.frame(windows.frame).size + shape[2:] for shape in self.shapes
    )
    options = dict(self.call.options)
    if "padding" in options:
      options["padding"] = 0  # Windows have what lies outside, too.
    call = dataclasses.replace(
        self.call, options=tuple(sorted(options.items())),
        shape=windows.frame.size + self.call.shape[2:],
    )
    slack, size = self.slack, self.size
    if slack is not None:
      slack, size = windows.under(slack, examples), size[examples]
    return AffineStep(
        call, windows.under(self.bias, examples), slack, size, shapes,
        self.dtype, self.careful,
    )


def affine_step(
    call: Call,
    shapes: tuple[tuple[int, ...], ...],
    bounds: tuple[tuple[Array, Array], ...],
    careful: bool,
) -> AffineStep:
  """Prepares an affine call.

  Args:
    call: one of AFFINE.
    shapes: of one example of each input.
    bounds: of each input, (l, u), [B, ...].
    careful: whether rounding is allowed for.
  """
  dtype = precision.widest(*(low for low, _ in bounds))
  zeros = [jnp.zeros((1,) + shape, dtype) for shape in shapes]
  bias = call(*zeros)
  if not careful or call.transformer in MOVES:
    return AffineStep(call, bias, None, None, shapes, str(dtype), careful)
  sizes = [jnp.maximum(jnp.abs(low), jnp.abs(high)) for low, high in bounds]
  narrowest = precision.narrowest(*jax.tree.leaves((call, sizes))) or dtype
  narrowest = jnp.dtype(narrowest).name
  return AffineStep(
      call, bias, computed_once(_slack(call, sizes, shapes, narrowest)),
      sum(size.sum(axis=tuple(range(1, size.ndim))) for size in sizes),
      shapes, narrowest, careful,
  )


def _slack(call: Call, sizes: Sequence[Array], shapes, dtype: str) -> Array:
  """What runs and AᵀΛ may be off by, for each output and a Λ of 1."""
  terms_in, terms_out = _terms(call, shapes)
  share = rounding.relative(dtype, terms_in)
  if call.transformer == "dense":
    counts = jnp.sum(sizes[0] > 0, axis=-1, keepdims=True)
    share = rounding.relative_each(dtype, counts.astype(sizes[0].dtype))
  share = share + rounding.relative(dtype, terms_out)
  return lax.stop_gradient(share * _reach(call, sizes, shapes, dtype))


def _reach(call: Call, sizes: Sequence[Array], shapes, dtype: str) -> Array:
  """|A|·X + |b| for magnitudes X, or more; NaN where a sum may overflow."""
  magnitude = lambda a: (
      jnp.abs(a) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a
  )
  name = "add" if call.transformer == "subtract" else call.transformer
  total = dataclasses.replace(
      call, transformer=name, arrays=jax.tree.map(magnitude, call.arrays)
  )(*sizes)
  terms = _terms(call, shapes)[0] + 1
  share = 2 * rounding.relative(dtype, terms)
  total = total * (1 + share) + rounding.absolute(dtype, terms)
  total = jnp.where(total <= rounding.largest(dtype), total, jnp.nan)
  return lax.stop_gradient(total)


def _terms(call: Call, shapes) -> tuple[int, int]:
  """How many products an output sums, and how many an input takes part in."""
  options, name = dict(call.options), call.transformer
  before, after = (math.prod(s) for s in (shapes[0], call.shape))
  if name == "dense":
    return call.arrays["kernel"].shape
  if name == "conv":
    height, width, channels, filters = call.arrays["kernel"].shape
    met = math.prod(map(
        _met, (height, width), pair(options.get("stride", 1)),
        pair(options.get("dilation", 1)),
    ))
    return height * width * channels, met * filters // options.get("groups", 1)
  if name == "conv_transpose":
    height, width, channels, filters = call.arrays["kernel"].shape
    return height * width * channels, height * width * filters
  if name == "scale_shift":
    return options.get("terms", 1), 1
  if name in ("add", "subtract"):
    return len(shapes), 1
  if name == "average_pool":
    size = math.prod(pair(options["window"]))
    return size, size
  if name == "sum_axes":
    return max(1, before // max(1, after)), 1
  return 1, max(1, after)


def _met(taps: int, stride: int, dilation: int) -> int:
  """How many outputs of a convolution an input takes part in, along an axis.

  It is where tap·dilation has the input's own remainder by the stride.
  """
  period = stride // math.gcd(stride, dilation)
  return -(-taps // period)
