"""What docs/objectives.md and docs/porting.md say is so."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.goals import SCHEMES, Context, Goal, ObjectiveError, dsl
from diffai_jax.goals import objective, parse, parse_value
from diffai_jax.optax_schedules import OPTAX
from diffai_jax.terms import number_text

_DOCS = pathlib.Path(__file__).parents[1] / "docs"
OBJECTIVES = (_DOCS / "objectives.md").read_text(encoding="utf-8")
PORTING = (_DOCS / "porting.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
  """Contents of the fenced blocks of that kind."""
  return re.findall(rf"```{kind}\n(.*?)```", OBJECTIVES, re.DOTALL)


def lines(kind: str) -> list[str]:
  return [line for block in blocks(kind) for line in block.splitlines()]


def rows(text: str, heading: str) -> list[list[str]]:
  """The cells of the tables below a heading, without their code marks."""
  section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
  found = [
      re.split(r"(?<!\\) ?\| ?", line)[1:-1]
      for line in section.splitlines() if line.startswith("| `")
  ]
  return [[cell.strip("` ") for cell in row] for row in found]


@pytest.mark.parametrize("text", lines("objective"))
def test_examples_of_objectives_are_read(text):
  assert parse(str(objective(text))) == objective(text)


@pytest.mark.parametrize("text", lines("value"))
def test_examples_of_values_are_read(text):
  assert np.isfinite(float(parse_value(text)(3.0)))


def test_enough_examples_are_found():
  assert len(lines("objective")) > 15 and len(lines("value")) > 4


@pytest.mark.parametrize("name", [*dsl.CONSTRUCTORS, *OPTAX, *SCHEMES])
def test_every_name_is_in_a_table(name):
  assert re.search(rf"^\| `{name}[`(]", OBJECTIVES, re.MULTILINE), name


@pytest.mark.parametrize("name", [
    name for name, term in dsl.CONSTRUCTORS.items() if issubclass(term, Goal)
])
def test_every_goal_has_its_picture(name):
  path = f"images/objectives/{name}.png"
  assert f"({path})" in OBJECTIVES and (_DOCS / path).is_file()


def test_every_picture_is_there():
  for path in re.findall(r"\]\((images/[^)]*)\)", OBJECTIVES):
    assert (_DOCS / path).is_file(), path


def test_the_table_of_schemes_is_the_schemes():
  found = rows(OBJECTIVES, "Schemes")
  assert len(found) == len(SCHEMES)
  for (signature, example, text, source), (name, scheme) in zip(
      found, SCHEMES.items(), strict=True
  ):
    parameters = ", ".join(
        p if default is None else f"{p}={number_text(default)}"
        for p, default in scheme.parameters
    )
    assert signature == (f"{name}({parameters})" if parameters else name)
    assert str(objective(example)) == text
    assert source == scheme.source


def test_adding_a_goal_works_as_it_is_printed(monkeypatch):
  """The page's own goal, from its definition to its place in a text."""
  (code,) = blocks("python")
  assert len(code.splitlines()) < 30
  monkeypatch.setattr(dsl, "CONSTRUCTORS", dict(dsl.CONSTRUCTORS))
  names = {}
  exec(compile(code, "objectives.md", "exec"), names)  # The page's own code.
  goal = objective("Mix(Corner, Box, 0.5)")
  assert goal.first == names["Corner"]()
  lower, upper = np.zeros((50, 3)), np.ones((50, 3))
  context = Context(
      None, jnp.zeros(50, int), 0.0, jax.random.split(jax.random.key(0), 50)
  )
  point = np.asarray(goal.abstract(
      jnp.asarray(lower), jnp.asarray(upper), context
  )[0])
  assert set(np.unique(point)) == {0, 1}
  assert 0.3 < point.mean() < 0.7


@pytest.mark.parametrize("theirs, ours", rows(
    PORTING, "The examples of its README"
))
def test_texts_of_diffai_are_answered_with_their_translation(theirs, ours):
  with pytest.raises(ObjectiveError) as caught:
    objective(theirs)
  assert caught.value.reason == (
      f"this is DiffAI v3's language; here it is {ours}"
  )
  assert len(str(caught.value).splitlines()) == 1
  # What is said can be used, with the run's number for epsilon.
  assert isinstance(objective(ours.replace("epsilon", "0.1")), Goal)


@pytest.mark.parametrize("text, reason", [
    # Ours with mistakes is not taken for theirs.
    ("Mix(Point, Box)", "takes 3 arguments"),
    ("InSamp(", "never closed"),
    ("Sub(0.5, Boxx)", "did you mean Box?"),
    # Theirs, but nothing that can be translated.
    ("LinMix(a=Foo())", "unknown name LinMix"),
    ("DList(a, b)", "unknown name DList"),
    ("LinMix(bw=Fun(x))", "unknown name LinMix"),
    ("LinMix(bw=__import__)", "unknown name LinMix"),
])
def test_other_mistakes_are_answered_as_such(text, reason):
  with pytest.raises(ObjectiveError) as caught:
    objective(text)
  assert reason in str(caught.value)


@pytest.mark.parametrize("theirs, ours", [
    ("LinMix(b=Box(), bw=Lin(0,1,20,4,quant=True))",
     "Mix(Point, Box, Staircase(Lin(0, 1, 20, 4)))"),
    ("Mix(bw=MixLin(0,0.5,150,10))",
     "Weighted((Point, 1), (Box, Scale(Lin(0, 0.5, 150, 10))))"),
    ("LinMix(bw=Until(90,Lin(0,0.2,50,40),0))",
     "Mix(Point, Box, Until(90, Lin(0, 0.2, 50, 40), 0))"),
    ("LinMix(a=MI_FGSM(k=20,r=2), b=HNIPS(), bw=Complement(Clip(1,0,0.5)))",
     "Mix(MIFGSM(20, 0.1, 0.8), HDeepZ, Complement(Clip(1, 0, 0.5)))"),
    ("AdvInclusion(0.4, b=HBox())", "Sample(0.4, 1, IFGSM(5), HBox)"),
    ("InSamp(0.4, normal=True)", "Sample(0.4, 1, Normal, Box)"),
    ("Mix(Point(), Box(), 1, 0.1)", "Weighted((Point, 1), (Box, 0.1))"),
])
def test_further_translations(theirs, ours):
  with pytest.raises(ObjectiveError) as caught:
    objective(theirs)
  assert caught.value.reason.endswith(f"here it is {ours}")
  assert isinstance(objective(ours), Goal)
