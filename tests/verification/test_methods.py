"""Methods as text: all of them, and every mistake in one line."""

import dataclasses

import pytest

from diffai_jax.goals import REGIONS
from diffai_jax.types import UsageError
from diffai_jax.verification import methods


@pytest.mark.parametrize("name", REGIONS)
def test_every_region_is_a_method_that_prints_as_its_text(name):
  method = methods.parse(name)
  assert str(method) == name and type(method).__name__ == name
  assert methods.parse(f" {name}( ) ") == method == methods.parse(method)
  assert hash(method) == hash(methods.parse(name))


def test_there_are_no_others_but_linear_bounds_and_a_search():
  assert set(methods.METHODS) == {
      *REGIONS, "CROWN_IBP", "CROWN", "AlphaCROWN", "BranchAndBound"
  }


def test_arguments_are_numbers(monkeypatch):
  @dataclasses.dataclass(frozen=True)
  class Steps(methods.Method):
    count: int = 20

  monkeypatch.setitem(methods.METHODS, "Steps", Steps)
  assert methods.parse("Steps(3)") == Steps(3)
  assert str(methods.parse("Steps(3)")) == "Steps(3)"
  assert methods.parse("Steps(20)") == methods.parse("Steps") == Steps()
  with pytest.raises(UsageError, match="arguments are numbers and methods"):
    methods.parse("Steps(-3)")
  with pytest.raises(UsageError, match="takes 0 to 1 arguments, such as"):
    methods.parse("Steps(1, 2)")


@pytest.mark.parametrize("text, printed", [
    ("CROWN", None), ("CROWN(HBox)", None), ("CROWN(Box)", "CROWN"),
    ("AlphaCROWN(20)", None), ("AlphaCROWN(5, ZDeepZ)", None),
    ("AlphaCROWN(5, inner_steps=3)", None),
    ("AlphaCROWN(5, Box, 3)", "AlphaCROWN(5, inner_steps=3)"),
    ("AlphaCROWN(first=HBox, steps=5)", "AlphaCROWN(5, HBox)"),
    ("AlphaCROWN(5, Box, 0)", "AlphaCROWN(5)"),
    ("CROWN_IBP", None), ("BranchAndBound(30)", None),
    ("BranchAndBound(0.5, 600)", None),
    ("BranchAndBound(30.0, 0)", "BranchAndBound(30)"),
])
def test_methods_with_arguments_print_as_their_text(text, printed):
  method = methods.parse(text)
  assert str(method) == (printed or text)
  assert methods.parse(str(method)) == method


@pytest.mark.parametrize("given, message", [
    ("HBoxx", "unknown certification method 'HBoxx'; did you mean 'HBox'?"),
    ("hbox", "did you mean 'HBox'?"),
    ("HBox(3)", "'HBox.3.': HBox takes no arguments"),
    ("AlphaCROWN", r"takes 1 to 3 arguments, such as AlphaCROWN\(20, first=Box, inn"),
    ("BranchAndBound", r"such as BranchAndBound\(20, in_all=20\)"),
    ("BranchAndBound(Box)", "seconds is Box.*expected a number of seconds"),
    ("AlphaCROWN(0)", "steps is 0; expected a whole number from 1"),
    ("AlphaCROWN(1, Box, 2.5)", "inner_steps is 2.5; expected a whole number"),
    ("AlphaCROWN(1, 2)", "first is '2'; expected one that pushes an element"),
    ("AlphaCROWN(1.5)", "steps is 1.5; expected a whole number"),
    ("CROWN(CROWN)", "first is 'CROWN'; expected one that pushes an element"),
    ("CROWN(3)", "first is '3'"),
    ("HBox(", "method 'HBox.': "),
    ("", "empty; expected a method: Box, HBox"),
    ("HBox.Box", "unknown certification method 'HBox.Box'"),
    ("HBox(x=1)", "'HBox.x=1.': HBox takes no arguments"),
    ("AlphaCROWN(5, inner=1)", "takes 1 to 3 arguments"),
    ("AlphaCROWN(5, steps=1)", "takes 1 to 3 arguments"),
    ("AlphaCROWN(5, HBox, 3, 4)", "takes 1 to 3 arguments"),
    ("AlphaCROWN(inner_steps=1)", "takes 1 to 3 arguments"),
    ("__import__('os')", "unexpected character"),
    (3, "unknown certification method 3"),
    (None, "unknown certification method None"),
])
def test_mistakes_are_one_line(given, message):
  with pytest.raises(UsageError, match=message) as caught:
    methods.parse(given)
  assert "\n" not in str(caught.value)


def test_sequences_have_each_method_once():
  box, hbox = methods.Box(), methods.HBox()
  assert methods.parse_all(["Box", hbox, "HBox", box]) == (box, hbox)
  assert methods.parse_all(()) == ()
  for alone in ("HBox", hbox):
    with pytest.raises(UsageError, match=r"'HBox' alone; .* \('HBox',\)"):
      methods.parse_all(alone)
  with pytest.raises(UsageError, match="methods is 3; expected a sequence"):
    methods.parse_all(3)
