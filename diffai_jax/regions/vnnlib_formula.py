"""VNN-LIB's meaning: assertions as cases of a box and linear constraints."""

from collections.abc import Iterable
import dataclasses
from fractions import Fraction
import itertools
import math
import re

from diffai_jax.regions.vnnlib_syntax import Group, Place, Word, groups, number
from diffai_jax.types import UsageError, shown

_MOST_CASES = 100_000
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "exit")


@dataclasses.dataclass(frozen=True)
class Row:
  """A constraint on outputs: Σ a·Y + constant ≤ 0, with (index, a ≠ 0) terms."""

  terms: tuple[tuple[int, Fraction], ...]
  constant: Fraction


@dataclasses.dataclass(frozen=True)
class Case:
  """Some inputs and what is asserted of their outputs, all at once.

  Attributes:
    box: (lower, upper) of each input; equal ones are the same object.
    rows: constraints that all hold.
  """

  box: tuple[tuple[Fraction, Fraction], ...]
  rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Property:
  """The assertions of a file: a counterexample is one of some case.

  Attributes:
    inputs, outputs: how many X_i and Y_j there are.
    cases: those whose box has points.
  """

  inputs: int
  outputs: int
  cases: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class _Limit:
  """X_index ≤ value, or ≥."""

  index: int
  value: Fraction
  above: bool


# What is true together; assertions are disjunctions of such.
_Conjunction = tuple[_Limit | Row, ...]
# (lower, upper) of each input, None where nothing is asserted.
_Box = tuple[tuple[Fraction | None, Fraction | None], ...]
# A sum: coefficients by variable, ("X", 3) or ("Y", 0); () is the constant's.
_Sum = dict[tuple, Fraction]


def parsed(text: str, file: str) -> Property:
  """The property that a text states.

  Args:
    text: of VNN-LIB 1.0.
    file: its name, for messages.

  Raises:
    UsageError: in one line with its place, if it is none.
  """
  declared: dict[tuple[str, int], Place] = {}
  shared: list[_Limit | Row] = []
  choices: list[list[_Conjunction]] = []
  for group in groups(text, file):
    if group.head in ("declare-const", "declare-fun"):
      _declare(group, declared)
    elif group.head == "assert" and len(group.parts) == 2:
      cases = _cases(group.parts[1], declared)
      if len(cases) == 1:
        shared.extend(cases[0])
      else:
        choices.append(cases)
    elif group.head not in _IGNORED:
      raise group.place.error(
          f"{shown(str(group))} is neither (declare-const NAME Real) nor"
          f" (assert FORMULA)"
      )
  counts = [
      _count(letter, kind, declared, file)
      for letter, kind in (("X", "input"), ("Y", "output"))
  ]
  if math.prod(map(len, choices)) > _MOST_CASES:
    raise UsageError(
        f"{file}: its alternatives combine to more than {_MOST_CASES} cases; split"
        f" the property into several files"
    )
  start = _narrowed(((None, None),) * counts[0], shared)
  seen = {start: start}  # Boxes are compared once, and found again as they are.
  rows = tuple(fact for fact in shared if isinstance(fact, Row))
  cases = []
  for chosen in itertools.product(*choices):
    facts = tuple(itertools.chain(*chosen))
    box = _narrowed(start, facts)
    if box is not start:
      box = seen.setdefault(box, box)
    for index, (low, high) in enumerate(box):
      if low is None or high is None:
        side = "lower" if low is None else "upper"
        raise UsageError(
            f"{file}: X_{index} has no {side} bound; assert one, as in"
            f" (assert ({'>=' if low is None else '<='} X_{index} 0.5))"
        )
    if all(low <= high for low, high in box):
      own = tuple(fact for fact in facts if isinstance(fact, Row))
      cases.append(Case(box, rows + own))
  return Property(*counts, tuple(cases))


def _declare(group: Group, declared: dict) -> None:
  words = [p.text for p in group.parts if isinstance(p, Word)]
  match = _VARIABLE.fullmatch(words[1]) if len(words) == 3 else None
  if not match or words[2] != "Real":
    raise group.place.error(
        f"{shown(str(group))} declares no variable; expected"
        f" (declare-const X_0 Real), inputs X_0, X_1, ... and outputs Y_0, ..."
    )
  variable = match[1], int(match[2])
  if variable in declared:
    raise group.place.error(
        f"{words[1]} is declared twice; first in line {declared[variable].line}"
    )
  declared[variable] = group.place


def _count(letter: str, kind: str, declared: dict, file: str) -> int:
  """How many variables of a kind there are, numbered without a gap."""
  found = {index for name, index in declared if name == letter}
  for index in range(len(found) or 1):
    if index not in found:
      raise UsageError(
          f"{file}: {kind} {letter}_{index} is not declared; add"
          f" (declare-const {letter}_{index} Real)"
      )
  return len(found)


def _narrowed(box: _Box, facts: Iterable[_Limit | Row]) -> _Box:
  """A box without the points that limits exclude; itself if there are none."""
  limits = [fact for fact in facts if isinstance(fact, _Limit)]
  if not limits:
    return box
  found = list(box)
  for limit in limits:
    low, high = found[limit.index]
    if limit.above:
      low = limit.value if low is None else max(low, limit.value)
    else:
      high = limit.value if high is None else min(high, limit.value)
    found[limit.index] = low, high
  return tuple(found)


def _cases(formula: Word | Group, declared: dict) -> list[_Conjunction]:
  """A formula as a disjunction of conjunctions: none is false, () is true."""
  head = formula.head if isinstance(formula, Group) else ""
  if head == "or":
    parts = [_cases(part, declared) for part in formula.parts[1:]]
    found = list(itertools.chain(*parts))
    _bound(len(found), formula)
    return found
  if head == "and":
    parts = [_cases(part, declared) for part in formula.parts[1:]]
    _bound(math.prod(map(len, parts)), formula)
    return [
        tuple(itertools.chain(*chosen)) for chosen in itertools.product(*parts)
    ]
  if head in ("<=", ">="):
    return _comparison(formula, declared)
  raise formula.place.error(
      f"{shown(str(formula))} is no formula; expected (<= A B), (>= A B),"
      f" (and ...) or (or ...)"
  )


def _bound(count: int, formula: Group) -> None:
  if count > _MOST_CASES:
    raise formula.place.error(
        f"alternatives combine to more than {_MOST_CASES} cases; split the property"
        f" into several files"
    )


def _comparison(formula: Group, declared: dict) -> list[_Conjunction]:
  if len(formula.parts) != 3:
    raise formula.place.error(
        f"{shown(str(formula))} compares {len(formula.parts) - 1} terms; expected"
        f" two"
    )
  sides = [_sum(part, declared) for part in formula.parts[1:]]
  if formula.head == ">=":
    sides.reverse()
  total = _added(sides[0], _scaled(sides[1], Fraction(-1)))  # total ≤ 0.
  constant = total.pop((), Fraction(0))
  total = {name: value for name, value in total.items() if value}
  letters = {name[0] for name in total}
  if not total:
    return [()] if constant <= 0 else []
  if letters == {"Y"}:
    terms = tuple(sorted((name[1], value) for name, value in total.items()))
    return [(Row(terms, constant),)]
  if len(total) > 1:
    mixed = len(letters) > 1
    raise formula.place.error(
        f"{shown(str(formula))} compares"
        f" {'inputs with outputs' if mixed else 'several inputs'}; supported are"
        f" bounds of single inputs, and linear constraints on outputs"
    )
  ((_, index), value), = total.items()
  return [(_Limit(index, -constant / value, above=value < 0),)]


def _sum(term: Word | Group, declared: dict) -> _Sum:
  """A term as a sum of multiples of variables."""
  if isinstance(term, Word):
    value = number(term)
    if value is not None:
      return {(): value}
    match = _VARIABLE.fullmatch(term.text)
    variable = (match[1], int(match[2])) if match else None
    if variable not in declared:
      raise term.place.error(
          f"{shown(term.text)} is neither a number nor declared before"
      )
    return {variable: Fraction(1)}
  parts = [_sum(part, declared) for part in term.parts[1:]]
  if parts and term.head == "+":
    return _added(*parts)
  if parts and term.head == "-":
    if len(parts) == 1:
      return _scaled(parts[0], Fraction(-1))
    return _added(parts[0], _scaled(_added(*parts[1:]), Fraction(-1)))
  if parts and term.head == "*":
    product: _Sum = {(): Fraction(1)}
    for part in parts:
      if set(part) == {()}:
        product = _scaled(product, part[()])
      elif set(product) == {()}:
        product = _scaled(part, product[()])
      else:
        raise term.place.error(
            f"{shown(str(term))} multiplies variables; constraints are linear"
        )
    return product
  raise term.place.error(
      f"{shown(str(term))} is no term; expected a number, a variable, or a sum,"
      f" difference or multiple: (+ A B), (- A B), (* 2.0 A)"
  )


def _added(*sums: _Sum) -> _Sum:
  total: _Sum = {}
  for part in sums:
    for name, value in part.items():
      total[name] = total.get(name, Fraction(0)) + value
  return total


def _scaled(total: _Sum, factor: Fraction) -> _Sum:
  return {name: value * factor for name, value in total.items()}
