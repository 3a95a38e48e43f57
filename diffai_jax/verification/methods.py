"""Methods of certification as text: "HBox", "AlphaCROWN(20)", "CROWN(HBox)"."""

import ast
import dataclasses

from diffai_jax.objectives import ObjectiveError
from diffai_jax.objectives.syntax import syntax_tree
from diffai_jax.text.lists import several
from diffai_jax.text.suggest import unknown_name
from diffai_jax.types import UsageError, shown
from diffai_jax.verification.branching_method import BranchAndBound
from diffai_jax.verification.domain_methods import (
    DOMAINS,
    Box,
    Domain,
    HBox,
    HDeepZ,
    HSmooth,
    HSwitch,
    Method,
    ZBox,
    ZDeepZ,
    ZSmooth,
    ZSwitch,
)
from diffai_jax.verification.linear_methods import (
    CROWN,
    CROWN_IBP,
    LINEAR,
    AlphaCROWN,
)

__all__ = [
    "CROWN", "CROWN_IBP", "METHODS", "AlphaCROWN", "Box", "BranchAndBound",
    "Domain", "HBox", "HDeepZ", "HSmooth", "HSwitch", "Method", "ZBox",
    "ZDeepZ", "ZSmooth", "ZSwitch", "parse", "parse_all",
]

METHODS: dict[str, type[Method]] = {
    method.__name__: method for method in (*DOMAINS, *LINEAR, BranchAndBound)
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
  return _method(tree, given)


def _method(tree: ast.expr, text: str) -> Method:
  """The method of a syntax tree: NAME, NAME(ARGUMENT, ...) or NAME(KEY=...)."""
  arguments, keywords, name = [], [], tree
  if isinstance(tree, ast.Call):
    arguments, keywords, name = tree.args, tree.keywords, tree.func
  if not isinstance(name, ast.Name):
    raise unknown_name("certification method", text, METHODS)
  if name.id not in METHODS:
    raise unknown_name("certification method", name.id, METHODS)
  fields = dataclasses.fields(METHODS[name.id])
  given = _by_name(fields, arguments, keywords)
  if given is None:
    needed = sum(field.default is dataclasses.MISSING for field in fields)
    takes = f"{needed} to {len(fields)}" if needed < len(fields) else needed
    such = f", such as {name.id}({', '.join(map(_example, fields))})"
    raise UsageError(
        f"certification method {shown(text)}: {name.id} takes {takes or 'no'}"
        f" arguments{such if fields else ''}"
    )
  method = METHODS[name.id](**{k: _argument(v, text) for k, v in given.items()})
  try:
    method.check()
  except ValueError as error:
    raise UsageError(
        f"certification method {shown(text)}: {error}"
    ) from None
  return method


def _by_name(fields, arguments, keywords) -> dict[str, ast.expr] | None:
  """Arguments by the names of these fields; None if they do not fit them."""
  names = [field.name for field in fields]
  pairs = [*zip(names, arguments), *((k.arg, k.value) for k in keywords)]
  given = dict(pairs)
  needed = {f.name for f in fields if f.default is dataclasses.MISSING}
  fits = (
      len(given) == len(arguments) + len(keywords)
      and needed <= set(given) <= set(names)
  )
  return given if fits else None


def _example(field: dataclasses.Field) -> str:
  example = "Box" if field.type is Method else "20"
  is_needed = field.default is dataclasses.MISSING
  return example if is_needed else f"{field.name}={example}"


def _argument(node: ast.expr, text: str) -> int | float | Method:
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return node.value
  if isinstance(node, (ast.Name, ast.Call)):
    return _method(node, text)
  raise UsageError(
      f"certification method {shown(text)}: its arguments are numbers and methods"
  )


def parse_all(given) -> tuple[Method, ...]:
  """Methods, each once, from a sequence of texts and methods.

  Raises:
    UsageError: if it is one text, no sequence, or one of them is no method.
  """
  each = several(given, Method, "methods", "('Box', 'HBox')")
  return tuple(dict.fromkeys(map(parse, each)))
