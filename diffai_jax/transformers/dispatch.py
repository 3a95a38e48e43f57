"""What all transformers have in common: their names, their guards, their parts."""

import contextlib
import functools
import inspect
from typing import Any, Callable

import jax
import numpy as np

from diffai_jax.domains.identity import fresh_symbol, renewed_symbol
from diffai_jax.domains.product import Product, Value, parts, rebuild

# Every transformer by its name: what graphs are made of, and saved as.
TRANSFORMERS: dict[str, Callable] = {}

# What the parameters of transformers are, by their names: values that flow through
# a network; arrays; names of new noise symbols. All others are static options.
VALUES = frozenset(("x", "y", "values"))
ARRAYS = frozenset(("kernel", "bias", "factor", "shift", "low", "high", "key"))
SYMBOL = "symbol"


class Deferred:
  """Base of values that take note of the transformers that they meet."""

  def take(
      self,
      name: str,
      values: tuple,
      arrays: dict[str, Any],
      options: dict[str, Any],
  ) -> "Deferred":
    """The result of a transformer, which is not computed.

    Args:
      name: a key of TRANSFORMERS.
      values: what flows into it, in the order of its parameters.
      arrays: its arrays and numbers by parameter; None is left out.
      options: its static options by parameter, without those at their default.
    """
    raise NotImplementedError

  def named(self, name: str):
    """A context in which it notes calls under that name."""
    raise NotImplementedError

  def adopted(self) -> "Deferred":
    """What `sharing.adopt_symbols` makes of it: itself, if it has no symbols."""
    return self


def named(values: tuple, name: str):
  """A context in which values that note their calls do so under that name."""
  for value in values:
    for part in parts(value):
      if isinstance(part, Deferred):
        return part.named(name)
  return contextlib.nullcontext()


def transformer(function: Callable) -> Callable:
  """Makes a function a transformer: it has a name, and Deferred values take it.

  To be put above `functools.singledispatch`, whose `register` stays.
  """
  name = function.__name__
  signature = inspect.signature(function)

  @functools.wraps(function)
  def call(*args, **kwargs):
    deferred = _deferred(args)
    if deferred is None:
      if len(args) and _is_mixed(args[0]):
        return _apart(call, *args, **kwargs)
      return function(*args, **kwargs)
    return deferred.take(name, *_sorted(signature.bind(*args, **kwargs)))

  TRANSFORMERS[name] = call
  return call


def apply(
    name: str,
    values: tuple,
    arrays: dict[str, Any],
    options: dict[str, Any],
    label: str = "",
) -> Any:
  """Calls the transformer of that name: the inverse of `Deferred.take`.

  Args:
    name, values, arrays, options: as `Deferred.take` gets them.
    label: what names of new noise symbols begin with.
  """
  function = TRANSFORMERS[name]
  parameters = inspect.signature(function).parameters
  own = {SYMBOL: fresh_symbol(label or name)} if SYMBOL in parameters else {}
  if "values" in parameters:
    values = (values,)
  return function(*values, **arrays, **options, **own)


def _deferred(args: tuple) -> Deferred | None:
  """The first Deferred among a transformer's values."""
  for value in args[:2]:
    if isinstance(value, Deferred):
      return value
    if isinstance(value, (list, tuple)):
      for part in value:
        if isinstance(part, Deferred):
          return part
  return None


def _is_mixed(value) -> bool:
  """Whether some parts of a Product, at any depth, are Deferred."""
  return isinstance(value, Product) and any(
      isinstance(part, Deferred) for part in parts(value)
  )


def _apart(call: Callable, x: Product, *args, **kwargs) -> Value:
  """A transformer on a Product of which some parts are Deferred.

  These go by themselves; the others stay together, as a Product.
  """
  if any(isinstance(value, Product) for value in args):
    # Two Products meet: whoever joins them takes them part by part.
    return call.__wrapped__(x, *args, **kwargs)
  leaves = parts(x)
  others = tuple(part for part in leaves if not isinstance(part, Deferred))
  rest = iter(parts(call(Product(others), *args, **kwargs)) if others else ())
  return rebuild(x, [
      call(part, *args, **kwargs) if isinstance(part, Deferred) else next(rest)
      for part in leaves
  ])


def _sorted(bound: inspect.BoundArguments) -> tuple[tuple, dict, dict]:
  """A call's values, arrays and options."""
  values, arrays, options = [], {}, {}
  for name, given in bound.arguments.items():
    if name in VALUES:
      values.extend(given if name == "values" else (given,))
    elif name in ARRAYS:
      if given is not None:
        arrays[name] = given
    elif name != SYMBOL:
      options[name] = given
  return tuple(values), arrays, options


def require_array(x, name: str) -> None:
  """Raises TypeError unless x is an array, traced or not.

  `functools.singledispatch` sends everything it does not know to the default,
  so a forgotten registration must not pass for a concrete run.
  """
  if not isinstance(x, (jax.Array, np.ndarray)):
    raise TypeError(
        f"{name} has no rule for {type(x).__name__}; it takes an array, a"
        f" HybridZonotope or a Product"
    )


def check_axis(axis: int, rank: int) -> int:
  """An axis of one example as a number from 0 to rank - 1.

  Raises:
    ValueError: if an example has no such axis.
  """
  if not -rank <= axis < rank:
    raise ValueError(f"axis {axis} is none of the {rank} axes of an example")
  return axis % rank


def register_parts(transformer: Callable) -> None:
  """Makes a singledispatch transformer act on each part of a Product.

  Noise symbols that it makes are another family in each part.
  """

  @transformer.register(Product)
  @functools.wraps(transformer)
  def on_product(x: Product, *args, **kwargs) -> Product:
    results = []
    for number, part in enumerate(x.parts):
      own = dict(kwargs)
      if "symbol" in own:
        own["symbol"] = part_symbol(own["symbol"], number)
      results.append(transformer(part, *args, **own))
    return Product(tuple(results))


def part_symbol(symbol: str | None, number: int) -> str | None:
  """The name of new symbols in that part of a Product: each has its own."""
  if symbol is None or number == 0:
    return symbol
  return renewed_symbol(symbol)
