"""What docs/objectives.md and docs/porting.md say is so."""

import dataclasses
import inspect
import pathlib
import re
import textwrap

import numpy as np
import pytest

from diffai_jax import goals, nn, schedules
from diffai_jax.app.config import base_config
from diffai_jax.goals import Goal
from diffai_jax.objectives import ObjectiveError, SCHEMES, dsl
from diffai_jax.objectives import objective, parse, parse_value
from diffai_jax.networks import canonical_name
from diffai_jax.schedules.optax_schedules import OPTAX
from diffai_jax.text.terms import number_text
from diffai_jax.app.validation import get

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = _ROOT / "docs"
OBJECTIVES = (_DOCS / "objectives.md").read_text(encoding="utf-8")
PORTING = (_DOCS / "porting.md").read_text(encoding="utf-8")
GOALS = (
    "Points", "Regions", "Linear bounds in training",
    "Attacks inside of the network", "Another box for a goal", "Several goals at once",
)


def blocks(kind: str) -> list[str]:
  """Contents of the fenced blocks of that kind."""
  return re.findall(rf"```{kind}\n(.*?)```", OBJECTIVES, re.DOTALL)


def lines(kind: str) -> list[str]:
  return [line for block in blocks(kind) for line in block.splitlines()]


def rows(text: str, heading: str, first: str = "`") -> list[list[str]]:
  """The cells of the tables below a heading, without their code marks."""
  section = re.split(rf"^##+ {heading}\n", text, flags=re.MULTILINE)[1]
  section = re.split(r"^##+ ", section, flags=re.MULTILINE)[0]
  found = [
      re.split(r" ?(?<!\\)\| ?", line)[1:-1]
      for line in section.splitlines() if line.startswith(f"| {first}")
  ]
  return [[cell.strip("` ") for cell in row] for row in found]


def table(heading: str) -> list[list[str]]:
  return rows(OBJECTIVES, heading)


GOAL_ROWS = [row for heading in GOALS for row in table(heading)]
VALUE_ROWS = [*table("Schedules"), *table("Optax's schedules")]


# Everything that is called an example is one.


@pytest.mark.parametrize(
    "text", [*lines("objective"), *(row[-2] for row in GOAL_ROWS)]
)
def test_examples_of_objectives_are_read(text):
  assert parse(str(objective(text))) == objective(text)


@pytest.mark.parametrize(
    "text", [*lines("value"), *(row[-1] for row in VALUE_ROWS)]
)
def test_examples_of_values_are_read(text):
  value = parse_value(text)
  if isinstance(value, schedules.Schedule):
    assert np.isfinite(float(value(3.0)))


def test_no_block_is_missed():
  """Fences are in pairs, and of the kinds that these tests know."""
  fences = re.findall(r"^```(\w*)$", OBJECTIVES, re.MULTILINE)
  assert set(fences) == {"", "objective", "value", "python"}
  assert len(fences) % 2 == 0 and all(not closing for closing in fences[1::2])
  assert len(lines("objective")) > 3 and len(lines("value")) > 3


def test_examples_are_of_the_goal_in_whose_row_they_stand():
  for signature, *_, example, _ in GOAL_ROWS:
    assert signature.split("(")[0] in example


def test_the_grammar_is_that_of_the_parser():
  grammar = next(b for b in re.findall(r"```\n(.*?)```", OBJECTIVES, re.DOTALL)
                 if b.startswith("goal"))
  assert grammar == textwrap.dedent(dsl.__doc__.split("\n\n")[1]) + "\n"


# Everything that there is has its row and its picture.


def signature(name: str, term: type) -> str:
  """`Name(a, b=1)`, as a table has it."""
  fields = dataclasses.fields(term)
  words = [
      f.name if f.default is dataclasses.MISSING
      else f"{f.name}={number_text(f.default)}" for f in fields
  ]
  if issubclass(term, goals.Sample):
    words[1] += "=1"  # The text may leave it out.
  if words == ["pairs"]:
    words = ["(g1, w1)", "(g2, w2)", "…"]
  return f"{name}({', '.join(words)})" if words else name


@pytest.mark.parametrize("name", dsl.CONSTRUCTORS)
def test_every_constructor_has_its_row(name):
  term = dsl.CONSTRUCTORS[name]
  tables = GOAL_ROWS if issubclass(term, Goal) else table("Schedules")
  assert [r[0] for r in tables].count(signature(name, term)) == 1


@pytest.mark.parametrize("name", OPTAX)
def test_every_schedule_of_optax_has_its_row(name):
  """With optax's own arguments and defaults."""
  parameters = inspect.signature(OPTAX[name][0]).parameters.values()
  words = []
  for p in parameters:
    default = "" if p.default is p.empty else f"={p.default}"
    if p.default is not p.empty and p.default is not None:
      default = f"={number_text(float(p.default))}"
    words.append(p.name + default)
  wanted = f"{name}({', '.join(words)})"
  assert wanted in [row[0] for row in table("Optax's schedules")]


def test_nothing_else_is_in_the_tables():
  known = {signature(n, term) for n, term in dsl.CONSTRUCTORS.items()}
  assert {row[0] for row in GOAL_ROWS} <= known
  assert len(table("Optax's schedules")) == len(OPTAX)


@pytest.mark.parametrize("row", GOAL_ROWS, ids=lambda row: row[0])
def test_every_goal_has_its_picture(row):
  name = row[0].split("(")[0]
  path = f"images/objectives/{name}.png"
  assert f'src="{path}"' in row[-1] and f'alt="{name}"' in row[-1]
  assert (_DOCS / path).stat().st_size < 40_000


@pytest.mark.parametrize("text", [OBJECTIVES, PORTING])
def test_links_lead_somewhere(text):
  for target in re.findall(r'\]\(([^)]*)\)|src="([^"]*)"', text):
    path, _, anchor = (target[0] or target[1]).partition("#")
    assert not path or (_DOCS / path).is_file(), path
    page = (_DOCS / path).read_text("utf-8") if path.endswith("md") else text
    titles = re.findall(r"^##+ (.*)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-")
               for t in titles]
    assert not anchor or anchor in anchors, anchor


@pytest.mark.parametrize("text", [OBJECTIVES, PORTING])
def test_config_keys_are_keys(text):
  config = base_config()
  for key in re.findall(r"--config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)", text):
    get(config, key)  # Raises if there is no such key.


def test_the_table_of_schemes_is_the_schemes():
  found = table("Schemes")
  assert len(found) == len(SCHEMES)
  for (given, example, text, source), (name, scheme) in zip(
      found, SCHEMES.items(), strict=True
  ):
    parameters = ", ".join(
        p if default is None else f"{p}={number_text(default)}"
        for p, default in scheme.parameters
    )
    assert given == (f"{name}({parameters})" if parameters else name)
    assert str(objective(example)) == text
    assert source == scheme.source


def test_adding_a_goal_works_as_it_is_printed(monkeypatch):
  """The page's own goal and the page's own test of it."""
  code, test = blocks("python")
  assert len(code.splitlines()) < 30
  monkeypatch.setattr(dsl, "CONSTRUCTORS", dict(dsl.CONSTRUCTORS))
  names = {}
  exec(compile(code + test, "objectives.md", "exec"), names)
  names["test_corner"]()
  with pytest.raises(ObjectiveError, match="must not be below 0"):
    objective("Corner(0 - Lin(0, 1, 9))")


# Where DiffAI v3's names went.


@pytest.mark.parametrize("theirs, ours", [
    *rows(PORTING, "The examples of its README"),
    *(row[:2] for row in rows(PORTING, "The schemes of its README")),
])
def test_texts_of_diffai_are_answered_with_their_translation(theirs, ours):
  with pytest.raises(ObjectiveError) as caught:
    objective(theirs)
  assert caught.value.reason == (
      f"this is DiffAI v3's language; here it is {ours}"
  )
  assert len(str(caught.value).splitlines()) == 1
  # What is said can be used, with the run's number for epsilon.
  assert isinstance(objective(ours.replace("epsilon", "0.1")), Goal)


@pytest.mark.parametrize(
    "row", rows(PORTING, "The schemes of its README"), ids=lambda row: row[2]
)
def test_schemes_are_compared_with_the_right_ones_of_ours(row):
  """Equal, but for the samples where ours is said to be the nearest."""
  text = re.sub(r"0.031373, (.*?)\) / epsilon", r"1, \1)", row[1])
  if "nearest" in row[2]:
    text = text.replace("1, Uniform", "0.5, Normal")
  if "holds for 10" in row[2]:
    text = text.replace("150, 20", "150, 10")
  ours = re.search(r"`([^`]*)`?(?:, which|$)", row[2])[1]
  assert objective(text) == objective(ours)


@pytest.mark.parametrize("text, goal", [
    ("PGD()", goals.PGD(20, 0.25)),
    ("PGD(3, 16)", goals.PGD(3, 16)),
    ("IFGSM()", goals.IFGSM(5)),
    ("Point()", goals.Point()),
])
def test_what_is_said_to_be_read_as_ours(text, goal):
  assert objective(text) == goal


@pytest.mark.parametrize("name", """
    Point Box HBox HSwitch HSmooth HNIPS ZBox ZSwitch ZSmooth ZNIPS HRand IFGSM
    PGD MI_FGSM Normal NormalPoint NormalAdv InSamp InclusionSample AdvInclusion
    AdvDom BiAdv PointA PointB Mix LinMix DList Coin DProb
    Lin Until Scale MixLin Normal Clip Fun Complement
    CorrMaxPool3D CorrMaxPool2D CorrFix CorrMaxK CorrRand DecorrRand DecorrMin
    DeepLoss ToZono ToHZono Concretize CorrelateAll
    -d -t -n -D --width --spec --epochs --batch-size --lr --lr-multistep
    --custom-schedule --use-schedule --threshold --patience --factor --sgd -r
    --clip-norm --max-norm --normalize-layer --seed --out --dont-write --test
    --update-test-net --update-test-net-name --test-size --test-batch-size
    --test-first --test-freq --write-first --save-freq --log-freq --onyx
    --save-dot-net --number-save-images --curve-width --sub-batch-size
    FFNN ConvSmall ConvMed MNIST FashionMNIST CIFAR10
    goals.py scheduling.py components.py ai.py models.py helpers.py __main__.py
""".split())
def test_every_name_of_diffai_is_in_a_table(name):
  assert re.search(rf"^\|[^\n]*`{re.escape(name)}[`( ]", PORTING, re.MULTILINE)


def test_layers_and_networks_of_ours_exist():
  for row in rows(PORTING, "Abstract layers"):
    assert issubclass(getattr(nn, row[1].split("(")[0]), nn.AbstractLayer)
  (theirs, _), *_ = rows(PORTING, "Networks and data")
  for name in re.findall(r"\w+", theirs):
    assert canonical_name(name) == name


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
    ("PGD(k=5)", "MIFGSM(5, 1, 0)"),
    ("MI_FGSM()", "MIFGSM(100, 0.2, 0.8)"),
    ("LinMix()", "Mix(Point, Box, 0.1)"),
    ("LinMix(bw=Lin(end=1, start=0, steps=20))",
     "Mix(Point, Box, Lin(0, 1, 20))"),
    ("IFGSM(k=8, restart=2)", "PGD(4, 0.125, 2)"),
    ("BiAdv()", "BiSample(IFGSM(5), Box)"),
])
def test_further_translations(theirs, ours):
  with pytest.raises(ObjectiveError) as caught:
    objective(theirs)
  assert caught.value.reason.endswith(f"here it is {ours}")
  assert isinstance(objective(ours), Goal)
