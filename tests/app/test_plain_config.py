"""Configs without ml_collections do what configs with it do."""

import json

from ml_collections import config_dict as theirs
import pytest

from diffai_jax.app import config as config_room
from diffai_jax.app import plain_config as ours


@pytest.fixture(params=[theirs, ours], ids=["ml_collections", "plain"])
def kind(request):
  return request.param


@pytest.fixture
def config(kind, monkeypatch):
  """The config with all keys, made of either."""
  monkeypatch.setattr(config_room, "config_dict", kind)
  made = config_room.base_config("cifar10,2/255")
  assert type(made) is kind.ConfigDict
  return made


def test_the_base_config_is_the_same(monkeypatch):
  found = []
  for kind in (theirs, ours):
    monkeypatch.setattr(config_room, "config_dict", kind)
    made = config_room.base_config("mnist,0.2")
    kinds = [(k, config_room.kind_of(made, k)) for k in config_room.keys_of(made)]
    found.append((
        json.loads(made.to_json()), made.to_dict(), kinds,
        config_room.groups_of(made),
    ))
  assert sorted(found[0][2], key=str) == sorted(found[1][2], key=str)
  assert found[0][0] == found[1][0] and found[0][1] == found[1][1]
  assert sorted(found[0][3]) == sorted(found[1][3])


def test_values_keep_their_kinds(config):
  config.epochs = 3
  assert type(config.epochs) is float
  config.data_range = [0, 2]
  assert config.data_range == (0, 2)
  config.certify.examples = 5
  config.certify.examples = None
  config.epsilon = "8/255"
  config.optimizer["name"] = "sgd"
  assert config.optimizer.name == config["optimizer"]["name"] == "sgd"
  for key, value in (("epochs", "many"), ("network", 3), ("seed", 0.5),
                     ("bfloat16", "yes"), ("mean", "0.1")):
    with pytest.raises(TypeError):
      config[key] = value
  with config.ignore_type():
    config.epochs, config.optimizer.name = "many", 3
  assert (config.epochs, config.optimizer.name) == ("many", 3)
  with pytest.raises(TypeError):
    config.optimizer.decay = "much"


def test_a_locked_config_keeps_its_keys(config):
  config.own = 1
  del config["own"]
  config.lock()
  for change in (lambda: setattr(config, "other", 1),
                 lambda: setattr(config.certify, "other", 1)):
    with pytest.raises(AttributeError):
      change()
  with pytest.raises(KeyError):
    config["other"] = 1
  with pytest.raises(AttributeError):
    config.other
  with pytest.raises(KeyError):
    config["other"]
  assert "other" not in config and config.get("other") is None
  with config.unlocked(), config.ignore_type():
    del config["epsilon"]
    config["epsilon"] = 0.25
  assert config.epsilon == 0.25
  with pytest.raises(KeyError):
    config["other"] = 1


def test_a_copy_is_apart(config):
  copy = config.copy_and_resolve_references()
  assert copy == config
  copy.optimizer.name, copy.seed = "sgd", 5
  assert (config.optimizer.name, config.seed) == ("adam", 0)
  assert copy != config


def test_a_frozen_config_stays(kind):
  values = {"a": 1, "b": {"c": [1, 2]}}
  frozen = kind.FrozenConfigDict(values)
  assert frozen.a == 1 and frozen.b.c == (1, 2) and "b" in frozen
  assert frozen == kind.FrozenConfigDict(values)
  assert hash(frozen) == hash(kind.FrozenConfigDict(values))
  for change in (lambda: setattr(frozen, "a", 2),
                 lambda: setattr(frozen.b, "c", 2)):
    with pytest.raises(AttributeError):
      change()
