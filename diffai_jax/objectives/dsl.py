"""Objectives as text.

  goal     = name [ "(" argument { "," argument } ")" ]
  argument = value | goal | layer | "(" goal "," value ")"
           | parameter "=" argument
  value    = number | schedule | value operator value | "(" value ")"
           | "-" value
  schedule = name "(" argument { "," argument } ")"
  layer    = name { "/" name }
  operator = "+" | "-" | "*" | "/"

Names of goals and schedules are the keys of CONSTRUCTORS, whose dataclasses say
which arguments they take; a schedule's name may be one of optax's, and a goal's
that of a scheme. Arguments stand in their order or have their name before them.

The text is parsed with `ast` (`objectives.syntax`) and looked up in fixed tables;
nothing in it is ever evaluated. `str(goal)` is text that parses to an equal goal.
"""

import ast
from collections.abc import Iterable, Mapping
import dataclasses

from diffai_jax import schedules
from diffai_jax.goals.attacked import FGSM, IFGSM, MIFGSM, PGD
from diffai_jax.goals.base import Goal
from diffai_jax.goals.combinators import (
    AdvDom,
    BiSample,
    NormalSub,
    Sample,
    Shrunk,
    SmallBox,
    Sub,
)
from diffai_jax.goals.crown import CROWN_IBP
from diffai_jax.goals.mixtures import Coin, Mix, MixLogs, MixMargins, Weighted
from diffai_jax.goals.points import Attacked, Normal, Original, Point, Uniform
from diffai_jax.goals.regions import REGIONS
from diffai_jax.goals.taps import TAPS
from diffai_jax.objectives.syntax import (
    MAX_DEPTH,
    MAX_LENGTH,
    ObjectiveError,
    is_within_limits,
    syntax_tree,
)
from diffai_jax.schedules import arithmetic
from diffai_jax.schedules.optax_schedules import OPTAX, OptaxSchedule
from diffai_jax.text.suggest import nearest
from diffai_jax.text.terms import Number, Place, Term, number_text
from diffai_jax.types import shortened

MAX_NUMBER = 10**30  # What float32 can hold, and more than anything means.
CONSTRUCTORS: dict[str, type[Term]] = {
    term.__name__: term
    for term in (
        Point, Normal, Uniform, FGSM, IFGSM, PGD, MIFGSM,
        *map(type, REGIONS.values()), CROWN_IBP, TAPS,
        Sub, NormalSub, Sample, SmallBox, BiSample, AdvDom, Original,
        Attacked, Shrunk,
        Mix, MixMargins, MixLogs, Weighted, Coin,
        schedules.Lin, schedules.Until, schedules.Smooth,
        schedules.Complement, schedules.Scale, schedules.Clip,
        schedules.Staircase,
    )
}
_OPERATORS = {
    ast.Add: arithmetic.Plus,
    ast.Sub: arithmetic.Minus,
    ast.Mult: arithmetic.Times,
    ast.Div: arithmetic.Over,
}
_PAIRS = tuple[tuple[Goal, schedules.NumberOrSchedule], ...]
_KINDS = {
    Goal: "a goal",
    schedules.NumberOrSchedule: "a number or a schedule",
    Number: "a number",
    Place: "a whole number or a layer's name, such as layers_2/layers_0",
}


def parse(text: str, schemes: Mapping = {}) -> Goal:
  """The goal that a text stands for.

  Args:
    text: as in this file's grammar.
    schemes: further goals by name, each a `schemes.Scheme`.

  Raises:
    ObjectiveError: if the text is no goal; names the column, and what was
      probably meant.
  """
  goal = _read(text, schemes, Goal)
  misplaced = _misplaced(goal)
  if misplaced:
    raise ObjectiveError(
        f"{shortened(str(misplaced))} only has a meaning within AdvDom or"
        f" BiSample", text, 1
    )
  return goal


def parse_value(text: str | Number) -> schedules.NumberOrSchedule:
  """The number or schedule that a text stands for, such as `1 - Lin(0, 1, 9)`.

  Raises:
    ObjectiveError: if it is neither.
  """
  if isinstance(text, (int, float)) and not isinstance(text, bool):
    return text
  return _read(str(text), {}, schedules.NumberOrSchedule)


def _read(text: str, schemes: Mapping, kind) -> Term | Number:
  example = "Baseline" if kind is Goal else "0.5"
  text, lead, tree = syntax_tree(text, f"{_KINDS[kind]}, such as {example}")
  term = _Reader(text, lead, schemes).read(tree, kind)
  # So that whatever is accepted can be read back as it prints.
  if not is_within_limits(str(term)):
    raise ObjectiveError(
        f"longer than {MAX_LENGTH} characters, or nested deeper than"
        f" {MAX_DEPTH}, when it is written out", text, lead + 1
    )
  return term


def _misplaced(goal: Goal) -> Goal | None:
  """A part that needs shared points and has none around it."""
  if isinstance(goal, (Original, Attacked)):
    return goal
  children = goal.children()
  if isinstance(goal, (AdvDom, BiSample)):
    children = children[:1]
  return next(filter(None, map(_misplaced, children)), None)


def _with_reach(arguments: list, by_name: dict) -> tuple[list, dict]:
  """Sample(δ, gs, gt) as Sample(δ, 1, gs, gt), which never leaves the box."""
  one = ast.Constant(1)
  if len(arguments) < 2:
    return arguments, {"reach": one} | by_name
  return [arguments[0], one, *arguments[1:]], by_name


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Turns the syntax tree of one text into terms."""

  text: str
  lead: int
  schemes: Mapping

  def fail(self, node: ast.AST, message: str) -> ObjectiveError:
    column = self.lead + getattr(node, "col_offset", 0) + 1
    return ObjectiveError(message, self.text, column)

  def read(self, node: ast.expr, kind) -> Term | Number:
    """The term or number at `node`, which must be of `kind`."""
    if kind is Place:
      return self._place(node)
    if isinstance(node, ast.Constant):
      value = self._number(node)
    elif isinstance(node, (ast.BinOp, ast.UnaryOp)) and kind is not Goal:
      value = self._arithmetic(node)
    elif isinstance(node, (ast.Name, ast.Call)):
      value = self._term(node)
    else:
      raise self.fail(node, f"expected {_KINDS[kind]}")
    if isinstance(value, Goal):
      fits = kind is Goal
    elif isinstance(value, schedules.Schedule):
      fits = kind is schedules.NumberOrSchedule
    else:
      fits = kind is not Goal
    if not fits:
      raise self.fail(
          node, f"expected {_KINDS[kind]}, not {shortened(str(value))}"
      )
    return value

  def _place(self, node: ast.expr) -> Place:
    """A whole number; or names with / between them, a layer's path."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
      return self._number(node)
    words = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
      words.append(node.right)
      node = node.left
    words.append(node)
    for word in words:
      if not isinstance(word, ast.Name):
        raise self.fail(word, f"expected {_KINDS[Place]}")
    return "/".join(word.id for word in reversed(words))

  def _number(self, node: ast.Constant) -> Number:
    value = node.value
    if type(value) not in (int, float):
      raise self.fail(node, "expected a number")
    if not -MAX_NUMBER < value < MAX_NUMBER:
      raise self.fail(node, "this number is too large")
    return value

  def _arithmetic(
      self, node: ast.BinOp | ast.UnaryOp
  ) -> schedules.NumberOrSchedule:
    if isinstance(node, ast.UnaryOp):
      if not isinstance(node.op, (ast.UAdd, ast.USub)):
        raise self.fail(node, "expected a number or a schedule")
      value = self.read(node.operand, schedules.NumberOrSchedule)
      if isinstance(node.op, ast.UAdd):
        return value
      return self._combined(node, arithmetic.Times, -1, value)
    kind = _OPERATORS.get(type(node.op))
    if kind is None:
      raise self.fail(node, "schedules are combined by + - * / only")
    left = self.read(node.left, schedules.NumberOrSchedule)
    right = self.read(node.right, schedules.NumberOrSchedule)
    return self._combined(node, kind, left, right)

  def _combined(self, node, kind, left, right) -> schedules.NumberOrSchedule:
    try:
      value = arithmetic.combine(kind, left, right)
      low, high = schedules.extent(value)
    except (ValueError, OverflowError) as error:
      raise self.fail(node, str(error)) from None
    if not (-MAX_NUMBER < low and high < MAX_NUMBER):
      raise self.fail(node, "its values are too large")
    return value

  def _term(self, node: ast.Name | ast.Call) -> Term:
    name, arguments, named = node, [], []
    if isinstance(node, ast.Call):
      name, arguments, named = node.func, node.args, node.keywords
    if not isinstance(name, ast.Name):
      raise self.fail(name, "expected a name")
    for argument in arguments:
      if isinstance(argument, ast.Starred):
        raise self.fail(argument, "unexpected *")
    by_name = {}
    for keyword in named:
      if keyword.arg is None:
        raise self.fail(keyword, "unexpected **")
      if keyword.arg in by_name:
        raise self.fail(
            keyword, f"{shortened(keyword.arg)} is given twice"
        )
      by_name[keyword.arg] = keyword.value
    if name.id in self.schemes:
      return self._scheme(node, name.id, arguments, by_name)
    if name.id in OPTAX:
      return self._optax(node, name.id, arguments, by_name)
    if name.id not in CONSTRUCTORS:
      raise self._unknown(name, [*CONSTRUCTORS, *self.schemes, *OPTAX])
    return self._build(node, CONSTRUCTORS[name.id], arguments, by_name)

  def _build(self, node, make: type[Term], arguments, by_name) -> Term:
    fields = dataclasses.fields(make)
    if fields and fields[0].type == _PAIRS:
      if by_name:
        raise self.fail(node, f"{make.__name__} takes pairs, none by name")
      values = [tuple(map(self._pair, arguments))]
    else:
      if make is Sample and len(arguments) + len(by_name) == 3:
        arguments, by_name = _with_reach(arguments, by_name)
      places = self._places(
          node, make.__name__,
          [(f.name, f.default is not dataclasses.MISSING) for f in fields],
          arguments, by_name,
      )
      values = [
          self.read(places[f.name], f.type) if f.name in places else f.default
          for f in fields
      ]
    term = make(*values)
    try:
      term.check()
    except ValueError as error:
      raise self.fail(node, str(error)) from None
    return term

  def _places(
      self, node, name: str, parameters: list[tuple[str, bool]], arguments,
      by_name,
  ) -> dict[str, ast.expr]:
    """Which parameter each argument is for; `parameters` says which may lack.
    """
    signature = f"{name}({', '.join(known for known, _ in parameters)})"
    names = [known for known, _ in parameters]
    for given in by_name:
      if given not in names:
        guess = nearest(given, names)
        hint = f"; did you mean {guess}?" if guess else ""
        raise self.fail(
            node, f"{signature} has no argument {shortened(given)}{hint}"
        )
    needed = sum(not optional for _, optional in parameters)
    count = len(arguments) + len(by_name)
    places = dict(zip(names, arguments)) | by_name
    missing = any(
        known not in places for known, optional in parameters if not optional
    )
    if count != len(places) or missing:
      wanted = f"{needed}" if needed == len(names) else (
          f"{needed} to {len(names)}"
      )
      noun = "argument" if wanted == "1" else "arguments"
      raise self.fail(
          node, f"{signature} takes {wanted} {noun}, not {count}"
      )
    return places

  def _pair(self, node: ast.expr) -> tuple[Goal, schedules.NumberOrSchedule]:
    if not isinstance(node, ast.Tuple) or len(node.elts) != 2:
      raise self.fail(node, "expected a pair (goal, weight)")
    goal, weight = node.elts
    return self.read(goal, Goal), self.read(weight, schedules.NumberOrSchedule)

  def _optax(self, node, name: str, arguments, by_name) -> Term:
    numbers = [self.read(argument, Number) for argument in arguments]
    named = {k: self.read(argument, Number) for k, argument in by_name.items()}
    try:
      return OptaxSchedule.build(name, numbers, named)
    except ValueError as error:
      raise self.fail(node, str(error)) from None

  def _scheme(self, node, name: str, arguments, by_name) -> Term:
    scheme = self.schemes[name]
    parameters = [(p, default is not None) for p, default in scheme.parameters]
    places = self._places(node, name, parameters, arguments, by_name)
    numbers = {
        parameter: number_text(
            self.read(places[parameter], Number)
            if parameter in places else default
        )
        for parameter, default in scheme.parameters
    }
    try:
      return parse(scheme.text(numbers))
    except ObjectiveError as error:
      raise self.fail(node, f"{name}: {error.reason}") from None

  def _unknown(self, node: ast.Name, known: Iterable[str]) -> ObjectiveError:
    guess = nearest(node.id, known)
    hint = f"did you mean {guess}?" if guess else f"known: {', '.join(known)}"
    return self.fail(node, f"unknown name {shortened(node.id)}; {hint}")
