"""Attacks as text: all of them, and every mistake in one line."""

import dataclasses
import pathlib

import pytest

from diffai_jax.attacks import APGD, MIFGSM, PGD, APGDTargeted
from diffai_jax.types import UsageError
from diffai_jax.verification import attack_texts
from diffai_jax.verification.attack_texts import Attack, parse, parse_all


@pytest.mark.parametrize("text, attack, printed", [
    ("MIFGSM", MIFGSM(), None),
    ("MIFGSM(20, 0.1, 0.8)", MIFGSM(), "MIFGSM"),
    ("MIFGSM(40, momentum=1)", MIFGSM(40, momentum=1), None),
    ("PGD(40)", PGD(40), None),
    ("PGD(40, restarts=10)", PGD(40, restarts=10), None),
    (" APGD( ) ", APGD(), "APGD(100)"),
    ("APGD(50, DLR, 5)", APGD(50, "DLR", 5), None),
    ("APGD(loss=DLR)", APGD(loss="DLR"), "APGD(100, loss=DLR)"),
    ("APGDTargeted(100, targets=4)", APGDTargeted(targets=4), None),
    ("APGDTargeted(100, restarts=2, targets=4)", APGDTargeted(100, "DLR", 2, 4),
     None),
])
def test_texts_and_what_they_print_as(text, attack, printed):
  assert parse(text) == attack == parse(attack)
  assert str(parse(text)) == (printed or text)
  assert parse(str(attack)) == attack


def test_the_papers_attack_by_its_reach():
  """All steps together go 2ε, whatever their number."""
  assert Attack().stepwise() == MIFGSM()
  assert Attack(100, 0.5, 4.0).stepwise() == MIFGSM(100, 0.04, 0.5)


@pytest.mark.parametrize("given, message", [
    ("APDG", "unknown attack 'APDG'; did you mean 'APGD'?"),
    ("Box", "unknown attack 'Box'"),
    (3, "unknown attack 3"),
    ("", "empty; expected an attack: MIFGSM, PGD"),
    ("APGD(", "attack 'APGD.': "),
    ("APGD(1, CE, 2, 3)", "takes steps, loss, restarts, and has 4 arguments"),
    ("APGD(1, steps=2)", "takes steps, loss, restarts, each once"),
    ("APGD(radius=2)", "takes steps, loss, restarts, each once"),
    ("APGD(**a)", "takes steps, loss, restarts, each once"),
    ("APGD(DLR)", "steps is 'DLR'; expected a whole number from 0"),
    ("APGD(1.5)", "steps is 1.5; expected a whole number"),
    ("APGD(-1)", "arguments are numbers of at least 0"),
    ("APGD(10, MSE)", "the loss is 'MSE'; expected CE or DLR"),
    ("APGD(10, 3)", "the loss is 3; expected CE or DLR"),
    ("APGD(10, CE, 0)", "restarts is 0; expected a whole number from 1"),
    ("APGDTargeted(targets=0)", "targets is 0; expected a whole number from 1"),
    ("PGD(10, CE)", "step is 'CE'; expected a finite number"),
    ("MIFGSM(1, 1e999)", "step is inf; expected a finite number"),
    ("a.b(3)", "unknown attack 'a.b.3.'"),
    (APGD(steps=-3), "attack 'APGD.-3.': steps is -3"),
])
def test_what_is_no_attack_is_one_line(given, message):
  with pytest.raises(UsageError, match=message) as caught:
    parse(given)
  assert "\n" not in str(caught.value)


def test_sequences():
  assert parse_all(["PGD", "APGD(5)", PGD()]) == (PGD(), APGD(5))
  assert parse_all(()) == ()
  for given in ("PGD", PGD(), 3):
    with pytest.raises(UsageError, match="expected a sequence of attacks"):
      parse_all(given)
  assert set(attack_texts.ATTACKS) == {"MIFGSM", "PGD", "APGD", "APGDTargeted"}


@pytest.mark.parametrize("name", attack_texts.ATTACKS)
def test_the_readme_has_each_with_its_arguments(name):
  fields = dataclasses.fields(attack_texts.ATTACKS[name])
  words = ", ".join(f"{field.name}={field.default}" for field in fields)
  readme = pathlib.Path(__file__).parents[2] / "README.md"
  assert f"| `{name}({words})` |" in readme.read_text("utf-8")
