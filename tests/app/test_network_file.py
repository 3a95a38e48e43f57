"""Networks of our layers survive being written as data; others say so."""

import functools

from flax import linen
import jax
import numpy as np
import pytest

from diffai_jax import nn
from diffai_jax.app import network_file
from diffai_jax.networks import NETWORKS, create
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.schedules import Lin
from diffai_jax.types import UsageError


def _through(network):
  """The network after JSON has had it."""
  import json

  return network_file.from_data(
      json.loads(json.dumps(network_file.to_data(network)))
  )


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_paper(name):
  network = create(
      name, 10, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), initializer="he",
      dropout=0.1 if name == "FFNN" else 0,
  )
  assert _through(network) == network


@pytest.mark.parametrize("layer", [
    nn.Linear(3, kernel_init=INITIALIZERS["dirac"]),
    nn.Conv2D(3, 2, stride=2, padding=1, name="first"),
    nn.CorrelateMax(k=4, only_train=True),
    nn.CorrelateMaxPool(window=(2, 3), stride=None, before_first=True),
    nn.Dropout(Lin(0, 0.5, 3)),
    nn.DeepLoss(Lin(0.0, 0.1, 5)),
    nn.ToHybrid(relu="deepz"),
    nn.par_sum([nn.Linear(2)], [nn.ReLU(), nn.Linear(2)]),
    nn.Sequential([nn.Sequential([nn.Flatten()]), nn.BatchNorm()], remat=True),
    nn.Normalize(np.float32(0.5), (0.25,)),
], ids=lambda layer: type(layer).__name__)
def test_every_kind_of_value(layer):
  assert _through(layer) == layer


def test_weights_land_where_they_were():
  """The same tree of parameters, also of initial weights without a name."""
  layers = [nn.Linear(4, kernel_init=linen.initializers.ones), nn.Linear(2)]
  network = nn.Sequential(layers)
  shape = jax.ShapeDtypeStruct((1, 3), np.float32)
  trees = [
      jax.eval_shape(made.init, jax.random.key(0), shape)
      for made in (network, _through(network))
  ]
  assert trees[0] == trees[1]


class _Own(linen.Module):
  """A module that is not ours."""

  @linen.compact
  def __call__(self, x, mode=None):
    return nn.Linear(2)(x, mode)


_SHARED = nn.Linear(2)


@pytest.mark.parametrize("network", [
    _Own(),
    nn.Sequential([nn.ReLU(), _Own()]),
    nn.Sequential([_SHARED, nn.ReLU(), _SHARED]),
    nn.DeepLoss(0.1, activation=functools.partial(jax.nn.leaky_relu)),
])
def test_what_only_code_can_make_is_not_data(network):
  assert network_file.to_data(network) is None


@pytest.mark.parametrize("data", [
    {"layer": "Nothing"}, {"layer": "Linear", "width": 3}, {"layer": None},
    {"layer": "Dropout", "rate": {"schedule": "Lin(0)"}}, [], "Linear", 3,
    {"layer": "__import__"}, {},
])
def test_damaged_data_is_one_line(data):
  with pytest.raises(UsageError, match="damaged") as caught:
    network_file.from_data(data)
  assert "\n" not in str(caught.value)


def test_the_file(tmp_path):
  folder = str(tmp_path)
  assert network_file.read(folder) is None
  for stored in (
      network_file.Stored(nn.Linear(3), (4,), (0.0, 1.0)),
      network_file.Stored(nn.ReLU(), (2, 2, 1), None),
  ):
    network_file.write(folder, stored)
    assert network_file.read(folder) == stored
  network_file.write(folder, network_file.Stored(_Own(), (4,), (0.0, 2.0)))
  assert network_file.read(folder) == network_file.Stored(
      None, (4,), (0.0, 2.0)
  )
  (tmp_path / network_file.FILE).write_text('{"input_shape": "8"}')
  with pytest.raises(UsageError, match="input_shape is '8'"):
    network_file.read(folder)
  (tmp_path / network_file.FILE).write_text("{")
  with pytest.raises(UsageError, match="network.json"):
    network_file.read(folder)
