"""Methods of certification, which print as text like goals.

A method bounds linear functions of the output over a region around each image,
such as z_k - z_y. What is proved with it
holds for the network in exact arithmetic and as it is computed.
"""

import ast
from collections.abc import Callable
import dataclasses

from diffai_jax.domains import HybridZonotope
from diffai_jax.domains.product import Value
from diffai_jax.goals import REGIONS, Context
from diffai_jax.graph import Graph, correlate_before_last
from diffai_jax.objectives import ObjectiveError
from diffai_jax.objectives.syntax import syntax_tree
from diffai_jax.regions import Linf, Spec, upper_bounds
from diffai_jax.text.suggest import unknown_name
from diffai_jax.text.terms import Term
from diffai_jax.types import Array, UsageError, shown

Network = Graph | Callable[[Value], Value]


class Method(Term):
  """Base: a subclass is a frozen dataclass, static in compiled programs."""

  def bound(
      self, graph: Network, images: Array, region: Linf, spec: Spec
  ) -> Array:
    """Upper bounds of C·z + d over the region, [B, S].

    Args:
      graph: the network, with the abstract layers that certification has; a
        function of values, where it is no graph.
      images: that the region is around, [B, ...].
      region: what inputs may be.
      spec: with the rows C and the offsets d.
    """
    raise NotImplementedError


class Domain(Method):
  """Base of methods that push the region through the network as one element.

  Which, the goal of the same name says (`goals.REGIONS`).
  """

  def element(self, images: Array, region: Linf) -> HybridZonotope:
    """The element that contains the region around each image."""
    return self._goal.abstract(*region.bounds(images), _NO_CONTEXT)

  def bound(
      self, graph: Network, images: Array, region: Linf, spec: Spec
  ) -> Array:
    if isinstance(graph, Graph):
      graph = correlate_before_last(graph)
    return upper_bounds(graph(self.element(images, region)), spec)

  @property
  def _goal(self):
    return REGIONS[type(self).__name__]


# Goals on regions make nothing of theirs.
_NO_CONTEXT = Context(
    forward=lambda value, mode: value, labels=(), epoch=0.0
)


@dataclasses.dataclass(frozen=True)
class Box(Domain):
  """Interval bounds: the fastest method, and the one that proves least."""


@dataclasses.dataclass(frozen=True)
class HBox(Domain):
  """Hybrid zonotope, ReLU rule `box`: symbols stay where the sign is known."""


@dataclasses.dataclass(frozen=True)
class HSwitch(Domain):
  """Hybrid zonotope, ReLU rule `switch`."""


@dataclasses.dataclass(frozen=True)
class HSmooth(Domain):
  """Hybrid zonotope, ReLU rule `smooth`."""


@dataclasses.dataclass(frozen=True)
class HDeepZ(Domain):
  """Hybrid zonotope, ReLU rule `deepz`."""


@dataclasses.dataclass(frozen=True)
class ZBox(Domain):
  """Pure zonotope, ReLU rule `box`: fresh error becomes symbols."""


@dataclasses.dataclass(frozen=True)
class ZSwitch(Domain):
  """Pure zonotope, ReLU rule `switch`."""


@dataclasses.dataclass(frozen=True)
class ZSmooth(Domain):
  """Pure zonotope, ReLU rule `smooth`."""


@dataclasses.dataclass(frozen=True)
class ZDeepZ(Domain):
  """Pure zonotope, ReLU rule `deepz`: the most precise of these."""


METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        Box, HBox, HSwitch, HSmooth, HDeepZ, ZBox, ZSwitch, ZSmooth, ZDeepZ
    )
}


def parse(given: str | Method) -> Method:
  """The method that a text such as "HBox" stands for; a method is itself.

  Raises:
    UsageError: in one line, if it is neither.
  """
  if isinstance(given, Method):
    return given
  if not isinstance(given, str):
    raise unknown_name("certification method", given, METHODS)
  try:
    tree = syntax_tree(given, f"a method: {', '.join(METHODS)}")[2]
  except ObjectiveError as error:
    raise UsageError(
        f"certification method {shown(given)}: {error.reason}"
    ) from None
  arguments, name = [], tree
  if isinstance(tree, ast.Call) and not tree.keywords:
    arguments, name = tree.args, tree.func
  if not isinstance(name, ast.Name):
    raise unknown_name("certification method", given, METHODS)
  if name.id not in METHODS:
    raise unknown_name("certification method", name.id, METHODS)
  method = METHODS[name.id]
  takes = len(dataclasses.fields(method))
  if len(arguments) > takes:
    raise UsageError(
        f"certification method {shown(given)}: {name.id} takes"
        f" {takes or 'no'} arguments"
    )
  return method(*(_number(argument, given) for argument in arguments))


def _number(node: ast.expr, text: str) -> int | float:
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return node.value
  raise UsageError(
      f"certification method {shown(text)}: its arguments are numbers"
  )


def parse_all(given) -> tuple[Method, ...]:
  """Methods, each once, from a sequence of texts and methods.

  Raises:
    UsageError: if it is one text, no sequence, or one of them is no method.
  """
  if isinstance(given, (str, Method)):
    raise UsageError(
        f"methods is {shown(str(given))} alone; expected a sequence of methods,"
        f" such as ({shown(str(given))},)"
    )
  try:
    each = tuple(given)
  except TypeError:
    raise UsageError(
        f"methods is {shown(given)}; expected a sequence of methods, such as"
        f" ('Box', 'HBox')"
    ) from None
  return tuple(dict.fromkeys(map(parse, each)))
