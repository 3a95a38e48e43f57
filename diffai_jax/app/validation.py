"""Every value of a config is checked before any work is done."""

from diffai_jax.app import config_dict, own_network
from diffai_jax.app.config import base_config, groups_of, keys_of, kind_of
from diffai_jax.app.data_keys import dataset_of, range_of
from diffai_jax.attacks import MIFGSM, StepwiseAttack
from diffai_jax.data import Dataset
from diffai_jax.networks import canonical_name, layers_of
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.objectives import ObjectiveError, objective, parse_value
from diffai_jax.schedules import extent
from diffai_jax.storage.paths import checked_path
from diffai_jax.text import lists
from diffai_jax.text.suggest import unknown_key, unknown_name
from diffai_jax.training.optimizers import OPTIMIZERS
from diffai_jax.types import UsageError, shown
from diffai_jax.verification import attack_texts
from diffai_jax.verification.methods import parse_all

_LARGEST = 1e38  # What float32 can hold.
_MOST = 2**31 - 1  # What int32 can hold.
_SMALLEST = 1e-30  # Above 0 in float32.

# Numbers or schedules, and the range that their values must stay in.
_VALUES = (
    ("dropout", 0, 0.999),
    ("optimizer.learning_rate", 0, _LARGEST),
    ("optimizer.momentum", 0, 1),
    ("optimizer.l2", 0, _LARGEST),
    ("optimizer.clip_norm", _SMALLEST, _LARGEST),
    ("regularizers.tightness", 0, _LARGEST),
    ("regularizers.relu_balance", 0, _LARGEST),
)
_RANGES = (
    ("epochs", 0, _MOST, float),
    ("schedule_epochs", _SMALLEST, _MOST, float),
    ("batch_size", 1, _MOST, int),
    ("accumulate", 1, _MOST, int),
    ("steps_per_dispatch", 1, _MOST, int),
    ("seed", 0, _MOST, int),
    ("checkpoint_minutes", 0, _LARGEST, float),
    ("checkpoints_kept", 1, _MOST, int),
    ("optimizer.decay", 0, _LARGEST, float),
    ("regularizers.tolerance", _SMALLEST, _LARGEST, float),
    ("certify.examples", 1, _MOST, int),
    ("certify.memory_mb", 1, _MOST, int),
    ("certify.attack.steps", 0, _MOST, int),
    ("certify.attack.momentum", 0, _LARGEST, float),
    ("certify.attack.radius", 0, _LARGEST, float),
)
_PATHS = ("data_dir", "compilation_cache", "checkpoint")
# What only networks of this package have. (How they begin, and whether they have
# batch normalisation or rematerialise, is left to a network of the user's.)
_OURS_ALONE = ("abstract_layers", "dropout")
_MAY_BE_NULL = (
    "batch_norm", "checkpoint", "data_range", "mean", "std",
    "schedule_epochs", "steps_per_dispatch", "augment.crop_padding", "augment.flip",
    "certify.examples", "certify.memory_mb",
)


def validate(config: config_dict.ConfigDict) -> Dataset:
  """Checks every value before any work is done.

  Returns:
    The dataset's constants, with what the config says of them.

  Raises:
    UsageError: names the first key that is out of range, and what it may be.
  """
  _check_form(config)
  _check_network(config)
  found = dataset_of(config)
  shape = found.image_shape
  validate_values(config, min(shape[:2]) if len(shape) == 3 else 0)
  return found


def validate_values(config: config_dict.ConfigDict, side: int) -> None:
  """Checks every value but the names of the network and the dataset.

  Args:
    config: the config.
    side: of an image, in pixels: the shorter one.

  Raises:
    UsageError: as `validate` does.
  """
  _check_form(config)
  epsilon_of(config)
  objective(config.goal)
  methods_of(config)
  attack_words(config)
  if config.optimizer.name not in OPTIMIZERS:
    raise unknown_name("optimizer", config.optimizer.name, OPTIMIZERS)
  if config.initializer not in INITIALIZERS:
    raise unknown_name("initializer", config.initializer, INITIALIZERS)
  for key in _PATHS:
    if get(config, key):
      checked_path(get(config, key), key)
  for key, low, high in _VALUES:
    _check_value(config, key, low, high)
  for key, low, high, kind in _RANGES:
    _check_range(config, key, low, high, kind)
  _check_range(config, "augment.crop_padding", 0, side, int)
  _check_milestones(config.optimizer.milestones)
  _check_clock(config)


def _check_network(config: config_dict.ConfigDict) -> None:
  """Checks its name, and what only networks of ours have."""
  if not own_network.is_own(config.network):
    layers_of(canonical_name(config.network), config.abstract_layers)
    return
  for key in _OURS_ALONE:
    if get(config, key) != get(base_config(), key):
      raise UsageError(
          f"{key} is {shown(get(config, key))}, but config.network,"
          f" {shown(config.network)}, is a network of your own; leave --config.{key}"
          f" out"
      )


def _check_form(config) -> None:
  """Checks the keys, and the kinds of values that have no range."""
  base = base_config()
  _check_keys(config, base)
  for key in keys_of(base):
    _check_kind(config, key, kind_of(base, key))


def methods_of(config: config_dict.ConfigDict) -> tuple[str, ...]:
  """The texts of methods to certify with; a config may hold "Box, HBox".

  Raises:
    UsageError: if there is no such method.
  """
  given = config.certify.methods
  if isinstance(given, str):
    given = lists.split(given)
  try:
    return tuple(map(str, parse_all(given)))
  except UsageError as error:
    raise UsageError(f"certify.methods: {error}") from None


def attack_words(config: config_dict.ConfigDict) -> tuple[str, ...]:
  """The texts of the attacks to certify with; a config may hold "PGD, APGD".

  Raises:
    UsageError: if there is no such attack.
  """
  given = config.certify.attacks
  if isinstance(given, str):
    given = lists.split(given)
  try:
    attack_texts.parse_all(given)
    return tuple(dict.fromkeys(map(_attack_word, given)))
  except UsageError as error:
    raise UsageError(f"certify.attacks: {error}") from None


def _attack_word(given: str) -> str:
  """The attack's text; MIFGSM with its own defaults is MIFGSM(20)."""
  attack = attack_texts.parse(given)
  arguments = str(given).partition("(")[2].strip(") ")
  if attack == MIFGSM() and arguments:
    return f"{attack}({attack.steps})"
  return str(attack)


def attacks_of(config: config_dict.ConfigDict) -> tuple[StepwiseAttack, ...]:
  """The attacks of a checked config, in their order.

  MIFGSM without arguments is what the keys of `certify.attack` say, and nothing
  where that takes no steps.
  """
  plain = attack_texts.Attack(**config.certify.attack.to_dict())
  attacks = (
      plain.stepwise() if word == str(MIFGSM()) else attack_texts.parse(word)
      for word in attack_words(config)
  )
  return tuple(dict.fromkeys(a for a in attacks if a.steps))


def _check_keys(config, base: config_dict.ConfigDict) -> None:
  """Checks that a config has the keys of `base` and no others."""
  if not isinstance(config, config_dict.ConfigDict):
    raise UsageError(
        f"the config is {shown(config)}; expected"
        f" diffai_jax.app.config.base_config() with other values"
    )
  known = keys_of(base)
  # Groups first: what should be one may be anything.
  for key in groups_of(base):
    if not isinstance(get(config, key), config_dict.ConfigDict):
      first = next(name for name in known if name.startswith(key + "."))
      raise UsageError(
          f"{key} is {shown(get(config, key))}; expected a group of keys; set"
          f" one of them, such as --config.{first}="
      )
  given = keys_of(config)
  for key in given:
    if key not in known:
      raise unknown_key(key, known)
  for key in known:
    if key not in given:
      raise _missing(key)


def _missing(key: str) -> UsageError:
  return UsageError(
      f"the config has no key {shown(key)}; a config file begins with"
      f" diffai_jax.app.config.base_config()"
  )


def _check_kind(config, key: str, kind: type) -> None:
  """Checks the kinds of value that have no range."""
  value = get(config, key)
  if value is None and key in _MAY_BE_NULL:
    return
  wanted = {str: "text", bool: "true or false", tuple: "a list"}.get(kind)
  if wanted is None or isinstance(value, kind):
    return
  if kind is tuple and isinstance(value, (list, str)):
    return
  if key in _MAY_BE_NULL:
    wanted += " or nothing"
  raise UsageError(
      f"{key} is {shown(value)}; expected {wanted}; set it with"
      f" --config.{key}="
  )


def _check_milestones(given) -> None:
  milestones = [] if isinstance(given, str) else list(given)
  numbers = not isinstance(given, str) and all(
      isinstance(m, (int, float)) and not isinstance(m, bool)
      and 0 <= m <= _LARGEST
      for m in milestones
  )
  if not numbers or milestones != sorted(set(milestones)):
    raise UsageError(
        f"optimizer.milestones is {shown(given)}; expected rising epochs,"
        f" such as (140, 180)"
    )


def _check_clock(config) -> None:
  """Checks how fast the schedules' clock goes: it is read in float32."""
  schedule, epochs = config.schedule_epochs, config.epochs
  if schedule is not None and epochs and schedule / epochs > _LARGEST:
    raise UsageError(
        f"epochs is {shown(epochs)} while schedule_epochs is"
        f" {shown(schedule)}; expected numbers of epochs that can be divided;"
        f" set one of them with --config.epochs="
    )


def epsilon_of(
    config: config_dict.ConfigDict, any_range: bool = False
) -> float:
  """The radius as a number; a config may hold it as text, such as "8/255".

  Args:
    config: has the range of the data, too.
    any_range: whether that range is not known yet.

  Raises:
    UsageError: if it is no number from 0 to the width of the data's range.
  """
  data_range = None if any_range else range_of(config)
  most = data_range[1] - data_range[0] if data_range else _LARGEST
  given = config.epsilon
  try:
    value = parse_value(given) if isinstance(given, str) else given
  except ObjectiveError:
    value = None
  fits = isinstance(value, (int, float)) and not isinstance(value, bool)
  # A radius that vanishes in float32 would be another than the one given.
  if not fits or not (value == 0 or _SMALLEST <= value <= most):
    raise UsageError(
        f"epsilon is {shown(given)}; expected a number or fraction"
        f" {f'from 0 to {most:g}' if data_range else 'of at least 0'}, such as"
        f" 0.1 or 8/255; set it with --config.epsilon="
    )
  return float(value)


def get(config, key: str):
  """The value at a key with dots.

  Raises:
    UsageError: if there is none.
  """
  for name in key.split("."):
    try:
      config = config[name]
    except KeyError:
      raise _missing(key) from None
    except config_dict.RequiredValueError:
      raise UsageError(
          f"{key} has no value; set it with --config.{key}="
      ) from None
  return config


def _check_value(config, key: str, low: float, high: float) -> None:
  """Checks a key that holds a number or the text of a schedule."""
  given = get(config, key)
  if high < _LARGEST:
    wanted = f"from {low} to {high}"
  else:
    wanted = f"of at least {low}" if low == 0 else "above 0"
    wanted += f" and at most {high:g}"
  message = (
      f"{key} is {shown(given)}; expected a number or a schedule {wanted}, such"
      f" as 0.5 or Lin(0, 0.5, 60); set it with --config.{key}="
  )
  if isinstance(given, bool) or not isinstance(given, (int, float, str)):
    raise UsageError(message)
  try:
    least, most = extent(parse_value(given))
  except ObjectiveError as error:
    raise UsageError(f"{key}: {error.reason}", error.detail) from None
  if not low <= least <= most <= high:
    raise UsageError(message)


def _check_range(config, key: str, low, high, kind: type) -> None:
  value = get(config, key)
  if value is None and key in _MAY_BE_NULL:
    return
  noun = "whole number" if kind is int else "number"
  if low == _SMALLEST:
    wanted = f"a {noun} above 0 and at most {high:.10g}"
  else:
    wanted = f"a {noun} from {low} to {high:.10g}"
  if (
      isinstance(value, bool)
      or not isinstance(value, (int, float))
      or (kind is int and not isinstance(value, int))
      or not low <= value <= high
  ):
    raise UsageError(
        f"{key} is {shown(value)}; expected {wanted}; set it with"
        f" --config.{key}="
    )
