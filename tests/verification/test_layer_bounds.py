"""Bounds of layers: every path, and no point of the region outside of any."""

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import nn
from diffai_jax.nn.blocks import par_sum
from diffai_jax.regions import Linf
from diffai_jax.types import UsageError
from diffai_jax.verification import methods
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.layer_bounds import layer_bounds

_SHAPE = (4, 4, 1)
_IMAGES = np.random.default_rng(0).uniform(size=(3, *_SHAPE)).astype("float32")
_RELU = nn.ReLU()
_NETWORK = nn.Sequential([
    nn.Normalize((0.4,), (0.3,)),
    nn.Conv2D(2, 3, padding=1),
    nn.BatchNorm(),
    _RELU,
    par_sum([nn.Conv2D(2, 3, padding=1), nn.ReLU()], [nn.Conv2D(2, 1)]),
    _RELU,
    nn.Flatten(),
    nn.Linear(5),
])
_PATHS = [
    "layers_0", "layers_1", "layers_2", "layers_3",
    "layers_4/first/layers_0", "layers_4/first/layers_1", "layers_4/first",
    "layers_4/second/layers_0", "layers_4/second", "layers_4", "layers_3#2",
    "layers_6", "layers_7",
]


@pytest.fixture(scope="module")
def variables():
  found = jax.jit(_NETWORK.init)(jax.random.key(0), _IMAGES)
  random = np.random.default_rng(1)
  return jax.tree.map(
      lambda w: jnp.asarray(random.uniform(0.1, 0.6, w.shape), jnp.float32)
      * random.choice([-1, 1], w.shape) ** (w.ndim > 1), found,
  )


def _layers(variables, x) -> dict:
  """What each layer gives for points, by the paths above."""
  found = {}

  def keep(call, args, kwargs, context):
    result = call(*args, **kwargs)
    path = "/".join(context.module.path)
    found[path + "#2" if path in found else path] = result
    return result

  with linen.intercept_methods(keep):
    _NETWORK.apply(variables, x)
  return found


@pytest.mark.parametrize("method", ["Box", "HBox", "ZSwitch"])
def test_no_point_is_outside_of_any_layers_bounds(variables, method):
  region = Linf(np.array([0.0, 0.02, 0.3]))
  inputs = checked(_IMAGES, None, region)
  found = layer_bounds(_NETWORK, variables, inputs, methods.parse(method))
  assert list(found) == _PATHS
  run = jax.jit(lambda x: _layers(variables, x))
  random = np.random.default_rng(2)
  low, high = map(np.asarray, region.bounds(_IMAGES))
  for share in (0, 0.5, 1, 1, 1):  # Inside, and corners.
    noise = random.uniform(-1, 1, _IMAGES.shape)
    noise = np.sign(noise) if share == 1 else share * noise
    points = (low + high) / 2 + noise * (high - low) / 2
    points = np.clip(points, low, high).astype(np.float32)
    outputs = run(points)
    for path, (lower, upper) in found.items():
      assert np.all(lower <= outputs[path]), path
      assert np.all(outputs[path] <= upper), path
      assert lower.shape == outputs[path].shape
  for path, (lower, upper) in found.items():  # And they say something.
    assert np.all(upper[0] - lower[0] < 1e-3)
    assert np.all(upper - lower < 100)


def test_one_layer_is_as_all_of_them_have_it(variables):
  inputs = checked(_IMAGES, None, Linf(0.1))
  every = layer_bounds(_NETWORK, variables, inputs, methods.Box())
  for path in ("layers_4/first", "layers_3#2"):
    one = layer_bounds(_NETWORK, variables, inputs, methods.Box(), path)
    assert list(one) == [path]
    for ours, theirs in zip(one[path], every[path]):
      np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_rematerialised_networks_have_the_same_bounds():
  block = nn.Sequential([nn.Linear(3), nn.ReLU()])
  plain, remat = (
      nn.Sequential([block, nn.Linear(2)], remat=remat)
      for remat in (False, True)
  )
  images = _IMAGES.reshape(3, 16)
  variables = plain.init(jax.random.key(0), images)
  inputs = checked(images, None, Linf(0.1))
  one, other = (
      layer_bounds(network, variables, inputs, methods.Box())
      for network in (plain, remat)
  )
  assert list(one) == list(other) == [
      "layers_0/layers_0", "layers_0/layers_1", "layers_0", "layers_1"
  ]
  for path in one:
    np.testing.assert_allclose(one[path][0], other[path][0], atol=1e-6)


def test_a_layer_alone_is_the_network_itself():
  images = _IMAGES.reshape(3, 16)
  network = nn.Linear(2)
  variables = network.init(jax.random.key(0), images)
  inputs = checked(images, None, Linf(0.1))
  found = layer_bounds(network, variables, inputs, methods.Box())
  assert list(found) == [""]


@pytest.mark.parametrize("at, message", [
    ("layers_44", r"layer 'layers_44'; did you mean 'layers_4'\? known: layers_0"),
    ("layer_4/first", r"did you mean 'layers_4/first'\?.* and 5 more"),
    ("", "no layer ''; known"),
    (3, "no layer 3; known"),
])
def test_unknown_layers_are_told(variables, at, message):
  inputs = checked(_IMAGES, None, Linf(0.1))
  with pytest.raises(UsageError, match=message) as caught:
    layer_bounds(_NETWORK, variables, inputs, methods.Box(), at)
  assert "\n" not in str(caught.value)
