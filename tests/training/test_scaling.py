"""The model of time and memory against networks counted by hand."""

import pytest

from diffai_jax.networks import create
from diffai_jax.training.scaling import Model, products_of


def _model(batch: int = 20) -> Model:
  network = create("FFNN", 10, (0.1,), (0.3,))
  return Model.of(network, (28, 28, 1), batch)


_PRODUCTS = 784 * 100 + 4 * 100 * 100 + 100 * 10


def test_five_dense_layers_of_a_hundred():
  model = _model()
  assert model.products == _PRODUCTS and model.relus == 500
  assert model.parameters == _PRODUCTS + 5 * 100 + 10
  assert model.inputs == 784 and model.batch == 20


def test_convolutions_count_their_windows():
  """ConvSmall: 16 channels of 4x4 by 2, 32 of 4x4 by 2, 100, 10."""
  network = create("ConvSmall", 10, (0.1,), (0.3,))
  expected = (
      13 * 13 * 16 * 4 * 4 * 1 + 5 * 5 * 32 * 4 * 4 * 16
      + 5 * 5 * 32 * 100 + 100 * 10
  )
  assert products_of(network, (28, 28, 1)) == expected


def test_a_step_is_nine_passes_and_an_average():
  model = _model()
  assert model.step_flops() == 9 * 2 * _PRODUCTS * 20
  alone, two, four = (model.step_seconds(d, 1e12, 1e9) for d in (1, 2, 4))
  assert alone == pytest.approx(model.step_flops() / 1e12)
  sent = 4 * model.parameters / 1e9
  assert two == pytest.approx(alone / 2 + sent)
  assert four == pytest.approx(alone / 4 + 1.5 * sent)


def test_what_is_split_falls_and_what_is_replicated_stays():
  model = _model()
  whole, half = model.bytes_on(1), model.bytes_on(2)
  assert 2 * half - whole == 16 * model.parameters
  assert whole - half == 24 * model.relus * 20 / 2


def test_boxes_are_two_passes_and_generators_one_each():
  model = _model()
  assert model.box_flops() == 2 * 2 * _PRODUCTS
  assert model.hbox_flops() == (2 + 784) * 2 * _PRODUCTS
