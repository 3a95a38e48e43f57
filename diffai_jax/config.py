"""The keys that every config has, variants after a colon, and their checks."""

from collections.abc import Sequence
import math

from ml_collections import config_dict

from diffai_jax.data import DATASETS, dataset
from diffai_jax.goals import REGIONS, ObjectiveError, objective, parse_value
from diffai_jax.networks import canonical_name, layers_of
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.schedules import extent
from diffai_jax.suggest import unknown_name
from diffai_jax.training.optimizers import OPTIMIZERS
from diffai_jax.types import UsageError

# Keys that decide neither what is trained nor how: a work folder's may change.
FREE_KEYS = (
    "certify", "checkpoint", "checkpoint_minutes", "compilation_cache",
    "data_dir", "remat", "xla_flags",
)


def base_config(
    variant: str = "", dataset_name: str = "mnist", epsilon: float | None = None
) -> config_dict.ConfigDict:
  """A config with every key at its default.

  Args:
    variant: what the user wrote after the config file's colon: a dataset, a
      radius or both, with a comma between; such as "cifar10,8/255" or "0.3".
    dataset_name: the dataset where the variant names none.
    epsilon: the radius of `dataset_name` where the variant gives none; None,
      and for other datasets, is the usual one of the dataset.

  Raises:
    UsageError: if the variant is neither a dataset nor a radius.
  """
  words = [word.strip() for word in variant.split(",") if word.strip()]
  radii = [word for word in words if word[0] in "0123456789.+-"]
  names = [word for word in words if word not in radii]
  for name in names:
    dataset(name)  # Raises on unknown ones.
  if len(radii) > 1 or len(names) > 1:
    raise UsageError(
        f"the variant {variant!r} names more than one dataset or radius;"
        f" expected DATASET,EPSILON such as cifar10,8/255"
    )
  if names and names[0] != dataset_name:
    dataset_name, epsilon = names[0], None
  usual = dataset(dataset_name).epsilon
  if radii:
    epsilon = parse_number(radii[0], "epsilon")
  elif epsilon is None:
    epsilon = usual

  config = config_dict.ConfigDict()
  config.network = "ConvSmall"
  config.abstract_layers = "None"
  config.initializer = "interval"
  # Null is as the network is known: of the convolutional ones only CNN7.
  config.batch_norm = config_dict.placeholder(bool)
  config.dropout = _value(0.0)
  config.goal = "Baseline"
  config.dataset = dataset_name
  config.train_split = "train"
  config.data_dir = ""
  config.epsilon = _value(epsilon)
  config.epochs = 200.0
  config.schedule_epochs = config_dict.placeholder(float)
  config.batch_size = 128
  config.accumulate = 1
  config.bfloat16 = False
  config.remat = False
  config.xla_flags = True
  config.compilation_cache = "~/.cache/diffai_jax"
  config.seed = 0
  config.checkpoint = config_dict.placeholder(str)
  config.checkpoint_minutes = 5.0

  config.augment = config_dict.ConfigDict()
  # Null is what the dataset usually gets.
  config.augment.crop_padding = config_dict.placeholder(int)
  config.augment.flip = config_dict.placeholder(bool)

  config.optimizer = config_dict.ConfigDict()
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = _value(1e-3)
  config.optimizer.milestones = ()
  config.optimizer.decay = 0.1
  config.optimizer.momentum = _value(0.9)
  config.optimizer.l2 = _value(0.0)
  config.optimizer.clip_norm = _value(1.0)

  config.regularizers = config_dict.ConfigDict()
  config.regularizers.tightness = _value(0.0)
  config.regularizers.relu_balance = _value(0.0)
  config.regularizers.tolerance = 0.5

  config.certify = config_dict.ConfigDict()
  config.certify.domains = ("Box", "HBox")
  config.certify.split = "test"
  config.certify.examples = config_dict.placeholder(int)
  config.certify.memory_mb = 1024
  config.certify.skip_decided = True
  config.certify.attack = config_dict.ConfigDict()
  config.certify.attack.steps = 20
  config.certify.attack.momentum = 0.8
  config.certify.attack.radius = 2.0
  return config


def take_word(variant: str, words: Sequence[str]) -> tuple[str, str]:
  """The one of `words` that a variant has, or the first; and what is left.

  Raises:
    UsageError: if the variant has more than one of them.
  """
  parts = [part.strip() for part in variant.split(",") if part.strip()]
  found = [part for part in parts if part in words]
  if len(found) > 1:
    raise UsageError(
        f"the variant {variant!r} has {' and '.join(found)}; expected one of"
        f" {', '.join(words)}"
    )
  rest = ",".join(part for part in parts if part not in words)
  return (found or list(words))[0], rest


def _value(default: float) -> config_dict.FieldReference:
  """A key that holds a number, or text: a fraction or a schedule."""
  return config_dict.FieldReference(default, field_type=object)


def parse_number(text: str, name: str) -> float:
  """A number or fraction, such as "0.1" or "8/255".

  Raises:
    UsageError: if the text is neither.
  """
  top, slash, bottom = text.partition("/")
  try:
    number = float(top) / float(bottom) if slash else float(top)
    if not math.isfinite(number):
      raise ValueError
    return number
  except (ValueError, ZeroDivisionError, OverflowError):
    raise UsageError(
        f"{name} is {text!r}; expected a number such as 0.1 or 8/255"
    ) from None


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
_MAY_BE_NULL = ("schedule_epochs", "certify.examples", "augment.crop_padding")
_MUST_BE_POSITIVE = ("schedule_epochs", "regularizers.tolerance")


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


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
  """The keys, with dots, in which two configs train differently."""
  found = []
  for key in sorted({*old, *new}):
    name = prefix + key
    if name in FREE_KEYS:
      continue
    if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
      found += differences(old[key], new[key], name + ".")
    elif _comparable(name, old.get(key)) != _comparable(name, new.get(key)):
      found.append(name)
  return found


def _comparable(name: str, value):
  """The value; of a name only what tells it from others."""
  named = name in ("network", "abstract_layers") and value
  return value.lower().replace("-", "").replace("_", "") if named else value


def describe_differences(names: Sequence[str], old: dict, new: dict) -> str:
  """`epsilon (0.1, now 0.3), seed (0, now 1)`, for at most four keys."""

  def get(config: dict, name: str):
    for key in name.split("."):
      config = config.get(key, {}) if isinstance(config, dict) else {}
    return config

  shown = [f"{n} ({get(old, n)}, now {get(new, n)})" for n in names[:4]]
  more = [f"and {len(names) - 4} more"] if len(names) > 4 else []
  return ", ".join(shown + more)
