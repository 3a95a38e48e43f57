"""Texts of DiffAI v3's language, written in ours.

Its goals are constructor calls with short argument names: `LinMix(a=IFGSM(k=2),
b=InSamp(Lin(0,1,150,10)), bw=Lin(0,0.5,150,10))`. Nothing is evaluated here:
the syntax tree is read with a table of its constructors. docs/porting.md lists
all of them, and where ours differ.
"""

import ast
from collections.abc import Sequence

from diffai_jax.objectives.syntax import MAX_LENGTH, expression
from diffai_jax.text.terms import number_text


class _Untranslatable(Exception):
  """The text is not of DiffAI v3's language."""


def translation(text: str) -> str | None:
  """How a text of DiffAI v3 is written here, or None if it is none.

  A width w of one goal, which DiffAI v3 gives in pixels, becomes
  `Sub(w / epsilon, …)`, with the word epsilon for the run's own.
  """
  if len(text) > MAX_LENGTH:
    return None
  try:
    tree = expression(text)
    return _goal(tree) if _is_theirs(tree) else None
  except (_Untranslatable, SyntaxError, RecursionError, MemoryError,
          ValueError, OverflowError):
    return None


def _is_theirs(tree: ast.expr) -> bool:
  """Whether something in a text is DiffAI v3's and not ours."""
  for node in ast.walk(tree):
    if isinstance(node, ast.keyword) and node.arg in _KEYWORDS:
      return True
    if isinstance(node, ast.Name) and node.id in _ONLY_THEIRS:
      return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
      count = len(node.args) + len(node.keywords)
      if (node.func.id, bool(count)) == ("InSamp", True):
        return True
      if (node.func.id, count) == ("Mix", 4):
        return True
      if node.func.id in _REGIONS and count:  # A width.
        return True
  return False


_ONLY_THEIRS = {
    "AdvInclusion", "BiAdv", "DList", "DProb", "HNIPS", "InclusionSample",
    "LinMix", "MI_FGSM", "MixLin", "NormalAdv", "NormalPoint", "PointA",
    "PointB", "ZNIPS",
}
_KEYWORDS = {
    "a", "ap", "aw", "b", "bp", "bw", "k", "mu", "normal", "quant", "r",
    "restart", "should_end", "sub", "w",
}
_REGIONS = {
    "Box": "Box", "HBox": "HBox", "HSwitch": "HSwitch", "HSmooth": "HSmooth",
    "HNIPS": "HDeepZ", "ZBox": "ZBox", "ZSwitch": "ZSwitch",
    "ZSmooth": "ZSmooth", "ZNIPS": "ZDeepZ",
}
_POINTS = {"Point": "Point", "PointA": "Original", "PointB": "Attacked"}


def _arguments(node: ast.expr, names: Sequence[str]) -> dict[str, ast.expr]:
  """What a constructor is called with, by the names of its parameters."""
  if isinstance(node, ast.Name):
    return {}
  given = dict(zip(names, node.args))
  given |= {keyword.arg: keyword.value for keyword in node.keywords}
  if len(given) != len(node.args) + len(node.keywords) or not (
      given.keys() <= set(names) | {"w"}
  ):
    raise _Untranslatable
  return {name: given[name] for name in (*names, "w") if name in given}


def _name(node: ast.expr) -> str:
  called = node.func if isinstance(node, ast.Call) else node
  if not isinstance(called, ast.Name):
    raise _Untranslatable
  return called.id


def _goal(node: ast.expr | None, default: str = "") -> str:
  """A goal in our language; `default` where there is none."""
  if node is None:
    return default
  name = _name(node)
  if name in _POINTS:
    return _POINTS[name]
  if name in _REGIONS:
    return _within(_arguments(node, ("w",)), _REGIONS[name])
  if name in ("DList", "DProb"):
    if not isinstance(node, ast.Call) or not node.args or node.keywords:
      raise _Untranslatable
    pairs = [_pair(argument) for argument in node.args]
    kind = "Weighted" if name == "DList" else "Coin"
    return f"{kind}({', '.join(pairs)})"
  if name in _TRANSLATIONS:
    names, translate = _TRANSLATIONS[name]
    return translate(_arguments(node, names))
  raise _Untranslatable


def _pair(node: ast.expr) -> str:
  if not isinstance(node, ast.Tuple) or len(node.elts) != 2:
    raise _Untranslatable
  return f"({_goal(node.elts[0])}, {_value(node.elts[1])})"


def _within(given: dict, goal: str) -> str:
  """The goal in a box of the width w, if one is given."""
  if "w" not in given:
    return goal
  width = given["w"]
  if isinstance(width, ast.Call) and _name(width) == "Normal":
    # A schedule that draws |N(0, 1)|·c.
    share = _share({"w": _only_argument(width)})
    return f"NormalSub({share}, {goal})"
  return f"Sub({_share(given)}, {goal})"


def _share(given: dict) -> str:
  """The width w as a share of ε; 1 if none is given."""
  return f"{_value(given['w'])} / epsilon" if "w" in given else "1"


def _only_argument(node: ast.Call) -> ast.expr:
  if len(node.args) != 1 or node.keywords:
    raise _Untranslatable
  return node.args[0]


def _ifgsm(given: dict) -> str:
  """IFGSM: k steps of 1/k; with restarts it is PGD of reach 1."""
  if "restart" in given and not _is(given["restart"], None):
    return _attack(given, 1, 5, 0)
  return _within(given, f"IFGSM({_value(given.get('k'), '5')})")


def _attack(given: dict, reach: float, steps: int, momentum: float) -> str:
  """MI_FGSM and PGD: k steps of r/k, from the center unless it restarts."""
  reach, steps, momentum = (
      float(_value(given[name])) if name in given else default
      for name, default in (("r", reach), ("k", steps), ("mu", momentum))
  )
  step = number_text(reach / max(steps, 1))
  restart = given.get("restart")
  if restart is not None and not _is(restart, None):
    starts = int(float(_value(restart)))
    each = max(int(steps) // max(starts, 1), 1)
    if not momentum:
      return _within(given, f"PGD({each}, {step}, {starts})")
    return _within(
        given, f"MIFGSM({each}, {step}, {number_text(momentum)}, {starts})"
    )
  momentum = number_text(momentum)
  return _within(given, f"MIFGSM({number_text(steps)}, {step}, {momentum})")


def _mix(given: dict) -> str:
  first, second = _goal(given.get("a"), "Point"), _goal(given.get("b"), "Box")
  weights = _value(given.get("aw"), "1"), _value(given.get("bw"), "0.1")
  return f"Weighted(({first}, {weights[0]}), ({second}, {weights[1]}))"


def _lin_mix(given: dict) -> str:
  if "aw" in given:  # As its README has it.
    return _mix(given)
  first, second = _goal(given.get("a"), "Point"), _goal(given.get("b"), "Box")
  return f"Mix({first}, {second}, {_value(given.get('bw'), '0.1')})"


def _coin(given: dict) -> str:
  first, second = _goal(given.get("a"), "Point"), _goal(given.get("b"), "Box")
  one = _value(given.get("aw", given.get("ap")), "0.8")
  two = _value(given.get("bw", given.get("bp")), "0.2")
  return f"Coin(({first}, {one}), ({second}, {two}))"


def _in_samp(given: dict) -> str:
  normal = given.get("normal")
  pick = "Normal" if normal is not None and _is(normal, True) else "Uniform"
  goal = f"Sample({_value(given.get('sub'))}, 1, {pick}," \
         f" {_goal(given.get('a'), 'Box')})"
  return _within(given, goal)


def _adv_inclusion(given: dict) -> str:
  first, second = _goal(given.get("a"), "IFGSM(5)"), _goal(
      given.get("b"), "Box"
  )
  return _within(
      given, f"Sample({_value(given.get('sub'))}, 1, {first}, {second})"
  )


def _two(name: str):
  return lambda given: (
      f"{name}({_goal(given.get('a'), 'IFGSM(5)')},"
      f" {_goal(given.get('b'), 'Box')})"
  )


_ATTACK = ("w", "r", "k", "mu", "should_end", "restart")
_SAMPLE = ("sub", "a", "normal", "w")
_TRANSLATIONS = {
    "MI_FGSM": (_ATTACK, lambda given: _attack(given, 20, 100, 0.8)),
    "PGD": (
        ("r", "k", "w", "should_end", "restart"),
        lambda given: _attack(given, 5, 5, 0),
    ),
    "IFGSM": (("k", "w", "should_end", "restart"), _ifgsm),
    "Normal": (("w",), lambda given: _within(given, "Normal")),
    "NormalPoint": (("w",), lambda given: _within(given, "Normal")),
    "NormalAdv": (
        ("a", "w"),
        lambda given: f"NormalSub({_share(given)},"
                      f" {_goal(given.get('a'), 'IFGSM(5)')})",
    ),
    "Mix": (("a", "b", "aw", "bw"), _mix),
    "LinMix": (("a", "b", "bw", "aw"), _lin_mix),
    "Coin": (("a", "b", "ap", "bp", "aw", "bw"), _coin),
    "InSamp": (_SAMPLE, _in_samp),
    "InclusionSample": (_SAMPLE, _in_samp),
    "AdvInclusion": (("sub", "a", "b", "w"), _adv_inclusion),
    "AdvDom": (("a", "b"), _two("AdvDom")),
    "BiAdv": (("a", "b"), _two("BiSample")),
}


def _value(node: ast.expr | None, default: str | None = None) -> str:
  """A number or schedule in our language; `default` where there is none."""
  if node is None:
    if default is None:
      raise _Untranslatable
    return default
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    return f"-{_value(node.operand)}"
  if isinstance(node, ast.Constant):
    if type(node.value) not in (int, float):
      raise _Untranslatable
    return number_text(node.value)
  name = _name(node)
  if name in ("Lin", "MixLin"):
    given = _arguments(
        node, ("start", "end", "steps", "initial", "quant")
    )
    quant = given.pop("quant", None)
    text = f"Lin({', '.join(map(_value, given.values()))})"
    if quant is not None and _is(quant, True):
      text = f"Staircase({text})"
    return f"Scale({text})" if name == "MixLin" else text
  if name in ("Until", "Complement", "Scale", "Clip"):
    given = _arguments(node, ("one", "two", "three"))
    return f"{name}({', '.join(map(_value, given.values()))})"
  raise _Untranslatable


def _is(node: ast.expr, value) -> bool:
  return isinstance(node, ast.Constant) and node.value is value
