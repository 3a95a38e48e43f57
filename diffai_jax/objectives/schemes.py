"""Training schemes by name: the paper's Table 2, and methods published since.

A scheme is a text of the objective language, with numbers left open. Epochs are
the paper's, for runs of 200: a config's `schedule_epochs` fits them to others.
"""

import dataclasses

from diffai_jax.goals.base import Goal
from diffai_jax.objectives.diffai import translation
from diffai_jax.objectives.dsl import parse
from diffai_jax.objectives.syntax import ObjectiveError
from diffai_jax.text.terms import Number


@dataclasses.dataclass(frozen=True)
class Scheme:
  """A text with a place for each parameter.

  Attributes:
    template: the text; a parameter stands in it as {name}.
    source: where it was published.
    parameters: their names, and their defaults; None must be given.
  """

  template: str
  source: str
  parameters: tuple[tuple[str, Number | None], ...] = ()

  def text(self, numbers: dict[str, str]) -> str:
    """The text, with the parameters' numbers in their places."""
    return self.template.format(**numbers)


_PAPER = "Mirman et al. 2019, Table 2"
_K = (("k", None),)
_EXPRESSIVE = (
    "De Palma et al. 2024, Expressive losses for verified robustness via"
    " convex combinations"
)


def _mix(first: str, second: str, end: float, ramp: str) -> str:
  return f"Mix({first}, {second}, Lin(0, {end}, {ramp}))"


def _sample(ramp: str, pick: str = "0.5, Normal") -> str:
  return f"Sample(Lin(0, 1, {ramp}), {pick}, Box)"


def _lpa(ramp: str, pick: str = "0.5, Normal") -> str:
  return f"Sub(Lin(0, 1, {ramp}), {_sample(ramp, pick)})"


_ADVERSARIAL = "Sub(Lin(0, 1, 20, 20), IFGSM({k}))"
_SMALL, _LARGE, _DENSE = "150, 10", "200, 40", "150, 50"
# A random point of the ball, and one step that is clipped to it.
_ONE_STEP = "PGD(1, 10)"
_SMOOTH = "Smooth(0, 1, 60)"
# Interval bounds alone while ε grows.
_TAPS = "Mix(Box, TAPS({split}, {scale}), Until(60, 0, 1))"
_CONNECTING = (
    "Mao et al. 2023, Connecting certified and adversarial training"
)

SCHEMES: dict[str, Scheme] = {
    "Baseline": Scheme(
        _mix("Point", "Sub(Lin(0, 1, 150, 10), Box)", 0.5, _SMALL), _PAPER
    ),
    "InSamp": Scheme(_mix("Point", _sample(_SMALL), 0.5, _SMALL), _PAPER),
    "InSampLPA": Scheme(_mix("Point", _lpa(_SMALL), 0.5, _SMALL), _PAPER),
    "AdvIS": Scheme(
        _mix(_ADVERSARIAL, _sample(_SMALL), 0.5, _SMALL), _PAPER, _K
    ),
    "AdvISLPA": Scheme(
        _mix(_ADVERSARIAL, _lpa(_SMALL), 0.5, _SMALL), _PAPER, _K
    ),
    "AdvISLPAUS": Scheme(
        _mix(_ADVERSARIAL, _lpa(_SMALL, "1, Uniform"), 0.35, _SMALL),
        _PAPER, _K,
    ),
    "Baseline_S18": Scheme(
        _mix("Point", "Sub(Lin(0, 1, 200, 40), Box)", 0.5, _LARGE), _PAPER
    ),
    "InSamp_S18": Scheme(_mix("Point", _sample(_LARGE), 0.5, _LARGE), _PAPER),
    "AdvIS_S18": Scheme(
        _mix(_ADVERSARIAL, _sample(_LARGE), 0.5, _LARGE), _PAPER, _K
    ),
    "AdvISLPA_R18": Scheme(
        _mix(_ADVERSARIAL, _lpa(_LARGE, "1, Uniform"), 0.5, _LARGE), _PAPER, _K
    ),
    "InSampLPA_R34": Scheme(
        _mix("Point", _lpa(_LARGE, "1, Uniform"), 0.5, _LARGE), _PAPER
    ),
    "AdvISLPA_D100": Scheme(
        _mix("IFGSM({k})", _lpa(_DENSE, "1, Uniform"), 0.5, _DENSE), _PAPER, _K
    ),
    "BiAdv_L": Scheme(
        _mix(
            "IFGSM(2)",
            "BiSample(Sub(Lin(0, 1, 150, 30), IFGSM(3)), Box)",
            0.6, "200, 30",
        ),
        _PAPER,
    ),
    "IBP": Scheme(
        "Mix(Point, Sub(Lin(0, 1, {ramp}, {hold}), Box),"
        " Lin(0, 1 - {clean}, {ramp}, {hold}))",
        "Gowal et al. 2018, On the effectiveness of interval bound propagation"
        " for training verifiably robust models",
        (("clean", 0.5), ("ramp", 33), ("hold", 7)),
    ),
    "SABR": Scheme(
        f"Sub({_SMOOTH}, SmallBox({{share}}, PGD(8, 0.5), Box))",
        "Mueller et al. 2023, Certified training: small boxes are all you need",
        (("share", 0.4),),
    ),
    "SABR_Shrunk": Scheme(
        f"Sub({_SMOOTH}, SmallBox({{share}}, PGD(8, 0.5),"
        " Shrunk({factor}, Box)))",
        "Mueller et al. 2023, Certified training: small boxes are all you need",
        (("share", 0.1), ("factor", 0.8)),
    ),
    "CROWN_IBP_Ramp": Scheme(
        "Sub(Lin(0, 1, 50, 10), Mix(Point,"
        " CROWN_IBP(1 - Lin(0, 1 - {end}, 50, 10), {fusion}),"
        " Lin(0, 1 - {clean}, 50, 10)))",
        "Zhang et al. 2020, Towards stable and efficient training of verifiably"
        " robust neural networks; fusion: Xu et al. 2020, Automatic perturbation"
        " analysis for scalable certified robustness and beyond",
        (("clean", 0), ("end", 0), ("fusion", 0)),
    ),
    "TAPS_IBP": Scheme(
        f"Sub({_SMOOTH}, {_TAPS})", _CONNECTING, (("split", 1), ("scale", 4)),
    ),
    "STAPS": Scheme(
        f"Sub({_SMOOTH}, SmallBox({{share}}, PGD(8, 0.5), {_TAPS}))",
        _CONNECTING, (("share", 0.4), ("split", 1), ("scale", 4)),
    ),
    "MTL_IBP": Scheme(
        f"Sub({_SMOOTH}, Mix({_ONE_STEP}, Box, {{weight}}))",
        _EXPRESSIVE, (("weight", 0.5),),
    ),
    "CC_IBP": Scheme(
        f"Sub({_SMOOTH}, MixMargins({_ONE_STEP}, Box, {{weight}}))",
        _EXPRESSIVE, (("weight", 0.5),),
    ),
    "Exp_IBP": Scheme(
        f"Sub({_SMOOTH}, MixLogs({_ONE_STEP}, Box, {{weight}}))",
        _EXPRESSIVE, (("weight", 0.5),),
    ),
}


def objective(text: str) -> Goal:
  """The goal that a text or the name of a scheme stands for.

  Raises:
    ObjectiveError: if it is neither; lists the names that are known. For a
      text of DiffAI v3 it says how to write it here.
  """
  try:
    return parse(text, SCHEMES)
  except ObjectiveError as error:
    ours = translation(text)
    if ours is None:
      raise
    raise ObjectiveError(
        f"this is DiffAI v3's language; here it is {ours}", text, error.column
    ) from None
