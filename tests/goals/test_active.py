"""Parts of weight 0 are left out; one program for each objective that is left."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_combinators import BATCH_KEY
from test_goals import LABELS, LOWER, UPPER, linear
from watched import watched

from diffai_jax.data import Dataset
from diffai_jax.domains import parts
from diffai_jax.goals import Box, Coin, Context, Goal, HBox, Mix
from diffai_jax.objectives import SCHEMES
from diffai_jax.goals import Point, Sub, Weighted, active_at
from diffai_jax.objectives import objective, parse
from diffai_jax.goals import active_goals
from diffai_jax.objectives.schemes import Scheme
from diffai_jax.networks import ffnn
from diffai_jax.training import optimizers
from diffai_jax.training.state import create_state
from diffai_jax.training.step import batch_key, make_step
from diffai_jax.types import Mode

EPOCHS = jnp.arange(0.0, 200.0, 0.5)
KEYS = jax.vmap(jax.random.fold_in, (None, 0))(
    BATCH_KEY, jnp.arange(len(EPOCHS))
)
PAPER = [name for name, s in SCHEMES.items() if "Table 2" in s.source]


def call(name: str) -> str:
  """The scheme, with a number where it wants one."""
  return f"{name}(2)" if ("k", None) in SCHEMES[name].parameters else name


@functools.partial(jax.jit, static_argnums=0)
def loss(goal: Goal, epoch, key):
  context = Context(linear, jnp.asarray(LABELS + 0), epoch, batch_key=key)
  value = goal.abstract(jnp.asarray(LOWER), jnp.asarray(UPPER), context)
  return goal.loss(linear(value, Mode.TRAIN), context.labels, context)


@pytest.mark.parametrize("text, expected", [
    ("Box", ["Box"]),
    ("Mix(Point, Box, 0.5)", ["Mix(Point, Box, 0.5)"]),
    ("Mix(Point, Box, 0)", ["Point"]),
    ("Mix(Point, Box, Until(10, 0, 1))", ["Point", "Box"]),
    ("Mix(Point, Box, Lin(0, 1, 50, 10))",
     ["Point", "Mix(Point, Box, Lin(0, 1, 50, 10))", "Box"]),
    ("Sub(0.5, Mix(Point, Box, Until(10, 0, 0.5)))",
     ["Sub(0.5, Point)", "Sub(0.5, Mix(Point, Box, Until(10, 0, 0.5)))"]),
    ("Mix(Mix(Point, HBox, 0), Box, Until(10, 0, 0.5))",
     ["Point", "Mix(Point, Box, Until(10, 0, 0.5))"]),
    ("Weighted((Point, 1), (Box, Until(10, 0, 1)), (HBox, Until(20, 0, 1)))",
     ["Point", "Weighted((Point, 1), (Box, Until(10, 0, 1)))",
      "Weighted((Point, 1), (Box, Until(10, 0, 1)), (HBox, Until(20, 0, 1)))"]),
    ("MixLogs(Point, Box, Until(10, 0, 0.5))",
     ["Point", "MixLogs(Point, Box, Until(10, 0, 0.5))"]),
    ("MixMargins(Point, Box, Until(10, 0, 0.5))",
     ["Point", "MixMargins(Point, Box, Until(10, 0, 0.5))"]),
    ("Coin((Point, 1), (Box, 1))", ["Point", "Box"]),
    ("Mix(Point, Coin((Box, 1), (HBox, 1)), 0.5)",
     ["Mix(Point, Box, 0.5)", "Mix(Point, HBox, 0.5)"]),
])
def test_what_an_objective_comes_down_to(text, expected):
  """Whole parts are left out, nested ones too; nothing else changes."""
  found, which = active_goals(parse(text), EPOCHS, KEYS)
  assert {str(goal) for goal in found} == set(expected)
  assert len(which) == len(EPOCHS)
  assert set(which) == set(range(len(found)))


@pytest.mark.parametrize("goal", [
    Mix(Point(), Box(), 0),
    parse("Mix(Point, Sub(Lin(0, 1, 150, 10), Box), Lin(0, 0.5, 150, 10))"),
    parse("Mix(Mix(Point, HBox, Lin(0, 1, 50, 10)), Box, Until(90, 0, 0.5))"),
    parse("MixLogs(Point, Box, Lin(0, 1, 50, 10))"),
    parse("MixMargins(Point, Box, Lin(0, 1, 50, 10))"),
    Weighted(((Point(), 1), (Coin(((Box(), 1), (HBox(), 3))), 0.5))),
    Coin(((Point(), 1), (Mix(Point(), Sub(2, Box()), 0.5), 1), (HBox(), 1))),
], ids=str)
def test_the_loss_is_the_objectives_at_every_step(goal, float64):
  """What is left out had no part in it; a coin falls as it does inside."""
  found, which = active_goals(goal, EPOCHS, KEYS)
  for i in range(0, len(EPOCHS), 7):
    epoch, key = EPOCHS[i], KEYS[i]
    np.testing.assert_allclose(
        loss(found[which[i]], epoch, key), loss(goal, epoch, key), rtol=1e-12
    )


@pytest.mark.parametrize("text", [
    "Mix(Point, Box, Lin(0, 0.5, 50, 10))", "Coin((Point, 1), (Box, 3))", "Box",
    "Weighted((Point, 1), (Box, Until(10, 0, 1)), (Coin((HBox, 1), (Box, 2)),"
    " Until(20, 0, 1)))",
])
def test_blocks_of_steps_give_what_all_steps_together_give(text):
  """Across the edges of blocks, in any order."""
  steps, goal = np.arange(9000), parse(text)
  key_of = functools.partial(batch_key, 0)
  epoch_of = lambda numbers: numbers // 100 + numbers % 100 / 100
  keys = jax.jit(jax.vmap(key_of))(steps)
  found, which = active_goals(goal, epoch_of(steps), keys)
  at = active_at(goal, epoch_of, key_of)
  expected = [found[number] for number in which]
  assert [at(step) for step in range(9000)] == expected
  assert [at(step) for step in (8999, 0, 5000)] == [
      expected[step] for step in (8999, 0, 5000)
  ]


def test_the_longest_run_takes_no_more_memory_than_another():
  """Its last step is the last number of int32."""
  asked = []

  def epoch_of(numbers):
    asked.append(numbers)
    return numbers / 1e6

  goal = parse("Mix(Point, Box, Lin(0, 0.5, 50, 10))")
  at = active_at(goal, epoch_of, functools.partial(batch_key, 0))
  assert str(at(0)) == "Point" and at(2**31 - 1) == at(2**30) == goal
  assert max(numbers.size for numbers in asked) <= 10_000
  assert min(int(numbers.min()) for numbers in asked) == 0


# Whole runs.

_DATASET = Dataset((4, 4, 1), 3, (0.4,), (0.5,), epsilon=0.1)
_STEPS, _EPOCHS_A_STEP = 21, 10.0


_OPTIMIZER = optimizers.optax.sgd(0.01)
_NETWORK = ffnn(3, (0.4,), (0.5,), hidden=(5,))


def epoch_of(step):
  return step * _EPOCHS_A_STEP


@functools.cache
def program_of(goal: Goal):
  """The step of a goal, which several schemes share, and its traces.

  Returns:
    (step, traces): of each trace of the network for a step, whether abstract
    elements went through it.
  """
  traced = []

  def note(x, mode):
    if mode is Mode.TRAIN:
      traced.append(any(hasattr(part, "center") for part in parts(x)))

  network = watched(_NETWORK, note)
  step = make_step(network, goal, _OPTIMIZER, _DATASET, 0.1, 0, epoch_of)
  return step, traced


@functools.cache
def throws():
  """The keys of all steps."""
  return jax.jit(jax.vmap(batch_key, (None, 0)))(0, jnp.arange(_STEPS))


def train(text: str) -> tuple[int, list[bool]]:
  """A run over 210 epochs in 21 steps.

  Returns:
    How many programs the run has, none of which is traced twice, and for each
    step whether abstract elements went through it.
  """
  found, which = active_goals(
      objective(text), epoch_of(jnp.arange(_STEPS)), throws()
  )
  programs = {goal: program_of(goal) for goal in found}
  before = [len(traced) for _, traced in programs.values()]
  state = create_state(_NETWORK, _OPTIMIZER, (4, 4, 1), seed=0)
  images = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 4, 1))
  images, labels = images.astype(np.uint8), np.array([[0, 1, 2, 0]], np.int32)
  abstract = []
  for step in range(_STEPS):
    run, traced = programs[found[which[step]]]
    state, metrics = run(state, images, labels)
    assert np.isfinite(float(metrics["loss"]))
    abstract.append(traced[-1])
  after = [len(traced) for _, traced in programs.values()]
  # A program that an earlier run has had need not be traced at all.
  assert max(np.subtract(after, before)) <= 1 <= min(after)
  return len(programs), abstract


@pytest.mark.parametrize("name", PAPER)
def test_a_run_of_a_paper_scheme_compiles_at_most_two_programs(name):
  """One before the weight leaves 0, without an abstract run, and one after."""
  programs, abstract = train(call(name))
  assert programs == 2
  assert not abstract[0] and abstract[-1]
  assert abstract == sorted(abstract)  # It changes once.


def test_a_scheme_without_a_weight_of_0_compiles_one_program():
  programs, abstract = train("MTL_IBP")
  assert programs == 1 and all(abstract)


# Schemes.

TABLE_2 = {  # docs/porting.md says how its misprints are read.
    "Baseline":
        "Mix(Point, Sub(Lin(0,1,150,10), Box), Lin(0,0.5,150,10))",
    "InSamp":
        "Mix(Point, Sample(Lin(0,1,150,10), 0.5, Normal, Box),"
        " Lin(0,0.5,150,10))",
    "InSampLPA":
        "Mix(Point, Sub(Lin(0,1,150,10), Sample(Lin(0,1,150,10), 0.5, Normal,"
        " Box)), Lin(0,0.5,150,10))",
    "AdvIS(2)":
        "Mix(Sub(Lin(0,1,20,20), IFGSM(2)), Sample(Lin(0,1,150,10), 0.5,"
        " Normal, Box), Lin(0,0.5,150,10))",
    "AdvISLPA(2)":
        "Mix(Sub(Lin(0,1,20,20), IFGSM(2)), Sub(Lin(0,1,150,10),"
        " Sample(Lin(0,1,150,10), 0.5, Normal, Box)), Lin(0,0.5,150,10))",
    "AdvISLPAUS(2)":
        "Mix(Sub(Lin(0,1,20,20), IFGSM(2)), Sub(Lin(0,1,150,10),"
        " Sample(Lin(0,1,150,10), 1, Uniform, Box)), Lin(0,0.35,150,10))",
    "Baseline_S18":
        "Mix(Point, Sub(Lin(0,1,200,40), Box), Lin(0,0.5,200,40))",
    "InSamp_S18":
        "Mix(Point, Sample(Lin(0,1,200,40), 0.5, Normal, Box),"
        " Lin(0,0.5,200,40))",
    "AdvIS_S18(2)":
        "Mix(Sub(Lin(0,1,20,20), IFGSM(2)), Sample(Lin(0,1,200,40), 0.5,"
        " Normal, Box), Lin(0,0.5,200,40))",
    "AdvISLPA_R18(2)":
        "Mix(Sub(Lin(0,1,20,20), IFGSM(2)), Sub(Lin(0,1,200,40),"
        " Sample(Lin(0,1,200,40), 1, Uniform, Box)), Lin(0,0.5,200,40))",
    "InSampLPA_R34":
        "Mix(Point, Sub(Lin(0,1,200,40), Sample(Lin(0,1,200,40), 1, Uniform,"
        " Box)), Lin(0,0.5,200,40))",
    "AdvISLPA_D100(2)":
        "Mix(IFGSM(2), Sub(Lin(0,1,150,50), Sample(Lin(0,1,150,50), 1,"
        " Uniform, Box)), Lin(0,0.5,150,50))",
    "BiAdv_L":
        "Mix(IFGSM(2), BiSample(Sub(Lin(0,1,150,30), IFGSM(3)), Box),"
        " Lin(0,0.6,200,30))",
}


@pytest.mark.parametrize("name", TABLE_2)
def test_a_scheme_is_its_text_in_table_2(name):
  assert objective(name) == parse(TABLE_2[name])


def test_all_of_table_2_is_there():
  assert {call(name) for name in PAPER} == set(TABLE_2)


@pytest.mark.parametrize("text, formula", [
    # Each method as its paper writes it, in the parts that are tested by
    # themselves: test_combinators has the formulas of these.
    ("IBP", "Mix(Point, Sub(Lin(0, 1, 33, 7), Box), Lin(0, 0.5, 33, 7))"),
    ("IBP(clean=0.25, hold=0)",
     "Mix(Point, Sub(Lin(0, 1, 33), Box), Lin(0, 0.75, 33))"),
    ("SABR(0.6)",
     "Sub(Smooth(0, 1, 60), SmallBox(0.6, PGD(8, 0.5), Box))"),
    ("MTL_IBP(0.1)", "Sub(Smooth(0, 1, 60), Mix(PGD(1, 10), Box, 0.1))"),
    ("CC_IBP(0.1)", "Sub(Smooth(0, 1, 60), MixMargins(PGD(1, 10), Box, 0.1))"),
    ("Exp_IBP(0.1)", "Sub(Smooth(0, 1, 60), MixLogs(PGD(1, 10), Box, 0.1))"),
])
def test_methods_published_since(text, formula):
  assert objective(text) == parse(formula)


def test_every_scheme_names_its_source():
  assert all(isinstance(s, Scheme) and len(s.source) > 10
             for s in SCHEMES.values())
