"""A residual network with abstract layers, layer by layer as DiffAI v3 has it."""

import pathlib

from flax import linen as nn
import jax
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.domains.generators import to_dense
from diffai_jax.nn import (
    Conv2D,
    CorrelateAll,
    CorrelateMax,
    DecorrelateAll,
    DecorrelateMin,
    Linear,
    ReLU,
)
from diffai_jax.types import Mode

DATA = pathlib.Path(__file__).parents[1] / "data" / "few_combo_small.npz"
pytestmark = pytest.mark.usefixtures("float64")


class WideBlock(nn.Module):
  filters: int

  @nn.compact
  def __call__(self, x, mode):
    skip = Conv2D(self.filters, 1, name="skip")(x, mode)
    y = Conv2D(self.filters, 3, 1, 1, name="first")(x, mode)
    y = Conv2D(self.filters, 3, 1, 1, name="second")(ReLU()(y, mode), mode)
    return ReLU()(transformers.add(skip, y), mode)


class FewCombo(nn.Module):
  """Returns what leaves each of the reference's ten layers."""

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    steps = [
        CorrelateMax(8, only_train=True),
        lambda x, mode: ReLU()(Conv2D(4, 3, 1, 1, name="net1")(x, mode), mode),
        DecorrelateMin(4, only_train=True),
        WideBlock(4, name="net3"),
        DecorrelateMin(2, only_train=True),
        WideBlock(6, name="net5"),
        DecorrelateAll(only_train=True),
        WideBlock(6, name="net7"),
        CorrelateMax(5, only_train=True),
        self.head,
    ]
    seen = []
    for step in steps:
      x = step(x, mode)
      seen.append(x)
    return seen

  def head(self, x, mode):
    x = transformers.flatten(x)
    x = ReLU()(Linear(12, name="net9")(x, mode), mode)
    return Linear(5, name="net10")(CorrelateAll()(x, mode), mode)


def load():
  with np.load(DATA) as file:
    values = dict(file)

  def conv(name, with_bias=True):
    kernel = np.transpose(values[f"w.{name}.weight"], (2, 3, 1, 0))
    return {"kernel": kernel.astype(np.float64),
            "bias": values[f"w.{name}.bias"].astype(np.float64)}

  def linear(name, rows=None):
    kernel = values[f"w.{name}.weight"]
    if rows:  # From the order (C, H, W) to (H, W, C).
      shaped = kernel.reshape(rows + (-1,))
      kernel = np.transpose(shaped, (1, 2, 0, 3)).reshape(kernel.shape)
    return {"kernel": kernel.astype(np.float64),
            "bias": values[f"w.{name}.bias"].astype(np.float64)}

  params = {"net1": conv("net.1.net.0")}
  for place in (3, 5, 7):
    block = f"net.{place}.net.0"
    params[f"net{place}"] = {
        "skip": conv(f"{block}.net1"),
        "first": conv(f"{block}.net2.net.0.net.0"),
        "second": conv(f"{block}.net2.net.1"),
    }
  params["net9"] = linear("net.9.net.0.net.1", (6, 8, 8))
  params["net10"] = linear("net.9.net.3")
  images = np.transpose(values["x"], (0, 2, 3, 1)).astype(np.float64)
  return values, params, images


def channels_last(array):
  return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array


def sorted_symbols(blocks):
  """All symbols' coefficients, [B, m, n], in an order of their own."""
  batch = blocks[0].shape[0]
  flat = np.concatenate([b.reshape(batch, b.shape[1], -1) for b in blocks], 1)
  keys = flat @ np.random.default_rng(0).normal(size=flat.shape[2])
  order = np.argsort(keys, axis=1)
  return np.take_along_axis(flat, order[:, :, None], axis=1)


@pytest.mark.parametrize("domain", ["Box", "HSwitch"])
def test_every_layer_equals_diffai_v3(domain):
  values, params, images = load()

  @jax.jit
  def run(params, images):
    """Of each layer: center, bounds, error, symbols; and the loss."""
    element = domains.box(images, float(values["eps"]))
    if domain == "HSwitch":  # Its input is a box; the rule differs.
      element = transformers.to_hybrid(element, relu="switch")
    seen = FewCombo().apply({"params": params}, element, Mode.TRAIN)
    worst = losses.worst_case_logits(seen[-1], values["y"])
    return [
        (x.center, domains.lower(x), domains.upper(x), x.uncorrelated,
         [to_dense(b).coefficients for b in x.correlated.values()])
        for x in seen
    ], losses.cross_entropy(losses.margins(worst, values["y"]))

  seen, loss = jax.tree.map(np.asarray, run(params, images))
  exact = {"rtol": 1e-11, "atol": 1e-9}  # Bounds grow to thousands.
  for place, found in enumerate(seen):
    key = f"f64.{domain}.L{place}."
    expected = {
        field: channels_last(values[key + field])
        for field in ("head", "beta", "errors", "lb", "ub")
        if key + field in values
    }
    center, lower, upper, uncorrelated, blocks = found
    np.testing.assert_allclose(center, expected["head"], **exact)
    np.testing.assert_allclose(lower, expected["lb"], **exact)
    np.testing.assert_allclose(upper, expected["ub"], **exact)
    own = expected.get("beta", np.zeros_like(expected["head"]))
    if uncorrelated is None:
      uncorrelated = np.zeros_like(expected["head"])
    np.testing.assert_allclose(uncorrelated, own, **exact)
    if blocks:
      errors = np.moveaxis(expected["errors"], 0, 1)
      np.testing.assert_allclose(
          sorted_symbols(blocks), sorted_symbols([errors]), **exact
      )
    else:
      assert "errors" not in expected
  np.testing.assert_allclose(
      loss, values[f"f64.{domain}.cross_loss"], **exact
  )


def test_abstract_layers_leave_points_alone():
  values, params, images = load()
  in_every_mode = jax.jit(lambda params, images: [
      FewCombo().apply({"params": params}, images, mode)[-1] for mode in Mode
  ])
  for logits in in_every_mode(params, images):
    np.testing.assert_allclose(
        logits, values["f64.point_logits"], rtol=0, atol=1e-9
    )


def test_only_train_layers_do_not_act_when_certifying():
  _, params, images = load()
  seen = jax.eval_shape(lambda params, images: FewCombo().apply(
      {"params": params}, domains.box(images, 0.05), Mode.CERTIFY
  ), params, images)
  assert all(not found.correlated for found in seen[:-1])
  (name,) = seen[-1].correlated
  assert name.startswith("CorrelateAll_0#")
