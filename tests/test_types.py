"""Values in messages: short, printable, whatever a user gave."""

import math

from ml_collections import config_dict
import numpy as np
import pytest

from diffai_jax.types import LONGEST_VALUE, on_one_line, reason, shortened, shown


class _Broken:

  def __repr__(self):
    raise RuntimeError("no text")


def _nested(depth: int) -> list:
  inner = []
  for _ in range(depth):
    inner = [inner]
  return inner


def _endless() -> list:
  ring = []
  ring.append(ring)
  return ring


@pytest.mark.parametrize("value", [
    None, True, 0, -7, 10**30, 0.1, -math.inf, math.nan, 1e400, "abc", "a'b",
    "", "\n", "\x00", "\udcff", (), (1,), ("Box", "HBox"), [1, 2.5], {},
    {"a": {"b": 1}}, b"ab", {3},
])
def test_small_values_are_as_repr_has_them(value):
  assert shown(value) == repr(value)


@pytest.mark.parametrize("value", [
    "x" * 10**6, b"x" * 10**6, "\x1b" * 10**6, list(range(10**6)),
    {number: "y" * 10**5 for number in range(1000)}, _nested(10_000),
    _endless(), 10**400, -10**400, 10**100_000, [10**5000], _Broken(),
    np.zeros((100, 100)), config_dict.ConfigDict({"a": {"b": 10**5000}}),
    object(), print, "\u202e" * 99,
], ids=lambda _: "value")
def test_any_value_is_short_and_printable(value):
  """Also where `repr` raises, never ends, or takes megabytes."""
  text = shown(value)
  assert 0 < len(text) <= LONGEST_VALUE
  assert text.isprintable()


@pytest.mark.parametrize("value, text", [
    (10**400, "1e400 or so"), (-10**5000, "-1e5000 or so"),
    ("x" * 200, "'" + "x" * 96 + "..."),
    (config_dict.ConfigDict({"a": {"b": 1}}), "{'a': {'b': 1}}"),
], ids=lambda _: "value")
def test_what_is_cut(value, text):
  """Numbers by their size, texts at their end."""
  assert shown(value) == text


@pytest.mark.parametrize("text, expected", [
    ("plain ε text", "plain ε text"), ("a\nb\tc", r"a\nb\tc"),
    ("\x1b[31m", r"\x1b[31m"), ("\udcff", r"\udcff"), ("\u2028", r"\u2028"),
    ("\U000e0001", r"\U000e0001"),
])
def test_on_one_line(text, expected):
  """What prints stays; the rest is escaped."""
  assert on_one_line(text) == expected


def test_shortened():
  """At most that long, the ellipsis included."""
  assert shortened("abcdef", 6) == "abcdef"
  assert shortened("abcdefg", 6) == "abc..."


@pytest.mark.parametrize("error, text", [
    (ValueError("a\nb"), "a"), (MemoryError(), "MemoryError"),
    (KeyError("x"), "'x'"), (ValueError("\n\n  b\x1b[0m\nc"), r"b\x1b[0m"),
    (ValueError("x" * 999), "x" * 197 + "..."),
])
def test_reasons_are_a_line(error, text):
  assert reason(error) == text
