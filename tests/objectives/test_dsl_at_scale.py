"""The parser against random objectives and mutated texts: `--texts` of each."""

import builtins

import numpy as np
import pytest
import texts

from diffai_jax.goals import Goal
from diffai_jax.objectives import ObjectiveError, objective, parse
from diffai_jax.objectives.syntax import MAX_LENGTH


@pytest.fixture(name="count")
def _count(request):
  return request.config.getoption("--texts")


def test_generated_objectives_read_back(count):
  """Each prints as text that parses to an equal one, and is not refused."""
  rng = np.random.default_rng(0)
  kinds, lengths = set(), []
  for _ in range(count):
    goal = texts.draw_goal(rng)
    text = str(goal)
    if len(text) > MAX_LENGTH:
      continue
    again = parse(text)
    assert again == goal and hash(again) == hash(goal), text
    assert str(again) == text
    kinds.update(word for word in text.replace("(", " ").split())
    lengths.append(len(text))
  assert len(lengths) > 0.99 * count
  assert {"Sample", "Coin", "Weighted", "MixLogs", "MIFGSM", "Attacked,",
          "Staircase", "linear", "AdvDom", "+", "*"} <= kinds


def test_mutated_texts_parse_or_are_refused_in_one_line(monkeypatch, count):
  """Nothing else happens: no other error, and nothing is executed."""
  calls = []
  monkeypatch.setattr(
      builtins, "eval", lambda *a: calls.append(a), raising=True
  )
  rng = np.random.default_rng(1)
  accepted = 0
  for _ in range(count):
    text = texts.mutate(rng, str(texts.draw_goal(rng, depth=2)))
    try:
      goal = objective(text)
    except ObjectiveError as error:
      assert len(str(error).splitlines()) == 1, text
      assert f"(column {error.column})" in str(error)
      assert 1 <= error.column <= len(text) + 1, text
    else:
      accepted += 1
      assert isinstance(goal, Goal)
      assert parse(str(goal)) == goal, text
  assert 0.02 * count < accepted < 0.9 * count
  assert not calls


@pytest.mark.parametrize("text", [
    "(" * 10**6, "Point" + " " * 10**6, "-" * 10**6 + "1", "1+" * 5 * 10**5,
    "Sub(" * 250_000, "9" * 10**6, "Lin(0," * 166_000, "\x00" * 10**6,
    "Mix(Point, Box, " + "0." + "1" * 10**6 + ")",
], ids=lambda text: text[:8])
def test_a_megabyte_is_refused_for_its_length(text):
  """Without looking at more than the beginning."""
  with pytest.raises(ObjectiveError):
    objective(text)
