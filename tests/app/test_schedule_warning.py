"""Schedules that do not fit a run: one line says which, and what to set."""

import pytest

from diffai_jax.app import schedule_warning
from diffai_jax.app.config import base_config
from diffai_jax.objectives import objective, parse_value
from diffai_jax.app.job import Job
from diffai_jax.networks import create, ffnn
from diffai_jax.nn import DeepLoss, Sequential
from diffai_jax.schedules import settled_at, value_at


def warning(network=None, **values):
  config = base_config("digits")
  config.goal = "Point"
  for key, value in values.items():
    *groups, last = key.split("__")
    holder = config
    for group in groups:
      holder = holder[group]
    with holder.ignore_type():
      holder[last] = value
  network = network or create("FFNN", 10)
  return schedule_warning.warning(config, objective(config.goal), network)


@pytest.mark.parametrize("text, epoch", [
    ("3", 0), ("Lin(0, 1, 150, 10)", 160), ("Lin(1, 1, 150, 10)", 0),
    ("Smooth(0, 1, 60)", 60), ("Until(10, 0, 1)", 10), ("Until(10, 1, 1)", 0),
    ("Until(10, Lin(0, 1, 500), Lin(0, 1, 20, 5))", 35),
    ("1 - Lin(0, 1, 9)", 9), ("2 * Lin(0, 1, 9) + Lin(0, 1, 5, 9)", 14),
    ("Complement(Lin(0, 1, 7))", 7), ("Scale(Lin(0, 0.5, 7))", 7),
    ("Clip(Lin(0, 1, 7), 0, Lin(0.5, 1, 30))", 30),
    ("Staircase(Lin(0, 1, 7))", 7), ("cosine(1, 200)", 200),
    ("linear(0, 1, 30, 5)", 35), ("polynomial(1, 0, 2, 30)", 30),
    ("warmup_cosine(0, 1, 10, 90)", 90), ("warmup_constant(0, 1, 10)", 10),
    ("constant(3)", 0), ("exponential(1, 10, 0.5)", 0),
    ("cosine_onecycle(40, 1)", 40), ("linear_onecycle(40, 1)", 40),
])
def test_when_a_schedule_stands_still(text, epoch):
  """And it really does: the value there is that of any later time."""
  schedule = parse_value(text)
  assert settled_at(schedule) == epoch
  if not text.startswith("exponential"):
    later = [float(value_at(schedule, epoch + t)) for t in (0, 1e-3, 7, 900)]
    assert later == pytest.approx([later[0]] * 4)
  if epoch:
    assert float(value_at(schedule, epoch - 1.5)) != later[0]


@pytest.mark.parametrize("values, texts", [
    ({"goal": "IBP", "epochs": 5.0},
     ["of the goal is 0 when the run ends at epoch 5", "reaches 1 at epoch",
      "--config.schedule_epochs=", " or --config.epochs="]),
    ({"goal": "IBP", "epochs": 500.0, "schedule_epochs": 10.0},
     ["ends at epoch 10", "--config.schedule_epochs="]),
    ({"goal": "Weighted((Point, 1), (Box, Until(50, 0, 1)))", "epochs": 49.0},
     ["Until(50, 0, 1) of the goal is 0", "reaches 1 at epoch 50"]),
    ({"epochs": 10.0, "dropout": "Lin(0, 0.5, 20)"},
     ["Lin(0, 0.5, 20) of dropout is 0.25", "reaches 0.5 at epoch 20"]),
    ({"epochs": 10.0, "optimizer__learning_rate": "cosine(1, 20)"},
     ["of optimizer.learning_rate is 0.5", "=20 or"]),
    ({"epochs": 10.0, "regularizers__tightness": "Lin(0.5, 0, 80)"},
     ["of regularizers.tightness"]),
    ({"epochs": 10.0, "optimizer__milestones": (5, 10)},
     ["optimizer.milestones has 10, but the run ends at epoch 10"]),
    ({"epochs": 10.0, "dropout": "Lin(0, 0.5, 20)",
      "optimizer__milestones": (50,)}, ["--config.schedule_epochs=51"]),
    ({"epochs": 10.0, "dropout": "Lin(0, 0.5, 20)",
      "optimizer__l2": "Lin(0, 1, 11)"}, ["(so does another schedule)"]),
])
def test_what_outlasts_a_run(values, texts):
  """Named, with where it stands and what would let it end."""
  line = warning(**values)
  for text in texts:
    assert text in line
  assert line.isprintable()
  if "schedule_epochs" in values:
    assert "--config.epochs" not in line


def test_a_deep_losses_weight_counts_too():
  weight = parse_value("Lin(0, 0.5, 30)")
  network = Sequential((ffnn(3, (0.0,), (1.0,)), DeepLoss(weight=weight)))
  assert "of DeepLoss is 0.1667" in warning(network, epochs=10.0)


@pytest.mark.parametrize("values", [
    {}, {"goal": "IBP", "epochs": 0.0},
    {"goal": "IBP", "epochs": 1.0, "schedule_epochs": 190.0},
    {"goal": "Box", "epochs": 9000.0},
    {"goal": "Mix(Point, Box, Lin(0, 0.5, 60))", "epochs": 200.0},
    {"goal": "IBP", "epochs": 9000.0, "optimizer__milestones": (40, 8000)},
    {"goal": "IBP", "epochs": 500.0,
     "optimizer__learning_rate": "exponential(1, 90, 0.5)"},
    {"goal": "IBP", "epochs": 500.0, "regularizers__tightness":
     "Staircase(Lin(0.5, 0, 300))"},
    {"epochs": 20.0, "dropout": "Lin(0, 0.5, 20)"},
    {"epochs": 10.0, "optimizer__learning_rate": "exponential(1, 10, 0.5)"},
])
def test_nothing_is_said_of_runs_that_finish(values):
  assert warning(**values) is None


@pytest.mark.parametrize("values, texts", [
    ({"goal": "IBP", "epochs": 201.0},
     ["have ended by epoch 40 of 201", "--config.schedule_epochs=40 spreads",
      "--config.epochs=40 ends"]),
    ({"goal": "IBP", "epochs": 10.0, "schedule_epochs": 2000.0},
     ["by epoch 40 of 2000", "--config.schedule_epochs=40"]),
    ({"epochs": 900.0, "optimizer__milestones": (60, 80)},
     ["by epoch 80 of 900"]),
    ({"goal": "IBP", "epochs": 900.0, "optimizer__milestones": (60, 80)},
     ["by epoch 80 of 900"]),
])
def test_what_ends_soon_after_the_beginning(values, texts):
  line = warning(**values)
  for text in texts:
    assert text in line
  assert line.isprintable()
  assert ("--config.epochs" in line) == ("schedule_epochs" not in values)


def test_describe_ends_with_it():
  config = base_config("digits")
  config.network, config.goal, config.epochs = "FFNN", "IBP", 10.0
  lines = Job.from_config(config).describe().splitlines()
  assert lines[-1].startswith("Warning: ") and "epoch 10" in lines[-1]
  config.epochs = 90.0
  assert "Warning" not in Job.from_config(config).describe()
