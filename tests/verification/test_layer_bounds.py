"""Bounds of layers: every path, and no point of the region outside of any."""

from flax import linen
import jax
import numpy as np
import pytest

import diffai_jax as dj
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
_REGION = Linf(np.array([0.0, 0.02, 0.3]))
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
      lambda w: np.float32(
          random.uniform(0.1, 0.6, w.shape)
          * random.choice([-1, 1], w.shape) ** (w.ndim > 1)
      ), found,
  )


def _layers(variables, x, network=_NETWORK) -> dict:
  """What each layer gives for points, by the paths above."""
  found = {}

  def keep(call, args, kwargs, context):
    result = call(*args, **kwargs)
    path = "/".join(context.module.path)
    found[path + "#2" if path in found else path] = result
    return result

  with linen.intercept_methods(keep):
    network.apply(variables, x)
  return found


_run = jax.jit(lambda variables, x: _layers(variables, x))


@pytest.mark.parametrize("method", ["Box", "HBox", "ZSwitch"])
def test_no_point_is_outside_of_any_layers_bounds(variables, method):
  inputs = checked(_IMAGES, None, _REGION)
  found = layer_bounds(_NETWORK, variables, inputs, methods.parse(method))
  assert list(found) == _PATHS
  _assert_inside(_run, variables, _IMAGES, found)


def _assert_inside(run, variables, images, found):
  """No output of a layer is outside of its bounds, and these say something.

  Args:
    run: `_layers` of the network, of these variables and points.
    variables, images: its own.
    found: the bounds.
  """
  random = np.random.default_rng(2)
  low, high = map(np.asarray, _REGION.bounds(images))
  for share in (0, 0.5, 1, 1, 1):  # Inside, and corners.
    noise = random.uniform(-1, 1, images.shape)
    noise = np.sign(noise) if share == 1 else share * noise
    points = (low + high) / 2 + noise * (high - low) / 2
    points = np.clip(points, low, high).astype(np.float32)
    outputs = jax.tree.map(np.asarray, run(variables, points))
    for path, (lower, upper) in found.items():
      assert np.all(lower <= outputs[path]), path
      assert np.all(outputs[path] <= upper), path
      assert lower.shape == outputs[path].shape
  for path, (lower, upper) in found.items():
    assert np.all(upper[0] - lower[0] < 1e-3)
    assert np.all(upper - lower < 100)


@pytest.mark.parametrize("middle, last, pairs", [
    (par_sum([nn.Linear(4)], [nn.Linear(4), nn.ReLU()]), "layers_4",
     [("Box", "CROWN")]),
    (nn.Linear(4), "layers_4",
     [("Box", "CROWN_IBP"), ("CROWN_IBP", "AlphaCROWN(3)")]),
], ids=["sum", "chain"])
def test_linear_methods_have_narrower_bounds(middle, last, pairs):
  """Of the output; of CROWN of layers too that no ReLU follows."""
  network = nn.Sequential([
      nn.Linear(4), nn.ReLU(), middle, nn.ReLU(), nn.Linear(3),
  ])
  images = _IMAGES.reshape(3, 16)[:, :5]
  random = np.random.default_rng(1)
  variables = jax.tree.map(
      lambda w: np.float32(0.5 * random.normal(size=w.shape)),
      jax.eval_shape(network.init, jax.random.key(0), images),
  )
  every, run = {}, jax.jit(lambda v, x: _layers(v, x, network))
  for method in dict.fromkeys(sum(pairs, ())):
    every[method] = found = layer_bounds(
        network, variables, checked(images, None, _REGION), methods.parse(method)
    )
    assert list(found) == list(next(iter(every.values())))
    _assert_inside(run, variables, images, found)
  width = lambda method, path: np.mean(np.subtract(*every[method][path][::-1])[2])
  for weaker, stronger in pairs:
    for path in every[weaker]:
      less, more = every[weaker][path], every[stronger][path]
      assert np.all(more[0] >= less[0] - 1e-4), (stronger, path)
      assert np.all(more[1] <= less[1] + 1e-4), (stronger, path)
    assert width(stronger, last) < 0.99 * width(weaker, last)
  if "CROWN" in every:
    path = "layers_2/first/layers_0"  # Added to, with no ReLU in between.
    assert width("CROWN", path) < 0.99 * width("Box", path)


def test_what_has_no_graph_or_no_bounds_is_told(variables):
  class Jitted(linen.Module):

    @linen.compact
    def __call__(self, x, mode=None):
      return linen.jit(nn.Linear)(2)(x, mode)

  images = _IMAGES.reshape(3, 16)
  weights = jax.jit(Jitted().init)(jax.random.key(0), images)
  with pytest.raises(UsageError, match="CROWN walks a graph backwards"):
    layer_bounds(
        Jitted(), weights, checked(images, None, _REGION), methods.parse("CROWN")
    )
  with pytest.raises(ValueError, match="bounds of layers 'BranchAndBound.3.'"):
    dj.bounds((_NETWORK, variables), _IMAGES, Linf(0.1), method="BranchAndBound(3)")


def test_one_layer_is_as_all_of_them_have_it(variables):
  inputs = checked(_IMAGES, None, _REGION)
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
  variables = jax.jit(plain.init)(jax.random.key(0), images)
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
  variables = jax.jit(network.init)(jax.random.key(0), images)
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
