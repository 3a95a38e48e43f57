"""Objectives as text: what is read, what is printed, what is refused."""

import builtins

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
import pytest

from diffai_jax.goals import Box, Goal, HBox, Mix, Point, Sub
from diffai_jax.objectives import (
    ObjectiveError,
    SCHEMES,
    diffai,
    objective,
    parse,
)
from diffai_jax.objectives.syntax import MAX_DEPTH, MAX_LENGTH
from diffai_jax.objectives.schemes import Scheme
from diffai_jax.schedules import Lin, Until
from diffai_jax.types import UsageError

PAPER_IBP = "Mix(Point, Sub(Lin(0,1,150,10), Box), Lin(0,0.5,150,10))"
reproducible = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=list(HealthCheck),
)


def numbers(low, high):
  return st.integers(low, high) | st.floats(low, high)


def values(low, high):
  """Numbers and schedules that stay within low and high."""
  constant = numbers(low, high)
  epochs = numbers(0, 400)
  lin = st.builds(Lin, constant, constant, epochs, epochs)
  return st.recursive(
      constant | lin,
      lambda inner: st.builds(Until, epochs, inner, inner),
      max_leaves=4,
  )


GOALS = st.recursive(
    st.sampled_from([Point(), Box(), HBox()]),
    lambda inner: st.builds(Sub, values(0, 10**6), inner)
    | st.builds(Mix, inner, inner, values(0, 1)),
    max_leaves=8,
)


def refused(text, read=objective):
  """The error for that text: one line, and a column of the text."""
  with pytest.raises(ObjectiveError) as caught:
    read(text)
  error = caught.value
  assert isinstance(error, UsageError)
  assert len(str(error).splitlines()) == 1
  assert str(error).startswith("goal: ")
  assert str(error).endswith(f"(column {error.column})")
  assert 1 <= error.column <= len(text) + 1
  return error


# What is read.


@pytest.mark.parametrize("text, goal", [
    ("Point", Point()),
    ("Point()", Point()),
    ("(Box)", Box()),
    ("  HBox ", HBox()),
    ("Sub(0.5, Box)", Sub(0.5, Box())),
    ("Sub(+1e-1,Box)", Sub(0.1, Box())),
    ("Sub(.5, Box())", Sub(0.5, Box())),
    ("Mix(Point, Box, 1)", Mix(Point(), Box(), 1)),
    ("Sub(Lin(1, 0, 20), Point)", Sub(Lin(1, 0, 20, 0), Point())),
    (
        "Mix(Point,Box,Until(90,Lin(0,0.2,50,40),0))",
        Mix(Point(), Box(), Until(90, Lin(0, 0.2, 50, 40), 0)),
    ),
    (
        "Sub(Until(1, 0, Until(2, 0.5, 1)), Box)",
        Sub(Until(1, 0, Until(2, 0.5, 1)), Box()),
    ),
    ("Sub(\n  0.5,\n\tBox\n)", Sub(0.5, Box())),
    (
        PAPER_IBP,
        Mix(
            Point(),
            Sub(Lin(0, 1, 150, 10), Box()),
            Lin(0, 0.5, 150, 10),
        ),
    ),
])
def test_texts_and_the_goals_they_stand_for(text, goal):
  """Layout and empty parentheses do not matter; lines may be broken."""
  assert parse(text) == goal


@reproducible
@given(GOALS)
@example(Sub(1e-05, Box()))
@example(Sub(1e15, Box()))
@example(Sub(-0.0, Box()))
@example(Sub(Lin(-5, 1e299, 0, 0), Box()))
@example(Mix(Point(), Box(), 5e-324))
def test_every_goal_prints_as_text_that_parses_to_it(goal):
  """An equal object, of equal hash, that prints the same."""
  try:
    goal.check()
  except ValueError:  # Of an example, not of GOALS.
    return
  again = parse(str(goal))
  assert again == goal
  assert hash(again) == hash(goal)
  assert str(again) == str(goal)


@reproducible
@given(GOALS, st.sampled_from(["", " ", "  ", "\n", "\t \r\n"]))
def test_space_between_words_does_not_matter(goal, space):
  """None, some, or a broken line."""
  text = str(goal).replace(" ", "")
  for mark in "(),":
    text = text.replace(mark, space + mark + space)
  if len(text) <= MAX_LENGTH:
    assert parse(text) == goal


def balanced_mix(depth):
  """A text of 2**depth HBoxes, without spaces."""
  if depth == 0:
    return "HBox"
  return f"Mix({balanced_mix(depth - 1)},{balanced_mix(depth - 1)},.5)"


@pytest.mark.parametrize("text", [
    # Baseline itself has three more parentheses.
    "Sub(1," * (MAX_DEPTH - 1) + "Baseline" + ")" * (MAX_DEPTH - 1),
    # 3,319 characters, printed with spaces and zeros 4,084.
    balanced_mix(8),
], ids=["depth", "length"])
def test_what_could_not_be_read_back_is_refused(text):
  """Short enough as it is, but not as it would print."""
  with pytest.raises(ObjectiveError, match="when it is written out"):
    objective(text)


def test_integers_that_no_float_can_hold_read_back():
  goal = parse("Sub(9007199254740993, Box)")
  assert parse(str(goal)) == goal


# Schemes.


def test_baseline_is_the_papers():
  """The text of section 4.3 and Table 2."""
  assert objective("Baseline") == parse(PAPER_IBP)
  assert objective(" Baseline ") == objective("Baseline")


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes(name):
  """Each is a goal by itself, and inside of others."""
  call = name + "(3)" if ("k", None) in SCHEMES[name].parameters else name
  goal = objective(call)
  assert isinstance(goal, Goal)
  assert parse(str(goal)) == goal
  assert objective(f"Sub(0.5, {call})") == Sub(0.5, goal)
  assert objective(f"Mix({call}, Box, 0.5)") == Mix(goal, Box(), 0.5)
  error = refused(f"Sub(1, {name}(1, 2, 3, 4))")
  assert error.column == 8
  assert "not 4" in str(error)


def test_schemes_are_only_known_where_they_are_given():
  mine = Scheme("Sub({scale}, Box)", "here", (("scale", 0.5), ("rest", 0)))
  assert parse("Mine", {"Mine": mine}) == Sub(0.5, Box())
  assert parse("Mine(0.25)", {"Mine": mine}) == Sub(0.25, Box())
  assert parse("Mine(scale=2)", {"Mine": mine}) == Sub(2, Box())
  assert "unknown name Baseline" in str(refused("Baseline", parse))


def test_a_scheme_with_wrong_numbers_is_refused_at_its_name():
  error = refused("Sub(1, AdvIS(2.5))")
  assert error.column == 8
  assert "IFGSM's steps must be a whole number" in str(error)
  assert "takes 1 argument, not 0" in str(refused("AdvIS"))
  assert "expected a number" in str(refused("AdvIS(Lin(0, 1, 5))"))


# What is refused.


@pytest.mark.parametrize("text, column, fragments", [
    # Nothing at all.
    ("", 1, ["empty"]),
    ("  \n ", 1, ["empty"]),
    # Unknown names, at their own column, with what was meant.
    ("Piont", 1, ["unknown name Piont", "did you mean Point?"]),
    ("Zzzzzz", 1, ["unknown name Zzzzzz", "known: Point, Normal"]),
    ("  Piont", 3, ["did you mean Point?"]),
    ("\n\tPiont", 3, ["did you mean Point?"]),
    ("box", 1, ["unknown name box", "did you mean Box?"]),
    ("Mix(Point, Boxx, 0.5)", 12, ["unknown name Boxx", "mean Box?"]),
    ("Mix(Point, Box, Linn(0, 1, 2))", 17, ["mean Lin?"]),
    ("Sub(Untill(1, 0, 1), Box)", 5, ["mean Until?"]),
    ("Sub(0.5,\n Piont)", 11, ["did you mean Point?"]),
    ("Sub(1, Baselin)", 8, ["did you mean Baseline?"]),
    ("Mux(Piont)", 1, ["unknown name Mux", "did you mean Mix?"]),
    ("__import__(os)", 1, ["unknown name __import__"]),
    # Wrong numbers of arguments, at the call.
    ("Mix(Point, Box)", 1, ["Mix(first, second, weight)", "3", "not 2"]),
    ("Sub(1, Mix(Box))", 8, ["Mix(first, second, weight)", "not 1"]),
    ("Sub(Lin(0, 1), Box)", 5, ["start, end, length, hold", "3 to 4"]),
    ("Sub(Lin(0,1,2,3,4), Box)", 5, ["not 5"]),
    ("Sub", 1, ["Sub(scale, goal)", "not 0"]),
    ("Mix(Point, Box, Until)", 17, ["epochs, before, after", "not 0"]),
    ("Point(1)", 1, ["Point()", "not 1"]),
    # Wrong kinds, at the argument.
    ("3", 1, ["expected a goal", "3"]),
    ("Lin(0, 1, 2)", 1, ["expected a goal", "Lin(0, 1, 2)"]),
    ("Sub(0.5, 3)", 10, ["expected a goal", "3"]),
    ("Sub(Box, 0.5)", 5, ["expected a number or a schedule", "Box"]),
    ("Mix(Point, Box, Box)", 17, ["expected a number or a schedule"]),
    ("Sub(Lin(Lin(0,1,2),1,2), Box)", 9, ["expected a number, not Lin"]),
    ("Sub(Until(Lin(0,1,2),0,1), Box)", 11, ["expected a number, not Lin"]),
    ("Sub(Until(1, Point, 1), Box)", 14, ["a number or a schedule"]),
    ("Point, Box", 1, ["expected a goal"]),
    ("Point + Box", 1, ["expected a goal"]),
    ("Point if Box else HBox", 1, ["expected a goal"]),
    ("Sub(1 - 2, Box)", 1, ["scale of Sub", "-1"]),
    ("Sub(1 ** 2, Box)", 5, ["combined by + - * / only"]),
    ("Sub(1 // 2, Box)", 5, ["combined by + - * / only"]),
    ("Sub(Box - 1, Box)", 5, ["expected a number or a schedule, not Box"]),
    ("Sub(1 / 0, Box)", 5, ["division by 0"]),
    ("Sub(1 / Lin(-1, 1, 5), Box)", 5, ["division by 0"]),
    ("Sub(1e20 * 1e20, Box)", 5, ["too large"]),
    ("Sub(1e20 * Lin(0, 1e20, 5), Box)", 5, ["too large"]),
    ("Point.loss", 1, ["expected a goal"]),
    ("Sub(1, Box.check())", 8, ["expected a name"]),
    ("Point()()", 1, ["expected a name"]),
    # Numbers that are none.
    ("Sub(True, Box)", 5, ["expected a number"]),
    ("Sub(None, Box)", 5, ["expected a number"]),
    ("Sub(..., Box)", 5, ["expected a number"]),
    ("Sub(1j, Box)", 5, ["expected a number"]),
    ("Sub(not 1, Box)", 5, ["expected a number"]),
    ("Sub(~1, Box)", 5, ["unexpected character '~'"]),
    ("Sub(1e999, Box)", 5, ["too large"]),
    ("Sub(-1e300, Box)", 6, ["too large"]),
    ("Sub(1" + "0" * 400 + ", Box)", 5, ["too large"]),
    ("Sub(nan, Box)", 5, ["unknown name nan"]),
    ("Sub(0777, Box)", 5, ["leading zeros"]),
    # Values out of range, at the term.
    ("Sub(-0.1, Box)", 1, ["scale of Sub", "-0.1"]),
    ("Sub(Lin(1, -1, 5), Box)", 1, ["scale of Sub", "-1"]),
    ("Sub(1, Mix(Point, Box, 1.5))", 8, ["weight of Mix", "1.5"]),
    ("Mix(Point, Box, Lin(0, 2, 5))", 1, ["weight of Mix", "0", "2"]),
    ("Sub(Lin(0, 1, -2), Box)", 5, ["must not be below 0"]),
    ("Sub(Lin(0, 1, 2, -3), Box)", 5, ["must not be below 0"]),
    ("Sub(Until(-1, 0, 1), Box)", 5, ["must not be below 0"]),
    ("Sample(2, Uniform, Box)", 1, ["product at most 1"]),
    ("Sample(0.5, Mix(Point, Normal, 0.5), Box)", 1, ["Mix has several"]),
    ("BiSample(Coin((Point, 1)), Box)", 1, ["Coin has several"]),
    ("MixMargins(Point, Mix(Point, Box, 0), 0)", 1, ["Mix has several"]),
    ("MixLogs(Point, Box, 2)", 1, ["weight of MixLogs", "2"]),
    ("PGD(0.5)", 1, ["PGD's steps must be a whole number"]),
    ("PGD(1, -1)", 1, ["PGD's step must not be below 0"]),
    ("PGD(1, 1, 0)", 1, ["PGD's restarts must be a whole number from 1"]),
    ("MIFGSM(momentum=-1)", 1, ["momentum must not be below 0"]),
    ("Weighted()", 1, ["pairs (goal, weight)"]),
    ("Weighted((Point, 0))", 1, ["are all 0"]),
    ("Weighted((Point, 1), (Box, Lin(0, -1, 9)))", 1, ["not be below 0"]),
    ("Sub(Complement(Lin(0, 2, 5)), Box)", 5, ["within 0 and 1"]),
    ("Sub(Scale(1), Box)", 5, ["below 1"]),
    ("Sub(Clip(Lin(0, 1, 5), 2, 1), Box)", 5, ["must not be above"]),
    ("Sub(Smooth(0, 1, -5), Box)", 5, ["must not be below 0"]),
    ("Sub(cosine(1, 0), Box)", 5, ["cosine", "positive decay_steps"]),
    ("Sub(exponential(1, 5, 2), Box)", 5, ["exponential", "end_value"]),
    ("Sub(polynomial(1, 0, -1, 5), Box)", 5, ["power must be above 0"]),
    ("Attacked", 1, ["only has a meaning within AdvDom or BiSample"]),
    ("AdvDom(Original, Box)", 1, ["only has a meaning within AdvDom"]),
    # Arguments by name.
    ("Sub(goal=Box)", 1, ["Sub(scale, goal)", "not 1"]),
    ("Sub(0.5, scale=1)", 1, ["Sub(scale, goal)", "not 2"]),
    ("Sub(0.5, gaol=Box)", 1, ["has no argument gaol", "did you mean goal?"]),
    ("Sub(scale=1, Box)", 17, ["positional argument"]),
    ("Sub(1, **Box)", 8, ["unexpected **"]),
    ("Sub(1, *Box)", 8, ["unexpected *"]),
    ("Weighted(pairs=(Point, 1))", 1, ["none by name"]),
    ("Weighted(Point, 1)", 10, ["expected a pair (goal, weight)"]),
    ("Weighted((Point, 1, 2))", 10, ["expected a pair (goal, weight)"]),
    ("Sub(cosine(1, 5, beta=1), Box)", 5, ["cosine(init_value", "'beta'"]),
    # Grammar.
    ("Sub(0.5, Box", 4, ["never closed"]),
    ("Sub(0.5, Box))", 14, ["unmatched"]),
    ("Point Box", 7, []),
    ("  Point Box", 9, []),
    ("Mix(Point,,Box)", 11, []),
    ("Point\nBox", 7, []),
    ("Sub(1if 2 else 3, Box)", 5, []),
    ("Point if", 1, []),
    # Characters that no objective has.
    ("__import__('os')", 12, ["unexpected character"]),
    ("Box # the usual", 5, ["unexpected character '#'"]),
    ("Point;Box", 6, ["unexpected character ';'"]),
    ("Sub(1, B\xf6x)", 9, ["unexpected character '\xf6'"]),
    ("Sub(\u0661, Box)", 5, ["unexpected character"]),
    ("Box\u2028", 4, ["unexpected character"]),
    ("Box\x00", 4, ["unexpected character"]),
    ("Sub(*[1], Box)", 6, ["unexpected character '['"]),
    ("Sub(1:2, Box)", 6, ["unexpected character ':'"]),
])
def test_errors_show_the_place(text, column, fragments):
  """The column of the word that is wrong, and what was expected."""
  error = refused(text)
  assert error.column == column
  for fragment in fragments:
    assert fragment in str(error)


@pytest.mark.parametrize("text", ["Sub(1if 2 else 3, Box)", "Sub(0x1for, Box)"])
def test_python_has_nothing_to_say_of_a_text(text, recwarn):
  """Its own warnings would stand above the one line."""
  refused(text)
  assert not recwarn.list


@pytest.mark.parametrize("before", [0, 1, 59, 60, 61, 100, 1000])
@pytest.mark.parametrize("after", [0, 5, 500])
def test_the_mark_stands_under_the_place(before, after):
  """Of long texts a piece that fits a terminal is shown, with a mark below."""
  text = " " * before + "Piont" + " " * after
  error = refused(text)
  assert error.column == before + 1
  shown, mark = error.detail.split("\n")
  assert len(shown) < 80 and len(mark) < 80
  assert mark.strip() == "^"
  assert shown[mark.index("^"):].startswith("Piont")


def test_nothing_in_a_text_is_evaluated(monkeypatch):
  """A function that any evaluation would find is not called."""
  calls = []
  monkeypatch.setattr(
      builtins, "tripwire", lambda *a: calls.append(a) or 1, raising=False
  )
  assert eval("tripwire()") == 1 and calls.pop() == ()
  for text in (
      "tripwire()",
      "Sub(tripwire(), Box)",
      "Mix(Point, tripwire(), 0.5)",
      "Mix(Point, Box, Lin(0, tripwire(), 1))",
      "Point if tripwire() else Box",
      "Box(tripwire())",
      "tripwire().x",
      "tripwire()()",
      "Sub(1 + tripwire(), Box)",
      "(tripwire(), Box)",
      "Sub(-tripwire(), Box)",
      "not tripwire()",
      "Sub(tripwire() or 1, Box)",
      "Point(x for x in tripwire())",
  ):
    refused(text)
  assert not calls


def test_the_longest_text():
  """MAX_LENGTH characters are read, one more is refused as such."""
  text = "Point".ljust(MAX_LENGTH)
  assert parse(text) == Point()
  error = refused(text + " ")
  assert error.column == MAX_LENGTH + 1
  assert "longer than" in str(error)
  refused("(" * 10**6)


def test_the_deepest_text():
  """MAX_DEPTH parentheses are read, one more is refused as such."""
  goal = Box()
  for _ in range(MAX_DEPTH):
    goal = Sub(1, goal)
  assert parse(str(goal)) == goal
  text = str(Sub(1, goal))
  error = refused(text)
  assert "deeper than" in str(error)
  assert error.column == len("Sub(1, ") * MAX_DEPTH + len("Sub(")


@pytest.mark.parametrize("text", [
    "-" * (MAX_LENGTH - 1) + "1",
    "+-" * 1000 + "1",
    "not " * 900 + "a",
    "a" + "()" * 1900,
    "a" + ".a" * 1900,
    "1" + "+1" * 1900,
    "1" + " if 1 else 1" * 300,
    "a" * MAX_LENGTH,
    "9" * MAX_LENGTH,
    "1e" + "9" * (MAX_LENGTH - 2),
    "Mix(" * MAX_DEPTH,
    ")" * MAX_LENGTH,
    "." * MAX_LENGTH,
    "," * MAX_LENGTH,
    "Point," * 600,
    "_" * MAX_LENGTH,
])
def test_long_and_deep_texts_are_refused(text):
  """Whatever makes a parser recurse or count: an error, never a crash."""
  refused(text)


ALPHABET = st.sampled_from(
    list("(),.+-_ 0123456789eEjxPointBSubMaLUlH")
    + list("#'\"=*[]{}:;@\\/<!%~`$^&|?\n\t\r\f\x0b\x00\x1b\x85\xa0")
    + ["\u2028", "\u0661", "\xe4", "\ufeff", "\U0001d7d9"]
    + ["Lin(", "Box", "1e", "0x", "if ", " or ", "lambda ", "None", "not "]
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "swap", "repeat"]),
        st.floats(0, 1),
        ALPHABET,
    ),
    min_size=1,
    max_size=4,
)


def edited(text, edits):
  for kind, where, piece in edits:
    at = int(where * len(text))
    if kind == "insert":
      text = text[:at] + piece + text[at:]
    elif kind == "delete":
      text = text[:at] + text[at + len(piece):]
    elif kind == "replace":
      text = text[:at] + piece + text[at + len(piece):]
    elif kind == "swap":
      text = text[at:] + text[:at]
    else:
      text = text[:at] + text[max(0, at - 12):]
  return text


@settings(reproducible, max_examples=400)
@given(GOALS, EDITS)
def test_edited_texts_parse_or_are_refused(goal, edits):
  """A goal that prints as text for itself, or an error: nothing else."""
  text = edited(str(goal), edits)
  try:
    found = objective(text)
  except ObjectiveError as error:
    assert len(str(error).splitlines()) == 1
    assert 1 <= error.column <= len(text) + 1
    return
  assert isinstance(found, Goal)
  assert parse(str(found)) == found


@pytest.mark.parametrize("name", sorted(
    diffai._ONLY_THEIRS | diffai._REGIONS.keys() | diffai._TRANSLATIONS.keys()
))
@pytest.mark.parametrize("arguments", [
    "", "()", "(1)", "(Box)", "((Box, 1))", "((Box, 1), w=1)", "(*a)",
    "(**a)", "(k=1e400, restart=2)", "(restart=1e400)", "(x=1)",
])
def test_every_name_of_diffai_with_any_arguments(name, arguments):
  """Parses, or is refused in a line: no name fails for what is in it."""
  text = name + arguments
  assert isinstance(diffai.translation(text), str | None)
  try:
    objective(text)
  except ObjectiveError as error:
    assert len(str(error).splitlines()) == 1


@settings(reproducible, max_examples=200)
@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text):
  """Also of characters that no one types."""
  try:
    found = objective(text)
  except ObjectiveError as error:
    assert len(str(error).splitlines()) == 1
    assert 1 <= error.column <= len(text) + 1
  else:
    assert parse(str(found)) == found
