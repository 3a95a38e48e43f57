"""The keys that every config has, and the variants after a colon."""

from collections.abc import Mapping, Sequence
import math
import os

from diffai_jax.app import config_dict
from diffai_jax.data import known, source_of
from diffai_jax.data.datasets import KINDS
from diffai_jax.types import UsageError, on_one_line, shortened, shown

# Keys that do not change what is trained, nor how: those of a run may change.
FREE_KEYS = (
    "certify", "checkpoint", "checkpoint_minutes", "checkpoints_kept",
    "compilation_cache", "data_dir", "distributed", "remat",
    "steps_per_dispatch", "xla_flags",
)


def base_config(
    variant: str = "",
    dataset_name: str = "mnist",
    epsilon: float | None = None,
    flags: Mapping[str, object] | None = None,
) -> config_dict.ConfigDict:
  """A config with every key at its default.

  Args:
    variant: what the user wrote after the config file's colon: a dataset, a
      radius or both, with a comma between; such as "cifar10,8/255" or "0.3".
    dataset_name: the dataset where neither the variant nor a flag names one.
    epsilon: the radius of `dataset_name` where none is given; None, and for
      other datasets, is the usual one of the dataset.
    flags: values of --config.KEY=VALUE by key, as `get_config` gets them: a
      dataset and a radius among them replace the variant's.

  Raises:
    UsageError: if the variant is neither a dataset nor a radius, or no radius
      is given for a dataset without a usual one.
  """
  words = [word.strip() for word in variant.split(",") if word.strip()]
  radii = [word for word in words if word[0] in "0123456789.+-"]
  names = [word for word in words if word not in radii]
  for name in names:
    source_of(name)  # Raises on unknown ones.
  if len(radii) > 1 or len(names) > 1:
    raise UsageError(
        f"the variant {shown(variant)} names more than one dataset or radius;"
        f" expected DATASET,EPSILON such as cifar10,8/255"
    )
  flags = flags or {}
  chosen = flags.get("dataset", names[0] if names else dataset_name)
  constants = known(chosen)
  usual = constants and constants.epsilon
  if chosen != dataset_name or epsilon is None:
    epsilon = usual
  if "epsilon" in flags:
    epsilon = flags["epsilon"]
  elif radii:
    epsilon = parse_number(radii[0], "epsilon")
  if epsilon is None:
    raise UsageError(
        f"epsilon is missing: {shown(chosen)} has no usual radius; set it with"
        f" --config.epsilon=, in the units of the data"
    )

  config = config_dict.ConfigDict()
  config.network = "ConvSmall"
  config.abstract_layers = "None"
  config.initializer = "interval"
  # Null is as the network is known: of the convolutional ones only CNN7.
  config.batch_norm = config_dict.placeholder(bool)
  config.dropout = _value(0.0)
  config.goal = "Baseline"
  config.dataset = chosen
  config.train_split = "train"
  config.data_dir = ""
  # The lowest and highest value of floats; "none" where there is no range.
  config.data_range = (0.0, 1.0)
  # Of each channel, or of all; null is the dataset's, or 0 and 1 without one.
  config.mean = config_dict.placeholder(tuple)
  config.std = config_dict.placeholder(tuple)
  config.epsilon = _value(epsilon)
  config.epochs = 200.0
  config.schedule_epochs = config_dict.placeholder(float)
  config.batch_size = 128
  config.accumulate = 1
  config.bfloat16 = False
  config.remat = False
  # Null is the platform's choice: one on CPUs.
  config.steps_per_dispatch = config_dict.placeholder(int)
  config.xla_flags = True
  config.compilation_cache = "~/.cache/diffai_jax"
  config.seed = 0
  config.checkpoint = config_dict.placeholder(str)
  config.checkpoint_minutes = 5.0
  config.checkpoints_kept = 2
  # Which processes train together: auto, off or ADDRESS,N,ID.
  config.distributed = "auto"

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
  config.certify.methods = ("Box", "HBox")
  config.certify.split = "test"
  config.certify.examples = config_dict.placeholder(int)
  # Null is half of the memory that is free.
  config.certify.memory_mb = config_dict.placeholder(int)
  config.certify.skip_decided = True
  # Tried one after the other; MIFGSM alone is that of `certify.attack`.
  config.certify.attacks = ("MIFGSM",)
  # Whether BranchAndBound writes proofs, for `python -m diffai_jax.check`.
  config.certify.proofs = False
  config.certify.attack = config_dict.ConfigDict()
  config.certify.attack.steps = 20
  config.certify.attack.momentum = 0.8
  config.certify.attack.radius = 2.0
  return config


def keys_of(config: config_dict.ConfigDict, prefix: str = "") -> list[str]:
  """All keys that hold a value, with dots: "optimizer.learning_rate"."""
  found = []
  for key, value in config.items(preserve_field_references=True):
    if isinstance(value, config_dict.ConfigDict):
      found += keys_of(value, f"{prefix}{key}.")
    else:
      found.append(f"{prefix}{key}")
  return found


def groups_of(config: config_dict.ConfigDict) -> list[str]:
  """All keys that hold other keys, with dots; outer ones first."""
  found = []
  for key in keys_of(config):
    words = key.split(".")
    found += [".".join(words[:count]) for count in range(1, len(words))]
  return sorted(set(found), key=lambda key: key.count("."))


def kind_of(config: config_dict.ConfigDict, key: str) -> type:
  """The type of a key's values; `object` if they are numbers or text."""
  *groups, last = key.split(".")
  for group in groups:
    config = config[group]
  return config.get_type(last)


def take_word(
    variant: str, words: Sequence[str], flag: str | None = None
) -> tuple[str, str]:
  """The one of `words` that a variant has, or the first; and what is left.

  Args:
    variant: what the user wrote after the config file's colon.
    words: what may stand in it.
    flag: the value of the key that the words are for, where a flag sets it; it
      replaces the variant's. Case and underscores make no difference.

  Raises:
    UsageError: if the variant has more than one of them.
  """
  given = [word.strip() for word in variant.split(",") if word.strip()]
  found = [word for word in given if word in words]
  if len(found) > 1:
    raise UsageError(
        f"the variant {shown(variant)} has {shown(found)}; expected one of"
        f" {', '.join(words)}"
    )
  rest = ",".join(word for word in given if word not in words)
  if flag is not None:
    plain = flag.lower().replace("_", "")
    found = [word for word in words if word.replace("_", "") == plain] or [flag]
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
        f"{name} is {shown(text)}; expected a number such as 0.1 or 8/255"
    ) from None


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
  """The value; of a name without case, hyphens and underscores.

  Of the user's own data the name of the file or folder, wherever it lies; a
  run's record has a digest of what it was.
  """
  if name == "data_range":  # Records may be older than the key.
    return (0, 1) if value is None else tuple(value)
  if name == "dataset" and isinstance(value, str):
    kind, _, path = value.partition(":")
    if KINDS.get(kind) in ("PATH", "FILE"):
      path = os.path.basename(path.rstrip(os.sep)) or path
      return kind if kind == "tiny_imagenet" else f"{kind}:{path}"
  named = name in ("network", "abstract_layers") and value
  return value.lower().replace("-", "").replace("_", "") if named else value


def _bare(value) -> str:
  """A value for a message, a text without quotes."""
  if isinstance(value, str):
    return shortened(on_one_line(value))
  return shown(value)


def describe_differences(names: Sequence[str], old: dict, new: dict) -> str:
  """`epsilon (0.1, now 0.3), seed (0, now 1)`, for at most four keys."""

  def get(config: dict, name: str):
    for key in name.split("."):
      config = config.get(key, {}) if isinstance(config, dict) else {}
    return config

  told = [
      f"{_bare(name)} ({_bare(get(old, name))}, now {_bare(get(new, name))})"
      for name in names[:4]
  ]
  more = [f"and {len(names) - 4} more"] if len(names) > 4 else []
  return ", ".join(told + more)
