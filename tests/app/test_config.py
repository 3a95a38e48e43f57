"""Variants, the check of every key, and what makes two runs differ."""

import math

from ml_collections import config_dict
import pytest

from diffai_jax.app.config import (
    base_config,
    describe_differences,
    differences,
    keys_of,
    parse_number,
)
from diffai_jax.app.job import Job
from diffai_jax.types import UsageError, shown
from diffai_jax.app.validation import attacks_of, validate
from diffai_jax.attacks import APGD, MIFGSM


def message(config):
  """The error of `validate`, which must be one line."""
  with pytest.raises(UsageError) as caught:
    validate(config)
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


def changed(key, value):
  """The default config with one key, dots and all, set to any value."""
  config = base_config()
  holder = config
  *path, last = key.split(".")
  for name in path:
    holder = holder[name]
  del holder[last]  # With its type.
  holder[last] = value
  return config


@pytest.mark.parametrize("variant, dataset, epsilon", [
    ("", "mnist", 0.1),
    ("mnist,0.1", "mnist", 0.1),
    ("cifar10,8/255", "cifar10", 8 / 255),
    ("cifar10", "cifar10", 8 / 255),
    ("cifar10,2/255", "cifar10", 2 / 255),
    ("2/255,cifar10", "cifar10", 2 / 255),
    ("0.3", "mnist", 0.3),
    (" digits , 0.03 ", "digits", 0.03),
    ("digits", "digits", 0.05),
    ("1e-3", "mnist", 0.001),
    (".5", "mnist", 0.5),
    ("0", "mnist", 0.0),
])
def test_variants(variant, dataset, epsilon):
  """A dataset, a radius or both, in any order; the rest stays as it is."""
  config = base_config(variant)
  assert config.dataset == dataset
  assert config.epsilon == epsilon
  assert isinstance(config.epsilon, float)
  config.dataset, config.epsilon = "mnist", 0.1
  assert config.to_json() == base_config().to_json()


@pytest.mark.parametrize("variant, dataset, epsilon", [
    ("", "cifar10", 0.25),
    ("0.3", "cifar10", 0.3),
    ("digits,0.3", "digits", 0.3),
    ("digits", "digits", 0.05),
])
def test_a_file_may_have_its_own_defaults(variant, dataset, epsilon):
  """They hold unless the variant says otherwise.

  A radius is one dataset's: where the variant chooses another, its usual one.
  """
  config = base_config(variant, "cifar10", 0.25)
  assert (config.dataset, config.epsilon) == (dataset, epsilon)


def test_naming_the_default_dataset_changes_nothing():
  """What the variant says is what the file says already."""
  config = base_config("cifar10", "cifar10", 0.25)
  assert config.epsilon == 0.25


@pytest.mark.parametrize("variant, fragments", [
    ("minst", ("'minst'", "did you mean 'mnist'?", "digits")),
    ("cifar10,foo", ("'foo'", "known:", "cifar10")),
    ("nan", ("'nan'", "known:")),
    ("0.1x", ("'0.1x'", "8/255")),
    ("8/0", ("'8/0'", "8/255")),
    ("1/2/3", ("'1/2/3'", "8/255")),
    ("--1", ("'--1'", "8/255")),
    ("1e400", ("'1e400'", "8/255")),
])
def test_wrong_variants(variant, fragments):
  """One line with the value and what it may be."""
  with pytest.raises(UsageError) as caught:
    base_config(variant)
  assert len(str(caught.value).splitlines()) == 1
  for fragment in fragments:
    assert fragment in str(caught.value)


@pytest.mark.parametrize("variant", ["mnist,cifar10", "0.1,0.3"])
def test_a_variant_names_one_dataset_and_one_radius(variant):
  with pytest.raises(UsageError):
    base_config(variant)


@pytest.mark.parametrize("text, value", [
    ("0.1", 0.1), ("8/255", 8 / 255), ("-3", -3.0), ("1e-3", 0.001)
])
def test_parse_number(text, value):
  assert parse_number(text, "epsilon") == value


def test_parse_number_names_what_it_is_for():
  with pytest.raises(UsageError, match="radius.*'a half'"):
    parse_number("a half", "radius")


@pytest.mark.parametrize(
    "name", ["digits", "mnist", "fashion_mnist", "cifar10"]
)
def test_defaults_are_valid(name):
  """Of every dataset."""
  validate(base_config(name))


@pytest.mark.parametrize("key, values", {
    "epsilon": (0.0, 1.0, "8/255", "0.3"),
    "dropout": (0, 0.5, "Lin(0, 0.5, 100)"),
    "regularizers.tightness": (0.0, 2, "0.5 * (1 - Lin(0, 1, 60))"),
    "regularizers.relu_balance": ("Until(60, 0.5, 0)",),
    "regularizers.tolerance": (0.5,),
    "initializer": ("interval", "he", "pytorch"),
    "epochs": (0.0, 0.01, 1e6, 2**31 - 1),
    "schedule_epochs": (None, 1e-3, 1e6),
    "batch_size": (1, 10**6),
    "seed": (0, 2**31 - 1),
    "checkpoint_minutes": (0.0, 1e6),
    "steps_per_dispatch": (None, 1, 10**6),
    "optimizer.learning_rate": (0.0, 10.0, "1e-3 * cosine(1, 200)"),
    "optimizer.decay": (0.0, 2.0),
    "optimizer.momentum": (0.0, 1.0, "Lin(0.5, 0.9, 10)"),
    "optimizer.l2": (0.0, 1.0, "Lin(1e-4, 0, 10)"),
    "optimizer.clip_norm": (1e-9, 1e9),
    "optimizer.milestones": ((), (0,), (1, 2.5, 1000)),
    "certify.examples": (None, 1, 10**6),
    "certify.memory_mb": (None, 1, 10**6),
    "certify.attack.steps": (0, 1000),
    "certify.attack.momentum": (0.0, 10.0),
    "certify.attack.radius": (0.0, 10.0),
    "certify.methods": (("Box",), ("HBox", "Box"), ["Box"], "HBox",
                        "Box, HBox", ()),
    "certify.attacks": (("MIFGSM",), ["PGD", "APGD(9, DLR)"], "PGD, APGD(9, DLR)",
                        ()),
    "augment.crop_padding": (None, 0, 28),
    "data_dir": ("", "~/x", "a/b[0]"),
    "network": ("FFNN", "ffnn", "CONVMED"),
    "goal": ("Point", "Mix(Point, Box, 0.5)", "Baseline"),
    "optimizer.name": ("adam", "sgd"),
}.items())
def test_validate_accepts(key, values):
  """The ends of each range."""
  for value in values:
    validate(changed(key, value))


NOT_NUMBERS = (math.nan, math.inf, -math.inf, "1")
# Fractions and schedules are given as text.
MAY_BE_TEXT = (
    "epsilon", "dropout", "optimizer.learning_rate", "optimizer.momentum",
    "optimizer.l2", "optimizer.clip_norm", "regularizers.tightness",
    "regularizers.relu_balance",
)


@pytest.mark.parametrize("key, values", {
    "epsilon": (-1e-9, 1.001, 8.0, 1e-300, 10**400),
    "epochs": (-1.0, 1e23, 10**400),
    "schedule_epochs": (0.0, -1.0, 1e-300, 1e10),
    "batch_size": (0, -1, 1.5, True, None, 10**400, 2**31),
    "seed": (-1, 2**31, 0.5, None),
    "checkpoint_minutes": (-1.0,),
    "steps_per_dispatch": (0, 1.5, True),
    "optimizer.learning_rate": (-1e-3, 1e300, 10**400),
    "optimizer.decay": (-0.1, 1e300),
    "optimizer.momentum": (-0.1, 1.001),
    "optimizer.l2": (-1e-4,),
    "optimizer.clip_norm": (0.0, -1.0, "Lin(1, 0, 10)"),
    "dropout": (-0.1, 1.0, "Lin(0, 1, 10)", True, None, "1.5"),
    "regularizers.tightness": (-0.5, "0.5 - Lin(0, 1, 10)"),
    "regularizers.relu_balance": (-0.5, True),
    "regularizers.tolerance": (0.0, -1.0),
    "certify.examples": (0, -1, 2.5),
    "certify.memory_mb": (0, 0.5),
    "certify.attack.steps": (-1, 1.5, 18446744073709551616, 10**5000),
    "augment.crop_padding": (-1, 29, 2147483648, 1.5, True),
    "certify.attack.momentum": (-0.1,),
    "certify.attack.radius": (-0.1,),
}.items())
def test_validate_rejects_what_is_out_of_range(key, values):
  """The error names the key and value, and how to set it."""
  numbers = NOT_NUMBERS[:-1] if key in MAY_BE_TEXT else NOT_NUMBERS
  for value in (*values, *numbers):
    error = message(changed(key, value))
    assert error.startswith(f"{key} is {shown(value)}; expected a ")
    assert error.endswith(f"set it with --config.{key}=")


@pytest.mark.parametrize("key, value, expected", [
    ("epsilon", 3.0, "a number or fraction from 0 to 1, such as"),
    ("epochs", -1.0, "a number from 0 to 2147483647;"),
    ("schedule_epochs", 0.0, "a number above 0 and at most 2147483647;"),
    ("optimizer.clip_norm", 0.0,
     "a number or a schedule above 0 and at most 1e+38,"),
    ("optimizer.learning_rate", -1.0,
     "a number or a schedule of at least 0 and at most 1e+38,"),
    ("batch_size", 0, "a whole number from 1 to 2147483647;"),
    ("augment.crop_padding", 29, "a whole number from 0 to 28;"),
    ("seed", -1, "a whole number from 0 to 2147483647;"),
])
def test_validate_says_what_was_expected(key, value, expected):
  assert expected in message(changed(key, value))


@pytest.mark.parametrize("key, value, wrong, hint", [
    ("network", "ConvSmal", "network 'ConvSmal'", "'ConvSmall'"),
    ("dataset", "minst", "dataset 'minst'", "'mnist'"),
    ("goal", "Mix(Piont, Box, 0.5)", "name Piont", "Point"),
    ("optimizer.name", "adm", "optimizer 'adm'", "'adam'"),
    ("initializer", "hee", "initializer 'hee'", "'he'"),
    ("dropout", "Linn(0, 1, 5)", "dropout: unknown name Linn", "Lin"),
    ("certify.methods", ("Box", "HBx"), "method 'HBx'", "'HBox'"),
    ("certify.attacks", ("PGD", "APDG"), "certify.attacks: unknown attack 'APDG'",
     "'APGD'"),
])
def test_validate_rejects_unknown_names(key, value, wrong, hint):
  """And says what was meant."""
  error = message(changed(key, value))
  assert wrong in error
  assert f"did you mean {hint}?" in error


@pytest.mark.parametrize("value", [
    (180, 140), (140, 140), (-1, 5), (5, math.nan, 1)
])
def test_validate_rejects_milestones_that_do_not_rise(value):
  error = message(changed("optimizer.milestones", value))
  assert error.startswith(f"optimizer.milestones is {value!r}; expected rising")


@pytest.mark.parametrize("value", [("a",), (math.nan,), (math.inf,)])
def test_validate_rejects_milestones_that_are_no_numbers(value):
  assert "optimizer.milestones" in message(
      changed("optimizer.milestones", value)
  )


ANYTHING = (
    None, True, False, "x", 0, 7, 0.5, -1, -1.0, 1e400, math.nan, -math.inf,
    10**400, -10**5000, 1e-320, (), ("a",), [], ["a", 1], [None], [[]], {},
    {"a": 1}, "", " ", "\x00", "\udcff", "\n", "x" * 200_000, "9" * 5000, b"x",
    object(), lambda: 0, config_dict.ConfigDict({"a": 1}), ("a",) * 100_000,
    "Lin(0, 1, 5)", "1/0", "1e400", "~", 2**31, 2**63, 3j,
)


@pytest.mark.parametrize("key", [*keys_of(base_config()), "certify",
                                 "certify.attack", "optimizer", "augment",
                                 "regularizers"])
def test_any_value_of_any_key_is_taken_or_refused_in_a_line(key):
  """Nothing else is raised, and the line names the key or the value.

  What is taken makes a job.
  """
  taken = 0
  for value in ANYTHING:
    config = changed(key, value)
    try:
      Job.from_config(config)
      taken += 1
    except UsageError as error:
      assert str(error).isprintable() and len(str(error)) < 900
      name = key.split(".")[-1].rstrip("s")
      assert name in str(error) or shown(value) in str(error), str(error)
  assert taken < len(ANYTHING)


@pytest.mark.parametrize("value", [None, 3, "x", {}, [], {"network": "FFNN"}])
def test_what_is_no_config(value):
  assert "base_config" in message(value)


@pytest.mark.parametrize("key, meant", [
    ("lr", "optimizer.learning_rate"), ("epocs", "epochs"),
    ("learning_rate", "optimizer.learning_rate"),
    ("optimizer.epsilon", "epsilon"), ("certify.attack.stepss",
                                       "certify.attack.steps"),
    ("zzz", None),
])
def test_keys_that_no_config_has(key, meant):
  """A key that a file misspells would be left at its default in silence."""
  config = base_config()
  *groups, last = key.split(".")
  holder = config
  for group in groups:
    holder = holder[group]
  holder[last] = 1
  error = message(config)
  assert error.startswith(f"unknown config key {key!r}; ")
  hint = f"did you mean {meant!r}? set it with --config.{meant}="
  assert (hint if meant else "known: ") in error


def test_a_value_that_must_be_given():
  config = base_config()
  del config.seed
  config.seed = config_dict.required_placeholder(int)
  assert message(config) == "seed has no value; set it with --config.seed="


@pytest.mark.parametrize("words, attacks", [
    (("MIFGSM",), (MIFGSM(10, 0.1),)),
    ("MIFGSM(20), APGD(5)", (MIFGSM(20), APGD(5))),
    (["APGD(5)", "MIFGSM()"], (APGD(5), MIFGSM(10, 0.1))),
    ((), ()),
    (("PGD(0)",), ()),
])
def test_attacks_are_those_of_the_keys_where_they_say_nothing(words, attacks):
  config = changed("certify.attacks", words)
  config.certify.attack.steps, config.certify.attack.radius = 10, 1.0
  assert attacks_of(Job.from_config(config).config) == attacks


def test_methods_may_be_text():
  """As a list in the job, each once."""
  for given in ("HBox, Box", ("HBox", "Box"), ["HBox", "Box", "HBox"]):
    job = Job.from_config(changed("certify.methods", given))
    assert tuple(job.config.certify.methods) == ("HBox", "Box")


def test_a_clock_that_float32_cannot_tell():
  config = changed("epochs", 1e-40)
  config.schedule_epochs = 10.0
  assert "epochs is 1e-40 while schedule_epochs is 10.0" in message(config)


OLD = {
    "network": "FFNN",
    "epsilon": 0.1,
    "data_dir": "here",
    "checkpoint": None,
    "checkpoint_minutes": 5.0,
    "optimizer": {"name": "adam", "l2": 0.0, "deep": {"a": 1, "b": 2}},
    "certify": {"examples": 5},
}


@pytest.mark.parametrize("update, expected", [
    ({}, []),
    ({"epsilon": 0.2}, ["epsilon"]),
    ({"network": "ConvMed", "epsilon": 0.2}, ["epsilon", "network"]),
    ({"seed": 1}, ["seed"]),
    ({"optimizer": {"name": "sgd", "l2": 0.0, "deep": {"a": 1, "b": 3}}},
     ["optimizer.deep.b", "optimizer.name"]),
    ({"optimizer": {"name": "adam", "l2": 0.0, "deep": 7}},
     ["optimizer.deep"]),
    ({"data_dir": "there", "checkpoint": "x", "checkpoint_minutes": 1.0,
      "steps_per_dispatch": 4, "certify": {"examples": 6}}, []),
    # Free keys are free at the top only.
    ({"optimizer": {"name": "adam", "l2": 0.0, "deep": {"a": 1, "b": 2},
                    "data_dir": 1}}, ["optimizer.data_dir"]),
])
def test_differences(update, expected):
  """The keys that decide the training, in order, whichever config is old."""
  new = OLD | update
  assert differences(OLD, new) == expected
  assert differences(new, OLD) == expected


def test_differences_of_missing_keys():
  """A key that one of the two lacks is a difference."""
  new = {key: value for key, value in OLD.items() if key != "network"}
  assert differences(OLD, new) == differences(new, OLD) == ["network"]


def test_describe_differences():
  """Old and new values; at most four keys, then a count."""
  old = {"a": 1, "b": {"c": 2.5}, "d": "x", "e": 0, "f": 0, "g": 0}
  new = {"a": 2, "b": {"c": 3.5}, "d": "y", "e": 1, "f": 1, "g": 1}
  assert describe_differences(["a", "b.c"], old, new) == (
      "a (1, now 2), b.c (2.5, now 3.5)"
  )
  assert describe_differences(["a", "b.c", "d", "e", "f", "g"], old, new) == (
      "a (1, now 2), b.c (2.5, now 3.5), d (x, now y), e (0, now 1), and 2 more"
  )
