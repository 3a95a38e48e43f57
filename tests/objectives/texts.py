"""Random objectives of every constructor, and random edits of their texts."""

from diffai_jax import goals, schedules
from diffai_jax.schedules import arithmetic
from diffai_jax.goals.points import Attacked, Original
from diffai_jax.objectives.schemes import SCHEMES, objective
from diffai_jax.schedules.optax_schedules import OptaxSchedule

_PIECES = (
    list("(),.+-*/= _0123456789eEjxPSubMaLlHB'\"#;:[]{}!%^&|<>~@\\\n\t")
    + ["Lin(", "Box", "Sub(", "1e", "0x", "if ", " or ", "lambda ", "**",
       "//", "==", "None", "__", "w=", "steps=", "\u00e4", "\u2028", "\x00",
       "LinMix(a=", "__import__('os')", "9" * 40]
)


def draw_number(rng, low, high):
  kind = rng.integers(4)
  if kind == 0 and int(high) > int(low):
    return int(rng.integers(int(low), int(high) + 1))
  if kind == 1:
    return float(f"{rng.uniform(low, high):.2g}".replace("e+", "e"))
  return float(rng.uniform(low, high))


def draw_value(rng, low=0.0, high=1.0, depth=0):
  """A number or schedule within [low, high]."""
  choice = rng.integers(12)
  number = lambda: min(max(draw_number(rng, low, high), low), high)
  epochs = lambda: draw_number(rng, 0, 300)
  if choice < 3 or depth > 2:
    return number()
  inner = lambda: draw_value(rng, low, high, depth + 1)
  if choice < 5:
    return schedules.Lin(number(), number(), epochs(), epochs())
  if choice == 5:
    return schedules.Smooth(number(), number(), epochs())
  if choice == 6:
    return schedules.Until(epochs(), inner(), inner())
  if choice == 7:
    return schedules.Clip(inner(), low, high)
  if choice == 8:
    return schedules.Staircase(inner())
  if choice == 9 and (low, high) == (0, 1):
    return schedules.Complement(inner())
  if choice == 10:
    ends = (("init_value", number()), ("end_value", number()),
            ("transition_steps", 10))
    return OptaxSchedule("linear", ends)
  share = draw_number(rng, 0, 1)
  one = arithmetic.combine(arithmetic.Times, share, inner())
  other = arithmetic.combine(
      arithmetic.Times, arithmetic.combine(arithmetic.Minus, 1, share), inner()
  )
  return arithmetic.combine(arithmetic.Plus, one, other)


def draw_goal(rng, depth=0, single=False, shared=False, margins=False):
  """A goal that `check` accepts, of any constructor.

  Args:
    single: whether it must be of one point or element.
    shared: whether an AdvDom or BiSample is around it.
    margins: whether its loss must be that of its margins.
  """
  leaves = [
      goals.Point(), goals.Normal(), goals.Uniform(), *goals.REGIONS.values(),
      goals.FGSM(draw_value(rng)), goals.IFGSM(int(rng.integers(0, 9))),
      goals.PGD(int(rng.integers(0, 9)), draw_value(rng),
                int(rng.integers(1, 4))),
      goals.MIFGSM(momentum=draw_value(rng)),
      goals.CROWN_IBP(draw_value(rng), int(rng.integers(0, 2))),
      goals.Shrunk(float(rng.uniform(0.1, 1)), goals.Box()),
      *([] if margins else [goals.TAPS(
          (int(rng.integers(0, 9)), "Dense_0", "layers_2/layers_0")[
              rng.integers(3)
          ], draw_value(rng, 0, 5), connector=float(rng.uniform(0.1, 1)),
      )]),
  ] + ([Original(), Attacked()] if shared else [])
  if depth > 3 or rng.random() < 0.2:
    return leaves[rng.integers(len(leaves))]
  inner = lambda **keywords: draw_goal(
      rng, depth + 1,
      **{"single": single, "shared": shared, "margins": margins} | keywords
  )
  choice = rng.integers(5 if single else 10)
  if choice == 0:
    kind = (goals.Sub, goals.NormalSub)[rng.integers(2)]
    return kind(draw_value(rng, 0, 2), inner())
  if choice == 1:
    return goals.Sample(
        draw_value(rng), draw_value(rng), inner(single=True), inner()
    )
  if choice == 2 and rng.random() < 0.5:
    return goals.SmallBox(draw_value(rng), inner(single=True), inner())
  if choice == 2:
    return goals.BiSample(inner(single=True), inner(shared=True))
  if choice == 3:
    return goals.AdvDom(inner(single=True), inner(shared=True))
  if choice == 4:
    names = [n for n, s in SCHEMES.items() if not single or n[:4] == "SABR"]
    name = names[rng.integers(len(names))]
    needed = ("k", None) in SCHEMES[name].parameters
    return objective(name + ("(2)" if needed else ""))
  if choice == 5:
    return goals.Mix(inner(), inner(), draw_value(rng))
  if choice == 6:
    return goals.MixLogs(inner(), inner(), draw_value(rng))
  if choice == 7:
    return goals.MixMargins(
        inner(single=True, margins=True), inner(single=True, margins=True),
        draw_value(rng),
    )
  kind = (goals.Weighted, goals.Coin)[rng.integers(2)]
  return kind(((inner(), 1.5),) + tuple(
      (inner(), draw_value(rng)) for _ in range(rng.integers(0, 3))
  ))


def mutate(rng, text: str) -> str:
  """One to four random edits."""
  for _ in range(rng.integers(1, 5)):
    at = int(rng.integers(0, len(text) + 1))
    to = int(rng.integers(0, len(text) + 1))
    piece = _PIECES[rng.integers(len(_PIECES))]
    edit = rng.integers(5)
    if edit == 0:
      text = text[:at] + piece + text[at:]
    elif edit == 1:
      text = text[:at] + text[at + int(rng.integers(1, 9)):]
    elif edit == 2:
      text = text[:at] + piece + text[at + 1:]
    elif edit == 3:
      text = text[at:] + text[:at]
    else:
      text = text[:at] + text[min(at, to):max(at, to)] + text[at:]
  return text
