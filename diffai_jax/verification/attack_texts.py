"""Attacks of certification as text: "MIFGSM", "APGD(100, DLR, restarts=5)"."""

import ast
from collections.abc import Sequence
import dataclasses

from diffai_jax.attacks import APGD, MIFGSM, PGD, APGDTargeted, StepwiseAttack
from diffai_jax.objectives import ObjectiveError
from diffai_jax.objectives.syntax import syntax_tree
from diffai_jax.text.lists import several
from diffai_jax.text.suggest import unknown_name
from diffai_jax.types import UsageError, shown

ATTACKS: dict[str, type[StepwiseAttack]] = {
    attack.__name__: attack for attack in (MIFGSM, PGD, APGD, APGDTargeted)
}


@dataclasses.dataclass(frozen=True)
class Attack:
  """MI-FGSM as the paper evaluates with (section 5), by all its steps' reach.

  Attributes:
    steps: number of steps; 0 attacks nothing.
    momentum: of the normalised gradients.
    radius: how far all steps together could go, in units of ε.
  """

  steps: int = 20
  momentum: float = 0.8
  radius: float = 2.0

  def stepwise(self) -> StepwiseAttack:
    """The same with its step's size."""
    step = self.radius / max(self.steps, 1)
    return MIFGSM(int(self.steps), float(step), float(self.momentum))


def parse(given: str | StepwiseAttack) -> StepwiseAttack:
  """The attack that a text stands for; an attack is itself.

  Arguments are numbers, and names of losses; they stand in their order or have
  their name before them.

  Raises:
    UsageError: in one line, if it is neither.
  """
  if not isinstance(given, (str, StepwiseAttack)):
    raise unknown_name("attack", given, ATTACKS)
  attack = given
  if isinstance(given, str):
    try:
      tree = syntax_tree(given, f"an attack: {', '.join(ATTACKS)}")[2]
    except ObjectiveError as error:
      raise UsageError(f"attack {shown(given)}: {error.reason}") from None
    attack = _attack(tree, given)
  try:
    attack.check()
  except ValueError as error:
    raise UsageError(f"attack {shown(str(given))}: {error}") from None
  return attack


def parse_all(given: Sequence[str | StepwiseAttack]) -> tuple[StepwiseAttack, ...]:
  """Attacks, each once, from a sequence of texts and attacks.

  Raises:
    UsageError: if it is one text, no sequence, or one of them is no attack.
  """
  each = several(given, StepwiseAttack, "attacks", "('MIFGSM', 'APGD(100)')")
  return tuple(dict.fromkeys(map(parse, each)))


def _attack(tree: ast.expr, text: str) -> StepwiseAttack:
  """The attack of a syntax tree: NAME or NAME(ARGUMENT, ...)."""
  arguments, by_name, name = [], [], tree
  if isinstance(tree, ast.Call):
    arguments, by_name, name = tree.args, tree.keywords, tree.func
  if not isinstance(name, ast.Name) or name.id not in ATTACKS:
    raise unknown_name(
        "attack", name.id if isinstance(name, ast.Name) else text, ATTACKS
    )
  kind = ATTACKS[name.id]
  names = [field.name for field in dataclasses.fields(kind)]
  given = dict(zip(names, arguments))
  for keyword in by_name:
    if keyword.arg not in names or keyword.arg in given:
      raise UsageError(
          f"attack {shown(text)}: {name.id} takes {', '.join(names)}, each once"
      )
    given[keyword.arg] = keyword.value
  if len(arguments) > len(names):
    raise UsageError(
        f"attack {shown(text)}: {name.id} takes {', '.join(names)}, and has"
        f" {len(arguments)} arguments"
    )
  return kind(**{key: _value(node, text) for key, node in given.items()})


def _value(node: ast.expr, text: str) -> int | float | str:
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    return node.value
  raise UsageError(
      f"attack {shown(text)}: its arguments are numbers of at least 0 and names"
      f" of losses"
  )
