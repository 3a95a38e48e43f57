"""Arguments of `certify` that cannot be used are one error at its entry."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import nn
from diffai_jax.verification import affine_check, certification
from diffai_jax.verification.certification_input import (
    certified_params,
    check_arithmetic,
)
from diffai_jax.data import Examples
from diffai_jax.regions import Linf
from diffai_jax.types import UsageError
from diffai_jax.verification.inputs import checked

_IMAGES = np.zeros((2, 8, 8, 1), np.uint8)
_LABELS = np.zeros(2, np.int32)
_ATTACK = certification.Attack(steps=1)


def _network(classes):
  return nn.Sequential((
      nn.Conv2D(2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(classes)
  ))


@pytest.fixture(scope="module")
def case():
  network = _network(10)
  x = jnp.zeros((1, 8, 8, 1))
  return network, jax.jit(network.init)(jax.random.key(0), x)["params"]


def _attack(**values):
  return {"attack": dataclasses.replace(_ATTACK, **values)}


@pytest.mark.parametrize("change, message", [
    ({"epsilon": -0.2}, r"epsilon is -0\.2; expected a finite number of at"),
    ({"epsilon": float("nan")}, "epsilon is nan"),
    ({"epsilon": float("inf")}, "epsilon is inf"),
    ({"epsilon": "0.1"}, "epsilon is '0.1'"),
    ({"epsilon": True}, "epsilon is True"),
    ({"methods": "HBox"}, r"'HBox' alone; expected a sequence.*\('HBox',\)"),
    ({"methods": ("HBoxx",)}, "unknown certification method 'HBoxx'.*HBox"),
    ({"memory_mb": 0}, "memory_mb is 0"),
    (_attack(steps=-1), "attack.steps is -1"),
    (_attack(steps=2.5), "attack.steps is 2.5"),
    (_attack(steps=2**64 - 1), "attack.steps is 18446744073709551615"),
    (_attack(momentum=float("nan")), "attack.momentum is nan"),
    (_attack(radius=-1), "attack.radius is -1"),
    ({"images": _IMAGES[:0], "labels": _LABELS[:0]}, "images are empty"),
    ({"images": _IMAGES.astype(np.int32)}, "images are of type int32"),
    ({"images": [[1]]}, "images are of type int64"),
    ({"images": _IMAGES[:1]}, "there are 2 labels for 1 images"),
    ({"images": np.zeros((2, 9, 9, 1), np.uint8)}, r"layers_3 has a kernel of \[18, 10\]"),
    ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, r"layers_0 has a kernel of \[3, 3, 1"),
    ({"images": np.zeros((2, 64), np.uint8)}, r"layers_0 is \[64\]"),
    ({"labels": np.zeros((2, 1), np.int32)}, r"labels have the shape \[2, 1\]"),
    ({"labels": np.zeros(2)}, "labels are of type float64"),
    ({"labels": np.array([0, 10])}, "label 10 of example 1 .* expected 0 to 9"),
    ({"labels": np.array([-1, 0])}, r"labels\[0\] is -1"),
])
def test_what_cannot_be_used_is_one_line(case, change, message):
  """And nothing is computed before."""
  given = {
      "images": _IMAGES, "labels": _LABELS, "epsilon": 0.1, "attack": _ATTACK,
  } | change
  examples = Examples(given.pop("images"), given.pop("labels"))
  region = Linf(given.pop("epsilon"))
  calls = []
  with pytest.raises(UsageError, match=message) as caught:
    certification.certify(
        *case, examples, region, progress=lambda *args: calls.append(args), **given
    )
  assert "\n" not in str(caught.value) and not calls


def test_weights_of_another_network_are_refused(case):
  network, params = case
  with pytest.raises(UsageError, match="does not take images"):
    certification.certify(network, {}, Examples(_IMAGES, _LABELS), Linf(0.1))


def test_a_network_of_one_class_proves_nothing(case):
  one = _network(1)
  params = jax.jit(one.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  with pytest.raises(UsageError, match="two classes"):
    certification.certify(
        one, params["params"], Examples(_IMAGES, _LABELS), Linf(0.1)
    )


def test_float64_weights_stay_so(float64):
  params = {"a": np.float64([0.1]), "b": np.float16([0.1]), "c": np.int32([3])}
  found = certified_params(params)
  assert [w.dtype for w in found.values()] == ["float64", "float32", "float32"]
  np.testing.assert_array_equal(found["b"], np.float32(np.float16(0.1)))


def test_arithmetic_is_checked_once_for_each_weights_and_shape(
    case, monkeypatch
):
  network, params = case
  seen = []
  monkeypatch.setattr(
      affine_check, "check", lambda graph, dtype: seen.append(dtype)
  )
  params = jax.tree.map(lambda leaf: leaf + 0.25, params)  # No other test's.
  few = checked(_IMAGES, _LABELS, Linf(0.1))
  for _ in range(2):
    check_arithmetic(network, {"params": params}, few)
  assert len(seen) == 1
  # One array is changed in place.
  kernel = np.array(params["layers_0"]["kernel"])
  other = {**params, "layers_0": {**params["layers_0"], "kernel": kernel}}
  check_arithmetic(network, {"params": other}, few)
  assert len(seen) == 1
  kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
  check_arithmetic(network, {"params": other}, few)
  assert len(seen) == 2


def test_arithmetic_that_was_wrong_is_checked_again(case, monkeypatch):
  network, params = case
  few = checked(_IMAGES, _LABELS, Linf(0.1))
  params = jax.tree.map(lambda leaf: leaf + 0.5, params)

  def check(graph, dtype):
    raise UsageError("off by 2")

  monkeypatch.setattr(affine_check, "check", check)
  for _ in range(2):
    with pytest.raises(UsageError, match="off by 2"):
      check_arithmetic(network, {"params": params}, few)
