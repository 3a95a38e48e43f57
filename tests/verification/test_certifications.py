"""Where certifications live: names, and that none is written over another."""

import json
import os

import numpy as np
import pytest

from diffai_jax.app import config
from diffai_jax.verification import certification, certifications
from diffai_jax.types import UsageError


def _settings(**values):
  given = config.base_config("digits")
  given.update_from_flattened_dict(
      {name.replace("__", "."): value for name, value in values.items()}
  )
  return certifications.settings(json.loads(given.to_json()))


@pytest.mark.parametrize("values, name", [
    ({}, ""),
    ({"epsilon": 0.03}, "epsilon_0.03"),
    ({"epsilon": 0.03, "certify__split": "train"}, "epsilon_0.03_split_train"),
    ({"certify__methods": ("Box", "ZDeepZ")}, "methods_Box-ZDeepZ"),
    ({"certify__examples": 9}, "examples_9"),
    ({"certify__skip_decided": False}, "skip_decided_False"),
    ({"certify__proofs": True}, "proofs_True"),
    ({"certify__attack__steps": 3}, "attack_steps_3"),
    ({"certify__attacks": ("PGD", "APGD")}, "attacks_PGD-APGD"),
    ({"abstract_layers": "CorrelateAll"}, "abstract_layers_CorrelateAll"),
])
def test_names_say_what_differs(values, name):
  assert certifications.name_of(_settings(**values), _settings()) == name


def test_names_are_safe_short_and_different():
  """Whatever the split: one path component, its own."""
  splits = [
      "train[:8]", "train[8:]", "train[:8%]", "../../etc", "/", "a\\b", "é", "*",
      "train[:50%]+train[60%:]" * 20, "train[:50%]+train[61%:]" * 20,
      "train[:50%]+train[60%:]" * 20 + "x", "", "..", "\n",
  ]
  names = [
      certifications.name_of(_settings(certify__split=split), _settings())
      for split in splits
  ]
  assert len(set(names)) == len(names)
  for name in names:
    assert 0 < len(name) <= 100 and name[0] not in "._"
    assert set(name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )


def test_settings_of_a_broken_config_are_unknown():
  for broken in ({}, {"certify": 3}, {"certify": {"attack": []}}):
    assert set(certifications.settings(broken).values()) == {None}


def _save(folder, identity, epsilon=0.1, failed=None):
  os.makedirs(folder, exist_ok=True)
  found = certification.Certification(
      labels=np.zeros(1, np.int32), predictions=np.zeros(1, np.int32),
      attacked_correct=np.ones(1, bool), verified={}, margins={}, asked={},
      seconds={}, falsified=np.zeros(1, bool), wrong_points=np.zeros((0, 1)),
      failed=failed or {},
  )
  about = {"identity": identity, "epsilon": epsilon, "step": 7}
  params = {"layers_0": {"kernel": np.float32([[epsilon]])}}
  certification.save(found, str(folder), about, params)


def test_the_top_is_set_aside_for_another(tmp_path):
  """Copied whole; a second time the same certification is there already."""
  workdir = str(tmp_path)
  _save(workdir, "a" * 64)
  assert certifications.place(workdir, "", "a" * 64) == workdir
  assert not (tmp_path / "certifications").exists()
  assert certifications.place(workdir, "", "b" * 64) == workdir
  assert certifications.place(workdir, "", "b" * 64) == workdir
  (aside,) = (tmp_path / "certifications").iterdir()
  assert aside.name == "step_7_epsilon_0.1_aaaaaaaa"
  there = certification.load_summary(str(aside))
  assert there == certification.load_summary(workdir)
  kernel = certification.load_network(str(aside))["layers_0"]["kernel"]
  assert kernel == np.float32(0.1)


def test_a_name_that_is_taken_gets_longer(tmp_path):
  workdir = str(tmp_path)
  first = certifications.place(workdir, "split_x", "a" * 64)
  _save(first, "a" * 64)
  assert certifications.place(workdir, "split_x", "a" * 64) == first
  second = certifications.place(workdir, "split_x", "b" * 64)
  assert second == first + "_bbbbbbbb"
  _save(second, "b" * 64, epsilon=0.3)
  assert certifications.place(workdir, "split_x", "b" * 64) == second
  folders = dict(certifications.found(workdir))
  assert set(folders) == {first, second}
  assert folders[second]["epsilon"] == 0.3


def test_only_what_is_complete_is_whole(tmp_path):
  workdir = str(tmp_path)
  assert certifications.whole(workdir, "a") is None
  _save(workdir, "a", failed={"HBox": "no memory"})
  assert certifications.whole(workdir, "a") is None
  _save(workdir, "a")
  assert certifications.whole(workdir, "a")["step"] == 7
  assert certifications.whole(workdir, "b") is None
  (tmp_path / "network.npz").write_bytes(b"")
  assert certifications.whole(workdir, "a") is None
  ((_, damage),) = certifications.found(workdir)
  assert isinstance(damage, UsageError) and "network.npz" in str(damage)


def test_a_folder_in_a_files_place_is_found_before_any_work(tmp_path):
  certifications.check_place(str(tmp_path))
  (tmp_path / "network.npz").mkdir()
  with pytest.raises(UsageError, match="network.npz is a folder"):
    certifications.check_place(str(tmp_path))
