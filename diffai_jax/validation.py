"""Every value of a config is checked before any work is done."""

import math

from ml_collections import config_dict

from diffai_jax.config import base_config
from diffai_jax.data import dataset
from diffai_jax.goals import REGIONS, ObjectiveError, objective, parse_value
from diffai_jax.networks import canonical_name, layers_of
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.schedules import extent
from diffai_jax.suggest import unknown_name
from diffai_jax.training.optimizers import OPTIMIZERS
from diffai_jax.types import UsageError

# Numbers or schedules, and the range that their values must stay in.
_VALUES = (
    ("dropout", 0, 0.999),
    ("optimizer.learning_rate", 0, math.inf),
    ("optimizer.momentum", 0, 1),
    ("optimizer.l2", 0, math.inf),
    ("optimizer.clip_norm", 1e-30, math.inf),
    ("regularizers.tightness", 0, math.inf),
    ("regularizers.relu_balance", 0, math.inf),
)
_RANGES = (
    ("epochs", 0, math.inf, float),
    ("schedule_epochs", 0, math.inf, float),
    ("batch_size", 1, math.inf, int),
    ("accumulate", 1, math.inf, int),
    ("seed", 0, 2**31 - 1, int),
    ("checkpoint_minutes", 0, math.inf, float),
    ("augment.crop_padding", 0, math.inf, int),
    ("optimizer.decay", 0, math.inf, float),
    ("regularizers.tolerance", 0, math.inf, float),
    ("certify.examples", 1, math.inf, int),
    ("certify.memory_mb", 1, math.inf, int),
    ("certify.attack.steps", 0, math.inf, int),
    ("certify.attack.momentum", 0, math.inf, float),
    ("certify.attack.radius", 0, math.inf, float),
)
_MAY_BE_NULL = (
    "schedule_epochs", "certify.examples", "certify.memory_mb",
    "augment.crop_padding",
)
_MUST_BE_POSITIVE = ("schedule_epochs", "regularizers.tolerance")


def validate(config: config_dict.ConfigDict) -> None:
  """Checks every value before any work is done.

  Raises:
    UsageError: names the first key that is out of range, and what it may be.
  """
  missing = _missing(config, base_config())
  if missing:
    raise UsageError(
        f"the config has no key {missing!r}; a config file begins with"
        f" diffai_jax.config.base_config()"
    )
  layers_of(canonical_name(config.network), config.abstract_layers)
  dataset(config.dataset)
  epsilon_of(config)
  objective(config.goal)
  for domain in config.certify.domains:
    if domain not in REGIONS:
      raise unknown_name("certification domain", str(domain), REGIONS)
  if config.optimizer.name not in OPTIMIZERS:
    raise unknown_name("optimizer", config.optimizer.name, OPTIMIZERS)
  if config.initializer not in INITIALIZERS:
    raise unknown_name("initializer", config.initializer, INITIALIZERS)
  for key, low, high in _VALUES:
    _check_value(config, key, low, high)
  for key, low, high, kind in _RANGES:
    _check_range(config, key, low, high, kind)
  milestones = list(config.optimizer.milestones)
  numbers = all(
      isinstance(m, (int, float)) and 0 <= m < math.inf for m in milestones
  )
  if not numbers or milestones != sorted(set(milestones)):
    raise UsageError(
        f"optimizer.milestones is {tuple(milestones)}; expected rising epochs,"
        f" such as (140, 180)"
    )


def epsilon_of(config: config_dict.ConfigDict) -> float:
  """The radius as a number; a config may hold it as text, such as "8/255".

  Raises:
    UsageError: if it is no number from 0 to 1.
  """
  given = config.epsilon
  try:
    value = parse_value(given) if isinstance(given, str) else given
  except ObjectiveError:
    value = None
  fits = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not fits or not 0 <= value <= 1:
    raise UsageError(
        f"epsilon is {given!r}; expected a number or fraction from 0 to 1,"
        f" such as 0.1 or 8/255; set it with --config.epsilon="
    )
  return float(value)


def _missing(config, base, prefix: str = "") -> str | None:
  """The first key of `base`, with dots, that `config` does not have."""
  for key, value in base.items():
    if key not in config:
      return prefix + key
    if isinstance(value, config_dict.ConfigDict):
      found = _missing(config[key], value, f"{prefix}{key}.")
      if found:
        return found
  return None


def get(config, key: str):
  """The value at a key with dots."""
  for name in key.split("."):
    config = config[name]
  return config


def _check_value(config, key: str, low: float, high: float) -> None:
  """Checks a key that holds a number or the text of a schedule."""
  given = get(config, key)
  if high < math.inf:
    wanted = f"from {low} to {high}"
  else:
    wanted = f"of at least {low}" if low == 0 else "above 0"
  message = (
      f"{key} is {given!r}; expected a number or a schedule {wanted}, such as"
      f" 0.5 or Lin(0, 0.5, 60); set it with --config.{key}="
  )
  if isinstance(given, bool) or not isinstance(given, (int, float, str)):
    raise UsageError(message)
  try:
    least, most = extent(parse_value(given))
  except ObjectiveError as error:
    raise UsageError(f"{key}: {error.reason}", error.detail) from None
  if not low <= least <= most <= high or most == math.inf:
    raise UsageError(message)


def _check_range(config, key: str, low, high, kind: type) -> None:
  value = get(config, key)
  if value is None and key in _MAY_BE_NULL:
    return
  noun = "whole number" if kind is int else "number"
  if high == math.inf:
    wanted = f"a {noun} of at least {low}"
  else:
    wanted = f"a {noun} from {low} to {high}"
  if key in _MUST_BE_POSITIVE:
    wanted = f"a {noun} above 0"
  if (
      isinstance(value, bool)
      or not isinstance(value, (int, float))
      or (kind is int and not isinstance(value, int))
      or not math.isfinite(value)
      or not low <= value <= high
      or (key in _MUST_BE_POSITIVE and value == 0)
  ):
    raise UsageError(
        f"{key} is {value!r}; expected {wanted}; set it with --config.{key}="
    )
