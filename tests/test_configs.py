"""The files of configs/: all variants fit, and a flag means what they mean."""

import pathlib

import pytest

from diffai_jax.app import command_line, config_file
from diffai_jax.app.job import Job

_FOLDER = pathlib.Path(__file__).parents[1] / "configs"
_NAMES = sorted({path.stem for path in _FOLDER.glob("*.py")} - {"common"})
_LAYERS = {
    "resnet_large": ("large_combo", "none"),
    "resnet_tiny": ("none", "few_combo", "many_fixed"),
    "skipnet18": ("none", "combo"),
}
_DATA = {"cifar10": ("2/255", "8/255"), "mnist": ("0.1", "0.3")}


def config_of(name, variant=None, *flags):
  """What the command line makes of a config and its flags."""
  text = f"{_FOLDER}/{name}.py" + (f":{variant}" if variant is not None else "")
  _, changes = command_line.take_changes(["main.py", *flags])
  config = config_file.load(text, changes)
  command_line.apply(config, changes)
  return config


def settings(config):
  """What a run of it does."""
  return Job.from_config(config).config.to_dict()


def datasets(name):
  """The variants of dataset and ε that a network is made for."""
  if name == "quickstart":
    return ("digits,0.03",)
  return tuple(
      f"{data},{radius}" for data, radii in _DATA.items() for radius in radii
  )


@pytest.mark.parametrize("name", _NAMES)
def test_schedules_fit_the_run(name):
  """No variant of ours is warned of."""
  for variant in ("", *datasets(name), *_LAYERS.get(name, ())):
    job = Job.from_config(config_of(name, variant))
    assert job.warning() is None, variant


@pytest.mark.parametrize("name", _NAMES)
def test_flags_mean_what_variants_mean(name):
  """Dataset and ε, both, or either beside a variant that says otherwise."""
  for variant in datasets(name):
    data, radius = variant.split(",")
    wanted = settings(config_of(name, variant))
    dataset, epsilon = f"--config.dataset={data}", f"--config.epsilon={radius}"
    for given, *flags in (
        (None, dataset, epsilon), (data, epsilon), (radius, dataset),
        ("fashion_mnist,0.2", epsilon, dataset),
    ):
      assert settings(config_of(name, given, *flags)) == wanted, (given, flags)


@pytest.mark.parametrize("name, layers", [
    (name, layers) for name, found in _LAYERS.items() for layers in found
])
def test_abstract_layers_are_chosen_by_either(name, layers):
  wanted = settings(config_of(name, layers))
  for text in (layers, layers.title().replace("_", "")):
    flag = f"--config.abstract_layers={text}"
    for variant in (None, "cifar10", *_LAYERS[name]):
      found = config_of(name, variant, flag)
      assert found.abstract_layers == text
      found.abstract_layers = layers
      assert settings(found) == wanted


def test_the_settings_of_a_large_epsilon():
  """Those of convsmall.py:mnist,0.3, which are not those of 0.1."""
  large = config_of("convsmall", None, "--config.epsilon=0.3")
  small = config_of("convsmall")
  assert (large.batch_norm, small.batch_norm) == (True, None)
  assert large.goal != small.goal and large.epochs != small.epochs


@pytest.mark.parametrize("flags", [
    ("--config.epochs=7", "--config.epsilon=0.3"),
    ("--config.epsilon=0.3", "--config.epochs=7"),
])
def test_flags_of_other_keys_win(flags):
  config = config_of("convsmall", None, *flags, "--config.batch_norm=false")
  assert (config.epochs, config.batch_norm) == (7.0, False)
  assert config.regularizers.tightness == "Lin(0.5, 0, 80)"


def test_a_dataset_has_its_usual_epsilon():
  config = config_of("convsmall", None, "--config.dataset=cifar10")
  assert config.epsilon == pytest.approx(8 / 255)
  config = config_of("convsmall", "mnist,0.2", "--config.dataset=cifar10")
  assert config.epsilon == 0.2
