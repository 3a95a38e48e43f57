"""Networks: exact sizes, listings, reference bounds, soundness."""

import dataclasses
import pathlib

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import layers

from diffai_jax import domains, losses, networks
from diffai_jax.data import DATASETS
from diffai_jax.domains import Dense, Diagonal, Product
from diffai_jax.types import Mode, UsageError

DATA = pathlib.Path(__file__).parents[1] / "data"
SIZES = {  # ReLUs, parameters, depth: the paper's Tables 8 and 11.
    ("FFNN", "mnist"): (500, 119910, 5),
    ("ConvSmall", "mnist"): (3604, 89606, 3),
    ("ConvMed", "mnist"): (4804, 166406, 3),
    ("ConvBig", "mnist"): (48064, 1974762, 6),
    ("ConvLargeIBP", "mnist"): (175816, 5426402, 6),
    ("TruncatedVGG", "mnist"): (151040, 13109706, 5),
    ("FFNN", "cifar10"): (500, 348710, 5),
    ("ConvSmall", "cifar10"): (4852, 125318, 3),
    ("ConvMed", "cifar10"): (6244, 214918, 3),
    ("ConvBig", "cifar10"): (62464, 2466858, 6),
    ("ConvLargeIBP", "cifar10"): (229576, 6963554, 6),
    ("TruncatedVGG", "cifar10"): (197120, 17043018, 5),
}


def make(name, dataset):
  data = DATASETS[dataset]
  network = networks.create(name, data.num_classes, data.mean, data.std)
  return network, data.image_shape


@pytest.mark.parametrize("name, dataset", SIZES)
def test_sizes_are_the_papers(name, dataset):
  network, shape = make(name, dataset)
  description = networks.describe(network, shape)
  found = description.relus, description.parameters, description.depth
  assert found == SIZES[name, dataset]
  params = drawn_weights.shapes(network, shape)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == found[1]


def test_listing_is_in_the_papers_format():
  network, shape = make("ConvSmall", "cifar10")
  assert str(networks.describe(network, shape)).splitlines() == [
      "Normalize mean=[0.4914, 0.4822, 0.4465] std=[0.2023, 0.1994, 0.201]",
      "Conv2D, filters=16, kernel_size=[4, 4], input_shape=[32, 32, 3],"
      " stride=[2, 2], padding=0",
      "ReLU",
      "Conv2D, filters=32, kernel_size=[4, 4], input_shape=[15, 15, 16],"
      " stride=[2, 2], padding=0",
      "ReLU",
      "Linear out=100",
      "ReLU",
      "CorrelateAll only_train=False",
      "Linear out=10",
      "ReLUs: 4852",
      "Parameters: 125318",
      "Depth: 3",
  ]


def test_unknown_and_unfitting_networks_are_refused_in_one_line():
  with pytest.raises(UsageError, match="did you mean 'ConvSmall'"):
    networks.create("ConvSmal", 10)
  with pytest.raises(UsageError, match="input is only 3x3") as error:
    networks.describe(make("ConvSmall", "digits")[0], (8, 8, 1))
  assert "\n" not in str(error.value)


def reference(name):
  with np.load(DATA / name) as arrays:
    return dict(arrays)


def weights(values, name):
  return np.float64(values[f"w.{name}.weight"]), np.float64(
      values[f"w.{name}.bias"]
  )


def from_pytorch(kernel):
  """OIHW to HWIO."""
  return np.transpose(kernel, (2, 3, 1, 0))


def flat_rows(kernel, channels, height, width):
  """Rows of a dense kernel from the order (C, H, W) to (H, W, C)."""
  shaped = kernel.reshape(channels, height, width, -1)
  return np.transpose(shaped, (1, 2, 0, 3)).reshape(kernel.shape)


def ffnn_small():
  values = reference("ffnn_small.npz")
  network = networks.ffnn(5, (0.0,), (1.0,), hidden=(20, 20, 20))
  names = names_in(values)
  assert len(names) == 4
  params = drawn_weights.shapes(network, (values["x"].shape[1], 1, 1))["params"]
  for layer, name in zip(layers(params), names, strict=True):
    layer["kernel"], layer["bias"] = weights(values, name)
  return values, network, params


def names_in(values):
  """The reference's layers with weights, first layer first."""
  return sorted({k[2:].rsplit(".", 1)[0] for k in values if k[:2] == "w."})


def conv_small():
  values = reference("conv_small.npz")
  data = DATASETS["cifar10"]
  network = networks.convnet(
      10, data.mean, data.std, ((4, 3, 1), (6, 4, 2)), 1, (20,)
  )
  _, channels, height, width = values["x"].shape
  params = drawn_weights.shapes(network, (height, width, channels))["params"]
  for place, name in enumerate(names_in(values)):
    kernel, layer = weights(values, name), layers(params)[place]
    layer["kernel"], layer["bias"] = in_our_order(place, kernel[0]), kernel[1]
  return values, network, params


def in_our_order(place, kernel):
  """A kernel of `conv_small`'s layer at that place: two of each kind."""
  if place < 2:
    return from_pytorch(kernel)
  return flat_rows(kernel, 6, 4, 4) if place == 2 else kernel


def images_of(values):
  """The reference's images, NHWC."""
  images = np.float64(values["x"])
  if images.ndim == 4:
    return images.transpose(0, 2, 3, 1)
  return images[..., None]


def make_element(domain, images, epsilon):
  """The input element of a domain, by its name in DiffAI v3."""
  if domain == "Box":
    return domains.box(images, epsilon)
  rule = {"Box": "box", "Switch": "switch", "Smooth": "smooth",
          "NIPS": "deepz"}[domain[1:]]
  return dataclasses.replace(
      domains.correlated_box(images, epsilon),
      relu=rule, zonotope=domain[0] == "Z",
  )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("domain", [
    "Box", "HBox", "HSwitch", "HSmooth", "HNIPS",
    "ZBox", "ZSwitch", "ZSmooth", "ZNIPS",
])
@pytest.mark.parametrize("case", [ffnn_small, conv_small])
def test_bounds_and_losses_equal_diffai_v3(case, domain):
  """Values of an independent implementation, to 1e-9."""
  values, network, params = case()
  images, labels = images_of(values), values["y"]
  exact = {"rtol": 0, "atol": 1e-9}

  @jax.jit
  def run(epsilon):
    value = Product((images, make_element(domain, images, epsilon)))
    output = network.apply({"params": params}, value, Mode.CERTIFY)
    logits, element = output.parts
    worst = losses.worst_case_logits(element, labels)
    plain, loss = (
        losses.cross_entropy(losses.margins(x, labels)) for x in (logits, worst)
    )
    return logits, domains.lower(element), domains.upper(element), plain, loss

  for epsilon in values["epss"]:
    logits, lower, upper, plain, loss = run(epsilon)
    np.testing.assert_allclose(logits, values["f64.point_logits"], **exact)
    key = f"f64.eps{epsilon}.{domain}."
    np.testing.assert_allclose(lower, values[key + "lb"], **exact)
    np.testing.assert_allclose(upper, values[key + "ub"], **exact)
    np.testing.assert_allclose(loss, values[key + "cross_loss"], **exact)
    np.testing.assert_allclose(plain, values["f64.point_ce"], **exact)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("domain", ["Box", "HBox", "HSmooth", "ZSwitch"])
@pytest.mark.parametrize("case", [ffnn_small, conv_small])
def test_gradients_equal_diffai_v3(case, domain):
  """The gradient of the mean abstract loss by every weight."""
  values, network, params = case()
  images, labels = images_of(values), values["y"]
  epsilon = values["epss"][0]

  def loss(params):
    value = make_element(domain, images, epsilon)
    output = network.apply({"params": params}, value, Mode.TRAIN)
    worst = losses.worst_case_logits(output, labels)
    return losses.cross_entropy(losses.margins(worst, labels)).mean()

  gradient = jax.jit(jax.grad(loss))(params)
  prefix = f"f64.eps{epsilon}.{domain}.grad."
  names = sorted(k[len(prefix):] for k in values if k.startswith(prefix))
  assert names, [k for k in values if "grad" in k][:5]
  weights_only = [n for n in names if n.endswith("weight")]
  found = layers(gradient)
  for place, name in enumerate(weights_only):
    expected = values[prefix + name]
    if case is conv_small:
      expected = in_our_order(place, expected)
    np.testing.assert_allclose(
        found[place]["kernel"], expected, rtol=1e-7, atol=1e-10
    )
  assert len(found) == len(weights_only)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["FFNN", "ConvMed"])
def test_no_point_of_the_ball_escapes(name, dtype, request):
  """Random points, corners and gradient attacks, in each precision."""
  if dtype == "float64":
    request.getfixturevalue("float64")
  network, shape = make(name, "digits")
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 1, (4, *shape)).astype(dtype)
  params = drawn_weights.variables(network, shape, 1, dtype)["params"]
  params = jax.tree.map(lambda w: w / 2, params)  # Bounds grow less.

  @jax.jit
  def run(x):
    return network.apply({"params": params}, x)

  @jax.jit
  def push(directions):
    slope = jax.grad(lambda x, direction: jnp.sum(run(x) * direction))
    return jax.vmap(slope, (None, 0))(images, directions)

  @jax.jit
  def bound(epsilon):
    elements = domains.box(images, epsilon), domains.correlated_box(
        images, epsilon
    )
    outputs = network.apply({"params": params}, Product(elements), Mode.CERTIFY)
    return [(domains.lower(o), domains.upper(o)) for o in outputs.parts]

  trials = 60
  for epsilon in np.asarray((0.0, 1e-9, 0.01, 0.3), dtype):
    noise = rng.uniform(-1, 1, (trials, *images.shape))
    noise[1::3] = np.sign(noise[1::3])
    # Towards the extremes of random combinations.
    directions = rng.normal(size=(trials // 3, 4, 10)).astype(dtype)
    noise[2::3] = np.sign(push(directions))
    points = images + (epsilon * noise).astype(dtype)
    points = np.clip(points, images - epsilon, images + epsilon)
    logits = np.asarray(run(points.reshape(-1, *shape))).reshape(trials, 4, 10)
    for low, high in bound(epsilon):
      assert np.all(low <= logits) and np.all(logits <= high)
      if epsilon == 0:  # All points are the images.
        np.testing.assert_allclose(low, logits[0], rtol=0, atol=1e-2)


def test_symbols_are_named_by_the_layer_that_made_them():
  network, shape = make("ConvMed", "digits")

  def run(images):
    element = domains.correlated_box(images, 0.1, "input")
    params = network.init(jax.random.key(0), images)
    return network.apply(params, element, Mode.CERTIFY)

  output = jax.eval_shape(run, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
  (own,) = set(output.correlated) - {"input"}
  # CorrelateAll, in the last stage.
  assert own.startswith("layers_3/layers_2#")
  assert isinstance(output.correlated[own], Dense)
  assert not isinstance(output.correlated["input"], Diagonal)
