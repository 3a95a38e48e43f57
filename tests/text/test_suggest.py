"""Unknown names: the nearest known one, and what there is."""

import pytest

from diffai_jax.text.suggest import nearest, unknown_name
from diffai_jax.types import UsageError

NAMES = ("Box", "HBox", "Point", "ConvSmall", "ConvMed", "ResNetTiny")


@pytest.mark.parametrize("name, expected", [
    ("Piont", "Point"),
    ("point", "Point"),
    ("POINT", "Point"),
    ("box", "Box"),
    ("hbox", "HBox"),
    ("ConvSmal", "ConvSmall"),
    ("convmedium", "ConvMed"),
    ("resnet_tiny", "ResNetTiny"),
    ("zzz", None),
    ("", None),
    ("12345", None),
])
def test_nearest(name, expected):
  """The likely one, whatever its case; None if nothing is like it."""
  assert nearest(name, NAMES) == expected


def test_nearest_takes_any_iterable():
  """A dict, a generator, nothing at all."""
  assert nearest("mnits", {"mnist": 1, "cifar10": 2}) == "mnist"
  assert nearest("mnits", (name for name in ["cifar10", "mnist"])) == "mnist"
  assert nearest("mnits", ()) is None


def test_the_error_says_what_was_meant_and_what_there_is():
  error = unknown_name("network", "convsmal", NAMES)
  assert isinstance(error, UsageError)
  assert str(error) == (
      "unknown network 'convsmal'; did you mean 'ConvSmall'? known: Box, HBox,"
      " Point, ConvSmall, ConvMed, ResNetTiny"
  )


def test_the_error_without_a_near_name():
  """Makes no guess, and reads a generator of names only once."""
  error = unknown_name("dataset", "zzz", (n for n in ("mnist", "digits")))
  assert str(error) == "unknown dataset 'zzz'; known: mnist, digits"


@pytest.mark.parametrize("name", ["a\nb", "Po\rint", "\u2028", "\x00"])
def test_the_error_is_one_line(name):
  """Whatever the name."""
  assert len(str(unknown_name("goal", name, NAMES)).splitlines()) == 1
