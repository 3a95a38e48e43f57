"""What a layer cannot take is one line that names the layer."""

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains
from diffai_jax.networks import create
from diffai_jax.nn import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GlobalAvgPool2D,
    Linear,
    Normalize,
    Sequential,
    par_sum,
    skip_cat,
)
from diffai_jax.nn.batch_norm import BATCH, POPULATION, batch_statistics
from diffai_jax.types import Mode, UsageError

IMAGE = np.ones((2, 6, 5, 3), np.float32)
VECTOR = np.ones((2, 7), np.float32)


def refused(network, x, variables=None, mode=Mode.CONCRETE):
  """What an initialisation says, or a run: shapes and types decide."""
  with pytest.raises(UsageError) as caught:
    if variables is None:
      jax.eval_shape(lambda x: network.init(jax.random.key(0), x, mode), x)
    else:
      jax.eval_shape(lambda x: network.apply(variables, x, mode), x)
  assert str(caught.value).isprintable() and len(str(caught.value)) < 400
  return str(caught.value)


@pytest.mark.parametrize("layer, x, texts", [
    (Linear(3), IMAGE, ("Linear layers_1", "[6, 5, 3]", "[n]", "Flatten")),
    (Conv2D(3, 3), VECTOR, ("Conv2D layers_1", "[7]", "[H, W, C]")),
    (ConvTranspose2D(3, 3), VECTOR, ("ConvTranspose2D layers_1", "[7]")),
    (AvgPool2D(2), VECTOR, ("AvgPool2D layers_1", "[7]", "[H, W, C]")),
    (GlobalAvgPool2D(), VECTOR, ("GlobalAvgPool2D layers_1", "[7]")),
    (Linear(0), VECTOR, ("features=0", "at least 1")),
    (Linear(-1), VECTOR, ("features=-1",)),
    (Linear(2.0), VECTOR, ("features=2.0",)),
    (Conv2D(0, 3), IMAGE, ("filters=0",)),
    (Conv2D(3, 0), IMAGE, ("kernel_size=0",)),
    (Conv2D(3, 3, stride=0), IMAGE, ("stride=0",)),
    (AvgPool2D(0), IMAGE, ("window=0",)),
    (Normalize((0.1,) * 2, (1.0,) * 2), IMAGE,
     ("Normalize layers_1", "2 numbers for mean", "3 channels")),
    (Normalize((0.0,), (0.0,)), IMAGE, ("std [0.0]", "above 0")),
    (Normalize((jnp.nan,), (1.0,)), IMAGE, ("mean [nan]",)),
    (par_sum([Conv2D(2, 3)], [Conv2D(2, 1)]), IMAGE,
     ("ParSum layers_1", "[4, 3, 2]", "[6, 5, 2]")),
    (par_sum([Conv2D(2, 1)], [Conv2D(3, 1)]), IMAGE, ("ParSum layers_1",)),
    (skip_cat([Conv2D(2, 3)], [Conv2D(2, 1)]), IMAGE,
     ("SkipCat layers_1", "[4, 3]", "[6, 5]")),
])
def test_layers_and_their_inputs(layer, x, texts):
  """For points and for elements."""
  network = Sequential((Sequential(()), layer))
  for value in (x, jax.eval_shape(lambda x: domains.box(x, 0.1), x)):
    error = refused(network, value)
    for text in texts:
      assert text in error


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
@pytest.mark.parametrize("layer", [
    Normalize((0.5,), (0.5,)), Conv2D(2, 2), BatchNorm(),
    Sequential((Flatten(), Linear(3))),
], ids=lambda layer: type(layer).__name__)
def test_integers_are_no_pixels(layer, dtype):
  """A type that rounds 1/std to 0 gave NaN, or a network of zeros."""
  error = refused(layer, np.ones((2, 6, 5, 3), dtype))
  assert np.dtype(dtype).name in error and "from 0 to 1" in error


def test_rgb_statistics_of_gray_images_are_refused():
  """Broadcasting made three channels of one."""
  network = create("FFNN", 10, (0.5,) * 3, (0.5,) * 3)
  assert "1 channels" in refused(network, np.ones((1, 28, 28, 1), np.float32))
  one_for_all = create("FFNN", 10, (0.5,), (0.5,))
  drawn_weights.shapes(one_for_all, (4, 4, 3))


@pytest.mark.parametrize("layer, path", [
    (Linear(3), ("params", "layers_0", "kernel")),
    (Linear(3), ("params", "layers_0", "bias")),
    (BatchNorm(), ("params", "layers_0", "scale")),
    (BatchNorm(), (POPULATION, "layers_0", "mean")),
    (BatchNorm(), (POPULATION, "layers_0", "variance")),
])
def test_weights_of_another_shape(layer, path):
  """Of statistics too, which would be broadcast."""
  network = Sequential((layer,))
  variables = drawn_weights.variables(network, (7,))
  collection, name, leaf = path
  variables[collection][name][leaf] = np.ones(
      (1,) * np.ndim(variables[collection][name][leaf]), np.float32
  )
  error = refused(network, VECTOR, variables)
  assert f"{type(layer).__name__} layers_0 has a {leaf} of [1" in error


def test_weights_for_another_size_of_image():
  network = create("FFNN", 10)
  variables = drawn_weights.variables(network, (4, 4, 1))
  image = np.ones((1, 5, 5, 1), np.float32)
  assert "Linear" in refused(network, image, variables)


@pytest.mark.parametrize("given, text", [
    ({"num_classes": 0}, "num_classes is 0"),
    ({"num_classes": -1}, "num_classes is -1"),
    ({"num_classes": 2.5}, "num_classes is 2.5"),
    ({"num_classes": None}, "num_classes is None"),
    ({"mean": (0.1, 0.2)}, "as many numbers"),
    ({"std": (0.0,)}, "above 0"),
    ({"std": ()}, "std is ()"),
    ({"mean": 0.5}, "mean is 0.5"),
    ({"mean": ("a",)}, "mean is ('a',)"),
    ({"mean": (jnp.inf,)}, "mean is"),
    ({"name": None}, "unknown network None"),
    ({"initializer": "x"}, "unknown initializer 'x'"),
])
def test_networks_that_cannot_be(given, text):
  with pytest.raises(UsageError) as caught:
    create(**({"name": "FFNN", "num_classes": 10} | given))
  assert text in str(caught.value)


# Batch statistics: of how many values, and over which axes.


def normalised():
  network = Sequential((Flatten(), Linear(3), BatchNorm()))
  images = np.random.default_rng(0).uniform(size=(8, 4)).astype(np.float32)
  return network, drawn_weights.variables(network, (4,)), images


def test_a_single_value_has_no_variance():
  """A dense layer's of one image; a convolution's of one has many pixels."""
  network, variables, images = normalised()
  with pytest.raises(UsageError, match="BatchNorm layers_2 .*single value"):
    batch_statistics(network, variables, images[:1])
  network = Sequential((Conv2D(2, 3), BatchNorm()))
  variables = drawn_weights.variables(network, IMAGE.shape[1:])
  assert jax.eval_shape(
      lambda x: batch_statistics(network, variables, x), IMAGE[:1]
  )
  with pytest.raises(UsageError, match="single value"):
    batch_statistics(network, variables, IMAGE[:1, :3, :3])


def over_axis(name, over):
  """The statistics of 8 images in 4 parts, under `vmap` of that name."""
  network, variables, images = normalised()
  run = lambda x: batch_statistics(network, variables, x, over)
  mapped = jax.vmap(run, axis_name=name) if name else jax.vmap(run)
  return jax.tree.map(np.asarray, jax.jit(lambda x: (
      mapped(x.reshape(4, 2, 4)), batch_statistics(network, variables, x)
  ))(images))


def test_statistics_over_an_axis_are_the_whole_batchs():
  """Whatever its name."""
  for name in ("devices", "rows"):
    parts, whole = over_axis(name, name)
    for part, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole)):
      np.testing.assert_allclose(part, np.stack([expected] * 4), rtol=1e-5)


def test_statistics_of_each_part_must_be_asked_for():
  """Under a mapped axis; where none has a name there is no other batch."""
  with pytest.raises(UsageError, match="axis 'rows' is mapped"):
    over_axis("rows", None)
  for name, over in (("rows", ()), (None, None), (None, ())):
    parts, whole = over_axis(name, over)
    mean = parts["layers_2"]["mean"]
    assert np.ptp(mean, axis=0).min() > 0
    np.testing.assert_allclose(
        mean.mean(axis=0), whole["layers_2"]["mean"], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["rows", None])
def test_an_axis_that_is_not_mapped(name):
  """Not even where another one is."""
  with pytest.raises(UsageError, match="no axis 'devices' is mapped"):
    over_axis(name, "devices")


def test_shard_map_has_axes_too():
  """Its statistics were each device's own in silence."""
  network, variables, images = normalised()
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
  spec = jax.sharding.PartitionSpec

  def run(over):
    return jax.jit(jax.shard_map(
        lambda x: batch_statistics(network, variables, x, over),
        mesh=mesh, in_specs=spec("data"), out_specs=spec(),
    ))(images)

  with pytest.raises(UsageError, match="axis 'data' is mapped"):
    run(None)
  whole = jax.jit(lambda x: batch_statistics(network, variables, x))(images)
  for found, expected in zip(
      jax.tree.leaves(run("data")), jax.tree.leaves(whole)
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_trace_without_an_axis_is_not_taken_for_one_with():
  """The same jitted function first outside, then under a mapped axis."""
  network, variables, images = normalised()
  run = jax.jit(lambda x: batch_statistics(network, variables, x))
  run(images[:2])
  with pytest.raises(UsageError, match="axis 'rows' is mapped"):
    jax.vmap(run, axis_name="rows")(images.reshape(4, 2, 4))


def test_rematerialised_stages_have_the_axes_too():
  """What Flax lifts gets them with the other variables."""
  def make(remat):
    return Sequential((
        Sequential((Linear(3), BatchNorm())),
        Sequential((Linear(3), BatchNorm())),
    ), remat=remat)

  images = normalised()[2]
  variables = drawn_weights.variables(make(False), (4,))
  one, two = jax.jit(lambda x: [
      jax.vmap(
          lambda x: batch_statistics(make(remat), variables, x, "rows"),
          axis_name="rows",
      )(x) for remat in (False, True)
  ])(images.reshape(4, 2, 4))
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_run_may_ask_for_statistics_itself():
  """As Flax has it; outside of a mapped axis."""
  network, variables, images = normalised()
  found, expected = jax.jit(lambda x: (
      dict(network.apply(variables, x, mutable=[BATCH])[1][BATCH]),
      batch_statistics(network, variables, x),
  ))(images)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
